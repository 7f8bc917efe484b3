"""`rtstore status`: what people and programs learn of a runtime directory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rtstore import DELETED, Descriptor, Retention, RuntimeStore
from rtstore.cli.commands import status
from rtstore.cli.demo.writer import IDENTITY
from rtstore.cli.exits import ExitCode
from rtstore.model import arguments
from tests.cli.commands import crashed_team, ready_team, run, run_process
from tests.cli.test_bad_input import _without_privileges
from tests.cli.troubles import HOLD
from tests.support import LEASES, answer, child, hear, write
from tests.support.forked import forked
from tests.support.query_trace import traced


def test_ready(tmp_path: Path) -> None:
    """A sound directory is ready: exit code 0, every store with its batch, no diagnostics, nothing
    to do next."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory, read_only=True) as store:
        first, second, third = store.batches()
    result = run_process("status", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    assert f"Runtime directory  {directory}\n" in result.out
    assert "Team               demo-team\n" in result.out
    assert "Readiness          ready (runtime_store_manifest_valid)\n" in result.out
    assert "High watermark     3 batches committed\n" in result.out
    assert "run run-7f3a, capability snapshot capabilities-1.14.31" in result.out
    assert f" ago, delivery_commit, {third.batch_id}, 20" in result.out
    assert result.row("opencode.launchState", "launch-state.json", first.batch_id, "committed")
    permissions = result.row("opencode.permissionRequests", second.batch_id, "-")
    assert permissions.split()[:3] == ["opencode.permissionRequests", "as", "committed"]
    assert permissions.split()[6:9] == ["2", "-", "permission_reconcile"]
    assert "\nDiagnostics\n" not in result.out
    assert "\nNext\n" not in result.out


def test_a_look_opens_the_database_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has the database open, each read opens it and reads its schema. So what is shown
    beside the plan is read at once, which makes it of one moment, too."""
    directory = ready_team(tmp_path)
    with traced(monkeypatch) as trace:
        assert run("status", directory).code == ExitCode.READY
    assert trace.connections <= 7


def test_crashed(tmp_path: Path) -> None:
    """A dead writer's batch blocks: the open batch, which files hold which version, why, and the
    command that puts it right."""
    directory = crashed_team(tmp_path)
    result = run("status", directory)
    assert result.code == ExitCode.NOT_READY
    assert "blocked (runtime_store_recovery_required)" in result.out
    assert "Open batch         its writer is dead, " in result.out
    assert " ago, launch_checkpoint, batch-crashed, 20" in result.out
    assert "open batch's version" in result.row("opencode.hostLeases", "roll_forward")
    assert "as committed" in result.row("opencode.sessionStore", "roll_forward")
    assert "  Uncommitted runtime store batch detected: batch-crashed\n" in result.out
    assert f"\n  rtstore recover {directory}\n      brings batch-crashed to its end\n" in result.out


def test_changed_and_damaged_files(tmp_path: Path) -> None:
    """Each file that is not what is committed is named, with what was found in it, and the advice
    tells the two ways out of a change made by hand."""
    directory = ready_team(tmp_path)
    sessions = directory / "opencode-sessions.json"
    sessions.write_text(sessions.read_text().replace("alice", "alicia"))
    (directory / "opencode-host-leases.json").write_text("{")
    (directory / "launch-state.json").unlink()
    result = run("status", directory)
    assert result.code == ExitCode.NOT_READY
    assert result.row("opencode.sessionStore", "changed", "quarantine")
    assert result.row("opencode.hostLeases", "damaged", "restore_committed")
    assert result.row("opencode.launchState", "missing", "restore_committed")
    assert "  Runtime store hash mismatch: opencode.sessionStore\n" in result.out
    assert "  opencode-host-leases.json: Expecting property name" in result.out
    assert f"  rtstore adopt {directory} opencode.sessionStore\n" in result.out
    assert "moves the files of opencode.sessionStore into quarantine" in result.out


def test_the_file_of_a_deleted_store_is_back(tmp_path: Path) -> None:
    """Status, plan and recover say of a version of ours that it was deleted, and that a recovery
    removes it; of any other file that the next batch replaces it; when the store was deleted."""
    directory, name = ready_team(tmp_path), "opencode.hostLeases"
    file = directory / "opencode-host-leases.json"
    content = file.read_bytes()
    with RuntimeStore.open(directory) as store:
        store.write_batch(identity=IDENTITY, reason="recovery", writes={name: DELETED})
    row = run("status", directory).row(name, "deleted")
    assert re.search(r" deleted +deleted \d+ s ago ", row)
    file.write_bytes(content)
    row = run("status", directory).row(name, "deleted")
    assert re.search(r" deleted version +deleted \d+ s ago ", row)
    for command in (("status",), ("plan",), ("recover", "--dry-run")):
        said = run(*command, directory).out
        removes = f"removes the file of {name}: nothing is committed, and a batch wrote it"
        assert f"\n  rtstore recover {directory}\n      {removes}\n" in said
        assert (
            f"only if the file of {name} is to be kept, though nothing is committed: makes" in said
        )
        assert "A recovery, or an opening, removes it otherwise" in said
        assert f"content of {name} back" not in said
        assert "nobody committed" not in said
    file.write_bytes(content + b" ")
    status = run("status", directory)
    assert re.search(r" not committed +deleted \d+ s ago ", status.row(name, "deleted"))
    assert "The runtime's next batch replaces it otherwise" in status.out
    assert "removes the file" not in status.out
    file.write_bytes(content)
    assert run("recover", directory).row(name, "done", "removed:")
    assert not file.exists()


def test_a_deleted_store_can_be_written_again_by_a_command(tmp_path: Path) -> None:
    """Where its history is kept: the advice names the command, and that works."""
    directory, (name, other) = tmp_path / "team", ("team.roster", "team.notes")
    descriptors = [Descriptor(name), Descriptor(other)]
    with RuntimeStore.open(directory, team_name="t", descriptors=descriptors) as store:
        for number in (1, 2):
            store.write_batch(
                identity=IDENTITY, reason="recovery", writes={name: number, other: number}
            )
        store.write_batch(identity=IDENTITY, reason="recovery", writes={name: DELETED})
    revert = ["revert", str(directory), name, "--to", "2"]
    for command in ("status", "plan"):
        said = run(command, directory).out
        assert f"the runtime must write {name}: nothing is committed\n" in said
        assert f"\n  rtstore {' '.join(revert)}\n" in said
        assert "nothing to put back" not in said
    assert run(*revert).code == ExitCode.READY
    with RuntimeStore.open(directory) as store:
        assert store.read(name).data == 2
        store.write_batch(identity=IDENTITY, reason="recovery", writes={name: DELETED})
        for number in (1, 2):
            store.write_batch(identity=IDENTITY, reason="recovery", writes={other: number})
        store.prune(Retention(batches=1))
    assert f"must write {name}: there is nothing to put back" in run("status", directory).out


def test_nothing_committed_yet(tmp_path: Path) -> None:
    """A new directory is blocked for want of everything, and the advice is to start, not to
    recover."""
    run("init", tmp_path / "new", "--team", "t")
    result = run("status", tmp_path / "new")
    assert result.code == ExitCode.NOT_READY
    assert "Last batch         none yet\n" in result.out
    for name in ("status", "plan"):
        assert run(name, tmp_path / "new", "--json").json()["nothingCommitted"] is True
    assert result.out.endswith(
        "\nNext\n  nothing is committed yet: start the runtime, "
        "whose first batch writes the stores (RuntimeStore.begin_run, or write_batch)\n"
    )


def test_stores_that_contradict_each_other(tmp_path: Path) -> None:
    """A failed invariant blocks although every file is healthy, and is the runtime's to settle."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        store.write_batch(
            identity=IDENTITY,
            reason="launch_checkpoint",
            writes={"opencode.sessionStore": {"sessions": []}},
        )
    result = run("status", directory)
    assert result.code == ExitCode.NOT_READY
    assert "confirmed member alice has no matching OpenCode session record" in result.out
    assert "the stores contradict each other" in result.out
    assert run("plan", directory).code == ExitCode.NOT_READY


