"""A crash in this process, simulated: what the writer had done stays, and nothing is added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rtstore.testing.dying import Watch, dying_at
from rtstore.testing.points import CrashPoint


class SimulatedCrash(BaseException):
    """Stands for the death of the process: no handler of errors answers it."""


class PointNotReachedError(AssertionError):
    """Nothing died: no batch came by the point, so nothing was tried."""


class Crash:
    """A crash that is about to happen, or has."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.point = watch.point

    @property
    def happened(self) -> bool:
        """Whether the process is dead."""
        return self._watch.is_dead

    @property
    def batch_ids(self) -> tuple[str, ...]:
        """The batch that was under way, with those that shared its flush."""
        return self._watch.batch_ids


@contextmanager
def crash_at(point: CrashPoint | str, *, batch: int = 1) -> Iterator[Crash]:
    """Have the block die when it comes to a point of a batch, as if its process had been killed.

    At the point `SimulatedCrash` is raised, through everything that the runtime has on the way; it
    ends the block, and is not raised beyond it. From the point to the end of the block nothing of
    rtstore works in this process, in any thread: it is dead. Stores that were used in the block are
    closed then. What is left in the directory is what a killed process leaves: half a batch, a
    temporary file, the log; only the WAL may have been merged into the database. The writer lock is
    free.

    Works for stores that are opened in the block or before it, and for `AsyncRuntimeStore`.
    `batch` counts the batches that are written in the block, from 1. Raises `PointNotReachedError`
    when there was no such batch, or it has fewer files. What the block raises by itself comes out
    unchanged.
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
    """Whether an error is the crash, or what became of it on its way out."""
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
    """What to tell of a point that no batch came by."""
    if not passed:
        return f"batch {batch} was never written, so nothing died at {point}"
    return f"batch {batch} came by {', '.join(passed)}, but not by {point}, so nothing died"


def _raise(watch: Watch) -> None:
    raise SimulatedCrash(f"crashed at {watch.point}")
