"""Blocking calls that run in worker threads, awaited on the loop of their caller.

A call is in a queue, or waits for the writer lock to become free, or runs. A cancellation withdraws
it before it runs. Later a cancellation only changes what is raised at the end of the call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from inspect import CORO_CLOSED, getcoroutinestate
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary, ref

from rtstore.aio.outcome import Outcome
from rtstore.commit.group import UnderWay
from rtstore.commit.reporting import EventDispatcher, Observer, checked_observer, tell_observer
from rtstore.control.lock import POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_MIN, WriterLock
from rtstore.errors import RuntimeStoreError
from rtstore.foreign import system_error
from rtstore.history.prune import PruneReport
from rtstore.model.records import Batch, QuarantinedFile, RecoveryReport
from rtstore.model.runs import RunRecord
from rtstore.store import Run

if TYPE_CHECKING:
    from rtstore.model.events import Event

logger = logging.getLogger("rtstore.aio")

Result = TypeVar("Result")
Other = TypeVar("Other")
CallT = TypeVar("CallT", bound="Call[Any]")

RECHECK_S = 1.0
"""The most seconds between two checks of the loop for a call whose end was not announced."""
_TIMER_S = 0.01
"""In seconds. No timer of a loop ends earlier than it should by as much."""
_RECHECK = "rtstore: look whether the end of the call was announced"

_collected: ContextVar[deque[Event] | None] = ContextVar("_collected", default=None)
"""The events of the call that runs in this context, for its caller's loop."""
_around: ContextVar[tuple[object, Outcome[Any]] | None] = ContextVar("_around", default=None)
"""Whose call runs in this context, and its outcome."""


class LoopObserver:
    """The observer of a store whose calls run in threads. It collects the events of a call for the
    loop of its caller. It passes on an event outside of any call at once."""

    def __init__(self, on_event: Observer) -> None:
        self.on_event = checked_observer(on_event)

    def __call__(self, event: Event) -> None:
        """Collect an event, or pass it on when no call runs."""
        told = _collected.get()
        if told is None:
            self.on_event(event)
        else:
            told.append(event)


def told_on_the_loop(events: EventDispatcher) -> Observer | None:
    """Have the observer of an open store told on the loop of the call that causes an event. Return
    it."""
    told = events.on_event
    if told is None or isinstance(told, LoopObserver):  # which `open` gave it
        return None if told is None else told.on_event
    events.on_event = LoopObserver(told)
    return told


