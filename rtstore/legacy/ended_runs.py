"""Merges the runs of imported batches with those that the tombstones of the legacy format end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rtstore.legacy.format import Tombstone
from rtstore.model.runs import RunRecord, RunState


def with_tombstones(
    found: Sequence[RunRecord], tombstones: Iterable[Tombstone], at: datetime
) -> list[RunRecord]:
    """Return the runs, the earliest first, with each run of a tombstone ended.

    The earliest of several tombstones of a run counts. `at` stands for a time that is not known.
    A run that wrote no batch here goes before the last one that did, so that run stays the last.
    """
    tombstone_of: dict[str, Tombstone] = {}
    for tombstone in sorted(tombstones, key=lambda item: item.time or at):
        tombstone_of.setdefault(tombstone.run_id, tombstone)
    merged = [
        _ended(run, tombstone_of.pop(run.run_id), at) if run.run_id in tombstone_of else run
        for run in found
    ]
    for run_id, tombstone in tombstone_of.items():
        began_at = tombstone.time or at
        run = RunRecord(run_id=run_id, state=RunState.ACTIVE, began_at=began_at)
        if tombstone.ours is not None:
            run = run.model_copy(update={"began_at": tombstone.ours.began_at})
        place = next(
            (place for place, other in enumerate(merged) if other.began_at > began_at),
            max(0, len(merged) - 1) if found else len(merged),
        )
        merged.insert(place, _ended(run, tombstone, at))
    return merged


def _ended(run: RunRecord, tombstone: Tombstone, at: datetime) -> RunRecord:
    return run.model_copy(
        update={
            "state": RunState.ENDED,
            "ending": tombstone.ending,
            "ended_at": tombstone.time or run.ended_at or at,
            "why": tombstone.why,
            "superseded_by": None,
        }
    )
