"""What to do about the store files: a pure decision over what was found.

Manifest, inspections, open batches and the expected identity go in; a `RecoveryPlan` comes out.
Nothing here reads a file or a database, so every row of the tables below is a plain test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from rtstore.model.descriptors import Descriptor
from rtstore.model.records import (
    UNCOMMITTED_BATCH,
    ActionKind,
    Criticality,
    Hindrance,
    Inspection,
    InspectionState,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    ReadinessCheck,
    ReadinessImpact,
    ReadinessReason,
    RebuildStrategy,
    RecoveryAction,
    RecoveryPlan,
    RunIdentity,
)

TEAM_MISMATCH = "manifest_team_mismatch"
CONTENT_MISSING = "content_missing"
"""The file is what is committed, and its content is not in the database."""
MANIFEST_STORE = "opencode.launchState"
"""The store that stands for the whole manifest in an action."""
OPEN_BATCH_STORE = "opencode.launchTransaction"
"""The store that stands for an open batch whose contents are not known."""

REBUILDS: Mapping[RebuildStrategy, ActionKind] = {
    RebuildStrategy.POLL_OPENCODE_PROVIDER: ActionKind.REBUILD_FROM_PROVIDER,
    RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS: ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
    RebuildStrategy.RERUN_CAPABILITY_DISCOVERY: ActionKind.RERUN_CAPABILITY_DISCOVERY,
    RebuildStrategy.DROP_AFTER_QUARANTINE: ActionKind.QUARANTINE,
    RebuildStrategy.REBUILD_FROM_LAUNCH_STATE: ActionKind.BLOCK_READINESS,
    RebuildStrategy.NONE: ActionKind.BLOCK_READINESS,
}

REFUSED = frozenset({InspectionState.FUTURE_SCHEMA, InspectionState.QUARANTINED})
"""States of a file that this program does not accept, though it is what is committed."""

_QUARANTINED_REBUILDS = frozenset(
    {RebuildStrategy.POLL_OPENCODE_PROVIDER, RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS}
)


class StoreFinding(NamedTuple):
    """All that is known of one store when a plan is made."""

    inspection: Inspection
    content_in_database: bool = False
    """The committed content is there, so that the file can be put back."""
    written_by_another_batch: bool = False
    """The file is, byte for byte, what a failed or an earlier batch wrote: the undoing of the one
    or the un-flushed successor of the other was lost. Or it is a beginning of what a batch wrote:
    the rest was lost. Nothing of anybody else's is in it."""
    content_missing: bool = False
    """There is an entry, and its content is not in the database: somebody deleted the row."""
    committed_is_refused: bool = False
    """The file is what is committed, and this program does not accept it: putting it back would
    change nothing."""
    is_link: bool = False
    """The path leads through a symbolic link. What is behind it is for a person to judge: it may be
    the newer version."""


