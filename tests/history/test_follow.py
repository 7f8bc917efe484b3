"""Waiting for a batch: told of every commit, of this process and of others, and of nothing else."""

from __future__ import annotations

import _thread
import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    AsyncRuntimeStore,
    InvalidRequestError,
    MissedBatchesError,
    Retention,
    RuntimeStore,
    StoreClosedError,
)
from rtstore.aio import waiting
from rtstore.control.sqlite import changes
from rtstore.control.sqlite.ground import Names
from rtstore.history import follow
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    answer,
    child,
    files_picture,
    hear,
    new_directory,
    open_store,
    write,
)
from tests.support.aio import run
from tests.support.aio import write as write_soon


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which nothing was committed yet, and nobody waits."""
    changes._watches.clear()  # an error that a test looked at may hold a waiter
    return new_directory(tmp_path)


@pytest.fixture
def store(directory: Path) -> Iterator[RuntimeStore]:
    """An open store of it."""
    with open_store(directory) as opened:
        yield opened


@contextmanager
def beside(function: Any, *arguments: Any) -> Iterator[list[Any]]:
    """Run a function in a thread, which ends with the block; what it returned or raised is in the
    list then."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(function(*arguments))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(timeout=30)
        assert not thread.is_alive()


def numbers(found: Any) -> list[int | None]:
    """The high watermarks of batches."""
    return [batch.high_watermark for batch in found]


def until_watched(count: int = 1) -> None:
    """Wait until there are so many waiters."""
    while len(changes._watches) < count:
        time.sleep(0.001)


# --- what is returned -----------------------------------------------------------------------------


def test_what_is_there_is_returned_at_once(store: RuntimeStore) -> None:
    """The batches above the watermark, oldest first, with their receipts; none at the time-out."""
    assert store.wait(timeout_s=0) == []
    ids = [write(store, LEASES, number) for number in range(3)]
    assert store.wait(after=3, timeout_s=0) == []
    assert [batch.batch_id for batch in store.wait(after=1)] == ids[1:]
    assert store.wait(after=0) == store.batches()
    assert list(store.follow(after=0, timeout_s=0)) == store.batches()


