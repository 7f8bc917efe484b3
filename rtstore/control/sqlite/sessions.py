"""The SQLite connections of this process: who has which, and a moment in which there is none.

A connection that is idle lies in the pool of its database. To use it is to take it out, so it has
one owner at every moment, and only its owner closes it. A connection comes back only when it is
known to be clean; otherwise it is closed by its owner, or with the last reference to it, so an
exception from nowhere leaves none behind with a transaction open.

A forked child shares the parent's connections without having its locks: SQLite in the child would
believe in them, and let the write-ahead log be removed under the parent (sqlite.org/howtocorrupt,
2.6). So before a fork every connection of the process is closed, and opened again when it is needed
next. Whoever needs one meanwhile waits. What cannot be closed, because the fork happens inside of a
transaction, is never touched in the child, and the child cannot open that database.

Nothing here is a lock that a thread could leave taken. Whoever takes a connection first says so,
then looks whether there is a pause; whoever wants a pause first says so, then looks who has one.
"""

from __future__ import annotations

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

from rtstore.forks import no_fork

PATIENCE_S = 10.0
"""How long a fork waits for the transactions of other threads; they take milliseconds."""
POLL_S = 0.0005

Identity = tuple[int, int]
"""Device and inode: what tells one file from another, whatever its name."""


class Session:
    """One connection to a database, and who uses it.

    It counts as in use from before the connection is made until it is closed. It belongs to whoever
    made it or took it from its pool.
    """

    __slots__ = ("__weakref__", "_connection", "_driver", "_pid", "looks", "number")

    def __init__(self, file: Identity) -> None:
        self._pid = os.getpid()
        self._driver: sqlite3.Connection | None = None
        self._connection: Connection | None = None
        self.looks: dict[Callable[[Connection], Any], tuple[int, Any]] = {}
        """What a query returned on it, and the version of the data that it was of."""
        self.number = next(_numbers)
        """No other connection of this process has it, nor ever had."""
        _uses[self.number] = [file, threading.get_ident()]

    def connect(self, driver: sqlite3.Connection) -> None:
        """Take over a connection of the driver."""
        self._driver = driver
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
        """Whether this thread uses it. One that it has given back may be another's by now."""
        use = _uses.get(self.number)
        return use is not None and use[1] == threading.get_ident()

    def taken(self) -> Session:
        """The same, used by this thread."""
        _uses[self.number][1] = threading.get_ident()
        return self

    def released(self) -> Session:
        """The same, used by nobody."""
        _uses[self.number][1] = None
        return self

    def abandon(self) -> None:
        """Close it after an exception, unless it was given back before that."""
        if self.is_ours or self._pid != os.getpid():
            self.close()

    def undo(self) -> None:
        """Roll back what an interrupted owner left open. It is not closed: its thread may be in a
        call on it."""
        with suppress(sqlite3.Error):
            if self._driver is not None and self._driver.in_transaction:
                self._driver.execute("ROLLBACK")

    def close(self) -> None:
        """Close it; an open transaction is rolled back. In a forked child it is only kept."""
        if self._pid != os.getpid():
            _keep_for_ever(self._driver, self._connection)
            return
        # A cursor in a traceback keeps what is closed alive, and with it an open transaction.
        self.undo()
        connection, driver = self._connection, self._driver
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        if driver is not None:
            with suppress(sqlite3.Error):
                driver.close()
        self._connection = self._driver = None
        _uses.pop(self.number, None)

    def __del__(self) -> None:
        """Close what an exception left without an owner."""
        with suppress(Exception):  # the interpreter may be going
            self.close()


