"""The questions of the documents, asked by other programs: the sqlite3 shell and Datasette.

What the shell prints is compared with them in `test_readme`; here each line is run by the
program and by Python's own module, and the rows must be the same.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, DELETED
from tests.support import (
    CHECKOUT,
    LEASES,
    NOON,
    new_directory,
    open_store,
    picture,
    readme,
    write,
)

DATASETTE = """
import asyncio, json, sys
from datasette.app import Datasette

async def ask():
    asked = json.load(sys.stdin)
    of_each = {file: Datasette([file]) for file, _ in asked}
    answers = []
    for file, sql in asked:
        datasette, path = of_each[file], "/runtime-store.json"
        response = await datasette.client.get(path, params={"sql": sql, "_shape": "objects"})
        answers.append([response.status_code, response.json()])
    return answers

print(json.dumps(asyncio.run(ask())))
"""


PAGE = CHECKOUT / "rtstore" / "guide" / "sqlite3.md"
DOCUMENTS = (readme.README, PAGE)


@cache
def questions() -> tuple[tuple[str, str], ...]:
    """Every line that is put to the sqlite3 program: its database, and the query."""
    steps = [step for document in DOCUMENTS for step in readme.steps(document)]
    lines = [shlex.split(step.source) for step in steps if step.source.startswith("sqlite3 ")]
    return tuple(dict.fromkeys((line[-2], line[-1]) for line in lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demonstrated: Path) -> Path:
    """A folder after the commands of the page up to the last question."""
    folder = tmp_path_factory.mktemp("questions")
    readme.begin(PAGE, folder, demonstrated)
    for step in readme.steps(PAGE):
        if step.source.startswith("cp -r"):
            readme.run(step, folder)
    return folder


def by_python(path: Path, query: str) -> list[dict[str, Any]]:
    """The rows by Python's own module."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def by_datasette(asked: Sequence[tuple[str, str]]) -> list[tuple[int, dict[str, Any]]]:
    """What Datasette answers to each query to a database: the status, and the document."""
    done = subprocess.run(
        [sys.executable, "-c", DATASETTE],
        input=json.dumps(asked),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(status, document) for status, document in json.loads(done.stdout)]


def same(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> None:
    """The same rows, but for ages, which go on."""
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left.keys() - {"age_seconds"}:
            assert left[name] == right[name]
        if "age_seconds" in left:
            assert abs(int(left["age_seconds"]) - int(right["age_seconds"])) < 60


def test_every_view_is_asked() -> None:
    """There is a question to each view."""
    asked = " ".join(query for _, query in questions())
    text = PAGE.read_text(encoding="utf-8")
    views = {
        "batch_log", "current_state", "current_stores", "open_problems", "recovery_log", "run_log",
        "store_changes", "store_deletions", "store_history", "store_sizes", "write_receipts",
    }  # fmt: skip
    assert {view for view in views if f"FROM {view}" in asked} >= views - {
        "batch_log",
        "write_receipts",
    }
    assert "FROM batch_log" in text
    assert "FROM store_deletions" in text
    assert "FROM write_receipts" in text


def test_what_a_store_held_at_some_time(tmp_path: Path) -> None:
    """The question of the page is right before a store was there, and about a deletion."""
    (query,) = [query for _, query in questions() if "FROM store_deletions" in query]
    hours = count()
    store = open_store(new_directory(tmp_path), clock=lambda: NOON + timedelta(hours=next(hours)))
    with store:
        for number in (1, 2):
            write(store, LEASES, {"n": number})
            write(store, LEASES, DELETED)
        write(store, LEASES, {"n": 3})
        times = {
            batch.batch_number: (batch.started_at, batch.completed_at) for batch in store.batches()
        }
    said: dict[int, list[tuple[str, str | None]]] = {}
    for number, (_, ended) in sorted(times.items()):
        assert ended is not None
        asked = query.replace("opencode.runtimeRevision", LEASES).replace(
            "'now'", f"'{ended + timedelta(minutes=1):%Y-%m-%d %H:%M:%S}'"
        )
        rows = by_python(store.directory / DATABASE_NAME, asked)
        said[number] = [(row["event"], row["data"]) for row in rows]
    first = min(times)
    assert said == {
        first: [("written", '{"n":1}')],
        first + 1: [("deleted", None)],
        first + 2: [("written", '{"n":2}')],
        first + 3: [("deleted", None)],
        first + 4: [("written", '{"n":3}')],
    }
    early = query.replace("opencode.runtimeRevision", LEASES)
    early = early.replace("'now'", f"'{NOON - timedelta(hours=1):%Y-%m-%d %H:%M:%S}'")
    assert by_python(store.directory / DATABASE_NAME, early) == []


def test_the_sqlite3_program_answers(folder: Path) -> None:
    """Each line, by the real program: rows, and the same as anybody else's."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("there is no sqlite3 program")
    for database, query in questions():
        done = subprocess.run(
            [program, "-readonly", "-csv", "-header", folder / database, query],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        expected = [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for row in by_python(folder / database, query)
        ]
        assert rows
        same(rows, expected)


def test_datasette_answers(folder: Path) -> None:
    """Each line, by Datasette on the same file, which stays as it is. A click on a view shows its
    rows: no view needs what Datasette does not give."""
    before = picture(folder / "teams" / "wrong")
    database = f"teams/wrong/{DATABASE_NAME}"
    views = [
        row["name"]
        for row in by_python(
            folder / database, "SELECT name FROM sqlite_schema WHERE type = 'view'"
        )
    ]
    lines = questions()
    asked = [*lines, *((database, f"SELECT * FROM {view}") for view in views)]
    answers = by_datasette([(str(folder / name), query) for name, query in asked])
    for (name, query), (status, answer) in zip(lines, answers, strict=False):
        assert status == 200, (query, answer)
        assert answer["rows"]
        same(answer["rows"], by_python(folder / name, query))
    empty = {"store_deletions"}  # the demo deletes nothing
    for view, (status, answer) in zip(views, answers[len(lines) :], strict=True):
        assert (status, bool(answer["rows"])) == (200, view not in empty), view
    after = picture(folder / "teams" / "wrong")
    assert {name: facts for name, facts in after.items() if name in before} == before
