"""The start of a runtime that a recovery alone cannot help: it is told who can do what.

A start that says `repair` can rely on it: after the recovery, with the rebuilders of the runtime,
the next answer is another one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import BaseModel

from rtstore import (
    DATABASE_NAME,
    ContentMissingError,
    Criticality,
    DataRefusedError,
    Descriptor,
    NewerStoreFileError,
    RebuildStrategy,
    RecoveryNeededError,
    RuntimeStore,
    StartKind,
    StoreFileChangedError,
)

MINE, OTHER = "my.queue", "my.other"


class Titled(BaseModel):
    """A model that the committed data does not pass."""

    title: str


def opened(directory: Path, mine: Descriptor | None = None) -> RuntimeStore:
    """The store of a runtime with two stores, one of them as given."""
    descriptors = [mine or Descriptor(MINE), Descriptor(OTHER)]
    return RuntimeStore.open(directory, team_name="team-a", descriptors=descriptors)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of a run that has ended."""
    with opened(tmp_path / "state") as store:
        store.begin_run("run-1", writes={MINE: {"n": 1}, OTHER: 1}).end()
    return tmp_path / "state"


def test_a_model_that_refuses_what_is_committed(directory: Path) -> None:
    """No recovery makes it pass. The answer says so, and each way that it names goes on."""
    with opened(directory, Descriptor(MINE, payload=Titled)) as store:
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert start.why.startswith(f"{MINE}: what is committed does not pass this program's model")
        store.recover(start.plan)
        assert store.start_state("run-2").why == start.why
        with pytest.raises(DataRefusedError):
            store.begin_run("run-2", keep="all")
        store.begin_run("run-2", writes={MINE: {"title": "new"}}, keep="all")
        assert store.start_state("run-2").kind is StartKind.RESUME
    upgraded = Descriptor(
        MINE, schema_version=2, payload=Titled, upgrades={1: lambda old: {"title": str(old)}}
    )
    with opened(directory, upgraded) as store:
        assert store.start_state("run-2").kind is StartKind.RESUME


def test_a_diagnostic_store_stops_no_start(directory: Path) -> None:
    """Its data is refused, and the run begins without it: it stays the old run's."""
    mine = Descriptor(MINE, payload=Titled, criticality=Criticality.DIAGNOSTIC_ONLY)
    with opened(directory, mine) as store:
        start = store.start_state("run-2")
        assert (start.kind, start.readiness.ok) == (StartKind.TAKE_OVER, True)
        run = store.begin_run("run-2", keep="all")
        assert run.left == (MINE,)
        assert store.check_readiness(expected=run.identity).ok
        run.write_batch("recovery", {mine: Titled(title="new")})
        assert store.read(mine).data == Titled(title="new")
        run.end()
        assert store.begin_run("run-3", keep="all").left == ()


def test_a_store_that_only_the_runtime_can_rebuild(directory: Path) -> None:
    """The answer asks for its rebuilder, and with that the recovery goes on."""
    mine = Descriptor(
        MINE,
        payload=Titled,
        criticality=Criticality.REBUILDABLE_FROM_PROVIDER,
        rebuild_strategy=RebuildStrategy.POLL_OPENCODE_PROVIDER,
    )
    with opened(directory, mine) as store:
        (directory / f"{OTHER}.json").write_text("{}")
        start = store.start_state("run-2")
        rebuilding = f"recover with a rebuilder of the runtime: {MINE}"
        assert start.why == f"recover first: {OTHER}; {rebuilding}"
        store.recover(start.plan)
        start = store.start_state("run-2")
        assert (start.kind, start.why) == (StartKind.REPAIR, rebuilding)
        store.recover(start.plan, rebuilders={MINE: lambda _: {"title": "from the provider"}})
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER


def _link(store: RuntimeStore) -> None:
    path = store.directory / f"{MINE}.json"
    path.rename(path.with_name("elsewhere.json"))
    path.symlink_to("elsewhere.json")


