"""Report events to the log and to the observer of a store.

The records of `rtstore.model.events` are made only if the log or an observer listens. Their module
is imported then, or when a store is opened for writing. An event under the writer lock, or deep
inside an operation, goes into a queue. The call that caused it reports it at its end, in the
calling thread, without the lock.

A failing observer harms nothing: its error goes to the log with its traceback, and to standard
error when the log has no handler.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from rtstore.commit.draft import PlannedBatch
from rtstore.commit.group import PendingBatch
from rtstore.control import recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    BatchFailedError,
    BatchUnfinishedError,
    InvalidRequestError,
    RuntimeStoreError,
)
from rtstore.forks import no_fork
from rtstore.model import arguments
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    Batch,
    QuarantinedFile,
    ReadinessCheck,
    ReadinessReason,
    RecoveryAction,
    RecoveryPlan,
    RecoveryStep,
    RecoveryTrigger,
)

if TYPE_CHECKING:
    from rtstore.model import events
    from rtstore.model.events import Event

logger = logging.getLogger("rtstore.events")

Observer = Callable[["Event"], object]
"""Called with each event. Its return value is ignored."""


def checked_observer(on_event: Observer) -> Observer:
    """Return the observer if it is a plain function. Raises `InvalidRequestError` otherwise: a
    coroutine function would never be awaited."""
    if arguments.is_coroutine_function(on_event):
        raise InvalidRequestError("on_event", "must be a plain function: nobody would await it")
    return arguments.function(on_event, "on_event")


class EventDispatcher:
    """Makes and reports the events of one store. Safe to share between threads.

    Without a listener it makes no events, and costs almost nothing.
    """

    def __init__(
        self, database: Database, team_name: str = "", on_event: Observer | None = None
    ) -> None:
        self._database = database
        self._team_name = team_name
        self.on_event = on_event
        """Who is told."""
        self._queue: deque[Callable[[], tuple[int, Event]]] = deque()

    def is_heard(self, level: int) -> bool:
        """Return whether an observer, or the log at that level, listens."""
        return self.on_event is not None or _is_logged(level)

    # --- under the lock: put into the queue -------------------------------------------------------

    def quarantined(self, file: QuarantinedFile) -> None:
        """Queue the event that a file was quarantined; its row is written."""
        if self.is_heard(logging.WARNING):
            self._queue.append(lambda: self._quarantined(file))

    def recovered(
        self,
        run_number: int,
        started_by: RecoveryTrigger,
        steps: Sequence[RecoveryStep],
        duration_s: float,
    ) -> None:
        """Queue the event that a recovery ended."""
        if self.is_heard(_level(steps)):
            ended = tuple(steps)
            self._queue.append(lambda: self._recovered(run_number, started_by, ended, duration_s))

    # --- without the lock: report -----------------------------------------------------------------

    def tell(self) -> None:
        """Report all queued events, of any thread."""
        while self._queue:
            try:
                make = self._queue.popleft()
            except IndexError:  # another thread was quicker
                return
            level, event = make()
            self._tell(level, event)

    def batches_ended(self, pending: Sequence[PendingBatch], duration_s: float) -> None:
        """Report the queued events, and the outcomes of the batches that a call submitted. Each
        outcome is reported with the context variables of its submitter."""
        self.tell()
        if not self.is_heard(logging.WARNING):
            return
        commits_are_heard = self.is_heard(logging.DEBUG)
        for pending_batch in pending:
            planned = pending_batch.planned
            if planned is None:
                continue  # it was refused, or an earlier call wrote it
            if commits_are_heard or planned.quarantined or pending_batch.batch is None:
                pending_batch.run(partial(self._batch_ended, duration_s, planned))

    def _batch_ended(
        self, duration_s: float, planned: PlannedBatch, pending_batch: PendingBatch
    ) -> None:
        batch, error = pending_batch.batch, pending_batch.error
        if batch is None and not (
            isinstance(error, BatchFailedError | BatchUnfinishedError)
            and error.batch_id == planned.batch_id
        ):
            return  # the database has no record of it
        for file in planned.quarantined:
            self.quarantined(file)
        self.tell()
        if batch is not None:
            if self.is_heard(logging.DEBUG):
                self._tell(logging.DEBUG, self._committed(batch, duration_s))
        elif isinstance(error, BatchFailedError):
            self._tell(logging.WARNING, self._failed(error, duration_s))
        elif isinstance(error, BatchUnfinishedError):
            self._tell(logging.WARNING, self._unfinished(error, duration_s))

    def checked(self, plan: RecoveryPlan, check: ReadinessCheck) -> None:
        """Report a readiness check, unless it is ready."""
        if not check.ok and self.is_heard(logging.INFO):
            self._tell(logging.INFO, self._not_ready(plan, check))

    def _tell(self, level: int, event: Event) -> None:
        if _is_logged(level):
            logger.log(level, "%s", event.message, extra=event.log_fields())
        if self.on_event is not None:
            tell_observer(self.on_event, event)

    # --- the events -------------------------------------------------------------------------------

    @property
    def _where(self) -> dict[str, Any]:
        return {"team_name": self._team_name, "directory": self._database.path.parent}

    def _committed(self, batch: Batch, duration_s: float) -> Event:
        load_events()
        return events.BatchCommitted(
            **self._where,
            batch_id=batch.batch_id,
            stores=batch.stores,
            duration_s=duration_s,
            batch=batch,
        )

    def _failed(self, error: BatchFailedError, duration_s: float) -> Event:
        load_events()
        return events.BatchFailed(
            **self._where,
            batch_id=error.batch_id,
            stores=(error.store,),
            duration_s=duration_s,
            cause=error.cause,
            undone=error.undone,
        )

    def _unfinished(self, error: BatchUnfinishedError, duration_s: float) -> Event:
        load_events()
        return events.BatchUnfinished(
            **self._where,
            batch_id=error.batch_id,
            duration_s=duration_s,
            cause=error.cause,
            decided=error.decided,
        )

    def _quarantined(self, file: QuarantinedFile) -> tuple[int, Event]:
        load_events()
        with suppress(RuntimeStoreError):  # then the event has no number
            file = (
                self._database.read(
                    partial(recovery_log.find_quarantined_at, quarantine_path=file.quarantine_path)
                )
                or file
            )
        return logging.WARNING, events.FileQuarantined(
            **self._where,
            batch_id=file.batch_id,
            stores=() if file.schema_name is None else (file.schema_name,),
            file=file,
        )

    def _recovered(
        self,
        run_number: int,
        started_by: RecoveryTrigger,
        steps: tuple[RecoveryStep, ...],
        duration_s: float,
    ) -> tuple[int, Event]:
        load_events()
        return _level(steps), events.StoreRecovered(
            **self._where,
            stores=_stores(step.action for step in steps),
            duration_s=duration_s,
            started_by=started_by,
            run_number=run_number,
            steps=steps,
        )

    def _not_ready(self, plan: RecoveryPlan, check: ReadinessCheck) -> Event:
        load_events()
        degraded = check.reason is ReadinessReason.REBUILD_IN_PROGRESS
        return events.NotReady(
            **self._where,
            kind=events.EventKind.DEGRADED if degraded else events.EventKind.BLOCKED,
            stores=_stores(plan.actions),
            check=check,
            plan=plan,
        )


@cache
def load_events() -> None:
    """Import what makes events, and hold it: while the interpreter ends, no import works, not even
    of what was imported before."""
    global events  # noqa: PLW0603
    with no_fork():
        from rtstore.model import events


def tell_observer(on_event: Observer, event: Event) -> None:
    """Call an observer. Log its exception, if any; the event has happened all the same."""
    try:
        on_event(event)
    except Exception as error:  # noqa: BLE001 - it is an observer's own
        _report(error, event)


def _level(steps: Iterable[RecoveryStep]) -> int:
    failed = any(step.outcome is ActionOutcome.FAILED for step in steps)
    return logging.WARNING if failed else logging.INFO


def _stores(actions: Iterable[RecoveryAction]) -> tuple[str, ...]:
    """Return the stores that an action concerns, each once."""
    names = (action.schema_name for action in actions if action.kind is not ActionKind.NONE)
    return tuple(dict.fromkeys(names))


def _report(error: Exception, event: Event) -> None:
    """Log the exception of an observer. If the program never set up logging, write it to standard
    error, as Python's `logging.lastResort` does."""
    record = logger.makeRecord(
        logger.name,
        logging.ERROR,
        __file__,
        0,
        "the observer raised %s when it was told: %s",
        (type(error).__name__, event.message),
        (type(error), error, error.__traceback__),
        extra=event.log_fields(),
    )
    if _is_logged(logging.ERROR):
        logger.handle(record)
    if not _has_listeners() and logging.lastResort is not None:
        logging.lastResort.handle(record)


def _is_logged(level: int) -> bool:
    """Return whether the log takes a record of a level.

    `Logger.isEnabledFor` may wait for the lock of `logging`. A fork takes that, and where an
    exception of a signal handler cuts off the fork, nobody releases it. The caller may hold the
    writer lock.
    """
    return level >= logger.getEffectiveLevel() and level > logger.manager.disable


def _has_listeners() -> bool:
    """Return whether a handler other than `NullHandler` receives the records of our logger."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False
