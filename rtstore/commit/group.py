"""The queue in front of the writer lock: batches of one process that share a flush.

The thread at the head of the queue leads: it takes the writer lock, then all batches that wait by
then, and writes them. Then it wakes their callers, and the new head of the queue leads. So no
caller waits for others to come, and a lone caller is its own leader.

    pending_batch  one batch: a draft before it is written, an outcome after
    place          one thread in the queue, with the batches that it submits, in order
    leader         the thread at the head of the queue; it takes batches under the writer lock only

Waiting is bounded, and every outcome is true. One atomic step (`PendingBatch.claim`) decides who
has a batch: the leader, which sets its outcome, or its caller, who withdraws it on a time-out or an
exception. A leader claims with its hold of the writer lock. If that hold has ended without an
outcome, the leader was interrupted, and its claim is void: the next leader takes the batch and
finds its outcome. So nothing has to be put back. An error that belongs to no batch (the lock, an
in-doubt batch that cannot be resolved) is raised to the leader alone; the others try for
themselves.

An exception may come at any line. (Also at the line of a `try` inside another `try` or `with` of
the same function, where CPython 3.11 runs no handler of that function: so code that must run is in
the calling function, or in C.) A place has left the queue when it is closed, which the end of a
`with` block does in C; others skip places that are closed or done. A lost wake-up costs at most
`RECHECK_S`.

A group adds to the cases of `rtstore.commit.writer` (the same tests cover them, in the scenarios
`write_together`):

* a crash between 3 and the end of 5 leaves several `preparing` batches. They go forward together,
  as planned: a store is published with the last of its versions, one transaction completes them in
  their order. No history is dropped before that. All versions are in the log, so none is taken for
  a foreign file.
* completing a group is one transaction: after a loss of power all of it is there or none.
* a batch refused before the log leaves the group; if the database refuses one, each of the group is
  logged by itself. A batch is compared (`expected_high_watermark`, the data that `update` reads)
  with what is committed only, so such a batch begins a group, and others may join it.
* publishing fails -> that batch fails and is undone, the others go on; a store that it shared gets
  the last version among the others. If the failure cannot be recorded, the whole group stays in the
  log, and goes forward in its order.
"""

from __future__ import annotations

import io
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import NamedTuple, TypeVar

from rtstore.commit.draft import Draft
from rtstore.control.lock import Hold, WriterLock
from rtstore.errors import (
    BatchFailedError,
    BatchUnfinishedError,
    LockTimeoutError,
    RuntimeStoreError,
)
from rtstore.model import arguments
from rtstore.model.records import Batch, BatchReason, LoggedBatch, QuarantinedFile

GROUP_MAX = 128
"""The most batches that share a flush, so that the first waits for a bounded number of others."""
GROUP_BYTES_MAX = 16_000_000
"""The most bytes of content in one group; a larger batch goes alone."""
RECHECK_S = 0.05
"""In seconds. A thread in the queue checks this often whether a wake-up was lost."""
INTERRUPTED_S_MAX = 10.0
"""In seconds. The longest that an interrupted caller waits for the leader that has its batch."""

Result = TypeVar("Result")

_WITHDRAWN = object()
"""Claims a batch for its caller: no leader takes it afterwards."""


