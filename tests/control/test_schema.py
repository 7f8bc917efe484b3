"""What is in the control database: the revisions, the tables of the package, and the rules that
the database itself keeps, whoever writes to it."""

from __future__ import annotations

import re
import runpy
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    create_engine,
    text,
)
from sqlalchemy.pool import StaticPool

from rtstore.control import schema
from rtstore.control.fingerprints import fits, has_all, letters
from rtstore.control.schema import APPLICATION_ID, PARTS, REVISIONS, VIEWS, metadata
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.control.build import (
    INSERT_BATCH,
    INSERT_CONTENT,
    INSERT_WRITE,
    TIME,
    make,
    plain,
)
from tests.upgrade.freeze import unpack

# --- the revisions make what the tables of the package say ----------------------------------------


def schema_of(connection: sqlite3.Connection) -> dict[str, tuple[str, frozenset[str], str]]:
    """Every table and index: what it is, its clauses, and what follows them.

    Comments and white space do not count, nor does the order of the constraints; that of the
    columns does, so each carries its number.
    """
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index')"
        " AND sql IS NOT NULL AND name NOT IN ('alembic_version')"
    )
    return {name: _parsed(sql) for name, sql in rows}


def _parsed(sql: str) -> tuple[str, frozenset[str], str]:
    flat = " ".join(re.sub(r"--[^\n]*", " ", sql).split())
    opening, closing = flat.index("("), _closing(flat)
    clauses = []
    for number, clause in enumerate(_split(flat[opening + 1 : closing])):
        is_column = not clause.startswith(("CONSTRAINT", "PRIMARY", "UNIQUE", "FOREIGN", "CHECK"))
        clauses.append(f"{number} {clause}" if is_column else clause)
    options = sorted(part.strip() for part in flat[closing + 1 :].split(","))
    return flat[:opening].strip(), frozenset(clauses), ", ".join(options)


def _closing(sql: str) -> int:
    """Where the bracket ends that the first one opens."""
    depth = 0
    for place, character in enumerate(sql):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return place
    raise AssertionError(f"unbalanced: {sql}")


def _split(body: str) -> list[str]:
    """The parts between the commas that are in no bracket and no string."""
    parts, depth, quoted, start = [], 0, False, 0
    for place, character in enumerate(body):
        quoted ^= character == "'"
        depth += 0 if quoted else (character == "(") - (character == ")")
        if character == "," and depth == 0 and not quoted:
            parts.append(body[start:place])
            start = place + 1
    tidy = [" ".join(part.split()) for part in [*parts, body[start:]]]
    return [part.replace("( ", "(").replace(" )", ")") for part in tidy]


def schema_of_metadata(tables: MetaData) -> dict[str, tuple[str, frozenset[str], str]]:
    """The same for what SQLAlchemy makes of tables."""
    driver = sqlite3.connect(":memory:")
    engine = create_engine("sqlite+pysqlite://", creator=lambda: driver, poolclass=StaticPool)
    tables.create_all(engine)
    found = schema_of(driver)
    engine.dispose()
    return found


def drift(path: Path, tables: MetaData) -> list[object]:
    """What alembic would put into a next revision."""
    with plain(path) as driver:
        engine = create_engine("sqlite+pysqlite://", creator=lambda: driver, poolclass=StaticPool)
        with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            found: list[object] = compare_metadata(context, tables)
        engine.dispose()
    return found


def test_revisions_and_tables_agree(tmp_path: Path) -> None:
    """A migrated database and one made from the package's tables have the same tables, columns,
    types, keys, indexes and CHECK expressions."""
    with plain(make(tmp_path)) as connection:
        migrated = schema_of(connection)
    assert migrated == schema_of_metadata(metadata)


def test_alembic_finds_no_drift(tmp_path: Path) -> None:
    """Alembic's own comparison has nothing to add."""
    assert drift(make(tmp_path), metadata) == []


def _change_check(tables: MetaData) -> None:
    constraint = _constraint(tables, "write_batches", "ck_write_batches_completed")
    assert isinstance(constraint, CheckConstraint)
    constraint.sqltext = text("completed_at IS NOT NULL OR state = 'preparing'")


