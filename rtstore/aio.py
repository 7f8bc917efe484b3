"""The runtime store for asyncio: the interface of `RuntimeStore`, awaited.

    async with AsyncRuntimeStore.open("teams/team-a", team_name="team-a") as store:
        await store.update("opencode.sessionStore", add_session, identity=..., reason=...)

Every call is carried out by a `RuntimeStore` in a worker thread. The threads are the store's own:
however long they wait for the writer lock, the loop's default executor stays free.

    reads       4 threads    contents, batches, manifest, invariants: they never wait for the lock
    plans       2 threads    they look at every file, and beside a busy writer may wait for the lock
    writes      1 thread     in the order of the calls; there is one writer at a time anyway
    recoveries  as needed    a rebuilder takes its time, and may use the store meanwhile

So no read waits behind a write that waits for the lock. The time that a write spends in the queue
counts as waiting: after `lock_timeout_s` a lock that is not free is a `LockTimeoutError`, for all
that wait. On the loop itself nothing is done but to take a copy of the data of a batch (some 5 ms
for each megabyte), so that a batch holds what its caller saw when it called. What the workers do
in one call of C, such as checking the data, holds Python's interpreter lock; a store of a megabyte
is felt on the loop, a small one is not.

**Cancellation** (of a task, by a time-out, or when the loop ends) leaves nothing in doubt:

* a call that has not begun is not carried out. A write that is in the queue, or waits for somebody
  else to free the writer lock, has not begun.
* a call that has begun is waited for, whatever else comes, a second cancellation included. Then
  `CancelledError` is raised; a note on it, and a record of the logger `rtstore.aio`, say what
  happened: `batch batch-7 is committed`, or the error, which is also its cause.

A program that must act on it gives `batch_id` itself: `batch(batch_id)` is the answer then, and to
repeat the write with the same id and data is harmless. A recovery that is cancelled cancels the
coroutine of its rebuilder, calls no other rebuilder, and is recorded to its end. A loop that is
closed while tasks wait in it (`asyncio.run` does not) cannot be told; the call ends all the same.

`aclose` refuses further calls, lets those made before it end, and closes the store. The store is
not bound to a loop. Functions given to it (`change`, rebuilders, clock, id factories) run in worker
threads with the caller's context variables; they must not wait for a write of the same store.
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
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from rtstore.database.contents import Retention
from rtstore.descriptors import Descriptor
from rtstore.errors import InvalidRequestError, LockTimeoutError, StoreClosedError
from rtstore.files.system import FileSystem
from rtstore.ids import IdFactory, new_batch_id, new_plan_id, new_receipt_id
from rtstore.lock import (
    DEFAULT_TIMEOUT_S,
    POLL_INTERVAL_S_MAX,
    POLL_INTERVAL_S_MIN,
    WriterLock,
)
from rtstore.publication import Durability
from rtstore.reader import Snapshot, StoreContent
from rtstore.rebuilding import Rebuilder, Rebuilders, RebuildRequest
from rtstore.records import (
    Batch,
    BatchReason,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.store import RuntimeStore, Writes
from rtstore.times import Clock, utc_now

logger = logging.getLogger("rtstore.aio")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _NotBegunError(Exception):
    """The call was cancelled while it waited for its turn."""


class _Call(Generic[Result]):
    """One call on its way through a worker thread. With `lock` it first waits until that is free,
    which can be given up; inside of the store it could not."""

    future: Future[Result]

    def __init__(
        self, name: str, function: Callable[[], Result], lock: WriterLock | None = None
    ) -> None:
        self.name = name
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
        error = None if self.future.cancelled() else self.future.exception()
        result = None if error or self.future.cancelled() else self.future.result()
        begun = not self.future.cancelled() and not isinstance(error, _NotBegunError)
        if not begun:
            outcome, text = "not_begun", "before it began: nothing of it was carried out"
        elif error is not None:
            outcome, text = "failed", f"while it ran, and failed: {type(error).__name__}: {error}"
            cancellation.__cause__ = error
        else:
            outcome, text = "ended", f"while it ran, and ran to its end: {_in_words(result)}"
        note = f"{self.name} was cancelled {text}"
        cancellation.add_note(note)
        batch_id = getattr(error or result, "batch_id", None)
        level = logging.WARNING if begun and self._lock is not None else logging.INFO
        extra = {"operation": self.name, "outcome": outcome, "batch_id": batch_id}
        logger.log(level, "%s", note, extra=extra)


class _Rebuilding:
    """The rebuilders of one recovery as plain functions; what they await runs on the loop."""

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
        return future.result()

    async def _awaited(self, data: Any) -> Any:
        self._task = asyncio.current_task()
        if self._stopped and self._task is not None:
            self._task.cancel()
        try:
            return await data
        finally:
            self._task = None


StoreT = TypeVar("StoreT", bound="AsyncRuntimeStore")


class Opening(Generic[StoreT]):
    """A store about to be opened: await it, or enter it with `async with`, which closes it too."""

    def __init__(self, opening: Callable[[], Generator[Any, None, StoreT]]) -> None:
        self._opening = opening

    def __await__(self) -> Generator[Any, None, StoreT]:
        return self._opening()

    async def __aenter__(self) -> StoreT:
        self._store = await self
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._store.aclose()


class AsyncRuntimeStore:
    """`RuntimeStore` for asyncio; see the module for threads and cancellation.

    Made by `AsyncRuntimeStore.open`, or from an open `RuntimeStore`, which it closes in the end.
    Results, errors and arguments are those of the methods of the same name. An async context
    manager; may be shared between tasks, loops and threads, not across forks.
    """

    def __init__(self, store: RuntimeStore) -> None:
        self.sync_store = store
        """What carries the calls out; blocks, so it is for threads."""
        self.directory = store.directory
        self.team_name = store.team_name
        self.descriptors = store.descriptors
        self.database = store.database
        self.lock = store.lock
        self.last_recovery = store.last_recovery
        """What opening the store had to put right, or None."""
        self._reads = ThreadPoolExecutor(4, "rtstore-read")
        self._plans = ThreadPoolExecutor(2, "rtstore-plan")
        self._writes = ThreadPoolExecutor(1, "rtstore-write")
        self._recoveries = ThreadPoolExecutor(64, "rtstore-recover")
        self._admission = threading.Lock()
        self._closing: _Call[None] | None = None
        self._pid = os.getpid()

    # --- opening and closing --------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        team_name: str | None = None,
        descriptors: Iterable[Descriptor] | None = None,
        clock: Clock = utc_now,
        batch_id_factory: IdFactory = new_batch_id,
        receipt_id_factory: IdFactory = new_receipt_id,
        plan_id_factory: IdFactory = new_plan_id,
        durability: Durability | str = Durability.LOG,
        lock_timeout_s: float = DEFAULT_TIMEOUT_S,
        retention: Retention | None = None,
        recover: bool = True,
        read_only: bool = False,
        fs: FileSystem | None = None,
    ) -> Opening[Self]:
        """Open a store: `store = await AsyncRuntimeStore.open(...)`, or `async with` without await.

        When it is cancelled, what has begun is waited for, and the store is closed again.
        """
        function = partial(
            RuntimeStore.open,
            directory,
            team_name=team_name,
            descriptors=None if descriptors is None else tuple(descriptors),
            clock=clock,
            batch_id_factory=batch_id_factory,
            receipt_id_factory=receipt_id_factory,
            plan_id_factory=plan_id_factory,
            durability=durability,
            lock_timeout_s=lock_timeout_s,
            retention=retention,
            recover=recover,
            read_only=read_only,
            fs=fs,
        )
        return Opening(lambda: cls._open(function).__await__())

    @classmethod
    async def _open(cls, function: Callable[[], RuntimeStore]) -> Self:
        call = _Call("open", function).start_alone()
        try:
            return cls(await call.end())
        except asyncio.CancelledError:
            if not call.future.cancelled() and call.future.exception() is None:
                with suppress(asyncio.CancelledError):  # the first one is raised
                    await cls(call.future.result()).aclose()
            raise

    async def aclose(self) -> None:
        """Refuse further calls, wait for those made before, close the store. Cancelled, it is
        finished all the same. Closing twice is harmless."""
        if os.getpid() != self._pid:
            return
        with self._admission:
            if self._closing is None:
                self._closing = _Call("aclose", self._close).start_alone()
        await self._closing.end(on_cancellation=lambda: None)

    def _close(self) -> None:
        for executor in (self._recoveries, self._plans, self._reads, self._writes):
            executor.shutdown(wait=True)
        self.sync_store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # --- writing --------------------------------------------------------------------------------

    async def write_batch(
        self,
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        writes: Writes,
        expected_high_watermark: int | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Write several stores as one atomic batch. The data is copied first: what becomes of it
        after the call is not in the batch."""
        items = writes.items() if isinstance(writes, Mapping) else writes
        copies = [(name, _copy_of(data)) for name, data in items]
        return await self._write(
            lambda **options: self.sync_store.write_batch(
                writes=[(name, data()) for name, data in copies], **options
            ),
            identity=identity,
            reason=reason,
            expected_high_watermark=expected_high_watermark,
            batch_id=batch_id,
        )
