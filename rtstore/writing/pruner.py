"""History dropped with the batches of one writer, in the transaction that seals them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from rtstore.database import pruning
from rtstore.database.contents import Retention
from rtstore.database.pruning import Due, PruneSchedule
from rtstore.files.system import FileSystem
from rtstore.records import Batch, LoggedBatch
from rtstore.writing.flushing import FlushKnowledge


class Pruner:
    """Drops what is beyond a retention, some with each batch. The caller holds the writer lock."""

    def __init__(self, directory: Path, retention: Retention, fs: FileSystem) -> None:
        self.flushes = FlushKnowledge(directory, fs)
        self._retention = retention
        self._schedule = PruneSchedule(retention)
        self._after = -1
        """Batches up to this one may not be forgotten yet; they are asked again in the next round.
        """

    def prune(self, connection: Connection, logged: Sequence[LoggedBatch]) -> bool:
        """Drop history with batches that are being sealed; returns whether it was their turn."""
        self._schedule.written(logged)
        due = self._schedule.due()
        if due is None:
            return False
        for old in pruning.contents_beyond(connection, self._retention, due):
            pruning.delete_contents(connection, old.name, old.rows)
            if old.more:
                self._schedule.more_of(old.name)
        self._drop_batches(connection, due, logged[-1].batch)
        pruning.release_some_pages(connection)
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
        gone = self.flushes.may_forget(connection, found, number)
        pruning.delete_batches(connection, gone)
        # What is held must not keep the turn from what comes after it.
        self._after = found[-1] if len(gone) < len(found) else self._after if found else -1
