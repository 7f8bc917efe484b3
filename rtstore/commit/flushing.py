"""What store files may hold on the medium: the versions that a loss of power can bring back.

Publishing flushes no file, so the medium may hold any version since the last flush, however many
batches ago that was. An old version is known as ours by the hashes in the history; so before a
batch is dropped from it, the files that it wrote are known to be on the medium with something else.
A flush answers that for all batches before it: one a file is needed for a whole retention.

What is known is of this process: the first batches that it drops cost a flush of their files.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control import batches, manifest
from rtstore.errors import UnsafePathError
from rtstore.files.paths import store_path
from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
from rtstore.model.records import ManifestEntry

logger = logging.getLogger("rtstore.commit")

_File = tuple[str, str]
"""A store and the path of its file."""
_Identity = tuple[int, int]
"""Inode and change time: no other file, and no other version, has the same."""


class _Flushed(NamedTuple):
    """A file as it was flushed."""

    newest: int
    """The newest batch at that time. Of the batches up to it none is on the medium any more …"""
    but_not: int
    """… but this one, whose version was flushed; 0 where the file was nobody's of ours."""

    def rules_out(self, batch_number: int) -> bool:
        """Whether the medium cannot hold what a batch wrote."""
        return batch_number <= self.newest and batch_number != self.but_not


class FlushKnowledge:
    """What is known of the files of one runtime directory. The caller holds the writer lock."""

    def __init__(self, directory: Path, fs: FileSystem) -> None:
        self._directory = directory
        self._fs = fs
        self._flushed: dict[_File, _Flushed] = {}
        self._others: dict[_File, _Identity | None] = {}
        """Files that hold another version of ours."""
        self._failed: dict[_File, _Identity | None] = {}
        """Files whose flush failed. To ask again would say that all is well."""

    def may_forget(
        self, connection: Connection, numbers: Sequence[int], newest: int
    ) -> Sequence[int]:
        """Those of the batches that no file can hold on the medium; flushes files to find out.

        `connection` sees what is committed now, `newest` is the last batch that has ended. Raises
        nothing for a file that cannot be flushed: its batches may not be forgotten.
        """
        if not numbers:
            return numbers
        asked, held = set(numbers), set()
        looked_at: set[_File] = set()
        for number, file in batches.written_files(connection, min(numbers), max(numbers)):
            if number not in asked or self._rules_out(file, number):
                continue
            if file not in looked_at:
                looked_at.add(file)
                self._look(connection, file, newest)
            if not self._rules_out(file, number):
                held.add(number)
        return [number for number in numbers if number not in held]

    def distrusted(self) -> list[_File]:
        """The files whose flush failed, and that are still there: only a new version of them can be
        flushed."""
        for file, failed in list(self._failed.items()):
            with suppress(OSError):
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
            self._flushed[file] = _Flushed(newest, 0)  # no file of the store any more
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
        except OSError as error:
            logger.warning("%s cannot be flushed: no batch of it is dropped: %s", name, error)
            self._failed[file] = seen
            return
        self._failed.pop(file, None)
        if ours:
            self._others[file] = seen
        else:
            self._flushed[file] = _Flushed(newest, 0 if entry is None else entry.batch_number)

    def _there(self, path: Path) -> os.stat_result | None:
        """A regular file; anything else under that name holds no version of ours."""
        try:
            found = self._fs.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    def _holds_another_version(
        self, connection: Connection, path: Path, name: str, entry: ManifestEntry | None
    ) -> bool:
        """Whether the file is a version of ours that is not the current one: a failed batch that
        was not undone yet, or an old one that somebody put back."""
        there = self._there(path)
        if there is None:
            return False
        if entry and (there.st_size, there.st_mtime_ns) == (entry.file_size, entry.mtime_ns):
            return False
        found, _ = self._fs.read(path)
        number = None if entry is None else entry.batch_number
        return batches.wrote_same_bytes(connection, name, content_hash(found), but_not=number)


def _identity(there: os.stat_result | None) -> _Identity | None:
    return None if there is None else (there.st_ino, there.st_ctime_ns)


def _nearest(path: Path, top: Path, fs: FileSystem) -> Path:
    """The directory, or the nearest above it that is there."""
    while path != top and not fs.is_directory(path):
        path = path.parent
    return path
