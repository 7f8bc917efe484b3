"""Runs in the database: which one is active, and how the others ended.

A run begins and ends in the transaction that completes a batch, so after a crash there is the old
run or the new one, never a run without its state:

    log        the row of a new run, `beginning`, with its process
    complete   the active run becomes `superseded`, the new one `active`
    fail       the row of a run that did not begin goes

What changes a run does so in a `Database.write`, thus under the writer lock, after open batches
were resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, and_, bindparam, delete, exists, func, insert, select, update

from rtstore.control import run_processes
from rtstore.control.schema import (
    CURRENT_CONDITION,
    OPEN_CONDITION,
    manifest_entries,
    runs,
    runtime_manifest,
    write_batches,
)
from rtstore.control.sqlite.statements import Row, Statement, driver_of, open_limit
from rtstore.errors import CorruptDatabaseError, StaleRunError, shown
from rtstore.foreign import fails_again, origin_of
from rtstore.model.records import BatchReason, BatchState, LoggedBatch
from rtstore.model.runs import RunEnding, RunProcess, RunRecord, RunState
from rtstore.model.times import format_time

STOPPED = "its last batch is a stop_tombstone"
"""Why a run ended that a batch of that reason ended."""
NOT_ACTIVE = "the manifest named no active run any more"
"""Why the last run of a manifest without an active run ended: nothing else says so."""


def list_runs(connection: Connection, *, limit: int | None = None) -> list[RunRecord]:
    """Return the newest `limit` runs, or all, the latest first."""
    rows = _SELECT_NEWEST.all(connection, count=-1 if limit is None else limit)
    return [_record(connection, row) for row in rows]


def count(connection: Connection) -> int:
    """Return how many runs there are."""
    return int(_COUNT.scalar(connection) or 0)


def list_readable(connection: Connection) -> list[RunRecord]:
    """Return every run, the latest first; of a row with values that make no sense, what does: its
    id, which must not be used again."""
    return [_record_of_damaged(row) for row in _SELECT_NEWEST.all(connection, count=-1)]


def find(connection: Connection, run_id: str) -> RunRecord | None:
    """Return a run, or None when the id was never seen."""
    row = _SELECT.first(connection, run_id=run_id)
    return None if row is None else _record(connection, row)


def active(connection: Connection) -> RunRecord | None:
    """Return the active run, or None."""
    row = _SELECT_ACTIVE.first(connection)
    return None if row is None else _record(connection, row)


def active_id(connection: Connection) -> str | None:
    """Return the id of the active run, or None."""
    found = _SELECT_ACTIVE_ID.scalar(connection)
    return None if found is None else str(found)


def last(connection: Connection) -> RunRecord | None:
    """Return the active run, or else the one that began last; None before the first."""
    row = _SELECT_ACTIVE.first(connection) or _SELECT_LAST.first(connection)
    return None if row is None else _record(connection, row)


def refuse_over(connection: Connection, run_id: str) -> None:
    """Raise `StaleRunError` when a run is over. A run that was never seen is none."""
    found = find(connection, run_id)
    if found is not None and found.is_over:
        raise stale(connection, found)


def stale(connection: Connection, run: RunRecord) -> StaleRunError:
    """Return the error for a write of a run that is over."""
    return StaleRunError(
        run.run_id,
        run.state.value,
        run.ended_at,
        run.superseded_by or run.why,
        active_id(connection),
    )


def stray_beginning(connection: Connection) -> tuple[int, str] | None:
    """Return the number and the id of a run that begins with no batch: somebody made its row, and
    no other run can begin while it is there. None as long as a batch may still begin it."""
    row = _SELECT_STRAY.first(connection)
    return None if row is None else (row["run_number"], row["run_id"])


# --- with a batch ---------------------------------------------------------------------------------


def admit(connection: Connection, logged: LoggedBatch, directory: Path) -> None:
    """Admit a batch to the log: its run is active, or this batch begins it, by this process. Raises
    `StaleRunError` when the run is over.

    A process that writes for an active run whose recorded process is gone is recorded in its place:
    the daemon that one became, or a worker that outlives it.
    """
    run_id = str(logged.batch.run_id)
    row = _SELECT_STATE.first(connection, run_id=run_id) or {}
    is_active = row.get("state") == RunState.ACTIVE.value
    if is_active and run_processes.is_this(row["host"], row["pid"], row["process_start"]):
        return
    found = find(connection, run_id)
    if found is None:
        _insert_beginning(connection, logged, run_processes.this_process(directory))
    elif found.is_over:
        raise stale(connection, found)
    elif is_active and run_processes.is_alive(found.process, directory) is False:
        resume(connection, run_id, run_processes.this_process(directory))


def complete(connection: Connection, logged: Sequence[LoggedBatch]) -> None:
    """Begin and end runs with the batches that are completed, in their order.

    A batch of a run that was never active begins it; a batch of reason `stop_tombstone` ends it. A
    batch of a run that is over is the library's own, and changes nothing about it.
    """
    current = active_id(connection)
    for item in logged:
        run_id, at = item.batch.run_id, item.logged_at
        if run_id is None:
            continue
        if run_id != current and _begin(connection, item, current):
            current = run_id
        if item.batch.reason == BatchReason.STOP_TOMBSTONE and run_id == current:
            end(connection, run_id, RunEnding.STOPPED, STOPPED, at)
            current = None


def _begin(connection: Connection, item: LoggedBatch, current: str | None) -> bool:
    """Make the run of a batch the active one. Return False when that run is over."""
    run_id, at = str(item.batch.run_id), item.logged_at
    found = find(connection, run_id)
    if found is not None and found.is_over:
        return False
    if current is not None:
        _SUPERSEDE.write(connection, {"run": current, "by": run_id, "at": format_time(at)})
    if found is None:  # logged by an older version, or the first batch of the run has failed
        _insert_beginning(connection, item, None)
    _ACTIVATE.write(connection, {"run": run_id})
    return True


def _insert_beginning(
    connection: Connection, logged: LoggedBatch, process: RunProcess | None
) -> None:
    record = RunRecord(
        run_id=str(logged.batch.run_id),
        state=RunState.BEGINNING,
        began_at=logged.logged_at,
        begun_by_batch=logged.batch.batch_id,
        process=process,
    )
    insert_runs(connection, [record])


def forget_beginning(connection: Connection, batch_id: str) -> None:
    """Forget the run that a batch would have begun: the batch failed."""
    _FORGET.run(connection, batch_id=batch_id)


# --- without a batch ------------------------------------------------------------------------------


def end(
    connection: Connection, run_id: str, ending: RunEnding, why: str | None, at: datetime
) -> None:
    """End the active run."""
    values = {"run": run_id, "ending": ending.value, "why": why, "at": format_time(at)}
    _END.write(connection, values)


def resume(connection: Connection, run_id: str, process: RunProcess) -> None:
    """Record the process that goes on with the active run."""
    columns = _process_columns(process)
    new = {f"new_{name}": value for name, value in columns.items()}
    _RESUME.write(connection, {"run": run_id, **new})


def insert_runs(connection: Connection, records: Iterable[RunRecord]) -> None:
    """Write the rows of runs that are known from elsewhere, the earliest first."""
    for record in records:
        row = {
            "run_number": None,
            "run_id": record.run_id,
            "state": record.state.value,
            "began_at": format_time(record.began_at),
            "begun_by_batch": record.begun_by_batch,
            **_process_columns(record.process),
            "ended_at": None if record.ended_at is None else format_time(record.ended_at),
            "ending": None if record.ending is None else record.ending.value,
            "why": record.why,
            "superseded_by": record.superseded_by,
        }
        _INSERT.write(connection, row)


def runs_of_batches(connection: Connection, at: datetime) -> list[RunRecord]:
    """Return the runs that the rows of a database show, the earliest first. For a database that is
    filled from elsewhere: it has batches and entries, and no runs yet. `at` stands for times that
    are not known.

    The run of the manifest is the active one, unless its last batch is a stop_tombstone.
    """
    last_id = _SELECT_MANIFEST_RUN.scalar(connection)
    rows = {row["run_id"]: row for row in _SELECT_WRITTEN.all(connection)}
    named = [row["run_id"] for row in _SELECT_NAMED.all(connection)]
    ids = [run_id for run_id in [*named, last_id] if run_id and run_id not in rows]
    ids = [*dict.fromkeys(ids), *rows]
    ids.sort(key=lambda run_id: run_id == last_id)
    found: list[RunRecord] = []
    for run_id, successor in zip_longest(ids, ids[1:]):
        row = rows.get(run_id, {"began_at": at, "last_at": at, "first": None, "reason": None})
        is_stopped = row["reason"] == BatchReason.STOP_TOMBSTONE.value
        values: Row = {
            "run_id": run_id,
            "began_at": row["began_at"],
            "begun_by_batch": row["first"],
        }
        if run_id == last_id and not is_stopped:
            values |= {"state": RunState.ACTIVE}
        elif is_stopped or successor is None:
            why = STOPPED if is_stopped else NOT_ACTIVE
            values |= {"state": RunState.ENDED, "ending": RunEnding.STOPPED, "why": why}
        else:
            values |= {"state": RunState.SUPERSEDED, "superseded_by": successor}
        if values["state"] is not RunState.ACTIVE:
            values["ended_at"] = row["last_at"]
        found.append(RunRecord.model_validate(values))
    return found


# --- statements and rows --------------------------------------------------------------------------


def _record(connection: Connection, row: Row) -> RunRecord:
    try:
        return _validated(row)
    except ValidationError as error:
        if not fails_again(partial(_validated, row)):
            raise origin_of(error) from None
        path = driver_of(connection).execute("PRAGMA database_list").fetchone()[2]
        problem = f"the row of run {shown(row['run_id'])} makes no sense"
        raise CorruptDatabaseError(Path(path), problem) from error


def _validated(row: Row) -> RunRecord:
    process = None
    if row["pid"] is not None:
        process = {"host": row["host"], "pid": row["pid"], "start": row["process_start"]}
    return RunRecord.model_validate({**row, "process": process})


def _record_of_damaged(row: Row) -> RunRecord:
    try:
        return _validated(row)
    except ValidationError:
        is_active = row["state"] == RunState.ACTIVE.value
        epoch = datetime.fromtimestamp(0, UTC)
        return RunRecord(
            run_id=str(row["run_id"]),
            state=RunState.ACTIVE if is_active else RunState.ENDED,
            began_at=epoch,
            ended_at=None if is_active else epoch,
            ending=None if is_active else RunEnding.STOPPED,
            why=None if is_active else "its row was damaged",
        )


def _process_columns(process: RunProcess | None) -> Row:
    if process is None:
        return {"host": None, "pid": None, "process_start": None}
    return {"host": process.host, "pid": process.pid, "process_start": process.start}


_ACTIVE = and_(CURRENT_CONDITION, runs.c.state == RunState.ACTIVE.value)
_BEGINNING = and_(CURRENT_CONDITION, runs.c.state == RunState.BEGINNING.value)
_SELECT_NEWEST = Statement(
    select(runs).order_by(runs.c.run_number.desc()).limit(open_limit("count"))
)
_COUNT = Statement(select(func.count()).select_from(runs))
_SELECT = Statement(select(runs).where(runs.c.run_id == bindparam("run_id")))
_SELECT_STATE = Statement(
    select(runs.c.state, runs.c.host, runs.c.pid, runs.c.process_start).where(
        runs.c.run_id == bindparam("run_id")
    )
)
_SELECT_ACTIVE = Statement(select(runs).where(_ACTIVE))
_SELECT_ACTIVE_ID = Statement(select(runs.c.run_id).where(_ACTIVE))
_SELECT_STRAY = Statement(
    select(runs.c.run_number, runs.c.run_id).where(
        _BEGINNING,
        ~exists(
            select(write_batches.c.batch_number).where(
                OPEN_CONDITION, write_batches.c.run_id == runs.c.run_id
            )
        ),
    )
)
_SELECT_LAST = Statement(
    select(runs)
    .where(runs.c.state != RunState.BEGINNING.value)
    .order_by(runs.c.run_number.desc())
    .limit(1)
)
_INSERT = Statement(insert(runs))
_SUPERSEDE = Statement(
    update(runs)
    .where(runs.c.run_id == bindparam("run"), _ACTIVE)
    .values(
        state=RunState.SUPERSEDED.value, superseded_by=bindparam("by"), ended_at=bindparam("at")
    )
)
_ACTIVATE = Statement(
    update(runs)
    .where(runs.c.run_id == bindparam("run"), _BEGINNING)
    .values(state=RunState.ACTIVE.value)
)
_FORGET = Statement(delete(runs).where(runs.c.begun_by_batch == bindparam("batch_id"), _BEGINNING))
_END = Statement(
    update(runs)
    .where(runs.c.run_id == bindparam("run"), _ACTIVE)
    .values(
        state=RunState.ENDED.value,
        ending=bindparam("ending"),
        why=bindparam("why"),
        ended_at=bindparam("at"),
    )
)
_RESUME = Statement(
    update(runs)
    .where(runs.c.run_id == bindparam("run"), _ACTIVE)
    .values(
        host=bindparam("new_host"),
        pid=bindparam("new_pid"),
        process_start=bindparam("new_process_start"),
    )
)
_SELECT_MANIFEST_RUN = Statement(select(runtime_manifest.c.active_run_id))
_of_runs = (
    select(
        write_batches.c.run_id,
        func.min(write_batches.c.started_at).label("began_at"),
        func.max(write_batches.c.started_at).label("last_at"),
        func.min(write_batches.c.batch_number).label("first_number"),
        func.max(write_batches.c.batch_number).label("last_number"),
    )
    .where(
        write_batches.c.state == BatchState.COMMITTED.value,
        write_batches.c.run_id != "",
    )
    .group_by(write_batches.c.run_id)
    .subquery("of_runs")
)
_first, _last = write_batches.alias("first"), write_batches.alias("last")
_SELECT_WRITTEN = Statement(
    select(
        _of_runs.c.run_id,
        _of_runs.c.began_at,
        _of_runs.c.last_at,
        _first.c.batch_id.label("first"),
        _last.c.reason.label("reason"),
    )
    .join(_first, _first.c.batch_number == _of_runs.c.first_number)
    .join(_last, _last.c.batch_number == _of_runs.c.last_number)
    .order_by(_of_runs.c.last_number)
)
_SELECT_NAMED = Statement(
    select(manifest_entries.c.run_id).distinct().order_by(manifest_entries.c.run_id)
)
