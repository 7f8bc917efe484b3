"""Statements of SQLAlchemy Core, compiled once and run by the driver.

Compiling and running a statement through Core costs several times what SQLite needs for it, and a
batch runs about twenty. So a statement is built from the tables once, when its module is imported,
and compiled once, when it is first run. The driver runs its SQL text with bound values.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, bindparam
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.sql import ClauseElement

from rtstore.control.sqlite.added import added_parts
from rtstore.errors import CorruptDatabaseError, RuntimeStoreError, StatementRefusedError

Row = dict[str, Any]
_Getter = Callable[[Mapping[str, object]], Sequence[Any]]


class _Compiler(SQLiteCompiler):
    """Writes the constants of a statement into its text, and binds what is open.

    A condition such as `state = ?` may decide whether SQLite can use a partial index, so it
    prepares such a statement again each time that the value is bound, which costs up to ten times
    what running it does (sqlite.org/c3ref/prepare.html).
    """

    def visit_bindparam(self, bindparam: Any, *args: Any, **options: Any) -> Any:
        """Return a constant as a literal, and an open value as a `?`."""
        options["literal_binds"] = not bindparam.required
        return super().visit_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]


_DIALECT = sqlite.dialect(paramstyle="qmark")
_DIALECT.statement_compiler = _Compiler


def open_limit(name: str) -> ColumnElement[int]:
    """Return an open value for the LIMIT of a statement. Newer versions of SQLite plan for the
    number itself, so they prepare the statement again for each one; they do not look into a sum."""
    return bindparam(name, type_=Integer) + 0


class Statement:
    """One statement: its SQL and the order of its bound values.

    An open value of the statement is a `bindparam`; in an insert every column is open. Values are
    passed by name; one that is not passed is NULL. The constants of the statement are in its text.
    """

    __slots__ = ("_compiled", "_statement")

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: tuple[str, _Getter] | None = None

    @property
    def sql(self) -> str:
        """The SQL text, with a `?` for each bound value."""
        return self._parts()[0]

    def all(self, connection: Connection, **values: object) -> list[Row]:
        """Run it. Return every row, by column name."""
        cursor = self.run(connection, **values)
        try:
            rows = cursor.fetchall()
        except BaseException:
            # The traceback holds the cursor, which would keep a closed connection open.
            cursor.close()
            raise
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def first(self, connection: Connection, **values: object) -> Row | None:
        """Run it. Return the first row by column name, or None."""
        cursor = self.run(connection, **values)
        try:
            row = cursor.fetchone()
        except BaseException:
            cursor.close()
            raise
        if row is None:
            return None
        return dict(zip([column[0] for column in cursor.description], row, strict=True))

    def scalar(self, connection: Connection, **values: object) -> Any:
        """Run it. Return the first column of the first row, or None."""
        row = self.run(connection, **values).fetchone()
        return None if row is None else row[0]

    def run(self, connection: Connection, **values: object) -> sqlite3.Cursor:
        """Run it. Return the cursor; its `rowcount` and `lastrowid` report the effect."""
        sql, bound = self._compiled or self._parts()
        return driver_of(connection).execute(sql, bound(values))

    def run_many(
        self, connection: Connection, rows: Iterable[Mapping[str, object]]
    ) -> sqlite3.Cursor:
        """Run it once for each row of values. Return the cursor; its `rowcount` counts all runs."""
        sql, bound = self._compiled or self._parts()
        return driver_of(connection).executemany(sql, list(map(bound, rows)))

    def write(self, connection: Connection, *rows: Mapping[str, object]) -> None:
        """Run it once for each row of values; each run writes one row.

        Raises as `swallowed` where one did not: roll back the transaction.
        """
        if rows and self.run_many(connection, rows).rowcount != len(rows):
            raise swallowed(connection, " ".join(self.sql.split()[:3]))

    def _parts(self) -> tuple[str, _Getter]:
        """Return the text, and a function that puts the values for it in order.

        Two threads may compile a statement at once, with the same result. A lock here would stay
        taken in a child that is forked meanwhile.
        """
        parts = self._compiled
        if parts is None:
            compiled = self._statement.compile(dialect=_DIALECT)
            bound = _getter(compiled.positiontup or ())  # type: ignore[attr-defined]
            parts = self._compiled = str(compiled), bound
        return parts


def _getter(names: Sequence[str]) -> _Getter:
    """Return a function that returns the values of those names, in their order. A value that is not
    passed is None."""
    if not names:
        return lambda _: ()
    if len(names) == 1:
        name = names[0]
        return lambda values: (values.get(name),)
    in_order, nothing = itemgetter(*names), dict.fromkeys(names)

    def bound(values: Mapping[str, object]) -> Sequence[Any]:
        try:
            found: Sequence[Any] = in_order(values)
        except KeyError:
            found = in_order({**nothing, **values})
        return found

    return bound


def swallowed(connection: Connection, statement: str) -> RuntimeStoreError:
    """Return the error for a statement that changed no row where it had to. Somebody's own trigger
    does that (RAISE(IGNORE)), and is named; without any the database is damaged."""
    path = database_of(connection)
    added = tuple(
        part.words for part in added_parts(driver_of(connection)) if part.kind == "trigger"
    )
    if added:
        return StatementRefusedError(
            path, f"{statement} changed nothing, and said so nowhere", added
        )
    return CorruptDatabaseError(path, f"{statement} changed nothing")


def database_of(connection: Connection) -> Path:
    """Return the path of the database, for a message."""
    row = driver_of(connection).execute(_DATABASE).fetchone()
    return Path(os.fsdecode(row[0]))


_DATABASE = "SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"


def driver_of(connection: Connection) -> sqlite3.Connection:
    """Return the driver's connection under one of SQLAlchemy."""
    # pysqlite has nothing in between, and the engine has no other driver.
    return connection.connection.dbapi_connection  # type: ignore[return-value]
