"""May the runtime start on this state? A pure answer from a plan and the invariant failures."""

from __future__ import annotations

from collections.abc import Sequence

from rtstore.maintenance.doctor.facts import Hindrance
from rtstore.model.records import ReadinessCheck, ReadinessImpact, ReadinessReason, RecoveryPlan


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
