"""An open database keeps its files, whatever its own process does to SQLite's locks; and where
somebody removes them by hand, nothing is acknowledged that is not there."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rtstore.control.sqlite import ground
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.ground import Ground
from rtstore.errors import DatabaseLostError, StoreClosedError
from tests.control.build import add_batch, batch_count, write_one
from tests.support.forked import printed_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and /proc of Linux")

COME_AND_GO = """
import sqlite3, sys
from pathlib import Path
from rtstore.control.sqlite.engine import Database
from tests.control.build import add_batch, batch_count, write_one

path, how = Path(sys.argv[1]), sys.argv[2]
if how == "shell":
    connection = sqlite3.connect(path)
    print(connection.execute("SELECT count(*) FROM write_batches").fetchone()[0])
    connection.close()
else:
    database = Database(path)
    print(database.read(batch_count))
    if how == "writes":
        write_one(database, 100)
    database.close()
"""


def _side_files(path: Path) -> list[str]:
    return sorted(item.name[len(path.name) :] for item in path.parent.glob(f"{path.name}-*"))


@pytest.mark.parametrize("how", ["shell", "reads", "writes"])
def test_a_copy_by_the_program_itself(path: Path, tmp_path: Path, how: str) -> None:
    """The program copies its own directory, which drops SQLite's locks. Somebody else comes and
    goes: the WAL stays, and nothing of either is lost."""
    database = Database(path)
    write_one(database, 1)
    shutil.copytree(path.parent, tmp_path / "copy")
    assert printed_by(COME_AND_GO, path, how) == "1\n"
    assert _side_files(path) == ["-shm", "-wal"]
    write_one(database, 2)
    expected = 3 if how == "writes" else 2
    assert printed_by(COME_AND_GO, path, "reads") == f"{expected}\n"
    database.close()
    assert _side_files(path) == []
    assert printed_by(COME_AND_GO, path, "reads") == f"{expected}\n"


def test_without_our_lock_it_is_found_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where the system has no such locks the WAL goes, and the next write says so
    instead of being acknowledged."""
    monkeypatch.setattr(ground, "_SET_LOCK", None)
    database = Database(path)
    write_one(database, 1)
    shutil.copytree(path.parent, tmp_path / "copy")
    printed_by(COME_AND_GO, path, "writes")  # closes last, and removes the WAL
    with pytest.raises(DatabaseLostError, match="was removed"):
        write_one(database, 2)
    with pytest.raises(DatabaseLostError):
        database.read(batch_count)
    database.close()


