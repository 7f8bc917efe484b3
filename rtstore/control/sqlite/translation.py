"""Translate the driver's errors: locked, full, forbidden, damaged."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from rtstore.control.sqlite.added import added_parts
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    InvalidRequestError,
    RuntimeStoreError,
    StatementRefusedError,
    StorageError,
)
from rtstore.files.owners import is_read_only, why_denied
from rtstore.foreign import system_error
from rtstore.model.records import ROOM_FOR_NOTHING

_IN_TRANSACTION = re.compile("within a transaction|no transaction is active")
"""SQLite's message for a BEGIN or COMMIT in the wrong place, which is not damage."""


class Translated:
    """A context manager that translates the errors of the driver to ours. It has no state."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        if isinstance(error, (DBAPIError, sqlite3.Error)):
            raise translate(error, self._path) from error
        if isinstance(error, UnicodeEncodeError):
            problem = f"{str(error.object)[:80]!a} holds a lone surrogate, which cannot be stored"
            raise InvalidRequestError("text", problem) from error
        if isinstance(error, OverflowError):
            raise InvalidRequestError("number", str(error)) from error
        if isinstance(error, UnicodeDecodeError):  # in SQLite's message, which quotes the file
            problem = f"what it says of itself is no text ({error})"
            raise CorruptDatabaseError(self._path, problem) from error


_FORBIDDEN = {
    sqlite3.SQLITE_READONLY: "writing is not allowed",
    sqlite3.SQLITE_PERM: "writing is not allowed",
    sqlite3.SQLITE_AUTH: "writing is not allowed",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
}
_OF_THE_SYSTEM = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_NOMEM: "it does not fit into memory",
    sqlite3.SQLITE_PROTOCOL: "its locks fail; where another part of this program closed "
    "descriptors that it did not open, close the store and open it again",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite takes",
}


def translate(error: DBAPIError | sqlite3.Error, path: Path) -> RuntimeStoreError:
    """Return our error for one of the driver: locked, full, forbidden or damaged.

    Damage is what SQLite reports as damage, and a missing table or column. Any other error (a value
    that a constraint refuses) means nothing about the file.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    cause = f"{type(original).__name__}: {in_words(error)}"
    code = error_code(error) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseLockedError(path, cause)
    if code in _FORBIDDEN:
        if code == sqlite3.SQLITE_CANTOPEN and lacks_descriptors():
            return StorageError(path, "too many files are open", cause)
        if is_read_only(path.parent):
            return StorageError(path, "its file system is mounted read-only", cause)
        beside = (Path(f"{path}{end}") for end in ("-wal", "-shm"))
        files = (path, *(file for file in beside if file.exists()))
        denied = next(filter(None, map(why_denied, files)), None)
        return StorageError(path, _FORBIDDEN[code], f"{cause}. {denied}" if denied else cause)
    if _found_no_room(code, path):
        return StorageError(path, _OF_THE_SYSTEM[sqlite3.SQLITE_FULL], cause)
    if code in _OF_THE_SYSTEM:
        return StorageError(path, _OF_THE_SYSTEM[code], cause)
    if code == sqlite3.SQLITE_ERROR and _IN_TRANSACTION.search(str(original)):
        return RuntimeStoreError(f"{path}: a transaction is not where it should be ({cause})")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
        return CorruptDatabaseError(path, cause)
    if code == 0 and str(original).startswith("Could not decode to UTF-8"):
        return CorruptDatabaseError(path, cause)  # the driver's own error for a text column
    return StatementRefusedError(path, cause)


def explained(error: BaseException, path: Path, driver: sqlite3.Connection) -> BaseException:
    """Return the error for a statement that was refused, with what somebody added to the database
    that may have done so; any other error as it is. The transaction has not ended here."""
    if not isinstance(error, (DBAPIError, sqlite3.Error)) or not is_refusal(error):
        return error
    added: tuple[str, ...] = ()
    with suppress(sqlite3.Error):
        added = tuple(part.words for part in added_parts(driver))
    is_constraint = error_code(error) & 0xFF == sqlite3.SQLITE_CONSTRAINT
    if not added or not (is_constraint or any(part.startswith("trigger ") for part in added)):
        return error
    original = error.orig if isinstance(error, DBAPIError) else error
    refused = StatementRefusedError(path, f"{type(original).__name__}: {in_words(error)}", added)
    refused.__cause__ = error
    return refused


def is_refusal(error: BaseException | None) -> bool:
    """Return whether an error of the driver is about a statement: SQLite takes it as it is, or as
    the schema is, for wrong, and does not find the file damaged."""
    return isinstance(error, (DBAPIError, sqlite3.Error)) and error_code(error) & 0xFF in (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
    )


def in_words(error: DBAPIError | sqlite3.Error) -> str:
    """Return SQLite's message, and what it was doing, where it says only "disk I/O error"."""
    original = error.orig if isinstance(error, DBAPIError) else error
    doing = _DOING.get(error_code(error))
    return f"{original} ({doing})" if doing else str(original)


_DOING = {
    sqlite3.SQLITE_IOERR_FSYNC: "a flush failed",
    sqlite3.SQLITE_IOERR_DIR_FSYNC: "a flush failed",
    sqlite3.SQLITE_IOERR_WRITE: "the system refused a write: the disk failed, or a quota or a "
    "limit on the size of files was reached",
    sqlite3.SQLITE_IOERR_SHORT_READ: "a file is shorter than what was written to it: somebody cut "
    "the database or its WAL, or replaced it by an older copy, while it was open",
}


def is_full(error: StorageError) -> bool:
    """Return whether the database found no room on the disk."""
    cause = error.__cause__
    return isinstance(cause, (DBAPIError, sqlite3.Error)) and (
        _found_no_room(error_code(cause) & 0xFF, error.path)
    )


def _found_no_room(code: int, path: Path) -> bool:
    """Return whether an error means a full disk: for some, SQLite says "input/output error"."""
    if code != sqlite3.SQLITE_IOERR:
        return code == sqlite3.SQLITE_FULL
    try:
        found = os.statvfs(path.parent)
    except system_error(AttributeError):
        return False
    return found.f_bavail * found.f_frsize < ROOM_FOR_NOTHING


def lacks_descriptors() -> bool:
    """Return whether no more files can be opened than a database has, in this process or at all:
    SQLite does not say so."""
    with ExitStack() as opened:
        try:
            for _ in ("database", "WAL", "index"):
                opened.enter_context(Path(os.devnull).open("rb"))
        except system_error() as error:
            return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def error_code(error: DBAPIError | sqlite3.Error) -> int:
    """Return SQLite's extended result code, or 0 without one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return int(getattr(original, "sqlite_errorcode", None) or 0)
