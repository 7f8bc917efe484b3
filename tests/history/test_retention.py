"""History has an end; what is current has none."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, KEEP_EVERYTHING, BatchFailedError, Retention, RuntimeStore
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    open_store,
    write,
)


def query(directory: Path, statement: str, *values: Any) -> list[Any]:
    """What the database says, to somebody who opens it for reading."""
    path = directory / DATABASE_NAME
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        return [row[0] if len(row) == 1 else row for row in raw.execute(statement, values)]


def kept_contents(directory: Path, store: str) -> list[int]:
    """The numbers of the batches whose content of a store is there, oldest first."""
    statement = "SELECT batch_number FROM store_contents WHERE schema_name = ? ORDER BY 1"
    return query(directory, statement, store)


def kept_batches(directory: Path) -> list[int]:
    """The numbers of the batches that are known, oldest first."""
    return query(directory, "SELECT batch_number FROM write_batches ORDER BY 1")


def write_many(store: RuntimeStore, count: int, name: str = LEASES) -> None:
    """Write a store again and again."""
    for number in range(count):
        write(store, name, number)


def test_contents_are_kept_per_store(directory: Path) -> None:
    """A store written often does not push out the history of one written seldom."""
    with open_store(directory, retention=Retention(batches=None, contents_per_store=3)) as store:
        write_many(store, 2, LEDGER)
        write_many(store, 10, LEASES)
        write(store, LEDGER, "last")

        assert kept_contents(directory, LEASES) == [10, 11, 12]
        assert kept_contents(directory, LEDGER) == [1, 2, 13]
        assert kept_batches(directory) == list(range(1, 14))
        assert len(store.batches()) == 13


def test_a_receipt_outlives_its_content(directory: Path) -> None:
    """That it was written stays known for longer than what was written."""
    with open_store(directory, retention=Retention(batches=5, contents_per_store=1)) as store:
        write_many(store, 4)

        assert [len(batch.receipts) for batch in store.batches()] == [1] * 4
        assert query(directory, "SELECT data FROM store_history ORDER BY high_watermark") == [
            None,
            None,
            None,
            3,
        ]


def test_batches_are_kept_by_number_with_their_receipts_and_contents(directory: Path) -> None:
    """Older ones go whole; the watermark goes on counting."""
    with open_store(directory, retention=Retention(batches=3, contents_per_store=None)) as store:
        write_many(store, 10)

        assert [batch.batch_id for batch in store.batches()] == ["batch-8", "batch-9", "batch-10"]
        assert kept_contents(directory, LEASES) == [8, 9, 10]
        assert store.manifest().high_watermark == 10
        assert store.batch("batch-7") is None


@pytest.mark.parametrize(
    "retention",
    [
        Retention(batches=1, contents_per_store=1),
        Retention(batches=1, contents_per_store=None),
        Retention(batches=None, contents_per_store=1),
    ],
    ids=str,
)
def test_current_content_stays_however_old_it_is(directory: Path, retention: Retention) -> None:
    """A store written once, long ago, can still be read and put back; so stays its batch."""
    with open_store(directory, retention=retention) as store:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: "old", LEASES: "old"}
        )
        write_many(store, 40)

        assert store.read(LEDGER).data == "old"
        assert store.read(LEDGER).batch_id == "batch-1"
        assert 1 in kept_batches(directory)
        assert kept_contents(directory, LEDGER) == [1]
        (directory / FILE_OF[LEDGER]).unlink()
    with open_store(directory) as store:
        assert agree(store)


def test_failed_batches_go_with_the_others(directory: Path) -> None:
    """They hold a number like every batch, and no more."""
    fs = WatchedFileSystem()
    retention = Retention(batches=3, contents_per_store=2)
    with open_store(directory, retention=retention, fs=fs) as store:
        write_many(store, 2)
        fs.judge = at("rename", directory / FILE_OF[LEASES], OSError(28, "no space"))
        for _ in range(3):
            with pytest.raises(BatchFailedError):
                write(store, LEASES, "never")
        assert store.read(LEASES).data == 1  # pushed out by no failed batch
        fs.judge = None
        write_many(store, 3)

        assert kept_batches(directory) == [6, 7, 8]
        assert kept_contents(directory, LEASES) == [7, 8]
        assert store.manifest().high_watermark == 5
        assert agree(store)


def test_a_smaller_retention_catches_up_in_bites(directory: Path) -> None:
    """No batch pays for all of a long history; after some of them it is gone."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        write_many(store, 60)
    lengths = [60]
    small = Retention(batches=5, contents_per_store=5)
    with open_store(
        directory,
        retention=small,
        batch_id_factory=lambda: f"later-{len(lengths)}",
        receipt_id_factory=lambda: f"later-receipt-{len(lengths)}",
    ) as store:
        while lengths[-1] > 5:
            write(store, LEASES, "more")
            lengths.append(len(kept_batches(directory)))
            assert lengths[-2] + 1 - lengths[-1] <= 16
            assert len(lengths) < 30

        assert len(kept_contents(directory, LEASES)) == 5
        assert agree(store)


