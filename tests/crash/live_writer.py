"""A writer that lives, stopped before every point, while another process comes along.

The other one plans, reads and opens the store. It must see nothing wrong and touch nothing; it may
have to wait for the writer lock. Then the writer goes on, and must come to its end as if nothing
had been.
"""

from __future__ import annotations

import os
from pathlib import Path

import rtstore.store
from rtstore import ActionKind, LockTimeoutError, RuntimeStore, StoreFileChangedError
from tests.crash.check import check
from tests.crash.children import Child, Say, pauser
from tests.crash.client import STORES, TEAM, Caller, Options
from tests.crash.kills import Act, act_of, points_of
from tests.crash.ledger import IDENTITY, Broken, Ledger, Reached
from tests.crash.probe import END, Fault, Point, Probe, watched
from tests.crash.product import scenario_of
from tests.crash.sameness import Passed
from tests.crash.scenarios import Scenario
from tests.crash.workers import Copies, Share, Tally, workshop

HURRIED = Options(lock_timeout_s=0.02)
"""The visitor does not wait: the writer stands still until it has gone."""


def visit_everywhere(name: str, share: Share) -> Tally:
    """Stop a scenario's act before each of its points, and let a visitor come by; check."""
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        notes = scenario.begin(workplace / "beginning")
        copies, passed = Copies(workplace / "beginning", workplace), Passed()
        act = act_of(scenario, passed)
        for point in points_of(act, copies, scenario.refusal):
            if not (share.full or point.changes):
                continue
            with copies.fresh() as directory:
                ledger, problems = _visit(directory, scenario, act, point, Ledger.of(notes))
                tally.points += 1
                problems += check(directory, ledger, scenario, passed=passed, closed=True)
                tally.check(f"{name}, a visitor at {point}", problems)
            if share.enough(tally):
                break
    return tally


def _visit(
    directory: Path, scenario: Scenario, act: Act, point: Point, ledger: Ledger
) -> tuple[Ledger, list[str]]:
    gate, opening = os.pipe()

    def write(say: Say) -> None:
        pause = pauser(say, point, gate)

        def watch(reached: Point) -> Fault | None:
            return pause(reached) or scenario.refusal(reached)

        probe = Probe(watch)
        with watched(probe) as fs:
            act(directory, say, fs)
            probe.reach(END, "the end")

    writer = Child(write)
    try:
        for note in writer.listen():
            ledger.add(note)
            if isinstance(note, Reached):
                break
        visitor = Child(lambda say: _look_around(directory, say)).wait()
    finally:
        os.write(opening, b"!")
        ended = writer.wait()
        os.close(gate)
        os.close(opening)
    problems = [note.problem for note in visitor.notes if isinstance(note, Broken)]
    if not visitor.finished:
        problems.append(f"the visitor: {visitor}")
    if not ended.finished:
        problems.append(f"the writer: {ended}")
    for note in ended.notes:
        ledger.add(note)
    problems += [f"the living writer was refused: {refused}" for refused in _refused(ledger)]
    return ledger, problems


def _refused(ledger: Ledger) -> list[str]:
    return [refused.error for refused in ledger.refused.values()]


def _look_around(directory: Path, say: Say) -> None:
    rtstore.store._CLOSING_TIMEOUT_S = 0.01  # in this child alone: nobody frees the lock meanwhile
    with RuntimeStore.open(directory, team_name=TEAM, recover=False) as store:
        for action in store.plan_recovery(expected=IDENTITY).actions:
            unwritten = store.manifest().entry(action.schema_name) is None
            if action.kind is not ActionKind.NONE and not unwritten:
                say(Broken(f"the visitor would {action.kind} {action.schema_name}"))
        for name in store.snapshot(STORES).contents:
            try:
                store.read(name)
            except StoreFileChangedError as error:
                say(Broken(f"the visitor could not read: {error}"))
    caller = Caller(directory, "visitor", lambda _: None, options=HURRIED)
    try:
        store = caller.open()
    except LockTimeoutError:
        return  # something lies there that is the writer's while it lives: it waits
    if store.last_recovery is not None:
        say(Broken(f"the visitor recovered beside a living writer: {store.last_recovery.steps}"))
    caller.close()
