"""Somebody removes the WAL of an open database once: whatever its process does next, but for being
killed, what was acknowledged is moved into the database, or stays in that process and is said to.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore import AsyncRuntimeStore, RuntimeStore
from rtstore.control.lock import WriterLock
from rtstore.control.sqlite import held, sessions
from rtstore.control.sqlite.engine import Database
from rtstore.errors import DatabaseLockedError, WalNotSavedError
from tests.control.build import add_batch, batch_count, copied, run, write_one
from tests.support import IDENTITY, LEASES, TEAM, breadth
from tests.support.forked import forked, printed_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and /proc of Linux")

GONE = breadth.params([("-wal",), ("-shm",), ("-wal", "-shm")], normal=[("-wal",)])


def _remove(path: Path, *gone: str) -> None:
    for suffix in gone or ("-wal",):
        path.with_name(f"{path.name}{suffix}").unlink()


def _rows(path: Path) -> int:
    """The batches that another program finds, in a database that is sound."""
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(raw.execute("SELECT count(*) FROM write_batches").fetchone()[0])


# --- a store that only looked ---------------------------------------------------------------------

WRITE_AND_DIE = """
import os
from pathlib import Path
from rtstore import AsyncRuntimeStore, RuntimeStore
from tests.support import LEASES, TEAM, write
store = RuntimeStore.open(Path(sys.argv[1]), team_name=TEAM)
for number in (1, 2, 3):
    write(store, LEASES, number)
os._exit(0)
"""
LOOK_AND_ACT = """
import os, threading
from pathlib import Path
from rtstore import AsyncRuntimeStore, RuntimeStore
from tests.support import LEASES, TEAM, write
directory, how, gone = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
store = RuntimeStore.open(directory, team_name=TEAM)
assert store.read(LEASES).data == 3
for suffix in gone:
    (directory / f"runtime-store.sqlite3{suffix}").unlink()
if how == "write":
    write(store, LEASES, 4)
