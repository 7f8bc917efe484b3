"""What the tests of group commit share.

A group is made for certain by holding the writer lock until all its callers wait in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from rtstore import Batch, Database, RuntimeStore
from tests.support import CHECKPOINT, IDENTITY

Call = Callable[[], Batch]


def batch(store: RuntimeStore, writes: dict[str, Any], **options: Any) -> Call:
    """A call that writes one batch."""
    return lambda: store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes, **options)


def update(store: RuntimeStore, name: str, item: Any) -> Call:
    """A call that appends to a store."""
    return lambda: store.update(
        name, lambda data: [*(data or []), item], identity=IDENTITY, reason=CHECKPOINT
    )


@contextmanager
def together(store: RuntimeStore, calls: Sequence[Call]) -> Iterator[list[Future[Batch]]]:
    """Have calls made by a thread each, one after the other; inside of the block all of them wait
    in the queue, and after it they have ended."""
    queue = store._writer.queue
    with ThreadPoolExecutor(len(calls)) as pool:  # noqa: SIM117 - the lock is let go first
        with store.lock.hold():
            futures = []
            for number, call in enumerate(calls, start=1):
                futures.append(pool.submit(call))
                deadline = time.monotonic() + 10
                while len(queue._places) < number and not futures[-1].done():
                    assert time.monotonic() < deadline
                    time.sleep(0.0005)
            yield futures


def carry_out(store: RuntimeStore, *calls: Call) -> list[Batch | BaseException]:
    """What calls that were made together gave or raised, in their order."""
    with together(store, calls) as futures:
        pass
    return [future.exception() or future.result() for future in futures]


def numbers(outcomes: Sequence[Batch | BaseException]) -> list[int]:
    """The high watermarks of batches that must be committed."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, Batch), outcome
        assert outcome.high_watermark is not None
        found.append(outcome.high_watermark)
    return found


class Flushes:
    """Counts the write transactions of a store, by whether they are flushed."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[bool] = []
        real = database.write

        def write(*, flush: bool) -> Any:
            self.made.append(flush)
            return real(flush=flush)

        monkeypatch.setattr(database, "write", write)
