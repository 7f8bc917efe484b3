"""Thread pools for an event loop, each with a queue of calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import io
import marshal
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar
from weakref import WeakSet

from rtstore.aio.calls import (
    Call,
    NotBegunError,
    WorkerEndedError,
    has_dead_thread,
    is_inside_call_of,
)
from rtstore.commit.group import (
    FORKED_IN_CALL,
    OUTCOME_S_MAX,
    PendingBatch,
    Place,
    WriteQueue,
    explain,
)
from rtstore.commit.reporting import Observer
from rtstore.commit.writer import BatchWriter
from rtstore.control.lock import POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_MIN, WriterLock
from rtstore.errors import (
    FORKED,
    DatabaseLockedError,
    InvalidRequestError,
    LockTimeoutError,
    StoreClosedError,
    WalNotSavedError,
)
from rtstore.model.descriptors import StoreKey
from rtstore.model.records import Batch
from rtstore.model.request import Writes, pairs
from rtstore.recovery.rebuilders import Rebuilder, Rebuilders, RebuildRequest, given_rebuilders

LINGER_S = 0.1
"""In seconds. How long the thread that has served listens for more, before the executor has it
back. Waking it costs half of what a call of the executor does."""
UNSERVED_S_MAX = 0.2
"""In seconds. When no thread serves this long after one was asked, another one is started."""

_CLOSED_INSIDE = "a function that runs inside a call must not close the same store"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


_CLOSE_AGAIN = DatabaseLockedError, WalNotSavedError
"""What closing raises where it could not save everything yet: closing again tries again."""


class ThreadPools:
    """The thread pools of one store; each pool is a queue and its threads.

    `directory` is for messages. Not for use after a fork: the threads stay with the parent.
    """

    def __init__(
        self,
        directory: Path,
        lock: WriterLock,
        queue: WriteQueue,
        on_event: Observer | None = None,
    ) -> None:
        self.reads = Pool(self, "read", 4)
        self.plans = Pool(self, "plan", 2)
        self.writes = WritePool(self, lock, queue)
        self.recoveries = Pool(self, "recover", 64, lock)
        self.on_event = on_event
        self._directory = directory
        self._admission = threading.RLock()
        self._closing: Call[None] | None = None
        self.has_no_more_writes = False
        """Whether it is closed, and every write that had begun has ended."""
        self._asking: WeakSet[Asking] = WeakSet()
        self._pid = os.getpid()

    def check_open(self) -> None:
        """Raise `StoreClosedError` when no call is admitted any more."""
        if self.is_of_parent:
            raise StoreClosedError(self._directory, FORKED)
        if self._closing is not None:
            raise StoreClosedError(self._directory, "is closed")

    def admit(self, start: Callable[[], None]) -> None:
        """Call a function that starts a call. Raises `StoreClosedError`."""

        def start_unless_closed() -> None:
            self.check_open()
            start()

        self.check_open()  # before the lock: a thread of the parent may have it for ever
        self._alone(start_unless_closed)

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that has the threads."""
        return os.getpid() != self._pid

    def asking(self) -> Asking:
        """Return one that closing waits for until it is closed, or gone. Raises
        `StoreClosedError`."""
        found = Asking()
        self.admit(partial(self._asking.add, found))
        return found

    def forked_in_call(self) -> StoreClosedError:
        """Return the error for a call in which this process was forked."""
        return StoreClosedError(self._directory, FORKED_IN_CALL)

    def _alone(self, function: Callable[[], None]) -> None:
        """Call a function while no other thread is in here."""
        try:
            self._with_lock(function)
        finally:  # an exception at the very end of the block would leave it locked
            with suppress(RuntimeError):  # it is not: as nearly always
                self._admission.release()

    def _with_lock(self, function: Callable[[], None]) -> None:
        with self._admission:
            function()

    async def close(self, at_last: Callable[[], None]) -> None:
        """Refuse further calls, wait for those admitted before, end the threads, then call
        `at_last`. A cancellation does not interrupt this. A second call of `close` waits too; where
        the first could not save everything, it tries again.
        Raises `InvalidRequestError` inside of a call, which would wait for itself."""
        if self.is_of_parent:
            return
        if is_inside_call_of(self):
            raise InvalidRequestError("call", _CLOSED_INSIDE)
        self._alone(partial(self._begin_closing, at_last))
        assert self._closing is not None  # noqa: S101 - as it was just begun
        await self._closing.end(on_cancellation=lambda: None)

    def _begin_closing(self, at_last: Callable[[], None]) -> None:
        before = None if self._closing is None else self._closing.outcome
        if before is None or (before.is_known and isinstance(before.error, _CLOSE_AGAIN)):
            function = partial(self._close, at_last)
            self._closing = Call("close", function, ended="the store is closed").start_alone()

    def _close(self, at_last: Callable[[], None]) -> None:
        for pool in (self.recoveries, self.plans, self.writes):
            pool.close()
        self.has_no_more_writes = True
        self._wait_for_asking()
        self.reads.close()
        at_last()

    def _wait_for_asking(self) -> None:
        """Let those read who wait for the outcome of a write. A loop that has stopped delays this
        for a while only."""
        deadline = time.monotonic() + OUTCOME_S_MAX
        while not all(each.closed for each in list(self._asking)) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S_MIN)


