"""SIGKILL of a real process before every point, and a second one during the recovery."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rtstore.model.times import utc_now
from tests.crash.check import check
from tests.crash.children import Child, Ended, Say, killer
from tests.crash.client import Caller
from tests.crash.ledger import Found, Ledger, Note, Opened
from tests.crash.probe import END, Fault, Point, Probe, TracedFileSystem, Watcher, ignore, watched
from tests.crash.product import scenario_of
from tests.crash.sameness import Passed, look_at
from tests.crash.scenarios import Scenario
from tests.crash.witness import Witness, as_good
from tests.crash.workers import Copies, Share, Tally, workshop

Act = Callable[[Path, Say, TracedFileSystem], object]


def kill(
    directory: Path, act: Act, target: Point, also: Watcher = ignore, *, witnessed: bool = False
) -> Ended:
    """Run an act in a child that is killed before that point, or at its end where it has fewer.
    What else goes wrong meanwhile, `also` says. With `witnessed` the child says last what a witness
    saw."""

    def work(say: Say) -> None:
        witness = Witness(directory, target) if witnessed else None

        def say_and_count(note: Note) -> None:
            say(note)
            if witness is not None:
                witness.said += 1

        def watch(point: Point) -> Fault | None:
            if witness is not None:
                witness.look(point)
            if point.is_at(target) or point.kind == END:
                if witness is not None:
                    say(Found(witness.moments))
                killer(say, point.number)(point)
            return also(point)

        probe = Probe(watch)
        with watched(probe) as fs:
            act(directory, say_and_count, fs)
            probe.reach(END, "the end")

    return Child(work).wait()


def act_of(scenario: Scenario, passed: Passed | None = None) -> Act:
    """The act of a scenario, the closing of its store included; by the clock of its trials."""

    def act(directory: Path, say: Say, fs: TracedFileSystem) -> None:
        clock = utc_now if passed is None else passed.clock()
        scenario.carry_out(directory, say, fs, "act", clock).close()

    return act


def reopening_of(scenario: Scenario, passed: Passed) -> Act:
    """The act of a process that comes after a crash: it opens the store, which recovers."""

    def reopen(directory: Path, say: Say, fs: TracedFileSystem) -> None:
        clock = passed.clock(later=1)
        caller = Caller(directory, "second", say, fs=fs, options=scenario.options, clock=clock)
        caller.open()
        caller.close()

    return reopen


def points_of(act: Act, copies: Copies, also: Watcher = ignore) -> list[Point]:
    """The points of an act, from a run that is left alone."""
    points: list[Point] = []
    notes: list[Note] = []

    def watch(point: Point) -> Fault | None:
        opened = any(isinstance(note, Opened) for note in notes)
        points.append(replace(point, opening=not opened))
        return also(point)

    probe = Probe(watch)
    with copies.fresh() as directory, watched(probe) as fs:
        act(directory, notes.append, fs)
        probe.reach(END, "the end")
    return points


def kill_everywhere(name: str, share: Share) -> Tally:
    """Kill the act of a scenario before each of its points; check each time.

    In the fast part those points are left out before which nothing can have changed since the
    last one: the calls that only look. In the full part one kill does for those of them at which
    the same run had the same directory, and had told its caller the same (`Witness`); the points
    are gone through from the last to the first for that.
    """
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        notes = scenario.begin(workplace / "beginning")
        copies, passed = Copies(workplace / "beginning", workplace), Passed()
        act = act_of(scenario, passed)
        points = points_of(act, copies, scenario.refusal)
        left = [point for point in points if share.full or point.changes]
        left = left[::-1] if share.full else left
        while left and not share.enough(tally):
            point = left.pop(0)
            with copies.fresh() as directory:
                ended = kill(directory, act, point, scenario.refusal, witnessed=share.full)
                tally.points += 1
                label = f"{name}, killed at {point}"
                if ended.killed_at is None:
                    tally.failures.append(f"{label}: it was not hit; {ended}")
                    continue
                ledger = Ledger.of(notes, ended.notes)
                tally.check(label, check(directory, ledger, scenario, passed=passed))
            same = as_good(points, point, ended.found) if share.full else []
            tally.points += len(same)
            tally.states += len(same)
            left = left[len(same) :]
    return tally


# --- what crashes leave -------------------------------------------------------------------------


@dataclass(frozen=True)
class Wreck:
    """A directory as a crash left it, and what its callers were told."""

    point: Point
    directory: Path
    notes: tuple[Note, ...]


STEPS = frozenset({"rename", "unlink", "COMMIT"})
"""The calls that take the protocol a step further."""


def wrecks(name: str, workplace: Path, *, full: bool) -> Iterator[Wreck]:
    """Every different directory that a SIGKILL of a scenario's act can leave; in the fast part,
    before the steps of the protocol and at the end."""
    scenario = scenario_of(name)
    base = scenario.begin(workplace / "beginning")
    copies, seen = Copies(workplace / "beginning", workplace), set()
    for point in points_of(act_of(scenario), copies, scenario.refusal):
        if not (point.changes if full else point.kind == END or point.call in STEPS):
            continue
        with copies.fresh() as directory:
            ended = kill(directory, act_of(scenario), point, scenario.refusal)
            if ended.killed_at is None:
                raise AssertionError(f"{point} was not hit: {ended}")
            if not directory.exists():
                continue  # nothing was made yet
            wreck = workplace / f"wreck-{point.number}"
            look = workplace / "look"
            shutil.copytree(directory, look)
            found = look_at(look).contents  # it opens the database, so it gets a copy to itself
            shutil.rmtree(look)
            if found in seen:
                continue
            seen.add(found)
            shutil.copytree(directory, wreck)
        yield Wreck(point, wreck, (*base, *ended.notes))


def kill_recoveries(name: str, share: Share) -> Tally:
    """Crash, then kill the recovery before each of its points, then recover and check."""
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        for wreck in wrecks(name, workplace, full=share.full):
            copies, passed = Copies(wreck.directory, workplace), Passed()
            reopen = reopening_of(scenario, passed)
            for point in points_of(reopen, copies):
                if not point.changes:
                    continue  # the others find the disk as the next of these does
                with copies.fresh() as directory:
                    ended = kill(directory, reopen, point)
                    tally.points += 1
                    label = f"{name}, killed at {wreck.point}, again at {point}"
                    if ended.killed_at is None:
                        tally.failures.append(f"{label}: it was not hit; {ended}")
                        continue
                    ledger = Ledger.of(wreck.notes, ended.notes)
                    tally.check(label, check(directory, ledger, scenario, passed=passed))
                if share.enough(tally):
                    return tally
    return tally


def open_twice_at_once(name: str, share: Share) -> Tally:
    """Crash, then have two processes open the directory at the same moment; both must succeed."""
    scenario, tally = scenario_of(name), Tally()
    with workshop() as workplace:
        for wreck in wrecks(name, workplace, full=share.full):
            copies, passed = Copies(wreck.directory, workplace), Passed()
            for round_number in range(8 if share.full else 2):
                with copies.fresh() as directory:
                    heard, problems = _open_at_once(directory, scenario)
                    tally.points += 1
                    ledger = Ledger.of(wreck.notes, heard)
                    label = f"{name}, killed at {wreck.point}, opened twice, round {round_number}"
                    problems += check(directory, ledger, scenario, passed=passed)
                    tally.check(label, problems)
                if share.enough(tally):
                    return tally
    return tally


def _open_at_once(directory: Path, scenario: Scenario) -> tuple[list[Note], list[str]]:
    """What two processes said that opened a directory at once, and what was wrong with them."""
    waiting, starting = os.pipe()

    def opening(prefix: str) -> Callable[[Say], None]:
        def work(say: Say) -> None:
            os.close(starting)
            os.read(waiting, 1)  # ends for both when the parent closes its end
            caller = Caller(directory, prefix, say, options=scenario.options)
            caller.open()
            caller.close()

        return work

    children = [Child(opening("second")), Child(opening("third"))]
    os.close(waiting)
    os.close(starting)
    ended = Child.wait_for_all(children)
    notes = [note for child in ended for note in child.notes]
    return notes, [f"two at once: {child}" for child in ended if not child.finished]
