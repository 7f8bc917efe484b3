"""The queue in front of the writer lock: batches of one process that share a flush.

Whoever comes first leads: it takes the writer lock, then all batches that wait by then, and carries
them out. When that is done it wakes those who submitted them, and whoever is first in the queue now
leads. So nobody waits for a better moment, and a lone caller is its own leader.

    pending_batch  one batch: a draft before it is carried out, an outcome after
    place       one thread in the queue, with what it submits, in order
    leader      the thread at the head of the queue; it takes batches under the writer lock only

Nobody waits for ever, and nobody is told what is not true. Who has a batch is decided by one atomic
step (`PendingBatch.claim`): the leader, which gives it an outcome, or its caller, who withdraws it
when the time-out is over or an exception comes. A leader claims with its hold of the writer lock;
when that has ended and there is no outcome, the leader was interrupted, and the claim counts no
more. So nothing has to be put back: the next leader takes the batch and finds out what became of
it. An error that is no batch's own (the lock, a left-over batch that cannot be finished) is the
leader's alone: the others try for themselves.

An exception may come at any line. (Also at that of a `try` inside of another `try` or `with` of the
same function, where CPython 3.11 runs no handler of that function: so what must run is in the
calling function, or in C.) A place is out of the queue when it is closed, which the end of a
`with` block does in C; others pass over places that are closed or done. A wake-up that was lost
costs `RECHECK_S`.

To the cases of `rtstore.commit.writer` a group adds (tried by the same tests, in the scenarios
`write_together`):

* a crash between 3 and the end of 5 leaves several `preparing` batches. They go forward together,
  as they were to: a store is published with the last of its versions, one transaction completes
  them in their order. Nothing of the history is dropped before that. All versions are in the log,
  so none is taken for somebody else's.
* completing a group is one transaction: after a loss of power all of it is there or none.
* a batch refused before the log leaves the group; one that the database refuses has each of the
  group logged by itself. What a batch is compared with (`expected_high_watermark`, the data that
  `update` reads) must be committed, so such a batch begins a group, and others may join it.
* publishing fails -> that batch fails and is undone, the others go on; a store that it shared gets
  the last version of those that are left. When the failure cannot be recorded, all of the group
  stay in the log, and go forward in their order.
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
from rtstore.model.records import Batch, LoggedBatch, QuarantinedFile

GROUP_MAX = 128
"""How many batches share a flush at most: the first must not wait for any number of others."""
GROUP_BYTES_MAX = 16_000_000
"""How many bytes of content they log together at most; a batch that is larger goes alone."""
RECHECK_S = 0.05
"""How often somebody in the queue looks whether a wake-up was lost."""
INTERRUPTED_S_MAX = 10.0
"""How long a caller that was interrupted waits for the leader that carries its batch out."""

Result = TypeVar("Result")

_WITHDRAWN = object()
"""Claims a batch for its caller: no leader takes it any more."""


class CallerError(Exception):
    """What a function of a caller's raised (a clock, an id factory): the outcome of its batch."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class PendingBatch:
    """One batch that was submitted, and what became of it."""

    __slots__ = (
        "_claims", "_context", "batch", "draft", "error", "expected_high_watermark", "log_begun",
    )  # fmt: skip

    def __init__(self, draft: Draft, expected_high_watermark: int | None = None) -> None:
        if expected_high_watermark is not None:
            arguments.number(expected_high_watermark, "expected_high_watermark")
        self.draft = draft
        self.expected_high_watermark = expected_high_watermark
        self.batch: Batch | None = None
        """The committed batch, once it is."""
        self.error: Exception | None = None
        """Why there is none."""
        self.log_begun = False
        """It may be in the log: without an outcome nobody knows."""
        self._claims: dict[int, object] = {}
        self._context = copy_context()

    @property
    def is_done(self) -> bool:
        """Whether it has an outcome."""
        return self.batch is not None or self.error is not None

    def claim(self, claimant: object) -> bool:
        """Decide who has the batch, a leader's hold or its caller; whether it is this claimant.

        `dict.setdefault` is atomic, and no claim is ever removed; one by a hold that has ended is
        passed over. An outcome is set before the hold ends, so look for one after this.
        """
        number = 0
        while (by := self._claims.setdefault(number, claimant)) is not claimant:
            if not (isinstance(by, Hold) and by.closed):
                return False
            number += 1
        return True

    def withdraw(self) -> bool:
        """See to it that no leader takes it. False while one has it."""
        return self.claim(_WITHDRAWN)

    def result(self) -> Batch:
        """The committed batch; raises what went wrong instead."""
        if self.error is not None:
            raise self.error
        assert self.batch is not None  # noqa: S101 - only asked for when it is done
        return self.batch

    def attempt(self, step: Callable[[PendingBatch], None]) -> None:
        """Run a step of the leader for it. An error of ours, or of a function of the caller's, is
        its outcome; everything else came to the leader. The clock and the id factories see the
        context variables of the submitter."""
        try:
            self.run(step)
        except RuntimeStoreError as error:
            self.error = error
        except CallerError as error:
            self.error = error.error

    def run(self, function: Callable[[PendingBatch], None]) -> None:
        """Call a function with the context variables of the submitter: in a copy, for one context
        cannot be entered by two threads."""
        self._context.copy().run(function, self)

    def describe(self) -> str:
        """What is known of it by a caller that was interrupted. Withdraws it."""
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
    """Call a function of a caller's, on behalf of its batch. Raises `CallerError`."""
    try:
        return function()
    except RuntimeStoreError:
        raise
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise CallerError(error) from error


