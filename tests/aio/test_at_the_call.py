"""What holds from the moment of a call on, before anybody awaits it: its data is copied, and who
asks for its batch waits for the outcome."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    Batch,
    InvalidRequestError,
    StoreClosedError,
    UnknownStoreError,
)
from rtstore.aio import store as aio_store
from rtstore.commit import group
from rtstore.errors import BatchUnderWayError
from tests.support import CHECKPOINT, IDENTITY, LEASES, LEDGER
from tests.support.aio import append, run


def slowly(data: Any) -> Any:
    """Change data, which takes a while."""
    time.sleep(0.15)
    return [*(data or []), "slowly"]


def updates(store: AsyncRuntimeStore, batch_id: str, change: Callable[[Any], Any] = slowly) -> Any:
    """A call that updates the leases under an id, as a coroutine that has not begun."""
    return store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT, batch_id=batch_id)


def writes(store: AsyncRuntimeStore, batch_id: str, data: Any = 1) -> Any:
    """A call that writes the ledger under an id, as a coroutine that has not begun."""
    return store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: data}, batch_id=batch_id
    )


# --- the data -------------------------------------------------------------------------------------


def test_a_batch_holds_what_its_caller_saw_at_the_call(directory: Path) -> None:
    """A change of the data between the call and its first step is not in the batch."""

    async def main(store: AsyncRuntimeStore) -> None:
        async with store.begin_run(IDENTITY, writes={LEASES: []}) as begun:
            state = {"step": 0}
            calls = []
            for step in range(4):
                state["step"] = step
                calls.append(
                    begun.write_batch(CHECKPOINT, {LEDGER: state}, batch_id=f"batch-{step}")
                    if step % 2
                    else writes(store, f"batch-{step}", state)
                )
            state["step"] = -1
            await asyncio.gather(*calls)
            for step in range(4):
                assert (await store.read(LEDGER, at=f"batch-{step}")).data == {"step": step}

    run(directory, main)


def test_a_run_begins_with_what_its_caller_saw_at_the_call(directory: Path) -> None:
    """So it is with the first contents of a run, and with the versions and stores of a batch."""

    async def main(store: AsyncRuntimeStore) -> None:
        state, expected, names = {"step": 0}, {LEDGER: 0}, [LEDGER]
        opening = store.begin_run("run-2", writes={LEDGER: state})
        state["step"] = 1
        async with opening as begun:
            assert (await store.read(LEDGER)).data == {"step": 0}
            expected[LEDGER] = 1
            write = begun.write_batch(CHECKPOINT, {LEDGER: 2}, expected=expected)
            expected[LEDGER] = 7
            await write
            change = begun.update(names, lambda data: {LEDGER: data[LEDGER] + 1}, reason=CHECKPOINT)
            names.append(LEASES)
            await change
            assert (await store.read(LEDGER)).data == 3

    run(directory, main)


def test_a_wrong_call_is_told_to_who_awaits_it(directory: Path) -> None:
    """The call itself raises nothing, so `gather` hears of each of its calls."""

    async def main(store: AsyncRuntimeStore) -> None:
        wrong: tuple[Any, ...] = (3, [1], {LEDGER: {1}})
        calls: list[Any] = [
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
            for writes in wrong
        ]
        calls.append(store.update([], lambda data: data, identity=IDENTITY, reason=CHECKPOINT))
        calls.append(store.begin_run("run-2", writes=wrong[0]))
        for call in calls:
            with pytest.raises(InvalidRequestError):
                await call
        assert await store.batches() == []

    run(directory, main)


def test_a_call_that_nobody_awaits_is_told_of(directory: Path) -> None:
    """It writes nothing, Python warns of it, and nobody waits for its outcome."""

    async def main(store: AsyncRuntimeStore) -> None:
        for call in (writes, updates):
            with pytest.warns(RuntimeWarning, match="was never awaited"):
                call(store, "dropped")
        began_at = time.monotonic()
        assert await store.batch("dropped") is None
        assert time.monotonic() - began_at < 1

    run(directory, main)


@pytest.mark.parametrize("wrong", ["store", "data", "reason"])
def test_a_wrong_write_is_refused_at_once(
    directory: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that serves it waits for nobody, for its place has no batch."""
    monkeypatch.setattr(group, "RECHECK_S", 5)
    given = {"no.such.store" if wrong == "store" else LEASES: object() if wrong == "data" else 1}
    reason = "" if wrong == "reason" else CHECKPOINT

    async def main(store: AsyncRuntimeStore) -> None:
        call = partial(store.write_batch, identity=IDENTITY, reason=reason, writes=given)
        began_at = time.monotonic()
        with pytest.raises((InvalidRequestError, UnknownStoreError)):
            await call()
        right = append(store, 1)
        several = await asyncio.gather(*(call() for _ in range(5)), right, return_exceptions=True)
        assert [isinstance(each, Batch) for each in several] == [False] * 5 + [True]
        assert time.monotonic() - began_at < 2.5

    run(directory, main)


