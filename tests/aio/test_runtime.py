"""A small runtime of many tasks on one store: what it commits, and how the loop fares meanwhile."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rtstore import KEEP_EVERYTHING, AsyncRuntimeStore, LockTimeoutError, WriterLock
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    agree,
    answer,
    child,
    hear,
    new_directory,
    plain_descriptor,
)
from tests.support.aio import append, heartbeat, run, write
from tests.support.groups import Flushes

WHIMS = "own.whims"
STORES = (LEASES, LEDGER, DIAGNOSTICS, WHIMS)
PAUSE_S = 0.005


class Runtime:
    """Tasks that share a store; each counts what it did."""

    def __init__(self, store: AsyncRuntimeStore) -> None:
        self.store = store
        self.counts: Counter[str] = Counter()
        self.over = asyncio.Event()
        self.kept: set[str] = set()
        """What was committed of the calls that were, perhaps, cancelled."""

    async def update(self, number: int) -> None:
        """Append to one store ten times."""
        for turn in range(10):
            await append(self.store, [number, turn])
            self.counts["updates"] += 1

    async def write(self, number: int) -> None:
        """Write the same into two stores five times."""
        for turn in range(5):
            both = {LEDGER: [number, turn] * 50, DIAGNOSTICS: [number, turn] * 50}
            await self.store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=both)
            self.counts["batches"] += 1

    async def change_its_mind(self, number: int) -> None:
        """Make ten calls, and cancel each a little later; keep what was committed all the same."""
        loop, chance = asyncio.get_running_loop(), random.Random(number)
        for turn in range(10):
            name = f"{number}-{turn}"
            task = asyncio.ensure_future(append(self.store, name, WHIMS))
            loop.call_later(chance.expovariate(5), task.cancel)
            try:
                await task
            except asyncio.CancelledError as error:
                self.counts["cancelled"] += 1
                if "is committed" not in error.__notes__[0]:
                    continue
                self.counts["cancelled, but committed"] += 1
            self.kept.add(name)

    async def read(self) -> None:
        """See whole batches, and never an older one than before."""
        seen = 0
        while not self.over.is_set():
            snapshot = await self.store.snapshot()
            assert snapshot.data(LEDGER) == snapshot.data(DIAGNOSTICS)
            assert snapshot.high_watermark >= seen
            seen = snapshot.high_watermark
            assert isinstance((await self.store.read(LEASES)).data, list)
            self.counts["reads"] += 2
            await asyncio.sleep(PAUSE_S)

    async def plan(self) -> None:
        """Find everything healthy beside living writers."""
        while not self.over.is_set():
            plan, readiness = await self.store.assess(expected=IDENTITY)
            assert plan.manifest_healthy
            assert readiness.ok
            self.counts["plans"] += 1
            await asyncio.sleep(PAUSE_S)

    async def live(self) -> None:
        """Forty-eight tasks: 12 update, 12 write, 12 read, 4 plan, 8 change their mind."""
        async with asyncio.TaskGroup() as looking:
            for _ in range(12):
                looking.create_task(self.read())
            for _ in range(4):
                looking.create_task(self.plan())
            async with asyncio.TaskGroup() as changing:
                for number in range(12):
                    changing.create_task(self.update(number))
                    changing.create_task(self.write(number))
                for number in range(8):
                    changing.create_task(self.change_its_mind(number))
            self.over.set()


@pytest.fixture
def _small_heap() -> Iterator[None]:
    """The garbage collector looks at the objects of this test only. What it takes to look at all
    those of a test run, some 100 ms in which no thread runs, would be all that is measured."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_small_heap")
