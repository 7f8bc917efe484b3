"""Three SQL queries on the directory that the demo leaves, with their real output."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import urllib.parse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rtstore.cli.output import visible
from rtstore.model.records import Record
from rtstore.shell import shell_word

WHO = """SELECT batch_id, reason, written_at FROM current_stores
WHERE store = 'opencode.sessionStore'"""
WHAT = """SELECT session.value ->> 'memberName' AS member, session.value ->> 'id' AS session
FROM current_stores, json_each(data, '$.sessions') AS session
WHERE store = 'opencode.sessionStore'"""
CHANGES = """SELECT high_watermark, batch_id, file_size,
json_array_length(data, '$.sessions') AS sessions
FROM store_history WHERE store = 'opencode.sessionStore'"""

QUESTIONS = (
    ("Which batch wrote the sessions last, when, and why?", WHO),
    ("What is in them?", WHAT),
    ("How did they change over time?", CHANGES),
)


class Query(Record):
    """A question, the line that asks it, and what came out."""

    question: str
    command: str
    output: tuple[str, ...]
    program: str
    """What ran it: `sqlite3`, or Python's module where that program is missing or too old."""


def ask(database: Path) -> tuple[Query, ...]:
    """Run the three queries. They only read."""
    return tuple(_ask(database, question, sql.replace("\n", " ")) for question, sql in QUESTIONS)


def _ask(database: Path, question: str, sql: str) -> Query:
    command = ["sqlite3", "-readonly", "-header", "-column", str(database), sql]
    shown = " ".join([*command[:4], shell_word(command[4]), f'"{sql}"'])
    output, program = _by_program(command), "sqlite3"
    if output is None:
        output, program = _by_module(database, sql), "Python's sqlite3 module"
    return Query(question=question, command=shown, output=tuple(output), program=program)


def _by_program(command: Sequence[str]) -> list[str] | None:
    """Return the output of the sqlite3 program; None when it is missing, or too old for `->>`."""
    program = shutil.which(command[0])
    if program is None:
        return None
    result = subprocess.run(  # noqa: S603 - SQL of our own, no shell
        [program, *command[1:]], capture_output=True, text=True, check=False, timeout=30
    )
    if result.returncode:
        return None
    return [line.rstrip() for line in result.stdout.splitlines()]


def _by_module(database: Path, sql: str) -> list[str]:
    uri = f"file:{urllib.parse.quote(str(database))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        cursor = connection.execute(sql)
        rows = [[column[0] for column in cursor.description]]
        rows += [[visible(str(value)) for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
