"""What callers write down before and after every call, outside of the runtime directory.

One line a record, one `write` a line, so a process that is killed leaves whole lines. Times are of
the monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Journal:
    """The journal of one process, its threads, and the children that it forks."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: str, **facts: Any) -> None:
        """Append one record."""
        record = {"kind": kind, "time": time.monotonic_ns(), "pid": os.getpid(), **facts}
        os.write(self._file, json.dumps(record).encode() + b"\n")


@dataclass
class Call:
    """One call, as its caller wrote it down."""

    name: str
    """Its own: a repeated call has another one."""
    action: str
    begun: int
    facts: dict[str, Any]
    ended: int | None = None
    outcome: str | None = None
    """`committed`, `decided`, `refused`, `unknown`, `ok`, `foreign`; None when its caller died."""
    result: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = "no outcome: its process died" if self.outcome is None else self.outcome
        return (
            f"{self.begun}..{self.ended} {self.name} {self.action} {self.facts}"
            f" -> {told} {self.result}"
        )


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """All records of a life, journal by journal."""
    for path in sorted(folder.glob("*.journal")):
        for line in path.read_bytes().split(b"\n"):
            if line:
                yield json.loads(line)


def calls_of(found: list[dict[str, Any]]) -> list[Call]:
    """The calls in the order in which they were begun."""
    calls: dict[str, Call] = {}
    for record in found:
        if record["kind"] == "begin":
            calls[record["call"]] = Call(
                record["call"], record["action"], record["time"], record["facts"]
            )
    for record in found:
        if record["kind"] == "end":
            call = calls[record["call"]]
            call.ended, call.outcome = record["time"], record["outcome"]
            call.result = record["result"]
    return sorted(calls.values(), key=lambda call: call.begun)
