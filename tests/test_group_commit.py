"""Batches of several callers that share a flush: each is a batch of its own all the same.

A group is made for certain by holding the writer lock until all its callers wait in the queue.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    Batch,
    BatchFailedError,
    BatchUnfinishedError,
    ConflictError,
    Database,
    DatabaseFailedError,
    InvalidRequestError,
    LockTimeoutError,
    NewerStoreFileError,
    RuntimeStore,
    WriterLock,
)

from .support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    data_in,
    digest,
    file_of,
    new_directory,
    open_store,
    stray_files,
)

Call = Callable[[], Batch]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which nothing was committed yet."""
    return new_directory(tmp_path)


@pytest.fixture
def store(directory: Path) -> Iterator[RuntimeStore]:
    """Its store."""
    with open_store(directory) as store:
        yield store


def batch(store: RuntimeStore, writes: dict[str, Any], **options: Any) -> Call:
    """A call that writes one batch."""
    return lambda: store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes, **options)


def update(store: RuntimeStore, name: str, item: Any) -> Call:
    """A call that appends to a store."""
    return lambda: store.update(
        name, lambda data: [*(data or []), item], identity=IDENTITY, reason=CHECKPOINT
    )


@contextmanager
def together(store: RuntimeStore, calls: Sequence[Call]) -> Iterator[list[Future[Batch]]]:
    """Have calls made by a thread each, one after the other; inside of the block all of them wait
    in the queue, and after it they have ended."""
    queue = store._writer._queue
    with ThreadPoolExecutor(len(calls)) as pool:  # noqa: SIM117 - the lock is let go first
        with store.lock.hold():
            futures = []
            for number, call in enumerate(calls, start=1):
                futures.append(pool.submit(call))
                deadline = time.monotonic() + 10
                while len(queue._places) < number and not futures[-1].done():
                    assert time.monotonic() < deadline
                    time.sleep(0.0005)
            yield futures


def carry_out(store: RuntimeStore, *calls: Call) -> list[Batch | BaseException]:
    """What calls that were made together gave or raised, in their order."""
    with together(store, calls) as futures:
        pass
    return [future.exception() or future.result() for future in futures]


def numbers(outcomes: Sequence[Batch | BaseException]) -> list[int]:
    """The high watermarks of batches that must be committed."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, Batch), outcome
        assert outcome.high_watermark is not None
        found.append(outcome.high_watermark)
    return found


class Flushes:
    """Counts the write transactions of a store, by whether they are flushed."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[bool] = []
        real = database.write

        def write(*, flush: bool) -> Any:
            self.made.append(flush)
            return real(flush=flush)

        monkeypatch.setattr(database, "write", write)


# --- what a group is ----------------------------------------------------------------------------


