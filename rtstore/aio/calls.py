"""Calls that block, on their way through a worker thread, and what their caller on the loop gets.

A call is in a queue, or waits for the writer lock to become free, or is carried out. A cancellation
withdraws it before it is carried out; later it changes nothing but what is raised in the end.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from rtstore.commit.reporting import Observer, checked_observer, tell_observer
from rtstore.control.lock import POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_MIN, WriterLock
from rtstore.history.prune import PruneReport
from rtstore.model.records import Batch, QuarantinedFile, RecoveryReport

if TYPE_CHECKING:
    from rtstore.model.events import Event

logger = logging.getLogger("rtstore.aio")

Result = TypeVar("Result")
Other = TypeVar("Other")

RECHECK_S = 1.0
"""How often the loop looks for the end of a call that nobody announced to it."""

_told: ContextVar[deque[Event] | None] = ContextVar("_told", default=None)
"""What the call that is carried out in this context has told, for its caller's loop."""


class LoopObserver:
    """The observer of a store whose calls are carried out in threads: it keeps what a call tells
    for the loop of its caller. What is told outside of any call is told at once."""

    def __init__(self, on_event: Observer) -> None:
        self.on_event = checked_observer(on_event)

    def __call__(self, event: Event) -> None:
        """Be told of an event."""
        told = _told.get()
        if told is None:
            self.on_event(event)
        else:
            told.append(event)


class _NotBegunError(Exception):
    """The call was cancelled while it waited for its turn."""


class Call(Generic[Result]):
    """One call on its way through a worker thread. With `lock` it first waits until that is free,
    which can be given up; inside of the store it could not."""

    def __init__(
        self,
        name: str,
        function: Callable[[], Result],
        lock: WriterLock | None = None,
        *,
        ended: str = "it changed nothing",
    ) -> None:
        self.name = name
        self.future: Future[Result] = Future()
        self.on_event: Observer | None = None
        self._ended = ended
        self._function = function
        self._lock = lock
        self._called_at = time.monotonic()
        self._withdrawn = threading.Event()
        self._told: deque[Event] = deque()
        self._context = copy_context()
        self._context.run(_told.set, self._told)

    def start(self, executor: ThreadPoolExecutor) -> Self:
        """Put the call into the queue of an executor."""
        executor.submit(self.execute).add_done_callback(self.see_to_end)
        return self

    def start_alone(self) -> Self:
        """Start the call in a thread of its own, which ends with it."""
        executor = ThreadPoolExecutor(1, f"rtstore-{self.name}")
        self.start(executor)
        executor.shutdown(wait=False)
        return self

    def withdraw(self) -> None:
        """See to it that the call does not begin, unless it has."""
        self.future.cancel()
        self._withdrawn.set()

    def execute(self) -> None:
        """Carry the call out, in a worker thread, with the context variables of its caller."""
        if not self.begin():
            return
        try:
            self.wait_for_turn()
        except BaseException as error:  # noqa: BLE001 - it is for the caller
            self.fail(error)
        else:
            self.wait()

    def see_to_end(self, work: Future[None]) -> None:
        """The worker has done its work: an exception from nowhere may have kept it from saying
        so, and the caller must not wait for ever."""
        if not self.future.done():
            self.fail(work.exception() or _NotBegunError())

    def begin(self) -> bool:
        """Whether it is to be carried out, which from here on cannot be given up."""
        return self.future.set_running_or_notify_cancel()

    def wait(self) -> None:
        """Call the function, with the context variables of its caller: the outcome is its own."""
        try:
            result = self.in_context(self._function)
        except BaseException as error:  # noqa: BLE001 - as an executor does it
            self.fail(error)
            del self  # or the error, its traceback and this frame would hold each other
        else:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Have its outcome be an error, unless it has one."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def in_context(self, function: Callable[[], Other]) -> Other:
        """Call a function with the context variables of the caller."""
        return self._context.run(function)

    async def end(self, on_cancellation: Callable[[], None] | None = None) -> Result:
        """Wait for the end of the call, through any cancellation; the first is raised then, with
        what happened. By default a cancellation withdraws the call."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def arrive() -> None:
            ended.set()
            while self._told and self.on_event is not None:
                tell_observer(self.on_event, self._told.popleft())

        def announce(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                context = self._context.copy()
                context.run(_told.set, None)
                loop.call_soon_threadsafe(arrive, context=context)

        def look() -> None:  # whether the announcement was lost
            if self.future.done():
                arrive()
            elif not ended.is_set():
                loop.call_later(RECHECK_S, look)

        loop.call_later(RECHECK_S, look)
        self.future.add_done_callback(announce)
        cancellation: asyncio.CancelledError | None = None
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError as error:
                cancellation = cancellation or error
                (on_cancellation or self.withdraw)()
        if cancellation is None:
            return self.future.result()
        self._explain(cancellation)
        raise cancellation

    def wait_for_turn(self) -> None:
        """Wait until the lock is free. Raises `LockTimeoutError`, and when the call is given up."""
        lock, pause = self._lock, POLL_INTERVAL_S_MIN
        if lock is None:
            return
        while not self._withdrawn.is_set() and _is_held(lock):
            if time.monotonic() >= self._called_at + lock.timeout_s:
                raise lock.timed_out(lock.timeout_s)
            self._withdrawn.wait(pause)
            pause = min(2 * pause, POLL_INTERVAL_S_MAX)
        if self._withdrawn.is_set():
            raise _NotBegunError

    def _explain(self, cancellation: asyncio.CancelledError) -> None:
        """Say on the exception and in the log what became of the call."""
        error: BaseException | None = None
        result: Result | None = None
        if self.future.cancelled() or isinstance(self.future.exception(), _NotBegunError):
            outcome, text = "not_begun", "before it began: nothing of it was carried out"
        elif (error := self.future.exception()) is not None:
            outcome, text = "failed", f"while it ran, and failed: {type(error).__name__}: {error}"
            cancellation.__cause__ = error
        else:
            result = self.future.result()
            changed = _in_words(result) or self._ended
            outcome, text = "ended", f"while it ran, and ran to its end: {changed}"
        note = f"{self.name} was cancelled {text}"
        cancellation.add_note(note)
        begun_write = self._lock is not None and outcome != "not_begun"
        batch_id = getattr(result if error is None else error, "batch_id", None)
        extra = {"operation": self.name, "outcome": outcome, "batch_id": batch_id}
        logger.log(logging.WARNING if begun_write else logging.INFO, "%s", note, extra=extra)


def _is_held(lock: WriterLock) -> bool:
    try:
        return lock.is_held()
    except OSError:  # whoever takes the lock says what is wrong with it
        return False


def _in_words(result: object) -> str | None:
    """What a call has changed, or None when nothing is known of it."""
    if isinstance(result, Batch):
        return f"batch {result.batch_id} is {result.state}"
    if isinstance(result, RecoveryReport) and result.run_number is not None:
        outcomes = Counter(step.outcome for step in result.steps)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        return f"recovery run {result.run_number} is recorded ({counts})"
    if isinstance(result, PruneReport) and not result.dry_run:
        return f"{result.batches} batches and {result.contents} contents were dropped"
    if isinstance(result, QuarantinedFile):
        return f"{result.relative_path} is back where it was"
    return None
