"""The queue in front of the writer lock: batches of one store object that share a flush.

Whoever is at the head of the queue leads: it takes the writer lock, then all batches that wait by
then, and writes them. Then it wakes their callers, and the new head of the queue leads. So no
caller waits for others to come, and a lone caller is its own leader.

    pending_batch  one batch: a draft before it is written, an outcome after
    place          one caller in the queue, with the batches that it submits, in order
    leader         the thread at the head of the queue; it takes batches under the writer lock only
    turn           the place of another call, which keeps its order among the batches

A caller is a thread, which waits in its place and leads from there; or a task of a loop, which
awaits the end of its place. One thread serves the places of all tasks, in their order (`serve`):
it leads when one of them is at the head. It also encodes their batches, before it takes the lock.

Waiting is bounded, and every outcome is true. One atomic step (`PendingBatch.claim`) decides who
has a batch: the leader, which sets its outcome, or its caller, who withdraws it on a time-out, an
exception or a cancellation. A leader claims with its hold of the writer lock. If that hold has
ended without an outcome, the leader was interrupted, and its claim is void: the next leader takes
the batch and finds its outcome. So nothing has to be put back. An error that belongs to no batch
(the lock, an in-doubt batch that cannot be resolved) is raised to the leader alone; the others try
for themselves.

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
  logged by itself. A batch is compared (`expected_high_watermark`, `expected`, the data that
  `update` reads) with what is committed only, so such a batch begins a group, and others may join
  it. (Not one that adopts a file: that file is not written again, so undoing another batch must not
  change it.)
* publishing fails -> that batch fails and is undone, the others go on; a store that it shared gets
  the last version among the others. If the failure cannot be recorded, the whole group stays in the
  log, and goes forward in its order.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from rtstore.commit.draft import Draft, PlannedBatch
from rtstore.control.lock import Hold, WriterLock
from rtstore.errors import (
    FORKED,
    BatchUnfinishedError,
    LockTimeoutError,
    RuntimeStoreError,
    StoreClosedError,
)
from rtstore.foreign import is_raised_here
from rtstore.model import arguments
from rtstore.model.records import Batch, BatchReason
from rtstore.model.request import ExpectedVersions

GROUP_MAX = 128
"""The most batches that share a flush, so that the first waits for a bounded number of others."""
GROUP_BYTES_MAX = 16_000_000
"""The most bytes of content in one group; a larger batch goes alone."""
RECHECK_S = 0.05
"""In seconds. A thread in the queue checks this often whether a wake-up was lost."""
OUTCOME_S_MAX = 10.0
"""In seconds. The longest that who asks for a batch waits for its outcome."""
INTERRUPTED_S_MAX = 10.0
"""In seconds. The longest that an interrupted caller waits for the leader that has its batch."""
POLL_S = 0.003
"""In seconds. Who serves the tasks tries this often whether the lock is free, and encodes the
batches that came meanwhile before it tries."""

FORKED_IN_CALL = f"{FORKED}, in the middle of this call, which the parent carries out"
"""What a child is told of the call in which it was forked."""

Result = TypeVar("Result")
UnderWayT = TypeVar("UnderWayT", bound="UnderWay")

_WITHDRAWN = object()
"""Claims a batch for its caller: no leader takes it afterwards."""


class CallerError(Exception):
    """Carries an exception of a caller's function (a clock, an id factory): its batch's outcome."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class PendingBatch:
    """One submitted batch and its outcome. Its draft is there from the beginning, or composed under
    the lock."""

    __slots__ = (
        "_claims", "_compose", "_context", "_pid", "batch", "draft", "error", "expected",
        "expected_high_watermark", "is_composed", "is_dropped", "log_begun", "planned",
    )  # fmt: skip

    def __init__(
        self,
        draft: Draft | None = None,
        expected_high_watermark: int | None = None,
        expected: ExpectedVersions | None = None,
        *,
        compose: Callable[[], Draft | Batch | None] | None = None,
    ) -> None:
        if expected_high_watermark is not None:
            arguments.number(expected_high_watermark, "expected_high_watermark")
        self.expected_high_watermark = expected_high_watermark
        self.expected = expected or {}
        """The version that each of these stores must have."""
        self.batch: Batch | None = None
        """The committed batch, once it is committed."""
        self.error: Exception | None = None
        """The error, if the batch is not committed."""
        self.is_dropped = False
        """Whether there was nothing to write, as was known under the lock."""
        self.log_begun = False
        """Whether it may be in the log. Then, without an outcome, its state is unknown."""
        self.draft: Draft
        """Its draft; with `compose` there is none before."""
        if draft is not None:
            self.draft = draft
        self.planned: PlannedBatch | None = None
        """How the last leader planned it; None before."""
        self.is_composed = compose is not None
        """Whether its draft is made under the lock: then only its caller's thread may lead it."""
        self._compose = compose
        self._claims: dict[int, object] = {}
        self._context = copy_context()
        self._pid = os.getpid()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked from the one that writes it."""
        return self._pid != os.getpid()

    @property
    def has_draft(self) -> bool:
        """Whether its draft is there."""
        return hasattr(self, "draft")

    @property
    def batch_id(self) -> str | None:
        """Its id; None until it has one."""
        if self.planned is not None:
            return self.planned.batch_id
        return self.draft.batch_id if self.has_draft else None

    def compose(self) -> None:
        """Make the draft, or find the batch that was written before, in the thread of its caller
        and under the lock. What the caller's function raises passes unchanged."""
        if self._compose is not None:
            composed = self._compose()
            if composed is None:
                self.is_dropped = True
            elif isinstance(composed, Batch):
                self.batch = composed
            else:
                self.draft = composed

    @property
    def is_done(self) -> bool:
        """Whether it has an outcome."""
        return self.batch is not None or self.error is not None or self.is_dropped

    @property
    def is_led_elsewhere(self) -> bool:
        """Whether a leader in another thread has it, and has set no outcome yet."""
        by = self._claims.get(len(self._claims) - 1)
        return (
            isinstance(by, Hold)
            and not (self.is_done or by.closed)
            and by.thread != threading.get_ident()
        )

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

    def give_up(self, error: Exception, directory: Path) -> None:
        """Withdraw it with an error as its outcome; no effect if a leader has it, or had it and has
        set its outcome."""
        if not self.is_done and self.withdraw() and not self.is_done:
            self.error = error
            if self.log_begun:  # by a leader that did not come to its end
                self.error = BatchUnfinishedError(
                    str(self.batch_id), str(error), decided=False, directory=directory
                )

    def result(self) -> Batch:
        """Return the committed batch, or raise its error."""
        if self.error is not None:
            raise self.error
        assert self.batch is not None  # noqa: S101 - only asked for when it is done
        return self.batch

    def result_if_any(self) -> Batch | None:
        """Return the committed batch or None, when there was nothing to write. Raise its error."""
        return None if self.is_dropped else self.result()

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
        batch_id = self.batch_id
        name = "the batch" if batch_id is None else f"batch {batch_id}"
        if self.batch is not None:
            return f"batch {self.batch.batch_id} is committed"
        if self.is_of_parent:
            return f"it is not known whether {name} is committed: the parent process carries it out"
        if self.error is not None:
            return f"{name}: {type(self.error).__name__}: {self.error}"
        if withdrawn and not self.log_begun:
            return f"nothing of {name} was written"
        how = "batches()" if batch_id is None else f"batch({batch_id!r})"
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
        # Raised by a caller's function, before the log.
        pending = [item for item in pending if item.error is not error]
    notes = [item.describe() for item in pending] or ["nothing of the batch was written"]
    for note in (f"rtstore: {note}" for note in notes):
        if note not in getattr(error, "__notes__", ()):  # a function may raise the same one again
            error.add_note(note)


