"""The writer lock: one writer at a time per runtime directory, across threads and processes.

It is a lock of the operating system (flock(2), from `fcntl`) on `runtime-store.lock`. It is
released when its holder dies, so it is never stale, and its age means nothing. The file stays.
Its text says which writer took the lock last, only for a message. Who holds it now, only the system
knows (`WriterLock.look`): that writer may be idle or gone, and another program have the lock.

A file can be removed under its holder, and the next writer would lock another file. So the
directory itself is locked too, where the file system can do that: its name cannot be given to
another directory while anything is in it. The file is for older programs, for other tools and for
the signature. Before it writes, a holder still checks that the name is its file's (`check_name`).

A hold is two descriptors, owned by objects of C (`Hold`). They are closed when the block ends or
the object is lost, without a line of Python at which an exception could come. Nothing else records
that the lock is held, so nothing else can be left behind. Threads exclude each other like
processes, each with descriptors of its own.

The lock also serialises checkpoints. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when two
connections write or checkpoint at the same moment (sqlite.org/wal.html, "the WAL-reset bug").
"""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import stat
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rtstore.control.run_processes import is_stopped_pid
from rtstore.control.sqlite import processes
from rtstore.control.sqlite.processes import Flock, Process
from rtstore.errors import (
    MOVED,
    InvalidRequestError,
    LockLostError,
    LockTimeoutError,
    ReadOnlyStoreError,
    StorageError,
    StoreClosedError,
    UnusableEngineError,
)
from rtstore.files.owned import CAN_OWN_DIRECTORIES, Owner, open_owned
from rtstore.files.owners import explained
from rtstore.files.paths import move_aside_command
from rtstore.files.system import give_to_owner_of, is_root
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import at_fork, last_fork, may_be_inherited
from rtstore.model.records import Record
from rtstore.model.times import Timestamp, format_time, parse_time, utc_now

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "runtime-store.lock"
DEFAULT_TIMEOUT_S = 30.0
POLL_INTERVAL_S_MIN = 0.0005
POLL_INTERVAL_S_MAX = 0.005
_LOOKS = 8
"""How often the holder is looked for before it is said that the system does not show it: writers
take turns, and the one that held the lock may have released it when its process is looked at."""
_LASTING, _LASTING_S = 3, 0.05
"""How often, and in seconds how long after each other, a lock of no writer must be seen."""
_SEEN_S = 0.05
"""In seconds. Calls that time out together share one look at who holds the lock."""

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | _CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
_LOOK_FLAGS = os.O_RDONLY | _CLOEXEC | getattr(os, "O_NONBLOCK", 0)
"""Not blocking: opening any kind of file with this name, a pipe included, must not wait."""
_DESCRIPTOR_FACTS = "/proc/self/fdinfo"  # Linux: with the locks of each descriptor
_DIRECTORY_FLAGS = os.O_RDONLY | _CLOEXEC | getattr(os, "O_DIRECTORY", 0)


class LockNotHeldError(AssertionError):
    """A fault of this library: what only the holder of the writer lock may do was tried without it.
    Nothing was touched."""


class Hold(io.FileIO):
    """The writer lock while it is held: a context manager that releases it.

    `__exit__` and the closing of a lost object are inherited, and in C: see the module docstring.
    """

    _finalizing = False  # of the base class; so named, a lost hold is closed without a warning

    thread: int
    pid: int
    directory: Owner | None
    has_lock = False
    """Whether the lock was taken with this object. The hold has ended once this is closed."""

    @classmethod
    def open_file(cls, path: str) -> Hold:
        """Open the lock file, or create it. Lock nothing yet."""
        hold = next(
            map(cls, map(os.open, (path,), (_OPEN_FLAGS,), (0o600,)), ("r+b",))
        )  # as in `open_owned`
        hold.thread, hold.pid, hold.directory = threading.get_ident(), os.getpid(), None
        _numbers[hold.fileno()] = path
        return hold

    def add_directory(self, directory: Owner) -> None:
        """Make `close` close the directory too: `close` of the base class, in C, first calls
        `flush` of the object."""
        self.flush = directory.close  # type: ignore[method-assign]
        self.directory = directory

    def abandon(self) -> None:
        """Close both descriptors without unlocking: a forked parent may hold the lock with them."""
        self.close()

    def release(self) -> None:
        """Release the lock before the end of the block. Calling it again is harmless.

        The lock is released before the close: a child between fork and exec has the descriptors
        too.
        """
        try:
            self._unlock()
        finally:
            self.abandon()

    def _unlock(self) -> None:
        if self.closed or self.pid != os.getpid():
            return
        directory = self.directory
        try:
            if directory is not None and not directory.closed:  # then there is fcntl
                fcntl.flock(directory.fileno(), fcntl.LOCK_UN)
            fcntl.flock(self.fileno(), fcntl.LOCK_UN)
        except system_error():
            pass  # other code closed our descriptors
        except ValueError:
            if not any(held is not None and held.closed for held in (self, directory)):
                raise


