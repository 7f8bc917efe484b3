"""The points of the commit protocol at which a writer can die."""

from __future__ import annotations

from typing import NamedTuple


class CrashPoint(NamedTuple):
    """A moment in the commit protocol, and what is true at it."""

    name: str
    logged: bool
    """The batch is in the log, durable: it will happen."""
    published: int
    """How many of its files have their new version."""
    completed: bool
    """The batch is committed."""

    def __str__(self) -> str:
        return self.name


def crash_points(stores: int = 1) -> tuple[CrashPoint, ...]:
    """All points that the writer of a batch of so many stores comes by, in order.

    `before-log`, `in-log` and `after-log` are before, inside and after the SQL transaction whose
    commit decides that the batch happens; `in-file-2` is when half of its second file is written
    (to a temporary file), `after-rename-2` when that file has its name; `in-complete` and
    `after-complete` are inside and after the last SQL transaction.
    """
    if stores < 1:
        raise ValueError(f"a batch writes at least one store, not {stores}")
    points = [
        CrashPoint("before-log", logged=False, published=0, completed=False),
        CrashPoint("in-log", logged=False, published=0, completed=False),
        CrashPoint("after-log", logged=True, published=0, completed=False),
    ]
    for number in range(1, stores + 1):
        points += [
            CrashPoint(f"in-file-{number}", logged=True, published=number - 1, completed=False),
            CrashPoint(f"after-rename-{number}", logged=True, published=number, completed=False),
        ]
    return (
        *points,
        CrashPoint("in-complete", logged=True, published=stores, completed=False),
        CrashPoint("after-complete", logged=True, published=stores, completed=True),
    )


POINTS = crash_points()
"""Those that every batch comes by."""