def _drop_enum_value(tables: MetaData) -> None:
    constraint = _constraint(tables, "write_batches", "ck_write_batches_state")
    assert isinstance(constraint, CheckConstraint)
    constraint.sqltext = text("state IN ('preparing', 'committing', 'committed')")


def _drop_unique(tables: MetaData) -> None:
    table = tables.tables["manifest_entries"]
    table.constraints -= {each for each in table.constraints if isinstance(each, UniqueConstraint)}


def _drop_foreign_key(tables: MetaData) -> None:
    table = tables.tables["manifest_entries"]
    table.constraints -= set(table.foreign_key_constraints)


def _drop_index(tables: MetaData) -> None:
    tables.tables["write_batches"].indexes.clear()


def _add_column(tables: MetaData) -> None:
    tables.tables["write_batches"].append_column(Column("colour", Text))


def _change_type(tables: MetaData) -> None:
    tables.tables["write_batches"].c.run_id.type = Integer()


def _allow_null(tables: MetaData) -> None:
    tables.tables["write_batches"].c.reason.nullable = True


def _forget_strict(tables: MetaData) -> None:
    tables.tables["write_batches"].dialect_options["sqlite"]["strict"] = False


def _constraint(tables: MetaData, table: str, name: str) -> object:
    return next(each for each in tables.tables[table].constraints if each.name == name)


CHANGES = [
    _change_check, _drop_enum_value, _drop_unique, _drop_foreign_key, _drop_index, _add_column,
    _change_type, _allow_null, _forget_strict,
]  # fmt: skip
SEEN_BY_ALEMBIC = (_drop_index, _add_column, _change_type, _allow_null, _drop_foreign_key)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_a_difference_is_found(tmp_path: Path, change: Callable[[MetaData], None]) -> None:
    """A change to a copy of the tables is seen by the comparison, also where alembic is blind."""
    copied: MetaData = runpy.run_path(schema.__file__)["metadata"]
    path = make(tmp_path)
    assert schema_of_metadata(copied) == schema_of_metadata(metadata)
    assert drift(path, copied) == []
    change(copied)
    assert schema_of_metadata(copied) != schema_of_metadata(metadata)
    if change in SEEN_BY_ALEMBIC:
        assert drift(path, copied) != []


def test_every_constraint_has_a_name(populated: sqlite3.Connection) -> None:
    """Every constraint of ours can be named, and so changed, by a later revision."""
    for name, (opening, clauses, _) in schema_of(populated).items():
        if opening.startswith("CREATE TABLE"):
            rest = {
                re.sub(r"^\d+ \w+ (TEXT|INTEGER|REAL)( NOT NULL)?", "", clause)
                for clause in clauses
            }
            unnamed = {clause for clause in rest if clause and not clause.startswith("CONSTRAINT")}
            assert unnamed == set(), name


