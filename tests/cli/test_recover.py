"""`rtstore plan` says what would be done, `rtstore recover` does it and shows each step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rtstore import Descriptor, RunIdentity, RuntimeStore, upgrade_directory, verify_backup
from rtstore.cli.exits import ExitCode
from rtstore.control.lock import WriterLock
from rtstore.control.schema import REVISIONS
from tests.cli.commands import crashed_team, ready_team, run, run_process
from tests.support import picture
from tests.upgrade.freeze import unpack


def test_plan_of_a_crash(tmp_path: Path) -> None:
    """One line for each action with what a recovery would do, the diagnostics, the next command;
    and nothing is changed by it."""
    directory = crashed_team(tmp_path)
    before = picture(directory, without=("-shm",))
    result = run("plan", directory)
    assert result.code == ExitCode.NOT_READY
    assert "Impact             blocked\n" in result.out
    for store in ("launchState", "hostLeases", "sessionStore", "runtimeRevision"):
        row = result.row(f"opencode.{store}", "roll_forward", "uncommitted_batch:batch-crashed")
        assert "finish the batch from the log: the file gets what the batch writes" in row
    assert "  6 stores need nothing\n" in result.out
    assert "  Uncommitted runtime store batch detected: batch-crashed\n" in result.out
    assert f"  rtstore recover {directory}\n" in result.out
    assert picture(directory, without=("-shm",)) == before


def test_recovering_an_older_database(tmp_path: Path) -> None:
    """Opening it upgrades it: both revisions are said, and where it is kept as it was."""
    directory = unpack("0005_runs", tmp_path)
    text = run("recover", shutil.copytree(directory, tmp_path / "copy")).out
    report = run("recover", directory, "--json").json()
    upgrade = report["upgrade"]
    assert (upgrade["fromRevision"], upgrade["toRevision"]) == ("0005_runs", REVISIONS[-1])
    kept = upgrade["backupPath"]
    assert verify_backup(directory / kept).revision == "0005_runs"
    (line,) = [line for line in text.splitlines() if line.startswith("Upgraded ")]
    assert f"from 0005_runs to {REVISIONS[-1]}" in line
    (line,) = [line for line in text.splitlines() if line.startswith("Back-up ")]
    name = line.split()[1].rpartition("/")[2]
    assert (tmp_path / "copy" / name).exists()
    assert run("recover", directory, "--json").json()["upgrade"] is None
    assert "Upgraded" not in run("recover", directory).out


def test_plan_of_a_ready_team(tmp_path: Path) -> None:
    """Where nothing is to do, the plan says so, and exits 0."""
    result = run("plan", ready_team(tmp_path))
    assert result.code == ExitCode.READY
    assert result.out.endswith("\nActions\n  10 stores need nothing\n")


def test_plan_json(tmp_path: Path) -> None:
    """The plan is the legacy document; beside it, what a recovery would do."""
    report = run("plan", crashed_team(tmp_path), "--json").json()
    plan = report["plan"]
    assert plan["readinessImpact"] == report["verdict"] == "blocked"
    assert (plan["highWatermark"], plan["manifestHealthy"]) == (3, False)
    assert plan["actions"][0] == {
        "kind": "roll_forward",
        "schemaName": "opencode.launchState",
        "reason": "uncommitted_batch:batch-crashed",
    }
    assert {"kind": "none", "schemaName": "opencode.deliveryJournal"} in plan["actions"]
    assert report["recovery"][0] == {
        "kind": "roll_forward",
        "schemaName": "opencode.launchState",
        "reason": "uncommitted_batch:batch-crashed",
        "intention": "finish the batch from the log: the file gets what the batch writes",
    }
    assert len(report["recovery"]) == 4


def test_plan_names_the_rebuilder_of_ones_own(tmp_path: Path) -> None:
    """A strategy of one's own is in the action, in the diagnostics and in the advice."""
    own = Descriptor(
        "own.notes", criticality="rebuildable_from_provider", rebuild_strategy="ask_the_scribe"
    )
    descriptors = [own, Descriptor("own.roster")]
    with RuntimeStore.open(tmp_path / "t", team_name="a", descriptors=descriptors) as store:
        identity = RunIdentity(run_id="run-1")
        store.write_batch(identity=identity, reason="roll_call", writes={"own.roster": []})
    report = run("plan", tmp_path / "t", "--json").json()
    assert report["verdict"] == "degraded"
    assert report["plan"]["actions"][0] == {
        "kind": "rebuild_from_provider",
        "schemaName": "own.notes",
        "reason": "missing",
        "rebuilder": "ask_the_scribe",
    }
    needs = "Runtime store own.notes needs the rebuilder ask_the_scribe"
    assert report["plan"]["diagnostics"][-1] == needs
    why = "start the runtime: it rebuilds own.notes (RuntimeStore.recover with rebuilders for"
    assert [step["why"] for step in report["next"]] == [f"{why} ask_the_scribe)"]
    assert " roll_call " in run("log", tmp_path / "t").out


