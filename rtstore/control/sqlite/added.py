"""Find what somebody added to the schema of a control database that may refuse or change what is
written to its tables."""

from __future__ import annotations

import re
import sqlite3
from typing import NamedTuple

from rtstore.control.schema import PARTS

_TABLES = frozenset(name for kind, name in PARTS if kind == "table")
_UNIQUE = re.compile(r"\s*CREATE\s+UNIQUE\b", re.IGNORECASE)


class AddedPart(NamedTuple):
    """A trigger, a unique index, or a table whose rows refer to those of ours."""

    kind: str
    name: str

    @property
    def words(self) -> str:
        """What it is, in words."""
        return f"{self.kind} {self.name}"

    @property
    def statement(self) -> str:
        """The SQL that removes it."""
        quoted = self.name.replace('"', '""')
        return f'DROP {self.kind.upper()} "{quoted}"'


def added_parts(driver: sqlite3.Connection) -> tuple[AddedPart, ...]:
    """Return what is not of the newest revision and bears on a table of ours."""
    rows = driver.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema "
        "WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY type = 'table', name"
    ).fetchall()
    referring = {
        name
        for name, table in driver.execute(
            'SELECT part.name, referred."table" FROM sqlite_schema AS part '
            "JOIN pragma_foreign_key_list(part.name) AS referred WHERE part.type = 'table'"
        )
        if str(table).lower() in _TABLES
    }
    return tuple(
        AddedPart(kind, name)
        for kind, name, table, sql in rows
        if (kind, name) not in PARTS
        and (
            name in referring
            if kind == "table"
            else table.lower() in _TABLES
            and (kind == "trigger" or (kind == "index" and _UNIQUE.match(sql) is not None))
        )
    )
