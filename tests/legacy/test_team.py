"""A whole team is taken over at once: its directory, its lanes, and a summary that adds up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    LegacyImportError,
    LockTimeoutError,
    NotARuntimeDirectoryError,
    RuntimeStore,
    TeamImportReport,
    WriterLock,
    import_team,
    upgrade_directory,
)
from tests.legacy.build import (
    HARBOUR,
    IMPORTED_AT,
    LANE,
    MANIFEST,
    all_rows,
    copy,
    edit_manifest,
    take,
)
from tests.support import CHECKOUT, CONTROL, picture

LANE_PATH = LANE.removeprefix(f"{HARBOUR}/")
LANE_ID = "secondary:opencode:mira"


def take_team(directory: Path, **options: Any) -> TeamImportReport:
    """Import a team at a time of our own."""
    return import_team(directory, **{"clock": lambda: IMPORTED_AT, **options})


def pictured(directory: Path) -> dict[str, Any]:
    """Every file that is not the store's own: bytes, mode and time; a directory has the time of the
    database that came into it."""
    found = picture(directory, without=CONTROL)
    return {name: facts for name, facts in found.items() if not facts[0].startswith("0o4")}


def files_in(directory: Path) -> set[str]:
    """Every file that is not the store's own."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(CONTROL)
    }


def adds_up(report: TeamImportReport, directory: Path) -> bool:
    """Whether every file is accounted for once."""
    skipped = [file.path for file in report.skipped]
    return (
        report.found == report.imported + len(skipped) == len(files_in(directory))
        and len(set(skipped)) == len(skipped)
        and set(skipped) <= files_in(directory)
    )


def test_a_team_with_its_lane(tmp_path: Path) -> None:
    """Directory and lane are imported in one call, each as it is by itself; no file is changed, and
    each is counted once."""
    directory, alone = copy(HARBOUR, tmp_path), copy(HARBOUR, tmp_path / "alone")
    before = pictured(directory)
    report = take_team(directory)
    take(alone)
    take(alone / LANE_PATH)
    assert pictured(directory) == before
    assert all_rows(directory) == all_rows(alone)
    assert all_rows(directory / LANE_PATH) == all_rows(alone / LANE_PATH)
    (lane,) = report.lanes
    assert (lane.lane_id, lane.path, lane.problem) == (LANE_ID, LANE_PATH, None)
    assert lane.report is not None
    assert lane.report.changed
    assert adds_up(report, directory)


def test_the_directory_of_the_team(tmp_path: Path) -> None:
    """The directory that holds `.opencode-runtime` stands for it."""
    directory = copy(HARBOUR, tmp_path).rename(tmp_path / ".opencode-runtime")
    assert take_team(tmp_path).directory == directory
    assert not take_team(tmp_path).changed
    assert not take_team(directory).changed


def test_what_to_run_in_the_directory_of_the_team(tmp_path: Path) -> None:
    """Whoever looks for a store in the team's directory is told to import it, and then where it is;
    a new store is not made beside the old one's back."""
    directory = copy(HARBOUR, tmp_path).rename(tmp_path / ".opencode-runtime")
    acts = (partial(RuntimeStore.open, read_only=True), upgrade_directory)
    for act in acts:
        with pytest.raises(NotARuntimeDirectoryError, match=rf"Run: rtstore import {tmp_path}$"):
            act(tmp_path)
    take_team(tmp_path)
    for act in acts:
        with pytest.raises(NotARuntimeDirectoryError, match=rf"Run: rtstore status {directory}$"):
            act(tmp_path)


