"""The process that carries out the trials, and the tally of what it tried.

A job runs in a fresh process of one thread, which may therefore fork a child for each trial from
its own warm memory; a new interpreter for each would take ten times as long. Tests run in parallel,
so each process of theirs has one of these (`crew`).
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.places import MEMORY

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


def settle() -> None:
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
    There is one at a time, always of the same name: a name is part of what is compared.
    """

    def __init__(self, beginning: Path, workplace: Path) -> None:
        self._beginning = beginning
        self._workplace = workplace

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A copy for one trial; it is removed afterwards."""
        path = self._workplace / "trial"
        if self._beginning.exists():
            shutil.copytree(self._beginning, path, symlinks=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
