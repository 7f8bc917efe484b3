"""What somebody added to an older database, or dropped from it, can be in the way of an upgrade."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, UpgradeFailedError, restore_backup, upgrade_directory
from rtstore.control import parts, revisions
from rtstore.control.schema import REVISIONS
from rtstore.files.system import FileSystem
from rtstore.maintenance.upgrade import backups_in
from tests.cli.commands import run
from tests.upgrade.freeze import rows_of, unpack

IN_THE_WAY = {
    "a table": ("0002", "CREATE TABLE history_retention (x)", "table history_retention",
                "DROP TABLE history_retention"),
    "a column": ("0004", "ALTER TABLE write_batches ADD COLUMN note TEXT",
                 "column note of table write_batches",
                 "ALTER TABLE write_batches DROP COLUMN note"),
}  # fmt: skip


def _sql(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute(statement)


def _database(directory: Path) -> Any:
    """What the doctor finds of the database."""
    findings = run("doctor", directory, "--json").json()["findings"]
    (found,) = (item for item in findings if item["check"] == "database")
    return found


def _of(number: str) -> str:
    (revision,) = (name for name in REVISIONS if name.startswith(number))
    return revision


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_was_added_is_named(what: str, tmp_path: Path) -> None:
    """The database is at its revision as before and is not called damaged. The error and the
    doctor name what was added and who can help; once it is gone the upgrade works."""
    number, add, named, remove = IN_THE_WAY[what]
    directory, revision = unpack(_of(number), tmp_path), _of(number)
    _sql(directory, add)
    rows = rows_of(directory / DATABASE_NAME)
    for options in ((), ("--dry-run",)):
        refused = run("upgrade", directory, *options)
        assert refused.code == 5
        assert f"It is at {revision} as before" in refused.err
        assert f"not of rtstore: {named}" in refused.err
        assert refused.err.rstrip().endswith(f"rtstore upgrade {directory}")
        assert "is damaged" not in refused.err
        assert "tmp/rtstore-upgrade" not in refused.err
    assert rows_of(directory / DATABASE_NAME) == rows
    with pytest.raises(UpgradeFailedError) as caught:
        upgrade_directory(directory)
    assert caught.value.added == (named,)
    assert pickle.loads(pickle.dumps(caught.value)).added == (named,)
    finding = _database(directory)
    assert finding["level"] == "red"
    assert f"not of rtstore: {named}" in finding["sentence"]
    first, *others = finding["ways"]
    assert (first["command"], "remove or rename it" in first["why"]) == (None, True)
    assert [way["command"].split(" --")[0] for way in others] == [f"rtstore rebuild {directory}"]
    _sql(directory, remove)
    assert run("upgrade", directory).code == 0
    assert _database(directory)["level"] == "green"


def test_what_is_not_in_the_way_is_left(tmp_path: Path) -> None:
    """A table of one's own under another name stays, and the doctor says what it says of every
    older database."""
    directory = unpack(_of("0002"), tmp_path)
    plain = _database(directory)
    _sql(directory, "CREATE TABLE notes (x)")
    assert _database(directory) == plain
    assert run("upgrade", directory).code == 0
    assert "notes" in rows_of(directory / DATABASE_NAME)


def test_the_other_way_out_works(tmp_path: Path) -> None:
    """The rebuild that the doctor names makes a database at this revision."""
    directory = unpack(_of("0002"), tmp_path)
    _sql(directory, "CREATE TABLE history_retention (x)")
    *_, way = _database(directory)["ways"]
    assert run(*way["command"].split()[1:]).code == 0
    assert revisions.inspect_revision(directory / DATABASE_NAME) == REVISIONS[-1]


@pytest.mark.parametrize(
    ("number", "table"),
    [("0007", "runs"), ("0007", "history_retention"), ("0004", "recovery_runs")],
)
def test_a_table_that_is_gone_is_named(number: str, table: str, tmp_path: Path) -> None:
    """Rows that somebody dropped with their table cannot be made again by an upgrade, whether a
    revision would touch the table or not: it is refused, and nothing is changed. The doctor has the
    ways out, and does not name the upgrade among them."""
    directory = unpack(_of(number), tmp_path)
    _sql(directory, f"DROP TABLE {table}")
    rows = rows_of(directory / DATABASE_NAME)
    for options in (("--dry-run",), ()):
        refused = run("upgrade", directory, *options)
        assert refused.code == 5
        assert f"table {table}" in refused.err
        assert "no newer revision can open it" not in refused.err
        assert refused.err.rstrip().endswith(f"rtstore doctor {directory}")
    assert rows_of(directory / DATABASE_NAME) == rows
    assert backups_in(directory, FileSystem()) == []
    finding = _database(directory)
    assert finding["level"] == "red"
    assert finding["ways"]
    assert not any("upgrade" in (way["command"] or "") for way in finding["ways"])


@pytest.mark.parametrize(
    ("number", "part"),
    [
        ("0007", "table quarantined_files"),
        ("0007", "table recovery_actions"),
        ("0004", "table database_upgrades"),
        ("0007", "view run_log"),
        ("0007", "index ix_manifest_entries_batch_number"),
    ],
)
def test_what_needs_no_row_is_made_again(number: str, part: str, tmp_path: Path) -> None:
    """An upgrade makes again what was dropped and needs no row, and says so. All that a new
    database has is there afterwards, every batch, and a back-up that can be restored."""
    directory = unpack(_of(number), tmp_path)
    path = directory / DATABASE_NAME
    batches = rows_of(path)["write_batches"]
    _sql(directory, f"DROP {part}")
    (way,) = _database(directory)["ways"]
    assert way["command"] == f"rtstore upgrade {directory}"
    names = upgrade_directory(directory, dry_run=True).put_back
    assert part in names
    report = upgrade_directory(directory)
    assert report.put_back == names
    assert parts.spoiled_parts(path) == parts.Spoiled()
    assert [row[:2] for row in rows_of(path)["write_batches"]] == [row[:2] for row in batches]
    assert report.backup is not None
    restored = restore_backup(report.backup, tmp_path / "restored").path
    assert parts.differences(restored / DATABASE_NAME, _of(number)) == ((), ())


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_frozen_database_has_nothing_added(revision: str, tmp_path: Path) -> None:
    """What a revision makes is known exactly, so that nothing of it is taken for an addition."""
    path = unpack(revision, tmp_path) / DATABASE_NAME
    assert parts.differences(path, revision) == ((), ())


def test_quarantined_files_that_a_restore_left_out(tmp_path: Path) -> None:
    """Nobody removed them: an upgrade backs the database up alone. The doctor does not say so."""
    kept = upgrade_directory(unpack(_of("0007"), tmp_path)).backup
    assert kept is not None
    restored = restore_backup(kept, tmp_path / "restored").path
    for directory in (restored, upgrade_directory(restored).directory):
        (said,) = (
            item["sentence"]
            for item in run("doctor", directory, "--json").json()["findings"]
            if item["check"] == "quarantine" and item["level"] == "yellow"
        )
        assert "that somebody removed" not in said
        assert "a database that an upgrade backed up" in said
