"""What happened is told: to the observer of a store, and to the log, once it is durable."""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from rtstore import (
    DATABASE_NAME,
    KNOWN_DESCRIPTORS,
    BatchCommitted,
    BatchFailed,
    BatchFailedError,
    BatchUnfinished,
    BatchUnfinishedError,
    ConflictError,
    Event,
    EventKind,
    FileQuarantined,
    InvalidRequestError,
    LockTimeoutError,
    NotReady,
    RuntimeStore,
    StorageError,
    StoreRecovered,
    WriterLock,
)
from rtstore.model.records import RecoveryTrigger
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    Crash,
    Ids,
    WatchedFileSystem,
    at,
    file_of,
    open_store,
    write,
)
from tests.support.events import Told
from tests.support.groups import batch, carry_out, update


@pytest.fixture
def store(directory: Path, told: Told) -> Iterator[RuntimeStore]:
    """Its store, observed."""
    with open_store(directory, on_event=told) as store:
        yield store


def is_durable(directory: Path, batch_id: str) -> bool:
    """Whether another connection finds the batch committed."""
    query = "SELECT state FROM write_batches WHERE batch_id = ?"
    with closing(sqlite3.connect(f"file:{directory / DATABASE_NAME}?mode=ro", uri=True)) as other:
        return bool(other.execute(query, [batch_id]).fetchone() == ("committed",))


# --- batches --------------------------------------------------------------------------------------


def test_a_committed_batch_is_told_when_it_is_durable(directory: Path) -> None:
    """With its receipts, stores, size and duration, in the thread of its caller, before the call
    returns, and when everybody else can see it."""
    seen: list[tuple[Event, bool, int]] = []

    def observe(event: Event) -> None:
        assert event.batch_id is not None
        seen.append((event, is_durable(directory, event.batch_id), threading.get_ident()))

    with open_store(directory, on_event=observe) as store:
        written = store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: [1], LEDGER: [2]}
        )
        [(event, durable, thread)] = seen
    assert isinstance(event, BatchCommitted)
    assert event.kind is EventKind.COMMITTED
    assert event.batch == written
    assert (event.batch_id, event.stores) == (written.batch_id, (LEASES, LEDGER))
    assert (event.team_name, event.directory) == (TEAM, directory)
    assert event.size == sum(receipt.file_size for receipt in written.receipts) > 0
    assert 0 < event.duration_s < 60
    assert durable
    assert thread == threading.get_ident()


def test_every_way_to_write_is_told_of(store: RuntimeStore, told: Told) -> None:
    """write_batch, update, revert and adopt: one event each, with its reason."""
    first = write(store, LEASES, [1])
    store.update(LEASES, lambda data: [*data, 2], identity=IDENTITY, reason=CHECKPOINT)
    store.revert(LEASES, to=first)
    file_of(store, LEASES).write_text('{"schemaVersion": 1, "data": [3]}')
    store.adopt(LEASES)
    assert told.kinds == ["committed"] * 4
    assert [event.batch_id for event in told] == [item.batch_id for item in store.batches()]


def test_a_repeated_batch_is_told_of_once(store: RuntimeStore, told: Told) -> None:
    """The second call with the same id gives the first result, and writes nothing."""
    write(store, LEASES, [1], batch_id="mine")
    write(store, LEASES, [1], batch_id="mine")
    assert told.kinds == ["committed"]


