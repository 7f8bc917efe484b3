"""Statements are compiled when they are first run; all of them can be."""

from __future__ import annotations

import pkgutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import import_module

import pytest
from sqlalchemy import bindparam, select

import rtstore.control
from rtstore.control.schema import write_batches
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import Statement


def statements() -> Iterator[tuple[str, Statement]]:
    """Every statement that stands in a module of the database, with its name."""
    for found in pkgutil.iter_modules(rtstore.control.__path__, "rtstore.control."):
        for name, value in vars(import_module(found.name)).items():
            several = value if isinstance(value, dict) else {"": value}
            for key, statement in several.items():
                if isinstance(statement, Statement):
                    yield f"{found.name}.{name}{f'[{key}]' if key else ''}", statement


STATEMENTS = dict(statements())


def test_the_statements_are_found() -> None:
    """The test below is not vacuous."""
    assert len(STATEMENTS) > 50
    assert {name.split(".")[2] for name in STATEMENTS} >= {
        "batches", "contents", "history", "manifest", "recovery_log", "upgrade_log",
    }  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_accepts_every_statement(name: str, database: Database) -> None:
    """One that SQLAlchemy cannot compile, or that the tables have no columns for, would otherwise
    be found by whoever needs it first."""
    sql = STATEMENTS[name].sql
    with closing(sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)) as connection:
        assert connection.execute(f"EXPLAIN {sql}", [None] * sql.count("?")).fetchall()


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_prepares_no_statement_again(name: str, database: Database) -> None:
    """SQLite does so for other values where a value may decide which index it can use; that takes
    longer than running the statement. It asks its authorizer whenever it prepares one."""
    sql = STATEMENTS[name].sql
    asked: list[object] = []

    def allow(*about: object) -> int:
        asked.append(about)
        return sqlite3.SQLITE_OK

    with closing(sqlite3.connect(f"file:{database.path}?mode=ro", uri=True)) as connection:
        connection.set_authorizer(allow)
        connection.execute(f"EXPLAIN {sql}", [1] * sql.count("?")).fetchall()
        assert asked
        asked.clear()
        connection.execute(f"EXPLAIN {sql}", ["other"] * sql.count("?")).fetchall()
    assert not asked


def test_threads_that_compile_a_statement_at_once_agree(database: Database) -> None:
    """Whoever comes first, the text and the order of the values are the same."""
    for _ in range(20):
        statement = Statement(
            select(write_batches.c.batch_number).where(
                write_batches.c.batch_id == bindparam("batch_id"),
                write_batches.c.high_watermark == bindparam("high_watermark"),
            )
        )
        barrier = threading.Barrier(4)

        def run(statement: Statement = statement, barrier: threading.Barrier = barrier) -> object:
            barrier.wait()
            return database.read(
                lambda connection: statement.scalar(connection, high_watermark=1, batch_id="none")
            )

        with ThreadPoolExecutor(4) as pool:
            assert [future.result() for future in [pool.submit(run) for _ in range(4)]] == [
                None
            ] * 4
