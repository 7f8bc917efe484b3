"""Publish and complete a logged batch, or undo it after a failure.

A living writer uses this; after its death, recovery does. Both hold the writer lock. Contents,
order, ids and times come from the log, so a step can be repeated without harm.

The order must hold; breaking it loses data:

* the batch is in the log, durable, before the first rename (`writer` ensures this);
* a file that is neither what is committed nor what this batch writes is in quarantine, durable,
  before it is replaced;
* a batch is recorded as failed, durable, before anything is undone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection

from rtstore.commit.pruner import Pruner
from rtstore.commit.quarantine import (
    ANY_VERSION,
    CHANGED_AND_DELETED,
    Expected,
    QuarantineKeeper,
    StoreFile,
)
from rtstore.commit.reporting import EventDispatcher
from rtstore.control import batches, contents, manifest, runs
from rtstore.control.contents import Retention
from rtstore.control.sqlite.engine import Database
from rtstore.errors import CorruptDatabaseError, RuntimeStoreError
from rtstore.files import durable
from rtstore.files.paths import store_path
from rtstore.files.quarantine import quarantined_path
from rtstore.files.stamp import FileStamp, is_as_committed
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import content_hash
from rtstore.model.records import (
    BatchState,
    CommittedFile,
    LoggedBatch,
    ManifestEntry,
    PlannedChange,
    PlannedDeletion,
    PlannedWrite,
    PublishedFile,
    QuarantinedFile,
)
from rtstore.model.times import Clock

logger = logging.getLogger("rtstore.commit")


_UNKNOWN_MODE = durable.NEW_FILE_MODE
"""The mode of a file that a dead writer has removed."""


class Durability(StrEnum):
    """What is flushed when the call that writes a batch returns."""

    LOG = "log"
    """The log only: one flush. After a loss of power, opening the store restores the files."""
    FILES = "files"
    """The store files too, for programs that read them before the store is opened again."""


class Publisher:
    """Publishes, completes and undoes the logged batches of one runtime directory."""

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
        self.retention = retention or database.read(manifest.load_retention, autocommit=True)
        self.fs = fs or FileSystem()
        self.quarantine = QuarantineKeeper(
            directory, database, clock=clock, fs=self.fs, events=self.events
        )
        self._published: dict[str, tuple[str, PublishedFile]] = {}
        """By store: the receipt of the last published write, and its file."""
        self._modes: dict[str, int | None] = {}
        """By receipt of a deletion that is not completed: the permission bits of the file, None if
        there was none."""
        self.pruner = Pruner(directory, self.retention, self.fs)

    # --- forward --------------------------------------------------------------------------------

    def publish(
        self, write: PlannedWrite, content: bytes, batch_id: str, expected: Expected | None = None
    ) -> None:
        """Put one planned write on disk.

        Where the system can exchange two files, the replaced version is quarantined when it is
        neither `expected` nor in the database: somebody wrote it after our check. Raises OSError,
        `StorageError` or `NewerStoreFileError`; the file is then as before.
        """
        stamp = self.replace(
            StoreFile.of(write),
            content,
            expected or Expected(None),
            batch_id=batch_id,
            mtime_ns=write.mtime_ns,
            flush=self.durability is Durability.FILES,
        )
        self._published[write.schema_name] = write.receipt_id, write.published(stamp)

    def published(self, write: PlannedWrite) -> PublishedFile:
        """Return the file of a write as published, with its stamp if this object published it."""
        known = self._published.get(write.schema_name)
        if known is not None and known[0] == write.receipt_id:
            return known[1]
        return write.published()

    def delete(
        self, deletion: PlannedDeletion, batch_id: str, expected: Expected | None = None
    ) -> None:
        """Remove the file of one planned deletion, if it is there.

        It is looked at under its temporary name before it is gone: a version that is neither
        `expected` nor in the database is quarantined. Raises as `publish` does; the file is then
        as before, but for `OldVersionLeftError`.
        """
        self.database.assert_locked()
        self.database.check_same_file()
        file, known = StoreFile.of(deletion), expected or Expected(None)
        path = store_path(self.directory, file.relative_path)
        self._modes[deletion.receipt_id] = durable.mode_of(path, self.fs)
        durable.remove(
            path,
            flush=self.durability is Durability.FILES,
            fs=self.fs,
            on_replaced=lambda old: self.quarantine.quarantine_replaced(
                old, file, batch_id, known, reason=CHANGED_AND_DELETED
            ),
            on_stale_temp=lambda old: self.on_stale_temp(old, file),
        )

    def replace(
        self,
        file: StoreFile,
        content: bytes,
        expected: Expected,
        *,
        batch_id: str | None = None,
        mtime_ns: int | None = None,
        flush: bool = True,
        new_mode: int | None = None,
    ) -> FileStamp | None:
        """Replace a store's file. Quarantine the replaced version unless it is expected or in the
        database; treat a temporary file of a dead writer alike. Raises as `publish` does, and
        `StoreClosedError` when another directory has the name by now: its files are not ours."""
        self.database.assert_locked()
        self.database.check_same_file()
        return durable.replace(
            store_path(self.directory, file.relative_path),
            content,
            mtime_ns=mtime_ns,
            flush=flush,
            within=self.directory,
            fs=self.fs,
            new_mode=new_mode,
            on_replaced=lambda old: self.quarantine.quarantine_replaced(
                old, file, batch_id, expected
            ),
            on_stale_temp=lambda old: self.on_stale_temp(old, file),
        )

    def complete(self, *logged: LoggedBatch) -> int:
        """Complete published batches in their order: entries, which go for what they delete,
        identity, high watermark. Return the high watermark of the last. Also prune some history
        beyond the retention.

        Not flushed. If a loss of power takes it back, the batches are still in the log, and
        recovery completes them again with the same ids and times.
        """
        with self.database.write(flush=False) as connection:
            high_watermark = self._commit(connection, logged)
            has_pruned = self.pruner.prune(connection, logged)
        if has_pruned:
            self.write_anew()
        return high_watermark

    def _commit(self, connection: Connection, logged: Sequence[LoggedBatch]) -> int:
        """Commit batches in their order. Return the high watermark of the last."""
        before = manifest.high_watermark(connection)
        high_watermark = before + len(logged)
        batches.commit(connection, logged, high_watermark=before + 1)
        manifest.complete(connection, logged, self.published, high_watermark=high_watermark)
        runs.complete(connection, logged)
        self._modes.clear()
        return high_watermark

    def complete_in_doubt(self, logged: Sequence[LoggedBatch]) -> None:
        """Complete batches whose writer died. Prune nothing: all of them must be in first."""
        with self.database.write(flush=False) as connection:
            self._commit(connection, logged)

    def write_anew(self) -> None:
        """Write files again whose flush failed, because a second flush of the same file would
        falsely succeed. Raises nothing: while a file cannot be written, its history stays."""
        for name, relative_path in self.pruner.flushes.distrusted():
            try:
                entry = self.entries([name]).get(name)
                file = StoreFile(name, ANY_VERSION, relative_path)
                if entry is not None and self.found_hash(file) == entry.content_hash:
                    self.restore(file, Expected(entry))
            except system_error(RuntimeStoreError) as error:
                logger.info("%s cannot be written anew after its flush failed: %s", name, error)

    def resolve_exchange(
        self,
        write: PlannedChange,
        first: int,
        batch_id: str,
        entry: ManifestEntry | None,
    ) -> None:
        """Quarantine the old version that a crashed writer left under the temporary name.

        If the crash came before the exchange, the temporary file holds the new version instead, or
        its beginning, of the open batch number `first` or a later one; that is discarded."""
        self.database.assert_locked()
        old = durable.temporary_path(store_path(self.directory, write.relative_path))
        with suppress(FileNotFoundError, NotADirectoryError):
            self.fs.lstat(old)
            expected = Expected(entry, begun=self._since(first, write.schema_name))
            self.quarantine.quarantine_replaced(old, StoreFile.of(write), batch_id, expected)
            self.fs.unlink(old)

    # --- back -----------------------------------------------------------------------------------

    def mark_failed(self, logged: LoggedBatch, cause: str) -> None:
        """Record that a batch failed. Durable on return; from then on it never comes back."""
        with self.database.write(flush=True) as connection:
            batches.change_state(
                connection,
                logged,
                BatchState.FAILED,
                completed_at=self.clock(),
                last_error=cause,
            )
            manifest.mark_preparing(connection, None)
            runs.forget_beginning(connection, logged.batch.batch_id)

    def undo(self, logged: LoggedBatch, quarantined: Sequence[QuarantinedFile] = ()) -> None:
        """Put back the files that a failed batch published or removed, as they were before it.

        `quarantined` lists the foreign versions that were quarantined before the batch replaced
        them. If a store had no file, remove the published one; its bytes are still in the log.
        Raises OSError; recovery then finishes the work.
        """
        self.database.assert_locked()
        kept_at = {item.relative_path: item.quarantine_path for item in quarantined}
        for write in logged.writes:
            if self.found_hash(StoreFile.of(write)) == write.content_hash:
                self._undo_write(write, quarantined, kept_at.get(write.relative_path))
        for deletion in logged.deletions:
            mode = self._modes.pop(deletion.receipt_id, _UNKNOWN_MODE)
            if mode is not None and self.found_hash(StoreFile.of(deletion)) is None:
                kept = kept_at.get(deletion.relative_path)
                self._undo(StoreFile.of(deletion), Expected(None, quarantined), kept, mode)

    def _undo_write(
        self, write: PlannedWrite, quarantined: Sequence[QuarantinedFile], kept_at: str | None
    ) -> None:
        """Put back the file of a write. Where that cannot be done, all is well all the same if the
        batch wrote what is committed: a store that a run keeps, say."""
        file, published = StoreFile.of(write), Expected(self.published(write), quarantined)
        try:
            self._undo(file, published, kept_at)
        except system_error() as error:
            entry = self.entries([file.schema_name]).get(file.schema_name)
            is_same = entry is not None and entry.content_hash == write.content_hash
            if isinstance(error, durable.OldVersionLeftError) or kept_at is not None or not is_same:
                raise
            if self.found_hash(file) != write.content_hash:
                raise

    def _undo(
        self, file: StoreFile, expected: Expected, kept_at: str | None, mode: int | None = None
    ) -> None:
        """Put back the foreign version that was quarantined there, or what is committed; with the
        permission bits, where there is no file."""
        if kept_at is None:
            self.restore(file, expected, new_mode=mode)
            return
        theirs, _ = self.fs.read(quarantined_path(self.directory, kept_at))
        self.replace(file, theirs, expected, new_mode=mode)

    def restore(self, file: StoreFile, expected: Expected, *, new_mode: int | None = None) -> bool:
        """Put back the committed content of a store; without an entry, remove the store's file.

        Return False when there is an entry, but its content is not in the database: the file is
        then left alone. Raises OSError, and as `QuarantineKeeper.quarantine_replaced` does. The
        caller has quarantined a foreign file; the replaced version is checked against `expected`
        once more.
        """
        self.database.assert_locked()
        entry = self.entries([file.schema_name]).get(file.schema_name)
        if entry is None:
            self.remove(file, expected)
            return True
        content = self.database.read(
            lambda connection: contents.load_content(
                connection, entry.batch_number, file.schema_name
            )
        )
        if content is None:
            return False
        if content_hash(content) != entry.content_hash:
            raise CorruptDatabaseError(
                self.database.path, f"the committed content of {file.schema_name} was changed"
            )
        self.replace(file, content, expected, mtime_ns=entry.mtime_ns, new_mode=new_mode)
        return True

    def remove(self, file: StoreFile, expected: Expected) -> None:
        """Remove a store's file; quarantine it if it is unexpected. Durable on return."""
        self.database.assert_locked()
        durable.remove(
            store_path(self.directory, file.relative_path),
            fs=self.fs,
            on_replaced=lambda old: self.quarantine.quarantine_replaced(old, file, None, expected),
            on_stale_temp=lambda old: self.on_stale_temp(old, file),
        )

    # --- checks ---------------------------------------------------------------------------------

    def on_stale_temp(self, old: Path, file: StoreFile) -> None:
        """Quarantine a dead writer's temporary file of a store before it is removed, if it is a
        replaced version without another copy. No batch is open."""
        self.database.assert_locked()
        entry = self.entries([file.schema_name]).get(file.schema_name)
        since = 0 if entry is None else entry.batch_number
        anything = file._replace(schema_version=ANY_VERSION)
        expected = Expected(entry, begun=self._since(since, file.schema_name))
        self.quarantine.quarantine_replaced(old, anything, None, expected)

    def _since(self, batch_number: int, schema_name: str) -> Sequence[bytes]:
        return self.database.read(
            lambda connection: contents.contents_since(connection, batch_number, schema_name)
        )

    def seems_unchanged(self, descriptor: Descriptor, committed: CommittedFile | None) -> bool:
        """Return whether a store's file shows no change since it was committed, or hashed."""
        try:
            found = self.fs.lstat(store_path(self.directory, descriptor.relative_path))
        except system_error():
            return False
        return is_as_committed(found, committed)

    def holds(self, write: PlannedWrite) -> bool:
        """Return whether the file is, byte for byte, what the batch writes."""
        try:
            return self.found_hash(StoreFile.of(write)) == write.content_hash
        except system_error():
            return False

    def is_gone(self, deletion: PlannedDeletion) -> bool:
        """Return whether the store has no file any more."""
        try:
            return self.found_hash(StoreFile.of(deletion)) is None
        except system_error():
            return False

    def found_hash(self, file: StoreFile) -> str | None:
        """Return the hash of a store's file, or None when there is no file. Raises OSError when the
        file cannot be read: its content is then unknown."""
        try:
            found, _ = self.fs.read(store_path(self.directory, file.relative_path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content_hash(found)

    def entries(self, names: Sequence[str]) -> Mapping[str, ManifestEntry]:
        """Return the entries of stores, by name. Omit a store that was never written."""
        return self.database.read(lambda connection: manifest.load_entries(connection, names))
