"""Read-only access, which leaves everything as it is, and the end of a connection's life."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore.control import manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    StoreClosedError,
)
from tests.control.build import batch_count, hashes, plain, run, write_one
from tests.support.forked import printed_by


def test_read_only_access_to_an_idle_database(path: Path) -> None:
    """Reading an idle database changes no file and makes none."""
    database = Database(path)
    write_one(database)
    database.close()
    before = hashes(path.parent)
    reader = Database(path, read_only=True)
    seen = reader.read(
        lambda connection: (batch_count(connection), [each.name for each in path.parent.iterdir()])
    )
    reader.close()
    assert seen == (1, [path.name])
    assert hashes(path.parent) == before


def test_read_only_access_beside_a_writer(path: Path) -> None:
    """Beside a living writer, read-only access sees each of its commits at once, also those that
    are in the WAL only, and keeps nothing open between two reads."""
    reader = Database(path, read_only=True)
    assert reader.read(batch_count) == 0
    writer = Database(path)
    for number in (1, 2, 3):
        write_one(writer, number)
        assert reader.read(batch_count) == number
    writer.close()
    assert set(hashes(path.parent)) == {path.name}
    assert reader.read(batch_count) == 3
    reader.close()


LEAVE_A_WAL = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import add_batch

database = Database(Path(sys.argv[1]))
with database.write(flush=True) as connection:
    add_batch(connection, 1)
os._exit(0)
"""


def test_read_only_access_after_a_dead_writer(path: Path) -> None:
    """What a dead writer left in the WAL is seen, and the WAL stays as it was found."""
    printed_by(LEAVE_A_WAL, path)
    before = hashes(path.parent)
    assert path.name + "-wal" in before
    reader = Database(path, read_only=True)
    assert reader.read(batch_count) == 1
    reader.close()
    after = hashes(path.parent)
    index = path.name + "-shm"  # no data: SQLite makes it anew from the WAL
    assert {**after, index: ""} == {**before, index: ""}


def test_a_writer_that_comes_during_an_idle_read(path: Path) -> None:
    """What was read while a writer came along is thrown away and read again."""
    writer = Database(path)
    reader = Database(path, read_only=True)
    seen: list[int] = []

    def query(connection: Connection) -> int:
        seen.append(batch_count(connection))
        if len(seen) == 1:
            write_one(writer)
        return batch_count(connection)

    assert reader.read(query) == 1
    assert seen == [0, 1]
    reader.close()
    writer.close()


def test_a_database_that_never_rests(path: Path) -> None:
    """When a writer comes and goes during every look, reading gives up and says why."""
    reader = Database(path, read_only=True)
    numbers = iter(range(1, 1000))

    def query(connection: Connection) -> int:
        writer = Database(path)
        write_one(writer, next(numbers))
        writer.close()
        return batch_count(connection)

    with pytest.raises(DatabaseLockedError, match="it kept changing while it was read"):
        reader.read(query)
    reader.close()


def test_threads_with_read_only_access(path: Path) -> None:
    """Threads that share read-only access beside a writer that comes and goes never see less than
    was committed when they began to look."""
    reader = Database(path, read_only=True)
    committed, stop, wrong = [0], threading.Event(), list[tuple[int, int]]()

    def look() -> None:
        while not stop.is_set():
            before = committed[0]
            try:
                found = reader.read(batch_count)
            except DatabaseLockedError:
                continue
            if found < before:
                wrong.append((before, found))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 31):
        writer = Database(path)
        write_one(writer, number)
        committed[0] = number
        writer.close()
    stop.set()
    for thread in threads:
        thread.join()
    reader.close()
    assert wrong == []
    assert committed == [30]


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_works_after_close(path: Path, read_only: bool) -> None:
    """A closed database says so, and may be closed again."""
    database = Database(path, read_only=read_only)
    assert database.read(batch_count) == 0
    database.close()
    database.close()
    with pytest.raises(StoreClosedError, match="is closed"):
        database.read(batch_count)
    with pytest.raises(StoreClosedError, match="is closed"), database.write(flush=False):
        pass


def test_the_last_to_close_tidies_up(path: Path) -> None:
    """An idle directory holds the database alone: the WAL goes with the last connection, even when
    that process only read."""
    database = Database(path)
    database.read(batch_count)
    write_one(database)
    other = Database(path)
    other.read(batch_count)
    database.close()
    other.close()
    assert set(hashes(path.parent)) == {path.name}


def test_what_looking_at_a_damaged_database_made_goes_with_it(path: Path) -> None:
    """A database that cannot be used is left as it was, with nothing beside it, even when its
    schema is what is damaged."""
    with plain(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'updated_at TEXT', 'updated_ax TEXT')"
            " WHERE name = 'runtime_manifest'"
        )
    before = hashes(path.parent)
    database = Database(path)
    with pytest.raises(CorruptDatabaseError):
        database.read(manifest.load_head)
    database.close(tidy=False)
    assert hashes(path.parent) == before


FORKED = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from rtstore.errors import StoreClosedError
from tests.control.build import add_batch, batch_count

path, way_out = Path(sys.argv[1]), sys.argv[2]
database = Database(path)
with database.write(flush=True) as connection:
    add_batch(connection, 1)
assert database.read(batch_count) == 1

child = os.fork()
if child == 0:
    refused = 0
    for attempt in (
        lambda: database.read(batch_count),
        lambda: database.read_on_writer(batch_count),
        lambda: database.write(flush=True).__enter__(),
    ):
        try:
            attempt()
        except StoreClosedError as error:
            refused += "forked" in str(error)
    database.close()
    own = Database(path)
    assert own.read(batch_count) == 1
    own.close()
    if way_out == "exit":
        sys.exit(refused)
    os._exit(refused)

_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 3, status
for number in range(2, 50):
    with database.write(flush=False) as connection:
        add_batch(connection, number)
assert database.read(batch_count) == 49
assert database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one()) == "ok"
database.close()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("way_out", ["exit", "_exit"])
def test_a_forked_child_must_open_its_own(path: Path, way_out: str) -> None:
    """A child that was forked gets a clear error from what it inherited and can open its own; the
    parent goes on undisturbed, however the child ends."""
    assert run(FORKED, path, way_out) == "fine\n"
    assert set(hashes(path.parent)) == {path.name}
