"""Cases of age: after a long history, and after much writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from rtstore import Descriptor, RuntimeStore
from rtstore.control.contents import KEEP_EVERYTHING
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.benchmarks import history
from tests.benchmarks.bench import Bench
from tests.benchmarks.documents import Documents, Supply, descriptors, open_store, write
from tests.benchmarks.measure import Figure, Operation, Target, compare, quantities, race
from tests.benchmarks.opening import Opening

FRESH = "the same, fresh"
WRITE, LOOK, SIZE = Target(1.1), Target(1.2), Target(1.5)

_LAST_SAMPLES = 50
"""Sizes are the largest of the last few: the WAL grows until a checkpoint lets it be used anew."""


def long_history(bench: Bench) -> Iterator[Figure]:
    """Writing, planning and opening after 0 to a million batches, everything kept."""
    sizes, known = bench.sizes, descriptors(bench.sizes.stores)
    directories = {batches: bench.directory / str(batches) for batches in sizes.histories}
    for batches, directory in directories.items():
        first = Documents(sizes.document_bytes).some(item.schema_name for item in known)
        history.build(directory, known, batches, first)
    with ExitStack() as stack:
        stores = {
            batches: stack.enter_context(open_store(directory, known, retention=KEEP_EVERYTHING))
            for batches, directory in directories.items()
        }
        plans = [Operation("plan", store.plan_recovery) for store in stores.values()]
        yield from _against_fresh(bench, "plan_recovery", plans, sizes.turn, LOOK)
        for count in (1, 5):
            names = [item.schema_name for item in known[:count]]
            writes = [
                _writing(store, Supply(names, sizes.document_bytes)) for store in stores.values()
            ]
            title = f"write_batch, k = {count}"
            yield from _against_fresh(bench, title, writes, sizes.history_turn, WRITE)
    openings = [_opening(known, directory) for directory in directories.values()]
    yield from _against_fresh(bench, "open", openings, sizes.turn, LOOK)


def _writing(store: RuntimeStore, supply: Supply) -> Operation:
    return Operation("write", lambda: write(store, supply.documents), prepare=supply.make)


def _opening(known: Sequence[Descriptor], directory: Path) -> Operation:
    return Opening(known, lambda: directory).operation("open")


def _against_fresh(
    bench: Bench, what: str, contenders: list[Operation], turn: int, target: Target
) -> Iterator[Figure]:
    fresh, *old = race(contenders, bench.sizes.pace, turn=turn)
    for batches, times in zip(bench.sizes.histories[1:], old, strict=True):
        title = f"{what} after {batches:,} batches"
        yield compare("history", title, times, FRESH, fresh, target=target)


def wal(bench: Bench) -> Iterator[Figure]:
    """The WAL beside a reader that stays in its transaction: no checkpoint goes past it."""
    sizes, known = bench.sizes, descriptors(1)
    documents = Documents(sizes.wal_document_bytes)
    with open_store(bench.directory / "rtstore", known) as store:
        write(store, documents.some(store.descriptors.names))
        database = store.directory / DATABASE_NAME
        with closing(sqlite3.connect(database, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM runtime_manifest").fetchone()
            for _ in range(sizes.wal_batches):
                write(store, documents.some(store.descriptors.names))
            grown = database.with_name(f"{DATABASE_NAME}-wal").stat().st_size / 1e6
    title = f"WAL beside a reader, {sizes.wal_batches:,} batches"
    written = sizes.wal_batches * sizes.wal_document_bytes / 1e6
    yield quantities("wal", title, [grown], "their documents", [written], unit="MB")


def size_on_disk(bench: Bench) -> Iterator[Figure]:
    """Database and WAL after much writing with the default retention."""
    sizes, known = bench.sizes, descriptors(bench.sizes.stores)
    documents, names = Documents(sizes.document_bytes), [item.schema_name for item in known]
    few, many = sizes.size_batches
    found: dict[int, float] = {}
    with open_store(bench.directory / "rtstore", known) as store:
        for number in range(1, many + 1):
            # One store after the other, and all of them now and then, as a runtime does.
            write(
                store, documents.some(names if number % 20 == 0 else [names[number % len(names)]])
            )
            for at in sizes.size_batches:
                if at - _LAST_SAMPLES < number <= at:
                    found[at] = max(found.get(at, 0.0), _megabytes(store.directory))
    title = f"database and WAL after {many:,} batches"
    against = f"the same after {few:,}"
    yield quantities("size", title, [found[many]], against, [found[few]], unit="MB", target=SIZE)


def _megabytes(directory: Path) -> float:
    files = (directory / f"{DATABASE_NAME}{suffix}" for suffix in ("", "-wal"))
    return sum(path.stat().st_size for path in files if path.exists()) / 1e6
