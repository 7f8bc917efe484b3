"""Cases of reading: one store, all stores, the plan, the readiness."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from rtstore import KNOWN_DESCRIPTORS, Descriptor, RuntimeStore
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.benchmarks import peers
from tests.benchmarks.bench import Bench, human_size
from tests.benchmarks.documents import IDENTITY, Documents, descriptors, open_store, write
from tests.benchmarks.floors import read_and_hash, read_and_parse
from tests.benchmarks.measure import Figure, Operation, Target, compare, race

PARSE, QUERY = "read and parse the file", "raw sqlite3 query, parsed"
PARSE_ALL, HASH_ALL = "read and parse the files", "read and hash the files"
READ, READINESS = Target(2.0), Target(3.0)

_CURRENT = (
    "SELECT content FROM manifest_entries JOIN store_contents USING (schema_name, batch_number)"
)


class RawReader:
    """Committed contents asked for in raw `sqlite3`, on a connection that stays open."""

    def __init__(self, directory: Path) -> None:
        uri = f"{(directory / DATABASE_NAME).absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)

    def read(self, name: str) -> Any:
        """The data of one store."""
        row = self._connection.execute(f"{_CURRENT} WHERE schema_name = ?", (name,)).fetchone()
        return json.loads(row[0])["data"]

    def snapshot(self) -> list[Any]:
        """The data of all stores."""
        return [json.loads(row[0])["data"] for row in self._connection.execute(_CURRENT)]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def filled(
    directory: Path, known: Sequence[Descriptor], size: int, stack: ExitStack
) -> tuple[RuntimeStore, list[Path]]:
    """A store in which everything was written once, and its files."""
    store = stack.enter_context(open_store(directory, known))
    documents = Documents(size)
    whole = known is KNOWN_DESCRIPTORS
    write(store, documents.known() if whole else documents.some(store.descriptors.names))
    return store, [directory / item.relative_path for item in known]


def read(bench: Bench) -> Iterator[Figure]:
    """One store, small and large."""
    sizes = bench.sizes
    for size in (sizes.document_bytes, sizes.large_document_bytes):
        directory = bench.directory / str(size)
        directory.mkdir()
        with ExitStack() as stack:
            known = descriptors(1)
            store, paths = filled(directory / "rtstore", known, size, stack)
            name = known[0].schema_name
            raw = stack.enter_context(closing(RawReader(store.directory)))
            contenders = [
                Operation("rtstore", partial(store.read, name)),
                Operation(PARSE, partial(read_and_parse, paths)),
                Operation(QUERY, partial(raw.read, name)),
                *_peers(directory, name, size, stack),
            ]
            large = size == sizes.large_document_bytes
            turn = sizes.slow_turn if large else 10 * sizes.turn
            times = race(contenders, sizes.pace, turn=turn)
        for contender, floor in zip(contenders[1:], times[1:], strict=True):
            target = READ if contender.name == PARSE else None
            title = f"read, {human_size(size)}"
            yield compare("read", title, times[0], contender.name, floor, target=target)


def _peers(directory: Path, name: str, size: int, stack: ExitStack) -> Iterator[Operation]:
    for title, peer in peers.available(directory):
        stack.enter_context(closing(peer))
        peer.write(Documents(size).some([name]))
        yield Operation(title, partial(peer.read, name))


def snapshot(bench: Bench) -> Iterator[Figure]:
    """All stores as of one batch."""
    sizes = bench.sizes
    with ExitStack() as stack:
        known = descriptors(sizes.stores)
        store, paths = filled(bench.directory / "rtstore", known, sizes.document_bytes, stack)
        raw = stack.enter_context(closing(RawReader(store.directory)))
        contenders = [
            Operation("rtstore", store.snapshot),
            Operation(PARSE_ALL, partial(read_and_parse, paths)),
            Operation(QUERY, raw.snapshot),
        ]
        times = race(contenders, sizes.pace, turn=2 * sizes.turn)
    for contender, floor in zip(contenders[1:], times[1:], strict=True):
        title = f"snapshot of {sizes.stores} stores"
        yield compare("snapshot", title, times[0], contender.name, floor)


def readiness(bench: Bench) -> Iterator[Figure]:
    """The plan and the readiness check: the known stores, a few others, and many."""
    sizes = bench.sizes
    for known, what in (
        (KNOWN_DESCRIPTORS, f"the {len(KNOWN_DESCRIPTORS)} known stores"),
        (descriptors(sizes.stores), f"{sizes.stores} stores"),
        (descriptors(sizes.many_stores), f"{sizes.many_stores:,} stores"),
    ):
        with ExitStack() as stack:
            store, paths = filled(bench.directory / what, known, sizes.document_bytes, stack)
            assert store.check_readiness(expected=IDENTITY).ok
            contenders = [
                Operation("check", partial(store.check_readiness, expected=IDENTITY)),
                Operation("plan", partial(store.plan_recovery, expected=IDENTITY)),
                Operation(HASH_ALL, partial(read_and_hash, paths)),
            ]
            many = len(known) == sizes.many_stores
            check, plan, floor = race(
                contenders, sizes.pace, turn=sizes.slow_turn if many else sizes.turn
            )
        target = None if many else READINESS
        title = f"check_readiness, {what}"
        yield compare("readiness", title, check, HASH_ALL, floor, target=target)
        yield compare("readiness", f"plan_recovery, {what}", plan, HASH_ALL, floor)
