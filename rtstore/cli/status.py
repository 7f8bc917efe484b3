"""`rtstore status`: shows commits and files, and whether the runtime may start."""

from __future__ import annotations

import os
from pathlib import Path

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.folder import Line, lines_below, look_below, show_lines, show_next_of
from rtstore.cli.folder import report as report_folder
from rtstore.cli.kept import in_words, limits_of
from rtstore.cli.looking import (
    FileHolds,
    Look,
    OpenBatch,
    StoreLine,
    Verdict,
    bytes_on_disk,
    check_directory,
    look_at,
    open_to_look,
    shown,
)
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_for, print_json, size
from rtstore.cli.output import when as time_and_age
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import InvalidRequestError
from rtstore.model.records import (
    ActionKind,
    Batch,
    BatchReason,
    HindranceKind,
    InspectionState,
    ReadinessCheck,
    Record,
    RunIdentity,
)
from rtstore.model.times import Timestamp


class CommittedBatch(Record):
    """The batch that was committed last."""

    batch_id: str
    reason: BatchReason
    run_id: str | None
    completed_at: Timestamp
    age_seconds: float
    stores: tuple[str, ...]


class StatusReport(Record):
    """What `rtstore status --json` prints."""

    directory: str
    team_name: str
    verdict: Verdict
    readiness: ReadinessCheck
    high_watermark: int
    active_identity: RunIdentity | None
    expected_identity: RunIdentity | None
    last_batch: CommittedBatch | None
    open_batches: tuple[OpenBatch, ...]
    newer_files: tuple[str, ...]
    """Store files that differ and say that they were written after the last committed batch: the
    database may lack acknowledged batches."""
    lock_holder: str | None
    """Who holds the writer lock at this moment; None when it is free."""
    database_bytes: int
    wal_bytes: int
    keeps_batches: int | None
    keeps_contents_per_store: int | None
    keeps_content_bytes: int | None
    keeps_days: float | None
    stores: tuple[StoreLine, ...]
    below: tuple[Line, ...]
    """The lanes, and what other runtime directories are not far below."""
    next: tuple[NextStep, ...]


def run(
    directory: Path,
    *,
    run_id: str | None,
    capability_snapshot_id: str | None,
    behavior_fingerprint: str | None,
    as_json: bool,
) -> ExitCode:
    """Print the state of a runtime directory, or of all below a folder. Changes nothing."""
    check_directory(directory)
    if not os.path.lexists(directory / DATABASE_NAME):
        found = look_below(directory, quiet=as_json)
        if any(line.directory != str(shown(directory)) for line in found.lines):
            _refuse_identity(run_id, capability_snapshot_id, behavior_fingerprint)
            return report_folder(directory, found, as_json=as_json)
    with open_to_look(directory) as store:
        look = look_at(
            store,
            run_id=run_id,
            capability_snapshot_id=capability_snapshot_id,
            behavior_fingerprint=behavior_fingerprint,
        )
        last_id = look.manifest.last_committed_batch_id
        last = None if last_id is None else store.batch(last_id)
        holder = store.lock.holder() or "an unknown process" if store.lock.is_held() else None
    report = _report(look, last, holder)
    if as_json:
        print_json(report)
    else:
        _show(page_for(), look, report)
    return ExitCode.READY if look.check.ok else ExitCode.NOT_READY


def _refuse_identity(*parts: str | None) -> None:
    for option, part in zip(
        ("--run-id", "--capability-snapshot-id", "--behavior-fingerprint"), parts, strict=True
    ):
        if part is not None:
            raise InvalidRequestError(option, "is of one runtime directory, and this is a folder")


def _report(look: Look, last: Batch | None, holder: str | None) -> StatusReport:
    database_bytes, wal_bytes = bytes_on_disk(look.directory)
    return StatusReport(
        directory=str(look.directory),
        team_name=look.team_name,
        verdict=look.verdict,
        readiness=look.check,
        high_watermark=look.manifest.high_watermark,
        active_identity=look.manifest.active_identity,
        expected_identity=look.expected,
        last_batch=None if last is None else _committed(last, look),
        open_batches=look.open_batches,
        newer_files=look.newer_files,
        lock_holder=holder,
        database_bytes=database_bytes,
        wal_bytes=wal_bytes,
        **limits_of(look.retention),
        stores=look.lines,
        below=lines_below(look.directory),
        next=look.next,
    )


def _lock(look: Look, report: StatusReport) -> str:
    if any(item.kind is HindranceKind.LOCK for item in look.hindrances):
        return "cannot be taken"
    return f"held by {report.lock_holder}" if report.lock_holder else "free"


