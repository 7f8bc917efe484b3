"""The commit protocol: write several store files as one batch, all or nothing.

    1 validate   the request, the paths, the data; nothing is touched
    2 lock       the writer lock; resolve in-doubt batches; quarantine foreign files
    3 log        batch, planned writes and contents in one flushed SQL transaction  <- commit point
    4 publish    each file: a temporary file next to it, which is exchanged with it; no flush; the
                 replaced version is checked before it is removed. Then what the batch deletes: the
                 file gets the temporary name, is checked, and is removed
    5 complete   entries, identity, high watermark, state `committed`; no flush
    6 unlock     and return the batch with its receipts

**Must** hold, or data is lost: contents and planned writes are durable before the first rename; a
`preparing` batch goes forward, never back, unless its living writer recorded it as failed; a batch
marked failed never comes back; the content of every current entry stays in the database; no file
that differs from what is committed is destroyed without its copy in quarantine. **Should** hold,
and is repaired when not: temporary files are gone, files are on disk, old history is gone.

What a crash leaves, and what then happens. Brackets name the tests in `tests/crash` for the case.
`test_control_is_caught` shows that they notice a fault, with libraries broken on purpose.

* before 3, or in 3: no row of the batch. Files and manifest are as before; nothing to do. (A copy
  made in step 2 may lie in quarantine without its row; the same bytes get the same name again.)
  [test_killed_at_every_point, test_power_lost_at_every_point]
* between 3 and 4, or between two renames: the batch is `preparing`; some files are new. The plan
  finds an open batch whose lock is free: `roll_forward` for each of its stores, readiness blocked.
  Opening the store publishes the rest from the log and completes the batch.
  [test_killed_at_every_point, test_killed_again_while_recovering, test_two_recoveries_at_once]
* in 4, where somebody wrote the file after our check: the exchange left their version under the
  temporary name. It is quarantined before it is removed. If the writer died in between,
  `roll_forward` quarantines it, whatever the file itself holds by then; no temporary file is
  removed before that. (The scenario is `write_raced`.)
  [test_killed_at_every_point, test_error_at_every_point, test_power_lost_at_every_point]
* after the last rename, or in 5: as above; the files are already right, so only the commit record
  is written. [test_killed_at_every_point]
* after 5, power lost, the unflushed commit record gone: the log was flushed, so the batch is
  `preparing` again and is completed again, with the ids and times that the caller received.
  [test_power_lost_at_every_point]
* after 5, power lost, the commit record on the medium (flushed with a later batch), files lost or
  torn: a current file's hash is wrong. The plan finds the file `missing`, `quarantined`, or as an
  earlier batch wrote it: `restore_committed`, done when the store is opened, from the content in
  the database. [test_power_lost_at_every_point]
* after 5, power lost, and a file is older than the whole retained history: it was not flushed
  since. The hash in `batch_writes` identifies its version as ours. A row there is dropped only when
  a flush of the file and its directory rules that version out (`rtstore.commit.flushing`). So the
  file is restored like any earlier version; if its bytes have left the history, a copy is
  quarantined. [test_power_lost_at_every_point, test_control_is_caught]

* in 4, a store that the batch deletes: its file has the temporary name, or is gone. `roll_forward`
  looks at the temporary file, and removes the file where it is still there.
  [test_killed_at_every_point, test_power_lost_at_every_point]
* after 5, power lost, a file that was removed is back, whole or torn. The plan finds a file of a
  store without an entry that holds bytes of ours: `restore_committed`, which removes it. The
  contents of a store that is deleted are dropped only when a flush of the directory rules the file
  out, for a torn file is known by them alone. [test_power_lost_at_every_point]

Errors while the writer lives: publishing fails -> the batch is recorded as failed, durably, then
the files that were published or removed are put back (`BatchFailedError`). The database fails after
the commit point -> `BatchUnfinishedError`, the outcome is decided. The flush of the log fails ->
the state of the medium is unknown: `BatchUnfinishedError` with `decided=False`, and this process
writes no more.
[test_error_at_every_point]

**Group commit.** Batches that callers of one store object submit during another write wait in a
queue, and go through steps 3 to 5 together. One flushed transaction logs them, numbered in their
order. A store that several batches write is published once, with its last version. One unflushed
transaction completes them. Each stays a batch of its own, with its receipts and its high watermark.
`rtstore.commit.group` has the cases that this adds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from sqlalchemy import Connection

from rtstore.commit.adopt import draft_of_file, last_identity
from rtstore.commit.begin import (
    Beginning,
    Begun,
    check_beginning,
    draft_of_beginning,
    draft_of_first_contents,
    left_by,
    superseded_by,
)
from rtstore.commit.draft import Draft, PlannedBatch, validate
from rtstore.commit.group import (
    FORKED_IN_CALL,
    PendingBatch,
    Place,
    TakeGroup,
    WriteQueue,
    explain,
    names_of,
    own_error,
    parts_by_run,
)
from rtstore.commit.lost_entries import make_lost_entries
from rtstore.commit.preconditions import (
    CommittedState,
    CommittedView,
    check_ids,
    check_manifest,
    check_moved,
    check_paths,
    check_run,
    check_versions,
    first_result,
    first_update,
    quarantine_foreign_files,
    versions_to_delete,
)
from rtstore.commit.publisher import Durability, Publisher
from rtstore.commit.quarantine import Expected
from rtstore.commit.reporting import EventDispatcher
from rtstore.commit.update import Update, draft_of_update
from rtstore.control import batches, contents, manifest, recovery_log, runs
from rtstore.control.batches import ReceiptStore
from rtstore.control.contents import Retention
from rtstore.control.lock import WriterLock
from rtstore.control.manifest import ManifestStore
from rtstore.control.run_processes import is_alive, this_process
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import (
    BatchFailedError,
    BatchUnfinishedError,
    CorruptDatabaseError,
    DatabaseFailedError,
    DatabaseLostError,
    InvalidRequestError,
    LockLostError,
    RuntimeStoreError,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    cause_of,
)
from rtstore.files import durable
from rtstore.files.owners import explained
from rtstore.files.paths import store_path
from rtstore.files.system import FileSystem
from rtstore.foreign import fails_again, system_error
from rtstore.model.arguments import check_new_id, time_of
from rtstore.model.descriptors import Descriptor
from rtstore.model.ids import IdFactory, new_batch_id, new_receipt_id
from rtstore.model.records import (
    Batch,
    LoggedBatch,
    PlannedChange,
    PlannedDeletion,
    QuarantinedFile,
    RunIdentity,
)
from rtstore.model.request import BatchRequest, ExpectedVersions, checked_versions
from rtstore.model.runs import RunEnding, RunProcess, RunRecord
from rtstore.model.times import Clock, utc_now

Result = TypeVar("Result")

STACK_NEEDED = 120
"""The depth, in calls, of a write and of the code that finds the outcome of an interrupted one."""


def need_stack(depth: int = STACK_NEEDED) -> None:
    """Raise RecursionError now, before anything begins, when the stack has no room for a write."""
    return need_stack(depth - 1) if depth else None


class BatchWriter:
    """Writes batches into one runtime directory. Safe to share between threads.

    The factories make the ids of batches and receipts; the clock returns their times. Ids and times
    are part of what is written, so tests inject them. `retention` limits the history; default: the
    retention that the directory remembers.
    """

    def __init__(
        self,
        directory: Path,
        manifest_store: ManifestStore,
        receipt_store: ReceiptStore,
        *,
        batch_id_factory: IdFactory = new_batch_id,
        receipt_id_factory: IdFactory = new_receipt_id,
        clock: Clock = utc_now,
        lock: WriterLock | None = None,
        durability: Durability = Durability.LOG,
        retention: Retention | None = None,
        fs: FileSystem | None = None,
        events: EventDispatcher | None = None,
    ) -> None:
        self.directory = directory
        self.database = manifest_store.database
        self.events = events or EventDispatcher(self.database)
        self.receipt_store = receipt_store
        self.lock = lock or self.database.lock or WriterLock(directory)
        self.publisher = Publisher(
            directory,
            self.database,
            clock=clock,
            durability=durability,
            retention=retention,
            fs=fs,
            events=self.events,
        )
        self._batch_id_factory = batch_id_factory
        self._receipt_id_factory = receipt_id_factory
        self._clock = clock
        self._committed = CommittedState(self.publisher)
        self.is_opening = False
        """True while the stores get the files of the descriptors of an opening."""
        self.queue = WriteQueue(self.lock)
        """All batches of this object go through it."""

    def write_batch(
        self,
        request: BatchRequest,
        *,
        expected_high_watermark: int | None = None,
        batch_id: str | None = None,
        expected: ExpectedVersions | None = None,
    ) -> Batch:
        """Write all stores of the request as one batch, and return it with its receipts.

        The batch is durable on return: it survives the death of the process and a loss of power.
        The files are in place; they are flushed only with `Durability.FILES`.

        With `expected_high_watermark`, write the batch only if the manifest is at that high
        watermark (compare and swap); with `expected`, only if each store in it is at that version:
        the batch that wrote it, as `StoreContent.high_watermark` or `batch_id` has it, or None when
        nothing was committed for it. With a `batch_id` that was committed before, return the first
        result if the contents are equal, or raise `OtherContentsError`.

        Raises `CallError` for a bad request (nothing written), `ConflictError`, `LockTimeoutError`,
        `StorageError`, `OpenBatchError` (an in-doubt batch cannot be resolved; nothing written),
        `StoreFileChangedError` (another program gave a store another file; nothing written),
        `BatchFailedError` (undone), `NewerStoreFileError`, `BatchUnfinishedError` (in the log, or
        perhaps in the log), `DatabaseFailedError`.
        """
        prepare = partial(self.prepare, request, expected_high_watermark, batch_id, expected)
        return self._write_one(prepare, PendingBatch.result, batch_id)

    def write_checked(
        self, request: BatchRequest, expected: ExpectedVersions, check: Callable[[], None]
    ) -> Batch:
        """Write as `write_batch`, unless `check` raises under the lock."""
        pending = self.prepare(request, expected=expected)

        def compose() -> Draft:
            self._committed.refresh(pending.draft.names)
            check()
            return pending.draft

        composed = partial(PendingBatch, expected=pending.expected, compose=compose)
        return self._write_one(composed, PendingBatch.result)

    def prepare(
        self,
        request: BatchRequest,
        expected_high_watermark: int | None = None,
        batch_id: str | None = None,
        expected: ExpectedVersions | None = None,
    ) -> PendingBatch:
        """Do step 1 for a batch, and return it for `write_pending`. Raises `CallError`."""
        self.database.check_usable()
        draft = validate(request, batch_id, self._now())
        expected = {} if expected is None else checked_versions(expected, draft.names)
        return PendingBatch(draft, expected_high_watermark, expected)

    def write_pending(self, pending: Sequence[PendingBatch]) -> None:
        """Write batches in their order, and set the outcome of each: the result or the error of
        `write_batch`.

        Raises an error that concerns all of them, such as `StorageError`; some may nevertheless
        have an outcome.
        """
        began_at = time.perf_counter()
        try:
            need_stack()
            self._unless_forked(partial(self.queue.run, pending, self._lead))
            for item in pending:
                if item.is_of_parent and item.error is not None:
                    item.error = StoreClosedError(self.directory, FORKED_IN_CALL)
        except RuntimeStoreError:
            # An error of the leader afterwards does not concern a batch that has its outcome.
            if not pending or not all(item.is_done for item in pending):
                raise
        finally:
            self.events.batches_ended(pending, time.perf_counter() - began_at)

    def _unless_forked(self, function: Callable[[], Result]) -> Result:
        """Call a function. Raises `StoreClosedError` for what it raises in a child that was forked
        inside of it: the lock and the connections stayed with the parent."""
        process_id = os.getpid()
        try:
            return function()
        except Exception as error:
            if os.getpid() == process_id or isinstance(error, StoreForkedError):
                raise
            raise StoreClosedError(self.directory, FORKED_IN_CALL) from error

    def serve(self, place: Place) -> None:
        """Write the batch of a task that is in the queue, or only leave the queue when a leader has
        written it. Raises an error that is not that of the batch."""
        if not place.is_done:
            need_stack()
        self.queue.serve(place, self._lead)

    def update(self, update: Update, *, check_file: Callable[[Descriptor], None]) -> Batch | None:
        """Read, change and write stores under the writer lock, so that no update is lost. Return
        None when nothing of several stores was changed: then there is no batch.

        The function runs under the lock, so it should be quick, and it must not write to the store
        itself. Its exceptions pass unchanged, and then nothing is written. With a `batch_id` that
        was committed before, return the first result without calling it: see `first_update`.
        Otherwise as `write_batch`.
        """
        self.database.check_usable()
        if update.batch_id is not None:
            check_new_id("batch_id", update.batch_id)

        def compose() -> Draft | Batch | None:
            found = self._committed.refresh(update.names)
            never_written = set(update.names) - found.files.keys()
            if never_written and make_lost_entries(self.publisher, never_written):
                found = self._committed.refresh(update.names)
            if update.batch_id is not None:
                first = first_update(
                    update.batch_id,
                    update.names,
                    update.identity,
                    update.reason,
                    self.receipt_store,
                )
                if first is not None:
                    return first
            check_run(update.identity.run_id, found, self.database)
            return draft_of_update(
                update, found, self.publisher, check_file=check_file, now=self._now()
            )

        return self._write_one(
            partial(PendingBatch, compose=compose), PendingBatch.result_if_any, update.batch_id
        )

    def begin_run(
        self,
        beginning: Beginning,
        *,
        check_file: Callable[[Descriptor], None],
    ) -> Begun:
        """Begin a run with one batch, or resume it when it is the active one: then write only the
        first contents of stores that were never written.

        Under the writer lock, the stores that are kept are read, and committed anew under the new
        identity. Durable on return. Raises `StaleRunError` for a run that is over, `RunAliveError`,
        `ConflictError` when a store changed after it was rebuilt, `StoreFileChangedError` and
        `ContentMissingError` for a kept store; otherwise as `write_batch`.
        """
        self.database.check_usable()
        before: RunRecord | None = None
        left: tuple[str, ...] = ()
        process: RunProcess | None = None

        def compose() -> Draft | None:
            nonlocal before, left, process
            found = self._committed.refresh(beginning.names)
            if make_lost_entries(self.publisher):
                found = self._committed.refresh(beginning.names)
            before = self.database.read_on_writer(
                partial(
                    check_beginning,
                    identity=beginning.identity,
                    directory=self.directory,
                    supersede=beginning.supersede,
                )
            )
            if beginning.is_active(found):
                process = self._resume(beginning.run_id)
                draft = draft_of_first_contents(beginning, found, now=self._now())
            else:
                process = this_process(self.directory)
                draft = draft_of_beginning(
                    beginning, found, self.publisher, check_file=check_file, now=self._now()
                )
            written = () if draft is None else draft.names
            ask_left = partial(left_by, run_id=beginning.run_id, names=written)
            left = self.database.read_on_writer(ask_left)
            return draft

        pending: list[PendingBatch] = []
        try:
            pending.append(PendingBatch(compose=compose))
            self.write_pending(pending)
            batch = None if pending[0].is_dropped else pending[0].result()
            if batch is None or (before is not None and before.run_id == beginning.run_id):
                return Begun(None, None, left, process)  # resumed
            return Begun(batch, superseded_by(batch, before), left, process)
        except BaseException as error:
            explain(error, pending)
            raise

    def _write_one(
        self,
        prepare: Callable[[], PendingBatch],
        result_of: Callable[[PendingBatch], Result],
        batch_id: str | None = None,
    ) -> Result:
        """Prepare a batch and write it. An exception gets a note on what is known of it. From now
        on, who asks for a batch with that id waits for its outcome."""
        pending: list[PendingBatch] = []
        try:
            return self._written(prepare, result_of, batch_id, pending)
        except BaseException as error:
            explain(error, pending)
            raise

    def _written(
        self,
        prepare: Callable[[], PendingBatch],
        result_of: Callable[[PendingBatch], Result],
        batch_id: str | None,
        pending: list[PendingBatch],
    ) -> Result:
        with self.queue.under_way(batch_id):
            pending.append(prepare())
            self.write_pending(pending)
            return result_of(pending[0])

    def _resume(self, run_id: str) -> RunProcess | None:
        """Record this process as that of the active run, unless another one of it is alive. Return
        the process of the run."""
        run = self.database.read_on_writer(partial(runs.find, run_id=run_id))
        if run is None or is_alive(run.process, self.directory):
            return None if run is None else run.process
        process = this_process(self.directory)
        with self.database.write(flush=False) as connection:
            runs.resume(connection, run_id, process)
        return process

    def end_run(self, run_id: str | None, *, ending: RunEnding, why: str | None) -> RunRecord:
        """End the active run, which must be `run_id` if that is given. Durable on return.

        Raises `StaleRunError` when that run is over, and `InvalidRequestError` when it is unknown,
        not active, or when no run is active. Nothing is changed then. `DatabaseFailedError` says
        that the flush failed: the run may have ended or not. So may it after an exception from
        outside, which has a note.
        """
        self.database.check_usable()
        try:
            need_stack()
            return self._unless_forked(partial(self._end_run, run_id, ending=ending, why=why))
        except RuntimeStoreError:
            raise
        except BaseException as error:
            error.add_note("rtstore: it is not known whether the run has ended: ask store.runs()")
            raise

    def _end_run(self, run_id: str | None, *, ending: RunEnding, why: str | None) -> RunRecord:
        with self.lock.hold():
            self._committed.refresh([])
            try:
                with self.database.write(flush=True) as connection:
                    self.lock.check_name()
                    run = _run_to_end(connection, run_id)
                    runs.end(connection, run.run_id, ending, why, self._now())
                    ended = runs.find(connection, run.run_id)
            except StorageError as error:
                if self.database.failure is not None:
                    raise DatabaseFailedError(self.database.path, cause_of(error)) from error
                raise
            finally:
                self._committed.forget()
        assert ended is not None  # noqa: S101 - its row was just changed
        return ended

    def check(self, request: BatchRequest) -> None:
        """Raise the errors of `write_batch` that come from the request alone. Touch nothing."""
        validate(request, None, self._now())

    def adopt(
        self,
        descriptor: Descriptor,
        *,
        team_name: str,
        identity: RunIdentity | None,
        reason: str,
        by_itself: bool = False,
    ) -> Batch:
        """Commit a file that was changed by hand, byte for byte.

        Without an identity the batch is of the last run, even if that is over; with `by_itself`
        nobody asked for it by name. The data and the schema version of the file must pass the
        checks of a write. Raises `InvalidRequestError` when they do not, when there is no file,
        when the file already is the committed version, when nobody edited it (see `refuse_own`), or
        when no run is known; otherwise as `write_batch`.
        """

        def compose() -> Draft:
            found = self._committed.refresh([descriptor.schema_name])
            if identity is not None:
                check_run(identity.run_id, found, self.database)
            bound = identity or self.database.read_on_writer(last_identity)
            if bound is None:
                problem = "no run is known yet, so it must be given"
                raise InvalidRequestError("identity", problem)
            return draft_of_file(
                descriptor,
                found.files.get(descriptor.schema_name),
                self.publisher,
                team_name=team_name,
                identity=bound,
                reason=reason,
                fenced=identity is not None,
                by_itself=by_itself,
                is_opening=self.is_opening,
                now=self._now(),
            )

        return self._write_one(partial(PendingBatch, compose=compose), PendingBatch.result)

    def look_settled(self, look: Callable[[], Result]) -> Result:
        """Return what a function reads under the writer lock, once in-doubt batches are resolved.
        Raises what it raises, and as `write_batch` where they cannot be resolved."""
        self.database.check_usable()
        need_stack()

        def settled() -> Result:
            with self.lock.hold():
                self._committed.refresh([])
                return look()

        try:
            return self._unless_forked(settled)
        finally:
            self.events.tell()

    def _now(self) -> datetime:
        return time_of(self._clock)

    # --- 2 to 6 -----------------------------------------------------------------------------------

    def _lead(self, take: TakeGroup) -> None:
        """Write the batches at the head of the queue. The writer lock is held, and it is this
        thread's turn. On an exception from outside, find the outcome of those that may be in the
        log, while the lock is still held: a batch that is there goes forward."""
        group: Sequence[PendingBatch] = ()
        try:
            take.compose()
            for group in parts_by_run(take()):
                self._commit(group, self._committed.refresh(names_of(group)))
        except RuntimeStoreError:
            raise
        except BaseException:
            self._committed.forget()
            self._find_outcomes(group)
            raise

    def _commit(self, group: Sequence[PendingBatch], found: CommittedView) -> None:
        """Take batches from the checks of step 2 to step 5, and set the outcome of each. No batch
        is open: `refresh` has resolved those in doubt."""
        going = self._check(group, found)  # 2
        if not going:
            return
        for planned in going:
            planned.pending_batch.log_begun = True
        try:
            logged = self._log(*going)  # 3: the commit point
        except RuntimeStoreError as error:
            self._not_logged(going, error)
            return
        published = self._publish_together(logged)  # 4
        if not published:
            return
        try:
            completed = self._complete(*published)  # 5
        except (BatchUnfinishedError, DatabaseLostError) as error:
            for done in published:
                done.pending_batch.error = error.about(done.logged.batch.batch_id)
            return
        for done, batch in zip(published, completed, strict=True):
            done.pending_batch.batch = batch

    def _find_outcomes(self, group: Sequence[PendingBatch]) -> None:
        unsure = [item for item in group if item.log_begun and not item.is_done]
        with suppress(RuntimeStoreError):  # then the outcome is unknown, and the note says so
            if unsure:
                self._committed.refresh(names_of(unsure))
            for item in unsure:
                try:
                    item.batch = first_result(item.draft, item.planned, self.receipt_store)
                    item.log_begun = item.batch is not None
                except InvalidRequestError as error:  # it has failed
                    item.error = error

    def _check(self, group: Sequence[PendingBatch], found: CommittedView) -> list[Planned]:
        """Return the batches that are to be logged, planned. Set the outcome of those that are
        refused, or were written before. Quarantine foreign files."""
        looked_at: set[str] = set()
        owners: dict[str, str] = {}
        going: list[Planned] = []

        def admit(item: PendingBatch) -> None:
            draft = item.draft
            item.batch = first_result(draft, item.planned, self.receipt_store)
            if item.batch is not None:
                return
            check_manifest(draft, found, item.expected_high_watermark, self.directory)
            check_versions(item.expected, self.database)
            if draft.fenced_run_id is not None:
                check_run(draft.fenced_run_id, found, self.database)
            if not self.is_opening:
                check_moved(draft, found.files, self.database)
            check_paths(draft, found.files, owners, self.database)
            deleting = (
                versions_to_delete(draft, found, [planned.plan for planned in going], self.database)
                if draft.deleted
                else ()
            )
            batch_id = item.batch_id or check_new_id(
                "batch_id_factory", own_error(self._batch_id_factory)
            )
            quarantined = (
                []
                if draft.in_place
                else quarantine_foreign_files(
                    draft,
                    batch_id,
                    found.files,
                    self.publisher,
                    but_not=looked_at,
                    deleting=deleting,
                )
            )
            now, new_receipt_id = own_error(self._now), partial(own_error, self._receipt_id_factory)
            item.planned = draft.plan(batch_id, quarantined, now, new_receipt_id, deleting)
            looked_at.update(draft.names)
            owners.update((write.relative_path, write.schema_name) for write in item.planned.writes)
            going.append(Planned(item, item.planned))

        for item in group:
            item.attempt(admit)
        return going

    # --- 3: log -----------------------------------------------------------------------------------

    def _log(self, *going: Planned) -> list[Logged]:
        """Do step 3. Once the commit returns, the batches will happen; before it, nothing has."""
        try:
            with self.database.write(flush=True) as connection:
                self.lock.check_name()
                logged = write_log(connection, [item.plan for item in going], self.directory)
        except DatabaseLostError as error:
            raise error.about(going[0].plan.batch_id) from error
        except DatabaseFailedError:
            raise  # an earlier flush failed: nothing of this batch was tried
        except RuntimeStoreError as error:
            if self.database.failure is not None:
                raise BatchUnfinishedError(
                    going[0].plan.batch_id,
                    cause_of(error),
                    decided=False,
                    directory=self.directory,
                ) from error
            for item in going:  # if the database refused an id, the error says so
                self.database.read_on_writer(partial(check_ids, item.plan))
            raise
        return [Logged(*item, of_it) for item, of_it in zip(going, logged, strict=True)]

    def _not_logged(self, going: Sequence[Planned], error: RuntimeStoreError) -> None:
        """Set the outcomes of batches that could not be logged together, or log each by itself."""
        if len(going) == 1:
            going[0].pending_batch.error = error
        elif isinstance(error, LockLostError):
            for item in going:
                item.pending_batch.error = LockLostError(error.path)
        elif isinstance(error, (BatchUnfinishedError, DatabaseLostError)):
            for item in going:  # the outcome of each is unknown
                item.pending_batch.error = error.about(item.plan.batch_id)
        else:
            for item in going:  # one is faulty, or is too large: write each by itself
                item.pending_batch.attempt(self._write_alone)

    def _write_alone(self, item: PendingBatch) -> None:
        self._commit([item], self._committed.refresh(item.draft.names))

    # --- 4: publish -------------------------------------------------------------------------------

    def _publish_together(self, logged: Sequence[Logged]) -> list[Published]:
        """Do step 4 for batches in their order. Return those whose files are in place; set the
        error of the others. A batch that cannot be published fails, and its published files are
        undone; then a store that it shared gets the last version among the remaining batches."""
        going = list(logged)
        quarantined = [kept for item in going for kept in item.plan.quarantined]
        on_disk: dict[str, int] = {}
        while True:
            last = {name: item.number for item in going for name in item.plan.names}
            for item in going:
                names = item.plan.names
                due = {name for name in names if last[name] == item.number != on_disk.get(name)}
                try:
                    self._publish(item, due, quarantined)
                except BatchFailedError as error:
                    item.pending_batch.error = error
                    going.remove(item)
                    for name in names:
                        on_disk.pop(name, None)
                    break
                except (BatchUnfinishedError, DatabaseLostError) as error:
                    # It stays in the log and goes forward: none of the group may be completed now.
                    for other in going:
                        other.pending_batch.error = error.about(other.logged.batch.batch_id)
                    return []
                on_disk.update(dict.fromkeys(due, item.number))
            else:
                return [Published(item.pending_batch, item.logged) for item in going]

    def _publish(
        self, item: Logged, due: Container[str], quarantined: Sequence[QuarantinedFile]
    ) -> None:
        """Do step 4 for the stores of one batch that are due. If it fails, record the batch as
        failed, and undo it."""
        plan, in_place = item.plan, item.plan.draft.in_place
        if in_place and self.publisher.durability is not Durability.FILES:
            return  # the file holds these bytes; so a later change to it survives
        for write in plan.changes:
            if write.schema_name not in due:
                continue
            expected = Expected(self._committed.entry(write.schema_name), quarantined)
            batch_id = plan.batch_id
            try:
                if isinstance(write, PlannedDeletion):
                    self.publisher.delete(write, batch_id, expected)
                else:
                    content = plan.content_of[write.schema_name]
                    self.publisher.publish(write, content, batch_id, expected)
            except system_error(RuntimeStoreError) as error:
                # Undoing would overwrite the version that is left, or the file that was adopted.
                if not (in_place or isinstance(error, durable.OldVersionLeftError)):
                    self._fail(item.logged, write, error, quarantined)
                raise self._unfinished(batch_id, error) from error

    # --- 5: complete ------------------------------------------------------------------------------

    def _complete(self, *published: Published) -> list[Batch]:
        """Do step 5. Never record the batches as failed: step 3 decided their outcome."""
        logged = [item.logged for item in published]
        try:
            self._check_lock()
            high_watermark = self.publisher.complete(*logged)
            self._check_lock()
        except RuntimeStoreError as error:
            raise self._unfinished(logged[0].batch.batch_id, error) from error
        self._committed.completed(logged, high_watermark)
        first = high_watermark - len(logged) + 1
        return [
            batches.committed(item, high_watermark)
            for high_watermark, item in enumerate(logged, start=first)
        ]

    def _unfinished(
        self,
        batch_id: str,
        error: OSError | RuntimeStoreError,
        *,
        first: OSError | RuntimeStoreError | None = None,
        decided: bool = True,
    ) -> BatchUnfinishedError | DatabaseLostError:
        """Return what is said of a logged batch that `error` stopped, after a `first` one. The
        outcome is decided as long as its log is sound and has its name."""
        if isinstance(error, DatabaseLostError):
            lost = error.lost
        elif isinstance(error, StoreClosedError) and error.is_gone:
            lost = "its directory or the database was moved, removed or replaced"
        else:
            decided = decided and not isinstance(error, CorruptDatabaseError)
            cause = cause_of(error) if first is None else f"{first}; then {cause_of(error)}"
            return BatchUnfinishedError(batch_id, cause, decided=decided, directory=self.directory)
        return DatabaseLostError(self.database.path, lost, committed=True, batch_id=batch_id)

    def _check_lock(self) -> None:
        """Raise `LockLostError` when another writer may hold the lock, and finish our batches."""
        if not self.lock.is_sure():
            raise LockLostError(self.lock.path)

    def _fail(
        self,
        logged: LoggedBatch,
        write: PlannedChange,
        cause: OSError | RuntimeStoreError,
        quarantined: Sequence[QuarantinedFile],
    ) -> NoReturn:
        """Record the failure, then undo. Always raises."""
        batch_id = logged.batch.batch_id
        path = store_path(self.directory, write.relative_path)
        failed = partial(
            BatchFailedError,
            batch_id,
            write.schema_name,
            path,
            directory=self.directory,
            deletes=isinstance(write, PlannedDeletion),
        )
        try:
            self.publisher.mark_failed(logged, f"{write.schema_name}: {cause}")
        except RuntimeStoreError as error:
            # Not recorded as failed, so it is still in the log, and goes forward. If the flush of
            # that record failed, the record may nevertheless exist: then the outcome is unknown.
            decided = self.database.failure is None
            raise self._unfinished(batch_id, error, first=cause, decided=decided) from cause
        try:
            self.publisher.undo(logged, quarantined)
        except system_error(RuntimeStoreError) as error:
            why = f"{explained(cause, path)}; then {cause_of(error)}"
            raise failed(why, undone=False) from cause
        raise failed(explained(cause, path), undone=True) from cause


class Planned(NamedTuple):
    """A batch that has passed step 2."""

    pending_batch: PendingBatch
    plan: PlannedBatch


class Logged(NamedTuple):
    """A batch that has passed step 3: it is in the log."""

    pending_batch: PendingBatch
    plan: PlannedBatch
    logged: LoggedBatch

    @property
    def number(self) -> int:
        """Its number, which is its place in the order."""
        return self.logged.batch.batch_number


class Published(NamedTuple):
    """A batch that has passed step 4: its files are in place."""

    pending_batch: PendingBatch
    logged: LoggedBatch


def _run_to_end(connection: Connection, run_id: str | None) -> RunRecord:
    """Return the active run. Raises `StaleRunError` or `InvalidRequestError` when it is not the one
    that is meant."""
    active = runs.active(connection)
    if active is not None and run_id in (None, active.run_id):
        return active
    now = "no run is active" if active is None else f"run {active.run_id} is active"
    if run_id is None:
        raise InvalidRequestError("run_id", f"{now}: there is nothing to end")
    known = runs.find(connection, run_id)
    if known is None:
        raise InvalidRequestError("run_id", f"no run {run_id!r} was ever begun here; {now}")
    if not known.is_over:  # a row that somebody changed: its batch would be finished by now
        raise InvalidRequestError("run_id", f"run {run_id} has not begun yet; {now}")
    raise runs.stale(connection, known)


def write_log(
    connection: Connection, going: Sequence[PlannedBatch], directory: Path
) -> list[LoggedBatch]:
    """Log batches in their order: the row of a run that they begin, their own rows, planned writes,
    contents, and the files quarantined for them. Durable when the caller's transaction is committed
    and flushed. Raises `StaleRunError` when their run is over."""
    try:
        number = batches.last_number(connection)
    except ValueError as error:
        if not fails_again(partial(batches.last_number, connection)):
            raise
        raise CorruptDatabaseError(directory / DATABASE_NAME, str(error)) from error
    logged = [item.numbered(number + position) for position, item in enumerate(going, start=1)]
    first_of: dict[str, LoggedBatch] = {}
    for planned, item in zip(going, logged, strict=True):
        if planned.draft.fenced_run_id is not None:
            first_of.setdefault(planned.draft.fenced_run_id, item)
    for item in first_of.values():
        runs.admit(connection, item, directory)
    batches.log(connection, logged)
    contents.insert_contents(
        connection,
        {
            item.batch.batch_number: planned.content_of
            for item, planned in zip(logged, going, strict=True)
        },
    )
    if quarantined := [kept for planned in going for kept in planned.quarantined]:
        recovery_log.record_quarantined(connection, quarantined)
    manifest.mark_preparing(connection, logged[-1].batch.batch_id)
    return logged
