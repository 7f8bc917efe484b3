"""The process that carries out the trials, and the tally of what it tried.

A job runs in a fresh process of one thread, which may therefore fork a child for each trial from
its own warm memory; a new interpreter for each would take ten times as long. Tests run in parallel,
so each process of theirs has one of these.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tests.support.counts import Counts
from tests.support.places import MEMORY

Result = TypeVar("Result")

_SHOWN = 10


@dataclass
class Tally:
    """What was tried, and what went wrong."""

    points: int = 0
    """Places at which something was done to the store."""
    states: int = 0
    """Directories that were opened, recovered and checked."""
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another tally into this one."""
        self.points += other.points
        self.states += other.states
        self.failures += other.failures

    def check(self, label: str, problems: list[str]) -> None:
        """One more state was checked."""
        self.states += 1
        if problems:
            self.failures.append(f"{label}: {'; '.join(problems[:3])}")

    def __str__(self) -> str:
        shown = "\n".join(self.failures[:_SHOWN])
        return f"{self.points} points, {self.states} states, failures {len(self.failures)}\n{shown}"


@dataclass(frozen=True)
class Share:
    """How much of an enumeration is tried."""

    full: bool = False
    """Everything, or the fast part of it."""
    stop_at_first: bool = False
    """The first failure is enough (a control was caught)."""

    draws: int = 0
    """How many states after a loss of power are drawn at each point; 0 to enumerate them."""
    first: int = 0
    """The number of the first interleaving that is drawn; the numbers before it are others'."""
    seed: int = 0

    calls: tuple[str, ...] = ()
    """Only the points of these calls; all of them when there are none."""

    def wants(self, call: str) -> bool:
        """Whether points of a call are tried."""
        return not self.calls or call in self.calls

    def enough(self, tally: Tally) -> bool:
        """Whether nothing more needs to be tried."""
        return self.stop_at_first and bool(tally.failures)


Job = Callable[[str, Share], Tally]
"""An enumeration over one scenario, given by its name. A function of a module, to be pickled."""


class Hands:
    """A process that carries out jobs, for many tests."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_settle)

    def do(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Have a job done; return what came of it."""
        return self._pool.submit(job, *arguments).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)


class Crew:
    """Has the jobs of one test carried out, and adds up what they tried."""

    def __init__(self, hands: Hands, *, full: bool) -> None:
        self.full = full
        self.total = Tally()
        self.controls_caught: list[str] = []
        self.controls_tried: list[str] = []
        self.lines: list[str] = []
        """What else is to be said at the end."""
        self._hands = hands

    def run(
        self,
        job: Job,
        scenario: str,
        *,
        draws: int = 0,
        first: int = 0,
        seed: int = 0,
        only_changing: bool = False,
    ) -> Tally:
        """Carry out a job; return what came of it, which is in the total too.

        With `only_changing` the points before which nothing can have changed are left out, also in
        the full run.
        """
        share = Share(full=self.full and not only_changing, draws=draws, first=first, seed=seed)
        tally = self._hands.do(job, scenario, share)
        self.total.add(tally)
        return tally

    def do(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Have something of its own carried out."""
        return self._hands.do(job, *arguments)

    def count(self, counts: Counts) -> None:
        """Count what was tried, where there was something."""
        if self.total.points:
            counts.add(
                "crash suite",
                points=self.total.points,
                states=self.total.states,
                failures=len(self.total.failures),
            )
        if self.controls_tried:
            counts.add(
                "crash suite",
                controls=len(self.controls_tried),
                controls_caught=len(self.controls_caught),
            )
        for line in self.lines:
            counts.say("crash suite", line)


def _settle() -> None:
    """Load everything that a trial needs, once."""
    from tests.crash import warm

    warm.up()
    gc.collect()
    gc.freeze()  # children do not copy what nobody collects


@contextmanager
def workshop() -> Iterator[Path]:
    """A directory for trials that goes away with them. In memory where that can be had: a loss of
    power is modelled here, not provoked, so no trial needs a real medium."""
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="rtstore-crash-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Copies:
    """Fresh copies of a beginning, one for each trial.

    A copy reads the database file, so it is made only while this process has no connection to it.
    """

    def __init__(self, beginning: Path, workplace: Path) -> None:
        self._beginning = beginning
        self._workplace = workplace
        self._number = 0

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A copy for one trial; it is removed afterwards."""
        self._number += 1
        path = self._workplace / f"trial-{os.getpid()}-{self._number}"
        if self._beginning.exists():
            shutil.copytree(self._beginning, path, symlinks=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
