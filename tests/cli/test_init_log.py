"""`rtstore init` and `rtstore log`."""

from __future__ import annotations

from pathlib import Path

from rtstore import RuntimeStore
from rtstore.cli.demo.writer import TEAM, fatal_checkpoint, first_checkpoints
from rtstore.cli.exits import ExitCode
from tests.cli.commands import crashed_team, ready_team, run
from tests.support import picture


def test_init_makes_a_store(tmp_path: Path) -> None:
    """A directory, with those above it, and its control database for ten known stores."""
    directory = tmp_path / "teams" / "a"
    result = run("init", directory, "--team", "team-a")
    assert (result.code, result.err) == (ExitCode.READY, "")
    assert result.out.startswith("Created the runtime store of team team-a\n")
    with RuntimeStore.open(directory, team_name="team-a", read_only=True) as store:
        assert len(store.descriptors) == 10


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    """A store that is there is left as it is, a crashed one too: init is no recovery."""
    directory = crashed_team(tmp_path)
    before = picture(directory, without=("-shm",))
    result = run("init", directory, "--team", TEAM, "--json")
    assert result.code == ExitCode.READY
    assert result.json()["created"] is False
    assert picture(directory, without=("-shm",)) == before


def test_init_json(tmp_path: Path) -> None:
    """The shape that programs rely on."""
    directory = tmp_path / "a"
    report = run("init", directory, "--team", "team-a", "--json").json()
    assert report.pop("stores")[0] == "opencode.launchState"
    assert report == {
        "directory": str(directory),
        "teamName": "team-a",
        "created": True,
        "database": str(directory / "runtime-store.sqlite3"),
        "highWatermark": 0,
    }


def test_log_is_newest_first(tmp_path: Path) -> None:
    """Each batch with state, reason, run and stores, an open one with what it is about to write."""
    result = run("log", crashed_team(tmp_path))
    assert result.code == ExitCode.READY
    table = result.out.splitlines()[4:]
    assert table[0].split() == [
        "AT", "STATE", "AGE", "REASON", "STORES", "RUN", "STARTED", "BATCH", "ERROR",
    ]  # fmt: skip
    assert [line.split()[1] for line in table[1:]] == ["preparing", *["committed"] * 3]
    assert [line.split()[0] for line in table[1:]] == ["-", "3", "2", "1"]
    assert [line.split()[5] for line in table[1:]] == [
        "launch_checkpoint",
        *(checkpoint.reason for checkpoint in reversed(first_checkpoints())),
    ]
    assert ", ".join(fatal_checkpoint().writes) in table[1]
    assert "run-7f3a" in table[1]


def test_log_number(tmp_path: Path) -> None:
    """`-n` gives the newest so many."""
    directory = ready_team(tmp_path)
    every = run("log", directory, "--json").json()["batches"]
    newest = run("log", directory, "-n", "2", "--json").json()["batches"]
    assert [line["batch"] for line in newest] == [line["batch"] for line in every[:2]]
    assert len(every) == 3


def test_log_json(tmp_path: Path) -> None:
    """A batch is the record of the library with its receipts, and the stores in their order."""
    report = run("log", ready_team(tmp_path), "-n", "1", "--json").json()
    (line,) = report["batches"]
    assert (report["teamName"], report["highWatermark"]) == (TEAM, 3)
    assert line["stores"] == ["opencode.deliveryJournal", "opencode.promptDeliveryLedger"]
    assert line["batch"]["state"] == "committed"
    assert [receipt["schemaName"] for receipt in line["batch"]["receipts"]] == line["stores"]
    assert line["ageSeconds"] >= 0


def test_log_of_an_empty_store(tmp_path: Path) -> None:
    """No batch is no error."""
    run("init", tmp_path / "new", "--team", "t")
    result = run("log", tmp_path / "new")
    assert result.code == ExitCode.READY
    assert result.out.endswith("\nno batch was written yet\n")
