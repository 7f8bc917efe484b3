"""Evidence: what somebody else wrote is kept before it is replaced; a newer program's is refused.

The writer and the recovery ask here about every file that they are about to replace, move or
remove. Only what nobody else has a copy of is kept: not what is committed, not what is in the
database otherwise, and not what a loss of power left of either.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from rtstore.commit.reporting import EventDispatcher
from rtstore.control import contents, recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.errors import NewerStoreFileError, StorageError
from rtstore.files import quarantine
from rtstore.files.owners import explained
from rtstore.files.paths import check_directory, check_target, store_path
from rtstore.files.stamp import is_as_committed, read_hashed
from rtstore.files.system import FileSystem
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import CommittedFile, ManifestEntry, PlannedWrite, QuarantinedFile
from rtstore.model.times import Clock

ANY_VERSION = None
"""For a file that is moved aside or made way for: no version of it is too new for that."""

CHANGED = "changed by somebody else before it was overwritten"


class StoreFile(NamedTuple):
    """One store file that is about to be replaced or removed."""

    schema_name: str
    schema_version: int | None
    """What this program knows; a file of a newer version is never touched. Or `ANY_VERSION`."""
    relative_path: str

    @classmethod
    def of(cls, store: Descriptor | PlannedWrite) -> Self:
        """The file of a store, as its descriptor or a planned write knows it."""
        return cls(
            schema_name=store.schema_name,
            schema_version=store.schema_version,
            relative_path=store.relative_path,
        )


class Expected(NamedTuple):
    """What a file may hold that is about to be replaced, as of the look at it."""

    committed: CommittedFile | None
    quarantined: Sequence[QuarantinedFile] = ()
    """What was kept of it."""
    begun: Sequence[bytes] = ()
    """What a dead writer may have begun to write there."""

    @classmethod
    def after(cls, kept: QuarantinedFile | None, committed: CommittedFile | None) -> Self:
        """What it may hold once `QuarantineKeeper.keep` has looked at it."""
        return cls(committed, () if kept is None else (kept,))

    def was_kept(self, found_hash: str) -> bool:
        """Whether the bytes of that hash are in quarantine already."""
        return any(kept.content_hash == found_hash for kept in self.quarantined)

    def was_begun(self, found: bytes) -> bool:
        """Whether these bytes are a beginning of that, with zeros for what a loss of power took."""
        return any(content.startswith(found.rstrip(b"\0")) for content in self.begun)


class QuarantineKeeper:
    """Keeps the evidence of one runtime directory. The caller holds the writer lock."""

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
        """Keep a file that is not what is committed, unless the database has its bytes; for a
        recovery, so always by hash, and with the row written at once.

        What is not a regular file (a directory, a link) is moved into quarantine as it is. Raises
        as `foreign_content` and `keep_copy` do.
        """
        try:
            moved = self._move_aside(file, batch_id, plan_id, reason)
        except OSError as error:
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

    def foreign_content(
        self, file: StoreFile, entry: CommittedFile | None, *, trust_stamp: bool
    ) -> bytes | None:
        """The bytes of a file that is neither what is committed nor in the database otherwise.

        With `trust_stamp` it is read only where that does not show without reading it. A recovery
        reads it: a loss of power may leave the file as it was published, and its bytes wrong.
        Reads only. Raises `NewerStoreFileError` for a file of a newer schema version,
        `UnsafePathError` for what is not a regular file, and `StorageError` when it cannot be read.
        """
        path = store_path(self._directory, file.relative_path)
        try:
            there = check_target(self._directory, file.relative_path, file.schema_name, self._fs)
        except OSError as error:
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
        except OSError as error:
            raise StorageError(
                path,
                "the file differs from what is committed and cannot be read",
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
        _refuse_newer(file, path, found)
        return not self._database.read(
            lambda connection: contents.holds(connection, found, found_hash, file.schema_name)
        )

    def quarantine_replaced(
        self, old: Path, file: StoreFile, batch_id: str | None, expected: Expected
    ) -> None:
        """Keep the version that was replaced, if it is not the expected one: between our look and
        the trade of names somebody wrote it, and nobody has another copy. Always by the hash: to
        take another name was a change of its own, after which no other shows."""
        if not stat.S_ISREG(self._fs.lstat(old).st_mode):
            return
        found, _ = self._fs.read(old)
        found_hash = content_hash(found)
        if expected.committed is not None and expected.committed.content_hash == found_hash:
            return
        if expected.was_begun(found) or expected.was_kept(found_hash):
            return
        if self._is_foreign(found, found_hash, file, old, expected.committed):
            kept = self.keep_copy(file, found, batch_id)
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
        """Copy what a file holds into quarantine. Durable when it returns; the caller writes the
        row. Raises `StorageError`; nothing may be overwritten then."""
        try:
            kept_at = quarantine.keep(self._directory, file.relative_path, found, self._fs)
        except OSError as error:
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
        quarantine.check_folder(self._directory, self._fs)
        if "/" in file.relative_path:  # real directories on the way, or nothing is touched
            parent = file.relative_path.rpartition("/")[0]
            check_directory(self._directory, parent, file.schema_name, self._fs)
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
        # The row first: it says where to look, even if the move is all that a crash leaves.
        with self._database.write(flush=True) as connection:
            recovery_log.record_quarantined(connection, [moved])
        quarantine.move_aside(self._directory, file.relative_path, moved.quarantine_path, self._fs)
        return moved


def _refuse_newer(file: StoreFile, path: Path, found: bytes) -> None:
    try:
        version = decode(found).schema_version
    except EnvelopeError:
        return
    if file.schema_version is not None and version > file.schema_version:
        raise NewerStoreFileError(file.schema_name, path, version, file.schema_version)
