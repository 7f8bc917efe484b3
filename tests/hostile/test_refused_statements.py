"""A trigger of somebody's own that refuses a write: what the caller may do, and which it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    ActionOutcome,
    BatchUnfinishedError,
    OpenBatchError,
    RecoveryFailedError,
    RuntimeStore,
    StatementRefusedError,
    StopError,
)
from tests.cli.commands import run, words_of
from tests.cli.walks import advice_for
from tests.store.test_deletions import delete
from tests.support import IDENTITY, LEASES, LEDGER, TEAM, agree

AUDIT = (
    "CREATE TRIGGER \"audit log\" BEFORE {event} BEGIN SELECT RAISE(ABORT, 'it is read-only'); END"
)


def _add(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


def open_store(directory: Path) -> RuntimeStore:
    """Open a store with ids that no other one makes."""
    return RuntimeStore.open(directory, team_name=TEAM)


def _write(store: RuntimeStore, number: int) -> None:
    store.write_batch(
        writes={LEASES: {"n": number}, LEDGER: {"n": number}},
        reason="delivery_commit",
        identity=IDENTITY,
    )


def _logged(directory: Path) -> int:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        return int(raw.execute("SELECT count(*) FROM write_batches").fetchone()[0])


def _number(store: RuntimeStore) -> int:
    assert agree(store)
    data = store.read(LEASES).data
    assert data == store.read(LEDGER).data
    return int(data["n"])


@pytest.fixture
def refusing(directory: Path) -> Path:
    """A directory in whose database somebody keeps what is in the log from being changed."""
    with open_store(directory) as store:
        _write(store, 1)
    _add(directory, AUDIT.format(event="UPDATE ON write_batches"))
    return directory


CALLS: dict[str, Callable[[RuntimeStore], object]] = {
    "write": lambda store: _write(store, 3),
    "end of the run": lambda store: store.end_run(),
    "beginning of a run": lambda store: store.begin_run("another", keep="all", supersede=True),
    "update": lambda store: store.update(
        LEASES, lambda data: data, reason="delivery_commit", identity=IDENTITY
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_open_batch_that_cannot_be_completed(refusing: Path, call: str) -> None:
    """It is decided; what comes upon it wrote nothing, and says which batch is in the way, why, and
    what is in the database that is not of rtstore. Without that it is finished."""
    with open_store(refusing) as store:
        with pytest.raises(BatchUnfinishedError, match="trigger audit log") as first:
            _write(store, 2)
        assert first.value.decided
        for _ in range(2):
            with pytest.raises(OpenBatchError, match="not of rtstore: trigger audit log") as caught:
                CALLS[call](store)
            assert caught.value.batch_id == first.value.batch_id
            assert "it is read-only" in caught.value.cause
        steps = store.recover(store.plan_recovery()).steps
        failed = {str(step.detail) for step in steps if step.outcome is ActionOutcome.FAILED}
        assert [text.endswith("not of rtstore: trigger audit log") for text in failed] == [True]
    with pytest.raises(RecoveryFailedError, match="not of rtstore: trigger audit log"):
        open_store(refusing)
    _add(refusing, 'DROP TRIGGER "audit log"')
    with open_store(refusing) as store:
        assert _number(store) == 2


@pytest.mark.parametrize(
    ("event", "call"),
    [
        ("INSERT ON write_batches", lambda store: _write(store, 2)),
        ("INSERT ON batch_writes", lambda store: _write(store, 2)),
        ("UPDATE ON runs", lambda store: store.end_run()),
        ("INSERT ON runs", lambda store: store.begin_run("another", keep="all", supersede=True)),
    ],
)
def test_what_is_refused_before_anything_is_logged(
    directory: Path, event: str, call: Callable[[RuntimeStore], object]
) -> None:
    """Nothing is written, and the error says so: until the trigger is gone, nobody can."""
    with open_store(directory) as store:
        _write(store, 1)
        _add(directory, AUDIT.format(event=event))
        with pytest.raises(StatementRefusedError, match="nothing of that transaction") as caught:
            call(store)
        assert isinstance(caught.value, StopError)
        assert caught.value.added == ("trigger audit log",)
        assert caught.value.cause == "IntegrityError: it is read-only"
        assert _logged(directory) == 1
        assert _number(store) == 1
        _add(directory, 'DROP TRIGGER "audit log"')
        call(store)
        assert agree(store)


@pytest.mark.parametrize(
    ("event", "call"),
    [
        ("UPDATE ON runs", lambda store: store.end_run()),
        ("UPDATE ON write_batches", lambda store: _write(store, 2)),
        ("DELETE ON manifest_entries", lambda store: delete(store, LEDGER)),
    ],
)
def test_a_statement_that_changes_nothing_is_no_damage_either(
    directory: Path, event: str, call: Callable[[RuntimeStore], object]
) -> None:
    """A trigger may swallow it without a word. It is named, no call says that it was done, and
    what is in the log is finished once the trigger is gone."""
    with open_store(directory) as store:
        _write(store, 1)
        before = store.runs()
        _add(directory, f"CREATE TRIGGER quiet BEFORE {event} BEGIN SELECT RAISE(IGNORE); END")
        with pytest.raises((StatementRefusedError, BatchUnfinishedError), match="trigger quiet"):
            call(store)
        assert store.runs() == before
        _add(directory, "DROP TRIGGER quiet")
        if "runs" in event:
            call(store)
            assert store.runs() != before
    with open_store(directory) as store:
        assert agree(store)
        assert (store.manifest().entry(LEDGER) is None) == ("DELETE" in event)


def test_a_trigger_that_fails_is_no_damage(directory: Path) -> None:
    """One that writes to a table that is gone makes SQLite say "no such table"."""
    with open_store(directory) as store:
        _write(store, 1)
        _add(
            directory,
            "CREATE TABLE notes (id)",
            "CREATE TRIGGER note AFTER INSERT ON write_batches BEGIN "
            "INSERT INTO notes VALUES (new.batch_id); END",
        )
        _write(store, 2)
        _add(directory, "PRAGMA legacy_alter_table = ON", "DROP TABLE notes")
        with pytest.raises(StatementRefusedError, match=r"no such table.*trigger note") as caught:
            _write(store, 3)
        assert caught.value.added == ("trigger note",)


def test_the_doctor_names_it_and_the_way_out(refusing: Path) -> None:
    """From the advice of status and the doctor, run as they print it, to a directory at rest."""
    with open_store(refusing) as store, pytest.raises(BatchUnfinishedError):
        _write(store, 2)
    run("recover", refusing)
    state, advice = advice_for(refusing)
    assert state.startswith("blocked")
    assert "trigger audit log" in advice[0]["why"]
    (database,) = (
        item for item in run("doctor", refusing, "--json").json()["findings"]
        if item["check"] == "database"
    )  # fmt: skip
    assert database["level"] == "yellow"
    assert "trigger audit log" in database["sentence"]
    (way,) = database["ways"]
    program, path, statement = words_of("rtstore " + way["command"])[0:3]
    assert (program, Path(path)) == ("sqlite3", refusing / DATABASE_NAME)
    _add(refusing, statement)
    assert run("recover", refusing).code in (0, 1)
    with open_store(refusing) as store:
        assert _number(store) == 2


def test_what_cannot_refuse_a_write_is_no_trouble(directory: Path) -> None:
    """Somebody's table, view and index, as Datasette makes them: the doctor is green. A unique
    index, and a table that refers to ours, it names."""
    open_store(directory).close()
    _add(
        directory,
        "CREATE TABLE notes (batch_id TEXT)",
        "CREATE VIEW mine AS SELECT * FROM write_batches",
        "CREATE INDEX by_reason ON write_batches (reason)",
        "CREATE TRIGGER note AFTER INSERT ON notes BEGIN SELECT 1; END",
    )

    def sentence() -> str:
        findings = run("doctor", directory, "--json").json()["findings"]
        return str(next(item["sentence"] for item in findings if item["check"] == "database"))

    assert "every page of it is sound" in sentence()
    assert "added" not in sentence()
    _add(
        directory,
        "CREATE UNIQUE INDEX once ON write_batches (started_at)",
        "CREATE TABLE marks (number INTEGER REFERENCES Write_Batches (batch_number))",
    )
    assert sentence().endswith("index once, table marks")
