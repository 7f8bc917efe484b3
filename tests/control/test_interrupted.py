"""An exception at any line of a read or a write transaction leaves the same object as it was: it
sees what is committed, nobody else is kept out, and nothing stays open."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rtstore import RunIdentity, RuntimeStore
from rtstore.control.sqlite import sessions
from rtstore.control.sqlite.engine import Database
from tests.control.anywhere import every_line, raise_at
from tests.control.build import add_batch, batch_count, run, write_one
from tests.support import breadth


def _committed(database: Database) -> None:
    with database.write(flush=False) as connection:
        connection.exec_driver_sql("UPDATE runtime_manifest SET updated_at = updated_at")


CALLS: dict[str, Callable[[Database], Any]] = {
    "read": lambda database: database.read(batch_count),
    "read of one statement": lambda database: database.read(batch_count, autocommit=True),
    "look": lambda database: database.read_cached(batch_count),
    "read as writer": lambda database: database.read_on_writer(batch_count),
    "moment": lambda database: database.change_token(),
    "write": _committed,
}


@pytest.fixture
def other(path: Path) -> Iterator[Database]:
    """The same database as somebody else has it open."""
    database = Database(path, busy_timeout_s=0.05)  # a lock that was left taken is found at once
    yield database
    database.close()


def _in_use() -> list[Any]:
    return [use for use in sessions._uses.values() if use[1] is not None]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("name", CALLS)
def test_at_any_line_of_a_transaction(path: Path, other: Database, name: str, kept: bool) -> None:
    """Afterwards others write at once, and the same object sees what they wrote, by every way of
    reading, also while somebody keeps the exception with its traceback, as a shell does."""
    with_old_connections = Database(path, busy_timeout_s=0.05)
    CALLS[name](with_old_connections)
    booms = every_line(lambda: CALLS[name](with_old_connections))
    for number, boom in enumerate(booms, start=1):
        if not kept:
            boom.__traceback__ = None
            assert _in_use() == []
        write_one(other, number)
        seen = [
            with_old_connections.read_cached(batch_count),
            with_old_connections.read(batch_count),
            with_old_connections.read_on_writer(batch_count),
        ]
        assert seen == [number] * 3
        if not number % 10:
            _committed(with_old_connections)
    del boom
    with_old_connections.close()
    gc.collect()
    assert _in_use() == []


# Python 3.13 warns of a connection that the exception found before it had an owner.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize("name", breadth.params(CALLS, normal=["read", "write"]))
def test_at_any_line_of_a_first_use(path: Path, name: str) -> None:
    """Where the connections are only being made: the next call works, and closing releases all."""
    for number in range(0, 10_000, 3):
        database = Database(path, busy_timeout_s=0.05)
        boom = raise_at(number, partial(CALLS[name], database))
        CALLS[name](database)
        if boom is not None:
            boom.__traceback__ = None
        database.close()
        if boom is None:
            break
    gc.collect()
    assert dict(sessions._uses) == {}


class AlarmError(Exception):
    """What a signal handler raises; no error of a database."""


class StruckConnection(sqlite3.Connection):
    """A connection during whose closing a signal comes."""

    def close(self) -> None:
        """Close, and have the handler raise."""
        super().close()
        raise AlarmError


def test_an_exception_passes_while_a_connection_is_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That of a signal handler comes out, and is not printed as a trouble of a pool."""
    session = sessions.Session((0, 0))
    session.connect(sqlite3.connect(path, factory=StruckConnection))
    assert session.connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    with pytest.raises(AlarmError):
        session.close()
    assert caplog.records == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        session.driver.execute("SELECT 1")
    session._driver = None
    session.close()


IDENTITY = RunIdentity(run_id="run-1")
STORE = "opencode.sessionStore"
READS: dict[str, Callable[[RuntimeStore], Any]] = {
    "read": lambda store: store.read(STORE).data["n"],
    "snapshot": lambda store: store.snapshot([STORE]).data(STORE)["n"],
    "manifest": lambda store: store.manifest().high_watermark,
    "batches": lambda store: store.batches()[-1].high_watermark,
    "plan": lambda store: store.plan_recovery().high_watermark,
}


