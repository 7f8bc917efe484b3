"""Cases of many callers: threads of one process, and processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

from rtstore import RuntimeStore

from .bench import Bench
from .children import Child
from .documents import Documents, descriptors, open_store, write
from .measure import Figure, Pace, Target, quantities
from .workers import LOCK_TIMEOUT_S

ONE_CALLER, ONE_PROCESS = "one caller", "one process"
MANY = Target(8, at_least=True)
MANY_CALLERS = 64
UNIT = "batches/s"


class Crowd:
    """Some threads that write into one store at once."""

    def __init__(
        self, store: RuntimeStore, names: Sequence[str], callers: int, size: int, stack: ExitStack
    ) -> None:
        self._store = store
        self._names = names
        self._callers = callers
        self._documents = [Documents(size) for _ in range(callers)]
        self._pool = stack.enter_context(ThreadPoolExecutor(callers))

    def turn(self, batches: int) -> float:
        """Let them write that many batches together; gives how many a second."""
        each = max(1, batches // self._callers)
        barrier = Barrier(self._callers + 1)
        done = [
            self._pool.submit(self._call, number, each, barrier) for number in range(self._callers)
        ]
        barrier.wait()
        start = time.perf_counter()
        for future in done:
            future.result()
        return each * self._callers / (time.perf_counter() - start)

    def _call(self, number: int, batches: int, barrier: Barrier) -> None:
        name, documents = self._names[number % len(self._names)], self._documents[number]
        barrier.wait()
        for _ in range(batches):
            write(self._store, {name: documents.new()})


def callers(bench: Bench) -> Iterator[Figure]:
    """Threads that write a store each, and threads that all write the same one."""
    sizes = bench.sizes
    most = max(sizes.callers)
    known = descriptors(most)
    names = [item.schema_name for item in known]
    with ExitStack() as stack:
        options = {"lock_timeout_s": LOCK_TIMEOUT_S}
        store = stack.enter_context(open_store(bench.directory / "rtstore", known, **options))
        crowds = [
            Crowd(store, names, number, sizes.document_bytes, stack) for number in sizes.callers
        ]
        crowds.append(Crowd(store, names[:1], most, sizes.document_bytes, stack))
        one, *others = _rounds(crowds, sizes.pace, sizes.batches_per_turn)
    titles = [f"{number} callers, a store each" for number in sizes.callers[1:]]
    titles.append(f"{most} callers, all the same store")
    targets = [MANY if number == MANY_CALLERS else None for number in (*sizes.callers[1:], most)]
    for title, speeds, target in zip(titles, others, targets, strict=True):
        yield quantities("callers", title, speeds, ONE_CALLER, one, unit=UNIT, target=target)


def _rounds(crowds: Sequence[Crowd], pace: Pace, batches: int) -> list[list[float]]:
    for crowd in crowds:
        crowd.turn(batches)
    speeds: list[list[float]] = [[] for _ in crowds]
    deadline = time.monotonic() + 2 * pace.budget_s
    while len(speeds[0]) < pace.rounds_max:
        if len(speeds[0]) >= pace.rounds_min and time.monotonic() >= deadline:
            break
        for crowd, found in zip(crowds, speeds, strict=True):
            found.append(crowd.turn(batches))
    return speeds


def processes(bench: Bench) -> Iterator[Figure]:
    """Processes that write a store each, beside one alone and beside the raw protocol."""
    sizes, count = bench.sizes, bench.sizes.processes
    batches = max(1, sizes.batches_per_turn // count)
    speeds: dict[str, list[float]] = {"one": [], "all": [], "raw": []}
    with ExitStack() as stack:

        def start(kind: str, directory: str) -> list[Child]:
            place = bench.directory / directory
            open_store(place, descriptors(count)).close()
            return [
                stack.enter_context(Child(kind, place, count, number, sizes.document_bytes))
                for number in range(count)
            ]

        ours, raw = start("write", "rtstore"), start("write-raw", "raw")
        for child in (*ours, *raw):
            child.wait()
        for number in range(-1, sizes.pace.rounds_min):
            found = {
                "one": _speed(ours[:1], batches * count),
                "all": _speed(ours, batches),
                "raw": _speed(raw, batches),
            }
            if number >= 0:
                for kind, speed in found.items():
                    speeds[kind].append(speed)
    title = f"{count} processes, a store each"
    yield quantities("processes", title, speeds["all"], ONE_PROCESS, speeds["one"], unit=UNIT)
    against = f"raw sqlite3, {count} processes"
    yield quantities("processes", title, speeds["all"], against, speeds["raw"], unit=UNIT)


def _speed(children: Sequence[Child], batches: int) -> float:
    start = time.perf_counter()
    for child in children:
        child.go(batches)
    for child in children:
        child.wait()
    return batches * len(children) / (time.perf_counter() - start)
