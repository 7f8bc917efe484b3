"""Places batches, runs and sizes on a line of time: pure.

A chart is as large for ten thousand batches as for a hundred: what falls on the same thousandth of
its width is drawn once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from rtstore.cli.report.facts import Batch, Contents, Size
from rtstore.model.records import BatchState

WIDTH = 1000
HEIGHT = 100
_TICKS = 5
_MARKS_PER_LINE = 200
_DENSITIES = (("few", 1, 3), ("some", 3, 10), ("many", 10, 1 << 62))
"""How many batches a stroke stands for: from so many, to fewer than so many."""
_NEWEST = 200
"""The batches of the second, nearer time line."""


class Mark(NamedTuple):
    """A place on a line that is more than a tick: what happened, and to which batches."""

    kind: str
    """`failed`, `open`, `recovered` or `quarantined`."""
    left: float
    """In percent."""
    number: int
    """The batch, or the quarantined file, that the mark leads to: the newest one there."""
    events: int
    """How many of these are there."""


class Row(NamedTuple):
    """The line of one store."""

    store: str
    ticks: tuple[tuple[str, str], ...]
    """Paths of an SVG, each with how dense it is: a stroke where batches were committed."""
    batches: int
    marks: tuple[Mark, ...]


class Band(NamedTuple):
    """One run."""

    run_id: str
    state: str
    left: float
    width: float


class Pause(NamedTuple):
    """A time without a batch."""

    since: datetime
    until: datetime


class Timeline(NamedTuple):
    """Batches by store in a span of time."""

    batches: int
    is_whole: bool
    """Whether it has all batches of the page."""
    ticks: tuple[datetime, ...]
    """Evenly spaced, from the first moment to the last."""
    bands: tuple[Band, ...]
    rows: tuple[Row, ...]
    longest_pause: Pause | None


class _Scale:
    """From times to places."""

    def __init__(self, first: datetime, last: datetime) -> None:
        self.first, self.last = first, last
        self._span = max(1.0, (last - first).total_seconds())

    def place(self, at: datetime, width: float) -> float:
        share = (at - self.first).total_seconds() / self._span
        return min(1.0, max(0.0, share)) * width


def timelines_of(contents: Contents, now: datetime) -> tuple[Timeline, ...]:
    """Return a line of all batches that are known, and where these are many, one of the newest."""
    batches = contents.batches
    if not batches:
        return ()
    whole = _timeline(contents, batches, now)
    if len(batches) < 2 * _NEWEST:
        return (whole,)
    return _timeline(contents, batches[:_NEWEST], now), whole


def _timeline(contents: Contents, batches: Sequence[Batch], now: datetime) -> Timeline:
    times = [batch.started_at for batch in batches]
    scale = _Scale(min(times), max(times))
    stores: dict[str, list[Batch]] = {}
    for batch in batches:
        for name in batch.stores:
            stores.setdefault(name, []).append(batch)
    step = (scale.last - scale.first) / (_TICKS - 1)
    return Timeline(
        batches=len(batches),
        is_whole=len(batches) == len(contents.batches),
        ticks=tuple(scale.first + step * number for number in range(_TICKS)),
        bands=tuple(_bands(contents, scale, now)),
        rows=tuple(_row(name, stores[name], contents, scale) for name in sorted(stores)),
        longest_pause=_longest_pause(times),
    )


def _bands(contents: Contents, scale: _Scale, now: datetime) -> Iterable[Band]:
    for run in reversed(contents.runs):
        until = run.ended_at or max(now, scale.last)
        if until < scale.first or run.began_at > scale.last:
            continue
        left, right = scale.place(run.began_at, WIDTH), scale.place(until, WIDTH)
        yield Band(run.run_id, run.state, round(left, 1), round(max(2.0, right - left), 1))


def _row(name: str, batches: Sequence[Batch], contents: Contents, scale: _Scale) -> Row:
    committed = Counter(
        round(scale.place(batch.started_at, WIDTH))
        for batch in batches
        if batch.state == BatchState.COMMITTED
    )
    places: dict[tuple[str, float], list[int]] = {}
    for batch in batches:
        kind = _kind_of(batch)
        if kind is not None:
            place = round(scale.place(batch.started_at, _MARKS_PER_LINE)) * 100 / _MARKS_PER_LINE
            places.setdefault((kind, place), []).append(batch.number)
    for file in contents.quarantined:
        if file.store == name and scale.first <= file.at <= scale.last:
            place = round(scale.place(file.at, _MARKS_PER_LINE)) * 100 / _MARKS_PER_LINE
            places.setdefault(("quarantined", place), []).append(file.number)
    return Row(
        store=name,
        ticks=tuple(_strokes(committed)),
        batches=len(batches),
        marks=tuple(
            Mark(kind, place, max(numbers), len(numbers))
            for (kind, place), numbers in sorted(places.items())
        ),
    )


def _strokes(committed: Counter[int]) -> Iterable[tuple[str, str]]:
    """Yield the strokes where few batches are, and those where more are."""
    for density, least, most in _DENSITIES:
        places = sorted(place for place, many in committed.items() if least <= many < most)
        if places:
            yield density, "".join(f"M{place} 0v10" for place in places)


def _kind_of(batch: Batch) -> str | None:
    if batch.is_open:
        return "open"
    if batch.state == BatchState.FAILED:
        return "failed"
    return "recovered" if batch.is_recovered else None


def _longest_pause(times: Iterable[datetime]) -> Pause | None:
    found = [Pause(*pair) for pair in pairwise(sorted(times))]
    return max(found, key=lambda pause: pause.until - pause.since, default=None)


class Growth(NamedTuple):
    """The sizes of a store as a line."""

    line: str
    """The path of an SVG, `WIDTH` by `HEIGHT`."""
    first: int
    last: int
    largest: int


def growth_of(sizes: Sequence[Size]) -> Growth | None:
    """Return how a store grew; None without two versions."""
    if len(sizes) < 2:
        return None
    largest = max(size.size for size in sizes) or 1
    scale = _Scale(sizes[0].at, sizes[-1].at)
    tops: dict[int, int] = {}
    for size in sizes:
        place = round(scale.place(size.at, WIDTH) / 2) * 2
        tops[place] = max(tops.get(place, 0), size.size)
    tops[max(tops)] = sizes[-1].size
    steps = [(place, round(HEIGHT - top / largest * HEIGHT)) for place, top in sorted(tops.items())]
    line = f"M{steps[0][0]} {steps[0][1]}" + "".join(f"H{x}V{y}" for x, y in steps[1:])
    return Growth(line, sizes[0].size, sizes[-1].size, largest)


def elapsed(pause: Pause) -> str:
    """Return the length of a pause in words."""
    seconds = (pause.until - pause.since).total_seconds()
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
