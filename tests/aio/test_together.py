"""Tasks that write at the same time share flushes, and are told what happened on their loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    Batch,
    BatchFailedError,
    CallError,
    ConflictError,
    Event,
    InvalidRequestError,
    LockTimeoutError,
    RunRecord,
    RuntimeStore,
    StaleRunError,
    StoreRecovered,
    UnknownStoreError,
    WriterLock,
)
from rtstore.aio import pools
from rtstore.aio.calls import RECHECK_S, Call
from rtstore.commit.group import Place
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    Crash,
    WatchedFileSystem,
    agree,
    answer,
    at,
    breadth,
    child,
    hear,
    open_store,
)
from tests.support import write as write_now
from tests.support.aio import append, run, write
from tests.support.counts import Counts
from tests.support.groups import Flushes
from tests.support.groups import batch as batch_of


def _are_encoded(places: list[Place]) -> bool:
    """Whether who leads finds all batches encoded. Behind an update, its turn sees to that."""
    waits = [place for place in places if place.is_encoded_here and not place.closed]
    behind = bool(places) and not places[0].is_encoded_here
    return behind or all(place.pending is not None for place in waits)


async def waiting(store: AsyncRuntimeStore, *calls: Any) -> list[asyncio.Task[Batch]]:
    """Tasks for calls, all of which wait in the queue when it returns, their batches encoded, but
    for those that are refused at once: the caller holds the lock."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0.02)
    deadline = time.monotonic() + 10
    while not _are_encoded(list(store.sync_store._writer.queue._places)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    assert all(isinstance(task.exception(), CallError) for task in tasks if task.done())
    assert store.lock.is_held()
    return tasks


# --- flushes --------------------------------------------------------------------------------------


def test_tasks_that_write_together_share_a_flush(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred tasks that wait for the lock: one flushed transaction logs all their batches; each
    has an id, a number and a receipt of its own, in the order of the calls."""

    async def main(store: AsyncRuntimeStore) -> None:
        flushes = Flushes(store.database, monkeypatch)
        names = (LEASES, LEDGER, DIAGNOSTICS)
        with WriterLock(directory).hold():
            tasks = await waiting(
                store, *(write(store, names[number % 3], number) for number in range(100))
            )
        batches = [await task for task in tasks]
        assert flushes.made == [True, False]
        assert [batch.high_watermark for batch in batches] == list(range(1, 101))
        assert len({batch.batch_id for batch in batches}) == 100
        assert await store.batches() == batches
        assert (await store.read(LEASES)).data == 99
        assert await asyncio.to_thread(agree, store.sync_store)

    run(directory, main)


def test_tasks_that_only_meet_share_flushes_too(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody arranges anything: fifty tasks that write ten batches each need far fewer flushes
    than batches, for all that were called during one flush go with the next."""

    async def main(store: AsyncRuntimeStore) -> None:
        flushes = Flushes(store.database, monkeypatch)

        async def work(number: int) -> None:
            for turn in range(10):
                await write(store, LEASES, [number, turn])

        await asyncio.gather(*(work(number) for number in range(50)))
        assert (await store.manifest()).high_watermark == 500
        logs = flushes.made.count(True)
        print(f"\n500 batches of 50 tasks in {logs} flushes")
        assert logs <= 100

    run(directory, main)


def test_tasks_and_threads_share_a_flush(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait in one queue: whoever leads takes the batches of both, in the order of the
    calls."""

    async def main(store: AsyncRuntimeStore) -> None:
        inside = store.sync_store
        flushes = Flushes(store.database, monkeypatch)
        places = inside._writer.queue._places

        async def in_thread(number: int) -> asyncio.Task[Batch]:
            before = len(places)
            call = asyncio.to_thread(batch_of(inside, {LEDGER: number}))
            task = asyncio.ensure_future(call)
            while len(places) == before:
                await asyncio.sleep(0.001)
            return task

        for first_in_thread in (False, True):
            with inside.lock.hold():
                tasks = []
                for number in range(4):
                    if (number % 2 == 0) is first_in_thread:
                        tasks.append(await in_thread(number))
                    else:
                        tasks += await waiting(store, write(store, LEASES, number))
            marks = [(await task).high_watermark or 0 for task in tasks]
            assert marks == list(range(marks[0], marks[0] + 4))
            assert flushes.made.count(True) <= 2
            flushes.made.clear()
        assert await asyncio.to_thread(agree, inside)

    run(directory, main)


def test_a_run_that_ends_in_between(directory: Path) -> None:
    """Its end keeps its place among the batches: what was called before is written, the rest is
    refused; what a turn writes itself goes before what waits behind it."""

    async def main(store: AsyncRuntimeStore) -> None:
        await write(store, LEASES, 0)
        with WriterLock(directory).hold():
            tasks = await waiting(
                store,
                write(store, LEASES, 1),
                store.revert(LEASES, to=1),
                write(store, LEASES, 2),
                store.end_run(IDENTITY.run_id),
                write(store, LEASES, 3),
            )
        *outcomes, last = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Batch, Batch, Batch, RunRecord]
        assert isinstance(last, StaleRunError)
        contents = [(await store.read(LEASES, at=number)).data for number in range(1, 5)]
        assert contents == [0, 1, 0, 2]

    run(directory, main)


def test_the_thread_that_served_listens_for_the_next_call(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that writes again and again wakes it directly, at half the cost of the executor. One
    that comes later goes through the executor; and closing does not wait for who listens."""
    submitted = 0

    async def main(store: AsyncRuntimeStore) -> None:
        executor = store._workers.writes.executor
        submit = executor.submit

        def counted(*arguments: Any) -> Any:
            nonlocal submitted
            submitted += 1
            return submit(*arguments)

        monkeypatch.setattr(executor, "submit", counted)
        monkeypatch.setattr(pools, "LINGER_S", 60.0)
        for number in range(20):
            await write(store, LEASES, number)
        assert submitted == 1
        async with asyncio.timeout(20):
            await store.close()

    async def rarely(store: AsyncRuntimeStore) -> None:
        monkeypatch.setattr(pools, "LINGER_S", 0.001)
        for number in range(5):
            await write(store, LEASES, number)
            await asyncio.sleep(0.02)

    run(directory, main)
    run(directory, rarely)


def test_a_bell_wakes_each_listener_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told that somebody listens can rely on it, also where that thread was about to
    stop."""
    monkeypatch.setattr(pools, "LINGER_S", 0.0005)
    bell, rung, stopped = pools.Bell(), 0, threading.Event()

    def listen() -> None:
        nonlocal rung
        while not stopped.is_set():
            rung += bell.is_rung(lambda: False)

    assert not bell.ring()
    assert bell.is_rung(lambda: True)  # without listening any more
    assert not bell.ring()
    with ThreadPoolExecutor(1) as thread:
        listening = thread.submit(listen)
        try:
            for number in range(1, 300):
                while not bell.ring():
                    time.sleep(0)
                deadline = time.monotonic() + 10
                while rung < number and time.monotonic() < deadline:
                    time.sleep(0)
                assert rung == number
        finally:
            stopped.set()
        listening.result()
    assert not bell.ring()


def test_a_call_in_two_executors_is_made_once() -> None:
    """The one that comes too late says nothing about it: the other thread is in the middle of
    it."""
    gate = threading.Event()

    async def main() -> None:
        call: Call[bool] = Call("nothing", lambda: gate.wait(10))
        with ThreadPoolExecutor(1) as first:
            call.start(first)
            while call.outcome.thread is None:
                await asyncio.sleep(0.001)
            with ThreadPoolExecutor(1) as second:
                call.start(second)
            assert not call.outcome.is_known
            gate.set()
            assert await call.end()

    asyncio.run(main())


def test_a_call_that_ended_before_it_is_awaited(directory: Path) -> None:
    """Its caller hears of it at once, also where the thread that ended it holds back the waking of
    the loop until others have ended."""

    async def main() -> None:
        call: Call[int] = Call("nothing", lambda: 7)
        call.wakes = set()
        call.outcome.succeed(7)
        async with asyncio.timeout(RECHECK_S / 2):
            assert await call.end() == 7

    asyncio.run(main())


def test_calls_leave_nothing_to_the_garbage_collector(directory: Path) -> None:
    """What a call was made of is gone when it has ended. Otherwise many tasks would stop now and
    then, for as long as it takes to look through all that the process holds."""

    async def main(store: AsyncRuntimeStore) -> None:
        async def call_all() -> None:
            await asyncio.gather(*(write(store, LEASES, number) for number in range(5)))
            await asyncio.gather(append(store, 1, LEDGER), store.read(LEDGER), store.manifest())

        await write(store, LEDGER, [])
        await call_all()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await call_all()
            gc.collect()
            left = [kind for item in gc.garbage if "rtstore" in (kind := type(item)).__module__]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []

    run(directory, main)


def test_calls_are_carried_out_in_their_order(directory: Path) -> None:
    """Batches that share a flush do not overtake an update, nor it them."""

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            tasks = await waiting(
                store,
                write(store, LEASES, ["a"]),
                write(store, LEASES, ["b"]),
                append(store, "c"),
                write(store, LEDGER, "d"),
                append(store, "e"),
                write(store, LEDGER, "f"),
            )
        assert [(await task).high_watermark for task in tasks] == [1, 2, 3, 4, 5, 6]
        assert (await store.read(LEASES)).data == ["b", "c", "e"]
        assert (await store.read(LEDGER)).data == "f"

    run(directory, main)


def test_batches_go_with_the_update_before_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update begins a flush, and the batches right behind it share that; but not one that is
    compared with what is committed."""

    async def main(store: AsyncRuntimeStore) -> None:
        flushes = Flushes(store.database, monkeypatch)
        with WriterLock(directory).hold():
            tasks = await waiting(
                store,
                append(store, 1),
                write(store, LEDGER, 2),
                write(store, DIAGNOSTICS, 3),
                write(store, DIAGNOSTICS, 4, expected_high_watermark=3),
                write(store, LEDGER, 5),
            )
        assert [(await task).high_watermark for task in tasks] == [1, 2, 3, 4, 5]
        assert flushes.made == [True, False] * 2

    run(directory, main)


@pytest.mark.parametrize("cancelled", [False, True])
def test_batches_behind_an_update_that_is_not_made_are_written(
    directory: Path, cancelled: bool
) -> None:
    """Its function fails, or it is cancelled before its turn: the others do not depend on it."""

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            update = store.update(LEASES, lambda _: 1 // 0, identity=IDENTITY, reason=CHECKPOINT)
            first, *tasks = await waiting(
                store, update, write(store, LEDGER, 1), write(store, DIAGNOSTICS, 2)
            )
            if cancelled:
                first.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else ZeroDivisionError):
            await first
        assert [(await task).high_watermark for task in tasks] == [1, 2]

    run(directory, main)


# --- several stores -----------------------------------------------------------------------------

WRITER = """
from rtstore import RuntimeStore
from tests.support import DIAGNOSTICS, IDENTITY
with RuntimeStore.open(sys.argv[1]) as store:
    say("ready")
    wait()
    for number in range(int(sys.argv[2])):
        store.write_batch(
            identity=IDENTITY, reason="recovery", writes={DIAGNOSTICS: [sys.argv[3], number]}
        )
    say("done")
"""


@pytest.mark.parametrize(
    ("tasks", "each", "writers"),
    [(3, 4, 1), pytest.param(10, 30, 3, marks=pytest.mark.thorough)],
)
def test_updates_of_two_stores_beside_writers_of_another(
    directory: Path, counts: Counts, tasks: int, each: int, writers: int
) -> None:
    """Processes write a third store meanwhile: no update is in conflict, none is lost, and no
    reader sees one of the two stores without the other."""
    total, conflicts = tasks * each, 0

    def move(data: dict[str, Any]) -> dict[str, Any]:
        number = (data[LEASES] or 0) + 1
        return {LEASES: number, LEDGER: [*(data[LEDGER] or []), number]}

    async def send(store: AsyncRuntimeStore) -> None:
        nonlocal conflicts
        for _ in range(each):
            try:
                await store.update([LEASES, LEDGER], move, identity=IDENTITY, reason="recovery")
            except ConflictError:
                conflicts += 1

    async def look(store: AsyncRuntimeStore, sent: asyncio.Future[Any]) -> int:
        looks = 0
        while not sent.done():
            seen = await store.snapshot([LEASES, LEDGER])
            assert (seen.data(LEASES) or 0) == len(seen.data(LEDGER) or [])
            looks += 1
        return looks

    async def main(store: AsyncRuntimeStore) -> None:
        sent = asyncio.gather(*(send(store) for _ in range(tasks)))
        looks = await look(store, sent)
        await sent
        last = await store.snapshot([LEASES, LEDGER])
        assert last.data(LEDGER) == list(range(1, total + 1))
        counts.add("two stores at once", updates=total, conflicts=conflicts, lost=0, looks=looks)

    with ExitStack() as stack:
        beside = [
            stack.enter_context(child(WRITER, directory, str(2 * each), str(number)))
            for number in range(writers)
        ]
        assert [hear(process) for process in beside] == ["ready"] * writers
        for process in beside:
            answer(process)
        run(directory, main)
        assert [hear(process) for process in beside] == ["done"] * writers
    assert conflicts == 0
    with open_store(directory) as store:
        assert store.manifest().high_watermark == total + writers * 2 * each
        assert agree(store)


def test_an_update_of_several_stores_is_awaited(directory: Path) -> None:
    """None when nothing was changed; the versions of a batch are compared as they were given."""

    async def main(store: AsyncRuntimeStore) -> None:
        call: Any = {"identity": IDENTITY, "reason": CHECKPOINT}
        names = iter([LEASES, LEDGER])
        first = await store.update(names, lambda _: {LEDGER: 1}, batch_id="job-1", **call)
        assert first is not None
        assert await store.update([LEDGER], lambda data: data, **call) is None
        assert await store.update((LEDGER, LEASES), dict, batch_id="job-1", **call) == first
        versions: dict[str, Any] = {LEDGER: "job-1"}
        task = asyncio.ensure_future(write(store, LEDGER, 2, expected=versions))
        await asyncio.sleep(0)
        versions[LEDGER] = None
        await task
        with pytest.raises(ConflictError, match=LEDGER):
            await write(store, LEDGER, 3, expected={LEDGER: "job-1"})
        async with store.begin_run("run-2", keep="all") as active:
            again = await active.update([LEDGER], lambda _: {LEDGER: 3}, reason=CHECKPOINT)
            assert again is not None
            version = {LEDGER: again.high_watermark}
            await active.write_batch(CHECKPOINT, {LEDGER: 4}, expected=version)

    run(directory, main)


# --- each call has an outcome of its own ----------------------------------------------------------


def test_each_task_of_a_group_gets_its_own_outcome(directory: Path) -> None:
    """What is wrong with one batch is raised to its caller; the others are committed."""
    broken = at("rename", directory / FILE_OF[DIAGNOSTICS], OSError(28, "full"))

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            tasks = await waiting(
                store,
                write(store, LEASES, 1),
                write(store, LEASES, object()),
                write(store, "nobody's", 1),
                write(store, LEDGER, 2, expected_high_watermark=7),
                write(store, DIAGNOSTICS, 3),
                write(store, LEDGER, 4, batch_id="mine"),
                write(store, LEDGER, 4, batch_id="mine"),
            )
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [
            Batch, InvalidRequestError, UnknownStoreError, ConflictError, BatchFailedError,
            Batch, Batch,
        ]  # fmt: skip
        assert outcomes[-1] == outcomes[-2]
        assert (await store.snapshot()).high_watermark == 2

    run(directory, main, fs=WatchedFileSystem(broken))


def test_a_task_of_a_group_that_is_cancelled_before_it_begins_is_left_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others share the flush as if it had never called."""

    async def main(store: AsyncRuntimeStore) -> None:
        flushes = Flushes(store.database, monkeypatch)
        with WriterLock(directory).hold():
            tasks = await waiting(store, *(write(store, LEASES, number) for number in range(9)))
            for task in tasks[::2]:
                task.cancel()
            for task in tasks[::2]:
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert "nothing of it was carried out" in caught.value.__notes__[0]
        assert [(await task).high_watermark for task in tasks[1::2]] == [1, 2, 3, 4]
        assert flushes.made == [True, False]
        assert (await store.read(LEASES)).data == 7

    run(directory, main)


def test_a_task_of_a_group_that_is_cancelled_while_it_runs_says_what_it_committed(
    directory: Path,
) -> None:
    """The group is on its way: the one that is cancelled is told that its batch is committed."""
    renamed, go_on = threading.Event(), threading.Event()

    def hold(_number: int, name: str, _subject: object) -> None:
        if name == "rename":
            renamed.set()
            assert go_on.wait(60)

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            tasks = await waiting(store, write(store, LEASES, 1), write(store, LEDGER, 2))
        await asyncio.to_thread(renamed.wait)
        tasks[1].cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await tasks[1]
        assert "is committed" in caught.value.__notes__[0]
        assert (await tasks[0]).high_watermark == 1
        assert (await store.read(LEDGER)).data == 2

    run(directory, main, fs=WatchedFileSystem(hold))


def test_all_that_wait_for_the_lock_give_up_in_time(directory: Path) -> None:
    """Batches of a queue that is never served: each is a time-out of its own, all after one."""

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            tasks = await waiting(store, *(write(store, LEASES, number) for number in range(5)))
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LockTimeoutError}
        assert (await write(store, LEASES, 1)).high_watermark == 1

    run(directory, main, lock_timeout_s=0.2)


@pytest.mark.parametrize(
    "name", breadth.params(["write_batch", "update", "end_run"], normal=["write_batch"])
)
def test_what_waits_behind_a_write_that_does_not_end_gives_up_in_time(
    directory: Path, name: str
) -> None:
    """Also what the function of an update waits for, which would wait for itself."""
    calls: dict[str, Callable[[AsyncRuntimeStore], Coroutine[Any, Any, object]]] = {
        "write_batch": lambda store: write(store, LEDGER, 2),
        "update": lambda store: append(store, 2),
        "end_run": lambda store: store.end_run(),
    }
    refused: list[BaseException | None] = []

    async def main(store: AsyncRuntimeStore) -> None:
        await write(store, LEASES, 1)
        await write(store, LEDGER, 1)
        loop = asyncio.get_running_loop()

        def wait(data: Any) -> Any:
            inner = asyncio.run_coroutine_threadsafe(calls[name](store), loop)
            refused.append(inner.exception(60))
            return data + 1

        batch = await store.update(LEASES, wait, identity=IDENTITY, reason=CHECKPOINT)
        assert isinstance(refused[0], LockTimeoutError)
        assert [receipt.schema_name for receipt in batch.receipts] == [LEASES]
        # Nothing was written, and nothing is left that would be.
        assert len(await store.batches()) == 3
        assert (await store.read(LEASES)).data == 2
        assert (await store.read(LEDGER)).data == 1
        assert (await write(store, LEDGER, 3)).high_watermark == 4

    run(directory, main, lock_timeout_s=0.2)


@pytest.mark.thorough
def test_what_waits_behind_many_writes_that_end_is_not_given_up(directory: Path) -> None:
    """Together they take longer than the time-out."""

    def slowly(data: Any) -> Any:
        time.sleep(0.25)
        return data + 1

    async def main(store: AsyncRuntimeStore) -> None:
        await write(store, LEASES, 0)
        update = partial(store.update, LEASES, slowly, identity=IDENTITY, reason=CHECKPOINT)
        await asyncio.gather(*(update() for _ in range(12)))
        assert (await store.read(LEASES)).data == 12

    run(directory, main, lock_timeout_s=1)


def test_what_ends_the_process_comes_out_of_every_task(directory: Path) -> None:
    """No task of a group waits for ever for a leader that is gone."""
    dead = WatchedFileSystem(lambda number, *_: Crash() if number == 0 else None)

    async def main(store: AsyncRuntimeStore) -> None:
        with WriterLock(directory).hold():
            tasks = await waiting(store, write(store, LEASES, 1), write(store, LEDGER, 2))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Crash, Crash]

    run(directory, main, fs=dead)
    with RuntimeStore.open(directory) as store:
        assert (store.read(LEASES).data, store.read(LEDGER).data) == (1, 2)


# --- events ---------------------------------------------------------------------------------------


def test_an_observer_is_told_on_the_loop_before_its_caller_goes_on(directory: Path) -> None:
    """Each call tells its own loop, with the caller's context variables: a queue of asyncio can be
    the observer."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    loop_thread = threading.get_ident()
    seen: list[tuple[str, str | None]] = []

    def observe(event: Event) -> None:
        assert threading.get_ident() == loop_thread
        asyncio.get_running_loop()
        seen.append((name.get(), event.batch_id))

    async def work(store: AsyncRuntimeStore, number: int) -> None:
        name.set(f"task-{number}")
        batch = await (write(store, LEDGER, number) if number % 2 else append(store, number))
        assert (f"task-{number}", batch.batch_id) in seen

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory, on_event=observe) as store:
            await asyncio.gather(*(work(store, number) for number in range(20)))
            assert len(seen) == 20
            assert not (await store.check_readiness()).ok
            assert len(seen) == 21

    asyncio.run(main())


def test_an_asyncio_queue_takes_the_events(directory: Path) -> None:
    """`on_event=queue.put_nowait` is all that a task that shows them needs."""

    async def main() -> None:
        queue: asyncio.Queue[Event] = asyncio.Queue()
        async with AsyncRuntimeStore.open(directory, on_event=queue.put_nowait) as store:
            shown = asyncio.create_task(queue.get())
            await asyncio.sleep(0)
            batch = await write(store, LEASES, 1)
            assert (await shown).batch_id == batch.batch_id

    asyncio.run(main())


def test_the_observer_of_a_store_that_is_wrapped_is_told_on_the_loop(directory: Path) -> None:
    """Also when it is wrapped twice; what a thread does with the store itself is told there."""
    told: list[tuple[str, bool]] = []

    def observe(event: Event) -> None:
        told.append((str(event.batch_id), threading.current_thread() is threading.main_thread()))

    async def main() -> None:
        inner = open_store(directory, on_event=observe)
        async with AsyncRuntimeStore(inner) as store:
            await write(store, LEASES, 1, batch_id="of the store")
            await write(AsyncRuntimeStore(inner), LEASES, 2, batch_id="of another")
            await asyncio.to_thread(batch_of(inner, {LEASES: 3}, batch_id="of a thread"))
            assert told == [("of the store", True), ("of another", True), ("of a thread", False)]

    asyncio.run(main())


def test_opening_tells_what_it_recovered(directory: Path) -> None:
    """On the loop, before the store is there."""
    dead = WatchedFileSystem(lambda number, *_: Crash() if number == 0 else None)
    with pytest.raises(Crash), open_store(directory, fs=dead) as store:
        write_now(store, LEASES, 1)
    told: list[Event] = []

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory, on_event=told.append) as store:
            [event] = told
            assert isinstance(event, StoreRecovered)
            assert event.batch_ids == ("batch-1",)
            assert store.last_recovery is not None

    asyncio.run(main())


def test_an_observer_on_the_loop_that_fails_harms_nothing(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller gets the batch, the log the error."""

    def fail(_: Event) -> None:
        raise LookupError("mine")

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory, on_event=fail) as store:
            assert (await write(store, LEASES, 1)).high_watermark == 1

    asyncio.run(main())
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_an_observer_may_start_tasks_that_use_the_store(directory: Path) -> None:
    """It runs beside the calls, so what it starts is a task like any other."""

    async def main() -> None:
        started: list[asyncio.Task[Batch]] = []

        def observe(event: Event) -> None:
            if event.stores == (LEASES,):
                started.append(asyncio.create_task(write(store, LEDGER, event.batch_id)))

        async with AsyncRuntimeStore.open(directory, on_event=observe) as store:
            batch = await write(store, LEASES, 1)
            await started[0]
            assert (await store.read(LEDGER)).data == batch.batch_id

    asyncio.run(main())


def test_what_a_thread_does_with_the_store_inside_is_told_there(directory: Path) -> None:
    """The store inside belongs to threads: the observer is called in the one that wrote."""
    threads: list[int] = []

    async def main() -> None:
        async with AsyncRuntimeStore.open(
            directory, on_event=lambda _: threads.append(threading.get_ident())
        ) as store:
            await asyncio.to_thread(partial(write_now, store.sync_store, LEASES, 1))
            await write(store, LEASES, 2)

    asyncio.run(main())
    assert len(set(threads)) == 2
    assert threads[1] == threading.get_ident()


def test_a_coroutine_function_is_no_observer(tmp_path: Path) -> None:
    """It is refused at once, by name, and nothing is made."""

    async def observe(_: Event) -> None: ...

    with pytest.raises(InvalidRequestError, match="plain function"):
        AsyncRuntimeStore.open(tmp_path / "new", team_name="team-a", on_event=observe)
    assert not (tmp_path / "new").exists()
