"""A whole team is taken over at once: its directory, its lanes, and a summary that adds up."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    LegacyImportError,
    NotARuntimeDirectoryError,
    RuntimeStore,
    TeamImportReport,
    WriterLock,
    import_team,
    upgrade_directory,
)
from rtstore.cli.exits import ExitCode
from rtstore.legacy import LaneOutcome
from tests.cli.commands import run
from tests.legacy.build import (
    HARBOUR,
    IMPORTED_AT,
    LANE,
    MANIFEST,
    OWN,
    RECEIPTS,
    all_rows,
    copy,
    edit_manifest,
    take,
)
from tests.legacy.test_exporting import accepted_by_the_legacy_runtime, content_rows
from tests.support import CONTROL, FILE_OF, LAUNCH, WatchedFileSystem, picture
from tests.support.printed import lines_of

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
    unknown = {"notes.txt", "logs/old/1.txt"}
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


def test_a_quarantine_that_was_there_before(tmp_path: Path) -> None:
    """Its files are counted as skipped by the import, and told of afterwards: no row names them."""
    directory = copy(HARBOUR, tmp_path)
    (directory / "quarantine").mkdir()
    (directory / "quarantine" / "old.json").write_text("{}")
    report = take_team(directory)
    assert adds_up(report, directory)
    assert "quarantine/old.json" in {file.path for file in report.skipped}
    listed = run("quarantine", "list", directory)
    assert "nothing is in quarantine" not in listed.out
    assert "quarantine/old.json" in listed.out
    assert "quarantine/old.json" in run("doctor", directory).row("yellow", "quarantine")
    assert "quarantine/old.json" not in {file.path for file in take_team(directory).skipped}


def test_what_status_says_before_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import is named once, for the team with its lanes; where it would be refused, the doctor
    is, and why."""
    directory = copy(HARBOUR, tmp_path)
    monkeypatch.chdir(tmp_path)
    team, lane = run("status", "runtime", "--json").json()["directories"]
    assert team["next"] == lane["next"]
    assert team["next"][0]["command"] == "rtstore import runtime"
    assert {team["why"], lane["why"]} == {"it is in the legacy format"}
    (directory / MANIFEST).write_bytes((directory / MANIFEST).read_bytes()[:700])
    team, lane = run("status", "runtime", "--json").json()["directories"]
    assert {each["next"][0]["command"] for each in (team, lane)} == {"rtstore doctor runtime"}
    assert team["why"].startswith(f"{MANIFEST}: it is damaged")


def test_a_lane_that_is_a_link_is_left(tmp_path: Path) -> None:
    """A lane is a directory: what a link leads to is somebody else's."""
    directory = copy(HARBOUR, tmp_path)
    (directory / LANE_PATH).rename(tmp_path / "elsewhere")
    (directory / LANE_PATH).symlink_to(tmp_path / "elsewhere")
    report = take_team(directory)
    assert report.lanes == ()
    assert LANE_PATH in {file.path for file in report.skipped}
    assert not (tmp_path / "elsewhere" / "runtime-store.sqlite3").exists()


# --- lanes as they are --------------------------------------------------------------------------


def lanes_only(parent: Path) -> Path:
    """A team's directory whose runtime directory has lanes, and no control files; give the latter.

    The list names the lane that is there as active, and one that is gone; another has no line."""
    top = copy(HARBOUR, parent / "team").rename(parent / "team" / ".opencode-runtime")
    for path in top.iterdir():
        if path.is_file():
            path.unlink()
    shutil.copytree(top / LANE_PATH, top / "lanes" / "zoe")
    (top / "lanes" / "bare").mkdir()
    lanes = {LANE_ID: {"state": "active"}, "gone/away": {"state": "stopped"}}
    (top / "lanes.json").write_text(json.dumps({"version": 1, "lanes": lanes}))
    return top


def test_a_team_with_nothing_but_lanes(tmp_path: Path) -> None:
    """Every lane that is one is taken over, and what became of each is said: of those in the list
    without a directory, and of directories without a line or without control files."""
    top = lanes_only(tmp_path)
    before = pictured(top)
    report = take_team(top.parent)
    assert (report.directory, report.lanes_only, report.changed) == (top, True, True)
    assert report.team_name == "harbour"
    assert [(lane.lane_id, lane.outcome, lane.state) for lane in report.lanes] == [
        ("bare", LaneOutcome.NO_CONTROL_FILES, None),
        (LANE_ID, LaneOutcome.IMPORTED, "active"),
        ("zoe", LaneOutcome.IMPORTED, None),
        ("gone/away", LaneOutcome.NO_DIRECTORY, "stopped"),
    ]
    assert report.lanes[-1].path == "lanes/gone%2Faway"
    assert pictured(top) == before
    assert adds_up(report, top)
    assert not (top / "runtime-store.sqlite3").exists()
    rows = all_rows(top / LANE_PATH)
    again = take_team(top)
    assert not again.changed
    assert [lane.outcome for lane in again.lanes[1:3]] == [LaneOutcome.IMPORTED_BEFORE] * 2
    assert all_rows(top / LANE_PATH) == rows
    assert adds_up(again, top)