@pytest.mark.parametrize(
    ("options", "stale"),
    [
        (["--run-id", "run-9"], "stale run id"),
        (["--capability-snapshot-id", "other"], "stale capability snapshot"),
        (["--capability-snapshot-id", ""], "stale capability snapshot"),
        (["--behavior-fingerprint", "other"], "stale behavior fingerprint"),
        (["--run-id", "run-7f3a"], None),
    ],
)
def test_expected_identity(tmp_path: Path, options: list[str], stale: str | None) -> None:
    """The entries are held against what is given, and for the rest against the active identity;
    an empty part stands for none."""
    directory = ready_team(tmp_path)
    for command in ("status", "plan"):
        result = run(command, directory, *options)
        if stale is None:
            assert result.code == ExitCode.READY
            continue
        assert result.code == ExitCode.NOT_READY
        assert f"  Runtime store opencode.launchState has {stale}\n" in result.out
        assert "opencode.runtimeDiagnostics has" not in result.out
        who = "start the expected run" if "--run-id" in options else "the runtime must write"
        assert f"  {who}" in result.out


def test_expected_identity_needs_a_run(tmp_path: Path) -> None:
    """Half an identity cannot be expected where there is no active one to complete it."""
    directory = tmp_path / "new"
    run("init", directory, "--team", "t")
    result = run("status", directory, "--behavior-fingerprint", "b")
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert result.err == "rtstore: --run-id: is needed: nothing is committed yet\n"
    assert run("status", directory, "--run-id", "").code == ExitCode.WRONG_CALL
    assert run("status", directory, "--run-id", "run-1").code == ExitCode.NOT_READY


