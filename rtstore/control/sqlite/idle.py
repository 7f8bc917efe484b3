"""A database file read without its WAL: what tells whether somebody wrote it meanwhile.

A checkpoint writes page after page into the file, so whoever reads the file alone may see some of
them new and some old, and even a file that is shorter than its first page says. That is no damage;
what was read then is thrown away, an error included, and read again.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

ATTEMPTS = 20
"""How often a file is read again that keeps changing."""

TICK_NS = 20_000_000
"""Two changes of a file that are closer may leave the same time: that is how coarse the clock of
some kernels is (100 ticks a second), doubled."""

_PIECE_BYTES = 1 << 16

State = tuple[int, int, int]
"""Inode, size, time of modification."""


def idle_state(path: Path, *, at_once: bool = False) -> State | None:
    """What identifies an idle database file, or None when it must be read through its WAL.

    What is read after this call is of this state, if the state is the same after the reading, too.
    With `at_once` that is not sure of a file that was changed a moment ago.
    """
    if wal_size(path) > 0:
        return None
    state = file_state(path)
    if state is not None and not at_once and 0 <= time.time_ns() - state[2] < TICK_NS:
        time.sleep(TICK_NS / 1e9)  # a change of the same tick is over then, and a later one is seen
    return state


def file_state(path: Path) -> State | None:
    """What changes with every change of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def wal_size(path: Path) -> int:
    """How many bytes the WAL of a database has; 0 where there is none."""
    with suppress(OSError):
        return path.with_name(path.name + "-wal").stat().st_size
    return 0


def is_open_here(path: Path) -> bool:
    """Whether a descriptor of this process is of that file; true where that cannot be told."""
    try:
        wanted = path.stat()
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return True
    for number in numbers:
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), wanted):
                return True
    return False


def why_no_database(path: Path) -> str:
    """What there is to say of a file that SQLite takes for no database."""
    zeros = ": it has nothing but zeros" if _is_zeroed(path) else ""
    return f"the file is not a SQLite database{zeros}"


def _is_zeroed(path: Path) -> bool:
    """Whether a file has nothing but zeros, as after a loss of power or a failed copy. It is no
    database, so plain file calls may touch it, unless this process had it open before."""
    if is_open_here(path):
        return False
    try:
        with path.open("rb", buffering=0) as file:
            return not any(any(piece) for piece in iter(lambda: file.read(_PIECE_BYTES), b""))
    except OSError:
        return False
