"""What to run next, under a diagnosis: pure, from a plan and a readiness check."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from rtstore.records import (
    ActionKind,
    InspectionState,
    ReadinessCheck,
    Record,
    RecoveryAction,
    RecoveryPlan,
)

_REBUILDS = (
    ActionKind.REBUILD_FROM_PROVIDER,
    ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
    ActionKind.RERUN_CAPABILITY_DISCOVERY,
)


class NextStep(Record):
    """One thing to do, and what it does. `command` is None where the runtime must act."""

    command: str | None
    why: str


def next_steps(
    directory: Path, plan: RecoveryPlan, check: ReadinessCheck, *, high_watermark: int
) -> tuple[NextStep, ...]:
    """What to do about a plan, in order; empty when there is nothing to do."""
    steps = [*_keep_changes(directory, plan.actions), *_recover(directory, plan.actions)]
    if not steps and high_watermark == 0:
        if check.ok:
            return ()
        why = "nothing is committed yet: start the runtime, its first batches write the stores"
        return (NextStep(command=None, why=why),)
    steps += _for_the_runtime(plan.actions)
    contradictions = len(check.diagnostics) - len(plan.diagnostics)
    if not check.ok and contradictions > 0:
        why = "the stores contradict each other: the runtime must write a batch that settles it"
        steps.append(NextStep(command=None, why=why))
    return tuple(steps)


def _recover(directory: Path, actions: Iterable[RecoveryAction]) -> list[NextStep]:
    parts = []
    batches = dict.fromkeys(action.batch_id for action in actions if action.batch_id)
    if batches:
        parts.append(f"brings {', '.join(filter(None, batches))} to its end")
    restored = _names(actions, ActionKind.RESTORE_COMMITTED)
    if restored:
        parts.append(f"puts the committed content of {restored} back")
    moved = _names(_with_a_file(actions), ActionKind.QUARANTINE)
    if moved:
        parts.append(f"moves the files of {moved} into quarantine")
    if not parts:
        return []
    command = f"rtstore recover {shlex.quote(str(directory))}"
    return [NextStep(command=command, why="; ".join(parts))]


def _keep_changes(directory: Path, actions: Iterable[RecoveryAction]) -> list[NextStep]:
    changed = [
        action.schema_name
        for action in actions
        if action.kind is ActionKind.QUARANTINE and action.reason == InspectionState.HASH_MISMATCH
    ]
    return [
        NextStep(
            command=f"rtstore adopt {shlex.quote(str(directory))} {shlex.quote(name)}",
            why=f"first, only if the changed file of {name} is to be kept: makes it the truth",
        )
        for name in changed
    ]


def _for_the_runtime(actions: Iterable[RecoveryAction]) -> list[NextStep]:
    steps = []
    rebuilt = _names(actions, *_REBUILDS)
    if rebuilt:
        why = f"start the runtime: it rebuilds {rebuilt} (RuntimeStore.recover with rebuilders)"
        steps.append(NextStep(command=None, why=why))
    blocked = [
        action
        for action in actions
        if action.kind is ActionKind.BLOCK_READINESS and action.batch_id is None
    ]
    stale = [action.schema_name for action in blocked if " has stale " in (action.reason or "")]
    if stale:
        why = f"start the expected run: it must write {', '.join(stale)} under its own identity"
        steps.append(NextStep(command=None, why=why))
    lost = [action.schema_name for action in blocked if action.schema_name not in stale]
    if lost:
        why = f"the runtime must write {', '.join(lost)} again: there is nothing to put back"
        steps.append(NextStep(command=None, why=why))
    return steps


def _with_a_file(actions: Iterable[RecoveryAction]) -> list[RecoveryAction]:
    return [action for action in actions if action.reason != InspectionState.MISSING]


def _names(actions: Iterable[RecoveryAction], *kinds: ActionKind) -> str:
    names = dict.fromkeys(action.schema_name for action in actions if action.kind in kinds)
    return ", ".join(names)