def test_json(tmp_path: Path) -> None:
    """The shape that programs rely on, value by value for a crashed directory."""
    directory = crashed_team(tmp_path)
    result = run_process("status", directory, "--json")
    assert (result.code, result.err) == (ExitCode.NOT_READY, "")
    report = result.json()
    leases = next(s for s in report["stores"] if s["schemaName"] == "opencode.hostLeases")
    assert leases.pop("fileSize") > 100
    assert (leases.pop("historyContents"), leases.pop("historyBytes") > 100) == (1, True)
    assert leases.pop("ageSeconds") >= 0
    assert leases.pop("writtenAt").endswith("Z")
    assert leases.pop("batchId").startswith("batch-")
    assert leases == {
        "schemaName": "opencode.hostLeases",
        "relativePath": "opencode-host-leases.json",
        "criticality": "rebuildable_from_provider",
        "state": "hash_mismatch",
        "highWatermark": 1,
        "holds": "open_batch",
        "detail": None,
        "action": "roll_forward",
        "reason": "uncommitted_batch:batch-crashed",
        "batchReason": "launch_checkpoint",
        "deletedAt": None,
    }
    (open_batch,) = report["openBatches"]
    assert (open_batch["batchId"], open_batch["inProgress"]) == ("batch-crashed", False)
    assert open_batch["stores"] == [
        "opencode.launchState",
        "opencode.hostLeases",
        "opencode.sessionStore",
        "opencode.runtimeRevision",
    ]
    identity = {
        "runId": "run-7f3a",
        "capabilitySnapshotId": "capabilities-1.14.31",
        "behaviorFingerprint": "sha256:5d41402a",
    }
    assert report["activeIdentity"] == report["expectedIdentity"] == identity
    assert report["verdict"] == "blocked"
    assert report["readiness"] == {
        "ok": False,
        "reason": "runtime_store_recovery_required",
        "diagnostics": ["Uncommitted runtime store batch detected: batch-crashed"],
    }
    assert report["nothingCommitted"] is False
    assert report["lockHolder"] is None
    assert report["databaseBytes"] == (directory / "runtime-store.sqlite3").stat().st_size > 0
    assert report["walBytes"] == 0
    assert report["next"] == [
        {"command": f"rtstore recover {directory}", "why": "brings batch-crashed to its end"}
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="locks are told by /proc")
def test_a_transaction_that_no_write_gets_by(tmp_path: Path) -> None:
    """It is of this moment, so that it is no matter of readiness; but it is told, with the command
    that says more."""
    directory = ready_team(tmp_path)
    with child(HOLD, directory / "runtime-store.sqlite3") as other:
        assert hear(other) == "locked"
        told = run("status", directory, columns=400)
        assert told.code == ExitCode.READY
        (line,) = [line for line in told.out.splitlines() if line.startswith("Writer lock")]
        assert line.startswith(f"Writer lock        free, but process {other.pid} (")
        assert line.endswith(
            f" has a write transaction open without it: rtstore doctor {directory}"
        )
    assert "Writer lock        free\n" in run("status", directory).out


