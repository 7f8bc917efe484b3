"""Answers of a write that must be true however threads and processes interleave."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    Batch,
    BatchUnfinishedError,
    FileSystem,
    InvalidRequestError,
    LockLostError,
    LockTimeoutError,
    RuntimeStore,
    StoreClosedError,
    WriterLock,
)
from rtstore.commit import group
from rtstore.commit.group import PendingBatch, Place, WriteQueue
from rtstore.control import batches
from rtstore.control.lock import LOCK_NAME
from rtstore.errors import BatchUnderWayError
from rtstore.model.ids import new_batch_id, new_receipt_id
from rtstore.model.times import utc_now
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    agree,
    answer,
    child,
    file_of,
    hear,
    new_directory,
    open_store,
)
from tests.support.forked import forked
from tests.support.groups import batch, together

# --- closing ------------------------------------------------------------------------------------

IN_TRANSACTIONS = (
    "batches.log", "contents.insert_contents", "manifest.mark_preparing",
    "manifest.complete", "runs.complete",
)  # fmt: skip
"""What is called inside of the two transactions of a batch."""


@pytest.mark.parametrize("where", IN_TRANSACTIONS)
@pytest.mark.parametrize("callers", [1, 3])
def test_closed_in_the_middle_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, callers: int
) -> None:
    """Another thread closes the store inside of a transaction of a batch, and its patience ends: a
    batch whose caller hears that nothing was written is nowhere; any other is there, whole."""
    monkeypatch.setattr("rtstore.store._CLOSING_TIMEOUT_S", 0.05)
    store = open_store(directory := new_directory(tmp_path), lock_timeout_s=0.05)
    module, _, name = where.partition(".")
    target = import_module(f"rtstore.control.{module}")
    called = getattr(target, name)
    calls = [
        batch(store, {LEDGER: number, LEASES: number}, batch_id=f"batch-{number}")
        for number in range(callers)
    ]
    with monkeypatch.context() as patch:

        def close_first(*arguments: Any, **more: Any) -> Any:
            patch.undo()
            closing = threading.Thread(target=store.close)
            closing.start()
            closing.join()
            return called(*arguments, **more)

        with together(store, calls) as told:
            patch.setattr(target, name, close_first)
    with open_store(directory) as again:
        for number, outcome in enumerate(told):
            error, found = outcome.exception(), again.batch(f"batch-{number}")
            if isinstance(error, StoreClosedError | LockTimeoutError):
                assert found is None
            else:
                assert error is None or (isinstance(error, BatchUnfinishedError) and error.decided)
                assert found is not None
                assert found.state == "committed"
                assert {item.schema_name for item in found.receipts} == {LEDGER, LEASES}
        assert agree(again)


# --- time-outs ----------------------------------------------------------------------------------


def time_out_beside_a_leader(
    directory: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> tuple[Batch | BaseException, Batch | None]:
    """What a caller is told, and what is on record, when its time is over just as a leader gets the
    lock: one of them decides first, and the other comes while that is at work."""
    told: list[Batch | BaseException] = []
    withdraw, is_over, has_ended = PendingBatch.withdraw, threading.Event(), threading.Event()

    def slow_withdraw(self: PendingBatch) -> bool:
        if threading.current_thread() is not victim:
            return withdraw(self)
        if first == "caller":
            found = withdraw(self)
        is_over.set()
        time.sleep(0.1)
        return found if first == "caller" else withdraw(self)

    def lead(_: Any) -> int:
        victim.start()
        assert is_over.wait(10)
        return 1

    def follow() -> None:
        try:
            told.append(batch(store, {LEDGER: 1}, batch_id="mine")())
        except BaseException as error:
            told.append(error)
        has_ended.set()

    class SlowFileSystem(FileSystem):
        """The leader has taken its batches when the caller asks."""

        def create(self, path: Path, mode: int) -> int:
            has_ended.wait(0.3)
            return super().create(path, mode)

    victim = threading.Thread(target=follow)
    with open_store(directory, lock_timeout_s=0.3, fs=SlowFileSystem()) as store:
        with monkeypatch.context() as patch:
            patch.setattr(PendingBatch, "withdraw", slow_withdraw)
            store.update(LEASES, lead, identity=IDENTITY, reason=CHECKPOINT)
            victim.join()
        return told[0], store.batch("mine")


def test_a_time_out_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears that the lock was not free has nothing on record."""
    told, found = time_out_beside_a_leader(new_directory(tmp_path), monkeypatch, "caller")
    assert isinstance(told, LockTimeoutError)
    assert found is None


