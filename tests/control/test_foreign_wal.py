"""A WAL of another database is refused; one that a crash left never is.

What a crash leaves is made here page by page: a checkpoint got to any page, of any commit, and a
loss of power tore any of these pages.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    Batch,
    Descriptor,
    ForeignDatabaseError,
    RunIdentity,
    RuntimeStore,
    rebuild_database,
)
from rtstore.control import foreign_wal
from rtstore.control.sqlite import idle, processes
from tests.control.build import INSERT_BATCH, TIME, copied
from tests.support import (
    IDENTITY,
    LEASES,
    TEAM,
    breadth,
    new_directory,
    picture,
    write,
)

WAL = f"{DATABASE_NAME}-wal"


def _write(directory: Path, batches: int) -> bytes:
    """Write batches under ids of their own; return the WAL with them."""
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        for number in range(batches):
            write(store, LEASES, {"n": number, "text": f"{number}" * 5_000})
        return (directory / WAL).read_bytes()


def _other(parent: Path, team: str, batches: int, size: int = 10) -> bytes:
    """The WAL of another directory, whose runtime is at work."""
    with RuntimeStore.open(
        parent / f"other-{team}", team_name=team, descriptors=[Descriptor("own.notes")]
    ) as store:
        for number in range(batches):
            store.write_batch(
                identity=RunIdentity(run_id="other"),
                reason="recovery",
                writes={"own.notes": f"{number}" * size},
            )
        return (store.directory / WAL).read_bytes()


def _of_another_team(directory: Path) -> bytes:
    return _other(directory.parent, "blue", 3)


def _of_the_same_team(directory: Path) -> bytes:
    return _other(directory.parent, TEAM, 3)


def _with_large_stores(directory: Path) -> bytes:
    return _other(directory.parent, "blue", 30, 9_000)


def _second_session(directory: Path) -> bytes:
    _other(directory.parent, "blue", 30, 9_000)
    return _other(directory.parent, "blue", 30, 9_000)


def _of_a_newer_copy(directory: Path) -> bytes:
    """The database was put back from a copy, and the WAL of the newer one stayed."""
    newer = shutil.copytree(directory, directory.with_name("newer"))
    _write(newer, 5)
    return _write(newer, 5)


def _of_an_older_copy(directory: Path) -> bytes:
    older = shutil.copytree(directory, directory.with_name("older"))
    _write(directory, 5)
    _write(directory, 5)
    return _write(older, 1)


FOREIGN: list[Callable[[Path], bytes]] = [
    _of_another_team, _of_the_same_team, _with_large_stores, _second_session, _of_a_newer_copy,
    _of_an_older_copy,
]  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with four batches, closed."""
    directory = new_directory(tmp_path)
    _write(directory, 4)
    return directory


def _open(directory: Path) -> None:
    RuntimeStore.open(directory, team_name=TEAM).close()


def _look(directory: Path) -> None:
    RuntimeStore.open(directory, read_only=True).close()


def _batches(directory: Path) -> list[Batch]:
    with RuntimeStore.open(directory) as store:
        return store.batches()


def _rebuild(directory: Path) -> None:
    rebuild_database(directory, identity=IDENTITY, force=True)


@pytest.mark.parametrize("use", [_open, _look, _rebuild])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_wal_of_another_database(
    directory: Path, foreign: Callable[[Path], bytes], use: Callable[[Path], Any]
) -> None:
    """No way to open it changes anything. What the error says to run
    brings back everything."""
    wal = directory / WAL
    content = foreign(directory)
    batches = _batches(directory)
    wal.write_bytes(content)
    before = picture(directory, without=(".lock",))
    with pytest.raises(ForeignDatabaseError, match="is not of the database beside it") as caught:
        use(directory)
    assert picture(directory, without=(".lock",)) == before
    assert caught.value.path == wal
    move = f"mv {wal} {wal}.aside"
    assert caught.value.move == move
    assert move in str(caught.value)
    wal.rename(f"{wal}.aside")
    assert _batches(directory) == batches


def test_nobody_is_refused_beside_a_living_writer(directory: Path) -> None:
    """Its WAL is in use; whose it is, SQLite knows."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, {"n": "living"})
        assert foreign_wal.problem_of_wal(store.database.path) is None
        _look(directory)
        _open(directory)


def test_without_a_wal_nothing_is_asked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening costs nothing more where nothing is to be found."""
    monkeypatch.setattr(processes, "connected", lambda _: pytest.fail("it asked"))
    _open(directory)
    _look(directory)


# --- what a crash leaves --------------------------------------------------------------------------