def test_what_is_refused_is_no_event(directory: Path) -> None:
    """A bad call, a conflict, a lock that is not free: the caller has the exception, and nothing
    is on record."""
    told = Told(directory)
    with open_store(directory, on_event=told, lock_timeout_s=0.05) as store:
        with pytest.raises(InvalidRequestError):
            write(store, LEASES, object())
        with pytest.raises(ConflictError):
            write(store, LEASES, 1, expected_high_watermark=7)
        with pytest.raises(ZeroDivisionError):
            store.update(LEASES, lambda _: 1 // 0, identity=IDENTITY, reason=CHECKPOINT)
        with WriterLock(directory).hold(), pytest.raises(LockTimeoutError):
            write(store, LEASES, 1)
    assert told == []


def test_each_batch_of_a_group_is_told_of_by_its_own_caller(
    store: RuntimeStore, told: Told
) -> None:
    """Batches that shared a flush: one event each, in the thread that submitted it."""
    threads: dict[str, int] = {}

    def noting(call: Callable[[], Any]) -> Callable[[], Any]:
        def noted() -> Any:
            done = call()
            threads[done.batch_id] = threading.get_ident()
            return done

        return noted

    calls = [update(store, LEASES, 1), batch(store, {LEDGER: 2}), batch(store, {DIAGNOSTICS: 3})]
    carry_out(store, *map(noting, calls))
    by_batch = {event.batch_id: thread for event, thread in zip(told, told.threads, strict=True)}
    assert by_batch == threads
    assert len(set(threads.values())) == 3


def test_a_batch_that_failed_is_told_of(directory: Path, told: Told) -> None:
    """Once it is recorded as failed and undone, with the cause; the caller has the error too."""
    fs = WatchedFileSystem(
        at("rename", directory / "opencode-host-leases.json", OSError(errno.ENOSPC, "full"))
    )
    with open_store(directory, on_event=told, fs=fs) as store, pytest.raises(BatchFailedError):
        write(store, LEASES, 1)
    [event] = told
    assert isinstance(event, BatchFailed)
    assert (event.batch_id, event.stores, event.undone) == ("batch-1", (LEASES,), True)
    assert "full" in event.cause


def test_a_batch_that_was_not_finished_is_told_of(directory: Path, told: Told) -> None:
    """The complete failed: the batch is in the log; and the write that finishes it tells of that,
    and of its own batch."""
    with open_store(directory, on_event=told) as store:
        publisher = store._writer.publisher

        def fail(*_: Any) -> int:
            raise StorageError(directory, "no more", "a test")

        publisher.complete = fail  # type: ignore[method-assign]
        with pytest.raises(BatchUnfinishedError):
            write(store, LEASES, 1)
        del publisher.complete
        [unfinished] = told
        assert isinstance(unfinished, BatchUnfinished)
        assert (unfinished.batch_id, unfinished.decided) == ("batch-1", True)
        write(store, LEDGER, 2)
    _, recovered, committed = told
    assert isinstance(recovered, StoreRecovered)
    assert (recovered.started_by, recovered.batch_ids) == (RecoveryTrigger.WRITE, ("batch-1",))
    assert (committed.kind, committed.batch_id) == (EventKind.COMMITTED, "batch-2")


# --- recovery, quarantine, readiness --------------------------------------------------------------


def test_opening_tells_what_it_recovered(directory: Path, told: Told) -> None:
    """A batch whose writer died goes forward when the store is opened; the event names it."""
    dead = WatchedFileSystem(lambda number, *_: Crash() if number == 0 else None)
    with pytest.raises(Crash), open_store(directory, fs=dead) as store:
        write(store, LEASES, 1)
    with open_store(directory, on_event=told) as store:
        assert store.last_recovery is not None
        [event] = told
        assert isinstance(event, StoreRecovered)
        assert (event.started_by, event.batch_ids) == (RecoveryTrigger.OPEN, ("batch-1",))
        assert event.run_number == store.last_recovery.run_number
        assert event.steps == store.last_recovery.steps
        assert event.stores == (LEASES,)
    with open_store(directory, on_event=told):
        assert len(told) == 1


def test_evidence_is_told_of_with_its_number(store: RuntimeStore, told: Told) -> None:
    """A file changed by hand is kept before a batch goes over it, and before a recovery does; the
    number in the event takes it back."""
    write(store, LEASES, 1)
    path = file_of(store, LEASES)
    path.write_text('{"schemaVersion": 1, "data": "by hand"}')
    write(store, LEASES, 2)
    path.write_text('{"schemaVersion": 1, "data": "again"}')
    store.recover(store.plan_recovery())
    assert told.kinds == ["committed", "quarantined", "committed", "quarantined", "recovered"]
    first, second = (event for event in told if isinstance(event, FileQuarantined))
    assert [first.file, second.file] == store.quarantined_files()
    assert (first.batch_id, first.stores) == ("batch-2", (LEASES,))
    assert store.restore_quarantined(first.file.quarantine_number).relative_path == path.name
    assert b"by hand" in path.read_bytes()


def test_a_runtime_that_must_not_start_is_told_of(store: RuntimeStore, told: Told) -> None:
    """A readiness check that says no is `blocked`, with its diagnostics; one that says yes is no
    event."""
    check = store.check_readiness(expected=IDENTITY)
    [event] = told
    assert isinstance(event, NotReady)
    assert (event.kind, event.check) == (EventKind.BLOCKED, check)
    assert check.diagnostics[0] in event.message


def test_degraded_is_told_apart_from_blocked(tmp_path: Path) -> None:
    """While only a store that can be rebuilt is missing, the kind is `degraded`; when everything is
    there, nothing is told."""
    leases = [item for item in KNOWN_DESCRIPTORS if item.schema_name == LEASES]
    told = Told(tmp_path / "new")
    with open_store(tmp_path / "new", descriptors=leases, on_event=told) as store:
        store.check_readiness()
        write(store, LEASES, 1)
        assert store.check_readiness().ok
    assert told.kinds == ["degraded", "committed"]
    assert told[0].stores == (LEASES,)


# --- observers that misbehave ---------------------------------------------------------------------


def test_an_observer_that_fails_harms_nothing_and_is_heard_of(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is committed and its caller gets it; the log has the error with its traceback."""

    def fail(_: Event) -> None:
        raise LookupError("mine")

    with open_store(directory, on_event=fail) as store:
        assert write(store, LEASES, 1) == "batch-1"
        assert write(store, LEASES, 2) == "batch-2"
        assert store.read(LEASES).data == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [vars(record)["batch_id"] for record in errors] == ["batch-1", "batch-2"]
    for record in errors:
        assert record.name == "rtstore.events"
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)
        assert record.exc_info[2] is not None


def test_an_observer_may_use_the_store(directory: Path) -> None:
    """It reads, and writes a batch of its own, of which it is told too."""
    kinds: list[tuple[str, Any]] = []
    opened: list[RuntimeStore] = []

    def observe(event: Event) -> None:
        kinds.append((event.kind, opened[0].read(LEASES).data))
        if event.stores == (LEASES,):
            write(opened[0], DIAGNOSTICS, event.batch_id)

    with open_store(directory, on_event=observe) as store:
        opened.append(store)
        write(store, LEASES, 1)
        assert store.read(DIAGNOSTICS).data == "batch-1"
    assert kinds == [("committed", 1), ("committed", 1)]


def test_no_batch_waits_for_the_lock_of_logging(directory: Path) -> None:
    """A fork that an exception of a signal handler cuts off leaves that locked for ever."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
        logging.getLogger("rtstore").manager._clear_cache()  # type: ignore[attr-defined]
        done = threading.Event()

        def work() -> None:
            write(store, LEASES, 2)
            done.set()

        with logging._lock:  # type: ignore[attr-defined]
            thread = threading.Thread(target=work)
            thread.start()
            assert done.wait(60)
        thread.join()


def test_threads_that_share_a_store_lose_no_event(directory: Path) -> None:
    """Eight threads, each with its batches and edits of others on the way: every batch is told of
    once."""
    told: list[Event] = []
    with (
        open_store(directory, on_event=told.append, batch_id_factory=Ids("batch")) as store,
        ThreadPoolExecutor(8) as pool,
    ):
        done = pool.map(lambda number: write(store, LEASES, number), range(80))
        assert sorted(done) == sorted(str(event.batch_id) for event in told)
    assert {event.kind for event in told} == {EventKind.COMMITTED}


@pytest.mark.parametrize("wrong", ["print", 7])
def test_what_cannot_be_called_is_no_observer(tmp_path: Path, wrong: Any) -> None:
    """It is refused by name, and nothing is made."""
    with pytest.raises(InvalidRequestError, match="on_event"):
        open_store(tmp_path / "new", on_event=wrong)
    assert not (tmp_path / "new").exists()


def test_a_coroutine_function_is_no_observer(tmp_path: Path) -> None:
    """Nobody would await it, so it is refused instead of being silently never run."""

    async def observe(_: Event) -> None: ...

    class Disguised:
        async def __call__(self, _: Event) -> None: ...

    for wrong in (observe, Disguised()):
        with pytest.raises(InvalidRequestError, match="plain function"):
            open_store(tmp_path / "new", on_event=wrong)
    assert not (tmp_path / "new").exists()


# --- records --------------------------------------------------------------------------------------


def test_every_kind_has_an_event_that_can_be_written_down(store: RuntimeStore, told: Told) -> None:
    """Each event is JSON with the names of the other records, and comes back from it."""
    write(store, LEASES, 1)
    file_of(store, LEASES).write_text("{}")
    store.recover(store.plan_recovery())
    store.check_readiness()
    for event in told:
        dumped = json.loads(event.model_dump_json(by_alias=True))
        assert dumped["kind"] == event.kind
        assert {"teamName", "directory", "batchId", "stores", "durationS"} <= dumped.keys()
        read = type(event).model_validate(dumped)
        if isinstance(event, NotReady):  # the legacy format has no identity in a plan
            theirs = event.plan.model_copy(
                update={"expected": None, "expects_last": False, "stale_stores": ()}
            )
            assert read == event.model_copy(update={"plan": theirs})
        else:
            assert read == event
    kinds = {
        kind
        for event_type in get_args(Event)
        for kind in get_args(event_type.model_fields["kind"].annotation)
    }
    assert kinds == set(EventKind)
