"""What SQLite refuses, told apart: locked, full, forbidden, gone, damaged; and a failed flush."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.translation import translate
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLockedError,
    RuntimeStoreError,
    StatementRefusedError,
    StorageError,
)
from tests.control.build import add_batch, batch_count, plain, run, write_one
from tests.support import may_do_anything


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_locked_by_another_program(path: Path, begin: str) -> None:
    """An open transaction of another program is said to be one, after the time to wait."""
    database = Database(path, busy_timeout_s=0.1)
    with plain(path) as other:
        other.execute(begin)
        started = time.monotonic()
        with (
            pytest.raises(DatabaseLockedError, match="is locked by another program") as caught,
            database.write(flush=False),
        ):
            pass
        assert time.monotonic() - started < 2
        assert caught.value.path == path
        assert "Close the sqlite3 shell" in str(caught.value)
    with database.write(flush=False) as connection:  # free again
        add_batch(connection, 1)
    database.close()


def test_full(database: Database) -> None:
    """A file that may not grow is a full disk: nothing is committed, and the next write works."""

    def fill() -> None:
        with database.write(flush=True) as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            for number in range(1, 500):
                add_batch(connection, number)

    with pytest.raises(StorageError, match="the disk is full") as caught:
        fill()
    assert caught.value.problem == "the disk is full"
    assert database.failure is None
    assert database.read(batch_count) == 0
    with database.write(flush=True) as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        add_batch(connection, 1)
    assert database.read(batch_count) == 1


@pytest.mark.skipif(may_do_anything(), reason="nothing is forbidden to this user")
def test_forbidden(path: Path) -> None:
    """A file that may not be written is said to be forbidden."""
    path.chmod(0o400)
    database = Database(path)
    with (
        pytest.raises(StorageError, match=r"not allowed|cannot be opened"),
        database.write(flush=True) as connection,
    ):
        add_batch(connection, 1)  # SQLite lets such a transaction begin
    database.close()


def test_gone(path: Path) -> None:
    """A database that is not there is said not to open, and is not made anew."""
    path.unlink()
    database = Database(path)
    with pytest.raises(StorageError, match="the file cannot be opened"):
        database.read(batch_count)
    database.close()
    assert not path.exists()


def test_corrupt(path: Path) -> None:
    """Overwritten pages are damage, found where they are read."""
    database = Database(path)
    with database.write(flush=True) as connection:
        for number in range(1, 500):
            add_batch(connection, number)
    database.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    damaged = Database(path)
    with pytest.raises(CorruptDatabaseError, match="is damaged"):
        damaged.read(lambda connection: connection.exec_driver_sql(SUM_OF_ALL).fetchall())
    damaged.close()


SUM_OF_ALL = "SELECT sum(length(batch_id)), sum(length(run_id)) FROM write_batches"


def test_not_a_database(path: Path) -> None:
    """A file that is something else is not taken for an empty database."""
    path.write_bytes(b"{}" * 4096)
    database = Database(path)
    with pytest.raises(CorruptDatabaseError, match="not a database"):
        database.read(batch_count)
    database.close()


def test_too_many_open_files(path: Path) -> None:
    """SQLite says "unable to open database file"; what keeps it from that is named."""
    Database(path).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    database = Database(path, read_only=True)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StorageError, match="too many files are open") as caught:
            database.read(batch_count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)
    assert caught.value.path == path
    database.close()


def test_descriptors_that_the_program_closed(path: Path) -> None:
    """SQLite then says that the protocol of its locks fails. No statement was refused for what it
    says, and the doctor would find nothing: the way out is to open the store again."""
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    found = translate(error, path)
    assert isinstance(found, StorageError)
    assert "close the store and open it again" in str(found)


def test_a_table_that_is_gone(path: Path) -> None:
    """A table that is not there is damage too."""
    with plain(path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DROP VIEW current_stores")
        connection.execute("DROP TABLE quarantined_files")
    database = Database(path)
    with pytest.raises(CorruptDatabaseError, match="no such table: quarantined_files"):
        database.read(
            lambda connection: connection.exec_driver_sql("SELECT * FROM quarantined_files")
        )
    database.close()


CODES: list[tuple[int, type[RuntimeStoreError]]] = [
    (sqlite3.SQLITE_BUSY, DatabaseLockedError),
    (sqlite3.SQLITE_BUSY_SNAPSHOT, DatabaseLockedError),
    (sqlite3.SQLITE_LOCKED, DatabaseLockedError),
    (sqlite3.SQLITE_FULL, StorageError),
    (sqlite3.SQLITE_READONLY, StorageError),
    (sqlite3.SQLITE_READONLY_DIRECTORY, StorageError),
    (sqlite3.SQLITE_PERM, StorageError),
    (sqlite3.SQLITE_CANTOPEN, StorageError),
    (sqlite3.SQLITE_IOERR_FSYNC, StorageError),
    (sqlite3.SQLITE_NOMEM, StorageError),
    (sqlite3.SQLITE_TOOBIG, StorageError),
    (sqlite3.SQLITE_CORRUPT, CorruptDatabaseError),
    (sqlite3.SQLITE_CORRUPT_INDEX, CorruptDatabaseError),
    (sqlite3.SQLITE_NOTADB, CorruptDatabaseError),
    (sqlite3.SQLITE_ERROR, CorruptDatabaseError),
    (sqlite3.SQLITE_CONSTRAINT_CHECK, StatementRefusedError),
    (sqlite3.SQLITE_MISUSE, StatementRefusedError),
]


@pytest.mark.parametrize(("code", "expected"), CODES)
def test_codes_told_apart(path: Path, code: int, expected: type[RuntimeStoreError]) -> None:
    """Each of SQLite's codes, extended ones too, gives the error that says what can be done."""
    error = sqlite3.OperationalError("what SQLite said")
    error.sqlite_errorcode = code
    ours = translate(error, path)
    assert type(ours) is expected
    assert "what SQLite said" in str(ours)
    assert str(path) in str(ours)


