"""Symbolic links: nothing is written or read through one, and a person's own is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore import (
    ActionKind,
    ActionOutcome,
    ForeignDatabaseError,
    InvalidRequestError,
    RuntimeStore,
    StorageError,
    StoreFileChangedError,
    UnsafePathError,
    UnusableEngineError,
)
from rtstore.control.lock import LOCK_NAME
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.durable import temporary_path
from tests.support import (
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    data_in,
    file_of,
    new_directory,
    plain_descriptor,
    write,
)

EDITED = b'{"schemaVersion": 1, "updatedAt": null, "data": {"token": "edited"}}'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two stores that were written once."""
    directory = new_directory(tmp_path)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        write(store, LEASES, {"token": "ours"})
        write(store, LEDGER, {"token": "ours"})
    return directory


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of ours; what is in it must not change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "theirs").write_bytes(b"theirs")
    (folder / f".{FILE_OF[LEASES]}.rtstore-tmp").write_bytes(b"theirs")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- quarantine -----------------------------------------------------------------------------------


def test_quarantine_is_no_way_out(directory: Path, outside: Path) -> None:
    """A batch, an opening, a recovery: none quarantines through a link, or removes anything
    behind it; each says what to do, and then goes on."""
    before = contents(outside)
    (directory / "quarantine").symlink_to(outside)
    path = directory / FILE_OF[LEASES]
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        path.write_bytes(EDITED)
        says = r"'quarantine' is a symbolic link to .*outside: .*cp -Rp .* rm .* mv "
        with pytest.raises(UnsafePathError, match=says):
            write(store, LEASES, {"token": "new"})
        assert path.read_bytes() == EDITED
        report = store.recover(store.plan_recovery())
        assert [step.outcome for step in report.steps if step.action.schema_name == LEASES] == [
            ActionOutcome.FAILED
        ]
        path.unlink()
        path.mkdir()
        (path / "inner").write_bytes(b"somebody's")
        store.recover(store.plan_recovery())
        assert (path / "inner").read_bytes() == b"somebody's"
        assert store.quarantined_files() == []
    RuntimeStore.open(directory, team_name=TEAM).close()
    assert contents(outside) == before
    (directory / "quarantine").unlink()
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        store.recover(store.plan_recovery())
        assert store.read(LEASES).data == {"token": "ours"}
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path / "inner").read_bytes() == b"somebody's"


def test_evidence_is_not_read_through_a_link(directory: Path, outside: Path) -> None:
    """What was kept is not taken back from a folder that is another one by now."""
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        file_of(store, LEASES).write_bytes(EDITED)
        write(store, LEASES, {"token": "new"})
        (kept,) = store.quarantined_files()
        moved = (directory / "quarantine").rename(outside / "moved")
        (directory / "quarantine").symlink_to(moved)
        with pytest.raises(UnsafePathError, match="'quarantine' is a symbolic link"):
            store.restore_quarantined(kept.quarantine_number)
        assert data_in(file_of(store, LEASES)) == {"token": "new"}


def test_quarantine_is_a_folder(directory: Path) -> None:
    """A file of that name is in the way, and said so."""
    (directory / "quarantine").write_bytes(b"")
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        file_of(store, LEASES).write_bytes(EDITED)
        with pytest.raises(UnsafePathError, match=r"is no directory: move .*quarantine away"):
            write(store, LEASES, {"token": "new"})


@pytest.mark.parametrize("where", ["quarantine", "store"])
def test_temporary_names_are_no_way_out(directory: Path, outside: Path, where: str) -> None:
    """A link under a temporary name, or under that of the quarantined file, is replaced, not
    followed."""
    before = contents(outside)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        path = file_of(store, LEASES)
        path.write_bytes(EDITED)
        if where == "store":
            temporary_path(path).symlink_to(outside / "theirs")
        write(store, LEASES, {"token": "new"})
        (kept,) = store.quarantined_files()
        if where == "quarantine":
            place = directory / kept.quarantine_path
            place.unlink()
            place.symlink_to(outside / "theirs")
            temporary_path(place).symlink_to(outside / "theirs")
            path.write_bytes(EDITED)
            write(store, LEASES, {"token": "newer"})
            assert place.read_bytes() == EDITED
            assert not place.is_symlink()
    assert contents(outside) == before


