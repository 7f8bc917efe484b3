"""Open files that are closed when nobody refers to them any more.

A descriptor is a number, and an exception (of a signal, say) that comes between the call that opens
a file and the one that would close it loses it. So the number goes from one call of C to the next,
into an object of C.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from typing import Protocol


class Owner(Protocol):
    """An object of C that owns a descriptor, and closes it when it is closed or lost."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Close it; harmless when it is closed."""


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
    """Open a file or a directory, as `os.open` does."""
    return next(map(_own or io.FileIO, map(os.open, (path,), (flags,), (mode,))))


class Descriptor(int):
    """The number of an open file, which is closed when this is lost; `close` closes it once."""

    owner: Owner


def open_descriptor(path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> Descriptor:
    """Open a file or a directory, as `os.open` does."""
    owner = open_owned(path, flags, mode)
    descriptor = Descriptor(owner.fileno())
    descriptor.owner = owner
    return descriptor


def close(descriptor: int) -> None:
    """Close a descriptor; harmless when one that was opened here is closed."""
    if isinstance(descriptor, Descriptor):
        descriptor.owner.close()
    else:
        os.close(descriptor)
