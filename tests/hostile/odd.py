"""Things that can be in a file's place and are no file, or not ours."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest


def _directory(path: Path, _outside: Path) -> None:
    path.mkdir()


def _full_directory(path: Path, _outside: Path) -> None:
    path.mkdir()
    (path / "inside.json").write_text("{}")


def _fifo(path: Path, _outside: Path) -> None:
    os.mkfifo(path)


def _device(path: Path, _outside: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"making a device is not permitted here: {error}")


def _socket(path: Path, _outside: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)


def _dangling_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "nothing.json")


def _link_outside(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret.json")


def _link_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "folder")


def _link_to_itself(path: Path, _outside: Path) -> None:
    path.symlink_to(path.name)


def _hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "secret.json")


def _file(path: Path, _outside: Path) -> None:
    path.write_text("a file")


ODD: dict[str, Callable[[Path, Path], None]] = {
    "a directory": _directory,
    "a full directory": _full_directory,
    "a FIFO": _fifo,
    "a device": _device,
    "a socket": _socket,
    "a dangling link": _dangling_link,
    "a link outside": _link_outside,
    "a link to a folder outside": _link_to_folder,
    "a link to itself": _link_to_itself,
    "a hard link to a file outside": _hard_link,
    "a file": _file,
}
"""Each makes one thing at a path where nothing is; the folder outside is nobody's business."""
