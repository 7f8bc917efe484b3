"""How the control database is reached: pragmas, transactions, readers, errors told apart."""

from __future__ import annotations

import sqlite3
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection

from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import driver_of
from rtstore.errors import (
    DatabaseFailedError,
    ReadOnlyStoreError,
    RuntimeStoreError,
    StatementRefusedError,
    StorageError,
    UnusableEngineError,
)
from tests.control.build import add_batch, batch_count, make, plain, write_one

PRAGMAS = (
    "busy_timeout",
    "foreign_keys",
    "trusted_schema",
    "fullfsync",
    "checkpoint_fullfsync",
    "cell_size_check",
    "journal_size_limit",
    "secure_delete",
    "journal_mode",
    "synchronous",
)
EXPECTED = {
    "busy_timeout": 5000,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "fullfsync": 1,
    "checkpoint_fullfsync": 1,
    "cell_size_check": 1,
    "journal_size_limit": 16 * 1024 * 1024,
    "secure_delete": 0,
    "journal_mode": "wal",
}


def pragmas_of(connection: Connection) -> dict[str, Any]:
    """The pragmas as the connection answers them."""
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in PRAGMAS}


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("flush", "synchronous"), [(True, 2), (False, 1)])
def test_pragmas_of_the_writer(database: Database, flush: bool, synchronous: int) -> None:
    """A write that flushes runs at synchronous=FULL, one that does not at NORMAL, whatever the one
    before it did; the other pragmas are as planned."""
    for first in (flush, not flush, flush):
        with database.write(flush=first) as connection:
            found = pragmas_of(connection)
    assert found == {**EXPECTED, "synchronous": synchronous}


def test_pragmas_of_a_reader(database: Database) -> None:
    """A reader's connection has the same pragmas, and may only read."""
    found = database.read(pragmas_of)
    found.pop("synchronous")  # it writes nothing
    assert found == EXPECTED


@pytest.mark.parametrize("beside_a_writer", [False, True])
def test_pragmas_of_read_only_access(path: Path, beside_a_writer: bool) -> None:
    """So has the connection of read-only access, to an idle database and beside a writer."""
    writer = Database(path)
    if beside_a_writer:
        with writer.write(flush=False) as connection:
            add_batch(connection, 1)
    reader = Database(path, read_only=True)
    found = reader.read(pragmas_of)
    reader.close()
    writer.close()
    assert {name: found[name] for name in EXPECTED if name != "journal_mode"} == {
        name: value for name, value in EXPECTED.items() if name != "journal_mode"
    }


def test_busy_timeout_is_the_one_asked_for(path: Path) -> None:
    """The time to wait for other programs can be chosen."""
    database = Database(path, busy_timeout_s=0.25)
    assert database.read(pragmas_of)["busy_timeout"] == 250
    database.close()


class _Deaf(sqlite3.Connection):
    """A connection on which one pragma does not take, as with an engine built otherwise."""

    deaf_to = ""

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        if sql.startswith(f"PRAGMA {self.deaf_to} ="):
            return super().execute(f"PRAGMA {self.deaf_to}")
        return super().execute(sql, parameters)


@pytest.mark.parametrize(
    "pragma", ["foreign_keys", "trusted_schema", "synchronous", "busy_timeout"]
)
def test_a_pragma_that_does_not_take(
    path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str
) -> None:
    """Every pragma is read back: one that did not take stops everything, and is named."""
    deaf = type("Deaf", (_Deaf,), {"deaf_to": pragma})
    plain_connect = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        options["timeout"] = 1  # another than the pragma asks for
        return plain_connect(*arguments, factory=deaf, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)
    database = Database(path, busy_timeout_s=2)
    with (
        pytest.raises(UnusableEngineError, match=f"PRAGMA {pragma} is "),
        database.write(flush=False),
    ):
        pass
    database.close()


