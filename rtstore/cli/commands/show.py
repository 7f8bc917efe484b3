"""`rtstore show`: shows what a store holds, or held."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from rtstore.cli.batches import at_cell
from rtstore.cli.completion import versions
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, StoreName, Wide
from rtstore.cli.output import Cell, Page, page_for, page_of
from rtstore.cli.snapshot import open_to_look_at
from rtstore.cli.versions import AT, named, point_of
from rtstore.errors import BatchUnfinishedError, NotARuntimeDirectoryError, StoreFileChangedError
from rtstore.history.reader import StoreContent
from rtstore.model.records import Record
from rtstore.model.times import format_time
from rtstore.store import RuntimeStore


class ShowReport(Record):
    """What `rtstore show --json` prints."""

    directory: str
    content: StoreContent
    note: str | None
    """Why the file is not what is shown."""


def run(
    directory: Directory,
    store_name: StoreName,
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="AT", autocompletion=versions, help=f"As of {AT}."),
    ] = None,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what is committed for a store, now or as of an earlier batch. Changes nothing.

    Where standard output is no terminal, it is the data itself, as JSON; a note on it goes to
    standard error.

    \b
    JSON: directory, note or null,
      content {schemaName, schemaVersion, data, updatedAt, contentHash, batchId, highWatermark,
        runId, capabilitySnapshotId, behaviorFingerprint}
    """
    with open_to_look_at(directory, store_name) as (store, name):
        note = None
        if at is None:
            content = store.read(name, verify=False)
            note = _about_the_file(store, name)
        else:
            with named(at="--at"):
                content = store.read(name, at=point_of(store, at))
    report = ShowReport(directory=str(directory), content=content, note=note)
    if as_json or sys.stdout.isatty():
        _show_content(page_of(report, as_json=as_json, wide=wide), report)
    else:
        _print_data(report)
    return ExitCode.READY


def _about_the_file(store: RuntimeStore, name: str) -> str | None:
    try:
        store.read(name)
    except (StoreFileChangedError, BatchUnfinishedError, NotARuntimeDirectoryError) as error:
        return str(error)
    return None


def _print_data(report: ShowReport) -> None:
    if report.note is not None:
        page_for(sys.stderr).line(f"rtstore: {report.note}")
    for line in _json_lines(report):
        sys.stdout.write(line + "\n")


def _json_lines(report: ShowReport) -> list[str]:
    return json.dumps(report.content.data, indent=2, ensure_ascii=False).splitlines()


def _show_content(page: Page, report: ShowReport) -> None:
    content = report.content
    page.facts(
        [
            ("Store", content.schema_name),
            ("High watermark", at_cell(content.high_watermark)),
            ("Written", f"{format_time(content.updated_at)} in batch {content.batch_id}"),
            ("Run", content.run_id or "-"),
            ("Schema version", str(content.schema_version)),
        ]
    )
    if report.note is not None:
        page.line(Cell(report.note, "warn"))
    page.gap()
    for line in _json_lines(report):
        page.exact(line)
