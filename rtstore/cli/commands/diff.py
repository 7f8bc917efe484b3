"""`rtstore diff`: compares two versions of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.batches import at_cell
from rtstore.cli.completion import versions
from rtstore.cli.differences import show_differences
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, StoreName, Wide
from rtstore.cli.output import Page, page_of
from rtstore.cli.snapshot import open_to_look_at
from rtstore.cli.versions import AT, named, point_of
from rtstore.control.history import StoreVersion
from rtstore.errors import InvalidRequestError
from rtstore.history.versions import why_without_versions
from rtstore.model.differences import Difference
from rtstore.model.records import Record
from rtstore.model.times import format_time
from rtstore.store import RuntimeStore


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
        str | None,
        typer.Argument(
            metavar="[A]",
            autocompletion=versions,
            help=f"The older one: {AT}. Default: the version before the last one.",
        ),
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(metavar="[B]", autocompletion=versions, help="The newer one. Default: now."),
    ] = None,
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what differs between two versions of a store, value by value. Changes nothing.

    \b
    JSON: directory, schemaName, before and after (a version, as in "history"),
      differences[] {kind (added|removed|changed), path (a JSON Pointer), before, after}
    """
    with open_to_look_at(directory, store_name) as (store, name), named(a="A", b="B"):
        if a is None:
            found = store.diff(name, *_last_two(store, name))
        else:
            found = store.diff(
                name, point_of(store, a, "A"), None if b is None else point_of(store, b, "B")
            )
    report = DiffReport(directory=str(directory), **dict(found))
    _show_differences(page_of(report, as_json=as_json, wide=wide), report)
    return ExitCode.READY


def _last_two(store: RuntimeStore, name: str) -> list[str]:
    versions = store.history(name, limit=2)
    if len(versions) == 2:
        return [version.batch_id for version in versions]
    what = "one version of it is on record"
    if not versions:
        what = store.database.read(why_without_versions)
    raise InvalidRequestError("A", f"there is nothing to compare with: {what}", store=name)


def _show_differences(page: Page, report: DiffReport) -> None:
    page.facts(
        [
            ("Store", report.schema_name),
            ("From", _of(report.before)),
            ("To", _of(report.after)),
        ]
    )
    page.gap()
    show_differences(page, report.differences)


def _of(version: StoreVersion) -> str:
    at, when = at_cell(version.high_watermark), format_time(version.written_at)
    return f"{at} ({version.batch_id}), {'deleted' if version.is_deletion else 'of'} {when}"
