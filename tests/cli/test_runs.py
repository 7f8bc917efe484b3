"""`rtstore runs` and `rtstore end-run`, and the run in `status` and `plan`: which runs there were,
how each ended, whether it lives, and the end of one from outside."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from rtstore import DATABASE_NAME, Descriptor, RuntimeStore, StaleRunError
from rtstore.cli.commands import runs as command
from rtstore.cli.exits import ExitCode
from rtstore.cli.output import TerminalPage
from rtstore.model.times import utc_now
from tests.cli.commands import ready_team, run
from tests.cli.test_bad_input import refused
from tests.cli.test_completion import completed
from tests.support import hear, picture, plain_descriptor
from tests.support.forked import forked

NOTES = plain_descriptor("own.notes", "notes.json")
DIES = """
from rtstore import RuntimeStore
store = RuntimeStore.open(sys.argv[1])
begun = store.begin_run(sys.argv[2], keep="all", supersede=True)
begun.write_batch("delivery_commit", {"own.notes": 2})
say(begun.run_id)
wait()
"""


def open_team(parent: Path, *, notes: Descriptor = NOTES) -> RuntimeStore:
    """A store of one JSON file."""
    return RuntimeStore.open(parent / "team", team_name="team", descriptors=[notes])


def one_of_each(parent: Path) -> Path:
    """Runs that finished, failed, were superseded and died; the last one is the active one."""
    directory = Path(shutil.copytree(_template(), parent / "team"))
    old, new = (
        f"{found.st_dev:x}:{found.st_ino:x}" for found in (_template().stat(), directory.stat())
    )
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        # As if they had begun here: of a copy, nobody knows whether a process works in it.
        raw.execute("UPDATE runs SET process_start = replace(process_start, ?, ?)", (old, new))
    return directory


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rtstore-runs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with open_team(folder) as store:
        store.begin_run("run-finished", writes={"own.notes": 1}).end()
        with (
            pytest.raises(ValueError, match="no provider"),
            store.begin_run("run-failed", keep="all"),
        ):
            raise ValueError("no provider")
        store.begin_run("run-superseded", keep="all").update(
            "own.notes", lambda data: data, reason="host_lease_update"
        )
        with forked(DIES, store.directory, "run-died") as process:
            assert hear(process) == "run-died"
        return store.directory


def change_runs(directory: Path, assignments: str, run_id: str) -> None:
    """Have the database say something else of the process of a run."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute(f"UPDATE runs SET {assignments} WHERE run_id = ?", (run_id,))


# --- runs -----------------------------------------------------------------------------------------