class CallerError(Exception):
    """Carries an exception of a caller's function (a clock, an id factory): its batch's outcome."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class PendingBatch:
    """One submitted batch and its outcome."""

    __slots__ = (
        "_claims", "_context", "batch", "draft", "error", "expected_high_watermark", "log_begun",
    )  # fmt: skip

    def __init__(self, draft: Draft, expected_high_watermark: int | None = None) -> None:
        if expected_high_watermark is not None:
            arguments.number(expected_high_watermark, "expected_high_watermark")
        self.draft = draft
        self.expected_high_watermark = expected_high_watermark
        self.batch: Batch | None = None
        """The committed batch, once it is committed."""
        self.error: Exception | None = None
        """The error, if the batch is not committed."""
        self.log_begun = False
        """Whether it may be in the log. Then, without an outcome, its state is unknown."""
        self._claims: dict[int, object] = {}
        self._context = copy_context()

    @property
    def is_done(self) -> bool:
        """Whether it has an outcome."""
        return self.batch is not None or self.error is not None

    def claim(self, claimant: object) -> bool:
        """Claim the batch for a leader's hold or for its caller. Return whether this claimant has
        it.

        `dict.setdefault` is atomic, and no claim is ever removed. A claim by a hold that has ended
        is skipped. An outcome is set before the hold ends, so check for one after this.
        """
        number = 0
        while (by := self._claims.setdefault(number, claimant)) is not claimant:
            if not (isinstance(by, Hold) and by.closed):
                return False
            number += 1
        return True

    def withdraw(self) -> bool:
        """Claim it for its caller: no leader takes it then. Return False while a leader has it."""
        return self.claim(_WITHDRAWN)

    def result(self) -> Batch:
        """Return the committed batch, or raise its error."""
        if self.error is not None:
            raise self.error
        assert self.batch is not None  # noqa: S101 - only asked for when it is done
        return self.batch

    def attempt(self, step: Callable[[PendingBatch], None]) -> None:
        """Run a step of the leader for it. A `RuntimeStoreError` or `CallerError` becomes its
        outcome; any other exception is the leader's. The clock and the id factories see the context
        variables of the submitter."""
        try:
            self.run(step)
        except RuntimeStoreError as error:
            self.error = error
        except CallerError as error:
            self.error = error.error

    def run(self, function: Callable[[PendingBatch], None]) -> None:
        """Call a function with the context variables of the submitter. Each call uses a copy,
        because two threads cannot enter one context."""
        self._context.copy().run(function, self)

    def describe(self) -> str:
        """Withdraw it, and return what an interrupted caller knows of it, as text."""
        withdrawn = self.withdraw()
        name = "the batch" if self.draft.batch_id is None else f"batch {self.draft.batch_id}"
        if self.batch is not None:
            return f"batch {self.batch.batch_id} is committed"
        if self.error is not None:
            return f"{name}: {type(self.error).__name__}: {self.error}"
        if withdrawn and not self.log_begun:
            return f"nothing of {name} was written"
        how = "batches()" if self.draft.batch_id is None else f"batch({self.draft.batch_id!r})"
        return f"it is not known whether {name} is committed: ask store.{how}"


def own_error(function: Callable[[], Result]) -> Result:
    """Call a caller's function for its batch. Raises `CallerError`."""
    try:
        return function()
    except RuntimeStoreError:
        raise
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise CallerError(error) from error


def explain(error: BaseException, pending: Sequence[PendingBatch]) -> None:
    """Add a note to a caller's exception: what is known of its batches."""
    if isinstance(error, RuntimeStoreError):
        return  # its own message says it
    if isinstance(error, Exception) and not isinstance(error, MemoryError | RecursionError):
        pending = [item for item in pending if item.log_begun or item.is_done]
        pending = [item for item in pending if item.error is not error]
        if not pending:
            return  # raised by a caller's function, and nothing was written
    for item in pending:
        error.add_note(f"rtstore: {item.describe()}")
    if not pending:
        error.add_note("rtstore: nothing of the batch was written")


def names_of(group: Iterable[PendingBatch]) -> set[str]:
    """Return the names of the stores that batches write."""
    return {name for item in group for name in item.draft.names}


def parts_by_run(group: Sequence[PendingBatch]) -> list[list[PendingBatch]]:
    """Split a group where a run may begin or end: only batches of one run share a flush, and none
    comes after the batch that ends it. The outcome of each part is known before the next."""
    parts: list[list[PendingBatch]] = []
    for item in group:
        request = item.draft.request
        before = parts[-1][-1].draft.request if parts else None
        if (
            before is not None
            and before.identity is not None
            and request.identity is not None
            and before.identity.run_id == request.identity.run_id
            and before.reason is not BatchReason.STOP_TOMBSTONE
        ):
            parts[-1].append(item)
        else:
            parts.append([item])
    return parts


