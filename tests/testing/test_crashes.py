"""What `rtstore.testing` does to a runtime is what a crash does, at every point."""

from __future__ import annotations

import asyncio
import errno
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DELETED,
    AsyncRuntimeStore,
    BatchState,
    FileSystem,
    RuntimeStore,
    StoreClosedError,
    WriterLock,
)
from rtstore.cli.snapshot import open_to_look
from rtstore.testing import (
    POINTS,
    CrashPoint,
    PointNotReachedError,
    SimulatedCrash,
    crash_at,
    crash_points,
    kill_at,
)
from tests.support import CHECKPOINT, FILE_OF, LEASES, LEDGER, data_in, new_directory, stray_files
from tests.support.groups import batch, together
from tests.testing.runtimes import (
    IDENTITY,
    STORES,
    checkpoint,
    checkpoint_async,
    fail,
    sleep,
    start,
)

THREE = crash_points(stores=3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory in which batch 1 is committed."""
    checkpoint(tmp_path / "runtime", 1)
    return tmp_path / "runtime"


def left_is_right(directory: Path, point: CrashPoint) -> None:
    """Whether the directory is what a writer that died at the point leaves: looked at without
    changing anything."""
    files = [data_in(directory / FILE_OF[name]) for name in STORES]
    assert files == [2] * point.published + [1] * (3 - point.published)
    assert len(stray_files(directory)) == point.name.startswith("in-file")
    assert not WriterLock(directory).is_held()
    with open_to_look(directory) as store:
        assert store.manifest().high_watermark == (2 if point.completed else 1)
        found = store.batch("batch-2")
        state = BatchState.COMMITTED if point.completed else BatchState.PREPARING
        assert (found and found.state) == (state if point.logged else None)


# --- a run ----------------------------------------------------------------------------------------


async def _live_async(directory: Path) -> None:
    async with (
        AsyncRuntimeStore.open(directory) as store,
        store.begin_run("run-2", keep="all") as run,
    ):
        await run.update(LEASES, lambda _: "never", reason="host_lease_update")


def _live(directory: Path) -> None:
    with RuntimeStore.open(directory) as store, store.begin_run("run-2", keep="all") as run:
        run.update(LEASES, lambda _: "never", reason="host_lease_update")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("point", ["before-log", "after-log", "after-complete"])
def test_a_crash_in_the_block_of_a_run_does_not_end_it(
    directory: Path, point: str, is_async: bool, number: int
) -> None:
    """A dead process ends nothing: its run is active, or has not begun."""
    with crash_at(point, batch=number):
        if is_async:
            asyncio.run(_live_async(directory))
        else:
            _live(directory)
    with RuntimeStore.open(directory) as store:
        begun = number == 2 or point != "before-log"
        assert [(each.run_id, each.state) for each in store.runs()] == [
            *([("run-2", "active")] if begun else []),
            (IDENTITY.run_id, "superseded" if begun else "active"),
        ]
        assert store.begin_run("run-2", keep="all").resumed == begun


# --- simulated, and real --------------------------------------------------------------------------


@pytest.mark.parametrize("point", THREE, ids=str)
def test_a_simulated_crash_leaves_what_a_kill_leaves(
    directory: Path, tmp_path: Path, point: CrashPoint
) -> None:
    """At every point, file by file and row by row; and after the next start the batch is whole or
    was never there."""
    with crash_at(point) as crash:
        checkpoint(directory, 2)
    assert (crash.point, crash.happened) == (point.name, True)
    assert crash.batch_ids == ("batch-2",)
    left_is_right(directory, point)
    assert start(directory) == (2 if point.logged else 1)
    assert stray_files(directory) == []


@pytest.mark.parametrize("point", [THREE[1], THREE[5], THREE[-2]], ids=str)
def test_a_kill_is_real(directory: Path, point: CrashPoint) -> None:
    """The process ended by SIGKILL, at the point; what it left is the same."""
    kill = kill_at(point, checkpoint, directory, 2)
    assert (kill.point, kill.signal, kill.batch_ids) == (point.name, signal.SIGKILL, ("batch-2",))
    left_is_right(directory, point)
    assert start(directory) == (2 if point.logged else 1)


def test_a_coroutine_function_is_killed_too(directory: Path) -> None:
    """Another process runs its own loop."""
    kill = kill_at("after-rename-1", checkpoint_async, directory, 2)
    assert kill.signal == signal.SIGKILL
    assert start(directory) == 2


def test_a_later_batch_can_be_the_one(directory: Path) -> None:
    """Batches are counted from the beginning of the block, or of the process."""
    with crash_at("after-rename-2", batch=3):
        checkpoint(directory, 2, 3, 4, 5)
    assert start(directory) == 4
    kill_at("before-log", checkpoint, directory, 5, 6, batch=2)
    assert start(directory) == 5


def test_the_points_every_batch_comes_by() -> None:
    """`POINTS` are those of the smallest batch; a larger one has two more for each file."""
    assert [point.name for point in POINTS] == [
        "before-log", "in-log", "after-log", "in-file-1", "after-rename-1",
        "in-complete", "after-complete",
    ]  # fmt: skip
    assert len(crash_points(4)) == len(POINTS) + 2 * 3
    with pytest.raises(ValueError, match="at least one"):
        crash_points(0)


@pytest.mark.parametrize("deleted", [0, 1, 2, 3])
def test_a_batch_that_deletes_comes_by_all_its_points(directory: Path, deleted: int) -> None:
    """A deleted store has one point, where its file is gone; its batch comes by all points that
    there are of it, and by no other, and is done or not as they say."""
    writes = {name: DELETED if at < deleted else {"number": 2} for at, name in enumerate(STORES)}
    points = crash_points(stores=3, deleted=deleted)
    assert len(points) == len(crash_points(stores=3)) - deleted
    for number, point in enumerate(points):
        copied = directory.with_name(f"copied-{number}")
        shutil.copytree(directory, copied)
        with crash_at(point), RuntimeStore.open(copied) as store:
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        with RuntimeStore.open(copied) as store:
            left = {entry.schema_name for entry in store.manifest().entries}
            gone = set(STORES[:deleted]) if point.logged else set()
            assert left == set(STORES) - gone
            assert {name for name in STORES if not (copied / FILE_OF[name]).exists()} == gone


@pytest.mark.parametrize("deleted", [-1, 3])
def test_a_batch_does_not_delete_more_stores_than_it_has(deleted: int) -> None:
    """Nor less than none."""
    with pytest.raises(ValueError, match=rf"a batch of 2 stores does not delete {deleted}"):
        crash_points(2, deleted=deleted)


# --- asyncio, threads, stores that were open before -----------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize("point", THREE, ids=str)
def test_a_loop_crashes_too(directory: Path, point: CrashPoint) -> None:
    """The same in a program with asyncio; nothing hangs."""
    with crash_at(point):
        asyncio.run(checkpoint_async(directory, 2))
    left_is_right(directory, point)
    assert start(directory) == (2 if point.logged else 1)


def test_tasks_of_a_group_die_together(directory: Path) -> None:
    """Many tasks write when the process dies: every one is dead, whatever its task group makes of
    that."""

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory) as store, asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(
                    store.write_batch(
                        identity=IDENTITY,
                        reason="launch_checkpoint",
                        writes={LEASES: number, LEDGER: number},
                    )
                )

    with crash_at("after-rename-1", batch=2):
        asyncio.run(main())
    with RuntimeStore.open(directory) as store:
        assert store.last_recovery is not None
        assert store.read(LEASES).data == store.read(LEDGER).data


def test_threads_die_with_the_one_that_crashed(directory: Path) -> None:
    """Those that wait for their turn, too; their batches are those that were not logged."""
    with RuntimeStore.open(directory) as store, crash_at("after-log") as crash:
        calls = [batch(store, {name: 2}, batch_id=f"of-{name}") for name in STORES]
        calls.append(batch(store, {LEASES: 3}, expected_high_watermark=1))
        with together(store, calls) as made:
            pass
        assert {type(call.exception()) for call in made} == {SimulatedCrash}
    assert crash.batch_ids == tuple(f"of-{name}" for name in STORES)
    with RuntimeStore.open(directory) as again:
        assert again.manifest().high_watermark == 4
        assert again.read(LEASES).data == 2


def test_a_store_that_was_open_before_is_dead_after(directory: Path) -> None:
    """It belongs to the process that died: it is closed, and the next one opens its own."""
    store = RuntimeStore.open(directory)
    with crash_at("in-file-1"):
        store.update(LEASES, lambda data: data + 1, identity=IDENTITY, reason="launch_checkpoint")
    with pytest.raises(StoreClosedError):
        store.read(LEASES)
    store.close()
    with RuntimeStore.open(directory) as again:
        assert again.read(LEASES).data == 2


def test_nothing_that_runs_on_the_way_out_changes_anything(directory: Path) -> None:
    """A `finally` of the runtime that writes, another that opens the store anew, one that removes a
    file: the process is dead, and they are too."""
    died: list[type[BaseException]] = []

    def attempt(something: Any, *arguments: Any) -> None:
        try:
            something(*arguments)
        except BaseException as error:
            died.append(type(error))

    with crash_at("after-rename-2"):
        store = RuntimeStore.open(directory)
        try:
            store.write_batch(
                identity=IDENTITY,
                reason="launch_checkpoint",
                writes=dict.fromkeys(STORES, 2),
                batch_id="batch-2",
            )
        finally:
            attempt(checkpoint, directory, 3)
            attempt(store.read, LEASES)
            attempt(start, directory)
            attempt(FileSystem().unlink, directory / FILE_OF[LEASES])
            thread = threading.Thread(target=attempt, args=(start, directory))
            thread.start()
            thread.join()
            store.close()
    assert died == [SimulatedCrash] * 5
    left_is_right(directory, THREE[6])
    assert THREE[6].name == "after-rename-2"
    assert start(directory) == 2


def test_a_runtime_that_answers_every_error_does_not_answer_its_death(directory: Path) -> None:
    """`except Exception` does not see it."""

    def runtime() -> str:
        try:
            checkpoint(directory, 2)
        except Exception:
            return "answered"
        return "done"

    with crash_at("after-log"):
        pytest.fail(runtime())
    assert start(directory) == 2


def test_a_crash_that_comes_out_as_something_else_is_a_crash(directory: Path) -> None:
    """What was raised because of it is as dead as the rest; what was not comes out."""
    with crash_at("after-log"):
        try:
            checkpoint(directory, 2)
        except BaseException as error:
            raise RuntimeError("wrapped") from error
    with pytest.raises(ZeroDivisionError), crash_at("after-log"):
        print(1 // 0)


def test_an_error_beside_the_crash_comes_out(directory: Path) -> None:
    """A thread died, and the test itself found something wrong: that is not swallowed."""

    def find_something_wrong() -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(checkpoint, directory, 2).exception()
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"), crash_at("after-log"):
        find_something_wrong()
    assert start(directory) == 2


# --- what is no crash -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "number", "said"),
    [
        ("in-log", 1, "batch 1 was never written"),
        ("in-log", 4, "batch 4 was never written"),
        ("in-file-4", 2, "batch 2 came by before-log, .*, but not by in-file-4"),
    ],
)
def test_a_block_that_does_not_die_fails(
    directory: Path, point: str, number: int, said: str
) -> None:
    """Nothing is taken for tried that was not: no batch, too few of them, or too few files."""
    numbers = () if number == 1 else (2, 3)
    with pytest.raises(PointNotReachedError, match=said), crash_at(point, batch=number):
        checkpoint(directory, *numbers)
    assert start(directory) == (3 if numbers else 1)


@pytest.mark.thorough
def test_a_kill_that_does_not_hit_fails(directory: Path) -> None:
    """The process ended by itself, raised, or never came: each is said, and none is left."""
    with pytest.raises(PointNotReachedError, match="not by in-file-4"):
        kill_at("in-file-4", checkpoint, directory, 2)
    with pytest.raises(PointNotReachedError, match=r"(?s)raised before.*LookupError: runtime"):
        kill_at("in-log", fail, directory)
    with pytest.raises(PointNotReachedError, match="was not at in-log after 3 s"):
        kill_at("in-log", sleep, directory, timeout_s=3)
    assert start(directory) == 2


@pytest.mark.parametrize("point", ["", "after-rename", "in-file-0", "in-file-x", "somewhere"])
def test_what_is_no_point_is_refused(directory: Path, point: str) -> None:
    """With the names that there are, before anything runs."""
    with pytest.raises(ValueError, match="before-log, in-log"), crash_at(point):
        pytest.fail("entered")
    with pytest.raises(ValueError, match="no point"):
        kill_at(point, checkpoint, directory)


def test_two_crashes_at_once_are_refused(directory: Path) -> None:
    """A process dies once. The outer one is as it was."""
    with crash_at("in-log"):
        with pytest.raises(RuntimeError, match="once"), crash_at("in-complete"):
            pytest.fail("entered")
        checkpoint(directory, 2)
    assert start(directory) == 1


def test_everything_is_as_before_when_the_block_ends(directory: Path) -> None:
    """No hook is left, whatever ended the block: a full disk is a full disk again."""
    before = {name: getattr(FileSystem, name) for name in dir(FileSystem)}
    with crash_at("in-file-1"):
        checkpoint(directory, 2)
    with pytest.raises(OSError, match="full"), crash_at("in-file-1"):
        raise OSError(errno.ENOSPC, "full")
    assert {name: getattr(FileSystem, name) for name in dir(FileSystem)} == before
    checkpoint(directory, 3)
    assert start(directory) == 3


def test_a_new_directory_can_crash(tmp_path: Path) -> None:
    """The first batch of all."""
    for point in THREE:
        directory = new_directory(tmp_path, point.name)
        with crash_at(point):
            checkpoint(directory, 2)
        with RuntimeStore.open(directory) as store:
            assert store.manifest().high_watermark == point.logged