def names_of(group: Iterable[PendingBatch]) -> set[str]:
    """Return the names of the stores that batches write."""
    return {name for item in group for name in item.draft.names}


def parts_by_run(group: Sequence[PendingBatch]) -> list[list[PendingBatch]]:
    """Split a group where a run may begin or end: only batches of one run share a flush, and none
    comes after the batch that ends it. The outcome of each part is known before the next."""
    parts: list[list[PendingBatch]] = []
    for item in group:
        terms = item.draft.terms
        before = parts[-1][-1].draft.terms if parts else None
        if (
            before is not None
            and before.identity is not None
            and terms.identity is not None
            and before.identity.run_id == terms.identity.run_id
            and before.reason != BatchReason.STOP_TOMBSTONE
        ):
            parts[-1].append(item)
        else:
            parts.append([item])
    return parts


class Place(io.BytesIO):
    """One caller in the queue; closed when it has left. (It is a `BytesIO` because its `__exit__`
    and its `closed` are in C: no exception can come between the two.)"""

    is_encoded_here = False
    """Whether its server encodes its batches, with `encode`."""

    def __init__(
        self, pending: Sequence[PendingBatch] | None = None, *, server: object = None
    ) -> None:
        super().__init__()
        self.pending = None if pending is None else list(pending)
        """Its batches. None for a turn, and for a batch that is not encoded yet: no group goes
        past it."""
        self.server = server
        """Who serves it, for the place of a task: only its server takes it out of the queue."""
        self.thread: int | None = None
        """The thread whose turn it is; None for all other places."""
        self.deadline = 0.0
        self.leads = False
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def encode(self) -> None:
        """Set `pending`, and raise nothing. Only the thread of its server calls it."""

    def remind(self) -> None:
        """Called now and then by who waits behind it. A thread in its own place needs none."""

    @property
    def is_done(self) -> bool:
        """Whether all of its batches have an outcome, and it does not lead any more."""
        if self.leads or self.pending is None:
            return False
        for item in self.pending:  # noqa: SIM110 - an exception could leave a generator half-way
            if not item.is_done:
                return False
        return True


