"""Store files say that they were written after the last batch that the database knows: it is a copy
from before, its WAL did not come along, or a part of its WAL is spoiled. No start moves such a file
away, or calls the older state ready, unless a person says so.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    Descriptor,
    RunIdentity,
    RuntimeStore,
    StartKind,
)
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run
from tests.crash.children import Child
from tests.support import WatchedFileSystem, data_in, options_of

ONE, TWO, RUN = "a.one", "a.two", RunIdentity(run_id="run-1")


def opened(directory: Path, **options: object) -> RuntimeStore:
    """The store of a runtime with two stores."""
    return RuntimeStore.open(
        directory,
        team_name="team-a",
        descriptors=[Descriptor(ONE), Descriptor(TWO)],
        **options_of(**options),
    )


def commit(store: RuntimeStore, number: int, *names: str) -> None:
    """Write stores in one batch."""
    store.write_batch(identity=RUN, reason="x", writes=dict.fromkeys(names or (ONE, TWO), number))


def files_of(directory: Path) -> dict[str, object]:
    """What the store files hold, and what is in quarantine."""
    found = {path.name: data_in(path) for path in directory.glob("*.json")}
    return found | {"quarantined": len(list(directory.glob("quarantine/*")))}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of two batches."""
    with opened(tmp_path / "state") as store:
        commit(store, 1)
        commit(store, 2)
    return tmp_path / "state"


@pytest.fixture
def older(directory: Path) -> Path:
    """The same, with the files of four batches beside the database of two."""
    copy = shutil.copy(directory / DATABASE_NAME, directory.parent / "database")
    with opened(directory) as store:
        commit(store, 3)
        commit(store, 4)
    shutil.copy(copy, directory / DATABASE_NAME)
    return directory


@pytest.fixture
def spoiled(directory: Path) -> Path:
    """The same, and in the database, the third batch is logged and not completed."""
    aside = directory.parent / "aside"

    def die(_number: int, name: str, _subject: Path | int) -> None:
        if name == "create":
            os.kill(os.getpid(), signal.SIGKILL)

    def work(_: object) -> None:
        fs = WatchedFileSystem()
        store = opened(directory, fs=fs)
        fs.judge = die
        commit(store, 3)

    assert not Child(work).wait().finished
    aside.mkdir()
    for path in directory.glob(f"{DATABASE_NAME}*"):
        shutil.copy(path, aside)
    with opened(directory) as store:
        commit(store, 4)
    for path in aside.iterdir():
        shutil.copy(path, directory)
    return directory


def test_a_start_beside_a_database_from_before_is_refused(older: Path) -> None:
    """The runtime that asks is told what status says, and a recovery that nobody asked for does not
    move the newer files away."""
    before = files_of(older)
    with opened(older) as store:
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert start.why.startswith(f"look first: what is in the file of {ONE}, {TWO} differs")
        assert "batches that were acknowledged are missing" in start.why
        assert not store.check_readiness().ok
    assert files_of(older) == before == {"a.one.json": 4, "a.two.json": 4, "quarantined": 0}
    told = run("status", older)
    assert "look first" in told.out
    assert "blocked" in told.out
    assert told.code == ExitCode.NOT_READY


@pytest.mark.parametrize("command", ["recover", "adopt"])
def test_a_person_decides(older: Path, command: str) -> None:
    """Both ways that are named lead on: to what the database has, and to what the files have."""
    stores = [ONE, TWO] if command == "adopt" else [None]
    for name in stores:
        told = run(command, older, *([] if name is None else [name]))
        assert told.code == ExitCode.READY, told
    with opened(older) as store:
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER
        assert store.read(ONE).data == (4 if command == "adopt" else 2)


@pytest.mark.parametrize("edits", ["adopt", "ignore"])
def test_who_decided_about_edits_decided_about_these(older: Path, edits: str) -> None:
    """A store that is opened to adopt or to ignore what it did not write does so."""
    with opened(older, foreign_edits=edits) as store:
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER


def test_an_edit_that_says_no_later_time_is_repaired(directory: Path) -> None:
    """Only the time in the file tells them apart: who edits by hand leaves it as it is."""
    path = directory / "a.one.json"
    path.write_text(path.read_text().replace('"data": 2', '"data": 7'))
    with opened(directory) as store:
        start = store.start_state("run-2")
    assert (start.kind, start.why) == (StartKind.REPAIR, f"recover first: {ONE}")


def test_the_file_of_a_store_that_the_database_does_not_know(older: Path) -> None:
    """Its first contents would go over what was acknowledged."""
    (older / "a.three.json").write_bytes((older / "a.one.json").read_bytes())
    for name in (ONE, TWO):
        assert run("adopt", older, name).code == ExitCode.READY
    descriptors = [Descriptor(name) for name in (ONE, TWO, "a.three")]
    with RuntimeStore.open(older, descriptors=descriptors) as store:
        text = (older / "a.three.json").read_text()
        assert store.start_state("run-2").kind is StartKind.TAKE_OVER
        (older / "a.three.json").write_text(text.replace('"updatedAt": "2', '"updatedAt": "3'))
        start = store.start_state("run-2")
        assert start.kind is StartKind.REFUSE
        assert "in the file of a.three differs" in start.why


def test_an_open_batch_keeps_what_is_in_its_way(spoiled: Path) -> None:
    """It is finished all the same, as beside any edit. What was newer is in quarantine, from where
    it comes back; status says so before."""
    assert "finishes the open batch" in run("status", spoiled).out
    with opened(spoiled) as store:
        assert store.read(ONE).data == 3
        for kept in store.quarantined_files():
            store.restore_quarantined(kept.quarantine_number)
        for name in (ONE, TWO):
            store.adopt(name)
        assert store.read(ONE).data == store.read(TWO).data == 4
        assert store.check_readiness().ok


def test_a_batch_that_has_no_newer_file_in_its_way_goes_forward(spoiled: Path) -> None:
    """Nothing newer is moved by that. What another store has is still to be looked at."""
    newer = (spoiled / "a.two.json").read_bytes()
    (spoiled / "a.one.json").unlink()
    (spoiled / "a.two.json").unlink()
    (spoiled / "a.three.json").write_bytes(newer)
    descriptors = [Descriptor(name) for name in (ONE, TWO, "a.three")]
    with RuntimeStore.open(spoiled, descriptors=descriptors) as store:
        assert store.read(ONE).data == 3
        assert store.start_state("run-1").kind is StartKind.REFUSE
    assert (spoiled / "a.three.json").read_bytes() == newer
