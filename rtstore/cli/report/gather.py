"""Gathers the facts of a page. Only reads: takes no lock, and no writer waits for it.

Batches and what belongs to them are of one moment; the look at the files, and the changes, are of
others close to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from rtstore.cli.advice import NextStep
from rtstore.cli.folder import Line
from rtstore.cli.limits import in_words
from rtstore.cli.report.changes import Budget, changes_of
from rtstore.cli.report.facts import (
    Advice,
    Batch,
    Contents,
    Directory,
    Identity,
    Quarantined,
    Recovery,
    RecoveryAction,
    Run,
    Size,
    Store,
)
from rtstore.cli.snapshot import Look, StoreLine, bytes_on_disk, look_at, open_to_look
from rtstore.control import recovery_log, runs
from rtstore.control.run_processes import is_alive
from rtstore.errors import RuntimeStoreError
from rtstore.model.records import OPEN_STATES, UNCOMMITTED_BATCH, ActionKind, BatchState
from rtstore.model.runs import RunRecord
from rtstore.store import RuntimeStore

RUNS_MAX = 500
QUARANTINED_MAX = 500
RECOVERIES_MAX = 200

Row = dict[str, Any]

_BATCHES = """
    SELECT batch_number, batch_id, state, reason, run_id, high_watermark, started_at, completed_at,
           last_error
    FROM write_batches ORDER BY batch_number DESC LIMIT ?
"""
_WRITES = """
    SELECT changed.*
    FROM (
      SELECT batch_number, position, schema_name, file_size, written_at, 0 AS is_deletion
      FROM batch_writes
      UNION ALL
      SELECT batch_number, position, schema_name, 0, deleted_at, 1 FROM batch_deletions
    ) AS changed
    JOIN (SELECT batch_number FROM write_batches ORDER BY batch_number DESC LIMIT ?)
      AS shown USING (batch_number)
    ORDER BY changed.batch_number, changed.position
"""
_KEPT = """
    SELECT written.schema_name, count(*) AS versions,
           CAST(total(written.file_size) AS INTEGER) AS bytes
    FROM batch_writes AS written
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    WHERE batch.state = 'committed' AND EXISTS (
      SELECT 1 FROM store_contents AS content
      WHERE content.schema_name = written.schema_name
        AND content.batch_number = written.batch_number
    )
    GROUP BY written.schema_name
"""
_RECOVERIES = """
    SELECT run_number, started_by, started_at, completed_at, readiness_impact, remaining_impact
    FROM recovery_runs ORDER BY run_number DESC LIMIT ?
"""
_ACTIONS = """
    SELECT run_number, kind, schema_name, reason, outcome, detail
    FROM recovery_actions ORDER BY run_number, position
"""
_NUMBERS = """
    SELECT (SELECT count(*) FROM write_batches) AS batches,
           (SELECT count(*) FROM runs) AS runs,
           (SELECT count(*) FROM recovery_runs) AS recoveries