class UnderWay(io.BytesIO):
    """A call that may write a batch under an id that its caller chose; closed when it has ended.
    (It is a `BytesIO` because its `__exit__` and its `closed` are in C.)"""

    def __init__(self, batch_id: str | None) -> None:
        super().__init__()
        self.batch_id = batch_id
        self._thread = threading.get_ident()
        self._pid = os.getpid()

    @property
    def has_ended(self) -> bool:
        """Whether it has, for this process: the threads of a parent are not here."""
        return self.closed or self._pid != os.getpid()

    @property
    def is_around(self) -> bool:
        """Whether it is asked inside of this very call, which would wait for itself."""
        return self._thread == threading.get_ident()


class TakeGroup:
    """Takes batches from the queue for a leader, while it holds the writer lock."""

    def __init__(self, places: deque[Place], place: Place) -> None:
        self._places = places
        self._place = place
        self.hold: Hold | None = None
        self.taken: list[PendingBatch] = []

    def begin(self) -> None:
        """Hold the place at the head of the queue until `end`. The lock is held."""
        self._place.leads = True

    def end(self) -> None:
        """Release the lock. Calling it again is harmless."""
        if self.hold is not None:
            self.hold.release()
        self._place.leads = False
        self.taken.clear()  # their contents may be large, and nobody waits for them any more

    def compose(self) -> None:
        """Compose the batches of the leader's own place. Raises what their functions raise."""
        for item in self._place.pending or ():
            if not item.is_done:
                item.compose()

    def __call__(self) -> list[PendingBatch]:
        """Take the batches at the head of the queue that can share a flush."""
        taken = self.taken
        ids: set[str | None] = set()
        size = 0
        for item in self._waiting():
            draft = item.draft
            draft_size = draft.size
            if taken and not (
                len(taken) < GROUP_MAX
                and size + draft_size <= GROUP_BYTES_MAX
                # The comparison is with what is committed, not with what is about to be.
                and item.expected_high_watermark is None
                and not item.expected
                # The first result must exist before it can be returned again.
                and (item.batch_id is None or item.batch_id not in ids)
                and not taken[0].draft.in_place
            ):
                break
            if item.claim(self.hold) and not item.is_done:  # or its caller has withdrawn it
                ids.add(item.batch_id)
                size += draft_size
                taken.append(item)
        return taken

    def _waiting(self) -> list[PendingBatch]:
        """Return the batches from the leader's place on, up to what this leader may not take: a
        turn of another thread, a batch that another one composes, or one that is not encoded yet.
        What has come before the leader's place, since it leads, was written in a turn; it leads
        next."""
        places = list(self._places)
        waiting: list[PendingBatch] = []
        me = threading.get_ident()
        for place in places[places.index(self._place) :]:
            if place.closed or (place.pending is None and place.thread == me):
                continue  # in the second case the leader writes in its turn
            if place.pending is None:
                break
            for item in place.pending:
                if item.is_done:
                    continue
                if item.is_composed and place is not self._place:
                    return waiting
                waiting.append(item)
        return waiting


