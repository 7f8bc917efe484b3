"""`rtstore upgrade`, `backup`, `restore` and `verify`: what they say, and how they end."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME
from rtstore.cli.exits import ExitCode
from rtstore.cli.progress import progress_bar
from rtstore.control.schema import REVISIONS
from tests.cli.commands import ready_team, run
from tests.support import LEASES, picture, write
from tests.upgrade.freeze import unpack
from tests.upgrade.test_data import C, begin, open_it


def test_upgrade(tmp_path: Path) -> None:
    """An older directory is refused by what only looks, with the command to run; that command
    upgrades it, says where the back-up is, and has nothing to do the second time."""
    directory = unpack(REVISIONS[0], tmp_path)
    refused = run("status", directory)
    assert refused.code == ExitCode.STOP
    assert f"Run: rtstore upgrade {directory}" in refused.err
    tried = run("upgrade", directory, "--dry-run")
    assert (tried.code, tried.err) == (0, "")
    assert "Tried on a copy" in tried.out
    assert run("status", directory).code == ExitCode.STOP
    done = run("upgrade", directory, "--json")
    assert done.code == 0
    report = done.json()
    assert (report["changed"], report["fromRevision"]) == (True, REVISIONS[0])
    assert Path(report["backup"]).is_file()
    again = run("upgrade", directory)
    assert "left as it was" in again.out
    assert f"rtstore restore {report['backup']} NEW_DIR" in again.out
    assert run("status", directory).code == ExitCode.NOT_READY
    restored = run("restore", report["backup"], tmp_path / "old")
    assert f"rtstore upgrade {tmp_path / 'old'}" in restored.out
    assert restored.out.count("left out: quarantine/") == 2
    assert run("status", tmp_path / "old").code == ExitCode.STOP
    assert run("upgrade", tmp_path / "old", "--json").json()["backups"] != []


def test_upgrade_of_store_data(tmp_path: Path) -> None:
    """With the descriptors of the runtime the command brings store data up too; rehearsed first,
    which changes nothing."""
    directory = begin(tmp_path)
    name = "tests.upgrade.test_data:THIRD"
    tried = run("upgrade", directory, "--descriptors", name, "--dry-run", "--json").json()
    assert (len(tried["stores"]), tried["batchId"], tried["dryRun"]) == (2, None, True)
    done = run("upgrade", directory, "--descriptors", name)
    assert (done.code, done.err) == (0, "")
    assert done.row("own.a", "1", "3")
    again = run("upgrade", directory, "--descriptors", name, "--json").json()
    assert (again["stores"], again["changed"]) == ([], False)
    for wrong in ("nowhere:X", "tests.upgrade.test_data:nothing", "tests.upgrade.test_data:A", ""):
        refused = run("upgrade", directory, "--descriptors", wrong)
        assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, ""), wrong


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--json",)])
@pytest.mark.parametrize("revision", [REVISIONS[0], REVISIONS[-1]])
def test_data_that_is_newer_than_the_descriptors(
    tmp_path: Path, revision: str, options: tuple[str, ...]
) -> None:
    """No command brings it back to them: this one says so, and changes nothing, not the database
    either, so that the newer program goes on."""
    directory = unpack(revision, tmp_path)
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        newer = "UPDATE manifest_entries SET schema_version = 2 WHERE schema_name = ?"
        raw.execute(newer, [LEASES])
    before = picture(directory)
    refused = run("upgrade", directory, "--descriptors", "rtstore:KNOWN_DESCRIPTORS", *options)
    assert refused.code == ExitCode.STOP
    said = refused.json()["error"]["message"] if "--json" in options else refused.err
    assert f"committed of store {LEASES} has schema version 2, this program knows 1" in said
    assert "use the newer program" in said
    assert picture(directory) == before
    assert run("upgrade", directory, *options).code == 0  # without descriptors it is of no data


def test_only_the_command_refuses_newer_data(tmp_path: Path) -> None:
    """A runtime of version 1 still opens a directory of version 3, and writes its other stores."""
    directory = begin(tmp_path)
    assert run("upgrade", directory, "--descriptors", "tests.upgrade.test_data:THIRD").code == 0
    refused = run("upgrade", directory, "--descriptors", "tests.upgrade.test_data:FIRST")
    assert (refused.code, "schema version 3, this program knows 1" in refused.err) == (5, True)
    with open_it(directory, 1) as store:
        assert write(store, C, {"value": 9})


def test_back_up_verify_restore(tmp_path: Path) -> None:
    """The three commands, each naming the next; a restored directory is as ready as the first."""
    directory = ready_team(tmp_path)
    made = run("backup", directory, tmp_path / "backup")
    assert (made.code, made.err) == (0, "")
    assert f"rtstore restore {tmp_path / 'backup'} NEW_DIR" in made.out
    assert run("verify", tmp_path / "backup").out.startswith("Sound")
    restored = run("restore", tmp_path / "backup", tmp_path / "new")
    assert (restored.code, restored.err) == (0, "")
    assert run("status", tmp_path / "new").code == run("status", directory).code == 0


def test_the_way_out_of_a_damaged_schema_is_no_circle(tmp_path: Path) -> None:
    """A back-up of a database without a view is made, and says so; the doctor never advises to
    restore it, and what it advises works."""
    directory = ready_team(tmp_path)
    sound, damaged = tmp_path / "sound", tmp_path / "damaged"
    assert run("backup", directory, sound).code == 0
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        raw.execute("DROP VIEW current_state")
    made = run("backup", directory, damaged)
    assert (made.code, made.err) == (0, "")
    assert "damaged: its view current_state is gone" in made.out
    assert f"\nNext\n  rtstore doctor {directory}\n" in made.out
    checked = run("verify", damaged)
    assert (checked.code, checked.out) == (ExitCode.STOP, "")
    assert "not a sound back-up: its view current_state is gone" in checked.err
    restored = run("restore", damaged, tmp_path / "new")
    assert "damaged: its view current_state is gone" in restored.out
    assert f"rtstore doctor {tmp_path / 'new'}" in restored.out
    assert run("restore", sound, tmp_path / "of-sound").code == 0
    assert run("doctor", tmp_path / "of-sound").code == 0

    told = run("doctor", directory).out
    assert "rtstore restore" not in told
    assert "rtstore rebuild" not in told
    command = next(line.strip() for line in told.splitlines() if "rtstore upgrade" in line)
    assert run(*command.split()[1:]).code == 0
    assert run("doctor", directory).code == 0


def test_a_database_alone_is_not_called_a_back_up(tmp_path: Path) -> None:
    """No file was looked at, and none was ever backed up: that is what it says, with the command
    that makes a back-up, or verifies the one that the database is of."""
    directory = ready_team(tmp_path)
    for file in directory.glob("*.json"):
        file.unlink()
    checked = run("verify", directory / DATABASE_NAME)
    assert checked.code == 0
    assert checked.out.startswith("Sound: every page and every content of this database\n")
    assert "Files           none looked at; it has the contents of " in checked.out
    assert "no back-up: it is the database of a runtime directory" in checked.out
    assert f"\nNext\n  rtstore backup {directory} DEST\n" in checked.out
    assert run("backup", directory, tmp_path / "backup").code == 0
    inside = run("verify", tmp_path / "backup" / DATABASE_NAME)
    assert f"\nNext\n  rtstore verify {tmp_path / 'backup'}\n" in inside.out


def test_a_back_up_of_a_team_says_that_its_lanes_are_not_in_it(tmp_path: Path) -> None:
    """Each lane is a runtime directory of its own; the command that is printed backs it up."""
    team = ready_team(tmp_path)
    shutil.copytree(team, team / "lanes" / "primary")
    (team / "lanes" / "empty").mkdir()
    made = run("backup", team, tmp_path / "copy")
    assert made.code == 0
    assert "not in it: lanes/primary, a runtime directory of its own" in made.out
    command = f"rtstore backup {team}/lanes/primary {tmp_path}/copy-primary"
    assert made.out.count("rtstore backup") == 1
    assert command in made.out
    assert run(*command.split()[1:]).code == 0
    assert "not in it: lanes/primary" in run("verify", tmp_path / "copy").out
    assert run("verify", tmp_path / "copy-primary", "--json").json()["lanes"] == []


def test_what_is_refused(tmp_path: Path) -> None:
    """No such directory, a target that is not empty, a damaged back-up: each with its exit code,
    and nothing is changed."""
    directory = ready_team(tmp_path)
    assert run("backup", tmp_path / "nowhere", tmp_path / "b").code == ExitCode.WRONG_CALL
    assert run("upgrade", tmp_path / "nowhere").code == ExitCode.WRONG_CALL
    run("backup", directory, tmp_path / "backup")
    before = picture(directory)
    over = run("restore", tmp_path / "backup", directory)
    assert over.code == ExitCode.WRONG_CALL
    assert "is not empty" in over.err
    assert picture(directory) == before
    (tmp_path / "backup" / "launch-state.json").write_text("{}")
    damaged = run("verify", tmp_path / "backup", "--json")
    assert damaged.code == ExitCode.STOP
    assert damaged.json()["error"]["type"] == "BackupDamagedError"


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported into a new directory and imported there, the team is as ready as it was; exported
    in place, the control files are beside the stores."""
    directory = ready_team(tmp_path)
    done = run("export", directory, "--to", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "10 entries" in done.out
    assert not (tmp_path / "out" / "runtime-store.sqlite3").exists()
    assert run("import", tmp_path / "out").code == 0
    assert run("status", tmp_path / "out").code == 0
    monkeypatch.chdir(tmp_path)
    here = run("export", directory.name)
    assert here.row("Where").split() == ["Where", directory.name]
    assert run("export", directory.name, "--json").json()["replaced"] == []
    assert (directory / "manifest.json").is_file()
    assert run("status", directory).code == 0
    assert run("export", directory, "--to", tmp_path / "out").code == ExitCode.WRONG_CALL


def test_a_progress_bar_is_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal each step gets its bar, on standard error, once it takes its time; so does what
    does not tell how far it is. Elsewhere there is none, nor for what is over at once."""
    with progress_bar() as bar:
        assert bar is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bar(quiet=True) as bar:
        assert bar is None
    with progress_bar() as bar:
        assert bar is not None
        bar("files", 1, 2)
    assert capsys.readouterr() == ("", "")
    for what, words in ((None, "files"), ("rebuilding", "rebuilding")):
        shown = ""
        with progress_bar(what=what) as bar:
            assert bar is not None
            if what is None:
                bar("files", 1, 2)
            while words not in shown:  # until the bar comes
                time.sleep(0.05)
                out, err = capsys.readouterr()
                assert out == ""
                shown += err
