"""`rtstore quarantine list`, `show`, `restore`, `prune`: the quarantined files."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import Verdict, check_directory, look_at, open_to_look
from rtstore.cli.output import (
    Cell,
    Column,
    age_of,
    ago,
    count,
    page_for,
    print_json,
    size,
    when,
)
from rtstore.cli.status import readiness_cell, show_next
from rtstore.errors import InvalidRequestError, UnsafePathError
from rtstore.files.quarantine import is_gone, quarantined_path
from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
from rtstore.model.records import QuarantinedFile, Record
from rtstore.model.times import utc_now
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


class KeptFile(Record):
    """One file in quarantine."""

    file: QuarantinedFile
    age_seconds: float
    is_gone: bool
    """Somebody removed it: there is nothing to put back."""


class ListReport(Record):
    """What `rtstore quarantine list --json` prints."""

    directory: str
    team_name: str
    files: tuple[KeptFile, ...]


class ShowReport(Record):
    """What `rtstore quarantine show --json` prints."""

    directory: str
    file: QuarantinedFile
    content: str | None
    note: str | None


class RestoreReport(Record):
    """What `rtstore quarantine restore --json` prints."""

    directory: str
    file: QuarantinedFile
    verdict: Verdict
    next: tuple[NextStep, ...]


class DropReport(Record):
    """What `rtstore quarantine prune --json` prints."""

    directory: str
    dry_run: bool
    files: tuple[QuarantinedFile, ...]
    bytes: int


def list_files(directory: Path, *, as_json: bool) -> ExitCode:
    """Print the files in quarantine. Changes nothing."""
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
    )
    if as_json:
        print_json(report)
        return ExitCode.READY
    page = page_for()
    if not found:
        page.line("nothing is in quarantine")
        return ExitCode.READY
    page.line(f"{count(len(found), 'file')} in quarantine, oldest first")
    page.gap()
    columns = [
        Column("number"),
        Column("file"),
        Column("why", 1),
        Column("kept", 2),
        Column("size", 3),
        Column("put back", 4),
        Column("kept at", 5),
    ]
    page.table(columns, [_row(kept, now) for kept in report.files])
    return ExitCode.READY


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


def show(directory: Path, number: int, *, as_json: bool) -> ExitCode:
    """Print one file in quarantine with its content. Changes nothing."""
    with open_to_look(directory) as store:
        file = _find(store, directory, number)
    content, note = _content(directory, file)
    report = ShowReport(directory=str(directory), file=file, content=content, note=note)
    if as_json:
        print_json(report)
        return ExitCode.READY
    now, page = utc_now(), page_for()
    page.facts(
        [
            ("Number", str(number)),
            ("Store", file.schema_name or "-"),
            ("Was at", file.relative_path),
            ("Is at", file.quarantine_path),
            ("Why", file.reason),
            ("Kept", when(file.quarantined_at, now)),
            ("Put back", when(file.restored_at, now) if file.restored_at else "never"),
        ]
    )
    if note is not None:
        page.line(Cell(note, "warn"))
    if content is not None:
        page.gap()
        for line in content.splitlines():
            page.line(line)
    return ExitCode.READY


def restore(directory: Path, number: int, *, lock_timeout_s: float, as_json: bool) -> ExitCode:
    """Put one file back at its original path, and print the new verdict and the next steps.

    Opens the store with `recover=False`, so that nothing else changes.
    """
    check_directory(directory)
    with open_to_look(directory) as store:  # nothing is made for a wrong call
        _find(store, directory, number)
    with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
        file = store.restore_quarantined(number)
        look = look_at(store)
    report = RestoreReport(
        directory=str(directory), file=file, verdict=look.verdict, next=look.next
    )
    if as_json:
        print_json(report)
        return ExitCode.READY
    page = page_for()
    page.facts(
        [("Put back", Cell(file.relative_path, "good")), ("Readiness", readiness_cell(look))]
    )
    show_next(page, look)
    return ExitCode.READY


def prune(
    directory: Path, *, days: float, dry_run: bool, lock_timeout_s: float, as_json: bool
) -> ExitCode:
    """Delete old quarantined files, or list what would be deleted."""
    check_directory(directory)
    older_than = timedelta(days=days)
    if dry_run:
        with open_to_look(directory) as store:
            dropped = store.prune_quarantine(older_than=older_than, dry_run=True)
    else:
        with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
            dropped = store.prune_quarantine(older_than=older_than)
    total = sum(file.file_size or 0 for file in dropped)
    report = DropReport(directory=str(directory), dry_run=dry_run, files=dropped, bytes=total)
    if as_json:
        print_json(report)
        return ExitCode.READY
    page = page_for()
    what = "would be dropped from quarantine" if dry_run else "dropped from quarantine"
    page.line(f"{count(len(dropped), 'file')} {what}, {size(total)}")
    for file in dropped if dry_run else ():
        page.line(f"  {file.quarantine_number}  {file.quarantine_path}")
    return ExitCode.READY


def _find(store: RuntimeStore, directory: Path, number: int) -> QuarantinedFile:
    for file in store.quarantined_files():
        if file.quarantine_number == number:
            return file
    raise InvalidRequestError(
        "NUMBER",
        f"there is no quarantined file {number}. Run: rtstore quarantine list "
        f"{shell_word(directory)}",
    )


def _content(directory: Path, file: QuarantinedFile) -> tuple[str | None, str | None]:
    """Return the content as text, and what is wrong with it, if anything."""
    if file.content_hash is None:
        return None, "it was no regular file, and was moved as it was"
    try:
        content, _ = FileSystem().read(quarantined_path(directory, file.quarantine_path))
    except UnsafePathError as error:
        return None, f"its row was changed: {error}"
    except OSError as error:
        return None, f"it cannot be read: {error}"
    note = None
    if content_hash(content) != file.content_hash:
        note = "it was changed since it was kept"
    return content.decode("utf-8", "backslashreplace"), note
