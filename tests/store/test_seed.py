"""The eight tests of the legacy format, one by one, through the public parts.

Names, ids and times are those of the source; what it compares is compared here, in the camelCase
of the dumps that its consumers read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    BatchReason,
    BatchRequest,
    BatchWriter,
    Database,
    Descriptor,
    FileInspector,
    Manifest,
    ManifestStore,
    ReceiptStore,
    RecoveryPlan,
    RecoveryPlanner,
    RunIdentity,
    RuntimeStore,
    StoreWrite,
    build_readiness,
    default_manifest,
    validate_invariants,
)
from rtstore.model.records import Record
from rtstore.testing import Seams
from tests.support import NOON, NOON_TEXT, TEAM, Ids

EXPECTED = RunIdentity(
    run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="behavior-1"
)


@dataclass(frozen=True)
class ControlPlane:
    """The parts of one runtime directory, composed as the legacy runtime composes its own."""

    manifest_store: ManifestStore
    receipt_store: ReceiptStore
    writer: BatchWriter
    planner: RecoveryPlanner

    def write(self, run_id: str, *writes: tuple[str, Any]) -> dict[str, Any]:
        """Write a launch checkpoint; return the batch as its consumers read it."""
        request = BatchRequest(
            team_name=TEAM,
            identity=EXPECTED.model_copy(update={"run_id": run_id}),
            reason=BatchReason.LAUNCH_CHECKPOINT,
            writes=tuple(
                StoreWrite(descriptor=descriptor(name), data=data) for name, data in writes
            ),
        )
        return dump(self.writer.write_batch(request))

    def plan(self) -> RecoveryPlan:
        """The recovery plan for run-1."""
        return self.planner.build_plan(team_name=TEAM, expected=EXPECTED)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The control database of a new runtime directory."""
    with RuntimeStore.open(tmp_path, team_name=TEAM, seams=Seams(clock=lambda: NOON)) as store:
        yield store.database


Compose = Callable[..., ControlPlane]


@pytest.fixture
def control_plane(tmp_path: Path, database: Database) -> Compose:
    """Composes a control plane for some descriptors."""

    def compose(descriptors: Iterable[Descriptor] = KNOWN_DESCRIPTORS) -> ControlPlane:
        manifest_store = ManifestStore(database, team_name=TEAM, clock=lambda: NOON)
        receipt_store = ReceiptStore(database)
        return ControlPlane(
            manifest_store,
            receipt_store,
            BatchWriter(
                tmp_path,
                manifest_store,
                receipt_store,
                batch_id_factory=Ids("batch"),
                receipt_id_factory=Ids("receipt"),
                clock=lambda: NOON,
            ),
            RecoveryPlanner(
                descriptors,
                manifest_store,
                receipt_store,
                FileInspector(tmp_path),
                plan_id_factory=lambda: "plan-1",
                clock=lambda: NOON,
            ),
        )

    return compose


def descriptor(name: str) -> Descriptor:
    """The known store of that name."""
    return next(item for item in KNOWN_DESCRIPTORS if item.schema_name == name)


def dump(record: Record) -> dict[str, Any]:
    """A record as the legacy consumers read it."""
    return record.model_dump(by_alias=True, mode="json")


