"""`rtstore history`, `show`, `diff` and `revert`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import RunIdentity, RuntimeStore
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run
from tests.support import picture

SESSIONS = "opencode.sessionStore"
FILE = "opencode-sessions.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A team whose sessions were written three times."""
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="team-a") as store:
        for number in range(1, 4):
            store.write_batch(
                identity=RunIdentity(run_id="run-1"),
                reason="launch_checkpoint",
                writes={SESSIONS: {"sessions": [], "n": number}},
                batch_id=f"batch-{number}",
            )
    return directory


def test_history_lists_versions(directory: Path) -> None:
    """Newest first, each with its batch, and whether it can still be read."""
    listed = run("history", directory, SESSIONS)
    assert listed.code == ExitCode.READY
    assert "current" in listed.row("batch-3")
    assert "yes" in listed.row("batch-1")
    assert listed.out.index("batch-3") < listed.out.index("batch-1")
    assert "batch-2" not in run("history", directory, SESSIONS, "-n", "1").out
    assert "was never written" in run("history", directory, "opencode.hostLeases").out


@pytest.mark.parametrize("store", [SESSIONS, FILE])
@pytest.mark.parametrize(("at", "number"), [("batch-1", 1), ("2", 2), ("2999-01-01T00:00:00Z", 3)])
def test_show_as_of_a_batch(directory: Path, store: str, at: str, number: int) -> None:
    """The store may be named by its file; the point is a batch, a watermark or a time."""
    shown = run("show", directory, store, "--at", at)
    assert f'"n": {number}' in shown.out
    assert f"batch-{number}" in shown.row("Written", f"batch-{number}")


def test_show_says_when_the_file_holds_something_else(directory: Path) -> None:
    """What is committed is shown, and that the file is not that."""
    assert run("show", directory, SESSIONS, "--json").json()["note"] is None
    (directory / FILE).write_text("{}")
    assert "was changed" in run("show", directory, SESSIONS, "--json").json()["note"]


def test_diff_shows_what_changed(directory: Path) -> None:
    """Value by value, with the path; by default against what is committed now."""
    assert "~ /n\n    - 1\n    + 3\n" in run("diff", directory, SESSIONS, "batch-1").out
    assert "~ /n\n    - 1\n    + 2\n" in run("diff", directory, SESSIONS, "1", "2").out
    assert "no difference" in run("diff", directory, SESSIONS, "2", "2").out


@pytest.mark.parametrize("command", [["history"], ["show"], ["diff"]])
def test_looking_back_changes_nothing(directory: Path, command: list[str]) -> None:
    """Nothing in the directory is made, changed or touched."""
    before = picture(directory)
    more = ["1"] if command == ["diff"] else []
    assert run(*command, directory, SESSIONS, *more).code == ExitCode.READY
    assert picture(directory) == before


def test_revert_writes_it_again(directory: Path) -> None:
    """The earlier version is committed in a new batch."""
    done = run("revert", directory, SESSIONS, "--to", "batch-1")
    assert (done.code, done.err) == (ExitCode.READY, "")
    assert '"n": 1' in run("show", directory, SESSIONS).out
    assert run("status", directory, "--json").json()["highWatermark"] == 4


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["show", "nobody"], "unknown store 'nobody'"),
        (["show", SESSIONS, "--at", "nothing"], "no committed batch 'nothing' is on record"),
        (["show", SESSIONS, "--at", "2026-99-01"], "is no time"),
        (["diff", SESSIONS, "1", "77"], "high watermark 77"),
        (["revert", SESSIONS, "--to", "batch-3"], "nothing to revert"),
        (["revert", SESSIONS, "--to", "nothing"], "no committed batch 'nothing'"),
    ],
)
def test_a_wrong_call_changes_nothing(directory: Path, words: list[str], problem: str) -> None:
    """It says what is wrong, and leaves the stores and the history as they are."""
    result = run(words[0], directory, *words[1:])
    assert result.code == ExitCode.WRONG_CALL
    assert problem in result.err
    assert run("status", directory, "--json").json()["highWatermark"] == 3
