"""`rtstore export`: writes the control files of the legacy format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout, utf8
from rtstore.cli.output import Cell, Page, count, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_directory
from rtstore.legacy import ExportReport
from rtstore.model.records import BatchState
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


def run(
    directory: Directory,
    *,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DEST",
            callback=utf8,
            help="A new or empty directory, which gets the stores too. Default: DIR itself.",
        ),
    ] = None,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Write manifest and receipts in the legacy format, for a file-only runtime.

    What is in the way in DIR and says something else is kept in quarantine. "rtstore import" finds
    everything again; the history of contents, quarantine and recoveries stay in the database.

    \b
    JSON: directory, teamName, highWatermark, controlFiles[], stores (number),
      batches {STATE: number}, leftOut[], replaced[]
    """
    check_directory(directory)
    with (
        progress_bar(quiet=as_json, what="exporting"),
        RuntimeStore.open(
            directory,
            read_only=destination is not None,
            upgrade=False,
            lock_timeout_s=lock_timeout_s,
        ) as store,
    ):
        report = store.export(destination)
    _show(page_of(report, as_json=as_json), report)
    return ExitCode.READY


def _show(page: Page, report: ExportReport) -> None:
    page.line(Cell("Exported", "good"), f" the runtime directory of team {report.team_name}")
    aside = report.batches.get(BatchState.FAILED, 0)
    listed = sum(report.batches.values()) - aside
    page.facts(
        [
            ("Where", str(report.directory)),
            ("Written", ", ".join(report.control_files)),
            ("Stores", count(report.stores, "entry")),
            ("Batches", f"{listed} in the receipts, {aside} failed set aside"),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ]
    )
    for path in report.replaced:
        page.line(Cell("kept: ", "warn"), path)
    for store in report.left_out:
        page.line(Cell("left out: ", "warn"), f"{store}: its content is not in the database")
    page.title("Next")
    page.line("start the runtime that reads these files, and no other meanwhile", indent=2)
    back = f"rtstore import {shell_word(report.directory)}"
    page.line(Cell(back, "title"), " takes a directory without a database over again", indent=2)
