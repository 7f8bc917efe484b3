"""Release the space that dropped history leaves in the database to the file system."""

from __future__ import annotations

from sqlalchemy import Connection

from rtstore.control.sqlite.statements import driver_of

_PAGES_AT_ONCE = 256
"""The pages of one chunk: a fraction of a second, so that a writer waits no longer."""
_SPARE_PAGES = 256
"""Free pages that stay in the file: 1 MiB at SQLite's page size of 4 KiB."""
_PAGES_WITH_A_BATCH = 32
"""The most free pages that one batch releases."""


def release_some_pages(connection: Connection) -> None:
    """Release some free pages, if more than 256 pages and a quarter of the database are free.

    A smaller amount stays, because the next batches fill it; in the steady state nothing is moved.
    """
    driver = driver_of(connection)
    free = driver.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= _SPARE_PAGES:
        return
    if free > driver.execute("PRAGMA page_count").fetchone()[0] // 4:
        for _ in range(_PAGES_WITH_A_BATCH):
            # One page a call: the driver takes a single step of a statement without columns.
            driver.execute("PRAGMA incremental_vacuum(1)")


def free_pages(connection: Connection) -> int:
    """Return the number of free pages of the database."""
    free: int = driver_of(connection).execute("PRAGMA freelist_count").fetchone()[0]
    return free


def unreturnable_bytes(connection: Connection) -> int:
    """Return the size of the free pages that stay in the file because somebody turned `auto_vacuum`
    off; 0 where they can be released."""
    driver = driver_of(connection)
    if driver.execute("PRAGMA auto_vacuum").fetchone()[0] != 0:
        return 0
    size: int = driver.execute("PRAGMA page_size").fetchone()[0]
    return free_pages(connection) * size


def release_free_pages(connection: Connection) -> int:
    """Release a chunk of the free pages to the file system. Return how many are still free.

    After the last chunk, SQLite checkpoints the WAL after the commit, as far as readers let it;
    only then is the file shorter.
    """
    driver = driver_of(connection)
    for _ in range(min(free_pages(connection), _PAGES_AT_ONCE)):
        # One page a call: the driver takes a single step of a statement without columns.
        driver.execute("PRAGMA incremental_vacuum(1)")
    left = free_pages(connection)
    driver.execute("PRAGMA wal_autocheckpoint = 1000" if left else "PRAGMA wal_autocheckpoint = 1")
    return left


def checkpoint_at_once(connection: Connection) -> None:
    """Have SQLite checkpoint after each commit, so that the WAL does not grow."""
    driver_of(connection).execute("PRAGMA wal_autocheckpoint = 1")


def checkpoint_as_ever(connection: Connection) -> None:
    """Have SQLite checkpoint when the WAL has grown to 1,000 pages, its default."""
    driver_of(connection).execute("PRAGMA wal_autocheckpoint = 1000")


def database_bytes(connection: Connection) -> int:
    """Return the size of the database in bytes, as this transaction sees it."""
    driver = driver_of(connection)
    pages: int = driver.execute("PRAGMA page_count").fetchone()[0]
    size: int = driver.execute("PRAGMA page_size").fetchone()[0]
    return pages * size
