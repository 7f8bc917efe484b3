"""Hold the rows against the CHECK constraints of their tables.

`PRAGMA integrity_check` does that only where the database could be written: SQLite leaves the
constraints of one that it opened read-only out of the schema. An upgrade, which writes, would stop
at a row that no look had found.
"""

from __future__ import annotations

import re
from functools import cache

from sqlalchemy import CheckConstraint, Connection, func, literal_column, or_, select

from rtstore.control.schema import metadata
from rtstore.control.sqlite.statements import Statement, driver_of


def failed_check(connection: Connection) -> str | None:
    """Return a table with a row that breaks one of its constraints, in words, or None. The
    constraints are those of the newest revision, as far as an older one has the columns: an
    upgrade holds the rows to them."""
    there = _columns(connection)
    for name in metadata.tables:
        statement = _breaking(name, there[name]) if name in there else None
        if statement is not None and statement.first(connection) is not None:
            return f"a row of {name} breaks a CHECK constraint: a value was altered"
    return None


def _columns(connection: Connection) -> dict[str, frozenset[str]]:
    rows = driver_of(connection).execute(
        "SELECT part.name, piece.name FROM sqlite_schema AS part "
        "JOIN pragma_table_info(part.name) AS piece WHERE part.type = 'table'"
    )
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    return {table: frozenset(names) for table, names in found.items()}


@cache
def _breaking(table_name: str, there: frozenset[str]) -> Statement | None:
    """Return the statement that finds a row of a table which breaks a constraint of the columns
    that are there; None where there is no constraint."""
    table = metadata.tables[table_name]
    checks = [item.sqltext for item in table.constraints if isinstance(item, CheckConstraint)]
    names = set(table.columns.keys())
    known = [text for text in checks if names & set(re.findall(r"\w+", str(text))) <= there]
    if not known:
        return None
    broken = or_(*(func.coalesce(text, 1) == 0 for text in known))  # what is NULL breaks none
    return Statement(select(literal_column("1")).select_from(table).where(broken).limit(1))
