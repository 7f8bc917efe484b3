"""`rtstore status`: shows commits and files, and whether the runtime may start."""

from __future__ import annotations

import os

from rtstore.cli.advice import NextStep
from rtstore.cli.batches import at_cell
from rtstore.cli.exits import ExitCode
from rtstore.cli.folder import (
    LaneIndexReport,
    Line,
    look_below,
    look_near,
    show_lane_indexes,
    show_lines,
    show_next_of,
)
from rtstore.cli.folder import report as report_folder
from rtstore.cli.identity import Expected, takes_identity
from rtstore.cli.limits import in_words, limits_of
from rtstore.cli.options import AsJson, Directory, Wide
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_of, size
from rtstore.cli.readiness import readiness_cell, run_cell, show_diagnosis
from rtstore.cli.snapshot import (
    BackupSign,
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
from rtstore.control.contents import StoreSize
from rtstore.control.lock import Holder
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.control.sqlite.processes import Process, in_transaction, listed, sql_writer
from rtstore.errors import InvalidRequestError
from rtstore.files.owners import may
from rtstore.maintenance.growth import LARGE_WAL
from rtstore.maintenance.suggestions import ways_to_free
from rtstore.model.decide import ENTRY_ALTERED, ENTRY_MISSING
from rtstore.model.records import (
    ActionKind,
    Batch,
    HindranceKind,
    InspectionState,
    ReadinessCheck,
    ReasonName,
    Record,
    RunIdentity,
    StaleStore,
)
from rtstore.model.runs import RunRecord
from rtstore.model.times import Timestamp, format_time
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


class CommittedBatch(Record):
    """The batch that was committed last."""

    batch_id: str
    reason: ReasonName
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
    nothing_committed: bool
    """Whether no batch was ever committed: a first start, and no loss."""
    high_watermark: int
    active_identity: RunIdentity | None
    expected_identity: RunIdentity | None
    run: RunRecord | None
    """The active run, or the last one; None before the first."""
    process_alive: bool | None
    """Whether the process of that run lives; None when that is not known here."""
    stale_stores: tuple[StaleStore, ...]
    """The stores that are of another identity than the expected one, each with both values."""
    last_batch: CommittedBatch | None
    open_batches: tuple[OpenBatch, ...]
    newer_files: tuple[str, ...]
    """Store files that differ and say that they were written after the last batch of the database,
    which may lack acknowledged batches."""
    backup: BackupSign | None
    """What the directory says of itself as a back-up; None when it is none."""
    lock_holder: str | None
    """Who holds the writer lock at this moment; None when it is free."""
    database_bytes: int
    wal_bytes: int
    in_transaction: tuple[Process, ...]
    """The processes that read in a transaction at this moment, which keeps the WAL growing."""
    keeps_batches: int | None
    keeps_contents_per_store: int | None
    keeps_content_bytes: int | None
    keeps_days: float | None
    thins_by_age: bool
    outgrown: tuple[StoreSize, ...]
    """The stores whose history outgrows their data many times over."""
    stores: tuple[StoreLine, ...]
    unregistered: tuple[str, ...]
    """The committed stores that no descriptor names."""
    below: tuple[Line, ...]
    """The lanes, and what other runtime directories are not far below."""
    lane_indexes: tuple[LaneIndexReport, ...]
    """What the runtime's list of lanes says, if there is one."""
    next: tuple[NextStep, ...]


@takes_identity
def run(
    directory: Directory,
    expected: Expected,
    *,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Show what is committed, what the files hold, and whether the runtime may start.

    Its lanes are shown below it, with what lanes.json says of them; the exit code is that of DIR
    alone. DIR may also be a folder: then every runtime directory and lane below it is a line, and
    the exit code is the highest of all.
    Changes nothing, and works while others write.

    \b
    JSON: directory, teamName, verdict (ready|degraded|blocked),
      readiness {ok, reason, diagnostics[]}, nothingCommitted, highWatermark,
      activeIdentity and expectedIdentity
        {runId, capabilitySnapshotId, behaviorFingerprint} or null,
      run (the active or last one; as in "runs") or null,
      processAlive (true, false, or null: not known),
      staleStores[] {schemaName, part, found, expected},
      lastBatch {batchId, reason, runId, completedAt, ageSeconds, stores[]} or null,
      openBatches[] {batchId, reason, runId, startedAt, ageSeconds, inProgress, stores[]},
      newerFiles[] (of which the database may lack the batches),
      backup {origin or null, createdAt or null, isAsMade} (of a back-up) or null, lockHolder,
      databaseBytes, walBytes,
      inTransaction[] {pid, command, since or null} (who reads, and keeps the WAL growing),
      keepsBatches, keepsContentsPerStore, keepsContentBytes, keepsDays (each or null: no limit),
      thinsByAge, outgrown[] {schemaName, fileBytes, historyContents, historyBytes} (the stores
        whose history outgrows their data many times over),
      stores[] {schemaName, relativePath, criticality, state,
        holds (committed|open_batch|nothing|other), detail, action, reason, fileSize,
        historyContents, historyBytes (beside what is current),
        batchId, highWatermark, batchReason, writtenAt, ageSeconds,
        deletedAt (or null: not deleted, or written again)},
      unregistered[] (committed stores that no descriptor names),
      below[] (the lanes; as directories[] of a folder),
      laneIndexes[] (as of a folder), next[] {command, why}
    JSON of a folder: folder, exitCode,
      directories[] {directory, laneId or null, state (ready|degraded|blocked|locked|forbidden|
        older|newer|foreign|damaged|no_database|not_imported|failed), why or null, exitCode,
        teamName, highWatermark, activeRunId, runId and runState (of the active or last run),
        lastBatchAt, ageSeconds, databaseBytes, lockHolder, lockProcessId (each or null),
        next[] {command, why}},
      laneIndexes[] {path, lanes[] {laneId, state}, withoutDirectory[], notListed[],
        problem or null} (what each lanes.json says), backups[] (left out), wasCutShort
    """
    check_directory(directory)
    if not os.path.lexists(directory / DATABASE_NAME):
        found = look_below(directory, quiet=as_json)
        if any(line.directory != str(shown(directory)) for line in found.lines):
            _refuse_identity(expected)
            return report_folder(directory, found, as_json=as_json, wide=wide)
    with open_to_look(directory) as store:
        look = look_at(store, expected)
        holder = store.lock.look()
        obstacle = None if holder else _in_the_way(store)
    report = _report(look, holder)
    _show(page_of(report, as_json=as_json, wide=wide), look, report, obstacle)
    return ExitCode.READY if look.check.ok else ExitCode.NOT_READY


def _refuse_identity(expected: Expected) -> None:
    for name, part in expected._asdict().items():
        if part is not None:
            option = f"--{name.replace('_', '-')}"
            raise InvalidRequestError(option, "is of one runtime directory, and this is a folder")


def _report(look: Look, holder: Holder | None) -> StatusReport:
    stopped = None if holder is None else holder.stopped
    first = () if stopped is None else ways_to_free(stopped)
    database_bytes, wal_bytes = bytes_on_disk(look.directory)
    near = look_near(look.directory)
    return StatusReport(
        directory=str(look.directory),
        team_name=look.team_name,
        verdict=look.verdict,
        readiness=look.check,
        nothing_committed=look.check.nothing_committed,
        high_watermark=look.manifest.high_watermark,
        active_identity=look.manifest.active_identity,
        expected_identity=look.expected,
        run=look.run,
        process_alive=look.process_alive,
        stale_stores=look.plan.stale_stores,
        last_batch=None if look.last_batch is None else _committed(look.last_batch, look),
        open_batches=look.open_batches,
        newer_files=look.newer_files,
        backup=look.backup,
        lock_holder=None if holder is None else holder.words,
        database_bytes=database_bytes,
        wal_bytes=wal_bytes,
        in_transaction=in_transaction(look.directory / DATABASE_NAME),
        **limits_of(look.retention),
        outgrown=look.outgrown,
        stores=look.lines,
        unregistered=look.unregistered,
        below=near.lines,
        lane_indexes=near.lane_indexes,
        next=(*(NextStep(command=way.command, why=way.why) for way in first), *look.next_of_all),
    )


def _size_cell(report: StatusReport) -> Cell:
    sizes = f"database {size(report.database_bytes)}, WAL {size(report.wal_bytes)}"
    if report.wal_bytes <= LARGE_WAL or not report.in_transaction:
        return Cell(sizes)
    who, stay = listed(report.in_transaction), "stay" if report.in_transaction[1:] else "stays"
    return Cell(f"{sizes}, which grows while {who} {stay} in a transaction", "warn")


def _in_the_way(store: RuntimeStore) -> str | None:
    """Return what a write would fail at now, though the writer lock is free, or None. Readiness
    does not count it: it is of this user, or of this moment."""
    database = store.directory / DATABASE_NAME
    needed = (store.directory, database, store.lock.path)
    if not all(may(path, os.W_OK) for path in needed if os.path.exists(path)):
        return "this user may not write here"
    if sql_writer(database) is None:
        return None
    with store.lock.kept_free() as is_free:  # who writes now, writes without the lock
        writer = sql_writer(database) if is_free else None
    if writer is None:
        return None
    return f"process {writer.pid} ({writer.command}) has a write transaction open without it"


def _lock(look: Look, report: StatusReport, obstacle: str | None) -> str | Cell:
    kinds = {item.kind for item in look.hindrances if item.schema_name is None}
    if kinds - {HindranceKind.NO_STORES}:
        return "cannot be taken"
    if report.lock_holder:
        return f"held by {report.lock_holder}"
    if obstacle is None:
        return "free"
    return Cell(f"free, but {obstacle}: rtstore doctor {shell_word(look.directory)}", "warn")


def _committed(batch: Batch, look: Look) -> CommittedBatch:
    completed_at = batch.completed_at or batch.started_at
    return CommittedBatch(
        batch_id=batch.batch_id,
        reason=batch.reason,
        run_id=batch.run_id,
        completed_at=completed_at,
        age_seconds=age_of(completed_at, look.now),
        stores=batch.stores,
    )


def _show(page: Page, look: Look, report: StatusReport, obstacle: str | None) -> None:
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            *_backup(report),
            ("Readiness", readiness_cell(look)),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
            *_identities(report),
            ("Run", run_cell(look)),
            ("Last batch", _last_batch(report, look)),
            *(("Open batch", _open_batch(batch, look)) for batch in report.open_batches),
            ("Size", _size_cell(report)),
            ("History", f"keeps {in_words(look.retention)}"),
            ("Writer lock", _lock(look, report, obstacle)),
            *_unregistered(report),
        ]
    )
    page.gap()
    show_stores(page, look)
    show_diagnosis(page, look, report.next)
    if report.below:
        is_lanes = all(line.lane_id is not None for line in report.below)
        page.title("Lanes" if is_lanes else "Below")
        show_lines(page, report.below, look.now)
    show_lane_indexes(page, report.lane_indexes)
    show_next_of(page, report.below, "Next, in these")


def _backup(report: StatusReport) -> list[tuple[str, str | Cell]]:
    sign = report.backup
    if sign is None:
        return []
    of = "" if sign.origin is None else f"of {sign.origin}, "
    made = "" if sign.created_at is None else f"made {format_time(sign.created_at)}, "
    if not sign.is_as_made:
        return [("Back-up", Cell(f"{of}{made}and no more as it was made", "warn"))]
    restore = f"rtstore restore {shell_word(report.directory)} NEW_DIR"
    return [("Back-up", f"{of}{made}to be restored before anything works in it: {restore}")]


def _identities(report: StatusReport) -> list[tuple[str, str]]:
    rows = [("Active identity", _identity(report.active_identity))]
    if report.expected_identity != report.active_identity:
        rows.append(("Expected", _identity(report.expected_identity)))
    return rows


def _unregistered(report: StatusReport) -> list[tuple[str, str | Cell]]:
    if not report.unregistered:
        return []
    names = ", ".join(report.unregistered)
    return [("Not registered", Cell(f"{names} (committed, without a descriptor)", "warn"))]


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
    return (
        f"{ago(last.completed_at, look.now)}, {last.reason}, {last.batch_id}, "
        f"{format_time(last.completed_at)}"
    )


def _open_batch(batch: OpenBatch, look: Look) -> Cell:
    started = format_time(batch.started_at)
    what = "being written now" if batch.in_progress else "its writer is dead"
    return Cell(
        f"{what}, {ago(batch.started_at, look.now)}, {batch.reason}, {batch.batch_id}, {started}",
        "" if batch.in_progress else "bad",
    )


def show_stores(page: Page, look: Look) -> None:
    """Print the table of stores."""
    columns = [
        Column("store"),
        Column("file holds"),
        Column("written", 2),
        Column("at", 3),
        Column("action", 1),
        Column("reason", 4),
        Column("file", 5),
        Column("size", 6),
        Column("history", 7),
        Column("written by", 8),
    ]
    page.table(columns, [_row(line, look) for line in look.lines])


def _row(line: StoreLine, look: Look) -> list[str | Cell]:
    return [
        line.schema_name,
        _holds_cell(line, look),
        _written(line, look),
        at_cell(line.high_watermark),
        _action_cell(line),
        line.batch_reason or "-",
        line.relative_path,
        "-" if line.file_size is None else size(line.file_size),
        size(line.history_bytes) if line.history_contents else "-",
        line.batch_id or "-",
    ]


_HOLDS = {
    InspectionState.HEALTHY: "as committed",
    InspectionState.MISSING: "missing",
    InspectionState.QUARANTINED: "damaged",
    InspectionState.FUTURE_SCHEMA: "newer program's",
    InspectionState.HASH_MISMATCH: "changed",
    InspectionState.UNCOMMITTED_WRITE: "not committed",
}


def _written(line: StoreLine, look: Look) -> str:
    if line.written_at is not None:
        return ago(line.written_at, look.now)
    if line.deleted_at is not None:
        return f"deleted {ago(line.deleted_at, look.now)}"
    if line.reason == ENTRY_MISSING:
        return "no entry"
    return "never" if look.knows_all else "not on record"


def _holds_cell(line: StoreLine, look: Look) -> Cell:
    """Return what a file holds, in the words in which a start asks for it: as committed, damaged,
    missing, changed, or of an open batch."""
    if line.holds is FileHolds.OPEN_BATCH:
        return Cell("open batch's version", "warn")
    if line.schema_name in look.closed:
        return Cell("not readable", "bad")
    if line.reason == ENTRY_ALTERED:
        return Cell("not known", "warn")  # what it is held against was altered
    if line.state is InspectionState.MISSING and line.written_at is None:
        if line.deleted_at is not None:
            return Cell("deleted", "warn")
        return Cell("not written yet" if look.knows_all else "missing", "warn")
    if line.state is InspectionState.UNCOMMITTED_WRITE and line.deleted_at is not None:
        of_batch = line.action is ActionKind.RESTORE_COMMITTED
        return Cell("deleted version" if of_batch else "not committed", "bad")
    is_old = line.action is ActionKind.RESTORE_COMMITTED and line.state is _CHANGED
    return Cell("old version" if is_old else _HOLDS[line.state], _tone(line))


_CHANGED = InspectionState.HASH_MISMATCH


def _tone(line: StoreLine) -> str:
    return "good" if line.state is InspectionState.HEALTHY else "bad"


def _action_cell(line: StoreLine) -> Cell:
    if line.action is ActionKind.NONE:
        return Cell("-", "dim")
    return Cell(line.action, "bad" if line.action is ActionKind.BLOCK_READINESS else "warn")
