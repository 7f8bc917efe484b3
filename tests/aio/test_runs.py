"""Runs of the store for asyncio: begun, resumed, refused, and ended whatever is cancelled."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRun,
    AsyncRuntimeStore,
    InvalidRequestError,
    RebuildRequest,
    RunEnding,
    RuntimeStore,
    StaleRunError,
    StartKind,
    WriterLock,
)
from tests.support import CHECKPOINT, LEASES, LEDGER, SESSIONS, hear
from tests.support.aio import run
from tests.support.forked import forked

Body = Callable[[AsyncRun], Awaitable[Any]]


def begin(store: AsyncRuntimeStore, run_id: str = "run-1") -> Awaitable[AsyncRun]:
    """Begin a run with one store."""
    return store.begin_run(run_id, writes={LEASES: [run_id]})


# --- the life of a run --------------------------------------------------------------------------


def test_a_run_is_begun_resumed_taken_over_and_ended(directory: Path) -> None:
    """Every method answers as that of the runtime store does."""

    async def main(store: AsyncRuntimeStore) -> None:
        assert (await store.start_state("run-1")).kind is StartKind.NEW
        first = await begin(store)
        assert (first.run_id, first.resumed, first.superseded) == ("run-1", False, None)
        assert first.batch == await store.batch(str(first.batch and first.batch.batch_id))
        await first.update(LEASES, lambda data: [*data, 2], reason=CHECKPOINT)
        await first.write_batch(CHECKPOINT, {LEDGER: {}}, batch_id="mine")
        state = await store.start_state("run-1")
        assert (state.kind, state.why) == (StartKind.RESUME, "run run-1 is active: resume it")
        state = await store.start_state("run-2")
        assert state.kind is StartKind.TAKE_OVER
        assert state.why == "the state is that of run run-1, which is active in this process"
        assert (await begin(store)).resumed
        async with store.begin_run("run-2", keep=[LEASES]) as second:
            assert second.superseded is not None
            assert (second.superseded.run_id, second.left) == ("run-1", (LEDGER,))
            with pytest.raises(StaleRunError, match="superseded by run run-2"):
                await first.update(LEASES, pytest.fail, reason=CHECKPOINT)
            with pytest.raises(StaleRunError):
                await first.end()
            plan = await second.plan_recovery()
            assert [item.schema_name for item in plan.stale_stores] == [LEDGER]
            assert not (await second.check_readiness()).ok
            report = await second.recover(rebuilders={LEDGER: lambda request: request.data})
            assert report.remaining.stale_stores == ()
        assert second.record == (await store.runs())[0]
        assert second.record.ending is RunEnding.FINISHED
        assert await second.end() == second.record
        assert (await store.read(LEASES)).data == ["run-1", 2]

    run(directory, main)


def test_it_is_ended_from_outside(directory: Path) -> None:
    """Then its block leaves quietly, and what it writes is refused."""

    async def main(store: AsyncRuntimeStore) -> None:
        async with store.begin_run("run-1", writes={LEASES: []}) as mine:
            ended = await store.end_run(why="maintenance")
            with pytest.raises(StaleRunError, match="maintenance"):
                await mine.write_batch(CHECKPOINT, {LEASES: [1]})
        assert mine.record is None
        assert await store.runs() == [ended]
        assert ended.ending is RunEnding.STOPPED

    run(directory, main)


def test_of_batches_that_share_a_flush_those_of_a_dead_run_are_refused(directory: Path) -> None:
    """The others are committed."""

    async def main(store: AsyncRuntimeStore) -> None:
        old, new = await begin(store), await begin(store, "run-2")
        outcomes = await asyncio.gather(
            *(each.write_batch(CHECKPOINT, {LEASES: each.run_id}) for each in [old, new] * 3),
            return_exceptions=True,
        )
        assert [isinstance(each, StaleRunError) for each in outcomes] == [True, False] * 3
        assert (await store.manifest()).high_watermark == 5
        assert {each.run_id for each in (await store.batches())[1:]} == {"run-2"}

    run(directory, main)


def test_first_contents_are_what_the_caller_saw(directory: Path) -> None:
    """They are copied when the run is begun, as those of a batch."""

    async def main(store: AsyncRuntimeStore) -> None:
        mine = [1]
        with WriterLock(directory).hold():
            beginning = asyncio.ensure_future(store.begin_run("run-1", writes={LEASES: mine}))
            await asyncio.sleep(0.02)
            mine.append(2)
        await beginning
        assert (await store.read(LEASES)).data == [1]

    run(directory, main)


def test_a_rebuilder_may_be_a_coroutine_function(directory: Path) -> None:
    """It runs on the loop and may use the store; a plain function runs in a thread."""
    loop_thread = threading.get_ident()

    def plain(request: RebuildRequest) -> Any:
        return [request.data, threading.get_ident() == loop_thread]

    async def main(store: AsyncRuntimeStore) -> None:
        async def on_the_loop(request: RebuildRequest) -> Any:
            leases = (await store.read(LEASES)).data
            return [leases, request.data, threading.get_ident() == loop_thread]

        await begin(store)
        rebuilders = {LEASES: on_the_loop, LEDGER: plain}
        await store.begin_run("run-2", rebuilders=rebuilders)
        assert (await store.read(LEASES)).data == [["run-1"], ["run-1"], True]
        assert (await store.read(LEDGER)).data == [None, False]

    run(directory, main)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rebuilders": 5}, "in a mapping"),
        ({"rebuilders": {LEASES: "later"}}, "must be a function"),
        ({"rebuilders": {"nobody's": int}}, "is no store, and no strategy"),
        ({"writes": 5}, "no mapping"),
        ({"keep": "some"}, "must be a list"),
        ({"keep": 5}, "must be a list"),
        ({"keep": [SESSIONS]}, "nothing is committed"),
        ({}, "at least one store"),
    ],
)
def test_a_wrong_beginning_changes_nothing(
    directory: Path, arguments: dict[str, Any], message: str
) -> None:
    """The error says what is wrong with which argument."""

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            await store.begin_run("run-1", **arguments)
        assert (await store.runs(), await store.batches()) == ([], [])

    run(directory, main)


# --- how the block is left ------------------------------------------------------------------------


async def _raise(error: BaseException) -> None:
    raise error


async def _fail_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise(LookupError("no such\nagent \udcff")))


LEAVES: dict[str, tuple[Body, type[BaseException], str | None]] = {
    "an error": (lambda _: _raise(ValueError("bad")), ValueError, "ValueError: bad"),
    "no words": (lambda _: _raise(ValueError()), ValueError, "ValueError"),
    "a group": (
        lambda _: _fail_in_a_group(),
        ExceptionGroup,
        "LookupError: no such agent ?",
    ),
    "control characters": (
        lambda _: _raise(ValueError("a\0b \x1b[31m\tc\u2028\x85d\x9e")),
        ValueError,
        "ValueError: a?b ?[31m c d?",
    ),
    "cancelled": (
        lambda _: _raise(asyncio.CancelledError()),
        asyncio.CancelledError,
        "CancelledError",
    ),
}


@pytest.mark.parametrize("name", LEAVES)
def test_an_exception_ends_the_run_as_failed(directory: Path, name: str) -> None:
    """The row says why in a line, and the exception comes out of the block."""
    body, kind, why = LEAVES[name]

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(kind):
            async with store.begin_run("run-1", writes={LEASES: []}) as mine:
                await body(mine)
        assert mine.record is not None
        assert (mine.record.ending, mine.record.why) == (RunEnding.FAILED, why)
        # A `Run` says the same of the same exception.
        with pytest.raises(kind) as caught:
            await body(mine)
        blocking = await asyncio.to_thread(store.sync_store.begin_run, "run-2", writes={LEASES: []})
        await asyncio.to_thread(blocking.__exit__, kind, caught.value, None)
        assert blocking.record is not None
        assert (blocking.record.ending, blocking.record.why) == (RunEnding.FAILED, why)

    run(directory, main)


@pytest.mark.parametrize(("code", "ending"), [(0, "finished"), (None, "finished"), (3, "failed")])
def test_an_exit_of_the_program_counts_by_its_code(
    directory: Path, code: int | None, ending: str
) -> None:
    """`sys.exit(0)` is no failure."""
    with RuntimeStore.open(directory) as store:
        with pytest.raises(SystemExit), store.begin_run("run-1", writes={LEASES: []}) as mine:
            sys.exit(code)
        assert mine.record is not None
        assert mine.record.ending == ending
        assert mine.record.why == ("SystemExit: 3" if code else None)


def test_a_refused_write_comes_out_of_the_block(directory: Path) -> None:
    """The ending finds nothing to end, and hides nothing."""

    async def live(store: AsyncRuntimeStore) -> None:
        async with store.begin_run("run-1", writes={LEASES: []}) as mine:
            await begin(store, "run-2")
            await mine.write_batch(CHECKPOINT, {LEASES: [1]})

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(StaleRunError) as caught:
            await live(store)
        assert (caught.value.run_id, caught.value.active_run_id) == ("run-1", "run-2")
        assert [each.state for each in await store.runs()] == ["active", "superseded"]

    run(directory, main)


WORKER = """
import asyncio
from rtstore import AsyncRuntimeStore, RuntimeStore