class Pool:
    """The connections of one database that nobody uses, and the right to have more."""

    def __init__(self, readers_kept: int) -> None:
        self.is_closed = False
        self.readers: deque[Session] = deque()
        self.writers: deque[Session] = deque()
        self._readers_kept = readers_kept
        self._last_writer: weakref.ref[Session] | None = None
        number = next(_numbers)
        _pools[number] = weakref.ref(self, partial(_forget_pool, number))

    def take(
        self, idle: deque[Session], file: Identity, connect: Callable[[Session], None]
    ) -> Session:
        """A connection that is this thread's until it is given back or closed: an idle one, or a
        new one. None is lent while another thread forks."""
        session: Session | None = None
        try:
            if idle is self.writers:
                self._undo_what_is_left()
            while True:
                wait_for_others()
                try:
                    session = idle.pop()
                except IndexError:
                    session = Session(file)
                session.taken()
                if not (_pauses and _pause_of_another()):
                    if not session.is_open:
                        connect(session)
                    if session.is_clean:
                        if idle is self.writers:
                            self._last_writer = weakref.ref(session)
                        return session
                session.close()
        except BaseException:
            if session is not None:
                session.close()
            raise

    def _undo_what_is_left(self) -> None:
        """Whoever takes the connection for writing holds the writer lock: the last one who had it
        has left the lock, and if its transaction is still open, it was interrupted."""
        last = None if self._last_writer is None else self._last_writer()
        if last is not None:
            last.undo()

    def give_back(self, session: Session, idle: deque[Session]) -> None:
        """Keep a connection for the next one who needs it, unless it is in doubt or too many."""
        limit = self._readers_kept if idle is self.readers else 1
        if not session.is_clean or len(idle) >= limit:
            session.close()
            return
        idle.append(session.released())
        if self.is_closed:
            self.close_idle()

    def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        for idle in (self.readers, self.writers):
            while True:
                try:
                    session = idle.pop()
                except IndexError:
                    break
                session.close()


def _forget_pool(number: int, _: object) -> None:
    _pools.pop(number, None)


# --- a pause of everybody -------------------------------------------------------------------------


def pause() -> None:
    """Let no other thread take a connection until `resume`."""
    _pauses[threading.get_ident()] = next(_numbers)


def resume() -> None:
    """End the pause of this thread; without one it does nothing."""
    _pauses.pop(threading.get_ident(), None)


def is_pausing() -> bool:
    """Whether this thread has a pause."""
    return threading.get_ident() in _pauses


def wait_for_others() -> None:
    """Wait until no other thread has a pause. One whose end does not come is ended here: its
    thread was interrupted."""
    while _pauses:
        found = _pause_of_another()
        if found is None:
            return
        thread, number = found
        # No `Event`: what a signal handler raises in its wait comes out as an error of its lock.
        deadline = time.monotonic() + 2 * PATIENCE_S
        while _pauses.get(thread) == number:
            if time.monotonic() >= deadline:
                _pauses.pop(thread, None)
            time.sleep(POLL_S)


def quiesce(file: Identity | None = None) -> bool:
    """In a pause of this thread: close what is idle, and wait for what others use; of one database,
    or all. Returns whether no connection is left but what this thread itself uses."""
    thread = threading.get_ident()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for reference in list(_pools.values()):
            pool = reference()
            if pool is not None:
                pool.close_idle()
        if not any(
            user != thread for used, user in list(_uses.values()) if file is None or used == file
        ):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)


def is_in_use(file: Identity) -> bool:
    """Whether this process has a connection to a database."""
    return any(used == file for used, _ in list(_uses.values()))


def is_barred(file: Identity) -> bool:
    """Whether this process was forked while its parent was in a transaction on the database."""
    return file in _barred


def _pause_of_another() -> tuple[int, int] | None:
    thread = threading.get_ident()
    for other, number in list(_pauses.items()):
        if other != thread:
            return other, number
    return None


# --- forks ----------------------------------------------------------------------------------------


def _before_fork() -> None:
    pause()
    quiesce()


def _after_in_child() -> None:
    _pauses.clear()
    _barred.update(file for file, _ in _uses.values())
    _uses.clear()


def _keep_for_ever(*inherited: object) -> None:
    """Closing them in the child would end the parent's transaction in the memory that both share;
    even the end of the interpreter must not."""
    with no_fork():
        import ctypes

    for item in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=resume, after_in_child=_after_in_child)

_numbers = count(1)
_uses: dict[int, list[Any]] = {}
"""By the number of a connection: its database, and the thread that uses it or None."""
_pauses: dict[int, int] = {}
"""By thread: who lets nobody take a connection, and the number of this pause."""
_pools: dict[int, weakref.ref[Pool]] = {}
_barred: set[Identity] = set()


# --- SQLAlchemy -----------------------------------------------------------------------------------


class _Next(threading.local):
    driver: sqlite3.Connection | None = None


_next = _Next()


@cache
def _engine() -> Engine:
    # One for all databases: it takes as long to make as a connection, and keeps none.
    return create_engine(
        "sqlite+pysqlite://",
        creator=_taken,
        poolclass=NullPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
    )


def _taken() -> sqlite3.Connection:
    driver, _next.driver = _next.driver, None
    assert driver is not None  # noqa: S101 - it is put there by the one caller
    return driver


def _wrapped(driver: sqlite3.Connection) -> Connection:
    _next.driver = driver
    return _engine().connect()
