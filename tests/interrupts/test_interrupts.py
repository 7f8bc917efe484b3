"""Whatever line an exception comes at, nobody is harmed, and what is said is true: a sample."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as futures_thread
from pathlib import Path
from typing import Any

import pytest

from rtstore import AsyncRuntimeStore, Batch, RuntimeStore
from rtstore.aio import calls
from rtstore.commit import group
from rtstore.control import lock as lock_module
from rtstore.control.lock import Hold
from tests.interrupts.scenarios import SCENARIOS, Field, close, drop, release, write_batch
from tests.interrupts.strike import PATIENCE_S, Strike
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LEASES,
    breadth,
    new_directory,
    open_store,
)

USUAL = [name for name in SCENARIOS if name not in ("tasks of a loop", "an update that leads")]
"""Scenarios that take little time."""

pytestmark = pytest.mark.filterwarnings(
    # A strike at a line of a `__del__` goes no further.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def sample(seed: str, step: int) -> Iterator[int]:
    """Some lines, others for each scenario."""
    chosen = random.Random(seed)
    return (number + chosen.randrange(step) for number in itertools.count(1, step))


@pytest.mark.parametrize("name", breadth.params(SCENARIOS, normal=USUAL))
def test_an_exception_at_any_line(tmp_path: Path, name: str) -> None:
    """The object works, locks and descriptors are free, no thread hangs, the note is true."""
    step = {"the lock": 2, "the loop of tasks": 37, "close": 67}.get(name, 97)
    field = Field(new_directory(tmp_path), lambda: sample(name, step))
    tally = SCENARIOS[name](field)
    assert tally.points > 3
    assert not tally.faults, str(tally)


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("reading", 41),
        *(
            pytest.param(name, 5 if breadth.is_full() else 25, marks=pytest.mark.thorough)
            for name in SCENARIOS
        ),
    ],
)
def test_an_ordinary_exception_at_any_line(
    tmp_path: Path, name: str, step: int, error: type[Exception]
) -> None:
    """A signal handler may raise it. It is not taken for an error of the data, of the system or of
    the caller: it is what the call raises."""
    field = Field(new_directory(tmp_path), lambda: sample(name, step), error=error)
    tally = SCENARIOS[name](field)
    assert tally.points > 3
    assert not tally.faults, str(tally.faults)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_exception_at_more_lines(tmp_path: Path, name: str) -> None:
    """The same at every seventh line, and in full at each."""
    step = 1 if breadth.is_full() else 7
    field = Field(new_directory(tmp_path), lambda: itertools.count(2, step))
    tally = SCENARIOS[name](field)
    assert not tally.faults, str(tally)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("end", [close, drop])
@pytest.mark.parametrize("step", breadth.params([53, 3, 1], normal=(), thorough=[53, 3]))
def test_nothing_stays_open(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[RuntimeStore], None],
    step: int,
) -> None:
    """A store whose `close`, or whose finalizer, is interrupted leaves no descriptor for good."""
    # The one of pytest keeps the traceback, and all that its frames have, to the end of the test.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write_batch(store, "first")
    tally = release(directory, sample(end.__name__, step), end)
    assert tally.points > 3
    assert not tally.faults, str(tally.faults)


def test_control_a_lock_that_is_released_by_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold whose end is a function in Python, as it used to be, is found out."""

    def leave(self: Hold, *_: object) -> None:
        self.release()

    monkeypatch.setattr(Hold, "__exit__", leave, raising=False)
    field = Field(new_directory(tmp_path), lambda: itertools.count(1), ("control/lock.py",), 0.1)
    assert any("locks left" in fault for fault in SCENARIOS["the lock"](field).faults)