def test_a_directory_under_a_temporary_name(directory: Path) -> None:
    """It is no file of a dead writer's: the batch is undone, and says what is in the way."""
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        temporary_path(file_of(store, LEASES)).mkdir()
        with pytest.raises(Exception, match="a directory has the name of a temporary file"):
            write(store, LEASES, {"token": "new"})
        assert store.read(LEASES).data == {"token": "ours"}


# --- the database and the lock --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_the_database_is_no_link(directory: Path, outside: Path, suffix: str) -> None:
    """Nor is what belongs to it: SQLite would follow it."""
    path = directory / f"runtime-store.sqlite3{suffix}"
    if path.exists():
        path.rename(outside / path.name)
    else:
        (outside / path.name).write_bytes(b"")
    path.symlink_to(outside / path.name)
    before = contents(outside)
    with pytest.raises(ForeignDatabaseError, match="link" if not suffix else "not a regular file"):
        RuntimeStore.open(directory, team_name=TEAM)
    assert contents(outside) == before


def test_the_database_has_one_name(directory: Path, outside: Path) -> None:
    """A second name would have a WAL and a writer lock of its own: acknowledged batches would be
    lost. The command that is named gives the directory a database of its own."""
    path = directory / "runtime-store.sqlite3"
    os.link(path, outside / path.name)
    before = contents(outside)
    for read_only in (False, True):
        with pytest.raises(UnusableEngineError, match="a hard link") as caught:
            RuntimeStore.open(directory, team_name=TEAM, read_only=read_only)
    command = str(caught.value).partition(" open (")[2].removesuffix(")")
    assert command.startswith("cp -p "), str(caught.value)
    subprocess.run(command, shell=True, check=True)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.manifest().team_name == TEAM
    assert contents(outside) == before


