"""The narrow seam to the operating system's files.

Everything that the store does to files of a runtime directory, the control database apart, goes
through these few calls; each is one or two system calls and decides nothing. Tests put another
object in its place, to crash, fail or forget at any call.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from rtstore.files.owned import close, open_descriptor
from rtstore.forks import no_fork

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)
_READ_FLAGS = os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY | _NON_BLOCKING
_DIRECTORY_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOSE_ON_EXEC
_SMALL = 1 << 14


def is_root() -> bool:
    """Whether this process may give files away."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def give_to_owner_of(directory: Path, descriptor: int) -> None:
    """Give an open file of root's to the owner of the directory that it is in, as SQLite does with
    the files beside a database: a command that ran once as root takes nothing from its user.

    Not what has a second name: that may be a file that the user has only linked here.
    """
    with suppress(OSError):  # in a container root may be nobody in particular
        wanted, made = os.stat(directory), os.fstat(descriptor)
        is_ours = made.st_uid == 0 and (made.st_nlink == 1 or stat.S_ISDIR(made.st_mode))
        if is_ours and (wanted.st_uid, wanted.st_gid) != (0, made.st_gid):
            os.fchown(descriptor, wanted.st_uid, wanted.st_gid)


class FileSystem:
    """The real file system. Every call raises `OSError`, as the operating system says it.

    What root makes belongs to the owner of the directory that it is made in.
    """

    def create(self, path: Path, mode: int) -> int:
        """Create a file that must not exist, for writing; gives its descriptor."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY
        descriptor = open_descriptor(path, flags, mode)
        if is_root():
            give_to_owner_of(path.parent, descriptor)
        return descriptor

    def write(self, descriptor: int, content: memoryview) -> int:
        """Write some of the content, perhaps not all; gives the number of bytes written."""
        return os.write(descriptor, content)

    def set_mode(self, descriptor: int, mode: int) -> None:
        """Set the permission bits, whatever the umask."""
        os.fchmod(descriptor, mode)

    def set_owner(self, descriptor: int, uid: int, gid: int) -> None:
        """Give a file to a user and a group; only root may."""
        os.fchown(descriptor, uid, gid)

    def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
        """Set the time of modification, in nanoseconds since 1970."""
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def stat(self, descriptor: int) -> os.stat_result:
        """What an open file is."""
        return os.fstat(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Flush a file to the medium."""
        os.fsync(descriptor)

    def flush(self, path: Path) -> None:
        """Flush a file that was closed long ago to the medium. Follows no symbolic link."""
        descriptor = open_descriptor(
            path, os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _NON_BLOCKING
        )
        try:
            os.fsync(descriptor)
        finally:
            close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what has it, in one step."""
        os.replace(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        """Give a file a name that nobody has, in one step; gives whether it did. Not every system
        can, nor every file system, and none where somebody has it: `rename` says what is wrong."""
        return _renamed(source, target, _NO_REPLACE)

    def exchange(self, first: Path, second: Path) -> bool:
        """Have two files trade names, in one step; gives whether they did. Not every system can,
        nor every file system, and none where one is missing: `rename` says what is wrong."""
        return _renamed(first, second, _EXCHANGE)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Make one directory, for its owner alone."""
        os.mkdir(path, 0o700)
        if is_root():
            descriptor = open_descriptor(path, _DIRECTORY_FLAGS | _NO_FOLLOW)
            try:
                give_to_owner_of(path.parent, descriptor)
            finally:
                close(descriptor)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def fsync_directory(self, path: Path) -> None:
        """Flush the names in a directory to the medium."""
        descriptor = open_descriptor(path, _DIRECTORY_FLAGS)
        try:
            os.fsync(descriptor)
        finally:
            close(descriptor)

    def lstat(self, path: Path) -> os.stat_result:
        """What a name stands for, without following a symbolic link."""
        return os.lstat(path)

    def is_directory(self, path: Path) -> bool:
        """Whether a name stands for a directory, through symbolic links."""
        return os.path.isdir(path)

    def list_directory(self, path: Path) -> list[str]:
        """The names in a directory, in no order."""
        return os.listdir(path)

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """The bytes of a regular file and what `fstat` says of the very file that was read.

        Raises OSError for anything that is not a regular file: a symbolic link, a directory, a
        pipe that nobody writes to.
        """
        descriptor, found = _open_to_read(path)
        try:
            # In one piece, and one more call that says so; a large buffer would cost more than a
            # small file does.
            size = max(found.st_size + 1, _SMALL)
            chunks = []
            while chunk := os.read(descriptor, size):
                chunks.append(chunk)
            return b"".join(chunks), found
        finally:
            close(descriptor)

    def read_beginning(self, path: Path, size: int) -> bytes:
        """The first bytes of a regular file, which may be a very large one; raises as `read`."""
        descriptor, _ = _open_to_read(path)
        try:
            return os.read(descriptor, size)
        finally:
            close(descriptor)


def _open_to_read(path: Path) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file, and what it is of; of nothing else, a link included."""
    descriptor = open_descriptor(
        path, os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY | _NON_BLOCKING
    )
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a regular file")
    except BaseException:
        close(descriptor)
        raise
    return descriptor, found


_WORKING_DIRECTORY = -100  # AT_FDCWD (linux/fcntl.h)
_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE (linux/fs.h)


def _renamed(source: Path, target: Path, flags: int) -> bool:
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    here, there = os.fsencode(source), os.fsencode(target)
    return renameat2(_WORKING_DIRECTORY, here, _WORKING_DIRECTORY, there, flags) == 0


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """The system call of that name, which Python has no function for; None where there is none."""
    if sys.platform != "linux":
        return None
    with no_fork():  # only those who write need it
        import ctypes

    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is None:
        return None
    function.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
    )  # fmt: skip
    function.restype = ctypes.c_int
    found: Callable[[int, bytes, int, bytes, int], int] = function
    return found