class Look(io.BytesIO):
    """A check whether the lock is free: a context manager; see `WriterLock.kept_free`.

    Its descriptors are closed with the object, which has no reference after the block. (It is a
    `BytesIO` because its `__exit__` is in C.)
    """

    def __init__(self, lock: WriterLock) -> None:
        super().__init__()
        self._lock = lock
        self._owners: list[Owner] = []

    def __enter__(self) -> bool:  # type: ignore[override]
        """Keep the lock free if it is free. Return whether it is."""
        try:
            _open_after_fork.add(weakref.ref(self, _open_after_fork.discard))
            return self._keep_free()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the descriptors."""
        for owner in self._owners:
            owner.close()

    def _keep_free(self) -> bool:
        if fcntl is None:  # pragma: no cover - Windows
            return not self._lock.is_held_here
        path, directory = self._lock.names
        # A pipe in its place must not make us wait, and is not a lock.
        with suppress_system_error():
            if stat.S_ISREG(os.stat(path).st_mode) and not self._share(path, _LOOK_FLAGS):
                return False
        with suppress_system_error():
            return not CAN_OWN_DIRECTORIES or self._share(directory, _DIRECTORY_FLAGS)
        return True

    def _share(self, path: str, flags: int) -> bool:
        while True:
            forks = last_fork()
            self._owners.append(owner := open_owned(path, flags))
            _numbers[owner.fileno()] = path
            if not may_be_inherited(forks):
                break
            owner.close()
            time.sleep(POLL_INTERVAL_S_MIN)
        try:
            fcntl.flock(owner.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_open_after_fork: set[weakref.ref[Hold | Look]] = set()
"""What a forked child must close. Weak references, in C, do not keep a lost hold alive. What a
child may have that was not noted here before the fork does not become a lock."""
_numbers: dict[int, str] = {}
"""The number of each descriptor that was opened for a lock, with its path. It may be another file's
by now."""


def _after_in_child() -> None:
    # A forked child shares the parent's lock through the descriptors it inherited: the lock would
    # outlive the parent. Closing (not unlocking) leaves the parent's lock alone.
    for reference in list(_open_after_fork):
        found = reference()
        if found is not None:
            found.abandon()
    # A thread of the parent may have been in the middle of a close: the object is closed already,
    # and the descriptor is not.
    for number, path in list(_numbers.items()):
        with suppress_system_error():
            if _is_lock_on(path, number):
                os.close(number)
    _numbers.clear()


def _is_lock_on(path: str, number: int) -> bool:
    """Return whether a descriptor is known to hold a flock on the file with a path."""
    with suppress_system_error(), open(f"{_DESCRIPTOR_FACTS}/{number}", "rb") as facts:
        return os.path.samestat(os.fstat(number), os.stat(path)) and b" FLOCK " in facts.read()
    return False


at_fork(after_in_child=_after_in_child)


def _lock(descriptor: int) -> bool:
    """Lock a file for this descriptor alone. Return False when another one has it. Raises
    OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class WriterLock:
    """The writer lock of one runtime directory. Safe to share between threads; not re-entrant."""

    def __init__(
        self, directory: Path, timeout_s: float = DEFAULT_TIMEOUT_S, *, read_only: bool = False
    ) -> None:
        self._read_only = read_only
        self.path = directory / LOCK_NAME
        self.names = os.fspath(self.path), os.fspath(directory)
        """The paths of the lock file and of the directory, which are locked."""
        self.timeout_s = timeout_s
        self._held: weakref.ref[Hold] | None = None
        """The last hold of this object; it has ended when that is closed or lost."""
        self._seen: tuple[float, Holder | None] = -_SEEN_S, None
        """Who held it for a call that timed out, and when that was known."""
        self.is_of_open_store = False
        """Whether a database is open with it: a directory that is not there has gone since."""

    def hold(self, timeout_s: float | None = None) -> Hold:
        """Take the lock, for a `with` block. Wait up to `timeout_s` seconds (default: the lock's).

        Raises `LockTimeoutError` with its holder and since when, `StorageError` when the lock file
        cannot be created, `StoreClosedError` when the directory of an open store is gone, and
        `InvalidRequestError` when this thread holds it already: waiting for oneself would never
        end. Of a store that was opened read-only it raises `ReadOnlyStoreError` before anything is
        made.
        """
        self.refuse_read_only()
        self.refuse_reentry()
        if fcntl is None:  # pragma: no cover - Windows
            raise UnusableEngineError(self.path, "this system has no flock(2). Use another system.")
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline, pause = time.monotonic() + limit_s, POLL_INTERVAL_S_MIN
        hold: Hold | None = None
        try:
            while (hold := self._attempt()) is None:
                if time.monotonic() >= deadline:
                    raise self.timed_out(limit_s)
                time.sleep(pause)
                pause = min(2 * pause, POLL_INTERVAL_S_MAX)
            return hold
        except system_error() as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise UnusableEngineError(
                    self.path, f"the file system has no locks ({error}). Use a local directory."
                ) from error
            is_away = error.errno in (errno.ENOENT, errno.ENOTDIR) and not self.path.parent.is_dir()
            if is_away and self.is_of_open_store:
                raise StoreClosedError(self.path.parent, MOVED, is_gone=True) from error
            problem = "the writer lock cannot be taken"
            raise StorageError(self.path, problem, _way_out(error, self.path)) from error
        except BaseException:
            if hold is not None:
                hold.release()
            raise

    def refuse_read_only(self) -> None:
        """Raise `ReadOnlyStoreError` for a store that was opened read-only."""
        if self._read_only:
            raise ReadOnlyStoreError(self.path.parent)

    def refuse_reentry(self, what: str = "write to the same store") -> None:
        """Raise `InvalidRequestError` when this thread holds the lock: it must not do `what`."""
        if self.is_held_by_this_thread:
            raise InvalidRequestError(
                "call", f"a function that runs inside a write must not {what}"
            )

    def timed_out(self, timeout_s: float) -> LockTimeoutError:
        """Return the error for a wait that was too long, with who holds the lock."""
        seen_at, holder = self._seen
        if time.monotonic() - seen_at > min(timeout_s, _SEEN_S):
            holder = self._look()
            self._seen = time.monotonic(), holder
        return LockTimeoutError(
            self.path,
            timeout_s,
            None if holder is None else holder.words,
            is_own_process=holder is not None and holder.is_this_process,
            stopped_process=None if holder is None else holder.stopped,
        )

    def _is_held_with(self, reference: weakref.ref[Hold | Look]) -> bool:
        """Return whether the lock is held through a `Hold` of this process, of any `WriterLock`."""
        held = reference()
        return (
            isinstance(held, Hold)
            and held.has_lock
            and held.pid == os.getpid()
            and not held.closed
            and self._is_at_path(held)
        )

    @property
    def is_held_here(self) -> bool:
        """Whether a thread of this process holds the lock through this object."""
        return self._current() is not None

    @property
    def is_held_by_this_thread(self) -> bool:
        """Whether this thread holds the lock through this object."""
        held = self._current()
        return held is not None and held.thread == threading.get_ident()

    def assert_held(self) -> None:
        """Raise `LockNotHeldError` unless this thread of this process holds the lock through this
        object."""
        held = self._current()
        if held is None or held.thread != threading.get_ident() or held.pid != os.getpid():
            raise LockNotHeldError(f"this thread does not hold the writer lock {self.path}")

    def check_name(self) -> None:
        """Raise `LockLostError` unless the lock file's name is still that of the held file. Call it
        before writing."""
        held = self._current()
        if held is None or not self._is_at_path(held):
            raise LockLostError(self.path)

    def is_sure(self) -> bool:
        """Return whether no other writer can have had the lock since it was taken here."""
        held = self._current()
        if held is None:
            return False
        return held.directory is not None or self._is_at_path(held)

    def is_held(self) -> bool:
        """Return whether any process, this one included, holds the lock at this moment.

        For an instant, a shared lock is tried on a descriptor of its own. Two checks at once do not
        see each other; a writer that comes just then tries again milliseconds later. Creates
        nothing, and works on a read-only file system.
        """
        with self.kept_free() as is_free:
            return not is_free

    def kept_free(self) -> Look:
        """Return a context whose value is whether the lock is free. If it is, no writer can take it
        during the block, which must be short. Otherwise as `is_held`."""
        return Look(self)

    def look(self, *, everyone: bool = False) -> Holder | None:
        """Return who holds the lock, as far as the system says. None where nobody is seen to.

        Not for an opening or a write: to list all locks, the system stops every processor. The list
        names who took a lock; with `everyone`, also who has it from that process is found. A lock
        of no writer of rtstore counts only if it lasts: who looks whether the lock is free has one,
        too, for an instant.
        """
        holder = self._look(everyone=everyone)
        for _ in range(_LASTING - 1):
            if holder is None or holder.is_writer:
                break
            time.sleep(_LASTING_S)
            holder = self._look(everyone=everyone)
        return holder

    def _look(self, *, everyone: bool = False) -> Holder | None:
        found: list[Flock] = []
        for left in reversed(range(_LOOKS)):
            # Beside a fork, `is_held` would wait for its end.
            is_held = not may_be_inherited(last_fork()) and self.is_held()
            takers = processes.flock_takers(self.names)
            others = (takers or set()) - {os.getpid()}
            found = _without_looks(processes.flocks_of(self.names, takers or ()))
            if found or takers is None or not (is_held or others):
                break
            if not left:  # who took it may have left it to a child
                found = processes.flocks_of(self.names)
            time.sleep(POLL_INTERVAL_S_MIN)
        if not (found or is_held or others):
            return None
        if everyone and found:
            found = processes.flocks_of(self.names) or found
        return self._holder(found)

    def _holder(self, found: Sequence[Flock]) -> Holder:
        is_held_here = any(map(self._is_held_with, list(_open_after_fork)))
        pids = {lock.pid for lock in found} or ({os.getpid()} if is_held_here else set())
        exclusive = {(lock.pid, lock.path) for lock in found if lock.is_exclusive}
        writers = {pid for pid in pids if all((pid, path) in exclusive for path in self.names)}
        if is_held_here:
            writers |= {os.getpid()} & pids
        signature = self.signature()
        signed = read_signature(signature or "")
        is_signed = signed.process_id in writers and f" on {_HOST} since " in str(signature)
        return Holder(
            processes=tuple(map(processes.process, sorted(pids))),
            locked=tuple(
                words
                for path, words in zip(self.names, (LOCK_NAME, "the directory"), strict=True)
                if path in {lock.path for lock in found}
            ),
            is_shared=not exclusive,
            is_writer=bool(writers),
            is_this_process=os.getpid() in pids,
            stopped=next(filter(is_stopped_pid, sorted(pids)), None),
            since=signed.since if is_signed else None,
            signature=signature,
        )

    def signature(self) -> str | None:
        """Return which writer took the lock last and when, as that process wrote it, or None."""
        try:
            owner = open_owned(self.names[0], _LOOK_FLAGS)
            text = os.read(owner.fileno(), 400).decode("utf-8", errors="replace")
            owner.close()
        except system_error():
            return None
        # Any program may have written there, and this is printed to terminals.
        text = "".join(char if char.isprintable() else " " for char in text)
        return text.strip()[:200] or None

    def _current(self) -> Hold | None:
        held = None if self._held is None else self._held()
        return None if held is None or held.closed else held

    def _attempt(self) -> Hold | None:
        """Take the lock if it is free, and return the hold, or None. Every attempt opens the file
        again, so that no caller waits for a file that has lost its name."""
        forks = last_fork()
        hold = Hold.open_file(self.names[0])
        try:
            _open_after_fork.add(weakref.ref(hold, _open_after_fork.discard))
            self._open_directory(hold)
            if (
                not may_be_inherited(forks)
                and _lock(hold.fileno())
                and self._is_at_path(hold)
                and self._lock_directory(hold)
            ):
                self._held = weakref.ref(hold)
                hold.has_lock = True
                self._sign(hold.fileno())
                return hold
            hold.abandon()
        except BaseException:
            hold.abandon()
            raise
        return None

    def _open_directory(self, hold: Hold) -> None:
        """Open the directory too, where it can be locked."""
        if CAN_OWN_DIRECTORIES and fcntl is not None:
            with suppress_system_error():
                directory = open_owned(self.names[1], _DIRECTORY_FLAGS)
                hold.add_directory(directory)
                _numbers[directory.fileno()] = self.names[1]

    def _lock_directory(self, hold: Hold) -> bool:
        """Lock the directory too. Return False when another writer has: it holds a lock file that
        has lost its name. Where directories cannot be locked, the file alone is the lock."""
        if hold.directory is None:
            return True
        try:
            return _lock(hold.directory.fileno())
        except system_error():
            hold.directory.close()
            hold.directory = None
        return True

    def _is_at_path(self, hold: Hold) -> bool:
        if hold.closed:
            return False
        try:
            found = os.stat(self.names[0], follow_symlinks=False)
            held = os.fstat(hold.fileno())
            if not stat.S_ISREG(held.st_mode):
                problem = "the writer lock cannot be taken"
                raise StorageError(self.path, problem, _of_odd_lock(odd_lock(self.path), self.path))
            return found.st_ino == held.st_ino and found.st_dev == held.st_dev
        except system_error():  # it is gone, or other code closed our descriptor
            return False
        except ValueError:
            if not hold.closed:
                raise
            return False  # its thread has just released it

    def _sign(self, descriptor: int) -> None:
        if is_root():
            give_to_owner_of(self.names[1], descriptor)
        line = f"process {os.getpid()} on {_HOST} since {format_time(utc_now())}"
        try:
            if os.fstat(descriptor).st_nlink == 1:  # otherwise it is somebody else's file as well
                os.pwrite(descriptor, line.encode().ljust(120) + b"\n", 0)
        except system_error():
            return  # the signature is for people; the lock is held without it