def _lose(store: RuntimeStore) -> None:
    with closing(sqlite3.connect(store.directory / DATABASE_NAME)) as raw, raw:
        raw.execute("DROP TRIGGER store_contents_in_use_stay")
        raw.execute("DELETE FROM store_contents WHERE schema_name = ?", (MINE,))
    (store.directory / f"{MINE}.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "why", "mend"),
    [
        (
            _link,
            "a person must decide which file is good",
            lambda store: (store.directory / "elsewhere.json").rename(
                store.directory / f"{MINE}.json"
            ),
        ),
        (
            _lose,
            "nothing puts it back",
            lambda store: store.begin_run("run-2", writes={MINE: 2}, keep="all").end(),
        ),
    ],
)
def test_what_a_person_must_decide(
    directory: Path,
    spoil: Callable[[RuntimeStore], None],
    why: str,
    mend: Callable[[RuntimeStore], object],
) -> None:
    """It is refused with the way out, before and after a recovery, until it is mended."""
    with opened(directory) as store:
        spoil(store)
        start = store.start_state("run-2")
        assert (start.kind, why in start.why) == (StartKind.REFUSE, True)
        store.recover(start.plan)
        assert store.start_state("run-2").why == start.why
        mend(store)
        assert store.start_state("run-3").kind is StartKind.TAKE_OVER


def test_a_file_without_a_batch(tmp_path: Path) -> None:
    """It may be all that is left of a lost database: nothing is begun over it, nor put right."""
    with opened(tmp_path / "state") as store:
        (store.directory / f"{MINE}.json").write_text('{"schemaVersion": 1, "data": 7}')
        start = store.start_state("run-1")
        assert (start.kind, MINE in start.unwritten) == (StartKind.REFUSE, False)
        assert "all that is left of a lost database" in start.why
        store.recover(start.plan)
        assert store.start_state("run-1").why == start.why
        (store.directory / f"{MINE}.json").rename(tmp_path / "mine")
        assert store.start_state("run-1").kind is StartKind.NEW


@pytest.mark.parametrize(("edits", "read"), [("adopt", 2), ("ignore", 1)])
def test_an_edit_that_the_store_deals_with_itself(directory: Path, edits: str, read: int) -> None:
    """A recovery would put it into quarantine before the store adopts it: none is asked for."""
    path = directory / f"{MINE}.json"
    path.write_text(path.read_text().replace('"n": 1', '"n": 2'))
    with opened(directory) as store:
        assert store.start_state("run-2").kind is StartKind.REPAIR
    with RuntimeStore.open(
        directory,
        team_name="team-a",
        descriptors=[Descriptor(MINE), Descriptor(OTHER)],
        foreign_edits=edits,
    ) as store:
        start = store.start_state("run-2")
        assert start.kind is StartKind.TAKE_OVER
        assert f"somebody edited the file of {MINE}" in start.why
        store.begin_run("run-2", keep="all")
        assert store.read(MINE).data == {"n": read}
        assert len(store.quarantined_files()) == (edits == "ignore")
        assert store.start_state("run-2").why == "run run-2 is active: resume it"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda text: text.replace('"n": 1', '"n": "\\ud800"'), "the text holds a lone surrogate"),
        (lambda text: text.replace('Version": 1', 'Version": 0'), "has schema version 0"),
    ],
)
def test_an_edit_that_cannot_be_adopted(
    directory: Path, spoil: Callable[[str], str], why: str
) -> None:
    """A store that adopts edits does not promise it of a file that no write could make: it asks for
    a recovery, as any store does, and says why."""
    path = directory / f"{MINE}.json"
    descriptors = [Descriptor(MINE), Descriptor(OTHER)]
    with RuntimeStore.open(directory, descriptors=descriptors, foreign_edits="adopt") as store:
        path.write_text(spoil(path.read_text()))
        start = store.start_state("run-2")
        assert start.kind is StartKind.REPAIR
        assert start.why.startswith(
            f"recover first: {MINE}; the edit of {MINE} cannot be adopted: "
        )
        assert why in start.why
        with pytest.raises(StoreFileChangedError, match=why):
            store.read(MINE)
        store.recover(start.plan)
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER


