"""When publishing fails while the writer lives: failed for ever, undone, and heard of."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rtstore import (
    DATABASE_NAME,
    BatchFailedError,
    BatchState,
    BatchUnfinishedError,
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLostError,
    RuntimeStore,
    RuntimeStoreError,
    StorageError,
)
from rtstore.commit.publisher import Publisher
from rtstore.errors import RetryableError
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    SESSIONS,
    Ids,
    Judge,
    WatchedFileSystem,
    agree,
    at_call,
    data_in,
    files_picture,
    new_directory,
    open_store,
    stray_files,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'
STORES = {LEASES: "new", LEDGER: "new", DIAGNOSTICS: "new", SESSIONS: {"sessions": [], "new": 1}}
"""One that was committed, one changed by hand since, one without a file, one whose file nobody
committed."""
CALLS = ("create", "set_mode", "write", "set_mtime", "close", "rename", "unlink")
CALLS_PER_STORE = len(CALLS)
PUBLISHING = [
    (store, call)
    for store in STORES
    for call in CALLS
    # There is no mode to keep, and no old version to remove, where there was no file.
    if (store, call) not in ((DIAGNOSTICS, "set_mode"), (DIAGNOSTICS, "unlink"))
]
FAILING = [number for number, (_, call) in enumerate(PUBLISHING) if call != "unlink"]
"""Where a failure is one of the batch: before the file is in its place."""


def full(path: Path) -> OSError:
    """The disk is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with a store file of every kind."""
    directory = new_directory(tmp_path)
    with open_store(directory, batch_id_factory=Ids("early"), receipt_id_factory=Ids("e")) as store:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "old", LEDGER: "old"}
        )
    (directory / FILE_OF[LEDGER]).write_bytes(BY_HAND)
    (directory / FILE_OF[SESSIONS]).write_bytes(BY_HAND.replace(b'"by hand"', b"{}"))
    return directory


def open_without_recovery(directory: Path, fs: WatchedFileSystem) -> RuntimeStore:
    """Open it as it is; what was changed by hand is quarantined already, so that only the
    publishing is counted."""
    return open_store(directory, fs=fs, recover=False)


def write_all(store: RuntimeStore, **options: Any) -> None:
    """Write the four stores as one batch."""
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=STORES, **options)


def contents_of(directory: Path) -> dict[str, tuple[str, str]]:
    """The store files with their modes and bytes."""
    return {
        name: (mode, content)
        for name, (mode, _, content) in files_picture(directory).items()
        if not name.startswith("quarantine")
    }


def publishing(judge: Judge) -> Judge:
    """Ask the judge about calls from the first one that touches a store file; number 0 is that."""
    first: list[int] = []

    def decide(number: int, name: str, subject: Path | int) -> BaseException | None:
        if not first and name == "create" and "quarantine" not in str(subject):
            first.append(number)
        return judge(number - first[0], name, subject) if first else None

    return decide


def test_the_calls_of_publishing_are_counted_right(directory: Path) -> None:
    """The tests below fail every one of them."""
    names: list[str] = []
    fs = WatchedFileSystem(publishing(lambda _, name, __: names.append(name)))
    with open_without_recovery(directory, fs) as store:
        write_all(store)
        assert agree(store)

    assert names == [call for _, call in PUBLISHING]


@pytest.mark.parametrize("number", FAILING)
def test_whatever_call_fails_the_batch_is_undone(directory: Path, number: int) -> None:
    """The error names batch, store, path and cause; the batch is failed, every file as before,
    those included that were not there or not ours; the next batch works."""
    before = contents_of(directory)
    fs = WatchedFileSystem(publishing(at_call(number, full(directory))))
    with open_without_recovery(directory, fs) as store:
        manifest = store.manifest()
        with pytest.raises(BatchFailedError) as caught:
            write_all(store)
        error = caught.value
        assert isinstance(error, RetryableError)
        assert (error.batch_id, error.undone) == ("batch-1", True)
        assert error.store == PUBLISHING[number][0]
        assert error.path == directory / FILE_OF[error.store]
        assert "No space left" in error.cause
        assert "as it was before" in str(error)

        assert contents_of(directory) == before
        assert stray_files(directory) == []
        assert store.manifest() == manifest
        failed = store.batch("batch-1")
        assert failed is not None
        assert (failed.state, failed.completed_at, failed.receipts) == (
            BatchState.FAILED,
            NOON,
            (),
        )
        assert error.store in str(failed.last_error)
        assert "No space left" in str(failed.last_error)

        write_all(store)
        assert store.manifest().high_watermark == 2
        assert agree(store)
        assert data_in(directory / FILE_OF[LEDGER]) == "new"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("store_name", list(STORES))
def test_whatever_the_cause_it_is_told(directory: Path, code: int, store_name: str) -> None:
    """The operating system's own words are in the error and in the row, with store and path."""
    path, before = directory / FILE_OF[store_name], contents_of(directory)
    failures = [OSError(code, os.strerror(code))]

    def judge(_number: int, name: str, subject: Path | int) -> OSError | None:
        return failures.pop() if failures and (name, subject) == ("rename", path) else None

    with open_without_recovery(directory, WatchedFileSystem(publishing(judge))) as store:
        with pytest.raises(BatchFailedError) as caught:
            write_all(store)

        assert (caught.value.store, caught.value.path) == (store_name, path)
        assert caught.value.undone
        for told in (caught.value.cause, str(caught.value), store.batches()[-1].last_error):
            assert os.strerror(code) in str(told)
        assert contents_of(directory) == before


