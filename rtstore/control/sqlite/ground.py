"""The ground of an open database: the files with its names, and a lock that holds them in place.

SQLite's locks belong to the process (POSIX). Any plain close of the database file in the process
drops them all; a program that copies its own directory does that (sqlite.org/howtocorrupt, 2.2).
Another process then closes "last", and removes the write-ahead log (WAL) under the first. So this
process holds read locks of a second kind, which belong to a descriptor of ours and which only its
own close drops (F_OFD_SETLK, Linux). One is on the range by which SQLite detects the last process
to close, one on the byte by which it detects the first to open.

Where there are no such locks, and against a person who removes the files by hand, the names are
checked: before and after each transaction that writes, the database, the WAL and its index must be
the files that were opened.

Closing a descriptor of ours drops SQLite's locks like any other close. So it stays open, unlocked,
until this process has no other descriptor of that file.
"""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections import deque
from contextlib import suppress
from itertools import tee
from operator import itemgetter
from pathlib import Path

from rtstore.control.sqlite import idle, sessions
from rtstore.control.sqlite.sessions import Identity
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import at_fork

try:
    import fcntl

    _SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
except ImportError:  # pragma: no cover - Windows
    _SET_LOCK = None

_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510  # of the database: held by every connection
_FIRST_BYTE = 128  # of the index: held from the first opening to the last close
_FORMAT_AT, _ROLLBACK_JOURNAL = 18, b"\x01\x01"  # of the database (sqlite.org/fileformat.html, 1.3)
_LOCK = "hhqqi4x"  # struct flock: kind, from where it counts, first byte, size, process
_DESCRIPTORS = "/proc/self/fd"
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
_POLL_S = 0.001


class User:
    """A user of a ground, for as long as it lives and `ground` is set. An exception at any line
    between, or in the end of the last reference to it, leaves no user behind."""

    def __init__(self) -> None:
        self.ground: Ground | None = None


