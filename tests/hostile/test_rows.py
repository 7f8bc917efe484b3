"""A control database whose pages are sound and whose rows make no sense, or mean harm."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rtstore import (
    BatchUnfinishedError,
    CorruptDatabaseError,
    OpenBatchError,
    RunIdentity,
    RuntimeStore,
    StatementRefusedError,
)
from tests.cli.commands import run
from tests.hostile.scene import Scene
from tests.hostile.template import DATABASE, template
from tests.hostile.test_databases import spoil, try_everything
from tests.support import CHECKPOINT, LEASES, breadth, write

VALUES = ("''", "NULL", "-1", "9223372036854775807", "x'ff00'", "'nonsense'", "'null'")
PATHS = (
    "'../outside/secret.json'", "'/etc/rtstore-must-not-write-here'", "'..'", "'.'", "'a/../../x'",
    "'runtime-store.lock'", "'quarantine/../../outside/secret.json'", "'members'",
)  # fmt: skip


def _tables(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [name for (name,) in connection.execute(query)]


def _columns() -> list[tuple[str, str]]:
    path = template(crashed=False) / DATABASE
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        return [
            (table, row[1])
            for table in _tables(connection)
            for row in connection.execute(f"PRAGMA table_info({table})")
        ]
    finally:
        connection.close()


def _change(path: Path, *statements: str) -> bool:
    """Run statements past every check of the schema; gives whether SQLite let them happen."""
    connection = sqlite3.connect(path, isolation_level=None)
    query = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
    triggers = connection.execute(query).fetchall()
    try:
        for statement in (
            "PRAGMA ignore_check_constraints = ON",
            "PRAGMA foreign_keys = OFF",
            *(f"DROP TRIGGER {name}" for name, _ in triggers),
            *statements,
        ):
            connection.execute(statement)
        for _, sql in triggers:
            with suppress(sqlite3.OperationalError):  # its table is gone
                connection.execute(sql)
    except sqlite3.IntegrityError:
        return False
    finally:
        connection.close()
    return True


def _values(column: str) -> tuple[str, ...]:
    return VALUES + (PATHS if column.endswith("_path") else ())


def _all_tables() -> list[str]:
    return sorted({table for table, _ in _columns()})


QUICK = ("store_contents",)
"""A table that is tried with every change."""


@pytest.mark.parametrize("table", breadth.params(_all_tables(), normal=QUICK))
def test_columns(scene: Scene, table: str) -> None:
    """Any value in any column ends in an error of ours, or does no harm: above all nothing is
    written outside the runtime directory, whatever path a row holds."""
    for column in (name for owner, name in _columns() if owner == table):
        for value in _values(column):
            path = spoil(scene, crashed=True)
            if _change(path, f"UPDATE {table} SET {column} = {value}"):
                try_everything(scene, f"{table}.{column} = {value}")


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1])
def test_a_batch_number_that_no_batch_of_ours_has(tmp_path: Path, number: int) -> None:
    """Status, plan, opening, and a write of a store that is open already: each says damage."""
    shutil.copytree(template(crashed=False), tmp_path / "runtime")
    path = tmp_path / "runtime" / DATABASE
    with RuntimeStore.open(path.parent) as store:
        assert _change(
            path,
            "UPDATE write_batches SET batch_number = "
            f"{number} WHERE batch_number = (SELECT max(batch_number) FROM write_batches)",
        )
        calls: list[Callable[[], object]] = [
            lambda: write(store, LEASES, 1),
            store.plan_recovery,
            lambda: RuntimeStore.open(path.parent),
        ]
        for call in calls:
            with pytest.raises(CorruptDatabaseError, match=f"batch number {number}"):
                call()
    for command in ("status", "plan"):
        told = run(command, path.parent)
        assert told.code == 5
        assert f"batch number {number}" in told.err


def _damage(path: Path, statement: str) -> None:
    """Run a statement past the types of the columns, too, as a page that went bad would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = connection.execute(
            "SELECT sql, name FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
        ).fetchall()
        strict = re.compile(r"(?<!IS) NOT NULL|,? STRICT$")
        loose = [(strict.sub("", sql), name) for sql, name in tables]
        _set_schema(connection, loose)
    _change(path, statement)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _set_schema(connection, tables)


