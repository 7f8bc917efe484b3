"""Store paths made safe: inside the runtime directory, through no symbolic link."""

from __future__ import annotations

import stat
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files.system import FileSystem


def store_path(directory: Path, relative_path: str) -> Path:
    """Where a store's file is. The text of the path was checked when its descriptor was made."""
    return directory.joinpath(*relative_path.split("/"))


def check_target(directory: Path, relative_path: str, store: str, fs: FileSystem) -> None:
    """Raise `UnsafePathError` unless the path can be written: real directories on the way (or
    nothing yet), a regular file at the end (or nothing yet). Reads only."""
    parts = relative_path.split("/")
    path = directory
    for index, part in enumerate(parts):
        path = path / part
        try:
            mode = fs.lstat(path).st_mode
        except FileNotFoundError:
            return
        last = index == len(parts) - 1
        if stat.S_ISLNK(mode):
            raise UnsafePathError(
                relative_path,
                f"goes through a symbolic link ({path}), which may leave the runtime directory. "
                "Replace the link by what it points to",
                store=store,
            )
        if last and not stat.S_ISREG(mode):
            raise UnsafePathError(relative_path, f"is not a regular file ({path})", store=store)
        if not last and not stat.S_ISDIR(mode):
            raise UnsafePathError(relative_path, f"{path} is not a directory", store=store)
