"""Looking at a database without its WAL, at the very moment at which another process checkpoints it
and goes: what is seen then is no damage."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import idle
from rtstore.control.sqlite.engine import Database
from rtstore.errors import CorruptDatabaseError
from tests.control.build import batch_count, plain
from tests.support.forked import printed_by

LEAVE_A_LONG_WAL = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import INSERT_CONTENT, INSERT_WRITE, add_batch

database = Database(Path(sys.argv[1]))
with database.write(flush=True) as connection:
    add_batch(connection, 1)
    connection.exec_driver_sql(INSERT_WRITE, (1, "a.store", "receipt-1", "a.json"))
    connection.exec_driver_sql(INSERT_CONTENT, (1, "a.store", '"' + "x" * 100_000 + '"'))
os._exit(0)
"""


class Checkpoint:
    """A checkpoint that another process is about to make."""

    def __init__(self, path: Path, elsewhere: Path) -> None:
        self.path = path
        printed_by(LEAVE_A_LONG_WAL, path)
        whole = Path(shutil.copytree(path.parent, elsewhere)) / path.name
        with plain(whole) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._whole = whole.read_bytes()
        self._wal = path.with_name(path.name + "-wal")

    def begin(self) -> None:
        """The first page is there, and says how long the file will be; it is not, yet."""
        with self.path.open("r+b") as file:
            file.write(self._whole[:4096])

    def end(self) -> None:
        """The other pages, too; and the other process goes, and the WAL with it."""
        with self.path.open("r+b") as file:
            file.write(self._whole)
        self._wal.unlink(missing_ok=True)
        self.path.with_name(self.path.name + "-shm").unlink(missing_ok=True)


@pytest.fixture
def checkpoint(path: Path, tmp_path: Path) -> Checkpoint:
    """A database with a WAL that makes it longer, once it is written back."""
    return Checkpoint(path, tmp_path / "elsewhere")


def _when_closed(then: Callable[[], None]) -> Callable[..., sqlite3.Connection]:
    """What opens connections, the first of which does something once it is closed."""
    connect, left = sqlite3.connect, [then]

    class First(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            while left:
                left.pop()()

    def opening(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=First, **options)

    return opening


def test_a_checkpoint_that_ends_while_the_header_is_read(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is shorter than its first page says is no damage when the WAL went meanwhile."""
    checkpoint.begin()
    monkeypatch.setattr(sqlite3, "connect", _when_closed(checkpoint.end))
    assert revisions.inspect_revision(checkpoint.path) == REVISIONS[-1]


def test_a_checkpoint_that_comes_and_goes_during_an_idle_read(checkpoint: Checkpoint) -> None:
    """An idle file that is found damaged while somebody writes it back is read again."""
    checkpoint.path.with_name(checkpoint.path.name + "-wal").unlink()
    checkpoint.path.with_name(checkpoint.path.name + "-shm").unlink()
    reader, looks = Database(checkpoint.path, read_only=True), list[None]()

    def query(connection: Connection) -> int:
        looks.append(None)
        if len(looks) == 1:
            checkpoint.begin()
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            checkpoint.end()
            raise error
        return batch_count(connection)

    assert reader.read(query) == 1
    assert len(looks) == 2
    reader.close()


def test_damage_that_stays_is_told(checkpoint: Checkpoint) -> None:
    """A file that is shorter than its first page says, and stays so, is damaged."""
    checkpoint.begin()
    checkpoint.path.with_name(checkpoint.path.name + "-wal").unlink()
    with pytest.raises(CorruptDatabaseError):
        revisions.inspect_revision(checkpoint.path)
    with pytest.raises(CorruptDatabaseError):
        Database(checkpoint.path, read_only=True).read(batch_count)


def test_a_change_within_one_tick_of_the_clock_is_seen(path: Path) -> None:
    """A file that was written a moment ago may be written again without its time telling: it is
    not taken for idle before that moment is over."""
    reader, looks = Database(path, read_only=True), list[int]()
    with plain(path) as connection:
        connection.execute("PRAGMA user_version")
    now = time.time_ns()
    os.utime(path, ns=(now, now))

    def query(connection: Connection) -> int:
        looks.append(time.time_ns() - path.stat().st_mtime_ns)
        return batch_count(connection)

    assert reader.read(query) == 0
    assert looks[-1] >= idle.TICK_NS
    reader.close()


def test_the_newest_revision_is_known_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open what was closed a moment ago waits for no clock; what is to be refused does, once
    more."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    later = time.time_ns() - idle.TICK_NS // 2
    monkeypatch.setattr(time, "time_ns", lambda: later + idle.TICK_NS // 2)
    os.utime(path, ns=(later, later))
    assert revisions.inspect_revision(path) == REVISIONS[-1]
    assert waits == []
    with plain(path) as connection:
        connection.execute("DELETE FROM alembic_version")
    for side in path.parent.glob(f"{path.name}-*"):
        side.unlink()
    os.utime(path, ns=(later, later))
    with pytest.raises(CorruptDatabaseError):
        revisions.inspect_revision(path)
    assert set(waits) == {idle.TICK_NS / 1e9}
