"""`rtstore log`: lists the batches, newest first."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, TypedDict

import typer

from rtstore.cli.batches import LoggedLine, show_batches
from rtstore.cli.completion import known_runs, stores
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import NUMBER_MAX, AsJson, Directory, Wide
from rtstore.cli.output import Page, age_of, count, page_of
from rtstore.cli.snapshot import name_on_record, open_to_look
from rtstore.cli.versions import AT, named, point_of, run_of
from rtstore.cli.views import Wanted, log_of
from rtstore.control.history import point_of_time
from rtstore.history.versions import find_point
from rtstore.model.records import Record
from rtstore.model.times import format_time, utc_now
from rtstore.store import RuntimeStore


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
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="RUN",
            autocompletion=known_runs,
            help="Of this run only; its id may be shortened.",
        ),
    ] = None,
    store_name: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="STORE",
            autocompletion=stores,
            help="Only those that write this store, by its name or by its file.",
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="AT", help=f"Only those after {AT}.")
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """List the batches, newest first. Changes nothing.

    AT is the high watermark, which every option takes that looks back; an open or failed batch has
    none.

    \b
    JSON: directory, teamName, highWatermark,
      batches[] {batch {batchNumber, batchId, teamName, runId, capabilitySnapshotId,
        behaviorFingerprint, reason, state (preparing|committing|committed|failed),
        origin (written|imported), highWatermark, startedAt, completedAt, lastError,
        receipts[], deletions[] {receiptId, batchId, schemaName, schemaVersion, relativePath,
          contentHash, deletedAt}}, stores[], ageSeconds}
    """
    with open_to_look(directory) as store:
        wanted = Wanted(
            run_id=None if run_id is None else run_of(store, run_id),
            schema_name=None if store_name is None else name_on_record(store, store_name),
            **_after(store, since),
        )
        found = log_of(store, wanted, limit)
        high_watermark = store.manifest().high_watermark
        team_name = store.team_name
    now = utc_now()
    report = LogReport(
        directory=str(directory),
        team_name=team_name,
        high_watermark=high_watermark,
        batches=tuple(
            LoggedLine(batch=batch, stores=names, age_seconds=age_of(batch.started_at, now))
            for batch, names in found
        ),
    )
    _show(page_of(report, as_json=as_json, wide=wide), report, now, is_filtered=wanted != Wanted())
    return ExitCode.READY


class _After(TypedDict, total=False):
    since: str
    after: int


def _after(store: RuntimeStore, since: str | None) -> _After:
    """Return what `Wanted` says of a point in time."""
    if since is None:
        return {}
    at = point_of(store, since, "--since")
    if isinstance(at, datetime):
        moment = format_time(at)
        point = store.database.read(partial(point_of_time, moment=moment))
        # Those before it may have a later time: of a clock that was ahead.
        return {"since": moment, "after": 0 if point is None else point.batch_number}
    if at == 0:
        return {"after": 0}
    with named(at="--since"):
        point = store.database.read(lambda found: find_point(found, None, at))
    return {"after": point.batch_number}


def _show(page: Page, report: LogReport, now: datetime, *, is_filtered: bool) -> None:
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ]
    )
    page.gap()
    if not report.batches:
        page.line("no such batch is on record" if is_filtered else "no batch was written yet")
        return
    show_batches(page, report.batches, now)
