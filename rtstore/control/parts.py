"""Compare what a control database is made of with what its revision makes.

That is: tables, columns, indexes, triggers, views, and the three marks that say which revision it
is at.

Somebody with the `sqlite3` shell may drop some, or add some. What can be made again from the
revisions alone is made again here; rows never are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from rtstore.control import revisions
from rtstore.control.schema import APPLICATION_ID, PARTS, REVISIONS, metadata
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import driver_of
from rtstore.errors import RuntimeStoreError
from rtstore.forks import no_fork

Result = TypeVar("Result")

_UNIQUE_INDEXES = frozenset(
    str(index.name) for table in metadata.tables.values() for index in table.indexes if index.unique
)


# --- parts that were dropped ----------------------------------------------------------------------


def missing_parts(path: Path) -> list[str]:
    """Return the tables, indexes, triggers and views that a database at the newest revision lacks:
    somebody dropped them. Added ones are ignored."""
    return sorted(f"{kind} {name}" for kind, name in PARTS - _read(path, _parts))


def can_be_put_back(path: Path, missing: Iterable[str]) -> bool:
    """Return whether parts that `missing_parts` names can be made again from what is there: no
    table, nothing that rows must agree with, and nothing whose name something else has."""
    parts = [tuple(part.split(" ", 1)) for part in missing]
    taken = {name for _, name in _read(path, _parts)}
    return all(
        kind != "table" and name not in taken and name not in _UNIQUE_INDEXES
        for kind, name in parts
    )


def put_back(connection: Connection, missing: Iterable[str]) -> None:
    """Make indexes, triggers and views again, as the revisions make them, in the caller's
    transaction."""
    with _in_memory(REVISIONS[-1]) as made:
        rows = made.execute(
            "SELECT type || ' ' || name, sql FROM sqlite_schema "
            "WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    wanted = set(missing)
    for part, sql in rows:  # in the order of the revisions: a view may read another one
        if part in wanted:
            connection.exec_driver_sql(sql)


# --- what was added, or is gone, at any revision --------------------------------------------------


def differences(path: Path, revision: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a database has beside what its revision makes, and what it lacks of that: tables,
    columns, indexes, triggers and views, such as `column note of table runs`."""
    with _in_memory(revision) as made:
        wanted = _words(made)
    found = _read(path, lambda connection: _words(driver_of(connection)))
    return _whole(found - wanted), _whole(wanted - found)


def _words(driver: sqlite3.Connection) -> frozenset[tuple[str, str, str | None]]:
    rows = driver.execute(
        "SELECT part.type, part.name, NULL FROM sqlite_schema AS part "
        "WHERE part.name NOT LIKE 'sqlite!_%' ESCAPE '!' "
        "UNION ALL SELECT part.type, part.name, piece.name "
        "FROM sqlite_schema AS part JOIN pragma_table_xinfo(part.name) AS piece "
        "WHERE part.type = 'table' AND part.name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return frozenset((kind, name, column) for kind, name, column in rows)


def _whole(parts: frozenset[tuple[str, str, str | None]]) -> tuple[str, ...]:
    """Return parts in words; of a whole table, not its columns."""
    tables = {name for kind, name, column in parts if column is None and kind == "table"}
    return tuple(
        f"{kind} {name}" if column is None else f"column {column} of table {name}"
        for kind, name, column in sorted(parts, key=str)
        if column is None or name not in tables
    )


# --- the marks ------------------------------------------------------------------------------------


class LostMarks(NamedTuple):
    """What a database lacks that says which revision it is, while all of its parts say it."""

    revision: str
    names: tuple[str, ...]
    """Of `application_id`, `user_version` and `row of alembic_version`."""


def lost_marks(path: Path) -> LostMarks | None:
    """Return the marks that a control database lost, such as by a dump that was read in; else None.

    What is left of the marks must name one revision, and contradict nothing. Every table, index,
    trigger and view must be what that revision makes, to the letter, and there must be no other:
    the database of another program is never taken for one of ours. Rows are not looked at.
    """
    try:
        revisions.check_names(path)
        revisions.check_side_files(path)
        application_id, number, rows, name = _read(path, revisions.marks)
        if application_id not in (0, APPLICATION_ID) or rows > 1 or number > len(REVISIONS):
            return None
        if name is None and number > 0:
            name = REVISIONS[number - 1]
        if name not in REVISIONS or number not in (0, REVISIONS.index(name) + 1):
            return None
        if _read(path, lambda connection: _letters(driver_of(connection))) != _letters_of(name):
            return None
    except RuntimeStoreError:
        return None
    lost = (
        ("application_id", application_id == 0),
        ("user_version", number == 0),
        ("row of alembic_version", rows == 0),
    )
    names = tuple(mark for mark, is_lost in lost if is_lost)
    return LostMarks(name, names) if names else None


def put_marks_back(connection: Connection, lost: LostMarks) -> None:
    """Write the marks again, in the caller's transaction."""
    number = REVISIONS.index(lost.revision) + 1
    if "application_id" in lost.names:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    if "user_version" in lost.names:
        connection.exec_driver_sql(f"PRAGMA user_version = {number}")
    if "row of alembic_version" in lost.names:
        connection.exec_driver_sql(
            "INSERT INTO alembic_version (version_num) VALUES (?)", (lost.revision,)
        )


def _letters_of(revision: str) -> frozenset[tuple[str, ...]]:
    with _in_memory(revision) as made:
        return _letters(made)


def _letters(driver: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    """Return the SQL of all parts, but for spaces and quotes: versions of SQLite, and its shell,
    differ in those of a renamed table."""
    rows = driver.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema "
        "WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return frozenset(
        (kind, name, table, "".join(sql.replace('"', "").split()))
        for kind, name, table, sql in rows
    )


# --- both -----------------------------------------------------------------------------------------


@contextmanager
def _in_memory(revision: str) -> Iterator[sqlite3.Connection]:
    """Open a database in memory in which all revisions up to one were run."""
    with no_fork(), closing(sqlite3.connect(":memory:", isolation_level=None)) as driver:
        engine = create_engine("sqlite+pysqlite://", creator=lambda: driver, poolclass=StaticPool)
        event.listen(engine, "begin", revisions.begin_immediate)
        with engine.begin() as connection:
            revisions.run_revisions(connection, revision)
        yield driver


def _parts(connection: Connection) -> frozenset[tuple[str, str]]:
    rows = connection.exec_driver_sql(
        "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return frozenset((kind, name) for kind, name in rows)


def _read(path: Path, query: Callable[[Connection], Result]) -> Result:
    database = Database(path, read_only=True)
    try:
        return database.read(query)
    finally:
        database.close()
