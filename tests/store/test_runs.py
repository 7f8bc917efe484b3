"""Runs: how one begins, resumes, is superseded and ends, and what a start is told."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from rtstore import (
    DATABASE_NAME,
    Batch,
    CallError,
    Descriptor,
    InvalidRequestError,
    RebuildRequest,
    RebuildStrategy,
    Retention,
    Run,
    RunEnding,
    RunIdentity,
    RunState,
    RuntimeStore,
    StaleRunError,
    StartKind,
    StoreFileChangedError,
    UnknownStoreError,
    rebuild_database,
)
from rtstore.control import manifest, run_processes
from rtstore.testing import crash_at
from tests.support import plain_descriptor

GOOD: dict[type, dict[str, Any]] = {
    RunIdentity: {"run_id": "run-1"},
    Retention: {},
    Descriptor: dict(plain_descriptor("test.a", "a.json")),
}
"""Enough fields of each record that callers make."""
A, B, C = "test.a", "test.b", "test.c"
DESCRIPTORS = [plain_descriptor(name, f"{name}.json") for name in (A, B, C)]


def identity(run_id: str) -> RunIdentity:
    """The identity of a run of this program."""
    return RunIdentity(run_id=run_id, capability_snapshot_id="cap-1", behavior_fingerprint="b-1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A new directory of three stores."""
    with RuntimeStore.open(tmp_path / "rt", team_name="team-a", descriptors=DESCRIPTORS) as opened:
        yield opened


def begun(store: RuntimeStore) -> Run:
    """A run that began with two stores."""
    return store.begin_run(identity("run-1"), writes={A: 1, B: {"n": 1}})


def states(store: RuntimeStore) -> list[tuple[str, str]]:
    """Every run with its state, the latest first."""
    return [(run.run_id, run.state.value) for run in store.runs()]


def rows(store: RuntimeStore) -> tuple[object, ...]:
    """All that a refused call must leave as it was."""
    files = {path.name: path.read_bytes() for path in store.directory.glob("*.json")}
    return store.manifest(), store.batches(), store.runs(), store.quarantined_files(), files


# --- beginning ------------------------------------------------------------------------------------


def test_a_run_begins_with_one_batch(store: RuntimeStore) -> None:
    """The first contents and the run become true in the same batch, which the run names."""
    run = begun(store)
    assert run.batch is not None
    assert run.batch.reason == "launch_checkpoint"
    assert not run.resumed
    assert run.superseded is None
    assert run.left == ()
    (record,) = store.runs()
    assert (record.run_id, record.state) == ("run-1", RunState.ACTIVE)
    assert record.begun_by_batch == run.batch.batch_id
    assert record.process is not None
    assert store.check_readiness(expected=run.identity).nothing_committed is False


def test_all_that_is_kept_is_what_the_directory_was_opened_with(store: RuntimeStore) -> None:
    """A store of another program's descriptors stays the old run's; that program may keep it."""
    store.begin_run("run-1", writes={A: 1, B: 2}).end()
    with RuntimeStore.open(store.directory, descriptors=[DESCRIPTORS[0]]) as other:
        assert other.begin_run("run-2", keep="all").left == (B,)
    assert (store.read(A).run_id, store.read(B).run_id) == ("run-2", "run-1")
    assert store.begin_run("run-3", keep="all").left == ()


def test_a_batch_of_a_run_that_was_never_seen_begins_it(store: RuntimeStore) -> None:
    """A program that only writes batches needs to know nothing of runs."""
    for run_id in ("run-1", "run-2"):
        store.write_batch(identity=identity(run_id), reason="recovery", writes={A: run_id})
    assert states(store) == [("run-2", "active"), ("run-1", "superseded")]
    assert store.runs()[1].superseded_by == "run-2"


