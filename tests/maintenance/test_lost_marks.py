"""A database that lost only what says which revision it is at gets that again by an upgrade."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    CorruptDatabaseError,
    ForeignDatabaseError,
    LockTimeoutError,
    NewerDatabaseError,
    RuntimeStore,
    RuntimeStoreError,
    upgrade_directory,
)
from rtstore.control.lock import WriterLock
from rtstore.control.schema import REVISIONS
from tests.cli.commands import ready_team, run
from tests.support import picture
from tests.upgrade.freeze import rows_of, unpack

ROW = {"row of alembic_version"}
LOST = {
    "the row": (("DELETE FROM alembic_version",), {"row of alembic_version"}),
    "the application id": (("PRAGMA application_id = 0",), {"application_id"}),
    "both numbers": (
        ("PRAGMA application_id = 0", "PRAGMA user_version = 0"),
        {"application_id", "user_version"},
    ),
    "the number and the row": (
        ("PRAGMA application_id = 0", "DELETE FROM alembic_version"),
        {"application_id", "row of alembic_version"},
    ),
    "an empty name": (("UPDATE alembic_version SET version_num = ''",), ROW),
    "nonsense for a name": (("UPDATE alembic_version SET version_num = 'abc;drop'",), ROW),
    "an unknown name": (("UPDATE alembic_version SET version_num = '9999_future'",), ROW),
    "an older name": ((f"UPDATE alembic_version SET version_num = '{REVISIONS[2]}'",), ROW),
    "two names": ((f"INSERT INTO alembic_version VALUES ('{REVISIONS[2]}')",), ROW),
    "two names, one unknown": (("INSERT INTO alembic_version VALUES ('9999_future')",), ROW),
    "the table": (("DROP TABLE alembic_version",), {"table alembic_version"}),
    "an older number": (("PRAGMA user_version = 5",), {"user_version"}),
    "a number that no revision has": (("PRAGMA user_version = 24",), {"user_version"}),
    "a number far from any": (("PRAGMA user_version = 268435464",), {"user_version"}),
    "a negative number": (("PRAGMA user_version = -2147483640",), {"user_version"}),
}
NUMBERS = ("PRAGMA application_id = 0", "PRAGMA user_version = 0")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory at rest."""
    return ready_team(tmp_path)