def build_plan(
    *,
    plan_id: str,
    created_at: datetime,
    team_name: str,
    expected: RunIdentity | None,
    manifest: Manifest,
    descriptors: Iterable[Descriptor],
    findings: Mapping[str, StoreFinding],
    open_batches: Sequence[LoggedBatch] = (),
) -> RecoveryPlan:
    """Decide what to do about every store.

    `findings` has one entry for each descriptor, by store name. `open_batches` are those whose
    writer is dead, oldest first. With `expected` None no identity is held against the entries.
    """
    criticality: dict[str, Criticality] = {}
    actions: list[RecoveryAction] = []
    diagnostics: list[str] = []
    rolled_forward = _stores_to_roll_forward(open_batches)
    for descriptor in descriptors:
        name = descriptor.schema_name
        criticality[name] = descriptor.criticality
        finding = findings[name]
        batches = rolled_forward.pop(name, [])
        if batches:
            actions.extend(_roll_forward(name, batch.batch.batch_id) for batch in batches)
            message = _message_beside(finding, name, batches)
        else:
            action, message = _store_action(descriptor, finding, manifest.entry(name), expected)
            actions.append(action)
        if message is not None:
            diagnostics.append(message)
    for name, batches in rolled_forward.items():  # stores that this registry does not know
        actions.extend(_roll_forward(name, batch.batch.batch_id) for batch in batches)
    for logged in open_batches:
        batch_id = logged.batch.batch_id
        diagnostics.append(f"Uncommitted runtime store batch detected: {batch_id}")
        if not logged.has_contents:
            actions.append(_block(OPEN_BATCH_STORE, UNCOMMITTED_BATCH + batch_id))
    if manifest.team_name != team_name:
        diagnostics.append(
            f"Runtime store manifest belongs to team {manifest.team_name}, not {team_name}"
        )
        actions.append(_block(MANIFEST_STORE, TEAM_MISMATCH))
    return RecoveryPlan(
        plan_id=plan_id,
        team_name=team_name,
        run_id=expected.run_id if expected else None,
        created_at=created_at,
        high_watermark=manifest.high_watermark,
        manifest_healthy=all(action.kind is ActionKind.NONE for action in actions),
        readiness_impact=_impact(actions, criticality),
        actions=tuple(actions),
        diagnostics=tuple(diagnostics),
    )


def stale_identity(entry: ManifestEntry, expected: RunIdentity) -> str | None:
    """The first part of the run identity in which an entry differs from the expected one."""
    if entry.run_id != expected.run_id:
        return "stale run id"
    if entry.capability_snapshot_id != expected.capability_snapshot_id:
        return "stale capability snapshot"
    if entry.behavior_fingerprint != expected.behavior_fingerprint:
        return "stale behavior fingerprint"
    return None


def _store_action(
    descriptor: Descriptor,
    finding: StoreFinding,
    entry: ManifestEntry | None,
    expected: RunIdentity | None,
) -> tuple[RecoveryAction, str | None]:
    """The action for a store that no open batch concerns, and its diagnostic."""
    name, inspection = descriptor.schema_name, finding.inspection
    if inspection.state is InspectionState.HEALTHY:
        stale = None
        if entry and expected and descriptor.criticality is not Criticality.DIAGNOSTIC_ONLY:
            stale = stale_identity(entry, expected)
        if finding.content_missing:
            return _restore_content(name), f"Runtime store content is not in the database: {name}"
        if stale is None:
            return _nothing(name), None
        reason = f"Runtime store {name} has {stale}"
        return _block(name, reason), reason
    if finding.is_link or finding.committed_is_refused:
        kind = _for_somebody_else(descriptor.rebuild_strategy, finding)
    else:
        kind = _kind(descriptor.rebuild_strategy, finding, inspection.state)
    action = RecoveryAction(kind=kind, schema_name=name, reason=inspection.state.value)
    return action, inspection.message


def _for_somebody_else(strategy: RebuildStrategy, finding: StoreFinding) -> ActionKind:
    """A newer program, or a person; the runtime, where it can make the store anew."""
    kind = REBUILDS[strategy]
    if finding.is_link or finding.inspection.state is InspectionState.FUTURE_SCHEMA:
        return ActionKind.BLOCK_READINESS
    return ActionKind.BLOCK_READINESS if kind is ActionKind.QUARANTINE else kind


@lru_cache(maxsize=4096)
def _nothing(name: str) -> RecoveryAction:
    return RecoveryAction(kind=ActionKind.NONE, schema_name=name)


def _kind(strategy: RebuildStrategy, finding: StoreFinding, state: InspectionState) -> ActionKind:
    """The table of actions: the first row that fits."""
    damaged = state in (InspectionState.MISSING, InspectionState.QUARANTINED)
    if damaged and finding.content_in_database:
        return ActionKind.RESTORE_COMMITTED
    # Whatever the inspection says of such a file: its bytes are in the log, so undoing loses none.
    if finding.written_by_another_batch and state is not InspectionState.MISSING:
        return ActionKind.RESTORE_COMMITTED
    if state in (InspectionState.FUTURE_SCHEMA, InspectionState.HASH_MISMATCH):
        return ActionKind.QUARANTINE
    if state is InspectionState.QUARANTINED and strategy not in _QUARANTINED_REBUILDS:
        return ActionKind.QUARANTINE
    return REBUILDS[strategy]