def test_what_is_left_is_reported(tmp_path: Path) -> None:
    """Locks and temporary files of dead writers, lists that stay in use, what nobody knows: each is
    left byte for byte, and named with the reason."""
    directory = copy(HARBOUR, tmp_path)
    left = {
        "launch-state.json.lock": "a lock of the old kind, which nobody needs any more",
        "opencode-sessions.json.tmp.4711.1": "a temporary file of a writer that died",
        "lanes.json": "the runtime's list of lanes; it stays in use",
        "notes.txt": "nothing that the control files know of",
        "logs/old/1.txt": "nothing that the control files know of",
        f"{LANE_PATH}/opencode-sessions.json.lock": "a lock of the old kind, which nobody needs "
        "any more",
        "lanes/empty/readme.txt": "nothing that the control files know of",
    }
    for path in left:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text("here")
    before = pictured(directory)
    report = take_team(directory)
    assert adds_up(report, directory)
    assert left.items() <= {file.path: file.why for file in report.skipped}.items()
    assert pictured(directory) == before
    again = {file.path: file.why for file in take_team(directory).skipped}
    unknown = {"notes.txt", "logs/old/1.txt", "lanes/empty/readme.txt"}
    assert {path: why for path, why in left.items() if path not in unknown}.items() <= again.items()
    assert {again[path] for path in unknown} == {"the directory was imported before"}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A dry run says what the import then does, and makes no file, not even a lock."""
    directory = copy(HARBOUR, tmp_path)
    before = picture(directory)
    tried = take_team(directory, dry_run=True)
    assert picture(directory) == before
    assert (tried.dry_run, tried.changed) == (True, False)
    done = take_team(directory)
    same = {"batches", "receipts", "stores", "high_watermark", "found", "imported", "skipped"}
    assert tried.model_dump(include=same) == done.model_dump(include=same)
    again = take_team(directory, dry_run=True)
    assert not again.changed
    assert {file.why for file in again.skipped} == {
        "the directory was imported before",
        "the runtime's list of lanes; it stays in use",
        "the runtime's list of ended runs; it stays in use",
    }
    assert adds_up(again, directory)


def test_a_damaged_directory_is_refused_when_rehearsed(tmp_path: Path) -> None:
    """What the import refuses, the dry run refuses."""
    directory = copy(HARBOUR, tmp_path)
    (directory / MANIFEST).write_text("{")
    with pytest.raises(LegacyImportError):
        take_team(directory, dry_run=True)


def test_a_lane_that_cannot_be_imported(tmp_path: Path) -> None:
    """It stops nothing else; its files are counted as skipped, and repaired it is imported next."""
    directory = copy(HARBOUR, tmp_path)
    shutil.copytree(directory / LANE_PATH, directory / "lanes" / "zoe")
    edit_manifest(directory / LANE_PATH, lambda manifest: manifest.update(teamName=7))
    report = take_team(directory)
    broken, sound = report.lanes
    assert broken.report is None
    assert "teamName" in (broken.problem or "")
    assert sound.report is not None
    assert adds_up(report, directory)
    shutil.copy2(directory / "lanes" / "zoe" / MANIFEST, directory / LANE_PATH / MANIFEST)
    again = take_team(directory)
    assert [lane.report and lane.report.changed for lane in again.lanes] == [True, False]


def test_a_lane_that_is_a_link_is_left(tmp_path: Path) -> None:
    """A lane is a directory: what a link leads to is somebody else's."""
    directory = copy(HARBOUR, tmp_path)
    (directory / LANE_PATH).rename(tmp_path / "elsewhere")
    (directory / LANE_PATH).symlink_to(tmp_path / "elsewhere")
    report = take_team(directory)
    assert report.lanes == ()
    assert LANE_PATH in {file.path for file in report.skipped}
    assert not (tmp_path / "elsewhere" / "runtime-store.sqlite3").exists()


def test_progress_is_told(tmp_path: Path) -> None:
    """Each directory tells how many of its stores were read, to the last."""
    told: list[tuple[str, int, int]] = []
    take_team(copy(HARBOUR, tmp_path), progress=lambda *what: told.append(what))
    assert list(dict.fromkeys(name for name, _, _ in told)) == ["runtime", LANE_ID]
    for name in ("runtime", LANE_ID):
        steps = [(done, total) for each, done, total in told if each == name]
        assert [done for done, _ in steps] == list(range(1, steps[0][1] + 1))


def test_a_lane_in_use(tmp_path: Path) -> None:
    """A lane whose writer lock somebody holds makes the import wait, then say so; what was imported
    by then stays, and importing again goes on."""
    directory = copy(HARBOUR, tmp_path)
    with WriterLock(directory / LANE_PATH).hold(), pytest.raises(LockTimeoutError):
        take_team(directory, lock_timeout_s=0.05)
    report = take_team(directory)
    assert not report.changed
    assert report.lanes[0].report is not None
    assert report.lanes[0].report.changed


@pytest.mark.thorough
def test_killed_anywhere() -> None:
    """Killed at any step that changes something and run again, the import of a team with a lane
    ends in the same rows, no file of the ancestor's changed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.legacy.kills", "--quick"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found, control = map(json.loads, done.stdout.splitlines())
    assert found["points"] > 10
    assert found["failures"] == 0, found["first"]
    assert control["failures"] == 1
