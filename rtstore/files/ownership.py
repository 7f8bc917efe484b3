"""Whose a file is, and the command that gives it to who needs it."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rtstore.files.system import FileSystem


def explained(error: OSError, path: Path) -> str:
    """What the operating system said of a path; where something was forbidden, with whose the file
    is and the command that changes it."""
    if error.errno not in (errno.EACCES, errno.EPERM):
        return str(error)
    hint = whose(path)
    return f"{error}. {hint}" if hint else str(error)


def give_away_command(directory: Path, foreign: list[Path]) -> str:
    """The command that gives files to the owner of the directory that they are in."""
    wanted = os.stat(directory)
    names = " ".join(shlex.quote(str(path)) for path in foreign)
    return f"sudo chown -R {wanted.st_uid}:{wanted.st_gid} {names}"


def foreign_files(directory: Path, fs: FileSystem) -> list[Path]:
    """What is in a directory, or below it, and belongs to another user than the directory does; of
    a folder that does, the folder alone. Follows no link. Raises OSError for the directory itself.
    """
    return list(_foreign_below(directory, fs.lstat(directory.resolve()).st_uid, fs))


def _foreign_below(directory: Path, owner: int, fs: FileSystem) -> Iterator[Path]:
    for name in sorted(fs.list_directory(directory)):
        path = directory / name
        with suppress(OSError):  # gone by now, or nobody may look
            found = fs.lstat(path)
            if found.st_uid != owner:
                yield path
            elif stat.S_ISDIR(found.st_mode):
                yield from _foreign_below(path, owner, fs)


def whose(path: Path) -> str | None:
    """Whose the nearest thing is that shows on the way to a path, where it is not ours, and the
    command that makes it so."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return None
    me, group = os.geteuid(), os.getegid()
    for candidate in (path, *path.absolute().parents):
        with suppress(OSError):
            found = os.lstat(candidate)
            if found.st_uid == me:
                return None
            deep = "-R " if stat.S_ISDIR(found.st_mode) else ""
            return (
                f"{candidate} belongs to {_named(found.st_uid)}, and this process runs as "
                f"{_named(me)}. Run it as that user, or: "
                f"sudo chown {deep}{me}:{group} {shlex.quote(str(candidate))}"
            )
    return None


def _named(uid: int) -> str:
    with suppress(ImportError, KeyError):
        import pwd

        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"