def _stores_to_roll_forward(open_batches: Sequence[LoggedBatch]) -> dict[str, list[LoggedBatch]]:
    stores: dict[str, list[LoggedBatch]] = {}
    for logged in open_batches:
        for write in logged.writes:
            stores.setdefault(write.schema_name, []).append(logged)
    return stores


def _message_beside(finding: StoreFinding, name: str, batches: Sequence[LoggedBatch]) -> str | None:
    """What is wrong with a file beyond what the open batch explains.

    Before the batch's rename the file is what is committed (or not there yet), after it what the
    batch planned; anything else is a finding of its own.
    """
    inspection = finding.inspection
    planned = {
        write.content_hash
        for batch in batches
        for write in batch.writes
        if write.schema_name == name
    }
    if inspection.state is InspectionState.MISSING and not finding.content_in_database:
        return None
    if inspection.content_hash in planned or finding.written_by_another_batch:
        return None
    return inspection.message


def _impact(
    actions: Sequence[RecoveryAction], criticality: Mapping[str, Criticality]
) -> ReadinessImpact:
    impact = ReadinessImpact.NONE
    for action in actions:
        if action.kind is ActionKind.NONE:
            continue
        of_store = criticality.get(action.schema_name)
        if action.reason == CONTENT_MISSING:
            impact = ReadinessImpact.DEGRADED  # of any store: `read` cannot answer
        if of_store is Criticality.DIAGNOSTIC_ONLY and action.reason in REFUSED:
            continue
        if (
            action.kind in (ActionKind.BLOCK_READINESS, ActionKind.ROLL_FORWARD)
            or of_store is Criticality.READINESS_BLOCKING
        ):
            return ReadinessImpact.BLOCKED
        if of_store is not Criticality.DIAGNOSTIC_ONLY:
            impact = ReadinessImpact.DEGRADED
    return impact


def _roll_forward(name: str, batch_id: str) -> RecoveryAction:
    return RecoveryAction(
        kind=ActionKind.ROLL_FORWARD, schema_name=name, reason=UNCOMMITTED_BATCH + batch_id
    )


def _restore_content(name: str) -> RecoveryAction:
    return RecoveryAction(
        kind=ActionKind.RESTORE_COMMITTED, schema_name=name, reason=CONTENT_MISSING
    )


def _block(name: str, reason: str) -> RecoveryAction:
    return RecoveryAction(kind=ActionKind.BLOCK_READINESS, schema_name=name, reason=reason)


def build_readiness(
    *,
    recovery_plan: RecoveryPlan,
    invariant_failures: Sequence[str],
    hindrances: Sequence[Hindrance] = (),
) -> ReadinessCheck:
    """Sum up a plan and the failures of `validate_invariants` in one word.

    A runtime that may start gets no diagnostics, although the plan may have some: what is wrong
    with a diagnostic store alone is nothing to stop or to ask about. What keeps it from writing
    does stop it.
    """
    blocked = recovery_plan.readiness_impact is ReadinessImpact.BLOCKED
    if blocked or invariant_failures or hindrances:
        reason = ReadinessReason.RECOVERY_REQUIRED
    elif recovery_plan.readiness_impact is ReadinessImpact.DEGRADED:
        reason = ReadinessReason.REBUILD_IN_PROGRESS
    else:
        return ReadinessCheck(ok=True, reason=ReadinessReason.MANIFEST_VALID, diagnostics=())
    return ReadinessCheck(
        ok=False,
        reason=reason,
        diagnostics=(
            *(item.problem for item in hindrances),
            *recovery_plan.diagnostics,
            *invariant_failures,
        ),
    )
