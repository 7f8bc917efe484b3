"""Finds the database of a directory under another name: somebody renamed it, or a copy changed the
case of its name. Reads only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from rtstore.control.schema import APPLICATION_ID
from rtstore.control.sqlite import idle
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.shell import shell_command

_LOOKED_AT_MAX = 100
"""The number of files of which the beginning is read."""
_HEADER_BYTES, _MAGIC, _ID = 100, b"SQLite format 3\0", slice(68, 72)
_SIDES = ("-wal", "-shm")
_KNOWN = re.compile(r"runtime-store\.(backup-.*|rebuilt)\.sqlite3|\.runtime-store\..*")
"""What an upgrade or a rebuild made, and what has ways out of its own."""


def renamed_databases(directory: Path, fs: FileSystem) -> dict[str, str]:
    """Return the databases of rtstore in a directory whose own one is gone, by name, each with the
    command that moves it back. None while there is one of that name. An empty file is none: the
    `sqlite3` shell makes one where it is asked for a database that is not there."""
    if _is_there(directory / DATABASE_NAME):
        return {}
    try:
        names = fs.list_directory(directory)
    except system_error():
        return {}
    # Those with a name that is nearly right come first, for not all are looked at.
    names = sorted(names, key=lambda name: (not name.lower().startswith("runtime-store"), name))
    candidates = [
        name for name in names if not _KNOWN.fullmatch(name) and _may_be(directory / name)
    ]
    found = [name for name in candidates[:_LOOKED_AT_MAX] if _is_database(directory / name)]
    return {name: _back(directory, name, set(names)) for name in found}


def _is_there(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except system_error() as error:
        return not isinstance(error, FileNotFoundError)
    return not stat.S_ISREG(found.st_mode) or found.st_size > 0


def _may_be(path: Path) -> bool:
    if path.name.endswith((*_SIDES, "-journal", ".json", ".rtstore-tmp")):
        return False
    try:
        found = os.lstat(path)
    except system_error():
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size >= _HEADER_BYTES


def _is_database(path: Path) -> bool:
    try:
        header = idle.piece(path, 0, _HEADER_BYTES)  # this process may have it open
    except system_error():
        return False
    return header.startswith(_MAGIC) and int.from_bytes(header[_ID]) == APPLICATION_ID


def _back(directory: Path, name: str, names: set[str]) -> str:
    """Return the command for a database and its WAL. The WAL goes first: without the database,
    nothing opens it."""
    return " && ".join(
        shell_command("mv", directory / source, directory / target)
        for source, target in _moves(name, names)
    )


def _moves(name: str, names: set[str]) -> Iterator[tuple[str, str]]:
    for side in _SIDES:
        target = f"{DATABASE_NAME}{side}"
        for beside in {f"{name}{side}", f"{name}{side.upper()}"} & names:
            if target in names:
                yield target, f"{target}.aside"  # it is of another database
            yield beside, target
            break
    yield name, DATABASE_NAME
