"""Read the actual pragmas of a database file, and the version of SQLite."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Connection

from rtstore.control.sqlite import idle
from rtstore.control.sqlite.statements import database_of, driver_of
from rtstore.foreign import suppress_system_error

_HEADER_BYTES = 100


def engine_version() -> tuple[int, int, int]:
    """Return the version of SQLite that this Python uses."""
    major, minor, patch = sqlite3.sqlite_version_info[:3]
    return major, minor, patch


def settings(connection: Connection) -> dict[str, str | int | None]:
    """Return the settings of the file by the names of the pragmas; None for one not read."""
    driver = driver_of(connection)
    return {
        "journal_mode": _journal_mode(connection),
        "page_size": _one(driver.execute("PRAGMA page_size")),
        "page_count": _one(driver.execute("PRAGMA page_count")),
        "freelist_count": _one(driver.execute("PRAGMA freelist_count")),
        "auto_vacuum": _one(driver.execute("PRAGMA auto_vacuum")),
        "encoding": _one(driver.execute("PRAGMA encoding")),
    }


def _journal_mode(connection: Connection) -> str | int | None:
    mode = _one(driver_of(connection).execute("PRAGMA journal_mode"))
    if mode == "wal" or not idle.knows_what_is_open():
        return mode if mode == "wal" else None
    # An idle database is read as an immutable file, for which SQLite always answers `delete`.
    with suppress_system_error():
        header = next(idle.pieces(database_of(connection), _HEADER_BYTES), b"")
        # Bytes 18 and 19: 2 for WAL (sqlite.org/fileformat2.html, 1.3.3).
        return "wal" if header[18:20] == b"\x02\x02" else mode
    return None


def _one(cursor: sqlite3.Cursor) -> str | int:
    value: str | int = cursor.fetchone()[0]
    return value