def test_each_run(tmp_path: Path) -> None:
    """The newest first: the state, how it ended and why, its last batch, whether its process
    lives; and what to do about a run without a process, and a process without a run."""
    directory = one_of_each(tmp_path)
    result = run("runs", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    lines = [line.split()[0] for line in result.out.splitlines() if line.startswith("run-")]
    assert lines == ["run-died", "run-superseded", "run-failed", "run-finished"]
    assert result.row("run-died", "active", "gone", "-", "delivery_commit")
    superseded = result.row("run-superseded", "superseded", "alive", "by", "host_lease_update")
    assert "  by run-died  " in superseded
    assert f"  alive    process {os.getpid()}  " in superseded  # not who wrote its last batch
    assert "failed: ValueError: no provider" in result.row("run-failed", "ended", "alive")
    assert result.row("run-finished", "ended", "alive", "finished", "launch_checkpoint")
    assert "  run run-died never ended, and its process " in result.out
    assert f"  rtstore end-run {directory} --run-id run-died --why " in result.out
    assert f"  stop process {os.getpid()}: its run run-superseded is over, " in result.out


def test_each_run_as_json(tmp_path: Path) -> None:
    """The same for programs, and only as many as are asked for."""
    directory = one_of_each(tmp_path)
    report = run("runs", directory, "-n", "2", "--json").json()
    assert (report["activeRunId"], report["number"], len(report["runs"])) == ("run-died", 4, 2)
    died, superseded = report["runs"]
    assert (died["run"]["state"], died["processAlive"]) == ("active", False)
    assert died["lastBatch"]["reason"] == "delivery_commit"
    assert superseded["run"]["supersededBy"] == "run-died"
    assert superseded["run"]["process"]["pid"] == os.getpid()
    assert superseded["processAlive"] is True
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = 1")
        raw.execute("UPDATE runs SET began_at = 'never' WHERE run_id = 'run-finished'")
    assert "Runs               4 runs, the newest 2\n" in run("runs", directory, "-n", "2").out
    assert run("runs", directory).code == ExitCode.STOP, "only what is shown is read"


def test_a_process_of_another_host(tmp_path: Path) -> None:
    """Whether it lives is not known here, and nobody is sent to stop or end anything."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1})
        change_runs(store.directory, "host = 'elsewhere', pid = 4711", "run-1")
        row = run("runs", store.directory).row("run-1", "active")
        assert "  not known  " in row
        assert "  not known  process 4711 on elsewhere  " in row
        assert run("runs", store.directory, "--json").json()["next"] == []
        status = run("status", store.directory)
        told = "run-1, active; whether its process 4711 on elsewhere lives is not known\n"
        assert f"Run                {told}" in status.out


def test_no_run_yet(tmp_path: Path) -> None:
    """A new directory has none, and nothing is wrong with that."""
    with open_team(tmp_path) as store:
        result = run("runs", store.directory)
        assert result.code == ExitCode.READY
        assert "Active run         none\nRuns               no runs\n" in result.out
        assert "Run                none yet\n" in run("status", store.directory).out


@pytest.mark.parametrize("name", ["run-{}", "7d1f0f0e-54f3-4b57-9a86-0c3c8cf3f10{}"])
def test_what_matters_fits_into_eighty_columns(tmp_path: Path, name: str) -> None:
    """The run, its state, its process and how it ended, also where the ids are UUIDs."""
    with open_team(tmp_path) as store:
        store.begin_run(name.format(1), writes={"own.notes": 1})
        store.begin_run(name.format(2), keep="all")
        lines = [
            command.RunLine(run=each, process_alive=True, age_seconds=1, last_batch=None)
            for each in store.runs()
        ]
    report = command.RunsReport(
        directory="team",
        team_name="team",
        active_run_id=name.format(2),
        number=2,
        runs=tuple(lines),
        next=(),
    )
    out = StringIO()
    command._show(TerminalPage(Console(file=out), 80), report, utc_now())
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    (row,) = [line for line in out.getvalue().splitlines() if "superseded" in line]
    assert row.split()[:3] == [name.format(1), "superseded", "alive"]
    assert "  by " in row


# --- end-run --------------------------------------------------------------------------------------


def test_the_active_run_is_ended(tmp_path: Path) -> None:
    """From outside, for good: what its process writes then is refused, and the next run takes the
    state over."""
    with open_team(tmp_path) as store:
        active = store.begin_run("run-1", writes={"own.notes": 1})
        result = run("end-run", store.directory, "--why", "it hung")
        assert (result.code, result.err) == (ExitCode.READY, "")
        assert "Ended              run run-1\nHow                stopped: it hung\n" in result.out
        assert f"  stop process {os.getpid()}, which still runs: its next write" in result.out
        with pytest.raises(StaleRunError, match="it hung"):
            active.write_batch("delivery_commit", {"own.notes": 2})
        status = run("status", store.directory, "--json").json()
        assert (status["run"]["state"], status["run"]["why"]) == ("ended", "it hung")
        store.begin_run("run-2", keep="all")
        report = run(
            "end-run", store.directory, "--run-id", "run-2", "--why", "enough", "--json"
        ).json()
        assert (report["run"]["runId"], report["run"]["ending"]) == ("run-2", "stopped")
        assert report["processAlive"] is True


def test_a_run_that_died_is_ended_as_it_is_printed(tmp_path: Path) -> None:
    """The command under the list runs as it stands, and the advice is gone then."""
    directory = one_of_each(tmp_path)
    steps = run("runs", directory, "--json").json()["next"]
    (printed,) = [step["command"] for step in steps if step["command"]]
    words = printed.split("'")
    assert run(*words[0].split()[1:], words[1]).code == ExitCode.READY
    assert run("runs", directory).row("run-died", "ended", "gone")
    assert all(not step["command"] for step in run("runs", directory, "--json").json()["next"])


def test_a_run_that_is_not_the_active_one_is_refused(tmp_path: Path) -> None:
    """The active one is named, and how the other one ended; nothing is changed."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1}).end()
        store.begin_run("run-2", keep="all")
        store.begin_run("run-3", keep="all")
        directory = store.directory
    before = picture(directory)
    for run_id, words in {
        "run-1": ("run run-1 ended at ", "(finished) already; run run-3 is the active one"),
        "run-2": ("run run-2 was superseded at ", "(by run-3) already; run run-3 is the active"),
        "run-9": ("there never was a run run-9 here; run run-3 is the active one",),
    }.items():
        result = run("end-run", directory, "--run-id", run_id, "--why", "x")
        refused(result, ExitCode.WRONG_CALL, *words)
    for options in (["--why", " "], ["--why", "x", "--run-id", ""], []):
        assert run("end-run", directory, *options).code == ExitCode.WRONG_CALL
    assert picture(directory) == before


def test_where_no_run_is_active(tmp_path: Path) -> None:
    """There is nothing to end: said with how the last one ended, before the first one too."""
    with open_team(tmp_path) as store:
        words = ("end-run", store.directory, "--why", "x")
        refused(run(*words), ExitCode.WRONG_CALL, "no run is active: there is nothing to end\n")
        store.begin_run("run-1", writes={"own.notes": 1}).end("done")
        refused(run(*words), ExitCode.WRONG_CALL, "The last: run run-1 ended at", "finished: done")


def test_a_first_batch_that_is_open_begins_no_run_yet(tmp_path: Path) -> None:
    """What a dead writer left is told as it is, and is not ended behind its back."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1})
        change_runs(store.directory, "why = NULL", "run-1")
        with closing(sqlite3.connect(store.directory / DATABASE_NAME)) as raw:
            raw.execute("DROP TRIGGER runs_state_is_final")
            raw.execute("UPDATE runs SET state = 'beginning'")
            raw.commit()
        result = run("end-run", store.directory, "--run-id", "run-1", "--why", "x")
        refused(result, ExitCode.WRONG_CALL, "run run-1 has not begun yet; no run is active")


def test_the_active_run_is_completed(tmp_path: Path) -> None:
    """The shell knows its id; the others are no choice."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1})
        store.begin_run("run-2", keep="all")
        line = f"rtstore end-run {store.directory} --why x --run-id r"
        assert completed(line) == ["run-2"]


# --- status and plan ------------------------------------------------------------------------------


def test_status_and_plan_name_the_run(tmp_path: Path) -> None:
    """Its state, and whether its process lives; and how it ended when it did."""
    with open_team(tmp_path) as store:
        active = store.begin_run("run-1", writes={"own.notes": 1})
        words = (
            f"run-1, active; its process {os.getpid()} is alive: no other run begins meanwhile\n"
        )
        for name, label in (("status", "Run                "), ("plan", "Run                ")):
            assert f"{label}{words}" in run(name, store.directory).out
        assert run("status", tmp_path).row(str(store.directory), "run-1", "ready")
        active.end("done")
        assert "  run-1 (ended)  " in run("status", tmp_path).out
        assert "Run                run-1, ended 0 s ago (finished: done)" in (
            run("status", store.directory).out
        )
        report = run("plan", store.directory, "--json").json()
        assert (report["run"]["state"], report["processAlive"]) == ("ended", True)


def test_stale_stores_are_named_with_both_ids(tmp_path: Path) -> None:
    """Of which run they are, and which is expected; and who must do what."""
    directory = ready_team(tmp_path)
    for name in ("status", "plan"):
        result = run(name, directory, "--run-id", "run-9")
        assert "\n  of run run-7f3a, expected is run run-9: opencode.launchState, " in result.out
        assert "\n  start the expected run, run run-9: when it begins, it takes over " in result.out
        assert " from run run-7f3a (RuntimeStore.begin_run)" in result.out
        stale = run(name, directory, "--run-id", "run-9", "--json").json()["staleStores"]
        assert stale[0] == {
            "schemaName": "opencode.launchState",
            "part": "run_id",
            "found": "run-7f3a",
            "expected": "run-9",
        }


def test_a_store_that_was_left_to_an_older_run(tmp_path: Path) -> None:
    """The active run must write it: it has begun, and does not begin again. Another run that is
    expected must have the living process stopped first."""
    more = plain_descriptor("own.more", "more.json")
    stores = [NOTES, more]
    with RuntimeStore.open(tmp_path / "team", team_name="team", descriptors=stores) as store:
        store.begin_run("run-1", writes={"own.notes": 1, "own.more": 1})
        assert store.begin_run("run-2", keep=["own.notes"]).left == ("own.more",)
        out = run("status", store.directory).out
        assert "\n  of run run-1, expected is run run-2: own.more\n" in out
        assert "the runtime must write own.more under run run-2, not run run-1 (a batch, or" in out
        out = run("status", store.directory, "--run-id", "run-3").out
        assert "start the expected run, run run-3: when it begins, it takes over own.notes" in out
        assert f". First stop process {os.getpid()}, which is alive, or have it superseded\n" in out


def test_a_run_that_is_over_is_never_the_one_to_start(tmp_path: Path) -> None:
    """Whoever expects it is told so, and not sent to start it."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1})
        store.begin_run("run-2", keep="all")
        out = run("status", store.directory, "--run-id", "run-1").out
        assert "start the runtime under a new run id: run run-1 is superseded (by run-2)" in out
        assert "start the expected run" not in out


def test_a_file_is_adopted_where_the_last_run_is_over(tmp_path: Path) -> None:
    """A hand that puts a file right is of the last run, which stays over; another run that is over
    cannot be named."""
    with open_team(tmp_path) as store:
        store.begin_run("run-1", writes={"own.notes": 1}).end()
    path = store.directory / "notes.json"
    path.write_bytes(path.read_bytes().replace(b'"data": 1', b'"data": 7'))
    before = run("runs", store.directory, "--json").json()["runs"][0]["run"]
    refused_run = run("adopt", store.directory, "own.notes", "--run-id", "run-1")
    assert (refused_run.code, "run run-1 ended" in refused_run.err) == (ExitCode.STOP, True)
    assert run("adopt", store.directory, "own.notes").code == ExitCode.READY
    assert run("runs", store.directory, "--json").json()["runs"][0]["run"] == before
