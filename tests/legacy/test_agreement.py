"""Imported directories are judged as the legacy runtime judged them, but for named differences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore import FileInspector, ReadinessReason, RunIdentity, RuntimeStore
from rtstore.testing import Seams
from tests.legacy.build import CASES, Case, all_cases, take

Answers = dict[str, Any]
"""Everything that was said of one directory, in the shape of the legacy `expected` files."""


# --- the differences ----------------------------------------------------------------------------


def _failed_batch_is_terminal(answers: Answers) -> None:
    failed = {item["batchId"] for item in answers["batchStates"] if item["state"] == "failed"}
    plan = answers["plan"]
    plan["actions"] = [
        action
        for action in plan["actions"]
        if action.get("reason", "").removeprefix("uncommitted_batch:") not in failed
    ]
    for said in (plan, answers["readiness"]):
        said["diagnostics"] = [
            line for line in said["diagnostics"] if line.rpartition(": ")[2] not in failed
        ]
    if all(action["kind"] == "none" for action in plan["actions"]):
        plan.update(manifestHealthy=True, readinessImpact="none")
        answers["readiness"].update(ok=True, reason=ReadinessReason.MANIFEST_VALID.value)


def _plan_names_its_high_watermark(answers: Answers) -> None:
    answers["plan"]["highWatermark"] = answers["manifest"]["highWatermark"]


DIFFERENCES: dict[str, tuple[tuple[str, ...], Callable[[Answers], None]]] = {
    "a failed batch is terminal and no longer blocks": (
        ("harbour", "team-a"),
        _failed_batch_is_terminal,
    ),
    "a plan names the high watermark that it fits": (
        tuple(case.name for case in CASES),
        _plan_names_its_high_watermark,
    ),
}
"""Where we answer otherwise on purpose: the cases, and how the legacy answer becomes ours."""


def _with_differences(case: Case, *, but: str | None = None) -> Answers:
    answers = copy.deepcopy(case.expected)
    for name, (cases, change) in DIFFERENCES.items():
        if case.name in cases and name != but:
            change(answers)
    return answers


# --- our answers --------------------------------------------------------------------------------


def _our_answers(directory: Path, expected: Answers) -> Answers:
    asked = expected["input"]
    identity = RunIdentity(
        run_id=asked["expectedRunId"],
        capability_snapshot_id=asked["expectedCapabilitySnapshotId"],
        behavior_fingerprint=asked["expectedBehaviorFingerprint"],
    )
    created_at = datetime.fromisoformat(expected["plan"]["createdAt"])
    take(directory)
    with RuntimeStore.open(
        directory,
        seams=Seams(clock=lambda: created_at, plan_id_factory=lambda: "PLAN"),
        recover=False,
    ) as store:
        plan, readiness = store.assess(expected=identity)
        manifest = store.manifest()
        inspector = FileInspector(directory)
        inspections = [
            inspector.inspect(d, manifest.entry(d.schema_name)) for d in store.descriptors
        ]
        batches = store.batches()
    return {
        "input": {**asked, "teamName": store.team_name},
        "plan": plan.model_dump(mode="json", by_alias=True),
        "readiness": readiness.model_dump(mode="json", by_alias=True),
        "inspections": [
            item.model_dump(mode="json", by_alias=True, include={"schema_name", "state", "message"})
            for item in inspections
        ],
        "manifest": {
            "highWatermark": manifest.high_watermark,
            "activeRunId": manifest.active_run_id,
            "lastCommittedBatchId": manifest.last_committed_batch_id,
            "lastPreparingBatchId": manifest.last_preparing_batch_id,
            "entries": len(manifest.entries),
        },
        "batchStates": [
            {
                "batchId": batch.batch_id,
                "state": batch.state.value,
                "reason": str(batch.reason),
                "runId": batch.run_id,
                "receipts": len(batch.receipts),
                "lastError": batch.last_error,
            }
            for batch in batches
        ],
    }


@pytest.mark.parametrize("case", all_cases())
def test_answers_are_those_of_the_legacy_runtime(case: Case, tmp_path: Path) -> None:
    """Plan, readiness, inspections, manifest and batches of an imported directory are what the
    legacy runtime said of it, word for word, but for the differences in the table."""
    assert _our_answers(case.copy(tmp_path), case.expected) == _with_differences(case)


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("case", all_cases())
def test_no_difference_is_stale(case: Case, difference: str) -> None:
    """Every difference in the table changes the legacy answer for each of its cases (so that
    the test above would fail without it), and would change nothing for a case that it leaves out
    and that it does not concern."""
    if case.name in DIFFERENCES[difference][0]:
        assert _with_differences(case, but=difference) != _with_differences(case)
    else:
        untouched = copy.deepcopy(case.expected)
        DIFFERENCES[difference][1](untouched)
        assert untouched == case.expected


def test_the_differences_name_cases_that_exist() -> None:
    """No difference speaks of a directory that nobody imports."""
    named = {name for cases, _ in DIFFERENCES.values() for name in cases}
    assert named <= {case.name for case in CASES}
