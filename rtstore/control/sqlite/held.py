"""The open connections of a database and their ground; and a WAL that somebody removed under them.

Who removes the WAL of an open database by hand takes its name only. The connections that have it
open still read it, and the last of them to be closed ends it. So no such connection is closed
before what is in the WAL was moved into the database: by the next write, by closing, before a fork,
when the `Database` is dropped, and at a normal end of the process. Where that cannot be done now
(a full disk), the connection stays, and the next occasion tries again.

It needs a connection that can write, which each database has: the one for writing, or the spare.
It needs the writer lock, since two connections that move at once can damage a database; or nobody
else has the database open.
"""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from sqlalchemy.exc import DBAPIError

from rtstore.control.lock import WriterLock
from rtstore.control.sqlite import ground, idle, processes, sessions
from rtstore.control.sqlite.ground import Ground, Names, User
from rtstore.control.sqlite.processes import Process
from rtstore.control.sqlite.sessions import Identity, Pool, Session
from rtstore.control.sqlite.translation import Translated
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    DatabaseLostError,
    LockTimeoutError,
    RuntimeStoreError,
    StorageError,
    StoreClosedError,
    UnusableEngineError,
    WalNotSavedError,
)
from rtstore.files.system import make_room
from rtstore.foreign import system_error
from rtstore.forks import at_fork

_LOCK_PATIENCE_S = 1.0
"""In seconds. Where the writer lock is not free by then, it matters whether others have the
database open."""

_LATER = "What was committed last was not saved yet, as {}. Try again, or close the store again."

logger = logging.getLogger("rtstore.control")


class Held(User):
    """The open connections and ground of a `Database`. It has no reference to the `Database`, so
    that both are released at once with the last reference to that."""

    def __init__(self, path: Path, lock: WriterLock | None, readers_kept: int) -> None:
        super().__init__()
        self.pool = Pool(readers_kept)
        self.names = Names(path)
        self._path = path
        self._lock = lock
        self._pid = os.getpid()

    def stand_on(self, file: Identity) -> Ground:
        """Return the ground of the connections, which stays until `leave`."""
        return self.ground or ground.stand_on(file, self)

    def leave(self) -> None:
        """Leave the ground, so that SQLite may treat the remaining connections as the last."""
        ground.leave(self)

    def close(self) -> None:
        """Close all idle connections, and leave the WAL as it is. While a thread has one that can
        write, the ground stays: after that it calls this again."""
        self.pool.is_closed = True
        self.pool.close_idle()
        if not (self.pool.is_writing or self.pool.is_reading_on_spare):
            self.leave()
            ground.tidy_up()

    def drop(self) -> None:
        """Release everything of a `Database` that was not closed, with a `ResourceWarning`, or
        whose closing was interrupted. What is in a WAL that was removed is saved first; where that
        cannot be done now, the connections stay until it can."""
        if os.getpid() != self._pid:
            return
        was_open = self.ground is not None
        if self.save_or_report():
            self.close()
        else:
            _left_behind.append(self)
        if was_open:
            warnings.warn(
                f"the runtime store of {self._path.parent} was not closed",
                ResourceWarning,
                stacklevel=2,
            )

    # --- a WAL that was removed -----------------------------------------------------------------

    @property
    def lost(self) -> str | None:
        """In words which of the files lost their names, or None."""
        held = self.ground
        return None if held is None else held.lost(self.names)

    @property
    def has_unsaved(self) -> bool:
        """Whether a connection of ours that can write, and that no thread writes on, has a WAL that
        was removed, and can save it."""
        return bool(self.pool.that_can_write or self.pool.is_reading_on_spare) and self._can_save

    @property
    def may_have_unsaved(self) -> bool:
        """The same of one that a thread writes on, too."""
        return self.has_unsaved or (self.pool.is_writing and self._can_save)

    @property
    def _can_save(self) -> bool:
        held = self.ground
        return (
            held is not None
            and held.lost(self.names) is not None
            and held.can_be_regained(self.names)
        )

    def save_or_report(self) -> bool:
        """Save a WAL that was removed, if there is one. Where it cannot be saved now, log why, and
        return False."""
        if not self.may_have_unsaved:
            return True
        try:
            self.save()
        except (RuntimeStoreError, sqlite3.Error, DBAPIError) as error:
            logger.error("%s", error)
            return False
        return True

    def save(self, session: Session | None = None) -> bool:
        """Move a WAL that was removed into the database, and close every connection that has it:
        the next one makes a new WAL. The caller's own session does it, or an idle one of this
        process that can write.

        Return False where it is lost: another program has begun a new WAL, or nobody here has it.
        Raises `WalNotSavedError` or `DatabaseLockedError` where it cannot be done now; then the
        connections stay, and so does the database file, unless the error says otherwise.
        """
        held, lost = self.ground, self.lost
        if held is None or lost is None:
            return True
        with ExitStack() as stack:
            self._keep_others_out(stack, lost)
            stack.enter_context(sessions.Pause())
            if not sessions.is_alone(held.file, session):
                raise self._later(lost, "a thread of it reads or writes")
            place = None
            if session is None:
                found = sessions.take_one_that_writes(held.file)
                if found is None:
                    if held.moved is not None and held.moved == held.wal:
                        held.forget_wal()  # an interrupt came when it had been moved
                    return self.lost is None
                session, place = found
            try:
                with Translated(self._path):
                    if not self._move(session, held, lost):
                        return False
                held.moved = held.wal
                session.close()
                sessions.close_all_to(held.file)
                held.forget_wal()
            finally:
                if place is not None and session.is_open:
                    sessions.put_back(session, place)
        _let_go_of(held)
        logger.warning(
            "%s: %s while it was open; everything that was committed is in the database, which "
            "goes on with a new WAL", self._path, lost,
        )  # fmt: skip
        return True

    def _keep_others_out(self, stack: ExitStack, lost: str) -> None:
        """Take the writer lock for a while, unless a thread of ours has it."""
        if self._lock is None or self._lock.is_held_here:
            return
        try:
            stack.enter_context(self._lock.hold(_LOCK_PATIENCE_S))
        except (LockTimeoutError, StorageError, StoreClosedError, UnusableEngineError) as error:
            others = processes.reading(self._path)
            if others:  # each of them has that WAL, too
                why = f"the writer lock is not free, and {processes.listed(others)} has it open"
                raise self._later(lost, why) from error

    def _later(self, lost: str, why: str) -> DatabaseLockedError:
        return DatabaseLockedError(self._path, lost, _LATER.format(why))

    def _move(self, session: Session, held: Ground, lost: str) -> bool:
        """Move the WAL of a connection into the database. Return False where that is impossible for
        good."""
        if not held.can_be_regained(self.names):
            return False
        driver, moves = session.driver, False
        try:
            size = driver.execute("PRAGMA page_count").fetchone()[0]
            size *= driver.execute("PRAGMA page_size").fetchone()[0]
            self._make_room(size)
            moves = True
            with Translated(self._path):
                busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except CorruptDatabaseError:
            return False
        except system_error() as error:
            raise WalNotSavedError(self._path, lost, str(error), is_half=False) from error
        except StorageError as error:
            cause = f"{error.problem}: {error.cause}"
            raise WalNotSavedError(self._path, lost, cause, is_half=moves) from error
        if busy:
            raise self._later(lost, "another program reads it")
        return held.can_be_regained(self.names)

    def _make_room(self, size: int) -> None:
        """Give the database file the size that it will have: on a full disk nothing is moved.
        Raises OSError; the file is as it was."""

        def allocate(descriptor: int) -> bool:
            make_room(descriptor, size)
            return True

        idle.by_open_descriptor(os.stat(self.names.database), allocate)


