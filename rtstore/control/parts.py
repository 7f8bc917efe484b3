"""Compare what a control database is made of with what its revision makes.

That is: tables, columns, indexes, triggers, views, and the three marks that say which revision it
is at.

Somebody with the `sqlite3` shell may drop some, alter some, or add some. What can be made again
from the revisions alone is made again here; rows never are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, Index, create_engine, event, func, select
from sqlalchemy.pool import StaticPool

from rtstore.control import revisions
from rtstore.control.fingerprints import MARKS_TABLE, Letters, fits, has_all, letters
from rtstore.control.schema import APPLICATION_ID, REVISIONS, metadata
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import Statement, driver_of
from rtstore.errors import RuntimeStoreError
from rtstore.forks import no_fork

Result = TypeVar("Result")

_UNIQUE_INDEXES = {
    str(index.name): index
    for table in metadata.tables.values()
    for index in table.indexes
    if index.unique
}
_ONLY_REMEMBERED = frozenset({"database_upgrades", "quarantined_files", "recovery_actions"})
"""Tables that can be made again without their rows: nothing refers to them, and no committed state
is in them."""


# --- parts that were dropped or altered -----------------------------------------------------------


class Spoiled(NamedTuple):
    """What of a database is not as the newest revision makes it: somebody dropped or altered it.
    What somebody added is ignored, a column of a table of ours included."""

    gone: tuple[str, ...] = ()
    """Such as `view run_log` and `column why of table runs`."""
    altered: tuple[str, ...] = ()
    """Such as `trigger runs_stay`; of a table with a column less, only that is named."""
    can_be_made_again: bool = True
    """Whether all of it can be made again from what is there: no row is needed for it, no row
    stands against it, and nothing else has its name."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, what is gone first."""
        return *self.gone, *self.altered

    @property
    def lost_tables(self) -> frozenset[str]:
        """The tables that are gone."""
        parts = [name.partition(" ") for name in self.gone]
        return frozenset(name for kind, _, name in parts if kind == "table")


def spoiled_parts(path: Path) -> Spoiled:
    """Return what somebody dropped or altered of a database at the newest revision."""
    found = _read(path, lambda connection: letters(driver_of(connection)))
    if has_all(found):
        return Spoiled()
    with _in_memory(REVISIONS[-1]) as made:
        wanted, columns = letters(made), _words(made)
    columns_found = _read(path, lambda connection: _words(driver_of(connection)))
    there = {_name_of(part): part for part in found}
    gone = {part for part in wanted if not _is_there(part, there)}
    lost = {part.name for part in gone}
    lacking = {item for item in columns - columns_found if item[2] and item[1] not in lost}
    wider = {name for _, name, column in columns_found - columns if column}
    told = {name for _, name, _ in lacking}
    altered = {
        part
        for part in wanted - gone
        if part.name not in told and not _is_as_made(part, there[_name_of(part)], wider)
    }
    return Spoiled(
        (*sorted(f"{part.kind} {part.name}" for part in gone), *_whole(frozenset(lacking))),
        tuple(sorted(f"{part.kind} {part.name}" for part in altered)),
        not lacking and all(_can_be_made(path, part, there) for part in gone | altered),
    )


def _name_of(part: Letters) -> tuple[bool, str]:
    """Return the name of a part as SQLite knows it: triggers have names of their own."""
    return part.kind == "trigger", part.name.lower()


def _is_there(part: Letters, there: Mapping[tuple[bool, str], Letters]) -> bool:
    found = there.get(_name_of(part))
    return found is not None and found.kind == part.kind


def _is_as_made(wanted: Letters, found: Letters, wider: Container[str]) -> bool:
    """Return whether a part is as the revisions make it. A table that is `wider` has columns more:
    SQLite puts the text of those behind the columns that were there."""
    if found.name not in wider or found[:3] != wanted[:3]:
        return found == wanted
    pairs = zip(wanted.sql, found.sql, strict=False)
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return found.sql[start:].endswith(wanted.sql[start:])


def _can_be_made(path: Path, wanted: Letters, there: Mapping[tuple[bool, str], Letters]) -> bool:
    found = there.get(_name_of(wanted))
    if found is not None and (found.kind != wanted.kind or found.kind == "table"):
        return False
    if wanted.kind == "table":
        return wanted.name in _ONLY_REMEMBERED
    index = _UNIQUE_INDEXES.get(wanted.name)
    if index is None or (False, str(index.table)) not in there:  # then it is for the table to say
        return True
    return _read(path, lambda connection: _is_unique(connection, index))


def _is_unique(connection: Connection, index: Index) -> bool:
    """Return whether the rows allow a unique index."""
    condition = index.dialect_options["sqlite"]["where"]
    several = select(*index.columns).group_by(*index.columns).having(func.count() > 1)
    return Statement(several.where(condition)).first(connection) is None


