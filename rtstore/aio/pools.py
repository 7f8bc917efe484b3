"""Thread pools for an event loop, each with a queue of calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import marshal
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rtstore.aio.calls import Call
from rtstore.commit.group import GROUP_MAX, PendingBatch, explain
from rtstore.commit.reporting import Observer
from rtstore.control.lock import WriterLock
from rtstore.errors import StoreClosedError
from rtstore.model import arguments
from rtstore.model.records import Batch
from rtstore.recovery.rebuilders import Rebuilder, Rebuilders, RebuildRequest, given_rebuilders

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ThreadPools:
    """The thread pools of one store; each pool is a queue and its threads.

    `directory` is for messages, `write` writes batches together. Not for use after a fork: the
    threads stay with the parent.
    """

    def __init__(
        self,
        directory: Path,
        lock: WriterLock,
        write: Callable[[Sequence[PendingBatch]], None],
        on_event: Observer | None = None,
    ) -> None:
        self.reads = Pool(self, "read", 4)
        self.plans = Pool(self, "plan", 2)
        self.writes = WritePool(self, lock, write)
        self.recoveries = Pool(self, "recover", 64, lock)
        self.on_event = on_event
        self._directory = directory
        self._admission = threading.Lock()
        self._closing: Call[None] | None = None
        self._pid = os.getpid()

    @contextmanager
    def admission(self) -> Iterator[None]:
        """Open a block in which calls may be started. Raises `StoreClosedError`."""
        if os.getpid() != self._pid:
            problem = "was opened before this process was forked from its parent"
            raise StoreClosedError(self._directory, problem)
        with self._admission:
            if self._closing is not None:
                raise StoreClosedError(self._directory, "is closed")
            yield

    async def close(self, at_last: Callable[[], None]) -> None:
        """Refuse further calls, wait for those admitted before, end the threads, then call
        `at_last`. A cancellation does not interrupt this. A second call of `close` waits too."""
        if os.getpid() != self._pid:
            return
        with self._admission:
            if self._closing is None:
                function = partial(self._close, at_last)
                self._closing = Call("aclose", function, ended="the store is closed").start_alone()
        await self._closing.end(on_cancellation=lambda: None)

    def _close(self, at_last: Callable[[], None]) -> None:
        for pool in (self.recoveries, self.plans, self.reads, self.writes):
            pool.executor.shutdown(wait=True)
        at_last()


class Pool:
    """Calls that queue for the same threads. With `lock` each waits until the lock is free."""

    def __init__(
        self, workers: ThreadPools, name: str, threads: int, lock: WriterLock | None = None
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
        """Call a method in a thread; return what it returns, raise what it raises."""
        call = Call(method.__name__, partial(method, *args, **options), self._lock)
        return await self.run_call(call)

    async def run_call(
        self, call: Call[Result], on_cancellation: Callable[[], None] | None = None
    ) -> Result:
        """Start a call and wait for its end; see `Call.end` for `on_cancellation`."""
        call.on_event = self._workers.on_event
        with self._workers.admission():
            self._start(call)
        return await call.end(on_cancellation)

    def _start(self, call: Call[Any]) -> None:
        call.start(self.executor)


class BatchCall(Call[Batch]):
    """A call that writes one batch, and can share a flush with others.

    `submit` checks and encodes the batch; the pool then writes it.
    """

    def __init__(self, submit: Callable[[], PendingBatch], lock: WriterLock) -> None:
        super().__init__("write_batch", self._result, lock)
        self._submit = submit
        self.pending_batch: PendingBatch

    def prepare(self) -> bool:
        """Create the pending batch, and return True. On an error end the call, and return False."""
        try:
            self.pending_batch = self.in_context(self._submit)
        except BaseException as error:  # noqa: BLE001 - as an executor does it
            self.fail(error)
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """Set an error as the outcome, with a note of what is known of the batch."""
        pending_batch = getattr(self, "pending_batch", None)
        explain(error, () if pending_batch is None else (pending_batch,))
        super().fail(error)

    def finish_with(self, error: BaseException | None) -> None:
        """Set the outcome of the batch as the outcome, or this error when the batch has none."""
        if error is None or self.pending_batch.is_done:
            self.wait()
        else:
            self.fail(error)

    def _result(self) -> Batch:
        return self.pending_batch.result()


class UpdateCall(Call[Batch]):
    """A call that changes a store under the lock, and commits the batches queued behind it too.

    `update` receives a function that begins those batches and returns them as `PendingBatch`es.
    """

    def __init__(
        self, update: Callable[[Callable[[], Sequence[PendingBatch]]], Batch], lock: WriterLock
    ) -> None:
        super().__init__("update", lambda: update(self.with_followers), lock)
        self.with_followers: Callable[[], Sequence[PendingBatch]] = tuple


class WritePool(Pool):
    """One thread that runs calls in their order. Batches that are waiting at that time are written
    together by `write`, and share a flush."""

    def __init__(
        self,
        workers: ThreadPools,
        lock: WriterLock,
        write: Callable[[Sequence[PendingBatch]], None],
    ) -> None:
        super().__init__(workers, "write", 1, lock)
        self._write = write
        self._waiting: deque[Call[Any]] = deque()
        self._taken: list[Call[Any]] = []
        """The calls that the current turn has taken from the queue."""

    def _start(self, call: Call[Any]) -> None:
        self._waiting.append(call)
        self._give_turn()

    def _give_turn(self) -> None:
        self.executor.submit(self._next).add_done_callback(self._turn_ended)

    def _turn_ended(self, turn: Future[None]) -> None:
        """End every taken call with an error when an asynchronous exception ended a turn."""
        error = turn.exception()
        if error is None:
            return
        taken, self._taken = self._taken, []
        for call in taken:
            call.fail(error)
        with suppress(RuntimeError):  # no more turns: the pool is being closed
            self._give_turn()

    def _next(self) -> None:
        """Run the call at the head of the queue, and the batches right behind it. Each call has one
        turn, so the turn of a batch that an earlier turn wrote does nothing."""
        self._taken = []
        if not self._waiting:
            return
        head = self._waiting[0]
        try:
            head.wait_for_turn()
        except BaseException as error:  # noqa: BLE001 - it is for the caller
            if self._take().begin():
                head.fail(error)
            return
        if isinstance(head, BatchCall):
            self._write_together(self._begin_batches())
            return
        if self._take().begin():
            self._carry_out(head)

    def _take(self) -> Call[Any]:
        """Take the call at the head of the queue. It moves from one list to the other in one C
        call, so no exception can lose it."""
        self._taken.extend(map(deque.popleft, (self._waiting,)))
        return self._taken[-1]

    def _begin_batches(self) -> list[BatchCall]:
        """Begin the batches at the head of the queue, and return those that can be written."""
        begun = []
        for _ in range(GROUP_MAX):
            call = self._waiting[0] if self._waiting else None
            if not isinstance(call, BatchCall):
                break
            self._take()
            if call.begin() and call.prepare():
                begun.append(call)
        return begun

    def _carry_out(self, head: Call[Any]) -> None:
        """Run a call that is not a batch; with an update, also write the batches behind it."""
        batches: list[BatchCall] = []

        def followers() -> list[PendingBatch]:
            batches.extend(self._begin_batches())
            return [call.pending_batch for call in batches]

        if isinstance(head, UpdateCall):
            head.with_followers = followers
        head.wait()
        self._write_together(batches)

    def _write_together(self, calls: Sequence[BatchCall]) -> None:
        """Write the batches that have no outcome yet. Afterwards every batch has one."""
        raised: BaseException | None = None
        left = [call.pending_batch for call in calls if not call.pending_batch.is_done]
        try:
            if left:
                self._write(left)
        except BaseException as error:  # noqa: BLE001 - it is for the callers
            raised = error
        for call in calls:
            call.finish_with(raised)
        del raised  # or the error, its traceback and this frame would hold each other


class LoopRebuilders:
    """The rebuilders of one call as plain functions; what they await runs on the loop.

    Create it on the loop. Rebuilders are called one after the other.
    """

    def __init__(self, rebuilders: Rebuilders) -> None:
        self.rebuilders: dict[str, Rebuilder] = {
            key: partial(self._rebuild, arguments.function(rebuilder, f"rebuilders[{key}]"))
            for key, rebuilder in given_rebuilders(rebuilders).items()
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
