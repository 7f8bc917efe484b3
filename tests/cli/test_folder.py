"""`rtstore status` of a folder: every runtime directory and lane below it, a line each."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    Descriptor,
    InvalidRequestError,
    RunIdentity,
    RuntimeStore,
    StoreFileChangedError,
)
from rtstore.cli import discover
from rtstore.cli.discover import Walk
from rtstore.cli.exits import ExitCode
from rtstore.cli.folder import State
from rtstore.control.schema import REVISIONS
from rtstore.legacy.control_files import MANIFEST_NAMES, RUNTIME_DIRECTORY
from rtstore.legacy.survey import LANES
from rtstore.maintenance.backup import RECORD_NAME
from tests.cli.commands import CHECKOUT, crashed_team, ready_team, run, run_process
from tests.cli.test_bad_input import HOLD, _newer, _without_privileges
from tests.maintenance.test_rebuild_database import overwrite
from tests.support import TEAM, hear, picture
from tests.support.forked import forked
from tests.upgrade.freeze import unpack

LANE = "secondary%3Aopencode%3Amira"


def team(folder: Path, name: str, *, make: Any = ready_team) -> Path:
    """A team's runtime directory of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "made").mkdir()
    path = Path(make(folder / "made")).rename(folder / name)
    shutil.rmtree(folder / "made")
    return path


def lines(folder: Path) -> dict[str, Any]:
    """What is said of each directory, by its path below the folder."""
    document = run("status", folder, "--json").json()
    return {
        str(Path(line["directory"]).relative_to(folder)): line for line in document["directories"]
    }


def test_teams_and_lanes(tmp_path: Path) -> None:
    """Every team and lane is a line with its team, readiness, watermark, run, age and size; lanes
    are named by their decoded id; and the exit code is the worst."""
    atlas = team(tmp_path, "atlas")
    team(atlas / "lanes", "primary")
    team(atlas / "lanes", LANE, make=crashed_team)
    team(tmp_path / "more" / "teams", "borealis")
    result = run_process("status", tmp_path)
    assert (result.code, result.err) == (ExitCode.NOT_READY, "")
    assert "Found      4 runtime directories\n" in result.out
    assert "Readiness  3 ready, 1 blocked\n" in result.out
    assert result.row(str(atlas), "demo-team", "ready", "3", "run-7f3a", "free", "-")
    blocked = result.row(str(atlas / "lanes" / LANE), "blocked", "batch-crashed")
    assert "Uncommitted runtime store batch detected" in blocked
    assert f"\nNext\n  rtstore recover {atlas / 'lanes' / LANE}\n" in result.out
    found = lines(tmp_path)
    assert list(found) == [
        "atlas",
        "atlas/lanes/primary",
        f"atlas/lanes/{LANE}",
        "more/teams/borealis",
    ]
    assert [line["laneId"] for line in found.values()] == [
        None,
        "primary",
        "secondary:opencode:mira",
        None,
    ]
    first = found["atlas"]
    assert (first["state"], first["why"], first["exitCode"]) == ("ready", None, 0)
    assert (first["teamName"], first["highWatermark"]) == ("demo-team", 3)
    assert first["activeRunId"] == "run-7f3a"
    assert first["databaseBytes"] == (atlas / DATABASE_NAME).stat().st_size
    assert 0 <= first["ageSeconds"] < 3600
    assert (first["lockHolder"], first["next"]) == (None, [])


def test_a_runtime_directory_shows_its_lanes(tmp_path: Path) -> None:
    """The lanes stand below the stores, with what to run for one that is not ready. The exit code
    is the directory's own: whether its runtime may start."""
    atlas = team(tmp_path, "atlas")
    assert run("status", atlas).code == ExitCode.READY
    team(atlas / "lanes", "primary")
    ready = run("status", atlas)
    assert ready.code == ExitCode.READY
    assert "\nLanes\n" in ready.out
    assert ready.row(str(atlas / "lanes" / "primary"), "ready", "3")
    lane = team(atlas / "lanes", LANE, make=crashed_team)
    result = run("status", atlas)
    assert result.code == ExitCode.READY
    assert "Readiness          ready (runtime_store_manifest_valid)\n" in result.out
    assert f"\nNext, in these\n  rtstore recover {lane}\n" in result.out
    assert run("status", tmp_path).code == ExitCode.NOT_READY
    below = run("status", atlas, "--json").json()["below"]
    assert [(line["laneId"], line["state"]) for line in below] == [
        ("primary", "ready"),
        ("secondary:opencode:mira", "blocked"),
    ]


def _foreign(directory: Path) -> None:
    (directory / DATABASE_NAME).unlink()
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as other:
        other.execute("CREATE TABLE mine (id)")


