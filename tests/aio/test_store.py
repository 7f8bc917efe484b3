"""The store for asyncio: the same interface, many tasks, closing, errors. For cancellation see
`test_cancellation`, for many tasks `test_runtime`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    ActionOutcome,
    AsyncRun,
    AsyncRuntimeStore,
    InvalidRequestError,
    NotARuntimeDirectoryError,
    RebuildRequest,
    RebuildStrategy,
    RetryableError,
    Run,
    RuntimeStore,
    StoreClosedError,
    StoreFileChangedError,
    UnknownStoreError,
    WriterLock,
)
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    SESSIONS,
    TEAM,
    file_of,
)
from tests.support.aio import append, run, write

# --- the interface ------------------------------------------------------------------------------


def test_the_interface_is_that_of_the_runtime_store() -> None:
    """Every public method is there, takes the same parameters and promises the same result."""
    methods = _public_methods(RuntimeStore)
    assert {"history", "back_up", "recover", "write_batch"} <= methods.keys()
    assert methods.pop("close") is not None
    # Two give something that is awaited or entered, one an iterator.
    for name in ("open", "begin_run", "follow"):
        parameters = inspect.signature(methods.pop(name)).parameters
        assert inspect.signature(getattr(AsyncRuntimeStore, name)).parameters == parameters
    _expect_awaited(methods, AsyncRuntimeStore)
    public = {name for name in dir(RuntimeStore) if not name.startswith("_")} - {"close"}
    assert public <= set(dir(AsyncRuntimeStore))


def test_the_interface_of_a_run_is_that_of_the_run() -> None:
    """It has the methods of `Run`, awaited, and its properties."""
    methods = _public_methods(Run)
    assert {"write_batch", "update", "recover", "end"} <= methods.keys()
    _expect_awaited(methods, AsyncRun)
    assert {name for name in dir(Run) if not name.startswith("_")} <= set(dir(AsyncRun))


def _public_methods(kind: type) -> dict[str, Callable[..., Any]]:
    methods = inspect.getmembers(kind, callable)
    return {name: method for name, method in methods if not name.startswith("_")}


def _expect_awaited(methods: dict[str, Callable[..., Any]], kind: type) -> None:
    for name, method in methods.items():
        counterpart, expected = getattr(kind, name), inspect.signature(method)
        if name in ("write_batch", "update"):  # these copy first, and then return a coroutine
            result = f"Coroutine[Any, Any, {expected.return_annotation}]"
            expected = expected.replace(return_annotation=result)
        else:
            assert inspect.iscoroutinefunction(counterpart), name
        assert inspect.signature(counterpart) == expected, name


def test_the_attributes_are_those_of_the_runtime_store(directory: Path) -> None:
    """What a store tells of itself, it tells here too."""

    async def main(store: AsyncRuntimeStore) -> None:
        names = {name for name in vars(store.sync_store) if not name.startswith("_")}
        assert names == {name for name in vars(store) if not name.startswith("_")} - {"sync_store"}
        assert all(getattr(store, name) is getattr(store.sync_store, name) for name in names)

    run(directory, main)


def test_it_is_opened_with_and_without_a_block(directory: Path) -> None:
    """`async with open()`, `async with await open()` and `await open()` all give the store."""

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory) as first:
            assert (await append(first, 1)).high_watermark == 1
        async with await AsyncRuntimeStore.open(directory) as second:
            assert (await append(second, 2)).high_watermark == 2
        third = await AsyncRuntimeStore.open(directory, team_name=TEAM, read_only=True)
        assert (await third.read(LEASES)).data == [1, 2]
        assert await asyncio.wait_for(third.manifest(), 60) == third.sync_store.manifest()
        await third.aclose()
        for store in (first, second, third):
            with pytest.raises(StoreClosedError):
                await store.read(LEASES)

    asyncio.run(main())


def test_every_method_answers(directory: Path) -> None:
    """Each gives what the runtime store gives."""

    async def main(store: AsyncRuntimeStore) -> None:
        batch = await write(store, LEASES, [1], batch_id="first", expected_high_watermark=0)
        assert await store.batch("first") == batch
        assert await store.batches(limit=1) == [batch]
        assert (await store.snapshot(iter([LEASES]))).data(LEASES) == [1]
        assert await store.invariant_failures() == []
        plan, readiness = await store.assess(expected=IDENTITY)
        assert readiness == await store.check_readiness(expected=IDENTITY)
        assert plan.actions == (await store.plan_recovery(expected=IDENTITY)).actions
        file_of(store.sync_store, LEASES).write_text('{"schemaVersion": 1, "data": [2]}')
        with pytest.raises(StoreFileChangedError):
            await store.read(LEASES)
        assert (await store.read(LEASES, verify=False)).data == [1]
        plan = await store.plan_recovery()
        assert (await store.recover(plan, dry_run=True)).run_number is None
        assert (await store.recover(plan)).remaining.high_watermark == 1
        (quarantined,) = await store.quarantined_files()
        assert (
            await store.restore_quarantined(quarantined.quarantine_number)
        ).restored_at is not None
        assert (await store.adopt(LEASES)).high_watermark == 2
        assert (await store.read(LEASES)).data == [2]

    run(directory, main)


# --- data and functions of the runtime ----------------------------------------------------------


def test_a_batch_holds_what_its_caller_saw(directory: Path) -> None:
    """The data is copied at the call; what other tasks do to it meanwhile is not in the batch."""

    async def main(store: AsyncRuntimeStore) -> None:
        mine: dict[str, Any] = {"list": [1], "deep": {"a": [{}]}}
        with WriterLock(directory).hold():
            batch = asyncio.create_task(write(store, LEASES, mine))
            await asyncio.sleep(0.05)
            mine["list"].append(2)
            mine["deep"]["a"][0]["b"] = mine.pop("list")
        await batch
        assert (await store.read(LEASES)).data == {"list": [1], "deep": {"a": [{}]}}
        cycle: list[Any] = []
        cycle.append(cycle)
        for data in (cycle, {"a": {1}}, {"a": (1,)}, float("nan"), {1: 2}, object(), "\ud800"):
            with pytest.raises(InvalidRequestError, match="data"):
                await write(store, LEASES, data)

    run(directory, main)


async def _coroutine_function(data: Any) -> Any:
    return data


def _gives_a_coroutine(data: Any) -> Any:
    return _coroutine_function(data)


class _Disguised:
    async def __call__(self, data: Any) -> Any:
        return data


@pytest.mark.parametrize(
    "change", [_coroutine_function, partial(_coroutine_function), _Disguised(), _gives_a_coroutine]
)
def test_an_update_refuses_coroutine_functions(
    directory: Path, change: Callable[[Any], Awaitable[Any]]
) -> None:
    """It would run under the lock, in a thread; so nothing is written, and the error says why."""

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(InvalidRequestError, match="plain function") as caught:
            await store.update(SESSIONS, change, identity=IDENTITY, reason=CHECKPOINT)
        assert (caught.value.field, caught.value.store) == ("change", SESSIONS)
        assert await store.batches() == []

    run(directory, main)


def test_functions_run_in_threads_with_the_context_of_their_caller(directory: Path) -> None:
    """A plain function runs beside the loop, a coroutine of a rebuilder on it; both see the
    caller's context variables, and a rebuilder may use the store."""
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")
    loop_thread = threading.get_ident()
    seen: list[tuple[str, bool]] = []

    def note() -> None:
        seen.append((request_id.get(), threading.get_ident() == loop_thread))

    def change(_: Any) -> Any:
        note()
        return [1]

    def plain(_: RebuildRequest) -> Any:
        note()
        return ["from a thread"]

    async def main(store: AsyncRuntimeStore) -> None:
        async def on_the_loop(_: RebuildRequest) -> Any:
            note()
            readiness = await store.check_readiness()
            await store.batches()
            return [readiness.ok]

        request_id.set("r-1")
        await store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
        report = await store.recover(
            await store.plan_recovery(),
            rebuilders={
                RebuildStrategy.POLL_OPENCODE_PROVIDER: on_the_loop,
                RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS: plain,
            },
        )
        done = [step for step in report.steps if step.outcome is ActionOutcome.DONE]
        assert {step.action.schema_name for step in done} >= {LEDGER}
        assert (await store.read(LEDGER)).data == ["from a thread"]

    run(directory, main)
    assert seen[0] == ("r-1", False)
    assert set(seen) == {("r-1", False), ("r-1", True)}


