"""Finishes a batch whose receipts call it committed while the manifest does not count it yet.

A legacy writer writes the files, then the receipts, then the manifest. Whoever reads the receipts
of one that died before the manifest is told that the batch is committed. Where the files hold what
the receipts name, that is so, and the import finishes the batch.
"""

from __future__ import annotations

from rtstore.legacy.control_files import ControlFiles
from rtstore.legacy.format import LegacyBatch, entry_of
from rtstore.legacy.report import ImportedStore, StoreOutcome
from rtstore.model.records import BatchState

_HOLDS = (StoreOutcome.CONTENT_TAKEN, StoreOutcome.NOT_A_STORE_FILE)


def uncounted_batch(files: ControlFiles) -> LegacyBatch | None:
    """Return the batch that only the receipts call committed, or None."""
    ids = [batch.batch_id for batch in files.batches]
    preparing, last = files.manifest.last_preparing_batch_id, files.manifest.last_committed_batch_id
    if preparing not in ids or (last in ids and ids.index(last) >= ids.index(preparing)):
        return None
    batch = files.batches[ids.index(preparing)]
    return batch if batch.state is BatchState.COMMITTED else None


def finished(files: ControlFiles, batch: LegacyBatch) -> ControlFiles | None:
    """Return the control files as they are when the manifest counts the batch. Return None when an
    entry of another store has the file of a receipt.

    The active identity is that of the batch, unless the manifest was changed after it: a legacy
    runtime sets the active run without a batch too.
    """
    manifest, completed_at = files.manifest, batch.completed_at
    assert completed_at is not None  # noqa: S101 - checked when the receipts were read
    entries = {entry.schema_name: entry for entry in manifest.entries}
    entries |= {receipt.schema_name: entry_of(receipt) for receipt in batch.receipts}
    if len({entry.relative_path.casefold() for entry in entries.values()}) < len(entries):
        return None
    update = {
        "entries": tuple(entries.values()),
        "high_watermark": manifest.high_watermark + 1,
        "last_committed_batch_id": batch.batch_id,
        "last_preparing_batch_id": None,
    }
    if manifest.updated_at <= completed_at:
        update |= {
            "active_run_id": batch.run_id,
            "active_capability_snapshot_id": batch.capability_snapshot_id,
            "active_behavior_fingerprint": batch.behavior_fingerprint,
            "updated_at": completed_at,
        }
    counted = batch
    if batch.is_numbered:
        counted = batch.model_copy(update={"high_watermark": manifest.high_watermark + 1})
    return files.model_copy(
        update={
            "manifest": manifest.model_copy(update=update),
            "batches": tuple(counted if each is batch else each for each in files.batches),
        }
    )


def holds(batch: LegacyBatch, stores: list[ImportedStore]) -> bool:
    """Return whether every file is what the receipts of the batch name. `stores` are those of the
    finished control files."""
    found = {store.schema_name: store.outcome for store in stores}
    return all(found.get(receipt.schema_name) in _HOLDS for receipt in batch.receipts)
