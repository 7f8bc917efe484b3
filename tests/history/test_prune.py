"""`prune` drops what is beyond a retention, all of that and nothing else, whatever happens."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import threading
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from rtstore import (
    DATABASE_NAME,
    DELETED,
    KEEP_EVERYTHING,
    AsyncRuntimeStore,
    InvalidRequestError,
    LockTimeoutError,
    Retention,
    RuntimeStore,
)
from rtstore.control import retention as pruning
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    NOON,
    SESSIONS,
    Crash,
    Ids,
    WatchedFileSystem,
    agree,
    at_call,
    hear,
    launch_state,
    open_store,
    write,
)
from tests.support.aio import run as run_async
from tests.support.forked import forked

STORES = (LEASES, LEDGER, DIAGNOSTICS)
ALL = 1_000_000


def rows(directory: Path, statement: str) -> list[Any]:
    """What the database says, to somebody who opens it for reading."""
    path = directory / DATABASE_NAME
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        return list(raw.execute(statement))


def kept(directory: Path) -> tuple[set[int], set[tuple[str, int]]]:
    """The numbers of the batches that are there, and the contents, by store and batch."""
    batches = rows(directory, "SELECT batch_number FROM write_batches")
    contents = rows(directory, "SELECT schema_name, batch_number FROM store_contents")
    return {number for (number,) in batches}, set(contents)


def sound(directory: Path) -> bool:
    """Whether every page and every reference of the database holds."""
    references = rows(directory, "PRAGMA foreign_key_check")
    return (references, rows(directory, "PRAGMA integrity_check")) == ([], [("ok",)])


def some_history(directory: Path, seed: int, number: int = 60) -> None:
    """Batches of one to three stores, a quarter of an hour apart, some of them failed. Some delete
    a store, which may not be written again."""
    random_ = random.Random(seed)
    moments = (NOON + timedelta(hours=hour / 4) for hour in itertools.count())
    fs = WatchedFileSystem()
    with open_store(
        directory, retention=KEEP_EVERYTHING, clock=lambda: next(moments), fs=fs
    ) as store:
        gone: set[str] = set()
        for revision in range(number):
            names = set(random_.sample(STORES, random_.randint(1, 3))) - gone
            if revision in (2, 5):
                names |= {SESSIONS}  # for its sake the batch stays, with what else it wrote
            there = {entry.schema_name for entry in store.manifest().entries}
            deleted = [name for name in STORES if name in names & there and random_.random() < 0.12]
            gone |= {name for name in deleted if name != STORES[0] and random_.random() < 0.6}
            if random_.random() < 0.1:
                fs.judge = lambda _number, name, _subject: (
                    OSError(13, "refused") if name == "rename" else None
                )
            with suppress(Exception):
                store.write_batch(
                    identity=IDENTITY,
                    reason=CHECKPOINT,
                    writes={
                        name: DELETED if name in deleted else {"sessions": [], "n": revision}
                        for name in sorted(names or STORES[:1])
                    },
                )
            fs.judge = None


def expected(
    directory: Path, retention: Retention, now: str
) -> tuple[set[int], set[tuple[str, int]]]:
    """What a retention leaves of a history, by the words of its documentation."""
    found = rows(
        directory, "SELECT batch_number, state, completed_at FROM write_batches ORDER BY 1"
    )
    current = set(rows(directory, "SELECT schema_name, batch_number FROM manifest_entries"))
    contents = set(rows(directory, "SELECT schema_name, batch_number FROM store_contents"))
    newest = found[-1][0]
    batches = {
        number
        for number, state, ended in found
        if number == newest
        or number in {batch for _, batch in current}
        or state not in ("committed", "failed")
        or not (
            (retention.batches is not None and number <= newest - retention.batches)
            or (retention.max_age is not None and ended is not None and str(ended) < now)
        )
    }
    written = rows(directory, "SELECT schema_name, batch_number FROM batch_writes")
    deleted = dict(rows(directory, "SELECT schema_name, max(batch_number) FROM batch_deletions"
                        " GROUP BY schema_name ORDER BY 2"))  # fmt: skip
    for name, number in deleted.items():
        is_gone = name not in {store for store, _ in current}
        if is_gone and any(store == name and n < number and n in batches for store, n in written):
            batches.add(number)
    left = set()
    for name in {str(store) for store, _ in contents}:
        numbers = sorted((int(str(n)) for store, n in contents if store == name), reverse=True)
        keep = ALL if retention.contents_per_store is None else retention.contents_per_store
        left |= {(name, number) for number in numbers[:keep]}
    left |= {item for item in contents if item in current}
    return batches, {item for item in left if item[1] in batches}


@pytest.mark.parametrize("seed", range(6))
def test_all_that_is_beyond_and_nothing_else(directory: Path, seed: int) -> None:
    """Whatever the history and the limits: what is left is what the words promise; the dry run
    told it before, and changed nothing; the database is sound, and the files are as committed."""
    random_ = random.Random(seed)
    some_history(directory, seed)
    retention = Retention(
        batches=random_.choice([None, 1, 7, 30, 1000]),
        contents_per_store=random_.choice([None, 1, 2, 5, 20]),
        max_age=random_.choice([None, timedelta(hours=3), timedelta(minutes=1)]),
    )
    later = NOON + timedelta(hours=40)
    with open_store(
        directory, clock=lambda: later, receipt_id_factory=Ids("later-receipt")
    ) as store:
        oldest = later - (retention.max_age or timedelta(0))
        promised = expected(directory, retention, f"{oldest:%Y-%m-%dT%H:%M:%S.000Z}")
        before = kept(directory)
        rehearsed = store.prune(retention, dry_run=True)
        assert kept(directory) == before
        report = store.prune(retention)
        assert kept(directory) == promised
        assert (len(promised[0]), len(promised[1])) == (report.batches_left, report.contents_left)
        assert (report.batches, report.contents, report.content_bytes) == (
            rehearsed.batches,
            rehearsed.contents,
            rehearsed.content_bytes,
        )
        assert (rehearsed.batches_left, rehearsed.contents_left) == (
            report.batches_left,
            report.contents_left,
        )
        assert store.prune(retention).contents == 0
        assert agree(store)
        write(store, LEASES, "goes on", batch_id="after")
    assert sound(directory)


LONG_AGO = NOON - timedelta(days=30)


@pytest.mark.parametrize("by", ["batches", "pruning"])
@pytest.mark.parametrize("kept_by", ["another store", "its hour", "its medium"])
def test_a_deletion_stays_with_what_was_written_before(
    directory: Path, by: str, kept_by: str
) -> None:
    """As long as a batch that wrote a store is on record, so is the one that deleted it, whatever
    keeps the older one: nothing else says that the store is gone. Then both go."""
    retention = Retention(batches=2, contents_per_store=2, thin_by_age=kept_by == "its hour")
    moments = (LONG_AGO + timedelta(minutes=10 * number) for number in itertools.count())
    fs = WatchedFileSystem()
    given = retention if by == "batches" else KEEP_EVERYTHING
    with open_store(directory, retention=given, clock=lambda: next(moments), fs=fs) as store:
        others = {DIAGNOSTICS: 0} if kept_by == "another store" else {}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "old", **others})
        write(store, LEASES, DELETED)
        if kept_by == "its medium":
            fs.judge = refuse_to_flush
        for number in range(40):
            write(store, LEDGER, number)
        if by == "pruning":
            rehearsed = store.prune(retention, dry_run=True)
            report = store.prune(retention)
            assert kept_by == "its medium" or report.batches == rehearsed.batches
        assert {1, 2} <= kept(directory)[0]
        assert not {3, 4} & kept(directory)[0] or kept_by != "another store"
        assert store.history(LEASES)[-1].is_deletion
        with pytest.raises(InvalidRequestError, match="it was deleted by batch"):
            store.read(LEASES)
    with open_store(directory, receipt_id_factory=Ids("later-receipt")) as again:
        assert again.manifest().entry(LEASES) is None
        write(again, DIAGNOSTICS, 1, batch_id="after")
        again.prune(Retention(batches=1, max_age=timedelta(seconds=1)))
        assert not {1, 2} & kept(directory)[0]
    assert sound(directory)


def refuse_to_flush(_number: int, name: str, _subject: object) -> Exception | None:
    """Let no file and no folder be flushed: what the medium holds is not known."""
    return OSError(5, "no flush") if name in ("flush", "fsync_directory") else None


@pytest.mark.parametrize("batches", [1, 5, 30])
def test_deletions_go_with_the_last_batch_before_them(directory: Path, batches: int) -> None:
    """Stores that are written and deleted all the time leave no more than the retention and an
    eighth, by batches; and nothing for pruning, which takes a whole chain in one call."""
    retention = Retention(batches=batches)
    with open_store(directory, retention=retention) as store:
        for _ in range(40):
            write(store, LEASES, "new")
            write(store, LEASES, DELETED)
        assert len(kept(directory)[0]) <= batches + max(1, batches // 8) + 1
    chain = directory.with_name("chain")
    with open_store(chain, retention=KEEP_EVERYTHING) as store:
        write(store, LEASES, "new")
        for old, new in ((LEASES, LEDGER), (LEDGER, DIAGNOSTICS), (DIAGNOSTICS, LAUNCH)):
            value = launch_state() if new == LAUNCH else "new"
            store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={old: DELETED, new: value}
            )
        for _ in range(3):
            write(store, LAUNCH, launch_state())
        rehearsed = store.prune(Retention(batches=1), dry_run=True)
        assert store.prune(Retention(batches=1)).batches == rehearsed.batches == 6
        assert kept(chain)[0] == {7}


def test_a_batch_leaves_nothing_for_pruning(directory: Path) -> None:
    """What every batch drops by itself, and what pruning drops, is the same."""
    retention = Retention(batches=5, contents_per_store=2)
    with open_store(directory, retention=retention) as store:
        for revision in range(40):
            write(store, STORES[revision % 2], revision)
        report = store.prune()
        assert report.retention == retention
        assert (report.batches, report.contents) == (0, 0)


def test_an_open_batch_stays(directory: Path) -> None:
    """The batch of a dead writer, with its contents, is there to be finished, whatever the limits;
    it does not count among the contents that are kept."""
    fs = WatchedFileSystem()
    store = open_store(directory, fs=fs)
    for revision in range(10):
        write(store, LEASES, revision)
    renames = sum(name == "rename" for name, _ in fs.calls)
    assert renames
    fs.judge = at_call(len(fs.calls), Crash())
    with suppress(Crash):
        write(store, LEASES, "in the log", batch_id="open")
    store.close()
    with open_store(directory, recover=False) as store:
        (logged,) = rows(
            directory, "SELECT batch_number FROM write_batches WHERE state <> 'committed'"
        )
        report = store.prune(Retention(batches=None, contents_per_store=2))
        assert report.contents == 8
        store.prune(Retention(batches=1, contents_per_store=1, max_age=timedelta(1)))
        assert logged[0] in kept(directory)[0]
    with open_store(directory) as store:
        assert store.read(LEASES).data == "in the log"
        assert agree(store)


def test_space_is_given_back_while_the_store_is_in_use(directory: Path) -> None:
    """The file is as short as what is left in it, before anybody closes it; readers go on, and what
    they hold open is not harmed."""
    path = directory / DATABASE_NAME
    with (
        open_store(directory, retention=KEEP_EVERYTHING) as store,
        RuntimeStore.open(directory) as reader,
    ):
        for revision in range(60):
            write(store, LEDGER, {"large": "x" * 100_000, "revision": revision})
        assert reader.read(LEDGER).data["revision"] == 59
        told: list[tuple[str, int, int]] = []
        report = store.prune(
            Retention(batches=None, contents_per_store=2),
            progress=lambda *step: told.append(step),
        )
        assert report.database_bytes_before > 6_000_000
        assert report.database_bytes_after == path.stat().st_size < 1_000_000
        assert rows(directory, "PRAGMA freelist_count") == [(0,)]
        assert reader.read(LEDGER).data["revision"] == 59
    assert {step for step, _, _ in told} == {"contents", "space"}
    for step in ("contents", "space"):
        done = [(done, total) for name, done, total in told if name == step]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]


def test_writers_go_on_meanwhile(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another store of this directory writes all the time, and waits no longer than for a chunk,
    however much is dropped; none of its batches is lost."""
    monkeypatch.setattr(pruning, "_ROWS_AT_ONCE", 10)
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for revision in range(100):
            write(store, LEDGER, {"filler": "x" * 2_000, "revision": revision})
    ends = threading.Event()
    written: list[str] = []
    errors: list[Exception] = []

    def write_on() -> None:
        with RuntimeStore.open(directory, lock_timeout_s=5, retention=KEEP_EVERYTHING) as other:
            while not ends.is_set():
                try:
                    written.append(write(other, LEASES, len(written)))
                except LockTimeoutError as error:
                    errors.append(error)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        chunks: list[int] = []
        with RuntimeStore.open(directory) as store:
            report = store.prune(
                Retention(batches=None, contents_per_store=1),
                progress=lambda *_: chunks.append(len(written)),
            )
    finally:
        ends.set()
        writer.join()
    assert errors == []
    assert report.contents >= 99
    assert len(set(chunks)) > 3, "no batch came between two chunks"
    with RuntimeStore.open(directory) as store:
        assert {batch.batch_id for batch in store.batches()} >= set(written)
        assert agree(store)


