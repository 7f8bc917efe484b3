"""Connections to the control database: pragmas, explicit transactions, translated errors.

SQLite's specifics (settings by pragma, BEGIN modes, the header of the file) stay in this folder and
in `rtstore.control.revisions`. Every connection is in the driver's autocommit mode
(`isolation_level=None`). This module runs BEGIN (IMMEDIATE for writers, plain for readers), COMMIT
and ROLLBACK itself.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import urllib.parse
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from rtstore.control.lock import WriterLock
from rtstore.control.schema import REVISIONS, runtime_manifest, write_batches
from rtstore.control.sqlite import changes, idle, sessions
from rtstore.control.sqlite.changes import Watch
from rtstore.control.sqlite.ground import Ground, Names
from rtstore.control.sqlite.held import Held, refuse_older
from rtstore.control.sqlite.left_wal import begin_behind_stored
from rtstore.control.sqlite.sessions import Identity, Session
from rtstore.control.sqlite.statements import Statement
from rtstore.control.sqlite.translation import Translated, error_code, explained, in_words
from rtstore.errors import (
    ANOTHER,
    EMPTY,
    FORKED,
    MOVED,
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLockedError,
    DatabaseLostError,
    NewerDatabaseError,
    ReadOnlyStoreError,
    RuntimeStoreError,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    UnusableEngineError,
)
from rtstore.foreign import fails_again, origin_of, system_error
from rtstore.model.envelope import EnvelopeError

DATABASE_NAME = "runtime-store.sqlite3"

SQLITE_MINIMUM = (3, 38, 0)
"""STRICT tables came with 3.37.0, the `->>` operator with 3.38.0 (sqlite.org/releaselog)."""

BUSY_TIMEOUT_S = 5.0

READERS_KEPT = 8
"""The number of read connections that stay open; more are opened while more threads read."""

_WRITER_CACHE_KIB = 8_000
"""The most memory that the pages of a writing connection take. SQLite's own number is less than the
pages that a large batch, or a group of small ones, reads and writes: some would be read again."""
_WRITING, _READING, _READING_IDLE = "mode=rw", "mode=ro", "mode=ro&immutable=1"  # in the URI

Result = TypeVar("Result")

logger = logging.getLogger("rtstore.control")


class Database:
    """The control database of one runtime directory, opened in this process.

    Readers have their own read-only connections and never take a write lock. There is one
    connection for writing, for the thread that holds `lock`; without a `lock`, nobody else knows
    the directory. It is the first that was opened to read, or a new one where a thread reads on
    that. Safe to share between threads, not across a fork.

    `read_only=True` opens nothing for writing and leaves the database and its WAL as they are. An
    idle database is read as an immutable file, which creates no side file; if a writer comes
    meanwhile, the result is discarded and read again. Otherwise the database is read through the
    WAL, during a live writer's work or after a dead one's; SQLite may then create the `-shm` again,
    an index of the WAL without data. With `at_once` a read does not wait until the next change of
    the file is certain to show: what it reads may be of two moments. `busy_timeout_s` is the
    longest wait in seconds for a lock of SQLite.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock: WriterLock | None = None,
        read_only: bool = False,
        at_once: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        if sqlite3.sqlite_version_info < SQLITE_MINIMUM:
            needed = ".".join(map(str, SQLITE_MINIMUM))
            raise UnusableEngineError(
                path, f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed"
            )
        self.path = path
        self.lock = lock
        if lock is not None:
            lock.is_of_open_store = True
        self._translated = Translated(path)
        self.read_only = read_only
        self._at_once = at_once
        self._busy_timeout_s = busy_timeout_s
        self._file: Identity | None = None
        self._pid = os.getpid()
        self._failure: str | None = None
        self._lost: str | None = None
        self._commits = 0
        self._watermark: int | None = None
        """The high watermark that was read last; kept where nothing else says what is lost."""
        self._is_closing = False
        # Read-only access holds no connection between two reads: the file may be idle at one and
        # written at the next, and an open connection would stop a writer from removing the WAL.
        self._held = Held(path, lock, 0 if read_only else READERS_KEPT)
        self._pool = self._held.pool
        self._names: Names = self._held.names
        self._made_wal = not os.path.exists(self._names.wal)
        self._has_stored_wal = False
        """Whether what others left in the WAL is on the medium for certain."""
        self._unclosed = weakref.finalize(self, Held.drop, self._held)
        self._unclosed.atexit = False

    # --- transactions ---------------------------------------------------------------------------

    def read(self, query: Callable[[Connection], Result], *, autocommit: bool = False) -> Result:
        """Run a query in one read transaction, and return its result: all it sees is of one moment.

        A query of one statement can use `autocommit`: the statement is a transaction by itself, and
        saves the BEGIN. The query may run again when the file changed under an immutable read, so
        it must have no side effects. Raises `StoreClosedError`, `DatabaseLostError`,
        `DatabaseLockedError`, `CorruptDatabaseError` and other errors of `translate`.
        """
        self.check_usable()
        for _ in range(idle.ATTEMPTS):
            before = self._idle_state()
            try:
                result = self._read(query, autocommit=autocommit, idle=before is not None)
            except (CorruptDatabaseError, DatabaseLostError, DatabaseLockedError):
                if before is None or before == self._idle_state():
                    raise
            else:
                if before is None or before == self._idle_state():
                    return result
        raise DatabaseLockedError(self.path, "it kept changing while it was read")

    def read_cached(self, query: Callable[[Connection], Result]) -> Result:
        """Do `read` for a query that is run often; return the last result until the next commit of
        any connection. The query is a module function, not a closure.

        The `data_version` of a connection that only reads changes with every commit of others
        (sqlite.org/pragma.html). It is fetched before the query, so a commit in between is noticed
        the next time.
        """
        self.check_usable()
        if self._idle_state() is not None:
            return self.read(query)
        return self._read(query, cached=True)

    def _read(
        self,
        query: Callable[[Connection], Result],
        *,
        autocommit: bool = False,
        idle: bool = False,
        cached: bool = False,
    ) -> Result:
        """Run a query on a connection for reading. After any error the connection is closed."""
        session: Session | None = None
        try:
            with self._translated:
                session = self._take_reader(idle=idle)
                if self.read_only:
                    self._refuse_older(session, idle=idle)
                if autocommit:
                    result = self._understood(query, session.connection)
                elif cached:
                    result = self._looked(query, session)
                else:
                    result = self._in_transaction(query, session)
                if idle:
                    session.close()
                else:
                    self._give_back(session, self._pool.readers)
                return result
        except BaseException:
            if session is not None:
                self._abandon(session)
            raise

    def _refuse_older(self, session: Session, *, idle: bool) -> None:
        """Raise when the file alone is older than what was read before through its WAL: somebody
        removed that. Raises `DatabaseLockedError` where another process has it still."""
        found = None
        with suppress(sqlite3.Error, DBAPIError, RuntimeStoreError):  # it need not be one of ours
            found = _WATERMARK.scalar(session.connection)
        if not isinstance(found, int):
            return
        if idle and self._watermark is not None and found < self._watermark:
            refuse_older(self.path)
        self._watermark = found

    def _looked(self, query: Callable[[Connection], Result], session: Session) -> Result:
        version = session.driver.execute("PRAGMA data_version").fetchone()[0]
        known = session.looks.get(query)
        if known is not None and known[0] == version:
            result: Result = known[1]
            return result
        result = self._in_transaction(query, session)
        session.looks[query] = version, result
        return result

    def read_on_writer(self, query: Callable[[Connection], Result]) -> Result:
        """Do `read` on the connection for writing, whose cache still has the pages of the last
        transaction."""
        self.assert_locked()
        session: Session | None = None
        try:
            with self._translated:
                session = self._take_writer()
                result = self._in_transaction(query, session)
                self._give_back(session, self._pool.writers)
                return result
        except BaseException:
            if session is not None:
                self._abandon(session)
            raise

    def watch(self, wake: Callable[[], object]) -> Watch:
        """Return a watch on the commits of every process; see `Watch` for `wake`. Raises
        `StoreClosedError`, `DatabaseLostError` or `StorageError`."""
        self.check_usable()
        return Watch(self._names, self.check_same_file(), wake)

    def assert_locked(self) -> None:
        """Raise `LockNotHeldError` unless this thread holds the writer lock of the directory."""
        if self.lock is not None and not self.read_only:
            self.lock.assert_held()

    def change_token(self) -> tuple[int, int]:
        """Return a value that changes with every commit of any connection. While it is equal, data
        read before is current. Raises `StoreClosedError` when the store is being closed: the caller
        is about to begin a batch.

        The `data_version` of the connection for writing changes with every commit of others
        (sqlite.org/pragma.html); another connection counts from its own start. Own commits are
        counted here.
        """
        self.assert_locked()
        self.check_usable()
        session: Session | None = None
        try:
            with self._translated:
                session = self._take_writer()
                version: int = session.driver.execute("PRAGMA data_version").fetchone()[0]
                found = (session.number << 32) + version, self._commits
                self._give_back(session, self._pool.writers)
                return found
        except BaseException:
            if session is not None:
                self._abandon(session)
            raise

    def _in_transaction(self, query: Callable[[Connection], Result], session: Session) -> Result:
        driver = session.driver
        driver.execute("BEGIN")
        result = self._understood(query, session.connection)
        self._check_process()  # the query may have forked
        driver.execute("ROLLBACK")
        return result

    def write(self, *, flush: bool) -> _Writing:
        """Return one write transaction, as a context manager.

        With `flush` the commit is durable when the block has ended (synchronous=FULL: the WAL is
        flushed). Without it (synchronous=NORMAL) the commit is atomic and survives the death of the
        process; a loss of power may take it back, whole, with everything after it.

        Any exception rolls the transaction back. If COMMIT itself fails with an input/output error,
        the content of the disk is unknown: this process writes no more (`DatabaseFailedError`). If
        the database or its WAL no longer has its name, and cannot be put back, it raises
        `DatabaseLostError`, before or after the commit.
        """
        return _Writing(self, flush=flush)

    def begin(self, end: _End, *, flush: bool) -> Connection:
        """Begin a write transaction on the connection for writing, and pass ownership to `end`."""
        self.assert_locked()
        if self._failure is not None:
            raise DatabaseFailedError(self.path, self._failure)
        session: Session | None = None
        try:
            with self._translated:
                held = self._held.ground if flush else None
                if held is not None and self._lost is None and held.lost(self._names) is None:
                    session = self._take_writer(held.file)
                else:
                    session = self._take_writer()
                    if flush and self._held.lost is not None:
                        session = self._regain(session)
                self._set_synchronous(session, flush=flush)
                if self._has_stored_wal:
                    session.driver.execute("BEGIN IMMEDIATE")
                else:
                    begin_behind_stored(session.driver, self.path)
                    self._has_stored_wal = True
                self._check_revision(session.driver)
                end.own(session)
                return session.connection
        except BaseException as error:
            if session is not None:
                self._end(session, error)
            raise

    def finish(self, owned: list[weakref.ref[Session]], error: BaseException | None) -> None:
        """Commit a write transaction, or roll it back on an error. Return the connection to its
        pool.

        After a commit, on return, the transaction is in the database and the WAL that every other
        process sees.
        """
        session: Session | None = None
        try:
            with self._translated:
                session = owned.pop()()
                if error is not None:
                    raise error if session is None else explained(error, self.path, session.driver)
                assert session is not None  # noqa: S101 - its end has it
                self._check_process()
                self._commit(session.driver)
                if self._held.lost is not None:
                    session = self._regain(session, committed=True)
                self._give_back(session, self._pool.writers)
                changes.announce(self._file)
        except BaseException as reason:
            if session is not None:
                self._end(session, reason)
            if reason is not error:
                raise

    def _end(self, session: Session, error: BaseException) -> None:
        """End a transaction after an error. The connection returns to its pool after an error of
        the database or of ours; after any other exception it is closed."""
        known = isinstance(error, (sqlite3.Error, DBAPIError, RuntimeStoreError))
        if known and session.is_ours:
            # An error may have ended the transaction already (sqlite.org/lang_transaction).
            with suppress(sqlite3.Error):
                if session.is_open and session.driver.in_transaction:
                    session.driver.execute("ROLLBACK")
            self._give_back(session, self._pool.writers)
        else:
            self._abandon(session)

    def _check_revision(self, driver: sqlite3.Connection) -> None:
        """Raise `NewerDatabaseError` when another process upgraded the database since we opened
        it."""
        number = driver.execute("PRAGMA user_version").fetchone()[0]
        if number > len(REVISIONS):
            raise NewerDatabaseError(self.path, f"number {number}", REVISIONS[-1])

    def _commit(self, driver: sqlite3.Connection) -> None:
        self._commits += 1  # also where it fails: it may have happened
        if not driver.in_transaction:  # what was written after its end has been committed
            self._failure = "the transaction had ended before its commit"
        try:
            driver.execute("COMMIT")
        except sqlite3.Error as error:
            if error_code(error) & 0xFF == sqlite3.SQLITE_IOERR:
                self._failure = in_words(error)
            with suppress(sqlite3.Error):
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
            raise

    @property
    def failure(self) -> str | None:
        """The reason why this process must not write any more, or None."""
        return self._failure

    # --- closing --------------------------------------------------------------------------------

    def begin_closing(self) -> None:
        """Refuse every new operation. A batch under way may end."""
        self._is_closing = True

    def close(self, *, tidy: bool = True) -> None:
        """Close every connection; a connection that another thread uses is closed by that thread
        after use. Closing twice is harmless, also after an interrupt.

        With `tidy`, the last connection of all processes moves the WAL into the database and
        removes it; this needs the writer lock. Otherwise the WAL stays as it is; only an empty one
        that our own reading created is removed. A WAL that somebody removed is saved in both cases.

        Raises `DatabaseLostError` when that is impossible. Raises `WalNotSavedError` or
        `DatabaseLockedError` when it cannot be done now: closing again tries again.
        """
        if tidy and os.getpid() == self._pid:
            self.assert_locked()
        self._is_closing = True
        if os.getpid() != self._pid:
            self._unclosed.detach()
            return
        try:
            if self._lost is None and not self._pool.is_closed and self._held.ground is not None:
                self._save()
                if tidy or self._leaves_a_wal():
                    self._tidy(is_locked=tidy)
        finally:
            if self._lost is not None or not self._held.has_unsaved:
                self._held.close()
                self._unclosed.detach()

    def _save(self) -> None:
        """Save a WAL that somebody removed. Where a thread of ours writes, it does so itself. A
        database that was moved as a whole has its WAL with it."""
        lost = self._held.lost
        if lost is None or self._pool.is_writing or self._held.save():
            return
        with suppress(StoreClosedError, StorageError, CorruptDatabaseError):
            self.check_same_file()
            self._lost = lost
            raise DatabaseLostError(self.path, lost)

    def _leaves_a_wal(self) -> bool:
        """Return whether the WAL is one that our own reading created. While a thread of ours
        writes, it is of use."""
        return self._made_wal and not self._pool.is_writing and os.path.exists(self._names.wal)

    def _tidy(self, *, is_locked: bool) -> None:
        """Close all connections, the one for writing last: only a connection that may write removes
        the side files. With a damaged database, which it cannot use, it removes them too. Without
        the writer lock, leave alone what another thread is writing."""
        session: Session | None = None
        try:
            with self._translated:
                session = self._take_writer(is_locked=is_locked)
            self._pool.is_closed = True
            self._pool.close_idle()
            if not self._pool.is_reading_on_spare:
                self._held.leave()
        except CorruptDatabaseError:
            self._pool.is_closed = True
            self._pool.close_idle()
            self._held.leave()
            with suppress(RuntimeStoreError, sqlite3.Error, UnicodeDecodeError):
                self._connected(_WRITING).close()
        except (RuntimeStoreError, sqlite3.Error, DBAPIError, UnicodeDecodeError):
            pass  # the files stay as they are
        finally:
            if session is not None:
                session.abandon()

    # --- connections ----------------------------------------------------------------------------

    def _take_reader(self, *, idle: bool) -> Session:
        """Return a connection for one read."""
        held = self._held.ground
        if held is not None and held.is_in_place(self._names) and self._lost is None:
            return self._pool.take(self._pool.readers, held.file, self._connect_reader)
        file = self.check_same_file()
        if idle:
            return self._pool.take(deque(), file, self._connect_idle)  # not during a fork
        # Where the WAL lost its name, an idle connection still has it; a new one saves it first.
        return self._pool.take(self._pool.readers, file, self._connect_reader)

    def _take_writer(self, file: Identity | None = None, *, is_locked: bool = True) -> Session:
        """Return the one connection for writing; open it when it is first needed. `file` is the
        database, if it was just looked at. `is_locked` says whether this thread holds the writer
        lock."""
        self._check_process()
        if self._pool.is_closed:
            raise StoreClosedError(self.path.parent, "is closed")
        if self.read_only:
            raise ReadOnlyStoreError(self.path.parent)
        session: Session | None = None
        try:
            session = self._pool.take(
                self._pool.writers,
                file or self.check_same_file(),
                self._connect_writer,
                is_locked=is_locked,
            )
            if self._pool.is_closed:  # meanwhile: perhaps it has no ground any more
                self._give_back(session, self._pool.writers)
                raise StoreClosedError(self.path.parent, "is closed")
            return session
        except BaseException:
            if session is not None:
                self._abandon(session)
            raise

    def _abandon(self, session: Session) -> None:
        if session.is_ours and self._held.lost is not None:
            self._pool.keep(session)  # it may be the only one that has the WAL
        session.abandon()
        if self._pool.is_closed:  # meanwhile: the connection of this thread is the last
            self._held.close()

    def _give_back(self, session: Session, idle: deque[Session]) -> None:
        self._pool.give_back(session, idle)
        if self._pool.is_closed:  # meanwhile: the connection of this thread is the last
            self._held.close()

    def _connect_reader(self, session: Session) -> None:
        self._connect(session, _READING, may_spare=True)

    def _connect_idle(self, session: Session) -> None:
        self._connect(session, _READING_IDLE)

    def _connect_writer(self, session: Session) -> None:
        if session.is_spare:
            self._let_write(session)
        else:
            self._connect(session, _WRITING)

    def _let_write(self, session: Session) -> None:
        """Make a connection that has only read the one for writing, as if it were opened now. Where
        somebody removed the WAL, this one still has it, and what is in it can be saved."""
        if self._held.lost is None and not _is_wal(self._stand()):
            self._set_wal_mode(session.driver)
        self._set(session.driver, "query_only", 0)
        session.looks.clear()
        session.is_spare = False

    def _connect(self, session: Session, parameters: str, *, may_spare: bool = False) -> None:
        """Connect. With `may_spare`, the first connection to read can write, too, but is told not
        to: the one for writing need not read the whole schema again. Only our own lock keeps it
        from being the last to close, which would write the WAL into the database at any time."""
        stands = parameters != _READING_IDLE and not self.read_only
        held = self._stand() if stands else None
        is_spare = may_spare and held is not None and held.is_held and self._pool.wants_spare
        if is_spare:
            driver = self._connected(_WRITING, is_wal=True)
        else:
            driver = self._connected(parameters, is_wal=held is not None and _is_wal(held))
        session.connect(driver)
        if is_spare:
            self._pool.make_spare(session)
            self._set(driver, "query_only", 1)
        if held is not None:
            driver.execute("PRAGMA user_version").fetchone()  # now SQLite has opened the WAL
            if not held.settle(self._names):
                if self._pool.is_closed:
                    raise StoreClosedError(self.path.parent, "is closed")
                raise DatabaseLockedError(self.path, "its WAL was replaced while it was opened")

    def _stand(self) -> Ground:
        """Lock the files in place before SQLite opens them, and return their ground. Save a WAL
        that somebody removed: another connection of this process may have it. Raises
        `StoreForkedError`, `StoreClosedError`, `DatabaseLostError`, or what `Held.save` does."""
        file = self.check_same_file()
        if sessions.is_barred(file):
            raise StoreForkedError(self.path.parent)
        if self._pool.is_closed:
            raise StoreClosedError(self.path.parent, "is closed")
        held = self._held.stand_on(file)
        if held.has_rollback_journal(self._names.database):
            self._connected(_WRITING).close()  # this sets WAL mode again
        held.hold(self._names.database, self._busy_timeout_s)
        lost = held.lost(self._names)
        if lost is not None and not self._held.save():
            raise self._lost_error(lost)
        return held

    def _lost_error(self, lost: str) -> RuntimeStoreError:
        """Return the error for a lost WAL. While the store is being closed, that is
        `StoreClosedError`, because closing removes the WAL too."""
        if self._is_closing:
            return StoreClosedError(self.path.parent, "is closed")
        return DatabaseLostError(self.path, lost)

    def _connected(self, parameters: str, *, is_wal: bool = False) -> sqlite3.Connection:
        """Return a new connection. If it is to write, set WAL mode, unless `is_wal` says that the
        database is in it: the pragma reads the whole schema."""
        uri = f"file:{urllib.parse.quote(os.fsencode(self.path))}?{parameters}"
        connection = sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._busy_timeout_s,
        )
        try:
            for name, value in self._pragmas(writes=parameters == _WRITING):
                self._set(connection, name, value)
            if parameters == _WRITING and not is_wal:
                self._set_wal_mode(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set(self, connection: sqlite3.Connection, name: str, value: int) -> None:
        """Set a pragma, and read it back. Both are constants of ours."""
        connection.execute(f"PRAGMA {name} = {value}")
        found = connection.execute(f"PRAGMA {name}").fetchone()
        if found is None or found[0] != value:
            raise UnusableEngineError(
                self.path, f"PRAGMA {name} is {found and found[0]!r}, not {value}"
            )

    def _set_wal_mode(self, connection: sqlite3.Connection) -> None:
        # Fetch the answer: only it shows whether the journal mode was set.
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise UnusableEngineError(
                self.path,
                f"the file system does not allow WAL mode (journal mode stays {mode!r}); network "
                "and virtual file systems often do not. Use a local directory.",
            )

    def _pragmas(self, *, writes: bool) -> Iterator[tuple[str, int]]:
        """Yield the pragmas of each connection."""
        yield "busy_timeout", int(self._busy_timeout_s * 1000)  # other programs may hold it briefly
        yield "foreign_keys", 1  # off by default in SQLite
        yield "trusted_schema", 0  # a hostile schema must not run functions with side effects
        yield "fullfsync", 1  # macOS: fsync alone leaves data in the drive's cache
        yield "checkpoint_fullfsync", 1  # the same for checkpoints
        yield "cell_size_check", 1  # notice a damaged page where it is read
        yield "journal_size_limit", 16 << 20  # a WAL that grew during a long read is cut again
        # Some builds of SQLite overwrite with zeros what is deleted: dropping a content would write
        # as much as the content that takes its place. It would hide nothing: the WAL has copies.
        yield "secure_delete", 0
        if writes:
            yield "cache_size", -_WRITER_CACHE_KIB

    def _idle_state(self) -> idle.State | None:
        """Return `idle.idle_state` for read-only access, which nothing else protects from a writer;
        else None."""
        return idle.idle_state(self.path, at_once=self._at_once) if self.read_only else None

    def _set_synchronous(self, session: Session, *, flush: bool) -> None:
        # Outside of any transaction: inside one the pragma is refused. So what was read back once
        # on a connection takes each time.
        number, driver = 2 if flush else 1, session.driver
        driver.execute("PRAGMA synchronous = FULL" if flush else "PRAGMA synchronous = NORMAL")
        if number in session.read_back:
            return
        found = driver.execute("PRAGMA synchronous").fetchone()[0]
        if found != number:
            raise UnusableEngineError(self.path, f"PRAGMA synchronous is {found}, not {number}")
        session.read_back.add(number)

    # --- errors ---------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raise `StoreClosedError` unless it is open, and this process opened it."""
        self._check_process()
        if self._is_closing:
            raise StoreClosedError(self.path.parent, "is closed")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreClosedError(self.path.parent, FORKED)

    def check_same_file(self) -> Identity:
        """Return the identity of the database. Raises `StoreClosedError` when another file has the
        name, for example of a rebuild: no other program would see our writes to the old file.
        Raises `DatabaseLostError` or `StorageError`, and `CorruptDatabaseError` for an empty file:
        SQLite would remove the WAL beside it, with all that is in it."""
        if self._lost is not None:
            raise DatabaseLostError(self.path, self._lost)
        try:
            found = os.stat(self._names.database)
        except system_error() as error:
            if self._file is None:  # the error of SQLite, without calling it
                raise StorageError(self.path, "the file cannot be opened", str(error)) from error
            moved = not self.path.parent.is_dir()
            problem = MOVED if moved else "has no database any more"
            raise StoreClosedError(self.path.parent, problem, is_gone=True) from None
        identity = found.st_dev, found.st_ino
        if self._file not in (None, identity):
            raise StoreClosedError(self.path.parent, ANOTHER, is_gone=True)
        if found.st_size == 0:
            raise CorruptDatabaseError(self.path, EMPTY)
        self._file = identity
        return identity

    # --- the ground -----------------------------------------------------------------------------

    def _regain(self, session: Session, *, committed: bool = False) -> Session:
        """Save a WAL that somebody removed, and return a new connection. Ours still has the WAL:
        move all of it into the database, then open everything again.

        Raises `DatabaseLostError` if that is impossible; this object is then of no further use.
        Raises `WalNotSavedError` or `DatabaseLockedError` where it cannot be done now. What was
        committed must not be said to be refused: that is a `DatabaseLostError`, too.
        """
        lost = self._held.lost
        if lost is None:
            return session
        cause: Exception | None = None
        regained: Session | None = None
        try:
            regained = self._with_new_wal(session)
        except (RuntimeStoreError, sqlite3.Error, DBAPIError) as error:
            if not committed:
                raise
            cause = error
        if regained is not None:
            return regained
        if cause is None:
            self._lost = lost
        raise DatabaseLostError(self.path, lost, committed=committed) from cause

    def _with_new_wal(self, session: Session) -> Session | None:
        """Move all of a lost WAL into the database. Return a connection with a new WAL, or None
        when it cannot be done. The old connection is closed then."""
        wanted = _state_of(session)
        if self._held.save(session):
            session = self._take_writer()
            if _state_of(session) == wanted:
                return session
        session.close()
        return None

    def _understood(self, query: Callable[[Connection], Result], connection: Connection) -> Result:
        """Return the result of a query, which makes records of rows and decodes contents. Raises
        `CorruptDatabaseError` for an invalid row: that is damage that SQLite does not notice."""
        try:
            return query(connection)
        except UnicodeEncodeError:
            raise  # a value from the caller that cannot be bound
        except (ValueError, EnvelopeError) as error:
            if not fails_again(partial(query, connection), EnvelopeError):
                raise origin_of(error) from None
            problem = f"a row makes no sense ({' '.join(str(error).split())[:200]})"
            raise CorruptDatabaseError(self.path, problem) from error


class _End(partial[None]):
    """The end of a write transaction: `Database.finish`, and the one reference to its connection.

    An exception may come before the first line of any function. Then the connection must not be in
    its frame, which the traceback holds. So the function receives a weak reference, and C code
    calls it. When the block ends, this object is dropped, and with it a connection not ended yet.
    """

    def own(self, session: Session) -> None:
        """Own this connection, and end its transaction."""
        self.args[0].append(weakref.ref(session))
        self.session = session


class _Writing:
    """The context manager of `Database.write`: begins a transaction with the block, commits it at
    the end, and rolls it back on any exception."""

    __slots__ = ("_database", "_flush", "_left")

    def __init__(self, database: Database, *, flush: bool) -> None:
        self._database = database
        self._flush = flush
        self._left = _End(_left, [], database)

    def __enter__(self) -> Connection:
        return self._database.begin(self._left, flush=self._flush)

    if TYPE_CHECKING:

        def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
            """As `Database.finish`."""
    else:
        __exit__ = property(attrgetter("_left"))


def _left(
    owned: list[weakref.ref[Session]],
    database: Database,
    _: object,
    error: BaseException | None,
    __: object,
) -> None:
    database.finish(owned, error)


def _is_wal(held: Ground) -> bool:
    """Return whether the database is in WAL mode for certain: what holds a WAL in place keeps the
    database in that mode, too."""
    return held.is_held and held.wal is not None


def _state_of(session: Session) -> tuple[object, ...]:
    """Return a value that is equal for two connections if they see the same commits."""
    manifest = _MANIFEST.first(session.connection)
    return manifest, _LAST_BATCH.scalar(session.connection)


_MANIFEST = Statement(select(runtime_manifest))
_WATERMARK = Statement(select(runtime_manifest.c.high_watermark))
_LAST_BATCH = Statement(select(func.max(write_batches.c.batch_number)))
