"""The calls that are struck: alone, as the leader of others, as one that follows, at the lock."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rtstore import DELETED, AsyncRuntimeStore, Batch, RuntimeStore, WriterLock
from rtstore.aio import calls
from tests.interrupts.strike import (
    PATIENCE_S,
    Neighbour,
    Strike,
    Striker,
    Tally,
    check_told,
    check_usable,
    count_descriptors,
    open_files,
)
from tests.support import CHECKPOINT, DIAGNOSTICS, IDENTITY, LEASES, LEDGER, open_store

FEW_DESCRIPTORS = 6
"""How many more there may be at the end: connections are kept for the next who reads or writes."""

Points = Callable[[], Iterator[int]]
Call = Callable[[RuntimeStore, str], Batch]


def write_batch(store: RuntimeStore, batch_id: str) -> Batch:
    """Write two stores."""
    return store.write_batch(
        identity=IDENTITY,
        reason=CHECKPOINT,
        writes={LEASES: batch_id, DIAGNOSTICS: batch_id},
        batch_id=batch_id,
    )


_ids: dict[int, str] = {}


def update(store: RuntimeStore, batch_id: str) -> Batch:
    """Change a store; the factory of ids gives the batch its name."""
    _ids[threading.get_ident()] = batch_id
    try:
        return store.update(LEASES, lambda _: batch_id, identity=IDENTITY, reason=CHECKPOINT)
    finally:
        del _ids[threading.get_ident()]


def update_several(store: RuntimeStore, batch_id: str) -> Batch:
    """Change one of two stores, under an id of its own."""
    batch = store.update(
        [LEASES, DIAGNOSTICS],
        lambda data: {**data, LEASES: batch_id},
        identity=IDENTITY,
        reason=CHECKPOINT,
        batch_id=batch_id,
    )
    assert batch is not None
    return batch


def delete(store: RuntimeStore, batch_id: str) -> Batch:
    """Delete a store, or write it where it is gone, beside another that is written."""
    batch = store.update(
        [LEASES, DIAGNOSTICS],
        lambda data: {
            LEASES: batch_id,
            DIAGNOSTICS: batch_id if data[DIAGNOSTICS] is None else DELETED,
        },
        identity=IDENTITY,
        reason=CHECKPOINT,
        batch_id=batch_id,
    )
    assert batch is not None
    return batch


def adopt(store: RuntimeStore, batch_id: str) -> Batch:
    """Adopt a file that was changed by hand."""
    path = store.directory / store.descriptors.get(LEDGER).relative_path
    path.write_bytes(path.read_bytes().replace(b'"data":', b'"data": ', 1))
    _ids[threading.get_ident()] = batch_id
    try:
        return store.adopt(LEDGER, identity=IDENTITY)
    finally:
        del _ids[threading.get_ident()]


def begin_run(store: RuntimeStore, batch_id: str) -> Batch:
    """Begin a run, and the usual one in its place next time: each id is new."""
    _ids[threading.get_ident()] = batch_id
    try:
        run = store.begin_run(f"run of {batch_id}", writes={LEASES: batch_id}, keep="all")
    finally:
        del _ids[threading.get_ident()]
    assert run.batch is not None
    return run.batch


def new_batch_id() -> str:
    """The id that the call of this thread wants, or any."""
    return _ids.get(threading.get_ident()) or f"any-{time.monotonic_ns()}"


def forget_others() -> None:
    """Have no collection of garbage look at what other tests left in this process: there may be one
    after each strike."""
    gc.collect()
    gc.freeze()


class Field:
    """A store that is struck again and again, with a neighbour who looks on."""

    def __init__(
        self,
        directory: Path,
        points: Points,
        files: Sequence[str] = ("",),
        lock_timeout_s: float = PATIENCE_S / 2,
        error: type[BaseException] = Strike,
    ) -> None:
        self.error = error
        self.tally = Tally()
        self.lock_timeout_s = lock_timeout_s
        self.files = files
        self._directory = directory
        self._points = points
        self._called = 0
        self._growing: list[str] = []

    @contextmanager
    def _prepared(self) -> Iterator[tuple[RuntimeStore, Neighbour]]:
        with (
            open_store(
                self._directory, batch_id_factory=new_batch_id, lock_timeout_s=self.lock_timeout_s
            ) as store,
            Neighbour(self._directory) as neighbour,
        ):
            check_usable(store, "before any", self.tally)
            check_usable(store, "before any", self.tally)
            yield store, neighbour

    def strike(self, run: Callable[[RuntimeStore, Striker], dict[str, object]]) -> Tally:
        """Run with a strike at each of the points, until there are no more lines."""
        forget_others()
        with self._prepared() as (store, neighbour):
            begun_with = most = count_descriptors()
            for number in self._points():
                striker = Striker(number, self.files, self.error)
                outcomes = run(store, striker)  # holds the exceptions, as a debugger would
                if striker.struck is None:
                    break
                self.tally.points += 1
                if striker.answer is not None:
                    self.tally.fault(striker.struck, f"another answer ({striker.answer})")
                held = neighbour.what_is_held()
                if held:
                    self.tally.fault(striker.struck, f"locks left ({held})")
                for batch_id, outcome in outcomes.items():
                    check_told(store, striker.struck, batch_id, outcome, self.tally)
                check_usable(store, striker.struck, self.tally)
                outcomes.clear()
                outcome = None
                found = count_descriptors()
                if found > most:
                    gc.collect()  # a cycle of frames is no loss
                    found = count_descriptors()
                if found > most:  # where one line loses one, others do
                    self._growing.append(f"{striker.struck} +{found - most}")
                most = max(most, found)
            if count_descriptors() - begun_with > FEW_DESCRIPTORS:
                self.tally.fault("at the end", f"descriptors lost ({', '.join(self._growing)})")
        return self.tally

    def name(self) -> str:
        """A new batch id."""
        self._called += 1
        return f"batch-{self._called}"


def alone(field: Field, call: Call) -> Tally:
    """One caller, alone."""

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        batch_id = field.name()
        return {batch_id: struck(striker, lambda: call(store, batch_id))}

    return field.strike(run)


def together(field: Field, calls: Sequence[Call], victim: int) -> Tally:
    """Several callers in the queue, of which one is struck."""

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        outcomes: dict[str, object] = {}
        threads = []
        with store.lock.hold():
            for number, call in enumerate(calls):
                batch_id = field.name()
                outcomes[batch_id] = None
                thread = threading.Thread(
                    target=_report,
                    args=(outcomes, batch_id, call, store, striker if number == victim else None),
                    daemon=True,
                )
                threads.append(thread)
                thread.start()
                deadline = time.monotonic() + PATIENCE_S
                while _in_queue(store) < sum(waiting.is_alive() for waiting in threads):
                    assert time.monotonic() < deadline
                    time.sleep(0.0002)
        for number, (thread, batch_id) in enumerate(zip(threads, list(outcomes), strict=True)):
            thread.join(PATIENCE_S)
            if thread.is_alive():
                field.tally.fault(striker.struck, "hangs")
            elif not (
                number == victim or striker.is_excused or isinstance(outcomes[batch_id], Batch)
            ):
                field.tally.fault(striker.struck, f"harmed another ({outcomes[batch_id]!r})")
        return outcomes

    return field.strike(run)


def _in_queue(store: RuntimeStore) -> int:
    return len(store._writer.queue._places)


def _report(
    outcomes: dict[str, object],
    batch_id: str,
    call: Call,
    store: RuntimeStore,
    striker: Striker | None,
) -> None:
    if striker is not None:
        outcomes[batch_id] = struck(striker, lambda: call(store, batch_id))
        return
    try:
        outcomes[batch_id] = call(store, batch_id)
    except BaseException as error:
        outcomes[batch_id] = error


def _writing(store: AsyncRuntimeStore, names: Sequence[str]) -> list[asyncio.Future[Batch]]:
    """Return a task for each batch, under its name."""

    async def write(name: str) -> Batch:
        return await store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: name}, batch_id=name
        )

    return [asyncio.ensure_future(write(name)) for name in names]


def struck(striker: Striker, call: Callable[[], Any]) -> object:
    """What a call gave or raised, with a strike on its way."""
    outcome = _outcome(striker, call)  # no frame of its traceback is one that holds it
    striker.check(outcome)
    return outcome


def _outcome(striker: Striker, call: Callable[[], Any]) -> object:
    try:
        with striker:
            return call()
    except BaseException as error:
        return error


def locks(field: Field) -> Tally:
    """The writer lock by itself: held, looked at, kept free."""

    def use(lock: WriterLock) -> None:
        with lock.hold(1):
            pass
        lock.is_held()
        with lock.kept_free():
            pass

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        return {"none": struck(striker, lambda: use(WriterLock(store.directory)))}

    return field.strike(run)


def closing(field: Field) -> Tally:
    """A store that is closed: again, afterwards, and its directory is free."""

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        other = RuntimeStore.open(store.directory)
        write_batch(other, field.name())
        error = struck(striker, other.close)
        with suppress(field.error):
            other.close()
        return {"none": error}

    return field.strike(run)


def release(directory: Path, points: Iterator[int], end: Callable[[RuntimeStore], None]) -> Tally:
    """A store whose end is struck: what it leaves open is closed with the next one, if not before.

    `end` has the only reference to the store.
    """
    tally = Tally()
    forget_others()
    for number in points:
        striker = Striker(number)
        opened = [RuntimeStore.open(directory)]
        opened[0].read(LEASES)
        # CPython 3.11 goes on handling an exception, and so keeps its frames, where a strike comes
        # at the end of a handler; no signal comes there. What a thread handles goes with it.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(struck, striker, lambda: end(opened.pop())).result()  # noqa: B023
        if striker.struck is None:
            break
        tally.points += 1
        opened.clear()
        gc.collect()
        RuntimeStore.open(directory).close()
        left = open_files(directory)
        if left:
            tally.fault(striker.struck, f"left open ({left})")
    return tally


def close(store: RuntimeStore) -> None:
    """Close it."""
    store.close()


def drop(_: RuntimeStore) -> None:
    """Leave it to its fate."""


def reading(field: Field) -> Tally:
    """Everything that only reads."""

    def use(store: RuntimeStore) -> None:
        store.read(LEDGER)
        store.snapshot()
        store.batches(limit=1)

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        return {"none": struck(striker, lambda: use(store))}

    return field.strike(run)


def on_a_loop(field: Field) -> Tally:
    """Tasks whose worker thread is struck: each of them ends."""

    async def write(store: RuntimeStore, striker: Striker, names: list[str]) -> list[object]:
        wrapped = AsyncRuntimeStore(store)
        lane = wrapped._workers.writes
        serve: Callable[[], None] = lane.serve

        def struck_once() -> None:
            lane.serve = serve  # type: ignore[method-assign]
            with striker:
                serve()

        lane.serve = struck_once  # type: ignore[method-assign]
        tasks = _writing(wrapped, names)
        done, waiting = await asyncio.wait(tasks, timeout=PATIENCE_S)
        if waiting:
            field.tally.fault(striker.struck, "hangs")
        await wrapped.aclose()
        return [task.exception() or task.result() if task in done else None for task in tasks]

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        names = [field.name() for _ in range(3)]
        other = RuntimeStore.open(store.directory)
        return dict(zip(names, asyncio.run(write(other, striker, names)), strict=True))

    return field.strike(run)


def in_a_loop(field: Field) -> Tally:
    """Tasks whose loop is struck: each of them ends, and knows what it has written."""

    async def write(store: RuntimeStore, striker: Striker, names: list[str]) -> list[object]:
        wrapped = AsyncRuntimeStore(store)
        with striker:
            tasks = _writing(wrapped, names)
            _, waiting = await asyncio.wait(tasks, timeout=PATIENCE_S)
        if waiting:
            field.tally.fault(striker.struck, "hangs")
        await wrapped.aclose()
        outcomes: list[object] = [t.exception() or t.result() for t in tasks if t.done()]
        for outcome in outcomes:
            said = hasattr(outcome, "__notes__") or str(striker.struck).endswith("write_batch")
            if isinstance(outcome, Strike) and not said:  # in the first lines nothing has begun
                field.tally.fault(striker.struck, "no note")
        return outcomes

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        names = [field.name() for _ in range(2)]
        other = RuntimeStore.open(store.directory)
        with patch.object(calls, "RECHECK_S", 0.05):
            return dict(zip(names, asyncio.run(write(other, striker, names)), strict=True))

    return field.strike(run)


def beginning(field: Field) -> Tally:
    """A run that begins: it is there exactly when its batch is, and nobody writes for another."""

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        batch_id = field.name()
        outcome = struck(striker, lambda: begin_run(store, batch_id))
        return {batch_id: outcome}

    return field.strike(run)


def ending(field: Field) -> Tally:
    """A run that ends: whoever is interrupted is told to look, and can."""

    def run(store: RuntimeStore, striker: Striker) -> dict[str, object]:
        active = store.begin_run(f"run of {field.name()}", keep="all").run_id
        outcome = struck(striker, lambda: store.end_run(active, why="it is over"))
        is_over = store.runs()[0].is_over
        told = " ".join(getattr(outcome, "__notes__", ()))
        if str(outcome) == "struck" and is_over and "not known" not in told:
            field.tally.fault(striker.struck, f"untrue: nothing was told of the end ({told})")
        if not (str(outcome) == "struck" or is_over):
            field.tally.fault(striker.struck, f"untrue: it has not ended ({outcome!r})")
        return {}

    return field.strike(run)


SCENARIOS: dict[str, Callable[[Field], Tally]] = {
    "write_batch, alone": lambda field: alone(field, write_batch),
    "update, alone": lambda field: alone(field, update),
    "adopt, alone": lambda field: alone(field, adopt),
    "a deletion, alone": lambda field: alone(field, delete),
    "a batch that leads": lambda field: together(field, [write_batch] * 3, 0),
    "an update that leads": lambda field: together(field, [update_several, write_batch, update], 0),
    "a batch that follows": lambda field: together(field, [write_batch] * 3, 1),
    "an update that waits": lambda field: together(field, [write_batch, update, write_batch], 1),
    "a run that begins": beginning,
    "a run that ends": ending,
    "the lock": locks,
    "close": closing,
    "reading": reading,
    "tasks of a loop": on_a_loop,
    "the loop of tasks": in_a_loop,
}
