"""The points of the commit protocol at which the demo's writer can be killed."""

from __future__ import annotations

from typing import NamedTuple

from rtstore.errors import InvalidRequestError

STORES = 4
"""How many stores the batch has in which the writer is killed."""


class KillPoint(NamedTuple):
    """A moment in the commit protocol, and what is true at it."""

    name: str
    logged: bool
    """The batch is in the log, durable: it will happen."""
    published: int
    """How many of its files have their new version."""
    sealed: bool
    """The batch is committed."""


def _points() -> tuple[KillPoint, ...]:
    points = [
        KillPoint("before-log", logged=False, published=0, sealed=False),
        KillPoint("in-log", logged=False, published=0, sealed=False),
        KillPoint("after-log", logged=True, published=0, sealed=False),
    ]
    for number in range(1, STORES + 1):
        points += [
            KillPoint(f"in-file-{number}", logged=True, published=number - 1, sealed=False),
            KillPoint(f"after-rename-{number}", logged=True, published=number, sealed=False),
        ]
    return (
        *points,
        KillPoint("in-seal", logged=True, published=STORES, sealed=False),
        KillPoint("after-seal", logged=True, published=STORES, sealed=True),
    )


KILL_POINTS = _points()
"""All of them, in the order in which a writer comes by."""


def find_point(text: str) -> KillPoint:
    """A point by its name or its number, counted from 1. Raises `InvalidRequestError`."""
    for number, point in enumerate(KILL_POINTS, start=1):
        if text in (point.name, str(number)):
            return point
    names = ", ".join(point.name for point in KILL_POINTS)
    raise InvalidRequestError("--point", f"{text!r} is not 1 to {len(KILL_POINTS)}, nor: {names}")
