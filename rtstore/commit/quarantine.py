"""Quarantine foreign files before they are replaced; refuse to replace a newer program's file.

The writer and recovery call this for every file that they are about to replace, move or remove.
Only bytes without another copy are quarantined: not the committed version, not another version in
the database, and not what a loss of power left of either.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from sqlalchemy import Connection

from rtstore.commit.reporting import EventDispatcher
from rtstore.control import batches, contents, recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.errors import NewerStoreFileError, StorageError, UnsafePathError
from rtstore.files import quarantine
from rtstore.files.owners import explained
from rtstore.files.paths import (
    check_directory,
    check_target,
    move_aside_command,
    runtime_directory_at,
    store_path,
)
from rtstore.files.stamp import is_as_committed, read_hashed
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import (
    CommittedFile,
    ManifestEntry,
    PlannedChange,
    QuarantinedFile,
)
from rtstore.model.times import Clock

ANY_VERSION = None
"""Means that a file of any schema version may be moved aside or replaced."""

CHANGED = "changed by somebody else before it was overwritten"
CHANGED_AND_DELETED = "changed by somebody else before its store was deleted"


class StoreFile(NamedTuple):
    """One store file that is about to be replaced or removed."""

    schema_name: str
    schema_version: int | None
    """The version that this program knows, or `ANY_VERSION`. A newer file is never touched."""
    relative_path: str

    @classmethod
    def of(cls, store: Descriptor | PlannedChange) -> Self:
        """Return the file of a store, from its descriptor, a planned write or a deletion."""
        return cls(
            schema_name=store.schema_name,
            schema_version=store.schema_version,
            relative_path=store.relative_path,
        )


class Expected(NamedTuple):
    """What a file that is about to be replaced may hold, as of the last check of it."""

    committed: CommittedFile | None
    quarantined: Sequence[QuarantinedFile] = ()
    """The versions of it that were quarantined."""
    begun: Sequence[bytes] = ()
    """The contents that a dead writer may have begun to write there."""

    @classmethod
    def after(cls, kept: QuarantinedFile | None, committed: CommittedFile | None) -> Self:
        """Return what a file may hold after `QuarantineKeeper.keep` checked it."""
        return cls(committed, () if kept is None else (kept,))

    def was_kept(self, found_hash: str) -> bool:
        """Return whether the bytes with that hash are in quarantine already."""
        return any(kept.content_hash == found_hash for kept in self.quarantined)

    def was_begun(self, found: bytes) -> bool:
        """Return whether these bytes are a beginning of one of `begun`, with zeros for the part
        that a loss of power took."""
        return any(content.startswith(found.rstrip(b"\0")) for content in self.begun)


class QuarantineKeeper:
    """Quarantines files of one runtime directory, under its writer lock."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        *,
        clock: Clock,
        fs: FileSystem,
        events: EventDispatcher,
    ) -> None:
        self._directory = directory
        self._database = database
        self._clock = clock
        self._fs = fs
        self._events = events

    def keep(
        self,
        file: StoreFile,
        entry: ManifestEntry | None,
        batch_id: str | None,
        plan_id: str | None,
        *,
        reason: str = CHANGED,
    ) -> QuarantinedFile | None:
        """Quarantine a file that is not the committed version, unless the database has its bytes.
        Return its record, or None. For a recovery: always compare by hash, and write the row now.

        Anything but a regular file (a directory, a link) is moved to quarantine as it is. Raises
        as `foreign_content` and `keep_copy` do, and `UnsafePathError` for a runtime directory, or
        what holds one.
        """
        self._database.assert_locked()
        try:
            moved = self._move_aside(file, batch_id, plan_id, reason)
        except system_error() as error:
            path = store_path(self._directory, file.relative_path)
            raise StorageError(
                path, "it cannot be moved into quarantine", explained(error, path)
            ) from error
        if moved is not None:
            self._events.quarantined(moved)
            return moved
        found = self.foreign_content(file, entry, trust_stamp=False)
        if found is None:
            return None
        kept = self.keep_copy(file, found, batch_id, plan_id, reason=reason)
        with self._database.write(flush=True) as connection:
            recovery_log.record_quarantined(connection, [kept])
        self._events.quarantined(kept)
        return kept

    def would_keep(self, file: StoreFile, entry: ManifestEntry | None) -> bool:
        """Return whether `keep` would put something into quarantine. Changes nothing. Raises as
        `keep` does."""
        path = store_path(self._directory, file.relative_path)
        try:
            is_regular = stat.S_ISREG(self._fs.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not is_regular:
            self._refuse_to_move(file)
            return True
        return self.foreign_content(file, entry, trust_stamp=False) is not None

    def foreign_content(
        self, file: StoreFile, entry: CommittedFile | None, *, trust_stamp: bool
    ) -> bytes | None:
        """Return the bytes of a foreign file: not the committed version, and not in the database
        otherwise. Return None for any other file, and without a file.

        With `trust_stamp`, read the file only if its stamp differs from the committed one. A
        recovery always reads it: a loss of power may leave the stamp right and the bytes wrong.
        Changes nothing. Raises `NewerStoreFileError` for a file of a newer schema version,
        `UnsafePathError` for anything but a regular file, and `StorageError` when it cannot be
        read.
        """
        path = store_path(self._directory, file.relative_path)
        try:
            there = check_target(self._directory, file.relative_path, file.schema_name, self._fs)
        except system_error() as error:
            raise StorageError(
                path, "the file cannot be looked at", explained(error, path)
            ) from error
        if there is None:
            return None
        if trust_stamp and is_as_committed(there, entry):
            return None
        try:
            found, found_hash, _ = read_hashed(path, self._fs)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except system_error() as error:
            raise StorageError(
                path,
                "the file cannot be read, so nobody knows whether it is what is committed",
                explained(error, path),
            ) from error
        return found if self._is_foreign(found, found_hash, file, path, entry) else None

    def _is_foreign(
        self,
        found: bytes,
        found_hash: str,
        file: StoreFile,
        path: Path,
        entry: CommittedFile | None,
    ) -> bool:
        if entry is not None and entry.content_hash == found_hash:
            return False
        _refuse_newer(file, path, found, entry)
        name = file.schema_name

        def is_kept(connection: Connection) -> bool:
            # Without an entry nothing holds a committed version that is on record: this batch may
            # drop it. Where the deletion is on record, that is what was asked for.
            if entry is None and batches.is_written(connection, name):
                return False
            if contents.holds(connection, found, found_hash, name):
                return True
            there = file.relative_path
            return contents.left_by_another(connection, name, there, found, found_hash)[1]

        return not self._database.read(is_kept)

    def quarantine_replaced(
        self,
        old: Path,
        file: StoreFile,
        batch_id: str | None,
        expected: Expected,
        *,
        reason: str = CHANGED,
    ) -> None:
        """Quarantine the replaced version, if it is not expected and has no other copy: somebody
        wrote it between our check and the exchange. Always compare by hash: the exchange itself
        changed the stamp, which hides any other change."""
        self._database.assert_locked()
        if not stat.S_ISREG(self._fs.lstat(old).st_mode):
            return
        found, _ = self._fs.read(old)
        found_hash = content_hash(found)
        if expected.committed is not None and expected.committed.content_hash == found_hash:
            return
        if expected.was_begun(found) or expected.was_kept(found_hash):
            return
        if self._is_foreign(found, found_hash, file, old, expected.committed):
            kept = self.keep_copy(file, found, batch_id, reason=reason)
            with self._database.write(flush=True) as connection:
                recovery_log.record_quarantined(connection, [kept])
            self._events.quarantined(kept)

    def keep_copy(
        self,
        file: StoreFile,
        found: bytes,
        batch_id: str | None,
        plan_id: str | None = None,
        *,
        reason: str = CHANGED,
    ) -> QuarantinedFile:
        """Copy the bytes of a file to quarantine, and return the record. The copy is durable on
        return; the caller writes the row. Raises `StorageError`; then nothing may be overwritten.
        """
        self._database.assert_locked()
        try:
            kept_at = quarantine.keep(self._directory, file.relative_path, found, self._fs)
        except system_error() as error:
            path = store_path(self._directory, file.relative_path)
            raise StorageError(
                path,
                "the file differs from what is committed and cannot be kept",
                explained(error, self._directory / quarantine.QUARANTINE_DIRECTORY),
            ) from error
        return QuarantinedFile(
            quarantine_number=0,
            schema_name=file.schema_name,
            relative_path=file.relative_path,
            quarantine_path=kept_at,
            reason=reason,
            content_hash=content_hash(found),
            file_size=len(found),
            quarantined_at=self._clock(),
            plan_id=plan_id,
            batch_id=batch_id,
        )

    def _move_aside(
        self, file: StoreFile, batch_id: str | None, plan_id: str | None, reason: str
    ) -> QuarantinedFile | None:
        path = store_path(self._directory, file.relative_path)
        try:
            found = self._fs.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(found.st_mode):
            return None
        self._refuse_to_move(file)
        moved = QuarantinedFile(
            quarantine_number=0,
            schema_name=file.schema_name,
            relative_path=file.relative_path,
            quarantine_path=quarantine.aside_path(file.relative_path, found),
            reason=reason,
            content_hash=None,
            file_size=None,
            quarantined_at=self._clock(),
            plan_id=plan_id,
            batch_id=batch_id,
        )
        # The row first: if a crash follows the move, the row says where the file is.
        with self._database.write(flush=True) as connection:
            recovery_log.record_quarantined(connection, [moved])
        quarantine.move_aside(self._directory, file.relative_path, moved.quarantine_path, self._fs)
        return moved

    def _refuse_to_move(self, file: StoreFile) -> None:
        """Raise where what is in place of a file must not be moved into quarantine, or cannot."""
        other = runtime_directory_at(self._directory, file.relative_path, self._fs)
        if other is not None:
            path = store_path(self._directory, file.relative_path)
            problem = (
                f"{other}, which is left as it is. Give the store another relative_path, or move "
                f"that away ({move_aside_command(path)})"
            )
            raise UnsafePathError(file.relative_path, problem, store=file.schema_name)
        quarantine.check_folder(self._directory, self._fs)
        if "/" in file.relative_path:  # every parent must be a real directory
            parent = file.relative_path.rpartition("/")[0]
            check_directory(self._directory, parent, file.schema_name, self._fs)


def _refuse_newer(file: StoreFile, path: Path, found: bytes, entry: CommittedFile | None) -> None:
    try:
        version = decode(found).schema_version
    except EnvelopeError:
        return
    known = file.schema_version
    if known is not None and version > known:
        is_committed = entry is not None and entry.schema_version > known
        raise NewerStoreFileError(file.schema_name, path, version, known, is_committed=is_committed)