def _without_looks(found: Sequence[Flock]) -> list[Flock]:
    """Return locks without the shared ones of this process, while it looks whether the lock is
    free."""
    looks = any(isinstance(reference(), Look) for reference in list(_open_after_fork))
    return [lock for lock in found if lock.is_exclusive or lock.pid != os.getpid() or not looks]


class Holder(Record):
    """Who holds the writer lock, as far as the system says."""

    processes: tuple[Process, ...]
    """Those that have the lock now, as their descriptors show; empty where none is shown."""
    locked: tuple[str, ...]
    """What they have locked, in words: the lock file, the directory."""
    is_shared: bool
    is_writer: bool
    """Whether one of them holds it as a writer of rtstore does: the file and the directory, each
    for itself alone."""
    is_this_process: bool
    """Whether this process is one of them."""
    stopped: int | None
    """One of them that is stopped by a signal (SIGSTOP, Ctrl-Z), so that it releases nothing by
    itself."""
    since: Timestamp | None
    """Since when a writer of rtstore holds it, as that signed."""
    signature: str | None
    """Which writer took it last, as that signed: perhaps another one, long ago."""

    @property
    def words(self) -> str:
        """Who it is, in words."""
        if not self.processes:
            signed = f"; last signed by {self.signature}" if self.signature else ""
            return f"a process that is not known here, perhaps of another user or container{signed}"
        who = processes.listed(self.processes)
        if self.is_writer:
            return who if self.since is None else f"{who} since {format_time(self.since)}"
        kind, names = "a shared lock" if self.is_shared else "a lock", " and ".join(self.locked)
        return f"{who}, by {kind} on {names}, and not as a writer of rtstore"


