"""Decide what to do about the store files: a pure function of what was gathered.

Manifest, inspections, open batches and the expected identity go in; a `RecoveryPlan` comes out.
Nothing here reads a file or a database, so each row of the tables below can be tested directly.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from rtstore.errors import InvalidRequestError
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
    StaleStore,
)

TEAM_MISMATCH = "manifest_team_mismatch"
CONTENT_MISSING = "content_missing"
"""Reason of an action: the file is what is committed, but the database has lost its content."""
ENTRY_MISSING = "entry_missing"
"""Reason of an action: the manifest has lost the entry of a store that a batch on record wrote."""
ENTRY_ALTERED = "entry_altered"
"""Reason of an action: the entry of a store is not what its batch wrote and the database has."""
OF_ENTRY = (ENTRY_MISSING, ENTRY_ALTERED)
"""The reasons of actions that put an entry right, and touch no file."""
_UNCOMMITTED = "Uncommitted runtime store batch detected: "
_NEWER = "Runtime store files say that they were written after the last batch of the database"
MANIFEST_STORE = "opencode.launchState"
"""The store name of an action that concerns the whole manifest."""
OPEN_BATCH_STORE = "opencode.launchTransaction"
"""The store name of an action for an open batch whose contents are not known, where the runtime has
that store."""
NO_STORE = "-"
"""The store name of such an action elsewhere: it concerns no store that is known."""

REBUILDS: Mapping[str, ActionKind] = {
    RebuildStrategy.POLL_OPENCODE_PROVIDER: ActionKind.REBUILD_FROM_PROVIDER,
    RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS: ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
    RebuildStrategy.RERUN_CAPABILITY_DISCOVERY: ActionKind.RERUN_CAPABILITY_DISCOVERY,
    RebuildStrategy.DROP_AFTER_QUARANTINE: ActionKind.QUARANTINE,
    RebuildStrategy.REBUILD_FROM_LAUNCH_STATE: ActionKind.BLOCK_READINESS,
    RebuildStrategy.NONE: ActionKind.BLOCK_READINESS,
}


def rebuild_of(descriptor: Descriptor) -> ActionKind:
    """Return the action that a store needs when there is nothing to put back. A strategy of the
    runtime's own needs its rebuilder, and how that is called depends on the criticality."""
    if descriptor.own_strategy is None:
        return REBUILDS[descriptor.rebuild_strategy]
    if descriptor.criticality is Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION:
        return ActionKind.REBUILD_FROM_CANONICAL_DESTINATION
    return ActionKind.REBUILD_FROM_PROVIDER


REFUSED = frozenset({InspectionState.FUTURE_SCHEMA, InspectionState.QUARANTINED})
"""States of a file that this program does not accept, even when it is what is committed."""


def is_lost(action: RecoveryAction) -> bool:
    """Return whether there is neither a file of a store nor anything to put back."""
    is_put_back = action.kind is ActionKind.RESTORE_COMMITTED
    return action.reason == InspectionState.MISSING and not is_put_back


_QUARANTINED_REBUILDS = frozenset(
    {ActionKind.REBUILD_FROM_PROVIDER, ActionKind.REBUILD_FROM_CANONICAL_DESTINATION}
)
"""The rebuilds that keep a damaged file in quarantine themselves. Before another one, it goes."""


