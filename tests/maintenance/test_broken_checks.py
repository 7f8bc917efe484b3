"""A value that its table does not allow, as a flipped bit leaves one: SQLite says that all is sound
where it may only read. Who looks says it, and the way out works as it is printed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint

from rtstore import DATABASE_NAME, BackupDamagedError, CorruptDatabaseError, upgrade_directory
from rtstore.control.schema import REVISIONS, metadata
from rtstore.control.sqlite import copying
from rtstore.maintenance.backup.verifying import verify_database
from tests.cli.commands import ready_team, run, words_of
from tests.cli.troubles import LEASES_FILE
from tests.support import breadth
from tests.upgrade.freeze import unpack

BROKEN = {
    "an action": "UPDATE recovery_actions SET outcome = 'dond'",
    "the kind of an action": "UPDATE recovery_actions SET kind = 'quarantinf'",
    "a recovery": "UPDATE recovery_runs SET started_by = 'reckver'",
    "a descriptor": "UPDATE store_descriptors SET criticality = 'critical'",
    "an entry": "UPDATE manifest_entries SET state = 'hdalthy'",
    "the retention": "UPDATE history_retention SET thin_by_age = 2",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which a recovery is on record."""
    directory = ready_team(tmp_path)
    (directory / LEASES_FILE).unlink()
    assert run("recover", directory).code == 0
    return directory


def _break(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in ("PRAGMA ignore_check_constraints = ON", *statements):
            raw.execute(statement)


def _red(directory: Path) -> str:
    findings = run("doctor", directory, "--json").json()["findings"]
    (found,) = [item for item in findings if (item["level"], item["check"]) == ("red", "database")]
    (way,) = [item["command"] for item in found["ways"]]
    return str(way)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("marks", [True, False], ids=["with its marks", "without its number"])
@pytest.mark.parametrize("what", BROKEN)
def test_the_way_out_works(directory: Path, what: str, *, marks: bool) -> None:
    """The doctor is red, also where an upgrade would write the number of the revision again, and
    the rebuild that it prints needs no force."""
    files = {path.name: path.read_bytes() for path in directory.glob("*.json")}
    path = directory / DATABASE_NAME
    _break(path, BROKEN[what], *(() if marks else ("PRAGMA user_version = 0",)))
    assert marks or run("upgrade", directory).code == 5
    assert run("status", directory).code in ((0, 5) if marks else (5,))
    way = _red(directory)
    assert way.startswith(f"rtstore rebuild {directory} ")
    assert "--force" not in way
    assert run(*words_of(way)).code == 0
    assert run("status", directory).code == 0
    assert run("doctor", directory).code == 0
    assert {path.name: path.read_bytes() for path in directory.glob("*.json")} == files


@pytest.mark.parametrize("what", BROKEN)
def test_no_copy_is_called_sound(directory: Path, tmp_path: Path, what: str) -> None:
    """A back-up of it is refused, and so is the database alone as one."""
    _break(directory / DATABASE_NAME, BROKEN[what])
    refused = run("backup", directory, tmp_path / "backup")
    assert refused.code == 5
    assert f"rtstore doctor {directory}" in refused.err
    with pytest.raises((CorruptDatabaseError, BackupDamagedError)):
        verify_database(directory / DATABASE_NAME)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_database(tmp_path: Path, revision: str) -> None:
    """The upgrade would hold its rows to the constraints: the doctor does not advise it."""
    directory = unpack(revision, tmp_path)
    copying.check(directory / DATABASE_NAME)
    columns = "(plan_id, started_by, high_watermark, readiness_impact, started_at)"
    values = "('p', 'opfn', 1, 'none', '2026-01-01T00:00:00.000Z')"
    _break(directory / DATABASE_NAME, f"INSERT INTO recovery_runs {columns} VALUES {values}")
    with pytest.raises(CorruptDatabaseError):
        upgrade_directory(directory)
    assert _red(directory).startswith(f"rtstore rebuild {directory} ")


CHECKED = [
    f"{table.name}.{column.name}"
    for table in metadata.tables.values()
    for column in table.columns
    if any(column.name in str(item.sqltext) for item in table.constraints
           if isinstance(item, CheckConstraint))
]  # fmt: skip


@pytest.mark.parametrize("checked", breadth.params(CHECKED, normal=["recovery_runs.completed_at"]))
def test_every_constraint_is_looked_at(directory: Path, checked: str) -> None:
    """Whatever SQLite says of a row when it may write, is found where it may not."""
    path = directory / DATABASE_NAME
    table, column = checked.split(".")
    for value in ("-1", "'!'", "NULL"):
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("PRAGMA ignore_check_constraints = ON")
            raw.execute("BEGIN")
            for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
                raw.execute(f"DROP TRIGGER {name}")
            try:
                raw.execute(f"UPDATE {table} SET {column} = {value}")
            except sqlite3.IntegrityError:  # another type, or no value
                continue
            raw.execute("COMMIT")
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            sound = raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if sound:
            continue
        with pytest.raises(CorruptDatabaseError, match=f"a row of {table} breaks a CHECK"):
            copying.check(path)
        return