PRUNE = """
from pathlib import Path
from rtstore import Retention, RuntimeStore
from rtstore.control import retention as pruning
from rtstore.control.sqlite import space
pruning._ROWS_AT_ONCE = 7
space._PAGES_AT_ONCE = 16
with RuntimeStore.open(sys.argv[1]) as store:
    def tell(step, done, total):
        say(step, done)
        wait()
    store.prune(Retention(batches=20, contents_per_store=3), progress=tell)
    say("done")
    wait()
"""


@pytest.mark.one_in(3)
@pytest.mark.parametrize("chunks", [1, 2, 5, 9, 14, 20])
def test_killed_between_two_chunks(directory: Path, chunks: int) -> None:
    """Killed anywhere, everything current is there and the database is sound; pruned again, it is
    as if nothing had happened."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for revision in range(80):
            write(store, STORES[revision % 3], {"filler": "x" * 3_000, "revision": revision})
    retention = Retention(batches=20, contents_per_store=3)
    promised = expected(directory, retention, "")
    with forked(PRUNE, directory) as process:
        heard = [hear(process)]
        while len(heard) < chunks and heard[-1] != "done":
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            heard.append(hear(process))
        assert process.poll() is None
        process.kill()
        assert process.wait() == -9
    left = kept(directory)
    assert promised[0] <= left[0]
    assert promised[1] <= left[1]
    with open_store(directory) as store:
        assert agree(store)
        assert sound(directory)
        store.prune(retention)
        assert kept(directory) == promised
        assert store.read(LEASES).data["revision"] == 78
        write(store, LEASES, "goes on", batch_id="after")
    assert sound(directory)
    if chunks == 20:
        assert heard[-1] == "done", "the last kill is after the last chunk"


def test_the_database_fails_on_the_way(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a chunk comes out, takes back that chunk alone, and pruning again goes on."""
    some_history(directory, 1)
    retention = Retention(batches=55, contents_per_store=2)
    promised = expected(directory, retention, "")
    real, calls = pruning.drop_contents, itertools.count()

    def fail(*arguments: object, **options: object) -> object:
        found = real(*arguments, **options)  # type: ignore[arg-type]
        if next(calls) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return found

    with open_store(directory) as store:
        monkeypatch.setattr(pruning, "drop_contents", fail)
        with pytest.raises(Exception, match="disk I/O error"):
            store.prune(retention)
        left = kept(directory)
        assert left[0] == promised[0]
        assert left[1] > promised[1]
        store.prune(retention)
        assert kept(directory) == promised
        assert agree(store)