@pytest.mark.parametrize(
    "spoil", [lambda _: "{", lambda text: text.replace('Version": 1', 'Version": 9')]
)
def test_a_refused_file_of_a_diagnostic_store(directory: Path, spoil: Callable[[str], str]) -> None:
    """It stops no start; that is said of the file, for what is committed is good."""
    mine = Descriptor(MINE, criticality=Criticality.DIAGNOSTIC_ONLY)
    path = directory / f"{MINE}.json"
    with opened(directory, mine) as store:
        path.write_text(spoil(path.read_text()))
        start = store.start_state("run-2")
        assert start.kind is StartKind.TAKE_OVER
        assert start.why.endswith(
            f"; the file of {MINE} is refused, and left out: a recovery puts it aside"
        )
        assert store.begin_run("run-2", keep="all").left == (MINE,)
        store.recover(store.plan_recovery())
        assert store.start_state("run-3").kind is StartKind.TAKE_OVER
        assert "refused" not in store.start_state("run-3").why
        path.unlink()
        path.symlink_to("elsewhere.json")
        assert store.start_state("run-3").why.endswith(
            f"; the file of {MINE} is a symbolic link, or behind one, and left out"
        )


def test_the_process_of_a_run_that_ended_is_in_nobodys_way(tmp_path: Path) -> None:
    """It may live on: a start asks only for that of the active run."""
    with opened(tmp_path / "state") as store:
        run = store.begin_run("run-1", writes={MINE: 1, OTHER: 1})
        start = store.start_state("run-2")
        assert (start.kind, start.process_alive) == (StartKind.TAKE_OVER, True)
        run.end()
        start = store.start_state("run-2")
        assert (start.kind, start.process_alive) == (StartKind.TAKE_OVER, None)
        assert start.why == "the state is that of run run-1, which ended (finished)"


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    """The recovery that fails at it says why, and the next start says it, too."""
    inside = Descriptor(MINE, relative_path="sub/mine.json")
    with opened(tmp_path / "state", inside) as store:
        store.begin_run("run-1", writes={MINE: 1, OTHER: 1}).end()
        (store.directory / "sub" / "mine.json").unlink()
        (store.directory / "sub").rmdir()
        (store.directory / "sub").write_text("a file")
        start = store.start_state("run-2")
        assert start.kind is StartKind.REPAIR
        store.recover(start.plan)
        start = store.start_state("run-2")
        assert start.why.startswith(f"recover first: {MINE}; the last recovery failed there: ")
        assert "is not a directory" in start.why
        (store.directory / "sub").unlink()
        store.recover(start.plan)
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER


def test_a_diagnostic_store_that_was_never_written(tmp_path: Path) -> None:
    """A damaged file in its place goes to quarantine; then it is one that the run must write."""
    mine = Descriptor(MINE, criticality=Criticality.DIAGNOSTIC_ONLY)
    with opened(tmp_path / "state", mine) as store:
        (store.directory / f"{MINE}.json").write_text("{")
        start = store.start_state("run-1")
        assert (start.kind, start.why) == (StartKind.REPAIR, f"recover first: {MINE}")
        store.recover(start.plan)
        start = store.start_state("run-1")
        assert (start.kind, start.unwritten) == (StartKind.NEW, (MINE, OTHER))


def test_content_that_is_lost_and_would_only_be_dropped(directory: Path) -> None:
    """No recovery does anything about it: it must be written anew."""
    mine = Descriptor(MINE, rebuild_strategy=RebuildStrategy.DROP_AFTER_QUARANTINE)
    with opened(directory, mine) as store:
        _lose(store)
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert "nothing puts it back" in start.why


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("strategy", [*RebuildStrategy, "ask_the_scribe"])
def test_a_diagnostic_store_whose_content_is_lost(
    directory: Path, strategy: str, damaged: bool
) -> None:
    """It stops no start, as readiness says, before and after a recovery: a run that keeps
    everything leaves it out, and its next write makes it anew."""
    mine = Descriptor(MINE, criticality=Criticality.DIAGNOSTIC_ONLY, rebuild_strategy=strategy)
    with opened(directory, mine) as store:
        _lose(store)
        if damaged:
            (directory / f"{MINE}.json").write_text("{")
            assert store.check_readiness().ok
            assert store.start_state("run-2").kind is StartKind.TAKE_OVER
            store.recover(store.plan_recovery())
            (directory / f"{MINE}.json").unlink(missing_ok=True)  # where it waits for a rebuilder
        assert store.check_readiness().ok
        start = store.start_state("run-2")
        assert start.kind is StartKind.TAKE_OVER
        assert f"the file of {MINE} and what was committed are gone, and it is left" in start.why
        with store.begin_run("run-2", keep="all") as run:
            run.write_batch("delivery_commit", {MINE: 2})
        start = store.start_state("run-3")
        assert (start.kind, "gone" in start.why) == (StartKind.TAKE_OVER, False)