def test_kept_stores_have_the_same_bytes_under_the_new_identity(store: RuntimeStore) -> None:
    """One that is neither kept, given nor rebuilt stays the old run's."""
    store.begin_run(identity("run-1"), writes={A: 1, B: {"n": 1}, C: "left"})
    before = {path.name: path.read_bytes() for path in store.directory.glob("*.json")}
    run = store.begin_run(identity("run-2"), writes={A: 2}, keep=[B])
    assert run.left == (C,)
    assert run.superseded is not None
    assert (run.superseded.run_id, run.superseded.state) == ("run-1", RunState.SUPERSEDED)
    assert {name: store.read(name).run_id for name in (A, B, C)} == {
        A: "run-2",
        B: "run-2",
        C: "run-1",
    }
    assert (store.directory / f"{B}.json").read_bytes() == before[f"{B}.json"]
    plan = store.plan_recovery(expected=run.identity)
    (stale,) = plan.stale_stores
    assert (stale.schema_name, stale.part, stale.found, stale.expected) == (
        C,
        "run_id",
        "run-1",
        "run-2",
    )


def test_all_that_is_committed_can_be_kept(store: RuntimeStore) -> None:
    """`all` is every committed store that is neither given nor rebuilt; none that was never
    written."""
    begun(store)
    run = store.begin_run("run-2", keep="all", rebuilders={B: lambda request: request.data})
    assert run.batch is not None
    assert {item.schema_name for item in run.batch.receipts} == {A, B}
    assert run.left == ()


def test_rebuilders_get_the_old_data_and_what_is_wrong(store: RuntimeStore) -> None:
    """A rebuilder by store goes before that of its strategy; each is called without the lock."""
    begun(store)
    asked: dict[str, tuple[Any, str | None]] = {}

    def rebuild(request: RebuildRequest) -> Any:
        name = request.descriptor.schema_name
        assert not store.lock.is_held()
        asked[name] = request.data, request.reason
        return {"rebuilt": name}

    store.begin_run(
        identity("run-2"),
        keep=[A],
        rebuilders={"none": rebuild, C: lambda _: "of the store"},
    )
    assert asked == {B: ({"n": 1}, f"Runtime store {B} has stale run id")}
    assert [store.read(name).data for name in (A, B, C)] == [1, {"rebuilt": B}, "of the store"]


def test_a_store_written_while_it_was_rebuilt_is_rebuilt_again(store: RuntimeStore) -> None:
    """What the rebuilder read must be what is replaced."""
    old = begun(store)
    seen = []

    def rebuild(request: RebuildRequest) -> Any:
        seen.append(request.data)
        if len(seen) == 1:
            old.write_batch("recovery", {B: {"n": 2}})
        return [request.data]

    store.begin_run("run-2", rebuilders={B: rebuild})
    assert seen == [{"n": 1}, {"n": 2}]
    assert store.read(B).data == [{"n": 2}]


