"""Copy a control database through SQLite, and verify the copy before it is used.

A copy is of one moment, however busy the writers are: it is read in one transaction, through the
WAL. Only a few pages of a database are in memory at once, except where `pages` reads it through
SQLite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection

from rtstore.control.checks import failed_check
from rtstore.control.lost_history import count_remains
from rtstore.control.sqlite import idle
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import driver_of
from rtstore.control.sqlite.translation import translate
from rtstore.errors import CorruptDatabaseError, StorageError
from rtstore.files.durable import NEW_FILE_MODE
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error

PAGES_AT_ONCE = 512
"""Progress is reported after each chunk of this many pages; the copy stays of one moment."""

PIECE_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the amount done and the total."""


def copy(
    database: Database, target: Path, fs: FileSystem, progress: Progress | None = None
) -> None:
    """Copy a database into a new file. On return the copy is complete, verified and flushed.

    The target must not exist. Only its owner can read it. Its name is not flushed: the caller
    flushes the directory. Raises `CorruptDatabaseError` when the database is damaged, and
    `StorageError` when the operating system refuses something; an incomplete target then stays.
    """
    try:
        fs.close(fs.create(target, NEW_FILE_MODE))
    except system_error() as error:
        raise StorageError(target, "the copy cannot be made", str(error)) from error

    def copy_all(connection: Connection) -> None:
        with closing(sqlite3.connect(target)) as other:
            other.execute("PRAGMA synchronous = FULL")
            source = driver_of(connection)
            # The first read fixes the moment: every chunk is of it, and none is restarted.
            source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            try:
                source.backup(other, pages=PAGES_AT_ONCE, progress=_reporting(progress), sleep=0)
            except sqlite3.Error as error:
                if _is_of_target(error):
                    raise translate(error, target) from error
                raise

    database.read(copy_all)
    try:
        check(target)
    except CorruptDatabaseError as error:
        raise CorruptDatabaseError(database.path, error.problem) from error


def check(path: Path) -> None:
    """Raise `CorruptDatabaseError` unless every page, index and foreign key of a database is sound,
    and every row is what its table allows. What is left of history that somebody deleted by hand is
    no damage.

    Changes nothing, and creates no side file of a database at rest.
    """
    database = Database(path, read_only=True)
    try:
        problem, orphans = database.read(_problems)
        failed = database.read(failed_check) if problem == "ok" else None
    finally:
        database.close()
    if problem != "ok":
        raise CorruptDatabaseError(path, problem)
    if orphans:
        raise CorruptDatabaseError(path, f"{orphans} rows refer to rows that are not there")
    if failed is not None:
        raise CorruptDatabaseError(path, failed)


def pages(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a database at rest, a piece at a time.

    Where there is a WAL, or nobody knows whether this process has the file open, SQLite returns all
    bytes at once; it has no other way. Raises `StorageError` when the file cannot be read.
    """
    if idle.wal_size(path) > 0 or not idle.knows_what_is_open():
        yield _image(path)
        return
    try:
        yield from idle.pieces(path, PIECE_BYTES)
    except system_error() as error:
        raise StorageError(path, "the file cannot be read", str(error)) from error


def _image(path: Path) -> bytes:
    database = Database(path, read_only=True)
    try:
        return database.read(lambda connection: driver_of(connection).serialize())
    finally:
        database.close()


def _is_of_target(error: sqlite3.Error) -> bool:
    """Return whether writing the target failed, not reading the source."""
    code = getattr(error, "sqlite_errorcode", 0)
    reading = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    writing = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    return code & 0xFF in writing and code not in reading


def _problems(connection: Connection) -> tuple[str, int]:
    problem = connection.exec_driver_sql("PRAGMA integrity_check").fetchone()
    orphans = len(connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall())
    if orphans and problem is not None and problem[0] == "ok":
        orphans = max(0, orphans - count_remains(connection))
    return str(problem and problem[0]), orphans


def _reporting(progress: Progress | None) -> Callable[[int, int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda _status, remaining, total: tell(total - remaining, total)