def test_without_looking_it_would_be_lost(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second control: with neither, a write is acknowledged that nobody ever sees."""
    monkeypatch.setattr(ground, "_SET_LOCK", None)
    monkeypatch.setattr(Ground, "lost", lambda *_: None)
    database = Database(path)
    write_one(database, 1)
    shutil.copytree(path.parent, tmp_path / "copy")
    printed_by(COME_AND_GO, path, "writes")
    write_one(database, 2)
    assert printed_by(COME_AND_GO, path, "reads") == "2\n"  # of three
    database.close(tidy=False)


@pytest.mark.parametrize("removed", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
@pytest.mark.parametrize("then", ["write", "close"])
def test_removed_by_hand(
    path: Path, removed: list[str], then: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody removes the WAL or its index: what it held is moved into the database before the
    next write is acknowledged, or when it is closed, and that is said."""
    database = Database(path)
    for number in range(1, 6):
        write_one(database, number)
    assert database.read(batch_count) == 5
    for suffix in removed:
        path.with_name(path.name + suffix).unlink()
    assert database.read(batch_count) == 5
    if then == "write":
        write_one(database, 6)
        assert printed_by(COME_AND_GO, path, "reads") == "6\n"
        write_one(database, 7)
        assert database.read(batch_count) == 7
    database.close()
    assert "was removed" in caplog.text
    assert _side_files(path) == []
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count = 7 if then == "write" else 5
        assert raw.execute("SELECT count(*) FROM write_batches").fetchone() == (count,)


@pytest.mark.parametrize("then", ["write", "close"])
def test_removed_by_hand_and_opened_by_another(path: Path, then: str) -> None:
    """Whoever opens the database then has an error, and makes another WAL, which is empty: what the
    first one held is moved into the database all the same."""
    database = Database(path)
    write_one(database, 1)
    database.close()
    database = Database(path)
    for number in range(2, 6):
        write_one(database, number)
    wal = path.with_name(f"{path.name}-wal")
    wal.unlink()
    with closing(sqlite3.connect(path)) as other, pytest.raises(sqlite3.OperationalError):
        other.execute("SELECT count(*) FROM write_batches").fetchone()
    assert wal.stat().st_size == 0
    if then == "write":
        write_one(database, 6)
    database.close()
    assert _side_files(path) == []
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count = 6 if then == "write" else 5
        assert raw.execute("SELECT count(*) FROM write_batches").fetchone() == (count,)


@pytest.mark.parametrize("how", ["shell", "reads"])
def test_closed_in_the_middle_of_a_transaction(path: Path, tmp_path: Path, how: str) -> None:
    """Somebody closes the store while another thread of it writes, and does not wait for it: the
    WAL stays in place until that transaction has ended, and what is acknowledged is there."""
    database = Database(path)
    write_one(database, 1)
    with database.write(flush=True) as connection:
        add_batch(connection, 2)
        database.close(tidy=False)
        shutil.copytree(path.parent, tmp_path / "copy")  # drops the locks of SQLite
        printed_by(COME_AND_GO, path, how)
        assert _side_files(path) == ["-shm", "-wal"]
    assert printed_by(COME_AND_GO, path, "shell") == "2\n"
    assert not _open_files(path.parent)
    with pytest.raises(StoreClosedError):
        write_one(database, 3)


@pytest.mark.parametrize("removed", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
def test_closed_and_removed_in_the_middle_of_a_transaction(path: Path, removed: list[str]) -> None:
    """A transaction whose commit has happened is never said to have changed nothing, also where the
    store was closed meanwhile and its WAL removed by hand."""
    database = Database(path)
    write_one(database, 1)

    def attempt() -> None:
        with database.write(flush=True) as connection:
            add_batch(connection, 2)
            database.close(tidy=False)
            for suffix in removed:
                path.with_name(path.name + suffix).unlink()

    with pytest.raises(DatabaseLostError) as caught:
        attempt()
    assert caught.value.committed
    assert printed_by(COME_AND_GO, path, "shell") == "2\n"
    assert not _open_files(path.parent)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_closed_and_interrupted_in_the_middle_of_a_transaction(
    path: Path, error: type[BaseException]
) -> None:
    """The thread whose transaction outlives the store lets the files go, however it ends."""
    database = Database(path)
    write_one(database, 1)

    def attempt() -> None:
        with database.write(flush=True) as connection:
            add_batch(connection, 2)
            database.close(tidy=False)
            raise error

    with pytest.raises(error):
        attempt()
    assert not _open_files(path.parent)
    assert printed_by(COME_AND_GO, path, "shell") == "1\n"
    assert _side_files(path) == []


def _open_files(directory: Path) -> list[str]:
    """What this process has open in a directory."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in found if name.startswith(f"{directory}/")]


BEGIN_ANOTHER = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("CREATE TABLE of_another (a)")
print("begun", flush=True)
sys.stdin.readline()
print(other.execute("PRAGMA integrity_check").fetchone()[0])
print(other.execute("SELECT count(*) FROM of_another").fetchone()[0])
other.close()
"""


def test_removed_and_made_anew_by_another(path: Path) -> None:
    """When another process has begun another WAL, nothing can be put back: the object says so from
    then on, touches nothing of the other's, and closing it does no harm."""
    database = Database(path)
    write_one(database, 1)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN_ANOTHER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(DatabaseLostError, match="was replaced") as caught:
            write_one(database, 2)
        assert caught.value.path == path
        with pytest.raises(DatabaseLostError):
            database.read_on_writer(batch_count)
        database.close()
        assert other.communicate("end\n", timeout=60)[0] == "ok\n0\n"


@pytest.mark.parametrize("where", ["ground.leave", "ground.tidy_up"])
def test_dropped_after_its_closing_was_interrupted(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whoever is interrupted in `close()` and drops the object leaves no descriptor."""
    database = Database(path)
    write_one(database, 1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"rtstore.control.sqlite.{where}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            database.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it was not closed to the end
        del database
        gc.collect()
    assert not _open_files(path.parent)


@pytest.mark.parametrize("what", ["opened by another thread", "replaced by another process"])
def test_a_descriptor_is_closed_whatever_comes_while_it_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Two threads open the database at once, or it gets another file just then: each descriptor is
    known, so it is closed in the end; and that of another file is not used."""
    found, opened = path.stat(), os.open
    file = found.st_dev, found.st_ino
    its_ground = Ground(file)

    def open_late(name: str, flags: int) -> int:
        monkeypatch.setattr(os, "open", opened)
        if what == "opened by another thread":
            its_ground.hold(name, 0)
            assert its_ground.is_held
        else:
            os.replace(shutil.copy(name, f"{name}.new"), name)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", open_late)
    its_ground.hold(str(path), 0)
    assert its_ground.is_held == (what == "opened by another thread")
    its_ground.unlock()
    assert its_ground.try_to_close()
    assert not _open_files(path.parent)


def test_nothing_is_left_open(path: Path) -> None:
    """Opening and closing leaves no descriptor, also where the process has the file open itself:
    ours are closed when its own is."""
    before = len(os.listdir("/proc/self/fd"))
    with path.open("rb"):
        for number in range(5):
            database = Database(path)
            write_one(database, number)
            database.close()
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    database = Database(path)
    write_one(database, 5)
    database.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert _side_files(path) == []


def test_the_last_of_the_process_tidies_up(path: Path) -> None:
    """Two objects of one database in one process: the WAL stays with the first close, and goes with
    the second."""
    first, second = Database(path), Database(path)
    write_one(first, 1)
    assert second.read(batch_count) == 1
    first.close()
    assert _side_files(path) == ["-shm", "-wal"]
    write_one(second, 2)
    second.close()
    assert _side_files(path) == []


@pytest.mark.parametrize("where", ["database", "wal"])
def test_a_wal_that_another_thread_opens_meanwhile_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Two threads open the database at once: one has looked at a name, then the other makes the WAL
    and notes it. Nothing is lost, and nothing is said to be."""
    Database(path).close()
    names = ground.Names(path)
    found = path.stat()
    its_ground = Ground((found.st_dev, found.st_ino))
    look, other = os.stat, sqlite3.connect(path)

    def look_before_the_other_has_opened(name: str) -> os.stat_result:
        if name != getattr(names, where):
            return look(name)
        monkeypatch.setattr(os, "stat", look)
        try:
            return look(name)
        finally:
            other.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            assert its_ground.settle(names)
            assert its_ground.wal is not None

    with closing(other):
        monkeypatch.setattr(os, "stat", look_before_the_other_has_opened)
        assert its_ground.lost(names) is None
        monkeypatch.setattr(os, "stat", look)
        assert its_ground.settle(names)
        assert its_ground.lost(names) is None
    its_ground.close_own()
