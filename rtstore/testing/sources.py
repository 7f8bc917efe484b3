"""Times and ids that are the same in every run. Safe to share between threads."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)


class StepClock:
    """A clock that advances by one step at each call (default: one millisecond)."""

    def __init__(self, start: datetime = NOON, step: timedelta = timedelta(milliseconds=1)) -> None:
        self._start = start
        self._step = step
        self._count = itertools.count()

    def __call__(self) -> datetime:
        """Return the time, and advance the clock."""
        return self._start + next(self._count) * self._step


class Ids:
    """An id factory that returns `PREFIX-1`, `PREFIX-2`, ..."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """Return a new id."""
        return f"{self._prefix}-{next(self._count)}"
