"""Whether a store file is still the one that was published, by what `lstat` says of it.

An edit can keep size and time of modification, but nobody can set the inode and the time of the
last change. So both are recorded of a file that was published, if no later change can have the same
ones. The clock of a file system may tick so seldom (1 to 10 ms) that an edit right after us gets
our change time: then nothing is recorded, and the hash tells.

A file that was hashed need not be hashed again while nobody changes it. This process remembers what
it hashed, if the clock had ticked since the last change: the next one shows then.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
from rtstore.model.records import CommittedFile

_TICK_NS = 20_000_000
"""Longer than the tick of any kernel's clock."""
_COARSE_TICK_NS = 2_000_000_000
"""Longer than that of a file system that knows whole seconds only."""
_FINE_NS = 900_000
"""Shorter than any tick: two change times that are nearer to each other come from a clock that
stamps every change by itself, once the one before was looked at (Linux 6.13 and later)."""
_REMEMBERED_MAX = 4096

_Remembered = tuple[int, int, int, str]
_hashed: dict[tuple[int, int], _Remembered] = {}
"""By device and inode: size, time of modification and of change, and the hash of the bytes."""


class FileStamp(NamedTuple):
    """What nobody can set of a file: its inode, and when it was last changed."""

    inode: int
    ctime_ns: int


def stamp_of(written: os.stat_result, published: os.stat_result) -> FileStamp | None:
    """The stamp of a file that has just taken its name; None where a later change might have the
    same one. `written` is from before it took its name, which is a change as well. The file was
    looked at even before its last bytes were written, so its change time is not the last tick's."""
    if _without_change(written) != _without_change(published):
        return None  # somebody else's already
    if not 0 < published.st_ctime_ns - written.st_ctime_ns < _FINE_NS:
        return None
    return FileStamp(_signed(published.st_ino), published.st_ctime_ns)


def is_as_committed(there: os.stat_result, committed: CommittedFile | None) -> bool:
    """Whether a file is what is committed, as far as that shows without reading it. If not, its
    hash tells."""
    if committed is None:
        return False
    if committed.file_ctime_ns == there.st_ctime_ns and committed.file_inode == _signed(
        there.st_ino
    ):
        return (there.st_size, there.st_mtime_ns) == (committed.file_size, committed.mtime_ns)
    return _hashed.get((there.st_dev, there.st_ino)) == (
        there.st_size,
        there.st_mtime_ns,
        there.st_ctime_ns,
        committed.content_hash,
    )


def read_hashed(path: Path, fs: FileSystem) -> tuple[bytes, str, os.stat_result]:
    """The bytes of a file, their hash, and what `fstat` said before; remembers them. Raises as
    `FileSystem.read` does."""
    now = time.time_ns()
    content, there = fs.read(path)
    found_hash = content_hash(content)
    tick = _TICK_NS if there.st_ctime_ns % 1_000_000_000 else _COARSE_TICK_NS
    if there.st_ctime_ns + tick < now and there.st_size == len(content):
        if len(_hashed) >= _REMEMBERED_MAX:
            _hashed.clear()
        _hashed[there.st_dev, there.st_ino] = (
            there.st_size,
            there.st_mtime_ns,
            there.st_ctime_ns,
            found_hash,
        )
    return content, found_hash, there


def _without_change(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _signed(inode: int) -> int:
    """An inode as SQLite can hold it: some file systems use all 64 bits."""
    return inode - 2**64 if inode >= 2**63 else inode
