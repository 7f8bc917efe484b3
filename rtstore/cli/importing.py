"""`rtstore import`: takes over a directory of the file-only ancestor."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import check_directory
from rtstore.cli.output import Cell, Column, Page, count, page_for, print_json, when
from rtstore.legacy import ImportReport, OtherKind, StoreOutcome, import_directory
from rtstore.times import utc_now


def run(directory: Path, *, lock_timeout_s: float, as_json: bool) -> ExitCode:
    """Import a directory and say what became of every file in it."""
    check_directory(directory)
    report = import_directory(directory, lock_timeout_s=lock_timeout_s)
    if as_json:
        print_json(report)
    else:
        _show(page_for(), report, directory)
    return ExitCode.READY


def _show(page: Page, report: ImportReport, directory: Path) -> None:
    if report.changed:
        page.line(Cell("Imported", "good"), f" the runtime directory of team {report.team_name}")
    else:
        page.line("Imported before: everything was left as it was")
    states = ", ".join(f"{number} {state}" for state, number in report.batches.items() if number)
    page.facts(
        [
            ("Runtime directory", str(directory)),
            ("Team", report.team_name),
            ("Imported", when(report.imported_at, utc_now())),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
            ("Batches", f"{sum(report.batches.values())}: {states}" if states else "none"),
            ("Receipts", str(report.receipts)),
        ]
    )
    if report.stores:
        _show_stores(page, report)
    if report.control_files or report.other_files:
        _show_other_files(page, report)
    for note in report.notes:
        page.line(Cell("note: ", "warn"), note)
    page.title("Next")
    page.line(Cell(f"rtstore status {shlex.quote(str(directory))}", "title"), indent=2)
    for file in report.other_files:
        if file.kind is OtherKind.LANE:
            lane = shlex.quote(str(directory / file.path))
            page.line(Cell(f"rtstore import {lane}", "title"), indent=2)
            page.line("a lane is a runtime directory of its own", indent=6)


def _show_stores(page: Page, report: ImportReport) -> None:
    found = Counter(store.outcome for store in report.stores)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in found.items())
    page.title(f"{count(len(report.stores), 'store')}: {parts}")
    page.table(
        [Column("store"), Column("file", 2), Column("outcome"), Column("detail", 1)],
        [
            [
                store.schema_name if store.registered else f"{store.schema_name} (not registered)",
                store.relative_path,
                Cell(
                    store.outcome,
                    "good" if store.outcome is StoreOutcome.CONTENT_TAKEN else "warn",
                ),
                store.detail or "-",
            ]
            for store in report.stores
        ],
        indent=2,
    )


def _show_other_files(page: Page, report: ImportReport) -> None:
    left = count(len(report.other_files), "other file")
    page.title(f"{count(len(report.control_files), 'control file')} read, {left} left alone")
    for name in report.control_files:
        page.line(f"{name}  read", indent=2)
    for file in report.other_files:
        page.line(f"{file.path}  {file.kind}", indent=2)
