"""A file replaced so that every reader, and every crash, sees the old version or the new one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from rtstore.files.stamp import FileStamp, stamp_of
from rtstore.files.system import FileSystem, is_root

TEMPORARY_SUFFIX = ".rtstore-tmp"
NEW_FILE_MODE = 0o600
"""For the owner alone: the state of a run may hold secrets. An existing file keeps its mode."""


@lru_cache(maxsize=4096)
def temporary_path(target: Path) -> Path:
    """Where a new version is written before it takes the name. One writer at a time, so one name:
    what is found there under the writer lock is a dead writer's."""
    return target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")


class OldVersionLeftError(OSError):
    """The new version is in place, and the old one, which was to be put back, could not be: it is
    under the temporary name, and must be looked at before anything else is done."""


def is_temporary(name: str) -> bool:
    """Whether a file name is one of `temporary_path`."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def replace(
    target: Path,
    content: bytes,
    *,
    mtime_ns: int | None,
    flush: bool,
    fs: FileSystem,
    new_mode: int | None = None,
    on_replaced: Callable[[Path], None] | None = None,
    on_stale_temp: Callable[[Path], None] | None = None,
) -> FileStamp | None:
    """Write a temporary file beside the target, all of it, and give it the target's name.

    The permissions of the file that is replaced are kept, by root also its owner; a new one gets
    `new_mode`, or is for its owner alone. Gives the stamp of the new version, by which every later
    change shows, or None. With `flush` the file and the name are durable when it returns; without
    it the caller can write them again. A directory made on the way has its parent flushed. Raises
    OSError; the target is then as before. No temporary file is left unless removing it failed. Only
    where the last flush, that of the name, is what fails, the new version is there already, and may
    not last.

    Where two files can trade names, `on_replaced` is given the path of the version that was really
    replaced, before that is removed. What it raises has the old version put back, and comes out;
    where that fails too, `OldVersionLeftError` does. `on_stale_temp` is given the path of what a
    dead writer left under the temporary name, before that is removed: its new version, or the old.
    """
    temporary = temporary_path(target)
    there = _regular(target, fs)
    mode = new_mode if there is None else stat.S_IMODE(there.st_mode)
    descriptor = _create(temporary, NEW_FILE_MODE if mode is None else mode, on_stale_temp, fs)
    try:
        written = _fill(descriptor, content, mode, mtime_ns, there, flush=flush, fs=fs)
        looking = on_replaced is not None
        traded = _take_name(
            temporary, target, is_new=there is None, looking=looking, flush=flush, fs=fs
        )
    except BaseException:
        with suppress(OSError):
            fs.unlink(temporary)
        raise
    stamp = None
    with suppress(OSError):
        stamp = stamp_of(written, fs.lstat(target))
    if traded:
        _let_go(temporary, target, on_replaced, fs)
    if flush:
        fs.fsync_directory(target.parent)
    return stamp


def create(target: Path, pieces: Iterable[bytes], fs: FileSystem) -> None:
    """Make a file that must not exist, piece by piece, for its owner alone; flushed, but for its
    name. What was begun stays when it raises."""
    descriptor = fs.create(target, NEW_FILE_MODE)
    try:
        for piece in pieces:
            _write_all(descriptor, piece, fs)
        fs.fsync(descriptor)
    finally:
        fs.close(descriptor)


def _take_name(
    temporary: Path, target: Path, *, is_new: bool, looking: bool, flush: bool, fs: FileSystem
) -> bool:
    """Give the new version its name; gives whether it traded names with the old one. When that is
    to be looked at, nobody's file is renamed over where the system can help it."""
    if is_new and looking:
        if fs.rename_new(temporary, target):
            return False
        is_new = mode_of(target, fs) is None  # or somebody has made it meanwhile
    # Renamed over a file, ext4 and btrfs write the new version out there and then, which costs more
    # than all the rest. What is not to be flushed is spared that, where names can be traded. Should
    # the old version stay, it is a temporary file like any other.
    if not is_new and (looking or not flush) and fs.exchange(temporary, target):
        return True
    try:
        fs.rename(temporary, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        problem = (
            "it cannot be replaced: the file is a mount point of its own. Mount the directory that "
            "it is in, not the one file"
        )
        raise OSError(errno.EBUSY, problem, str(target)) from error
    return False


def make_directories(path: Path, fs: FileSystem) -> None:
    """Make a directory and those above it that are missing; each new name is flushed."""
    missing = []
    while not fs.is_directory(path):
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        try:
            fs.mkdir(directory)
        except FileExistsError:
            if not fs.is_directory(directory):
                problem = "it is a symbolic link that leads nowhere, or a file"
                raise NotADirectoryError(errno.ENOTDIR, problem, str(directory)) from None
        fs.fsync_directory(directory.parent)


def remove(target: Path, *, fs: FileSystem, on_replaced: Callable[[Path], None]) -> None:
    """Remove a file, which need not be there; durable when it returns. As by `replace`,
    `on_replaced` is given the path of what was really removed. Raises OSError, and what it raises.
    """
    if mode_of(target, fs) is None:
        with suppress(FileNotFoundError):
            fs.unlink(target)  # what is not a file: a link
    else:
        temporary = temporary_path(target)
        fs.rename(target, temporary)
        _let_go(temporary, target, on_replaced, fs)
    fs.fsync_directory(target.parent)


def remove_tree(path: Path, fs: FileSystem) -> None:
    """Remove whatever has a name, a directory with all that is in it; follows no link. Raises
    OSError; what was removed is removed."""
    if not stat.S_ISDIR(fs.lstat(path).st_mode):
        fs.unlink(path)
        return
    for name in fs.list_directory(path):
        remove_tree(path / name, fs)
    fs.rmdir(path)


def _create(
    temporary: Path, mode: int, on_stale_temp: Callable[[Path], None] | None, fs: FileSystem
) -> int:
    """Create the temporary file; what stands in the way, or is missing on it, is rare."""
    try:
        return fs.create(temporary, mode)
    except FileExistsError:  # a dead writer's
        if stat.S_ISDIR(fs.lstat(temporary).st_mode):
            problem = "a directory has the name of a temporary file: move it away"
            raise IsADirectoryError(errno.EISDIR, problem, str(temporary)) from None
        if on_stale_temp is not None:
            on_stale_temp(temporary)
        fs.unlink(temporary)
    except FileNotFoundError:
        make_directories(temporary.parent, fs)
    return fs.create(temporary, mode)


def mode_of(target: Path, fs: FileSystem) -> int | None:
    """The permission bits of a regular file, None where there is none. Raises OSError."""
    there = _regular(target, fs)
    return None if there is None else stat.S_IMODE(there.st_mode)


def _regular(target: Path, fs: FileSystem) -> os.stat_result | None:
    try:
        there = fs.lstat(target)
    except FileNotFoundError:
        return None
    return there if stat.S_ISREG(there.st_mode) else None  # a link says nothing: it is 0777


def _let_go(
    old: Path, target: Path, on_replaced: Callable[[Path], None] | None, fs: FileSystem
) -> None:
    """Remove the version that was replaced, unless who is to look at it refuses."""
    try:
        if on_replaced is not None:
            on_replaced(old)
    except BaseException as error:
        try:
            traded = fs.exchange(old, target)
            if not traded:  # the new version is gone by now
                fs.rename(old, target)
        except OSError as problem:
            raise OldVersionLeftError(problem.errno, f"{error}; then {problem}") from error
        if traded:
            with suppress(OSError):
                fs.unlink(old)
        raise
    with suppress(OSError):
        fs.unlink(old)


def _fill(
    descriptor: int,
    content: bytes,
    mode: int | None,
    mtime_ns: int | None,
    replaced: os.stat_result | None,
    *,
    flush: bool,
    fs: FileSystem,
) -> os.stat_result:
    try:
        made = fs.stat(descriptor)  # looked at, its next change gets a time of its own
        # What was root's goes to the owner of the directory, from whom root has once taken it.
        if replaced is not None and is_root() and replaced.st_uid:
            owner = replaced.st_uid, replaced.st_gid
            if owner != (made.st_uid, made.st_gid):
                with suppress(OSError):
                    fs.set_owner(descriptor, *owner)
        if mode is not None:
            fs.set_mode(descriptor, mode)
        _write_all(descriptor, content, fs)
        if mtime_ns is not None:
            fs.set_mtime(descriptor, mtime_ns)
        if flush:
            fs.fsync(descriptor)
        return fs.stat(descriptor)
    finally:
        fs.close(descriptor)


def _write_all(descriptor: int, content: bytes, fs: FileSystem) -> None:
    remaining = memoryview(content)
    while remaining:  # an unbuffered write may be short
        written = fs.write(descriptor, remaining)
        remaining = remaining[written:]
