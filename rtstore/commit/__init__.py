"""The commit protocol: queue, checks, log, publication, quarantine, in-doubt batches."""