class Asking(io.BytesIO):
    """A task that waits for the outcome of a write, to read it then; closed when it has. (It is a
    `BytesIO` because its `__exit__` is in C.)"""


class Pool:
    """Calls that queue for the same threads. With `lock` each waits until the lock is free."""

    def __init__(
        self, workers: ThreadPools, name: str, threads: int, lock: WriterLock | None = None
    ) -> None:
        self._new_executor = partial(ThreadPoolExecutor, threads, f"rtstore-{name}")
        self.executor = self._new_executor()
        self._workers = workers
        self._lock = lock

    async def run(
        self,
        method: Callable[Parameters, Result],
        *args: Parameters.args,
        **options: Parameters.kwargs,
    ) -> Result:
        """Call a method in a thread; return what it returns, raise what it raises."""
        call = Call(method.__name__, partial(method, *args, **options), self._lock)
        return await self.run_call(call)

    async def run_call(
        self,
        call: Call[Result],
        on_cancellation: Callable[[], None] | None = None,
        *,
        is_admitted: bool = False,
    ) -> Result:
        """Start a call and wait for its end; see `Call.end` for `on_cancellation`. One that
        `is_admitted` is part of an asking, which closing waits for."""
        try:
            call.on_event = self._workers.on_event
            call.belong_to(self._workers)
            start = partial(self._start, call)
            if not is_admitted:
                start = partial(self._workers.admit, start)
            return await call.end(on_cancellation, start=start)
        except BaseException as error:
            call.explain_to(error)
            raise

    def close(self) -> None:
        """Wait for the calls, and end the threads."""
        self.executor.shutdown(wait=True)

    def _start(self, call: Call[Any]) -> None:
        call.remind = self._remind
        call.start(self.executor)

    def _remind(self, call: Call[Any]) -> None:
        """Go on with a call after an exception from outside has ended threads."""
        if self._workers.is_of_parent:
            call.fail(self._workers.forked_in_call())
        elif call.is_lost:
            call.fail(WorkerEndedError())
        elif call.outcome.thread is None:
            if has_dead_thread(self.executor):
                self._renew()
            if call.executor is not self.executor:
                call.start(self.executor)

    def _renew(self) -> None:
        """Have new threads. The others carry out what they have."""
        before, self.executor = self.executor, self._new_executor()
        before.shutdown(wait=False)