def test_an_opening_that_nobody_awaits_is_said(directory: Path) -> None:
    """As Python says it of a coroutine. Nothing has begun."""

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.warns(RuntimeWarning, match=r"AsyncRuntimeStore\.begin_run was never awaited"):
            store.begin_run("forgotten")
        with pytest.warns(RuntimeWarning, match=r"AsyncRuntimeStore\.open was never awaited"):
            AsyncRuntimeStore.open(directory)
        assert await store.runs() == []
        async with store.begin_run("begun", writes={LEASES: 1}):
            pass
        await store.begin_run("next", keep="all")

    run(directory, main)


# --- the outcome ----------------------------------------------------------------------------------


def test_who_asks_for_a_batch_waits_for_its_outcome(directory: Path) -> None:
    """An update that runs, a batch and an update that wait behind it, and calls that have not begun
    are waited for, and a thread of the reads is free for others meanwhile."""

    async def main(store: AsyncRuntimeStore) -> None:
        tasks = [asyncio.create_task(updates(store, "runs"))]
        await asyncio.sleep(0.05)
        tasks += [
            asyncio.create_task(call)
            for call in (writes(store, "waits"), updates(store, "waits, too"))
        ]
        asked = [store.batch(name) for name in ("runs", "waits", "waits, too") * 3]
        asking = asyncio.gather(*asked)
        await asyncio.sleep(0.02)
        assert await asyncio.wait_for(store.batches(), 1) == []
        found = await asking
        assert [batch and batch.state for batch in found] == ["committed"] * 9
        await asyncio.gather(*tasks)

    run(directory, main)


def test_a_call_that_wrote_nothing_is_not_on_record(directory: Path) -> None:
    """One that was cancelled before its first step or in its turn, and one that failed, is said
    not to be on record at once, also while its exception is at hand."""

    async def main(store: AsyncRuntimeStore) -> None:
        first = asyncio.create_task(updates(store, "first"))
        await asyncio.sleep(0.05)
        for seconds in (None, 0.02):
            for call in (writes, updates):
                task = asyncio.create_task(call(store, "cancelled"))
                if seconds:
                    await asyncio.sleep(seconds)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    began_at = time.monotonic()
                    assert await store.batch("cancelled") is None
                    assert time.monotonic() - began_at < 1
        await first
        try:
            await updates(store, "failed", lambda data: data["no"])
        except TypeError:
            assert await store.batch("failed") is None

    run(directory, main)


