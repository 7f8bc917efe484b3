"""`rtstore history`, `show`, `diff`, `revert`: earlier contents of a store."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import check_directory, open_to_look, schema_name_of
from rtstore.cli.options import ready_to_type
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_for, print_json, size
from rtstore.control.history import StoreVersion
from rtstore.errors import (
    BatchUnfinishedError,
    InvalidRequestError,
    NotARuntimeDirectoryError,
    StoreFileChangedError,
)
from rtstore.history.reader import StoreContent
from rtstore.history.versions import At
from rtstore.model.differences import Difference, DifferenceKind
from rtstore.model.records import Batch, Record
from rtstore.model.times import format_time, utc_now
from rtstore.store import RuntimeStore

_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]|$)")
_SIGNS = {
    DifferenceKind.ADDED: ("+", "good"),
    DifferenceKind.REMOVED: ("-", "bad"),
    DifferenceKind.CHANGED: ("~", "warn"),
}


class VersionLine(Record):
    """One version of a store."""

    version: StoreVersion
    age_seconds: float


class HistoryReport(Record):
    """What `rtstore history --json` prints."""

    directory: str
    schema_name: str
    versions: tuple[VersionLine, ...]


class ShowReport(Record):
    """What `rtstore show --json` prints."""

    directory: str
    content: StoreContent
    note: str | None
    """Why the file is not what is shown."""


class DiffReport(Record):
    """What `rtstore diff --json` prints."""

    directory: str
    schema_name: str
    before: StoreVersion
    after: StoreVersion
    differences: tuple[Difference, ...]


class RevertReport(Record):
    """What `rtstore revert --json` prints."""

    directory: str
    schema_name: str
    to: str
    batch: Batch


def list_versions(directory: Path, store_name: str, *, limit: int, as_json: bool) -> ExitCode:
    """Print the newest versions of a store; changes nothing."""
    with open_to_look(directory) as store:
        name = schema_name_of(store, store_name)
        versions = store.history(name, limit=limit)
    now = utc_now()
    report = HistoryReport(
        directory=str(directory),
        schema_name=name,
        versions=tuple(
            VersionLine(version=version, age_seconds=age_of(version.written_at, now))
            for version in reversed(versions)
        ),
    )
    if as_json:
        print_json(report)
    else:
        _show_versions(page_for(), report, now)
    return ExitCode.READY


def show(directory: Path, store_name: str, at: str | None, *, as_json: bool) -> ExitCode:
    """Print the content of a store, now or at an earlier time. Changes nothing."""
    with open_to_look(directory) as store:
        name = schema_name_of(store, store_name)
        note = None
        if at is None:
            content = store.read(name, verify=False)
            note = _about_the_file(store, name)
            note = note and ready_to_type(note, directory, name)
        else:
            content = store.read(name, at=_point(at))
    report = ShowReport(directory=str(directory), content=content, note=note)
    if as_json:
        print_json(report)
    else:
        _show_content(page_for(), report)
    return ExitCode.READY


def diff(directory: Path, store_name: str, a: str, b: str | None, *, as_json: bool) -> ExitCode:
    """Print the differences between two versions of a store. Changes nothing."""
    with open_to_look(directory) as store:
        name = schema_name_of(store, store_name)
        found = store.diff(name, _point(a), None if b is None else _point(b))
    report = DiffReport(directory=str(directory), **dict(found))
    if as_json:
        print_json(report)
    else:
        _show_differences(page_for(), report)
    return ExitCode.READY


def revert(
    directory: Path, store_name: str, to: str, *, lock_timeout_s: float, as_json: bool
) -> ExitCode:
    """Write an earlier version of a store again, and print the batch."""
    check_directory(directory)
    with open_to_look(directory) as store:  # nothing is made or recovered for a wrong call
        name = schema_name_of(store, store_name)
        version = store.read(name, at=_point(to))
    with RuntimeStore.open(directory, lock_timeout_s=lock_timeout_s) as store:
        batch = store.revert(name, to=version.batch_id)
    report = RevertReport(
        directory=str(directory), schema_name=name, to=version.batch_id, batch=batch
    )
    if as_json:
        print_json(report)
        return ExitCode.READY
    page = page_for()
    page.facts(
        [
            ("Store", name),
            ("Is again as of", f"{version.batch_id}, of {format_time(version.updated_at)}"),
            ("Written in batch", Cell(batch.batch_id, "good")),
            ("High watermark", str(batch.high_watermark)),
        ]
    )
    return ExitCode.READY


# --- what was asked for -------------------------------------------------------------------------


def _point(text: str) -> At:
    """Parse a point in time. Digits alone are a high watermark. A text that begins like a date is a
    time (UTC, unless it names another zone). Everything else is a batch id."""
    if text.isascii() and text.isdigit():
        return int(text)
    if not _TIME.match(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError("at", f"{text!r} is no time: {error}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _about_the_file(store: RuntimeStore, name: str) -> str | None:
    try:
        store.read(name)
    except (StoreFileChangedError, BatchUnfinishedError, NotARuntimeDirectoryError) as error:
        return str(error)
    return None


# --- for people ---------------------------------------------------------------------------------


def _show_versions(page: Page, report: HistoryReport, now: datetime) -> None:
    if not report.versions:
        page.line(f"{report.schema_name} was never written in a batch")
        return
    page.line(
        Cell(report.schema_name, "title"),
        f", {count(len(report.versions), 'version')}, newest first",
    )
    page.gap()
    columns = [
        Column("batch"),
        Column("watermark", 2),
        Column("reason", 1),
        Column("written", 3),
        Column("age", 1),
        Column("size", 2),
        Column("run", 4),
        Column("kept"),
    ]
    page.table(columns, [_row(line.version, now) for line in report.versions])


def _row(version: StoreVersion, now: datetime) -> list[str | Cell]:
    if version.is_current:
        kept = Cell("current", "good")
    else:
        kept = Cell("yes") if version.has_content else Cell("no", "dim")
    return [
        version.batch_id,
        "-" if version.high_watermark is None else str(version.high_watermark),
        version.reason,
        format_time(version.written_at),
        ago(version.written_at, now),
        size(version.file_size),
        version.run_id or "-",
        kept,
    ]


def _show_content(page: Page, report: ShowReport) -> None:
    content = report.content
    page.facts(
        [
            ("Store", content.schema_name),
            ("Written", f"{format_time(content.updated_at)} in batch {content.batch_id}"),
            ("Run", content.run_id or "-"),
            ("Schema version", str(content.schema_version)),
        ]
    )
    if report.note is not None:
        page.line(Cell(report.note, "warn"))
    page.gap()
    for line in json.dumps(content.data, indent=2, ensure_ascii=False).splitlines():
        page.line(line)


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