class WriteQueue:
    """The queue of one store object in front of its writer lock. Two stores of one directory have a
    queue each, and meet at the lock."""

    def __init__(self, lock: WriterLock) -> None:
        self._lock = lock
        self._under_way: dict[int, weakref.ref[UnderWay]] = {}
        self._numbers = count()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._places: deque[Place] = deque()
        self._taken: list[PendingBatch] = []
        """The batches that the leader has."""
        self._turns: dict[int, Place] = {}
        """The last turn of each thread."""

    def run(
        self, pending: Sequence[PendingBatch], commit_group: Callable[[TakeGroup], None]
    ) -> None:
        """Return when every pending batch has an outcome. On this thread's turn, `commit_group` is
        called under the writer lock, to take batches and to set the outcome of each.

        Raises what `WriterLock.hold` and `commit_group` raise. A time-out is the outcome of the
        batches that no leader has by then.
        """
        self._lock.refuse_reentry()
        place = Place(pending)
        with place:
            try:
                self.enter(place)
                self._see_to(place, commit_group)
            finally:
                self._leave(place)

    def enter(self, place: Place) -> None:
        """Put a place into the queue: at its end; at its head for a thread whose turn it is."""
        if self._pid != os.getpid():  # the threads in the queue stayed with the parent
            self._begin()
        place.deadline = time.monotonic() + self._lock.timeout_s
        turn = self._turns.get(threading.get_ident())
        if turn is not None and not turn.closed:
            self._places.appendleft(place)
        else:
            self._places.append(place)

    def under_way(self, batch_id: str | None) -> UnderWay:
        """Return a call that may write a batch from now on, until it is closed, or gone."""
        return self.register(UnderWay(batch_id))

    def register(self, call: UnderWayT) -> UnderWayT:
        """Have `is_under_way` know of a call, and return it."""
        if isinstance(call.batch_id, str):  # or the call refuses it
            number = next(self._numbers)
            forget = partial(self._under_way.pop, number)
            self._under_way[number] = weakref.ref(call, forget)
        return call

    def is_under_way(self, batch_id: str) -> bool:
        """Return whether a call that may write a batch has not ended, or a leader in another thread
        has the batch, whose caller may have left it. What is asked inside of that call is not."""
        for reference in list(self._under_way.values()):
            call = reference()
            if (
                call is not None
                and call.batch_id == batch_id
                and not (call.has_ended or call.is_around)
            ):
                return True
        return any(
            item.batch_id == batch_id and item.is_led_elsewhere for item in list(self._taken)
        )

    def wait_for(self, batch_id: str) -> bool:
        """Wait until no batch with that id is under way, at most `OUTCOME_S_MAX`. Return whether it
        is so. A thread that holds the lock does not wait: the others wait for it."""
        deadline = time.monotonic() + OUTCOME_S_MAX
        while self.is_under_way(batch_id):
            if self._lock.is_held_by_this_thread or time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    # --- for the tasks of a loop ------------------------------------------------------------------

    def serve(self, place: Place, commit_group: Callable[[TakeGroup], None]) -> None:
        """Do for the place of a task what `run` does for that of a thread. It is in the queue."""
        with place:
            try:
                self._see_to(place, commit_group)
            finally:
                self._leave(place)

    def take_turn(self, turn: Place, function: Callable[[], None]) -> None:
        """Call a function in its turn. What it submits goes before what waits behind the turn."""
        with turn:
            try:
                turn.thread = threading.get_ident()
                self._turns[turn.thread] = turn
                function()
            finally:
                self._leave(turn)

    def next_of(self, server: object) -> Place | None:
        """Return the first place of a server that has not left, or None. It may be done."""
        for place in list(self._places):
            if place.server is server and not place.closed:
                return place
        return None

    def is_first(self, turn: Place) -> bool:
        """Return whether nothing of this process is before a turn."""
        return self._head() is turn

    def encode_waiting(self, server: object) -> None:
        """Encode the batches of a server's tasks that can go with the next group."""
        encoded = -1
        while encoded:  # others may have come meanwhile
            encoded = 0
            for place in list(self._places)[:GROUP_MAX]:
                if place.server is not server or place.pending is not None or place.closed:
                    continue
                if place.is_encoded_here:
                    place.encode()
                    encoded += 1

    # --- leading ----------------------------------------------------------------------------------

    def _see_to(self, place: Place, commit_group: Callable[[TakeGroup], None]) -> None:
        while not (place.is_done or place.closed):  # closed: its task was interrupted
            if place.is_encoded_here:
                self.encode_waiting(place.server)
            if self._head() is place:
                self._lead(place, commit_group)
            elif not place.is_done:  # it may have been refused when it was encoded
                self._wait(place)

    def _lead(self, place: Place, commit_group: Callable[[TakeGroup], None]) -> None:
        group = TakeGroup(self._places, place)
        self._taken = group.taken
        try:
            self._hold_and_lead(group, place, commit_group)
        except _NotAcquiredError:
            if time.monotonic() >= place.deadline:
                self._give_up(place)
            else:
                time.sleep(POLL_S)
        finally:
            group.end()
            self._wake()

    def _hold_and_lead(
        self, group: TakeGroup, place: Place, commit_group: Callable[[TakeGroup], None]
    ) -> None:
        with self._acquire(place) as group.hold:
            group.begin()
            commit_group(group)
            group.end()

    def _acquire(self, place: Place) -> Hold:
        left_s = max(0.0, place.deadline - time.monotonic())
        try:
            return self._lock.hold(0 if place.is_encoded_here else left_s)
        except LockTimeoutError:
            raise _NotAcquiredError from None

    # --- the queue ------------------------------------------------------------------------------

    def _head(self) -> Place | None:
        """Return the place whose turn it is: the first that has not left and is not done."""
        for place in list(self._places):
            if not (place.closed or place.is_done):
                return place
            if place.closed or place.server is None:
                self._remove(place)
                place.wake.put(None)
        return None

    def _remove(self, place: Place) -> bool:
        try:
            self._places.remove(place)
        except ValueError as error:
            if not is_raised_here(error):
                raise
            return False  # another thread removed it
        return True

    def _wake(self) -> None:
        """Wake the callers whose batches are done, and the place whose turn it is."""
        for place in list(self._places):
            if place.closed or place.is_done:
                if place.closed or place.server is None:
                    self._remove(place)
                place.wake.put(None)
        head = self._head()
        if head is not None:
            head.wake.put(None)

    def _wait(self, place: Place) -> None:
        if self._pid != os.getpid():  # those before it stayed with the parent
            raise StoreClosedError(self._lock.path.parent, FORKED_IN_CALL)
        left_s = place.deadline - time.monotonic()
        if left_s <= 0:
            self._give_up(place)
        try:
            place.wake.get(timeout=min(left_s, RECHECK_S) if left_s > 0 else RECHECK_S)
        except queue.Empty:
            head = self._head()
            if head is not None:
                head.remind()  # its server may have ended

    def _give_up(self, place: Place) -> None:
        """The time-out is over: withdraw what no leader has. The rest is being carried out."""
        for item in place.pending or ():
            if not item.is_done:
                error = self._lock.timed_out(self._lock.timeout_s)
                item.give_up(error, self._lock.path.parent)

    def _leave(self, place: Place) -> None:
        """Leave the queue in any case, after waiting for the batches that a leader has."""
        try:
            deadline = time.monotonic() + INTERRUPTED_S_MAX
            for item in place.pending or ():
                while not (item.is_done or item.withdraw()) and time.monotonic() < deadline:
                    with suppress(queue.Empty):
                        place.wake.get(timeout=RECHECK_S)
        finally:
            place.close()
            if self._remove(place) and not place.is_done:  # or its leader has woken the next
                self._wake()


class _NotAcquiredError(Exception):
    """The writer lock was not free in time."""
