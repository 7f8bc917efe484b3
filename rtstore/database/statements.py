"""Statements of SQLAlchemy Core, compiled once and run by the driver.

Compiling and running each statement through Core costs several times what SQLite needs for it, and
a batch runs about twenty. So a statement is built from the tables once, when its module is loaded;
what is run is its SQL text with bound values.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

Row = dict[str, Any]

_DIALECT = sqlite.dialect(paramstyle="qmark")


class Statement:
    """One statement: its SQL and the order of its bound values.

    A value that the statement leaves open is a `bindparam`; inserts leave every column open. Values
    are given by name.
    """

    __slots__ = ("_defaults", "_names", "sql")

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()  # type: ignore[attr-defined]
        # Values that stand in the statement itself; None for those that it leaves open.
        self._defaults: Mapping[str, Any] = compiled.params

    def all(self, connection: Connection, **values: object) -> list[Row]:
        """Every row, by column name."""
        cursor = driver_of(connection).execute(self.sql, self._bound(values))
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
        cursor = driver_of(connection).execute(self.sql, self._bound(values))
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
        row = driver_of(connection).execute(self.sql, self._bound(values)).fetchone()
        return None if row is None else row[0]

    def run(self, connection: Connection, **values: object) -> sqlite3.Cursor:
        """Run it; `rowcount` and `lastrowid` of the cursor say what it did."""
        return driver_of(connection).execute(self.sql, self._bound(values))

    def run_many(
        self, connection: Connection, rows: Iterable[Mapping[str, object]]
    ) -> sqlite3.Cursor:
        """Run it once for each row of values; `rowcount` is what it did for all of them."""
        return driver_of(connection).executemany(self.sql, [self._bound(row) for row in rows])

    def _bound(self, values: Mapping[str, object]) -> list[object]:
        defaults = self._defaults
        return [values[name] if name in values else defaults[name] for name in self._names]


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection under one of SQLAlchemy."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - the engine has no other driver
    return driver