def dropped_parts(path: Path, revision: str) -> Spoiled:
    """Return what somebody dropped of a database at any revision. What was altered is not looked
    at, and whether rows stand against what is gone shows when it is made again."""
    if _read(path, lambda connection: fits(letters(driver_of(connection)), revision)):
        return Spoiled()
    _, gone = differences(path, revision)
    return Spoiled(gone, can_be_made_again=all(map(_needs_no_row, gone)))


def _needs_no_row(name: str) -> bool:
    kind, _, rest = name.partition(" ")
    return kind in ("index", "trigger", "view") or rest in _ONLY_REMEMBERED


def make_again(connection: Connection, spoiled: Spoiled, revision: str = REVISIONS[-1]) -> None:
    """Make parts again, as the revisions up to one make them, in the caller's transaction."""
    with _in_memory(revision) as made:
        rows = made.execute(
            "SELECT type || ' ' || name, 'DROP ' || type || ' ' || name, sql FROM sqlite_schema "
            "WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
    for part, drop, sql in rows:  # in the order of the revisions: a view may read another one
        if part in spoiled.altered:
            connection.exec_driver_sql(drop)
        if part in spoiled.names:
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
    """What is not as it was of what says which revision a database is at, while all of its parts
    say it."""

    revision: str
    names: tuple[str, ...]
    """Of `application_id`, `user_version`, `table alembic_version` and `row of alembic_version`."""


class _Marks(NamedTuple):
    application_id: int
    number: int
    names: tuple[object, ...] | None
    """The rows of `alembic_version`; None without the table."""
    parts: frozenset[Letters]


def lost_marks(path: Path) -> LostMarks | None:
    """Return the marks that a control database lost, such as by a dump that was read in, or that
    somebody altered; else None.

    Every table, index, trigger and view must be exactly what one revision makes, and at least one
    of the marks must name that revision. Without the application id, what is left of the marks must
    contradict nothing: the database of another program is never taken for one of ours. Rows are not
    looked at.
    """
    try:
        revisions.check_names(path)
        revisions.check_side_files(path)
        marks = _read(path, _marks)
    except RuntimeStoreError:
        return None
    revision = _revision_of(marks)
    if revision is None:
        return None
    lost = (
        ("application_id", marks.application_id == 0),
        ("user_version", marks.number != REVISIONS.index(revision) + 1),
        (f"table {MARKS_TABLE}", marks.names is None),
        (f"row of {MARKS_TABLE}", marks.names not in (None, (revision,))),
    )
    names = tuple(mark for mark, is_lost in lost if is_lost)
    return LostMarks(revision, names) if names else None


def _marks(connection: Connection) -> _Marks:
    driver = driver_of(connection)
    parts, names = letters(driver), None
    if any(part.name == MARKS_TABLE for part in parts):
        names = tuple(row[0] for row in driver.execute("SELECT * FROM alembic_version"))
    (application_id,) = driver.execute("PRAGMA application_id").fetchone()
    (number,) = driver.execute("PRAGMA user_version").fetchone()
    return _Marks(int(application_id), int(number), names, parts)


def _revision_of(marks: _Marks) -> str | None:
    """Return the revision that the parts and a mark agree on, or None."""
    names = marks.names or ()
    by_number = REVISIONS[marks.number - 1 : marks.number] if marks.number > 0 else ()
    named = {*by_number, *names}
    revision = next((each for each in REVISIONS if each in named and fits(marks.parts, each)), None)
    if marks.number > len(REVISIONS) and (names != (revision,) or not marks.application_id):
        return None  # of a newer one, unless all else says another
    if marks.application_id == APPLICATION_ID:
        return revision
    is_clear = marks.names is not None and len(names) <= 1 and named == {revision}
    return revision if marks.application_id == 0 and is_clear and marks.number >= 0 else None


def put_marks_back(connection: Connection, lost: LostMarks) -> None:
    """Write the marks again, in the caller's transaction."""
    number = REVISIONS.index(lost.revision) + 1
    if "application_id" in lost.names:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    if "user_version" in lost.names:
        connection.exec_driver_sql(f"PRAGMA user_version = {number}")
    if f"table {MARKS_TABLE}" in lost.names:
        with _in_memory(lost.revision) as made:
            query = "SELECT sql FROM sqlite_schema WHERE name = 'alembic_version'"
            (sql,) = made.execute(query).fetchone()
        connection.exec_driver_sql(sql)
    if {f"table {MARKS_TABLE}", f"row of {MARKS_TABLE}"} & set(lost.names):
        connection.exec_driver_sql("DELETE FROM alembic_version")
        connection.exec_driver_sql(
            "INSERT INTO alembic_version (version_num) VALUES (?)", (lost.revision,)
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


def _read(path: Path, query: Callable[[Connection], Result]) -> Result:
    database = Database(path, read_only=True)
    try:
        return database.read(query)
    finally:
        database.close()
