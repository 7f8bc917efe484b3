"""`rtstore log`: lists the batches, newest first."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.batches import LoggedLine, show_batches
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import NUMBER_MAX, AsJson, Directory
from rtstore.cli.output import Page, age_of, count, page_of
from rtstore.cli.snapshot import open_to_look
from rtstore.cli.views import stores_of_batches
from rtstore.model.records import Record
from rtstore.model.times import utc_now


class LogReport(Record):
    """What `rtstore log --json` prints."""

    directory: str
    team_name: str
    high_watermark: int
    batches: tuple[LoggedLine, ...]


def run(
    directory: Directory,
    *,
    limit: Annotated[
        int,
        typer.Option(
            "-n", "--number", metavar="N", min=1, max=NUMBER_MAX, help="How many batches."
        ),
    ] = 20,
    as_json: AsJson = False,
) -> ExitCode:
    """List the batches, newest first. Changes nothing.

    \b
    JSON: directory, teamName, highWatermark,
      batches[] {batch {batchNumber, batchId, teamName, runId, capabilitySnapshotId,
        behaviorFingerprint, reason, state (preparing|committing|committed|failed),
        origin (written|imported), highWatermark, startedAt, completedAt, lastError,
        receipts[]}, stores[], ageSeconds}
    """
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
    _show(page_of(report, as_json=as_json), report)
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