@pytest.mark.parametrize("left", [RECEIPTS, FILE_OF[LAUNCH]])
def test_a_top_without_its_manifest(tmp_path: Path, left: str) -> None:
    """Where receipts or stores lie at the top, lanes are not all that there was: the import takes
    them, says what it did not take, and does not call that success; nor does an export hide it."""
    top = lanes_only(tmp_path)
    shutil.copyfile(OWN / HARBOUR / left, top / left)
    result = run("import", top, "--json")
    assert result.code == ExitCode.STOP
    report = result.json()
    assert (report["lanesOnly"], report["lanes"][1]["outcome"]) == (True, "imported")
    assert left in report["problem"]
    (skipped,) = [file for file in report["skipped"] if file["path"] == left]
    assert skipped["why"] == "not imported: the manifest is gone"
    shown = run("import", top)
    assert (shown.code, f"\n  rtstore doctor {top}\n" in shown.out) == (ExitCode.STOP, True)
    exported = run("export", top, "--to", tmp_path / "out")
    assert "Not exported: the directory itself" in exported.out
    assert left in exported.out


def test_a_lane_without_its_manifest(tmp_path: Path) -> None:
    """Its receipts show that it was one: it is not imported, each time, and no export hides it."""
    top = lanes_only(tmp_path)
    shutil.copyfile(OWN / HARBOUR / RECEIPTS, top / "lanes" / "bare" / RECEIPTS)
    for _ in range(2):
        report = take_team(top)
        assert report.lanes[0].outcome is LaneOutcome.NOT_IMPORTED
        assert RECEIPTS in (report.lanes[0].problem or "")
        assert adds_up(report, top)
    shown = run("import", top)
    assert shown.code == ExitCode.STOP
    assert f"\n  rtstore doctor {top / 'lanes' / 'bare'}\n" in shown.out
    exported = run("export", top, "--to", tmp_path / "out")
    assert "Not exported: lane bare was not imported yet" in exported.out


def test_a_team_whose_only_lane_is_refused(tmp_path: Path) -> None:
    """It is named as its manifest names it, and the next command is the one that helps."""
    lane = Path(shutil.copytree(OWN / LANE, tmp_path / "lanes" / "amira"))
    (lane / RECEIPTS).write_bytes(b"{")
    shown = run("import", tmp_path)
    assert shown.code == ExitCode.STOP
    assert shown.out.endswith(f"\nNext\n  rtstore doctor {lane}\n")
    assert run("import", tmp_path, "--json").json()["teamName"] == "harbour"


def test_a_team_whose_lanes_are_all_gone(tmp_path: Path) -> None:
    """The list alone is a team's directory: there is nothing to import, and that is said."""
    (tmp_path / "lanes.json").write_text(json.dumps({"lanes": {"a:b": {"state": "stopped"}}}))
    report = take_team(tmp_path)
    (lane,) = report.lanes
    assert (lane.lane_id, lane.outcome) == ("a:b", LaneOutcome.NO_DIRECTORY)
    assert (report.changed, report.found, report.imported) == (False, 1, 0)
    assert run("import", tmp_path).code == 0


def test_a_lane_of_our_own_beside_imported_ones(tmp_path: Path) -> None:
    """A lane that a runtime made after the import is no lane to import, and stops nothing; nor does
    a store at the top."""
    top = lanes_only(tmp_path)
    take_team(top)
    for place in (top, top / "lanes" / "bare"):
        RuntimeStore.open(place, team_name="harbour").close()
    again = take_team(top)
    assert (again.lanes_only, again.changed) == (True, False)
    assert again.lanes[0].outcome is LaneOutcome.NO_CONTROL_FILES
    assert adds_up(again, top)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "lanes.json cannot be read"),
        ("[]", "lanes.json has no object of lanes"),
        ('{"lanes": {"x": {}}}', "lanes.json does not say the state of x"),
    ],
)
def test_a_list_of_lanes_that_makes_no_sense(tmp_path: Path, text: str, problem: str) -> None:
    """The lanes are imported all the same; the report says what the list does not."""
    top = lanes_only(tmp_path)
    (top / "lanes.json").write_text(text)
    report = take_team(top)
    assert [note for note in report.notes if note.startswith(problem)]
    assert [lane.outcome for lane in report.lanes[1:]] == [LaneOutcome.IMPORTED] * 2
    assert {lane.state for lane in report.lanes} == {None}


