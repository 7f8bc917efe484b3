"""Open files that close themselves when the last reference to them is gone.

A descriptor is a number. An exception (of a signal, for example) between the call that opens a file
and the call that closes it would lose the number. So C code passes the number directly into an
object of C.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from typing import Protocol


class Owner(Protocol):
    """A C object that owns a descriptor, and closes it when it is closed or deallocated."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def close(self) -> None:
        """Close it; closing twice is harmless."""


def _find_owner() -> Callable[[int], Owner] | None:
    # `io.FileIO` refuses directories. Both of these take any descriptor, by a documented call.
    for name in ("epoll", "kqueue"):
        kind = getattr(select, name, None)
        if kind is not None:
            owner: Callable[[int], Owner] = kind.fromfd
            return owner
    return None  # pragma: no cover - Windows


_own = _find_owner()
CAN_OWN_DIRECTORIES = _own is not None


def open_owned(path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> Owner:
    """Open a file or a directory, as `os.open` does. Return the owner of its descriptor."""
    return next(map(_own or io.FileIO, map(os.open, (path,), (flags,), (mode,))))


class Descriptor(int):
    """The number of an open file. The file is closed when this object is gone, or by `close`."""

    owner: Owner


def open_descriptor(path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> Descriptor:
    """Open a file or a directory, as `os.open` does. Return its descriptor."""
    owner = open_owned(path, flags, mode)
    descriptor = Descriptor(owner.fileno())
    descriptor.owner = owner
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor. Closing one that was opened here twice is harmless."""
    if isinstance(descriptor, Descriptor):
        descriptor.owner.close()
    else:
        os.close(descriptor)