class StoreFinding(NamedTuple):
    """All that a plan takes into account about one store."""

    inspection: Inspection
    content_in_database: bool = False
    """Whether the database has the committed content, so that the file can be restored."""
    written_by_another_batch: bool = False
    """Whether the file holds only bytes of a batch of the log, and can be put right. Either it is,
    byte for byte, what a failed or an earlier batch wrote: the undoing of the failed one, or the
    unflushed successor of the earlier one, was lost; or another store left it there. Or it is a
    prefix of what a batch wrote: the rest was lost. An imported batch is not in the log, unless its
    contents were imported."""
    content_missing: bool = False
    """Whether the entry's content is missing from the database: somebody deleted the row."""
    committed_is_refused: bool = False
    """Whether the file is what is committed, but this program does not accept it. Restoring it
    would change nothing."""
    entry_missing: bool = False
    """Whether the entry itself is missing: somebody took it out of the manifest by hand."""
    entry_altered: bool = False
    """Whether somebody altered the entry: its batch and the content say something else."""
    is_newer: bool = False
    """Whether nobody in the database wrote the file, and it says that it was written after the last
    batch there."""
    is_link: bool = False
    """Whether the path leads through a symbolic link. A person must judge the file behind it: it
    may be the newer version."""


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
    lost_entries: Collection[str] = (),
    altered_entries: Collection[str] = (),
) -> RecoveryPlan:
    """Decide what to do about every store.

    `findings` has one item for each descriptor, by store name. `open_batches` are the batches whose
    writer is dead, oldest first. The entries are compared with the identity `expected`; with None
    they are not. `lost_entries` are the stores, registered or not, of which somebody took the entry
    out of the manifest by hand, and `altered_entries` those of which somebody altered it: until it
    is as it was, nothing else is said of such a store.
    """
    criticality: dict[str, Criticality] = {}
    stale: list[StaleStore] = []
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
            entry = manifest.entry(name)
            difference = _staleness(descriptor, finding, entry, expected)
            action, message = _store_action(descriptor, finding, difference)
            actions.append(action)
            if difference is not None:
                stale.append(difference)
        if message is not None:
            diagnostics.append(message)
    newer = tuple(name for name in criticality if findings[name].is_newer)
    diagnostics.extend([f"{_NEWER}: {', '.join(newer)}"] if newer else ())
    for name, batches in rolled_forward.items():  # stores that are not registered
        actions.extend(_roll_forward(name, batch.batch.batch_id) for batch in batches)
    told = {*findings, *rolled_forward}
    made = _of_entries(set(lost_entries) - told, set(altered_entries) - told)
    actions.extend(action for action, _ in made)
    diagnostics.extend((*(said for _, said in made), *_left_alone(manifest, criticality)))
    diagnostics.extend(
        f"Runtime store {action.schema_name} needs the rebuilder {action.rebuilder}"
        for action in actions
        if action.rebuilder is not None
    )
    diagnostics.extend(_UNCOMMITTED + item.batch.batch_id for item in open_batches)
    actions.extend(_closings(open_batches, criticality))
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
        readiness_impact=_impact(actions, criticality, manifest, newer),
        actions=tuple(actions),
        diagnostics=tuple(diagnostics),
        expected=expected,
        stale_stores=tuple(stale),
        newer_stores=newer,
    )


def with_afterwards(
    plan: RecoveryPlan, descriptors: Iterable[Descriptor], once_right: Mapping[str, StoreFinding]
) -> RecoveryPlan:
    """Return a plan with what it puts back once entries are right, and what is wrong with a file
    then. `once_right` has what is found of the files of such stores, held against the entry as it
    is then."""
    if not once_right:
        return plan
    waiting = {action.schema_name for action in plan.actions if action.reason in OF_ENTRY}
    found = [
        _store_action(item, once_right[item.schema_name], None)
        for item in descriptors
        if item.schema_name in waiting.intersection(once_right)
    ]
    restored = (item for item, _ in found if item.kind is ActionKind.RESTORE_COMMITTED)
    said = (message for _, message in found if message is not None)
    update = {"afterwards": tuple(restored), "diagnostics": (*plan.diagnostics, *said)}
    return plan.model_copy(update=update)


STALE = {
    "run_id": "stale run id",
    "capability_snapshot_id": "stale capability snapshot",
    "behavior_fingerprint": "stale behavior fingerprint",
}
"""The words for each part of the run identity in which a store is stale."""


def stale_store(entry: ManifestEntry, expected: RunIdentity) -> StaleStore | None:
    """Return the first part of the run identity in which an entry is stale, or None."""
    for part in STALE:
        found, wanted = getattr(entry, part), getattr(expected, part)
        if found != wanted:
            return StaleStore(
                schema_name=entry.schema_name, part=part, found=found, expected=wanted
            )
    return None


def _staleness(
    descriptor: Descriptor,
    finding: StoreFinding,
    entry: ManifestEntry | None,
    expected: RunIdentity | None,
) -> StaleStore | None:
    """Return in what a store with a sound file and content is stale, or None. The contents of a
    diagnostic store are never stale."""
    if finding.inspection.state is not InspectionState.HEALTHY or finding.content_missing:
        return None
    if entry is None or expected is None:
        return None
    if descriptor.criticality is Criticality.DIAGNOSTIC_ONLY:
        return None
    return stale_store(entry, expected)