def test_batches_that_wait_share_one_flush(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flushed transaction logs all that wait, one that is not flushed seals them; each batch
    has its own id, receipts, number and high watermark, in the order of the calls."""
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


# --- the leader and the others ------------------------------------------------------------------


def test_when_the_seal_fails_each_is_decided(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller hears that its batch is in the log; the next write finishes them, in order."""
    real = store._writer.publisher.seal

    def seal(*logged: Any) -> int:
        monkeypatch.setattr(store._writer.publisher, "seal", real)
        raise DatabaseFailedError(store.directory, "a test")

    monkeypatch.setattr(store._writer.publisher, "seal", seal)
    outcomes = carry_out(store, batch(store, {LEASES: 1}), batch(store, {LEASES: 2}))
    for number, outcome in enumerate(outcomes, start=1):
        assert isinstance(outcome, BatchUnfinishedError)
        assert (outcome.batch_id, outcome.decided) == (f"batch-{number}", True)
    assert numbers([batch(store, {LEDGER: 3})()]) == [3]
    assert store.read(LEASES).data == 2
    assert agree(store)


class _FailingCommit(sqlite3.Connection):
    """Its next COMMIT at FULL does not know whether it was flushed."""

    armed = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT" and _FailingCommit.armed:
            _FailingCommit.armed = False
            super().execute("ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return super().execute(sql, parameters)


def test_when_the_flush_fails_nobody_knows(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller of the group is told so, about its own batch; the process writes no more."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **k: connect(*a, **{"factory": _FailingCommit, **k})
    )
    with open_store(directory) as store:
        with together(store, [batch(store, {LEASES: n}) for n in range(3)]) as futures:
            _FailingCommit.armed = True
        for number, future in enumerate(futures, start=1):
            error = future.exception()
            assert isinstance(error, BatchUnfinishedError)
            assert (error.batch_id, error.decided) == (f"batch-{number}", False)
        with pytest.raises(DatabaseFailedError):
            batch(store, {LEASES: 4})()


class Interrupt(BaseException):
    """Comes to the leader from outside, like KeyboardInterrupt."""


@pytest.mark.parametrize("call", ["create", "rename"])
def test_a_leader_that_is_interrupted_harms_nobody(directory: Path, call: str) -> None:
    """The batches that it carried along are finished by the next leader, once each, in order."""
    struck: list[str] = []

    def judge(_: int, name: str, subject: Path | int) -> BaseException | None:
        if name == call and subject != directory and not struck:
            struck.append(name)
            return Interrupt()
        return None

    fs = WatchedFileSystem(judge)
    with open_store(directory, fs=fs) as store:
        calls = [batch(store, {LEASES: n, LEDGER: n}) for n in range(3)]
        outcomes = carry_out(store, *calls)
        assert isinstance(outcomes[0], Interrupt)
        assert numbers(outcomes[1:]) == [2, 3]  # the first was in the log, and went forward
        assert store.read(LEASES).data == 2
        assert len(store.batches()) == 3
        assert agree(store)


def test_a_leader_interrupted_before_the_log_leaves_the_others_to_the_next(
    directory: Path,
) -> None:
    """Nothing of its own batch is there, all of theirs is."""
    first = threading.Event()

    def clock_or_interrupt() -> str:
        if not first.is_set():
            first.set()
            raise Interrupt
        return ids()

    ids = Ids("batch")
    with open_store(directory, batch_id_factory=clock_or_interrupt) as store:
        outcomes = carry_out(store, *(batch(store, {LEASES: n}) for n in range(3)))
        assert isinstance(outcomes[0], Interrupt)
        assert numbers(outcomes[1:]) == [1, 2]
        assert len(store.batches()) == 2


def test_an_error_of_nobody_is_everybody_s_own(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing can be read, the leader says so, and the next tries for itself."""
    real, failures = store.database.read_as_writer, [1]

    def read(query: Any) -> Any:
        if failures:
            failures.pop()
            raise DatabaseFailedError(store.directory, "a test")
        return real(query)

    with together(store, [batch(store, {LEASES: n}) for n in range(3)]) as futures:
        monkeypatch.setattr(store.database, "read_as_writer", read)
    assert isinstance(futures[0].exception(), DatabaseFailedError)
    assert numbers([future.result() for future in futures[1:]]) == [1, 2]


def test_everybody_in_the_queue_hears_of_a_time_out(directory: Path) -> None:
    """While somebody else holds the lock nobody waits for longer than the time-out, and the queue
    works again afterwards."""
    with open_store(directory, lock_timeout_s=0.3) as store, ThreadPoolExecutor(4) as pool:
        other = WriterLock(directory)
        with other.hold():
            start = time.monotonic()
            futures = [pool.submit(batch(store, {LEASES: n})) for n in range(3)]
            futures.append(pool.submit(update(store, LEDGER, 1)))
            errors = [future.exception() for future in futures]
            taken_s = time.monotonic() - start
        assert [type(error) for error in errors] == [LockTimeoutError] * 4
        assert all("within 0.3 s" in str(error) for error in errors)
        assert 0.3 <= taken_s < 2
        assert numbers([batch(store, {LEASES: 4})()]) == [1]


def test_a_call_within_a_call_is_refused(store: RuntimeStore) -> None:
    """A function that runs under the lock, for whomever, must not write: it would wait for ever."""

    def change(_: Any) -> Any:
        return batch(store, {LEDGER: 1})()

    with pytest.raises(InvalidRequestError, match="inside a write"):
        store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
    assert numbers([batch(store, {LEASES: 1})()]) == [1]


def test_an_update_that_fails_lets_the_others_go_on(store: RuntimeStore) -> None:
    """What its function raises is its caller's; who waits behind it leads next."""

    def fail(_: Any) -> Any:
        raise ZeroDivisionError

    outcomes = carry_out(
        store,
        lambda: store.update(LEASES, fail, identity=IDENTITY, reason=CHECKPOINT),
        batch(store, {LEASES: 1}),
        batch(store, {LEASES: 2}),
    )
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert numbers(outcomes[1:]) == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_forked_in_the_middle_waits_for_nobody(directory: Path) -> None:
    """The threads in the queue stay with the parent: a call in the child is refused at once, and
    the child may open the store anew."""
    script = f"""
import os, sys, threading
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from rtstore import RuntimeStore, StoreClosedError
from tests.test_group_commit import LEASES, batch, together
with RuntimeStore.open({str(directory)!r}) as store:
    with together(store, [batch(store, {{LEASES: n}}) for n in range(3)]):
        pid = os.fork()
        if pid == 0:
            try:
                batch(store, {{LEASES: "child"}})()
            except StoreClosedError:
                os._exit(7)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(store.manifest().high_watermark)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["7", "3"], done.stderr


def test_a_group_has_an_end(store: RuntimeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes later does not make the first wait for any number of others: a group is bounded,
    by the number of its batches and by their bytes."""
    flushes = Flushes(store.database, monkeypatch)
    monkeypatch.setattr("rtstore.group.GROUP_MAX", 2)
    outcomes = carry_out(store, *(batch(store, {LEASES: n}) for n in range(5)))
    assert numbers(outcomes) == [1, 2, 3, 4, 5]
    assert flushes.made.count(True) == 3
    flushes.made.clear()
    monkeypatch.setattr("rtstore.group.GROUP_BYTES_MAX", 1)
    assert numbers(carry_out(store, *(batch(store, {LEASES: n}) for n in range(3)))) == [6, 7, 8]
    assert flushes.made.count(True) == 3


def test_submissions_of_one_thread_share_a_flush(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches that one thread hands over at once are a group too, each with its outcome,
    also where they are more than a group holds."""
    flushes = Flushes(store.database, monkeypatch)
    monkeypatch.setattr("rtstore.group.GROUP_MAX", 3)
    submissions = [
        store.submission(
            identity=IDENTITY,
            reason=CHECKPOINT,
            writes={LEASES: number},
            expected_high_watermark=0 if number == 1 else None,
        )
        for number in range(5)
    ]
    store.write_submissions(submissions)
    assert flushes.made.count(True) == 3  # a compare and swap begins a group
    assert [item.error is None for item in submissions] == [True, False, True, True, True]
    assert isinstance(submissions[1].error, ConflictError)
    assert store.read(LEASES).data == 4
