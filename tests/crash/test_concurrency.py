"""Many processes and threads at one runtime directory: nothing is lost, nobody is alarmed."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rtstore import RuntimeStore
from rtstore.model.descriptors import SESSION_STORE
from tests.crash.client import TEAM
from tests.crash.concurrency import (
    Outcome,
    fork_while_open,
    live_and_die,
    look_on,
    outlive,
    update_together,
)
from tests.crash.crew import Crew
from tests.crash.ledger import IDENTITY
from tests.support import breadth


def _report(crew: Crew, name: str, outcome: Outcome) -> None:
    lost = sum("lost" in problem for problem in outcome.problems)
    alarms = sum("false alarm" in problem for problem in outcome.problems)
    crew.lines.append(
        f"{name}: {outcome.processes} processes, {outcome.batches} batches, "
        f"{outcome.kills} kills, acknowledged {outcome.acknowledged}, lost {lost}, "
        f"{outcome.looks} looks, false alarms {alarms}"
    )


def test_eight_processes_update_one_store(crew: Crew) -> None:
    """Eight processes, each fifty updates that append to one store: four hundred entries, a high
    watermark of four hundred, and files that equal the manifest."""
    outcome = crew.do(update_together, 8, 50)
    _report(crew, "eight updaters", outcome)
    assert not outcome.problems, str(outcome)
    assert outcome.high_watermark == outcome.acknowledged == 400
    assert len(outcome.items) == len(set(outcome.items)) == 400


@pytest.mark.thorough
def test_killed_again_and_again(crew: Crew, full: bool) -> None:
    """Updaters, writers, readers, planners and recoveries that are killed and replaced again and
    again: every acknowledged batch is there, none in part, and no entry twice."""
    outcome = crew.do(live_and_die, breadth.seed(), 200 if full else 25)
    _report(crew, f"lives and deaths, seed {breadth.seed()}", outcome)
    assert not outcome.problems, str(outcome)
    assert outcome.kills > outcome.processes // 4, str(outcome)
    assert outcome.acknowledged > outcome.processes // 4, str(outcome)
    assert max(Counter(outcome.items).values()) == 1


@pytest.mark.thorough
def test_nobody_is_alarmed_by_a_healthy_writer(crew: Crew, full: bool) -> None:
    """Plans, readiness checks, reads and snapshots made without pause beside a healthy writer show
    nothing wrong, and every snapshot is of one batch."""
    batches = 2_000 if full else 400
    outcome = crew.do(look_on, batches)
    _report(crew, "beside a healthy writer", outcome)
    assert not outcome.problems, str(outcome)
    assert outcome.looks > 100, str(outcome)
    assert outcome.acknowledged == batches + 1


@pytest.mark.thorough
def test_survivor_finishes_what_the_dead_began(crew: Crew) -> None:
    """A writer killed at any point of a batch is finished by the next write of a process that had
    the store open all the time."""
    outcome = crew.do(outlive, 0)
    _report(crew, "a survivor", outcome)
    assert not outcome.problems, str(outcome)
    assert outcome.kills > 50, str(outcome)


def test_fork_while_open_is_refused(crew: Crew) -> None:
    """A store that was open in the parent refuses every call in a forked child, and says why; the
    child may open it anew, and the parent's goes on working."""
    outcome = crew.do(fork_while_open, 0)
    assert not outcome.problems, str(outcome)
    assert outcome.acknowledged == 3


def test_threads_share_one_store(tmp_path: Path) -> None:
    """Eight threads that update through one open store lose nothing, while others read and plan."""
    with RuntimeStore.open(tmp_path / "runtime", team_name=TEAM) as store:

        def add(name: str) -> None:
            def change(data: Any) -> Any:
                data = data or {"sessions": [], "items": []}
                data["items"].append(name)
                return data

            store.update(SESSION_STORE, change, identity=IDENTITY, reason="delivery_commit")

        def look(_: int) -> list[str]:
            store.snapshot()
            plan = store.plan_recovery(expected=IDENTITY)
            return [line for line in plan.diagnostics if "missing" not in line]

        names = [f"{thread}-{number}" for thread in range(8) for number in range(20)]
        add("first")
        with ThreadPoolExecutor(8) as pool, ThreadPoolExecutor(2) as watchers:
            alarms = watchers.map(look, range(60))
            list(pool.map(add, names))
            assert [alarm for found in alarms for alarm in found] == []
        assert sorted(store.read(SESSION_STORE).data["items"]) == sorted([*names, "first"])
        assert store.manifest().high_watermark == len(names) + 1
