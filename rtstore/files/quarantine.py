"""The quarantine folder: copies of files, made before the files are overwritten, moved or removed.

A quarantined file is named by its store file and the hash of its bytes. So the same bytes are
quarantined once, however often an interrupted recovery runs again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files import durable
from rtstore.files.paths import end_of_link, move_aside_command, replace_link_command
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.envelope import content_hash
from rtstore.shell import shell_word

QUARANTINE_DIRECTORY = "quarantine"
_HASH_DIGITS = 32
"""128 bits: enough that two different files never share a name by accident."""
_PATH_DIGITS = 16
_FLAT_BYTES_MAX = 180
"""With all prefixes and suffixes, a name stays below the 255 bytes of common file systems."""


def quarantine_path(relative_path: str, hash_of_content: str) -> str:
    """Return where a store file is quarantined, relative to the runtime directory."""
    digits = hash_of_content.removeprefix("sha256:")[:_HASH_DIGITS]
    return f"{QUARANTINE_DIRECTORY}/{_flat(relative_path)}.{digits}"


def about_link(link: Path) -> tuple[str, str, str]:
    """Return in words what a link in the place of the folder leads to, the command that puts a
    folder there, and what it does. What may be behind the link stays, and so does the way to it."""
    leads = shell_word(link.parent / os.readlink(link))
    if end_of_link(link, is_folder=True) is not None:
        does = (
            "puts a copy of the folder that it leads to in its place, and lets files be kept "
            "again; that folder stays as it is"
        )
        return f"it is a symbolic link to {leads}", replace_link_command(link, is_folder=True), does
    does = (
        "keeps the link aside, and lets files be kept again. First bring back what it leads to, if "
        "that is only not mounted: files that were kept may be there"
    )
    what = f"it is a symbolic link to {leads}, which is no folder that could take its place now"
    return what, f"{move_aside_command(link)} && mkdir -m 700 {shell_word(link)}", does


def check_folder(directory: Path, fs: FileSystem) -> None:
    """Raise `UnsafePathError` unless the quarantine folder is a real directory, or does not exist
    yet: a link could lead outside of the runtime directory. Reads only."""
    folder = directory / QUARANTINE_DIRECTORY
    try:
        mode = fs.lstat(folder).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        what, command, does = about_link(folder)
        raise UnsafePathError(
            QUARANTINE_DIRECTORY,
            f"{what.removeprefix('it ')}: files would be moved, or read, outside of the runtime "
            f"directory. Have the folder itself there: {command} ({does})",
        )
    if not stat.S_ISDIR(mode):
        raise UnsafePathError(
            QUARANTINE_DIRECTORY, f"is no directory: move {folder} away, quarantined files go there"
        )


def quarantined_path(directory: Path, kept_at: str) -> Path:
    """Return the path of a quarantined file, from its row.

    Raises `UnsafePathError` unless that is a plain name in quarantine (somebody may have tampered
    with the row), and as `check_folder` does."""
    if not is_in_quarantine(kept_at):
        raise UnsafePathError(kept_at, "is not in quarantine")
    check_folder(directory, FileSystem())
    return directory / kept_at


def is_in_quarantine(kept_at: str) -> bool:
    """Return whether a path, as a row has it, is a plain name in quarantine."""
    folder, _, name = kept_at.partition("/")
    is_plain = name not in ("", ".", "..") and "/" not in name and "\0" not in name
    return folder == QUARANTINE_DIRECTORY and is_plain


def without_row(directory: Path, kept_at: Collection[str], fs: FileSystem) -> list[str]:
    """Return what lies in quarantine that is not at one of the paths of the rows: of an earlier
    database, or of another program."""
    try:
        check_folder(directory, fs)
        names = fs.list_directory(directory / QUARANTINE_DIRECTORY)
    except system_error(UnsafePathError):
        return []
    found = [f"{QUARANTINE_DIRECTORY}/{name}" for name in sorted(names)]
    return [path for path in found if path not in kept_at and not durable.is_temporary(path)]


def is_gone(directory: Path, kept_at: str, fs: FileSystem) -> bool:
    """Return whether a quarantined file is not there any more where its row says that it is."""
    try:
        fs.lstat(quarantined_path(directory, kept_at))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except system_error(UnsafePathError):
        return False
    return False


def is_changed(directory: Path, kept_at: str, expected_hash: str | None, fs: FileSystem) -> bool:
    """Return whether a quarantined file that can be read is not what was kept. `expected_hash` is
    None for what was no regular file, which is not looked into."""
    if expected_hash is None:
        return False
    try:
        content, _ = fs.read(quarantined_path(directory, kept_at))
    except system_error(UnsafePathError):
        return False
    return content_hash(content) != expected_hash


def keep(directory: Path, relative_path: str, content: bytes, fs: FileSystem) -> str:
    """Write a copy of the bytes to quarantine. Return its path relative to the runtime directory.

    The copy and its name are durable on return. The original is not touched. Raises OSError, and as
    `check_folder` does.
    """
    check_folder(directory, fs)
    kept_at = quarantine_path(relative_path, content_hash(content))
    target = directory / kept_at
    # A file that is there may be of a writer that died right before it flushed the name. Or its
    # flush failed, and a second flush would prove nothing. So the same bytes are written again.
    if fs.is_directory(target.parent):
        fs.fsync_directory(directory)
    durable.replace(target, content, mtime_ns=None, flush=True, within=directory, fs=fs)
    return kept_at


def aside_path(relative_path: str, found: os.stat_result) -> str:
    """Return where anything but a regular file is moved, relative to the runtime directory.

    It is named by its inode: a move that was recorded and not made gets the same name again."""
    kind = (
        "link"
        if stat.S_ISLNK(found.st_mode)
        else "directory"
        if stat.S_ISDIR(found.st_mode)
        else "special"
    )
    return f"{QUARANTINE_DIRECTORY}/{_flat(relative_path)}.{kind}-{found.st_ino}"


def move_aside(directory: Path, relative_path: str, aside: str, fs: FileSystem) -> None:
    """Move anything but a regular file, as it is, to a path from `aside_path`. Durable on return.
    Raises OSError, and as `check_folder` does."""
    check_folder(directory, fs)
    source, target = directory.joinpath(*relative_path.split("/")), directory / aside
    durable.make_directories(target.parent, fs, within=directory)
    fs.rename(source, target)
    fs.fsync_directory(target.parent)
    fs.fsync_directory(source.parent)


def _flat(relative_path: str) -> str:
    """Return one file name for a path. Where another path could have the same name, or the name is
    too long for file systems, it ends in a part of the path's hash."""
    flat = relative_path.replace("/", "__")
    if flat.replace("__", "/") == relative_path and len(flat.encode()) <= _FLAT_BYTES_MAX:
        return flat
    digits = content_hash(relative_path.encode()).removeprefix("sha256:")[:_PATH_DIGITS]
    return f"{flat.encode()[-_FLAT_BYTES_MAX // 2 :].decode(errors='ignore')}~{digits}"
