"""What the files of an export say: manifest, receipts, and the list of ended runs.

What the legacy format has no place for is stored in additional keys, which legacy programs do not
read: the exact time of a file (`mtimeNs`), a batch's high watermark, its reason if that is the
runtime's own (`ownReason`), what it deleted (`deletions`), how a run ended. What they would refuse
is set aside in the envelopes: a failed batch would block their readiness forever, and a manifest
that names a store of one's own is no manifest to them. An import reads all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pydantic_core

from rtstore.control import batches
from rtstore.control.runs import NOT_ACTIVE
from rtstore.legacy.control_files import (
    OUR_KEY,
    RECEIPTS_NAME,
    SCHEMA_VERSION,
    UNAMBIGUOUS_MANIFEST,
)
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.model.records import (
    Batch,
    BatchReason,
    BatchState,
    Manifest,
    PlannedWrite,
    Record,
)
from rtstore.model.runs import RunRecord, RunState
from rtstore.model.times import format_time

_KNOWN = {descriptor.schema_name for descriptor in KNOWN_DESCRIPTORS}
STANDS_FOR_OWN = BatchReason.LAUNCH_CHECKPOINT
"""The reason that legacy programs read of a batch whose reason is the runtime's own."""
_REASON = "relaunch_started"
_EVIDENCE = (
    "bootstrap_checkin", "bridge_result", "delivery_call", "heartbeat", "launch_checkpoint",
    "permission_reply", "prompt_error", "recovery_result", "sse_event",
)  # fmt: skip
"""Everything that a legacy runtime refuses of a run that is dead."""


class Exported(Record):
    """Everything to export, as of one moment."""

    manifest: Manifest
    batches: tuple[tuple[Batch, tuple[PlannedWrite, ...]], ...]
    runs: tuple[RunRecord, ...]
    """The latest first."""

    def has_store_at(self, relative_path: str) -> bool:
        """Return whether a store has this file."""
        return any(entry.relative_path == relative_path for entry in self.manifest.entries)


def stores_set_aside(current: Manifest) -> list[str]:
    """Return the committed stores that legacy programs do not know."""
    return [entry.schema_name for entry in current.entries if entry.schema_name not in _KNOWN]


def own_reasons(state: Exported) -> list[str]:
    """Return the reasons of batches that legacy programs do not know, in the order of their use."""
    reasons = dict.fromkeys(str(batch.reason) for batch, _ in state.batches)
    return [reason for reason in reasons if is_own_reason(reason)]


def is_own_reason(reason: str) -> bool:
    """Return whether a reason is one of the runtime's own."""
    return reason not in frozenset(BatchReason)


def control_files(state: Exported, manifest_names: Iterable[str]) -> dict[str, bytes]:
    """Return manifest and receipts by name, in the order of writing. The manifest is last, because
    it says what is committed."""
    receipts = _envelope(state, _receipts(state), _aside_of_receipts(state))
    entries = _manifest(state.manifest)
    aside = [entry for entry in entries["entries"] if entry["schemaName"] not in _KNOWN]
    entries["entries"] = [entry for entry in entries["entries"] if entry not in aside]
    manifest_file = _envelope(state, entries, {"entries": aside} if aside else {})
    names = sorted(manifest_names, key=UNAMBIGUOUS_MANIFEST.__eq__)
    return {RECEIPTS_NAME: receipts, **dict.fromkeys(names, manifest_file)}


def with_ended_runs(found: bytes | None, state: Exported) -> bytes | None:
    """Return the list of ended runs with those that it does not know, or None when it knows all.

    A run is not added that an import finds to have ended anyway. A list that makes no sense is
    replaced.
    """
    document = _list_in(found)
    known = {item.get("runId") for item in document["data"] if isinstance(item, dict)}
    ended = [run for run in _ended_runs(state) if run.run_id not in known]
    if not ended:
        return None
    document["data"] += [_tombstone(run, state) for run in reversed(ended)]
    document["updatedAt"] = format_time(state.manifest.updated_at)
    return _encoded(document)


def _list_in(found: bytes | None) -> dict[str, Any]:
    document: Any = None
    with suppress(ValueError):
        document = None if found is None else pydantic_core.from_json(found)
    if isinstance(document, list):
        document = {"data": document}
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        document = {"data": []}
    return {"schemaVersion": SCHEMA_VERSION, "updatedAt": "", **document}


def _ended_runs(state: Exported) -> list[RunRecord]:
    stopped = {
        batch.run_id
        for batch, _ in state.batches
        if batch.state is BatchState.COMMITTED and batch.reason == BatchReason.STOP_TOMBSTONE
    }
    return [
        run
        for run in state.runs
        if run.state is RunState.ENDED and run.run_id not in stopped and run.why != NOT_ACTIVE
    ]


def _tombstone(run: RunRecord, state: Exported) -> dict[str, Any]:
    ours = run.model_dump(mode="json", by_alias=True, include={"ending", "why", "began_at"})
    return {
        "tombstoneId": f"rtstore-run-tombstone-{run.run_id}",
        "teamName": state.manifest.team_name,
        "runId": run.run_id,
        "reason": _REASON,
        "evidenceKinds": list(_EVIDENCE),
        "createdAt": format_time(run.ended_at or state.manifest.updated_at),
        "expiresAt": None,
        "diagnostic": run.why,
        OUR_KEY: ours,
    }


def _envelope(state: Exported, data: object, ours: dict[str, Any]) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "updatedAt": format_time(state.manifest.updated_at),
        "data": data,
    }
    if ours:
        document[OUR_KEY] = ours
    return _encoded(document)


def _encoded(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _manifest(current: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = current.model_dump(mode="json", by_alias=True)
    for entry in document["entries"]:
        del entry["batchNumber"]  # not in the legacy format; the receipt identifies the batch
    return document


def _receipts(state: Exported) -> list[dict[str, Any]]:
    return [
        _batch(batch, [write for write in writes if write.schema_name in _KNOWN])
        for batch, writes in state.batches
        if batch.state is not BatchState.FAILED
    ]


def _aside_of_receipts(state: Exported) -> dict[str, Any]:
    failed = [
        {"position": position, "batch": _batch(*each)}
        for position, each in enumerate(state.batches)
        if each[0].state is BatchState.FAILED
    ]
    receipts = [
        {"batchId": batch.batch_id, "position": position, "receipt": _receipt(batch, write)}
        for batch, writes in state.batches
        for position, write in enumerate(writes)
        if batch.state is not BatchState.FAILED and write.schema_name not in _KNOWN
    ]
    found: dict[str, Any] = {"failedBatches": failed, "receipts": receipts}
    return {key: value for key, value in found.items() if value}


def _batch(batch: Batch, writes: Iterable[PlannedWrite]) -> dict[str, Any]:
    document: dict[str, Any] = batch.model_dump(
        mode="json", by_alias=True, exclude={"batch_number", "origin", "receipts"}
    )
    if not batch.deletions:
        del document["deletions"]
    if is_own_reason(batch.reason):
        document |= {"reason": STANDS_FOR_OWN.value, "ownReason": batch.reason}
    document["receipts"] = [_receipt(batch, write) for write in writes]
    return document


def _receipt(batch: Batch, write: PlannedWrite) -> dict[str, Any]:
    receipt_of: Callable[[Batch, PlannedWrite], Record] = batches.receipt_of
    return receipt_of(batch, write).model_dump(mode="json", by_alias=True)
