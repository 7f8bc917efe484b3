"""Connections to the control database: pragmas, transactions of our own, errors told apart.

What is SQLite's own (pragmas, BEGIN modes, the header of the file) stays in this module and in
`upgrade`. Every connection is in autocommit mode of the driver (`isolation_level=None`); the BEGIN
is ours, IMMEDIATE for writers and plain for readers, and so are COMMIT and ROLLBACK.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from rtstore.database import idle
from rtstore.database.schema import REVISIONS
from rtstore.database.statements import driver_of
from rtstore.database.translation import Translated, error_code
from rtstore.envelope import EnvelopeError
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLockedError,
    NewerDatabaseError,
    RuntimeStoreError,
    StoreClosedError,
    UnusableEngineError,
)

DATABASE_NAME = "runtime-store.sqlite3"

SQLITE_MINIMUM = (3, 38, 0)
"""STRICT tables came with 3.37.0, the `->>` operator with 3.38.0 (sqlite.org/releaselog)."""

BUSY_TIMEOUT_S = 5.0

READERS_KEPT = 8
"""How many connections for reading stay open; more are opened while more threads read at once."""

_WRITING, _READING, _READING_IDLE = "mode=rw", "mode=ro", "mode=ro&immutable=1"  # in the URI

Result = TypeVar("Result")

_leaked_by_fork: list[object] = []
"""Connections that a forked child inherited. Closing them there would drop the parent's locks
(sqlite.org/howtocorrupt.html, 2.6), so they are kept and never used."""


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _abandon_all_after_fork() -> None:
    for database in list(_open_databases):
        database.abandon_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all_after_fork)


class Database:
    """The control database of one runtime directory, opened in this process.

    Readers have read-only connections of their own and never take a write lock. There is one
    connection for writing; whoever uses it holds the writer lock of the directory. Safe to share
    between threads, not across a fork.

    `read_only=True` opens nothing for writing and leaves the database and its WAL as they are. An
    idle database is read as an immutable file, which creates nothing beside it; should a writer
    come along meanwhile, what was read is thrown away and read again. Otherwise it is read through
    the WAL, beside a living writer or after a dead one; SQLite may then make the `-shm` anew, which
    is an index of the WAL and holds no data.
    """

    def __init__(
        self, path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        if sqlite3.sqlite_version_info < SQLITE_MINIMUM:
            needed = ".".join(map(str, SQLITE_MINIMUM))
            raise UnusableEngineError(
                path, f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed"
            )
        self.path = path
        self._translated = Translated(path)
        self.read_only = read_only
        self._busy_timeout_s = busy_timeout_s
        self._file: tuple[int, int] | None = None
        self._pid = os.getpid()
        self._failure: str | None = None
        self._commits = 0
        self._wal = path.with_name(path.name + "-wal")
        self._made_wal = not self._wal.exists()
        self._closed = False
        # Read-only access keeps no connection between two reads: the file may be idle at one and
        # written at the next, and an open connection would keep a writer from tidying up the WAL.
        self._readers_kept = 0 if read_only else READERS_KEPT
        self._engines: dict[str, Engine] = {}
        self._writing_connection: Connection | None = None
        self._free_readers: deque[Connection] = deque()
        self._looks: dict[Callable[[Connection], Any], tuple[Connection, int, Any]] = {}
        """What a query gave on a connection, and the version of the data that it was of."""
        _open_databases.add(self)

    # --- transactions ---------------------------------------------------------------------------

    def read(self, query: Callable[[Connection], Result], *, single: bool = False) -> Result:
        """Run a query in one read transaction: everything it sees is of one moment.

        A query of a `single` statement is a transaction by itself, and saves the BEGIN. The query
        may be run again when the file changed under an immutable read; it must have no effect of
        its own.
        """
        self.check_usable()
        for _ in range(idle.ATTEMPTS):
            before = self._idle_state()
            try:
                with self._translated, self._reading(idle=before is not None) as connection:
                    if single:
                        result = self._understood(query, connection)
                    else:
                        result = self._in_transaction(query, connection)
            except CorruptDatabaseError:
                if before is None or before == self._idle_state():
                    raise
            else:
                if before is None or before == self._idle_state():
                    return result
        raise DatabaseLockedError(self.path, "it kept changing while it was read")

    def look(self, query: Callable[[Connection], Result]) -> Result:
        """`read` for a query that is asked again and again, with what it gave before as long as
        nobody has committed anything since. The query is a function of its own, not a closure.

        A connection that only reads is told of every commit of others by its `data_version`
        (sqlite.org/pragma.html), which is fetched before the query: a commit in between is noticed
        the next time.
        """
        self.check_usable()
        if self._idle_state() is not None:
            return self.read(query)
        with self._translated, self._reading(idle=False) as connection:
            version = driver_of(connection).execute("PRAGMA data_version").fetchone()[0]
            known = self._looks.get(query)
            if known is not None and known[0] is connection and known[1] == version:
                result: Result = known[2]
                return result
            result = self._in_transaction(query, connection)
            self._looks[query] = connection, version, result
            return result

    def read_as_writer(self, query: Callable[[Connection], Result]) -> Result:
        """`read`, on the connection for writing; the caller holds the writer lock. What the last
        transaction wrote is still in its cache."""
        with self._translated:
            return self._in_transaction(query, self._writing())

    def moment(self) -> tuple[int, int]:
        """A value that changes with every commit, whoever makes it: what was read at a moment holds
        until there is another. The caller holds the writer lock.

        The connection for writing is told of every commit of others by its `data_version`
        (sqlite.org/pragma.html); its own are counted.
        """
        with self._translated:
            driver = driver_of(self._writing())
            return driver.execute("PRAGMA data_version").fetchone()[0], self._commits

    def _in_transaction(
        self, query: Callable[[Connection], Result], connection: Connection
    ) -> Result:
        driver = driver_of(connection)
        try:
            driver.execute("BEGIN")
            return self._understood(query, connection)
        finally:
            with suppress(sqlite3.Error):
                driver.execute("ROLLBACK")

    @contextmanager
    def write(self, *, flush: bool) -> Iterator[Connection]:
        """One write transaction; the caller holds the writer lock.

        With `flush` the commit is durable when the block has been left (synchronous=FULL: the WAL
        is flushed). Without it (synchronous=NORMAL) it is atomic and survives the death of the
        process; a loss of power may take it back, whole, with everything after it.

        On any exception the transaction is rolled back. When COMMIT itself fails with an
        input/output error, nobody knows what is on disk: this process writes no more
        (`DatabaseFailedError`).
        """
        if self._failure is not None:
            raise DatabaseFailedError(self.path, self._failure)
        with self._translated:
            connection = self._writing()
            driver = driver_of(connection)
            self._set_synchronous(driver, flush=flush)
            try:
                driver.execute("BEGIN IMMEDIATE")
                self._check_revision(driver)
                yield connection
            except BaseException:
                # An error may have ended the transaction already (sqlite.org/lang_transaction);
                # rolling back then would hide the first error.
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise
            self._commit(driver)

    def _check_revision(self, driver: sqlite3.Connection) -> None:
        """Refuse to write into a database that another process has upgraded since we opened it."""
        number = driver.execute("PRAGMA user_version").fetchone()[0]
        if number > len(REVISIONS):
            raise NewerDatabaseError(self.path, f"number {number}", REVISIONS[-1])

    def _commit(self, driver: sqlite3.Connection) -> None:
        self._commits += 1  # also where it fails: it may have happened
        try:
            driver.execute("COMMIT")
        except sqlite3.Error as error:
            if error_code(error) & 0xFF == sqlite3.SQLITE_IOERR:
                self._failure = str(error)
            with suppress(sqlite3.Error):
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
            raise

    @property
    def failure(self) -> str | None:
        """Why this process must not write any more, or None."""
        return self._failure

    def close(self, *, tidy: bool = True) -> None:
        """Close every connection. The caller holds the writer lock unless it only read: the last
        connection to close checkpoints the WAL. Closing twice is harmless.

        With `tidy` False a WAL that was there before stays as it is; only one that our own reading
        made, which is empty, is removed.
        """
        if self._closed:
            return
        if os.getpid() == self._pid:
            self._close_connections(tidy=tidy or (self._made_wal and self._wal.exists()))
        self._closed = True

    def _close_connections(self, *, tidy: bool) -> None:
        while self._free_readers:
            self._free_readers.pop().close()
        if tidy and not self.read_only:
            # Only a connection that may write tidies up the files beside the database, and only
            # when it is the last to close; one that cannot be used for damage does so, too.
            with suppress(RuntimeStoreError, sqlite3.Error, DBAPIError, UnicodeDecodeError):
                self._writing()
        if self._writing_connection is not None:
            self._writing_connection.close()

    def abandon_after_fork(self) -> None:
        """Called in a forked child: keep the parent's connections alive, and never use them."""
        _leaked_by_fork.extend((self._writing_connection, *self._free_readers))

    @contextmanager
    def _reading(self, *, idle: bool) -> Iterator[Connection]:
        """A connection for one read; it may be kept for the next one."""
        if idle:
            with self._engine(_READING_IDLE).connect() as connection:
                yield connection
            return
        self._check_same_file()
        try:
            connection = self._free_readers.pop()
        except IndexError:
            connection = self._engine(_READING).connect()
        try:
            yield connection
        finally:
            if self._closed or len(self._free_readers) >= self._readers_kept:
                connection.close()
            else:
                self._free_readers.append(connection)

    def _writing(self) -> Connection:
        """The one connection for writing, opened when it is first needed."""
        self.check_usable()
        if self.read_only:
            raise StoreClosedError(self.path.parent, "was opened read-only")
        self._check_same_file()
        if self._writing_connection is None:
            self._writing_connection = self._engine(_WRITING).connect()
        return self._writing_connection

    # --- connections ----------------------------------------------------------------------------

    def _engine(self, parameters: str) -> Engine:
        # Made when first needed: it takes as long as connecting, and nobody needs all three kinds.
        # This class keeps its connections itself: taking one from a pool costs as much as a query.
        if parameters not in self._engines:
            self._engines[parameters] = create_engine(
                "sqlite+pysqlite://",
                creator=lambda: self._connect(parameters),
                poolclass=NullPool,
                pool_reset_on_return=None,
                isolation_level="AUTOCOMMIT",
            )
        return self._engines[parameters]

    def _connect(self, parameters: str) -> sqlite3.Connection:
        uri = f"file:{urllib.parse.quote(os.fsencode(self.path))}?{parameters}"
        connection = sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._busy_timeout_s,
        )
        try:
            for name, value in self._pragmas():
                connection.execute(f"PRAGMA {name} = {value}")
                found = connection.execute(f"PRAGMA {name}").fetchone()
                if found is None or found[0] != value:
                    raise UnusableEngineError(
                        self.path, f"PRAGMA {name} is {found and found[0]!r}, not {value}"
                    )
            if parameters == _WRITING:
                self._set_wal_mode(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_wal_mode(self, connection: sqlite3.Connection) -> None:
        # The answer is fetched: a journal mode that did not take says so only there.
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise UnusableEngineError(
                self.path,
                f"the file system does not allow WAL mode (journal mode stays {mode!r}); network "
                "and virtual file systems often do not. Use a local directory.",
            )

    def _pragmas(self) -> Iterator[tuple[str, int]]:
        """Per connection; each is read back. Names and numbers of our own, nothing from outside."""
        yield "busy_timeout", int(self._busy_timeout_s * 1000)  # other programs may hold it briefly
        yield "foreign_keys", 1  # off by default in SQLite
        yield "trusted_schema", 0  # a hostile schema must not run functions with side effects
        yield "fullfsync", 1  # macOS: fsync alone leaves data in the drive's cache
        yield "checkpoint_fullfsync", 1  # the same for checkpoints
        yield "cell_size_check", 1  # notice a damaged page where it is read
        yield "journal_size_limit", 16 << 20  # a WAL that grew beside a long reader is cut again

    def _idle_state(self) -> idle.State | None:
        """As `idle.idle_state`; only read-only access may use it: nothing else keeps a writer
        away."""
        return idle.idle_state(self.path) if self.read_only else None

    def _set_synchronous(self, driver: sqlite3.Connection, *, flush: bool) -> None:
        # Outside of any transaction: inside one the pragma is silently ignored.
        number = 2 if flush else 1
        driver.execute("PRAGMA synchronous = FULL" if flush else "PRAGMA synchronous = NORMAL")
        found = driver.execute("PRAGMA synchronous").fetchone()[0]
        if found != number:
            raise UnusableEngineError(self.path, f"PRAGMA synchronous is {found}, not {number}")

    # --- errors ---------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raise `StoreClosedError` unless this process may use it, and it is open."""
        if os.getpid() != self._pid:
            raise StoreClosedError(
                self.path.parent, "was opened before this process was forked from its parent"
            )
        if self._closed:
            raise StoreClosedError(self.path.parent, "is closed")

    def _check_same_file(self) -> None:
        """Raise `StoreClosedError` when another file has the name by now: a rebuild put it there,
        and what a connection of ours wrote into the old one would be seen by nobody."""
        try:
            found = os.stat(self.path)
        except OSError:
            if self._file is None:
                return  # SQLite says so
            raise StoreClosedError(self.path.parent, "has no database any more") from None
        identity = found.st_dev, found.st_ino
        if self._file is None:
            self._file = identity
        elif self._file != identity:
            raise StoreClosedError(self.path.parent, "has another database now: it was rebuilt")

    def _understood(self, query: Callable[[Connection], Result], connection: Connection) -> Result:
        """The result of a query. Rows are read into records, and contents decoded, inside of it: a
        row that makes no sense is damage that SQLite does not see."""
        try:
            return query(connection)
        except UnicodeEncodeError:
            raise  # a value of the caller's, which could not be bound
        except (ValueError, EnvelopeError) as error:
            problem = f"a row makes no sense ({' '.join(str(error).split())[:200]})"
            raise CorruptDatabaseError(self.path, problem) from error
