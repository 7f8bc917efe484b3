"""The commands of `rtstore quarantine`, one in each module."""
