"""A control database: its path, opened, and with rows in every table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore.control.sqlite.engine import Database
from tests.control.build import copied, plain, populate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A control database in a directory of its own."""
    return copied(tmp_path / "runtime")


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """The control database, opened."""
    opened = Database(path)
    yield opened
    opened.close()


@pytest.fixture
def populated(path: Path) -> Iterator[sqlite3.Connection]:
    """The same with rows in every table, as another program sees it."""
    with plain(path) as connection:
        populate(connection)
        yield connection
