"""Takes the open batches of a damaged database forward, as an opening of a sound one would.

A batch that is in the log whole is decided: it is there as a whole afterwards, or not at all. Pure:
what was read goes in, and what would have been committed comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rtstore.control.runs import STOPPED
from rtstore.model.records import (
    Batch,
    BatchReason,
    InspectionState,
    LoggedBatch,
    ManifestEntry,
    PlannedChange,
    PlannedWrite,
    RunIdentity,
)
from rtstore.model.runs import RunEnding, RunRecord, RunState

ContentOf = Callable[[LoggedBatch, PlannedWrite], bytes | None]


def whole_batches(open_batches: Iterable[LoggedBatch], content_of: ContentOf) -> list[LoggedBatch]:
    """Return the open batches that can be completed, oldest first. Of each store only the last
    version is needed."""
    going = [logged for logged in open_batches if logged.has_contents]
    while True:
        lacking = next(
            (
                logged
                for logged, change in last_changes(going).values()
                if isinstance(change, PlannedWrite) and content_of(logged, change) is None
            ),
            None,
        )
        if lacking is None:
            return going
        going.remove(lacking)


def last_changes(going: Iterable[LoggedBatch]) -> dict[str, tuple[LoggedBatch, PlannedChange]]:
    """Return what batches do last to each store, by its name."""
    return {change.schema_name: (logged, change) for logged in going for change in logged.changes}


def entry_of(batch: Batch, write: PlannedWrite, before: ManifestEntry | None) -> ManifestEntry:
    """Return the entry of a store once a batch is completed. A batch of no run leaves the identity
    as it was."""
    own = batch if batch.run_id is not None else before
    return entry_under(own, write, batch.batch_number)


def entry_under(
    own: Batch | ManifestEntry | RunIdentity | None, write: PlannedWrite, batch_number: int
) -> ManifestEntry:
    """Return the entry that a write makes, under the identity that something has."""
    return ManifestEntry(
        schema_name=write.schema_name,
        schema_version=write.schema_version,
        relative_path=write.relative_path,
        content_hash=write.content_hash,
        file_size=write.file_size,
        mtime_ns=write.mtime_ns,
        run_id=own.run_id if own else None,
        capability_snapshot_id=own.capability_snapshot_id if own else None,
        behavior_fingerprint=own.behavior_fingerprint if own else None,
        last_write_receipt_id=write.receipt_id,
        state=InspectionState.HEALTHY,
        batch_number=batch_number,
    )


def identity_after(
    identity: RunIdentity | None, going: Iterable[LoggedBatch]
) -> RunIdentity | None:
    """Return the active identity once batches are completed."""
    for logged in going:
        batch = logged.batch
        if batch.run_id is not None:
            identity = RunIdentity(
                run_id=batch.run_id,
                capability_snapshot_id=batch.capability_snapshot_id,
                behavior_fingerprint=batch.behavior_fingerprint,
            )
    return identity


def runs_after(known: Sequence[RunRecord], going: Iterable[LoggedBatch]) -> tuple[RunRecord, ...]:
    """Return the runs, oldest first, once batches have begun or ended them; see
    `rtstore.control.runs.complete`."""
    found = {run.run_id: run for run in known}
    for logged in going:
        run_id, at = logged.batch.run_id, logged.logged_at
        if run_id is None or (run_id in found and found[run_id].is_over):
            continue
        for name, run in found.items():
            if run.state is RunState.ACTIVE and name != run_id:
                over = {"state": RunState.SUPERSEDED, "superseded_by": run_id, "ended_at": at}
                found[name] = run.model_copy(update=over)
        beginning = RunRecord(
            run_id=run_id,
            state=RunState.ACTIVE,
            began_at=at,
            begun_by_batch=logged.batch.batch_id,
        )
        run = found.get(run_id, beginning).model_copy(update={"state": RunState.ACTIVE})
        if logged.batch.reason == BatchReason.STOP_TOMBSTONE:
            end = {"state": RunState.ENDED, "ending": RunEnding.STOPPED, "ended_at": at}
            run = run.model_copy(update={**end, "why": STOPPED})
        found[run_id] = run
    return tuple(found.values())
