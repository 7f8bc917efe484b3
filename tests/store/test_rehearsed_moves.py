"""What a dry run says of stores that get other files, or of what is in the way of their files, is
what is done then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rtstore import RuntimeStore, RuntimeStoreError
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.model.descriptors import Registry
from rtstore.store import rehearse_upgrade
from rtstore.testing import Seams
from tests.cli.commands import run
from tests.crash.children import Child
from tests.recovery.test_lost_entries import edit
from tests.store.test_refused_moves import A, B, at, newer
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    WatchedFileSystem,
    breadth,
    data_in,
    files_picture,
    write,
)
from tests.upgrade.freeze import unpack

FOREIGN, ENVELOPE = json.dumps({"foreign": 1}), json.dumps({"schemaVersion": 1, "data": "there"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which two stores were written."""
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[A, B]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={A: "of a", B: "of b"})
    return tmp_path / "team"


def make_folder(path: Path) -> None:
    """A folder with a file."""
    path.mkdir()
    (path / "in.txt").write_text("in")


THERE: dict[str, Callable[[Path], object]] = {
    "foreign": lambda path: path.write_text(FOREIGN),
    "an envelope": lambda path: path.write_text(ENVELOPE),
    "torn": lambda path: path.write_text("{"),
    "a folder": make_folder,
    "a newer file": lambda path: path.write_text(ENVELOPE.replace("1", "9")),
    "what is committed": lambda path: path.write_bytes((path.parent / "a.json").read_bytes()),
    "nothing": lambda path: None,
}


def leave_a_batch_open(directory: Path) -> None:
    """A writer dies after it logged a batch."""

    def write_and_die(_: object) -> None:
        fs = WatchedFileSystem()
        with RuntimeStore.open(directory, seams=Seams(fs=fs)) as store:
            fs.judge = lambda _number, name, _subject: (
                os.kill(os.getpid(), signal.SIGKILL) if name == "create" else None
            )
            write(store, A.schema_name, "logged")

    assert not Child(write_and_die).wait().finished


BEFORE: dict[str, Callable[[Path], object]] = {
    "sound": lambda directory: None,
    "its entry is lost": lambda directory: edit(
        directory, "DELETE FROM manifest_entries WHERE schema_name = 'own.a'"
    ),
    "a batch is open": leave_a_batch_open,
    "its file was edited": lambda directory: (directory / "a.json").write_text(
        ENVELOPE.replace("there", "edited")
    ),
    "its file was edited so": lambda directory: (directory / "a.json").write_text(ENVELOPE),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("version", breadth.params([1, 2], normal=[1]))
@pytest.mark.parametrize("before", breadth.params([*BEFORE], normal=[*BEFORE][:3]))
@pytest.mark.parametrize("there", THERE)
def test_every_file_that_makes_way(directory: Path, there: str, before: str, version: int) -> None:
    """Whatever is at the new path of a store, and whatever the opening has to finish first."""
    if version == 2 and "edited" in before:
        return  # refused
    BEFORE[before](directory)
    THERE[there](directory / "new.json")
    new = at(A, "new.json")
    wanted = [newer(new) if version == 2 else new, B]
    was = files_picture(directory)
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        tried = rehearse_upgrade(directory, database, Registry(wanted))
    finally:
        database.close()
    assert files_picture(directory) == was
    with RuntimeStore.open(directory, descriptors=wanted) as store:
        done = [item.relative_path for item in store.quarantined_files()]
    assert [*tried.quarantined] == done


def test_an_edit_that_a_recovery_copies(directory: Path) -> None:
    """An opening without a recovery left it at the former file."""
    (directory / "a.json").write_text(ENVELOPE)
    RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B], recover=False).close()
    (planned,) = run("plan", directory, "--json").json()["recovery"]
    assert planned["intention"].startswith("copy the edit of its former file a.json to this one")
    status = run("status", directory, "--json").json()
    assert "an edit of the former one, if there is one" in status["next"][0]["why"]
    with RuntimeStore.open(directory, recover=False) as store:
        (tried,) = store.recover(store.plan_recovery(), dry_run=True).steps
        (done,) = store.recover(store.plan_recovery()).steps
    assert "copy the edit of its former file a.json" in str(tried.detail)
    assert done.detail == "its former file was edited, and the edit was copied to this one"
    assert data_in(directory / "new.json") == "there"


