"""Wait for batches of any process: look at the stamp of a file a few times a second, and read the
database when that has changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from sqlalchemy import Connection

from rtstore.control import batches, manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import InvalidRequestError, MissedBatchesError
from rtstore.model import arguments
from rtstore.model.records import Batch

POLL_S = 0.03
"""In seconds. How often a waiter looks: half of this is the usual delay after a commit of another
process. A look takes some 0.05 ms of processor time, nearly all of it for waking up."""

BATCHES_MAX = 1_000
"""How many batches are returned at a time."""


def checked_after(database: Database, after: int | None) -> int:
    """Return the high watermark after which somebody waits. Default: the current one."""
    if after is not None:
        return arguments.number(after, "after")
    return database.read(manifest.load_head).high_watermark


def checked_timeout(timeout_s: float | None) -> float | None:
    """Return a time-out in seconds. None: never."""
    return None if timeout_s is None else arguments.timeout_s(timeout_s, "timeout_s")


def read_after(database: Database, after: int) -> list[Batch]:
    """Return the batches above a high watermark, oldest first; none if it is the newest.

    Raises `InvalidRequestError` when no batch has that watermark yet, and `MissedBatchesError` when
    the next batch is not on record.
    """
    head, found = database.read(partial(_head_and_batches, after=after))
    if after > head:
        problem = f"is {after}, and the newest batch has the high watermark {head}"
        hint = "a rebuild or a back-up may have taken it back"
        raise InvalidRequestError("after", f"{problem}: {hint}")
    first = found[0].high_watermark if found else None
    if after < head and first != after + 1:
        raise MissedBatchesError(after, first, head)
    return found[: _contiguous(found, after)]


def _head_and_batches(connection: Connection, after: int) -> tuple[int, list[Batch]]:
    head = manifest.load_head(connection).high_watermark
    if head <= after:
        return head, []
    return head, batches.list_committed_after(connection, after, BATCHES_MAX)


def _contiguous(found: list[Batch], after: int) -> int:
    """Return how many of the batches follow each other without a gap."""
    for position, batch in enumerate(found):
        if batch.high_watermark != after + 1 + position:
            return position
    return len(found)


def wait(database: Database, after: int, timeout_s: float | None) -> list[Batch]:
    """Return the batches above a high watermark, as soon as there are any; none at the time-out."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    woken = threading.Lock()  # in C: an exception in its wait leaves nothing behind
    woken.acquire()
    watch = database.watch(partial(_release, woken))
    while True:
        if watch.is_due():
            found = read_after(database, after)
            if found:
                return found
        else:
            database.check_usable()
        pause = POLL_S if deadline is None else min(POLL_S, deadline - time.monotonic())
        if pause <= 0:
            return []
        woken.acquire(timeout=pause)


def _release(lock: threading.Lock) -> None:
    with suppress(RuntimeError):  # it is released already
        lock.release()


def follow(database: Database, after: int, timeout_s: float | None) -> Iterator[Batch]:
    """Yield the batches above a high watermark, in their order. End when none came for the
    time-out."""
    while found := wait(database, after, timeout_s):
        for batch in found:
            assert batch.high_watermark is not None  # noqa: S101 - it is committed
            after = batch.high_watermark
            yield batch
