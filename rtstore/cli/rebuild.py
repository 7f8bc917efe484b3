"""`rtstore rebuild`: makes a new database from the store files, and prints what was lost."""

from __future__ import annotations

from pathlib import Path

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import check_directory
from rtstore.cli.output import Cell, Column, Page, count, page_for, print_json
from rtstore.cli.progress import progress_bar
from rtstore.errors import InvalidRequestError
from rtstore.maintenance.rebuild_database import (
    RebuildReport,
    RebuiltStore,
    StoreOutcome,
    rebuild_database,
)
from rtstore.model.records import Record, RunIdentity
from rtstore.shell import shell_word

_TONES = {
    StoreOutcome.FROM_FILE: "good",
    StoreOutcome.FROM_DATABASE: "good",
    StoreOutcome.LEFT_OUT: "bad",
    StoreOutcome.MISSING: "warn",
}


class RebuildDocument(Record):
    """What `rtstore rebuild --json` prints."""

    directory: str
    team_name: str
    problem: str
    kept_aside: str | None
    batch_id: str | None
    high_watermark: int
    active_identity: RunIdentity | None
    stores: tuple[RebuiltStore, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]
    next: tuple[NextStep, ...]


def identity_of(
    run_id: str | None, capability_snapshot_id: str | None, behavior_fingerprint: str | None
) -> RunIdentity | None:
    """Return the run identity of the options. Raises `InvalidRequestError` for an incomplete
    one."""
    if not run_id:
        if run_id == "" or capability_snapshot_id or behavior_fingerprint:
            raise InvalidRequestError("--run-id", "is needed: the others say more of that run")
        return None
    return RunIdentity(
        run_id=run_id,
        capability_snapshot_id=capability_snapshot_id or None,
        behavior_fingerprint=behavior_fingerprint or None,
    )


def run(
    directory: Path,
    *,
    team_name: str | None,
    identity: RunIdentity | None,
    force: bool,
    lock_timeout_s: float,
    as_json: bool,
) -> ExitCode:
    """Rebuild, and print the report."""
    check_directory(directory)
    try:
        with progress_bar(quiet=as_json, what="rebuilding"):
            report = rebuild_database(
                directory,
                team_name=team_name,
                identity=identity,
                force=force,
                lock_timeout_s=lock_timeout_s,
            )
    except InvalidRequestError as error:
        option = {"team_name": "--team", "force": "--force"}.get(error.field, error.field)
        raise InvalidRequestError(option, error.problem, store=error.store) from None
    quoted = shell_word(directory)
    if any(store.outcome is StoreOutcome.FROM_DATABASE for store in report.stores):
        why = "writes the files whose content was still in the old database"
        next_step = NextStep(command=f"rtstore recover {quoted}", why=why)
    else:
        why = "says what is still to be done before the runtime starts"
        next_step = NextStep(command=f"rtstore status {quoted}", why=why)
    if as_json:
        values = report.model_dump(exclude={"directory", "kept_aside"})
        aside = None if report.kept_aside is None else str(report.kept_aside)
        document = RebuildDocument.model_validate(
            {**values, "directory": str(directory), "kept_aside": aside, "next": (next_step,)}
        )
        print_json(document)
    else:
        _show(page_for(), report, next_step)
    return ExitCode.READY


def _show(page: Page, report: RebuildReport, next_step: NextStep) -> None:
    aside = report.kept_aside
    page.facts(
        [
            ("Runtime directory", str(report.directory)),
            ("Team", report.team_name),
            ("What was wrong", report.problem),
            ("Kept aside", "nothing: there was no database" if aside is None else str(aside)),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
            ("Batch", report.batch_id or "none: no store could be taken"),
        ]
    )
    page.gap()
    columns = [Column("store"), Column("file", 2), Column("outcome"), Column("detail", 1)]
    page.table(
        columns,
        [
            [
                store.schema_name,
                store.relative_path,
                Cell(store.outcome, _TONES[store.outcome]),
                store.detail or "-",
            ]
            for store in report.stores
        ],
    )
    page.title("Lost")
    for text in report.lost:
        page.line(text, indent=2)
    if report.notes:
        page.title("Notes")
        for text in report.notes:
            page.line(text, indent=2)
    page.title("Next")
    page.line(Cell(next_step.command or "", "title"), indent=2)
    page.line(next_step.why, indent=6)
