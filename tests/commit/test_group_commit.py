"""Batches of several callers that share a flush: each is a batch of its own all the same."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    Batch,
    BatchFailedError,
    ConflictError,
    InvalidRequestError,
    NewerStoreFileError,
    RuntimeStore,
)
from tests.support import (
    DIAGNOSTICS,
    FILE_OF,
    LEASES,
    LEDGER,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    data_in,
    digest,
    file_of,
    open_store,
    stray_files,
)
from tests.support.groups import Call, Flushes, batch, carry_out, numbers, update

# --- what a group is ----------------------------------------------------------------------------


def test_batches_that_wait_share_one_flush(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flushed transaction logs all that wait, one that is not flushed completes them; each
    batch has its own id, receipts, number and high watermark, in the order of the calls."""
    flushes = Flushes(store.database, monkeypatch)
    names = (LEASES, LEDGER, DIAGNOSTICS)

    outcomes = carry_out(store, *(batch(store, {name: name}) for name in names))

    assert flushes.made == [True, False]
    assert numbers(outcomes) == [1, 2, 3]
    assert store.batches() == outcomes
    assert [item.batch_id for item in store.batches()] == ["batch-1", "batch-2", "batch-3"]
    for name, item in zip(names, store.batches(), strict=True):
        (receipt,) = item.receipts
        content = (store.directory / FILE_OF[name]).read_bytes()
        assert (receipt.schema_name, receipt.content_hash) == (name, digest(content))
        assert receipt.mtime_ns == file_of(store, name).stat().st_mtime_ns
    assert store.manifest().last_committed_batch_id == "batch-3"
    assert store.manifest().last_preparing_batch_id is None


def test_a_store_that_several_write_is_published_once(directory: Path) -> None:
    """The last version is; the others are committed all the same, and stand in the history."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        calls = [batch(store, {LEASES: number, LEDGER: number}) for number in range(3)]
        calls.append(batch(store, {LEASES: "last"}))

        outcomes = carry_out(store, *calls)

        assert numbers(outcomes) == [1, 2, 3, 4]
        renamed = [path for name, path in fs.calls if name == "rename"]
        assert renamed == [directory / FILE_OF[LEDGER], directory / FILE_OF[LEASES]]
        assert data_in(file_of(store, LEASES)) == "last"
        assert data_in(file_of(store, LEDGER)) == 2
        assert store.read(LEASES).batch_id == "batch-4"
        assert store.read(LEDGER).batch_id == "batch-3"
        assert agree(store)
        query = "SELECT content ->> '$.data' FROM store_contents WHERE schema_name = ? ORDER BY 1"
        with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
            found = connection.execute(query, [LEASES]).fetchall()
        assert found == [(0,), (1,), (2,), ("last",)]


def test_a_lone_caller_does_not_wait_for_others(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads at once, and its batch costs one flush."""
    flushes = Flushes(store.database, monkeypatch)
    assert numbers([batch(store, {LEASES: 1})(), batch(store, {LEASES: 2})()]) == [1, 2]
    assert flushes.made == [True, False, True, False]


def test_updates_and_batches_of_many_threads_lose_nothing(directory: Path) -> None:
    """Threads that update one store and threads that write others, all at once: every item is
    there, once, every batch has a number of its own, and files equal the manifest."""
    with RuntimeStore.open(directory) as store, ThreadPoolExecutor(12) as pool:
        calls = [update(store, LEASES, number) for number in range(60)]
        calls += [batch(store, {LEDGER: number}) for number in range(60)]
        calls += [batch(store, {LEDGER: number, DIAGNOSTICS: number}) for number in range(60)]
        outcomes = list(pool.map(lambda call: call(), sorted(calls, key=id)))

        assert sorted(numbers(outcomes)) == list(range(1, 181))
        assert sorted(store.read(LEASES).data) == list(range(60))
        assert agree(store)
        by_watermark = sorted(outcomes, key=lambda item: item.high_watermark or 0)
        assert [item.batch_id for item in store.batches()] == [
            item.batch_id for item in by_watermark
        ]