def test_wal_that_does_not_take(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no WAL, nothing is written, and the error says what to do."""
    with plain(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    deaf = type("Deaf", (_Deaf,), {"deaf_to": "journal_mode"})
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=deaf))
    database = Database(path)
    with (
        pytest.raises(UnusableEngineError, match=r"'delete'.*Use a local directory"),
        database.write(flush=True),
    ):
        pass
    database.close()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite without STRICT tables or `->>` is refused before anything is opened."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    with pytest.raises(UnusableEngineError, match=r"too old: 3\.38\.0"):
        Database(path)


def test_names_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    """A directory may be called anything: `?`, `#`, `%` and blanks are only letters of its name."""
    directory = tmp_path / "50% of #1? yes & ünïcode"
    database = Database(make(directory))
    with database.write(flush=False) as connection:
        add_batch(connection, 1)
    assert database.read(batch_count) == 1
    database.close()
    reader = Database(database.path, read_only=True)
    assert reader.read(batch_count) == 1
    reader.close()
    assert [entry.name for entry in tmp_path.iterdir()] == [directory.name]


# --- transactions ---------------------------------------------------------------------------------


def test_a_write_is_committed(database: Database) -> None:
    """What a block wrote is there when it has been left."""
    with database.write(flush=True) as connection:
        add_batch(connection, 1)
    assert database.read(batch_count) == 1


class _Stop(BaseException):
    """Nothing that anybody catches by name."""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, _Stop])
def test_a_write_that_raises_leaves_nothing(database: Database, error: type[BaseException]) -> None:
    """Whatever a block raises comes out as it is; nothing of the block is kept, and the next write
    finds no transaction open."""

    def attempt() -> None:
        with database.write(flush=False) as connection:
            add_batch(connection, 1)
            raise error

    with pytest.raises(error):
        attempt()
    assert database.read(batch_count) == 0
    with database.write(flush=False) as connection:
        assert batch_count(connection) == 0
        add_batch(connection, 2)
    assert database.read(batch_count) == 1


def test_a_failing_statement_rolls_back(database: Database) -> None:
    """A statement that fails takes the ones before it along, and is not called damage."""

    def attempt() -> None:
        with database.write(flush=False) as connection:
            add_batch(connection, 1)
            add_batch(connection, 1)

    with pytest.raises(StatementRefusedError, match="UNIQUE constraint failed") as caught:
        attempt()
    assert caught.value.added == ()
    assert database.read(batch_count) == 0


def test_a_transaction_that_ended_before_its_commit_is_of_unknown_outcome(
    database: Database,
) -> None:
    """Where something ended the transaction of a block, the rest of it was committed statement by
    statement: nobody is told that nothing was written, and this process writes no more."""

    def attempt() -> None:
        with database.write(flush=True) as connection:
            add_batch(connection, 1)
            connection.exec_driver_sql("ROLLBACK")
            add_batch(connection, 2)

    with pytest.raises(RuntimeStoreError, match="no transaction is active"):
        attempt()
    assert database.read(batch_count) == 1
    assert database.failure is not None
    with pytest.raises(DatabaseFailedError, match="had ended before its commit"):
        write_one(database)


def test_an_error_that_ended_the_transaction_is_shown(database: Database) -> None:
    """When SQLite has rolled back by itself, the first error comes out, not one of a second
    rollback."""

    def attempt() -> None:
        with database.write(flush=False) as connection:
            add_batch(connection, 1)
            connection.exec_driver_sql("ROLLBACK")
            raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error"):
        attempt()
    assert database.read(batch_count) == 0


def test_a_write_begins_as_a_writer(database: Database, path: Path) -> None:
    """The write lock is taken at once, not at the first statement that writes: from then on no
    other program can begin to write."""
    with (
        database.write(flush=False),
        plain(path) as other,
    ):
        other.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")


def test_a_reader_sees_one_moment(database: Database) -> None:
    """Everything in one read is of one moment; what is committed meanwhile is in the next."""

    def query(connection: Connection) -> tuple[int, int]:
        before = batch_count(connection)
        with database.write(flush=False) as writing:
            add_batch(writing, 1 + before)
        return before, batch_count(connection)

    assert database.read(query) == (0, 0)
    assert database.read(batch_count) == 1


def test_readers_do_not_wait_for_a_writer(path: Path) -> None:
    """A reader neither waits for a writer nor is refused, and sees what is committed."""
    database = Database(path, busy_timeout_s=0)
    with plain(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("UPDATE runtime_manifest SET high_watermark = 7")
        assert database.read(batch_count) == 0
    database.close()


def test_the_writer_reads_what_it_wrote(database: Database) -> None:
    """The connection for writing can also read, in a transaction that changes nothing."""
    with database.write(flush=False) as connection:
        add_batch(connection, 1)
    assert database.read_on_writer(batch_count) == 1
    with database.write(flush=False) as connection:
        assert batch_count(connection) == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_a_reader_cannot_write(path: Path, read_only: bool) -> None:
    """A statement that writes, in a read, is refused as not allowed; nothing is damaged."""
    database = Database(path, read_only=read_only)
    with pytest.raises(StorageError, match="writing is not allowed"):
        database.read(lambda connection: add_batch(connection, 1))
    assert database.read(batch_count) == 0
    database.close()


def test_read_only_access_has_no_writer(path: Path) -> None:
    """Read-only access offers no way to write."""
    database = Database(path, read_only=True)
    with pytest.raises(ReadOnlyStoreError, match="read-only"), database.write(flush=False):
        pass
    with pytest.raises(ReadOnlyStoreError, match="read-only"):
        database.read_on_writer(batch_count)
    database.close()


def test_threads_read_at_the_same_time(database: Database) -> None:
    """Many threads read at once, each on a connection of its own."""
    both_there = threading.Barrier(8, timeout=20)
    found: list[int] = []

    def query(connection: Connection) -> int:
        both_there.wait()
        return batch_count(connection)

    threads = [
        threading.Thread(target=lambda: found.append(database.read(query))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 8


def test_every_begin_is_ours(database: Database) -> None:
    """The driver never begins a transaction by itself; a read and a write are in one of ours."""

    def query(connection: Connection) -> tuple[str | None, bool]:
        driver = driver_of(connection)
        return driver.isolation_level, driver.in_transaction

    assert database.read(query) == (None, True)
    with database.write(flush=False) as connection:
        assert query(connection) == (None, True)
        driver = driver_of(connection)
    assert not driver.in_transaction


def test_a_clock_before_1970_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy would ask for a connection again, for ever."""
    monkeypatch.setattr("sqlalchemy.pool.base.time", SimpleNamespace(time=lambda: -1.0))
    with pytest.raises(RuntimeStoreError, match="clock of this machine stands before 1970"):
        Database(database.path, read_only=True).read(lambda connection: connection)
