"""Cases of many callers: threads of one process, and processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from tests.benchmarks.bench import Bench
from tests.benchmarks.children import Child
from tests.benchmarks.crowd import LOCK_TIMEOUT_S, Crowd
from tests.benchmarks.documents import descriptors, open_store
from tests.benchmarks.measure import Figure, Target, quantities
from tests.benchmarks.sizes import Sizes

ONE_CALLER, ONE_PROCESS = "one caller", "one process"
MANY = Target(8, at_least=True)
MANY_CALLERS = 64
UNIT = "batches/s"


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
        one, *others = take_turns(crowds, sizes)
    titles = [f"{number} callers, a store each" for number in sizes.callers[1:]]
    titles.append(f"{most} callers, same store")
    targets = [MANY if number == MANY_CALLERS else None for number in (*sizes.callers[1:], most)]
    for title, speeds, target in zip(titles, others, targets, strict=True):
        yield quantities("callers", title, speeds, ONE_CALLER, one, unit=UNIT, target=target)
    yield from _with_longer_flushes(bench, most)


def _with_longer_flushes(bench: Bench, callers: int) -> Iterator[Figure]:
    """What sharing flushes gains depends on what one takes. So the same where strace holds up
    those of SQLite, and hardly anything else."""
    for longer_ms in bench.sizes.longer_flushes_ms:
        try:
            one, *others = _speeds(bench, callers, longer_ms)
        except (OSError, RuntimeError):
            bench.notes.append(
                "no callers with longer flushes: strace is missing, or may not trace"
            )
            return
        longer = f"flush +{longer_ms} ms"
        for kind, speeds in zip(("a store each", "same store"), others, strict=True):
            title = f"{callers} callers, {kind}, {longer}"
            yield quantities("callers", title, speeds, f"{ONE_CALLER}, {longer}", one, unit=UNIT)


def _speeds(bench: Bench, callers: int, longer_ms: int) -> list[list[float]]:
    """Batches a second: of one caller, of many with a store each, and with the same store."""
    hold_up = f"inject=fdatasync:delay_enter={longer_ms * 1000}"
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=fdatasync", "-e", hold_up)
    trace = bench.directory / "trace"
    arguments = (bench.directory / f"longer-{longer_ms}", callers, bench.sizes.document_bytes)
    rounds = []
    with Child("crowds", *arguments, under=[*strace, "-o", str(trace)]) as child:
        child.wait()
        for number in range(-1, bench.sizes.pace.rounds_min):
            child.go(bench.sizes.batches_per_caller)
            said = [float(speed) for speed in child.wait().split()]
            if number >= 0:
                rounds.append(said)
    return [list(speeds) for speeds in zip(*rounds, strict=True)]


class Callers(Protocol):
    """Some callers that write into one store at once."""

    callers: int

    def turn(self, each: int) -> float:
        """Let every caller write that many batches; return how many a second together."""


def take_turns(crowds: Sequence[Callers], sizes: Sizes) -> list[list[float]]:
    """Let crowds write in turn; return how many batches a second each made, round by round."""
    pace = sizes.pace
    turns = [
        max(sizes.batches_per_caller, sizes.batches_per_turn // crowd.callers) for crowd in crowds
    ]
    for crowd, each in zip(crowds, turns, strict=True):
        crowd.turn(each)
    speeds: list[list[float]] = [[] for _ in crowds]
    deadline = time.monotonic() + 2 * pace.budget_s
    while len(speeds[0]) < pace.rounds_max:
        if len(speeds[0]) >= pace.rounds_min and time.monotonic() >= deadline:
            break
        for crowd, each, found in zip(crowds, turns, speeds, strict=True):
            found.append(crowd.turn(each))
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
