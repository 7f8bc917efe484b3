"""How a later revision rebuilds a table, on a database in which everything refers to it.

SQLite changes a table by making another one. Views and triggers that mention it are in the way,
indexes go with it, and with foreign keys on so would the rows that refer to it. The recipe is here,
run on every frozen directory, so that whoever writes the next revision can take it.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.support import CHECKOUT
from tests.upgrade.freeze import facts_of, rows_of, schema_of, unpack

REBUILD = '''
"""Rebuild write_batches with one more rule.

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
    run = connection.exec_driver_sql
    others = run(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger')"
    ).fetchall()
    indexes = run(
        "SELECT sql FROM sqlite_schema WHERE tbl_name = 'write_batches' AND sql IS NOT NULL"
        " AND type = 'index'"
    ).fetchall()
    (text,) = run("SELECT sql FROM sqlite_schema WHERE name = 'write_batches'").fetchone()
    for kind, name, _ in others:
        run(f"DROP {{kind}} {{name}}")
    run(
        text.replace("write_batches (", "rebuilt (", 1).replace(
            "CONSTRAINT pk_write_batches",
            "CONSTRAINT ck_write_batches_reason_text CHECK (reason <> ''),\\n"
            "  CONSTRAINT pk_write_batches",
        )
    )
    run("INSERT INTO rebuilt SELECT * FROM write_batches")
    run("DROP TABLE write_batches")
    run("ALTER TABLE rebuilt RENAME TO write_batches")
    for (sql,) in [*indexes, *((sql,) for _, _, sql in others)]:
        run(sql)
    run("PRAGMA user_version = {number}")
'''


def add_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """A copy of the migrations with one revision more; return its name."""
    shutil.copytree(CHECKOUT / "migrations", folder)
    number = len(REVISIONS) + 1
    name = f"{number:04d}_rebuild"
    (folder / "versions" / f"{name}.py").write_text(
        text.format(name=name, before=REVISIONS[-1], number=number)
    )
    monkeypatch.setattr(revisions, "migrations_path", lambda: folder)
    return name


@pytest.mark.parametrize("frozen", REVISIONS)
def test_a_table_that_everything_refers_to_is_rebuilt(
    frozen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row stays, those that refer to the table too; views, trigger and index are back with
    the very text that they had; the new rule holds."""
    path = unpack(frozen, tmp_path) / DATABASE_NAME
    with revisions.revision_connection(path) as connection:
        revisions.run_revisions(connection)
    before, rows = schema_of(path), rows_of(path)
    add_revision(tmp_path / "migrations", monkeypatch, REBUILD)
    with revisions.revision_connection(path) as connection:
        revisions.run_revisions(connection)
    after = schema_of(path)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"table write_batches"}
    assert rows_of(path) == rows
    assert rows["batch_writes"] == facts_of(frozen)["rows"]["batch_writes"]
    with closing(sqlite3.connect(path, isolation_level=None)) as driver:
        for sql in ("UPDATE write_batches SET reason = ''", "UPDATE write_batches SET state = 'x'"):
            with pytest.raises(sqlite3.IntegrityError):
                driver.execute(sql)
        for (view,) in driver.execute("SELECT name FROM sqlite_schema WHERE type = 'view'"):
            driver.execute(f"SELECT * FROM {view}").fetchall()


@pytest.mark.parametrize("kind", ["view", "trigger"])
def test_what_mentions_the_table_is_in_the_way(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without dropping views and triggers first SQLite refuses, and nothing is
    changed."""
    path = unpack(REVISIONS[-1], tmp_path) / DATABASE_NAME
    before, rows = schema_of(path), rows_of(path)
    kept = "view" if kind == "trigger" else "trigger"
    careless = REBUILD.replace("type IN ('view', 'trigger')", f"type = '{kept}'")
    add_revision(tmp_path / "migrations", monkeypatch, careless)
    with (
        pytest.raises(Exception, match=f"error in {kind}"),
        revisions.revision_connection(path) as connection,
    ):
        revisions.run_revisions(connection)
    assert (schema_of(path), rows_of(path)) == (before, rows)
