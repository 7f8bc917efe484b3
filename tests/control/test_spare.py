"""The first connection that reads becomes the one for writing, and changes nothing before that."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore.control.sqlite import ground
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.sessions import Pool
from rtstore.errors import StorageError
from tests.control.build import add_batch, batch_count, run, write_one
from tests.support import breadth

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and /proc of Linux")


class Opened:
    """Counts the connections that are opened, by what they may do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.modes: list[str] = []
        self._connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", self._counted)

    def _counted(self, where: str, **options: object) -> sqlite3.Connection:
        self.modes.append(where.partition("?mode=")[2])
        return self._connect(where, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The connections of the test."""
    return Opened(monkeypatch)


def _side_files(path: Path) -> list[str]:
    return sorted(item.name[len(path.name) :] for item in path.parent.glob(f"{path.name}-*"))


def test_one_connection_reads_writes_and_closes(path: Path, opened: Opened) -> None:
    """A short life needs one connection; who reads after a write has one that cannot write."""
    database = Database(path)
    assert database.read(batch_count) == 0
    write_one(database)
    assert opened.modes == ["rw"]
    assert database.read(batch_count) == 1
    write_one(database, 2)
    assert database.read(batch_count) == 2
    assert opened.modes == ["rw", "ro"]
    database.close()
    assert opened.modes == ["rw", "ro"]
    assert _side_files(path) == []


def test_it_cannot_write_before(path: Path) -> None:
    """A query that would change something fails, as on any connection for reading."""
    database = Database(path)
    with pytest.raises(StorageError, match="readonly"):
        database.read(lambda connection: add_batch(connection, 1))
    assert database.read(batch_count) == 0
    database.close()


def test_a_new_connection_writes_while_a_thread_reads_on_it(path: Path, opened: Opened) -> None:
    """A writer does not wait for a reader, and what is read stays of its moment."""
    database = Database(path)
    assert _while_one_reads(database, lambda: write_one(database)) == (0, 0)
    assert opened.modes == ["rw", "rw"]
    assert database.read(batch_count) == 1
    database.close()
    assert _side_files(path) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_it_is_not_the_last_to_close(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Where a thread reads while the database is closed, its connection ends without the writer
    lock: it leaves the WAL as it is, and nothing of ours stays open. The control: it would move the
    WAL into the database if that thread were not known."""
    if not is_known:
        monkeypatch.setattr(Pool, "is_reading_on_spare", False)
    _write_and_die(path)
    before = path.read_bytes()
    database = Database(path)
    assert _while_one_reads(database, database.close) == (1, 1)
    assert (path.read_bytes() == before) is is_known
    assert _side_files(path) == (["-shm", "-wal"] if is_known else [])
    assert not ground._grounds
    database = Database(path)
    assert database.read(batch_count) == 1
    database.close()
    assert _side_files(path) == []


def test_none_without_our_lock(path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing keeps it from being the last to close, a connection for reading cannot
    write."""
    monkeypatch.setattr(ground, "_SET_LOCK", None)
    database = Database(path)
    database.read(batch_count)
    write_one(database)
    assert opened.modes == ["ro", "rw"]
    database.close()


ONE_IN_THE_WAL = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import write_one

database = Database(Path(sys.argv[1]))
write_one(database)
os._exit(0)
"""


@pytest.mark.parametrize("then", ["write", "close"])
@pytest.mark.parametrize(
    "gone", breadth.params([("-wal",), ("-shm",), ("-wal", "-shm")], normal=[("-wal", "-shm")])
)
@pytest.mark.parametrize("reads", breadth.params([False, True], normal=[False]))
def test_its_wal_is_removed(path: Path, then: str, gone: tuple[str, ...], reads: bool) -> None:
    """What another process committed before is in that WAL only. A database that only looked so far
    has it open, too, and saves it with its first write, or when it closes."""
    run(ONE_IN_THE_WAL, path)
    database = Database(path)
    assert database.read(batch_count) == 1
    for suffix in gone:
        path.with_name(f"{path.name}{suffix}").unlink()
    if reads:
        assert database.read(batch_count) == 1
    if then == "write":
        write_one(database, 2)
    database.close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count = raw.execute("SELECT count(*) FROM write_batches").fetchone()
    assert count == (2 if then == "write" else 1,)


def _while_one_reads(database: Database, act: Callable[[], object]) -> tuple[int, int]:
    """Do something while a thread reads. Return what it counted before and after that."""
    reads, done = threading.Event(), threading.Event()
    found: list[tuple[int, int]] = []

    def query(connection: Connection) -> tuple[int, int]:
        before = batch_count(connection)
        reads.set()
        assert done.wait(60)
        return before, batch_count(connection)

    reader = threading.Thread(target=lambda: found.append(database.read(query)))
    reader.start()
    assert reads.wait(20)
    try:
        act()
    finally:
        done.set()
        reader.join()
    return found[0]


def _write_and_die(path: Path) -> None:
    """Write a batch in a process that dies without closing the database."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from rtstore.control.sqlite.engine import Database\n"
        "from tests.control.build import write_one\n"
        "database = Database(Path(sys.argv[1])); write_one(database); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=60)
