"""Cases of asyncio: many tasks beside as many threads, and one beside one caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from rtstore import AsyncRuntimeStore, RuntimeStore
from tests.benchmarks.bench import Bench
from tests.benchmarks.concurrency import ONE_CALLER, UNIT, take_turns
from tests.benchmarks.crowd import LOCK_TIMEOUT_S, Crowd
from tests.benchmarks.documents import IDENTITY, REASON, Documents, descriptors, open_store
from tests.benchmarks.measure import Figure, Target, quantities

AS_FAST_AS_THREADS, MANY_TASKS = Target(1.3, at_least=True), Target(8, at_least=True)
ONE_TASK = Target(0.95, at_least=True)


class TaskCrowd:
    """Some tasks of one loop that write into one store at once."""

    def __init__(
        self, store: RuntimeStore, names: Sequence[str], callers: int, size: int, stack: ExitStack
    ) -> None:
        self.callers = callers
        self._store = AsyncRuntimeStore(store)
        self._names = names
        self._documents = [Documents(size) for _ in range(callers)]
        self._runner = stack.enter_context(asyncio.Runner())

    def turn(self, each: int) -> float:
        """Let every task write that many batches; return how many a second together."""
        return self._runner.run(self._turn(each))

    async def _turn(self, each: int) -> float:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self.callers):
                group.create_task(self._call(number, each))
        return each * self.callers / (time.perf_counter() - start)

    async def _call(self, number: int, batches: int) -> None:
        name, documents = self._names[number % len(self._names)], self._documents[number]
        for _ in range(batches):
            await self._store.write_batch(
                identity=IDENTITY, reason=REASON, writes={name: documents.new()}
            )


def tasks(bench: Bench) -> Iterator[Figure]:
    """Tasks that all write the same store, beside threads that do, and beside one caller."""
    sizes = bench.sizes
    most, known = max(sizes.callers), descriptors(1)
    names = [known[0].schema_name]
    with ExitStack() as stack:
        options = {"lock_timeout_s": LOCK_TIMEOUT_S}
        store = stack.enter_context(open_store(bench.directory / "rtstore", known, **options))
        crowds = [
            kind(store, names, callers, sizes.document_bytes, stack)
            for kind in (Crowd, TaskCrowd)
            for callers in (1, most)
        ]
        one_caller, threads, one_task, many = take_turns(crowds, sizes)
    title = f"{most} tasks, same store"
    for against, floor, target in (
        (f"{most} threads, same store", threads, AS_FAST_AS_THREADS),
        (ONE_CALLER, one_caller, MANY_TASKS),
    ):
        yield quantities("tasks", title, many, against, floor, unit=UNIT, target=target)
    yield quantities(
        "tasks", "1 task", one_task, ONE_CALLER, one_caller, unit=UNIT, target=ONE_TASK
    )
