"""Notice that something may have been committed, without reading the database.

Every commit writes to the WAL, and so changes its stamp: inode, size, times. A checkpoint changes
the stamp too, as does a new WAL; then a read finds nothing new. Two changes within one tick of the
kernel's clock can leave the same stamp, so what was read that soon after a change is read once
more. A commit of this process is announced, and is noticed at once.

Where stamps come late or not at all (some network file systems), and where another database has the
name, it is noticed after `RECHECK_S`.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count

from rtstore.control.sqlite.ground import Names
from rtstore.control.sqlite.idle import TICK_NS
from rtstore.control.sqlite.sessions import Identity
from rtstore.foreign import system_error

RECHECK_S = 5.0
"""In seconds. After this time the database is read in any case."""

_Stamp = tuple[int, int, int, int]


class Watch:
    """Tells one waiter when to read the database again.

    `wake` is called, in the thread of the commit, after a commit of this process to that file. It
    must be quick and raise nothing. The watch ends with its last reference.
    """

    def __init__(self, names: Names, file: Identity, wake: Callable[[], object]) -> None:
        self.file = file
        self.is_announced = False
        """Whether this process has committed since the last time that it was due."""
        self._wake = wake
        self._names = names
        self._stamp: _Stamp | None = None
        self._changed_at = self._read_at = float("-inf")
        number = next(_numbers)
        _watches[number] = weakref.ref(self, partial(_watches.pop, number))

    def is_due(self) -> bool:
        """Return whether something may have been committed since the last time that this returned
        True. The caller reads after that. The first time it is True."""
        now = time.monotonic()
        stamp = _stamp(self._names)
        if stamp != self._stamp:
            self._stamp, self._changed_at = stamp, now
        due = (
            self.is_announced
            or self._read_at < self._changed_at + TICK_NS / 1e9
            or now >= self._read_at + RECHECK_S
        )
        if due:
            self.is_announced, self._read_at = False, now
        return due

    def tell(self) -> None:
        """Wake the waiter, unless that was done since the last time that it was due."""
        if not self.is_announced:
            self.is_announced = True
            self._wake()


def announce(file: Identity | None) -> None:
    """Tell the waiters of this process that it has committed to a database."""
    for reference in list(_watches.values()):
        watch = reference()
        if watch is not None and watch.file == file:
            watch.tell()


def _stamp(names: Names) -> _Stamp | None:
    for name in (names.wal, names.database):
        try:
            found = os.stat(name)
        except system_error():
            continue
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return None


_numbers = count()
_watches: dict[int, weakref.ref[Watch]] = {}

if hasattr(os, "register_at_fork"):  # the waiters stay with the parent
    os.register_at_fork(after_in_child=_watches.clear)