@pytest.mark.parametrize("stored", [True, False], ids=["with an entry", "without an entry"])
def test_bytes_that_were_kept_before_are_put_back_too(tmp_path: Path, *, stored: bool) -> None:
    """The same bytes are quarantined once, and still every failed batch that came over them
    puts them back."""
    directory = new_directory(tmp_path)
    path = directory / FILE_OF[LEASES]
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        path.write_bytes(BY_HAND)
        if stored:
            write(store, LEASES, "old")
        else:
            fs.judge = publishing(at_call(CALLS_PER_STORE + 1, full(path)))
            with pytest.raises(BatchFailedError):
                store.write_batch(
                    identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1, LEDGER: 1}
                )
        path.write_bytes(BY_HAND)
        fs.judge = publishing(at_call(CALLS_PER_STORE + 1, full(path)))
        fs.calls.clear()

        with pytest.raises(BatchFailedError) as caught:
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 2, LEDGER: 2})

        assert (caught.value.store, caught.value.undone) == (LEDGER, True)
        assert path.read_bytes() == BY_HAND
        assert len(store.quarantined_files()) == 1


def test_a_file_that_cannot_be_looked_at_is_not_called_undone(directory: Path) -> None:
    """Whether the batch's bytes are in it is not known, so opening has to see to it."""

    class Blind(WatchedFileSystem):
        blind = False

        def read(self, path: Path) -> Any:
            if self.blind:
                raise OSError(errno.EIO, "input/output error")
            return super().read(path)

    def judge(number: int, _name: str, _subject: Path | int) -> OSError | None:
        fs.blind = number >= CALLS_PER_STORE
        return full(directory) if fs.blind else None

    fs = Blind(publishing(judge))
    with open_without_recovery(directory, fs) as store:
        with pytest.raises(BatchFailedError) as caught:
            write_all(store)
        assert not caught.value.undone
    with open_store(directory) as store:
        assert data_in(directory / FILE_OF[LEASES]) == "old"


@pytest.mark.parametrize("number", [0, 7, 14, 19, 24])
def test_when_undoing_fails_too_opening_finishes_it(directory: Path, number: int) -> None:
    """The error says so; the batch stays failed; what is committed is back, and what was changed
    by hand is in quarantine or where it was."""
    fs = WatchedFileSystem(
        publishing(lambda current, *_: full(directory) if current >= number else None)
    )
    with open_without_recovery(directory, fs) as store:
        with pytest.raises(BatchFailedError) as caught:
            write_all(store)
        assert caught.value.undone is (number == 0)
        if number:
            assert "rtstore recover" in str(caught.value)
        assert store.batches()[-1].state is BatchState.FAILED

    with open_store(directory) as store:
        assert data_in(directory / FILE_OF[LEASES]) == "old"
        assert not (directory / FILE_OF[DIAGNOSTICS]).exists()
        assert stray_files(directory) == []
        kept = {
            (directory / item.quarantine_path).read_bytes() for item in store.quarantined_files()
        } | {path.read_bytes() for path in directory.glob("*.json")}
        assert {BY_HAND, BY_HAND.replace(b'"by hand"', b"{}")} <= kept
        assert store.manifest().high_watermark == 1
        assert store.batch("batch-1") is not None
    with open_store(directory) as store:
        assert store.last_recovery is None


