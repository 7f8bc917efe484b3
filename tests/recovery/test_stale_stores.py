"""Stores of another run: what a recovery, and a run that begins, make of each kind of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import (
    ActionOutcome,
    BatchReason,
    Criticality,
    RebuildRequest,
    RebuildStrategy,
    RecoveryReport,
    RunIdentity,
    RunState,
    RuntimeStore,
    StaleRunError,
)
from tests.recovery.test_rebuilders import IDENTITY, descriptor, step_of, write

OTHER = RunIdentity(run_id="run-2", capability_snapshot_id="cap-1")

TABLE = """
criticality                            strategy                       bare     recover  begin
readiness_blocking                     none                           blocked  rebuilt  rebuilt
readiness_blocking                     poll_opencode_provider         blocked  rebuilt  rebuilt
readiness_blocking                     verify_canonical_destinations  blocked  rebuilt  rebuilt
readiness_blocking                     rerun_capability_discovery     blocked  rebuilt  rebuilt
readiness_blocking                     rebuild_from_launch_state      blocked  rebuilt  rebuilt
readiness_blocking                     drop_after_quarantine          blocked  rebuilt  rebuilt
rebuildable_from_provider              none                           blocked  rebuilt  rebuilt
rebuildable_from_provider              poll_opencode_provider         blocked  rebuilt  rebuilt
rebuildable_from_provider              verify_canonical_destinations  blocked  rebuilt  rebuilt
rebuildable_from_provider              rerun_capability_discovery     blocked  rebuilt  rebuilt
rebuildable_from_provider              rebuild_from_launch_state      blocked  rebuilt  rebuilt
rebuildable_from_provider              drop_after_quarantine          blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination none                           blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination poll_opencode_provider         blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination verify_canonical_destinations  blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination rerun_capability_discovery     blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination rebuild_from_launch_state      blocked  rebuilt  rebuilt
rebuildable_from_canonical_destination drop_after_quarantine          blocked  rebuilt  rebuilt
diagnostic_only                        none                           good     good     rebuilt
diagnostic_only                        poll_opencode_provider         good     good     rebuilt
diagnostic_only                        verify_canonical_destinations  good     good     rebuilt
diagnostic_only                        rerun_capability_discovery     good     good     rebuilt
diagnostic_only                        rebuild_from_launch_state      good     good     rebuilt
diagnostic_only                        drop_after_quarantine          good     good     rebuilt
"""
"""Every kind of store after another run began to be expected.

bare: what a recovery without rebuilders leaves; recover: with one for each strategy; begin: what a
run makes of it that begins with one for each strategy. `blocked`: it stays the old run's, and
blocks the readiness; `good`: it stays the old run's, and nothing is wrong with that; `rebuilt`: it
is made from the old data, for the new run.
"""

PAIRS = list(itertools.product(Criticality, RebuildStrategy))
NAMES = [f"{criticality}.{strategy}" for criticality, strategy in PAIRS]


def _again(request: RebuildRequest) -> list[object]:
    """A rebuilder that is given the old data, what is wrong with it, and whom it is for."""
    stale = f"Runtime store {request.descriptor.schema_name} has stale run id"
    assert request.reason in (stale, None)
    assert request.identity == OTHER
    return [*request.data, "again"]


REBUILDERS = dict.fromkeys(RebuildStrategy, _again)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store of every kind, all written by run-1."""
    kinds = [descriptor(f"{one}.{two}", two, one) for one, two in PAIRS]
    with RuntimeStore.open(tmp_path / "dir", team_name="team-a", descriptors=kinds) as opened:
        write(opened, **{name: ["old"] for name in NAMES})
        yield opened


