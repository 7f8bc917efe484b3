"""Timing of operations that take turns, and the ratios that come out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


def nothing() -> None:
    """What an operation does before and after itself unless it is told otherwise."""


class Operation:
    """Something to be timed, and what must happen before and after it untimed."""

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        prepare: Callable[[], object] = nothing,
        cleanup: Callable[[], object] = nothing,
    ) -> None:
        self.name = name
        self.run = run
        self.prepare = prepare
        self.cleanup = cleanup

    def once(self) -> tuple[float, float]:
        """Run it once; return the seconds it took, and those of them that this thread computed."""
        self.prepare()
        try:
            cpu = time.thread_time()
            start = time.perf_counter()
            self.run()
            return time.perf_counter() - start, time.thread_time() - cpu
        finally:
            self.cleanup()


@dataclass(frozen=True)
class Pace:
    """How often the contenders of a race take their turns."""

    rounds_min: int
    rounds_max: int
    budget_s: float
    """After this time no further round begins, once the least number of them is done."""


@dataclass(frozen=True)
class Spread:
    """What several measurements of one thing came to."""

    median: float
    q1: float
    q3: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of some values; at least one."""
        ordered = sorted(values)
        q1, median, q3 = (
            statistics.quantiles(ordered, n=4, method="inclusive")
            if len(ordered) > 1
            else ordered * 3
        )
        return cls(median, q1, q3, ordered[0], ordered[-1], len(ordered))


@dataclass
class Times:
    """What one contender of a race took, in seconds."""

    turns: list[float] = field(default_factory=list)
    """The median of each turn, in the order of the rounds."""
    calls: list[float] = field(default_factory=list)
    """Every single call."""
    cpu: list[float] = field(default_factory=list)
    """What of every single call was computing, the system's part included; waiting is not."""

    def add(self, taken: float) -> None:
        """Note a turn of one call."""
        self.turns.append(taken)
        self.calls.append(taken)

    def percentile(self, percent: int) -> float:
        """The time that so many calls in a hundred do not exceed."""
        return sorted(self.calls)[percent * (len(self.calls) - 1) // 100]

    @property
    def mean(self) -> float:
        """The mean of all calls, checkpoints and other pauses included."""
        return statistics.fmean(self.calls)

    def facts(self, name: str) -> dict[str, float]:
        """What a median does not tell, in milliseconds."""
        return {
            f"{name}_mean_ms": 1e3 * self.mean,
            f"{name}_p10_ms": 1e3 * self.percentile(10),
            f"{name}_p99_ms": 1e3 * self.percentile(99),
            **({f"{name}_cpu_ms": 1e3 * statistics.median(self.cpu)} if self.cpu else {}),
        }


def race(
    contenders: Sequence[Operation], pace: Pace, *, turn: int, warm_up: int | None = None
) -> list[Times]:
    """Let the contenders take turns of `turn` calls each; return their times in the same order.

    The order is reversed every other round: what one leaves behind (dirty pages, a full WAL) is
    then paid by each neighbour as often as by the other. The calls to warm up count for nothing.
    """
    for contender in contenders:
        for _ in range(turn if warm_up is None else warm_up):
            contender.once()
    times = [Times() for _ in contenders]
    deadline = time.monotonic() + pace.budget_s
    for number in range(pace.rounds_max):
        if number >= pace.rounds_min and time.monotonic() >= deadline:
            break
        order = range(len(contenders)) if number % 2 == 0 else reversed(range(len(contenders)))
        for index in order:
            calls, cpu = zip(*(contenders[index].once() for _ in range(turn)), strict=True)
            times[index].turns.append(statistics.median(calls))
            times[index].calls.extend(calls)
            times[index].cpu.extend(cpu)
    return times


@dataclass(frozen=True)
class Target:
    """What a ratio should be."""

    limit: float
    at_least: bool = False

    def met_by(self, ratio: float) -> bool:
        """Whether a ratio is as good as it should be."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One line of the table: a measurement, the floor that it is held against, their ratio."""

    case: str
    subject: str
    against: str
    unit: str
    value: Spread
    floor: Spread
    ratio: Spread
    quiet_ratio: float | None = None
    """The ratio of the quickest tenth of the calls: when nothing else was going on."""
    target: Target | None = None
    more: dict[str, float] = field(default_factory=dict)
    """Further facts for the JSON."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.target is None else self.target.met_by(self.ratio.median)

    def as_json(self) -> dict[str, Any]:
        """The figure as plain data."""
        return {**asdict(self), "met": self.met}


def compare(
    case: str,
    subject: str,
    times: Times,
    against: str,
    floor: Times,
    *,
    target: Target | None = None,
) -> Figure:
    """The figure for two contenders of one race: the ratio of each round, not of the medians."""
    return Figure(
        case=case,
        subject=subject,
        against=against,
        unit="ms",
        value=Spread.of(1e3 * turn for turn in times.turns),
        floor=Spread.of(1e3 * turn for turn in floor.turns),
        ratio=Spread.of(a / b for a, b in zip(times.turns, floor.turns, strict=True)),
        quiet_ratio=times.percentile(10) / floor.percentile(10),
        target=target,
        more={**times.facts("subject"), **floor.facts("floor")},
    )


def quantities(
    case: str,
    subject: str,
    values: Sequence[float],
    against: str,
    floors: Sequence[float],
    *,
    unit: str,
    target: Target | None = None,
) -> Figure:
    """The figure for two series that are no times of calls: flushes, sizes, batches a second."""
    return Figure(
        case=case,
        subject=subject,
        against=against,
        unit=unit,
        value=Spread.of(values),
        floor=Spread.of(floors),
        ratio=Spread.of(a / b for a, b in zip(values, floors, strict=True)),
        target=target,
        more={"subject_mean": statistics.fmean(values), "floor_mean": statistics.fmean(floors)},
    )
