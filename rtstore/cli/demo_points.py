"""The points of the commit protocol at which the demo's writer can be killed."""

from __future__ import annotations

from rtstore.errors import InvalidRequestError
from rtstore.testing.points import CrashPoint, crash_points

STORES = 4
"""How many stores the batch has in which the writer is killed."""

KILL_POINTS = crash_points(STORES)
"""All of them, in the order in which a writer comes by."""


def find_point(text: str) -> CrashPoint:
    """Return a point by its name or its number, counted from 1. Raises `InvalidRequestError`."""
    for number, point in enumerate(KILL_POINTS, start=1):
        if text in (point.name, str(number)):
            return point
    names = ", ".join(point.name for point in KILL_POINTS)
    raise InvalidRequestError("--point", f"{text!r} is not 1 to {len(KILL_POINTS)}, nor: {names}")