# --- a flush that fails ---------------------------------------------------------------------------


class _FailingCommit(sqlite3.Connection):
    """A connection whose next COMMIT fails as SQLite says when a flush fails."""

    fails_with: int | None = None

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql == "COMMIT" and _FailingCommit.fails_with is not None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = _FailingCommit.fails_with
            _FailingCommit.fails_with = None
            raise error
        return super().execute(sql, parameters)


@pytest.fixture
def failing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database whose commits can be made to fail."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=_FailingCommit))
    database = Database(path)
    yield database
    _FailingCommit.fails_with = None
    database.close()


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR]
)
def test_a_failed_flush_ends_writing(failing: Database, code: int) -> None:
    """After a COMMIT with an input/output error this process writes no more, and says why; it may
    still read."""
    _FailingCommit.fails_with = code
    with pytest.raises(StorageError, match="input/output error"):
        write_one(failing)
    doing = {
        sqlite3.SQLITE_IOERR_FSYNC: " (a flush failed)",
        sqlite3.SQLITE_IOERR_WRITE: " (the system refused a write: ",
    }
    assert failing.failure is not None
    assert failing.failure.startswith(f"disk I/O error{doing.get(code, '')}")
    with pytest.raises(DatabaseFailedError, match="Restart the process") as caught:
        write_one(failing)
    assert caught.value.cause == failing.failure
    assert "flush failed" not in str(caught.value) or code == sqlite3.SQLITE_IOERR_FSYNC
    assert failing.read(batch_count) == 0


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY])
def test_a_commit_that_was_refused_may_be_tried_again(failing: Database, code: int) -> None:
    """A COMMIT that failed for want of space or of a lock is rolled back, and may be repeated."""
    _FailingCommit.fails_with = code
    with pytest.raises((StorageError, DatabaseLockedError)):
        write_one(failing)
    assert failing.failure is None
    write_one(failing)
    assert failing.read(batch_count) == 1


REAL_IO_ERROR = """
import resource, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from rtstore.errors import DatabaseFailedError, StorageError
from tests.control.build import add_batch, batch_count

path = Path(sys.argv[1])
database = Database(path)
with database.write(flush=True) as connection:
    add_batch(connection, 1)
size = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    with database.write(flush=True) as connection:
        add_batch(connection, 2)
except StorageError as error:
    print(error.problem, "a quota or a limit" in error.cause, "flush" in str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    with database.write(flush=True) as connection:
        add_batch(connection, 3)
except DatabaseFailedError as error:
    print(type(error).__name__)
print(database.read(batch_count))
database.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_real_input_output_error(path: Path) -> None:
    """With a real error of the operating system in COMMIT the process writes no more; what was
    committed before is there, and another process goes on."""
    assert run(REAL_IO_ERROR, path) == "input/output error True False\nDatabaseFailedError\n1\n"
    database = Database(path)
    write_one(database, 2)
    assert database.read(batch_count) == 2
    database.close()