def test_the_id_of_the_active_run_resumes_it(store: RuntimeStore) -> None:
    """Its state is there: nothing is written and no rebuilder is called."""
    begun(store)
    before = store.manifest()
    run = store.begin_run(
        identity("run-1"), writes={A: "new"}, keep="all", rebuilders={B: lambda _: 1 // 0}
    )
    assert run.resumed
    assert run.batch is None
    assert store.manifest() == before


def test_a_resumed_run_writes_what_was_never_written(store: RuntimeStore) -> None:
    """A store that a newer program adds gets its first contents; the others stay as they are."""
    begun(store)
    run = store.begin_run(identity("run-1"), writes={A: "not this", C: "first"})
    assert run.resumed
    assert [store.read(name).data for name in (A, B, C)] == [1, {"n": 1}, "first"]
    assert store.begin_run(identity("run-1"), writes={C: "again"}).resumed
    assert store.read(C).data == "first"


def test_an_id_alone_resumes_the_run(store: RuntimeStore) -> None:
    """Whatever snapshot and fingerprint it has: as the start state says."""
    begun(store)
    assert store.start_state("run-1").kind is StartKind.RESUME
    run = store.begin_run("run-1")
    assert (run.resumed, run.identity) == (True, identity("run-1"))


def test_a_copy_of_the_directory_knows_nothing_of_the_process(
    store: RuntimeStore, tmp_path: Path
) -> None:
    """The process works in the original: it must not be called alive in the copy, where nobody
    needs to stop it."""
    script = (
        "import sys; from rtstore import *\n"
        "store = RuntimeStore.open(sys.argv[1])\n"
        "store.begin_run('run-1', writes={'test.a': 1})\n"
        "print('begun', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(store.directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        store.back_up(tmp_path / "copy")
        assert store.start_state("run-2").process_alive
        with RuntimeStore.open(tmp_path / "copy") as copy:
            assert copy.start_state("run-2").process_alive is None
            assert copy.begin_run("run-2", keep="all").left == ()
        process.communicate()


def test_a_process_that_is_hidden_from_the_asker_is_not_called_gone(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """/proc may hide other users' processes (hidepid). One that has the pid is alive, or another
    one has it by now: nobody can tell."""
    begun(store)
    shown = tmp_path / "proc"
    for name in ("sys/kernel/random/boot_id", "self/ns/pid", "self/ns/time"):
        (shown / name).parent.mkdir(parents=True, exist_ok=True)
    (shown / "sys/kernel/random/boot_id").write_text(
        Path("/proc/sys/kernel/random/boot_id").read_text()
    )
    for name in ("pid", "time"):
        (shown / "self/ns" / name).symlink_to(os.readlink(f"/proc/self/ns/{name}"))
    monkeypatch.setattr(run_processes, "_PROC", shown)

    process = store.runs()[0].process
    assert process is not None
    assert run_processes.is_alive(process, store.directory) is None

    gone = process.model_copy(update={"pid": 2**22 + 1})  # above every pid of Linux
    assert run_processes.is_alive(gone, store.directory) is False


OUTLIVED = """
import ctypes, sys, threading, time
from rtstore import RuntimeStore

store = RuntimeStore.open(sys.argv[1])
store.begin_run("run-2", keep="all", supersede=True)
threading.Thread(target=lambda: (print("on", flush=True), sys.stdin.read())).start()
time.sleep(0.05)
ctypes.CDLL(None).syscall(60 if sys.argv[2] == "x86_64" else 93, 0)  # exit, of this thread alone
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads of Linux, and its system calls")
def test_a_process_whose_first_thread_has_ended_is_alive(store: RuntimeStore) -> None:
    """/proc calls it a zombie as long as another thread works. When that ends, it is gone."""
    begun(store)
    with subprocess.Popen(
        [sys.executable, "-c", OUTLIVED, store.directory, platform.machine()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert process.poll() is None
            time.sleep(0.005)
        assert store.start_state("run-3").process_alive is True
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert store.start_state("run-3").process_alive is False


def test_a_process_of_another_time_namespace_is_not_called_gone(store: RuntimeStore) -> None:
    """Its start is counted by another clock. An older record, without the namespace, is as good as
    it was."""
    begun(store)
    process = store.runs()[0].process
    assert process is not None
    assert process.start is not None
    parts = process.start.split("/")
    elsewhere = process.model_copy(update={"start": "/".join((*parts[:-1], "time:[1]"))})
    assert run_processes.is_alive(elsewhere, store.directory) is None
    older = process.model_copy(update={"start": "/".join(parts[:-1])})
    assert run_processes.is_alive(older, store.directory) is True
    assert run_processes.is_this_process(older)


# --- the fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["superseded", "ended"])
def test_a_run_that_is_over_writes_nothing(store: RuntimeStore, over: str) -> None:
    """Every way of writing is refused before anything is changed, and no function is called."""
    old = begun(store)
    (store.directory / f"{B}.json").write_text("somebody's")
    if over == "ended":
        old.end("done")
    else:
        store.begin_run("run-2", writes={A: 2})
    before = rows(store)

    def never(_: Any) -> Any:
        raise AssertionError

    attempts: list[Callable[[], object]] = [
        lambda: old.write_batch("recovery", {B: 3}),
        lambda: old.update(A, never, reason="recovery"),
        lambda: store.adopt(B, identity=old.identity),
        lambda: store.revert(A, to=1, identity=old.identity) if over == "superseded" else None,
        lambda: store.begin_run(old.identity, keep="all", rebuilders={C: never}),
        lambda: store.end_run("run-1"),
    ]
    for attempt in attempts:
        if over == "ended" and attempt is attempts[3]:
            continue  # there is nothing to go back to
        with pytest.raises(StaleRunError) as refused:
            attempt()
        assert (refused.value.run_id, refused.value.state) == ("run-1", over)
        assert refused.value.active_run_id == (None if over == "ended" else "run-2")
        assert refused.value.since is not None
    assert rows(store) == before


def test_repeating_a_committed_batch_is_answered_truly(store: RuntimeStore) -> None:
    """A batch that is committed stays committed, whatever became of its run."""
    old = begun(store)
    first = old.write_batch("recovery", {A: 5}, batch_id="once")
    store.begin_run("run-2", keep="all")
    assert old.write_batch("recovery", {A: 5}, batch_id="once") == first


def test_a_stop_tombstone_ends_its_run(store: RuntimeStore) -> None:
    """A stopped run does not write on."""
    run = begun(store)
    run.write_batch("stop_tombstone", {A: "stopped"})
    (record,) = store.runs()
    assert (record.state, record.ending) == (RunState.ENDED, RunEnding.STOPPED)
    with pytest.raises(StaleRunError):
        run.write_batch("recovery", {A: "on"})


def test_the_librarys_own_batches_change_nothing_about_a_run(store: RuntimeStore) -> None:
    """Where no run is active they are of the last one, which stays over."""
    run = begun(store)
    run.write_batch("recovery", {A: 2})
    run.end()
    before = store.runs()
    reverted = store.revert(A, to=1)
    (store.directory / f"{A}.json").write_bytes((store.directory / f"{B}.json").read_bytes())
    adopted = store.adopt(A)
    assert {reverted.run_id, adopted.run_id} == {"run-1"}
    assert store.runs() == before


def leave_a_run_open(store: RuntimeStore, run_id: str) -> None:
    """Another program begins a run, and dies when its first batch is in the log."""
    with crash_at("after-log"), RuntimeStore.open(store.directory) as other:
        other.begin_run(identity(run_id), writes={B: 2}, supersede=True)


@pytest.mark.parametrize("call", ["adopt", "revert"])
@pytest.mark.parametrize("open_batch", [True, False])
def test_the_librarys_own_batches_are_of_the_run_that_is_active_by_then(
    store: RuntimeStore, call: str, open_batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that a dead writer was beginning is finished first, and then it is the last one. Nor
    does a run that begins before the lock is taken leave them to the one before."""
    begun(store).write_batch("recovery", {A: 2})
    if open_batch:
        leave_a_run_open(store, "run-2")
    else:
        hold = store.lock.hold

        def late(*given: Any) -> Any:
            monkeypatch.undo()
            with RuntimeStore.open(store.directory) as other:
                other.begin_run(identity("run-2"), writes={B: 2}, supersede=True)
            return hold(*given)

        monkeypatch.setattr(store.lock, "hold", late)
    if call == "adopt":
        path = store.directory / f"{A}.json"
        path.write_bytes(path.read_bytes().replace(b'"data": 2', b'"data": 3'))
    batch = store.adopt(A) if call == "adopt" else store.revert(A, to=1)
    assert batch.run_id == "run-2"
    assert store.manifest().active_identity == identity("run-2")
    assert states(store) == [("run-2", "active"), ("run-1", "superseded")]


def test_a_run_whose_first_batch_is_open_is_resumed_by_its_id(store: RuntimeStore) -> None:
    """Whatever its snapshot and fingerprint are: its batch is finished first."""
    begun(store)
    leave_a_run_open(store, "run-2")
    run = store.begin_run("run-2")
    assert (run.resumed, run.identity) == (True, identity("run-2"))
    assert store.read(B).data == 2


def test_a_run_whose_first_batch_fails_has_not_begun(store: RuntimeStore) -> None:
    """The old run is active as before, and the id is free."""
    begun(store)
    (store.directory / f"{C}.json").mkdir()
    with pytest.raises(CallError):
        store.begin_run("run-2", writes={C: 1})
    assert states(store) == [("run-1", "active")]
    (store.directory / f"{C}.json").rmdir()
    store.begin_run("run-2", writes={C: 1})


# --- ending ---------------------------------------------------------------------------------------


def test_an_interrupt_after_the_first_batch_says_that_the_run_has_begun(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is committed by then, so the run can be resumed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupting:
        interrupting.setattr("rtstore.store.Run", interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            begun(store)
    (batch,) = store.batches()
    (note,) = caught.value.__notes__
    assert f"batch {batch.batch_id} is committed: run run-1 has begun" in note
    assert begun(store).resumed


def test_a_clean_exit_ends_the_run(store: RuntimeStore) -> None:
    """Leaving the block ends it as finished, and an exception as failed."""
    with begun(store) as run:
        run.write_batch("recovery", {A: 2})
    assert store.runs()[0].ending is RunEnding.FINISHED
    with pytest.raises(ValueError, match="boom"), store.begin_run("run-2", keep="all"):
        raise ValueError("boom")
    assert store.runs()[0].ending is RunEnding.FAILED
    assert store.runs()[0].why == "ValueError: boom"


def test_leaving_the_block_of_a_superseded_run_hides_nothing(store: RuntimeStore) -> None:
    """Its own error passes; without one, nothing is raised: the run is over already."""
    run = begun(store)
    store.begin_run("run-2", keep="all")
    with pytest.raises(StaleRunError), run:
        run.write_batch("recovery", {A: 2})
    with store.begin_run("run-3", keep="all"):
        store.begin_run("run-4", keep="all")
    assert states(store)[:2] == [("run-4", "active"), ("run-3", "superseded")]


def test_ending_from_outside(store: RuntimeStore) -> None:
    """An operator ends the active run; asking for another changes nothing and says which is."""
    begun(store)
    for run_id, problem in (("run-9", "run-9.*run-1 is active"), ("", "ever begun")):
        with pytest.raises(InvalidRequestError, match=problem):
            store.end_run(run_id)
    record = store.end_run(why="the machine is needed")
    assert (record.ending, record.why) == (RunEnding.STOPPED, "the machine is needed")
    with pytest.raises(InvalidRequestError, match="no run is active"):
        store.end_run()


# --- bad input ------------------------------------------------------------------------------------


def test_bad_beginnings(store: RuntimeStore) -> None:
    """Each has its own clear error, and writes nothing."""
    begun(store)
    other = RunIdentity(run_id="run-1", capability_snapshot_id="cap-2")

    def raising(_: RebuildRequest) -> Any:
        raise LookupError("no provider")

    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"identity": "run-2"}, InvalidRequestError, "at least one store"),
        ({"identity": other, "keep": "all"}, InvalidRequestError, "takes a new id"),
        ({"identity": "run-2", "keep": ["no"]}, UnknownStoreError, "no"),
        ({"identity": "run-2", "keep": [C]}, InvalidRequestError, "nothing is committed"),
        ({"identity": "run-2", "keep": A}, InvalidRequestError, "must be a list"),
        ({"identity": "run-2", "keep": [A], "writes": {A: 1}}, InvalidRequestError, "as well"),
        ({"identity": "run-2", "rebuilders": {A: raising}}, LookupError, "no provider"),
        ({"identity": "run-2", "rebuilders": {A: lambda _: None}}, InvalidRequestError, "None"),
        ({"identity": "run-2", "rebuilders": {"no": raising}}, InvalidRequestError, "no"),
        ({"identity": "run-2", "rebuilders": {A: lambda _: {1}}}, InvalidRequestError, "data"),
        ({"identity": "", "writes": {A: 1}}, InvalidRequestError, "run_id"),
        ({"identity": 7, "writes": {A: 1}}, InvalidRequestError, "RunIdentity"),
    ]
    before = rows(store)
    for arguments, error, problem in cases:
        with pytest.raises(error, match=problem):
            store.begin_run(**arguments)
    (store.directory / f"{A}.json").write_text("{}")
    with pytest.raises(StoreFileChangedError):
        store.begin_run("run-2", keep="all")
    assert rows(store)[:4] == before[:4]


def test_a_second_runtime_started_by_mistake(store: RuntimeStore) -> None:
    """Beside a living process of the active run nobody begins another, unless it says so."""
    begun(store)
    script = (
        "import sys; from rtstore import *\n"
        "store = RuntimeStore.open(sys.argv[1])\n"
        "print(store.start_state('run-2').process_alive)\n"
        "try: store.begin_run('run-2', keep='all')\n"
        "except RunAliveError as error: print(error.active_run_id, error.pid)\n"
        "store.begin_run('run-2', keep='all', supersede=True)\n"
    )
    command = [sys.executable, "-c", script, str(store.directory)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    process = store.runs()[1].process
    assert process is not None
    assert told == ["True", "run-1", str(process.pid)]
    state = store.start_state("run-3")
    assert (state.kind, state.process_alive) == (StartKind.TAKE_OVER, False)  # that one has ended
    assert store.begin_run("run-3", keep="all").left == ()


# --- where does this runtime stand? ---------------------------------------------------------------


def test_where_a_runtime_stands(store: RuntimeStore) -> None:
    """Each answer in turn, from a new directory on."""
    state = store.start_state("run-1")
    assert (state.kind, state.run, state.unwritten) == (StartKind.NEW, None, (A, B, C))
    assert state.readiness.nothing_committed
    run = begun(store)
    assert store.start_state(run.identity).kind is StartKind.RESUME
    assert store.start_state().kind is StartKind.TAKE_OVER
    assert store.start_state("run-2").kind is StartKind.TAKE_OVER
    assert store.start_state("run-2").unwritten == (C,)
    assert store.start_state(RunIdentity(run_id="run-1")).kind is StartKind.REFUSE
    (store.directory / f"{A}.json").write_text("{}")
    repair = store.start_state("run-1")
    assert (repair.kind, A in repair.why) == (StartKind.REPAIR, True)
    store.recover(repair.plan)
    assert store.start_state("run-1").kind is StartKind.RESUME
    run.end()
    over = store.start_state("run-1")
    assert (over.kind, "new run id" in over.why) == (StartKind.REFUSE, True)
    assert store.start_state("run-2").kind is StartKind.TAKE_OVER
    (store.directory / f"{A}.json").write_text('{"schemaVersion": 9, "data": 1}')
    assert store.start_state("run-2").kind is StartKind.REFUSE


def test_a_store_that_a_run_left_stops_no_start(store: RuntimeStore) -> None:
    """Its file and its content are sound: it is still bound to an older run, which the answer says.
    As it says, a write takes it over, and so does a new run that keeps it."""
    store.begin_run("run-1", writes={A: {"n": 1}, B: {"n": 1}}).end()
    run = store.begin_run("run-2", writes={A: {"n": 2}})
    assert run.left == (B,)
    bound = f"; still bound to another identity: {B}; a write of such a store, or a new run that"
    for name, kind in (("run-2", StartKind.RESUME), ("run-3", StartKind.TAKE_OVER)):
        start = store.start_state(name)
        assert (start.kind, bound in start.why) == (kind, True)
    run.write_batch("test", {B: {"n": 2}})
    assert bound not in store.start_state("run-2").why
    store.begin_run("run-3", writes={A: {"n": 3}}).end()
    store.begin_run("run-4", keep="all")
    assert bound not in store.start_state("run-4").why
    store.write_batch(identity=identity("run-4"), reason="test", writes={C: 4})
    assert store.begin_run("run-5", writes={C: 5}).left == (A, B)
    several = f"; still bound to another identity: {A}, {B}; a write of such a store, or a new run"
    assert several in store.start_state("run-5").why


def test_recovery_rebuilds_stale_stores_in_one_batch(store: RuntimeStore) -> None:
    """Under an expected identity; a store whose rebuilder is missing stays, and is named."""
    store.begin_run(identity("run-1"), writes={A: 1, B: 1, C: 1})
    plan = store.plan_recovery(expected=identity("run-2"))
    rebuilders = {A: lambda request: [request.data], B: lambda request: [request.data]}
    report = store.recover(plan, rebuilders=rebuilders)
    outcomes = {step.action.schema_name: step.outcome.value for step in report.steps}
    assert outcomes == {A: "done", B: "done", C: "skipped"}
    batch: Batch = store.batches()[-1]
    assert {item.schema_name for item in batch.receipts} == {A, B}
    assert [item.schema_name for item in report.remaining.stale_stores] == [C]
    assert states(store) == [("run-2", "active"), ("run-1", "superseded")]
    strategy = {RebuildStrategy.NONE: lambda request: [request.data]}
    report = store.recover(report.remaining, rebuilders=strategy)
    assert report.remaining.stale_stores == ()


# --- what outsiders met on the way ----------------------------------------------------------------


def test_a_snapshot_that_is_newer_than_it_says_is_taken_again(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pages of a read transaction were not kept, contents can be newer than the high
    watermark that was read before them."""
    begun(store).write_batch("recovery", {A: 2})
    real, asked = manifest.load_head, list[int]()

    def load_head(connection: Connection) -> manifest.ManifestHead:
        head = real(connection)
        asked.append(head.high_watermark)
        return head.model_copy(update={"high_watermark": 1}) if len(asked) == 1 else head

    monkeypatch.setattr(manifest, "load_head", load_head)
    snapshot = store.snapshot()
    assert (snapshot.high_watermark, snapshot.data(A), asked) == (2, 2, [2, 2])


@pytest.mark.parametrize("what", ["manifest", "plan_recovery"])
def test_entries_that_are_newer_than_the_batches_are_read_again(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The same for the manifest with its entries, and for the rows of a plan."""
    begun(store).write_batch("recovery", {A: 2})
    real, asked = manifest.load_with_last_number, list[int]()

    def load(connection: Connection) -> tuple[Any, int]:
        found, last = real(connection)
        asked.append(last)
        return found, last - 1 if len(asked) == 1 else last

    monkeypatch.setattr(manifest, "load_with_last_number", load)
    assert getattr(store, what)().high_watermark == 2
    assert asked[:2] == [2, 2]


def test_a_rebuild_keeps_the_id_of_a_damaged_row(store: RuntimeStore) -> None:
    """A run that was over stays so, although its row makes no sense; so does every other run."""
    begun(store).end()
    store.begin_run("run-2", keep="all")
    store.close()
    path = store.directory / DATABASE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("UPDATE runs SET began_at = '2026-13-01T00:00:00.000Z' WHERE run_id = 'run-1'")
    rebuild_database(store.directory, descriptors=DESCRIPTORS)
    with RuntimeStore.open(store.directory, descriptors=DESCRIPTORS) as again:
        assert states(again) == [("run-2", "active"), ("run-1", "ended")]
        with pytest.raises(StaleRunError):
            again.write_batch(identity=identity("run-1"), reason="recovery", writes={A: 3})


@pytest.mark.parametrize("kind", [RunIdentity, Retention, Descriptor])
def test_a_misspelt_field_is_refused(kind: type) -> None:
    """What would silently not be there is named, with the fields that there are."""
    with pytest.raises(InvalidRequestError, match=r"misspelt.*no such field; there are: "):
        kind(**{**GOOD[kind], "misspelt": 1})


def test_a_batch_under_another_snapshot_is_of_the_run_from_then_on(tmp_path: Path) -> None:
    """The run before it does not begin again by what it was; its id alone resumes it."""
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=DESCRIPTORS) as store:
        store.begin_run(identity("run-1"), writes={A: 1})
        other = identity("run-1").model_copy(update={"capability_snapshot_id": "cap-2"})
        store.write_batch(identity=other, reason="checkpoint", writes={B: 1})
        assert store.manifest().active_identity == other
        with pytest.raises(InvalidRequestError, match="cap-2"):
            store.begin_run(identity("run-1"))
        assert store.begin_run("run-1").identity == other
