"""Points: every place where the store asks something of the file system or of SQLite.

A probe counts them and tells a watcher before each; the watcher may kill the process, stop it for a
while, or answer with a fault. The file system is watched through the seam (`TracedFileSystem`),
SQLite below everything else: every connection that is opened while a probe watches is a
`TracedConnection`, so that pragmas, BEGIN and COMMIT are points like any other statement.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import errorcode
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Self

from rtstore import FileSystem

FILE, SQL, END = "file", "sql", "end"
_CHANGING = frozenset(
    {
        "create", "write", "set_mode", "set_mtime", "rename", "unlink", "mkdir", "BACKUP", "COMMIT",
        "CLOSE",
    }
)  # fmt: skip
"""Before any other call the disk is as it was before the call that follows: the statements of an
SQL transaction are nowhere before its COMMIT, and a flush changes nothing that a process sees."""


@dataclass(frozen=True)
class Point:
    """One call of the seam, one SQL statement, or the end, right before it happens."""

    number: int
    kind: str
    call: str
    subject: str
    opening: bool = False
    """The store is not open yet."""
    changes_before: int = 0
    """How many of the points before it change something."""

    @property
    def changes(self) -> bool:
        """Whether the call changes what another process finds."""
        return self.kind == END or self.call in _CHANGING

    def is_at(self, other: Point) -> bool:
        """Whether it is the same point of another run. How often a file is looked at depends on the
        age of its last change, so the calls that change something are counted by themselves."""
        if self.changes or other.changes:
            return self.changes == other.changes and self.changes_before == other.changes_before
        return self.number == other.number

    def __str__(self) -> str:
        return f"point {self.number}, before {self.call} {self.subject}".rstrip()


@dataclass(frozen=True)
class FileFault:
    """What a call of the seam gives instead of what it should."""

    error: int | None
    """An error number; None for a write that writes only a part."""

    def __str__(self) -> str:
        return "short write" if self.error is None else errorcode[self.error]


@dataclass(frozen=True)
class SqlFault:
    """What a statement gives instead of what it should."""

    code: int
    when: str = "before"
    """`before` it ran, `after` it ran (of COMMIT: nobody can know), or `rolled back`: SQLite ended
    the SQL transaction by itself, as it does for some errors."""

    def __str__(self) -> str:
        return f"{SQL_ERRORS[self.code & 0xFF][0]} ({self.when})"  # an extended code says which


SQL_ERRORS = {
    sqlite3.SQLITE_FULL: ("SQLITE_FULL", "database or disk is full"),
    sqlite3.SQLITE_IOERR: ("SQLITE_IOERR", "disk I/O error"),
    sqlite3.SQLITE_READONLY: ("SQLITE_READONLY", "attempt to write a readonly database"),
    sqlite3.SQLITE_CANTOPEN: ("SQLITE_CANTOPEN", "unable to open database file"),
}
"""Names and messages of SQLite's errors, as the driver raises them."""


Fault = FileFault | SqlFault
Watcher = Callable[[Point], Fault | None]


class Probe:
    """Counts the points and tells the watcher of each."""

    def __init__(self, watcher: Watcher) -> None:
        self._numbers = count(1)
        self._changes = 0
        self._watcher = watcher

    def reach(self, kind: str, call: str, subject: str = "") -> Fault | None:
        """Called right before a call; gives what is to happen instead, or None."""
        point = Point(next(self._numbers), kind, call, subject, changes_before=self._changes)
        self._changes += point.changes
        return self._watcher(point)

    def committed(self, level: int) -> None:
        """Called right after an SQL COMMIT, with the `synchronous` that it ran at."""

    def checkpointed(self) -> None:
        """Called right after what may have written the WAL back into the database."""


def ignore(_: Point) -> None:
    """A watcher that lets everything happen."""


# --- the file system ----------------------------------------------------------------------------


