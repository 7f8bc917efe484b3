"""The statements that SQLite really runs, their plans, and how many steps they take."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

GROWING = {
    "write_batches",
    "batch_writes",
    "store_contents",
    "quarantined_files",
    "recovery_runs",
    "recovery_actions",
}
"""The tables that grow with use. The others have a row for each store, or one."""

SHORT_INDEXES = {
    "ix_write_batches_open",
    "ix_write_batches_failed",
    "ix_recovery_runs_unfinished",
}
"""Partial indexes over what is open or failed: a scan of one of them meets a few rows at most."""

_SCAN = re.compile(r"^SCAN (?:TABLE )?(\S+)(?:.* USING (?:COVERING )?INDEX (\S+))?")
_AUTOMATIC = re.compile(r"^SEARCH (?:TABLE )?(\S+) .*\bAUTOMATIC\b")
_ALIAS = re.compile(r"\b(\w+) AS (\w+)")
_EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "REPLACE")


def scans(
    connection: sqlite3.Connection, sql: str, values: Sequence[str] = (), *, aliases_in: str = ""
) -> list[str]:
    """The steps of a statement's plan that go through a growing table from end to end. The text of
    views has aliases, too."""
    alias_of = {alias: table for table, alias in _ALIAS.findall(f"{sql} {aliases_in}")}
    found = []
    for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values):
        match = _SCAN.match(step) or _AUTOMATIC.match(step)
        if match is None or alias_of.get(match[1], match[1]) not in GROWING:
            continue
        if match.re is _SCAN and match[2] in SHORT_INDEXES:
            continue
        found.append(step)
    return found


class Trace:
    """What every connection that is opened meanwhile executes, and how many steps it takes."""

    def __init__(self) -> None:
        self.statements: Counter[str] = Counter()
        self.steps = 0
        self.connections = 0

    def watch(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Note what a connection does from here on."""
        self.connections += 1
        connection.set_trace_callback(self._note)
        connection.set_progress_handler(self._step, 1)
        return connection

    def _note(self, sql: str) -> None:
        self.statements[sql] += 1

    def _step(self) -> int:
        self.steps += 1
        return 0

    def explained(self) -> Iterator[str]:
        """The statements that have a plan."""
        for sql in self.statements:
            if sql.lstrip().upper().startswith(_EXPLAINED):
                yield sql


_connect = sqlite3.connect


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    """Trace the connections that the library opens in the block."""
    trace = Trace()

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return trace.watch(_connect(*arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        yield trace