@pytest.mark.parametrize("name", [LEDGER, DIAGNOSTICS])
@pytest.mark.parametrize("number", range(CALLS.index("unlink")))
def test_an_adoption_that_cannot_be_published_never_takes_the_file_away(
    directory: Path, name: str, number: int
) -> None:
    """Only with `durability="files"` is it written anew. What was changed by hand is there already,
    so the batch is decided and goes forward."""
    path = directory / FILE_OF[name]
    path.write_bytes(BY_HAND)
    fs = WatchedFileSystem(publishing(at_call(number, full(path))))
    with open_store(directory, fs=fs, recover=False, durability="files") as store:
        with pytest.raises(BatchUnfinishedError) as caught:
            store.adopt(name)
        assert (caught.value.batch_id, caught.value.decided) == ("batch-1", True)
        assert path.read_bytes() == BY_HAND
    with open_store(directory) as store:
        assert path.read_bytes() == BY_HAND
        assert store.read(name).data == "by hand"
        assert store.read(name).batch_id == "batch-1"


# --- the database fails after the log -----------------------------------------------------------


@contextmanager
def sql_lock(store: RuntimeStore) -> Iterator[Any]:
    """Return a function that takes an SQL lock on the database, as some other program may do."""
    other = sqlite3.connect(store.directory / DATABASE_NAME, isolation_level=None)
    with store.lock.hold():
        store.database.read_on_writer(lambda c: c.exec_driver_sql("PRAGMA busy_timeout = 20"))
    try:
        yield lambda: other.execute("BEGIN IMMEDIATE")
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