def test_a_batch_that_was_taken_does_not_time_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller waits for the leader, and hears that it is committed."""
    told, found = time_out_beside_a_leader(new_directory(tmp_path), monkeypatch, "leader")
    assert isinstance(told, Batch)
    assert told == found


def test_control_a_time_out_that_is_decided_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that withdraws without asking who has the batch is found to hear what is untrue."""

    def claim(self: PendingBatch, _: object) -> bool:
        self.log_begun = False
        return True

    monkeypatch.setattr(PendingBatch, "claim", claim)
    told, found = time_out_beside_a_leader(new_directory(tmp_path), monkeypatch, "leader")
    assert isinstance(told, LockTimeoutError)
    assert found is not None


def test_who_asks_for_a_batch_that_was_left_to_a_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that is interrupted twice leaves while another thread has its batch. It is told to
    ask for the batch, and hears what becomes of it: not that there is none."""

    class ControlCError(BaseException):
        pass

    told: list[tuple[list[str], Batch | None]] = []
    wait, withdraw, log = WriteQueue._wait, PendingBatch.withdraw, batches.log
    has_come, has_left = threading.Event(), threading.Event()
    interrupts = iter([ControlCError()])

    def interrupted_wait(self: WriteQueue, place: Place) -> None:
        has_come.set()
        if threading.current_thread() is victim and is_taken.wait(10):
            raise ControlCError
        wait(self, place)

    def interrupted_withdraw(self: PendingBatch) -> bool:
        if threading.current_thread() is victim:
            for error in interrupts:
                raise error
        return withdraw(self)

    def slow_log(*arguments: Any) -> None:
        is_taken.set()
        assert has_left.wait(10)
        time.sleep(0.1)
        log(*arguments)

    def lead(_: Any) -> int:
        victim.start()
        assert has_come.wait(10)
        return 1

    def follow() -> None:
        try:
            batch(store, {LEDGER: 1}, batch_id="mine")()
        except ControlCError as error:
            has_left.set()
            told.append((error.__notes__, store.batch("mine")))

    is_taken, victim = threading.Event(), threading.Thread(target=follow)
    with open_store(new_directory(tmp_path)) as store, monkeypatch.context() as patch:
        patch.setattr(WriteQueue, "_wait", interrupted_wait)
        patch.setattr(PendingBatch, "withdraw", interrupted_withdraw)
        patch.setattr(batches, "log", slow_log)
        store.update(LEASES, lead, identity=IDENTITY, reason=CHECKPOINT)
        victim.join()
        ((notes, found),) = told
        assert notes == [
            "rtstore: it is not known whether batch mine is committed: ask store.batch('mine')"
        ]
        assert found is not None
        assert found == store.batch("mine")
        assert found.state == "committed"


def test_a_batch_is_not_held_once_it_has_its_outcome(tmp_path: Path) -> None:
    """Its content may be large."""
    with open_store(new_directory(tmp_path)) as store:
        batch(store, {LEDGER: 1}, batch_id="held-by-nobody")()
        gc.collect()
        pending = [item for item in gc.get_objects() if type(item) is PendingBatch]
        assert "held-by-nobody" not in [item.batch_id for item in pending]


def test_many_time_outs_are_true(tmp_path: Path) -> None:
    """Threads with a time-out that is about as long as their wait: what was refused is nowhere,
    what was acknowledged is there, and nothing else is raised."""
    told: dict[str, str] = {}
    with open_store(new_directory(tmp_path), lock_timeout_s=0.02) as store:

        def work(number: int) -> None:
            for turn in range(12):
                batch_id = f"{number}-{turn}"
                try:
                    batch(store, {LEASES: batch_id}, batch_id=batch_id)()
                    told[batch_id] = "committed"
                except BaseException as error:
                    told[batch_id] = type(error).__name__

        threads = [threading.Thread(target=work, args=[number]) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        known = {item.batch_id for item in store.batches()}
        assert known == {name for name, what in told.items() if what == "committed"}
        assert set(told.values()) <= {"committed", "LockTimeoutError"}, Counter(told.values())


# --- the lock file goes -------------------------------------------------------------------------

COUNT = """
import json
from pathlib import Path
from rtstore import LockLostError, RunIdentity, RuntimeStore, RuntimeStoreError, WriterLock
if sys.argv[4] == "broken":  # the file alone is the lock, and nobody looks whether it is there
    WriterLock._lock_directory = lambda *_: True
    WriterLock.check_name = lambda _: None
    WriterLock.is_sure = lambda _: True
