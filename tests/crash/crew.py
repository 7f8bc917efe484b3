"""Who has trials carried out, on the side of the tests.

The process that carries them out is forked again and again, so it loads none of this, nor pytest.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from tests.crash.workers import Job, Share, Tally, settle
from tests.support.counts import Counts

Result = TypeVar("Result")


class Hands:
    """A process that carries out jobs, for many tests."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=settle)

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
