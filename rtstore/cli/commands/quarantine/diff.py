"""`rtstore quarantine diff`: compares a quarantined file with what is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rtstore.cli.batches import at_cell
from rtstore.cli.differences import show_differences
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, Wide
from rtstore.cli.output import Cell, Page, page_of, when
from rtstore.cli.quarantine import QuarantineNumber, content_of, find_quarantined
from rtstore.cli.snapshot import open_to_look
from rtstore.errors import InvalidRequestError
from rtstore.history.reader import StoreContent
from rtstore.model.differences import Difference, differences
from rtstore.model.envelope import EnvelopeError, decode
from rtstore.model.records import QuarantinedFile, Record
from rtstore.model.times import utc_now
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


class QuarantineDiffReport(Record):
    """What `rtstore quarantine diff --json` prints."""

    directory: str
    file: QuarantinedFile
    high_watermark: int | None
    """Of the version that is committed now; None when none is, or an import does not know it."""
    note: str | None
    differences: tuple[Difference, ...]


def run(
    directory: Directory,
    number: QuarantineNumber,
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what one file in quarantine would change, value by value, were it put back and adopted.
    Changes nothing.

    \b
    JSON: directory, file (as in "quarantine list"), highWatermark (of what is committed now; or
      null), note or null (the file is not what was kept),
      differences[] (from what is committed to the file; as in "diff")
    """
    with open_to_look(directory) as store:
        file = find_quarantined(store, directory, number)
        committed = _committed(store, file)
    content, note = content_of(directory, file)
    data = _data(directory, file, content, note)
    report = QuarantineDiffReport(
        directory=str(directory),
        file=file,
        high_watermark=None if committed is None else committed.high_watermark,
        note=note,
        differences=differences(None if committed is None else committed.data, data),
    )
    _show(page_of(report, as_json=as_json, wide=wide), report, is_committed=committed is not None)
    return ExitCode.READY


def _committed(store: RuntimeStore, file: QuarantinedFile) -> StoreContent | None:
    """Return what is committed of the store whose file it was; None without one."""
    name = file.schema_name or ""
    if store.manifest().entry(name) is None:
        return None
    return store.read(name, verify=False)


def _data(directory: Path, file: QuarantinedFile, content: str | None, note: str | None) -> Any:
    """Return the data in a file. Raises `InvalidRequestError` for one that has none."""
    try:
        if content is not None:
            return decode(content.encode()).data
        problem = note or "it has no content"
    except EnvelopeError as error:
        problem = error.detail
    command = f"rtstore quarantine show {shell_word(directory)} {file.quarantine_number}"
    raise InvalidRequestError(
        "NUMBER", f"file {file.quarantine_number} cannot be compared: {problem}. Run: {command}"
    )


def _show(page: Page, report: QuarantineDiffReport, *, is_committed: bool) -> None:
    file, now = report.file, utc_now()
    at = f"high watermark {at_cell(report.high_watermark)}" if is_committed else "nothing"
    page.facts(
        [
            ("Store", file.schema_name or "-"),
            ("From", f"what is committed: {at}"),
            ("To", f"number {file.quarantine_number}, kept {when(file.quarantined_at, now)}"),
        ]
    )
    if report.note is not None:
        page.line(Cell(report.note, "warn"))
    page.gap()
    show_differences(page, report.differences)
