"""One thread that calls a store at random, and writes down every call and its outcome."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from rtstore import (
    Batch,
    BatchCommitted,
    Criticality,
    Descriptor,
    Event,
    Owner,
    RebuildStrategy,
    RunIdentity,
    RuntimeStore,
    Snapshot,
    StopError,
    StoreContent,
)
from tests.checker.journal import Journal
from tests.checker.mix import Mix
from tests.checker.told import InterruptedByTestError, is_expected, outcome_of

IDENTITY = RunIdentity(run_id="run-1")
LEDGER = "check.ledger"
"""Every update of it adds its name to a list, so that none can be lost unseen."""
STORES = ("check.a", "check.b", "check.c")
DESCRIPTORS = tuple(
    Descriptor(
        schema_name=name,
        relative_path=f"{name.removeprefix('check.')}.json",
        criticality=Criticality.READINESS_BLOCKING,
        owner=Owner.UI,
        rebuild_strategy=RebuildStrategy.NONE,
    )
    for name in (LEDGER, *STORES)
)


@dataclass
class Shared:
    """What the threads of one process share."""

    mix: Mix
    directory: Path
    scratch: Path
    journal: Journal
    end: float
    patience_s: float
    objects: list[RuntimeStore] = field(default_factory=list)
    children: list[int] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        """Write down which batch is told to be committed."""
        if isinstance(event, BatchCommitted):
            self.journal.write("event", batch_id=event.batch_id, hw=event.batch.high_watermark)

    def over(self) -> bool:
        """Whether the life is over."""
        return time.monotonic() >= self.end


class Alarm:
    """A signal that raises an exception in the main thread, while it is armed."""

    def __init__(self) -> None:
        self._armed: type[BaseException] | None = None
        signal.signal(signal.SIGALRM, self._raise)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        armed, self._armed = self._armed, None
        if armed is not None:
            raise armed

    @contextmanager
    def armed(self, random: Random) -> Iterator[None]:
        """Have one exception come at some moment of the block, or of none."""
        after_s = 10 ** random.uniform(-5, -2.3)
        self._armed = random.choice((InterruptedByTestError, KeyboardInterrupt))
        try:
            signal.setitimer(signal.ITIMER_REAL, after_s)
            yield
        finally:
            self._armed = None


def _deep(frames: int, function: Callable[[], Any]) -> Any:
    return function() if frames <= 0 else _deep(frames - 1, function)


class Caller:
    """Calls a store, one call after the other."""

    def __init__(self, name: str, shared: Shared, alarm: Alarm | None = None) -> None:
        self.name = name
        self.shared = shared
        self.mix = shared.mix
        self.random = Random(f"{shared.mix.seed} {name}")
        self.journal = shared.journal
        self.alarm = alarm
        self.calm = False
        """Whether its calls are left alone."""
        self.big = True
        """Whether it may write documents of megabytes."""
        self.suspicious: RuntimeStore | None = None
        """The object whose last call was interrupted."""
        self._count = 0
        self._last: dict[str, Any] | None = None
        self._refused: list[str] = []

    # --- calls ----------------------------------------------------------------------------------

    def next_name(self) -> str:
        """A name that no other call has: who calls, and the how manieth."""
        self._count += 1
        return f"{self.name}.{self._count}"

    def begin(self, action: str, **facts: Any) -> str:
        """Write down that a call is about to be made."""
        call = self.next_name()
        self.journal.write("begin", call=call, action=action, facts=facts)
        return call

    def returned(self, call: str, value: Any) -> None:
        """Write down what a call returned."""
        outcome = "ok"
        result: dict[str, Any] = {}
        if isinstance(value, Batch):
            outcome = "committed" if value.state == "committed" else f"returned {value.state}"
            result = {"batch_id": value.batch_id, "hw": value.high_watermark}
            result["stores"] = sorted(receipt.schema_name for receipt in value.receipts)
        elif isinstance(value, StoreContent):
            result = {"contents": _contents({value.schema_name: value})}
        elif isinstance(value, Snapshot):
            result = {"hw": value.high_watermark, "contents": _contents(value.contents)}
        elif isinstance(value, list):
            result = {
                "batches": [[item.batch_id, item.state, item.high_watermark] for item in value]
            }
        elif isinstance(value, dict):
            result = value
        self.journal.write("end", call=call, outcome=outcome, result=result)

    def raised(self, call: str, error: BaseException, *, retried: bool = False) -> None:
        """Write down what a call raised, and what that says of the batch."""
        outcome, batch_id = outcome_of(error)
        known = is_expected(error, self.mix) or (retried and outcome == "refused")
        result = {
            "error": type(error).__name__,
            "text": str(error)[:300],
            "notes": [str(note)[:300] for note in getattr(error, "__notes__", ())],
            "batch_id": batch_id,
            "expected": known,
            "where": [] if known else _where(error),
        }
        self.journal.write("end", call=call, outcome=outcome, result=result)

    def call(
        self,
        action: str,
        function: Callable[[], Any],
        store: RuntimeStore | None = None,
        **facts: Any,
    ) -> Any:
        """Make a call, perhaps disturbed; None when it raised. A store that says that it cannot go
        on is replaced."""
        call = self.begin(action, **facts)
        try:
            value = self._disturbed(function)
        except BaseException as error:
            self.raised(call, error, retried=facts.get("retried", False))
            if isinstance(error, StopError) and store is not None:
                self.replace(store)
            elif not isinstance(error, Exception) or isinstance(error, RecursionError):
                self.suspicious = store
            return None
        self.returned(call, value)
        return value

    def _disturbed(self, function: Callable[[], Any]) -> Any:
        if self.calm:
            return function()
        if self.alarm is not None and self.mix.has("signal") and self.random.random() < 0.6:
            with self.alarm.armed(self.random):
                return function()
        if self.mix.has("deep") and self.random.random() < 0.3:
            return _deep(self.random.randint(880, 985), function)
        return function()

    # --- what is called -------------------------------------------------------------------------

    def write(self, store: RuntimeStore, *names: str, **more: Any) -> Batch | None:
        """Write some stores in one batch."""
        facts = self.facts_of_write(*names, **more)
        return self._write(store, facts)

    def facts_of_write(self, *names: str, batch_id: bool = True, **more: Any) -> dict[str, Any]:
        """What is written down of a write before it is made; it can be repeated from that."""
        op = self.next_name()
        names = names or tuple(self.random.sample(STORES, self.random.randint(1, len(STORES))))
        return {
            "op": op,
            "stores": names,
            "batch_id": f"batch-{op}" if batch_id else None,
            "size": self._size(),
            **more,
        }

    def _size(self) -> int:
        if self.big and self.mix.has("big") and self.random.random() < 0.3:
            return self.random.choice((1_000_000, 4_000_000))
        return self.random.choice((0, 10, 300, 5_000))

    def arguments(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a write, from what was written down of it."""
        data = {"by": facts["op"], "stores": list(facts["stores"]), "text": "x" * facts["size"]}
        return {
            "identity": IDENTITY,
            "reason": "delivery_commit",
            "writes": {name: dict(data) for name in facts["stores"]},
            "batch_id": facts["batch_id"],
            "expected_high_watermark": facts.get("expected"),
        }

    def _write(self, store: RuntimeStore, facts: dict[str, Any]) -> Batch | None:
        self._last = facts
        batch: Batch | None = self.call(
            "write", lambda: store.write_batch(**self.arguments(facts)), store, **facts
        )
        if batch is None and facts["batch_id"] is not None:
            self._refused.append(facts["batch_id"])
        return batch

    def retry(self, store: RuntimeStore) -> None:
        """Repeat the last write that had an id, which may have been committed."""
        last = self._last
        if last is not None and last["batch_id"] is not None and "expected" not in last:
            self._write(store, {**last, "retried": True})

    def write_if(self, store: RuntimeStore) -> None:
        """Write, if nobody was quicker."""
        seen = self.call("snapshot", lambda: store.snapshot(STORES), store)
        if seen is not None:
            self.write(store, expected=seen.high_watermark, batch_id=True)

    def update(self, store: RuntimeStore, name: str | None = None) -> Batch | None:
        """Add to the ledger, or replace a store by what follows from it."""
        name = name or self.random.choice((LEDGER, LEDGER, *STORES))
        op = self.next_name()
        takes_s = self.takes_s()
        batch: Batch | None = self.call(
            "update",
            lambda: store.update(
                name, changing(op, name, takes_s), identity=IDENTITY, reason="delivery_commit"
            ),
            store,
            op=op,
            stores=(name,),
            batch_id=None,
        )
        return batch

    def takes_s(self) -> float:
        """How long the function of an update takes."""
        if not self.mix.has("slow") or self.random.random() < 0.9:
            return 0.0
        timeout_s = self.mix.lock_timeout_s * self.random.uniform(0.5, 1.5)
        return min(1.5, self.random.choice((timeout_s, timeout_s, 0.05, 1.5)))

    def read(self, store: RuntimeStore, name: str | None = None) -> None:
        """Read a store."""
        name = name or self.random.choice((LEDGER, *STORES))
        verify = self.random.random() < 0.6
        self.call("read", lambda: store.read(name, verify=verify), store, stores=(name,))

    def snapshot(self, store: RuntimeStore) -> None:
        """Read all stores as of one batch."""
        self.call("snapshot", store.snapshot, store)

    def list_batches(self, store: RuntimeStore) -> None:
        """Read the last few batches."""
        limit = self.random.randint(1, 8)
        self.call("batches", lambda: store.batches(limit=limit), store, limit=limit)

    def look_up(self, store: RuntimeStore) -> None:
        """Look a batch up that was perhaps not written."""
        if self._refused:
            batch_id = self.random.choice(self._refused[-3:])
            self.call(
                "batch", lambda: [b for b in (store.batch(batch_id),) if b is not None], store
            )

    def plan(self, store: RuntimeStore) -> None:
        """Ask whether the runtime may start, and what a recovery would do."""

        def judged() -> dict[str, Any]:
            plan, check = store.assess(expected=IDENTITY)
            kinds = sorted({action.kind for action in plan.actions})
            return {"actions": kinds, "ok": check.ok, "diagnostics": list(check.diagnostics)[:3]}

        self.call("plan", judged, store)

    # --- store objects --------------------------------------------------------------------------

    def open(self) -> RuntimeStore | None:
        """Open the directory."""
        mix, shared = self.mix, self.shared
        store: RuntimeStore | None = self.call(
            "open",
            lambda: RuntimeStore.open(
                shared.directory,
                retention=mix.retention,
                lock_timeout_s=mix.lock_timeout_s,
                on_event=shared.observe,
            ),
        )
        return store

    def pick(self) -> RuntimeStore | None:
        """One of the store objects of the process; opens one where there is none."""
        objects = list(self.shared.objects)
        if objects:
            return self.random.choice(objects)
        opened = self.open()
        if opened is not None:
            self.shared.objects.append(opened)
        return opened

    def replace(self, old: RuntimeStore, *, close: bool = True) -> None:
        """Take a store object out of use, and close it or leave it to its fate."""
        with suppress(ValueError):  # another thread was quicker
            self.shared.objects.remove(old)
            if close:
                self.call("close", old.close)


def changing(op: str, name: str, takes_s: float = 0.0) -> Callable[[Any], Any]:
    """The function of an update."""

    def change(data: Any) -> Any:
        if takes_s:
            time.sleep(takes_s)
        if name == LEDGER:
            return {"by": op, "stores": [name], "seen": [*data["seen"], op]}
        return {"by": op, "stores": [name], "after": data["by"]}

    return change


def _contents(contents: dict[str, StoreContent]) -> dict[str, list[Any]]:
    """Of each store: who wrote it, in which batch, and how long the ledger is."""
    return {
        name: [
            content.data["by"],
            content.high_watermark,
            content.batch_id,
            len(content.data.get("seen", ())),
        ]
        for name, content in contents.items()
    }


def _where(error: BaseException) -> list[str]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames[-8:]