class Ground:
    """The files of one database, shared by all `Database` objects of this process that use it."""

    __slots__ = ("_own", "_users", "file", "index", "is_held", "moved", "wal")

    def __init__(self, file: Identity) -> None:
        self.file = file
        self.wal: Identity | None = None
        """The WAL that SQLite opened; None before that."""
        self.index: Identity | None = None
        """The index of the WAL (`-shm`)."""
        self.moved: Identity | None = None
        """The WAL that lost its name, once all of it is in the database."""
        self._users: set[weakref.ref[User]] = set()
        self.is_held = False
        """Whether our lock holds the WAL in place."""
        self._own: dict[int, os.stat_result] = {}
        """Our descriptors, each with what it is of: the database, an index, or a file that took the
        name of one just then. Two threads may open one each."""

    def add(self, user: User) -> None:
        """Let somebody use it."""
        for known in list(self._users):
            if known() is None:
                self._users.discard(known)
        self._users.add(weakref.ref(user))
        user.ground = self

    @property
    def users(self) -> list[User]:
        """Its users."""
        known = [reference() for reference in list(self._users)]
        return [user for user in known if user is not None and user.ground is self]

    @property
    def is_used(self) -> bool:
        """Whether it has a user."""
        return bool(self.users)

    def hold(self, path: str, patience_s: float) -> None:
        """Lock the database, so that no process closes it "last". Wait up to `patience_s` seconds.
        Where there are no such locks, hold nothing."""
        if self.is_held or _SET_LOCK is None:
            return
        descriptor = self._descriptor_of(path, self.file)
        if descriptor is None:
            return
        deadline = time.monotonic() + patience_s
        while True:
            try:
                _lock(descriptor, _SHARED_FIRST, _SHARED_SIZE)
            except BlockingIOError:  # a process is closing "last" at this moment
                if time.monotonic() >= deadline:
                    return  # SQLite will report that it is locked
                time.sleep(_POLL_S)
            except system_error():
                return  # no such locks on this file system
            else:
                self.is_held = True
                return

    def has_rollback_journal(self, path: str) -> bool:
        """Return whether the database is not in WAL mode: somebody set another journal mode by
        hand. WAL mode can be set again only while nothing holds the database. No process can take a
        held database out of WAL mode."""
        if self.is_held or _SET_LOCK is None:
            return False
        descriptor = self._descriptor_of(path, self.file)
        if descriptor is None:
            return False
        try:
            return os.pread(descriptor, 2, _FORMAT_AT) == _ROLLBACK_JOURNAL
        except system_error():
            return False  # SQLite will report the error

    def settle(self, names: Names) -> bool:
        """Remember the WAL and its index, which SQLite has just opened. Return False when other
        files have their names by now."""
        if self.wal is not None:
            return True
        wal, index = _identity(names.wal), _identity(names.index)
        if wal is None or index is None:
            return True  # not opened yet
        opened = _open_files()
        if opened and not {wal, index} <= opened.keys():
            return False
        self.index = index
        if self.is_held:
            descriptor = self._descriptor_of(names.index, index)
            if descriptor is not None:
                with suppress_system_error():
                    _lock(descriptor, _FIRST_BYTE, 1)
        self.wal = wal
        return True

    def is_in_place(self, names: Names) -> bool:
        """Return whether the database and the WAL have their names: all that a read needs."""
        try:
            file, wal = os.stat(names.database), os.stat(names.wal)
        except system_error():
            return False
        return (file.st_dev, file.st_ino) == self.file and (wal.st_dev, wal.st_ino) == self.wal

    def lost(self, names: Names) -> str | None:
        """Return in words which of the files no longer have their names, or None."""
        while True:
            wal, index = self.wal, self.index
            if self._have_names(names, wal, index):
                return None
            gone = self._in_words(names, wal, index)
            # Another thread may have opened the WAL, or forgotten it, between any two of these.
            if gone is None or (self.wal, self.index) == (wal, index):
                return gone

    def _have_names(self, names: Names, wal: Identity | None, index: Identity | None) -> bool:
        if wal is None or index is None:
            return _identity(names.database) == self.file
        try:
            file, its_wal = os.stat(names.database), os.stat(names.wal)
            its_index = os.stat(names.index)
        except system_error():
            return False
        return (
            its_wal.st_ino == wal[1]
            and its_index.st_ino == index[1]
            and file.st_ino == self.file[1]
            and (its_wal.st_dev, its_index.st_dev, file.st_dev) == (wal[0], index[0], self.file[0])
        )

    def can_be_regained(self, names: Names) -> bool:
        """Return whether the content of the lost WAL can be moved into the database: the database
        is in place and not empty, and nobody has written to another WAL, or can have done so and
        closed it.

        A process that opened the database after the removal has created another, empty WAL.
        """
        return (
            self.is_held
            and _identity(names.database) == self.file
            and (_identity(names.wal) in (None, self.wal) or _is_empty(names.wal))
            and _identity(names.index) in (None, self.index)
            and not _is_empty(names.database)
        )

    def forget_wal(self) -> None:
        """Forget the WAL. SQLite has no connection to it any more, and will open another."""
        self.wal = self.moved = None

    def unlock(self) -> None:
        """Release our locks, so that the next connection that closes may be the last."""
        if not self.is_held:
            return
        self.is_held = False
        for descriptor in list(self._own):
            if self._is_ours(descriptor):
                _set_lock(descriptor, fcntl.F_UNLCK, 0, 0)  # all of it

    def _in_words(self, names: Names, wal: Identity | None, index: Identity | None) -> str | None:
        expected = [(names.database, self.file)]
        if wal is not None and index is not None:
            expected += [(names.wal, wal), (names.index, index)]
        gone = ", ".join(
            f"{Path(name).name} was {'removed' if found is None else 'replaced'}"
            for name, wanted in expected
            if (found := _identity(name)) != wanted
        )
        return gone or None

    def try_to_close(self) -> bool:
        """Close our descriptors of files that this process does not have open otherwise. Return
        whether all are closed."""
        opened = _open_files()
        own = dict(self._own)
        for descriptor, found in own.items():
            others = set(opened.get((found.st_dev, found.st_ino), ())) - own.keys()
            if opened and not others:
                self._close(descriptor)
        return not self._own

    def close_own(self) -> None:
        """Close our descriptors."""
        for descriptor in list(self._own):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        """Forget a descriptor, and close it unless other code closed it and reused its number."""
        close = os.close if self._is_ours(descriptor) else _leave_open
        # Both in C, where no exception comes between: what is forgotten is closed, and only once.
        with suppress(KeyError):  # another thread was quicker
            forgotten = zip([descriptor], map(self._own.pop, [descriptor]), strict=True)
            deque(map(close, map(itemgetter(0), forgotten)), maxlen=0)

    def _descriptor_of(self, path: str, file: Identity) -> int | None:
        found = self._own_of(file)
        if found is not None or _identity(path) != file:
            return found
        try:
            # Noted in C, with the opening: an unknown descriptor would never be closed, and closing
            # one drops the locks on its file, whichever that is.
            opened, same = tee(map(os.open, [path], [_OPEN_FLAGS]))
            self._own.update(zip(opened, map(os.fstat, same), strict=True))
        except system_error():
            return None
        return self._own_of(file)

    def _own_of(self, file: Identity) -> int | None:
        for descriptor, found in list(self._own.items()):
            if (found.st_dev, found.st_ino) == file and self._is_ours(descriptor):
                return descriptor
        return None

    def _is_ours(self, descriptor: int) -> bool:
        """Return whether it still is ours: other code may have closed it, and reused its number."""
        found = self._own.get(descriptor)
        return found is not None and (found.st_dev, found.st_ino) == _identity_of(descriptor)