@pytest.mark.parametrize("name", READS)
def test_at_any_line_of_a_question(tmp_path: Path, name: str) -> None:
    """A store that was interrupted in a question gives the true answer to the next one."""
    directory = tmp_path / "runtime"
    with (
        RuntimeStore.open(directory, team_name="team-a") as store,
        RuntimeStore.open(directory) as writer,
    ):

        def write(number: int) -> None:
            writer.write_batch(
                identity=IDENTITY, reason="launch_checkpoint", writes={STORE: {"n": number}}
            )

        write(1)
        assert READS[name](store) == 1
        number = 1
        for _ in every_line(lambda: READS[name](store), at_most=40):
            number += 1
            write(number)
            assert READS[name](store) == number
            assert READS["manifest"](store) == number
    gc.collect()
    assert _in_use() == []


def test_a_late_rollback_ends_nobody_elses_transaction(database: Database) -> None:
    """A transaction whose end comes late, as that of a forgotten generator does, is its own."""

    def forgotten() -> Generator[None]:
        with database.write(flush=False) as connection:
            add_batch(connection, 1)
            yield

    generator = forgotten()
    next(generator)
    with database.write(flush=False) as connection:  # the lock is ours: the other is left over
        add_batch(connection, 2)
        generator.close()
        add_batch(connection, 3)
    assert database.read(batch_count) == 2


STORM = """
import signal, sys, threading, time
from rtstore.control.sqlite import sessions

begun, over = threading.Event(), threading.Event()

def pause():
    with sessions.Pause():
        begun.set()
        over.wait()

thread = threading.Thread(target=pause, daemon=True)
thread.start()
begun.wait()
waits, caught = False, 0

def strike(*_):
    global waits
    if waits:
        waits = False
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, strike)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        waits = True
        sessions.wait_for_others()
    except KeyboardInterrupt:
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
over.set()
thread.join()
sessions.wait_for_others()
assert caught > 100, caught
print("fine")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here")
def test_a_storm_of_signals_while_another_thread_pauses() -> None:
    """What a signal handler raises comes out of a wait as it is, at whatever instruction."""
    assert run(STORM) == "fine\n"


def _cut_off(session: sessions.Session) -> None:
    """The finalizer of a connection into whose first line the exception of a signal handler came,
    which Python prints and drops."""


def _left_in_a_cycle(session: sessions.Session) -> None:
    held: list[Any] = [session]
    held.append(held)


def _left(session: sessions.Session) -> None:
    del session


@pytest.mark.parametrize("leave", [_left, _left_in_a_cycle])
@pytest.mark.parametrize("kept", [False, True], ids=["", "cursor kept"])
def test_the_use_of_a_connection_ends_without_its_finalizer(
    path: Path,
    other: Database,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[sessions.Session], None],
    kept: bool,
) -> None:
    """Nothing counts it, its transaction is over, and its files are closed, before anything else
    can look at it."""
    monkeypatch.setattr(sessions.Session, "__del__", _cut_off)
    write_one(other, 1)
    session = sessions.Session((0, 0))
    session.connect(sqlite3.connect(path, isolation_level=None))
    session.driver.execute("BEGIN IMMEDIATE")
    cursor = session.driver.execute("SELECT * FROM write_batches") if kept else None
    assert sessions.is_in_use((0, 0))

    leave(session)
    del session
    gc.collect()

    assert not sessions.is_in_use((0, 0))
    write_one(other, 2)
    del cursor
    other.close()
    assert _files_of(path) == 0


def test_a_connection_is_closed_before_it_is_forgotten(path: Path) -> None:
    """Who finds it in no use may close files of its database, which would take its locks away."""
    seen: list[bool] = []

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            seen.append(sessions.is_in_use((0, 0)))
            super().close()

    session = sessions.Session((0, 0))
    session.connect(sqlite3.connect(path, factory=Watched))
    _left_in_a_cycle(session)
    del session
    gc.collect()

    assert seen[0]
    assert not sessions.is_in_use((0, 0))


def _files_of(path: Path) -> int:
    """How many descriptors of the database and of its WAL this process has."""
    links = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return sum(link.startswith(os.path.realpath(path)) for link in links)
