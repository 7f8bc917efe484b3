"""`rtstore diff`: compares two versions of a store."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rtstore.cli.completion import versions
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, StoreName
from rtstore.cli.output import Cell, Page, page_of
from rtstore.cli.snapshot import open_to_look, schema_name_of
from rtstore.cli.versions import AT, point_of
from rtstore.control.history import StoreVersion
from rtstore.model.differences import Difference, DifferenceKind
from rtstore.model.records import Record
from rtstore.model.times import format_time

_SIGNS = {
    DifferenceKind.ADDED: ("+", "good"),
    DifferenceKind.REMOVED: ("-", "bad"),
    DifferenceKind.CHANGED: ("~", "warn"),
}


class DiffReport(Record):
    """What `rtstore diff --json` prints."""

    directory: str
    schema_name: str
    before: StoreVersion
    after: StoreVersion
    differences: tuple[Difference, ...]


def run(
    directory: Directory,
    store_name: StoreName,
    a: Annotated[
        str,
        typer.Argument(metavar="A", autocompletion=versions, help=f"The older one: {AT}."),
    ],
    b: Annotated[
        str | None,
        typer.Argument(metavar="[B]", autocompletion=versions, help="The newer one. Default: now."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what differs between two versions of a store, value by value. Changes nothing.

    \b
    JSON: directory, schemaName, before and after (a version, as in "history"),
      differences[] {kind (added|removed|changed), path (a JSON Pointer), before, after}
    """
    with open_to_look(directory) as store:
        name = schema_name_of(store, store_name)
        found = store.diff(name, point_of(a), None if b is None else point_of(b))
    report = DiffReport(directory=str(directory), **dict(found))
    _show_differences(page_of(report, as_json=as_json), report)
    return ExitCode.READY


def _show_differences(page: Page, report: DiffReport) -> None:
    page.facts(
        [
            ("Store", report.schema_name),
            ("From", _of(report.before)),
            ("To", _of(report.after)),
        ]
    )
    page.gap()
    if not report.differences:
        page.line("no difference")
    for found in report.differences:
        sign, tone = _SIGNS[found.kind]
        page.line(Cell(f"{sign} {found.path or '(all of it)'}", tone))
        if found.kind is not DifferenceKind.ADDED:
            page.line(Cell(f"- {_value(found.before)}", "bad"), indent=4)
        if found.kind is not DifferenceKind.REMOVED:
            page.line(Cell(f"+ {_value(found.after)}", "good"), indent=4)


def _of(version: StoreVersion) -> str:
    return f"{version.batch_id}, of {format_time(version.written_at)}"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