def test_broken_directories_stop_no_other(tmp_path: Path) -> None:
    """Newer, older, foreign, damaged, emptied, gone, a link, legacy, never begun: each is a
    line that says so with the way out, and those before and after are looked at all the same."""
    (tmp_path / "teams").mkdir()
    folder = tmp_path / "teams"
    for name in ("a-ready", "b-newer", "d-foreign", "e-damaged", "f-emptied", "g-gone", "z-ready"):
        team(folder, name)
    _newer(folder / "b-newer" / DATABASE_NAME)
    older = unpack(REVISIONS[0], tmp_path).rename(folder / "c-older")
    assert run("status", older).code == ExitCode.STOP  # SQLite makes the index of its WAL anew
    _foreign(folder / "d-foreign")
    overwrite(folder / "e-damaged" / DATABASE_NAME, "write_batches")
    (folder / "f-emptied" / DATABASE_NAME).write_bytes(b"")
    (folder / "g-gone" / DATABASE_NAME).unlink()
    linked = team(folder, "h-linked")
    (linked / DATABASE_NAME).rename(tmp_path / "elsewhere")
    (linked / DATABASE_NAME).symlink_to(tmp_path / "elsewhere")
    (folder / "i-legacy").mkdir()
    (folder / "i-legacy" / "opencode-runtime-manifest.json").write_text("{}")
    run("init", folder / "j-new", "--team", "new")
    before = picture(tmp_path, without=("-shm",))
    found = lines(folder)
    assert {name: (line["state"], line["exitCode"]) for name, line in found.items()} == {
        "a-ready": ("ready", 0),
        "b-newer": ("newer", 5),
        "c-older": ("older", 5),
        "d-foreign": ("foreign", 5),
        "e-damaged": ("damaged", 5),
        "f-emptied": ("damaged", 5),
        "g-gone": ("no_database", 5),
        "h-linked": ("foreign", 5),
        "i-legacy": ("not_imported", 2),
        "j-new": ("blocked", 1),
        "z-ready": ("ready", 0),
    }
    for name, line in found.items():
        alone = run("status", folder / name)
        assert alone.code == line["exitCode"]
        if line["state"] != "ready":
            assert line["why"]
            assert line["next"][0]["why"]
    commands = {name: line["next"][0]["command"] for name, line in found.items() if line["next"]}
    assert commands["b-newer"] is None
    assert "with a newer rtstore" in found["b-newer"]["next"][0]["why"]
    assert commands["c-older"] == f"rtstore upgrade {folder / 'c-older'}"
    assert commands["e-damaged"] == f"rtstore doctor {folder / 'e-damaged'}"
    assert commands["g-gone"] == f"rtstore doctor {folder / 'g-gone'}"
    assert commands["i-legacy"] == f"rtstore doctor {folder / 'i-legacy'}"
    result = run("status", folder)
    assert (result.code, result.err) == (ExitCode.STOP, "")
    assert "2 ready, 1 blocked, 1 older, 1 newer, 2 foreign, 2 damaged, 1 no database" in result.out
    assert picture(tmp_path, without=("-shm",)) == before


def test_a_forbidden_directory(tmp_path: Path) -> None:
    """One that may not be looked into is a line too."""
    team(tmp_path, "a")
    hidden = team(tmp_path, "b")
    team(tmp_path, "c")
    hidden.chmod(0)
    try:
        result = run_process("status", tmp_path, "--json", before=_without_privileges())
    finally:
        hidden.chmod(0o700)
    states = [line["state"] for line in result.json()["directories"]]
    if states == ["ready"] * 3:
        pytest.skip("this process may read everything, and there is no setpriv to change that")
    assert states == ["ready", "forbidden", "ready"]
    assert result.code == ExitCode.RETRY_LATER


def test_what_is_not_walked_into(tmp_path: Path) -> None:
    """Links are not followed, in a circle or out of the folder; quarantine, back-ups, what a
    rebuild kept aside and hidden folders are left out, but for legacy ones; no walk is endless."""
    folder = tmp_path / "teams"
    atlas = team(folder, "atlas")
    elsewhere = team(tmp_path, "elsewhere")
    (folder / "out").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    for name in ("quarantine", "runtime-store.broken-001", ".git", "node_modules"):
        shutil.copytree(elsewhere, atlas / name / "team")
    shutil.copytree(elsewhere, folder / "old" / ".opencode-runtime")
    assert run("backup", atlas, folder / "backup").code == 0
    deep = folder.joinpath(*"123456789")
    deep.mkdir(parents=True)
    shutil.copytree(elsewhere, deep / "team")
    os.mkfifo(folder / "manifest.json")
    document = run("status", folder, "--json").json()
    assert [line["directory"] for line in document["directories"]] == [
        str(atlas),
        str(folder / "old" / ".opencode-runtime"),
    ]
    assert document["backups"] == [str(folder / "backup")]
    assert document["wasCutShort"]
    text = run("status", folder).out
    assert "left out: 1 back-up\n" in text
    assert "there is more below" in text


def test_a_folder_without_any(tmp_path: Path) -> None:
    """Where there is nothing below either, it is the error that it always was; nothing is made."""
    (tmp_path / "notes").mkdir()
    result = run("status", tmp_path)
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert "there is no runtime store here" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_an_identity_is_of_one_directory(tmp_path: Path) -> None:
    """An expected run cannot be that of all teams: the option is named."""
    team(tmp_path, "a")
    result = run("status", tmp_path, "--run-id", "run-1")
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert "--run-id" in result.err


