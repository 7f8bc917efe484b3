"""`rtstore demo`: a process is really killed, at every point of the protocol; nothing is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore import RuntimeStore
from rtstore.cli.demo import writer as demo_writer
from rtstore.cli.demo.writer import (
    IDENTITY,
    KILL_POINTS,
    STORES,
    TEAM,
    DemoFailedError,
    fatal_checkpoint,
    find_point,
    first_checkpoints,
    kill_writer,
)
from rtstore.cli.exits import ExitCode
from rtstore.control.lock import WriterLock
from rtstore.testing import CrashPoint
from tests.cli.commands import CHECKOUT, ready_team, run, run_process
from tests.support import agree, breadth, data_in, stray_files


@pytest.mark.parametrize(
    "point", breadth.params(KILL_POINTS, normal=KILL_POINTS[1::4]), ids=lambda point: point.name
)
def test_killed_at_every_point(tmp_path: Path, point: CrashPoint) -> None:
    """The writer says that it is at the point, dies of signal 9 there, and afterwards the batch is
    whole with the ids it was logged with, or was never there; the team is ready."""
    directory = tmp_path / "demo"
    result = run("demo", directory, "--point", point.name, "--json")
    assert (result.code, result.err) == (ExitCode.READY, "")
    report = result.json()
    assert report["kill"]["point"] == point.name
    assert report["kill"]["signal"] == signal.SIGKILL
    _crashed_as_it_should(report["crash"], point)
    happened = point.logged
    outcome = report["outcome"]
    assert outcome["readiness"]["ok"]
    assert outcome["state"] == ("committed" if happened else None)
    assert outcome["highWatermark"] == (4 if happened else 3)
    assert outcome["receiptIds"] == report["crash"]["loggedReceiptIds"]
    assert outcome["sameReceipts"]
    assert len(outcome["receiptIds"]) == (STORES if happened else 0)
    assert {file["version"] for file in outcome["files"]} == {"new" if happened else "old"}
    assert bool(report["steps"]) == (happened and not point.completed)
    _is_whole(directory, outcome["batchId"], happened=happened)


def _crashed_as_it_should(crash: dict[str, object], point: CrashPoint) -> None:
    versions = [file["version"] for file in crash["files"]]  # type: ignore[attr-defined]
    assert versions == ["new"] * point.published + ["old"] * (STORES - point.published)
    assert crash["published"] == point.published
    assert len(crash["temporaryFiles"]) == point.name.startswith("in-file")  # type: ignore[arg-type]
    assert crash["verdict"] == ("blocked" if point.logged and not point.completed else "ready")


def _is_whole(directory: Path, batch_id: str, *, happened: bool) -> None:
    """What another process finds when it looks at the directory."""
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.last_recovery is None
        assert (store.batch(batch_id) is not None) == happened
        assert store.check_readiness(expected=IDENTITY).ok
        assert agree(store)
        for name, data in fatal_checkpoint().writes.items():
            path = directory / store.descriptors.get(name).relative_path
            before = first_checkpoints()[0].writes[name]
            assert data_in(path) == store.read(name).data == (data if happened else before)
    assert stray_files(directory) == []


def test_the_points_are_those_of_the_protocol() -> None:
    """Before, in and after the log, in each file and after each rename, in and after the commit
    record; help names them all, by number and by name."""
    assert len(KILL_POINTS) == 2 * STORES + 5
    assert len(fatal_checkpoint().writes) == STORES
    text = run("demo", "--help").out
    for number, point in enumerate(KILL_POINTS, start=1):
        assert find_point(str(number)) == find_point(point.name) == point
        assert re.search(rf"\b{number} +{point.name}\b", text)


def test_the_story(tmp_path: Path) -> None:
    """In a fresh directory the demo tells six steps: what was written, the kill, what it left, the
    recovery, ready, and what the database answers."""
    directory = tmp_path / "new" / "demo"
    result = run_process("demo", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    out = result.out
    titles = re.findall(r"^(\d)\. ", out, re.MULTILINE)
    assert titles == ["1", "2", "3", "4", "5", "6"]
    assert re.search(r"process \d+ was killed by signal 9 after 2 of 4 files", out)
    assert result.row("launch-state.json", "opencode.launchState").endswith("new version")
    assert result.row("opencode-sessions.json", "opencode.sessionStore").endswith("old version")
    assert "  Plan: blocked (runtime_store_recovery_required)\n" in out
    match = re.search(r"Uncommitted runtime store batch detected: (batch-\S+)\n", out)
    assert match is not None
    assert "  Readiness  ready (runtime_store_manifest_valid)\n" in out
    assert f"  Batch      {match[1]} committed, high watermark 4\n" in out
    assert "  Receipts   4 receipts, with the ids that were logged before the crash\n" in out
    assert f"Everything is still in {directory}\n" in out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert run("status", directory).code == ExitCode.READY


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 program")
def test_the_lines_of_sql_can_be_pasted(tmp_path: Path) -> None:
    """Each shown line, run by a shell, prints what the demo showed."""
    report = run("demo", tmp_path / "a demo's dir", "--json").json()
    assert len(report["queries"]) == 3
    for query in report["queries"]:
        printed = subprocess.run(
            ["sh", "-c", query["command"]], capture_output=True, text=True, check=True
        ).stdout
        assert [line.rstrip() for line in printed.splitlines()] == query["output"]
        assert query["program"] == "sqlite3"
        assert len(query["output"]) > 2


def test_without_the_sqlite3_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without it, Python's module answers, and the demo says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("demo", tmp_path / "demo")
    assert result.code == ExitCode.READY
    assert result.out.count("(the sqlite3 program is missing or too old: by Python's") == 3
    assert re.search(r"^    carol +ses-carol$", result.out, re.MULTILINE)


@pytest.mark.thorough
def test_without_a_directory(tmp_path: Path) -> None:
    """By default it goes into a new temporary directory, which is kept."""
    result = run_process("demo", "--json", environment={"TMPDIR": str(tmp_path)})
    assert result.code == ExitCode.READY
    (directory,) = tmp_path.iterdir()
    assert result.json()["directory"] == str(directory)
    assert run("status", directory).code == ExitCode.READY


def test_into_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory will do, relative paths too; the paths shown are absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    report = run("demo", "here", "--json").json()
    assert report["directory"] == str(tmp_path / "here")


def test_into_a_directory_that_is_in_use(tmp_path: Path) -> None:
    """Nothing that is there is touched: the demo refuses a directory with anything in it."""
    directory = ready_team(tmp_path)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    for refused in (directory, tmp_path):
        result = run("demo", refused)
        assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
        assert f"{refused} is not empty, and the demo overwrites nothing" in result.err
    result = run("demo", directory / "launch-state.json")
    assert result.code == ExitCode.WRONG_CALL
    assert "is not a directory" in result.err
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_an_unknown_point(tmp_path: Path) -> None:
    """The points there are are listed, and nothing is made."""
    result = run("demo", tmp_path / "demo", "--point", "14")
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert "'14' is not 1 to 13, nor: before-log, in-log, after-log, in-file-1," in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_does_not_come_to_its_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is no formality: a writer that ends by itself, or never says the word, is not taken
    for one that was killed."""
    directory = ready_team(tmp_path)
    nowhere = CrashPoint("nowhere", logged=True, published=4, completed=True)
    with pytest.raises(DemoFailedError, match="should have said 'nowhere'"):
        kill_writer(directory, nowhere, "batch-1")
    monkeypatch.setattr(demo_writer, "HANDSHAKE_TIMEOUT_S", 0.0)
    with pytest.raises(DemoFailedError, match="it said ''"):
        kill_writer(directory, find_point("before-log"), "batch-2")


@pytest.mark.thorough
def test_an_orphan_ends_by_itself(tmp_path: Path) -> None:
    """Should the demo itself die, its writer dies too, at its point: the lock it held is free."""
    directory = ready_team(tmp_path)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from rtstore.cli.demo import writer as demo_writer\n"
        "from rtstore.cli.demo.writer import find_point\n"
        "def die(process):\n"
        "    process.stdout.readline()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "demo_writer._handshake = die\n"
        "demo_writer.kill_writer(Path(sys.argv[1]), find_point('after-log'), 'batch-1')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with WriterLock(directory).hold(timeout_s=60):
        pass  # the orphan has let go of it
    assert run("status", directory, "--json").json()["verdict"] == "blocked"