class BatchCall(Call[Batch]):
    """A call that writes one batch, from a place of its own in the queue of the store.

    `submit` checks and encodes the batch, in the thread that serves the tasks.
    """

    def __init__(self, submit: Callable[[], PendingBatch], writer: BatchWriter) -> None:
        self._pending: list[PendingBatch] = []
        """Its batch, once it is encoded."""
        super().__init__("write_batch", partial(_result_of, self._pending), writer.lock)
        self._submit = submit
        self._writer = writer
        self._began_at = time.perf_counter()
        self._timed_out: LockTimeoutError | None = None
        """Its outcome unless a leader has its batch, once it has waited too long."""

    def withdraw(self) -> None:
        """Prevent the batch from being written; no effect if a leader has it."""
        super().withdraw()
        self._give_up(NotBegunError("the call was cancelled"))

    def time_out(self) -> None:
        """End the call with `LockTimeoutError`; no effect if a leader has its batch."""
        lock = self._writer.lock
        self._timed_out = lock.timed_out(lock.timeout_s)
        super().time_out()
        self._give_up(self._timed_out)

    def _give_up(self, error: Exception) -> None:
        for item in self._pending:
            item.give_up(error, self._writer.directory)
            if item.error is error:
                self.fail(error)

    def encode(self, place: Place) -> None:
        """Check and encode the batch for its place, unless the call was cancelled."""
        try:
            if self.outcome.begin() or not self.outcome.is_known:  # its thread may have died
                self._pending.append(self.in_context(self._submit))
        except BaseException as error:  # noqa: BLE001 - as an executor does it
            self.fail(error)
        place.pending = self._pending
        if self._timed_out is not None:  # it came while the batch was encoded
            self._give_up(self._timed_out)
        if self._withdrawn:
            self.withdraw()

    def serve(self, place: Place) -> None:
        """Write the batch from its place, unless a leader has written it already. Report its
        events."""
        error: BaseException | None = None
        try:
            self._writer.serve(place)
            duration_s = time.perf_counter() - self._began_at
            self.in_context(partial(self._writer.events.batches_ended, self._pending, duration_s))
        except BaseException as raised:  # noqa: BLE001 - as an executor does it
            error = raised
        if error is not None and not any(item.is_done for item in self._pending):
            self.fail(error)
        elif not self.outcome.is_known:
            self.wait()
        del error  # or the error, its traceback and this frame would hold each other

    def fail(self, error: BaseException) -> None:
        """Set an error as the outcome, with a note of what is known of the batch."""
        if isinstance(error, WorkerEndedError):
            self.add_notes(error)
        elif not self.outcome.is_known:
            explain(error, self._pending)
        super().fail(error)

    def _describe(self) -> list[str]:
        if self.has_not_begun:
            return ["nothing of the batch was written"]
        unknown = (
            "it is not known whether the batch is committed: once the call has ended, "
            "store.batches() says"
        )
        return [item.describe() for item in self._pending] or [unknown]


def _result_of(pending: list[PendingBatch]) -> Batch:
    return pending[0].result()


class ServedPlace(Place):
    """The place of a call of a task. It refers to the call, and the call not to it: what ended is
    gone at once, and leaves no work to the garbage collector."""

    def __init__(self, call: Call[Any], pool: WritePool) -> None:
        super().__init__(server=pool)
        self.call = call
        self._pool = pool

    def work(self) -> None:
        """Do the call in its turn, when it is the next of its server."""
        self._pool.take_turn(self)

    def remind(self) -> None:
        """Have another thread serve it, when none does."""
        self._pool.go_on()


class BatchPlace(ServedPlace):
    """The place of a call that writes a batch."""

    call: BatchCall
    is_encoded_here = True

    def encode(self) -> None:
        """Encode the batch."""
        self.call.encode(self)

    def work(self) -> None:
        """Write the batch, unless that is done."""
        self.call.serve(self)


class ServerTurn(io.BytesIO):
    """The time in which one thread serves; closed when it is over. (It is a `BytesIO` because its
    `__exit__` is in C.)"""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.current_thread()
        self.next: dict[None, ServerTurn] = {}
        """The turn after this one."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or its thread."""
        return self.closed or not self.thread.is_alive()


class Bell:
    """Wakes a thread that listens. Who takes a listener out of the queue wakes it, and only one
    can; so whoever is told that a thread will wake can rely on it."""

    def __init__(self) -> None:
        self._listeners: deque[None] = deque()
        self._rung: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> bool:
        """Wake a thread that listens. Return False when none does."""
        try:
            self._listeners.pop()
        except IndexError:
            return False
        self._rung.put(None)
        return True

    def is_rung(self, is_due: Callable[[], bool]) -> bool:
        """Listen. Return whether it was rung within `LINGER_S`, or something was due before anybody
        could ring."""
        self._listeners.append(None)
        if is_due():
            self._stop()
            return True
        try:
            self._rung.get(timeout=LINGER_S)
        except queue.Empty:
            return not self._stop()
        return True

    def _stop(self) -> bool:
        """Stop listening. Return False when it was rung at the last moment."""
        try:
            self._listeners.pop()
        except IndexError:
            with suppress(queue.Empty):  # who rings may have been interrupted
                self._rung.get(timeout=LINGER_S)
            return False
        return True