def _newer(path: Path) -> None:
    path.write_text('{"schemaVersion": 9, "data": 7}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_newer, "; the file of my.queue is refused, and left out: a recovery puts it aside"),
        (
            lambda path: path.symlink_to("elsewhere.json"),
            "; the file of my.queue is a symbolic link, or behind one, and left out",
        ),
    ],
)
def test_what_is_in_the_way_of_a_diagnostic_store_that_was_never_written(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    """It stops no start either, and readiness says the same."""
    with opened(tmp_path / "state") as store:
        store.begin_run("run-1", writes={OTHER: 1}).end()
    with opened(
        tmp_path / "state", Descriptor(MINE, criticality=Criticality.DIAGNOSTIC_ONLY)
    ) as store:
        assert store.check_readiness().ok
        spoil(store.directory / f"{MINE}.json")
        start = store.start_state("run-2")
        assert (start.kind, start.readiness.ok) == (StartKind.TAKE_OVER, True)
        assert start.why.endswith(said)
        store.begin_run("run-2", keep="all")


def test_a_file_that_nobody_committed_stops_no_start_where_others_are(tmp_path: Path) -> None:
    """Of a diagnostic store; while nothing is committed at all it may be what is left of a lost
    database, and both say so."""
    mine = Descriptor(MINE, criticality=Criticality.DIAGNOSTIC_ONLY)
    with RuntimeStore.open(tmp_path / "state", team_name="team-a", descriptors=[mine]) as store:
        (store.directory / f"{MINE}.json").write_text('{"schemaVersion": 1, "data": 7}')
        start = store.start_state("run-1")
        assert (start.kind, start.readiness.ok) == (StartKind.REFUSE, False)
    with RuntimeStore.open(
        tmp_path / "state", descriptors=[mine, Descriptor(OTHER)], recover=False
    ) as store:
        store.begin_run("run-1", writes={OTHER: 1}).end()
        start = store.start_state("run-2")
        assert (start.kind, start.readiness.ok) == (StartKind.TAKE_OVER, True)


def _ignoring(directory: Path, mine: Descriptor) -> RuntimeStore:
    """The store of a runtime that ignores edits, of which somebody made one."""
    path = directory / f"{MINE}.json"
    path.write_text(path.read_text().replace('"n": 1', '"title": "edited"'))
    descriptors = [mine, Descriptor(OTHER)]
    return RuntimeStore.open(directory, descriptors=descriptors, foreign_edits="ignore")


def test_what_is_committed_is_refused_behind_an_edit_that_is_ignored(directory: Path) -> None:
    """A read raises, so a start is refused, though the file passes the model; the way that is named
    goes on."""
    mine = Descriptor(MINE, payload=Titled)
    with _ignoring(directory, mine) as store:
        with pytest.raises(DataRefusedError):
            store.read(mine)
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert start.why.startswith(f"{MINE}: what is committed does not pass this program's model")
        with pytest.raises(DataRefusedError):
            store.begin_run("run-2", keep="all")
        store.begin_run("run-2", writes={MINE: {"title": "new"}}, keep="all")
        assert store.start_state("run-2").kind is StartKind.RESUME


def test_a_rebuilder_is_asked_for_behind_an_edit_that_is_ignored(directory: Path) -> None:
    """One recovery does both."""
    strategy = RebuildStrategy.POLL_OPENCODE_PROVIDER
    mine = Descriptor(MINE, payload=Titled, rebuild_strategy=strategy)
    with _ignoring(directory, mine) as store:
        start = store.start_state("run-2")
        assert (start.kind, start.why) == (
            StartKind.REPAIR,
            f"recover with a rebuilder of the runtime: {MINE}",
        )
        store.recover(start.plan, rebuilders={MINE: lambda _: {"title": "rebuilt"}})
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER


def test_a_diagnostic_store_is_left_out_behind_an_edit_that_is_ignored(directory: Path) -> None:
    """As it is without the edit."""
    mine = Descriptor(MINE, payload=Titled, criticality=Criticality.DIAGNOSTIC_ONLY)
    with _ignoring(directory, mine) as store:
        start = store.start_state("run-2")
        assert start.kind is StartKind.TAKE_OVER
        assert start.why.endswith(f"; what is committed for {MINE} is refused, and left out")
        assert store.begin_run("run-2", keep="all").left == (MINE,)


def test_a_newer_program_committed_behind_an_edit_that_is_ignored(directory: Path) -> None:
    """Nothing may be written over it: that program must start."""
    newer = [Descriptor(MINE, schema_version=9), Descriptor(OTHER)]
    with RuntimeStore.open(directory, descriptors=newer, upgrade=False) as store:
        store.begin_run("run-1b", writes={MINE: {"n": 1}}, keep="all").end()
    path = directory / f"{MINE}.json"
    path.write_text(path.read_text().replace('Version": 9', 'Version": 1'))
    with _ignoring(directory, Descriptor(MINE)) as store:
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert start.why == f"{MINE} was written by a newer program: start that one"
        with pytest.raises(NewerStoreFileError):
            store.begin_run("run-2", keep="all")


def test_what_is_committed_is_lost_behind_an_edit(directory: Path) -> None:
    """Who ignores the edit has nothing to read. Who adopts it has the edit: a read does it."""
    with opened(directory) as store:
        text = (directory / f"{MINE}.json").read_text()
        _lose(store)
        (directory / f"{MINE}.json").write_text(text)
    with _ignoring(directory, Descriptor(MINE)) as store:
        start = store.start_state("run-2")
        assert (start.kind, start.why) == (StartKind.REPAIR, f"recover first: {MINE}")
        with pytest.raises(ContentMissingError):
            store.read(MINE)
    descriptors = [Descriptor(MINE), Descriptor(OTHER)]
    with RuntimeStore.open(directory, descriptors=descriptors, foreign_edits="adopt") as store:
        start = store.start_state("run-2")
        assert "and this store adopts it when the store is next read" in start.why
        assert store.read(MINE).data == {"title": "edited"}


@pytest.mark.parametrize("left", ["", "{"])
def test_what_is_committed_is_lost_and_the_file_is_no_edit(directory: Path, left: str) -> None:
    """A read says so, also where edits are adopted."""
    descriptors = [Descriptor(MINE), Descriptor(OTHER)]
    with RuntimeStore.open(directory, descriptors=descriptors, foreign_edits="adopt") as store:
        _lose(store)
        if left:
            (directory / f"{MINE}.json").write_text(left)
        with pytest.raises(RecoveryNeededError, match="not in the database") as told:
            store.read(MINE)
        assert isinstance(told.value, StoreFileChangedError if left else ContentMissingError)


def test_nothing_but_a_diagnostic_store_that_is_refused(tmp_path: Path) -> None:
    """A run that keeps everything has nothing else to begin with: the error is about its data."""
    with RuntimeStore.open(
        tmp_path / "state", team_name="team-a", descriptors=[Descriptor(MINE)]
    ) as store:
        store.begin_run("run-1", writes={MINE: 1}).end()
    mine = Descriptor(MINE, payload=Titled, criticality=Criticality.DIAGNOSTIC_ONLY)
    with RuntimeStore.open(tmp_path / "state", descriptors=[mine]) as store:
        assert f"what is committed for {MINE} is refused" in store.start_state("run-2").why
        with pytest.raises(DataRefusedError):
            store.begin_run("run-2", keep="all")