def _sql(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _dump(directory: Path) -> None:
    """Read a dump of the database into a new file, and put that in its place."""
    path, other = directory / DATABASE_NAME, directory / "dumped"
    with closing(sqlite3.connect(path)) as raw, closing(sqlite3.connect(other)) as dumped:
        # A statement may end with a comment.
        dumped.executescript("\n".join(f"{each[:-1]}\n;" for each in raw.iterdump()))
    other.replace(path)


def _ways(directory: Path) -> list[str]:
    findings = run("doctor", directory, "--json").json()["findings"]
    (found,) = (item for item in findings if item["check"] == "database")
    return [way["command"] for way in found["ways"]]


def _is_whole(directory: Path, rows: object) -> None:
    assert rows_of(directory / DATABASE_NAME) == rows
    assert _ways(directory) == []
    assert run("status", directory).code == 0


@pytest.mark.one_in(3)
@pytest.mark.parametrize("what", LOST)
def test_marks_come_back(what: str, directory: Path) -> None:
    """The doctor names the upgrade alone, which writes them again: no row of a batch changes.
    Trying says it first, and changes nothing."""
    rows = rows_of(directory / DATABASE_NAME)
    statements, lost = LOST[what]
    _sql(directory, *statements)
    refused = run("status", directory)
    assert (refused.code, "newer" in refused.err) == (5, False)
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    before = picture(directory)
    tried = upgrade_directory(directory, dry_run=True)
    assert (set(tried.put_back), tried.changed) == (lost, False)
    assert picture(directory) == before
    done = run("upgrade", directory, "--json").json()
    assert (set(done["putBack"]), done["changed"]) == (lost, True)
    _is_whole(directory, rows)


def test_a_dump_that_was_read_in(directory: Path) -> None:
    """It has every table, view and row, and none of the numbers: the history is not lost."""
    rows = rows_of(directory / DATABASE_NAME)
    _dump(directory)
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    told = run("upgrade", directory)
    assert (
        "Made again what was gone of the database, or altered: its application_id, its" in told.out
    )
    assert run("recover", directory).code == 0  # which sets WAL mode again
    _is_whole(directory, rows)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_an_older_database_is_upgraded_after_that(revision: str, tmp_path: Path) -> None:
    """By the same call."""
    directory = unpack(revision, tmp_path)
    _sql(directory, *NUMBERS)
    assert _ways(directory) == [f"rtstore upgrade {directory}"]
    done = upgrade_directory(directory)
    assert (set(done.put_back), done.from_revision) == (
        {"application_id", "user_version"},
        revision,
    )
    assert (done.changed, done.to_revision) == (True, REVISIONS[-1])
    with RuntimeStore.open(directory) as store:
        assert store.manifest().high_watermark == 8


FOREIGN = {
    "another program's id": (*NUMBERS, "PRAGMA application_id = 77"),
    "a table more": (*NUMBERS, "CREATE TABLE notes (x)"),
    "a column more": (*NUMBERS, "ALTER TABLE write_batches ADD COLUMN note TEXT"),
    "a view less": (*NUMBERS, "DROP VIEW run_log"),
    "another number": ("PRAGMA application_id = 0", "PRAGMA user_version = 3"),
    "a number that no revision has": ("PRAGMA application_id = 0", "PRAGMA user_version = 24"),
    "an unknown name": (*NUMBERS, "UPDATE alembic_version SET version_num = '0008_others'"),
    "an older name": (*NUMBERS, f"UPDATE alembic_version SET version_num = '{REVISIONS[-2]}'"),
    "no name and no number": (*NUMBERS, "DELETE FROM alembic_version"),
    "a senseless row": (
        *NUMBERS,
        "UPDATE runtime_manifest SET updated_at = '2026-13-01T00:00:00.000Z'",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_may_be_of_another_program_is_not_touched(what: str, directory: Path) -> None:
    """Nor what is damaged beside that: an upgrade refuses it as before, and nobody advises it."""
    _sql(directory, *FOREIGN[what])
    before = picture(directory)
    with pytest.raises((ForeignDatabaseError, CorruptDatabaseError)):
        upgrade_directory(directory)
    assert picture(directory) == before
    assert not any("upgrade" in way for way in _ways(directory))


def test_another_programs_database(tmp_path: Path) -> None:
    """One with alembic's table, too, is left as it is, and so is a link to a database of ours."""
    directory = tmp_path / "other"
    directory.mkdir()
    _sql(directory, "CREATE TABLE alembic_version (version_num TEXT)", "CREATE TABLE t (x)")
    _sql(directory, f"INSERT INTO alembic_version VALUES ('{REVISIONS[-1]}')")
    before = picture(directory)
    with pytest.raises(ForeignDatabaseError):
        upgrade_directory(directory)
    assert picture(directory) == before
    ours, linked = ready_team(tmp_path), tmp_path / "linked"
    _sql(ours, *NUMBERS)
    linked.mkdir()
    (linked / DATABASE_NAME).symlink_to(ours / DATABASE_NAME)
    before = picture(ours)
    with pytest.raises(RuntimeStoreError, match="symbolic link"):
        upgrade_directory(linked)
    assert picture(ours) == before


NEWER = {
    "a higher number and an unknown name": (
        "PRAGMA user_version = 9",
        "UPDATE alembic_version SET version_num = '0009_more'",
    ),
    "a higher number and a part of its own": ("PRAGMA user_version = 9", "CREATE TABLE more (x)"),
    "a higher number and no name": ("PRAGMA user_version = 9", "DELETE FROM alembic_version"),
    "an unknown name, and a part of its own": (
        "UPDATE alembic_version SET version_num = '0009_more'",
        "CREATE TABLE more (x)",
    ),
}


@pytest.mark.parametrize("what", NEWER)
def test_a_newer_database_is_still_refused_as_newer(what: str, directory: Path) -> None:
    """What no revision of this package makes, under a name that it does not know, is of a later
    one: nothing is written into it."""
    _sql(directory, *NEWER[what])
    before = picture(directory)
    with pytest.raises(NewerDatabaseError):
        upgrade_directory(directory)
    assert picture(directory) == before
    assert "a newer rtstore made it" in run("doctor", directory).out


def test_nothing_is_written_beside_a_writer(directory: Path) -> None:
    """It is a write like any other: under the writer lock."""
    _sql(directory, *NUMBERS)
    with WriterLock(directory).hold(), pytest.raises(LockTimeoutError):
        upgrade_directory(directory, lock_timeout_s=0.01)
    assert upgrade_directory(directory).changed
