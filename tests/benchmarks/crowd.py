"""Many threads that write into one store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier

from rtstore import RuntimeStore
from tests.benchmarks.documents import Documents, write

LOCK_TIMEOUT_S = 600.0
"""A writer that loses the lock to others for long is slow, not broken."""


class Crowd:
    """Some threads that write into one store at once."""

    def __init__(
        self, store: RuntimeStore, names: Sequence[str], callers: int, size: int, stack: ExitStack
    ) -> None:
        self.callers = callers
        self._store = store
        self._names = names
        self._documents = [Documents(size) for _ in range(callers)]
        self._pool = stack.enter_context(ThreadPoolExecutor(callers))

    def turn(self, each: int) -> float:
        """Let every thread write that many batches; return how many a second together."""
        barrier = Barrier(self.callers + 1)
        done = [
            self._pool.submit(self._call, number, each, barrier) for number in range(self.callers)
        ]
        barrier.wait()
        start = time.perf_counter()
        for future in done:
            future.result()
        return each * self.callers / (time.perf_counter() - start)

    def _call(self, number: int, batches: int, barrier: Barrier) -> None:
        name, documents = self._names[number % len(self._names)], self._documents[number]
        barrier.wait()
        for _ in range(batches):
            write(self._store, {name: documents.new()})
