"""The runtime store for asyncio: the interface of `RuntimeStore`, awaited.

    async with AsyncRuntimeStore.open("teams/team-a", team_name="team-a") as store:
        await store.update("opencode.sessionStore", add_session, identity=..., reason=...)

Every call is carried out by a `RuntimeStore` in a worker thread. The threads are the store's own:
however long they wait for the writer lock, the loop's default executor stays free.

    reads       4 threads    contents, batches, manifest, invariants: they never wait for the lock
    plans       2 threads    they look at every file, and beside a busy writer may wait for the lock
    writes      1 thread     in the order of the calls; batches that wait by then share a flush
    recoveries  as needed    a rebuilder takes its time, and may use the store meanwhile

So no read waits behind a write that waits for the lock, and a hundred tasks that write at the same
time cost a few flushes, not a hundred (an `update` begins a flush of its own; the batches that wait
behind it go with it). The time that a
write spends in the queue counts as waiting: after `lock_timeout_s` a lock that is not free is a
`LockTimeoutError`, for all that wait. On the loop itself nothing is done but to take a copy of the
data of a batch (some 5 ms for each megabyte), so that a batch holds what its caller saw when it
called. What a thread does in one call of C, such as to check the data, holds Python's interpreter
lock: some 30 ms for a store of a megabyte, which the loop feels, and next to nothing for a small
one.

**Cancellation** (of a task, by a time-out, or when the loop ends) leaves nothing in doubt:

* a call that has not begun is not carried out. A write that is in the queue, or waits for somebody
  else to free the writer lock, has not begun (unless the lock was free and somebody else was
  quicker). What opening or a plan may have to wait for is no such turn: they have begun.
* a call that has begun is waited for, whatever else comes, a second cancellation included. Then
  `CancelledError` is raised; a note on it, and a record of the logger `rtstore.aio.store`, say what
  happened: `batch batch-7 is committed`, or the error, which is also its cause.

A program that must act on it gives `batch_id` itself: `batch(batch_id)` is the answer then, and to
repeat the write with the same id and data is harmless. A recovery that is cancelled cancels the
coroutine of its rebuilder, calls no other rebuilder, and is recorded to its end. A loop that is
closed while tasks wait in it (`asyncio.run` does not) cannot be told; the call ends all the same.

`aclose` refuses further calls, lets those made before it end, and closes the store. The store is
not bound to a loop. Functions given to it (`change`, rebuilders, clock, id factories) run in worker
threads with the caller's context variables; they must not wait for a write of the same store. The
observer (`on_event`) is called on the loop of the call that it is told of, before that call goes
on: `on_event=queue.put_nowait` of an `asyncio.Queue` will do.

What works on a directory that is not open (`upgrade_directory`, `import_directory`,
`restore_backup`, ...) is a plain function, for `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from rtstore.aio.calls import Call, LoopObserver
from rtstore.aio.pools import (
    BatchCall,
    LoopRebuilders,
    ThreadPools,
    UpdateCall,
    copier,
)
from rtstore.commit.group import PendingBatch
from rtstore.commit.publisher import Durability
from rtstore.commit.reporting import Observer
from rtstore.control.contents import Retention
from rtstore.control.history import StoreVersion
from rtstore.control.lock import DEFAULT_TIMEOUT_S
from rtstore.files.system import FileSystem
from rtstore.history.prune import PruneProgress, PruneReport
from rtstore.history.reader import Snapshot, StoreContent
from rtstore.history.versions import At, StoreDifferences
from rtstore.legacy import ExportReport
from rtstore.maintenance.backup import Backup
from rtstore.maintenance.backup.record import Progress
from rtstore.model.descriptors import Descriptor
from rtstore.model.ids import IdFactory, new_batch_id, new_plan_id, new_receipt_id
from rtstore.model.records import (
    Batch,
    BatchReason,
    DatabaseUpgrade,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.model.request import Writes, batch_request, pairs
from rtstore.model.times import Clock, utc_now
from rtstore.recovery.rebuilders import Rebuilders
from rtstore.store import RuntimeStore, plain_change

StoreT = TypeVar("StoreT", bound="AsyncRuntimeStore")


class OpeningStore(Generic[StoreT]):
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
        self.retention = store.retention
        self.database = store.database
        self.lock = store.lock
        self.last_recovery = store.last_recovery
        """What opening the store had to put right, or None."""
        self.last_data_upgrade = store.last_data_upgrade
        """The stores whose data opening brought up to its descriptor's version, or None."""
        self._writer = store._writer  # noqa: SLF001 - a part of the same facade
        self._workers = ThreadPools(store.directory, store.lock, self._writer.write_pending)

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
        upgrade: bool = True,
        on_event: Observer | None = None,
        fs: FileSystem | None = None,
    ) -> OpeningStore[Self]:
        """Open a store: `store = await AsyncRuntimeStore.open(...)`, or `async with` without await.

        Cancelled, it is waited for (up to `lock_timeout_s` when there is something to recover and
        another process writes), and the store is closed again.
        """
        observer = None if on_event is None else LoopObserver(on_event)
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
            upgrade=upgrade,
            on_event=observer,
            fs=fs,
        )
        return OpeningStore(lambda: cls._open(function, on_event).__await__())

    @classmethod
    async def _open(cls, function: Callable[[], RuntimeStore], on_event: Observer | None) -> Self:
        call = Call("open", function, ended="the store is closed again")
        call.on_event = on_event
        call.start_alone()
        try:
            store = cls(await call.end())
            store._workers.on_event = on_event
            return store
        except asyncio.CancelledError:
            if not call.future.cancelled() and call.future.exception() is None:
                with suppress(asyncio.CancelledError):  # the first one is raised
                    await cls(call.future.result()).aclose()
            raise

    async def aclose(self) -> None:
        """Refuse further calls, wait for those made before, close the store. Cancelled, it is
        finished all the same. Closing twice is harmless."""
        await self._workers.close(self.sync_store.close)

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
        copies = [(name, copier(data)) for name, data in pairs(writes)]

        def submit() -> PendingBatch:
            request = batch_request(
                self.team_name,
                self.descriptors,
                identity=identity,
                reason=reason,
                writes=[(name, copied()) for name, copied in copies],
            )
            return self._writer.prepare(request, expected_high_watermark, batch_id)

        return await self._workers.writes.run_call(BatchCall(submit, self.lock))

    async def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
    ) -> Batch:
        """Read, change and write one store under the writer lock, so that no update is lost.

        `change` is a plain function, and should be quick; it runs in a thread, under the lock. What
        it raises is raised here; only a `StopIteration` becomes a `RuntimeError`, as Python has it.
        """
        plain, inside = plain_change(change, store), self.sync_store
        update = partial(inside._update, store, plain, identity, reason)  # noqa: SLF001 - see above
        return await self._workers.writes.run_call(UpdateCall(update, self.lock))

    # --- reading --------------------------------------------------------------------------------

    async def read(self, store: str, *, verify: bool = True, at: At | None = None) -> StoreContent:
        """The committed content of a store, now or at a point in time; takes no lock."""
        return await self._workers.reads.run(self.sync_store.read, store, verify=verify, at=at)

    async def history(self, store: str, *, limit: int | None = None) -> list[StoreVersion]:
        """The committed versions of a store, oldest first; the newest `limit` of them."""
        return await self._workers.reads.run(self.sync_store.history, store, limit=limit)

    async def diff(self, store: str, a: At, b: At | None = None) -> StoreDifferences:
        """What differs between a store at one point in time and at another (default: now)."""
        return await self._workers.reads.run(self.sync_store.diff, store, a, b)

    async def snapshot(self, stores: Iterable[str] | None = None) -> Snapshot:
        """Several stores (default: all) as of one batch; takes no lock."""
        names = None if stores is None else tuple(stores)
        return await self._workers.reads.run(self.sync_store.snapshot, names)

    async def manifest(self) -> Manifest:
        """What is committed now."""
        return await self._workers.reads.run(self.sync_store.manifest)

    async def batches(self, *, limit: int | None = None) -> list[Batch]:
        """The batches, oldest first, with their receipts; the newest `limit` of them."""
        return await self._workers.reads.run(self.sync_store.batches, limit=limit)

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch with its receipts, or None when it is not known (any more)."""
        return await self._workers.reads.run(self.sync_store.batch, batch_id)

    async def quarantined_files(self) -> list[QuarantinedFile]:
        """The evidence kept so far, oldest first."""
        return await self._workers.reads.run(self.sync_store.quarantined_files)

    async def upgrades(self) -> list[DatabaseUpgrade]:
        """The upgrades of the control database, oldest first."""
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
        """Drop the history beyond a retention now; `progress` is called in a thread. Writes made
        meanwhile do not wait for all of it."""
        workers = self._workers.plans if dry_run else self._workers.recoveries
        return await workers.run(
            self.sync_store.prune, retention, dry_run=dry_run, progress=progress
        )

    async def export(self, destination: str | Path | None = None) -> ExportReport:
        """Write the control files of the file-only ancestor, here or in a new directory."""
        workers = self._workers.writes if destination is None else self._workers.plans
        return await workers.run(self.sync_store.export, destination)

    # --- planning and recovery ------------------------------------------------------------------

    async def plan_recovery(self, *, expected: RunIdentity | None = None) -> RecoveryPlan:
        """Hold every store file against the database and say what to do."""
        return await self._workers.plans.run(self.sync_store.plan_recovery, expected=expected)

    async def check_readiness(self, *, expected: RunIdentity | None = None) -> ReadinessCheck:
        """Whether the runtime may start on this state."""
        return await self._workers.plans.run(self.sync_store.check_readiness, expected=expected)

    async def assess(
        self, *, expected: RunIdentity | None = None
    ) -> tuple[RecoveryPlan, ReadinessCheck]:
        """The plan, and the readiness that follows from it and from the invariants."""
        return await self._workers.plans.run(self.sync_store.assess, expected=expected)

    async def invariant_failures(self) -> list[str]:
        """What the committed contents contradict each other in."""
        return await self._workers.reads.run(self.sync_store.invariant_failures)

    async def recover(
        self,
        plan: RecoveryPlan,
        *,
        rebuilders: Rebuilders | None = None,
        identity: RunIdentity | None = None,
        dry_run: bool = False,
    ) -> RecoveryReport:
        """Carry out a plan. A rebuilder may be a coroutine function, which runs on the loop, or a
        plain function, which runs in the thread; both without the lock. It may use the store, but
        not close it."""
        rebuilding = LoopRebuilders(rebuilders or {})
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
        store: str,
        *,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Make a file that somebody changed by hand the committed content, byte for byte."""
        return await self._workers.writes.run(
            self.sync_store.adopt, store, identity=identity, reason=reason
        )

    async def revert(
        self,
        store: str,
        *,
        to: At,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Write what a store held at a point in time again, in a new batch."""
        return await self._workers.writes.run(
            self.sync_store.revert, store, to=to, identity=identity, reason=reason
        )

    async def prune_quarantine(
        self, *, older_than: timedelta, dry_run: bool = False
    ) -> tuple[QuarantinedFile, ...]:
        """Drop the files in quarantine that were kept longer ago than that, for good."""
        return await self._workers.writes.run(
            self.sync_store.prune_quarantine, older_than=older_than, dry_run=dry_run
        )

    async def restore_quarantined(self, quarantine_number: int) -> QuarantinedFile:
        """Put a quarantined file back where it was, byte for byte."""
        return await self._workers.writes.run(
            self.sync_store.restore_quarantined, quarantine_number
        )
