"""Read a database file without its WAL, and notice whether it was written meanwhile.

A checkpoint writes page after page into the file. A reader of the file alone may see some pages new
and some old, and even a file shorter than its first page says. That is not damage: the result, an
error included, is discarded, and the file is read again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from rtstore.foreign import suppress_system_error, system_error

ATTEMPTS = 20
"""The most attempts to read a file that keeps changing."""

TICK_NS = 20_000_000
"""Two changes of a file within this time may leave the same time of modification. It is twice the
tick of the coarsest kernel clocks (100 ticks a second)."""

_PIECE_BYTES = 1 << 16

State = tuple[int, int, int]
"""Inode, size in bytes, time of modification in ns."""


def idle_state(path: Path, *, at_once: bool = False) -> State | None:
    """Return the state of an idle database file, or None when it must be read through its WAL.

    Data read after this call is of this state if the state is equal after reading. With `at_once`
    this does not wait, and that is not certain for a file that changed in the last `TICK_NS`.
    """
    if wal_size(path) > 0:
        return None
    state = file_state(path)
    if state is not None and not at_once and 0 <= time.time_ns() - state[2] < TICK_NS:
        time.sleep(TICK_NS / 1e9)  # a change of the same tick is over then, and a later one is seen
    return state


def file_state(path: Path) -> State | None:
    """Return a value that changes with every change of a file, or None without a file."""
    try:
        found = path.stat()
    except system_error():
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def wal_size(path: Path) -> int:
    """Return the size of a database's WAL in bytes; 0 without a WAL."""
    with suppress_system_error():
        return path.with_name(path.name + "-wal").stat().st_size
    return 0


def is_open_here(path: Path) -> bool:
    """Return whether this process has the file open; True where that is unknown."""
    try:
        wanted = path.stat()
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except system_error():
        return True
    for number in numbers:
        with suppress_system_error():
            if os.path.samestat(os.fstat(number), wanted):
                return True
    return False


def why_no_database(path: Path) -> str:
    """Return in words why SQLite does not accept a file as a database."""
    zeros = ": it has nothing but zeros" if _is_zeroed(path) else ""
    return f"the file is not a SQLite database{zeros}"


def _is_zeroed(path: Path) -> bool:
    """Return whether a file has only zeros, as after a loss of power or a failed copy. It is not a
    database, so plain file calls may touch it, unless this process has it open already."""
    if is_open_here(path):
        return False
    try:
        with path.open("rb", buffering=0) as file:
            return not any(any(piece) for piece in iter(lambda: file.read(_PIECE_BYTES), b""))
    except system_error():
        return False