class _Place(io.BytesIO):
    """One thread in the queue; closed when it has left. (It is a `BytesIO` because its `__exit__`
    and its `closed` are in C: no exception can come between the two.)"""

    def __init__(self, pending: Sequence[PendingBatch], *, alone: bool) -> None:
        super().__init__()
        self.pending = list(pending)
        self.alone = alone
        """Whether it must lead: its first batch is known only under the lock."""
        self.leads = False
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def is_done(self) -> bool:
        if self.alone or self.leads:
            return False
        for item in self.pending:  # noqa: SIM110 - an exception could leave a generator half-way
            if not item.is_done:
                return False
        return True


class TakeGroup:
    """Takes batches from the queue for a leader, while it holds the writer lock."""

    def __init__(self, places: deque[_Place], place: _Place) -> None:
        self._places = places
        self._place = place
        self.hold: Hold | None = None

    def begin(self) -> None:
        """Hold the place at the head of the queue until `end`. The lock is held."""
        self._place.leads, self._place.alone = True, False

    def end(self) -> None:
        """Release the lock. Calling it again is harmless."""
        if self.hold is not None:
            self.hold.release()
        self._place.leads = False

    def __call__(self, group: Sequence[PendingBatch]) -> list[PendingBatch]:
        """Take the batches at the head of the queue that can share a flush with `group`."""
        taken: list[PendingBatch] = []
        count, size = len(group), sum(item.draft.size for item in group)
        ids = {item.draft.batch_id for item in group}
        for item in self._waiting():
            count, size = count + 1, size + item.draft.size
            if count > 1 and not (
                count <= GROUP_MAX
                and size <= GROUP_BYTES_MAX
                # The comparison is with the committed watermark, not with one about to be.
                and item.expected_high_watermark is None
                # The first result must exist before it can be returned again.
                and (item.draft.batch_id is None or item.draft.batch_id not in ids)
            ):
                break
            if item.claim(self.hold) and not item.is_done:
                ids.add(item.draft.batch_id)
                taken.append(item)
            else:  # its caller has withdrawn it
                count, size = count - 1, size - item.draft.size
        return taken

    def add(self, pending: Sequence[PendingBatch]) -> None:
        """Add batches to the leader's place. They are taken next."""
        self._place.pending.extend(pending)

    def _waiting(self) -> list[PendingBatch]:
        """Return the batches at the head of the queue, up to a place that must lead."""
        waiting: list[PendingBatch] = []
        for place in list(self._places):
            if place.alone:
                break
            if not place.closed:
                waiting += [item for item in place.pending if not item.is_done]
        return waiting