def test_what_to_run_where_there_are_only_lanes(tmp_path: Path) -> None:
    """It is imported first, and looked at afterwards: no advice leads back to itself."""
    top = lanes_only(tmp_path)
    for place in (top, top.parent):
        with pytest.raises(NotARuntimeDirectoryError, match=rf"Run: rtstore import {place}$"):
            RuntimeStore.open(place, read_only=True)
    take_team(top)
    for place in (top, top.parent):
        with pytest.raises(NotARuntimeDirectoryError, match=rf"Run: rtstore status {top}$"):
            RuntimeStore.open(place, read_only=True)


def test_status_of_lanes(tmp_path: Path) -> None:
    """It says which lanes the list calls active, which have no directory, and which no line; those
    to import are imported with one command."""
    top = lanes_only(tmp_path)
    before = run("status", top.parent)
    assert before.out.count(f"rtstore import {top}\n") == 1
    take_team(top)
    (index,) = run("status", top.parent, "--json").json()["laneIndexes"]
    assert index == {
        "path": str(top / "lanes.json"),
        "lanes": [
            {"laneId": LANE_ID, "state": "active"},
            {"laneId": "gone/away", "state": "stopped"},
        ],
        "withoutDirectory": ["gone/away"],
        "notListed": ["bare", "zoe"],
        "problem": None,
    }
    shown = run("status", top).out
    assert re.search(rf"^Active +{LANE_ID}$", shown, re.MULTILINE)
    assert "\nno directory: lane gone/away, which the list names\n" in shown
    assert "\nnot in the list: lane zoe, which has a directory\n" in shown
    lanes = run("status", top, "--json").json()["directories"]
    assert [lane["laneId"] for lane in lanes] == [LANE_ID, "zoe"]


@pytest.mark.parametrize("with_own", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_lanes_there_and_back(tmp_path: Path, *, with_own: bool) -> None:
    """An export writes the lanes back, into the directory and into a new one; imported, they say
    the same. A lane that was not imported is named."""
    top = lanes_only(tmp_path)
    if with_own:
        for path in copy(HARBOUR, tmp_path / "own").iterdir():
            if path.is_file() and path.name != "lanes.json":
                shutil.copy2(path, top / path.name)
    take_team(top)
    shutil.copytree(top / "lanes" / "zoe", top / "lanes" / "late")
    (top / "lanes" / "late" / "runtime-store.sqlite3").unlink()
    out = tmp_path / "out"
    exported = run("export", top.parent, "--to", out, "--json").json()
    assert exported["lanesOnly"] is not with_own
    assert {lane["laneId"]: lane["report"] is not None for lane in exported["lanes"]} == {
        LANE_ID: True, "zoe": True, "late": False,
    }  # fmt: skip
    assert (out / "lanes.json").read_bytes() == (top / "lanes.json").read_bytes()
    report = take_team(out)
    assert report.lanes_only is not with_own
    for place in (LANE_PATH, "lanes/zoe", *([""] if with_own else [])):
        assert content_rows(out / place) == content_rows(top / place)
    assert run("export", top).code == 0
    assert accepted_by_the_legacy_runtime(top / LANE_PATH)


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
    by then stays and is reported, and importing again goes on."""
    directory = copy(HARBOUR, tmp_path)
    with WriterLock(directory / LANE_PATH).hold():
        shown = run("import", directory, "--lock-timeout", "0.05")
    assert shown.code == ExitCode.RETRY_LATER
    assert shown.out.startswith("Imported the runtime directory of team harbour\n")
    assert f"\nNot imported: lane {LANE_ID}: " in shown.out
    assert f"\n  rtstore import {directory}\n" in shown.out
    report = take_team(directory)
    assert not report.changed
    assert report.lanes[0].report is not None
    assert report.lanes[0].report.changed


def test_a_lane_for_which_there_is_no_room(tmp_path: Path) -> None:
    """That nothing was committed is not said where the team's own directory was imported before the
    disk was full."""
    directory = copy(HARBOUR, tmp_path)

    def no_room(_number: int, _name: str, subject: Path | int) -> OSError | None:
        return OSError(28, "No space left on device") if "/lanes/" in str(subject) else None

    report = take_team(directory, fs=WatchedFileSystem(no_room))
    (lane,) = report.lanes
    assert (report.changed, lane.outcome, lane.retry) == (True, LaneOutcome.NOT_IMPORTED, True)
    assert "No space left" in (lane.problem or "")
    assert "Nothing was committed" not in (lane.problem or "")
    assert adds_up(report, directory)
    (again,) = take_team(directory).lanes
    assert again.outcome is LaneOutcome.IMPORTED


@pytest.mark.thorough
def test_killed_anywhere() -> None:
    """Killed at any step that changes something and run again, the import of a team with a lane
    ends in the same rows, no file of the legacy runtime's changed."""
    found, control = lines_of("tests.legacy.kills", "--quick")
    assert found["points"] > 10
    assert found["failures"] == 0, found["first"]
    assert control["failures"] == 1
