"""Read a database file without its WAL, and notice whether it was written meanwhile.

A checkpoint writes page after page into the file. A reader of the file alone may see some pages new
and some old, and even a file shorter than its first page says. That is not damage: the result, an
error included, is discarded, and the file is read again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from rtstore.foreign import suppress_system_error, system_error

ATTEMPTS = 20
"""The most attempts to read a file that keeps changing."""

TICK_NS = 20_000_000
"""Two changes of a file within this time may leave the same time of modification. It is twice the
tick of the coarsest kernel clocks (100 ticks a second)."""

_PIECE_BYTES = 1 << 16

State = tuple[int, int, int]
"""Inode, size in bytes, time of modification in ns."""

_Answer = TypeVar("_Answer")


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


def knows_what_is_open() -> bool:
    """Return whether this process can tell which files it has open, as `pieces` needs to."""
    return os.access("/dev/fd", os.R_OK)


def pieces(path: Path, piece_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of a database file, a piece at a time, as plain files are read.

    Closing any descriptor of a file drops the locks that SQLite holds on it in this process
    (sqlite.org/howtocorrupt.html, 2.2). So while this process has the file open, a descriptor that
    is there already reads it, and stays open. Between two pieces no descriptor is held. Raises
    OSError, also when another file takes its name meanwhile.
    """
    state, offset = path.stat(), 0
    while found := _piece(path, state, offset, piece_bytes):
        yield found
        offset += len(found)


def piece(path: Path, offset: int, size: int) -> bytes:
    """Return one piece of a database file, read as `pieces` reads it. Raises OSError."""
    return _piece(path, path.stat(), offset, size)


def _piece(path: Path, state: os.stat_result, offset: int, size: int) -> bytes:
    found = by_open_descriptor(state, partial(_read_at, offset=offset, size=size))
    if found is not None:
        return found
    with path.open("rb", buffering=0) as file:
        if not os.path.samestat(os.fstat(file.fileno()), state):
            raise OSError(errno.ESTALE, "another file took its name meanwhile", str(path))
        return os.pread(file.fileno(), size, offset)


def _read_at(descriptor: int, *, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, offset)


def by_open_descriptor(state: os.stat_result, ask: Callable[[int], _Answer]) -> _Answer | None:
    """Return what a call returns for a descriptor of a file that this process has open already.
    None without one. Raises OSError.

    Any error but that of a closed number is of the file, and ends it: who opened the file instead
    would drop the locks with the close.
    """
    for number in map(int, os.listdir("/dev/fd")):
        try:
            if os.path.samestat(os.fstat(number), state):
                answer = ask(number)
                # Another thread may have closed it, and the number is that of another file now.
                if os.path.samestat(os.fstat(number), state):
                    return answer
        except system_error() as error:
            if error.errno != errno.EBADF:  # closed meanwhile, or not for reading
                raise
    return None


def why_no_database(path: Path) -> str:
    """Return in words why SQLite does not accept a file as a database."""
    zeros = ": it has nothing but zeros" if _is_zeroed(path) else ""
    return f"the file is not a SQLite database{zeros}"


def _is_zeroed(path: Path) -> bool:
    """Return whether a file has only zeros, as after a loss of power or a failed copy."""
    if not knows_what_is_open():
        return False
    with suppress_system_error():
        return not any(any(piece) for piece in pieces(path, _PIECE_BYTES))
    return False
