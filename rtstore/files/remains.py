"""Find the remains of a store in a directory whose database is gone. Reads only.

A store file is recognised by its envelope, whatever its name, so stores that a runtime defined
itself are found as well. A file with the name of a known store also counts when it is not JSON: it
may be torn. A JSON document that is no envelope belongs to somebody else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files.paths import store_path
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.descriptors import CONTROL_FILES, NO_STORES
from rtstore.model.envelope import EnvelopeError, decode
from rtstore.model.records import InspectionFault
from rtstore.model.times import parse_time

_NAMES_MAX = 2_000
"""The largest number of names examined in one folder."""
_FOLDERS_MAX = 200
"""The largest number of folders that are walked through."""
_LANES = "lanes"
"""The folder of runtime directories of their own."""
_DECODED_MAX = 1 << 20
"""In bytes. Larger files are judged only by their beginning."""
_BEGINNING = re.compile(
    rb'\s*\{\s*"schemaVersion"\s*:\s*\d{1,9}\s*,\s*"updatedAt"\s*:\s*"[^"]{0,40}"\s*,\s*"data"\s*:'
)
_OWN_PREFIX = "runtime-store."
_QUARANTINED = re.compile(r".+\.([0-9a-f]{32}|link-\d+)")
_KEPT = re.compile(r"runtime-store\.(backup-.*\.sqlite3|broken-\d+)")
"""A copy of the database that an upgrade or a rebuild left."""


def store_files(directory: Path, known: Iterable[str], fs: FileSystem) -> tuple[str, ...]:
    """Return the store files in a directory and one level below, sorted and relative to it. They
    are recognised by the paths of stores (`known`), or by their envelope."""
    of_stores = {path for path in known if _is_left_by(directory, path, fs)}
    found = {
        name
        for name in _json_files(directory, fs)
        if name not in of_stores and name not in NO_STORES and has_envelope(directory, name, fs)
    }
    return tuple(sorted(of_stores | found))


def files_in_folders(directory: Path, fs: FileSystem) -> tuple[str, ...]:
    """Return the store files in the folders of a directory, at any depth, sorted and relative to
    it. They are recognised by their envelope: a runtime may keep files of its own there.
    Quarantine, lanes, and other runtime directories and back-ups are not looked into."""
    found: list[str] = []
    folders = [""]
    for count in range(_FOLDERS_MAX):
        if count == len(folders):
            break
        folder = folders[count]
        inner = list(_entries(directory / folder, fs))
        if folder and any(_is_of_runtime(name) for name, _ in inner):
            continue
        for name, there in inner:
            path = f"{folder}{name}"
            if stat.S_ISREG(there.st_mode):
                if folder and name.endswith(".json") and has_envelope(directory, path, fs):
                    found.append(path)
            elif stat.S_ISDIR(there.st_mode) and not _is_apart(path):
                folders.append(f"{path}/")
    return tuple(sorted(found))


def _is_of_runtime(name: str) -> bool:
    """Return whether only a runtime directory, or a back-up, has a file of this name."""
    return name.startswith(_OWN_PREFIX) or name in CONTROL_FILES


def _is_apart(path: str) -> bool:
    return path in (QUARANTINE_DIRECTORY, _LANES) or path.startswith(_OWN_PREFIX)


def kept_beside(directory: Path, fs: FileSystem) -> tuple[str, ...]:
    """Return the names that only a directory with a former database has: quarantined files, and
    copies of databases."""
    try:
        names = sorted(fs.list_directory(directory))
    except system_error():
        return ()
    found = [name for name in names if _KEPT.fullmatch(name)]
    try:
        if any(map(_QUARANTINED.fullmatch, fs.list_directory(directory / QUARANTINE_DIRECTORY))):
            found.append(QUARANTINE_DIRECTORY)
    except system_error():
        pass
    return tuple(found)


def had_database(directory: Path, fs: FileSystem) -> bool:
    """Return whether something other than store files shows that there was a database. Without,
    nobody can tell whether it is gone, or the files are of a runtime that never had one."""
    try:
        names = fs.list_directory(directory)
    except system_error():
        return False
    return any(name.startswith(_OWN_PREFIX) for name in names) or bool(kept_beside(directory, fs))


def _json_files(directory: Path, fs: FileSystem) -> Iterator[str]:
    """Yield the files that may be stores, by name. Skip a folder that is a runtime directory of its
    own, and one behind a link."""
    for name, found in _entries(directory, fs):
        if stat.S_ISREG(found.st_mode) and name.endswith(".json"):
            yield name
        elif stat.S_ISDIR(found.st_mode) and name != QUARANTINE_DIRECTORY:
            inner = list(_entries(directory / name, fs))
            if not any(inside.startswith(_OWN_PREFIX) for inside, _ in inner):
                for inside, found_inside in inner:
                    if stat.S_ISREG(found_inside.st_mode) and inside.endswith(".json"):
                        yield f"{name}/{inside}"


def _entries(folder: Path, fs: FileSystem) -> Iterator[tuple[str, os.stat_result]]:
    try:
        names = sorted(fs.list_directory(folder))[:_NAMES_MAX]
    except system_error():
        return
    for name in names:
        if name.startswith("."):
            continue
        try:
            yield name, fs.lstat(folder / name)
        except system_error():
            continue


def _is_left_by(directory: Path, relative_path: str, fs: FileSystem) -> bool:
    """Return whether a store may have written the file that has its name."""
    try:
        path = store_path(directory, relative_path)
        fs.lstat(path)
    except system_error(UnsafePathError):
        return False
    try:
        content, _ = fs.read(path)
    except system_error():
        return True  # a link, a pipe, an unreadable file: it may be the store's
    return _fault_of(content) in (None, InspectionFault.INVALID_JSON)


def has_envelope(directory: Path, relative_path: str, fs: FileSystem) -> bool:
    """Return whether a file has the envelope that a store writes."""
    try:
        path = store_path(directory, relative_path)
        if _BEGINNING.match(fs.read_beginning(path, 512)):
            return True
        if fs.lstat(path).st_size > _DECODED_MAX:
            return False
        content, _ = fs.read(path)
    except system_error(UnsafePathError):
        return False
    return _fault_of(content) is None


def written_at(directory: Path, relative_path: str, fs: FileSystem) -> datetime | None:
    """Return when a store file says that it was written, or None."""
    try:
        content, _ = fs.read(store_path(directory, relative_path))
        said = decode(content).updated_at
    except system_error(UnsafePathError, EnvelopeError):
        return None
    try:
        return None if said is None else parse_time(said)
    except ValueError:
        return None


def _fault_of(content: bytes) -> InspectionFault | None:
    """Return why bytes are no envelope with all three keys, in any order; None when they are."""
    if _BEGINNING.match(content):
        return None
    try:
        envelope = decode(content)
    except EnvelopeError as error:
        return error.fault
    whole = envelope.updated_at is not None and b'"data"' in content
    return None if whole else InspectionFault.INVALID_ENVELOPE
