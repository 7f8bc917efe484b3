"""Cancellation of calls of the store for asyncio: nothing is left in doubt.

What has not begun is not carried out; what has begun is waited for, and what came of it is said.
For cancellation at any moment see `test_aio_runtime`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    BatchFailedError,
    BatchUnfinishedError,
    RebuildRequest,
    RebuildStrategy,
    RuntimeStore,
    StorageError,
    StoreClosedError,
    WriterLock,
)
from rtstore.control import recovery_log
from rtstore.testing import Seams
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    TEAM,
    WatchedFileSystem,
)
from tests.support.aio import append, run, write

NOT_BEGUN = "before it began: nothing of it was carried out"


class Gate:
    """A place in a worker thread where a call stops until the test lets it through."""

    def __init__(self, outcome: Exception | None = None) -> None:
        self.outcome = outcome
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> Any:
        """Stop here, then give ["through"], or raise."""
        self.entered.set()
        assert self.opened.wait(60)
        if self.outcome is not None:
            raise self.outcome
        return ["through"]

    async def reached(self) -> None:
        """Wait until the call is here."""
        assert await asyncio.to_thread(self.entered.wait, 60)


async def cancelled(task: asyncio.Future[Any]) -> asyncio.CancelledError:
    """Wait for a task that was cancelled; return its exception."""
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


async def insist(task: asyncio.Future[Any]) -> None:
    """Cancel a task three times, and see that it waits all the same."""
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()


def update(store: AsyncRuntimeStore, change: Callable[[Any], Any]) -> asyncio.Task[Any]:
    """Start an update of the leases in a task."""
    return asyncio.create_task(store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT))


# --- before and after the beginning -------------------------------------------------------------


def test_a_call_in_the_queue_is_not_carried_out(directory: Path) -> None:
    """It ends at once, and says so; the call before it is not touched."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate()
        first = update(store, gate)
        await gate.reached()
        second = asyncio.ensure_future(write(store, LEDGER, 1, batch_id="second"))
        await asyncio.sleep(0)
        second.cancel("enough")
        error = await cancelled(second)
        assert error.args == ("enough",)
        assert error.__notes__ == [f"write_batch was cancelled {NOT_BEGUN}"]
        assert not first.done()
        gate.opened.set()
        batch = await first
        assert await store.batches() == [batch]

    run(directory, main)


def test_a_call_that_waits_for_the_lock_is_not_carried_out(directory: Path) -> None:
    """While another program holds the lock nothing has begun, so a time-out is prompt."""

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            for name, call in (
                ("update", append(store, 1)),
                ("write_batch", write(store, LEDGER, 1)),
                ("adopt", store.adopt(LEASES, identity=IDENTITY)),
                ("recover", store.recover(await store.plan_recovery())),
                ("begin_run", store.begin_run("run-2", writes={LEASES: [2]})),
                ("end_run", store.end_run(why="enough")),
            ):
                async with asyncio.timeout(60):
                    with pytest.raises(TimeoutError) as caught:
                        async with asyncio.timeout(0.05):
                            await call
                cause = caught.value.__cause__
                assert isinstance(cause, asyncio.CancelledError)
                assert cause.__notes__ == [f"{name} was cancelled {NOT_BEGUN}"]
        assert (await append(store, 2)).high_watermark == 1

    run(directory, main, lock_timeout_s=600)


