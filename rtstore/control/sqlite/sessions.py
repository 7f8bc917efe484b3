"""The SQLite connections of this process: their owners, and pauses in which none is in use.

An idle connection is in the pool of its database. Using it takes it out, so it has one owner at
every moment, and only its owner closes it. A connection returns to the pool only when it is known
to be clean. Otherwise its owner closes it, or the end of its last reference does, so no unexpected
exception leaves one behind with an open transaction.

Each connection reads the whole schema once, which takes as long as many statements. So the first
one of a database is a spare: it reads, and becomes the connection for writing when that is needed.

A forked child shares the parent's connections without its locks. SQLite in the child would rely on
those locks, and let the write-ahead log be removed under the parent (sqlite.org/howtocorrupt, 2.6).
So before a fork every connection of the process is closed, and opened again at its next use; other
threads that need one wait. A connection that cannot be closed, because the fork happens inside a
transaction, is never touched in the child, and the child cannot open that database.

There is no lock here that a thread could leave taken. A thread that takes a connection first
registers its use, then checks for a pause. A thread that wants a pause first registers it, then
checks for uses.
"""

from __future__ import annotations

import io
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from itertools import count
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from rtstore.errors import RuntimeStoreError
from rtstore.forks import at_fork, no_fork

PATIENCE_S = 10.0
"""In seconds. A fork waits this long for the transactions of other threads, which take ms."""
POLL_S = 0.0005

Identity = tuple[int, int]
"""Device and inode: they identify a file, whatever its name."""