def test_who_writes(tmp_path: Path) -> None:
    """The line of a directory with a living writer names it."""
    held = team(tmp_path, "a")
    team(tmp_path, "b")
    with forked(HOLD, held) as holder:
        assert hear(holder) == "held"
        found = lines(tmp_path)
        row = run("status", tmp_path).row(str(held), "process", str(holder.pid))
    assert f"process {holder.pid}" in row
    assert found["a"]["lockHolder"].startswith(f"process {holder.pid} (")
    assert found["a"]["lockProcessId"] == holder.pid
    assert (found["b"]["lockHolder"], found["b"]["lockProcessId"]) == (None, None)


def test_a_directory_that_goes_while_it_is_looked_at(tmp_path: Path) -> None:
    """What was there when its name was read, and is no more, is a line or nothing, never an end."""
    team(tmp_path, "a")
    going = team(tmp_path, "b")
    walk = Walk(tmp_path, tell=lambda seen: shutil.rmtree(going) if seen == 3 else None)
    assert [place.path.name for place in walk.places] == ["a"]


def test_names_that_are_said_twice() -> None:
    """What the walk knows of back-ups and of the legacy format is what their packages say."""
    assert discover.BACKUP_RECORD == RECORD_NAME
    assert (discover.LANES, discover.RUNTIME_DIRECTORY) == (LANES, RUNTIME_DIRECTORY)
    assert discover.MANIFEST_NAMES == MANIFEST_NAMES


def test_names_that_no_terminal_shows(tmp_path: Path) -> None:
    """A name that is no text, or would steer the terminal, is a line like any other."""
    for name in (b"te\xffam", b"new\nline \x1b[31m"):
        team(tmp_path, os.fsdecode(name))
    result = run_process("status", tmp_path)
    assert (result.code, result.err) == (ExitCode.READY, "")
    assert "\\udcff" in result.out
    assert "new\\nline \\x1b[31m" in result.out
    assert len(run("status", tmp_path, "--json").json()["directories"]) == 2


def test_the_errors_of_a_store_whose_path_is_not_utf8(tmp_path: Path) -> None:
    """No command takes its path: what they print goes there first, and runs as it is."""
    directory = tmp_path / os.fsdecode(b"\xff\xfe it's")
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[Descriptor("a.b")]) as store:
        store.begin_run("run-1", writes={"a.b": 1})
        file = directory / "a.b.json"
        first = file.read_bytes()
        store.write_batch(identity=RunIdentity(run_id="run-1"), reason="x", writes={"a.b": 2})
        file.write_bytes(first.replace(b"1\n", b"3\n"))
        with pytest.raises(StoreFileChangedError) as changed:
            store.read("a.b")
        with pytest.raises(InvalidRequestError) as unknown:
            store.read("a.b", at="batch-x")
        file.write_bytes(first)
        with pytest.raises(InvalidRequestError) as own:
            store.adopt("a.b")
    for error, words in ((changed, "plan ."), (unknown, "history . a.b"), (own, "plan .")):
        told = f"{error.value}"
        command = told[told.index("cd ") : told.index(f"rtstore {words}")] + f"rtstore {words}"
        script = f'rtstore() {{ "{sys.executable}" -m rtstore "$@"; }}; {command}'
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (ExitCode.READY, ExitCode.NOT_READY), (told, done)
        assert "a.b" in done.stdout


def test_advice_for_a_directory_whose_name_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command takes its path, so that what is printed goes there first; what is printed there
    puts it right."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    directory = crashed_team(place)
    monkeypatch.chdir(tmp_path)
    found = run("status", ".", "--json").json()["directories"][0]["next"]
    (step,) = found
    assert step["command"] == "cd \"$(printf 'caf\\351/crashed')\" && rtstore status ."
    there, command = step["command"].split(" && ")
    done = subprocess.run(
        ["bash", "-c", f"{there} && pwd -P"], cwd=tmp_path, capture_output=True, check=True
    )
    assert os.fsdecode(done.stdout.strip()) == str(directory.resolve())
    monkeypatch.chdir(directory)
    (step,) = run(*shlex.split(command)[1:], "--json").json()["next"]
    assert run(*shlex.split(step["command"])[1:]).code == ExitCode.READY
    refused = run("status", directory)
    assert (refused.code, "'.' will do" in refused.err) == (ExitCode.WRONG_CALL, True)


def test_every_verdict_has_a_state() -> None:
    """The states begin with the verdicts, so that a line takes a verdict as it is."""
    assert [str(state) for state in list(State)[:3]] == ["ready", "degraded", "blocked"]


def test_the_store_is_closed_again(tmp_path: Path) -> None:
    """After a look at a folder every directory opens for writing, and no descriptor is left."""
    directory = team(tmp_path, "a")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        run("status", tmp_path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before
    with RuntimeStore.open(directory) as store:
        assert store.manifest().high_watermark == 3