def _set_schema(connection: sqlite3.Connection, tables: list[tuple[str, str]]) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    connection.executemany(
        "UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?", tables
    )
    connection.execute("PRAGMA writable_schema = OFF")


@pytest.mark.parametrize("table", breadth.params(_all_tables(), normal=QUICK))
def test_values_of_another_type(scene: Scene, table: str) -> None:
    """A value that no column of its type may hold, nothing included, is damage that SQLite does not
    see; it is told as damage."""
    for column in (name for owner, name in _columns() if owner == table):
        for value in ("NULL", "x'ff00'", "1.5", "7", "'nonsense'")[: breadth.drawn(2)]:
            path = spoil(scene, crashed=True)
            _damage(path, f"UPDATE OR IGNORE {table} SET {column} = {value}")
            try_everything(scene, f"{table}.{column} = {value}, whatever its type")


@pytest.mark.parametrize(
    "crashed", breadth.params([False, True], normal=[True]), ids=["at rest", "crashed"]
)
def test_missing_rows_and_tables(scene: Scene, crashed: bool) -> None:
    """A table that is empty or gone ends in an error of ours, or does no harm."""
    for table in _all_tables():
        for statement in (f"DELETE FROM {table}", f"DROP TABLE {table}"):
            if _change(spoil(scene, crashed=crashed), statement):
                try_everything(scene, statement)


@pytest.mark.thorough
def test_schema_that_acts(scene: Scene) -> None:
    """Triggers and views that somebody put into the database cannot reach outside of it, and what
    they do to the rows ends in an error of ours."""
    bodies = {
        "deletes what is written": "DELETE FROM batch_writes",
        "fails": "SELECT RAISE(ABORT, 'no')",
        "rolls back": "SELECT RAISE(ROLLBACK, 'no')",
        "loads an extension": "SELECT load_extension('x')",
        "never ends": "INSERT INTO recovery_runs SELECT * FROM recovery_runs WHERE 0",
    }
    for table in ("write_batches", "batch_writes", "store_contents", "manifest_entries"):
        for what, body in bodies.items():
            path = spoil(scene)
            trigger = f"CREATE TRIGGER harm AFTER INSERT ON {table} BEGIN {body}; END"
            if _change(path, trigger):
                try_everything(scene, f"a trigger on {table} that {what}")


@pytest.mark.parametrize(
    ("event", "table"),
    [
        ("INSERT", "write_batches"),
        ("INSERT", "batch_writes"),
        ("INSERT", "store_contents"),
        ("INSERT", "runs"),
        ("UPDATE", "write_batches"),
        ("UPDATE", "manifest_entries"),
        ("UPDATE", "runtime_manifest"),
        ("UPDATE", "runs"),
    ],
)
def test_a_trigger_that_swallows_our_writes(tmp_path: Path, event: str, table: str) -> None:
    """Nothing is told to be committed whose rows were not written, and the trigger is named.
    Without it all is well again."""
    shutil.copytree(template(crashed=False), tmp_path / "runtime")
    path = tmp_path / "runtime" / DATABASE
    with RuntimeStore.open(path.parent) as store:
        write(store, LEASES, "before")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        body = "SELECT RAISE(IGNORE)"
        connection.execute(f"CREATE TRIGGER harm BEFORE {event} ON {table} BEGIN {body}; END")
    with RuntimeStore.open(path.parent) as store:
        other = RunIdentity(run_id="another run")
        refused = (StatementRefusedError, BatchUnfinishedError)
        with pytest.raises(refused, match="trigger harm") as caught:
            store.write_batch(identity=other, reason=CHECKPOINT, writes={LEASES: "after"})
        decided = isinstance(caught.value, BatchUnfinishedError)
        assert decided == (event == "UPDATE" and table != "runtime_manifest")
        if isinstance(caught.value, BatchUnfinishedError):
            assert caught.value.decided
            with pytest.raises(OpenBatchError, match="trigger harm"):
                store.end_run()
        assert store.read(LEASES, verify=False).data == "before"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER harm")
    with RuntimeStore.open(path.parent) as store:
        assert store.read(LEASES).data == ("after" if decided else "before")