def test_header_of_the_file(populated: sqlite3.Connection) -> None:
    """The file says what it is, how far it has come, and that its WAL and space are as planned."""
    pragmas = ("application_id", "user_version", "auto_vacuum", "journal_mode", "encoding")
    found = {name: populated.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    assert found == {
        "application_id": APPLICATION_ID,
        "user_version": len(REVISIONS),
        "auto_vacuum": 2,
        "journal_mode": "wal",
        "encoding": "UTF-8",
    }


def test_the_parts_are_those_that_the_revisions_make(tmp_path: Path) -> None:
    """What the doctor and `verify` compare a database with is what a new one has."""
    query = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    with plain(make(tmp_path)) as connection:
        assert set(connection.execute(query)) == PARTS


# --- what people see ------------------------------------------------------------------------------


def test_views_are_there_and_answer(populated: sqlite3.Connection) -> None:
    """Every view shows something for a database in which something happened."""
    found = {
        name for (name,) in populated.execute("SELECT name FROM sqlite_master WHERE type='view'")
    }
    assert found == VIEWS
    for view in VIEWS:
        assert populated.execute(f"SELECT * FROM {view}").fetchall(), view


def test_views_tell_the_truth(populated: sqlite3.Connection) -> None:
    """The views say which batch wrote a store last, what is in it, how it came to be, and what is
    open or wrong."""
    current = "SELECT store, batch_id, data ->> '$.number' FROM current_stores ORDER BY store"
    assert populated.execute(current).fetchall() == [
        ("a.store", "batch-2", 2),
        ("b.store", "batch-1", None),
    ]
    history = "SELECT batch_id, data ->> '$.number' FROM store_history WHERE store = 'a.store'"
    assert populated.execute(history).fetchall() == [("batch-1", 1), ("batch-2", 2)]
    log = "SELECT batch_id, state, store_count, stores FROM batch_log"
    assert populated.execute(log).fetchall() == [
        ("batch-5", "preparing", 0, None),
        ("batch-4", "failed", 1, "a.store"),
        ("batch-3", "preparing", 1, "a.store"),
        ("batch-2", "committed", 1, "a.store"),
        ("batch-1", "committed", 2, "a.store, b.store"),
    ]
    deleted = "SELECT batch_id, deleted_stores FROM batch_log WHERE deleted_stores IS NOT NULL"
    assert populated.execute(deleted).fetchall() == [("batch-2", "c.store")]
    deletions = "SELECT store, batch_id, is_gone FROM store_deletions"
    assert populated.execute(deletions).fetchall() == [("c.store", "batch-2", 1)]
    receipts = "SELECT receipt_id, batch_id FROM write_receipts ORDER BY receipt_id"
    assert populated.execute(receipts).fetchall() == [
        ("receipt-1", "batch-1"),
        ("receipt-2", "batch-2"),
        ("receipt-b", "batch-1"),
    ]
    problems = "SELECT problem, subject FROM open_problems ORDER BY problem, subject"
    assert populated.execute(problems).fetchall() == [
        ("content not in database", "b.store"),
        ("failed batch", "batch-4"),
        ("open batch", "batch-3"),
        ("open batch", "batch-5"),
        ("quarantined file", "q/a.json"),
        ("unfinished recovery", "plan-1"),
    ]
    recoveries = "SELECT run_number, kind, outcome, impact_before, impact_after FROM recovery_log"
    assert populated.execute(recoveries).fetchall() == [
        (2, None, None, "blocked", "none"),
        (1, "restore_committed", "done", "blocked", "none"),
    ]


def test_views_answer_since_when_and_how_big(populated: sqlite3.Connection) -> None:
    """The views say what is committed since when, what each run wrote, how big each store is and
    what a batch changed in it."""
    populated.execute(
        "UPDATE runtime_manifest SET high_watermark = 2, last_committed_batch_id = 'batch-2',"
        " active_run_id = 'run-1'"
    )
    populated.execute("UPDATE write_batches SET run_id = 'run-0' WHERE batch_number = 1")
    now = "SELECT high_watermark, batch_id, run_id, store_count, bytes, problem_count"
    assert populated.execute(f"{now} FROM current_state").fetchall() == [
        (2, "batch-2", "run-1", 2, 18, 6)
    ]
    runs = "SELECT run_id, is_active, committed, failed, open, stores, bytes FROM run_log"
    assert populated.execute(runs).fetchall() == [
        ("run-1", 1, 1, 1, 2, "a.store", 9),
        ("run-0", 0, 1, 0, 0, "a.store, b.store", 18),
    ]
    sizes = "SELECT * FROM store_sizes WHERE file_size IS NOT NULL ORDER BY store"
    assert populated.execute(sizes).fetchall() == [
        ("a.store", 9, 4, 4, 36, 1, 9),
        ("b.store", 9, 1, 0, 0, 0, 0),
    ]
    history = "SELECT file_size, size_change FROM store_history WHERE store = 'a.store'"
    assert populated.execute(history).fetchall() == [(9, None), (9, 0)]
    changes = "SELECT store, batch_id, path, before, after FROM store_changes"
    assert populated.execute(changes).fetchall() == [("a.store", "batch-2", "$.number", "1", "2")]


AGED = {
    "batch_log": "started_at",
    "current_state": "committed_at",
    "current_stores": "written_at",
    "open_problems": "since",
    "recovery_log": "started_at",
    "run_log": "last_batch_at",
    "store_changes": "written_at",
    "store_history": "written_at",
    "write_receipts": "written_at",
}


@pytest.mark.parametrize(("view", "since"), AGED.items(), ids=AGED)
def test_ages_stand_beside_times(populated: sqlite3.Connection, view: str, since: str) -> None:
    """An age is in whole seconds, since the time that it stands beside; of no time, none."""
    populated.execute("UPDATE runtime_manifest SET last_committed_batch_id = 'batch-2'")
    query = f"SELECT {since}, age_seconds, unixepoch('now') FROM {view}"
    rows = populated.execute(query).fetchall()
    assert rows
    for time, age, now in rows:
        seconds = time and now - int(datetime.fromisoformat(time).timestamp())
        assert age == seconds


def test_changes_are_those_between_two_kept_contents(populated: sqlite3.Connection) -> None:
    """A value that came, one that went, another type, an empty list; no row where a version in
    between is not kept any more, or is no JSON."""
    contents = {
        1: '{"data": {"same": [1, {"x": null}], "flag": "true", "old": [], "q": "it\'s"}}',
        2: '{"data": {"same": [1, {"x": null}], "flag": true, "new": {}, "q": "it\'s"}}',
    }
    for number, content in contents.items():
        update = "UPDATE store_contents SET content = ? WHERE batch_number = ?"
        populated.execute(update, (content, number))
    query = "SELECT path, before, after FROM store_changes"
    assert populated.execute(query).fetchall() == [
        ("$.flag", '"true"', "true"),
        ("$.new", None, "{}"),
        ("$.old", "[]", None),
    ]
    populated.execute("UPDATE store_contents SET content = 'no JSON' WHERE batch_number = 2")
    assert populated.execute(query).fetchall() == []
    data = "SELECT data FROM current_stores WHERE store = 'a.store'"
    assert populated.execute(data).fetchall() == [(None,)]


def test_no_change_is_told_of_a_batch_that_may_be_another_s(
    populated: sqlite3.Connection,
) -> None:
    """Where a batch in between was dropped from the history, which may have written the store, the
    version before is not known; where all are there, it is."""
    query = "SELECT path, before, after FROM store_changes WHERE batch_id = 'batch-7'"
    populated.execute(INSERT_BATCH, (7, "batch-7", "committed", 7, TIME))
    populated.execute(INSERT_WRITE, (7, "a.store", "receipt-7", "a.json"))
    populated.execute(INSERT_CONTENT, (7, "a.store", '{"data": {"number": 7}}'))
    assert populated.execute(query).fetchall() == []
    populated.execute(INSERT_BATCH, (6, "batch-6", "committed", 6, TIME))
    assert populated.execute(query).fetchall() == [("$.number", "2", "7")]


def test_schema_explains_itself(populated: sqlite3.Connection) -> None:
    """`.schema` of every table, view and trigger has a comment that says what it is for."""
    rows = populated.execute(
        "SELECT type, name, sql FROM sqlite_master"
        " WHERE type IN ('table', 'view', 'trigger') AND name <> 'alembic_version'"
    ).fetchall()
    assert {kind for kind, _, _ in rows} == {"table", "view", "trigger"}
    for _, name, sql in rows:
        assert re.search(r"\n\s*-- [A-Z]", sql), f"{name} has no comment"


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_revision_has_its_fingerprint(revision: str, tmp_path: Path) -> None:
    """A frozen database of each is known by its schema alone, and taken for no other."""
    with plain(unpack(revision, tmp_path) / DATABASE_NAME) as driver:
        found = letters(driver)
    assert [each for each in REVISIONS if fits(found, each)] == [revision]
    assert has_all(found) is (revision == REVISIONS[-1])