identity = RunIdentity(run_id="run-1", capability_snapshot_id="c", behavior_fingerprint="b")
acknowledged = 0
with RuntimeStore.open(sys.argv[1]) as store:
    say("ready")
    wait()
    for number in range(int(sys.argv[2])):
        try:
            store.update("opencode.hostLeases", lambda data: [*(data or []), [sys.argv[3], number]],
                         identity=identity, reason="launch_checkpoint")
            acknowledged += 1
        except (LockLostError if sys.argv[4] == "sound" else RuntimeStoreError):
            pass
say("acknowledged", acknowledged)
"""


def acknowledged_and_found(directory: Path, kind: str) -> tuple[int, list[Any], bool]:
    """What two writers acknowledge while somebody removes their lock file again and again, what is
    there, and whether the files are as committed."""
    arguments = (directory, "40")
    with forked(COUNT, *arguments, "a", kind) as one, forked(COUNT, *arguments, "b", kind) as two:
        assert [hear(one), hear(two)] == ["ready", "ready"]
        stop = threading.Event()

        def remove() -> None:
            while not stop.wait(0.004):
                (directory / LOCK_NAME).unlink(missing_ok=True)

        remover = threading.Thread(target=remove)
        remover.start()
        try:
            answer(one)
            answer(two)
            count = sum(int(hear(process).split()[1]) for process in (one, two))
        finally:
            stop.set()
            remover.join()
    with RuntimeStore.open(directory, recover=False) as store:
        found = store.read(LEASES, verify=False).data if count else []
        return count, found, agree(store)


def test_two_writers_whose_lock_file_is_removed(tmp_path: Path) -> None:
    """However often it is removed, what is acknowledged is there, once, and files are whole."""
    count, found, is_whole = acknowledged_and_found(new_directory(tmp_path), "sound")
    assert len({tuple(item) for item in found}) == len(found) == count
    assert count > 10
    assert is_whole


@pytest.mark.thorough
def test_control_the_lock_file_alone(tmp_path: Path) -> None:
    """The lock as it was, a file that anybody can remove, is found out."""
    for turn in range(10):  # two writers must come into each other's way
        place = tmp_path / str(turn)
        place.mkdir()
        count, found, is_whole = acknowledged_and_found(new_directory(place), "broken")
        if not is_whole or len(found) != count:
            return
    pytest.fail("two writers without a lock lost nothing in ten turns")


def test_a_lock_file_that_is_removed_before_the_log(tmp_path: Path) -> None:
    """The holder notices that the name is not its file's any more: nothing is written; nobody else
    had the lock meanwhile, and the next call works."""
    directory = new_directory(tmp_path)
    others: list[bool] = []

    def change(_: Any) -> int:
        (directory / LOCK_NAME).unlink()
        with pytest.raises(LockTimeoutError), WriterLock(directory).hold(0.05):
            pass
        others.append(WriterLock(directory).is_held())
        return 1

    with open_store(directory) as store:
        with pytest.raises(LockLostError, match="Nothing was written"):
            store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
        assert others == [True]
        assert store.batches() == []
        assert batch(store, {LEASES: 2})().high_watermark == 1


def test_who_waits_for_a_file_that_is_gone_gets_the_lock(tmp_path: Path) -> None:
    """It does not wait for the old file: it has the new one as soon as the holder is done."""
    lock = WriterLock(tmp_path)
    got: list[float] = []

    def wait() -> None:
        with WriterLock(tmp_path).hold(10):
            got.append(time.monotonic())

    thread = threading.Thread(target=wait)
    with lock.hold():
        thread.start()
        time.sleep(0.02)
        lock.path.unlink()
        time.sleep(0.02)
        assert not got
    thread.join()
    assert got


# --- no room ------------------------------------------------------------------------------------


def _deep(depth: int, call: Callable[[], Any]) -> Any:
    return call() if depth == 0 else _deep(depth - 1, call)


@pytest.mark.parametrize("kind", ["write_batch", "update"])
def test_a_recursion_error_at_any_depth(tmp_path: Path, kind: str) -> None:
    """It comes before anything is begun, or not at all; the object works."""
    ids: list[str] = []

    def new_id() -> str:
        return ids[-1]

    limit = sys.getrecursionlimit()
    told: Counter[str] = Counter()
    with open_store(new_directory(tmp_path), batch_id_factory=new_id, lock_timeout_s=1) as store:
        calls: dict[str, Callable[[], Any]] = {
            "write_batch": batch(store, {LEASES: 1, LEDGER: 1}),
            "update": lambda: store.update(
                LEASES, lambda _: 1, identity=IDENTITY, reason=CHECKPOINT
            ),
        }
        here = len(_stack())
        try:
            sys.setrecursionlimit(here + 300)
            for depth in range(100, 300, 3):
                ids.append(f"deep-{depth}")
                try:
                    _deep(depth, calls[kind])
                    expected = True
                except RecursionError:
                    expected = False
                told[str(expected)] += 1
                assert (store.batch(ids[-1]) is not None) == expected
                ids.append(f"shallow-{depth}")
                assert batch(store, {LEDGER: depth})().batch_id == ids[-1]
                assert store.read(LEDGER).data == depth
        finally:
            sys.setrecursionlimit(limit)
    assert min(told["True"], told["False"]) > 5


def _stack() -> list[Any]:
    frames, frame = [], sys._getframe()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return frames


@pytest.mark.parametrize("part", ["clock", "batch_id", "receipt_id", "change"])
@pytest.mark.parametrize("how", ["write_batch", "update"])
def test_an_exception_of_the_callers_own_functions(tmp_path: Path, part: str, how: str) -> None:
    """It is raised as it is, with a note that nothing was written, which is true."""
    is_broken = False

    def unless_broken(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if is_broken and part == name:
                raise LookupError("it does not work")
            return function(*arguments)

        return call

    change = unless_broken("change", lambda _: 2)

    with open_store(
        tmp_path / "runtime",
        clock=unless_broken("clock", utc_now),
        batch_id_factory=unless_broken("batch_id", new_batch_id),
        receipt_id_factory=unless_broken("receipt_id", new_receipt_id),
    ) as store:
        batch(store, {LEDGER: 1})()
        call = batch(store, {LEDGER: 2})
        if how == "update" or part == "change":
            call = partial(store.update, LEDGER, change, identity=IDENTITY, reason=CHECKPOINT)
        is_broken = True
        with pytest.raises(LookupError, match="it does not work") as caught:
            call()
        is_broken = False
        assert caught.value.__notes__ == ["rtstore: nothing of the batch was written"]
        assert store.read(LEDGER).data == 1
        assert len(store.batches()) == 1


MEMORY = """
import _testcapi, logging
from rtstore import RunIdentity, RuntimeStore
logging.disable(logging.CRITICAL)
identity = RunIdentity(run_id="run-1", capability_snapshot_id="c", behavior_fingerprint="b")
names = ("opencode.hostLeases", "opencode.promptDeliveryLedger")
def write(store, batch_id):
    return store.write_batch(identity=identity, reason="launch_checkpoint", batch_id=batch_id,
                             writes=dict.fromkeys(names, batch_id))