def test_history_that_is_dropped_in_bites_is_never_an_eighth_too_long(directory: Path) -> None:
    """Batches that drop nothing are followed by one that drops for all of them."""
    keep = Retention(batches=40, contents_per_store=24)
    with open_store(directory, retention=keep) as store:
        contents, batches = [], []
        for number in range(80):
            write(store, LEASES if number % 3 else LEDGER, number)
            contents.append(len(kept_contents(directory, LEASES)))
            batches.append(len(kept_batches(directory)))

    assert 24 < max(contents) <= 24 + 3
    assert 40 < max(batches) <= 40 + 5
    assert min(contents[60:]) == 24
    assert min(batches[60:]) <= 41


def test_processes_that_write_a_batch_each_drop_history_too(directory: Path) -> None:
    """None of them comes to a second batch."""
    keep = Retention(batches=40, contents_per_store=24)
    for number in range(50):
        with open_store(
            directory,
            retention=keep,
            batch_id_factory=Ids(f"batch-{number}"),
            receipt_id_factory=Ids(f"receipt-{number}"),
        ) as store:
            write(store, LEASES, number)
    assert (len(kept_contents(directory, LEASES)), len(kept_batches(directory))) == (24, 40)


def test_what_is_dropped_leaves_no_loose_ends(directory: Path) -> None:
    """Every reference in the database holds, and no content is without its receipt."""
    with open_store(directory, retention=Retention(batches=4, contents_per_store=2)) as store:
        for number in range(12):
            write(store, LEASES if number % 3 else LEDGER, number)

        assert query(directory, "PRAGMA foreign_key_check") == []
        assert query(directory, "PRAGMA integrity_check") == ["ok"]
        assert len(kept_contents(directory, LEASES)) <= 2


@pytest.mark.parametrize("field", ["batches", "contents_per_store", "max_age"])
@pytest.mark.parametrize("value", [0, -1])
def test_keeping_nothing_is_not_possible(field: str, value: int) -> None:
    """The last content is what is committed, so at least one of each stays."""
    with pytest.raises(ValueError, match=field.split("_")[0]):
        Retention.model_validate({field: value})


def test_batches_are_kept_by_age(directory: Path) -> None:
    """A batch that ended longer ago than the limit goes, in chunks; what is current stays."""
    moments = (NOON + timedelta(hours=number) for number in itertools.count())
    keep = Retention(batches=None, contents_per_store=None, max_age=timedelta(hours=10))
    with open_store(directory, retention=keep, clock=lambda: next(moments)) as store:
        write(store, LEDGER, "current all the time")
        write_many(store, 60)
        newest = store.batches()[-1].started_at
        ages = [newest - batch.started_at for batch in store.batches()]
        assert store.read(LEDGER).data == "current all the time"
    assert sum(age > timedelta(hours=10) for age in ages) == 1
    assert 1 < len(ages) < 12


def test_a_wal_that_a_long_reader_made_grow_shrinks_again(directory: Path) -> None:
    """While somebody reads, a checkpoint cannot begin the WAL anew; what it grew to meanwhile is
    not kept for as long as the store is open."""
    path = directory / DATABASE_NAME
    wal = path.with_name(path.name + "-wal")
    with open_store(directory) as store:
        write(store, LEASES, 0)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM runtime_manifest").fetchall()
            for number in range(12):
                write(store, LEDGER, {"large": "x" * 2_000_000, "number": number})
            grown = wal.stat().st_size
            assert grown > 20_000_000
        for number in range(3):
            write(store, LEASES, number)
        assert wal.stat().st_size <= 16 * 1024 * 1024 < grown
        assert agree(store)


def test_dropping_a_content_writes_it_no_second_time(directory: Path) -> None:
    """A batch that drops an old content writes its own content into the WAL, and no zeros over the
    old one, whatever this build of SQLite does by itself."""
    path = directory / DATABASE_NAME
    wal = path.with_name(path.name + "-wal")
    size, grown = 400_000, []
    with open_store(directory, retention=Retention(contents_per_store=2)) as store:
        for number in range(24):
            with closing(sqlite3.connect(path)) as raw:
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            write(store, LEDGER, {"large": "x" * size, "number": number})
            grown.append(wal.stat().st_size)
        assert len(kept_contents(directory, LEDGER)) <= 3, "contents are dropped meanwhile"
    assert sum(grown[12:]) / 12 < 1.5 * size


def test_space_is_given_back(directory: Path) -> None:
    """When much history is dropped the file shrinks again, a chunk with each batch, while it is in
    use; a file with little room to spare stays as it is."""
    path = directory / DATABASE_NAME
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(80):
            write(store, LEDGER, {"large": "x" * 100_000, "number": number})
    large = path.stat().st_size
    assert large > 8_000_000
    with RuntimeStore.open(
        directory, retention=Retention(batches=5, contents_per_store=2)
    ) as store:
        sizes: list[int] = []
        for number in range(160):
            write(store, LEASES, number)
            sizes.append(query(directory, "SELECT page_count FROM pragma_page_count")[0] * 4096)
        assert agree(store)
    assert sizes[-1] < large / 4
    steps = [before - after for before, after in itertools.pairwise(sizes)]
    assert max(steps) <= 64 * 4096, "one batch pays for all of it"
    assert sizes[-1] == sizes[-2]
