"""The writer lock: one writer at a time per runtime directory, across threads and processes.

It is an operating-system lock (flock, through the `filelock` package) on `runtime-store.lock`: it
dies with its holder, so it is never stale and nothing judges it by its age. The file stays; what is
written in it says who took the lock last, for the message of somebody who waits, and decides
nothing.

The lock also serialises checkpoints. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when two
connections write or checkpoint at the same moment (sqlite.org/wal.html, "the WAL-reset bug").
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from rtstore.errors import (
    InvalidRequestError,
    LockTimeoutError,
    StorageError,
    StoreClosedError,
    UnusableEngineError,
)
from rtstore.files.owners import explained
from rtstore.files.system import give_to_owner_of, is_root
from rtstore.times import format_time, utc_now

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "runtime-store.lock"
DEFAULT_TIMEOUT_S = 30.0
POLL_INTERVAL_S_MIN = 0.0005
POLL_INTERVAL_S_MAX = 0.005

_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_LOOK_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""Not blocking: whatever has the name, a pipe included, looking at it must not wait."""
_descriptors: set[int] = set()
"""Open descriptors of lock files of this process."""


def _close_after_fork() -> None:
    # A forked child shares the parent's lock through the descriptor it inherited: the lock would
    # outlive the parent. Closing (not unlocking) leaves the parent's lock alone.
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


class WriterLock:
    """The writer lock of one runtime directory. Safe to share between threads; not re-entrant."""

    def __init__(
        self, directory: Path, timeout_s: float = DEFAULT_TIMEOUT_S, *, read_only: bool = False
    ) -> None:
        self._read_only = read_only
        self.path = directory / LOCK_NAME
        self.timeout_s = timeout_s
        self._threads = threading.Lock()
        self._holder: int | None = None
        self._pid = os.getpid()

    @contextmanager
    def hold(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the lock for the block. Waits up to `timeout_s` seconds (default: the lock's own).

        Raises `LockTimeoutError` with who holds it and since when, `StorageError` when the lock
        file cannot be made, and `InvalidRequestError` when this thread holds it already: waiting
        for oneself would never end. Of a store that was opened read-only it raises
        `StoreClosedError` before anything is made.
        """
        if self._read_only:
            raise StoreClosedError(self.path.parent, "was opened read-only")
        self._renew_after_fork()
        self.refuse_reentry()
        limit = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        if not self._threads.acquire(timeout=limit):
            raise LockTimeoutError(self.path, limit, self.holder())
        try:
            descriptor = self._acquire(deadline, limit)
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = None
                self._release(descriptor)
        finally:
            self._threads.release()

    def refuse_reentry(self) -> None:
        """Raise `InvalidRequestError` when this thread holds the lock."""
        if self._holder == threading.get_ident() and self._pid == os.getpid():
            raise InvalidRequestError(
                "call", "a function that runs inside a write must not write to the same store"
            )

    @property
    def is_held_here(self) -> bool:
        """Whether a thread of this process holds it, through this object."""
        return self._holder is not None and self._pid == os.getpid()

    def is_held(self) -> bool:
        """Whether anybody, this process included, holds the lock at this moment.

        A shared lock is tried for an instant on a descriptor of its own; two that look at once do
        not see each other, and a writer that comes just then tries again milliseconds later.
        Creates nothing, and works on a read-only file system.
        """
        with self.kept_free() as is_free:
            return not is_free

    @contextmanager
    def kept_free(self) -> Iterator[bool]:
        """Whether nobody holds the lock; if so, nobody takes it during the block, which should be
        over in an instant. Otherwise as `is_held`."""
        if fcntl is None:  # pragma: no cover - Windows
            yield self._holder is None
            return
        try:
            descriptor = os.open(self.path, _LOOK_FLAGS)
        except OSError:
            yield True
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                is_free = True
            except BlockingIOError:
                is_free = False
            yield is_free
        finally:
            os.close(descriptor)

    def holder(self) -> str | None:
        """Who took the lock last and when, as written by that process, or None."""
        try:
            descriptor = os.open(self.path, _LOOK_FLAGS)
            try:
                text = os.read(descriptor, 400).decode("utf-8", errors="replace")
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return text.strip()[:200] or None

    def _acquire(self, deadline: float, limit_s: float) -> int:
        """Lock the file at the path; gives its descriptor."""
        pause = POLL_INTERVAL_S_MIN
        try:
            while True:
                descriptor = self._open()
                try:
                    while not lock_descriptor(descriptor, blocking=False):
                        if time.monotonic() >= deadline:
                            raise LockTimeoutError(self.path, limit_s, self.holder())
                        time.sleep(pause)
                        pause = min(2 * pause, POLL_INTERVAL_S_MAX)
                    if self._is_at_path(descriptor):
                        self._sign(descriptor)
                        return descriptor
                except BaseException:
                    self._close(descriptor)
                    raise
                # Somebody removed the file: a lock on it excludes nobody who comes later.
                self._close(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise UnusableEngineError(
                    self.path, f"the file system has no locks ({error}). Use a local directory."
                ) from error
            raise StorageError(
                self.path, "the writer lock cannot be taken", explained(error, self.path)
            ) from error

    def _release(self, descriptor: int) -> None:
        try:
            unlock_descriptor(descriptor)
        finally:
            self._close(descriptor)

    def _open(self) -> int:
        descriptor = os.open(self.path, _OPEN_FLAGS, 0o600)
        _descriptors.add(descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        _descriptors.discard(descriptor)
        os.close(descriptor)

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

    def _sign(self, descriptor: int) -> None:
        if is_root():
            give_to_owner_of(self.path.parent, descriptor)
        line = f"process {os.getpid()} on {_HOST} since {format_time(utc_now())}"
        try:
            os.pwrite(descriptor, line.encode().ljust(120) + b"\n", 0)
        except OSError:
            return  # the signature is for people; the lock is held without it

    def _renew_after_fork(self) -> None:
        """A lock that a thread of the parent held at the fork is nobody's in the child."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._threads = threading.Lock()
            self._holder = None


_HOST = socket.gethostname()