class _Life:
    """Programs that write to one control database, and never close it."""

    def __init__(self, path: Path, draw: random.Random, stack: ExitStack) -> None:
        self._draw = draw
        self._number = 0
        self._connections = [
            stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            for _ in range(3)
        ]
        for connection in self._connections:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA legacy_alter_table = ON")
            connection.execute("PRAGMA cache_size = 10")  # pages spill before a commit
        self._connections[0].execute("CREATE TABLE notes (text)")

    def step(self) -> None:
        """Do anything that somebody may do to a database."""
        act = self._draw.choice(
            [self._batch] * 12 + [self._prune] * 2
            + [self._move_tables, self._vacuum, self._roll_back, self._checkpoint]
        )  # fmt: skip
        act(self._draw.choice(self._connections))

    def _batch(self, connection: sqlite3.Connection) -> None:
        self._number += 1
        number, name = self._number, f"batch-{self._draw.randbytes(8).hex()}"
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT_BATCH, (number, name, "committed", number, TIME))
        connection.execute(
            "UPDATE runtime_manifest SET high_watermark = ?, last_committed_batch_id = ?,"
            " active_run_id = ?",
            (number, name, "r" * self._draw.randrange(1, 600)),
        )
        size = self._draw.choice([10, 3_000, 90_000])
        connection.execute("INSERT INTO notes VALUES (randomblob(?))", (size,))
        connection.execute("COMMIT")

    def _prune(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM notes WHERE rowid % 3 = 1")
        connection.execute(
            "DELETE FROM write_batches WHERE batch_number < ?", (self._draw.randrange(9),)
        )
        connection.execute("PRAGMA incremental_vacuum(20)").fetchall()

    def _move_tables(self, connection: sqlite3.Connection) -> None:
        """As a revision does that makes a table anew: it gets other pages."""
        for table in ("notes", "runtime_manifest"):
            (made,) = connection.execute(
                "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)
            ).fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(made.replace(table, "other", 1))
            connection.execute(f"INSERT INTO other SELECT * FROM {table}")
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"ALTER TABLE other RENAME TO {table}")
            connection.execute("COMMIT")

    def _vacuum(self, connection: sqlite3.Connection) -> None:
        connection.execute("VACUUM")

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO notes VALUES (randomblob(200000))")
        connection.execute("ROLLBACK")

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        kind = self._draw.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()


def _amid_a_checkpoint(database: bytes, wal: bytes, draw: random.Random) -> bytes:
    """The database when a checkpoint of any commit got to any page, and some of these are torn."""
    size = int.from_bytes(wal[8:12])
    frames = [
        (int.from_bytes(wal[at : at + 4]), int.from_bytes(wal[at + 4 : at + 8]), at + 24)
        for at in range(32, len(wal) - size, 24 + size)
        if wal[at + 8 : at + 16] == wal[16:24]
    ]
    commits = [number for number, (_, pages, _) in enumerate(frames) if pages]
    if not commits:
        return database
    until = draw.choice(commits)
    written = {page: at for page, _, at in frames[: until + 1]}
    found = bytearray(database.ljust(max(written) * size, b"\0"))
    for page in sorted(written)[: draw.randrange(len(written) + 1)]:
        is_torn = draw.random() < 0.3
        for start in range(0, size, 512):
            if not (is_torn and draw.random() < 0.5):
                to, at = (page - 1) * size + start, written[page] + start
                found[to : to + 512] = wal[at : at + 512]
    return bytes(found)


def _amid_a_frame(wal: bytes, draw: random.Random) -> bytes:
    """The WAL when a kill came between the two writes of a frame, its header and its page, or a
    loss of power kept one of them, or a part."""
    end = len(wal) - draw.choice([0, int.from_bytes(wal[8:12]), draw.randrange(9_000)])
    if end <= 32 or draw.random() < 0.5:
        return wal
    return wal[:end] + bytes(draw.choice([0, len(wal) - end]))


@pytest.mark.parametrize("number", breadth.params(range(3), normal=[0]))
def test_a_crash_is_never_refused(tmp_path: Path, number: int) -> None:
    """Whatever was done to the database, and wherever the crash came."""
    draw = random.Random(breadth.seed() * 100 + number)
    path, dead = copied(tmp_path / "living"), tmp_path / "dead"
    looked = 0
    with ExitStack() as stack:
        life = _Life(path, draw, stack)
        for _ in range(120):
            life.step()
            wal = path.with_name(WAL).read_bytes()
            if len(wal) < 100 or draw.random() < 0.5:
                continue
            dead.mkdir()
            (dead / WAL).write_bytes(_amid_a_frame(wal, draw))
            # As SQLite has it, without a plain close of the file that it has open here.
            content = b"".join(idle.pieces(path, 1 << 20))
            (dead / DATABASE_NAME).write_bytes(_amid_a_checkpoint(content, wal, draw))
            looked += 1
            assert foreign_wal.problem_of_wal(dead / DATABASE_NAME) is None
            shutil.rmtree(dead)
    assert looked > 10


CUTS = (0, 8, 24, 24 + 60, 24 + 4_095)  # before a frame, in its header, behind that, in its page


def test_a_kill_between_the_two_writes_of_a_frame(directory: Path) -> None:
    """SQLite writes the header of a frame, and then its page. Where the database grows, that is
    page 1, which has the change counter; until all of it is there, nothing in it counts."""
    living = shutil.copytree(directory, directory.with_name("living"))
    path = directory / DATABASE_NAME
    with RuntimeStore.open(living) as store:
        for number in range(3):
            write(store, LEASES, {"n": number, "text": f"{number}" * 20_000})
        wal = (living / WAL).read_bytes()
    pages = [int.from_bytes(wal[at : at + 4]) for at in range(32, len(wal), 24 + 4096)]
    assert 1 in pages, "the control: no batch makes the database grow"
    for frame in range(len(pages)):
        for cut, zeros in product(CUTS, (0, 24 + 4_096)):  # zeros: the power was lost
            (directory / WAL).write_bytes(wal[: 32 + frame * (24 + 4096) + cut] + bytes(zeros))
            assert foreign_wal.problem_of_wal(path) is None, (frame, pages[frame], cut, zeros)