def explain(error: BaseException, pending: Sequence[PendingBatch]) -> None:
    """Say on an exception that came to a caller what is known of its batches."""
    if isinstance(error, RuntimeStoreError):
        return  # says it itself
    if isinstance(error, Exception) and not isinstance(error, MemoryError | RecursionError):
        pending = [item for item in pending if item.log_begun or item.is_done]
        pending = [item for item in pending if item.error is not error]
        if not pending:
            return  # of a function of the caller's, and nothing came of it
    for item in pending:
        error.add_note(f"rtstore: {item.describe()}")
    if not pending:
        error.add_note("rtstore: nothing of the batch was written")


def names_of(group: Iterable[PendingBatch]) -> set[str]:
    """The stores that batches write."""
    return {name for item in group for name in item.draft.names}


class _Place(io.BytesIO):
    """One thread in the queue; closed when it has left. (It is a `BytesIO` for its `__exit__` and
    its `closed`, which are in C: no exception can come between the two.)"""

    def __init__(self, pending: Sequence[PendingBatch], *, alone: bool) -> None:
        super().__init__()
        self.pending = list(pending)
        self.alone = alone
        """It has to commit_group: what it writes first is known only under the lock."""
        self.leads = False
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def is_done(self) -> bool:
        if self.alone or self.leads:
            return False
        for item in self.pending:  # noqa: SIM110 - a generator could be left half-way
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
        """The lock is held: the leader keeps its place at the head until it has ended."""
        self._place.leads, self._place.alone = True, False

    def end(self) -> None:
        """Let the lock go. Harmless when that is done."""
        if self.hold is not None:
            self.hold.release()
        self._place.leads = False

    def __call__(self, group: Sequence[PendingBatch]) -> list[PendingBatch]:
        """Take the batches at the head of the queue that can share the flush of those given."""
        taken: list[PendingBatch] = []
        count, size = len(group), sum(item.draft.size for item in group)
        ids = {item.draft.batch_id for item in group}
        for item in self._waiting():
            count, size = count + 1, size + item.draft.size
            if count > 1 and not (
                count <= GROUP_MAX
                and size <= GROUP_BYTES_MAX
                # It is compared with what is committed, not with what is about to be.
                and item.expected_high_watermark is None
                # The first result must be there before it can be given back.
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
        """More batches of the leader: they are the next that are taken."""
        self._place.pending.extend(pending)

    def _waiting(self) -> list[PendingBatch]:
        """The batches at the head of the queue; none behind somebody who has to lead."""
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
        """Return when every pending_batch has an outcome. When it is this thread's turn, `lead` is
        called under the writer lock, to take batches and to give each an outcome. With `first` the
        thread leads in any case, and that is called the first time: it writes a batch of its own,
        and takes what it likes beside it.

        Raises what `WriterLock.hold` and `lead` raise. A time-out is the outcome of the batches
        that no leader has by then; without any it is raised.
        """
        if self._pid != os.getpid():  # the threads that were in the queue stayed with the parent
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
        """Whose turn it is: the first that has not left and is not done."""
        for place in list(self._places):
            if not (place.closed or place.is_done):
                return place
            self._remove(place)
        return None

    def _remove(self, place: _Place) -> bool:
        try:
            self._places.remove(place)
        except ValueError:  # somebody else has
            return False
        return True

    def _wake(self) -> None:
        """Wake those whose batches are done, and whose turn it is."""
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
        """Leave the queue, whatever happened; what a leader has is waited for."""
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
        """What it writes, by store."""
        return self.pending_batch.draft.content_of


Publish = Callable[
    [LoggedBatch, Mapping[str, bytes], Container[str], Sequence[QuarantinedFile]], None
]
"""Publishes those stores of a batch that are due; raises when the batch has failed."""


def publish_together(under_way: Sequence[UnderWay], publish: Publish) -> list[UnderWay]:
    """Publish batches in their order; gives those whose files are in place, the others have their
    error. One that cannot be published fails, and what it had put on disk is undone; then a store
    that it shared gets the last version of those that are left."""
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
                # It stays in the log and goes forward, so those after it must not be completed.
                for other in going:
                    other.pending_batch.error = error.about(other.logged.batch.batch_id)
                return []
            on_disk.update(dict.fromkeys(due, item.number))
        else:
            return going