def test_an_outcome_that_is_late_is_not_known(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited long enough is told that it is not known, and not that there is none."""
    monkeypatch.setattr(aio_store, "OUTCOME_S_MAX", 0.03)

    async def main(store: AsyncRuntimeStore) -> None:
        task = asyncio.create_task(updates(store, "late"))
        with pytest.raises(BatchUnderWayError, match="not known yet whether batch late") as caught:
            await store.batch("late")
        assert caught.value.batch_id == "late"
        written = await task
        assert await store.batch("late") == written

    run(directory, main)


def test_the_outcome_is_there_when_the_loop_is_not(directory: Path) -> None:
    """A loop that stops in its own code leaves a call behind: who asks with another loop waits for
    what becomes of it."""
    loop = asyncio.new_event_loop()

    async def opened() -> AsyncRuntimeStore:
        return await AsyncRuntimeStore.open(directory)

    def stop() -> None:
        raise KeyboardInterrupt

    store = loop.run_until_complete(opened())
    task = loop.create_task(updates(store, "left"))
    loop.call_later(0.05, stop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    found = asyncio.run(store.batch("left"))
    assert found is not None
    assert found.state == "committed"
    assert loop.run_until_complete(task) == found
    asyncio.run(store.close())
    loop.close()


def test_a_coroutine_that_is_closed_leaves_its_call(directory: Path) -> None:
    """The call that it began goes on, and is waited for."""

    async def main(store: AsyncRuntimeStore) -> None:
        call = updates(store, "goes on")
        call.send(None)
        await asyncio.sleep(0.05)
        call.close()
        del call
        gc.collect()
        found = await store.batch("goes on")
        assert found is not None

    run(directory, main)


def test_a_call_that_is_not_admitted_is_over(directory: Path) -> None:
    """After the store is closed nobody waits for a call that was refused."""

    async def main(store: AsyncRuntimeStore) -> None:
        await append(store, 1)
        await store.close()
        for call in (writes, updates):
            try:
                await call(store, "refused")
            except StoreClosedError:
                began_at = time.monotonic()
                with pytest.raises(StoreClosedError):
                    await store.batch("refused")
                assert time.monotonic() - began_at < 1

    run(directory, main)


@pytest.mark.parametrize("how", ["update", "write", "in a thread"])
def test_who_asks_before_closing_has_the_answer(directory: Path, how: str) -> None:
    """The batch is under way when the store is closed: closing waits for it, and for who asked."""

    async def main() -> None:
        store = await AsyncRuntimeStore.open(directory)
        if how == "in a thread":
            update = partial(store.sync_store.update, LEASES, slowly)
            call = partial(update, identity=IDENTITY, reason=CHECKPOINT, batch_id="asked")
            written = asyncio.create_task(asyncio.to_thread(call))
            while not store.sync_store.lock.is_held():
                await asyncio.sleep(0.001)
        elif how == "update":
            written = asyncio.create_task(updates(store, "asked"))
        else:
            before = asyncio.create_task(updates(store, "before"))
            written = asyncio.create_task(writes(store, "asked"))
            await asyncio.sleep(0)
        asked = [asyncio.create_task(store.batch("asked")) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in (written, *asked))
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        late = asyncio.create_task(store.batch("asked"))
        await closing
        assert await asyncio.gather(*asked) == [await written] * 3
        with pytest.raises(StoreClosedError):
            await late
        if how == "write":
            await before

    asyncio.run(main())
    gc.collect()


def test_closing_waits_for_nobody_who_asks_for_what_never_begins(directory: Path) -> None:
    """A call that nobody awaits, before the store is closed, writes nothing any more; and a task
    that is cancelled asks no more."""

    async def main() -> None:
        store = await AsyncRuntimeStore.open(directory)
        never = writes(store, "never")
        asked = asyncio.create_task(store.batch("never"))
        cancelled = asyncio.create_task(store.batch("never"))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        began_at = time.monotonic()
        await store.close()
        assert time.monotonic() - began_at < 1
        assert await asked is None
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(StoreClosedError):
            await never

    asyncio.run(main())
    gc.collect()


def test_a_function_does_not_wait_for_its_own_call(directory: Path) -> None:
    """What the function of an update asks in its thread is answered at once: its own batch is not
    on record, and of one that waits behind it nothing is known."""
    answers: list[object] = []

    async def main(store: AsyncRuntimeStore) -> None:
        def change(data: Any) -> Any:
            time.sleep(0.05)
            began_at = time.monotonic()
            answers.append(store.sync_store.batch("own"))
            try:
                store.sync_store.batch("behind")
            except BatchUnderWayError:
                answers.append("not known")
            assert time.monotonic() - began_at < 1
            return [1]

        await asyncio.gather(updates(store, "own", change), writes(store, "behind"))
        assert answers == [None, "not known"]

    run(directory, main)
