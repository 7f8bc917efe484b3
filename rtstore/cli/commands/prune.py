"""`rtstore prune`: drops the history beyond a retention, and prints what was dropped.

Limits that are given apply to this call only. Without any, the saved retention of the directory
applies.
"""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.limits import days_of, in_words, limits_of
from rtstore.cli.options import LOCK_TIMEOUT_S, NUMBER_MAX, AsJson, Directory, DryRun, LockTimeout
from rtstore.cli.output import Cell, Page, count, page_of, size
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_may_write, open_to_look
from rtstore.control.contents import Retention
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import InvalidRequestError
from rtstore.history.prune import PruneReport
from rtstore.maintenance.growth import space_returning
from rtstore.model.records import Record
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore

_DAYS_MAX = 36_500
_SECOND = 1 / 86_400


class PruneDocument(Record):
    """What `rtstore prune --json` prints."""

    directory: str
    team_name: str
    dry_run: bool
    keeps_batches: int | None
    keeps_contents_per_store: int | None
    keeps_content_bytes: int | None
    keeps_days: float | None
    thins_by_age: bool
    batches: int
    contents: int
    content_bytes: int
    batches_held: int
    contents_held: int
    batches_left: int
    contents_left: int
    database_bytes_before: int
    database_bytes_after: int | None
    unreturnable_bytes: int
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    *,
    batches: Annotated[
        int | None,
        typer.Option(
            "--batches", metavar="N", min=1, max=NUMBER_MAX, help="Keep at most so many batches."
        ),
    ] = None,
    contents: Annotated[
        int | None,
        typer.Option(
            "--contents",
            metavar="N",
            min=1,
            max=NUMBER_MAX,
            help="Keep at most so many contents of each store.",
        ),
    ] = None,
    mib: Annotated[
        int | None,
        typer.Option(
            "--mib",
            metavar="N",
            min=1,
            max=NUMBER_MAX >> 20,
            help="Keep at most so many MiB of the contents of each store.",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", metavar="N", help="Keep nothing that ended longer ago."),
    ] = None,
    thin: Annotated[
        bool,
        typer.Option(
            "--thin",
            help="Of each store, keep one content an hour of the last day, and one a day before.",
        ),
    ] = False,
    dry_run: DryRun = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Drop the history beyond what is to be kept, and return the space to the file system.

    What is committed now, open batches and the newest batch stay, whatever the limits; so does
    quarantine. Without a limit, what the directory keeps anyway is kept; limits count this once,
    and are not remembered. With --thin, all of the last hour stays; --batches and --contents count
    what is newer than what is thinned, and --mib and --days count all.
    Writers go on meanwhile; stopped half-way, run it again.

    \b
    JSON: directory, teamName, dryRun, keepsBatches, keepsContentsPerStore, keepsContentBytes,
      keepsDays (each or null: no limit), thinsByAge, batches, contents, contentBytes (what was
      dropped, or would be), batchesHeld, contentsHeld (beyond the limits, but not dropped: a store
      file could not be flushed, or holds an old version; 0 in a dry run), batchesLeft,
      contentsLeft, databaseBytesBefore, databaseBytesAfter (null in a dry run),
      unreturnableBytes (free in the database, which cannot give them back: auto_vacuum is off),
      next[] {command, why}
    """
    retention = _retention(batches, contents, mib, days, thin=thin)
    check_may_write(directory)
    with open_to_look(directory) as store:  # nothing is recovered or dropped for a wrong call
        team_name = store.team_name
        if dry_run:
            with progress_bar(quiet=as_json, what="counting"):
                report = store.prune(retention, dry_run=True)
    if not dry_run:
        with (
            RuntimeStore.open(directory, lock_timeout_s=lock_timeout_s) as store,
            progress_bar(quiet=as_json) as bar,
        ):
            report = store.prune(retention, progress=bar)
    next_steps = []
    if dry_run and report.batches + report.contents:
        next_steps.append(NextStep(command=_command(directory, retention), why="drops it"))
    if report.batches_held + report.contents_held:
        doctor = f"rtstore doctor {shell_word(directory)}"
        why = "says what is wrong with the files; what is held goes with a pruning after that"
        next_steps.append(NextStep(command=doctor, why=why))
    if report.unreturnable_bytes:
        way = space_returning(directory / DATABASE_NAME)
        next_steps.append(NextStep(command=way.command, why=way.why))
    document = _document(directory, team_name, report, tuple(next_steps))
    _show(page_of(document, as_json=as_json), document, report.retention)
    return ExitCode.READY


def _retention(
    batches: int | None,
    contents: int | None,
    mib: int | None,
    days: float | None,
    *,
    thin: bool,
) -> Retention | None:
    """Return the given limits as a retention, or None when none is given."""
    if (batches, contents, mib, days, thin) == (None, None, None, None, False):
        return None
    if days is not None and not (math.isfinite(days) and _SECOND <= days <= _DAYS_MAX):
        raise InvalidRequestError("--days", f"is at least a second, and at most {_DAYS_MAX} days")
    return Retention(
        batches=batches,
        contents_per_store=contents,
        content_bytes=None if mib is None else mib << 20,
        max_age=None if days is None else timedelta(days=days),
        thin_by_age=thin,
    )


def _command(directory: Path, retention: Retention | None) -> str:
    parts = [f"rtstore prune {shell_word(directory)}"]
    if retention is None:
        return parts[0]
    if retention.batches is not None:
        parts.append(f"--batches {retention.batches}")
    if retention.contents_per_store is not None:
        parts.append(f"--contents {retention.contents_per_store}")
    if retention.content_bytes is not None:
        parts.append(f"--mib {max(1, retention.content_bytes >> 20)}")
    if retention.max_age is not None:
        parts.append(f"--days {days_of(retention):g}")
    if retention.thin_by_age:
        parts.append("--thin")
    return " ".join(parts)


def _document(
    directory: Path, team_name: str, report: PruneReport, next_steps: tuple[NextStep, ...]
) -> PruneDocument:
    return PruneDocument(
        **report.model_dump(exclude={"retention"}),
        directory=str(directory),
        team_name=team_name,
        **limits_of(report.retention),
        next=next_steps,
    )


def _show(page: Page, report: PruneDocument, retention: Retention) -> None:
    parts = []
    if report.batches:
        parts.append(f"{count(report.batches, 'batch')} with their receipts")
    if report.contents:
        parts.append(f"{count(report.contents, 'content')} ({size(report.content_bytes)})")
    dropped = ", ".join(parts) or "nothing"
    left = f"{count(report.batches_left, 'batch')}, {count(report.contents_left, 'content')}"
    before = size(report.database_bytes_before)
    facts: list[tuple[str, str | Cell]] = [
        ("Runtime directory", report.directory),
        ("Team", report.team_name),
        ("Keeps", f"{in_words(retention)}; in any case what is current or open"),
    ]
    if report.dry_run:
        facts += [("Would drop", Cell(dropped, "warn")), ("Would leave", left)]
        facts.append(("Database", before))
    else:
        facts.append(("Dropped", Cell(dropped, "good")))
        if report.batches_held + report.contents_held:
            facts.append(("Held", Cell(_held(report), "warn")))
        facts.append(("Left", left))
        facts.append(("Database", f"{before} before, {size(report.database_bytes_after or 0)} now"))
        if report.unreturnable_bytes:
            facts.append(("Not returned", Cell(_not_returned(report), "warn")))
    page.facts(facts)
    if report.next:
        page.title("Next")
        for step in report.next:
            page.line(Cell(step.command or "", "command"), indent=2)
            page.line(step.why, indent=6)


def _not_returned(report: PruneDocument) -> str:
    free = size(report.unreturnable_bytes)
    return f"{free} of it are free, for later batches: another program turned auto_vacuum off"


def _held(report: PruneDocument) -> str:
    parts = []
    if report.batches_held:
        parts.append(count(report.batches_held, "batch"))
    if report.contents_held:
        parts.append(count(report.contents_held, "content"))
    return (
        f"{', '.join(parts)}: a store file could not be flushed, or holds an old version, which "
        "only its batch identifies"
    )
