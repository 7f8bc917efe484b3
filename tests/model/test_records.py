"""The domain as records: what they dump, what they refuse, how a batch may go on."""

from __future__ import annotations

from datetime import datetime, tzinfo
from itertools import product
from typing import NoReturn

import pytest
from pydantic import ValidationError

from rtstore.errors import InvalidRequestError
from rtstore.history.reader import Snapshot, StoreContent
from rtstore.model.records import (
    BATCH_TRANSITIONS,
    OPEN_STATES,
    ActionKind,
    Batch,
    BatchReason,
    BatchState,
    InspectionState,
    Manifest,
    ManifestEntry,
    Receipt,
    Record,
    RecoveryAction,
    RecoveryPlan,
    RunIdentity,
)
from tests.model.build import (
    IDENTITY,
    NOON,
    described,
    entry,
    finding,
    inspection,
    manifest,
    open_batch,
    plan_for,
)

RECEIPT = Receipt(
    receipt_id="receipt-1",
    batch_id="batch-1",
    schema_name="opencode.launchState",
    team_name="team-a",
    run_id="run-1",
    capability_snapshot_id="cap-1",
    behavior_fingerprint="behavior-1",
    schema_version=1,
    relative_path="launch-state.json",
    content_hash="sha256:00",
    file_size=10,
    mtime_ns=1_795_420_183_246_690_200,
    written_at=NOON,
)

# --- the legacy shape ----------------------------------------------------------------------------


def test_receipt_in_the_legacy_shape() -> None:
    """A receipt dumps in camelCase, with the legacy milliseconds beside the exact time."""
    assert RECEIPT.model_dump(mode="json", by_alias=True) == {
        "receiptId": "receipt-1",
        "batchId": "batch-1",
        "schemaName": "opencode.launchState",
        "teamName": "team-a",
        "runId": "run-1",
        "capabilitySnapshotId": "cap-1",
        "behaviorFingerprint": "behavior-1",
        "schemaVersion": 1,
        "relativePath": "launch-state.json",
        "contentHash": "sha256:00",
        "fileSize": 10,
        "mtimeNs": 1_795_420_183_246_690_200,
        "mtimeMs": 1_795_420_183_246.6902,
        "writtenAt": "2026-04-21T12:00:00.000Z",
    }


def test_mtime_in_milliseconds_under_either_name() -> None:
    """Milliseconds follow the spelling of the dump; an excluded time brings none of them."""
    item = entry(mtime_ns=1_500_000)
    assert item.model_dump()["mtime_ms"] == 1.5
    assert "mtimeMs" not in item.model_dump()
    assert item.model_dump(by_alias=True)["mtimeMs"] == 1.5
    assert not {"mtimeMs", "mtime_ms"} & set(item.model_dump(exclude={"mtime_ns"}))


def test_manifest_in_the_legacy_shape() -> None:
    """Every key of the legacy manifest is there, by its name."""
    dumped = manifest(entry()).model_dump(mode="json", by_alias=True)
    assert set(dumped) == {
        "schemaVersion",
        "teamName",
        "activeRunId",
        "activeCapabilitySnapshotId",
        "activeBehaviorFingerprint",
        "highWatermark",
        "lastCommittedBatchId",
        "lastPreparingBatchId",
        "entries",
        "lastRecoveryPlanId",
        "updatedAt",
    }
    assert dumped["entries"][0]["lastWriteReceiptId"] == "receipt-test.store"
    assert dumped["entries"][0]["state"] == "healthy"


def test_a_record_can_be_built_by_either_name() -> None:
    """Python names and JSON names build the same record."""
    by_alias = RunIdentity.model_validate(
        {"runId": "run-1", "capabilitySnapshotId": "cap-1", "behaviorFingerprint": "behavior-1"}
    )
    assert by_alias == IDENTITY


