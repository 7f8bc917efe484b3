"""Store paths made safe: inside the runtime directory, through no symbolic link."""

from __future__ import annotations

import os
import shlex
import stat
from functools import lru_cache
from pathlib import Path

from rtstore.descriptors import relative_path_problem
from rtstore.errors import UnsafePathError
from rtstore.files.system import FileSystem


@lru_cache(maxsize=4096)
def store_path(directory: Path, relative_path: str) -> Path:
    """Where a store's file is.

    Raises `UnsafePathError` for the text of a path that no descriptor may have: this one may come
    from a row that somebody tampered with.
    """
    problem = relative_path_problem(relative_path)
    if problem is not None:
        raise UnsafePathError(relative_path, problem)
    return directory.joinpath(*relative_path.split("/"))


def check_target(
    directory: Path, relative_path: str, store: str, fs: FileSystem
) -> os.stat_result | None:
    """Raise `UnsafePathError` unless the path can be written: real directories on the way (or
    nothing yet), a regular file at the end (or nothing yet); gives what is there. Reads only."""
    parent = relative_path.rpartition("/")[0]
    if parent:
        check_directory(directory, parent, store, fs)
    path = store_path(directory, relative_path)
    try:
        found = fs.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        raise _through_link(relative_path, path, store)
    if not stat.S_ISREG(mode):
        raise UnsafePathError(relative_path, f"is not a regular file ({path})", store=store)
    return found


def check_directory(directory: Path, parent: str, store: str, fs: FileSystem) -> Path:
    """Raise `UnsafePathError` unless a folder below the runtime directory is real, as far as it is
    there at all; gives its path. Reads only."""
    path = directory
    for part in parent.split("/"):
        path = path / part
        try:
            mode = fs.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            raise _through_link(parent, path, store)
        if not stat.S_ISDIR(mode):
            raise UnsafePathError(parent, f"{path} is not a directory", store=store)
    return path


def _replace_link_command(link: Path) -> str:
    """The command that puts a copy of what a link leads to in its place."""
    at = shlex.quote(str(link))
    new = shlex.quote(f"{link}.new")
    return f"cp {at} {new} && mv {new} {at}"


def _through_link(relative_path: str, link: Path, store: str) -> UnsafePathError:
    is_file = link.name == relative_path.rpartition("/")[2]
    how = f": {_replace_link_command(link)}" if is_file else ""
    return UnsafePathError(
        relative_path,
        f"goes through a symbolic link ({link}), which may leave the runtime directory. "
        f"Replace the link by what it points to{how}",
        store=store,
    )