def test_a_call_that_runs_is_waited_for(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is cancelled; then exception and log name the batch that is committed."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate()
        task = update(store, gate)
        await gate.reached()
        await insist(task)
        gate.opened.set()
        error = await cancelled(task)
        (batch,) = await store.batches()
        note = "update was cancelled while it ran, and ran to its end: "
        assert error.__notes__ == [f"{note}batch {batch.batch_id} is committed"]
        assert (await store.read(LEASES)).data == ["through"]
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("rtstore.aio", logging.WARNING)
        assert record.getMessage() == error.__notes__[0]
        facts = (vars(record)[key] for key in ("operation", "outcome", "batch_id"))
        assert tuple(facts) == ("update", "ended", batch.batch_id)

    with caplog.at_level(logging.INFO, "rtstore.aio"):
        run(directory, main)


def test_a_read_that_runs_is_waited_for(directory: Path) -> None:
    """It has changed nothing, and says that."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate()
        store.sync_store.manifest = gate  # type: ignore[method-assign]
        gate.__name__ = "manifest"  # type: ignore[attr-defined]
        task = asyncio.create_task(store.manifest())
        await gate.reached()
        await insist(task)
        gate.opened.set()
        error = await cancelled(task)
        assert error.__notes__ == [
            "manifest was cancelled while it ran, and ran to its end: it changed nothing"
        ]

    run(directory, main)


# --- calls that fail ----------------------------------------------------------------------------


def test_the_error_of_a_cancelled_call_is_its_cause(directory: Path) -> None:
    """What the function raised is not lost: it is named, and chained."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate(KeyError("theirs"))
        task = update(store, gate)
        await gate.reached()
        await insist(task)
        gate.opened.set()
        error = await cancelled(task)
        assert error.__cause__ is gate.outcome
        assert error.__notes__ == [
            "update was cancelled while it ran, and failed: KeyError: 'theirs'"
        ]
        assert await store.batches() == []

    run(directory, main)


def test_a_batch_that_failed_is_named(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Publishing fails after the cancellation: the note says which batch, and that it is undone."""
    gate = Gate()

    def full(_number: int, name: str, _subject: object) -> OSError | None:
        return OSError(28, "full") if name == "rename" and gate() else None

    async def main(store: AsyncRuntimeStore) -> None:
        task = asyncio.ensure_future(write(store, LEASES, 1, batch_id="mine"))
        await gate.reached()
        await insist(task)
        gate.opened.set()
        error = await cancelled(task)
        assert isinstance(error.__cause__, BatchFailedError)
        assert "batch mine could not write" in error.__notes__[0]
        assert "every file is as it was before" in error.__notes__[0]
        assert vars(caplog.records[0])["batch_id"] == "mine"

    run(directory, main, fs=WatchedFileSystem(full))


def test_a_batch_in_the_log_is_named(directory: Path) -> None:
    """The database fails after the commit point: the note says that the outcome is decided."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate(StorageError(directory, "no more", "a test"))
        publisher = store.sync_store._writer.publisher
        publisher.complete = gate  # type: ignore[method-assign]
        task = asyncio.ensure_future(write(store, LEASES, 1, batch_id="mine"))
        await gate.reached()
        task.cancel()
        gate.opened.set()
        error = await cancelled(task)
        assert isinstance(error.__cause__, BatchUnfinishedError)
        assert "batch mine was not finished" in error.__notes__[0]
        assert "outcome is decided" in error.__notes__[0]
        del publisher.complete
        assert (await write(store, LEDGER, 2)).high_watermark == 2
        assert (await store.read(LEASES)).data == 1

    run(directory, main)


# --- where cancellations come from --------------------------------------------------------------


def test_a_timeout_says_what_was_committed(directory: Path) -> None:
    """It comes when the call has ended, and carries the note."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate, limit = Gate(), asyncio.timeout(60)
        ending = asyncio.create_task(_time_out_in(gate, limit))
        with pytest.raises(TimeoutError) as caught:
            async with limit:
                await store.update(LEASES, gate, identity=IDENTITY, reason=CHECKPOINT)
        await ending
        (batch,) = await store.batches()
        assert f"batch {batch.batch_id} is committed" in caught.value.__cause__.__notes__[0]  # type: ignore[union-attr]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_slow_update(store), 0.3)
        assert (await store.manifest()).high_watermark == 2

    run(directory, main)


async def _time_out_in(gate: Gate, limit: asyncio.Timeout) -> None:
    await gate.reached()
    loop = asyncio.get_running_loop()
    limit.reschedule(loop.time())
    loop.call_later(0.1, gate.opened.set)


async def _slow_update(store: AsyncRuntimeStore) -> None:
    gate = Gate()
    asyncio.get_running_loop().call_later(0.5, gate.opened.set)
    await store.update(LEASES, gate, identity=IDENTITY, reason=CHECKPOINT)


def test_a_task_group_that_fails_leaves_nothing_in_doubt(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The group swallows the cancellations of its tasks; the log has what came of each call."""

    async def together(*calls: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)

    async def fail(gate: Gate) -> None:
        await gate.reached()
        asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        raise LookupError

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate()
        with pytest.raises(ExceptionGroup) as caught:
            await together(
                store.update(LEASES, gate, identity=IDENTITY, reason=CHECKPOINT),
                write(store, LEDGER, 1),
                fail(gate),
            )
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        (batch,) = await store.batches()
        said = {(vars(record)["outcome"], vars(record)["batch_id"]) for record in caplog.records}
        assert said == {("ended", batch.batch_id), ("not_begun", None)}

    with caplog.at_level(logging.INFO, "rtstore.aio"):
        run(directory, main)


def test_the_end_of_the_loop_waits_for_what_runs(directory: Path) -> None:
    """`asyncio.run` cancels the tasks that are left; the one in a call is waited for."""
    gate = Gate()

    async def main() -> AsyncRuntimeStore:
        store = await AsyncRuntimeStore.open(directory)
        task = update(store, gate)
        await gate.reached()
        asyncio.get_running_loop().call_later(0.05, gate.opened.set)
        return store if not task.done() else pytest.fail("ended")

    store = asyncio.run(main())
    assert store.sync_store.read(LEASES).data == ["through"]
    asyncio.run(store.aclose())


# --- opening, closing, recovering ---------------------------------------------------------------


def test_an_opening_that_is_cancelled_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, the store is made whole, and nothing stays open."""
    closed: list[RuntimeStore] = []

    def close(store: RuntimeStore) -> None:
        closed.append(store)
        with store.lock.hold():
            store.database.close()

    async def main() -> None:
        threads = threading.active_count()
        gate = Gate()
        opening = AsyncRuntimeStore.open(
            tmp_path / "new", team_name=TEAM, seams=Seams(clock=lambda: gate() and NOON)
        )
        task = asyncio.ensure_future(opening)
        await gate.reached()
        await insist(task)
        gate.opened.set()
        error = await cancelled(task)
        assert error.__notes__[0].endswith("ran to its end: the store is closed again")
        assert [store.directory for store in closed] == [tmp_path / "new"]
        await asyncio.sleep(0.1)
        assert threading.active_count() <= threads + 1  # that of `to_thread`
        failing = Gate(LookupError("no clock"))
        task = asyncio.ensure_future(
            AsyncRuntimeStore.open(tmp_path / "none", team_name=TEAM, seams=Seams(clock=failing))
        )
        await failing.reached()
        task.cancel()
        failing.opened.set()
        assert (await cancelled(task)).__cause__ is failing.outcome

    with monkeypatch.context() as watched:
        watched.setattr(RuntimeStore, "close", close)
        asyncio.run(main())
    run(tmp_path / "new", partial(append, item=1))


def test_a_closing_that_is_cancelled_is_finished(directory: Path) -> None:
    """What was called before it ends, then the store is closed, then the cancellation comes out."""

    async def main(store: AsyncRuntimeStore) -> None:
        gate = Gate()
        task = update(store, gate)
        await gate.reached()
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        await insist(closing)
        gate.opened.set()
        error = await cancelled(closing)
        assert error.__notes__[0].endswith("the store is closed")
        assert task.done()
        with pytest.raises(StoreClosedError):
            await store.read(LEASES)
        with pytest.raises(StoreClosedError):
            store.sync_store.read(LEASES)

    run(directory, main)


def test_a_recovery_that_is_cancelled_is_recorded(directory: Path) -> None:
    """The coroutine of its rebuilder is cancelled, no other is called, and the run is complete."""
    asked: list[str] = []

    async def main(store: AsyncRuntimeStore) -> None:
        waiting = asyncio.Event()

        async def rebuild(request: RebuildRequest) -> Any:
            asked.append(request.descriptor.schema_name)
            waiting.set()
            await asyncio.Event().wait()

        rebuilders = dict.fromkeys(RebuildStrategy, rebuild)
        plan = await store.plan_recovery(expected=IDENTITY)
        task = asyncio.create_task(store.recover(plan, rebuilders=rebuilders, identity=IDENTITY))
        await waiting.wait()
        task.cancel()
        error = await cancelled(task)
        assert "recovery run 1 is recorded" in error.__notes__[0]
        assert len(asked) == 1
        assert await asyncio.to_thread(store.database.read, recovery_log.unfinished_runs) == []
        assert await store.batches() == []

    run(directory, main)


# --- runs ---------------------------------------------------------------------------------------


def test_a_beginning_that_is_cancelled_in_a_rebuilder_has_not_begun(directory: Path) -> None:
    """Its coroutine is cancelled, no other rebuilder is called, and nothing is written."""
    asked: list[str] = []

    async def main(store: AsyncRuntimeStore) -> None:
        waiting = asyncio.Event()

        async def rebuild(request: RebuildRequest) -> Any:
            asked.append(request.descriptor.schema_name)
            waiting.set()
            await asyncio.Event().wait()

        rebuilders = dict.fromkeys(RebuildStrategy, rebuild)
        task = asyncio.ensure_future(store.begin_run("run-1", rebuilders=rebuilders))
        await waiting.wait()
        task.cancel()
        error = await cancelled(task)
        problem = "CancelledError: its coroutine was cancelled"
        assert error.__notes__ == [f"begin_run was cancelled while it ran, and failed: {problem}"]
        assert len(asked) == 1
        assert (await store.runs(), await store.batches()) == ([], [])

    run(directory, main)


def test_a_run_that_began_is_named(directory: Path) -> None:
    """A beginning that runs to its end leaves the run active, and says so: it can be resumed."""

    async def main(store: AsyncRuntimeStore) -> None:
        beginning = store.sync_store.begin_run
        for how in ("began in batch {}, and is active", "is resumed, and is active"):
            gate = Gate()
            held = partial(_after, gate, beginning)
            store.sync_store.begin_run = held  # type: ignore[method-assign]
            task = asyncio.ensure_future(store.begin_run("run-1", writes={LEASES: [1]}))
            await gate.reached()
            await insist(task)
            gate.opened.set()
            error = await cancelled(task)
            (batch,) = await store.batches()
            note = "begin_run was cancelled while it ran, and ran to its end: run run-1 "
            assert error.__notes__ == [note + how.format(batch.batch_id)]

    run(directory, main)


def _after(gate: Gate, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    gate()
    return function(*arguments, **options)


def test_a_block_of_a_run_ends_it_however_often_it_is_cancelled(directory: Path) -> None:
    """Also while another program holds the lock: the run is over when it comes out."""

    async def main(store: AsyncRuntimeStore) -> None:
        inside = asyncio.Event()

        async def live() -> None:
            async with store.begin_run("run-1", writes={LEASES: []}):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(live())
        await inside.wait()
        with WriterLock(directory).hold():
            task.cancel()
            await asyncio.sleep(0)
            await insist(task)
        error = await cancelled(task)
        assert error.__notes__[0].endswith("ran to its end: run run-1 ended as failed")
        (ended,) = await store.runs()
        assert (ended.ending, ended.why) == ("failed", "CancelledError")

    run(directory, main)
