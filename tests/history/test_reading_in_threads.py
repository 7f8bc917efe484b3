"""One store shared by threads, and readers beside a writer: everybody sees whole batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import ReadinessImpact, RuntimeStore
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LEASES,
    LEDGER,
    agree,
    file_of,
    new_directory,
    open_store,
    plain_descriptor,
)

STORES = (LEASES, LEDGER, DIAGNOSTICS)
BATCHES = 40


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory of three plain stores in which batch 0 was committed."""
    directory = new_directory(tmp_path)
    descriptors = [plain_descriptor(name, f"{name}.json") for name in STORES]
    with open_store(directory, descriptors=descriptors, batch_id_factory=lambda: "first") as store:
        write_all(store, 0)
    return directory


def write_all(store: RuntimeStore, number: int) -> None:
    """Write the same number into all stores."""
    store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={name: [number] * 200 for name in STORES}
    )


def together(*workers: Callable[[], None]) -> None:
    """Run workers in threads of their own; the first error of any of them is raised here."""
    errors: list[BaseException] = []

    def run(worker: Callable[[], None]) -> None:
        try:
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def beside_a_writer(directory: Path, look: Callable[[RuntimeStore, int], int]) -> None:
    """Look again and again, through stores of one's own and a shared one, while batches are
    written; a look gets what it gave last and gives the number that it saw."""
    done = threading.Event()
    with RuntimeStore.open(directory) as writer, RuntimeStore.open(directory) as other:

        def work() -> None:
            try:
                for number in range(1, BATCHES + 1):
                    write_all(writer, number)
            finally:
                done.set()

        def reader(store: RuntimeStore) -> Callable[[], None]:
            def work() -> None:
                seen = 0
                while not done.is_set():
                    seen = look(store, seen)

            return work

        together(work, reader(writer), reader(other), reader(other))
        assert agree(writer)
        assert writer.manifest().high_watermark == BATCHES + 1


def test_a_snapshot_is_of_one_batch_while_others_are_written(directory: Path) -> None:
    """All stores of it hold the same number, which is that of its watermark and never goes back."""

    def look(store: RuntimeStore, seen: int) -> int:
        snapshot = store.snapshot()
        [number] = {content.data[0] for content in snapshot.contents.values()}
        assert len(snapshot.contents) == len(STORES)
        assert number == snapshot.high_watermark - 1 >= seen
        return int(number)

    beside_a_writer(directory, look)


def test_a_verified_read_never_mistakes_the_writer_for_somebody_else(directory: Path) -> None:
    """A file that is a batch ahead of its entry is not one changed by hand."""

    def look(store: RuntimeStore, seen: int) -> int:
        number = min(store.read(name).data[0] for name in STORES)
        assert number >= seen
        return int(number)

    beside_a_writer(directory, look)


def test_a_plan_made_beside_a_writer_finds_nothing(directory: Path) -> None:
    """Not one false alarm: a living writer is not a crash."""

    def look(store: RuntimeStore, seen: int) -> int:
        plan = store.plan_recovery()
        assert plan.diagnostics == ()
        assert (plan.manifest_healthy, plan.readiness_impact) == (True, ReadinessImpact.NONE)
        assert plan.high_watermark is not None
        assert plan.high_watermark > seen - 1
        return plan.high_watermark

    beside_a_writer(directory, look)


def test_a_file_is_always_one_whole_version(directory: Path) -> None:
    """Programs that know nothing of us read JSON, never half of two versions."""

    def look(store: RuntimeStore, seen: int) -> int:
        for name in STORES:
            data = json.loads(file_of(store, name).read_bytes())["data"]
            assert len(data) == 200
            assert len(set(data)) == 1
            assert data[0] >= seen
        return seen

    beside_a_writer(directory, look)


def test_opening_beside_a_writer_recovers_nothing(directory: Path) -> None:
    """Who opens the store while others write finds no crash to clean up."""
    with RuntimeStore.open(directory) as writer:

        def open_again() -> None:
            for _ in range(15):
                with RuntimeStore.open(directory) as store:
                    assert store.last_recovery is None

        def work() -> None:
            for number in range(60):
                write_all(writer, number)

        together(work, open_again, open_again)
        assert agree(writer)


def test_threads_that_update_one_store_lose_nothing(directory: Path) -> None:
    """Shared or opened anew: every entry that was added is there, once."""

    def append(store: RuntimeStore, worker: int) -> None:
        for number in range(25):

            def add(data: list[Any], entry: str = f"{worker}/{number}") -> list[Any]:
                return [*data, entry]

            store.update(LEDGER, add, identity=IDENTITY, reason="delivery_commit")

    with RuntimeStore.open(directory) as shared, RuntimeStore.open(directory) as other:
        together(
            *(
                lambda store=store, worker=worker: append(store, worker)
                for worker, store in enumerate([shared, shared, shared, other])
            )
        )

        entries = [entry for entry in shared.read(LEDGER).data if entry]
        assert sorted(entries) == sorted(f"{w}/{n}" for w in range(4) for n in range(25))
        assert shared.manifest().high_watermark == 101
        assert agree(shared)


def test_more_readers_than_connections_all_get_an_answer(directory: Path) -> None:
    """The number of threads is the runtime's affair."""
    with RuntimeStore.open(directory) as store:
        gate = threading.Barrier(40)

        def read() -> None:
            gate.wait()
            for _ in range(5):
                assert store.read(LEASES).data == [0] * 200

        together(*[read] * 40)
