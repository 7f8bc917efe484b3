"""Prune all history beyond a retention in one call; batches prune a part at a time.

The call works in chunks. Each is a transaction of its own, flushed, under the writer lock, and
takes a fraction of a second. Between two chunks the lock is free long enough for a waiting writer
to get it. After an interruption, call it again: what was dropped is dropped, the rest is as before.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sqlalchemy import Connection

from rtstore.commit.publisher import Publisher
from rtstore.control import retention as pruning
from rtstore.control.contents import Retention
from rtstore.control.lock import POLL_INTERVAL_S_MAX, WriterLock
from rtstore.control.retention import Chunk, Excess, Limits
from rtstore.control.sqlite import space
from rtstore.control.sqlite.translation import is_full
from rtstore.errors import PruneStoppedError, RuntimeStoreError, StorageError
from rtstore.model.records import Record
from rtstore.model.times import Clock

logger = logging.getLogger("rtstore.history")

PruneProgress = Callable[[str, int, int], None]
"""Called with the step, the amount done, and the total."""

_PAUSE_S = 2 * POLL_INTERVAL_S_MAX
"""In seconds. A waiting writer tries the lock at least this often."""


_ROOM = 1 << 20
"""In bytes: what a chunk writes in addition to the contents that it drops."""


class PruneReport(Record):
    """The history that was dropped, or would be in a dry run."""

    retention: Retention
    dry_run: bool
    batches: int
    """Committed and failed batches, with their receipts."""
    contents: int
    """Committed contents, those of the dropped batches included."""
    content_bytes: int
    batches_held: int = 0
    """Batches beyond the retention that stay: the medium may hold what they wrote, because a store
    file could not be flushed, or holds an old version. A dry run flushes nothing, and finds none.
    """
    contents_held: int = 0
    """Contents beyond their limit that stay likewise."""
    batches_left: int
    contents_left: int
    database_bytes_before: int
    database_bytes_after: int | None
    """None in a dry run: the size is known only after the rows are dropped."""
    unreturnable_bytes: int = 0
    """What is free in the database and stays there, because another program turned `auto_vacuum`
    off; 0 in a dry run."""


def prune_history(
    publisher: Publisher,
    lock: WriterLock,
    retention: Retention,
    clock: Clock,
    *,
    dry_run: bool = False,
    progress: PruneProgress | None = None,
) -> PruneReport:
    """Drop the history beyond the retention, and return the space. See `RuntimeStore.prune`."""
    if dry_run:
        return publisher.database.read(lambda connection: _rehearse(connection, retention, clock))
    return _Pruning(publisher, lock, progress).run(retention, clock)


def _rehearse(connection: Connection, retention: Retention, clock: Clock) -> PruneReport:
    dropped = pruning.measure(connection, pruning.limits_of(connection, retention, clock()))
    there = pruning.total(connection)
    return PruneReport(
        retention=retention,
        dry_run=True,
        **dropped._asdict(),
        batches_left=there.batches - dropped.batches,
        contents_left=there.contents - dropped.contents,
        database_bytes_before=space.database_bytes(connection),
        database_bytes_after=None,
    )


class _Pruning:
    """One run, with the amount it has dropped so far."""

    def __init__(
        self, publisher: Publisher, lock: WriterLock, progress: PruneProgress | None
    ) -> None:
        self._publisher = publisher
        self._database = publisher.database
        self._lock = lock
        self._progress = progress
        self._dropped = Excess()
        self._held = {"batches": 0, "contents": 0}
        self._expected = Excess()
        self._at_once = pruning.BYTES_AT_ONCE

    def run(self, retention: Retention, clock: Clock) -> PruneReport:
        """Drop batches, then contents of the batches that stay; then release the space."""
        try:
            return self._run(retention, clock)
        except StorageError as error:
            if not is_full(error):
                raise
            raise PruneStoppedError(
                self._database.path,
                error.cause,
                batches=self._dropped.batches,
                contents=self._dropped.contents,
                room=self._room(),
            ) from error

    def _room(self) -> int:
        """Return about how many bytes it needs: the growth of the database by its WAL, and what
        dropping one row writes."""
        contents = max(1, self._expected.contents)
        return self._growth() + _ROOM + 2 * self._expected.content_bytes // contents

    def _growth(self) -> int:
        path = self._database.path
        return max(0, self._database.read(space.database_bytes) - os.stat(path).st_size)

    def _checkpoint_as_ever(self) -> None:
        with suppress(RuntimeStoreError):
            self._database.read_on_writer(space.checkpoint_as_ever)

    def _run(self, retention: Retention, clock: Clock) -> PruneReport:

        def look(connection: Connection) -> tuple[Limits, Excess, int]:
            limits = pruning.limits_of(connection, retention, clock())
            return limits, pruning.measure(connection, limits), space.database_bytes(connection)

        limits, self._expected, before = self._database.read(look)
        free = shutil.disk_usage(self._database.path.parent).free
        if free < self._growth() + 4 * pruning.BYTES_AT_ONCE:
            self._at_once = 1
        self._drop("batches", partial(self._drop_batches, limits=limits))
        for name in limits.kept:
            self._drop("contents", partial(self._drop_contents, name=name, limits=limits))
        self._release()
        there, after, unreturnable = self._database.read(
            lambda connection: (
                pruning.total(connection),
                space.database_bytes(connection),
                space.unreturnable_bytes(connection),
            )
        )
        logger.info("dropped %d batches and %d contents", *self._dropped[:2])
        return PruneReport(
            retention=retention,
            dry_run=False,
            **self._dropped._asdict(),
            batches_held=self._held["batches"],
            contents_held=self._held["contents"],
            batches_left=there.batches,
            contents_left=there.contents,
            database_bytes_before=before,
            database_bytes_after=after,
            unreturnable_bytes=unreturnable,
        )

    def _drop(self, step: str, chunk: Callable[[Connection, int], Chunk]) -> None:
        after = -1
        while True:
            with self._lock.hold():
                try:
                    with self._database.write(flush=True) as connection:
                        if self._is_tight:
                            space.checkpoint_at_once(connection)
                        found = chunk(connection, after)
                finally:
                    if self._is_tight:
                        self._checkpoint_as_ever()
            if found.last is None:
                return
            after = found.last
            self._dropped = self._dropped.plus(found.dropped)
            self._held[step] += found.held
            done, expected = self._dropped._asdict()[step], self._expected._asdict()[step]
            self._tell(step, done, max(done, expected))
            time.sleep(_PAUSE_S)

    @property
    def _is_tight(self) -> bool:
        """Whether the disk has so little room that rows are dropped one at a time. Deleted content
        may be overwritten with zeros, which go to the WAL first."""
        return self._at_once == 1

    def _drop_batches(self, connection: Connection, after: int, *, limits: Limits) -> Chunk:
        may_forget = partial(self._publisher.pruner.flushes.may_forget, newest=limits.newest)
        return pruning.drop_batches(connection, limits, after, may_forget, self._at_once)

    def _drop_contents(
        self, connection: Connection, after: int, *, name: str, limits: Limits
    ) -> Chunk:
        forget = self._publisher.pruner.flushes.may_forget
        may_forget = partial(forget, newest=limits.newest, store=name)
        return pruning.drop_contents(connection, name, limits, after, may_forget, self._at_once)

    def _release(self) -> None:
        free = self._database.read(space.free_pages)
        left = free
        while left:
            with self._lock.hold():
                before = left
                try:
                    with self._database.write(flush=True) as connection:
                        left = space.release_free_pages(connection)
                finally:
                    self._checkpoint_as_ever()
            self._tell("space", max(0, free - left), free)
            if left >= before:
                return  # between two chunks, writers free more than this releases
            time.sleep(_PAUSE_S)

    def _tell(self, step: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(step, done, total)
