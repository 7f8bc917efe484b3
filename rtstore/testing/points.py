"""The points of the commit protocol at which a writer can die."""

from __future__ import annotations

from typing import NamedTuple


class CrashPoint(NamedTuple):
    """A moment in the commit protocol, and the state of the batch at that moment."""

    name: str
    logged: bool
    """Whether the batch is in the log, durably: recovery will complete it."""
    published: int
    """The number of its files that have their new version, or are gone."""
    completed: bool
    """Whether the batch is committed."""

    def __str__(self) -> str:
        return self.name


def crash_points(stores: int = 1, *, deleted: int = 0) -> tuple[CrashPoint, ...]:
    """Return all points that the writer of a batch of `stores` stores reaches, in order. `deleted`
    is how many of them the batch deletes.

    `before-log`, `in-log` and `after-log` are before, inside and after the SQL transaction whose
    commit is the commit point of the batch. At `in-file-2` half of the second file is written, to a
    temporary file. At `after-rename-2` that file has its name; a store that is deleted comes after
    those that are written, and has this point alone, where its file is gone. `in-complete` and
    `after-complete` are inside and after the last SQL transaction. Raises `ValueError` when
    `stores` is less than 1, or `deleted` is less than 0 or more than `stores`.
    """
    if stores < 1:
        raise ValueError(f"a batch writes at least one store, not {stores}")
    if not 0 <= deleted <= stores:
        raise ValueError(f"a batch of {stores} stores does not delete {deleted} of them")
    points = [
        CrashPoint("before-log", logged=False, published=0, completed=False),
        CrashPoint("in-log", logged=False, published=0, completed=False),
        CrashPoint("after-log", logged=True, published=0, completed=False),
    ]
    for number in range(1, stores + 1):
        if number <= stores - deleted:
            points.append(
                CrashPoint(f"in-file-{number}", logged=True, published=number - 1, completed=False)
            )
        points.append(
            CrashPoint(f"after-rename-{number}", logged=True, published=number, completed=False)
        )
    return (
        *points,
        CrashPoint("in-complete", logged=True, published=stores, completed=False),
        CrashPoint("after-complete", logged=True, published=stores, completed=True),
    )


POINTS = crash_points()
"""The points of a batch that writes one store."""