@pytest.mark.parametrize("record", [RECEIPT, entry(), manifest(entry()), open_batch("b", "s")])
def test_json_round_trip(record: Record) -> None:
    """A record that was dumped as JSON reads back as itself, derived keys and all."""
    kind = type(record)
    assert kind.model_validate_json(record.model_dump_json(by_alias=True)) == record
    assert kind.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (RECEIPT, "batch_id"),
        (entry(), "state"),
        (manifest(), "high_watermark"),
        (IDENTITY, "run_id"),
    ],
)
def test_records_are_frozen(record: Record, field: str) -> None:
    """Nobody changes a record that others hold."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(record, field, getattr(record, field))


def test_a_run_has_a_name() -> None:
    """A run identity without a run id is none."""
    with pytest.raises(InvalidRequestError):
        RunIdentity(run_id="")


# --- actions and plans --------------------------------------------------------------------------


def test_an_action_that_does_nothing_has_no_reason() -> None:
    """The key is left out, as the legacy runtime does, in every way of dumping."""
    action = RecoveryAction(kind=ActionKind.NONE, schema_name="opencode.launchState")
    assert action.model_dump(mode="json", by_alias=True) == {
        "kind": "none",
        "schemaName": "opencode.launchState",
    }
    assert "reason" not in action.model_dump_json()
    assert RecoveryAction.model_validate(action.model_dump()) == action


def test_a_plan_is_data() -> None:
    """A plan reads back from its JSON as an equal plan, so it can be printed, kept and compared."""
    made = plan_for(
        [described("test.a"), described("test.b"), described("test.c")],
        {
            "test.a": finding("test.a"),
            "test.b": finding("test.b", InspectionState.HASH_MISMATCH),
            "test.c": finding("test.c"),
        },
        open_batches=[open_batch("batch-2", "test.c")],
    )
    dumped = made.model_dump(mode="json", by_alias=True)
    assert dumped == {
        "planId": "plan-1",
        "teamName": "team-a",
        "runId": "run-1",
        "createdAt": "2026-04-21T12:00:00.000Z",
        "highWatermark": 1,
        "manifestHealthy": False,
        "readinessImpact": "blocked",
        "actions": [
            {"kind": "none", "schemaName": "test.a"},
            {"kind": "quarantine", "schemaName": "test.b", "reason": "hash_mismatch"},
            {
                "kind": "roll_forward",
                "schemaName": "test.c",
                "reason": "uncommitted_batch:batch-2",
            },
        ],
        "diagnostics": [
            "test.b is hash_mismatch",
            "Uncommitted runtime store batch detected: batch-2",
        ],
    }
    # The legacy format does not have what is stale in which part of its identity.
    theirs = made.model_copy(update={"expected": None, "stale_stores": ()})
    assert RecoveryPlan.model_validate_json(made.model_dump_json(by_alias=True)) == theirs
    assert RecoveryPlan.model_validate(dumped) == theirs


# --- looking things up --------------------------------------------------------------------------


def test_manifest_entry_by_name() -> None:
    """A manifest answers with the entry of a store, or None while nothing is committed for it."""
    one, two = entry("test.a"), entry("test.b")
    current = manifest(one, two)
    assert current.entry("test.b") is two
    assert current.entry("test.c") is None


@pytest.mark.parametrize(
    ("reason", "batch_id"),
    [
        (None, None),
        ("missing", None),
        ("uncommitted_batch", None),
        ("uncommitted_batch:batch-1", "batch-1"),
        ("uncommitted_batch:a:b", "a:b"),
    ],
)
def test_the_batch_of_an_action_in_the_legacy_format(
    reason: str | None, batch_id: str | None
) -> None:
    """The reason of the legacy format names the batch; our actions have it in a field as well."""
    action = RecoveryAction(kind=ActionKind.ROLL_FORWARD, schema_name="s", reason=reason)
    assert action.batch_id == batch_id
    dumped = action.model_dump(mode="json", by_alias=True)
    assert "batchId" not in dumped
    assert RecoveryAction.model_validate(dumped) == action


def test_active_identity() -> None:
    """The active identity is whole, or absent before the first batch."""
    assert manifest(active=IDENTITY).active_identity == IDENTITY
    assert manifest(active=None).active_identity is None


def test_snapshot_data() -> None:
    """A snapshot answers with the data of a store, or None where nothing is committed."""
    content = StoreContent(
        schema_name="test.a",
        schema_version=1,
        data={"n": 1},
        updated_at=NOON,
        content_hash="sha256:00",
        batch_id="batch-1",
        high_watermark=1,
        run_id="run-1",
        capability_snapshot_id=None,
        behavior_fingerprint=None,
    )
    snapshot = Snapshot(high_watermark=1, contents={"test.a": content})
    assert snapshot.data("test.a") == {"n": 1}
    assert snapshot.data("test.b") is None


def test_contents_of_a_logged_batch() -> None:
    """Planned writes are the contents of a batch; an imported one has none."""
    assert open_batch("batch-1", "test.a").has_contents
    assert not open_batch("batch-1").has_contents


def test_defaults_of_a_new_manifest() -> None:
    """Before the first batch nothing is active and nothing is committed."""
    fresh = Manifest(team_name="team-a", updated_at=NOON)
    assert (fresh.high_watermark, fresh.entries, fresh.active_run_id) == (0, (), None)
    assert inspection().state is ManifestEntry.model_fields["state"].default


# --- the life of a batch ------------------------------------------------------------------------

LEGAL = {
    (BatchState.PREPARING, BatchState.COMMITTED),
    (BatchState.PREPARING, BatchState.COMMITTING),
    (BatchState.PREPARING, BatchState.FAILED),
    (BatchState.COMMITTING, BatchState.COMMITTED),
    (BatchState.COMMITTING, BatchState.FAILED),
}


@pytest.mark.parametrize(("before", "after"), list(product(BatchState, BatchState)))
def test_batch_transitions(before: BatchState, after: BatchState) -> None:
    """Of all pairs of states exactly five are legal; nothing leaves committed or failed."""
    assert (after in BATCH_TRANSITIONS[before]) == ((before, after) in LEGAL)


def test_open_states_can_go_on() -> None:
    """A batch is open exactly while it may still change, and can then always be committed."""
    assert {state for state in BatchState if BATCH_TRANSITIONS[state]} == OPEN_STATES
    assert all(BatchState.COMMITTED in BATCH_TRANSITIONS[state] for state in OPEN_STATES)


def test_batch_reasons() -> None:
    """The reasons are those of the legacy format."""
    assert {reason.value for reason in BatchReason} == {
        "launch_checkpoint",
        "permission_reconcile",
        "delivery_commit",
        "host_lease_update",
        "compatibility_discovery",
        "stop_tombstone",
        "migration",
        "recovery",
    }
    with pytest.raises(ValidationError):
        Batch.model_validate({**open_batch("b").batch.model_dump(), "reason": "Because"})


class _Interrupting(tzinfo):
    """A time zone that is interrupted when it is asked."""

    interrupt = KeyboardInterrupt()

    def utcoffset(self, _: datetime | None) -> NoReturn:
        raise self.interrupt

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


def test_an_interrupt_while_a_record_is_dumped_passes_unchanged() -> None:
    """pydantic calls a function of ours for each time of a record; of what a signal handler raises
    there it makes an error of its own."""
    receipt = RECEIPT.model_copy(
        update={"written_at": datetime(2026, 4, 21, tzinfo=_Interrupting())}
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        receipt.model_dump(mode="json", by_alias=True)
    assert caught.value is _Interrupting.interrupt