async def main():
    async with AsyncRuntimeStore.open(sys.argv[1]) as store:
        async with store.begin_run("run-1") as run:
            await run.update("opencode.hostLeases", lambda data: [*data, "worker"],
                reason="host_lease_update")
            say(run.resumed)

asyncio.run(main())
with RuntimeStore.open(sys.argv[1]) as store, store.begin_run("run-1"):
    pass
say("left")
"""


def test_a_worker_does_not_end_the_run_of_its_runtime(directory: Path) -> None:
    """A second process of the run leaves its blocks, and the first one goes on and ends it."""
    with RuntimeStore.open(directory) as store:
        with store.begin_run("run-1", writes={LEASES: []}) as mine:
            with forked(WORKER, directory) as worker:
                assert (hear(worker), hear(worker)) == ("True", "left")
            mine.update(LEASES, lambda data: [*data, "runtime"], reason=CHECKPOINT)
        assert store.read(LEASES).data == ["worker", "runtime"]
        (ended,) = store.runs()
        assert ended.ending is RunEnding.FINISHED


def test_an_error_after_the_end_of_the_run_says_so(directory: Path) -> None:
    """What a superseded run reads is another run's, which may be why its code fails."""

    async def live(store: AsyncRuntimeStore) -> None:
        async with store.begin_run("run-1", writes={LEASES: {"run": 1}}):
            await store.begin_run("run-2", writes={LEASES: {}})
            assert (await store.read(LEASES)).data["run"]

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(KeyError) as caught:
            await live(store)
        (note,) = caught.value.__notes__
        assert "run run-1 was superseded by run run-2" in note

    run(directory, main)


def test_an_ending_that_fails_does_not_hide_the_error(directory: Path) -> None:
    """A note of the error of the block says why the run is still active."""

    async def fail_after(store: AsyncRuntimeStore, act: Callable[[], Awaitable[Any]]) -> None:
        async with store.begin_run("run-1", writes={LEASES: []}):
            await act()
            raise KeyError("theirs")

    async def main() -> None:
        store = await AsyncRuntimeStore.open(directory, lock_timeout_s=0)
        with ExitStack() as locked, pytest.raises(KeyError) as busy:
            await fail_after(store, lambda: _enter(locked, WriterLock(directory).hold()))
        with pytest.raises(KeyError) as closed:
            await fail_after(store, store.aclose)
        for caught in (busy, closed):
            (note,) = caught.value.__notes__
            assert note.startswith("rtstore: leaving its block did not end run run-1: ")

    asyncio.run(main())
    with RuntimeStore.open(directory) as again:
        assert [each.state for each in again.runs()] == ["active"]


async def _enter(stack: ExitStack, block: AbstractContextManager[Any]) -> None:
    stack.enter_context(block)