def test_a_store_without_any_history(directory: Path) -> None:
    """There is nothing to drop, and it says so; read-only it can be asked, not done."""
    with open_store(directory, read_only=True) as store:
        report = store.prune(Retention(batches=1), dry_run=True)
        assert (report.batches, report.contents, report.batches_left) == (0, 0, 0)
    with open_store(directory) as store:
        report = store.prune(Retention(batches=1, contents_per_store=1, max_age=timedelta(1)))
        assert (report.batches, report.contents, report.contents_left) == (0, 0, 0)
        write(store, LAUNCH, launch_state())
        assert store.prune(Retention(max_age=timedelta(seconds=1))).batches == 0


def test_for_asyncio(directory: Path) -> None:
    """The same awaited, while reads and writes of the store go on."""
    some_history(directory, 2)

    async def main(store: AsyncRuntimeStore) -> None:
        rehearsed = await store.prune(Retention(batches=5), dry_run=True)
        report = await store.prune(Retention(batches=5))
        assert report.batches == rehearsed.batches > 0
        assert report.batches_left == len(await store.batches())

    run_async(directory, main)


def test_with_little_room_only_the_holder_of_the_lock_writes(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are dropped one at a time, too, the connection for writing is used under the lock
    only: it may be in the transaction of another thread's batch."""
    with open_store(directory) as store:
        for number in range(4):
            write(store, LEASES, number)
        full = shutil.disk_usage(directory)._replace(free=0)
        monkeypatch.setattr("rtstore.history.prune.shutil.disk_usage", lambda _: full)
        report = store.prune(Retention(contents_per_store=1, batches=1))
        assert (report.batches, report.contents) == (3, 3)
        with store.lock.hold():
            assert store.database.read_on_writer(_checkpoints) == 1000, "as before"


def _checkpoints(connection: Connection) -> int:
    found: int = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one()
    return found
