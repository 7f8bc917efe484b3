"""Read the actual pragmas of a database file, and the version of SQLite."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Connection

from rtstore.control.sqlite.statements import driver_of

_LOOKED_AT_WHOLE = 64 << 20
"""In bytes. The journal mode of a database at rest is only in its first page, for which SQLite has
no statement; up to this size, the whole image is read."""


def engine_version() -> tuple[int, int, int]:
    """Return the version of SQLite that this Python uses."""
    major, minor, patch = sqlite3.sqlite_version_info[:3]
    return major, minor, patch


def settings(connection: Connection) -> dict[str, str | int | None]:
    """Return the settings of the file by the names of the pragmas; None for one not read."""
    driver = driver_of(connection)
    return {
        "journal_mode": _journal_mode(driver),
        "page_size": _one(driver.execute("PRAGMA page_size")),
        "page_count": _one(driver.execute("PRAGMA page_count")),
        "freelist_count": _one(driver.execute("PRAGMA freelist_count")),
        "auto_vacuum": _one(driver.execute("PRAGMA auto_vacuum")),
        "encoding": _one(driver.execute("PRAGMA encoding")),
    }


def _journal_mode(driver: sqlite3.Connection) -> str | None:
    mode = _one(driver.execute("PRAGMA journal_mode"))
    if mode == "wal":
        return "wal"
    # An idle database is read as an immutable file, for which SQLite always answers `delete`.
    pages = int(_one(driver.execute("PRAGMA page_count")))
    if pages * int(_one(driver.execute("PRAGMA page_size"))) > _LOOKED_AT_WHOLE:
        return None
    # Bytes 18 and 19 of the header: 2 for WAL (sqlite.org/fileformat2.html, 1.3.3).
    return "wal" if driver.serialize()[18:20] == b"\x02\x02" else str(mode)


def _one(cursor: sqlite3.Cursor) -> str | int:
    value: str | int = cursor.fetchone()[0]
    return value
