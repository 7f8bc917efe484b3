"""A database that somebody renamed in its directory is named, with the command that moves it back:
a rebuild would lose its history."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    Batch,
    DatabaseMissingError,
    RuntimeStore,
    rebuild_database,
)
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run
from tests.cli.troubles import run_command
from tests.support import LEASES, TEAM, new_directory, picture, write

NAMES = [f"{DATABASE_NAME}.old", DATABASE_NAME.upper(), "saved by hand.db"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with three batches."""
    directory = new_directory(tmp_path)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        for number in range(3):
            write(store, LEASES, {"n": number})
    return directory


def _batches(directory: Path) -> list[Batch]:
    with RuntimeStore.open(directory, read_only=True) as store:
        return store.batches()


@pytest.mark.parametrize("is_read_only", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_error_names_it(directory: Path, name: str, is_read_only: bool) -> None:
    """And changes nothing; the command brings everything back."""
    batches = _batches(directory)
    (directory / DATABASE_NAME).rename(directory / name)
    before = picture(directory)
    with pytest.raises(DatabaseMissingError) as caught:
        RuntimeStore.open(directory, team_name=TEAM, read_only=is_read_only)
    assert picture(directory) == before
    assert caught.value.renamed == (name,)
    assert "rebuild" not in str(caught.value)
    assert run_command(caught.value.run).code == 0
    assert _batches(directory) == batches


@pytest.mark.parametrize("name", NAMES)
def test_status_and_doctor_name_it(directory: Path, name: str) -> None:
    """The doctor before everything else, also without any store file."""
    (directory / DATABASE_NAME).rename(directory / name)
    told = run("status", directory, "--json")
    assert told.code == ExitCode.STOP
    assert "mv " in told.json()["error"]["message"]
    assert name in told.json()["error"]["message"]
    for file in directory.glob("*.json"):
        file.unlink()
    (finding,) = (
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    )
    assert name in finding["sentence"]
    assert run_command(finding["ways"][0]["command"]).code == 0
    assert (directory / DATABASE_NAME).exists()
    (directory / DATABASE_NAME).rename(directory / name)
    with pytest.raises(DatabaseMissingError):  # nor is a new store made beside it
        RuntimeStore.open(directory, team_name=TEAM)


def test_a_rebuild_beside_it_is_refused(directory: Path) -> None:
    """It would lose the history that is there. Forced, as the doctor offers it, it is made; the
    other one stays as it is."""
    name = NAMES[0]
    (directory / DATABASE_NAME).rename(directory / name)
    before = picture(directory)
    with pytest.raises(DatabaseMissingError) as caught:
        rebuild_database(directory, team_name=TEAM)
    told = run("rebuild", directory, "--team", TEAM, "--json")
    assert (told.code, caught.value.renamed) == (ExitCode.STOP, (name,))
    assert picture(directory) == before
    (finding,) = (
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    )
    (rebuild,) = (
        way["command"] for way in finding["ways"] if way["command"].startswith("rtstore rebuild")
    )
    kept = (directory / name).read_bytes()
    assert run_command(rebuild).code == 0
    assert (directory / name).read_bytes() == kept
    assert [batch.reason for batch in _batches(directory)] == ["recovery"]


def test_its_wal_comes_along(directory: Path, tmp_path: Path) -> None:
    """Batches may be in it only."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, {"n": "in the WAL"})
        killed = shutil.copytree(directory, tmp_path / "killed")
    batches = _batches(directory)
    for side in ("", "-wal", "-shm"):
        old = killed / f"{DATABASE_NAME}.old{side}"
        (killed / f"{DATABASE_NAME}{side}").rename(old)
    with pytest.raises(DatabaseMissingError) as caught:
        RuntimeStore.open(killed, team_name=TEAM)
    assert run_command(caught.value.run).code == 0
    assert _batches(killed) == batches


def test_its_wal_has_its_name_still(directory: Path, tmp_path: Path) -> None:
    """Only the database was renamed: the doctor says so, and the two come together again."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, {"n": "in the WAL"})
        killed = shutil.copytree(directory, tmp_path / "killed")
    batches = _batches(directory)
    (killed / DATABASE_NAME).rename(killed / "old.db")
    (finding,) = (
        item
        for item in run("doctor", killed, "--json").json()["findings"]
        if item["check"] == "database"
    )
    assert run_command(finding["ways"][0]["command"]).code == 0
    assert _batches(killed) == batches


def test_between_two_nobody_chooses(directory: Path) -> None:
    """Both are named, each with its command; the error sends to the doctor for that."""
    for name in NAMES[:2]:
        shutil.copy(directory / DATABASE_NAME, directory / name)
    (directory / DATABASE_NAME).unlink()
    with pytest.raises(DatabaseMissingError) as caught:
        RuntimeStore.open(directory, team_name=TEAM)
    assert caught.value.renamed == tuple(sorted(NAMES[:2]))
    assert caught.value.run == f"rtstore doctor {directory}"
    (finding,) = (
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    )
    assert [way["command"].split()[1] for way in finding["ways"][:2]] == [
        str(directory / name) for name in sorted(NAMES[:2])
    ]
    assert "a person must say" in finding["sentence"]


def test_what_is_no_database_of_ours(directory: Path) -> None:
    """Another program's, a text, a link, a pipe: the ways out are those without it."""
    database = (directory / DATABASE_NAME).read_bytes()
    (directory / DATABASE_NAME).unlink()
    (directory / "other.sqlite3").write_bytes(database[:68] + b"1234" + database[72:])
    (directory / "notes.txt").write_text("x" * 200)
    (directory.parent / "elsewhere").write_bytes(database)
    (directory / "link.sqlite3").symlink_to(directory.parent / "elsewhere")
    os.mkfifo(directory / "pipe.sqlite3")
    with pytest.raises(DatabaseMissingError) as caught:
        RuntimeStore.open(directory, team_name=TEAM)
    assert caught.value.renamed == ()
    assert "rebuild" in caught.value.run


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_in_its_place_hides_it_from_nobody(directory: Path, name: str) -> None:
    """The `sqlite3` shell leaves one where somebody looks; the command moves the database over."""
    batches = _batches(directory)
    (directory / DATABASE_NAME).rename(directory / name)
    (directory / DATABASE_NAME).touch()
    (finding,) = (
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    )
    assert f"{name} in it is a database of rtstore under another name" in finding["sentence"]
    assert run_command(finding["ways"][0]["command"]).code == 0
    assert _batches(directory) == batches
