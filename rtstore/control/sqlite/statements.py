"""Statements of SQLAlchemy Core, compiled once and run by the driver.

Compiling and running each statement through Core costs several times what SQLite needs for it, and
a batch runs about twenty. So a statement is built from the tables once, when its module is loaded,
and compiled once, when it is first run; what is run is its SQL text with bound values.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

Row = dict[str, Any]
_Getter = Callable[[Mapping[str, object]], Sequence[object]]

_DIALECT = sqlite.dialect(paramstyle="qmark")


class Statement:
    """One statement: its SQL and the order of its bound values.

    A value that the statement leaves open is a `bindparam`; inserts leave every column open. Values
    are given by name.
    """

    __slots__ = ("_compiled", "_statement")

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: tuple[str, _Getter, Mapping[str, Any]] | None = None

    @property
    def sql(self) -> str:
        """Its text, with a `?` for each bound value."""
        return self._parts()[0]

    def all(self, connection: Connection, **values: object) -> list[Row]:
        """Every row, by column name."""
        cursor = self.run(connection, **values)
        try:
            rows = cursor.fetchall()
        except BaseException:
            # The traceback keeps the cursor, and with it a connection that is closed, open.
            cursor.close()
            raise
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def first(self, connection: Connection, **values: object) -> Row | None:
        """The first row, or None."""
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
        """The first column of the first row, or None."""
        row = self.run(connection, **values).fetchone()
        return None if row is None else row[0]

    def run(self, connection: Connection, **values: object) -> sqlite3.Cursor:
        """Run it; `rowcount` and `lastrowid` of the cursor say what it did."""
        sql, bound, defaults = self._parts()
        return driver_of(connection).execute(sql, bound({**defaults, **values}))

    def run_many(
        self, connection: Connection, rows: Iterable[Mapping[str, object]]
    ) -> sqlite3.Cursor:
        """Run it once for each row of values; `rowcount` is what it did for all of them."""
        sql, bound, defaults = self._parts()
        return driver_of(connection).executemany(sql, [bound({**defaults, **row}) for row in rows])

    def _parts(self) -> tuple[str, _Getter, Mapping[str, Any]]:
        """The text, what puts the bound values into their order, and the values that stand in the
        statement itself: None for those that it leaves open.

        Two threads may compile a statement at once, and get the same: a lock here would stay taken
        in a child that is forked meanwhile.
        """
        parts = self._compiled
        if parts is None:
            compiled = self._statement.compile(dialect=_DIALECT)
            bound = _getter(compiled.positiontup or ())  # type: ignore[attr-defined]
            parts = self._compiled = str(compiled), bound, compiled.params
        return parts


def _getter(names: Sequence[str]) -> _Getter:
    """Gives the values of those names, in their order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection under one of SQLAlchemy."""
    driver = connection.connection.dbapi_connection  # pysqlite has nothing in between
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - the engine has no other driver
    return driver