class WriteQueue:
    """The queue of the threads of one process in front of one writer lock."""

    def __init__(self, lock: WriterLock) -> None:
        self._lock = lock
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._places: deque[_Place] = deque()

    def run(
        self,
        pending: Sequence[PendingBatch],
        commit_group: Callable[[TakeGroup], None],
        *,
        first: Callable[[TakeGroup], None] | None = None,
    ) -> None:
        """Return when every pending batch has an outcome. On this thread's turn, `commit_group` is
        called under the writer lock, to take batches and to set the outcome of each. With `first`,
        the thread leads in any case, and `first` is called the first time: it writes a batch of its
        own, and takes others to go with it.

        Raises what `WriterLock.hold` and `commit_group` raise. A time-out is the outcome of the
        batches that no leader has by then; with `first` it is raised.
        """
        if self._pid != os.getpid():  # the threads in the queue stayed with the parent
            self._begin()
        self._lock.refuse_reentry()
        deadline = time.monotonic() + self._lock.timeout_s
        with _Place(pending, alone=first is not None) as place:
            try:
                self._places.append(place)
                while not place.is_done:
                    if self._head() is not place:
                        self._wait(place, deadline)
                    elif place.alone and first is not None:
                        self._lead(place, first, deadline)
                    else:
                        self._lead(place, commit_group, deadline)
            finally:
                self._leave(place)

    def _lead(
        self, place: _Place, commit_group: Callable[[TakeGroup], None], deadline: float
    ) -> None:
        group = TakeGroup(self._places, place)
        try:
            self._hold_and_lead(group, commit_group, deadline)
        except _NotAcquiredError:
            self._give_up(place)
        finally:
            group.end()
            self._wake()

    def _hold_and_lead(
        self, group: TakeGroup, commit_group: Callable[[TakeGroup], None], deadline: float
    ) -> None:
        with self._acquire(deadline) as group.hold:
            group.begin()
            commit_group(group)
            group.end()

    def _acquire(self, deadline: float) -> Hold:
        try:
            return self._lock.hold(max(0.0, deadline - time.monotonic()))
        except LockTimeoutError:
            raise _NotAcquiredError from None

    # --- the queue ------------------------------------------------------------------------------

    def _head(self) -> _Place | None:
        """Return the place whose turn it is: the first that has not left and is not done."""
        for place in list(self._places):
            if not (place.closed or place.is_done):
                return place
            self._remove(place)
        return None

    def _remove(self, place: _Place) -> bool:
        try:
            self._places.remove(place)
        except ValueError:  # another thread removed it
            return False
        return True

    def _wake(self) -> None:
        """Wake the places whose batches are done, and the place whose turn it is."""
        for place in list(self._places):
            if place.closed or place.is_done:
                self._remove(place)
                place.wake.put(None)
        head = self._head()
        if head is not None:
            head.wake.put(None)

    def _wait(self, place: _Place, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            self._give_up(place)
        with suppress(queue.Empty):
            place.wake.get(timeout=min(left_s, RECHECK_S) if left_s > 0 else RECHECK_S)

    def _give_up(self, place: _Place) -> None:
        """The time-out is over: withdraw what no leader has. The rest is being carried out."""
        if place.alone:
            raise self._lock.timed_out(self._lock.timeout_s)
        for item in place.pending:
            if not item.is_done and item.withdraw() and not item.is_done:
                item.error = error = self._lock.timed_out(self._lock.timeout_s)
                if item.log_begun:  # by a leader that did not come to its end
                    batch_id = str(item.draft.batch_id)
                    item.error = BatchUnfinishedError(
                        batch_id, str(error), decided=False, directory=self._lock.path.parent
                    )

    def _leave(self, place: _Place) -> None:
        """Leave the queue in any case, after waiting for the batches that a leader has."""
        try:
            deadline = time.monotonic() + INTERRUPTED_S_MAX
            for item in place.pending:
                while not (item.is_done or item.withdraw()) and time.monotonic() < deadline:
                    with suppress(queue.Empty):
                        place.wake.get(timeout=RECHECK_S)
        finally:
            place.close()
            if self._remove(place) and (head := self._head()) is not None:
                head.wake.put(None)


class _NotAcquiredError(Exception):
    """The writer lock was not free within the time-out of this queue."""


class UnderWay(NamedTuple):
    """A batch that is logged and not complete."""

    pending_batch: PendingBatch
    logged: LoggedBatch

    @property
    def number(self) -> int:
        """Its number, which is its place in the order."""
        return self.logged.batch.batch_number

    @property
    def content_of(self) -> Mapping[str, bytes]:
        """The bytes that it writes, by store."""
        return self.pending_batch.draft.content_of


Publish = Callable[
    [LoggedBatch, Mapping[str, bytes], Container[str], Sequence[QuarantinedFile]], None
]
"""Publishes the stores of a batch that are due; raises when the batch has failed."""


def publish_together(under_way: Sequence[UnderWay], publish: Publish) -> list[UnderWay]:
    """Publish batches in their order. Return those whose files are in place; set the error of the
    others. A batch that cannot be published fails, and its published files are undone; then a store
    that it shared gets the last version among the remaining batches."""
    going = list(under_way)
    quarantined = [kept for item in going for kept in item.pending_batch.draft.quarantined]
    on_disk: dict[str, int] = {}
    while True:
        last = {name: item.number for item in going for name in item.content_of}
        for item in going:
            due = {
                name for name in item.content_of if last[name] == item.number != on_disk.get(name)
            }
            try:
                publish(item.logged, item.content_of, due, quarantined)
            except BatchFailedError as error:
                item.pending_batch.error = error
                going.remove(item)
                for name in item.content_of:
                    on_disk.pop(name, None)
                break
            except BatchUnfinishedError as error:
                # It stays in the log and goes forward, so none of the group may be completed now.
                for other in going:
                    other.pending_batch.error = error.about(other.logged.batch.batch_id)
                return []
            on_disk.update(dict.fromkeys(due, item.number))
        else:
            return going
