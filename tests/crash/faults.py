"""An error of the operating system or of SQLite at every point, once and from there on.

The process lives on: it must be told the truth by an error of the store's own, be able to go on
when the trouble is over (unless the error says that it must not), and leave what the next process
can open.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rtstore import RuntimeStoreError
from tests.crash.check import check, torn_files
from tests.crash.client import STORES, Caller
from tests.crash.kills import act_of, points_of
from tests.crash.ledger import Ledger, Note, Told
from tests.crash.probe import (
    FILE,
    SQL,
    Fault,
    FileFault,
    Point,
    Probe,
    SqlFault,
    watched,
)
from tests.crash.product import scenario_of
from tests.crash.sameness import Passed
from tests.crash.scenarios import Scenario
from tests.crash.workers import Copies, Share, Tally, workshop

FULL, IOERR = sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR
READONLY, CANTOPEN = sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN
THOROUGH = ("open_crashed", "write_mixed", "recover")
"""Scenarios whose reads, too, are failed in the fast part; the others read in the same places."""
_WRITING = ("BEGIN", "fsync", "fsync_directory", "close")
_FORBIDDEN = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT")
"""What fails where writing is not allowed."""


def fail_everywhere(name: str, share: Share) -> Tally:
    """Fail the act of a scenario at each of its points, in each way; check each time."""
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        notes = scenario.begin(workplace / "beginning")
        copies, passed = Copies(workplace / "beginning", workplace), Passed()
        for point in points_of(act_of(scenario, passed), copies, scenario.refusal):
            if not share.wants(point.call):
                continue
            if not (share.full or _belongs(point, scenario)):
                continue
            tally.points += 1
            for fault, lasting in faults_at(point, full=share.full):
                how = "from there on" if lasting else "once"
                with copies.fresh() as directory:
                    trial = Trial(directory, scenario, notes, passed)
                    problems = _fail(trial, point, fault, lasting=lasting)
                tally.check(f"{name}, {fault} {how} instead of {point}", problems)
                if share.enough(tally):
                    return tally
    return tally


def _belongs(point: Point, scenario: Scenario) -> bool:
    """Whether a point is failed in the fast part."""
    if point.opening and not scenario.opens:
        return False
    return point.changes or point.call in _WRITING or scenario.name in THOROUGH


def faults_at(point: Point, *, full: bool) -> Iterator[tuple[Fault, bool]]:
    """The ways in which a point can fail, each with whether it goes on failing. In the fast part,
    calls that only look fail once."""
    if point.kind == FILE:
        yield FileFault(errno.EIO), False
        if point.changes or full:
            yield FileFault(errno.ENOSPC), True
        if point.call == "write":
            yield FileFault(None), False
            yield FileFault(None), True
        if full:
            yield FileFault(errno.EIO), True
            yield FileFault(errno.ENOSPC), False
            yield FileFault(errno.EACCES), False
            yield FileFault(errno.EACCES), True
    elif point.call == "OPEN":
        yield SqlFault(CANTOPEN), False
        if full:
            yield SqlFault(CANTOPEN), True
    elif point.kind == SQL and point.call not in ("CLOSE", "ROLLBACK"):
        yield from _sql_faults_at(point, full=full)


def _sql_faults_at(point: Point, *, full: bool) -> Iterator[tuple[Fault, bool]]:
    at_commit = point.call == "COMMIT"
    yield SqlFault(IOERR, "after" if at_commit else "before"), False
    if point.call in ("BEGIN", "COMMIT") or full:
        yield SqlFault(FULL), True
    if not full:
        return
    yield SqlFault(FULL), False
    yield SqlFault(FULL, "rolled back"), False
    yield SqlFault(IOERR, "rolled back"), False
    yield SqlFault(IOERR), True
    if point.call in _FORBIDDEN:
        yield SqlFault(READONLY), False
        yield SqlFault(READONLY), True
    if at_commit:
        yield SqlFault(IOERR), False
        yield SqlFault(IOERR, "after"), True


@dataclass(frozen=True)
class Trial:
    """A copy of a beginning, with the notes of those who built it."""

    directory: Path
    scenario: Scenario
    base: list[Note]
    passed: Passed


def _fail(trial: Trial, failing: Point, fault: Fault, *, lasting: bool) -> list[str]:
    directory, scenario, base = trial.directory, trial.scenario, trial.base
    clock, notes, over = trial.passed.clock(), list[Note](), False

    def watch(point: Point) -> Fault | None:
        if over:
            return None
        goes_on = lasting and point.number > failing.number and _can_fail(fault, point)
        if point.is_at(failing) or (point.kind == failing.kind and goes_on):
            return fault
        return scenario.refusal(point)

    caller: Caller | None = None
    with watched(Probe(watch)) as fs:
        with suppress(RuntimeStoreError):
            caller = scenario.carry_out(directory, notes.append, fs, "act", clock)
        over = True
        caller = caller or Caller(
            directory, "again", notes.append, fs=fs, options=scenario.options, clock=clock
        )
        problems = [] if scenario.torn_before else torn_files(directory, Ledger.of(base, notes))
        problems += _go_on(caller, scenario, notes)
        caller.close()
    ledger = Ledger.of(base, notes)
    return problems + check(directory, ledger, scenario, passed=trial.passed, closed=True)


def _can_fail(fault: Fault, point: Point) -> bool:
    """Whether a fault that goes on hits this call too: a ROLLBACK only forgets what is in memory,
    only a COMMIT may have happened and fail, only what writes is forbidden, and the file system's
    root is always a directory."""
    if isinstance(fault, SqlFault):
        if fault.when == "after":
            return point.call == "COMMIT"
        if fault.code == READONLY:
            return point.call in _FORBIDDEN
        if fault.code == CANTOPEN:
            return point.call == "OPEN"
    return point.call not in ("ROLLBACK", "is_directory", "OPEN")


def _go_on(caller: Caller, scenario: Scenario, notes: list[Note]) -> list[str]:
    """The trouble is over: unless the database itself failed, the same process writes on."""
    if scenario.recover_first:
        return []
    if caller.store is None:
        caller.open()
    assert caller.store is not None
    if caller.store.database.failure is None:
        caller.take_part()
    caller.write(*STORES)
    if isinstance(notes[-1], Told) or caller.store.database.failure is not None:
        return []
    return [f"the trouble is over, and still: {notes[-1]}"]