def _store_action(
    descriptor: Descriptor, finding: StoreFinding, stale: StaleStore | None
) -> tuple[RecoveryAction, str | None]:
    """Return the action for a store that no open batch concerns, and its diagnostic."""
    name, inspection = descriptor.schema_name, finding.inspection
    if finding.entry_missing:
        return _make_entry(name, has_file=inspection.state is not InspectionState.MISSING)
    if finding.entry_altered:
        return _put_entry_right(name)
    if inspection.state is InspectionState.HEALTHY:
        if finding.content_missing:
            return _restoring(
                name, CONTENT_MISSING
            ), f"Runtime store content is not in the database: {name}"
        if stale is None:
            return _nothing(name), None
        reason = f"Runtime store {name} has {STALE[stale.part]}"
        return _block(name, reason), reason
    rebuild = rebuild_of(descriptor)
    if finding.is_link or finding.committed_is_refused:
        kind = _for_somebody_else(rebuild, inspection.state, is_link=finding.is_link)
    else:
        kind = _kind(rebuild, finding, inspection.state)
    action = RecoveryAction(
        kind=kind,
        schema_name=name,
        reason=inspection.state.value,
        rebuilder=descriptor.own_strategy if kind is rebuild else None,
    )
    return action, inspection.message


def _for_somebody_else(
    kind: ActionKind, state: InspectionState, *, is_link: bool = False
) -> ActionKind:
    """Return the action when a newer program or a person must act, or the runtime can rebuild."""
    if is_link or state is InspectionState.FUTURE_SCHEMA:
        return ActionKind.BLOCK_READINESS
    return ActionKind.BLOCK_READINESS if kind is ActionKind.QUARANTINE else kind


def refused_action(descriptor: Descriptor, state: InspectionState) -> RecoveryAction:
    """Return the action for a store whose file is what is committed, and refused as of a state."""
    kind = _for_somebody_else(rebuild_of(descriptor), state)
    return RecoveryAction(kind=kind, schema_name=descriptor.schema_name, reason=state.value)


@lru_cache(maxsize=4096)
def _nothing(name: str) -> RecoveryAction:
    return RecoveryAction(kind=ActionKind.NONE, schema_name=name)


def _kind(rebuild: ActionKind, finding: StoreFinding, state: InspectionState) -> ActionKind:
    """Return the action of the first row that fits in this table of actions."""
    damaged = state in (InspectionState.MISSING, InspectionState.QUARANTINED)
    if damaged and finding.content_in_database:
        return ActionKind.RESTORE_COMMITTED
    # Whatever the inspection says: the bytes of such a file are in the log, so undoing loses none.
    if finding.written_by_another_batch and state is not InspectionState.MISSING:
        return ActionKind.RESTORE_COMMITTED
    if state in (InspectionState.FUTURE_SCHEMA, InspectionState.HASH_MISMATCH):
        return ActionKind.QUARANTINE
    if state is InspectionState.QUARANTINED and rebuild not in _QUARANTINED_REBUILDS:
        return ActionKind.QUARANTINE
    return rebuild


def _stores_to_roll_forward(open_batches: Sequence[LoggedBatch]) -> dict[str, list[LoggedBatch]]:
    stores: dict[str, list[LoggedBatch]] = {}
    for logged in open_batches:
        for name in logged.stores:
            stores.setdefault(name, []).append(logged)
    return stores


def _message_beside(finding: StoreFinding, name: str, batches: Sequence[LoggedBatch]) -> str | None:
    """Return what is wrong with a file and is not explained by the open batch, or None.

    Before the batch's rename the file is what is committed (or does not exist yet). After it the
    file is what the batch planned; none, where it deletes the store. Anything else is a finding of
    its own.
    """
    inspection = finding.inspection
    planned = {found for batch in batches for store, found in batch.planned if store == name}
    if inspection.state is InspectionState.MISSING:
        return None if None in planned or not finding.content_in_database else inspection.message
    if inspection.content_hash is None:
        return inspection.message
    if inspection.content_hash in planned or finding.written_by_another_batch:
        return None
    return inspection.message


def passes_over(action: RecoveryAction, *, nothing_committed: bool) -> bool:
    """Return whether an action about a diagnostic store stops nothing, though it may say so: what
    is committed or its file is refused, it is lost, or it was never committed. But while nothing
    is committed at all, a file may be all that is left of a lost database."""
    if action.reason == InspectionState.UNCOMMITTED_WRITE:
        return not nothing_committed
    return action.reason in REFUSED or is_lost(action)


