"""A start that is asked about beside a living writer: each answer is of one moment, and true.

The writer is another store object of this process, which goes on at a place of the asking one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rtstore import (
    DELETED,
    Descriptor,
    FileInspector,
    InspectionState,
    RunIdentity,
    RuntimeStore,
    StartKind,
    StartState,
)
from rtstore.commit.publisher import Publisher
from rtstore.recovery.gather import RecoveryPlanner

MINE, OTHER, UNWRITTEN = "my.queue", "my.other", "my.unwritten"
IDENTITY = RunIdentity(run_id="run-1")


class Titled(BaseModel):
    """A model that only some of the committed data passes."""

    title: str


def opened(directory: Path, **options: Any) -> RuntimeStore:
    """The store of a runtime with three stores, one of which has a model, or none."""
    descriptors = [Descriptor(MINE, **options), Descriptor(OTHER), Descriptor(UNWRITTEN)]
    return RuntimeStore.open(directory, team_name="team-a", descriptors=descriptors)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RuntimeStore]:
    """The store of a program that knows no model of the data."""
    with opened(tmp_path / "state") as store:
        yield store


@pytest.fixture
def reader(writer: RuntimeStore) -> Iterator[RuntimeStore]:
    """The store of a program with a model, which asks how to start."""
    with opened(writer.directory, payload=Titled) as store:
        yield store


def write(store: RuntimeStore, writes: dict[Any, Any]) -> None:
    """Commit a batch of the active run."""
    store.write_batch(identity=IDENTITY, reason="delivery_commit", writes=writes)


def writing_once(store: RuntimeStore, writes: dict[Any, Any]) -> Callable[..., None]:
    """Return a function that commits a batch when it is first called."""
    left = [writes]

    def once(*_: Any) -> None:
        if left:
            write(store, left.pop())

    return once


def before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[..., None]
) -> None:
    """Let something happen right before each call of a method."""
    method = getattr(owner, name)

    def with_it(*args: Any, **options: Any) -> Any:
        act(*args)
        return method(*args, **options)

    monkeypatch.setattr(owner, name, with_it)


def test_a_batch_in_progress_makes_nothing_good(
    writer: RuntimeStore, reader: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model refuses is refused before, in, and after the batch that writes it again."""
    write(writer, {MINE: {"n": 0}, OTHER: 0, UNWRITTEN: 0})
    answers = []

    def ask(*_: Any) -> None:
        start = reader.start_state("run-1")
        answers.append((start.kind, start.readiness.ok, reader.check_readiness().ok))

    ask()
    before(monkeypatch, Publisher, "complete", ask)
    write(writer, {MINE: {"n": 1}})
    ask()
    assert answers == [(StartKind.REFUSE, False, False)] * 3


def test_a_good_batch_in_progress_is_no_trouble(
    writer: RuntimeStore, reader: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hides none either: of the first version of a store, too, the runtime may go on."""
    write(writer, {OTHER: 0})
    answers: list[StartState] = []
    before(
        monkeypatch, Publisher, "complete", lambda *_: answers.append(reader.start_state("run-1"))
    )
    write(writer, {MINE: {"title": "good"}})
    (start,) = answers
    assert (start.kind, start.unwritten) == (StartKind.RESUME, (UNWRITTEN,))


def test_a_store_that_is_refused_since_it_was_looked_at(
    writer: RuntimeStore, reader: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was good when its file was read, and another store is looked at once more: the answer is
    of the later moment for both."""
    write(writer, {MINE: {"title": "good"}, OTHER: 0})
    once = writing_once(writer, {MINE: {"n": 1}})

    def after_mine(_: FileInspector, descriptor: Descriptor, *__: Any) -> None:
        if descriptor.schema_name == OTHER:
            once()

    before(monkeypatch, FileInspector, "inspect", after_mine)
    start = reader.start_state("run-1")
    assert start.plan.high_watermark == 2
    (action,) = [item for item in start.plan.actions if item.schema_name == MINE]
    assert action.reason == InspectionState.QUARANTINED
    assert start.kind is StartKind.REFUSE


@pytest.mark.parametrize("is_there", [True, False])
def test_a_store_that_comes_and_goes(
    writer: RuntimeStore, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    """It is deleted, or written, after the plan was made: nothing of it is gone."""
    write(writer, {MINE: 1, OTHER: 1})
    if not is_there:
        write(writer, {MINE: DELETED})
    once = writing_once(writer, {MINE: DELETED if is_there else 2})
    with opened(writer.directory) as reader:
        before(monkeypatch, RecoveryPlanner, "plan_of", once)
        start = reader.start_state("run-1")
        assert start.kind is StartKind.RESUME
        assert start.unwritten == ((UNWRITTEN,) if is_there else (MINE, UNWRITTEN))


def test_a_run_that_begins_after_the_plan(
    writer: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run of the answer is the one of the plan."""
    once = writing_once(writer, {OTHER: 1})
    with opened(writer.directory) as reader:
        before(monkeypatch, RecoveryPlanner, "plan_of", once)
        start = reader.start_state("run-2")
        assert (start.kind, start.run) == (StartKind.NEW, None)
        start = reader.start_state("run-2")
        assert start.run is not None
        assert (start.kind, start.run.run_id) == (StartKind.TAKE_OVER, "run-1")