@pytest.mark.parametrize("error", [KeyError("theirs"), TimeoutError(), OSError(5, "no")])
def test_errors_come_out_as_they_are(directory: Path, error: Exception) -> None:
    """What a function raises is raised by the await, the same object; the next call works."""

    def fail(_: Any) -> Any:
        raise error

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(type(error)) as caught:
            await store.update(LEASES, fail, identity=IDENTITY, reason=CHECKPOINT)
        assert caught.value is error
        assert not store.lock.is_held()
        with pytest.raises(UnknownStoreError):
            await store.read("nobody's")
        with pytest.raises(InvalidRequestError, match="reason"):
            await store.write_batch(identity=IDENTITY, reason="why not", writes={LEASES: 1})
        assert (await append(store, 1)).high_watermark == 1

    run(directory, main)


def test_a_stop_iteration_does_not_hang_the_caller(directory: Path) -> None:
    """No future can carry it; Python makes a RuntimeError of it, and the update is not written."""

    async def main(store: AsyncRuntimeStore) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await store.update(
                LEASES, lambda _: next(iter(())), identity=IDENTITY, reason=CHECKPOINT
            )
        assert await store.batches() == []

    run(directory, main)


def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    """The errors of opening are those of the runtime store, and nothing is left running."""

    async def main() -> None:
        threads = threading.active_count()
        with pytest.raises(NotARuntimeDirectoryError):
            async with AsyncRuntimeStore.open(tmp_path / "none", read_only=True):
                pytest.fail("opened")
        with pytest.raises(InvalidRequestError, match="durability"):
            await AsyncRuntimeStore.open(tmp_path / "none", durability="perhaps")
        with pytest.raises(InvalidRequestError, match="read_only: must be a bool, not None"):
            await AsyncRuntimeStore.open(tmp_path / "none", read_only=None)  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        assert threading.active_count() == threads

    asyncio.run(main())


