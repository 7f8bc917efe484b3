"""The commit protocol: several store files written as one batch, all there or not at all.

    1 validate   the request, the paths, the data; nothing is touched
    2 lock       the writer lock; finish what a dead writer left; keep evidence of foreign files
    3 log        batch, planned writes and contents in one flushed SQL transaction  <- commit point
    4 publish    each file: a temporary file beside it, renamed over it; no flush
    5 seal       entries, identity, high watermark, state `committed`; no flush
    6 unlock     and return the batch with its receipts

**Must** hold, or data is lost: contents and planned writes are durable before the first rename; a
`preparing` batch goes forward, never back, unless its living writer recorded it as failed; a batch
marked failed never comes back; the content of every current entry stays in the database; no file
that differs from what is committed is destroyed without its copy in quarantine. **Should** hold,
and is repaired when not: temporary files are gone, files are on disk, old history is gone.

What a crash leaves, and what then happens:

* before 3, or in 3: no row of the batch. Files and manifest are as before; nothing to do. (Evidence
  kept in step 2 may lie in quarantine without its row; the same bytes get the same name again.)
* between 3 and 4, or between two renames: the batch is `preparing`; some files are new. The planner
  sees an open batch whose lock is free: `roll_forward` for each of its stores, readiness blocked.
  Opening the store publishes the rest from the log and seals.
* after the last rename, or in 5: as above; the files are already right, so only the seal is made.
* after 5, power lost, the un-flushed seal gone: the log was flushed, so the batch is `preparing`
  again and is sealed again, with the ids and times that the caller was told.
* after 5, power lost, the seal kept (a later batch's flush took it along), files lost or torn: a
  current file's hash is wrong. The planner sees `missing`, `quarantined`, or what an earlier batch
  wrote: `restore_committed`, done when the store is opened, from the content in the database.

Errors while the writer lives: publishing fails -> the batch is recorded as failed, durably, then
what was published is put back (`BatchFailedError`). The database fails after the commit point ->
`BatchUnfinishedError`, the outcome is decided. The flush of the log fails -> nobody knows what is
on the medium: `BatchUnfinishedError` with `decided=False`, and this process writes no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from rtstore.adoption import read_for_adoption
from rtstore.database import batches, contents, manifest, recovery_log
from rtstore.database.batches import ReceiptStore
from rtstore.database.contents import Retention
from rtstore.database.manifest import ManifestHead, ManifestStore
from rtstore.descriptors import Descriptor
from rtstore.draft import BatchRequest, Draft, StoreWrite, check_id, validate
from rtstore.envelope import EncodedStore, decode
from rtstore.errors import (
    BatchFailedError,
    BatchUnfinishedError,
    ConflictError,
    DatabaseFailedError,
    InvalidRequestError,
    RuntimeStoreError,
    StorageError,
    WrongTeamError,
    cause_of,
)
from rtstore.files.paths import check_target, store_path
from rtstore.files.system import FileSystem
from rtstore.ids import IdFactory, new_batch_id, new_receipt_id
from rtstore.left_over import finish_left_over
from rtstore.lock import WriterLock
from rtstore.publication import Durability, Publisher, StoreFile
from rtstore.records import (
    Batch,
    BatchReason,
    BatchState,
    LoggedBatch,
    ManifestEntry,
    PlannedWrite,
    QuarantinedFile,
    RunIdentity,
)
from rtstore.times import Clock, to_utc_ms, utc_now


class _Found(NamedTuple):
    """What is committed, as found under the lock."""

    head: ManifestHead
    entries: Mapping[str, ManifestEntry]


class BatchWriter:
    """Writes batches into one runtime directory. Safe to share between threads.

    The factories make the ids of batches and receipts, the clock gives their times; both are part
    of what is written, and tests inject them.
    """

    def __init__(
        self,
        directory: Path,
        manifest_store: ManifestStore,
        receipt_store: ReceiptStore,
        *,
        batch_id_factory: IdFactory = new_batch_id,
        receipt_id_factory: IdFactory = new_receipt_id,
        clock: Clock = utc_now,
        lock: WriterLock | None = None,
        durability: Durability = Durability.LOG,
        retention: Retention | None = None,
        fs: FileSystem | None = None,
    ) -> None:
        self.directory = directory
        self.database = manifest_store.database
        self.receipt_store = receipt_store
        self.lock = lock or WriterLock(directory)
        self.publisher = Publisher(
            directory,
            self.database,
            clock=clock,
            durability=durability,
            retention=retention,
            fs=fs,
        )
        self._batch_id_factory = batch_id_factory
        self._receipt_id_factory = receipt_id_factory
        self._clock = clock

    def write_batch(
        self,
        request: BatchRequest,
        *,
        expected_high_watermark: int | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Write all stores of the request as one batch; gives it with its receipts.

        Durable when it returns: the batch survives the death of the process and a loss of power.
        The files are in place; they are flushed only with `Durability.FILES`.

        With `expected_high_watermark` the batch is written only while the manifest is there
        (compare and swap). With a `batch_id` that was committed before, the first result is given
        back when the contents are the same.

        Raises `CallError` for a bad request (nothing written), `ConflictError`, `LockTimeoutError`,
        `StorageError`, `BatchFailedError` (undone), `NewerStoreFileError`, `BatchUnfinishedError`
        (in the log, or perhaps so), `DatabaseFailedError`.
        """
        draft = validate(request, batch_id, self._now())
        self._check_targets(draft)
        with self.lock.hold():
            found = self._look(draft.names)
            return self._already_written(draft) or self._write(
                draft, found, expected_high_watermark
            )

    def update(
        self,
        descriptor: Descriptor,
        change: Callable[[Any], Any],
        *,
        team_name: str,
        identity: RunIdentity,
        reason: BatchReason,
        check_current: Callable[[], None] | None = None,
    ) -> Batch:
        """Read, change and write one store under the writer lock: no update is lost.

        `change` gets the committed data (None before the first) and gives the new data. It runs
        under the lock, so it should be quick, and it must not write to the store itself. What it
        raises comes out unchanged, and nothing is written. Otherwise as `write_batch`.
        """
        name = descriptor.schema_name
        with self.lock.hold():
            found = self._look([name])
            if check_current is not None:
                check_current()
            current = self.database.read_as_writer(
                lambda connection: contents.current_contents(connection, [name])
            )
            data = change(decode(current[name]).data if name in current else None)
            if data is None:
                raise InvalidRequestError(
                    "change", "the function returned None: it must return the new data", store=name
                )
            request = BatchRequest(
                team_name=team_name,
                identity=identity,
                reason=reason,
                writes=(StoreWrite(descriptor=descriptor, data=data),),
            )
            return self._write(validate(request, None, self._now()), found, None)

    def check(self, request: BatchRequest) -> None:
        """Raise what `write_batch` would raise for the request itself; nothing is touched."""
        validate(request, None, self._now())

    def adopt(
        self,
        descriptor: Descriptor,
        *,
        team_name: str,
        identity: RunIdentity,
        reason: BatchReason,
    ) -> Batch:
        """Make a file that was changed by hand the committed content, byte for byte.

        It must pass what a write must pass: its data, and its schema version. Raises
        `InvalidRequestError` when it does not, when there is no file, or when it is what is
        committed already; otherwise as `write_batch`.
        """
        with self.lock.hold():
            found = self._look([descriptor.schema_name])
            content = read_for_adoption(
                self.directory,
                descriptor,
                found.entries.get(descriptor.schema_name),
                self.publisher.fs,
            )
            request = BatchRequest(
                team_name=team_name,
                identity=identity,
                reason=reason,
                writes=(StoreWrite(descriptor=descriptor, data=decode(content).data),),
            )
            draft = validate(request, None, self._now())
            draft.encoded = [(descriptor, EncodedStore.exactly(content))]
            self._check_manifest(draft, found.head, None)
            batch_id = check_id("batch_id_factory", self._batch_id_factory())
            logged, content_of = self._log(draft, batch_id, [])
            try:
                for write in logged.writes:
                    self.publisher.publish(write, content_of[write.schema_name])
            except OSError as error:
                # The file holds these bytes already: to fail and undo would take them from it.
                raise BatchUnfinishedError(batch_id, cause_of(error), decided=True) from error
            return self._seal(logged)

    def _now(self) -> datetime:
        try:
            return to_utc_ms(self._clock())
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidRequestError("clock", str(error)) from error

    # --- 2: lock, and look at what is there -------------------------------------------------------

    def _look(self, names: Sequence[str]) -> _Found:
        """What is committed for the stores about to be written, after what a dead writer left was
        rolled forward. We hold its lock, so it is dead."""

        def query(connection: Connection) -> tuple[_Found, tuple[LoggedBatch, ...]]:
            head = manifest.load_head(connection)
            entries = manifest.load_entries(connection, names)
            return _Found(head, entries), batches.load_open(connection)

        found, open_batches = self.database.read_as_writer(query)
        left = [logged for logged in open_batches if logged.has_contents]
        if not left:
            return found
        finish_left_over(left, self.publisher)
        return self.database.read_as_writer(query)[0]

    def _already_written(self, draft: Draft) -> Batch | None:
        """The first result of a batch that is written again under the same id."""
        if draft.batch_id is None:
            return None
        first = self.receipt_store.get(draft.batch_id)
        if first is None:
            return None
        if first.state is BatchState.FAILED:
            raise InvalidRequestError(
                "batch_id", f"batch {first.batch_id} failed before, and stays so: take a new id"
            )
        if not draft.repeats(first):
            raise InvalidRequestError(
                "batch_id",
                f"batch {first.batch_id} was written before with other contents: take a new id",
            )
        return first

    def _check_manifest(
        self, draft: Draft, head: ManifestHead, expected_high_watermark: int | None
    ) -> None:
        if head.team_name != draft.request.team_name:
            raise WrongTeamError(self.directory, draft.request.team_name, head.team_name)
        if expected_high_watermark not in (None, head.high_watermark):
            assert expected_high_watermark is not None  # noqa: S101 - the line above
            raise ConflictError("this batch", expected_high_watermark, head.high_watermark)

    def _keep_evidence(
        self, draft: Draft, entries: Mapping[str, ManifestEntry], batch_id: str
    ) -> list[QuarantinedFile]:
        """Copy what somebody else changed into quarantine. The rows are written with the log.

        All files are looked at before the first copy is made: an unsafe path or a newer file
        refuses the batch, and it leaves no trace then.
        """
        foreign = []
        for descriptor, _ in draft.encoded:
            file, entry = StoreFile.of(descriptor), entries.get(descriptor.schema_name)
            found = self.publisher.foreign_content(file, entry, trust_mtime=True)
            if found is not None:
                foreign.append((file, found))
        return [self.publisher.keep_copy(file, found, batch_id) for file, found in foreign]

    def _check_targets(self, draft: Draft) -> None:
        for descriptor, _ in draft.encoded:
            relative_path, name = descriptor.relative_path, descriptor.schema_name
            try:
                check_target(self.directory, relative_path, name, self.publisher.fs)
            except OSError as error:
                path = store_path(self.directory, relative_path)
                raise StorageError(path, "the file cannot be looked at", str(error)) from error

    # --- 3 to 5 -----------------------------------------------------------------------------------

    def _write(self, draft: Draft, found: _Found, expected_high_watermark: int | None) -> Batch:
        """The rest of step 2, and 3 to 5; the lock is held and no batch is open."""
        self._check_manifest(draft, found.head, expected_high_watermark)
        batch_id = draft.batch_id or check_id("batch_id_factory", self._batch_id_factory())
        evidence = self._keep_evidence(draft, found.entries, batch_id)
        logged, content_of = self._log(draft, batch_id, evidence)
        self._publish(logged, content_of, evidence)
        return self._seal(logged)

    def _log(
        self, draft: Draft, batch_id: str, evidence: Sequence[QuarantinedFile]
    ) -> tuple[LoggedBatch, dict[str, bytes]]:
        """Step 3. When the commit returns, the batch will happen; before it, nothing has."""
        written_at = self._now()
        content_of = {
            descriptor.schema_name: encoded.at(written_at) for descriptor, encoded in draft.encoded
        }
        writes = draft.plan(content_of, written_at, self._receipt_id_factory)
        batch = draft.new_batch(batch_id)
        try:
            with self.database.write(flush=True) as connection:
                self._check_ids(batch, writes, connection)
                number = batches.insert_batch(connection, batch)
                batches.insert_writes(connection, number, writes)
                contents.insert_contents(connection, number, content_of)
                recovery_log.record_evidence(connection, evidence)
                manifest.mark_preparing(connection, batch_id)
        except DatabaseFailedError:
            raise  # an earlier flush failed: nothing of this batch was even tried
        except RuntimeStoreError as error:
            if self.database.failure is not None:
                raise BatchUnfinishedError(batch_id, cause_of(error), decided=False) from error
            raise
        logged = LoggedBatch(
            batch=batch.model_copy(update={"batch_number": number}), writes=tuple(writes)
        )
        return logged, content_of

    def _publish(
        self,
        logged: LoggedBatch,
        content_of: dict[str, bytes],
        evidence: Sequence[QuarantinedFile],
    ) -> None:
        """Step 4. May fail; then the batch is recorded as failed and undone."""
        for write in logged.writes:
            try:
                self.publisher.publish(write, content_of[write.schema_name])
            except OSError as error:
                self._fail(logged, write, error, evidence)

    def _seal(self, logged: LoggedBatch) -> Batch:
        """Step 5. Must not fail the batch: its outcome was decided in step 3."""
        try:
            high_watermark = self.publisher.seal(logged)
        except RuntimeStoreError as error:
            raise BatchUnfinishedError(
                logged.batch.batch_id, cause_of(error), decided=True
            ) from error
        batch = logged.batch
        return batch.model_copy(
            update={
                "state": BatchState.COMMITTED,
                "high_watermark": high_watermark,
                "completed_at": logged.writes[0].written_at,
                "receipts": tuple(batches.receipt_of(batch, write) for write in logged.writes),
            }
        )

    def _fail(
        self,
        logged: LoggedBatch,
        write: PlannedWrite,
        cause: OSError,
        evidence: Sequence[QuarantinedFile],
    ) -> None:
        """Record the failure, then undo. Always raises."""
        batch_id = logged.batch.batch_id
        path = store_path(self.directory, write.relative_path)
        try:
            self.publisher.mark_failed(logged, f"{write.schema_name}: {cause}")
        except RuntimeStoreError as error:
            # Not recorded as failed, so it is still in the log, and goes forward. When the flush of
            # that record failed, it may be there all the same: then nobody knows.
            decided = self.database.failure is None
            raise BatchUnfinishedError(
                batch_id, f"{cause}; then {cause_of(error)}", decided=decided
            ) from cause
        try:
            self.publisher.undo(logged, evidence)
        except (OSError, RuntimeStoreError) as error:
            raise BatchFailedError(
                batch_id, write.schema_name, path, f"{cause}; then {cause_of(error)}", undone=False
            ) from cause
        raise BatchFailedError(
            batch_id, write.schema_name, path, str(cause), undone=True
        ) from cause

    # --- parts of step 3 ----------------------------------------------------------------------

    def _check_ids(
        self, batch: Batch, writes: Sequence[PlannedWrite], connection: Connection
    ) -> None:
        """Ids come from outside (factories, callers), so they are checked like any other input."""
        if batches.batch_id_is_known(connection, batch.batch_id):
            raise InvalidRequestError(
                "batch_id_factory", f"it made {batch.batch_id!r}, which is taken"
            )
        for write in writes:
            owner = manifest.path_owner(connection, write.relative_path)
            if owner not in (None, write.schema_name):
                raise InvalidRequestError(
                    "relative_path",
                    f"the file {write.relative_path} is that of store {owner}",
                    store=write.schema_name,
                )
        receipt_ids = [write.receipt_id for write in writes]
        taken = batches.known_receipts(connection, receipt_ids)
        if taken or len(set(receipt_ids)) < len(receipt_ids):
            raise InvalidRequestError(
                "receipt_id_factory", f"it made {(taken or receipt_ids)[0]!r}, which is taken"
            )
