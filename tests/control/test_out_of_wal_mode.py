"""A database that somebody took out of WAL mode, in a shell or with a tool: it is put back into it
before our lock keeps everybody, us included, from doing so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.ground import Ground
from rtstore.errors import DatabaseLockedError
from tests.control.build import batch_count, hashes, plain, write_one
from tests.support.forked import printed_by


@pytest.fixture
def taken_out(path: Path) -> Path:
    """A database in the mode that SQLite calls DELETE."""
    with plain(path) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    return path


def _mode(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize("first", ["read", "write"])
def test_it_is_put_back(taken_out: Path, first: str) -> None:
    """Whether the first thing is to read or to write; and then it is a database like any other."""
    database = Database(taken_out)
    if first == "read":
        assert database.read(batch_count) == 0
    write_one(database, 1)
    assert taken_out.with_name(taken_out.name + "-wal").exists()
    other = Database(taken_out)
    write_one(other, 2)
    assert database.read(batch_count) == 2
    other.close()
    database.close()
    assert list(hashes(taken_out.parent)) == [taken_out.name]
    assert _mode(taken_out) == "wal"


def test_with_our_lock_first_nobody_could_write(
    taken_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: our own lock would keep the mode as it is, and refuse every write."""
    monkeypatch.setattr(Ground, "has_rollback_journal", lambda *_: False)
    database = Database(taken_out, busy_timeout_s=0.05)
    assert database.read(batch_count) == 0
    with pytest.raises(DatabaseLockedError):
        write_one(database)
    database.close()


def test_read_only_access_leaves_it_as_it_is(taken_out: Path) -> None:
    """Who only looks changes no mode."""
    before = hashes(taken_out.parent)
    reader = Database(taken_out, read_only=True)
    assert reader.read(batch_count) == 0
    reader.close()
    assert hashes(taken_out.parent) == before


def test_somebody_reads_it_meanwhile(taken_out: Path) -> None:
    """The mode cannot be changed beside a reader: that is said, and is over with the reader."""
    database = Database(taken_out, busy_timeout_s=0.05)
    with plain(taken_out) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT * FROM write_batches").fetchall()
        with pytest.raises(DatabaseLockedError):
            write_one(database, 1)
        shell.execute("COMMIT")
    write_one(database, 1)
    database.close()
    assert _mode(taken_out) == "wal"


TAKE_OUT = """
import sqlite3, sys
shell = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    print(shell.execute("PRAGMA journal_mode = DELETE").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
shell.close()
"""


def test_nobody_takes_it_out_while_it_is_open(path: Path) -> None:
    """Not even when the program has dropped SQLite's locks by closing the file itself."""
    database = Database(path)
    write_one(database, 1)
    with path.open("rb"):
        pass
    assert printed_by(TAKE_OUT, path) in ("wal\n", "database is locked\n")
    write_one(database, 2)
    assert _mode(path) == "wal"
    database.close()