def _leave_open(_: int) -> None:
    """Do nothing: the number is that of another file by now."""


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except system_error():
        return False


class Names:
    """The names of a database's files, as text, because every batch checks them."""

    __slots__ = ("database", "index", "wal")

    def __init__(self, path: Path) -> None:
        self.database = str(path)
        self.wal = f"{path}-wal"
        self.index = f"{path}-shm"


def stand_on(file: Identity, user: User) -> Ground:
    """Return the ground of a database for a user that has, or is about to open, a connection."""
    while True:
        ground = _grounds.setdefault(file, Ground(file))
        if not ground.is_used:
            ground.forget_wal()  # the last user's
        ground.add(user)
        if _grounds.get(file) is ground:
            return ground


def users() -> list[User]:
    """Return the users of all grounds of this process."""
    return [user for its_ground in list(_grounds.values()) for user in its_ground.users]


def leave(user: User) -> None:
    """Take its ground from a user, which closes its connections now. The last one releases the
    locks."""
    ground, user.ground = user.ground, None
    if ground is not None and not ground.is_used:
        ground.unlock()
        if ground.is_used:  # by one that came meanwhile
            ground.hold("", patience_s=0)


def tidy_up() -> None:
    """Close the descriptors of grounds without users, if that drops no lock in use. If another
    thread is doing so, leave it to that thread."""
    _wanted.append(None)
    while _wanted and not sessions.is_pausing():
        _wanted.clear()
        if all(ground.is_used for ground in list(_grounds.values())):
            return
        with sessions.Pause():  # no thread opens one of the files in between
            for file, ground in list(_grounds.items()):
                if not ground.is_used and not sessions.is_in_use(file) and ground.try_to_close():
                    _grounds.pop(file, None)


_wanted: list[None] = []
"""Not empty while a call of `tidy_up` waits to be done by another thread."""
_grounds: dict[Identity, Ground] = {}


def _after_in_child() -> None:
    # The child has no locks of its own yet, so a close drops none; the parent's own stay.
    for ground in _grounds.values():
        ground.close_own()
    _grounds.clear()


at_fork(after_in_parent=tidy_up, after_in_child=_after_in_child)


# --- system calls ---------------------------------------------------------------------------------


def _lock(descriptor: int, first: int, size: int) -> None:
    _set_lock(descriptor, fcntl.F_RDLCK, first, size)


def _set_lock(descriptor: int, kind: int, first: int, size: int) -> None:
    assert _SET_LOCK is not None  # noqa: S101 - only called where there are such locks
    fcntl.fcntl(descriptor, _SET_LOCK, _a_lock(kind, first, size))


def _a_lock(kind: int, first: int, size: int) -> bytes:
    return struct.pack(_LOCK, kind, os.SEEK_SET, first, size, 0)


def is_known_free(database: Path) -> bool:
    """Return whether it is known that no other process has a WAL database open, or closes it.

    A descriptor that is open already is asked, such as SQLite's. False also where there is none,
    and where a `Ground` of this process holds the database.
    """
    if _SET_LOCK is None:
        return False
    wanted = _a_lock(fcntl.F_WRLCK, _SHARED_FIRST, _SHARED_SIZE)

    def ask(descriptor: int) -> bool:
        found = struct.unpack(_LOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))
        return bool(found[0] == fcntl.F_UNLCK)

    with suppress_system_error():
        return idle.by_open_descriptor(os.stat(database), ask) is True
    return False


def _identity(name: str) -> Identity | None:
    try:
        found = os.stat(name)
    except system_error():
        return None
    return found.st_dev, found.st_ino


def _identity_of(descriptor: int) -> Identity | None:
    try:
        found = os.fstat(descriptor)
    except system_error():
        return None
    return found.st_dev, found.st_ino


def _open_files() -> dict[Identity, list[int]]:
    """Return the files that this process has open, with their descriptors; empty where the system
    does not list them."""
    opened: dict[Identity, list[int]] = {}
    try:
        descriptors = os.listdir(_DESCRIPTORS)
    except system_error():
        return opened
    for text in descriptors:
        file = _identity_of(int(text))
        if file is not None:
            opened.setdefault(file, []).append(int(text))
    return opened
