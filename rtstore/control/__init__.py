"""The control database, the writer lock and the revisions, and nearly all SQL."""
