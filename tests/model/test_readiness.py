"""A plan and the invariant failures, summed up in one word."""

from __future__ import annotations

import pytest

from rtstore.model.decide import build_readiness
from rtstore.model.records import ReadinessImpact, ReadinessReason
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


def test_reasons_are_the_ancestors_words() -> None:
    """Consumers of the ancestor match on these three words."""
    assert [reason.value for reason in ReadinessReason] == [
        "runtime_store_manifest_valid",
        "runtime_store_rebuild_in_progress",
        "runtime_store_recovery_required",
    ]
