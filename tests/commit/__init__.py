"""The commit protocol: queue, checks, log, publication, quarantine."""
