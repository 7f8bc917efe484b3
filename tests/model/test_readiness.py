"""A plan and the invariant failures, summed up in one word."""

from __future__ import annotations

import pytest

from rtstore.errors import InvalidRequestError
from rtstore.model.decide import build_readiness
from rtstore.model.records import ReadinessImpact, ReadinessReason, RecoveryPlan
from tests.model.build import plan

BLOCKED, DEGRADED, NONE = ReadinessImpact.BLOCKED, ReadinessImpact.DEGRADED, ReadinessImpact.NONE


@pytest.mark.parametrize(
    ("impact", "failures", "reason"),
    [
        (BLOCKED, [], ReadinessReason.RECOVERY_REQUIRED),
        (BLOCKED, ["failure"], ReadinessReason.RECOVERY_REQUIRED),
        (DEGRADED, ["failure"], ReadinessReason.RECOVERY_REQUIRED),
        (NONE, ["failure"], ReadinessReason.RECOVERY_REQUIRED),
        (DEGRADED, [], ReadinessReason.REBUILD_IN_PROGRESS),
    ],
)
def test_not_ready(impact: ReadinessImpact, failures: list[str], reason: ReadinessReason) -> None:
    """Whatever stops the runtime is named, with the plan's diagnostics before the failures."""
    check = build_readiness(
        recovery_plan=plan(impact, "first", "second"), invariant_failures=failures
    )
    assert not check.ok
    assert check.reason is reason
    assert check.diagnostics == ("first", "second", *failures)


def test_ready_has_nothing_to_say() -> None:
    """A runtime that may start gets no diagnostics, even where the plan has some."""
    check = build_readiness(recovery_plan=plan(NONE, "a diagnostic store"), invariant_failures=[])
    assert check.model_dump(mode="json") == {
        "ok": True,
        "reason": "runtime_store_manifest_valid",
        "diagnostics": [],
    }


def test_a_plan_of_the_legacy_shape() -> None:
    """A legacy plan names no high watermark. It is judged like ours, as a record and as JSON."""
    theirs = {
        "planId": "p",
        "teamName": "t",
        "runId": None,
        "createdAt": "2026-04-21T12:00:00.000Z",
        "manifestHealthy": False,
        "readinessImpact": "blocked",
        "actions": [{"kind": "none", "schemaName": "opencode.launchState"}],
        "diagnostics": ["Runtime store missing: opencode.sessionStore"],
    }
    for given in (theirs, RecoveryPlan.model_validate(theirs)):
        check = build_readiness(recovery_plan=given, invariant_failures=[])
        assert check.reason is ReadinessReason.RECOVERY_REQUIRED
        assert check.diagnostics == ("Runtime store missing: opencode.sessionStore",)
    del theirs["teamName"]
    with pytest.raises(InvalidRequestError, match="recovery_plan: is not a plan: teamName"):
        build_readiness(recovery_plan=theirs, invariant_failures=[])


def test_reasons_are_the_legacy_words() -> None:
    """Consumers of the legacy format match on these three words."""
    assert [reason.value for reason in ReadinessReason] == [
        "runtime_store_manifest_valid",
        "runtime_store_rebuild_in_progress",
        "runtime_store_recovery_required",
    ]
