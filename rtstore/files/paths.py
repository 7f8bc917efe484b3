"""Safe store paths: inside the runtime directory, through no symbolic link."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.descriptors import relative_path_problem
from rtstore.shell import shell_command, shell_word

_DATABASE_NAME = "runtime-store.sqlite3"
PATHS_KEPT = 1 << 16
"""The most paths that are remembered. A batch asks for that of each store a few times; with fewer
than a runtime has stores, each would be checked and made again each time."""


@lru_cache(maxsize=PATHS_KEPT)
def store_path(directory: Path, relative_path: str) -> Path:
    """Return the path of a store's file.

    Raises `UnsafePathError` for a path that no descriptor may have: it may come from a row that
    somebody tampered with.
    """
    problem = relative_path_problem(relative_path)
    if problem is not None:
        raise UnsafePathError(relative_path, problem)
    return directory.joinpath(*relative_path.split("/"))


def check_target(
    directory: Path, relative_path: str, store: str, fs: FileSystem
) -> os.stat_result | None:
    """Raise `UnsafePathError` unless a store's path can be written: its directories must be real
    directories or missing, its file a regular file or missing.

    Return the `lstat` of the file, or None. Reads only."""
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
        raise _through_link(relative_path, path, store, is_folder=False)
    if not stat.S_ISREG(mode):
        raise UnsafePathError(relative_path, f"is not a regular file ({path})", store=store)
    return found


def check_directory(directory: Path, parent: str, store: str, fs: FileSystem) -> Path:
    """Raise `UnsafePathError` unless each part of a folder below the runtime directory is a real
    directory or missing. Return the folder's path. Reads only."""
    path = directory
    for part in parent.split("/"):
        path = path / part
        try:
            mode = fs.lstat(path).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            raise _through_link(parent, path, store, is_folder=True)
        if not stat.S_ISDIR(mode):
            problem = f"is not a directory ({path}). Move it away ({move_aside_command(path)})"
            raise UnsafePathError(parent, problem, store=store)
    return path


def runtime_directory_at(directory: Path, relative_path: str, fs: FileSystem) -> str | None:
    """Return in words which other runtime directory a store's path is, holds, or is in, as one of
    `lanes/` may be; None without one. What cannot be looked into is none. Reads only."""
    path = store_path(directory, relative_path)
    for folder in [*path.parents][: relative_path.count("/")]:
        if _mode(folder / _DATABASE_NAME, fs) is not None:
            return f"is in another runtime directory ({folder})"
    inner = _runtime_directory_below(path, fs)
    if inner is None:
        return None
    what = "is another runtime directory" if inner == path else "holds another runtime directory"
    return f"{what} ({inner})"


def _runtime_directory_below(folder: Path, fs: FileSystem) -> Path | None:
    """Return a folder with a database: this one, or the first below it. Follow no link."""
    if not stat.S_ISDIR(_mode(folder, fs) or 0):
        return None
    if _mode(folder / _DATABASE_NAME, fs) is not None:
        return folder
    with suppress_system_error():
        for name in sorted(fs.list_directory(folder)):
            found = _runtime_directory_below(folder / name, fs)
            if found is not None:
                return found
    return None


def _mode(path: Path, fs: FileSystem) -> int | None:
    with suppress_system_error():
        return fs.lstat(path).st_mode
    return None


def end_of_link(link: Path, *, is_folder: bool) -> Path | None:
    """Return what a link leads to that can take its place, or None: it leads to nothing, to
    something else than there must be, or around in a circle."""
    try:
        end = link.resolve()
        fits = end.is_dir() if is_folder else end.is_file()
        return end if fits and not link.absolute().is_relative_to(end) else None
    except system_error(RuntimeError):  # a loop; a folder that may not be looked into
        return None


def replace_link_command(link: Path, *, is_folder: bool) -> str:
    """Return the command that puts a copy of what a link leads to in its place, or else removes
    it."""
    at, new = shell_word(link), shell_word(Path(f"{link}.new"))
    if end_of_link(link, is_folder=is_folder) is None:
        return f"rm {at}"
    if is_folder:
        return f"cp -Rp {at}/. {new} && rm {at} && mv {new} {at}"
    return f"cp -p {at} {new} && mv {new} {at}"


def move_aside_command(path: Path) -> str:
    """Return the command that renames a path to a free name next to it."""
    names = (f"{path}.aside{'' if number == 1 else number}" for number in range(1, 1000))
    target = next((name for name in names if not os.path.lexists(name)), f"{path}.aside")
    return shell_command("mv", path, Path(target))


def _through_link(
    relative_path: str, link: Path, store: str, *, is_folder: bool
) -> UnsafePathError:
    leads = end_of_link(link, is_folder=is_folder)
    what = "folder" if is_folder else "file"
    advice = (
        f"It leads to no {what} that could take its place; remove it"
        if leads is None
        else "Replace the link by what it points to"
    )
    return UnsafePathError(
        relative_path,
        f"goes through a symbolic link ({link}), which may leave the runtime directory. "
        f"{advice} ({replace_link_command(link, is_folder=is_folder)})",
        store=store,
    )
