"""Worker threads for an event loop: calls that block are carried out there, and waited for.

A call is in a queue, or waits for the writer lock to become free, or is carried out. A cancellation
withdraws it before it is carried out; later it changes nothing but what is raised in the end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import inspect
import logging
import marshal
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, ParamSpec, Self, TypeVar

from rtstore.errors import InvalidRequestError, LockTimeoutError, StoreClosedError
from rtstore.lock import POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_MIN, WriterLock
from rtstore.pruning import PruneReport
from rtstore.rebuilding import Rebuilder, Rebuilders, RebuildRequest
from rtstore.records import Batch, QuarantinedFile, RecoveryReport

logger = logging.getLogger("rtstore.aio")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _NotBegunError(Exception):
    """The call was cancelled while it waited for its turn."""


class Call(Generic[Result]):
    """One call on its way through a worker thread. With `lock` it first waits until that is free,
    which can be given up; inside of the store it could not."""

    future: Future[Result]

    def __init__(
        self,
        name: str,
        function: Callable[[], Result],
        lock: WriterLock | None = None,
        *,
        ended: str = "it changed nothing",
    ) -> None:
        self.name = name
        self._ended = ended
        self._function = function
        self._lock = lock
        self._called_at = time.monotonic()
        self._withdrawn = threading.Event()

    def start(self, executor: ThreadPoolExecutor) -> Self:
        """Put the call into the queue of an executor, with the context variables of the caller."""
        self.future = executor.submit(contextvars.copy_context().run, self._run)
        return self

    def start_alone(self) -> Self:
        """Start the call in a thread of its own, which ends with it."""
        executor = ThreadPoolExecutor(1, f"rtstore-{self.name}")
        self.start(executor)
        executor.shutdown(wait=False)
        return self

    def withdraw(self) -> None:
        """See to it that the call does not begin, unless it has."""
        if not self.future.cancel():
            self._withdrawn.set()

    async def end(self, on_cancellation: Callable[[], None] | None = None) -> Result:
        """Wait for the end of the call, through any cancellation; the first is raised then, with
        what happened. By default a cancellation withdraws the call."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def announce(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        self.future.add_done_callback(announce)
        cancellation: asyncio.CancelledError | None = None
        while not self.future.done():
            try:
                await ended.wait()
            except asyncio.CancelledError as error:
                cancellation = cancellation or error
                (on_cancellation or self.withdraw)()
        if cancellation is None:
            return self.future.result()
        self._explain(cancellation)
        raise cancellation

    def _run(self) -> Result:
        if self._lock is not None:
            self._wait_for_turn(self._lock)
        return self._function()

    def _wait_for_turn(self, lock: WriterLock) -> None:
        pause = POLL_INTERVAL_S_MIN
        while not self._withdrawn.is_set() and _is_held(lock):
            if time.monotonic() >= self._called_at + lock.timeout_s:
                raise LockTimeoutError(lock.path, lock.timeout_s, lock.holder())
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


class Workers:
    """The lanes of one store; a lane is a queue and its threads.

    `directory` is for messages. Not for use after a fork: the threads stay with the parent.
    """

    def __init__(self, directory: Path, lock: WriterLock) -> None:
        self.reads = Lane(self, "read", 4)
        self.plans = Lane(self, "plan", 2)
        self.writes = Lane(self, "write", 1, lock)
        self.recoveries = Lane(self, "recover", 64, lock)
        self._directory = directory
        self._admission = threading.Lock()
        self._closing: Call[None] | None = None
        self._pid = os.getpid()

    @contextmanager
    def admission(self) -> Iterator[None]:
        """A block in which calls may be started. Raises `StoreClosedError`."""
        if os.getpid() != self._pid:
            problem = "was opened before this process was forked from its parent"
            raise StoreClosedError(self._directory, problem)
        with self._admission:
            if self._closing is not None:
                raise StoreClosedError(self._directory, "is closed")
            yield

    async def close(self, at_last: Callable[[], None]) -> None:
        """Admit no more calls, wait for those that were, end the threads, then call `at_last`.
        A cancellation changes nothing of this; whoever closes again waits too."""
        if os.getpid() != self._pid:
            return
        with self._admission:
            if self._closing is None:
                function = partial(self._close, at_last)
                self._closing = Call("aclose", function, ended="the store is closed").start_alone()
        await self._closing.end(on_cancellation=lambda: None)

    def _close(self, at_last: Callable[[], None]) -> None:
        for lane in (self.recoveries, self.plans, self.reads, self.writes):
            lane.executor.shutdown(wait=True)
        at_last()


class Lane:
    """Calls that queue for the same threads. With `lock` each waits until that is free."""

    def __init__(
        self, workers: Workers, name: str, threads: int, lock: WriterLock | None = None
    ) -> None:
        self.executor = ThreadPoolExecutor(threads, f"rtstore-{name}")
        self._workers = workers
        self._lock = lock

    async def run(
        self,
        method: Callable[Parameters, Result],
        *args: Parameters.args,
        **options: Parameters.kwargs,
    ) -> Result:
        """Carry out a method; gives what it gives, raises what it raises."""
        call = Call(method.__name__, partial(method, *args, **options), self._lock)
        return await self.carry_out(call)

    async def carry_out(
        self, call: Call[Result], on_cancellation: Callable[[], None] | None = None
    ) -> Result:
        """The same for a call that was made before; see `Call.end`."""
        with self._workers.admission():
            call.start(self.executor)
        return await call.end(on_cancellation)


class LoopRebuilders:
    """The rebuilders of one recovery as plain functions; what they await runs on the loop.

    Made on the loop. Rebuilders are called one after the other.
    """

    def __init__(self, rebuilders: Rebuilders) -> None:
        self.rebuilders = {
            strategy: partial(self._rebuild, rebuilder)
            for strategy, rebuilder in rebuilders.items()
        }
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Cancel the coroutine that runs, and call no other rebuilder."""
        if self._task is not None and not self._stopped:
            self._task.cancel()
        self._stopped = True

    def _rebuild(self, rebuilder: Rebuilder, request: RebuildRequest) -> Any:
        if self._stopped:
            raise concurrent.futures.CancelledError("the recovery was cancelled")
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


def _is_held(lock: WriterLock) -> bool:
    try:
        return lock.is_held()
    except OSError:  # whoever takes the lock says what is wrong with it
        return False


def copier(data: Any) -> Callable[[], Any]:
    """Take a copy of data at once, quickly; gives what makes it data again, in the thread.

    Plain JSON goes through `marshal`: one call of C, some tenth of what `copy` takes. What cannot
    be copied is no data for a store, and is refused as it is.
    """
    with suppress(ValueError):  # an object, or a cycle
        content = marshal.dumps(data)
        return lambda: marshal.loads(content)  # noqa: S302 - bytes of our own making
    with suppress(Exception):
        copied = copy.deepcopy(data)
        return lambda: copied
    return lambda: data


def plain_function(change: Callable[[Any], Any], store: str) -> Callable[[Any], Any]:
    """Refuse a coroutine function at once, and one in disguise when it is called."""
    problem = "must be a plain function: it runs in a thread, under the writer lock"
    if inspect.iscoroutinefunction(change):
        raise InvalidRequestError("change", problem, store=store)

    def plain(data: Any) -> Any:
        changed = change(data)
        if inspect.isawaitable(changed):
            if inspect.iscoroutine(changed):
                changed.close()
            raise InvalidRequestError("change", problem, store=store)
        return changed

    return plain


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