def test_control_an_interrupted_batch_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note that takes for granted that nothing was written is found to be untrue."""
    described = group.PendingBatch.describe

    def describe(self: Any) -> str:
        self.batch = None
        self.log_begun = False
        return described(self)

    monkeypatch.setattr(group.PendingBatch, "describe", describe)
    field = Field(new_directory(tmp_path), lambda: sample("control", 9), ("commit/writer.py",))
    assert any("untrue" in fault for fault in SCENARIOS["write_batch, alone"](field).faults)


def test_both_locks_end_with_the_block(tmp_path: Path) -> None:
    """Also where somebody still has the object; and a lost one ends with it."""
    lock = lock_module.WriterLock(tmp_path)
    with lock.hold() as held:
        assert held.directory is not None
        assert not held.directory.closed
        assert lock.is_held()
    assert held.closed
    assert held.directory.closed
    assert not lock.is_held()
    lost = lock.hold()
    directory = lost.directory
    del lost
    assert directory is not None
    assert directory.closed
    assert not lock.is_held()


def _writes(store: AsyncRuntimeStore, batch_id: str) -> asyncio.Task[Batch]:
    return asyncio.ensure_future(
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={DIAGNOSTICS: batch_id}, batch_id=batch_id
        )
    )


def test_a_second_thread_of_the_pool_does_not_serve_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor that was interrupted while it started its thread starts another one later. Calls
    are carried out once, in their order, all the same."""
    start: Any = ThreadPoolExecutor._adjust_thread_count

    def start_and_forget(self: Any) -> None:
        monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", start)
        start(self)
        self._threads.clear()
        raise Strike

    async def count_threads(folder: Path) -> int:
        folder.mkdir()
        store = AsyncRuntimeStore(open_store(new_directory(folder)))
        monkeypatch.setattr(ThreadPoolExecutor, "_adjust_thread_count", start_and_forget)
        with pytest.raises(Strike):
            await store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 0}, batch_id="struck"
            )
        began, goes_on = threading.Event(), threading.Event()

        def change(_: Any) -> str:
            began.set()
            goes_on.wait(PATIENCE_S)
            return "changed"

        updating = asyncio.ensure_future(
            store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
        )
        await asyncio.to_thread(began.wait, PATIENCE_S)
        writing = _writes(store, "behind")
        for _ in range(5):
            await asyncio.sleep(0.01)
        goes_on.set()
        updated, written = await asyncio.gather(updating, writing)
        struck = await store.batch("struck")  # the thread may have written it, or not
        first = 1 if struck is None else 2
        assert (updated.high_watermark, written.high_watermark) == (first, first + 1)
        threads = [each for each in threading.enumerate() if "rtstore-write" in each.name]
        await store.aclose()
        return len(threads)

    # Mostly the first thread is quick enough that no second one is needed.
    assert any(asyncio.run(count_threads(tmp_path / str(number))) == 2 for number in range(400))


@pytest.fixture
def dying_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """End the next thread of a pool with what it has taken from its queue, when called."""
    monkeypatch.setattr(calls, "RECHECK_S", 0.05)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    item: Any = futures_thread._WorkItem
    works = item.run

    def die(self: Any) -> None:
        monkeypatch.setattr(item, "run", works)
        raise MemoryError

    return lambda: monkeypatch.setattr(item, "run", die)


def test_a_thread_that_ends_outside_of_the_package_is_replaced(
    tmp_path: Path, dying_worker: Callable[[], None]
) -> None:
    """Whoever waits for it is served by another one: a write, a read, the closing."""

    async def main() -> None:
        store = AsyncRuntimeStore(open_store(new_directory(tmp_path)))
        dying_worker()
        assert (await asyncio.wait_for(_writes(store, "first"), PATIENCE_S)).batch_id == "first"
        dying_worker()
        assert (await asyncio.wait_for(store.read(DIAGNOSTICS), PATIENCE_S)).data == "first"
        assert (await asyncio.wait_for(_writes(store, "second"), PATIENCE_S)).batch_id == "second"
        dying_worker()
        await asyncio.wait_for(store.aclose(), PATIENCE_S)

    asyncio.run(main())


def test_threads_do_not_wait_behind_tasks_that_nobody_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying_worker: Callable[[], None]
) -> None:
    """Also when the loop of the tasks does not run any more."""
    monkeypatch.setattr(calls, "RECHECK_S", 2 * PATIENCE_S)
    store = open_store(new_directory(tmp_path), lock_timeout_s=PATIENCE_S)
    wrapped = AsyncRuntimeStore(store)

    async def main() -> None:
        dying_worker()
        task = _writes(wrapped, "of a task")
        await asyncio.sleep(0.01)
        assert write_batch(store, "of a thread").batch_id == "of a thread"
        assert (await task).batch_id == "of a task"
        await wrapped.aclose()

    asyncio.run(main())
