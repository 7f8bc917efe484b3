"""Libraries broken on purpose: each lies, loses or hangs in one way, and must be caught.

They are made from outside, by wrapping the public methods in the worker processes, so that they
stay what they are however the inside changes.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any

from rtstore import (
    Batch,
    BatchState,
    BatchUnfinishedError,
    LockTimeoutError,
    RuntimeStore,
    Snapshot,
    StoreContent,
)

Method = Callable[..., Any]
_random = SystemRandom()  # another one in each process, forks too


@dataclass(frozen=True)
class Control:
    """A way to break the library, and the kinds of failure of which one must be found."""

    break_it: Callable[[], object]
    kinds: tuple[str, ...]
    only: str = ""
    """The disturbances that it takes."""


CONTROLS: dict[str, Control] = {}


def _control(*kinds: str, only: str = "") -> Callable[[Callable[[], object]], Callable[[], object]]:
    def register(function: Callable[[], object]) -> Callable[[], object]:
        CONTROLS[function.__name__] = Control(function, kinds, only)
        return function

    return register


def _wrap(name: str, broken: Callable[[Method, RuntimeStore, dict[str, Any]], Any]) -> None:
    """Have a method of the store be carried out by a function that may call the real one."""
    real = getattr(RuntimeStore, name)

    def method(self: RuntimeStore, *arguments: Any, **more: Any) -> Any:
        return broken(lambda: real(self, *arguments, **more), self, more)

    setattr(RuntimeStore, name, method)


def _now_and_then() -> bool:
    return _random.random() < 0.2


def _forged(store: RuntimeStore, more: dict[str, Any]) -> Batch | None:
    """A batch as it would be returned, for one that is not written."""
    last = store.batches(limit=1)
    if not last or more.get("batch_id") is None or more.get("expected_high_watermark") is not None:
        return None
    watermark = (last[0].high_watermark or 0) + 1
    changed = {
        "batch_id": more["batch_id"],
        "high_watermark": watermark,
        "state": BatchState.COMMITTED,  # the last one may be somebody's that is open
    }
    return last[0].model_copy(update=changed)


@_control("lost")
def acknowledges_what_it_does_not_write() -> None:
    """Now and then a batch is told committed, and that was all."""

    def write(real: Method, store: RuntimeStore, more: dict[str, Any]) -> Any:
        forged = _forged(store, more) if _now_and_then() else None
        return real() if forged is None else forged

    _wrap("write_batch", write)


@_control("lost", "out of order", "stale reads")
def acknowledges_before_it_writes() -> None:
    """The write is made a little after its acknowledgement."""

    def write(real: Method, store: RuntimeStore, more: dict[str, Any]) -> Any:
        forged = _forged(store, more) if _now_and_then() else None
        if forged is None:
            return real()
        threading.Timer(0.05, real).start()
        return forged

    _wrap("write_batch", write)


@_control("lies")
def times_out_after_it_has_written() -> None:
    """The error says that nothing is committed."""

    def write(real: Method, store: RuntimeStore, more: dict[str, Any]) -> Any:
        batch = real()
        if _now_and_then():
            raise LockTimeoutError(store.directory, 1.0, None)
        return batch

    _wrap("write_batch", write)
    _wrap("update", write)


@_control("lost")
def calls_decided_what_is_not_logged() -> None:
    """The error says that recovery will complete it."""

    def write(real: Method, store: RuntimeStore, more: dict[str, Any]) -> Any:
        if more.get("batch_id") is not None and _now_and_then():
            raise BatchUnfinishedError(
                more["batch_id"], "broken", decided=True, directory=store.directory
            )
        return real()

    _wrap("write_batch", write)


@_control("lies", "lost", "out of order", "stale reads", "foreign exceptions", "unusable")
def locks_nothing() -> None:
    """The writer lock is granted to everybody."""
    fcntl.flock = fcntl.lockf = lambda *_: None


@_control("lies", "lost")
def updates_without_the_lock() -> None:
    """An update reads, and writes later."""
    real = RuntimeStore.update

    def update(self: RuntimeStore, store: str, change: Any, **more: Any) -> Any:
        if _random.random() < 0.5:
            return real(self, store, change, **more)
        data = change(self.read(store).data)
        time.sleep(0.01)
        return self.write_batch(writes={store: data}, **more)

    RuntimeStore.update = update  # type: ignore[assignment,method-assign]


@_control("stale reads")
def reads_what_it_read_before() -> None:
    """A read gives the content of an earlier one now and then."""
    known: dict[str, StoreContent] = {}
    real = RuntimeStore.read

    def read(self: RuntimeStore, store: str, **more: Any) -> StoreContent:
        if store in known and _now_and_then():
            return known[store]
        return known.setdefault(store, real(self, store, **more))

    RuntimeStore.read = read  # type: ignore[assignment,method-assign]


@_control("lies", "stale reads")
def snapshots_store_by_store() -> None:
    """A snapshot is put together from reads of different moments."""

    def snapshot(real: Method, store: RuntimeStore, _: dict[str, Any]) -> Any:
        first: Snapshot = real()
        time.sleep(0.02)
        second: Snapshot = real()
        name = _random.choice(list(first.contents))
        return second.model_copy(
            update={"contents": {**second.contents, name: first.contents[name]}}
        )

    _wrap("snapshot", snapshot)


@_control("lies")
def ignores_what_was_expected() -> None:
    """A batch with an expected high watermark is written wherever the store is."""
    real = RuntimeStore.write_batch

    def write(self: RuntimeStore, **more: Any) -> Batch:
        return real(self, **{**more, "expected_high_watermark": None})

    RuntimeStore.write_batch = write  # type: ignore[method-assign]


@_control("out of order", "lies")
def counts_wrongly() -> None:
    """The high watermark that is told is that of the batch before."""

    def write(real: Method, _: RuntimeStore, more: dict[str, Any]) -> Any:
        batch = real()
        if not _now_and_then():
            return batch
        return batch.model_copy(update={"high_watermark": batch.high_watermark - 1})

    _wrap("write_batch", write)


@_control("unusable", only="signal,deep")
def keeps_the_lock_when_interrupted() -> None:
    """An exception from nowhere leaves the lock taken for good."""

    def write(real: Method, store: RuntimeStore, _: dict[str, Any]) -> Any:
        try:
            return real()
        except (KeyboardInterrupt, RecursionError):
            _take_for_good(store.directory / "runtime-store.lock")
            raise

    _wrap("write_batch", write)


def _take_for_good(path: Path) -> None:
    """Take a lock, unless this broken process or another one has done so already."""
    file = os.open(path, os.O_RDWR)
    for _ in range(200):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.005)


@_control("hangs")
def never_returns() -> None:
    """A call waits for something that does not come."""

    def write(real: Method, _: RuntimeStore, more: dict[str, Any]) -> Any:
        return threading.Event().wait() if _random.random() < 0.02 else real()

    _wrap("write_batch", write)


@_control("crashes")
def dies_of_a_bad_pointer() -> None:
    """The process is gone, and nobody sent the signal."""

    def read(real: Method, *_: Any) -> Any:
        if _now_and_then():
            os.kill(os.getpid(), signal.SIGSEGV)
        return real()

    _wrap("read", read)


@_control("foreign exceptions")
def raises_what_is_not_its_own() -> None:
    """An exception of the inside comes out."""

    def read(real: Method, *_: Any) -> Any:
        if _now_and_then():
            raise RuntimeError("cannot enter context")
        return real()

    _wrap("read", read)


@_control("left over")
def leaves_files_about() -> None:
    """What it needed for a while stays in the folder."""

    def write(real: Method, store: RuntimeStore, _: dict[str, Any]) -> Any:
        if _now_and_then():
            (store.directory / "a.json.bak").touch()
        return real()

    _wrap("write_batch", write)
