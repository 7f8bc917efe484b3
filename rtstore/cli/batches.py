"""Shows batches in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rtstore.cli.output import Cell, Column, Page, ago
from rtstore.model.records import OPEN_STATES, Batch, BatchState, Record
from rtstore.model.times import format_time


class LoggedLine(Record):
    """One batch of the log."""

    batch: Batch
    stores: tuple[str, ...]
    """What it writes and deletes, in the order of publication; a batch that was imported may not
    say."""
    age_seconds: float
    """Since it was started."""


def show_batches(page: Page, lines: Sequence[LoggedLine], now: datetime) -> None:
    """Print the table of batches."""
    columns = [
        Column("at"),
        Column("state"),
        Column("age", 1),
        Column("reason", 3),
        Column("stores", 4, room=1),
        Column("run", 6),
        Column("started", 7),
        id_column([line.batch.high_watermark for line in lines]),
        Column("error", 5, room=20, below=True),
    ]
    page.table(
        columns,
        [
            [
                at_cell(line.batch.high_watermark),
                state_cell(line.batch),
                ago(line.batch.started_at, now),
                line.batch.reason,
                page.names(_names(line)),
                line.batch.run_id or "-",
                format_time(line.batch.started_at),
                line.batch.batch_id,
                line.batch.last_error or "-",
            ]
            for line in lines
        ],
    )


def _names(line: LoggedLine) -> list[str]:
    """Return the stores of a batch, those marked that it deleted."""
    deleted = {deletion.schema_name for deletion in line.batch.deletions}
    return [f"{name} (deleted)" if name in deleted else name for name in line.stores]


def at_cell(high_watermark: int | None) -> str:
    """Return the high watermark of a batch, which is what `--at` takes; `-` without one."""
    return "-" if high_watermark is None else str(high_watermark)


def id_column(high_watermarks: Iterable[int | None]) -> Column:
    """Return the column of batch ids. It stays where a batch has nothing else to be named by."""
    return Column("batch", 2 if None in high_watermarks else 8)


def state_cell(batch: Batch) -> Cell:
    """Return the state of a batch, in its colour."""
    if batch.state is BatchState.COMMITTED:
        return Cell(batch.state, "good")
    return Cell(batch.state, "warn" if batch.state in OPEN_STATES else "bad")
