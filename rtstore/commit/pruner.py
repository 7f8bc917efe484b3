"""Prune history with the batches of one writer, in the transaction that completes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from rtstore.commit.flushing import FlushKnowledge
from rtstore.control import retention as pruning
from rtstore.control.contents import Retention
from rtstore.control.retention import Due, OldContents, Weighed
from rtstore.control.sqlite import idle, space
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error
from rtstore.model.records import Batch, LoggedBatch

_CONTENTS_AT_ONCE = 8
_BATCHES_AT_ONCE = 32
"""The most batches that pass before one prunes."""


class _Turn:
    """Counts batches until it is the turn to prune. At most an eighth too much history collects
    between two turns. Each of the first batches of a process prunes, since few may follow."""

    def __init__(self, limit: int | None, at_most: int) -> None:
        self._every = at_most if limit is None else max(1, min(at_most, limit // 8))
        self._first = self._every
        self._waiting = 0

    def pass_by(self, number: int) -> None:
        """Count batches that were written."""
        self._waiting += number
        self._first -= 1

    def take(self) -> int:
        """Return the number of batches since the last turn, if it is the turn now; else 0."""
        if self._waiting < self._every and self._first < 0:
            return 0
        waiting, self._waiting = self._waiting, 0
        return waiting


class PruneSchedule:
    """Decides which batches also prune history. Pruning several batches' worth at once touches the
    same pages and costs little more than pruning one, so most batches skip it.

    Age is checked with every batch: who sets `max_age` has a reason. Bytes are added up again only
    when a store may have an eighth too many; for a long history, some with each batch. The contents
    of no store have more bytes than `database_size` returns.
    """

    def __init__(self, retention: Retention, database_size: Callable[[], int]) -> None:
        self._contents = _Turn(retention.contents_per_store, _CONTENTS_AT_ONCE)
        limit = retention.batches if retention.max_age is None else 1
        self._batches = _Turn(limit, _BATCHES_AT_ONCE)
        self._bytes = retention.content_bytes and max(1, retention.content_bytes // 8)
        self._database_size = database_size
        self._names: list[str] = []
        self._unweighed: dict[str, int] = {}
        """By store: the bytes written since its contents were last weighed (added up), at most."""
        self._weighed: dict[str, Weighed] = {}
        """By store that may have too many bytes: how far its contents are weighed."""
        self._swept: dict[str, int] = {}
        """By store whose older contents are being thinned: where that continues."""

    def written(self, logged: Sequence[LoggedBatch]) -> Due | None:
        """Count batches that were written. Return what to prune with the last of them, or None when
        all of it can wait."""
        self._contents.pass_by(len(logged))
        self._batches.pass_by(len(logged))
        for item in logged:
            for write in item.writes:
                self._names.append(write.schema_name)
                if self._bytes is not None:
                    self._weigh(write.schema_name, write.file_size, self._bytes)
        batches = self._batches.take()
        if not self._contents.take() and not self._weighed:
            return Due(batches, (), {}) if batches else None
        due = Due(batches, self._names, dict(self._weighed), dict(self._swept))
        self._names = []
        return due

    def _weigh(self, name: str, size: int, too_much: int) -> None:
        known = self._unweighed.get(name)
        unweighed = size + (self._database_size() if known is None else known)
        if unweighed >= too_much and name not in self._weighed:
            self._weighed[name] = Weighed()
            unweighed = 0
        self._unweighed[name] = unweighed

    def pruned(self, old: OldContents) -> None:
        """Note that some contents of a store were dropped. The next batch continues the rest."""
        self._swept.pop(old.name, None)
        if old.swept is not None:
            self._swept[old.name] = old.swept
        if old.weighed is not None and (old.more or not old.weighed.is_done):
            self._weighed[old.name] = old.weighed
            return
        self._weighed.pop(old.name, None)
        if old.more and self._bytes is not None:
            self._unweighed[old.name] = self._bytes


class Pruner:
    """Drops history beyond a retention, some with each batch, in its write transaction."""

    def __init__(self, directory: Path, retention: Retention, fs: FileSystem) -> None:
        self.flushes = FlushKnowledge(directory, fs)
        self._retention = retention
        self._schedule = PruneSchedule(retention, partial(_size_of, directory / DATABASE_NAME))
        self._after = -1
        """Batches up to this number may not be forgotten yet; the next turn begins after them."""

    def prune(self, connection: Connection, logged: Sequence[LoggedBatch]) -> bool:
        """Drop history with batches that are being completed. Return whether it was their turn."""
        due = self._schedule.written(logged)
        if due is None:
            return False
        newest = logged[-1].batch
        number = newest.batch_number
        for old in pruning.contents_beyond(
            connection, self._retention, due, newest=number, now=newest.started_at
        ):
            may_forget = partial(self.flushes.may_forget, newest=number, store=old.name)
            gone = pruning.forgettable(connection, old.rows, may_forget)
            if gone:
                pruning.delete_contents(connection, old.name, gone)
            self._schedule.pruned(old)
        if due.batches:
            self._drop_batches(connection, due, newest)
        space.release_some_pages(connection)
        return True

    def _drop_batches(self, connection: Connection, due: Due, newest: Batch) -> None:
        number = newest.batch_number
        found = pruning.batches_beyond(
            connection,
            self._retention,
            due,
            newest=number,
            now=newest.started_at,
            after=self._after,
        )
        for numbers in (found.oldest, found.newly):
            gone = self.flushes.may_forget(connection, numbers, number)
            pruning.delete_batches(connection, gone)
        # Batches that must stay must not block the batches after them.
        self._after = -1 if found.last is None else found.last


def _size_of(database: Path) -> int:
    """Return the size in bytes of a database with its WAL; of one that is gone, more than any."""
    with suppress_system_error():
        return os.stat(database).st_size + idle.wal_size(database)
    return sys.maxsize
