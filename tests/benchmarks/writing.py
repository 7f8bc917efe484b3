"""Cases of writing: batches, updates, and how often they flush."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rtstore import Descriptor, RuntimeStore
from tests.benchmarks import flushes, peers
from tests.benchmarks.bench import Bench, human_size
from tests.benchmarks.documents import (
    IDENTITY,
    REASON,
    Documents,
    Supply,
    descriptors,
    open_store,
    write,
)
from tests.benchmarks.floors import (
    FAST_CODEC,
    PLAIN_CODEC,
    FlushedDocument,
    FlushedFiles,
    FullCommit,
    RawProtocol,
    fast_dumps,
)
from tests.benchmarks.measure import Figure, Operation, Pace, Target, compare, quantities, race

RAW = "raw sqlite3"
RAW_CAREFUL = "raw sqlite3, step 2 and retention"
RAW_FAST = "raw sqlite3, fast encoder"
COMMIT, FILES = "one FULL commit", "flushed files, no database"

LARGE_FAST = "parse, encode, hash, write, one flush"
LARGE_PLAIN = "the same with the standard library's json"
MEDIAN = "their median"
COLLECTION = "Python's garbage collection of all that was imported"

TARGETS = {1: Target(1.15), 5: Target(1.3)}
FLUSHES = Target(1.0)
LARGE = Target(1.3)
MOST, LONGEST = Target(2.5), Target(12)

SMALL_DOCUMENT_BYTES = 200
"""In a batch of thousands of stores, whose contents would else fill the disk."""


def write_batch(bench: Bench) -> Iterator[Figure]:
    """A batch of 1, 2, 5 and 10 stores, and of a large document."""
    sizes = bench.sizes
    for count in (1, 2, 5, 10):
        title = f"write_batch, k = {count}, {human_size(sizes.document_bytes)}"
        directory = bench.directory / f"k{count}"
        directory.mkdir()
        with ExitStack() as stack:
            contenders = writers(
                directory, count, sizes.document_bytes, stack, everybody=count in (1, 5)
            )
            times = race(contenders, sizes.pace, turn=sizes.turn, warm_up=sizes.warm_up)
        for contender, floor in zip(contenders[1:], times[1:], strict=True):
            target = TARGETS.get(count) if contender.name == RAW else None
            yield compare("write", title, times[0], contender.name, floor, target=target)
    title = f"write_batch, k = 1, {human_size(sizes.large_document_bytes)}"
    directory = bench.directory / "large"
    directory.mkdir()
    with ExitStack() as stack:
        contenders = writers(directory, 1, sizes.large_document_bytes, stack, everybody=True)
        times = race(contenders, sizes.pace, turn=sizes.slow_turn)
    for contender, floor in zip(contenders[1:], times[1:], strict=True):
        yield compare("write", title, times[0], contender.name, floor)
    if missing := [name for name in peers.ALL if not _there(name)]:
        bench.notes.append(f"not installed: {', '.join(missing)} ({peers.INSTALL})")


def _there(distribution: str) -> bool:
    return peers.version_of(distribution) is not None


def writers(
    directory: Path, count: int, size: int, stack: ExitStack, *, everybody: bool
) -> list[Operation]:
    """The contenders that write batches of `count` stores; the library is the first."""
    known = descriptors(count)
    names = [item.schema_name for item in known]
    store = stack.enter_context(open_store(directory / "rtstore", known))
    supply = Supply(names, size)
    found = [
        _writing(store, supply),
        _raw(RAW, directory / "raw", known, size, stack),
    ]
    if not everybody:
        return found
    found += [
        _raw(RAW_CAREFUL, directory / "careful", known, size, stack, careful=True),
        _raw(RAW_FAST, directory / "fast", known, size, stack, encode=fast_dumps),
    ]
    commit = stack.enter_context(closing(FullCommit(directory / "commit")))
    ready = Supply(names, size)
    found.append(Operation(COMMIT, lambda: commit.write(ready.contents), prepare=ready.make_bytes))
    files = FlushedFiles(directory / "files")
    plain = Supply(names, size)
    found.append(Operation(FILES, lambda: files.write(plain.contents), prepare=plain.make_bytes))
    for name, peer in peers.available(directory):
        stack.enter_context(closing(peer))
        found.append(_peer(name, peer, Supply(names, size)))
    return found


def _raw(
    name: str,
    directory: Path,
    known: tuple[Descriptor, ...],
    size: int,
    stack: ExitStack,
    **options: Any,
) -> Operation:
    raw = stack.enter_context(closing(RawProtocol(directory, known, **options)))
    supply = Supply([item.schema_name for item in known], size)
    return Operation(name, lambda: raw.write(supply.documents), prepare=supply.make)


def _peer(name: str, peer: peers.Peer, supply: Supply) -> Operation:
    return Operation(name, lambda: peer.write(supply.documents), prepare=supply.make)


def update(bench: Bench) -> Iterator[Figure]:
    """An update of one store: read, changed and written under the writer lock."""
    sizes, known = bench.sizes, descriptors(1)
    name = known[0].schema_name
    first = Documents(sizes.document_bytes).some([name])

    def change(data: Any) -> Any:
        return {**data, "revision": data["revision"] + 1}

    with (
        open_store(bench.directory / "rtstore", known) as store,
        closing(RawProtocol(bench.directory / "raw", known)) as raw,
    ):
        write(store, first)
        raw.write(first)
        ours = Operation(
            "rtstore", lambda: store.update(name, change, identity=IDENTITY, reason=REASON)
        )
        floor = Operation(RAW, lambda: raw.update(name, change))
        times = race([ours, floor], sizes.pace, turn=sizes.turn, warm_up=sizes.warm_up)
    title = f"update, {human_size(sizes.document_bytes)}"
    yield compare("update", title, times[0], RAW, times[1])


def update_large(bench: Bench) -> Iterator[Figure]:
    """An update of a large document, beside doing the same to a file."""
    size, known = bench.sizes.update_bytes, descriptors(1)
    name = known[0].schema_name
    first = Documents(size).some([name])

    def change(data: Any) -> Any:
        data["revision"] += 1
        return data

    with open_store(bench.directory / "rtstore", known) as store:
        write(store, first)
        ours = Operation(
            "rtstore", lambda: store.update(name, change, identity=IDENTITY, reason=REASON)
        )
        contenders = [ours]
        for title, codec in ((LARGE_FAST, FAST_CODEC), (LARGE_PLAIN, PLAIN_CODEC)):
            file = FlushedDocument(bench.directory / f"{len(contenders)}.json", first[name], codec)
            contenders.append(Operation(title, partial(file.update, change)))
        times = race(contenders, bench.sizes.pace, turn=bench.sizes.slow_turn)
    for contender, floor in zip(contenders[1:], times[1:], strict=True):
        target = LARGE if contender.name == LARGE_FAST else None
        title = f"update, {human_size(size)}"
        yield compare("large", title, times[0], contender.name, floor, target=target)


def tail(bench: Bench) -> Iterator[Figure]:
    """The slowest of many batches of one caller, with the default retention.

    Some ten thousand batches after the imports, Python's garbage collector looks once at everything
    that was imported. That pause is a figure of its own, and does not fall into a batch here.
    """
    known, count = descriptors(1), bench.sizes.tail_batches
    supply = Supply([known[0].schema_name], bench.sizes.document_bytes)
    with open_store(bench.directory / "rtstore", known) as store, _imports_set_aside() as pause_s:
        pace, warm_up = Pace(1, 1, 0), bench.sizes.warm_up
        (times,) = race([_writing(store, supply)], pace, turn=count, warm_up=warm_up)
    median = [1e3 * times.percentile(50)]
    for title, percent, target in (("99 % take at most", 99, MOST), ("the longest", 100, LONGEST)):
        subject = f"{count:,} batches: {title}"
        slowest = [1e3 * times.percentile(percent)]
        yield quantities("tail", subject, slowest, MEDIAN, median, unit="ms", target=target)
    yield quantities("tail", COLLECTION, [1e3 * pause_s], MEDIAN, median, unit="ms")


@contextmanager
def _imports_set_aside() -> Iterator[float]:
    """Set everything that was imported aside from garbage collection. Yield how many seconds a
    collection took that looked at it (docs.python.org/3/library/gc.html, gc.freeze)."""
    start = time.perf_counter()
    gc.collect()
    pause_s = time.perf_counter() - start
    gc.freeze()
    try:
        yield pause_s
    finally:
        gc.unfreeze()


def scale(bench: Bench) -> Iterator[Figure]:
    """A batch of many stores, beside one of fewer."""
    sizes = bench.sizes
    contenders = []
    with ExitStack() as stack:
        for count in sizes.scale:
            known = descriptors(count)
            store = stack.enter_context(open_store(bench.directory / str(count), known))
            supply = Supply([item.schema_name for item in known], SMALL_DOCUMENT_BYTES)
            contenders.append(_writing(store, supply))
        few, many = race(contenders, Pace(sizes.scale_turns, sizes.scale_turns, 0), turn=1)
    (fewer, more), target = sizes.scale, Target(14)
    title, against = f"a batch of {more:,} stores", f"a batch of {fewer:,} stores"
    yield compare("scale", title, many, against, few, target=target)


def _writing(store: RuntimeStore, supply: Supply) -> Operation:
    return Operation("rtstore", lambda: write(store, supply.documents), prepare=supply.make)


def count_flushes(bench: Bench) -> Iterator[Figure]:
    """Flushes of a batch in the steady state, as the operating system counts them."""
    counted = flushes.count(
        bench.directory / "flushes", (1, 2, 5, 10), bench.sizes, bench.directory / "trace"
    )
    if counted is None:
        bench.notes.append("flushes were not counted: strace is missing, or may not trace")
        return
    floor = counted.pop(0)
    for count, numbers in counted.items():
        title = f"flushes of a batch, k = {count}"
        yield quantities("flushes", title, numbers, COMMIT, floor, unit="", target=FLUSHES)
