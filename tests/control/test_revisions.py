"""The revisions, and how they are run: whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    ForeignDatabaseError,
    NewerDatabaseError,
    UnusableEngineError,
)
from tests.control.build import CHECKOUT, hashes, make, plain, populate

LATEST = REVISIONS[-1]


def test_one_line_of_revisions() -> None:
    """There is one first revision and one newest, and `REVISIONS` lists exactly those between, in
    order; each is in a file of its name, and numbered."""
    config = Config()
    config.set_main_option("script_location", str(revisions.migrations_path()))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [LATEST]
    assert len(scripts.get_bases()) == 1
    walked = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(walked)) == REVISIONS
    for number, name in enumerate(REVISIONS, start=1):
        assert re.fullmatch(rf"{number:04d}_[a-z_]+", name)
        assert (revisions.migrations_path() / "versions" / f"{name}.py").is_file()


def test_revisions_say_what_they_are_for() -> None:
    """Every revision has a note: its purpose and what to mind."""
    for name in REVISIONS:
        text = (revisions.migrations_path() / "versions" / f"{name}.py").read_text(encoding="utf-8")
        assert "\nPurpose: " in text
        assert "\nConcerns: " in text


def test_migrations_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a checkout the migrations are beside the package; without any the error says what to
    run."""
    assert revisions.migrations_path() == CHECKOUT / "migrations"
    lonely = tmp_path / "site-packages" / "rtstore" / "control" / "revisions.py"
    monkeypatch.setattr(revisions, "__file__", str(lonely))
    with pytest.raises(UnusableEngineError, match="Install rtstore again"):
        revisions.migrations_path()
    installed = lonely.parents[1] / "migrations"
    shutil.copytree(CHECKOUT / "migrations", installed)
    assert revisions.migrations_path() == installed


SECOND_REVISION = '''
"""A second revision.

Purpose: a test.
Concerns: none.
"""
from alembic import op

revision = "{name}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade():
    connection = op.get_bind()
    connection.exec_driver_sql("CREATE TABLE colours (name TEXT NOT NULL) STRICT")
    connection.exec_driver_sql("INSERT INTO colours VALUES ('red')")
    connection.exec_driver_sql("UPDATE runtime_manifest SET team_name = 'changed'")
    connection.exec_driver_sql("DROP VIEW batch_log")
    connection.exec_driver_sql("PRAGMA user_version = {number}")
    {ending}
'''


def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> str:
    """A copy of the migrations with one more revision; return its name."""
    folder = tmp_path / "migrations"
    shutil.copytree(CHECKOUT / "migrations", folder)
    name = f"{len(REVISIONS) + 1:04d}_next"
    text = SECOND_REVISION.format(
        name=name, before=LATEST, number=len(REVISIONS) + 1, ending=ending
    )
    (folder / "versions" / f"{name}.py").write_text(text)
    monkeypatch.setattr(revisions, "migrations_path", lambda: folder)
    return name


def everything(path: Path) -> list[str]:
    """A whole database as text."""
    with plain(path) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        return [f"user_version {version[0]}", *connection.iterdump()]


FAILURES = {
    "raises": "raise RuntimeError('half way')",
    "interrupted": "raise KeyboardInterrupt",
    "bad statement": "connection.exec_driver_sql('INSERT INTO nowhere VALUES (1)')",
    "orphans": "connection.exec_driver_sql('DELETE FROM write_batches WHERE batch_number = 4')",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_revision_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """A revision that fails half way, or leaves rows that refer to nothing, is as if it had never
    run: tables, rows, views and version are as before."""
    path = make(tmp_path / "runtime")
    with plain(path) as connection:
        populate(connection)
    before = everything(path)
    add_revision(tmp_path, monkeypatch, FAILURES[failure])
    with (
        pytest.raises((RuntimeError, KeyboardInterrupt, CorruptDatabaseError)),
        revisions.revision_connection(path) as connection,
    ):
        revisions.run_revisions(connection)
    assert everything(path) == before
    assert revisions.inspect_revision(path) == LATEST


def test_a_revision_that_works_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the above: without the failure the same revision stays, in one transaction
    with its number and its name; this package then calls the database newer."""
    path = make(tmp_path / "runtime")
    name = add_revision(tmp_path, monkeypatch, "pass")
    with revisions.revision_connection(path) as connection:
        revisions.run_revisions(connection)
    with plain(path) as driver:
        assert driver.execute("SELECT name FROM colours").fetchall() == [("red",)]
        assert driver.execute("SELECT version_num FROM alembic_version").fetchall() == [(name,)]
    with pytest.raises(NewerDatabaseError, match=name):
        revisions.inspect_revision(path)


def test_making_with_a_revision_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new database is at the newest revision or is not there."""
    add_revision(tmp_path, monkeypatch, FAILURES["raises"])
    directory = tmp_path / "runtime"
    with pytest.raises(RuntimeError, match="half way"):
        make(directory)
    assert hashes(directory) == {}


def test_revisions_that_alembic_does_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then runs none, and is content. That is neither a new database nor a damaged one."""

    def forbidden(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", forbidden)
        with pytest.raises(UnusableEngineError, match=f"do not lead to {LATEST}"):
            make(tmp_path / "runtime")
    assert hashes(tmp_path / "runtime") == {}
    make(tmp_path / "runtime")


def test_revisions_wait_for_nobody_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside another program's open transaction revisions are refused as locked."""
    path = make(tmp_path)
    quick = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: quick(*a, **{**k, "timeout": 0.1}))
    with plain(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(DatabaseLockedError, match="is locked by another program"),
            revisions.revision_connection(path),
        ):
            pass


def test_foreign_keys_rest_while_revisions_run(tmp_path: Path) -> None:
    """A table that is rebuilt is dropped, and with foreign keys on the rows that refer to it would
    go too."""
    path = make(tmp_path)
    with plain(path) as driver:
        populate(driver)
    with revisions.revision_connection(path) as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 0
        connection.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM recovery_runs")
        connection.exec_driver_sql("DELETE FROM recovery_runs")
        connection.exec_driver_sql("INSERT INTO recovery_runs SELECT * FROM kept")
        connection.exec_driver_sql("DROP TABLE kept")
    with plain(path) as driver:
        assert driver.execute("SELECT count(*) FROM recovery_actions").fetchone() == (1,)


def test_a_rollback_journal_beside_a_database_in_wal_mode(path: Path) -> None:
    """SQLite would write it into the database, which it is not of. It is refused, and stays."""
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
    before = hashes(path.parent)
    with pytest.raises(ForeignDatabaseError, match="rollback journal"):
        revisions.inspect_revision(path)
    assert hashes(path.parent) == before
