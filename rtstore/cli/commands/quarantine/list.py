"""`rtstore quarantine list`: lists the files in quarantine."""

from __future__ import annotations

from datetime import datetime

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, Wide
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_of, size
from rtstore.cli.snapshot import open_to_look
from rtstore.files.quarantine import is_gone, without_row
from rtstore.files.system import FileSystem
from rtstore.model.records import QuarantinedFile, Record
from rtstore.model.times import utc_now


class KeptFile(Record):
    """One file in quarantine."""

    file: QuarantinedFile
    age_seconds: float
    is_gone: bool
    """Somebody removed it, or a restore left it out: there is nothing to put back."""


class ListReport(Record):
    """What `rtstore quarantine list --json` prints."""

    directory: str
    team_name: str
    files: tuple[KeptFile, ...]
    unlisted: tuple[str, ...]
    """What lies in quarantine of which the database knows nothing."""


def run(directory: Directory, *, wide: Wide = False, as_json: AsJson = False) -> ExitCode:
    """List the files in quarantine, oldest first. Changes nothing.

    \b
    JSON: directory, teamName,
      files[] {file {quarantineNumber, schemaName, relativePath, quarantinePath, reason,
        contentHash, fileSize, quarantinedAt, planId, batchId, restoredAt}, ageSeconds,
        isGone},
      unlisted[] (paths of which the database knows nothing)
    """
    with open_to_look(directory) as store:
        team_name, found = store.team_name, store.quarantined_files()
    now, fs = utc_now(), FileSystem()
    report = ListReport(
        directory=str(directory),
        team_name=team_name,
        files=tuple(
            KeptFile(
                file=file,
                age_seconds=age_of(file.quarantined_at, now),
                is_gone=file.restored_at is None and is_gone(directory, file.quarantine_path, fs),
            )
            for file in found
        ),
        unlisted=tuple(without_row(directory, {file.quarantine_path for file in found}, fs)),
    )
    page = page_of(report, as_json=as_json, wide=wide)
    if not found and not report.unlisted:
        page.line("nothing is in quarantine")
    if found:
        _show(page, report, now)
    if report.unlisted:
        page.gap()
        page.line("of an earlier database or another program, and not known to this one:")
    for path in report.unlisted:
        page.line(path, indent=2)
    return ExitCode.READY


def _show(page: Page, report: ListReport, now: datetime) -> None:
    page.line(f"{count(len(report.files), 'file')} in quarantine, oldest first")
    page.gap()
    columns = [
        Column("number"),
        Column("file"),
        Column("why", 2, room=20, below=True),
        Column("kept", 1),
        Column("size", 3),
        Column("put back", 4),
        Column("kept at", 5),
    ]
    page.table(columns, [_row(kept, now) for kept in report.files])


def _row(kept: KeptFile, now: datetime) -> list[str | Cell]:
    file = kept.file
    return [
        str(file.quarantine_number),
        file.relative_path,
        file.reason,
        ago(file.quarantined_at, now),
        "-" if file.file_size is None else size(file.file_size),
        ago(file.restored_at, now) if file.restored_at else "-",
        Cell(f"gone: {file.quarantine_path}", "bad") if kept.is_gone else file.quarantine_path,
    ]
