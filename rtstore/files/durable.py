"""Replace files so that every reader, and every crash, sees the old version or the new one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from rtstore.files.paths import PATHS_KEPT
from rtstore.files.stamp import FileStamp, stamp_of
from rtstore.files.system import FileSystem, is_root
from rtstore.foreign import suppress_system_error, system_error

TEMPORARY_SUFFIX = ".rtstore-tmp"
NEW_FILE_MODE = 0o600
"""For the owner only: the state of a run may hold secrets. An existing file's mode stays."""


@lru_cache(maxsize=PATHS_KEPT)
def temporary_path(target: Path) -> Path:
    """Return the path where a new version is written before it takes the target's name.

    There is one writer at a time, so there is one name. A file found there under the writer lock
    is of a dead writer."""
    return target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")


class OldVersionLeftError(OSError):
    """The new version is in place, and putting the old version back failed. The old version has the
    temporary name, and must be examined before any other work."""


def is_temporary(name: str) -> bool:
    """Return whether a file name is one that `temporary_path` returns."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def replace(
    target: Path,
    content: bytes,
    *,
    mtime_ns: int | None,
    flush: bool,
    within: Path,
    fs: FileSystem,
    new_mode: int | None = None,
    on_replaced: Callable[[Path], None] | None = None,
    on_stale_temp: Callable[[Path], None] | None = None,
) -> FileStamp | None:
    """Write a temporary file next to the target, whole, then give it the target's name.

    The permissions of the replaced file stay; for root, its owner too. A new file gets `new_mode`;
    with None, only its owner may read it. Return the stamp of the new version, which shows every
    later change, or None. With `flush`, file and name are durable on return; without it, the caller
    must be able to write them again. Directories between `within` and the target are created when
    they are missing, and their parents flushed. `within` itself must be there: a directory that
    somebody removed or moved away is not made anew.

    Raises OSError; the target is then as before. Only when the last flush, that of the name, fails,
    the new version is in place already and may not last. No temporary file remains unless removing
    it failed.

    Where the system can exchange two files, `on_replaced` is called with the path of the version
    that was really replaced, before that is removed. If it raises, the old version is put back and
    its error is raised; if that fails too, `OldVersionLeftError` is raised. `on_stale_temp` is
    called with the path of a file that a dead writer left under the temporary name, before that is
    removed: it is the dead writer's new version, or the version it replaced.
    """
    temporary = temporary_path(target)
    there = _regular(target, fs)
    mode = new_mode if there is None else stat.S_IMODE(there.st_mode)
    descriptor = _create(
        temporary, NEW_FILE_MODE if mode is None else mode, within, on_stale_temp, fs
    )
    try:
        written = _fill(descriptor, content, mode, mtime_ns, there, flush=flush, fs=fs)
        looking = on_replaced is not None
        traded = _take_name(
            temporary, target, is_new=there is None, looking=looking, flush=flush, fs=fs
        )
    except BaseException:
        with suppress_system_error():
            fs.unlink(temporary)
        raise
    try:
        stamp = stamp_of(written, fs.lstat(target))
    except system_error():
        stamp = None
    if traded:
        _let_go(temporary, target, on_replaced, fs)
    if flush:
        fs.fsync_directory(target.parent)
    return stamp


def create(target: Path, pieces: Iterable[bytes], fs: FileSystem) -> None:
    """Create a file that must not exist, piece by piece; only its owner may read it. Its content is
    durable on return, its name is not. If this raises, the incomplete file stays."""
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
    """Give the new version its name. Return whether it was exchanged with the old version. With
    `looking`, the caller examines the old version, so it is not renamed over if the system can
    avoid that."""
    if is_new and looking:
        if fs.rename_new(temporary, target):
            return False
        is_new = mode_of(target, fs) is None  # somebody may have created it meanwhile
    # On a rename over a file, ext4 and btrfs write the new version out at once, which costs more
    # than all the rest. Where files can be exchanged, a write without a flush avoids that cost. If
    # the old version stays, it is a temporary file like any other.
    if not is_new and (looking or not flush) and fs.exchange(temporary, target):
        return True
    try:
        fs.rename(temporary, target)
    except system_error() as error:
        if error.errno != errno.EBUSY:
            raise
        problem = (
            "it cannot be replaced: the file is a mount point of its own. Mount the directory that "
            "it is in, not the one file"
        )
        raise OSError(errno.EBUSY, problem, str(target)) from error
    return False


def make_directories(path: Path, fs: FileSystem, *, within: Path | None = None) -> None:
    """Create a directory and its missing parents. Each new name is durable on return. `within` and
    what is above it is not created: if it is missing, this raises FileNotFoundError."""
    missing = []
    while path != within and not fs.is_directory(path):
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


def remove(
    target: Path,
    *,
    flush: bool = True,
    fs: FileSystem,
    on_replaced: Callable[[Path], None],
    on_stale_temp: Callable[[Path], None] | None = None,
) -> None:
    """Remove a file, if there is one. With `flush`, durable on return; without it, the caller must
    be able to remove it again.

    As in `replace`, `on_replaced` is called with the path of what was really removed, and
    `on_stale_temp` with that of a file that has the temporary name. Raises OSError, and the errors
    of `on_replaced`; the target is then as before, but for `OldVersionLeftError`: somebody has
    written a new file meanwhile, and the old one has the temporary name.
    """
    if mode_of(target, fs) is None:
        with suppress(FileNotFoundError):
            fs.unlink(target)  # not a regular file: a link
    else:
        temporary = temporary_path(target)
        with suppress(FileNotFoundError):
            fs.lstat(temporary)
            _remove_stale(temporary, on_stale_temp, fs)
        fs.rename(target, temporary)
        _let_go(temporary, target, on_replaced, fs, removed=True)
    if flush:
        fs.fsync_directory(target.parent)


def remove_tree(path: Path, fs: FileSystem) -> None:
    """Remove a file, or a directory with all its contents. Follows no link. Raises OSError; what
    was removed by then stays removed."""
    if not stat.S_ISDIR(fs.lstat(path).st_mode):
        fs.unlink(path)
        return
    for name in fs.list_directory(path):
        remove_tree(path / name, fs)
    fs.rmdir(path)


def _create(
    temporary: Path,
    mode: int,
    within: Path,
    on_stale_temp: Callable[[Path], None] | None,
    fs: FileSystem,
) -> int:
    """Create the temporary file. Handle a stale one, or a missing directory; both are rare."""
    try:
        return fs.create(temporary, mode)
    except FileExistsError:  # a dead writer's
        _remove_stale(temporary, on_stale_temp, fs)
    except FileNotFoundError:
        make_directories(temporary.parent, fs, within=within)
    return fs.create(temporary, mode)


def _remove_stale(
    temporary: Path, on_stale_temp: Callable[[Path], None] | None, fs: FileSystem
) -> None:
    """Remove what has the temporary name, when it was looked at."""
    if stat.S_ISDIR(fs.lstat(temporary).st_mode):
        problem = "a directory has the name of a temporary file: move it away"
        raise IsADirectoryError(errno.EISDIR, problem, str(temporary)) from None
    if on_stale_temp is not None:
        on_stale_temp(temporary)
    fs.unlink(temporary)


def mode_of(target: Path, fs: FileSystem) -> int | None:
    """Return the permission bits of a regular file, or None if there is none. Raises OSError."""
    there = _regular(target, fs)
    return None if there is None else stat.S_IMODE(there.st_mode)


def _regular(target: Path, fs: FileSystem) -> os.stat_result | None:
    try:
        there = fs.lstat(target)
    except FileNotFoundError:
        return None
    return there if stat.S_ISREG(there.st_mode) else None  # a link has no mode of its own: 0777


def _let_go(
    old: Path,
    target: Path,
    on_replaced: Callable[[Path], None] | None,
    fs: FileSystem,
    *,
    removed: bool = False,
) -> None:
    """Remove the replaced version, or the one that was removed. If `on_replaced` raises, put it
    back instead."""
    try:
        if on_replaced is not None:
            on_replaced(old)
    except BaseException as error:
        try:
            traded = not removed and fs.exchange(old, target)
            if removed:
                _put_back(old, target, fs)
            elif not traded:  # the new version is gone by now
                fs.rename(old, target)
        except system_error() as problem:
            raise OldVersionLeftError(problem.errno, f"{error}; then {problem}") from error
        if traded:
            with suppress_system_error():
                fs.unlink(old)
        raise
    try:
        fs.unlink(old)
    except system_error():
        pass  # a temporary file like any other


def _put_back(old: Path, target: Path, fs: FileSystem) -> None:
    """Give a file that was removed its name back. Raises OSError when there is another one."""
    if fs.rename_new(old, target):
        return
    with suppress(FileNotFoundError):
        fs.lstat(target)
        raise FileExistsError(errno.EEXIST, "somebody has written the file anew", str(target))
    fs.rename(old, target)


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
        made = fs.stat(descriptor)  # after this look, its next change gets a new time
        # If the old file was root's, the directory's owner stays: root once took it from them.
        if replaced is not None and is_root() and replaced.st_uid:
            owner = replaced.st_uid, replaced.st_gid
            if owner != (made.st_uid, made.st_gid):
                with suppress_system_error():
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
