"""What somebody dropped or altered of the schema with the `sqlite3` shell is made again by an
upgrade."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, LockTimeoutError, upgrade_directory
from rtstore.control.lock import WriterLock
from tests.cli.commands import ready_team, run
from tests.support import breadth


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory at rest."""
    return ready_team(tmp_path)


def _sql(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        for statement in statements:
            raw.execute(statement)


def _rows(directory: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        return raw.execute(sql).fetchall()


SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
BATCHES = "SELECT * FROM write_batches ORDER BY batch_number"


def _ways(directory: Path) -> list[str | None]:
    (database,) = [
        item for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    ]  # fmt: skip
    return [item["command"] for item in database["ways"]]


def test_everything_that_is_dropped_is_made_again(directory: Path) -> None:
    """As it was, in the order in which one needs the other; no row changes. Trying says it first,
    and the advice of the doctor is that command alone."""
    schema, batches = _rows(directory, SCHEMA), _rows(directory, BATCHES)
    dropped = [(kind, name) for kind, name, _, sql in schema if kind != "table" and sql is not None]
    assert len(dropped) > 15
    _sql(directory, *(f"DROP {kind} {name}" for kind, name in dropped))
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    expected = {f"{kind} {name}" for kind, name in dropped}
    tried = upgrade_directory(directory, dry_run=True)
    assert (set(tried.put_back), tried.changed) == (expected, False)
    assert len(_rows(directory, SCHEMA)) == len(schema) - len(dropped)
    done = upgrade_directory(directory)
    assert (set(done.put_back), done.changed, done.backup) == (expected, True, None)
    assert _rows(directory, SCHEMA) == schema
    assert _rows(directory, BATCHES) == batches
    assert _ways(directory) == []
    assert upgrade_directory(directory).put_back == ()


def test_the_command_says_what_it_made(directory: Path) -> None:
    """And what it would make; a database that lacks nothing is left as it was."""
    _sql(directory, "DROP VIEW run_log")
    told = "again what was gone of the database, or altered: its view run_log. No batch is touched"
    assert run("upgrade", directory, "--dry-run").out.startswith(f"Would make {told}\n")
    assert run("upgrade", directory).out.startswith(f"Made {told}\n")
    assert "left as it was" in run("upgrade", directory).out


SECOND_RUN = (
    "INSERT INTO runs (run_id, state, began_at) "
    "VALUES ('run-other', 'active', '2026-04-21T12:00:00.000Z')"
)
LAX = (
    "UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (high_watermark >= 0)', '') "
    "WHERE name = 'runtime_manifest'"
)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "spoil",
    [
        ["DROP INDEX ix_runs_current", SECOND_RUN],  # rows contradict it by now
        ["ALTER TABLE database_upgrades DROP COLUMN backup_path"],
        ["DROP TABLE runs"],
        ["PRAGMA writable_schema = ON", LAX],
        ["DROP VIEW run_log", "CREATE TABLE run_log (mine)"],
        ["DROP VIEW run_log", "DROP TABLE batch_deletions"],
    ],
)
def test_what_cannot_be_made_again_is_not_promised(directory: Path, spoil: list[str]) -> None:
    """Then nothing is changed, and the doctor names the other ways out."""
    _sql(directory, *spoil)
    schema = _rows(directory, SCHEMA)
    assert upgrade_directory(directory).put_back == ()
    assert _rows(directory, SCHEMA) == schema
    assert f"rtstore upgrade {directory}" not in _ways(directory)
    assert any("rebuild" in (way or "") for way in _ways(directory))


ALTERED = {
    "view run_log": ("DROP VIEW run_log", "CREATE VIEW run_log AS SELECT 1 AS a"),
    "trigger runs_stay": (
        "DROP TRIGGER runs_stay",
        "CREATE TRIGGER runs_stay BEFORE DELETE ON runs BEGIN SELECT 1; END",
    ),
    "trigger write_batches_state_is_final": (
        "DROP TRIGGER write_batches_state_is_final",
        "CREATE TRIGGER write_batches_state_is_final BEFORE UPDATE ON runs BEGIN SELECT 1; END",
    ),
    "index ix_runs_current": (
        "DROP INDEX ix_runs_current",
        "CREATE INDEX ix_runs_current ON runs (state)",
    ),
}


@pytest.mark.parametrize("part", breadth.params(ALTERED, normal=list(ALTERED)[:2]))
def test_what_was_altered_is_made_again(part: str, directory: Path) -> None:
    """A part of the same name and other SQL is not what the revision makes: the doctor names it,
    and the upgrade puts the one of the revision in its place."""
    schema = _rows(directory, SCHEMA)
    _sql(directory, *ALTERED[part])
    (database,) = [
        item for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    ]  # fmt: skip
    assert database["level"] == "red"
    assert f"its {part} is not what its revision makes" in database["sentence"]
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    assert upgrade_directory(directory).put_back == (part,)
    assert _rows(directory, SCHEMA) == schema
    assert _ways(directory) == []


@pytest.mark.parametrize("table", ["quarantined_files", "database_upgrades", "recovery_actions"])
def test_a_table_that_only_remembers_is_made_again_without_its_rows(
    table: str, directory: Path
) -> None:
    """Its rows are lost, and nothing else: batches, stores and history stay."""
    schema, batches = _rows(directory, SCHEMA), _rows(directory, BATCHES)
    _sql(directory, f"DROP TABLE {table}")
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    assert f"table {table}" in upgrade_directory(directory).put_back
    assert (_rows(directory, SCHEMA), _rows(directory, BATCHES)) == (schema, batches)
    assert (_ways(directory), run("doctor", directory).code) == ([], 0)


@pytest.mark.parametrize(
    "added",
    [
        "ALTER TABLE runs ADD COLUMN note TEXT",
        "CREATE TABLE notes (x)",
        "CREATE VIEW mine AS SELECT * FROM runs",
        "CREATE TRIGGER run_log BEFORE DELETE ON database_upgrades BEGIN SELECT 1; END",
    ],
)
def test_what_somebody_added_is_left_alone(added: str, directory: Path) -> None:
    """A column, a table, a view and a trigger that has the name of a view are no damage."""
    _sql(directory, added)
    assert not any("upgrade" in (way or "") or "rebuild" in (way or "") for way in _ways(directory))
    schema = _rows(directory, SCHEMA)
    assert upgrade_directory(directory).put_back == ()
    assert _rows(directory, SCHEMA) == schema


def test_nothing_is_made_beside_a_writer(directory: Path) -> None:
    """It is a write like any other: under the writer lock."""
    _sql(directory, "DROP VIEW run_log")
    with WriterLock(directory).hold(), pytest.raises(LockTimeoutError):
        upgrade_directory(directory, lock=WriterLock(directory, 0.01))
    assert upgrade_directory(directory).put_back == ("view run_log",)
