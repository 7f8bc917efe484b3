"""`rtstore import`: the legacy directory taken over, with a summary that adds up."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rtstore.cli.exits import ExitCode
from tests.cli.commands import run, run_process
from tests.model.build import LEGACY, needs_legacy, read_json
from tests.support import files_picture, picture

pytestmark = needs_legacy


def _copy(parent: Path, team: str) -> Path:
    """A copy of one of the legacy example directories that may be written to."""
    directory = parent / team
    shutil.copytree(LEGACY / team / ".opencode-runtime", directory)
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return directory


def test_import_and_status(tmp_path: Path) -> None:
    """A sound directory is ready after the import, for the identity that the legacy runtime was
    asked about; what was imported and what was left alone is counted, with the next commands."""
    directory = _copy(tmp_path, "team-a")
    before = files_picture(directory)
    result = run_process("import", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    assert result.out.startswith("Imported the runtime directory of team team-a\n")
    assert re.search(r"^Ended runs +1$", result.out, re.MULTILINE)
    assert re.search(r"^Batches +13: 12 committed, 1 failed$", result.out, re.MULTILINE)
    assert "\n10 stores: 10 content taken\n" in result.out
    assert f"  rtstore status {directory}\n" in result.out
    lane = directory / "lanes" / "secondary%3Aopencode%3Aalice"
    assert "\nImported lane secondary:opencode:alice\n" in result.out
    assert f"  rtstore status {lane}\n" in result.out
    assert "\n18 files found: 16 imported, 2 skipped\n" in result.out
    assert "\n  lanes.json  the runtime's list of lanes; it stays in use\n" in result.out
    expected = read_json(LEGACY / "expected" / "team-a.json")["input"]
    status = run(
        "status",
        directory,
        *("--run-id", expected["expectedRunId"]),
        *("--capability-snapshot-id", expected["expectedCapabilitySnapshotId"]),
        *("--behavior-fingerprint", expected["expectedBehaviorFingerprint"]),
    )
    assert status.code == ExitCode.READY
    assert files_picture(directory) == before


def test_a_whole_team(tmp_path: Path) -> None:
    """The team's own directory will do; its lane is imported with it, and both work."""
    directory = _copy(tmp_path / "team-a", "team-a").rename(tmp_path / "team-a/.opencode-runtime")
    tried = run("import", directory.parent, "--dry-run")
    assert tried.code == ExitCode.READY
    assert tried.out.startswith("Would import the runtime directory of team team-a\n")
    assert "\n18 files found: 16 would be imported, 2 skipped\n" in tried.out
    assert list(directory.rglob("runtime-store*")) == []
    report = run("import", directory.parent, "--json").json()
    assert report["directory"] == str(directory)
    (lane,) = report["lanes"]
    assert (lane["laneId"], lane["report"]["changed"]) == ("secondary:opencode:alice", True)
    assert run("status", directory / lane["path"], "--json").json()["highWatermark"] > 0


def test_a_lane_that_is_damaged(tmp_path: Path) -> None:
    """The team is imported, the lane is named with what is wrong and the exit code says so; when it
    is repaired, importing again takes it over."""
    directory = _copy(tmp_path, "team-a")
    path = directory / "lanes" / "secondary%3Aopencode%3Aalice" / "manifest.json"
    sound = path.read_bytes()
    path.write_bytes(sound[:100])
    result = run("import", directory)
    assert result.code == ExitCode.STOP
    assert "Not imported: lane secondary:opencode:alice: cannot import " in result.out
    assert run("import", directory, "--json").json()["lanes"][0]["report"] is None
    path.write_bytes(sound)
    again = run("import", directory, "--json").json()
    assert (again["changed"], again["lanes"][0]["report"]["changed"]) == (False, True)


def test_import_of_a_crashed_team(tmp_path: Path) -> None:
    """The batch that never ended and the one changed file are named, by status too, and recover
    closes the one and quarantines the other."""
    directory = _copy(tmp_path, "team-b-crashed")
    result = run("import", directory)
    assert result.code == ExitCode.READY
    assert result.row("opencode.launchState", "launch-state.json").split()[2:4] == [
        "hash",
        "differs",
    ]
    status = run("status", directory)
    assert status.code == ExitCode.NOT_READY
    open_batch = "opencode-store-batch-e4578e82-622b-4b21-bc53-2675fbf9d12f"
    assert f"  Uncommitted runtime store batch detected: {open_batch}\n" in status.out
    assert "  Runtime store hash mismatch: opencode.launchState\n" in status.out
    assert f"  rtstore adopt {directory} opencode.launchState\n" in status.out
    recovered = run("recover", directory)
    assert recovered.row("quarantine", "opencode.launchState", "done")
    assert "closed as failed" in recovered.row(
        "block_readiness", "opencode.launchTransaction", "done"
    )
    assert "the runtime must write opencode.launchState: there" in recovered.out


def test_import_again(tmp_path: Path) -> None:
    """A second import changes nothing, and says so."""
    directory = _copy(tmp_path, "team-a")
    first = run("import", directory, "--json").json()
    assert first["changed"] is True
    before = picture(directory)
    result = run("import", directory)
    assert result.code == ExitCode.READY
    assert result.out.startswith("Imported before: everything was left as it was\n")
    second = run("import", directory, "--json").json()
    assert second["changed"] is False
    assert picture(directory) == before
    assert (second["batches"], second["receipts"]) == (first["batches"], first["receipts"])


def test_import_json_adds_up(tmp_path: Path) -> None:
    """Every file of the directory is accounted for once: read, taken, or left alone."""
    directory = _copy(tmp_path, "team-a")
    names = {path.name for path in directory.iterdir()}
    report = run("import", directory, "--json").json()
    told = [
        *report["controlFiles"],
        *(store["relativePath"] for store in report["stores"]),
        *(file["path"].split("/")[0] for file in report["otherFiles"]),
    ]
    assert sorted(told) == sorted(names)
    assert (report["teamName"], report["highWatermark"]) == ("team-a", 12)
    assert {store["outcome"] for store in report["stores"]} == {"content taken"}


def test_a_damaged_control_file(tmp_path: Path) -> None:
    """It is named, and nothing is written."""
    directory = _copy(tmp_path, "team-a")
    (directory / "manifest.json").write_text('{"schemaVersion": 1, "data"')
    before = picture(directory)
    result = run("import", directory)
    assert (result.code, result.out) == (ExitCode.STOP, "")
    assert f"cannot import {directory / 'manifest.json'}" in result.err
    assert f"rtstore doctor {directory}" in result.err
    assert picture(directory) == before
