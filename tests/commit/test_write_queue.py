"""The queue of the writers of one process: nobody waits for ever, whatever befalls who leads."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    BatchUnfinishedError,
    ConflictError,
    DatabaseFailedError,
    InvalidRequestError,
    LockTimeoutError,
    RuntimeStore,
    WriterLock,
)
from rtstore.model.request import batch_request
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    Ids,
    WatchedFileSystem,
    agree,
    open_store,
)
from tests.support.groups import Flushes, batch, carry_out, numbers, together, update


def test_when_the_completion_fails_each_is_decided(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every caller hears that its batch is in the log; the next write finishes them, in order."""
    real = store._writer.publisher.complete

    def complete(*logged: Any) -> int:
        monkeypatch.setattr(store._writer.publisher, "complete", real)
        raise DatabaseFailedError(store.directory, "a test")

    monkeypatch.setattr(store._writer.publisher, "complete", complete)
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
    real, failures = store.database.read_on_writer, [1]

    def read(query: Any) -> Any:
        if failures:
            failures.pop()
            raise DatabaseFailedError(store.directory, "a test")
        return real(query)

    with together(store, [batch(store, {LEASES: n}) for n in range(3)]) as futures:
        monkeypatch.setattr(store.database, "read_on_writer", read)
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
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from rtstore import RuntimeStore, StoreClosedError
from tests.support.groups import batch, together
LEASES = "opencode.hostLeases"
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
    monkeypatch.setattr("rtstore.commit.group.GROUP_MAX", 2)
    outcomes = carry_out(store, *(batch(store, {LEASES: n}) for n in range(5)))
    assert numbers(outcomes) == [1, 2, 3, 4, 5]
    assert flushes.made.count(True) == 3
    flushes.made.clear()
    monkeypatch.setattr("rtstore.commit.group.GROUP_BYTES_MAX", 1)
    assert numbers(carry_out(store, *(batch(store, {LEASES: n}) for n in range(3)))) == [6, 7, 8]
    assert flushes.made.count(True) == 3


def test_an_adoption_goes_alone(store: RuntimeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the queue like any batch, in its order, and nothing shares its flush: undoing
    another batch of its group would take the adopted bytes out of the file."""
    flushes = Flushes(store.database, monkeypatch)
    batch(store, {LEASES: 0, LEDGER: 0})()
    path = store.directory / store.descriptors.get(LEASES).relative_path
    path.write_bytes(path.read_bytes().replace(b'"data": 0', b'"data": 7'))
    flushes.made.clear()
    outcomes = carry_out(
        store,
        batch(store, {LEDGER: 1}),
        lambda: store.adopt(LEASES),
        batch(store, {LEDGER: 2}),
        batch(store, {LEASES: 3}),
    )
    assert numbers(outcomes) == [2, 3, 4, 5]
    assert flushes.made.count(True) == 3
    assert store.read(LEASES, at=3).data == 7
    assert agree(store)


def test_submissions_of_one_thread_share_a_flush(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches that one thread hands over at once are a group too, each with its outcome,
    also where they are more than a group holds."""
    flushes = Flushes(store.database, monkeypatch)
    monkeypatch.setattr("rtstore.commit.group.GROUP_MAX", 3)
    pending = [
        store._writer.prepare(
            batch_request(
                TEAM,
                store.descriptors,
                identity=IDENTITY,
                reason=CHECKPOINT,
                writes={LEASES: number},
            ),
            expected_high_watermark=0 if number == 1 else None,
        )
        for number in range(5)
    ]
    store._writer.write_pending(pending)
    assert flushes.made.count(True) == 3  # a compare and swap begins a group
    assert [item.error is None for item in pending] == [True, False, True, True, True]
    assert isinstance(pending[1].error, ConflictError)
    assert store.read(LEASES).data == 4