def test_an_update_carries_others_along(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update must lead, for it needs what is committed; what waits behind it shares its flush,
    and the next update sees all of it."""
    flushes = Flushes(store.database, monkeypatch)
    outcomes = carry_out(
        store,
        update(store, LEASES, "a"),
        batch(store, {LEASES: ["written"], LEDGER: 1}),
        update(store, LEASES, "b"),
        batch(store, {LEDGER: 2}),
    )
    assert numbers(outcomes) == [1, 2, 3, 4]
    assert flushes.made == [True, False] * 2
    assert store.read(LEASES).data == ["written", "b"]
    assert store.read(LEDGER).data == 2
    assert agree(store)


def test_a_compare_and_swap_is_compared_with_what_is_committed(store: RuntimeStore) -> None:
    """Of many that expect the same high watermark one wins, whatever waits before and behind."""
    calls = [batch(store, {LEASES: 0})]
    calls += [batch(store, {LEASES: n}, expected_high_watermark=1) for n in range(1, 6)]
    calls += [batch(store, {LEDGER: 0})]
    outcomes = carry_out(store, *calls)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Batch, Batch, *[ConflictError] * 4, Batch]
    assert store.read(LEASES).data == 1
    assert store.manifest().high_watermark == 3


def test_one_id_given_by_two_callers_is_one_batch(store: RuntimeStore) -> None:
    """The second gets the first result, or an error when its contents are others."""
    first, again, other = carry_out(
        store,
        batch(store, {LEASES: 1}, batch_id="mine"),
        batch(store, {LEASES: 1}, batch_id="mine"),
        batch(store, {LEASES: 2}, batch_id="mine"),
    )
    assert first == again
    assert isinstance(other, InvalidRequestError)
    assert store.manifest().high_watermark == 1


_caller: ContextVar[str] = ContextVar("caller")


def test_ids_and_times_are_made_in_the_context_of_the_caller(directory: Path) -> None:
    """Whichever thread leads, a factory sees the context variables of the one whose batch it is."""
    with open_store(directory, batch_id_factory=_caller.get) as store:

        def named(name: str) -> Call:
            def call() -> Batch:
                _caller.set(name)
                return batch(store, {LEASES: name})()

            return call

        outcomes = carry_out(store, *(named(name) for name in "abc"))
        numbers(outcomes)
        assert [item.batch_id for item in store.batches()] == ["a", "b", "c"]


# --- one bad batch ------------------------------------------------------------------------------


def test_batches_that_are_refused_harm_no_other(directory: Path) -> None:
    """An id that is taken, a receipt id that is taken, a newer file, a clock that is broken: each
    caller gets its own error, and the batches around them are committed."""
    ids, receipts = Ids("batch"), Ids("receipt")
    bad: ContextVar[str] = ContextVar("bad", default="")

    def batch_id() -> str:
        return "batch-1" if bad.get() == "batch id" else ids()

    def receipt_id() -> str:
        return "receipt-1" if bad.get() == "receipt id" else receipts()

    with open_store(directory, batch_id_factory=batch_id, receipt_id_factory=receipt_id) as store:

        def spoilt(kind: str) -> Call:
            def call() -> Batch:
                bad.set(kind)
                return batch(store, {LEDGER: kind})()

            return call

        batch(store, {LEASES: 0})()
        newer = {"schemaVersion": 9, "updatedAt": None, "data": 1}
        (directory / FILE_OF[DIAGNOSTICS]).write_text(json.dumps(newer))
        outcomes = carry_out(
            store,
            batch(store, {LEASES: 1}),
            spoilt("batch id"),
            batch(store, {LEASES: 2}),
            spoilt("receipt id"),
            batch(store, {DIAGNOSTICS: 3}),
            batch(store, {LEASES: 4}),
        )
        good = [outcomes[0], outcomes[2], outcomes[5]]
        assert numbers(good) == [2, 3, 4]
        assert isinstance(outcomes[1], InvalidRequestError)
        assert "batch_id_factory" in str(outcomes[1])
        assert isinstance(outcomes[3], InvalidRequestError)
        assert "receipt_id_factory" in str(outcomes[3])
        assert isinstance(outcomes[4], NewerStoreFileError)
        assert store.read(LEASES).data == 4
        assert len(store.batches()) == 4
        assert json.loads((directory / FILE_OF[DIAGNOSTICS]).read_text()) == newer


def test_evidence_is_kept_once_for_a_group(store: RuntimeStore) -> None:
    """A file that somebody changed by hand goes into quarantine before the first batch of the
    group that writes it, and its row is there, even where that batch is refused later on."""
    batch(store, {LEASES: 0})()
    file_of(store, LEASES).write_bytes(b"by hand")
    outcomes = carry_out(store, batch(store, {LEASES: 1}), batch(store, {LEASES: 2}))
    assert numbers(outcomes) == [2, 3]
    (kept,) = store.quarantined_files()
    assert (store.directory / kept.quarantine_path).read_bytes() == b"by hand"
    assert kept.batch_id == "batch-2"
    assert data_in(file_of(store, LEASES)) == 2


def test_a_batch_that_cannot_be_published_fails_alone(directory: Path) -> None:
    """It is recorded as failed and undone; those before and behind it are committed."""
    broken = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        batch(store, {LEASES: "old", LEDGER: "old"})()
        fs.judge = at("rename", directory / FILE_OF[DIAGNOSTICS], broken)
        outcomes = carry_out(
            store,
            batch(store, {LEASES: 1}),
            batch(store, {LEDGER: 2, DIAGNOSTICS: 2}),
            batch(store, {LEASES: 3}),
        )
        assert numbers([outcomes[0], outcomes[2]]) == [2, 3]
        failed = outcomes[1]
        assert isinstance(failed, BatchFailedError)
        assert (failed.store, failed.undone) == (DIAGNOSTICS, True)
        assert data_in(file_of(store, LEDGER)) == "old"
        assert data_in(file_of(store, LEASES)) == 3
        assert not (directory / FILE_OF[DIAGNOSTICS]).exists()
        assert [item.state.value for item in store.batches()] == [
            "committed", "committed", "failed", "committed",
        ]  # fmt: skip
        assert agree(store)
        assert stray_files(directory) == []
    with open_store(directory) as store:
        assert store.last_recovery is None


@pytest.mark.parametrize("position", [0, 1, 2])
def test_when_one_of_those_that_share_a_store_fails(directory: Path, position: int) -> None:
    """The store gets the last version of those that are left, whichever fails; what the failed one
    wrote elsewhere is as before."""
    fs = WatchedFileSystem(at("rename", directory / FILE_OF[DIAGNOSTICS], OSError(errno.EIO, "")))
    with open_store(directory, fs=fs) as store:
        batch(store, {LEASES: "old", LEDGER: "old"})()
        calls = []
        for number in range(3):
            writes: dict[str, Any] = {LEASES: number, LEDGER: number}
            calls.append(batch(store, writes | ({DIAGNOSTICS: 1} if number == position else {})))
        outcomes = carry_out(store, *calls)

        left = [number for number in range(3) if number != position]
        assert numbers([outcomes[number] for number in left]) == [2, 3]
        assert isinstance(outcomes[position], BatchFailedError)
        assert data_in(file_of(store, LEASES)) == data_in(file_of(store, LEDGER)) == left[-1]
        assert store.read(LEASES).data == left[-1]
        assert agree(store)


def test_all_that_share_a_store_that_cannot_be_written_fail(directory: Path) -> None:
    """Each for itself, and the store is as it was before the group."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        batch(store, {LEASES: "old"})()
        fs.judge = at("rename", directory / FILE_OF[LEASES], OSError(errno.EIO, "broken"))
        outcomes = carry_out(
            store,
            batch(store, {LEASES: 1}),
            batch(store, {LEDGER: 2}),
            batch(store, {LEASES: 3, LEDGER: 3}),
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [BatchFailedError, Batch, BatchFailedError]
        assert data_in(file_of(store, LEASES)) == "old"
        assert data_in(file_of(store, LEDGER)) == 2
        assert agree(store)


def test_the_same_bytes_in_two_batches_are_nobody_s_alone(directory: Path) -> None:
    """A batch that failed takes nothing from another that wrote the same bytes."""
    fs = WatchedFileSystem(at("rename", directory / FILE_OF[DIAGNOSTICS], OSError(errno.EIO, "")))
    with open_store(directory, fs=fs) as store:
        outcomes = carry_out(
            store,
            batch(store, {LEASES: "same"}),
            batch(store, {LEASES: "same", DIAGNOSTICS: 1}),
        )
        assert numbers(outcomes[:1]) == [1]
        assert isinstance(outcomes[1], BatchFailedError)
        assert data_in(file_of(store, LEASES)) == "same"
        assert agree(store)