def test_what_belongs_to_the_database_has_one_name(directory: Path, tmp_path: Path) -> None:
    """A WAL that two directories share gives each the batches of the other. Of a directory whose
    writer was killed, all files are shared, as `cp -al` does; the commands that are named part
    them, also where only some are shared."""
    code = (
        "import os, signal, sys; from pathlib import Path; from rtstore import RuntimeStore; "
        "from tests.support import LEASES, TEAM, write; "
        "store = RuntimeStore.open(Path(sys.argv[1]), team_name=TEAM); "
        "write(store, LEASES, {'token': 'last'}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(directory)], check=False)
    assert died.returncode == -signal.SIGKILL
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-al", str(directory), str(copy)], check=True)
    path = directory / DATABASE_NAME
    path.with_name("own").write_bytes(path.read_bytes())
    path.with_name("own").replace(path)  # what an earlier way out did, for the database alone
    for suffix in ("-wal", "-shm"):
        assert path.with_name(path.name + suffix).stat().st_nlink == 2
    before = contents(copy)
    with pytest.raises(UnusableEngineError, match="a hard link") as caught:
        RuntimeStore.open(directory, team_name=TEAM)
    command = str(caught.value).partition(" open (")[2].removesuffix(")")
    subprocess.run(command, shell=True, check=True)
    assert {file.stat().st_nlink for file in directory.glob("runtime-store*")} == {1}
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.read(LEASES).data == {"token": "last"}
        write(store, LEASES, {"token": "later"})
    assert contents(copy) == before
    with RuntimeStore.open(copy, team_name=TEAM) as store:
        assert store.read(LEASES).data == {"token": "last"}


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_side_file_that_is_a_file_of_somebody_else(
    directory: Path, outside: Path, suffix: str
) -> None:
    """SQLite would overwrite it."""
    path = directory / f"{DATABASE_NAME}{suffix}"
    path.unlink(missing_ok=True)
    os.link(outside / "theirs", path)
    before = contents(outside)
    with pytest.raises(UnusableEngineError, match="a hard link"):
        RuntimeStore.open(directory, team_name=TEAM)
    assert contents(outside) == before


def test_a_lock_file_with_another_name_is_not_signed(directory: Path, outside: Path) -> None:
    """It locks, and what somebody else has under its other name stays."""
    (directory / LOCK_NAME).unlink(missing_ok=True)
    os.link(outside / "theirs", directory / LOCK_NAME)
    before = contents(outside)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        write(store, LEASES, {"token": "new"})
    assert contents(outside) == before


def test_the_lock_file_is_no_link(directory: Path, outside: Path) -> None:
    """The holder signs it, so it would be written through."""
    before = contents(outside)
    (directory / "runtime-store.lock").unlink(missing_ok=True)
    (directory / "runtime-store.lock").symlink_to(outside / "theirs")
    with (
        pytest.raises(StorageError, match="the writer lock cannot be taken"),
        RuntimeStore.open(directory, team_name=TEAM) as store,
    ):
        write(store, LEASES, {"token": "new"})
    assert contents(outside) == before


def test_a_directory_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    """It is said so, not that a lock file is missing."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InvalidRequestError, match="a symbolic link that leads to nothing"):
        RuntimeStore.open(tmp_path / "link", team_name=TEAM)


# --- a store file that somebody made a link -------------------------------------------------------


@pytest.fixture
def linked(directory: Path, outside: Path) -> Path:
    """A store file that was moved elsewhere, with a link in its place; return the link."""
    path = directory / FILE_OF[LEASES]
    path.rename(outside / "leases.json")
    path.symlink_to(outside / "leases.json")
    return path


@pytest.mark.parametrize("edited", [False, True], ids=["as it was", "edited"])
def test_opening_leaves_a_link_alone(linked: Path, outside: Path, edited: bool) -> None:
    """It is in the plan, reading and writing say so, other stores go on; no run is recorded."""
    if edited:
        (outside / "leases.json").write_bytes(EDITED)
    before = contents(outside)
    for _ in range(2):
        with RuntimeStore.open(linked.parent, team_name=TEAM) as store:
            assert store.last_recovery is None
            (action,) = [
                action for action in store.plan_recovery().actions if action.schema_name == LEASES
            ]
            assert action.kind is ActionKind.BLOCK_READINESS
            with pytest.raises(StoreFileChangedError, match="the file is a symbolic link"):
                store.read(LEASES)
            with pytest.raises(UnsafePathError, match=r"cp -p \S+ \S+\.new && mv \S+\.new \S+"):
                write(store, LEASES, {"token": "new"})
            write(store, LEDGER, {"token": "new"})
    assert linked.is_symlink()
    assert contents(outside) == before


@pytest.mark.parametrize("leads_to", ["a folder", "nothing", "a file", "itself"])
def test_the_command_for_a_folder_that_is_a_link(tmp_path: Path, leads_to: str) -> None:
    """What the error of a write prints runs, and the write goes through then."""
    notes = plain_descriptor("own.notes", "own/notes.json")
    away = tmp_path / "away"
    with RuntimeStore.open(tmp_path / "team", team_name=TEAM, descriptors=[notes]) as store:
        write(store, "own.notes", 1)
        folder = store.directory / "own"
        folder.rename(away)
        folder.symlink_to(folder if leads_to == "itself" else away)
        if leads_to != "a folder":
            shutil.rmtree(away)
        if leads_to == "a file":
            away.write_text("no folder")
        with pytest.raises(UnsafePathError) as caught:
            write(store, "own.notes", 2)
        command = str(caught.value).rpartition(" (")[2].removesuffix(")")
        subprocess.run(["/bin/sh", "-c", command], check=True)
        store.recover(store.plan_recovery())
        write(store, "own.notes", 2)
        assert not folder.is_symlink()
    assert away.exists() is (leads_to in ("a folder", "a file"))


@pytest.mark.parametrize("take", [True, False], ids=["take", "drop"])
def test_an_edit_behind_a_link_is_the_persons(linked: Path, outside: Path, take: bool) -> None:
    """No recovery puts what is committed in its place. The command that errors name for taking the
    edit does what it says; without the link, what is committed comes back."""
    (outside / "leases.json").write_bytes(EDITED)
    before = contents(outside)
    with RuntimeStore.open(linked.parent, team_name=TEAM) as store:
        store.recover(store.plan_recovery())
        assert linked.is_symlink()
        with pytest.raises(UnsafePathError) as caught:
            write(store, LEASES, {"token": "new"})
        if take:
            command = str(caught.value).split("by what it points to (")[1].removesuffix(")")
            subprocess.run(["/bin/sh", "-c", command], check=True)
            store.adopt(LEASES, identity=IDENTITY)
        else:
            linked.unlink()
            store.recover(store.plan_recovery())
        assert store.read(LEASES).data == {"token": "edited" if take else "ours"}
        assert not linked.is_symlink()
    assert contents(outside) == before