class WritePool(Pool):
    """A thread that serves the calls of tasks in the queue of the store, in their order.

    That only one thread serves at a time does not depend on how many there are: an exception from
    outside, while a thread is started, can leave the executor with two, or with none.
    """

    def __init__(self, workers: ThreadPools, lock: WriterLock, queue: WriteQueue) -> None:
        super().__init__(workers, "write", 1, lock)
        self._lock_timeout_s = lock.timeout_s
        self._queue = queue
        self._bell = Bell()
        self._is_asked = False
        """Whether a thread will look into the queue after now."""
        self._asked_at = time.monotonic()
        self._is_closing = False
        self._current: ServedPlace | None = None
        self._current_since = time.monotonic()
        self._turn = ServerTurn()
        """The last turn, or one before it."""
        self._turn.close()

    def close(self) -> None:
        """Wait for the calls, and end the thread. Serve what it may have left."""
        self._is_closing = True
        self._bell.ring()
        super().close()
        while not self._serve_alone():
            time.sleep(POLL_INTERVAL_S_MAX)

    def _start(self, call: Call[Any]) -> None:
        place = (BatchPlace if isinstance(call, BatchCall) else ServedPlace)(call, self)
        call.remind = self._remind
        self._queue.enter(place)
        try:
            if not self._is_asked:
                self._ask()
        except BaseException:
            self._is_asked = False
            place.close()
            raise

    def _ask(self) -> None:
        self._is_asked, self._asked_at = True, time.monotonic()
        if not self._bell.ring():
            self.executor.submit(self.serve).add_done_callback(self._served)

    def _renew(self) -> None:
        """Have a new thread, and a bell that only it hears."""
        self._bell = Bell()
        super()._renew()

    def _remind(self, call: Call[Any]) -> None:
        if self._workers.is_of_parent:
            call.fail(self._workers.forked_in_call())
            return
        # What waits behind many short calls waits; behind one that does not end, only so long.
        if time.monotonic() - max(call.called_at, self._current_since) >= self._lock_timeout_s:
            call.time_out()
        is_waiting = self._queue.next_of(self) is not None
        if self._is_served() or call.outcome.is_known:
            return
        if is_waiting:
            self.go_on()
        else:  # its place is gone, and so is the thread that took it
            call.fail(WorkerEndedError())

    def go_on(self) -> None:
        """Have another thread serve, when none does although one was asked a while ago."""
        late_s = time.monotonic() - self._asked_at
        is_closed = self._is_closing or self._workers.is_of_parent
        if is_closed or late_s < UNSERVED_S_MAX or self._is_served():
            return
        self._renew()
        with suppress(RuntimeError):  # no thread can be started now: it is tried again
            self._ask()

    def serve(self) -> None:
        """Serve the places of tasks until none has come for a while, unless another thread does."""
        bell = self._bell
        while True:
            self._is_asked = True
            while self._queue.next_of(self) is not None:
                if not self._serve_alone():
                    return
            self._is_asked = False  # whoever saw it before is found by the look after it
            if self._is_closing or not bell.is_rung(self._is_due):
                return

    def _is_due(self) -> bool:
        return self._is_closing or self._queue.next_of(self) is not None

    def _is_served(self) -> bool:
        turn = self._turn
        while (following := turn.next.get(None)) is not None:
            turn = following
        return not turn.is_over

    def _serve_alone(self) -> bool:
        """Serve in a turn of this thread. Return False when another one has its turn."""
        found, turn = self._turn, ServerTurn()
        with turn:
            while found is not turn:
                if not (found.is_over or found.thread is turn.thread):  # it serves in one only
                    return False
                found = found.next.setdefault(None, turn)  # atomic
            self._turn = turn
            self._serve()
            return True

    def _serve(self) -> None:
        """Serve the places of tasks. Calls that ended together wake the loop once."""
        wakes: set[Callable[[], None]] = set()
        while (place := self._queue.next_of(self)) is not None:
            assert isinstance(place, ServedPlace)  # noqa: S101 - `_start` makes no others
            if not place.is_done:
                _wake(wakes)
            self._current, self._current_since = place, time.monotonic()
            place.call.wakes = wakes
            place.work()
        _wake(wakes)

    def _served(self, work: Future[None]) -> None:
        """Go on after an exception from outside; its call ends with it."""
        if work.exception() is None:
            return
        if self._current is not None:
            self._current.close()
            self._current.call.wakes = None
            self._current.call.see_to_end(work)
        self._bell = Bell()  # nobody may listen to the one before
        with suppress(RuntimeError):  # the pool is being closed, which serves the rest
            self._ask()

    def take_turn(self, turn: ServedPlace) -> None:
        """Run a call that is not a batch, in its turn. If it writes, the batches of tasks behind it
        share its flush."""
        self._queue.take_turn(turn, partial(self._run, turn.call, turn))

    def _run(self, call: Call[Any], turn: Place) -> None:
        if not call.outcome.begin():
            return
        try:
            call.wait_for_turn(partial(self._queue.is_first, turn))
        except BaseException as error:  # noqa: BLE001 - it is for the caller
            call.fail(error)
        else:
            self._queue.encode_waiting(self)
            call.wait(turn.close)  # whoever hears of its end finds the queue free


