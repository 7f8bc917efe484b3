"""`rtstore history`: lists the versions of a store."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from rtstore.cli.batches import at_cell, id_column
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import NUMBER_MAX, AsJson, Directory, StoreName, Wide
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_of, size
from rtstore.cli.snapshot import open_to_look_at
from rtstore.control.history import StoreVersion
from rtstore.history.versions import why_without_versions
from rtstore.model.records import Record
from rtstore.model.times import format_time, utc_now


class VersionLine(Record):
    """One version of a store."""

    version: StoreVersion
    age_seconds: float


class HistoryReport(Record):
    """What `rtstore history --json` prints."""

    directory: str
    schema_name: str
    versions: tuple[VersionLine, ...]


def run(
    directory: Directory,
    store_name: StoreName,
    *,
    limit: Annotated[
        int,
        typer.Option(
            "-n", "--number", metavar="N", min=1, max=NUMBER_MAX, help="How many versions."
        ),
    ] = 20,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """List the committed versions of a store, newest first. Changes nothing.

    \b
    JSON: directory, schemaName,
      versions[] {version {batchNumber, batchId, highWatermark, reason, runId,
        capabilitySnapshotId, behaviorFingerprint, writtenAt, contentHash, fileSize, isCurrent,
        hasContent, isDeletion}, ageSeconds}
    """
    with open_to_look_at(directory, store_name) as (store, name):
        versions = store.history(name, limit=limit)
        why = "" if versions else store.database.read(why_without_versions)
    now = utc_now()
    report = HistoryReport(
        directory=str(directory),
        schema_name=name,
        versions=tuple(
            VersionLine(version=version, age_seconds=age_of(version.written_at, now))
            for version in reversed(versions)
        ),
    )
    _show_versions(page_of(report, as_json=as_json, wide=wide), report, why, now)
    return ExitCode.READY


def _show_versions(page: Page, report: HistoryReport, why: str, now: datetime) -> None:
    if not report.versions:
        page.line(f"{report.schema_name} has no version: {why}")
        return
    page.line(
        Cell(report.schema_name, "title"),
        f", {count(len(report.versions), 'version')}, newest first",
    )
    page.gap()
    columns = [
        Column("at"),
        Column("kept"),
        Column("age", 1),
        Column("reason", 3),
        Column("size", 4),
        Column("run", 6),
        Column("written", 5),
        id_column([line.version.high_watermark for line in report.versions]),
    ]
    page.table(columns, [_row(line.version, now) for line in report.versions])


def _row(version: StoreVersion, now: datetime) -> list[str | Cell]:
    if version.is_current:
        kept = Cell("current", "good")
    elif version.is_deletion:
        kept = Cell("deleted", "dim")
    else:
        kept = Cell("yes") if version.has_content else Cell("no", "dim")
    return [
        at_cell(version.high_watermark),
        kept,
        ago(version.written_at, now),
        version.reason,
        "-" if version.is_deletion else size(version.file_size),
        version.run_id or "-",
        format_time(version.written_at),
        version.batch_id,
    ]