def test_many_tasks_lose_no_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty-eight tasks at once: no update is lost, whoever is cancelled knows what is committed,
    everybody sees whole batches, a living writer never looks like damage, and the loop goes on."""
    late: list[float] = []

    async def main(store: AsyncRuntimeStore) -> None:
        empty: dict[str, list[Any]] = {name: [] for name in STORES}
        await store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=empty)
        runtime = Runtime(store)
        flushes = Flushes(store.database, monkeypatch)
        beat = asyncio.create_task(heartbeat(late))
        started = time.monotonic()
        await runtime.live()
        took_s = time.monotonic() - started
        beat.cancel()

        assert runtime.counts["updates"] == 120
        assert runtime.counts["batches"] == 60
        leases = (await store.read(LEASES)).data
        assert sorted(leases) == [[number, turn] for number in range(12) for turn in range(10)]
        assert set((await store.read(WHIMS)).data) == runtime.kept
        batches = (await store.manifest()).high_watermark - 1
        assert batches == 120 + 60 + len(runtime.kept)
        assert await asyncio.to_thread(agree, store.sync_store)
        print(
            f"\n48 tasks, {batches} batches in {flushes.made.count(True)} flushes, "
            f"{runtime.counts['cancelled']} cancellations, {took_s:.1f} s; {in_words(late)}\n"
            f"{dict(runtime.counts)}"
        )

    descriptors = [plain_descriptor(name, f"{name}.json") for name in STORES]
    run(tmp_path / "runtime", main, team_name=TEAM, descriptors=descriptors)
    assert sorted(late)[len(late) * 99 // 100] < 0.5


def test_nobody_waits_behind_writes_that_wait_for_the_lock(tmp_path: Path) -> None:
    """While another program holds the lock for a second, the loop and its default executor are
    free, reads go on, and all writes in the queue give up after one time-out, not one by one."""
    directory = new_directory(tmp_path)
    late: list[float] = []

    async def main(store: AsyncRuntimeStore) -> None:
        await append(store, 0)
        reads = 0
        beat = asyncio.create_task(heartbeat(late))
        with WriterLock(directory).hold():
            started = time.monotonic()
            writes = [asyncio.create_task(append(store, number)) for number in range(40)]
            while not any(write.done() for write in writes):
                assert (await store.read(LEASES)).data == [0]
                await asyncio.to_thread(int)
                reads += 1
            results = await asyncio.gather(*writes, return_exceptions=True)
            waited_s = time.monotonic() - started
        beat.cancel()
        assert {type(result) for result in results} == {LockTimeoutError}
        assert reads > 1
        assert 1 <= waited_s < 20
        print(f"\n40 writes gave up together after {waited_s:.2f} s (the time-out is 1 s);", end="")
        print(f" {reads} reads meanwhile; {in_words(late)}")
        assert (await append(store, 1)).high_watermark == 2

    run(directory, main, lock_timeout_s=1)
    assert max(late) < 0.9, "a loop that waits for the lock itself is late by a second"


# --- cancellation at any moment -------------------------------------------------------------------


class Callers:
    """Tasks that are cancelled at random moments, and what each was told of its calls."""

    def __init__(self, store: AsyncRuntimeStore, chance: random.Random) -> None:
        self.store = store
        self.chance = chance
        self.told: dict[str, str] = {}

    async def call(self, name: str) -> None:
        """Write, or append, under a name of its own; keep what was said."""
        self.told[name] = "never called"
        try:
            if name.startswith("write"):
                await write(self.store, LEDGER, name, batch_id=name)
            else:
                await append(self.store, name)
        except asyncio.CancelledError as error:
            (note,) = error.__notes__
            if "is committed" in note:
                self.told[name] = "committed by the note"
            else:
                assert "nothing of it was carried out" in note
                self.told[name] = "not begun by the note"
            raise
        self.told[name] = "committed"

    async def work(self, number: int) -> None:
        """Make calls, and cancel each at some moment, some of them twice, some not at all."""
        loop = asyncio.get_running_loop()
        for turn in range(25):
            name = f"{self.chance.choice(('write', 'update'))}-{number}-{turn}"
            task = asyncio.create_task(self.call(name))
            for _ in range(self.chance.choice((0, 1, 1, 2))):
                loop.call_later(self.chance.expovariate(40), task.cancel)
            await asyncio.wait({task})


@contextmanager
def another_writer(directory: Path, chance: random.Random) -> Iterator[None]:
    """Somebody else takes the writer lock now and then."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(chance.uniform(0.02, 0.05)):
            with WriterLock(directory).hold(60):
                over.wait(chance.uniform(0, 0.02))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_moment_callers_know_what_is_committed(tmp_path: Path, seed: int) -> None:
    """A batch is there exactly when its caller got it, or was told so by the note."""
    chance = random.Random(seed)
    directory = new_directory(tmp_path)
    counts: Counter[str] = Counter()

    async def main(store: AsyncRuntimeStore) -> None:
        callers = Callers(store, chance)
        with another_writer(directory, random.Random(seed)):
            await asyncio.gather(*(callers.work(number) for number in range(6)))
        names = {batch.batch_id for batch in await store.batches()}
        leases = (await store.snapshot([LEASES])).data(LEASES) or []
        assert len(leases) == len(set(leases))
        there = {name for name in names if name.startswith("write")} | set(leases)
        told = {name for name, what in callers.told.items() if what.startswith("committed")}
        assert there == told
        assert (await store.manifest()).high_watermark == len(told)
        assert await asyncio.to_thread(agree, store.sync_store)
        counts.update(callers.told.values())

    run(directory, main, retention=KEEP_EVERYTHING)
    print(f"\n150 calls, seed {seed}: {dict(sorted(counts.items()))}")
    assert counts["committed"]
    assert counts["not begun by the note"]


# --- a process that is interrupted ----------------------------------------------------------------

INTERRUPTED = """
import asyncio
from rtstore import AsyncRuntimeStore, RunIdentity

def change(_):
    say("running")
    wait()
    return "kept"

async def main():
    async with AsyncRuntimeStore.open(sys.argv[1]) as store:
        try:
            await store.update("opencode.hostLeases", change, reason="host_lease_update",
                identity=RunIdentity(run_id="r", capability_snapshot_id="c"))
        except asyncio.CancelledError as error:
            say(*error.__notes__)
            raise

try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("interrupted")
"""


def test_ctrl_c_says_what_was_committed(tmp_path: Path) -> None:
    """A real process, interrupted twice in the middle of an update: it ends whole, and says so."""
    directory = new_directory(tmp_path)
    with child(INTERRUPTED, directory) as process:
        assert hear(process) == "running"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            assert process.poll() is None
        answer(process)
        assert "is committed" in hear(process)
        assert hear(process) == "interrupted"
    run(directory, lambda store: _expect(store, "kept"))


async def _expect(store: AsyncRuntimeStore, data: Any) -> None:
    assert (await store.read(LEASES)).data == data
    assert store.last_recovery is None


# --- measurements ---------------------------------------------------------------------------------


def in_words(late: list[float]) -> str:
    """How late the loop was."""
    in_order = [f"{1e3 * seconds:.1f}" for seconds in sorted(late)]
    middle, most = in_order[len(late) // 2], in_order[len(late) * 99 // 100]
    return (
        f"the loop was late by {middle} ms (median), {most} ms (99 %), {in_order[-1]} ms "
        f"(longest) at {len(late)} looks"
    )