class Session:
    """One connection to a database, and the thread that uses it.

    It counts as a use of its database from before the connection is made until it is closed. Its
    owner is the thread that made it or took it from its pool.
    """

    __slots__ = (
        "__weakref__", "_connection", "_driver", "_pid", "is_spare", "looks", "number",
        "read_back",
    )  # fmt: skip

    def __init__(self, file: Identity) -> None:
        self._pid = os.getpid()
        self._driver: sqlite3.Connection | None = None
        self._connection: Connection | None = None
        self.looks: dict[Callable[[Connection], Any], tuple[int, Any]] = {}
        """By query: the version of the data, and the query's result at that version."""
        self.read_back: set[int] = set()
        """The values of `PRAGMA synchronous` that were set and read back on it."""
        self.is_spare = False
        """Whether it only reads, and becomes the connection for writing when one is needed."""
        self.number = next(_numbers)
        """A number that no other connection of this process has or had."""
        forget = partial(_uses.pop, self.number)
        _uses[self.number] = [file, threading.get_ident(), weakref.ref(self, forget)]

    def connect(self, driver: sqlite3.Connection) -> None:
        """Take over a connection of the driver."""
        self._driver = driver
        # The finalizer may be cut off by a signal handler, and comes after all of these where the
        # garbage collector finds it. What ends its use is in C: the latest one is called first.
        ends = (partial(next, iter(end, _NEVER)) for end in (driver.close, driver.rollback))
        _uses[self.number] += [weakref.ref(self, end) for end in ends]
        self._connection = _wrapped(driver)

    @property
    def driver(self) -> sqlite3.Connection:
        """The driver's connection."""
        assert self._driver is not None  # noqa: S101 - one that is lent is connected
        return self._driver

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's connection around it."""
        assert self._connection is not None  # noqa: S101 - one that is lent is connected
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._driver is not None

    @property
    def is_clean(self) -> bool:
        """Whether it is open, of this process, and in no transaction."""
        driver = self._driver
        return driver is not None and not driver.in_transaction and self._pid == os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this thread uses it. After a return to the pool, another thread may use it."""
        use = _uses.get(self.number)
        return use is not None and use[1] == threading.get_ident()

    @property
    def is_used(self) -> bool:
        """Whether a thread uses it."""
        use = _uses.get(self.number)
        return use is not None and use[1] is not None

    def taken(self) -> Session:
        """Mark it as used by this thread, and return it."""
        _uses[self.number][1] = threading.get_ident()
        return self

    def released(self) -> Session:
        """Mark it as used by no thread, and return it."""
        _uses[self.number][1] = None
        return self

    def abandon(self) -> None:
        """Close it after an exception, unless it was returned to its pool before that."""
        if self.is_ours or self._pid != os.getpid():
            self.close()

    def undo(self) -> None:
        """Roll back the open transaction of an interrupted owner. Do not close the connection: its
        thread may be in a call on it."""
        try:
            if self._driver is not None and self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # it is closed, or an error has ended the transaction

    def close(self) -> None:
        """Close it, and roll back an open transaction. In a forked child, only keep a reference."""
        if self._pid != os.getpid():
            _keep_for_ever(self._driver, self._connection)
            return
        # A cursor in a traceback would keep a closed connection alive, with an open transaction.
        self.undo()
        driver = self._driver
        if driver is not None:
            try:
                with suppress(sqlite3.Error):
                    driver.close()
            finally:  # a signal often comes while it closes: its use is over then, too
                with suppress(sqlite3.Error):
                    driver.close()
                _uses.pop(self.number, None)
        self._connection = self._driver = None
        _uses.pop(self.number, None)

    def __del__(self) -> None:
        """Close a connection that an exception left without an owner."""
        with suppress(Exception):  # the interpreter may be shutting down
            self.close()


class Pool:
    """The idle connections of one database; opens more when they are needed."""

    def __init__(self, readers_kept: int) -> None:
        self.is_closed = False
        self.readers: deque[Session] = deque()
        self.writers: deque[Session] = deque()
        self._readers_kept = readers_kept
        self.spares: deque[Session] = deque()
        self.is_kept = False
        """Whether a fork leaves the idle connections that can write open, since they have what is
        nowhere else."""
        self._last_writer: weakref.ref[Session] | None = None
        self._known_spares: set[weakref.ref[Session]] = set()
        number = next(_numbers)
        _pools[number] = weakref.ref(self, partial(_pools.pop, number))

    def take(
        self,
        idle: deque[Session],
        file: Identity,
        connect: Callable[[Session], None],
        *,
        is_locked: bool = True,
    ) -> Session:
        """Return a connection, idle or new, that this thread owns until it gives it back or closes
        it. While another thread has a pause (a fork), wait. For a connection for writing,
        `is_locked` says whether this thread holds the writer lock. `connect` is called for a new
        connection, and for a spare that is to write."""
        session: Session | None = None
        try:
            if idle is self.writers and is_locked:
                self._undo_what_is_left()
            while True:
                wait_for_others()
                try:
                    session = (idle or self.spares).pop()
                except IndexError:
                    session = Session(file)
                session.taken()
                if _pauses and _pause_of_another():
                    self._put_back(session, idle)
                    continue
                if not session.is_open or (session.is_spare and idle is self.writers):
                    connect(session)
                if session.is_clean:
                    if idle is self.writers:
                        self._last_writer = weakref.ref(session)
                    return session
                session.close()
        except BaseException:
            if session is not None:
                self.keep(session)
            raise

    def _put_back(self, session: Session, idle: deque[Session]) -> None:
        """Put back what was taken while another thread has a pause, for which it may be the one
        connection that still has a WAL."""
        if session.is_open:
            (self.spares if session.is_spare else idle).append(session.released())
        else:
            session.close()

    def _undo_what_is_left(self) -> None:
        """Roll back the transaction of an interrupted writer. Under the writer lock, the last user
        of the connection for writing has released it; if its transaction is still open, that user
        was interrupted."""
        last = None if self._last_writer is None else self._last_writer()
        if last is not None:
            last.undo()

    def make_spare(self, session: Session) -> None:
        """Let a new connection for reading be a spare."""
        self._known_spares.add(weakref.ref(session, self._known_spares.discard))
        session.is_spare = True

    def _open_spares(self) -> list[Session]:
        found = [reference() for reference in list(self._known_spares)]
        return [spare for spare in found if spare is not None and spare.is_spare and spare.is_open]

    @property
    def wants_spare(self) -> bool:
        """Whether no open connection can write, so that the next one for reading can be a spare."""
        last = None if self._last_writer is None else self._last_writer()
        return not (last is not None and last.is_open) and not self._open_spares()

    @property
    def is_writing(self) -> bool:
        """Whether a thread has the connection for writing."""
        last = None if self._last_writer is None else self._last_writer()
        return last is not None and last.is_open and last.is_used

    @property
    def is_reading_on_spare(self) -> bool:
        """Whether a thread reads on a spare. Ask when the idle connections are closed."""
        return bool(self._open_spares())

    def give_back(self, session: Session, idle: deque[Session]) -> None:
        """Put a connection into the pool for its next user. Close it if it is not clean, or one too
        many."""
        if session.is_spare:
            idle = self.spares
        limit = self._readers_kept if idle is self.readers else 1
        if not session.is_clean or len(idle) >= limit:
            session.close()
            return
        idle.append(session.released())
        if self.is_closed:
            self.close_idle()

    def keep(self, session: Session) -> None:
        """Make a connection that can write idle, whatever interrupted its owner. Close another."""
        last = None if self._last_writer is None else self._last_writer()
        with suppress(sqlite3.Error):  # it may be closed already
            session.undo()
            if session.is_spare or session is last:
                if session.is_spare:
                    session.driver.execute("PRAGMA query_only = 1")
                put_back(session, self.spares if session.is_spare else self.writers)
                return
        session.close()

    @property
    def that_can_write(self) -> list[Session]:
        """The idle connections that can write."""
        return [*self.writers, *self.spares]

    def take_one_that_writes(self, file: Identity) -> tuple[Session, deque[Session]] | None:
        """Take an idle connection to a database that can write. Return it, and where it was."""
        for idle in (self.writers, self.spares):
            for session in list(idle):
                if _uses.get(session.number, (None,))[0] == file:
                    with suppress(ValueError):  # another thread was quicker
                        idle.remove(session.taken())
                        return session, idle
        return None

    def close_readers(self, file: Identity) -> None:
        """Close the idle connections to a database that cannot write."""
        for session in list(self.readers):
            if _uses.get(session.number, (None,))[0] == file:
                with suppress(ValueError):  # another thread was quicker
                    self.readers.remove(session)
                    session.close()

    def close_idle(self) -> None:
        """Close the idle connections, but for what is kept."""
        for idle in (self.readers,) if self.is_kept else (self.readers, self.writers, self.spares):
            while True:
                try:
                    session = idle.pop()
                except IndexError:
                    break
                session.close()


# --- a pause of all other threads -----------------------------------------------------------------


class Pause(io.BytesIO):
    """A pause of all other threads, from `with` to the end of its block: they take no connection.

    It is over when it is closed, or its last reference is gone. (It is a `BytesIO` because its
    `__exit__` and its `closed` are in C: no exception can come between the two.)
    """

    def __init__(self) -> None:
        super().__init__()
        number = next(_numbers)
        # Its own number and C forget it: so nobody forgets the next pause of its thread instead.
        forget = partial(_pauses.pop, number)
        _pauses[number] = weakref.ref(self, forget), threading.get_ident()


def is_pausing() -> bool:
    """Return whether this thread has a pause."""
    this = threading.get_ident()
    return any(thread == this and _is_on(pause) for pause, thread in list(_pauses.values()))


def wait_for_others() -> None:
    """Wait until no other thread has a pause. Disregard one that lasts too long: its thread was
    interrupted."""
    while _pauses:
        found = _pause_of_another()
        if found is None:
            return
        number, its_pause = found
        # No `Event`: an exception from a signal handler in its wait becomes an error of its lock.
        deadline = time.monotonic() + 2 * PATIENCE_S
        while number in _pauses and _is_on(its_pause):
            if time.monotonic() >= deadline:
                _pauses.pop(number, None)
            time.sleep(POLL_S)


def quiesce() -> bool:
    """Close the idle connections, and wait until other threads use none. Return whether only this
    thread's own are left, and those that are kept. This thread has a pause."""
    thread = threading.get_ident()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        kept = set()
        for pool in _living_pools():
            pool.close_idle()
            kept |= {session.number for session in pool.that_can_write if pool.is_kept}
        if not any(use[1] != thread for number, use in list(_uses.items()) if number not in kept):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def is_alone(file: Identity, session: Session | None = None) -> bool:
    """Close the idle connections to a database that cannot write, and wait until no thread uses
    one, but for this session of the caller's. Return whether none does. This thread has a pause."""
    this = threading.get_ident()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for pool in _living_pools():
            pool.close_readers(file)
        users = {use[1] for use in _open_uses(file, session)} - {None}
        if not users:
            return True
        if this in users or time.monotonic() >= deadline:  # it would wait for itself
            return False
        time.sleep(POLL_S)