def _committed(batch: Batch, look: Look) -> CommittedBatch:
    completed_at = batch.completed_at or batch.started_at
    return CommittedBatch(
        batch_id=batch.batch_id,
        reason=batch.reason,
        run_id=batch.run_id,
        completed_at=completed_at,
        age_seconds=age_of(completed_at, look.now),
        stores=tuple(receipt.schema_name for receipt in batch.receipts),
    )


# --- for people ---------------------------------------------------------------------------------


def _show(page: Page, look: Look, report: StatusReport) -> None:
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            ("Readiness", readiness_cell(look)),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
            *_identities(report),
            ("Last batch", _last_batch(report, look)),
            *(("Open batch", _open_batch(batch, look)) for batch in report.open_batches),
            ("Size", f"database {size(report.database_bytes)}, WAL {size(report.wal_bytes)}"),
            ("History", f"keeps {in_words(look.retention)}"),
            ("Writer lock", _lock(look, report)),
        ]
    )
    page.gap()
    show_stores(page, look)
    show_diagnosis(page, look)
    if report.below:
        is_lanes = all(line.lane_id is not None for line in report.below)
        page.title("Lanes" if is_lanes else "Below")
        show_lines(page, report.below, look.now)
        show_next_of(page, report.below, "Next, in these")


def readiness_cell(look: Look) -> Cell:
    """Return the verdict and its reason, in the colour of the verdict."""
    tone = {Verdict.READY: "good", Verdict.DEGRADED: "warn", Verdict.BLOCKED: "bad"}
    return Cell(f"{look.verdict} ({look.check.reason})", tone[look.verdict])


def show_diagnosis(page: Page, look: Look) -> None:
    """Print the diagnostics, and what to run next; nothing when all is well."""
    if look.check.diagnostics:
        page.title("Diagnostics")
        for text in look.check.diagnostics:
            page.line(text, indent=2)
        for line in look.lines:
            if line.detail:
                page.line(f"{line.relative_path}: {line.detail}", indent=2)
    show_next(page, look)


def show_next(page: Page, look: Look) -> None:
    """Print what to run next, each with what it does; nothing when there is nothing to do."""
    if not look.next:
        return
    page.title("Next")
    for step in look.next:
        if step.command:
            page.line(Cell(step.command, "title"), indent=2)
        page.line(step.why, indent=6 if step.command else 2)


def _identities(report: StatusReport) -> list[tuple[str, str]]:
    rows = [("Active identity", _identity(report.active_identity))]
    if report.expected_identity != report.active_identity:
        rows.append(("Expected", _identity(report.expected_identity)))
    return rows


def _identity(identity: RunIdentity | None) -> str:
    if identity is None:
        return "none yet"
    return (
        f"run {identity.run_id}, capability snapshot {identity.capability_snapshot_id or 'none'}, "
        f"behavior fingerprint {identity.behavior_fingerprint or 'none'}"
    )


def _last_batch(report: StatusReport, look: Look) -> str:
    last = report.last_batch
    if last is None:
        return "none yet"
    return f"{last.batch_id} ({last.reason}), {time_and_age(last.completed_at, look.now)}"


def _open_batch(batch: OpenBatch, look: Look) -> Cell:
    started = time_and_age(batch.started_at, look.now)
    what = "being written now" if batch.in_progress else "its writer is dead"
    return Cell(
        f"{batch.batch_id} ({batch.reason}), {started}, {what}",
        "" if batch.in_progress else "bad",
    )


def show_stores(page: Page, look: Look) -> None:
    """Print the table of stores."""
    columns = [
        Column("store"),
        Column("file", 5),
        Column("state"),
        Column("action", 1),
        Column("written by", 4),
        Column("reason", 3),
        Column("written", 2),
        Column("size", 6),
    ]
    page.table(columns, [_row(line, look) for line in look.lines])


def _row(line: StoreLine, look: Look) -> list[str | Cell]:
    return [
        line.schema_name,
        line.relative_path,
        state_cell(line),
        _action_cell(line),
        line.batch_id or "-",
        line.batch_reason or "-",
        ago(line.written_at, look.now) if line.written_at else "never",
        "-" if line.file_size is None else size(line.file_size),
    ]


def state_cell(line: StoreLine) -> Cell:
    """Return the state of a file in its colour, or that it holds an open batch's version."""
    if line.holds is FileHolds.OPEN_BATCH:
        return Cell("open batch's version", "warn")
    return Cell(line.state, "good" if line.state is InspectionState.HEALTHY else "bad")


def _action_cell(line: StoreLine) -> Cell:
    if line.action is ActionKind.NONE:
        return Cell("-", "dim")
    return Cell(line.action, "bad" if line.action is ActionKind.BLOCK_READINESS else "warn")
