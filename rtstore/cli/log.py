"""`rtstore log`: lists the batches, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import open_to_look
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_for, print_json
from rtstore.cli.views import stores_of_batches
from rtstore.model.records import OPEN_STATES, Batch, BatchState, Record
from rtstore.model.times import format_time, utc_now


class LoggedLine(Record):
    """One batch of the log."""

    batch: Batch
    stores: tuple[str, ...]
    """What it writes, in the order of publication; a batch that was imported may not say."""
    age_seconds: float
    """Since it was started."""


class LogReport(Record):
    """What `rtstore log --json` prints."""

    directory: str
    team_name: str
    high_watermark: int
    batches: tuple[LoggedLine, ...]


def run(directory: Path, *, limit: int, as_json: bool) -> ExitCode:
    """Print the newest batches. Changes nothing."""
    with open_to_look(directory) as store:
        batches = store.batches(limit=limit)
        # Asked for after the batches, so with room for those that were written in between.
        stores = stores_of_batches(store, limit + 100)
        high_watermark = store.manifest().high_watermark
        team_name = store.team_name
    now = utc_now()
    report = LogReport(
        directory=str(directory),
        team_name=team_name,
        high_watermark=high_watermark,
        batches=tuple(
            LoggedLine(
                batch=batch,
                stores=stores.get(batch.batch_id, ()),
                age_seconds=age_of(batch.started_at, now),
            )
            for batch in reversed(batches)
        ),
    )
    if as_json:
        print_json(report)
    else:
        _show(page_for(), report)
    return ExitCode.READY


def _show(page: Page, report: LogReport) -> None:
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ]
    )
    page.gap()
    if not report.batches:
        page.line("no batch was written yet")
        return
    show_batches(page, report.batches, utc_now())


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