def _impact(
    actions: Sequence[RecoveryAction],
    criticality: Mapping[str, Criticality],
    manifest: Manifest,
    newer: Sequence[str],
) -> ReadinessImpact:
    if newer:
        return ReadinessImpact.BLOCKED
    impact = ReadinessImpact.NONE
    for action in actions:
        if action.kind is ActionKind.NONE:
            continue
        of_store = criticality.get(action.schema_name)
        if action.reason in (CONTENT_MISSING, *OF_ENTRY):
            impact = ReadinessImpact.DEGRADED  # of any store: `read` cannot answer
        if of_store is Criticality.DIAGNOSTIC_ONLY and passes_over(
            action, nothing_committed=manifest.high_watermark == 0
        ):
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
        kind=ActionKind.ROLL_FORWARD,
        schema_name=name,
        reason=UNCOMMITTED_BATCH + batch_id,
        batch_id=batch_id,
    )


def _make_entry(name: str, *, has_file: bool = True) -> tuple[RecoveryAction, str]:
    message = (
        f"Runtime store has no entry in the manifest, and its last batch on record wrote it: {name}"
    )
    if not has_file:
        message += " (it has no file, either: if a batch deleted it, the record of that is gone)"
    return _restoring(name, ENTRY_MISSING), message


def _left_alone(manifest: Manifest, registered: Collection[str]) -> Iterator[str]:
    """Yield what is said of committed stores that no descriptor names: nobody looks after them."""
    names = [each.schema_name for each in manifest.entries if each.schema_name not in registered]
    if names and registered:  # with none, that is a hindrance
        yield f"Runtime stores that no descriptor names are not looked after: {', '.join(names)}"


def _of_entries(
    lost: Collection[str], altered: Collection[str]
) -> list[tuple[RecoveryAction, str]]:
    return [*map(_make_entry, sorted(lost)), *map(_put_entry_right, sorted(altered))]


def _put_entry_right(name: str) -> tuple[RecoveryAction, str]:
    message = f"Runtime store entry is not what its batch wrote, somebody altered it: {name}"
    return _restoring(name, ENTRY_ALTERED), message


def _restoring(name: str, reason: str) -> RecoveryAction:
    return RecoveryAction(kind=ActionKind.RESTORE_COMMITTED, schema_name=name, reason=reason)


def _closings(
    open_batches: Sequence[LoggedBatch], registered: Collection[str]
) -> Iterator[RecoveryAction]:
    """Yield the actions for open batches that cannot be completed from the log."""
    for batch_id in (item.batch.batch_id for item in open_batches if not item.has_contents):
        yield RecoveryAction(
            kind=ActionKind.BLOCK_READINESS,
            schema_name=OPEN_BATCH_STORE if OPEN_BATCH_STORE in registered else NO_STORE,
            reason=UNCOMMITTED_BATCH + batch_id,
            batch_id=batch_id,
        )


def _block(name: str, reason: str) -> RecoveryAction:
    return RecoveryAction(kind=ActionKind.BLOCK_READINESS, schema_name=name, reason=reason)


def _plan_of(given: RecoveryPlan | Mapping[str, Any]) -> RecoveryPlan:
    if isinstance(given, RecoveryPlan):
        return given
    try:
        return RecoveryPlan.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"is not a plan: {place}: {first['msg']}" if place else "is not a plan"
        raise InvalidRequestError("recovery_plan", problem) from None


def build_readiness(
    *,
    recovery_plan: RecoveryPlan | Mapping[str, Any],
    invariant_failures: Sequence[str],
    hindrances: Sequence[Hindrance] = (),
    nothing_committed: bool = False,
) -> ReadinessCheck:
    """Return whether the runtime may start, from a plan and the failures of `validate_invariants`.

    A runtime that may start gets no diagnostics, although the plan may have some: what is wrong
    with a diagnostic store alone is nothing to stop or to ask about. What keeps the user of
    the directory from writing, and stays, does stop it. `nothing_committed` distinguishes a first
    start from a loss.

    The plan may be the JSON of one, also of the legacy format. Raises `InvalidRequestError` when it
    is not.
    """
    recovery_plan = _plan_of(recovery_plan)
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
        nothing_committed=nothing_committed,
    )
