"""The writer lock: one writer at a time per runtime directory, across threads and processes.

It is an operating-system lock (flock, through the `filelock` package) on `runtime-store.lock`: it
dies with its holder, so it is never stale and nothing judges it by its age. The file stays; what is
written in it says who took the lock last, for the message of somebody who waits, and decides
nothing.

The lock also serialises checkpoints. SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when two
connections write or checkpoint at the same moment (sqlite.org/wal.html, "the WAL-reset bug").
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rtstore.errors import InvalidRequestError, LockTimeoutError, StorageError
from rtstore.times import format_time

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "runtime-store.lock"
DEFAULT_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.002


class WriterLock:
    """The writer lock of one runtime directory. Safe to share between threads; not re-entrant."""

    def __init__(self, directory: Path, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.path = directory / LOCK_NAME
        self.timeout_s = timeout_s
        self._threads = threading.Lock()
        self._holder: int | None = None
        self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False)

    @contextmanager
    def hold(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the lock for the block. Waits up to `timeout_s` seconds (default: the lock's own).

        Raises `LockTimeoutError` with who holds it and since when, `StorageError` when the lock
        file cannot be made, and `InvalidRequestError` when this thread holds it already: waiting
        for oneself would never end.
        """
        if self._holder == threading.get_ident():
            raise InvalidRequestError(
                "call", "a function that runs inside a write must not write to the same store"
            )
        limit = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit
        if not self._threads.acquire(timeout=limit):
            raise LockTimeoutError(self.path, limit, self.holder())
        try:
            self._acquire(max(0.0, deadline - time.monotonic()), limit)
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = None
                self._lock.release()
        finally:
            self._threads.release()

    def is_held(self) -> bool:
        """Whether anybody, this process included, holds the lock at this moment.

        A shared lock is tried for an instant on a descriptor of its own; two that look at once do
        not see each other, and a writer that comes just then tries again milliseconds later.
        Creates nothing, and works on a read-only file system.
        """
        if fcntl is None:  # pragma: no cover - Windows
            return self._holder is not None
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def holder(self) -> str | None:
        """Who took the lock last and when, as written by that process, or None."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return text.strip()[:200] or None

    def _acquire(self, remaining_s: float, limit_s: float) -> None:
        try:
            self._lock.acquire(timeout=remaining_s, poll_interval=POLL_INTERVAL_S)
        except Timeout:
            raise LockTimeoutError(self.path, limit_s, self.holder()) from None
        except OSError as error:
            raise StorageError(self.path, "the writer lock cannot be taken", str(error)) from error
        with suppress(OSError):
            self._sign()

    def _sign(self) -> None:
        since = format_time(datetime.now(UTC))
        line = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        descriptor = os.open(self.path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.pwrite(descriptor, f"{line:<120}\n".encode(), 0)
        finally:
            os.close(descriptor)