elif how == "threads":
    threads = [threading.Thread(target=write, args=(store, LEASES, 4)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
elif how == "begin":
    store.begin_run("run-9", keep="all")
elif how == "prune":
    store.prune()
elif how == "another":
    other = RuntimeStore.open(directory)
    assert other.read(LEASES).data == 3
say(store.read(LEASES).data)
os._exit(0)
"""


@pytest.mark.parametrize(
    "how",
    breadth.params(
        ["write", "threads", "begin", "prune", "another"], normal=["write", "threads", "another"]
    ),
)
@pytest.mark.parametrize("gone", GONE)
def test_a_store_that_only_looked(directory: Path, how: str, gone: tuple[str, ...]) -> None:
    """Its first write saves what another process committed, and commits; so does whatever needs a
    connection more. The process is then killed."""
    printed_by(WRITE_AND_DIE, directory)
    printed_by_one = printed_by(LOOK_AND_ACT, directory, how, *gone)
    assert printed_by_one == ("4\n" if how in ("write", "threads") else "3\n")
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.read(LEASES).data == int(printed_by_one)
        assert len(store.batches()) >= 3


# --- forks ----------------------------------------------------------------------------------------

FORKING = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite import held
from rtstore.control.sqlite.engine import Database
from rtstore.errors import StoreForkedError
from tests.control.build import batch_count, write_one
path, has_written, has_room, child, then = Path(sys.argv[1]), *sys.argv[2:]
database = Database(path)
if has_written == "wrote":
    write_one(database, 1)
assert database.read(batch_count) == 1
path.with_name(f"{path.name}-wal").unlink()

def no_room(*_):
    raise OSError(28, "No space left on device")

make_room = held.Held._make_room
if has_room == "full":
    held.Held._make_room = no_room
pid = os.fork()
if pid == 0:
    if child == "opens":
        try:
            own = Database(path)
            assert own.read(batch_count) == 1
        except StoreForkedError:
            os._exit(8)
    if child == "ends":
        sys.exit(0)
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status >> 8 == (8 if (has_room, child) == ("full", "opens") else 0), status
held.Held._make_room = make_room
if then == "write":
    write_one(database, 2)
    os._exit(0)
database.close()
"""


FORKS = [
    f"{room} {child} {then}"
    for room in ("room", "full")
    for child in ("dies", "ends", "opens")
    for then in ("write", "close")
]


@pytest.mark.parametrize("has_written", ["wrote", "read"])
@pytest.mark.parametrize(
    "how", breadth.params(FORKS, normal=["room opens write", "full opens close"])
)
def test_a_fork(path: Path, has_written: str, how: str) -> None:
    """A fork closes the connections: it saves the WAL first. Where it cannot, the connection stays;
    the child is refused the database then, and the parent saves it later."""
    if has_written == "read":
        printed_by(ONE_AND_DIE, path)
    script = run if "ends" in how else printed_by
    script(FORKING, path, has_written, *how.split())
    assert _rows(path) == (2 if how.endswith("write") else 1)


ONE_AND_DIE = """
import os, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import write_one
database = Database(Path(sys.argv[1]))
write_one(database)
os._exit(0)
"""

# --- a full disk ----------------------------------------------------------------------------------


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("how", ["store", "database"])
def test_closing_on_a_full_disk(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nothing is moved by halves: it says so, and closing again, with room, saves everything. A
    write in between is refused, and changes nothing."""
    if how == "store":
        store = RuntimeStore.open(directory, team_name=TEAM)
        store.write_batch(
            identity=IDENTITY, reason="recovery", writes={LEASES: {"text": "x" * 100_000}}
        )
        path, close = store.database.path, store.close
    else:
        path = copied(tmp_path / "another")
        database = Database(path)
        write_one(database)
        close = database.close
    _remove(path)
    before = path.stat().st_size, path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _no_room)
        for _ in range(2):
            with pytest.raises(WalNotSavedError, match="as it was") as caught:
                close()
            assert not caught.value.is_half
        assert (path.stat().st_size, path.read_bytes()) == before
    close()
    assert not path.with_name(f"{path.name}-wal").exists()
    if how == "store":
        with RuntimeStore.open(directory) as store:
            assert store.read(LEASES).data == {"text": "x" * 100_000}
    assert _rows(path) == 1


def test_closing_on_a_full_disk_in_asyncio(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a store for asyncio: closing it again saves everything."""

    async def attempt() -> None:
        store = await AsyncRuntimeStore.open(directory, team_name=TEAM)
        await store.write_batch(identity=IDENTITY, reason="recovery", writes={LEASES: 1})
        _remove(store.sync_store.database.path)
        with monkeypatch.context() as patch:
            patch.setattr(held.Held, "_make_room", _no_room)
            for _ in range(2):
                with pytest.raises(WalNotSavedError):
                    await store.close()
        await store.close()
        await store.close()

    asyncio.run(attempt())
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == 1


LIMITED = """
import os, resource, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from rtstore.errors import WalNotSavedError
from tests.control.build import add_batch, batch_count
path, allocates = Path(sys.argv[1]), sys.argv[2]
database = Database(path)
with database.write(flush=True) as connection:
    add_batch(connection, 1)
    connection.exec_driver_sql("CREATE TABLE large (content)")
    connection.exec_driver_sql("INSERT INTO large VALUES (zeroblob(1000000))")
path.with_name(f"{path.name}-wal").unlink()
before, size = path.read_bytes(), path.stat().st_size
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, hard))
if allocates == "no":
    del os.posix_fallocate
for act in (lambda: database.write(flush=True).__enter__(), database.close, database.close):
    try:
        act()
    except WalNotSavedError as error:
        assert error.is_half == (allocates == "no"), error
        assert ("not whole" in str(error)) == (allocates == "no")
    else:
        raise AssertionError("it was not refused")
assert allocates == "no" or path.read_bytes() == before
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
database.close()
print("fine")
"""


@pytest.mark.parametrize("allocates", ["yes", "no"])
def test_an_error_in_the_middle_of_the_move(path: Path, allocates: str) -> None:
    """The file may not be as large as it must be. Nothing is moved; or, where the room for it
    cannot be made before, a part is, which is said. Everything is there in the end."""
    assert run(LIMITED, path, allocates) == "fine\n"
    assert _rows(path) == 1


# --- never closed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("has_written", [True, False])
@pytest.mark.parametrize("gone", GONE)
def test_dropped(path: Path, has_written: bool, gone: tuple[str, ...]) -> None:
    """Nobody closes it: it is saved when the last reference goes."""
    if not has_written:
        printed_by(ONE_AND_DIE, path)
    database = Database(path)
    if has_written:
        write_one(database)
    assert database.read(batch_count) == 1
    _remove(path, *gone)
    with pytest.warns(ResourceWarning):
        del database
    assert _rows(path) == 1


def test_dropped_on_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in the process, which says so, until somebody opens the database there again."""
    database = Database(path)
    write_one(database)
    _remove(path)
    with monkeypatch.context() as patch:
        patch.setattr(held.Held, "_make_room", _no_room)
        with pytest.warns(ResourceWarning):
            del database
    assert "cannot be moved" in caplog.text
    with closing(Database(path)) as again:
        assert again.read(batch_count) == 1
    assert _rows(path) == 1


ENDS = """
import sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import write_one
database = Database(Path(sys.argv[1]))
write_one(database)
Path(f"{sys.argv[1]}-wal").unlink()
"""


@pytest.mark.parametrize("how", ["sys.exit()", "raise SystemExit(0)"])
def test_the_end_of_the_process(path: Path, how: str) -> None:
    """A process that ends as Python does, and closed nothing, saves it."""
    run(ENDS + how, path)
    assert _rows(path) == 1


# --- beside others --------------------------------------------------------------------------------


def test_an_interrupt(path: Path) -> None:
    """The connection of an interrupted transaction, which may be the only one, stays."""
    database = Database(path)
    write_one(database, 1)

    def attempt() -> None:
        with database.write(flush=True) as connection:
            add_batch(connection, 2)
            _remove(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    database.close()
    assert _rows(path) == 1


@pytest.mark.parametrize("where", ["held.Held._make_room", "sessions.Pool._undo_what_is_left"])
@pytest.mark.parametrize("how", ["write", "close"])
def test_an_interrupt_while_it_is_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    """The connection stays, and the next occasion saves it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    database = Database(path)
    write_one(database, 1)
    _remove(path)
    with monkeypatch.context() as patch:
        patch.setattr(f"rtstore.control.sqlite.{where}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_one(database, 2) if how == "write" else database.close()
    database.close()
    assert _rows(path) == 1


def test_of_two_databases(path: Path, tmp_path: Path) -> None:
    """To save one, only its own connections are closed."""
    paths = [path, copied(tmp_path / "another")]
    databases = [Database(each) for each in paths]
    for database, each in zip(databases, paths, strict=True):
        write_one(database, 1)
        _remove(each)
    for database in databases:
        write_one(database, 2)
        database.close()
    assert [_rows(each) for each in paths] == [2, 2]


@contextmanager
def _while_a_thread_reads(database: Database) -> Iterator[threading.Event]:
    """A thread that reads until the event is set, or the block ends."""
    reads, done = threading.Event(), threading.Event()

    def query(_: Connection) -> None:
        reads.set()
        assert done.wait(60)

    reader = threading.Thread(target=database.read, args=(query,))
    reader.start()
    assert reads.wait(20)
    try:
        yield done
    finally:
        done.set()
        reader.join()


@pytest.mark.parametrize("has_written", [True, False])
def test_beside_a_thread_that_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch, has_written: bool
) -> None:
    """A read that does not end is in the way: the write and closing say so, and lose nothing, also
    where it has the only connection."""
    monkeypatch.setattr(sessions, "PATIENCE_S", 0.05)
    printed_by(ONE_AND_DIE, path)
    database = Database(path)
    if has_written:
        write_one(database, 2)
    with _while_a_thread_reads(database):
        _remove(path)
        for act in (partial(write_one, database, 3), database.close):
            with pytest.raises(DatabaseLockedError, match="close the store again"):
                act()
    database.close()
    assert _rows(path) == (2 if has_written else 1)


@pytest.mark.parametrize("ends", [True, False])
def test_a_fork_beside_a_thread_that_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The same of a fork: it waits for the read, and then saves; or the connection stays."""
    printed_by(ONE_AND_DIE, path)
    database = Database(path)
    with _while_a_thread_reads(database) as done:
        _remove(path)
        monkeypatch.setattr(sessions, "PATIENCE_S", 20 if ends else 0.05)
        if ends:
            threading.Timer(0.1, done.set).start()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    database.close()
    assert _rows(path) == 1


HOLDS_THE_LOCK = """
from pathlib import Path
from rtstore.control.lock import WriterLock
from rtstore.control.sqlite.engine import Database
from tests.control.build import batch_count
path = Path(sys.argv[1])
database = Database(path)
if sys.argv[2] == "open":
    database.read(batch_count)
with WriterLock(path.parent).hold():
    say("held")
    wait()
"""


@pytest.mark.parametrize("is_open", ["open", "not open"])
def test_while_another_process_has_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_open: str
) -> None:
    """Two must not move at once: who cannot have the lock does it only if nobody else has the
    database open."""
    monkeypatch.setattr(held, "_LOCK_PATIENCE_S", 0.05)
    lock = WriterLock(path.parent)
    database = Database(path, lock=lock)
    with lock.hold():
        write_one(database, 1)
    with forked(HOLDS_THE_LOCK, path, is_open) as other:
        assert other.stdout.readline() == "held\n"
        _remove(path)
        if is_open == "open":
            with pytest.raises(DatabaseLockedError, match="lock is not free"):
                database.close(tidy=False)
        else:
            database.close(tidy=False)
    database.close(tidy=False)
    assert _rows(path) == 1