with RuntimeStore.open(sys.argv[1], lock_timeout_s=1) as store:
    for number in range(5):
        write(store, f"warm-{number}")
    for number in range(int(sys.argv[2]), 2500, int(sys.argv[3])):
        batch_id, notes = f"batch-{number}", ""
        try:
            _testcapi.set_nomemory(number, number + 1)
            try:
                write(store, batch_id)
            finally:
                _testcapi.remove_mem_hooks()
            notes = "is committed"
        except BaseException as error:
            notes = " ".join(getattr(error, "__notes__", ()))
        write(store, f"after-{number}")
        assert store.read(names[0]).data == f"after-{number}"
        known = store.batch(batch_id)
        if "is committed" in notes and "not known" not in notes:
            assert known is not None, (number, notes)
        elif "nothing of" in notes:
            assert known is None, (number, notes)
say("done")
"""


@pytest.mark.parametrize(
    "step", [157, pytest.param(7, marks=pytest.mark.thorough, id="most of them")]
)
def test_an_allocation_that_fails(tmp_path: Path, step: int) -> None:
    """Whichever it is: the object works afterwards, and what is said is true."""
    pytest.importorskip("_testcapi")
    with child(MEMORY, new_directory(tmp_path), "3", str(step)) as process:
        assert hear(process) == "done"


# --- who asks for a batch ---------------------------------------------------------------------


class SlowUpdate:
    """An update in a thread, whose function waits until it may go on."""

    def __init__(self, store: RuntimeStore) -> None:
        self.store = store
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> Batch:
        """Make the update, as batch `slow`."""
        return self.store.update(
            LEDGER, self.change, identity=IDENTITY, reason=CHECKPOINT, batch_id="slow"
        )

    def change(self, _: Any) -> int:
        """Wait."""
        self.has_begun.set()
        assert self.may_end.wait(10)
        return 1


def test_who_asks_for_a_batch_waits_for_its_outcome(tmp_path: Path) -> None:
    """An update whose function runs, and a batch that waits behind it, is not said to be none: the
    answer comes with the outcome."""
    with open_store(new_directory(tmp_path)) as store, ThreadPoolExecutor(4) as pool:
        slow = SlowUpdate(store)
        made = [pool.submit(slow)]
        assert slow.has_begun.wait(10)
        made.append(pool.submit(batch(store, {LEASES: 1}, batch_id="behind")))
        while not store._writer.queue.is_under_way("behind"):
            time.sleep(0.001)
        asked = [pool.submit(store.batch, name) for name in ("slow", "behind")]
        time.sleep(0.05)
        assert not any(future.done() for future in asked)
        assert store.batch("another") is None
        slow.may_end.set()
        assert [future.result() for future in asked] == [future.result() for future in made]


def test_an_outcome_that_is_late_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited long enough is told that it is not known, and not that there is none; and who
    asks inside of a write is told so at once, for the others wait for that."""
    monkeypatch.setattr(group, "OUTCOME_S_MAX", 0.03)
    with open_store(new_directory(tmp_path)) as store, ThreadPoolExecutor(2) as pool:
        slow = SlowUpdate(store)
        made = pool.submit(slow)
        assert slow.has_begun.wait(10)
        with pytest.raises(BatchUnderWayError, match="not known yet whether batch slow") as caught:
            store.batch("slow")
        assert caught.value.batch_id == "slow"
        slow.may_end.set()
        assert store.batch("slow") == made.result()
    monkeypatch.undo()
    answers: list[object] = []

    def change(_: Any) -> int:
        answers.append(store.batch("own"))
        made = pool.submit(batch(store, {LEASES: 1}, batch_id="behind"))
        while not store._writer.queue.is_under_way("behind"):
            time.sleep(0.001)
        with pytest.raises(BatchUnderWayError):
            store.batch("behind")
        answers.append(made)
        return 1

    with open_store(new_directory(tmp_path, "two")) as store, ThreadPoolExecutor(2) as pool:
        began_at = time.monotonic()
        store.update(LEDGER, change, identity=IDENTITY, reason=CHECKPOINT, batch_id="own")
        assert time.monotonic() - began_at < 5
        assert answers[0] is None
        assert store.batch("behind") is not None


def test_a_call_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Also while its exception, which holds its frames, is kept; and while an edit is adopted on
    its behalf, it has not ended."""
    seen: list[bool] = []
    with (
        open_store(new_directory(tmp_path), foreign_edits="adopt") as store,
        ThreadPoolExecutor(1) as pool,
    ):
        kept = pool.submit(batch(store, {LEDGER: {1}}, batch_id="refused")).exception()
        assert isinstance(kept, InvalidRequestError)
        batch(store, {LEDGER: 1})()
        path = file_of(store, LEDGER)
        path.write_bytes(path.read_bytes().replace(b'"data": 1', b'"data": 2'))
        adopt = store._adopt

        def watched(*arguments: Any, **options: Any) -> Batch:
            seen.append(pool.submit(store._writer.queue.is_under_way, "adopts").result())
            return adopt(*arguments, **options)

        store._adopt = watched  # type: ignore[method-assign]
        store.update(
            LEDGER, lambda data: data, identity=IDENTITY, reason=CHECKPOINT, batch_id="adopts"
        )
        assert seen == [True]
        began_at = time.monotonic()
        assert (store.batch("refused"), pool.submit(store.batch, "refused").result()) == (None,) * 2
        assert time.monotonic() - began_at < 1