@pytest.mark.parametrize("name", [".", "runtime-store.lock", "runtime-store.sqlite3"])
def test_what_this_user_may_not_write(tmp_path: Path, name: str) -> None:
    """Another user may, so that it is no matter of readiness; but it is told."""
    directory = ready_team(tmp_path)
    (directory / name).chmod(0o500 if name == "." else 0o400)
    told = run_process("status", directory, before=_without_privileges())
    assert told.code == ExitCode.READY
    line = f"free, but this user may not write here: rtstore doctor {directory}\n"
    assert line in told.out
    (directory / name).chmod(0o700)


READER = """
import sqlite3
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
for begin in ("BEGIN", "COMMIT"):
    connection.execute(begin)
    connection.execute("SELECT count(*) FROM write_batches").fetchone()
    say(begin)
    wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="locks are told by /proc")
def test_who_keeps_the_wal_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large WAL is told of with the process that stays in a read transaction, and not with one
    that only has the database open."""
    directory = ready_team(tmp_path)
    monkeypatch.setattr(status, "LARGE_WAL", 0)
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, {})
        with forked(READER, directory / "runtime-store.sqlite3") as reader:
            assert hear(reader) == "BEGIN"
            (found,) = run("status", directory, "--json").json()["inTransaction"]
            assert found["pid"] == reader.pid
            told = run("status", directory, columns=200).out
            assert f", which grows while process {reader.pid} (" in told
            assert ") stays in a transaction" in told
            with forked(READER, directory / "runtime-store.sqlite3") as other:
                assert hear(other) == "BEGIN"
                told = run("status", directory, columns=200).out
                assert "which grows while processes " in told
                assert ") stay in a transaction" in told
                answer(other)
                assert hear(other) == "COMMIT"
            answer(reader)
            assert hear(reader) == "COMMIT"
            assert run("status", directory, "--json").json()["inTransaction"] == []
            assert "which grows" not in run("status", directory, columns=200).out


def test_paths_are_quoted_for_the_shell(tmp_path: Path) -> None:
    """The command to run next can be pasted, whatever the directory is called."""
    directory = crashed_team(tmp_path).rename(tmp_path / "a team's $HOME")
    (step,) = run("status", directory, "--json").json()["next"]
    quoted = "'" + str(directory).replace("'", "'\"'\"'") + "'"
    assert step["command"] == f"rtstore recover {quoted}"


def test_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A team name full of markup and control characters is shown, not obeyed; in JSON it is
    itself."""
    team = "[red]t[/red]\x1b[2J"
    with monkeypatch.context() as earlier:  # versions before took any text
        earlier.setattr(arguments, "_NOT_IN_A_LINE", ())
        run("init", tmp_path / "new", "--team", team)
    result = run("status", tmp_path / "new")
    assert "Team               [red]t[/red]\\x1b[2J\n" in result.out
    assert run("status", tmp_path / "new", "--json").json()["teamName"] == team


def test_paths_are_shown_as_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the working directory a path is short, in a report and in the command to run next."""
    directory = ready_team(tmp_path)
    (directory / "opencode-sessions.json").write_text("{")
    monkeypatch.chdir(tmp_path)

    for words in (("status", directory.name), ("status", "."), ("plan", directory.name)):
        result = run(*words)
        assert str(tmp_path) not in result.out, words
        assert f"rtstore recover {directory.name}" in result.out, words