def test_a_failure_that_may_be_recorded_leaves_the_outcome_unknown(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is in the log for certain. What its caller is told, and who reads one of its stores
    in this process, is the same: it is not known whether it is recorded as failed, too."""

    def no_flush(self: Publisher, *_: object) -> NoReturn:
        self.database._failure = "a flush failed"
        raise StorageError(self.database.path, "input/output error", "a flush failed")

    monkeypatch.setattr(Publisher, "mark_failed", no_flush)
    fs = WatchedFileSystem(
        publishing(lambda number, *_: full(directory) if number == CALLS_PER_STORE else None)
    )
    unknown = "Its outcome is not known: it happens whole or not at all"
    with open_without_recovery(directory, fs) as store:
        with pytest.raises(BatchUnfinishedError, match=unknown) as caught:
            write_all(store)
        assert not caught.value.decided
        with pytest.raises(BatchUnfinishedError, match=unknown) as caught:
            store.read(LEASES)
        assert (caught.value.decided, "died" in str(caught.value)) == (False, False)


def test_a_failure_that_cannot_be_recorded_leaves_the_batch_decided(directory: Path) -> None:
    """Not recorded as failed, so it is in the log and goes forward: with the first batch that
    follows, or when the store is opened."""
    fs = WatchedFileSystem()
    with open_without_recovery(directory, fs) as store:
        with sql_lock(store) as lock:

            def judge(number: int, _name: str, _subject: Path | int) -> OSError | None:
                if PUBLISHING[number] == (DIAGNOSTICS, "write"):
                    lock()
                    return full(directory)
                return None

            fs.judge = publishing(judge)
            with pytest.raises(BatchUnfinishedError) as caught:
                write_all(store)
        assert (caught.value.batch_id, caught.value.decided) == ("batch-1", True)
        assert "No space left" in caught.value.cause
        [*_, batch] = store.batches()
        assert batch.state is BatchState.PREPARING
        # Its writer is this process, and lives.
        with pytest.raises(BatchUnfinishedError, match="died, or could not finish") as caught:
            store.read(LEASES)
        assert (caught.value.batch_id, caught.value.decided) == ("batch-1", True)
    with open_store(directory) as store:
        assert store.manifest().last_committed_batch_id == "batch-1"
        assert [receipt.receipt_id for receipt in store.batches()[-1].receipts] == [
            f"receipt-{number}" for number in range(1, 5)
        ]
        assert agree(store)


def test_a_completion_that_fails_leaves_the_batch_decided(directory: Path) -> None:
    """Its ids and times are the ones that its caller would have been told."""
    fs = WatchedFileSystem()
    with open_without_recovery(directory, fs) as store:
        with sql_lock(store) as lock:
            last = len(PUBLISHING) - 1
            fs.judge = publishing(lambda number, *_: lock() and None if number == last else None)
            with pytest.raises(BatchUnfinishedError) as caught:
                write_all(store)
        assert (caught.value.batch_id, caught.value.decided) == ("batch-1", True)
        assert "Its outcome is decided" in str(caught.value)
        assert store.manifest().last_preparing_batch_id == "batch-1"
    published = files_picture(directory)

    with open_store(directory) as store:
        [*_, batch] = store.batches()
        assert (batch.batch_id, batch.state) == ("batch-1", BatchState.COMMITTED)
        assert batch.started_at == batch.completed_at == NOON
        assert [receipt.receipt_id for receipt in batch.receipts] == [
            f"receipt-{number}" for number in range(1, 5)
        ]
        assert files_picture(directory) == published


def test_the_next_write_goes_on_from_a_completion_that_failed(directory: Path) -> None:
    """The same process may go on: the batch that was left comes first."""
    fs = WatchedFileSystem()
    with open_without_recovery(directory, fs) as store:
        with sql_lock(store) as lock:
            fs.judge = publishing(lambda number, *_: lock() and None if number == 3 else None)
            with pytest.raises(BatchUnfinishedError):
                write_all(store)
        fs.judge = None
        write(store, LEDGER, "after")

        assert [batch.batch_id for batch in store.batches()] == ["early-1", "batch-1", "batch-2"]
        assert store.read(LEASES).data == "new"
        assert store.manifest().high_watermark == 3
        assert agree(store)


@pytest.mark.parametrize("number", [0, 8, len(PUBLISHING) - 1])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_directory_that_goes_while_its_batch_is_published_leaves_the_outcome_unknown(
    directory: Path, tmp_path: Path, how: str, number: int
) -> None:
    """Its log went with it: no recovery here finishes the batch. Nothing is written where the
    directory was; where it is now, the batch is finished."""
    fs, elsewhere = WatchedFileSystem(), tmp_path / "elsewhere"
    with open_without_recovery(directory, fs) as store:
        store.back_up(tmp_path / "copy")
        shutil.copytree(tmp_path / "copy", tmp_path / "other")

        def go() -> None:
            if how == "removed":
                shutil.rmtree(directory)
            else:
                directory.rename(elsewhere)
            if how == "replaced":
                (tmp_path / "other").rename(directory)

        fs.judge = publishing(lambda found, *_: go() if found == number else None)
        with pytest.raises(DatabaseLostError, match="Whether batch batch-1 is in") as caught:
            write_all(store)
        assert (caught.value.batch_id, caught.value.committed) == ("batch-1", True)
        fs.judge = None
        with pytest.raises(RuntimeStoreError):
            write(store, LEASES, "after")
    if how == "replaced":
        there, copy = files_picture(directory), files_picture(tmp_path / "copy")
        touched = {name for name in there.keys() | copy if there.get(name) != copy.get(name)}
        # Between the look at the directory and the next call, nothing can be held.
        assert touched <= {FILE_OF[LEASES]} if number == 0 else not touched
    else:
        assert not directory.exists()
    if how != "removed":
        with open_store(elsewhere) as store:
            assert store.batches()[-1].state is BatchState.COMMITTED
            assert agree(store)


def test_a_log_that_is_damaged_decides_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody went over the database while the batch was published: nobody knows the outcome."""

    def damaged(*_: object) -> int:
        raise CorruptDatabaseError(directory / DATABASE_NAME, "a test")

    with open_without_recovery(directory, WatchedFileSystem()) as store:
        monkeypatch.setattr(store._writer.publisher, "complete", damaged)
        with pytest.raises(BatchUnfinishedError, match="not known") as caught:
            write_all(store)
    assert (caught.value.batch_id, caught.value.decided) == ("batch-1", False)


def test_a_log_whose_flush_failed_is_in_doubt_and_ends_the_writing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it is on the medium, so nothing is published, and this process writes
    no more; a new one finds the batch whole or not at all."""
    before = contents_of(directory)
    with open_without_recovery(directory, WatchedFileSystem()) as store:

        def lose(driver: sqlite3.Connection) -> None:
            driver.execute("ROLLBACK")
            store.database._failure = "disk I/O error"
            failure = sqlite3.OperationalError("disk I/O error")
            failure.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(store.database, "_commit", lose)
            with pytest.raises(BatchUnfinishedError) as caught:
                write_all(store)
        assert (caught.value.batch_id, caught.value.decided) == ("batch-1", False)
        assert "whole or not at all" in str(caught.value)
        with pytest.raises(DatabaseFailedError, match="Restart the process"):
            write_all(store)
        assert contents_of(directory) == before
    with open_store(directory) as store:
        write_all(store)
        assert agree(store)