# --- closing ------------------------------------------------------------------------------------


def test_closing_waits_for_what_was_called_before(directory: Path) -> None:
    """Calls made before are carried out, later ones are refused, no thread is left; closing again,
    or twice at once, is harmless."""

    async def main() -> None:
        threads = set(threading.enumerate())
        store = await AsyncRuntimeStore.open(directory)
        calls = [asyncio.ensure_future(append(store, number)) for number in range(10)]
        looks = [asyncio.ensure_future(store.plan_recovery()) for _ in range(3)]
        await asyncio.sleep(0)
        closing = [asyncio.create_task(store.aclose()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(StoreClosedError, match="is closed"):
            await append(store, 10)
        await asyncio.gather(*closing)
        assert all(call.done() for call in (*calls, *looks))
        await asyncio.gather(*calls, *looks)
        await store.aclose()
        await asyncio.sleep(0.05)
        assert set(threading.enumerate()) <= threads
        async with AsyncRuntimeStore.open(directory) as again:
            assert (await again.read(LEASES)).data == list(range(10))

    asyncio.run(main())


@pytest.mark.parametrize("by", ["a rebuilder", "an update"])
def test_closing_inside_of_a_call_is_refused(directory: Path, by: str) -> None:
    """It would wait for the call, which waits for it. What a call began may close once it ended."""

    async def main() -> None:
        store, loop = await AsyncRuntimeStore.open(directory), asyncio.get_running_loop()
        later: list[asyncio.Task[None]] = []
        ended = asyncio.Event()

        async def close() -> None:
            with pytest.raises(InvalidRequestError, match="must not close the same store"):
                await store.close()
            with pytest.raises(InvalidRequestError, match="must not close the same store"):
                await asyncio.create_task(store.aclose())
            later.append(asyncio.create_task(close_once_ended()))

        async def close_once_ended() -> None:
            await ended.wait()
            await store.close()

        async def rebuild(request: RebuildRequest) -> Any:
            await close()
            return []

        def change(data: Any) -> Any:
            asyncio.run_coroutine_threadsafe(close(), loop).result()
            return []

        if by == "a rebuilder":
            await store.begin_run(IDENTITY, rebuilders={LEASES: rebuild}, keep="all")
        else:
            await store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
        assert (await store.read(LEASES)).data == []
        ended.set()
        await asyncio.gather(*later)
        with pytest.raises(StoreClosedError):
            await store.read(LEASES)

    asyncio.run(main())


def test_a_store_is_not_bound_to_a_loop(directory: Path) -> None:
    """One store after the other in loops of their own, and one store in several loops."""
    for number in range(3):
        run(directory, partial(append, item=number))
    shared = asyncio.run(_opened(directory))
    for number in range(3, 6):
        asyncio.run(append(shared, number))
    together = [threading.Thread(target=asyncio.run, args=[append(shared, 6)]) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert shared.sync_store.read(LEASES).data == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    asyncio.run(shared.aclose())
    with pytest.raises(StoreClosedError):
        asyncio.run(append(shared, 7))


async def _opened(directory: Path) -> AsyncRuntimeStore:
    return await AsyncRuntimeStore.open(directory)


def test_a_child_process_is_told_to_open_its_own(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads stay with the parent, so a forked child would wait for ever."""

    async def main(store: AsyncRuntimeStore) -> None:
        with monkeypatch.context() as child:
            child.setattr("os.getpid", lambda: -1)
            with pytest.raises(StoreClosedError, match="forked"):
                await store.read(LEASES)
            await store.aclose()
        assert not issubclass(StoreClosedError, RetryableError)
        assert await store.batches() == []

    run(directory, main)