def known_elsewhere(path: Path, gone: str, users: Sequence[Process]) -> DatabaseLockedError:
    """Return the error for a WAL that was removed while other processes had it open."""
    return DatabaseLockedError(
        path,
        f"{gone} removed, and {processes.listed(users)} has the database open",
        "What was committed last is known to that process only: let it write or close, which "
        "saves it, and try again.",
    )


def refuse_older(path: Path) -> NoReturn:
    """Raise for a database that is older than what was read of it before, as its WAL is gone."""
    wal = f"{path.name}-wal was"
    users = processes.reading(path)
    if users:
        raise known_elsewhere(path, wal, users)
    raise DatabaseLostError(path, f"{wal} removed")


_left_behind: list[Held] = []
"""What was dropped while its WAL could not be saved."""


def _let_go_of(its_ground: Ground) -> None:
    """Close what was dropped, and is saved now."""
    for held in list(_left_behind):
        if held.ground is its_ground:
            held.close()
            with suppress(ValueError):  # another thread was quicker
                _left_behind.remove(held)


def _held() -> list[Held]:
    return [user for user in ground.users() if isinstance(user, Held)]


def _before_fork() -> None:
    """Save each WAL that was removed: a fork closes the connections that have it. Where it cannot
    be saved, these stay open, and the child is refused that database."""
    for held in _held():
        if held.may_have_unsaved:
            held.pool.is_kept = True  # first: an exception here does not stop the fork
            held.pool.is_kept = not held.save_or_report()


def _after_in_parent() -> None:
    for held in _held():
        held.pool.is_kept = False


def _at_exit() -> None:
    """Save each WAL that was removed of a store that nobody closed."""
    for held in _held():
        if held._pid == os.getpid():  # noqa: SLF001 - of this module
            held.save_or_report()


at_fork(before=_before_fork, after_in_parent=_after_in_parent)
atexit.register(_at_exit)
