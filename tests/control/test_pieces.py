"""Bytes of a database that this process has open are read without dropping SQLite's locks."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rtstore.control.sqlite import idle

_TRY = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0).execute("SELECT * FROM sqlite_master").fetchall()
except sqlite3.OperationalError as error:
    print(error)
"""


def refusal(path: Path) -> str:
    """What another process hears that reads the database."""
    command = [sys.executable, "-c", _TRY, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("error", [None, errno.EIO])
def test_an_open_database_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    """Its bytes are read, or the medium refuses them: a transaction of this process goes on either
    way, and no other process gets in."""
    path = tmp_path / "database.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE numbers (number)")
        connection.execute("BEGIN EXCLUSIVE")
        assert refusal(path) == "database is locked"
        if error is None:
            assert b"".join(idle.pieces(path, 1_000)).startswith(b"SQLite format 3")
        else:
            refuse = OSError(error, os.strerror(error))

            def pread(*_: object) -> bytes:
                raise refuse

            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", pread)
                with pytest.raises(OSError, match=os.strerror(error)):
                    list(idle.pieces(path, 1_000))
        assert refusal(path) == "database is locked"
