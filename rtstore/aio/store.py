"""The runtime store for asyncio: the interface of `RuntimeStore`, awaited.

    async with AsyncRuntimeStore.open("teams/team-a", team_name="team-a") as store:
        await store.update("opencode.sessionStore", add_session, identity=..., reason=...)

A `RuntimeStore` runs every call in a worker thread. The threads belong to the store, so the loop's
default executor stays free however long they wait for the writer lock.

    reads       4 threads    contents, batches, manifest, invariants: they never wait for the lock,
                             unless a file is adopted (`foreign_edits="adopt"`)
    plans       2 threads    they read every file, and may wait for the lock while a writer is busy
    writes      1 thread     it serves the calls of tasks, in their order, in the queue that threads
                             use too; batches waiting there together share a flush
    recoveries  as needed    a rebuilder takes its time, and may use the store meanwhile

A read never waits behind a write that waits for the lock. A hundred tasks that write at the same
time cost a few flushes, not a hundred. An `update` starts a flush of its own, which the batches
waiting behind it share. The time that a write spends in the queue counts as waiting: a lock that is
not free after `lock_timeout_s` seconds raises `LockTimeoutError` for every call that waits. So does
a write of this store that takes so long: the function of an `update`, for example. Calls that end
are waited for, however many are before a call. A wait is looked at once a second.

The call itself copies the data of a batch (some 5 ms for each megabyte), before it is awaited: a
batch holds what its caller saw when it called. That is all that the loop does. A single C call of a
worker thread, such as the check of the data, holds Python's interpreter lock. It delays the loop by
some 30 ms for a store of a megabyte, and hardly at all for a small one.

**Cancellation** (of a task, by a time-out, or when the loop ends) leaves nothing in doubt:

* A call that has not begun is not run. A write has not begun while it is in the queue, or waits for
  another writer to release the writer lock (unless the lock was free and another writer was
  quicker). Opening and planning count as begun, also while they wait for the lock.
* A call that has begun runs to its end, through any further cancellation. Then `CancelledError` is
  raised. A note on it, and a record of the logger `rtstore.aio`, say what happened:
  `batch batch-7 is committed`, or the error, which is also its cause.

A program that must act on the outcome passes `batch_id` itself: `batch(batch_id)` then returns it,
and repeating the write with the same id and data is harmless. A cancelled recovery cancels the
coroutine of its rebuilder, calls no other rebuilder, and is recorded to its end. A cancelled
`begin_run` does the same with its rebuilder, and the run has not begun. When the run has begun
nevertheless, the note says so: it is active then, and beginning it again resumes it. A loop that is
closed while tasks wait in it (`asyncio.run` does not do that) cannot be notified; the call still
ends.

Leaving the block of a run ends the run, and leaving the block of a store closes the store, also
when the task is cancelled once more meanwhile. A cancelled body ends its run as failed.

`close` refuses further calls, waits for those made before it, and closes the store. The store is
not bound to a loop. Functions passed to it (`change`, rebuilders, clock, id factories) run in
worker threads with the caller's context variables. They must not wait for a write of the same
store. The observer (`on_event`) is called on the loop of the call that caused the event, before
that call returns: `on_event=queue.put_nowait` of an `asyncio.Queue` works.

Operations on a directory that is not open (`upgrade_directory`, `import_directory`,
`restore_backup`, ...) are plain functions, for `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, overload
from warnings import warn

from rtstore.aio import waiting
from rtstore.aio.calls import Call, LoopObserver, TaskUnderWay, told_on_the_loop
from rtstore.aio.pools import (
    BatchCall,
    LoopRebuilders,
    ThreadPools,
    copied_writes,
    now,
)
from rtstore.commit.group import OUTCOME_S_MAX, PendingBatch, explain
from rtstore.commit.publisher import Durability
from rtstore.commit.reporting import Observer
from rtstore.control.contents import Retention
from rtstore.control.history import StoreVersion
from rtstore.control.lock import DEFAULT_TIMEOUT_S
from rtstore.errors import StoreClosedError
from rtstore.files.seams import Seams, takes_earlier_keywords
from rtstore.history import follow
from rtstore.history.prune import PruneProgress, PruneReport
from rtstore.history.reader import Snapshot, StoreContent
from rtstore.history.versions import At, StoreDifferences
from rtstore.legacy import ExportReport
from rtstore.maintenance.backup import Backup
from rtstore.maintenance.backup.record import Progress
from rtstore.model.arguments import check_text
from rtstore.model.descriptors import Descriptor, StoreKey, StoreKeys, store_name
from rtstore.model.edits import ForeignEdits
from rtstore.model.records import (
    Batch,
    BatchReason,
    DatabaseUpgrade,
    Deleted,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    Record,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.model.request import ExpectedVersions, Writes, batch_request
from rtstore.model.runs import RunEnding, RunRecord, StartState
from rtstore.model.typed import StoreData
from rtstore.recovery.begin import Keep
from rtstore.recovery.rebuilders import Rebuilders
from rtstore.store import (
    Payload,
    Run,
    RunFacts,
    RuntimeStore,
    checked_stores,
    note_not_ended,
    plain_change,
)

Item = TypeVar("Item")
OpenedT = TypeVar("OpenedT", bound="AsyncRuntimeStore | AsyncRun")


class Opening(Generic[OpenedT]):
    """A store that is being opened, or a run that is being begun. Await it; or use it with
    `async with`, which also closes the store or ends the run."""

    def __init__(self, name: str, opening: Callable[[], Generator[Any, None, OpenedT]]) -> None:
        self._name = name
        self._opening = opening
        self._is_awaited = False

    def __await__(self) -> Generator[Any, None, OpenedT]:
        self._is_awaited = True
        return self._opening()

    def __del__(self) -> None:
        if not self._is_awaited:  # as Python warns of a coroutine
            warn(f"{self._name} was never awaited", RuntimeWarning, stacklevel=2, source=self)

    async def __aenter__(self) -> OpenedT:
        self._opened = await self
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._opened.__aexit__(kind, error, traceback)


class AsyncRuntimeStore:
    """`RuntimeStore` for asyncio; the module describes threads and cancellation.

    Create it with `AsyncRuntimeStore.open`, or from an open `RuntimeStore`, which `close` closes.
    Arguments, results, errors and durability are those of the `RuntimeStore` method with the same
    name. It is an async context manager. Safe to share between tasks, loops and threads, not across
    forks.
    """

    def __init__(self, store: RuntimeStore) -> None:
        self.sync_store = store
        """The store that runs the calls. It blocks, so use it in threads only."""
        self.directory = store.directory
        self.team_name = store.team_name
        self.descriptors = store.descriptors
        self.retention = store.retention
        self.foreign_edits = store.foreign_edits
        self.database = store.database
        self.lock = store.lock
        self.last_recovery = store.last_recovery
        """The recovery that opening ran, or None when nothing had to be repaired."""
        self.last_data_upgrade = store.last_data_upgrade
        """The upgrade of store data to its descriptors' versions that opening ran, or None."""
        self._writer = store._writer  # noqa: SLF001 - a part of the same facade
        on_event = told_on_the_loop(self._writer.events)
        self._workers = ThreadPools(store.directory, store.lock, self._writer.queue, on_event)

    # --- opening and closing --------------------------------------------------------------------

    @classmethod
    @takes_earlier_keywords
    def open(
        cls,
        directory: str | Path,
        *,
        team_name: str | None = None,
        descriptors: Iterable[Descriptor] | None = None,
        durability: Durability | str = Durability.LOG,
        lock_timeout_s: float = DEFAULT_TIMEOUT_S,
        retention: Retention | None = None,
        recover: bool = True,
        read_only: bool = False,
        upgrade: bool = True,
        on_event: Observer | None = None,
        foreign_edits: ForeignEdits | str = ForeignEdits.RAISE,
        seams: Seams | None = None,
    ) -> Opening[Self]:
        """Open a store: `store = await AsyncRuntimeStore.open(...)`, or `async with` without await.

        Arguments and errors are those of `RuntimeStore.open`. A cancelled opening runs to its end,
        and the store is closed again. It may wait up to `lock_timeout_s` seconds, when there is
        something to recover and another process writes.
        """
        observer = None if on_event is None else LoopObserver(on_event)
        function = partial(
            RuntimeStore.open,
            directory,
            team_name=team_name,
            descriptors=_listed(descriptors),
            durability=durability,
            lock_timeout_s=lock_timeout_s,
            retention=retention,
            recover=recover,
            read_only=read_only,
            upgrade=upgrade,
            on_event=observer,
            foreign_edits=foreign_edits,
            seams=seams,
        )
        opening = f"{cls.__name__}.open"
        return Opening(opening, lambda: cls._open(function, on_event).__await__())

    @classmethod
    async def _open(cls, function: Callable[[], RuntimeStore], on_event: Observer | None) -> Self:
        call = Call("open", function, ended="the store is closed again")
        call.on_event = on_event
        call.start_alone()
        try:
            return cls(await call.end())
        except asyncio.CancelledError:
            if not call.outcome.is_withdrawn and call.outcome.error is None:
                with suppress(asyncio.CancelledError):  # the first one is raised
                    await cls(call.outcome.result()).close()
            raise

    async def close(self) -> None:
        """Refuse further calls, wait for those made before, and close the store. A cancelled
        `close` still finishes. Closing twice is harmless. Raises `InvalidRequestError` inside of a
        call, as in a rebuilder, and what `RuntimeStore.close` raises."""
        await self._workers.close(self.sync_store.close)

    async def aclose(self) -> None:
        """Close the store, as `close` does, under the name that `contextlib.aclosing` calls."""
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self.sync_store!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"an {type(self).__name__} cannot be copied or sent to another process: "
            "open the directory there"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- writing --------------------------------------------------------------------------------

    def write_batch(
        self,
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        writes: Writes,
        expected_high_watermark: int | None = None,
        expected: ExpectedVersions | None = None,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]:
        """Write several stores as one atomic batch, and return it with its receipts.

        Durable when it returns. The data is copied by the call itself, before it is awaited, so
        later changes to it are not in the batch.
        """
        try:
            copy = now(partial(copied_writes, writes))
            versions = now(lambda: dict(expected) if isinstance(expected, Mapping) else expected)

            def prepare(writes: Writes) -> PendingBatch:
                request = batch_request(
                    self.team_name,
                    self.descriptors,
                    identity=identity,
                    reason=reason,
                    writes=writes,
                )
                return self._writer.prepare(request, expected_high_watermark, batch_id, versions())

            under_way = self._writer.queue.register(TaskUnderWay(batch_id, self._workers))
            return under_way.of(self._write_batch(copy, prepare, under_way))
        except BaseException as error:
            explain(error, [])
            raise

    async def _write_batch(
        self,
        copy: Callable[[], Callable[[], Writes]],
        prepare: Callable[[Writes], PendingBatch],
        under_way: TaskUnderWay,
    ) -> Batch:
        call: BatchCall | None = None
        try:
            copied = copy()
            call = under_way.begun(BatchCall(lambda: prepare(copied()), self._writer))
            return await self._workers.writes.run_call(call)
        except BaseException as error:
            if call is None:
                explain(error, [])
            else:
                call.explain_to(error)
            raise

    @overload
    def update(
        self,
        store: Descriptor[Payload],
        change: Callable[[Payload], Payload | Deleted],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]: ...

    @overload
    def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]: ...

    @overload
    def update(
        self,
        store: StoreKeys,
        change: Callable[[StoreData], Mapping[Any, Any]],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch | None]: ...

    def update(
        self,
        store: StoreKey | Iterable[StoreKey],
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch | None]:
        """Read, change and write one store, or several together, under the writer lock, so that no
        update is lost. Several: None when nothing was changed. See `RuntimeStore.update`, also for
        a store with nothing committed: by a descriptor with a payload model it is refused,
        otherwise `change` is called with None, and what it returns is written. In a list, such a
        store is left out of the batch where `change` returns None or `DELETED` for it.

        `change` is a plain function, and should be quick; it runs in a thread, under the lock. What
        it raises is raised here; only a `StopIteration` becomes a `RuntimeError`, as Python has it.
        """
        update: Callable[..., Batch | None] = self.sync_store.update  # one overload or another
        update = partial(update, identity=identity, reason=reason, batch_id=batch_id)
        under_way = self._writer.queue.register(TaskUnderWay(batch_id, self._workers))
        stores = now(partial(_stores_of, store))
        return under_way.of(self._update(stores, change, update, under_way))

    async def _update(
        self,
        stores_of: Callable[[], StoreKey | list[StoreKey]],
        change: Callable[[Any], Any],
        update: Callable[..., Batch | None],
        under_way: TaskUnderWay,
    ) -> Batch | None:
        stores = stores_of()
        # A coroutine function is refused at once.
        plain_change(change, None if isinstance(stores, list) else store_name(stores))
        call = under_way.begun(Call("update", partial(update, stores, change), self.lock))
        return await self._workers.writes.run_call(call)

    # --- runs -----------------------------------------------------------------------------------

    def begin_run(
        self,
        identity: RunIdentity | str,
        *,
        writes: Writes = (),
        keep: Keep = (),
        rebuilders: Rebuilders | None = None,
        supersede: bool = False,
    ) -> Opening[AsyncRun]:
        """Begin a run, or resume it when it is the active one: `run = await store.begin_run(...)`,
        or `async with` without await, which also ends it.

        A rebuilder is a coroutine function, which runs on the loop, or a plain function, which runs
        in a thread, as in `recover`. `writes` is copied by the call itself, before it is awaited.
        """
        copy = now(partial(copied_writes, writes))
        return Opening(
            f"{type(self).__name__}.begin_run",
            lambda: self._begin_run(
                identity, copy, keep=keep, rebuilders=rebuilders, supersede=supersede
            ).__await__(),
        )

    async def _begin_run(
        self,
        identity: RunIdentity | str,
        copy: Callable[[], Callable[[], Writes]],
        *,
        keep: Keep,
        rebuilders: Rebuilders | None,
        supersede: bool,
    ) -> AsyncRun:
        copied = copy()
        rebuilding = LoopRebuilders({} if rebuilders is None else rebuilders)

        def begin() -> Run:
            return self.sync_store.begin_run(
                identity,
                writes=copied(),
                keep=keep,
                rebuilders=rebuilding.rebuilders,
                supersede=supersede,
            )

        call = Call("begin_run", begin, self.lock)

        def cancel() -> None:
            call.withdraw()
            rebuilding.stop()

        return AsyncRun(self, await self._workers.recoveries.run_call(call, cancel))

    async def end_run(
        self,
        run_id: str | None = None,
        *,
        why: str | None = None,
        ending: RunEnding | str = RunEnding.STOPPED,
    ) -> RunRecord:
        """End the active run, from inside or outside, and return it. Its further batches are
        refused."""
        return await self._workers.writes.run(
            self.sync_store.end_run, run_id, why=why, ending=ending
        )

    async def runs(self) -> list[RunRecord]:
        """Return every run of this directory, the latest first. This does not wait for a call under
        way that begins or ends one."""
        return await self._workers.reads.run(self.sync_store.runs)

    async def start_state(self, run: RunIdentity | str | None = None) -> StartState:
        """Return where a runtime stands at its start, in one answer: what to do, and why."""
        return await self._workers.plans.run(self.sync_store.start_state, run)

    # --- reading --------------------------------------------------------------------------------

    @overload
    async def read(
        self, store: Descriptor[Payload], *, verify: bool = True, at: At | None = None
    ) -> StoreContent[Payload]: ...

    @overload
    async def read(
        self, store: str, *, verify: bool = True, at: At | None = None
    ) -> StoreContent: ...

    async def read(
        self, store: StoreKey, *, verify: bool = True, at: At | None = None
    ) -> StoreContent:
        """Return the committed content of a store, now or at a point in time. Takes no lock."""
        read: Callable[..., StoreContent] = self.sync_store.read  # one overload or the other
        return await self._workers.reads.run(read, store, verify=verify, at=at)

    async def history(self, store: StoreKey, *, limit: int | None = None) -> list[StoreVersion]:
        """Return the newest `limit` committed versions of a store (default: all), oldest first."""
        return await self._workers.reads.run(self.sync_store.history, store, limit=limit)

    async def diff(self, store: StoreKey, a: At, b: At | None = None) -> StoreDifferences:
        """Return the differences of a store between two points in time (the second: now)."""
        return await self._workers.reads.run(self.sync_store.diff, store, a, b)

    async def snapshot(self, stores: Iterable[StoreKey] | None = None) -> Snapshot:
        """Return several stores (default: all) as of one batch. Takes no lock."""
        return await self._workers.reads.run(self.sync_store.snapshot, _listed(stores))

    async def manifest(self) -> Manifest:
        """Return the manifest: everything that is committed now."""
        return await self._workers.reads.run(self.sync_store.manifest)

    async def batches(self, *, limit: int | None = None) -> list[Batch]:
        """Return the newest `limit` batches (default: all) with their receipts, oldest first. This
        does not wait for a batch under way, as `batch` does."""
        return await self._workers.reads.run(self.sync_store.batches, limit=limit)

    async def batch(self, batch_id: str) -> Batch | None:
        """Return one batch with its receipts, or None when it is not on record (any more).

        While a call of this object may write it (given this `batch_id`, from the moment of the
        call, awaited or not), wait for its outcome, at most 10 s; no thread waits meanwhile, and
        `close` does. Raises `BatchUnderWayError` when it is not on record, and may be later.
        """
        check_text("batch_id", batch_id)

        if self._has_outcome(batch_id):
            return await self._workers.reads.run_call(self._batch_call(batch_id, ended=True))
        with self._workers.asking():
            ended = await waiting.until(partial(self._has_outcome, batch_id), OUTCOME_S_MAX)
            call = self._batch_call(batch_id, ended=ended)
            return await self._workers.reads.run_call(call, is_admitted=True)

    def _batch_call(self, batch_id: str, *, ended: bool) -> Call[Batch | None]:
        known = self.sync_store._batch_known  # noqa: SLF001 - a part of the same facade
        return Call("batch", partial(known, batch_id, lambda _: ended))

    def _has_outcome(self, batch_id: str) -> bool:
        return not self._writer.queue.is_under_way(batch_id)

    async def wait(
        self, *, after: int | None = None, timeout_s: float | None = None
    ) -> list[Batch]:
        """Wait until a batch above a high watermark is committed, by any process. Return the next
        batches above it, oldest first, at most 1,000; none at the time-out.

        No thread waits meanwhile, and closing the store does not wait for it: it raises
        `StoreClosedError` then.
        """
        limit_s = follow.checked_timeout(timeout_s)
        first = await self._checked_after(after)

        async def read() -> list[Batch]:
            call = Call("wait", partial(follow.read_after, self.database, first))
            return await self._workers.reads.run_call(call)

        return await waiting.wait(self.database, read, self._workers.check_open, limit_s)

    async def _checked_after(self, after: int | None) -> int:
        call = Call("wait", partial(follow.checked_after, self.database, after))
        return await self._workers.reads.run_call(call)

    async def follow(
        self, *, after: int | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[Batch]:
        """Yield the batches above a high watermark, of every process, in their order: those that
        are there, and each that is committed from then on.

        It ends when no batch came for `timeout_s` seconds; without that, it never ends by itself.
        Without `after`, it begins where the store is at its first step.
        """
        first = await self._checked_after(after)
        while found := await self.wait(after=first, timeout_s=timeout_s):
            for batch in found:
                assert batch.high_watermark is not None  # noqa: S101 - it is committed
                first = batch.high_watermark
                yield batch

    async def quarantined_files(self) -> list[QuarantinedFile]:
        """Return the records of all quarantined files, oldest first."""
        return await self._workers.reads.run(self.sync_store.quarantined_files)

    async def upgrades(self) -> list[DatabaseUpgrade]:
        """Return the upgrades of the control database, oldest first."""
        return await self._workers.reads.run(self.sync_store.upgrades)

    async def back_up(self, destination: str | Path, *, progress: Progress | None = None) -> Backup:
        """Copy one consistent state into a new directory; `progress` is called in a thread."""
        return await self._workers.plans.run(
            self.sync_store.back_up, destination, progress=progress
        )

    async def prune(
        self,
        retention: Retention | None = None,
        *,
        dry_run: bool = False,
        progress: PruneProgress | None = None,
    ) -> PruneReport:
        """Drop the history beyond a retention now. `progress` is called in a thread. Writes go on
        meanwhile, and do not wait for the whole pruning."""
        workers = self._workers.plans if dry_run else self._workers.recoveries
        return await workers.run(
            self.sync_store.prune, retention, dry_run=dry_run, progress=progress
        )

    async def export(self, destination: str | Path | None = None) -> ExportReport:
        """Write the control files of the legacy format, here or in a new directory."""
        workers = self._workers.writes if destination is None else self._workers.plans
        return await workers.run(self.sync_store.export, destination)

    # --- planning and recovery ------------------------------------------------------------------

    async def plan_recovery(self, *, expected: RunIdentity | None = None) -> RecoveryPlan:
        """Compare every store file with the database, and return a plan of what to do."""
        return await self._workers.plans.run(self.sync_store.plan_recovery, expected=expected)

    async def check_readiness(self, *, expected: RunIdentity | None = None) -> ReadinessCheck:
        """Return whether the runtime may start on this state."""
        return await self._workers.plans.run(self.sync_store.check_readiness, expected=expected)

    async def assess(
        self, *, expected: RunIdentity | None = None
    ) -> tuple[RecoveryPlan, ReadinessCheck]:
        """Return the plan, and the readiness that follows from it and from the invariants."""
        return await self._workers.plans.run(self.sync_store.assess, expected=expected)

    async def invariant_failures(self) -> list[str]:
        """Return the contradictions between committed contents, a sentence each."""
        return await self._workers.reads.run(self.sync_store.invariant_failures)

    async def recover(
        self,
        plan: RecoveryPlan,
        *,
        rebuilders: Rebuilders | None = None,
        identity: RunIdentity | None = None,
        dry_run: bool = False,
    ) -> RecoveryReport:
        """Execute a plan. A rebuilder is a coroutine function, which runs on the loop, or a plain
        function, which runs in a thread. Both run without the writer lock. A rebuilder may use the
        store, but must not close it."""
        rebuilding = LoopRebuilders({} if rebuilders is None else rebuilders)
        function = partial(
            self.sync_store.recover,
            plan,
            rebuilders=rebuilding.rebuilders,
            identity=identity,
            dry_run=dry_run,
        )
        call = Call("recover", function, None if dry_run else self.lock)

        def cancel() -> None:
            call.withdraw()
            rebuilding.stop()

        return await self._workers.recoveries.run_call(call, cancel)

    async def adopt(
        self,
        store: StoreKey,
        *,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Commit a file that somebody changed by hand, byte for byte, in a batch of its own."""
        return await self._workers.writes.run(
            self.sync_store.adopt, store, identity=identity, reason=reason
        )

    async def revert(
        self,
        store: StoreKey,
        *,
        to: At,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Write the content that a store had at a point in time again, in a new batch."""
        return await self._workers.writes.run(
            self.sync_store.revert, store, to=to, identity=identity, reason=reason
        )

    async def prune_quarantine(
        self, *, older_than: timedelta, dry_run: bool = False
    ) -> tuple[QuarantinedFile, ...]:
        """Delete files that were quarantined longer ago than `older_than`, and return them."""
        return await self._workers.writes.run(
            self.sync_store.prune_quarantine, older_than=older_than, dry_run=dry_run
        )

    async def restore_quarantined(self, quarantine_number: int) -> QuarantinedFile:
        """Put a quarantined file back at its original path, byte for byte."""
        return await self._workers.writes.run(
            self.sync_store.restore_quarantined, quarantine_number
        )


def _listed(given: Iterable[Item] | None) -> Iterable[Item] | None:
    """Return the items of a caller as they are now. What is no list, a text or a record, is passed
    on as it is: the store refuses it."""
    if isinstance(given, (str, bytes, Record)) or not isinstance(given, Iterable):
        return given
    return tuple(given)


def _stores_of(store: StoreKey | Iterable[StoreKey]) -> StoreKey | list[StoreKey]:
    return store if isinstance(store, str | Descriptor) else checked_stores(store)


class AsyncRun(RunFacts):
    """`Run` for asyncio: one life of the runtime, begun or resumed with
    `AsyncRuntimeStore.begin_run`.

    Arguments, results and errors are those of the `Run` method with the same name. It is an async
    context manager, which ends the run: as finished, or as failed after an exception or a
    cancellation. It does not close the store.
    """

    def __init__(self, store: AsyncRuntimeStore, run: Run) -> None:
        super().__init__(run.identity, run.batch, run.superseded, run.left)
        self.sync_run = run
        """The run of the store that runs the calls. It blocks, so use it in threads only."""
        self.store = store

    @property
    def record(self) -> RunRecord | None:
        """How it ended; None until this object ends it."""
        return self.sync_run.record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id!r} of {self.store!r}>"

    def write_batch(
        self,
        reason: BatchReason | str,
        writes: Writes,
        *,
        expected_high_watermark: int | None = None,
        expected: ExpectedVersions | None = None,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]:
        """Write several stores as one atomic batch of this run. The data is copied by the call
        itself, before it is awaited."""
        return self.store.write_batch(
            identity=self.identity,
            reason=reason,
            writes=writes,
            expected_high_watermark=expected_high_watermark,
            expected=expected,
            batch_id=batch_id,
        )

    @overload
    def update(
        self,
        store: Descriptor[Payload],
        change: Callable[[Payload], Payload | Deleted],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]: ...

    @overload
    def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch]: ...

    @overload
    def update(
        self,
        store: StoreKeys,
        change: Callable[[StoreData], Mapping[Any, Any]],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch | None]: ...

    def update(
        self,
        store: StoreKey | Iterable[StoreKey],
        change: Callable[[Any], Any],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Coroutine[Any, Any, Batch | None]:
        """Read, change and write one store, or several together, under the writer lock. `change` is
        a plain function; it is not called when the run is over."""
        update: Callable[..., Coroutine[Any, Any, Batch | None]] = self.store.update  # one overload
        return update(store, change, identity=self.identity, reason=reason, batch_id=batch_id)

    async def plan_recovery(self) -> RecoveryPlan:
        """Return what to do about the store files, for this run's identity."""
        return await self.store.plan_recovery(expected=self.identity)

    async def check_readiness(self) -> ReadinessCheck:
        """Return whether the runtime may start, with this run's identity."""
        return await self.store.check_readiness(expected=self.identity)

    async def recover(
        self, plan: RecoveryPlan | None = None, *, rebuilders: Rebuilders | None = None
    ) -> RecoveryReport:
        """Execute a plan (default: a new one), and bind rebuilt stores to this run."""
        plan = await self.plan_recovery() if plan is None else plan
        return await self.store.recover(plan, rebuilders=rebuilders, identity=self.identity)

    async def end(self, why: str | None = None, *, failed: bool = False) -> RunRecord:
        """End the run, as finished or as failed. Return its record. Calling it again is harmless.
        Writes called before are carried out first."""
        end = partial(self.sync_run.end, why, failed=failed)
        return await self._workers.writes.run_call(Call("end_run", end, self.store.lock))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        def leave() -> RunRecord | None:
            self.sync_run.__exit__(kind, error, traceback)
            return self.record

        call = Call("end_run", leave, ended=f"run {self.run_id} was not ended by it")
        try:
            await self._workers.writes.run_call(call, on_cancellation=lambda: None)
        except StoreClosedError as other:
            if error is None:
                raise
            note_not_ended(error, self.run_id, other)

    @property
    def _workers(self) -> ThreadPools:
        return self.store._workers  # noqa: SLF001 - a part of the same facade
