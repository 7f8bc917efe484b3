"""A logged batch taken to its end: forward to committed, or back after a failure.

The writer uses it while it lives, recovery when the writer died; both under the writer lock. What a
batch does was decided when it was logged, so nothing here invents anything: contents, order, ids
and times come from the log, and doing a step again does no harm.

Order that must hold (breaking it loses data):

* the batch is in the log, durable, before the first rename (`writer` sees to it);
* a file that is neither what is committed nor what this batch writes is in quarantine, durable,
  before it is replaced;
* a batch is recorded as failed, durable, before anything is undone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Self

from rtstore.database import batches, contents, manifest, recovery_log
from rtstore.database.contents import Bites, Retention
from rtstore.database.engine import Database
from rtstore.descriptors import Descriptor
from rtstore.dispatcher import EventDispatcher
from rtstore.envelope import EnvelopeError, content_hash, decode
from rtstore.errors import CorruptDatabaseError, NewerStoreFileError, StorageError
from rtstore.files import durable, quarantine
from rtstore.files.paths import check_directory, check_target, store_path
from rtstore.files.system import FileSystem
from rtstore.records import (
    BatchState,
    CommittedFile,
    LoggedBatch,
    ManifestEntry,
    PlannedWrite,
    QuarantinedFile,
)
from rtstore.times import Clock

ANY_VERSION = None
"""For a file that is moved aside or made way for: no version of it is too new for that."""

CHANGED = "changed by somebody else before it was overwritten"


class Durability(StrEnum):
    """What is flushed when a batch returns."""

    LOG = "log"
    """The log only: one flush. After a loss of power, opening the store puts the files right."""
    FILES = "files"
    """The store files too, for readers that look before the store has been opened again."""


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
    evidence: Sequence[QuarantinedFile] = ()
    """What was kept of it."""

    def is_as_committed(self, there: os.stat_result) -> bool:
        """Whether the file has the size and the time that its batch gave it."""
        return self.committed is not None and (there.st_size, there.st_mtime_ns) == (
            self.committed.file_size,
            self.committed.mtime_ns,
        )

    def was_kept(self, found: bytes) -> bool:
        """Whether these bytes are in quarantine already."""
        found_hash = content_hash(found) if self.evidence else None
        return any(kept.content_hash == found_hash for kept in self.evidence)


class Publisher:
    """Publishes, seals and undoes the logged batches of one runtime directory."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        *,
        clock: Clock,
        durability: Durability = Durability.LOG,
        retention: Retention | None = None,
        fs: FileSystem | None = None,
        events: EventDispatcher | None = None,
    ) -> None:
        self.directory = directory
        self.database = database
        self.events = events or EventDispatcher(database)
        self.clock = clock
        self.durability = durability
        self.retention = retention or Retention()
        self.fs = fs or FileSystem()
        self._bites = Bites(self.retention)

    # --- forward --------------------------------------------------------------------------------

    def publish(
        self, write: PlannedWrite, content: bytes, batch_id: str, expected: Expected | None = None
    ) -> None:
        """Put one planned write on disk.

        Where names can be traded, what it replaces is kept as evidence when it is neither
        `expected` nor in the database: somebody wrote it after we had looked. Raises OSError,
        `StorageError` or `NewerStoreFileError`; the file is then as before.
        """
        durable.replace(
            store_path(self.directory, write.relative_path),
            content,
            mtime_ns=write.mtime_ns,
            flush=self.durability is Durability.FILES,
            fs=self.fs,
            look_at_old=lambda old: self._keep_replaced(
                old, StoreFile.of(write), batch_id, expected or Expected(None)
            ),
        )

    def seal(self, *logged: LoggedBatch) -> int:
        """Commit published batches, in their order: entries, identity, high watermark; gives the
        high watermark of the last.

        Not flushed: should the seal be lost, they are still in the log, and recovery seals them
        again with the same ids and times.
        """
        with self.database.write(flush=False) as connection:
            before = manifest.high_watermark(connection)
            high_watermark = before + len(logged)
            batches.commit(connection, logged, high_watermark=before + 1)
            manifest.seal(connection, logged, high_watermark=high_watermark)
            due = self._bites.due(logged)
            if due:
                newest = logged[-1].batch
                contents.prune(
                    connection, self.retention, due, newest.batch_number, newest.started_at
                )
                contents.give_back(connection)
        return high_watermark

    def roll_forward(self, logged: LoggedBatch) -> None:
        """Finish a batch whose writer died, from the log.

        The decision to go forward is recorded before the first file is touched, so that a second
        crash continues it. Files that already hold what the batch wrote are left as they are.
        Raises OSError, `StorageError`, `NewerStoreFileError` or `UnsafePathError` when a file
        cannot be replaced; the batch then stays open.
        """
        number = logged.batch.batch_number
        if logged.batch.state is BatchState.PREPARING:
            with self.database.write(flush=True) as connection:
                batches.change_state(connection, logged, BatchState.COMMITTING)
        content_of = self.database.read(
            lambda connection: {
                write.schema_name: contents.load_content(connection, number, write.schema_name)
                for write in logged.writes
            }
        )
        entries = self._entries([write.schema_name for write in logged.writes])
        for write in logged.writes:
            content = content_of[write.schema_name]
            if content is None or content_hash(content) != write.content_hash:
                raise CorruptDatabaseError(
                    self.database.path,
                    f"batch {logged.batch.batch_id} is open, but its content for "
                    f"{write.schema_name} is not in the log",
                )
            entry = entries.get(write.schema_name)
            if self._holds(write):
                self._finish_trade(write, logged.batch.batch_id, entry)
                continue
            kept = self.keep_evidence(StoreFile.of(write), entry, logged.batch.batch_id, None)
            expected = Expected(entry, [kept] if kept else ())
            self.publish(write, content, logged.batch.batch_id, expected)
        self.seal(logged)

    def _finish_trade(
        self, write: PlannedWrite, batch_id: str, entry: ManifestEntry | None
    ) -> None:
        """Look at the version that a dead writer replaced and did not come to remove."""
        old = durable.temporary_path(store_path(self.directory, write.relative_path))
        with suppress(FileNotFoundError, NotADirectoryError):
            self._keep_replaced(old, StoreFile.of(write), batch_id, Expected(entry))
            self.fs.unlink(old)

    # --- back -----------------------------------------------------------------------------------

    def mark_failed(self, logged: LoggedBatch, cause: str) -> None:
        """Record, durably, that a batch failed. From here it never comes back."""
        with self.database.write(flush=True) as connection:
            batches.change_state(
                connection,
                logged,
                BatchState.FAILED,
                completed_at=self.clock(),
                last_error=cause,
            )
            manifest.mark_preparing(connection, None)

    def undo(self, logged: LoggedBatch, evidence: Sequence[QuarantinedFile] = ()) -> None:
        """Put the files that a failed batch published back as they were before it.

        `evidence` is what was kept before the batch came over somebody else's versions. A store
        that had no file loses the one it got; the bytes are still in the log. Raises OSError;
        recovery then finishes it.
        """
        kept_at = {item.relative_path: item.quarantine_path for item in evidence}
        for write in logged.writes:
            if self._found_hash(write) != write.content_hash:
                continue
            path = store_path(self.directory, write.relative_path)
            if write.relative_path in kept_at:
                theirs, _ = self.fs.read(self.directory / kept_at[write.relative_path])
                durable.replace(path, theirs, mtime_ns=None, flush=True, fs=self.fs)
            else:
                self.restore(write.schema_name, path)

    def restore(self, schema_name: str, path: Path) -> bool:
        """Put the committed content of a store back; a store without an entry loses its file.

        Gives False when there is an entry, but its content is not in the database: the file is
        then left alone. Raises OSError. The caller has kept the evidence.
        """
        entry = self._entries([schema_name]).get(schema_name)
        if entry is None:
            with suppress(FileNotFoundError):
                self.fs.unlink(path)
                self.fs.fsync_directory(path.parent)
            return True
        content = self.database.read(
            lambda connection: contents.load_content(connection, entry.batch_number, schema_name)
        )
        if content is None:
            return False
        if content_hash(content) != entry.content_hash:
            raise CorruptDatabaseError(
                self.database.path, f"the committed content of {schema_name} was changed"
            )
        durable.replace(path, content, mtime_ns=entry.mtime_ns, flush=True, fs=self.fs)
        return True

    # --- evidence -------------------------------------------------------------------------------

    def keep_evidence(
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
            path = store_path(self.directory, file.relative_path)
            raise StorageError(path, "it cannot be moved into quarantine", str(error)) from error
        if moved is not None:
            self.events.quarantined(moved)
            return moved
        found = self.foreign_content(file, entry, trust_mtime=False)
        if found is None:
            return None
        kept = self.keep_copy(file, found, batch_id, plan_id, reason=reason)
        with self.database.write(flush=True) as connection:
            recovery_log.record_evidence(connection, [kept])
        self.events.quarantined(kept)
        return kept

    def foreign_content(
        self, file: StoreFile, entry: CommittedFile | None, *, trust_mtime: bool
    ) -> bytes | None:
        """The bytes of a file that is neither what is committed nor in the database otherwise.

        With `trust_mtime`, size and time are compared first, the hash only where those differ; a
        recovery does not trust them, for a loss of power may leave both right and the bytes wrong.
        Reads only. Raises `NewerStoreFileError` for a file of a newer schema version,
        `UnsafePathError` for what is not a regular file, and `StorageError` when it cannot be read.
        """
        path = store_path(self.directory, file.relative_path)
        try:
            there = check_target(self.directory, file.relative_path, file.schema_name, self.fs)
        except OSError as error:
            raise StorageError(path, "the file cannot be looked at", str(error)) from error
        if there is None:
            return None
        if (
            trust_mtime
            and entry is not None
            and (there.st_size, there.st_mtime_ns) == (entry.file_size, entry.mtime_ns)
        ):
            return None
        try:
            found, _ = self.fs.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                path, "the file differs from what is committed and cannot be read", str(error)
            ) from error
        return found if self._is_foreign(found, file, path, entry) else None

    def _is_foreign(
        self, found: bytes, file: StoreFile, path: Path, entry: CommittedFile | None
    ) -> bool:
        found_hash = content_hash(found)
        if entry is not None and entry.content_hash == found_hash:
            return False
        _refuse_newer(file, path, found)
        return not self.database.read(
            lambda connection: batches.has_bytes(connection, file.schema_name, found_hash)
        )

    def _keep_replaced(self, old: Path, file: StoreFile, batch_id: str, expected: Expected) -> None:
        """Keep the version that was replaced, if it is not the expected one: between our look and
        the trade of names somebody wrote it, and nobody has another copy."""
        there = self.fs.lstat(old)
        if expected.is_as_committed(there) or not stat.S_ISREG(there.st_mode):
            return
        found, _ = self.fs.read(old)
        if expected.was_kept(found):
            return
        if self._is_foreign(found, file, old, expected.committed):
            kept = self.keep_copy(file, found, batch_id)
            with self.database.write(flush=True) as connection:
                recovery_log.record_evidence(connection, [kept])
            self.events.quarantined(kept)

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
            kept_at = quarantine.keep(self.directory, file.relative_path, found, self.fs)
        except OSError as error:
            path = store_path(self.directory, file.relative_path)
            raise StorageError(
                path, "the file differs from what is committed and cannot be kept", str(error)
            ) from error
        return QuarantinedFile(
            quarantine_number=0,
            schema_name=file.schema_name,
            relative_path=file.relative_path,
            quarantine_path=kept_at,
            reason=reason,
            content_hash=content_hash(found),
            file_size=len(found),
            quarantined_at=self.clock(),
            plan_id=plan_id,
            batch_id=batch_id,
        )

    def _move_aside(
        self, file: StoreFile, batch_id: str | None, plan_id: str | None, reason: str
    ) -> QuarantinedFile | None:
        path = store_path(self.directory, file.relative_path)
        try:
            found = self.fs.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(found.st_mode):
            return None
        if "/" in file.relative_path:  # real directories on the way, or nothing is touched
            parent = file.relative_path.rpartition("/")[0]
            check_directory(self.directory, parent, file.schema_name, self.fs)
        moved = QuarantinedFile(
            quarantine_number=0,
            schema_name=file.schema_name,
            relative_path=file.relative_path,
            quarantine_path=quarantine.aside_path(file.relative_path, found),
            reason=reason,
            content_hash=None,
            file_size=None,
            quarantined_at=self.clock(),
            plan_id=plan_id,
            batch_id=batch_id,
        )
        # The row first: it says where to look, even if the move is all that a crash leaves.
        with self.database.write(flush=True) as connection:
            recovery_log.record_evidence(connection, [moved])
        quarantine.move_aside(self.directory, file.relative_path, moved.quarantine_path, self.fs)
        return moved

    # --- looking --------------------------------------------------------------------------------

    def seems_unchanged(self, descriptor: Descriptor, committed: CommittedFile | None) -> bool:
        """Whether a store's file has the size and the time that were committed."""
        if committed is None:
            return False
        try:
            found = self.fs.lstat(store_path(self.directory, descriptor.relative_path))
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (committed.file_size, committed.mtime_ns)

    def _holds(self, write: PlannedWrite) -> bool:
        """Whether the file is, byte for byte, what the batch writes."""
        try:
            return self._found_hash(write) == write.content_hash
        except OSError:
            return False

    def _found_hash(self, write: PlannedWrite) -> str | None:
        """Hash of the file of a planned write, None when there is none. Raises OSError for one
        that cannot be read: what is in it is then not known."""
        try:
            found, _ = self.fs.read(store_path(self.directory, write.relative_path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content_hash(found)

    def _entries(self, names: Sequence[str]) -> Mapping[str, ManifestEntry]:
        return self.database.read(lambda connection: manifest.load_entries(connection, names))


def _refuse_newer(file: StoreFile, path: Path, found: bytes) -> None:
    try:
        version = decode(found).schema_version
    except EnvelopeError:
        return
    if file.schema_version is not None and version > file.schema_version:
        raise NewerStoreFileError(file.schema_name, path, version, file.schema_version)