def test_pages_are_joined(store: RuntimeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is returned at a time comes in the next call, and in one iteration."""
    monkeypatch.setattr(follow, "BATCHES_MAX", 2)
    for number in range(5):
        write(store, LEASES, number)
    assert numbers(store.wait(after=0)) == [1, 2]
    assert numbers(store.wait(after=2)) == [3, 4]
    assert numbers(store.follow(after=0, timeout_s=0)) == [1, 2, 3, 4, 5]


def test_what_was_pruned_is_not_skipped_in_silence(directory: Path) -> None:
    """Who asks for batches that are gone hears that, and from where it can go on."""
    with open_store(directory, retention=Retention(batches=2, contents_per_store=1)) as store:
        for number in range(8):
            write(store, LEASES, number)
        store.prune()
        kept = numbers(store.batches())
        first = next(number for number in kept if number and number > 1)
        with pytest.raises(MissedBatchesError, match="go on after its high_watermark") as told:
            store.wait(after=1)
        assert (told.value.after, told.value.first, told.value.high_watermark) == (1, first, 8)
        assert f"batches 2 to {first - 1} are not on record" in str(told.value)
        with pytest.raises(MissedBatchesError):
            next(store.follow(after=1))
        assert numbers(store.wait(after=first - 1)) == list(range(first, 9))
        assert store.wait(after=store.snapshot().high_watermark, timeout_s=0) == []


def test_a_gap_ends_what_is_returned(store: RuntimeStore) -> None:
    """Rows that somebody deleted: what comes before is returned, and then the gap is told of."""
    for number in range(5):
        write(store, (LEASES, LEDGER)[number == 2], number)
    with store.lock.hold(), store.database.write(flush=False) as connection:
        connection.exec_driver_sql("DELETE FROM write_batches WHERE high_watermark = 2")
    assert numbers(store.wait(after=0)) == [1]
    with pytest.raises(MissedBatchesError, match="batch 2 is not on record"):
        store.wait(after=1)
    assert numbers(store.wait(after=2)) == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"after": 7, "timeout_s": 0}, "after.*newest batch has the high watermark 0"),
        ({"after": -1}, "after"),
        ({"after": "1"}, "after"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": "soon"}, "timeout_s"),
    ],
)
def test_bad_arguments(store: RuntimeStore, options: dict[str, Any], named: str) -> None:
    """Each is refused by name; a watermark that no batch has would be waited for in vain."""
    with pytest.raises(InvalidRequestError, match=named):
        store.wait(**options)
    with pytest.raises(InvalidRequestError, match=named):
        next(store.follow(**options))


def test_not_inside_of_a_write(store: RuntimeStore) -> None:
    """No other batch can be committed while the lock is held."""
    with pytest.raises(InvalidRequestError, match="must not wait for another"):
        store.update(LEASES, lambda _: store.wait(), identity=IDENTITY, reason=CHECKPOINT)
    assert store.manifest().high_watermark == 0


# --- when it wakes --------------------------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
from tests.support import LEASES, write
from rtstore import RuntimeStore, StoreClosedError
for number, _ in enumerate(sys.stdin):
    with RuntimeStore.open(Path(sys.argv[1])) as store:
        write(store, LEASES, number)
        if number == 0 and hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                try:
                    store.wait(timeout_s=0)
                except StoreClosedError as error:
                    os._exit(7 if "forked" in str(error) else 8)
                os._exit(9)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(number, flush=True)
"""


def test_a_commit_of_another_process_is_seen(directory: Path) -> None:
    """By a store that writes, by one that only reads, beside a writer and after the last one has
    closed and taken the WAL away. Who only reads leaves no file behind. (The bytes of the `-shm` do
    not count: who reads beside a writer notes there how far it reads.)"""
    with child(WRITER, directory) as writer:
        with RuntimeStore.open(directory, read_only=True) as looker:
            answer(writer)
            assert numbers(looker.wait(after=0, timeout_s=20)) == [1]
            assert hear(writer) == "0"
            names, files = sorted(os.listdir(directory)), files_picture(directory)
            assert looker.wait(after=1, timeout_s=0.1) == []
            assert (sorted(os.listdir(directory)), files_picture(directory)) == (names, files)
        with RuntimeStore.open(directory) as store:
            answer(writer)
            assert numbers(store.wait(timeout_s=20, after=1)) == [2]
            assert hear(writer) == "1"


def test_a_commit_of_this_process_wakes_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through whichever store it came, however seldom is looked: also through another name."""
    monkeypatch.setattr(follow, "POLL_S", 60.0)
    link = directory.with_name("link")
    link.symlink_to(directory)
    with RuntimeStore.open(directory) as store, RuntimeStore.open(link) as other:
        for number, writer in enumerate((store, other), 1):
            with beside(lambda after: store.wait(after=after, timeout_s=60), number - 1) as got:
                until_watched()
                write(writer, LEASES, number, batch_id=f"batch-{number}")
            assert numbers(got[0]) == [number]


def test_a_change_is_read_until_it_cannot_hide_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commits in one tick of the kernel's clock leave one stamp. So it is read again after the
    tick; then not any more, but for a look every now and then."""
    now, stamp = [100.0], [(1, 1, 1, 1)]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(changes, "_stamp", lambda _: stamp[0])
    watch = changes.Watch(Names(Path("/nowhere")), (0, 0), lambda: None)

    def due_after(seconds: float) -> bool:
        now[0] += seconds
        return watch.is_due()

    assert due_after(0)
    assert due_after(0.01)
    assert due_after(0.02)
    assert not due_after(0.03)
    stamp[0] = (1, 1, 2, 2)
    assert [due_after(pause) for pause in (0.03, 0.03, 0.03)] == [True, True, False]
    watch.tell()
    assert [due_after(pause) for pause in (0.03, 0.03)] == [True, False]
    assert due_after(changes.RECHECK_S)


def test_every_commit_is_seen_through_its_stamp(
    store: RuntimeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing announced, and a WAL that is emptied, and begun anew, again and again."""
    monkeypatch.setattr(changes, "announce", lambda _: None)
    monkeypatch.setattr(changes, "RECHECK_S", 1e6)
    with closing(sqlite3.connect(store.database.path)) as shell:
        for number in range(1, 13):
            with beside(store.wait) as got:
                until_watched()
                write(store, LEASES, number, batch_id=f"batch-{number}")
                shell.execute(f"PRAGMA wal_checkpoint({('RESTART', 'TRUNCATE')[number % 2]})")
            assert numbers(got[0]) == [number]


# --- how it ends ----------------------------------------------------------------------------------


def test_closing_ends_it(directory: Path) -> None:
    """Whoever waits hears that the store is closed; closing does not wait for that."""
    store = open_store(directory)
    with beside(store.wait) as waited, beside(list, store.follow()) as followed:
        until_watched(2)
        store.close()
    assert isinstance(waited[0], StoreClosedError)
    assert isinstance(followed[0], StoreClosedError)
    with pytest.raises(StoreClosedError):
        store.wait(timeout_s=0)


def test_an_interrupt_ends_it(store: RuntimeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the store goes on as before."""
    looked = changes.Watch.is_due

    def look(watch: changes.Watch) -> bool:
        if not looked(watch):
            _thread.interrupt_main()
            return False
        return True

    monkeypatch.setattr(changes.Watch, "is_due", look)
    with pytest.raises(KeyboardInterrupt):
        store.wait()
    write(store, LEASES, 1)
    assert numbers(store.wait(after=0)) == [1]


def test_another_database_ends_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a rebuild put in its place, where nothing else tells of it."""
    monkeypatch.setattr(changes, "RECHECK_S", 0.0)
    other = new_directory(tmp_path, "other")
    store = open_store(directory)
    with beside(store.wait) as got:
        until_watched()
        os.replace(other / DATABASE_NAME, directory / DATABASE_NAME)
    assert isinstance(got[0], StoreClosedError)
    assert "rebuilt" in str(got[0])
    store.close()


# --- awaited --------------------------------------------------------------------------------------


def test_tasks_that_wait_hold_no_thread(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many wait while others read; a commit wakes all at once; a cancelled one is gone at once."""
    monkeypatch.setattr(waiting, "POLL_S", 60.0)

    async def main(store: AsyncRuntimeStore) -> None:
        waiters = [asyncio.create_task(store.wait(after=0)) for _ in range(12)]
        while len(changes._watches) < len(waiters):
            await asyncio.sleep(0.001)
        assert (await store.manifest()).high_watermark == 0
        waiters[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiters[0]
        await write_soon(store, LEASES, 1)
        assert [numbers(await waiter) for waiter in waiters[1:]] == [[1]] * 11
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(store.wait(), 0.01)
        assert await store.wait(timeout_s=0.01) == []

    run(directory, main)


def test_tasks_follow_batches(directory: Path) -> None:
    """In their order, those that were there and those that come; it ends at its time-out."""

    async def main(store: AsyncRuntimeStore) -> None:
        await write_soon(store, LEASES, 0)

        async def collect() -> list[int | None]:
            return [batch.high_watermark async for batch in store.follow(after=0, timeout_s=0.3)]

        collecting = asyncio.create_task(collect())
        for number in range(1, 5):
            await write_soon(store, LEASES, number)
        assert await collecting == [1, 2, 3, 4, 5]
        with pytest.raises(InvalidRequestError, match="timeout_s"):
            await anext(store.follow(timeout_s=-1))

    run(directory, main)


def test_closing_does_not_wait_for_tasks_that_wait(directory: Path) -> None:
    """They hear that the store is closed."""

    async def main() -> list[Any]:
        store = await AsyncRuntimeStore.open(directory)
        tasks = [asyncio.create_task(store.wait()) for _ in range(3)]
        while len(changes._watches) < len(tasks):
            await asyncio.sleep(0.001)
        await store.aclose()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(main())] == [StoreClosedError] * 3
