"""Writes the rows of an import from the control files of the legacy format.

Some values are not in the legacy format, and are derived:

* The high watermark of a committed batch: the manifest's belongs to the batch that it names as
  committed last, and the batches before it are counted back from there. It stays empty where the
  count falls below 1, and for batches that the manifest does not count.
* The batch of an entry whose receipt is not in the receipts file: every entry needs the row of the
  batch that wrote it, so one committed batch of reason `migration` stands for all of these. It is
  the newest row, it is not counted in the high watermark, and its writes have the receipt ids and
  the modification times of their entries.
* A receipt, a size or a time that an entry does not know. An entry without a hash is not imported:
  it says of no content that it is committed.
* The state of a batch in the legacy state `committing`: it is imported as `preparing`. Here
  `committing` means that recovery has decided to complete the batch from the log, and an imported
  batch has no log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, update

from rtstore.control import batches, contents, manifest, runs
from rtstore.control.schema import runtime_manifest
from rtstore.legacy.control_files import ControlFiles
from rtstore.legacy.ended_runs import with_tombstones
from rtstore.legacy.format import LegacyBatch, LegacyEntry, LegacyReceipt
from rtstore.model.descriptors import Descriptor
from rtstore.model.records import (
    Batch,
    BatchOrigin,
    BatchReason,
    BatchState,
    Manifest,
    ManifestEntry,
    PlannedDeletion,
    PlannedWrite,
)
from rtstore.model.times import format_time, to_utc_ms

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write_rows(
    connection: Connection,
    files: ControlFiles,
    descriptors: Iterable[Descriptor],
    content_of: Mapping[str, bytes],
    *,
    imported_at: datetime,
    stand_in_id: str | None,
) -> None:
    """Write all rows into empty tables, in the caller's transaction.

    `content_of` has the bytes of the stores whose files match their entries. `stand_in_id` is the
    id of the batch that stands for lost receipts, None when there are none.
    """
    _write_manifest(connection, files, imported_at)
    manifest.save_descriptors(connection, descriptors)
    batch_of: dict[str, int] = {}  # by receipt id
    for batch, high_watermark in zip(files.batches, high_watermarks(files), strict=True):
        number = batches.insert_batch(connection, _batch(batch, high_watermark))
        batches.insert_writes(connection, number, _writes(batch))
        batches.insert_deletions(connection, number, _deletions(batch))
        batch_of.update({receipt.receipt_id: number for receipt in batch.receipts})
    if stand_in_id is not None:
        lost = files.entries_without_receipt
        number = batches.insert_batch(connection, _stand_in(stand_in_id, files, imported_at))
        ids = {entry.receipt_id for entry in lost}
        stand_in = (item for item in _written(files, content_of) if item.receipt_id in ids)
        batches.insert_writes(connection, number, _at_their_positions(stand_in))
        batch_of.update({entry.receipt_id: number for entry in lost})
    entries = [
        _entry(written, entry, batch_of[entry.receipt_id])
        for entry, written in zip(files.entries, _written(files, content_of), strict=True)
    ]
    manifest.insert_entries(connection, entries)
    found = runs.runs_of_batches(connection, imported_at)
    runs.insert_runs(connection, with_tombstones(found, files.tombstones, imported_at))
    for entry in entries:
        if entry.schema_name in content_of:
            content = {entry.schema_name: content_of[entry.schema_name]}
            contents.insert_contents(connection, {entry.batch_number: content})


def high_watermarks(files: ControlFiles) -> list[int | None]:
    """Return for each batch the number of committed batches up to it, or None when it is
    unknown."""
    numbers: list[int | None] = []
    next_number: int | None = None
    for batch in reversed(files.batches):
        committed = batch.state is BatchState.COMMITTED
        if batch.is_numbered:
            numbers.append(batch.high_watermark if committed else None)
            continue
        if committed and batch.batch_id == files.manifest.last_committed_batch_id:
            next_number = files.manifest.high_watermark
        counted = committed and next_number is not None and next_number >= 1
        numbers.append(next_number if counted else None)
        if counted and next_number is not None:
            next_number -= 1
    return numbers[::-1]


def _write_manifest(connection: Connection, files: ControlFiles, imported_at: datetime) -> None:
    theirs = files.manifest
    ours = Manifest(
        team_name=theirs.team_name,
        active_run_id=theirs.active_run_id,
        active_capability_snapshot_id=theirs.active_capability_snapshot_id,
        active_behavior_fingerprint=theirs.active_behavior_fingerprint,
        high_watermark=theirs.high_watermark,
        last_committed_batch_id=theirs.last_committed_batch_id,
        last_preparing_batch_id=theirs.last_preparing_batch_id,
        last_recovery_plan_id=theirs.last_recovery_plan_id,
        updated_at=theirs.updated_at,
    )
    manifest.insert_manifest(connection, ours)
    connection.execute(
        update(runtime_manifest).values(
            imported_at=format_time(imported_at), imported_hash=files.content_hash
        )
    )


def _entry(written: PlannedWrite, entry: LegacyEntry, batch_number: int) -> ManifestEntry:
    return ManifestEntry(
        schema_name=written.schema_name,
        schema_version=written.schema_version,
        relative_path=written.relative_path,
        content_hash=written.content_hash,
        file_size=written.file_size,
        mtime_ns=written.mtime_ns,
        run_id=entry.run_id,
        capability_snapshot_id=entry.capability_snapshot_id,
        behavior_fingerprint=entry.behavior_fingerprint,
        last_write_receipt_id=written.receipt_id,
        state=entry.state.ours,
        batch_number=batch_number,
    )


def _batch(batch: LegacyBatch, high_watermark: int | None) -> Batch:
    committing = batch.state is BatchState.COMMITTING
    return Batch(
        batch_number=0,  # the database assigns it
        batch_id=batch.batch_id,
        team_name=batch.team_name,
        run_id=batch.run_id,
        capability_snapshot_id=batch.capability_snapshot_id,
        behavior_fingerprint=batch.behavior_fingerprint,
        reason=batch.own_reason or batch.reason,
        state=BatchState.PREPARING if committing else batch.state,
        origin=BatchOrigin.IMPORTED,
        high_watermark=high_watermark,
        started_at=batch.started_at,
        completed_at=batch.completed_at,
        last_error=batch.last_error,
    )


def _stand_in(batch_id: str, files: ControlFiles, imported_at: datetime) -> Batch:
    return Batch(
        batch_number=0,
        batch_id=batch_id,
        team_name=files.manifest.team_name,
        run_id=None,
        capability_snapshot_id=None,
        behavior_fingerprint=None,
        reason=BatchReason.MIGRATION,
        state=BatchState.COMMITTED,
        origin=BatchOrigin.IMPORTED,
        started_at=imported_at,
        completed_at=imported_at,
    )


def _writes(batch: LegacyBatch) -> Iterator[PlannedWrite]:
    for position, receipt in enumerate(batch.receipts):
        yield _write(receipt, position)


def _deletions(batch: LegacyBatch) -> Iterator[PlannedDeletion]:
    for position, deletion in enumerate(batch.deletions, start=len(batch.receipts)):
        yield PlannedDeletion(
            position=position,
            schema_name=deletion.schema_name,
            schema_version=deletion.schema_version,
            relative_path=deletion.relative_path,
            content_hash=deletion.content_hash,
            receipt_id=deletion.receipt_id,
            deleted_at=deletion.deleted_at,
        )


def _written(files: ControlFiles, content_of: Mapping[str, bytes]) -> Iterator[PlannedWrite]:
    """Yield each entry as a write. A size or a time that it does not know is that of its receipt,
    or else the size of its content, and the time of the manifest."""
    receipts = {item.receipt_id: item for batch in files.batches for item in batch.receipts}
    unknown_ns = int(files.manifest.updated_at.timestamp() * 1000) * 1_000_000
    for entry in files.entries:
        assert entry.content_hash is not None  # noqa: S101 - `entries` has only those
        receipt = receipts.get(entry.receipt_id)
        size, mtime_ns = entry.file_size, entry.mtime_ns
        if size is None:
            content = content_of.get(entry.schema_name, b"")
            size = len(content) if receipt is None else receipt.file_size
        if mtime_ns is None:
            mtime_ns = unknown_ns if receipt is None else receipt.mtime_ns
        yield PlannedWrite(
            position=0,
            schema_name=entry.schema_name,
            schema_version=entry.schema_version,
            relative_path=entry.relative_path,
            content_hash=entry.content_hash,
            file_size=size,
            mtime_ns=mtime_ns,
            receipt_id=entry.receipt_id,
            written_at=to_utc_ms(_EPOCH + timedelta(microseconds=mtime_ns // 1000)),
        )


def _at_their_positions(writes: Iterable[PlannedWrite]) -> Iterator[PlannedWrite]:
    for position, write in enumerate(writes):
        yield write.model_copy(update={"position": position})


def _write(receipt: LegacyReceipt, position: int) -> PlannedWrite:
    return PlannedWrite(
        position=position,
        schema_name=receipt.schema_name,
        schema_version=receipt.schema_version,
        relative_path=receipt.relative_path,
        content_hash=receipt.content_hash,
        file_size=receipt.file_size,
        mtime_ns=receipt.mtime_ns,
        receipt_id=receipt.receipt_id,
        written_at=receipt.written_at,
    )