def contains(whole: Any, part: Any) -> bool:
    """Whether a document holds everything that another one says."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contains(whole[key], value) for key, value in part.items()
        )
    if isinstance(part, list):
        return (
            isinstance(whole, list) and len(whole) == len(part) and all(map(contains, whole, part))
        )
    return bool(whole == part)


def manifest(**overrides: str) -> Manifest:
    """The manifest of a new directory, but for some fields."""
    return default_manifest(TEAM, NOON).model_copy(update=overrides)


def test_writes_store_receipts_and_updates_manifest_only_after_store_files_are_written(
    control_plane: Compose,
) -> None:
    """A batch comes back committed with its receipts, and the manifest knows both stores."""
    plane = control_plane()

    committed = plane.write(
        "run-1",
        (
            "opencode.launchState",
            {"providerId": "opencode", "teamName": "team-a", "runId": "run-1"},
        ),
        (
            "opencode.sessionStore",
            {"sessions": [{"teamName": "team-a", "memberName": "Builder", "runId": "run-1"}]},
        ),
    )

    assert contains(
        committed,
        {
            "batchId": "batch-1",
            "state": "committed",
            "receipts": [
                {
                    "receiptId": "receipt-1",
                    "schemaName": "opencode.launchState",
                    "runId": "run-1",
                    "capabilitySnapshotId": "cap-1",
                    "behaviorFingerprint": "behavior-1",
                },
                {"receiptId": "receipt-2", "schemaName": "opencode.sessionStore"},
            ],
        },
    )
    [listed] = [dump(batch) for batch in plane.receipt_store.list()]
    assert contains(listed, {"batchId": "batch-1", "state": "committed"})
    assert listed["receipts"] == committed["receipts"]
    assert contains(
        dump(plane.manifest_store.read()),
        {
            "activeRunId": "run-1",
            "activeCapabilitySnapshotId": "cap-1",
            "activeBehaviorFingerprint": "behavior-1",
            "highWatermark": 1,
            "lastCommittedBatchId": "batch-1",
            "lastPreparingBatchId": None,
            "updatedAt": NOON_TEXT,
            "entries": [
                {
                    "schemaName": "opencode.launchState",
                    "state": "healthy",
                    "lastWriteReceiptId": "receipt-1",
                },
                {
                    "schemaName": "opencode.sessionStore",
                    "state": "healthy",
                    "lastWriteReceiptId": "receipt-2",
                },
            ],
        },
    )


def test_detects_crash_between_store_write_and_manifest_commit_as_readiness_blocking(
    control_plane: Compose, tmp_path: Path
) -> None:
    """A file without a manifest entry is not construct_unchecked: the runtime must not start on
    it."""
    plane = control_plane([descriptor("opencode.launchState"), descriptor("opencode.sessionStore")])
    document = {
        "schemaVersion": 1,
        "updatedAt": NOON_TEXT,
        "data": {"sessions": [{"teamName": "team-a", "memberName": "Builder", "runId": "run-1"}]},
    }
    path = tmp_path / descriptor("opencode.sessionStore").relative_path
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")

    plan = plane.plan()

    assert contains(dump(plane.manifest_store.read()), {"highWatermark": 0, "entries": []})
    assert plane.receipt_store.list() == []
    assert contains(dump(plan), {"manifestHealthy": False, "readinessImpact": "blocked"})
    actions = [(action["kind"], action["schemaName"]) for action in dump(plan)["actions"]]
    assert ("block_readiness", "opencode.launchState") in actions
    assert ("rebuild_from_provider", "opencode.sessionStore") in actions
    readiness = build_readiness(recovery_plan=plan, invariant_failures=[])
    assert contains(dump(readiness), {"ok": False, "reason": "runtime_store_recovery_required"})


def test_rebuilds_permission_store_from_provider_after_corruption_quarantine(
    control_plane: Compose, tmp_path: Path
) -> None:
    """A permission store that is no JSON is rebuilt from the provider."""
    plane = control_plane([descriptor("opencode.permissionRequests")])
    path = tmp_path / descriptor("opencode.permissionRequests").relative_path
    path.write_text("{bad", encoding="utf-8")

    plan = dump(plane.plan())

    assert plan["readinessImpact"] == "degraded"
    assert {
        "kind": "rebuild_from_provider",
        "schemaName": "opencode.permissionRequests",
        "reason": "quarantined",
    } in plan["actions"]


def test_blocks_readiness_for_future_schema_readiness_blocking_stores(
    control_plane: Compose, tmp_path: Path
) -> None:
    """A file of a newer schema version blocks where its store does."""
    plane = control_plane([descriptor("opencode.compatibilitySnapshot")])
    document = {"schemaVersion": 99, "updatedAt": NOON_TEXT, "data": {"snapshotId": "cap-1"}}
    path = tmp_path / descriptor("opencode.compatibilitySnapshot").relative_path
    path.write_text(json.dumps(document), encoding="utf-8")

    plan = dump(plane.plan())

    assert plan["readinessImpact"] == "blocked"
    assert {
        "kind": "quarantine",
        "schemaName": "opencode.compatibilitySnapshot",
        "reason": "future_schema",
    } in plan["actions"]


def test_blocks_readiness_when_a_manifest_entry_has_a_stale_run_identity(
    control_plane: Compose,
) -> None:
    """State of another run is not taken for live."""
    plane = control_plane([descriptor("opencode.launchState")])
    plane.write(
        "old-run",
        (
            "opencode.launchState",
            {"providerId": "opencode", "teamName": "team-a", "runId": "old-run"},
        ),
    )

    plan = dump(plane.plan())

    assert plan["readinessImpact"] == "blocked"
    assert {
        "kind": "block_readiness",
        "schemaName": "opencode.launchState",
        "reason": "Runtime store opencode.launchState has stale run id",
    } in plan["actions"]


def test_builds_healthy_readiness_when_manifest_and_invariants_match(
    control_plane: Compose,
) -> None:
    """A committed store of the expected run is nothing to do, and ready."""
    plane = control_plane([descriptor("opencode.launchState")])
    plane.write(
        "run-1",
        (
            "opencode.launchState",
            {"providerId": "opencode", "teamName": "team-a", "runId": "run-1"},
        ),
    )

    plan = plane.plan()

    assert contains(
        dump(plan),
        {
            "planId": "plan-1",
            "createdAt": NOON_TEXT,
            "manifestHealthy": True,
            "readinessImpact": "none",
        },
    )
    assert dump(plan)["actions"] == [{"kind": "none", "schemaName": "opencode.launchState"}]
    assert dump(build_readiness(recovery_plan=plan, invariant_failures=[])) == {
        "ok": True,
        "reason": "runtime_store_manifest_valid",
        "diagnostics": [],
    }


def test_blocks_readiness_when_launch_state_points_to_missing_confirmed_session() -> None:
    """A member confirmed alive needs a session on record."""
    failures = validate_invariants(
        launch_state={
            "providerId": "opencode",
            "teamName": "team-a",
            "runId": "run-1",
            "capabilitySnapshotId": "cap-1",
            "aggregateState": "launching",
            "members": [{"name": "Builder", "launchState": "confirmed_alive"}],
        },
        session_store={"sessions": []},
        transaction=None,
        delivery_journal={"records": []},
        permission_store={"requests": []},
        compatibility_snapshot={"snapshotId": "cap-1"},
        manifest=manifest(active_run_id="run-1", active_capability_snapshot_id="cap-1"),
    )

    assert "confirmed member Builder has no matching OpenCode session record" in failures


def test_reports_stale_delivery_stale_permission_and_active_transaction_conflicts() -> None:
    """Work of a dead run and contradictions between stores are named, in the legacy order."""
    failures = validate_invariants(
        launch_state={
            "providerId": "opencode",
            "teamName": "team-a",
            "runId": "run-1",
            "capabilitySnapshotId": "cap-1",
            "aggregateState": "ready",
            "members": [],
        },
        session_store={"sessions": []},
        transaction={"status": "active"},
        delivery_journal={
            "records": [{"idempotencyKey": "k-1", "runId": "old-run", "status": "started"}]
        },
        permission_store={
            "requests": [{"appRequestId": "perm-1", "runId": "old-run", "status": "pending"}]
        },
        compatibility_snapshot={"snapshotId": "other-cap"},
        manifest=manifest(active_run_id="run-1", active_capability_snapshot_id="cap-1"),
    )

    assert failures == [
        "launch-state capability snapshot does not match compatibility snapshot",
        "non-committed delivery journal record belongs to stale run: k-1",
        "pending permission belongs to stale run: perm-1",
        "active launch transaction conflicts with ready launch-state",
    ]