class LoopRebuilders:
    """The rebuilders of one call as plain functions; what they await runs on the loop.

    Create it on the loop. Rebuilders are called one after the other. What is no function is passed
    on: the plain store refuses it.
    """

    def __init__(self, rebuilders: Rebuilders) -> None:
        given: Mapping[str, Any] = given_rebuilders(rebuilders)
        self.rebuilders: dict[str, Rebuilder] = {
            key: partial(self._rebuild, rebuilder) if callable(rebuilder) else rebuilder
            for key, rebuilder in given.items()
        }
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Cancel the running coroutine, and call no further rebuilder."""
        if self._task is not None and not self._stopped:
            self._task.cancel()
        self._stopped = True

    def _rebuild(self, rebuilder: Rebuilder, request: RebuildRequest) -> Any:
        if self._stopped:
            raise concurrent.futures.CancelledError("the call was cancelled")
        data = rebuilder(request)
        if not inspect.isawaitable(data):
            return data
        future = asyncio.run_coroutine_threadsafe(self._awaited(data), self._loop)
        while not concurrent.futures.wait([future], timeout=1).done:
            if self._loop.is_closed():
                raise concurrent.futures.CancelledError("the event loop was closed")
        if future.cancelled():
            raise concurrent.futures.CancelledError("its coroutine was cancelled")
        return future.result()()

    async def _awaited(self, data: Any) -> Callable[[], Any]:
        self._task = asyncio.current_task()
        if self._stopped and self._task is not None:
            self._task.cancel()
        try:
            return copier(await data)
        finally:
            self._task = None


def _wake(wakes: set[Callable[[], None]]) -> None:
    while wakes:
        wakes.pop()()


def now(function: Callable[[], Result]) -> Callable[[], Result]:
    """Call a function at once. Return one that gives its result, or raises what it raised."""
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - it is for who awaits the call
        return partial(_raise, error)
    return lambda: result


def copied_writes(writes: Writes) -> Callable[[], list[tuple[StoreKey, Any]]]:
    """Copy what is to be written at once; return a function that makes it data again, in the
    thread."""
    copies = [(name, copier(data)) for name, data in pairs(writes)]
    return lambda: [(name, copied()) for name, copied in copies]


def _raise(error: Exception) -> NoReturn:
    raise error


def copier(data: Any) -> Callable[[], Any]:
    """Copy data at once and quickly; return a function that makes it data again, in the thread.

    Plain JSON goes through `marshal`: one C call, some tenth of the time of `copy`. Data that
    cannot be copied is passed on as it is; the store refuses it.
    """
    with suppress(ValueError):  # an object, or a cycle
        content = marshal.dumps(data)
        return lambda: marshal.loads(content)  # noqa: S302 - bytes of our own making
    with suppress(Exception):
        copied = copy.deepcopy(data)
        return lambda: copied
    return lambda: data
