"""A simulated crash in this process: everything written before it stays, nothing is added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rtstore.testing.dying import Watch, dying_at
from rtstore.testing.points import CrashPoint


class SimulatedCrash(BaseException):
    """Raised in place of the death of the process. A BaseException, so that `except Exception` does
    not catch it."""


class PointNotReachedError(AssertionError):
    """No batch reached the crash point, so nothing crashed and nothing was tested."""


class Crash:
    """A crash that will happen, or has happened."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.point = watch.point

    @property
    def happened(self) -> bool:
        """Whether the simulated process is dead."""
        return self._watch.is_dead

    @property
    def batch_ids(self) -> tuple[str, ...]:
        """The ids of the batch that was under way and of those that shared its flush."""
        return self._watch.batch_ids


@contextmanager
def crash_at(point: CrashPoint | str, *, batch: int = 1) -> Iterator[Crash]:
    """Crash the block when it reaches a point of a batch, as if its process had been killed.

    `SimulatedCrash` is raised at the point, passes through the runtime's code, and ends the block;
    it is not raised beyond the block. From the point to the end of the block rtstore does not work
    in this process, in any thread. At the end of the block the stores used in it are closed. The
    directory then holds what a killed process leaves: half a batch, a temporary file, the log. Only
    the WAL may have been merged into the database. The writer lock is free.

    Works for stores opened in the block or before it, and for `AsyncRuntimeStore`. `batch` is the
    number of the batch to crash in, counting the batches written in the block from 1. Raises
    `PointNotReachedError` when there is no such batch, or it has fewer files, `ValueError` for an
    unknown point, and `RuntimeError` inside another `crash_at`. Exceptions of the block itself are
    raised unchanged.
    """
    watch = Watch(point, batch, _raise)
    crash = Crash(watch)
    try:
        with dying_at(watch):
            try:
                yield crash
            except BaseException as error:
                if not stems_from_the_crash(error):
                    raise
    finally:
        if watch.is_dead:
            for database in watch.databases:
                database.close(tidy=False)
    if not watch.is_dead:
        raise PointNotReachedError(not_reached(watch.point, batch, watch.passed))


def stems_from_the_crash(error: BaseException | None) -> bool:
    """Return whether an error is the crash, or was caused by it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, SimulatedCrash):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(stems_from_the_crash(part) for part in error.exceptions)
        error = error.__cause__ or error.__context__
    return False


def not_reached(point: str, batch: int, passed: list[str]) -> str:
    """Return the message for a point that no batch reached."""
    if not passed:
        return f"batch {batch} was never written, so nothing died at {point}"
    return f"batch {batch} came by {', '.join(passed)}, but not by {point}, so nothing died"


def _raise(watch: Watch) -> None:
    raise SimulatedCrash(f"crashed at {watch.point}")