"""


class Limits(NamedTuple):
    """How much of each directory goes into a page."""

    batches: int
    changes: int
    """Of each store."""


def directory_facts(line: Line, limits: Limits, budget: Budget) -> Directory:
    """Return the facts of a directory that was looked at before."""
    why, steps = line.why, line.next
    contents = None
    if line.team_name is not None:
        try:
            with open_to_look(Path(line.directory)) as store:
                look = look_at(store)
                contents, steps = contents_of(store, look, limits, budget), look.next
        except (RuntimeStoreError, OSError) as error:  # since then it cannot be opened any more
            why = str(error)
    return Directory(
        name=line.directory,
        lane=line.lane_id,
        state=line.state,
        why=why,
        next=_advice(steps),
        contents=contents,
    )


def opened_directory(store: RuntimeStore, limits: Limits, budget: Budget) -> Directory:
    """Return the facts of the directory of an open store."""
    look = look_at(store)
    return Directory(
        name=str(look.directory),
        lane=None,
        state=look.verdict,
        why=None,
        next=_advice(look.next),
        contents=contents_of(store, look, limits, budget),
    )


def _advice(steps: Iterable[NextStep]) -> tuple[Advice, ...]:
    return tuple(Advice(command=step.command, why=step.why) for step in steps)


def contents_of(store: RuntimeStore, look: Look, limits: Limits, budget: Budget) -> Contents:
    """Return what a directory holds."""
    rows = store.database.read(lambda connection: _Rows(connection, limits.batches))
    identity = look.manifest.active_identity
    database_bytes, wal_bytes = bytes_on_disk(look.directory)
    return Contents(
        team=look.team_name,
        readiness=look.check.reason,
        problems=look.check.diagnostics,
        watermark=look.manifest.high_watermark,
        identity=None if identity is None else Identity(**identity.model_dump()),
        database_bytes=database_bytes,
        wal_bytes=wal_bytes,
        history=in_words(look.retention),
        stores=tuple(
            _store(line, rows, changes_of(store, line.schema_name, limits.changes, budget))
            for line in look.lines
        ),
        batches=rows.batches,
        batches_in_all=rows.numbers["batches"],
        runs=tuple(_run(record, look.directory) for record in rows.runs),
        runs_in_all=rows.numbers["runs"],
        quarantined=rows.quarantined[:QUARANTINED_MAX],
        quarantined_in_all=len(rows.quarantined),
        recoveries=rows.recoveries,
        recoveries_in_all=rows.numbers["recoveries"],
    )


class _Rows:
    """The rows of a directory, as of one moment."""

    def __init__(self, connection: Connection, limit: int) -> None:
        self.numbers = _rows(connection, _NUMBERS)[0]
        self.runs = runs.list_runs(connection, limit=RUNS_MAX)
        self.recoveries, recovered = _recoveries(connection)
        self.quarantined = tuple(
            Quarantined(
                number=file.quarantine_number,
                store=file.schema_name,
                path=file.relative_path,
                at=file.quarantined_at,
                reason=file.reason,
                size=file.file_size,
                content_hash=file.content_hash,
                batch_id=file.batch_id,
                restored_at=file.restored_at,
            )
            for file in reversed(recovery_log.list_quarantined(connection))
        )
        self.kept = {row["schema_name"]: row for row in _rows(connection, _KEPT)}
        batches = _rows(connection, _BATCHES, limit)
        writes = _rows(connection, _WRITES, limit)
        committed = {row["batch_number"] for row in batches if row["state"] == BatchState.COMMITTED}
        self.sizes: dict[str, list[Size]] = defaultdict(list)
        stores_of: dict[int, list[str]] = defaultdict(list)
        deleted_by: dict[int, list[str]] = defaultdict(list)
        for row in writes:
            stores_of[row["batch_number"]].append(row["schema_name"])
            if row["is_deletion"]:
                deleted_by[row["batch_number"]].append(row["schema_name"])
            if row["batch_number"] in committed and row["file_size"] is not None:
                size = Size(at=row["written_at"], size=row["file_size"])
                self.sizes[row["schema_name"]].append(size)
        self.batches = tuple(
            _batch(
                row,
                stores_of[row["batch_number"]],
                deleted_by[row["batch_number"]],
                row["batch_id"] in recovered,
            )
            for row in batches
        )


def _rows(connection: Connection, query: str, *values: int) -> list[Row]:
    return [dict(row) for row in connection.exec_driver_sql(query, values).mappings()]


def _batch(
    row: Row,
    stores: Sequence[str],
    deleted: Sequence[str],
    is_recovered: bool,  # noqa: FBT001 - a fact
) -> Batch:
    return Batch(
        number=row["batch_number"],
        batch_id=row["batch_id"],
        watermark=row["high_watermark"],
        state=row["state"],
        is_open=row["state"] in OPEN_STATES,
        is_recovered=is_recovered and row["state"] == BatchState.COMMITTED,
        reason=row["reason"],
        run_id=row["run_id"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        stores=tuple(stores),
        deleted=tuple(deleted),
        error=row["last_error"],
    )


def _recoveries(connection: Connection) -> tuple[tuple[Recovery, ...], frozenset[str]]:
    """Return the newest recoveries, and the ids of the batches that any of them completed."""
    actions: dict[int, list[RecoveryAction]] = defaultdict(list)
    recovered = set()
    for row in _rows(connection, _ACTIONS):
        reason = row["reason"] or ""
        of_batch = reason.startswith(UNCOMMITTED_BATCH)
        batch_id = reason.removeprefix(UNCOMMITTED_BATCH) if of_batch else None
        if batch_id is not None and row["kind"] == ActionKind.ROLL_FORWARD:
            recovered.add(batch_id)
        action = RecoveryAction(
            kind=row["kind"],
            store=row["schema_name"],
            batch_id=batch_id,
            outcome=row["outcome"],
            detail=row["detail"],
        )
        actions[row["run_number"]].append(action)
    found = tuple(
        Recovery(
            number=row["run_number"],
            started_by=row["started_by"],
            at=row["started_at"],
            completed_at=row["completed_at"],
            impact_before=row["readiness_impact"],
            impact_after=row["remaining_impact"],
            actions=tuple(actions[row["run_number"]]),
        )
        for row in _rows(connection, _RECOVERIES, RECOVERIES_MAX)
    )
    return found, frozenset(recovered)


def _run(record: RunRecord, directory: Path) -> Run:
    return Run(
        run_id=record.run_id,
        state=record.state,
        began_at=record.began_at,
        ended_at=record.ended_at,
        ending=record.ending,
        why=record.why,
        superseded_by=record.superseded_by,
        host=None if record.process is None else record.process.host,
        process_id=None if record.process is None else record.process.pid,
        process_alive=is_alive(record.process, directory),
    )


def _store(line: StoreLine, rows: _Rows, changes: Sequence[Any]) -> Store:
    kept = rows.kept.get(line.schema_name, {"versions": 0, "bytes": 0})
    return Store(
        name=line.schema_name,
        path=line.relative_path,
        state=line.state,
        holds=line.holds,
        action=line.action,
        detail=line.detail,
        size=line.file_size,
        written_at=line.written_at,
        deleted_at=line.deleted_at,
        versions_kept=kept["versions"],
        bytes_kept=kept["bytes"],
        sizes=tuple(rows.sizes[line.schema_name]),
        changes=tuple(changes),
        changes_left_out=max(0, kept["versions"] - len(changes)),
    )
