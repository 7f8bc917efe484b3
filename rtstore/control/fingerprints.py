"""Know the revision of a control database by its schema alone.

The marks that say which revision a database is at can be edited or lost; its tables, columns,
indexes, triggers and views still show it.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from rtstore.control.schema import PARTS, REVISIONS

FINGERPRINTS: dict[str, str] = {
    "0001_control_database": "3bec84d8b2e4664fd78c4b87098c9398bf19c85cc04fc05b1254de23611fb350",
    "0002_history_and_upgrades": "1d31c05e22f4c389cd7b351030ef3b3de314fca4b5fec78f3780dd20e8fe5e75",
    "0003_remembered_retention": "e9532a2a9ac10526c3d683214e4fa4cab52003ac83feb319dffe8a9f19367fbd",
    "0004_file_identity": "c5ba09f46886b945456c3ab24c5bc6bed2bdb51dfa12510875870d8e2dcd041a",
    "0005_runs": "196ae53cc085eea50ff4c077bb73de0372950d048c6b51559a0fb49f87cd8ef2",
    "0006_open_words": "7cc508d88483ad91d3926a8a6e3a3fbad43733bad10ff8011b6532c54daf5f68",
    "0007_fast_views": "71830b3bed4b76765ca212b947865f0e9329afe2d738147cd31a210d9a240c57",
    "0008_deletions": "86416f680c631f12aa52c9f2abda22c30aa095ee60252a5c71cead613f92b82a",
}
"""What each revision makes, as `fingerprint` returns it. A revision that has shipped never changes,
so neither does its fingerprint."""

MARKS_TABLE = "alembic_version"
"""The table that says which revision a database is at; no fingerprint counts it."""

_COMMENT = re.compile(r"--[^\n]*")


class Letters(NamedTuple):
    """A part of a schema: a table, an index, a trigger or a view."""

    kind: str
    name: str
    table: str
    sql: str
    """Its SQL without comments, spaces and quotes: versions of SQLite, and its shell, differ in the
    quotes of a renamed table."""


def letters(driver: sqlite3.Connection) -> frozenset[Letters]:
    """Return all parts of a schema."""
    rows = driver.execute(
        "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema "
        "WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return frozenset(
        Letters(kind, name, table, "".join(_COMMENT.sub("", sql).replace('"', "").split()))
        for kind, name, table, sql in rows
    )


def fingerprint(parts: Iterable[Letters]) -> str:
    """Return the hash of parts of a schema, but for the table of the marks."""
    counted = sorted(part for part in parts if part.name != MARKS_TABLE)
    return hashlib.sha256(repr([tuple(part) for part in counted]).encode()).hexdigest()


def fits(found: Iterable[Letters], revision: str) -> bool:
    """Return whether a schema is exactly what a revision makes, with nothing more."""
    return fingerprint(found) == FINGERPRINTS[revision]


def has_all(found: Iterable[Letters]) -> bool:
    """Return whether a schema has everything that the newest revision makes, each part as that
    makes it. What somebody added is not looked at."""
    known = frozenset(part for part in found if (part.kind, part.name) in PARTS)
    return fits(known, REVISIONS[-1]) and any(part.name == MARKS_TABLE for part in known)
