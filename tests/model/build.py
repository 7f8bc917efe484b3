"""Small records for the tests of the pure modules, and the way to the legacy directories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore.model.decide import StoreFinding, build_plan
from rtstore.model.descriptors import Descriptor
from rtstore.model.records import (
    ActionKind,
    Batch,
    BatchReason,
    BatchState,
    Criticality,
    Inspection,
    InspectionState,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    Owner,
    PlannedWrite,
    ReadinessImpact,
    RebuildStrategy,
    RecoveryPlan,
    RunIdentity,
)

NOON = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)
IDENTITY = RunIdentity(
    run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="behavior-1"
)
LEGACY = Path(__file__).parents[2] / "../shared/legacy"

needs_legacy = pytest.mark.skipif(
    not LEGACY.is_dir(),
    reason="the legacy example directories are not beside this checkout (../shared/legacy)",
)


def descriptor(
    name: str = "test.store",
    *,
    strategy: str = RebuildStrategy.NONE,
    criticality: Criticality = Criticality.READINESS_BLOCKING,
    path: str | None = None,
) -> Descriptor:
    """A descriptor that differs only in what a plan looks at."""
    return Descriptor(
        schema_name=name,
        relative_path=path or f"{name}.json",
        criticality=criticality,
        owner=Owner.E2E,
        rebuild_strategy=strategy,
    )


def inspection(
    name: str = "test.store",
    state: InspectionState = InspectionState.HEALTHY,
    *,
    content_hash: str | None = "sha256:committed",
) -> Inspection:
    """What an inspector would say of a store in that state."""
    missing = state is InspectionState.MISSING
    return Inspection(
        schema_name=name,
        relative_path=f"{name}.json",
        state=state,
        message=None if state is InspectionState.HEALTHY else f"{name} is {state.value}",
        content_hash=None if missing else content_hash,
    )


def described(name: str, criticality: Criticality = Criticality.READINESS_BLOCKING) -> Descriptor:
    """A descriptor whose strategy is beside the point."""
    return descriptor(name, criticality=criticality)


def finding(
    name: str = "test.store",
    state: InspectionState = InspectionState.HEALTHY,
    *,
    in_database: bool = False,
    by_another_batch: bool = False,
    content_hash: str = "sha256:committed",
) -> StoreFinding:
    """A finding of that state."""
    return StoreFinding(
        inspection=inspection(name, state, content_hash=content_hash),
        content_in_database=in_database,
        written_by_another_batch=by_another_batch,
    )


def entry(
    name: str = "test.store", *, identity: RunIdentity | None = IDENTITY, mtime_ns: int = 0
) -> ManifestEntry:
    """A manifest entry bound to an identity, or to none."""
    return ManifestEntry(
        schema_name=name,
        schema_version=1,
        relative_path=f"{name}.json",
        content_hash="sha256:committed",
        file_size=10,
        mtime_ns=mtime_ns,
        run_id=identity.run_id if identity else None,
        capability_snapshot_id=identity.capability_snapshot_id if identity else None,
        behavior_fingerprint=identity.behavior_fingerprint if identity else None,
        last_write_receipt_id=f"receipt-{name}",
        batch_number=1,
    )


def manifest(
    *entries: ManifestEntry, team_name: str = "team-a", active: RunIdentity | None = IDENTITY
) -> Manifest:
    """A manifest of one batch with those entries."""
    return Manifest(
        team_name=team_name,
        active_run_id=active.run_id if active else None,
        active_capability_snapshot_id=active.capability_snapshot_id if active else None,
        active_behavior_fingerprint=active.behavior_fingerprint if active else None,
        high_watermark=1,
        entries=entries,
        updated_at=NOON,
    )


def open_batch(
    batch_id: str, *stores: str, content_hash: str = "sha256:planned", number: int = 2
) -> LoggedBatch:
    """A batch whose writer died; without stores it is one that was imported, without contents."""
    batch = Batch(
        batch_number=number,
        batch_id=batch_id,
        team_name="team-a",
        run_id="run-1",
        capability_snapshot_id="cap-1",
        behavior_fingerprint="behavior-1",
        reason=BatchReason.LAUNCH_CHECKPOINT,
        state=BatchState.PREPARING,
        started_at=NOON,
    )
    writes = tuple(
        PlannedWrite(
            position=position,
            schema_name=name,
            schema_version=1,
            relative_path=f"{name}.json",
            content_hash=content_hash,
            file_size=10,
            mtime_ns=0,
            receipt_id=f"receipt-{batch_id}-{position}",
            written_at=NOON,
        )
        for position, name in enumerate(stores)
    )
    return LoggedBatch(batch=batch, writes=writes)


def plan_for(
    descriptors: Iterable[Descriptor],
    findings: Mapping[str, StoreFinding],
    *,
    of: Manifest | None = None,
    expected: RunIdentity | None = IDENTITY,
    open_batches: Iterable[LoggedBatch] = (),
    team_name: str = "team-a",
) -> RecoveryPlan:
    """A plan made at noon; the manifest has a current entry for every store unless one is given."""
    described = tuple(descriptors)
    return build_plan(
        plan_id="plan-1",
        created_at=NOON,
        team_name=team_name,
        expected=expected,
        manifest=of or manifest(*(entry(item.schema_name) for item in described)),
        descriptors=described,
        findings=findings,
        open_batches=tuple(open_batches),
    )


def plan(impact: ReadinessImpact, *diagnostics: str) -> RecoveryPlan:
    """A plan of that impact, for those who only look at the sum."""
    return RecoveryPlan(
        plan_id="plan-1",
        team_name="team-a",
        run_id="run-1",
        created_at=NOON,
        high_watermark=1,
        manifest_healthy=impact is ReadinessImpact.NONE,
        readiness_impact=impact,
        actions=(),
        diagnostics=diagnostics,
    )


def kinds(plan: RecoveryPlan) -> list[tuple[str, ActionKind]]:
    """The actions of a plan without their reasons."""
    return [(action.schema_name, action.kind) for action in plan.actions]


def read_json(path: Path) -> Any:
    """The JSON document in a file."""
    return json.loads(path.read_text(encoding="utf-8"))