def _open_uses(file: Identity, session: Session | None = None) -> list[list[Any]]:
    """Return the uses of a database, but for this session, and one that this thread is about to
    connect."""
    this = threading.get_ident()
    found = [use for number, use in list(_uses.items()) if use[0] == file]
    return [
        use
        for use in found
        if (its := use[2]()) is not None and its is not session and (use[1] != this or its.is_open)
    ]


def take_one_that_writes(file: Identity) -> tuple[Session, deque[Session]] | None:
    """Take an idle connection of this process to a database that can write. Return it, and where
    it was; None without one. This thread has a pause, and is alone."""
    while _open_uses(file):
        for pool in _living_pools():
            found = pool.take_one_that_writes(file)
            if found is not None:
                return found
        if not is_alone(file):  # a thread took it, sees the pause, and puts it back
            return None
    return None


def put_back(session: Session, idle: deque[Session]) -> None:
    """Make a connection of this thread idle again. Close it if it is not clean, or was being
    closed."""
    with suppress(sqlite3.Error):
        if session.is_clean and session.is_used:
            idle.append(session.released())
            return
    session.close()


def close_all_to(file: Identity) -> None:
    """Close the idle connections to a database, of whichever pool. This thread has a pause."""
    for pool in _living_pools():
        pool.close_readers(file)
        while (found := pool.take_one_that_writes(file)) is not None:
            found[0].close()


