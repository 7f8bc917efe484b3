"""Batches of several runs that wait together: each is of its run, none of a run that is over."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import Batch, BatchFailedError, RunIdentity, RuntimeStore, StaleRunError
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    LEASES,
    LEDGER,
    WatchedFileSystem,
    new_directory,
    open_store,
)
from tests.support.groups import Call, Flushes, carry_out


@pytest.fixture
def fs() -> WatchedFileSystem:
    """The file system under the store."""
    return WatchedFileSystem()


@pytest.fixture
def store(tmp_path: Path, fs: WatchedFileSystem) -> Iterator[RuntimeStore]:
    """A store in which run-A is active, after run-Z was superseded."""
    with open_store(new_directory(tmp_path), fs=fs) as opened:
        opened.begin_run("run-Z", writes={LEASES: "Z"})
        opened.begin_run("run-A", keep="all")
        yield opened


def _of(store: RuntimeStore, run: str, name: str = LEASES, reason: str = CHECKPOINT) -> Call:
    """A batch of a run."""
    identity = RunIdentity(run_id=f"run-{run}")
    return lambda: store.write_batch(identity=identity, reason=reason, writes={name: run})


def _change(store: RuntimeStore, run: str) -> Call:
    """An update of a run."""
    identity = RunIdentity(run_id=f"run-{run}")
    return lambda: store.update(LEDGER, lambda _: run, identity=identity, reason=CHECKPOINT)


def _in_words(outcomes: list[Batch | BaseException]) -> str:
    """What became of each, a letter each: committed, stale, failed."""
    words = {Batch: "c", StaleRunError: "s", BatchFailedError: "f"}
    return "".join(words[type(outcome)] for outcome in outcomes)


def _runs(store: RuntimeStore) -> dict[str, str]:
    return {run.run_id: run.state.value for run in store.runs()}


def test_a_stale_batch_among_others(store: RuntimeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone is refused, wherever it waits, and the others are written."""
    calls = [_of(store, run) for run in "ZAAZAZ"]
    assert _in_words(carry_out(store, *calls)) == "sccscs"
    flushes = Flushes(store.database, monkeypatch)
    assert _in_words(carry_out(store, *[_of(store, "A")] * 3)) == "ccc"
    assert flushes.made == [True, False]


def test_a_run_begins_among_others(store: RuntimeStore) -> None:
    """What waits behind the first batch of a run is refused, unless it is of that run too; what
    waits before it is written."""
    calls = [_of(store, run) for run in "ABAB"] + [_change(store, run) for run in "AB"]
    assert _in_words(carry_out(store, *calls)) == "ccscsc"
    assert _runs(store) == {"run-B": "active", "run-A": "superseded", "run-Z": "superseded"}
    assert store.read(LEDGER).data == "B"


def test_several_runs_begin_among_others(store: RuntimeStore) -> None:
    """Each supersedes the one before, in the order in which they wait."""
    calls = [_of(store, run) for run in "BCBDCD"]
    assert _in_words(carry_out(store, *calls)) == "ccscsc"
    assert [(run.run_id, run.superseded_by) for run in store.runs()] == [
        ("run-D", None), ("run-C", "run-D"), ("run-B", "run-C"), ("run-A", "run-B"),
        ("run-Z", "run-A"),
    ]  # fmt: skip


def test_a_run_ends_among_others(store: RuntimeStore) -> None:
    """What waits behind its stop_tombstone is refused, unless it begins another run."""
    calls = [
        _of(store, "A"), _of(store, "A", reason="stop_tombstone"), _of(store, "A"),
        _of(store, "A", DIAGNOSTICS), _of(store, "B"), _of(store, "A"),
    ]  # fmt: skip
    assert _in_words(carry_out(store, *calls)) == "ccsscs"
    assert _runs(store) == {"run-B": "active", "run-A": "ended", "run-Z": "superseded"}


def _no_room_for_the_ledger(store: RuntimeStore, fs: WatchedFileSystem) -> None:
    path = store.directory / f".{FILE_OF[LEDGER]}.rtstore-tmp"
    full = OSError(errno.ENOSPC, "No space left on device")
    fs.judge = lambda _, name, subject: full if (name, subject) == ("create", path) else None


def test_the_first_batch_of_a_run_fails_among_others(
    store: RuntimeStore, fs: WatchedFileSystem
) -> None:
    """Its run has not begun: the old one writes on, and the next batch of the new one begins it."""
    _no_room_for_the_ledger(store, fs)
    calls = [
        _of(store, "A"), _of(store, "B", LEDGER), _of(store, "A"), _of(store, "B"), _of(store, "A"),
    ]  # fmt: skip
    assert _in_words(carry_out(store, *calls)) == "cfccs"
    assert _runs(store) == {"run-B": "active", "run-A": "superseded", "run-Z": "superseded"}
    assert store.runs()[0].begun_by_batch == store.batches()[-1].batch_id


def test_batches_of_one_new_run_share_its_beginning(
    store: RuntimeStore, fs: WatchedFileSystem
) -> None:
    """Of two first batches of a run the first begins it, and where that fails, the other."""
    first, second = carry_out(store, _of(store, "B", LEDGER), _of(store, "B"))
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert store.runs()[0].begun_by_batch == first.batch_id
    _no_room_for_the_ledger(store, fs)
    outcomes = carry_out(store, _of(store, "C", LEDGER), _of(store, "C"))
    assert _in_words(outcomes) == "fc"
    assert store.runs()[0].begun_by_batch == store.batches()[-1].batch_id
    assert _runs(store)["run-B"] == "superseded"