def test_recover_a_crash(tmp_path: Path) -> None:
    """Every step is shown although opening the store would have done it unseen; the batch is whole
    under its own id, the temporary file is gone, and the exit code says ready."""
    directory = crashed_team(tmp_path)
    result = run_process("recover", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    row = result.row("roll_forward", "opencode.launchState", "done")
    assert "batch batch-crashed finished from the log" in row
    assert "  removed 1 temporary file\n" in result.out
    assert "  Readiness  ready (runtime_store_manifest_valid)\n" in result.out
    assert not list(directory.glob(".*tmp"))
    with RuntimeStore.open(directory, read_only=True) as store:
        batch = store.batch("batch-crashed")
        assert batch is not None
        assert (batch.high_watermark, len(batch.receipts)) == (4, 4)
        assert store.plan_recovery().manifest_healthy
    again = run("recover", directory)
    assert again.code == ExitCode.READY
    assert "  nothing to do\n" in again.out


def test_recover_what_is_safe_and_leave_the_rest(tmp_path: Path) -> None:
    """A changed file goes into quarantine and the committed content comes back; a store whose
    content is nowhere stays with the runtime, and the exit code says so."""
    directory = ready_team(tmp_path)
    sessions = directory / "opencode-sessions.json"
    committed = sessions.read_bytes()
    sessions.write_bytes(committed.replace(b"alice", b"alicia"))
    result = run("recover", directory)
    assert result.code == ExitCode.READY
    assert "committed content put back" in result.row("quarantine", "opencode.sessionStore", "done")
    assert sessions.read_bytes() == committed
    (quarantined,) = (directory / "quarantine").iterdir()
    assert b"alicia" in quarantined.read_bytes()

    new = tmp_path / "new"
    run("init", new, "--team", "t")
    left = run("recover", new)
    assert left.code == ExitCode.NOT_READY
    assert "waits for the runtime" in left.row("block_readiness", "opencode.launchState", "skipped")
    assert "  Actions    10 actions\n" in left.out


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    """`--dry-run` shows the same steps as planned, and leaves every byte."""
    directory = crashed_team(tmp_path)
    before = picture(directory, without=("-shm",))
    result = run("recover", directory, "--dry-run")
    assert result.code == ExitCode.NOT_READY
    assert "Dry run: nothing is changed" in result.out
    assert "would finish the batch from the log" in result.row(
        "roll_forward", "opencode.launchState", "skipped"
    )
    assert picture(directory, without=("-shm",)) == before


def test_recover_json(tmp_path: Path) -> None:
    """What was done, step by step, and what is left, for programs."""
    directory = crashed_team(tmp_path)
    report: dict[str, Any] = run("recover", directory, "--json").json()
    assert report["runNumber"] == 1
    assert report["plan"]["readinessImpact"] == "blocked"
    assert report["steps"][0] == {
        "action": {
            "kind": "roll_forward",
            "schemaName": "opencode.launchState",
            "reason": "uncommitted_batch:batch-crashed",
        },
        "outcome": "done",
        "detail": "batch batch-crashed finished from the log",
        "intention": None,
    }
    assert report["removedFiles"] == [".opencode-sessions.json.rtstore-tmp"]
    assert report["remaining"]["readinessImpact"] == "none"
    assert (report["verdict"], report["next"]) == ("ready", [])
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.manifest().last_recovery_plan_id == report["plan"]["planId"]
    assert run("recover", directory, "--json").json()["runNumber"] is None


def test_another_process_upgraded_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that waited while another process upgraded the database claims no upgrade."""
    directory = unpack("0005_runs", tmp_path)

    def quicker(*given: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(WriterLock, "hold", hold)
            upgrade_directory(directory)
        monkeypatch.setattr(WriterLock, "hold", hold)
        return hold(*given, **options)

    hold = WriterLock.hold
    monkeypatch.setattr(WriterLock, "hold", quicker)
    assert run("recover", directory, "--json").json()["upgrade"] is None
    assert "Upgraded" not in run("recover", directory).out
    with RuntimeStore.open(directory, read_only=True) as store:
        assert len([each for each in store.upgrades() if each.from_revision == "0005_runs"]) == 1