@pytest.mark.parametrize("committed", [False, True])
def test_the_command_for_what_is_in_place_of_a_folder(tmp_path: Path, *, committed: bool) -> None:
    """It is the one that helps, and not a recovery, which would stop there."""
    directory, deep = tmp_path / "team", at(A, "d/e/a.json")
    with RuntimeStore.open(directory, team_name="t", descriptors=[deep, B]) as store:
        write(store, B.schema_name, "of b")
        if committed:
            write(store, A.schema_name, "of a")
            (directory / "d").rename(tmp_path / "gone")
    (directory / "d").write_text("in the way")
    for command in ("plan", "status"):
        (step,) = run(command, directory, "--json").json()["next"]
        assert step["command"].startswith("mv ")
    subprocess.run(step["command"], shell=True, check=True)
    assert (directory / "d.aside").read_text() == "in the way"
    run("recover", directory)
    with RuntimeStore.open(directory) as store:
        assert store.plan_recovery().high_watermark == 1 + committed
        if committed:
            assert data_in(directory / "d" / "e" / "a.json") == "of a"
        assert not any(
            step.get("command") for step in run("plan", directory, "--json").json()["next"]
        )


def test_the_command_for_a_runtime_directory_in_place_of_a_file(directory: Path) -> None:
    """Status says it, too, and there is nothing that a recovery would do."""
    (directory / "a.json").unlink()
    RuntimeStore.open(directory / "a.json", team_name="t").close()
    (step,) = run("status", directory, "--json").json()["next"]
    assert "is another runtime directory" in step["why"]
    subprocess.run(step["command"], shell=True, check=True)
    run("recover", directory)
    assert data_in(directory / "a.json") == "of a"


GIVEN = [newer(at(A, "new.json")), at(B, "b/new.json")]
LANE = [A, at(B, "lanes")]


@pytest.mark.parametrize("name", ["GIVEN", "LANE"])
def test_the_doctor_says_that_an_opening_is_refused(directory: Path, name: str) -> None:
    """And not that it moves anything."""
    RuntimeStore.open(directory / "lanes" / "p", team_name="t").close()
    (directory / "a.json").write_text(ENVELOPE)
    found = run("doctor", directory, "--descriptors", f"{__name__}:{name}", "--json").json()
    said = [item["sentence"] for item in found["findings"] if "opening with" in item["sentence"]]
    assert len(said) == 1
    assert said[0].startswith("opening with these descriptors is refused: ")
    with pytest.raises(RuntimeStoreError) as told:
        RuntimeStore.open(directory, descriptors=globals()[name])
    assert said[0].endswith(str(told.value))


@pytest.mark.parametrize("revision", breadth.params(REVISIONS[:-1], normal=REVISIONS[2:3]))
def test_the_doctor_says_so_of_an_older_database(tmp_path: Path, revision: str) -> None:
    """As the upgrade does."""
    directory = unpack(revision, tmp_path)
    (directory / "opencode-host-leases.json").write_text(ENVELOPE)
    options = ["--descriptors", "tests.upgrade.test_dry_run:LEASES_2"]
    found = run("doctor", directory, *options, "--json").json()
    assert any(
        item["sentence"].startswith("opening with these descriptors is refused: ")
        for item in found["findings"]
    )


FOLDER = [at(A, "new/a.json"), at(B, "a.json/b.json")]


def test_the_doctor_does_not_move_a_store_into_anothers_file(directory: Path) -> None:
    """It says whose the file is, as of the very file, and nothing of a move of that store."""
    found = run("doctor", directory, "--descriptors", f"{__name__}:FOLDER", "--json").json()
    said = " ".join(item["sentence"] for item in found["findings"])
    assert "own.b cannot be written: the file a.json, which a.json/b.json needs as a folder" in said
    assert "moves own.a from a.json to new/a.json" in said
    assert "own.b from" not in said