def _becomes(store: RuntimeStore) -> list[str]:
    """What has become of each kind, by what is there now."""
    waiting = {
        action.schema_name: action.kind.value
        for action in store.plan_recovery(expected=OTHER).actions
        if action.kind != "none"
    }
    words = []
    for name in NAMES:
        entry = store.manifest().entry(name)
        assert entry is not None
        run, data, action = entry.run_id, store.read(name).data, waiting.get(name)
        found = (run, data, action)
        if found == ("run-1", ["old"], "block_readiness"):
            words.append("blocked")
        elif found == ("run-1", ["old"], None):
            words.append("good")
        else:
            assert found == ("run-2", ["old", "again"], None), name
            words.append("rebuilt")
    return words


def _column(number: int) -> list[str]:
    rows = [line.split() for line in TABLE.strip().splitlines()[1:]]
    assert [tuple(row[:2]) for row in rows] == [(str(one), str(two)) for one, two in PAIRS]
    return [row[number] for row in rows]


def _recovered(store: RuntimeStore, rebuilders: object) -> RecoveryReport:
    plan = store.plan_recovery(expected=OTHER)
    return store.recover(plan, rebuilders=rebuilders)  # type: ignore[arg-type]


def test_every_pair_recovered_without_rebuilders(store: RuntimeStore) -> None:
    """Nothing is changed, each stale store says what it waits for, and the old run stays active."""
    report = _recovered(store, None)
    assert _becomes(store) == _column(2)
    assert {step.detail for step in report.steps} == {
        "waits for the runtime to write the store again"
    }
    assert len(store.batches()) == 1
    assert [run.state for run in store.runs()] == [RunState.ACTIVE]


def test_every_pair_recovered_with_rebuilders(store: RuntimeStore) -> None:
    """Every stale store is rebuilt, all of them in one batch under the expected identity; the plan
    says in what each was stale, and afterwards the new run is ready."""
    plan = store.plan_recovery(expected=OTHER)
    assert [(item.part, item.found, item.expected) for item in plan.stale_stores] == [
        ("run_id", "run-1", "run-2")
    ] * 18
    report = _recovered(store, REBUILDERS)
    assert _becomes(store) == _column(3)
    rebuilt, first = (
        store.batches() if store.batches()[0].run_id == "run-2" else store.batches()[::-1]
    )
    assert (rebuilt.reason, rebuilt.run_id) == (BatchReason.RECOVERY, "run-2")
    assert len(rebuilt.receipts) == len(report.steps) == 18
    assert first.run_id == "run-1"
    assert store.check_readiness(expected=OTHER).ok
    assert [(run.run_id, run.state.value) for run in store.runs()] == [
        ("run-2", "active"), ("run-1", "superseded"),
    ]  # fmt: skip


def test_every_pair_when_a_run_begins(store: RuntimeStore) -> None:
    """A run that begins with rebuilders has every store in its first batch, diagnostics too."""
    run = store.begin_run(OTHER, rebuilders=REBUILDERS)
    assert _becomes(store) == _column(4)
    assert run.batch is not None
    assert len(run.batch.receipts) == 24
    assert run.left == ()
    assert run.check_readiness().ok


def _new(_: RebuildRequest) -> list[str]:
    return ["new"]


def test_what_the_last_run_lost_is_repaired_after_its_end(store: RuntimeStore) -> None:
    """Nobody names a run then: the batch is of the last one, which it does not make active again.
    In the name of a run that is over nothing is rebuilt, and nothing moved."""
    store.end_run("run-1", why="done")
    lost = descriptor("lost", RebuildStrategy.POLL_OPENCODE_PROVIDER, PAIRS[0][0])
    with RuntimeStore.open(store.directory, descriptors=[*store.descriptors, lost]) as again:
        path = again.directory / "lost.json"
        path.write_text("{by hand", encoding="utf-8")
        plan = again.plan_recovery()
        with pytest.raises(StaleRunError):
            again.recover(plan, rebuilders={"lost": _new}, identity=IDENTITY)
        assert path.read_text(encoding="utf-8") == "{by hand"
        report = again.recover(plan, rebuilders={"lost": _new})
        assert step_of(report.steps, "lost").outcome is ActionOutcome.DONE
        assert again.read("lost").data == ["new"]
        assert [(run.run_id, run.state) for run in again.runs()] == [("run-1", RunState.ENDED)]