class TracedFileSystem(FileSystem):
    """The real file system; every call is a point first."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def _reach(self, call: str, subject: str = "") -> None:
        fault = self.probe.reach(FILE, call, subject)
        if isinstance(fault, FileFault) and fault.error is not None:
            raise OSError(fault.error, os.strerror(fault.error), subject or None)

    def create(self, path: Path, mode: int) -> int:
        self._reach("create", path.name)
        return super().create(path, mode)

    def write(self, descriptor: int, content: memoryview) -> int:
        fault = self.probe.reach(FILE, "write", f"{len(content)} bytes")
        if isinstance(fault, FileFault):
            if fault.error is not None:
                raise OSError(fault.error, os.strerror(fault.error))
            content = content[: (len(content) + 1) // 2]
        return super().write(descriptor, content)

    def set_mode(self, descriptor: int, mode: int) -> None:
        self._reach("set_mode", oct(mode))
        super().set_mode(descriptor, mode)

    def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
        self._reach("set_mtime")
        super().set_mtime(descriptor, mtime_ns)

    def fsync(self, descriptor: int) -> None:
        self._reach("fsync")
        super().fsync(descriptor)

    def flush(self, path: Path) -> None:
        self._reach("fsync", path.name)
        super().flush(path)

    def close(self, descriptor: int) -> None:
        try:
            self._reach("close")
        finally:
            super().close(descriptor)  # a close that fails has closed all the same

    def rename(self, source: Path, target: Path) -> None:
        self._reach("rename", f"{source.name} to {target.name}")
        super().rename(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        self._reach("rename", f"{source.name} to {target.name}")
        return super().rename_new(source, target)

    def exchange(self, first: Path, second: Path) -> bool:
        # The new version gets its name, as by a rename; what it replaces is unlinked next.
        self._reach("rename", f"{first.name} to {second.name}")
        return super().exchange(first, second)

    def unlink(self, path: Path) -> None:
        self._reach("unlink", path.name)
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._reach("mkdir", path.name)
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self._reach("rmdir", path.name)
        super().rmdir(path)

    def fsync_directory(self, path: Path) -> None:
        self._reach("fsync_directory", path.name)
        super().fsync_directory(path)

    def lstat(self, path: Path) -> os.stat_result:
        self._reach("lstat", path.name)
        return super().lstat(path)

    def is_directory(self, path: Path) -> bool:
        # os.path.isdir never raises: it says no.
        fault = self.probe.reach(FILE, "is_directory", path.name)
        return fault is None and super().is_directory(path)

    def list_directory(self, path: Path) -> list[str]:
        self._reach("list_directory", path.name)
        return super().list_directory(path)

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        self._reach("read", path.name)
        return super().read(path)

    def overtake(self, path: Path, content: bytes) -> None:
        """Somebody else writes into a file, and flushes it and its name: no call of the store's,
        so no point."""
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        super().fsync_directory(path.parent)


# --- SQLite -------------------------------------------------------------------------------------

_watching: list[Probe] = []
"""The probe that watches SQLite in this process, when there is one."""


class TracedConnection(sqlite3.Connection):
    """A connection whose statements are points."""

    def cursor(self, factory: Any = None) -> Any:
        """A traced cursor."""
        return super().cursor(factory or TracedCursor)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Through a traced cursor, which the driver's own short cut is not."""
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """The same for many rows."""
        cursor: sqlite3.Cursor = self.cursor().executemany(sql, parameters)
        return cursor

    def commit(self) -> None:
        """The driver's own short cut for COMMIT, which SQLAlchemy takes."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """The same for ROLLBACK."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        """Each bite of a copy is a point."""
        told = options.pop("progress", None)

        def reached(status: int, remaining: int, total: int) -> None:
            if _watching:
                done = f"{total - remaining} of {total} pages"
                fault = _watching[-1].reach(SQL, "BACKUP", done)
                if isinstance(fault, SqlFault):
                    raise sql_error(fault)
            if told is not None:
                told(status, remaining, total)

        super().backup(target, progress=reached, **options)

    def close(self) -> None:
        """The last one to close writes the WAL back, so closing is a point as well."""
        if _watching:
            _watching[-1].reach(SQL, "CLOSE")
        super().close()
        if _watching:
            _watching[-1].checkpointed()


@lru_cache(maxsize=1024)
def _told(sql: str) -> tuple[str, str]:
    """The first word of a statement, and how it goes on."""
    first, *rest = sql.split()
    return first.upper(), " ".join(rest)[:60]


class TracedCursor(sqlite3.Cursor):
    """A cursor whose statements are points."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        with self._point(sql):
            super().execute(sql, parameters)
        return self

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        with self._point(sql):
            super().executemany(sql, parameters)
        return self

    @contextmanager
    def _point(self, sql: str) -> Iterator[None]:
        if not _watching:
            yield
            return
        probe, (call, subject) = _watching[-1], _told(sql)
        fault = probe.reach(SQL, call, subject)
        if isinstance(fault, SqlFault) and fault.when != "after":
            if fault.when == "rolled back" and self.connection.in_transaction:
                self._untraced("ROLLBACK")
            raise sql_error(fault)
        level = self._untraced("PRAGMA synchronous")[0] if call == "COMMIT" else 0
        yield
        if call == "COMMIT":
            probe.committed(level)
        elif "wal_checkpoint" in sql:
            probe.checkpointed()
        if isinstance(fault, SqlFault):
            raise sql_error(fault)

    def _untraced(self, sql: str) -> Any:
        return sqlite3.Connection.cursor(self.connection).execute(sql).fetchone()


def sql_error(fault: SqlFault) -> sqlite3.OperationalError:
    """The error that the driver raises for a fault."""
    error = sqlite3.OperationalError(SQL_ERRORS[fault.code & 0xFF][1])
    error.sqlite_errorcode = fault.code
    return error


_real_connect = sqlite3.connect


def _traced_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
    fault = _watching[-1].reach(SQL, "OPEN") if _watching else None
    if isinstance(fault, SqlFault):
        raise sql_error(fault)
    options.setdefault("factory", TracedConnection)
    connection: sqlite3.Connection = _real_connect(*arguments, **options)
    return connection


@contextmanager
def watched(probe: Probe) -> Iterator[TracedFileSystem]:
    """Let a probe watch the SQLite of this process; gives the file system to open stores with."""
    _watching.append(probe)
    sqlite3.connect = _traced_connect  # type: ignore[assignment]
    try:
        yield TracedFileSystem(probe)
    finally:
        _watching.pop()
        if not _watching:
            sqlite3.connect = _real_connect
