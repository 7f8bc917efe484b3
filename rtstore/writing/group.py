"""The queue in front of the writer lock: batches of one process that share a flush.

Whoever comes first leads: it takes the writer lock, then all batches that wait by then, and carries
them out. When that is done it wakes those who submitted them, and whoever is first in the queue now
leads. So nobody waits for a better moment, and a lone caller is its own leader.

    submission  one batch: a draft before it is carried out, an outcome after
    place       one thread in the queue, with what it submits, in order
    leader      the thread that carries batches out; it takes them under the writer lock only

Nobody waits for ever. Until a leader has taken its batches, a place waits as long as the lock's
time-out allows. Once they are taken, the leader gives each an outcome; where it cannot, because it
was interrupted itself, it puts them back at the head of the queue, and the next leader finds out
what became of them. An error that is no batch's own (the lock, a left-over batch that cannot be
finished) is the leader's alone: the others try for themselves.

To the cases of `rtstore.writer` a group adds (tried by the same tests, in the scenarios
`write_together`):

* a crash between 3 and the end of 5 leaves several `preparing` batches. They go forward together,
  as they were to: a store is published with the last of its versions, one transaction seals them in
  their order. Nothing of the history is dropped before that. All versions are in the log, so none
  is taken for somebody else's.
* the seal of a group is one transaction: after a loss of power all of it is there or none.
* a batch refused before the log leaves the group; one that the database refuses has each of the
  group logged by itself. What a batch is compared with (`expected_high_watermark`, the data that
  `update` reads) must be committed, so such a batch begins a group, and others may join it.
* publishing fails -> that batch fails and is undone, the others go on; a store that it shared gets
  the last version of those that are left. When the failure cannot be recorded, all of the group
  stay in the log, and go forward in their order.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context

from rtstore import arguments
from rtstore.draft import Draft
from rtstore.errors import LockTimeoutError
from rtstore.lock import WriterLock
from rtstore.records import Batch

GROUP_MAX = 128
"""How many batches share a flush at most: the first must not wait for any number of others."""
GROUP_BYTES_MAX = 16_000_000
"""How many bytes of content they log together at most; a batch that is larger goes alone."""


class Submission:
    """One batch that was submitted, and what became of it."""

    __slots__ = ("_context", "batch", "draft", "error", "expected_high_watermark")

    def __init__(self, draft: Draft, expected_high_watermark: int | None = None) -> None:
        if expected_high_watermark is not None:
            arguments.number(expected_high_watermark, "expected_high_watermark")
        self.draft = draft
        self.expected_high_watermark = expected_high_watermark
        self.batch: Batch | None = None
        """The committed batch, once it is."""
        self.error: Exception | None = None
        """Why there is none."""
        self._context = copy_context()

    @property
    def is_done(self) -> bool:
        """Whether it has an outcome."""
        return self.batch is not None or self.error is not None

    def result(self) -> Batch:
        """The committed batch; raises what went wrong instead."""
        if self.error is not None:
            raise self.error
        assert self.batch is not None  # noqa: S101 - only asked for when it is done
        return self.batch

    def attempt(self, step: Callable[[Submission], None]) -> None:
        """Run a step of the leader for it; what the step raises is its outcome. The clock and the
        id factories see the context variables of the submitter."""
        try:
            self.run(step)
        except Exception as error:  # noqa: BLE001 - it is for the submitter, whatever it is
            self.error = error

    def run(self, function: Callable[[Submission], None]) -> None:
        """Call a function with the context variables of the submitter."""
        self._context.run(function, self)


Take = Callable[[Sequence[Submission]], list[Submission]]
"""Takes the batches at the head of the queue that can share the flush of those given."""


def names_of(group: Iterable[Submission]) -> set[str]:
    """The stores that batches write."""
    return {name for item in group for name in item.draft.names}


class _Place:
    __slots__ = ("alone", "left", "pending", "submissions", "wake")

    def __init__(self, submissions: Sequence[Submission], *, alone: bool) -> None:
        self.submissions = list(submissions)
        self.pending = deque(submissions)
        """Those that no leader has taken."""
        self.alone = alone
        """It has to lead: what it writes first is known only under the lock."""
        self.left = False
        self.wake = threading.Lock()
        self.wake.acquire()

    @property
    def is_done(self) -> bool:
        return not self.alone and all(item.is_done for item in self.submissions)


class WriteQueue:
    """The queue of the threads of one process in front of one writer lock."""

    def __init__(self, lock: WriterLock) -> None:
        self._lock = lock
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._places: deque[_Place] = deque()
        self._leader: _Place | None = None
        """None only while nobody is in the queue."""
        self._taken: list[tuple[_Place, Submission]] = []

    def carry_out(
        self,
        submissions: Sequence[Submission],
        lead: Callable[[Take], None],
        *,
        first: Callable[[Take], None] | None = None,
    ) -> None:
        """Return when every submission has an outcome. When it is this thread's turn, `lead` is
        called under the writer lock, to take batches and to give each an outcome. With `first` the
        thread leads in any case, and that is called the first time: it writes a batch of its own,
        and takes what it likes beside it.

        Raises what `WriterLock.hold` and `lead` raise.
        """
        if self._pid != os.getpid():  # the threads that were in the queue stayed with the parent
            self._begin()
        self._lock.refuse_reentry()
        place = _Place(submissions, alone=first is not None)
        deadline = time.monotonic() + self._lock.timeout_s
        try:
            self._enter(place)
            while self._wait(place, deadline):
                leads = first if place.alone and first is not None else lead
                self._lead(place, leads, deadline)
                if place.is_done:
                    return
                self._hand_over()
        finally:
            self._leave(place)

    def _lead(self, place: _Place, lead: Callable[[Take], None], deadline: float) -> None:
        try:
            with self._lock.hold(max(0.0, deadline - time.monotonic())):
                if place.alone:
                    with self._mutex:
                        place.alone = False
                        self._places.remove(place)
                lead(self._take)
        except LockTimeoutError as error:
            limit_s = self._lock.timeout_s  # all of it was waited for, in the queue or at the lock
            raise LockTimeoutError(error.path, limit_s, error.holder) from None

    def add(self, submissions: Sequence[Submission]) -> None:
        """More batches of the leader, which calls this: they are the next that it takes."""
        with self._mutex:
            place = self._leader
            assert place is not None  # noqa: S101 - it is the caller's
            place.submissions.extend(submissions)
            place.pending.extend(submissions)
            if place.pending and place not in self._places:
                self._places.appendleft(place)

    # --- the queue ------------------------------------------------------------------------------

    def _enter(self, place: _Place) -> None:
        with self._mutex:
            self._places.append(place)
            if self._leader is None:
                self._leader = place
                place.wake.release()

    def _wait(self, place: _Place, deadline: float) -> bool:
        """Wait to be woken; gives whether this thread leads now. If not, its batches are done."""
        if not place.wake.acquire(timeout=max(0.0, deadline - time.monotonic())):
            with self._mutex:
                untouched = len(place.pending) == len(place.submissions)
                if untouched and self._leader is not place:
                    raise LockTimeoutError(
                        self._lock.path, self._lock.timeout_s, self._lock.holder()
                    )
            place.wake.acquire()  # its batches are being carried out, or it is to lead
        return self._leader is place

    def _take(self, group: Sequence[Submission]) -> list[Submission]:
        taken: list[Submission] = []
        count, size = len(group), sum(item.draft.size for item in group)
        ids = {item.draft.batch_id for item in group}
        with self._mutex:
            while self._places and not self._places[0].alone:
                place = self._places[0]
                while place.pending:
                    item = place.pending[0]
                    count, size = count + 1, size + item.draft.size
                    if count > 1 and not (
                        count <= GROUP_MAX
                        and size <= GROUP_BYTES_MAX
                        # It is compared with what is committed, not with what is about to be.
                        and item.expected_high_watermark is None
                        # The first result must be there before it can be given back.
                        and (item.draft.batch_id is None or item.draft.batch_id not in ids)
                    ):
                        return taken
                    ids.add(item.draft.batch_id)
                    taken.append(place.pending.popleft())
                    self._taken.append((place, item))
                self._places.popleft()
        return taken

    def _leave(self, place: _Place) -> None:
        """Leave the queue, whatever happened."""
        if not place.is_done:  # one that is done is not in the queue any more
            with self._mutex:
                place.left = True
                if place in self._places:
                    self._places.remove(place)
        if self._leader is place:
            self._hand_over()

    def _hand_over(self) -> None:
        """Called by the leader, without the lock: put back what it did not come to, wake whose
        batches are done, and let the head of the queue lead."""
        with self._mutex:
            owners = {id(owner): owner for owner, _ in self._taken if not owner.left}
            done = [owner for owner in owners.values() if owner.is_done]
            for owner, item in reversed(self._taken):
                if not (item.is_done or owner.left):
                    owner.pending.appendleft(item)
                    if owner not in self._places:
                        self._places.appendleft(owner)
            self._taken.clear()
            self._leader = leader = self._places[0] if self._places else None
        # Whom it wakes may need the queue at once, so that is free by now.
        if leader is not None:
            leader.wake.release()
        for owner in done:
            owner.wake.release()