def _living_pools() -> list[Pool]:
    return [pool for pool in [known() for known in list(_pools.values())] if pool is not None]


def is_in_use(file: Identity) -> bool:
    """Return whether this process has a connection to a database."""
    return any(used == file for used, *_ in list(_uses.values()))


def is_barred(file: Identity) -> bool:
    """Return whether this process was forked during its parent's transaction on the database."""
    return file in _barred


def _is_on(its_pause: weakref.ref[Pause]) -> bool:
    found = its_pause()
    return found is not None and not found.closed


def _pause_of_another() -> tuple[int, weakref.ref[Pause]] | None:
    this = threading.get_ident()
    for number, (its_pause, thread) in list(_pauses.items()):
        if thread != this and _is_on(its_pause):
            return number, its_pause
    return None


# --- forks ----------------------------------------------------------------------------------------


class _Forking(threading.local):
    pause: Pause | None = None


_forking = _Forking()


def _before_fork() -> None:
    _forking.pause = Pause()
    quiesce()


def _after_in_parent() -> None:
    _forking.pause = None


def _after_in_child() -> None:
    _forking.pause = None
    _pauses.clear()
    _barred.update(file for file, *_ in _uses.values())
    _uses.clear()


def _keep_for_ever(*inherited: object) -> None:
    """Keep inherited objects until the process ends. Closing them in the child, even at the end of
    the interpreter, would end the parent's transaction in the memory that both share."""
    with no_fork():
        import ctypes

    for item in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

_numbers = count(1)
_uses: dict[int, list[Any]] = {}
"""By the number of a connection: its database, the thread that uses it or None, and the references
whose callbacks end the use with the last reference to the `Session`: close it, and forget it."""
_NEVER = object()
"""What no function here returns."""
_pauses: dict[int, tuple[weakref.ref[Pause], int]] = {}
"""The pauses by number, each with its thread. One that is over may be among them."""
_pools: dict[int, weakref.ref[Pool]] = {}
_barred: set[Identity] = set()


# --- SQLAlchemy -----------------------------------------------------------------------------------


class _Next(threading.local):
    driver: sqlite3.Connection | None = None


_next = _Next()


@cache
def _engine() -> Engine:
    # One for all databases: making it takes as long as a connection, and it holds no connection.
    return create_engine(
        "sqlite+pysqlite://",
        creator=_taken,
        poolclass=NullPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    )


def _taken() -> sqlite3.Connection:
    driver, _next.driver = _next.driver, None
    if driver is None:  # asked again: SQLAlchemy takes what is made before 1970 for outdated
        raise RuntimeStoreError("the clock of this machine stands before 1970: set it first")
    return driver


def _wrapped(driver: sqlite3.Connection) -> Connection:
    """Return SQLAlchemy's connection around one of the driver, which only we close: SQLAlchemy logs
    an exception of a signal handler that comes while it closes one, and drops it."""
    _next.driver = driver
    connection = _engine().connect()
    connection.detach()
    return connection
