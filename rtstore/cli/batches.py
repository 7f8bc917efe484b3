"""Shows batches in a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rtstore.cli.output import Cell, Column, Page, ago
from rtstore.model.records import OPEN_STATES, Batch, BatchState, Record
from rtstore.model.times import format_time


class LoggedLine(Record):
    """One batch of the log."""

    batch: Batch
    stores: tuple[str, ...]
    """What it writes, in the order of publication; a batch that was imported may not say."""
    age_seconds: float
    """Since it was started."""


def show_batches(page: Page, lines: Sequence[LoggedLine], now: datetime) -> None:
    """Print the table of batches."""
    columns = [
        Column("batch"),
        Column("state"),
        Column("reason"),
        Column("started", 2),
        Column("age", 1),
        Column("run", 4),
        Column("stores", 3),
        Column("error", 5),
    ]
    page.table(
        columns,
        [
            [
                line.batch.batch_id,
                state_cell(line.batch),
                line.batch.reason,
                format_time(line.batch.started_at),
                ago(line.batch.started_at, now),
                line.batch.run_id or "-",
                ", ".join(line.stores) or "-",
                line.batch.last_error or "-",
            ]
            for line in lines
        ],
    )


def state_cell(batch: Batch) -> Cell:
    """Return the state of a batch, in its colour."""
    if batch.state is BatchState.COMMITTED:
        return Cell(batch.state, "good")
    return Cell(batch.state, "warn" if batch.state in OPEN_STATES else "bad")
