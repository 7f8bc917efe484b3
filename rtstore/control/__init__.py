"""The control database, the writer lock and the revisions: the only place with SQL."""
