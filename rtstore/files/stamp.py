"""Recognise by `lstat` whether a store file is still the one that was published.

An edit can preserve the size and the time of modification, but no program can set the inode and the
time of the last change. So both are recorded for a published file, if no later change can have the
same ones. The clock of a file system may tick so rarely (every 1 to 10 ms) that an edit right after
the publication gets the same change time. Then nothing is recorded, and the file is hashed.

A hashed file need not be hashed again until it changes. This process remembers a hash only if the
clock had ticked since the last change, so that the next change shows.
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
"""Longer than a tick of any kernel's clock."""
_COARSE_TICK_NS = 2_000_000_000
"""Longer than a tick on a file system that stores whole seconds only."""
_FINE_NS = 900_000
"""Shorter than any tick. Two change times nearer to each other come from a clock that stamps every
change individually once the change before was looked at (Linux 6.13 and later)."""
_REMEMBERED_MAX = 4096

_Remembered = tuple[int, int, int, str]
_hashed: dict[tuple[int, int], _Remembered] = {}
"""By device and inode: size, times of modification and of change, and the hash of the bytes."""


class FileStamp(NamedTuple):
    """The parts of a file's status that no program can set: its inode, and its change time."""

    inode: int
    ctime_ns: int


def stamp_of(written: os.stat_result, published: os.stat_result) -> FileStamp | None:
    """Return the stamp of a file that has just taken its name, or None when a later change might
    have the same stamp.

    `written` is the status before the file took its name, which is a change as well. The file was
    looked at before its last bytes were written, so its change time is not that of the last tick.
    """
    if _without_change(written) != _without_change(published):
        return None  # somebody else has replaced it already
    if not 0 < published.st_ctime_ns - written.st_ctime_ns < _FINE_NS:
        return None
    return FileStamp(_signed(published.st_ino), published.st_ctime_ns)


def has_committed_time(there: os.stat_result, committed: CommittedFile) -> bool:
    """Return whether a file has the committed size and time of modification. An edit can have them
    too: this is a hint."""
    return (there.st_size, there.st_mtime_ns) == (committed.file_size, committed.mtime_ns)


def is_as_committed(there: os.stat_result, committed: CommittedFile | None) -> bool:
    """Return whether a file is known to be what is committed, without reading it. If this returns
    False, compare its hash."""
    if committed is None:
        return False
    if committed.file_ctime_ns == there.st_ctime_ns and committed.file_inode == _signed(
        there.st_ino
    ):
        return has_committed_time(there, committed)
    return _hashed.get((there.st_dev, there.st_ino)) == (
        there.st_size,
        there.st_mtime_ns,
        there.st_ctime_ns,
        committed.content_hash,
    )


def read_hashed(path: Path, fs: FileSystem) -> tuple[bytes, str, os.stat_result]:
    """Return the bytes of a file, their hash, and its `fstat` from before. Remember the hash.

    Raises as `FileSystem.read` does."""
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
    """Return an inode as a signed number, as SQLite has them: some file systems use all 64 bits."""
    return inode - 2**64 if inode >= 2**63 else inode
