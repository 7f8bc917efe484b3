"""Stores the write-ahead log (WAL) that earlier processes left, before anything is added to it.

After a failed flush the operating system may take pages for stored that never were, and keep them
in memory. Every later process reads them there, and its own flush succeeds, because they do not
wait to be written any more (wiki.postgresql.org/wiki/Fsync_Errors). SQLite reads a WAL from its
beginning to the first page that is not whole. So after a loss of power all would be gone that was
added behind such a page.

So what is in the WAL is moved into the database, which is another file, and the WAL begins anew. To
write the same bytes once more is not enough on ext4: where a block of a file that grows could not
be stored, it stays marked as empty. That is done only where somebody reads, who needs the WAL.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from rtstore.errors import StorageError
from rtstore.files.system import write_anew
from rtstore.foreign import system_error

_NOTHING_BYTES = 32  # the header of a WAL, before its first page (sqlite.org/walformat.html)


def begin_behind_stored(driver: sqlite3.Connection, database: Path) -> None:
    """Begin a transaction that writes, once all that is in the WAL is stored.

    An interruption loses nothing. Raises `StorageError` and errors of the driver: then the caller
    must add nothing, and roll back.
    """
    wal = f"{database}-wal"
    try:
        is_stored = _has_nothing(wal) or _move(driver)
        driver.execute("BEGIN IMMEDIATE")
        if not is_stored:
            write_anew(wal)  # nobody else adds to it during a transaction that writes
    except FileNotFoundError:
        pass  # somebody removed it, and its connections will find out
    except system_error() as error:
        raise StorageError(database, "its WAL cannot be flushed", str(error)) from error


def _has_nothing(wal: str) -> bool:
    try:
        return os.stat(wal, follow_symlinks=False).st_size <= _NOTHING_BYTES
    except FileNotFoundError:
        return True


def _move(driver: sqlite3.Connection) -> bool:
    """Move the WAL into the database, and cut it. Return False where it is needed, or there is no
    room."""
    timeout_ms = driver.execute("PRAGMA busy_timeout").fetchone()[0]
    driver.execute("PRAGMA busy_timeout = 100")  # who reads for longer is not waited for
    try:
        is_busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy
    except sqlite3.OperationalError:
        return False
    finally:
        driver.execute(f"PRAGMA busy_timeout = {timeout_ms:d}")
