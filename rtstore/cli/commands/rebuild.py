"""`rtstore rebuild`: makes a new database from the store files, and prints what was lost."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.descriptors import Descriptors, load_descriptors
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout
from rtstore.cli.output import Cell, Column, Page, count, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_may_write
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
    StoreOutcome.DELETED: "warn",
    StoreOutcome.LEFT_OUT: "bad",
    StoreOutcome.MISSING: "warn",
}
TeamName = Annotated[
    str | None,
    typer.Option(
        "--team",
        metavar="NAME",
        help="The team, if the old database no longer has its name.",
    ),
]
RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="ID",
        help="The run of files whose run is not in the old database any more.",
    ),
]
CapabilitySnapshotId = Annotated[
    str | None, typer.Option("--capability-snapshot-id", metavar="ID", help="Of that run.")
]
BehaviorFingerprint = Annotated[
    str | None, typer.Option("--behavior-fingerprint", metavar="TEXT", help="Of that run.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Although the database is sound, renamed, or another program's."),
]

_OPTIONS = {"team_name": "--team", "force": "--force", "descriptors": "--descriptors"}


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


def run(
    directory: Directory,
    *,
    team_name: TeamName = None,
    run_id: RunId = None,
    capability_snapshot_id: CapabilitySnapshotId = None,
    behavior_fingerprint: BehaviorFingerprint = None,
    descriptors: Descriptors = None,
    force: Force = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Make a new control database from the store files, when the old one is beyond help.

    Every file that passes what a write must pass becomes what is committed, unless it holds another
    version of ours, and the old database still says what was committed. A batch that its log has
    whole is committed as a whole. The files stay as they are, until the next opening; the old
    database is kept in a folder next to the new one. History and receipts are lost. A sound
    database is refused, and so is one of a newer rtstore. Stopped half-way, run it again. A
    file does not hold the name of its store: where no database remembers the stores of a runtime,
    --descriptors names them.

    \b
    JSON: directory, teamName, problem, keptAside or null, batchId or null, highWatermark,
      activeIdentity {runId, capabilitySnapshotId, behaviorFingerprint} or null,
      stores[] {schemaName, relativePath, outcome (from_file|from_database|deleted|left_out|
        missing), detail}, lost[], notes[], next[] {command, why}
    """
    identity = _identity(run_id, capability_snapshot_id, behavior_fingerprint)
    check_may_write(directory)
    known = load_descriptors(descriptors)
    try:
        with progress_bar(quiet=as_json, what="rebuilding"):
            report = rebuild_database(
                directory,
                team_name=team_name,
                descriptors=known,
                identity=identity,
                force=force,
                lock_timeout_s=lock_timeout_s,
            )
    except InvalidRequestError as error:
        option = _OPTIONS.get(error.field, error.field)
        raise InvalidRequestError(option, error.problem, store=error.store) from None
    quoted = shell_word(directory)
    due = (StoreOutcome.FROM_DATABASE, StoreOutcome.DELETED)
    if any(store.outcome in due for store in report.stores):
        why = "writes the files whose content was still in the old database"
        next_step = NextStep(command=f"rtstore recover {quoted}", why=why)
    else:
        why = "says what is still to be done before the runtime starts"
        next_step = NextStep(command=f"rtstore status {quoted}", why=why)
    values = report.model_dump(exclude={"directory", "kept_aside"})
    aside = None if report.kept_aside is None else str(report.kept_aside)
    document = RebuildDocument.model_validate(
        {**values, "directory": str(directory), "kept_aside": aside, "next": (next_step,)}
    )
    _show(page_of(document, as_json=as_json), report, next_step)
    return ExitCode.READY


def _identity(
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
    columns = [
        Column("store"),
        Column("file", 2),
        Column("outcome"),
        Column("detail", 1, room=24, below=True),
    ]
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
    page.line(Cell(next_step.command or "", "command"), indent=2)
    page.line(next_step.why, indent=6)
