"""Every column of every row, altered in a shell to something else that the database allows: the
advice ends, and nobody calls sound what another calls damaged."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rtstore import DATABASE_NAME, DELETED, Descriptor, RunIdentity, RuntimeStore
from rtstore.cli.demo.writer import TEAM
from rtstore.control.schema import metadata
from tests.cli.commands import run
from tests.cli.walks import walk
from tests.support import CHECKPOINT, breadth

STORES = [
    Descriptor("a.small"),
    Descriptor("b.rebuilt", criticality="rebuildable_from_provider"),
    Descriptor("c.diagnostic", criticality="diagnostic_only"),
    Descriptor("d.deleted", criticality="diagnostic_only"),
    Descriptor("e.below", relative_path="below/e.json"),
]


class Change(NamedTuple):
    """One value of one row, and what it becomes."""

    table: str
    column: str
    key: dict[str, Any]
    value: object


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two runs, a deletion, a recovery and a quarantined file, ready."""
    directory = tmp_path_factory.mktemp("columns") / "t"
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=STORES) as store:

        def put(run_id: str, **data: object) -> None:
            identity = RunIdentity(run_id=run_id, capability_snapshot_id="c")
            writes = {name.replace("_", "."): value for name, value in data.items()}
            store.write_batch(identity=identity, reason=CHECKPOINT, writes=writes)

        put("run-1", a_small=0, b_rebuilt=0, c_diagnostic=0, d_deleted=0, e_below=0)
        (directory / "a.small.json").write_text('{"schemaVersion": 1, "data": "an edit"}')
        store.recover(store.plan_recovery())
        put("run-2", a_small=1, b_rebuilt=1, c_diagnostic=1, d_deleted=DELETED)
        put("run-2", e_below=2)
    assert run("status", directory).code == 0
    return directory


def _others(kind: str, found: object, column: list[object], allowed: list[str]) -> Iterator[object]:
    """Yield what a value may become: another row's, another allowed one, a near one, nothing."""
    yield from column
    yield from allowed
    if kind == "TEXT":
        text = str(found or "x")
        yield from (f"{text[:-1]}{'1' if text[-1] == '0' else '0'}", f"{text}x", "2" + text[1:])
    else:
        number = int(str(found or 0).partition(".")[0])
        yield from (number + 1, number - 1, 0, 12345)
    yield None


def _changes(path: Path, table: str) -> list[Change]:
    with closing(sqlite3.connect(path)) as raw:
        query = "SELECT sql FROM sqlite_schema WHERE name = ?"
        (sql,) = raw.execute(query, (table,)).fetchone()
        columns = raw.execute(f"PRAGMA table_info({table})").fetchall()
        rows = raw.execute(f"SELECT * FROM {table}").fetchall()
    found = []
    for row in rows:
        key = {item[1]: row[item[0]] for item in columns if item[5]}
        for number, name, kind, *_ in columns:
            allowed = re.findall(rf"\b{name} IN \(([^)]*)\)", sql)
            words = [word for each in allowed for word in re.findall(r"'([^']*)'", each)]
            others = _others(kind, row[number], [each[number] for each in rows], words)
            found += [
                Change(table, name, key, value)
                for value in dict.fromkeys(others)
                if value != row[number]
            ]
    return found


def _alter(path: Path, change: Change) -> bool:
    """Alter a value as a shell does, which holds no foreign keys; say whether that was allowed."""
    where = " AND ".join(f"{name} IS ?" for name in change.key)
    statement = f"UPDATE {change.table} SET {change.column} = ? WHERE {where}"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw, suppress(sqlite3.Error):
        return raw.execute(statement, (change.value, *change.key.values())).rowcount == 1
    return False


@pytest.mark.thorough
@pytest.mark.parametrize("choice", [0, -1], ids=["the first", "the last"])
@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_the_advice_ends(template: Path, tmp_path: Path, table: str, choice: int) -> None:
    """What status refuses as damaged is red to the doctor, and what both advise comes to an end."""
    every = _changes(template / DATABASE_NAME, table)
    drawn = random.Random(breadth.seed()).sample(every, min(len(every), breadth.drawn(80)))
    for number, change in enumerate(drawn):
        directory = Path(shutil.copytree(template, tmp_path / str(number)))
        if not _alter(directory / DATABASE_NAME, change):
            continue
        status, doctor = run("status", directory), run("doctor", directory)
        assert status.code in (0, 1, 5), (change, status)
        if status.code == 5:
            assert doctor.code == 1, (change, status)
        try:
            walk(directory, choose=lambda ways: ways[choice])
        except AssertionError as error:
            raise AssertionError(f"{change}: {error}") from error
