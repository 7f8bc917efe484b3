"""The seam to the file system.

The store accesses all files of a runtime directory, except the control database, through these few
calls. Each makes one or two system calls and decides nothing. Tests pass another object instead, to
crash, fail or lose data at any call.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from rtstore.files.owned import close, open_descriptor
from rtstore.foreign import refusal, system_error
from rtstore.forks import no_fork

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_NON_BLOCKING = getattr(os, "O_NONBLOCK", 0)
_READ_FLAGS = os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY | _NON_BLOCKING
_DIRECTORY_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _CLOSE_ON_EXEC
_SMALL, _PIECE = 1 << 14, 1 << 20


def is_root() -> bool:
    """Return whether this process runs as root, and so may change owners."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def give_to_owner_of(directory: str | Path, descriptor: int) -> None:
    """Change the owner of an open file of root's to the owner of its directory, as SQLite does with
    the files next to a database. So a command run once as root does not lock its user out.

    A file with a second name stays root's: the user may only have linked it here.
    """
    try:
        wanted, made = os.stat(directory), os.fstat(descriptor)
        is_ours = made.st_uid == 0 and (made.st_nlink == 1 or stat.S_ISDIR(made.st_mode))
        if is_ours and (wanted.st_uid, wanted.st_gid) != (0, made.st_gid):
            os.fchown(descriptor, wanted.st_uid, wanted.st_gid)
    except system_error():
        pass  # in a container, root may lack that right


_NO_ALLOCATION = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS}
"""What a file system says that cannot allocate."""


def make_room(descriptor: int, size: int) -> None:
    """Give an open file at least this size, with a block for each byte, so that no later write to
    it finds a full disk. Do nothing where nobody can know that before. Raises OSError; the file has
    its former size then."""
    if not hasattr(os, "posix_fallocate"):  # pragma: no cover - macOS
        return
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
    except system_error() as error:
        if error.errno in _NO_ALLOCATION:
            return
        if error.errno != errno.EBADF and os.fstat(descriptor).st_size > before:
            os.ftruncate(descriptor, before)
        raise


def write_anew(path: str) -> None:
    """Write all bytes of a file once more, where they are, and flush them. Who reads it sees no
    difference; nobody may write to it meanwhile. Raises OSError."""
    flags = os.O_RDWR | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY
    descriptor = open_descriptor(path, flags)
    try:
        at, size = 0, os.fstat(descriptor).st_size
        while piece := os.pread(descriptor, min(_PIECE, size - at), at):
            at += os.pwrite(descriptor, piece, at)
        os.fsync(descriptor)
    finally:
        close(descriptor)


class FileSystem:
    """The real file system. Every call raises the `OSError` of the operating system.

    A file or directory that root creates belongs to the owner of its directory.
    """

    def create(self, path: Path, mode: int) -> int:
        """Create a file that must not exist, for writing. Return its descriptor."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY
        descriptor = open_descriptor(path, flags, mode)
        if is_root():
            give_to_owner_of(os.path.dirname(path) or ".", descriptor)
        return descriptor

    def write(self, descriptor: int, content: memoryview) -> int:
        """Write the content or a part of it. Return the number of bytes written."""
        return os.write(descriptor, content)

    def set_mode(self, descriptor: int, mode: int) -> None:
        """Set the permission bits, whatever the umask."""
        os.fchmod(descriptor, mode)

    def set_owner(self, descriptor: int, uid: int, gid: int) -> None:
        """Set the user and the group that own a file. Only root may."""
        os.fchown(descriptor, uid, gid)

    def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
        """Set the time of modification, in nanoseconds since 1970."""
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def stat(self, descriptor: int) -> os.stat_result:
        """Return the status of an open file."""
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
        """Rename a file atomically, replacing the file that has the name."""
        os.replace(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        """Rename a file atomically to a name that no file has. Return whether it was done.

        Not every system or file system can, and none when the name is taken. After False, call
        `rename`, which raises what is wrong."""
        return _renamed(source, target, _NO_REPLACE)

    def exchange(self, first: Path, second: Path) -> bool:
        """Exchange two files atomically (RENAME_EXCHANGE). Return whether it was done.

        Not every system or file system can, and none when a file is missing. After False, call
        `rename`, which raises what is wrong."""
        return _renamed(first, second, _EXCHANGE)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Create one directory that only its owner may use."""
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
        """Return the status of a name, without following a symbolic link."""
        return os.lstat(path)

    def is_directory(self, path: Path) -> bool:
        """Return whether a path is a directory, following symbolic links."""
        return os.path.isdir(path)

    def list_directory(self, path: Path) -> list[str]:
        """Return the names in a directory, in no order."""
        return os.listdir(path)

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """Return the bytes of a regular file, and the `fstat` of the very file that was read.

        Raises OSError for anything but a regular file: a symbolic link, a directory, a pipe without
        a writer.
        """
        descriptor, found = _open_to_read(path)
        try:
            # One call reads all, one more finds the end. A large buffer for a small file would cost
            # more than the read.
            size = max(found.st_size + 1, _SMALL)
            chunks = []
            while chunk := os.read(descriptor, size):
                chunks.append(chunk)
            return b"".join(chunks), found
        finally:
            close(descriptor)

    def read_beginning(self, path: Path, size: int) -> bytes:
        """Return the first `size` bytes of a regular file. Raises as `read`."""
        descriptor, _ = _open_to_read(path)
        try:
            return os.read(descriptor, size)
        finally:
            close(descriptor)


def _open_to_read(path: Path) -> tuple[int, os.stat_result]:
    """Return a descriptor of a regular file, and its status. Raise OSError for anything else, a
    link included."""
    descriptor = open_descriptor(
        path, os.O_RDONLY | _NO_FOLLOW | _CLOSE_ON_EXEC | _BINARY | _NON_BLOCKING
    )
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise refusal(f"{path} is not a regular file")
    except BaseException:
        close(descriptor)
        raise
    return descriptor, found


_WORKING_DIRECTORY = -100  # AT_FDCWD (linux/fcntl.h)
_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE (linux/fs.h)


def _renamed(source: Path, target: Path, flags: int) -> bool:
    renameat2 = load_renameat2()
    if renameat2 is None:
        return False
    here, there = os.fsencode(source), os.fsencode(target)
    return renameat2(_WORKING_DIRECTORY, here, _WORKING_DIRECTORY, there, flags) == 0


@cache
def load_renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return the system call `renameat2`, which Python has no function for; None if missing."""
    if sys.platform != "linux":
        return None
    try:
        with no_fork():  # imported here: only writers need it
            import ctypes
    except ImportError:  # a Python that was built without it
        return None
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is None:
        return None
    function.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
    )  # fmt: skip
    function.restype = ctypes.c_int
    found: Callable[[int, bytes, int, bytes, int], int] = function
    return found