class _Arrivals:
    """What a loop is to hear. Calls that end together wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_asked = False
        """Whether the loop will look after now."""
        self._loop = ref(loop)
        self.arrived: deque[Callable[[], None]] = deque()
        """What the loop calls when it looks."""
        self._rechecked: tuple[float, list[asyncio.Future[None]]] = (float("-inf"), [])
        """Until when, in the time of the loop, futures may be added to the list; its timer is set
        for a while later."""

    def wake(self) -> None:
        """Have the loop look."""
        loop = self._loop()
        if loop is not None and not self.is_asked:
            self.is_asked = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._look)

    def recheck_later(self, waiting: asyncio.Future[None]) -> None:
        """Cancel a future with `_RECHECK` after at most `RECHECK_S`, if it is not done by then.

        One timer does so for all that began to wait meanwhile: a timer for each would cost more
        than all else that a call does on the loop. What it calls is in C: an exception in a
        callback of the loop cannot prevent it.
        """
        until, futures = self._rechecked
        loop = waiting.get_loop()
        now = loop.time()
        if now >= until:
            until, futures = now + RECHECK_S, []
            cancel = map(methodcaller("cancel", _RECHECK), futures)
            loop.call_at(until + _TIMER_S, deque[bool](maxlen=0).extend, cancel)
            self._rechecked = until, futures
        futures.append(waiting)

    def _look(self) -> None:
        self.is_asked = False
        while self.arrived:
            self.arrived.popleft()()


_arrivals: WeakKeyDictionary[asyncio.AbstractEventLoop, _Arrivals] = WeakKeyDictionary()


def _arrivals_of(loop: asyncio.AbstractEventLoop) -> _Arrivals:
    found = _arrivals.get(loop)
    if found is None:
        found = _arrivals[loop] = _Arrivals(loop)
    return found


class NotBegunError(Exception):
    """The call was cancelled while it waited for its turn."""


class WorkerEndedError(RuntimeError):
    """The thread that ran the call ended in the middle of it, after an exception from outside."""

    def __init__(self) -> None:
        super().__init__("the thread that ran the call ended in the middle of it")


class Call(Generic[Result]):
    """One call that runs in a worker thread. With `lock` it first waits until the lock is free. A
    cancellation can end that wait; it could not end a wait inside the store."""

    def __init__(
        self,
        name: str,
        function: Callable[[], Result],
        lock: WriterLock | None = None,
        *,
        ended: str = "it changed nothing",
    ) -> None:
        self.name = name
        self.outcome: Outcome[Result] = Outcome()
        self.on_event: Observer | None = None
        self.wakes: set[Callable[[], None]] | None = None
        """Where to put what wakes the loop, while several calls end together."""
        self.remind: Callable[[Call[Any]], object] = lambda _: None
        """Called now and then until the call ends: who runs it may have been interrupted."""
        self.executor: ThreadPoolExecutor | None = None
        """Whose queue it was put into last."""
        self.under_way: object = None
        """What is to be there as long as the call."""
        self._ended = ended
        self._function = function
        self._lock = lock
        self._called_at = time.monotonic()
        self._withdrawn = False
        self._explained: BaseException | None = None
        self._collected: deque[Event] = deque()
        self._context = copy_context()
        self._context.run(_collected.set, self._collected)

    def belong_to(self, owner: object) -> None:
        """Have `is_inside_call_of` know whose call it is."""
        self._context.run(_around.set, (owner, self.outcome))

    def start(self, executor: ThreadPoolExecutor) -> Self:
        """Put the call into the queue of an executor."""
        self.executor = executor
        executor.submit(self.execute).add_done_callback(self.see_to_end)
        return self

    def start_alone(self) -> Self:
        """Start the call in a thread of its own, which ends with it."""
        executor = ThreadPoolExecutor(1, f"rtstore-{self.name}")
        self.remind = _remind_alone
        self.start(executor)
        executor.shutdown(wait=False)
        return self

    def withdraw(self) -> None:
        """Prevent the call from beginning; no effect if it has begun."""
        self._withdrawn = True
        self.outcome.withdraw()

    @property
    def called_at(self) -> float:
        """When it was called, by `time.monotonic`."""
        return self._called_at

    def time_out(self) -> None:
        """End the call with `LockTimeoutError`; no effect if it has begun."""
        if self._lock is not None and self.outcome.begin():
            self.fail(self._lock.timed_out(self._lock.timeout_s))

    def execute(self) -> None:
        """Run the call in a worker thread, with the context variables of its caller."""
        if not self.outcome.begin():
            return
        try:
            self.wait_for_turn()
        except BaseException as error:  # noqa: BLE001 - it is for the caller
            self.fail(error)
        else:
            self.wait()

    def see_to_end(self, work: Future[None]) -> None:
        """Set an outcome when the worker ended without one: an asynchronous exception may have
        interrupted it, and the caller must not wait forever."""
        error = work.exception()
        if error is not None:
            self.fail(error)

    @property
    def is_lost(self) -> bool:
        """Whether the thread that had it has ended, and no outcome was set."""
        thread = self.outcome.thread
        return thread is not None and not thread.is_alive() and not self.outcome.is_known

    def wait(self, at_end: Callable[[], None] = lambda: None) -> None:
        """Call the function, with the context variables of its caller, and set its outcome. Call
        `at_end` right before."""
        try:
            result = self.in_context(self._function)
        except BaseException as error:  # noqa: BLE001 - as an executor does it
            at_end()
            self.fail(error)
            del self  # or the error, its traceback and this frame would hold each other
        else:
            at_end()
            self.outcome.succeed(result)

    def fail(self, error: BaseException) -> None:
        """Set an error as the outcome, unless there is one."""
        self.outcome.fail(error)

    def explain_to(self, error: BaseException) -> None:
        """Withdraw the call, and add a note to an exception that came while a task waited for it:
        what is known of it. An outcome, an error of the store and a cancellation say it already."""
        if isinstance(error, RuntimeStoreError):
            self.withdraw()  # it is the outcome, or the call was not admitted
            return
        if isinstance(error, GeneratorExit) or error is self._explained:
            return
        if self.outcome.is_known and (self.outcome.is_withdrawn or self.outcome.error is error):
            return
        self._explained = error
        self.withdraw()
        if self._lock is not None:
            self.add_notes(error)

    def add_notes(self, error: BaseException) -> None:
        """Add what is known of the call to an exception."""
        for note in (f"rtstore: {note}" for note in self._describe()):
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)

    @property
    def has_not_begun(self) -> bool:
        """Whether it was withdrawn before it began."""
        return self.outcome.is_withdrawn or isinstance(self.outcome.error, NotBegunError)

    def _describe(self) -> list[str]:
        """Return what is known of a write, as text."""
        if self.has_not_begun:
            return [f"nothing of {self.name} was carried out"]
        if not self.outcome.is_known:
            unknown = f"it is not known whether {self.name} is carried out"
            return [f"{unknown}: once it has ended, store.{self.ask}() says"]
        error = self.outcome.error
        if error is not None:
            return [f"{self.name}: {type(error).__name__}: {error}"]
        return [_in_words(self.outcome.result()) or self._ended]

    @property
    def ask(self) -> str:
        """The method of the store that tells what came of it."""
        return "runs" if self.name in ("begin_run", "end_run") else "batches"

    def in_context(self, function: Callable[[], Other]) -> Other:
        """Call a function with the context variables of the caller."""
        return self._context.run(function)

    async def end(
        self,
        on_cancellation: Callable[[], None] | None = None,
        *,
        start: Callable[[], None] = lambda: None,
    ) -> Result:
        """Wait for the end of the call, through any cancellation. Then raise the first
        cancellation, with a note of what happened. `on_cancellation` is called at each one; by
        default it withdraws the call.

        `start` is called last before waiting: the thread that it wakes needs the interpreter lock,
        and would only wait for it while this one prepares to wait.
        """
        waiter = _Waiter(self)
        start()
        cancellation: asyncio.CancelledError | None = None
        while not waiter.has_ended:
            try:
                await waiter.wait()
            except asyncio.CancelledError as error:
                cancellation = cancellation or error
                (on_cancellation or self.withdraw)()
        if cancellation is None:
            return self.outcome.result()
        self._explain(cancellation)
        raise cancellation

    def tell(self) -> None:
        """Pass the events of the call on to the observer, on the loop."""
        while self._collected and self.on_event is not None:
            tell_observer(self.on_event, self._collected.popleft())

    def told_context(self) -> Context:
        """Return the context variables of the caller, for its observer: what that does is not part
        of the call."""
        context = self._context.copy()
        context.run(_collected.set, None)
        context.run(_around.set, None)
        return context

    def wait_for_turn(self, is_first: Callable[[], bool] = lambda: True) -> None:
        """Wait until the call is the first of its queue, and the lock is free. Raises
        `LockTimeoutError`, and `NotBegunError` when the call is withdrawn."""
        lock, pause = self._lock, POLL_INTERVAL_S_MIN
        if lock is None:
            return
        while not self._withdrawn and not (is_first() and not _is_held(lock)):
            if time.monotonic() >= self._called_at + lock.timeout_s:
                raise lock.timed_out(lock.timeout_s)
            time.sleep(pause)
            pause = min(2 * pause, POLL_INTERVAL_S_MAX)
        if self._withdrawn:
            raise NotBegunError

    def _explain(self, cancellation: asyncio.CancelledError) -> None:
        """Add the outcome of the call to the exception, and write it to the log."""
        error: BaseException | None = None
        result: Result | None = None
        if self.has_not_begun:
            outcome, text = "not_begun", "before it began: nothing of it was carried out"
        elif (error := self.outcome.error) is not None:
            outcome, text = "failed", f"while it ran, and failed: {type(error).__name__}: {error}"
            cancellation.__cause__ = error
        else:
            result = self.outcome.result()
            changed = _in_words(result) or self._ended
            outcome, text = "ended", f"while it ran, and ran to its end: {changed}"
        note = f"{self.name} was cancelled {text}"
        cancellation.add_note(note)
        self._explained = cancellation
        begun_write = self._lock is not None and outcome != "not_begun"
        source = result.batch if isinstance(result, Run) else result
        batch_id = getattr(source if error is None else error, "batch_id", None)
        extra = {"operation": self.name, "outcome": outcome, "batch_id": batch_id}
        logger.log(logging.WARNING if begun_write else logging.INFO, "%s", note, extra=extra)


class _Closable(Protocol):
    has_no_more_writes: bool


class TaskUnderWay(UnderWay):
    """A call of a task that may write a batch: from the moment of the call, which makes a
    coroutine, until its outcome is known, or the coroutine ends without having begun, or cannot
    begin any more."""

    def __init__(self, batch_id: str | None, pools: _Closable) -> None:
        super().__init__(batch_id)
        self._pools = pools
        self._coroutine: Callable[[], Coroutine[Any, Any, Any] | None] | None = None
        self._outcome: Outcome[Any] | None = None

    def of(self, coroutine: Coroutine[Any, Any, Other]) -> Coroutine[Any, Any, Other]:
        """Be that of a coroutine, and return it."""
        self._coroutine = ref(coroutine)
        return coroutine

    def begun(self, call: CallT) -> CallT:
        """Be that of a call, whatever becomes of the coroutine, and return it."""
        self._outcome = call.outcome
        call.under_way = self
        return call

    @property
    def has_ended(self) -> bool:
        """Whether it has, or never begins."""
        if super().has_ended:
            return True
        if self._outcome is not None:
            return self._outcome.is_known
        if self._pools.has_no_more_writes:
            return True
        coroutine = None if self._coroutine is None else self._coroutine()
        return coroutine is None or getcoroutinestate(coroutine) == CORO_CLOSED

    @property
    def is_around(self) -> bool:
        """Whether it is asked inside of a function that this very call runs."""
        found = _around.get()
        return found is not None and found[1] is self._outcome


def is_inside_call_of(owner: object) -> bool:
    """Return whether this is asked inside of a function, or a coroutine, that a call of `owner`
    runs: what waits there for the end of the call waits for itself."""
    found = _around.get()
    return found is not None and found[0] is owner and not found[1].is_known


def has_dead_thread(executor: ThreadPoolExecutor) -> bool:
    """Return whether an exception from outside has ended a thread of an executor. The executor
    starts no other in its place, and what that thread had taken from the queue is lost."""
    threads = list(executor._threads)  # noqa: SLF001 - there is no public way to ask
    return not all(thread.is_alive() for thread in threads)


def _remind_alone(call: Call[Any]) -> None:
    """Start a call again whose thread has ended before it began."""
    if call.is_lost:
        call.fail(WorkerEndedError())
    elif (
        call.outcome.thread is None and call.executor is not None and has_dead_thread(call.executor)
    ):
        call.start_alone()


def _is_held(lock: WriterLock) -> bool:
    try:
        return lock.is_held()
    except system_error():  # taking the lock reports the error
        return False


def _in_words(result: object) -> str | None:
    """Return a sentence about what a call has changed, or None when it is unknown."""
    if isinstance(result, Batch):
        return f"batch {result.batch_id} is {result.state}"
    if isinstance(result, RecoveryReport) and result.run_number is not None:
        outcomes = Counter(step.outcome for step in result.steps)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        return f"recovery run {result.run_number} is recorded ({counts})"
    if isinstance(result, PruneReport) and not result.dry_run:
        return f"{result.batches} batches and {result.contents} contents were dropped"
    if isinstance(result, Run):
        how = "is resumed" if result.batch is None else f"began in batch {result.batch.batch_id}"
        return f"run {result.run_id} {how}, and is active"
    if isinstance(result, RunRecord):
        return f"run {result.run_id} ended as {result.ending}"
    if isinstance(result, QuarantinedFile):
        return f"{result.relative_path} is back where it was"
    return None


class _Waiter:
    """Waits on a loop for the end of a call. Any number may wait for one call."""

    def __init__(self, call: Call[Any]) -> None:
        self.has_ended = False
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._arrivals = _arrivals_of(self._loop)
        self._ended = self._loop.create_future()
        self._thread = threading.get_ident()
        call.outcome.call_back(self._announce)

    async def wait(self) -> None:
        """Wait for the end of the call, or of the waiting task; or for a while, then find out
        whether the announcement was lost."""
        if self._ended.done():
            self._ended = self._loop.create_future()
        self._arrivals.recheck_later(self._ended)
        try:
            await self._ended
        except asyncio.CancelledError as error:
            if error.args != (_RECHECK,):
                raise
            self._look()

    def _announce(self) -> None:
        call, arrive = self._call, self._arrive
        if call.on_event is not None:
            arrive = partial(call.told_context().run, arrive)
        self._arrivals.arrived.append(arrive)
        if call.wakes is None or threading.get_ident() == self._thread:  # it was withdrawn here
            self._arrivals.wake()
        else:
            call.wakes.add(self._arrivals.wake)

    def _arrive(self) -> None:
        self.has_ended = True
        if not self._ended.done():
            self._ended.set_result(None)
        self._call.tell()

    def _look(self) -> None:
        """Find out whether the announcement was lost."""
        self._arrivals.is_asked = False
        if self._call.outcome.is_known:
            self._arrive()
        else:
            self._call.remind(self._call)
