"""Data of an older schema version waits for its upgrade. Until then the newer model says nothing
about it: it stops no start, and nothing rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rtstore import (
    ActionOutcome,
    Criticality,
    DataUpgradeError,
    Descriptor,
    RebuildRequest,
    RebuildStrategy,
    RunIdentity,
    RuntimeStore,
    StartKind,
)

JOURNAL, OTHER = "app.journal", "app.other"
NEXT = RunIdentity(run_id="run-2")


class Listed(BaseModel):
    """Version 1."""

    entries: list[str]


class Keyed(BaseModel):
    """Version 2, which refuses the data of version 1."""

    entries: dict[str, str]


def keyed(old: dict[str, Any]) -> dict[str, Any]:
    """Bring version 1 to version 2."""
    return {"entries": {str(at): entry for at, entry in enumerate(old["entries"])}}


FIRST = Descriptor(JOURNAL, payload=Listed)
STRATEGIES = [*RebuildStrategy, "ask_recipients"]


def second(**options: Any) -> Descriptor[Keyed]:
    """The store as the newer program has it."""
    return Descriptor(JOURNAL, payload=Keyed, schema_version=2, upgrades={1: keyed}, **options)


def opened(directory: Path, journal: Descriptor[Any], **options: Any) -> RuntimeStore:
    """The store of a runtime with two stores, one of them as given."""
    return RuntimeStore.open(
        directory, team_name="team-a", descriptors=[journal, Descriptor(OTHER)], **options
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that the program of version 1 left."""
    with opened(tmp_path / "state", FIRST) as store:
        writes = {JOURNAL: {"entries": ["a", "b"]}, OTHER: 1}
        store.begin_run("run-1", writes=writes).end()
    return tmp_path / "state"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("criticality", list(Criticality))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_older_data_stops_no_start(
    directory: Path, criticality: Criticality, strategy: str
) -> None:
    """Whatever the store is: the start goes on, the answer names it, and the readiness is good."""
    journal = second(criticality=criticality, rebuild_strategy=strategy)
    for options in ({"upgrade": False}, {"read_only": True}):
        with opened(directory, journal, **options) as store:
            start = store.start_state("run-2")
            assert (start.kind, start.readiness.ok) == (StartKind.TAKE_OVER, True)
            assert f"the data of {JOURNAL} is of an older schema version" in start.why
            assert "refused" not in start.why
            assert start.plan.manifest_healthy
    with opened(directory, journal) as store:
        assert store.read(journal).data == Keyed(entries={"0": "a", "1": "b"})


def test_a_rebuilder_does_not_replace_what_waits_for_its_upgrade(directory: Path) -> None:
    """Not when its store is another run's, either: the step says what the store waits for."""
    asked: list[RebuildRequest] = []

    def rebuild(request: RebuildRequest) -> dict[str, Any]:
        asked.append(request)
        return {"entries": {}}

    with opened(directory, second(), upgrade=False) as store:
        plan = store.plan_recovery(expected=NEXT)
        assert [item.schema_name for item in plan.stale_stores] == [JOURNAL, OTHER]
        report = store.recover(plan, rebuilders={JOURNAL: rebuild}, identity=NEXT)
        (step,) = [item for item in report.steps if item.action.schema_name == JOURNAL]
        assert (step.outcome, asked) == (ActionOutcome.SKIPPED, [])
        assert step.detail == (
            "its committed data is of schema version 1, and waits for its upgrade to 2: left as it "
            "was"
        )
        assert store.read(JOURNAL).data == {"entries": ["a", "b"]}
    with opened(directory, second()) as store:
        assert store.read(JOURNAL).data == {"entries": {"0": "a", "1": "b"}}


def test_a_diagnostic_store_of_older_data_is_left_to_the_old_run(directory: Path) -> None:
    """A run that keeps all that it can begins without it; one of its own would be refused."""
    journal = second(criticality=Criticality.DIAGNOSTIC_ONLY)
    with opened(directory, journal, upgrade=False) as store:
        assert store.begin_run("run-2", keep="all").left == (JOURNAL,)
    with opened(directory, second(), upgrade=False) as store, pytest.raises(DataUpgradeError):
        store.begin_run("run-3", keep="all")


def test_the_invariants_say_nothing_of_data_of_another_version(tmp_path: Path) -> None:
    """A launch state of version 1 is not read as one of version 2."""
    name = "opencode.launchState"
    launch = {"providerId": "opencode", "teamName": "team-a", "runId": "another"}

    def at(version: int, **options: Any) -> RuntimeStore:
        known = Descriptor(name, schema_version=version, upgrades={1: dict})
        return RuntimeStore.open(
            tmp_path / "state", team_name="team-a", descriptors=[known], **options
        )

    with at(1) as store:
        store.begin_run("run-1", writes={name: launch})
        assert store.invariant_failures() != []
    with at(2, upgrade=False) as store:
        assert store.invariant_failures() == []
