"""The history of a store has an end in bytes, too: large documents are kept a few times only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    KEEP_EVERYTHING,
    Retention,
    RuntimeStore,
    RuntimeStoreError,
)
from rtstore.control import retention
from tests.support import LEASES, LEDGER, agree, open_store, write

KIB = 1024


def kept(directory: Path, store: str) -> list[int]:
    """The sizes of the contents that are there, oldest first."""
    with closing(sqlite3.connect(f"file:{directory / DATABASE_NAME}?mode=ro", uri=True)) as raw:
        rows = raw.execute(
            "SELECT length(CAST(content AS BLOB)) FROM store_contents WHERE schema_name = ?"
            " ORDER BY batch_number",
            (store,),
        )
        return [int(size) for (size,) in rows]


def write_large(store: RuntimeStore, count: int, kib: int, name: str = LEASES) -> None:
    """Write documents of about that size."""
    for number in range(count):
        write(store, name, f"{number}" + "x" * kib * KIB)


def only_bytes(kib: int) -> Retention:
    """A retention that limits nothing else."""
    return Retention(batches=None, contents_per_store=None, content_bytes=kib * KIB)


def test_what_is_kept_is_not_much_more(directory: Path) -> None:
    """After every batch there is no more than the limit and an eighth of it, or the one content
    that is current."""
    with open_store(directory, retention=only_bytes(100)) as store:
        for number in range(60):
            write_large(store, 1, (1, 3, 20, 40)[number % 4])
            sizes = kept(directory, LEASES)
            assert sum(sizes) <= 100 * KIB * 9 // 8 + 100 * KIB // 8
            assert sum(sizes) >= 50 * KIB or number < 12
        assert agree(store)


def test_each_store_has_its_own(directory: Path) -> None:
    """A large document does not push out the history of a small one."""
    with open_store(directory, retention=only_bytes(100)) as store:
        write_large(store, 20, 1, LEDGER)
        write_large(store, 20, 60, LEASES)
        assert len(kept(directory, LEDGER)) == 20
        assert len(kept(directory, LEASES)) == 1


def test_what_is_current_stays_whatever_its_size(directory: Path) -> None:
    """One that is larger than the limit is kept, alone."""
    with open_store(directory, retention=only_bytes(10)) as store:
        write_large(store, 5, 30)
        assert len(kept(directory, LEASES)) == 1
        assert store.read(LEASES).data.startswith("4x")
        assert len(store.batches()) == 5


def test_prune_drops_it_at_once(directory: Path) -> None:
    """With the numbers that the dry run told."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        write_large(store, 30, 10)
        told = store.prune(only_bytes(55), dry_run=True)
        done = store.prune(only_bytes(55))
        assert (told.contents, told.content_bytes) == (done.contents, done.content_bytes)
        assert (done.batches, done.contents) == (0, 25)
        assert len(kept(directory, LEASES)) == 5
        assert store.prune(only_bytes(55)).contents == 0


def test_a_long_history_goes_by_and_by(directory: Path) -> None:
    """A smaller limit takes what a larger one left, in a few batches."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        write_large(store, 100, 2)
    with RuntimeStore.open(directory, retention=only_bytes(20)) as store:
        counts = []
        for _ in range(20):
            write_large(store, 1, 2)
            counts.append(len(kept(directory, LEASES)))
        assert counts[0] >= 90, "one batch does not pay for all of it"
        assert counts[-1] <= 11


def test_it_is_remembered(directory: Path) -> None:
    """Like the other limits; a new directory has the default, which keeps 64 MiB of a store."""
    with open_store(directory) as store:
        assert store.retention.content_bytes == 64 << 20
    with open_store(directory, retention=only_bytes(7)):
        pass
    with open_store(directory) as store:
        assert store.retention == only_bytes(7)


def test_a_history_that_was_kept_for_ever_is_weighed_by_and_by(directory: Path) -> None:
    """However many contents there are, and however little is written since: in the end no more are
    there than the limit allows, and no fewer."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for _ in range(300):
            write_large(store, 1, 1)
        told = store.prune(only_bytes(150), dry_run=True)
    with RuntimeStore.open(directory, retention=only_bytes(150)) as store:
        counts = []
        for _ in range(30):
            write(store, LEDGER, 1)
            write(store, LEASES, 1)
            counts.append(len(kept(directory, LEASES)))
    assert counts[0] == 301, "one batch does not weigh all of it"
    assert counts[-1] <= told.contents_left + 30
    assert counts[-1] >= told.contents_left


def test_what_is_left_to_weigh_survives_a_failing_transaction(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch after it goes on."""

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for _ in range(100):
            write_large(store, 1, 1)
    with RuntimeStore.open(directory, retention=only_bytes(40)) as store:
        with monkeypatch.context() as patch:
            patch.setattr(retention, "delete_contents", refuse)
            with pytest.raises(RuntimeStoreError):
                write(store, LEASES, 1)
        for _ in range(30):
            write(store, LEASES, 1)
        assert len(kept(directory, LEASES)) <= 31 + 40
        assert agree(store)


def test_what_a_small_database_has_is_not_weighed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store has more bytes of history than the database has. They are added up only when that,
    and what was written since, is an eighth of what is kept."""
    weighed = []
    weigh = retention._weigh

    def noted(*args: Any) -> Any:
        weighed.append(args[2])
        return weigh(*args)

    monkeypatch.setattr(retention, "_weigh", noted)
    with open_store(directory) as store:
        write_large(store, 3, 1)
    size = (directory / DATABASE_NAME).stat().st_size
    for eighth, expected in ((2 * size, []), (size // 2, [LEASES])):
        with RuntimeStore.open(directory, retention=Retention(content_bytes=8 * eighth)) as store:
            write_large(store, 3, 1)
        assert weighed == expected
    with RuntimeStore.open(directory, retention=Retention(content_bytes=16 * size)) as store:
        write_large(store, 3, size >> 10)
    assert set(weighed[1:]) == {LEASES}
