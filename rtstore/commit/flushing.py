"""Know which versions of store files the medium may hold: a loss of power can bring those back.

Publishing flushes no file, so the medium may hold any version since the last flush, however many
batches ago that was. The hashes in the history identify an old version as ours. So before a batch
is dropped from the history, the medium must be known to hold other versions of its files. One flush
of a file answers that for all batches before it, so a whole retention needs one flush a file.

The knowledge belongs to one process: the first batches that it drops cost a flush of their files.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control import batches, manifest
from rtstore.errors import UnsafePathError
from rtstore.files.paths import store_path
from rtstore.files.stamp import has_committed_time
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.envelope import content_hash
from rtstore.model.records import ManifestEntry

logger = logging.getLogger("rtstore.commit")

_File = tuple[str, str]
"""A store and the path of its file."""
_Identity = tuple[int, int]
"""Inode and change time in ns: no other file, and no other version, has the same."""


class _Flushed(NamedTuple):
    """The knowledge from one flush of a file."""

    newest: int
    """The newest batch at that time. The medium holds no version of a batch up to this one, except
    that of `but_not`."""
    but_not: int
    """The batch whose version was flushed; 0 if the file was not a version of ours."""

    def rules_out(self, batch_number: int) -> bool:
        """Return whether the medium cannot hold the version of a batch."""
        return batch_number <= self.newest and batch_number != self.but_not


class FlushKnowledge:
    """The knowledge of flushed files of one runtime directory: what the writer may forget."""

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self._directory = directory
        self._fs = fs
        self._flushed: dict[_File, _Flushed] = {}
        self._others: dict[_File, _Identity | None] = {}
        """Files that hold another version of ours than the current one."""
        self._failed: dict[_File, _Identity | None] = {}
        """Files whose flush failed. A second flush of the same file would falsely succeed."""

    def may_forget(
        self,
        connection: Connection,
        numbers: Sequence[int],
        newest: int,
        *,
        store: str | None = None,
    ) -> Sequence[int]:
        """Return those of the batches whose versions the medium cannot hold: of all their stores,
        or of one. Flush files to find out.

        `connection` sees the current entries; `newest` is the last batch that has ended. A file
        that cannot be flushed raises nothing: its batches may not be forgotten.
        """
        if not numbers:
            return numbers
        asked, held = set(numbers), set()
        looked_at: set[_File] = set()
        for number, file in batches.written_files(connection, min(numbers), max(numbers)):
            if number not in asked or store not in (None, file[0]):
                continue
            if self._rules_out(file, number):
                continue
            if file not in looked_at:
                looked_at.add(file)
                self._look(connection, file, newest)
            if not self._rules_out(file, number):
                held.add(number)
        return [number for number in numbers if number not in held]

    def distrusted(self) -> list[_File]:
        """Return the files whose flush failed, and that have not changed since: only a new version
        of such a file can be flushed."""
        for file, failed in list(self._failed.items()):
            with suppress_system_error():
                if _identity(self._there(store_path(self._directory, file[1]))) != failed:
                    del self._failed[file]
        return list(self._failed)

    def _rules_out(self, file: _File, number: int) -> bool:
        flushed = self._flushed.get(file)
        return flushed is not None and flushed.rules_out(number)

    def _look(self, connection: Connection, file: _File, newest: int) -> None:
        name, relative_path = file
        entry = manifest.load_entries(connection, [name]).get(name)
        if entry is not None and entry.relative_path != relative_path:
            self._flushed[file] = _Flushed(newest, 0)  # the store has another file now
            return
        seen: _Identity | None = None
        try:
            path = store_path(self._directory, relative_path)
            there = self._there(path)
            seen = _identity(there)
            if any(file in known and known[file] == seen for known in (self._failed, self._others)):
                return
            if there is not None:
                self._fs.flush(path)
            self._fs.fsync_directory(_nearest(path.parent, self._directory, self._fs))
            ours = self._holds_another_version(connection, path, name, entry)
        except UnsafePathError:
            return
        except system_error() as error:
            logger.warning("%s cannot be flushed: no batch of it is dropped: %s", name, error)
            self._failed[file] = seen
            return
        self._failed.pop(file, None)
        if ours:
            self._others[file] = seen
        else:
            self._flushed[file] = _Flushed(newest, 0 if entry is None else entry.batch_number)

    def _there(self, path: Path) -> os.stat_result | None:
        """Return the stat of a regular file, or None; anything else holds no version of ours."""
        try:
            found = self._fs.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _holds_another_version(
        self, connection: Connection, path: Path, name: str, entry: ManifestEntry | None
    ) -> bool:
        """Return whether the file is a version of ours that is not current: of a failed batch that
        was not undone yet, or an old version that somebody put back."""
        there = self._there(path)
        if there is None:
            return False
        if entry is not None and has_committed_time(there, entry):
            return False
        found = content_hash(self._fs.read(path)[0])
        if entry is not None and found == entry.content_hash:
            return False  # copied: whichever batches wrote these bytes, they are the current ones
        return batches.wrote_same_bytes(connection, name, found, but_not=None)


def _identity(there: os.stat_result | None) -> _Identity | None:
    return None if there is None else (there.st_ino, there.st_ctime_ns)


def _nearest(path: Path, top: Path, fs: FileSystem) -> Path:
    """Return the directory, or the nearest existing one above it, up to `top`."""
    while path != top and not fs.is_directory(path):
        path = path.parent
    return path