class Signature(NamedTuple):
    """What the text of a lock file says of who took the lock last. Any program may have written
    there: a part that is not there, or makes no sense, is None."""

    process_id: int | None
    since: datetime | None


def read_signature(text: str) -> Signature:
    """Read what `WriterLock.signature` returned."""
    process_id = re.match(r"process ([1-9]\d{0,9}) on ", text)
    since = re.search(r" since (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)$", text)
    moment = None
    with suppress(ValueError):
        moment = None if since is None else parse_time(since[1])
    return Signature(None if process_id is None else int(process_id[1]), moment)


def odd_lock(path: Path) -> str | None:
    """Return in words what has the lock file's name and is no file. Return None for a file, and if
    there is nothing."""
    try:
        mode = os.lstat(path).st_mode
    except system_error():
        return None
    kinds = {
        stat.S_IFREG: None,
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a link",
        stat.S_IFSOCK: "a socket",
        stat.S_IFIFO: "a pipe",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _way_out(error: OSError, path: Path) -> str:
    """Return the message of the operating system, and what to do about it."""
    odd = odd_lock(path)
    if odd is not None:
        return f"{error.strerror}: {_of_odd_lock(odd, path)}"
    if error.errno == errno.EROFS:
        return f"{error}. A person must mount the file system for writing first"
    if error.errno == errno.ENOSPC:
        return f"the disk is full: {error}. A person must make room first"
    return explained(error, path)


def _of_odd_lock(odd: str | None, path: Path) -> str:
    return f"{odd or 'no file'} has its name. Move it away ({move_aside_command(path)})"


_HOST = socket.gethostname()
