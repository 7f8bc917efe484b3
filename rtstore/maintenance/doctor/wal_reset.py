"""Which versions of SQLite have the WAL-reset bug."""

from __future__ import annotations

WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
"""The first and the last version of SQLite with the WAL-reset bug, but for the back-ports: fixed in
3.51.3 (2026-03-13), back-ported to 3.44.6 and 3.50.7 (sqlite.org/wal.html#walresetbug,
sqlite.org/releaselog/3_51_3.html). When two connections write or checkpoint a WAL database at the
same moment, and the timing is bad, a later checkpoint skips pages: the database is corrupt.

The writer lock covers it: every write and every checkpoint of ours (one that a commit runs, and the
one of the last connection to close) happens while this process alone holds the lock. What it cannot
cover is a program that does not take it, such as a sqlite3 shell that writes."""
WAL_RESET_BACKPORTS = ((3, 44, 6), (3, 50, 7))


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Return whether a version of SQLite has the WAL-reset bug."""
    first, last = WAL_RESET_BUG
    patched = any(version[:2] == fixed[:2] and version >= fixed for fixed in WAL_RESET_BACKPORTS)
    return first <= version <= last and not patched
