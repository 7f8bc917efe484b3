"""Recoveries and quarantined files in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from rtstore.control.schema import (
    UNFINISHED_CONDITION,
    quarantined_files,
    recovery_actions,
    recovery_runs,
)
from rtstore.control.sqlite.statements import Statement
from rtstore.model.records import (
    ActionOutcome,
    QuarantinedFile,
    ReadinessImpact,
    RecoveryAction,
    RecoveryPlan,
    RecoveryStep,
    RecoveryTrigger,
)
from rtstore.model.times import format_time


def begin_run(
    connection: Connection,
    plan: RecoveryPlan,
    actions: Sequence[RecoveryAction],
    started_by: RecoveryTrigger,
    started_at: datetime,
) -> int:
    """Record that these actions of a plan are about to be executed. Return the run's number."""
    run_number = _INSERT_RUN.run(
        connection,
        run_number=None,
        plan_id=plan.plan_id,
        started_by=started_by,
        high_watermark=plan.high_watermark,
        readiness_impact=plan.readiness_impact,
        started_at=format_time(started_at),
        completed_at=None,
        remaining_impact=None,
    ).lastrowid
    assert run_number is not None  # noqa: S101 - an INSERT of one row has one
    for position, action in enumerate(actions):
        add_action(connection, run_number, position, action)
    return run_number


def add_action(
    connection: Connection, run_number: int, position: int, action: RecoveryAction
) -> None:
    """Record one more action of a run that is under way."""
    _INSERT_ACTION.run(
        connection,
        run_number=run_number,
        position=position,
        kind=action.kind,
        schema_name=action.schema_name,
        reason=action.reason,
        outcome=None,
        detail=None,
        completed_at=None,
    )


def record_step(
    connection: Connection, run_number: int, position: int, step: RecoveryStep, at: datetime
) -> None:
    """Record the outcome of one action."""
    _RECORD_STEP.run(
        connection,
        run=run_number,
        at_position=position,
        result=step.outcome,
        what=step.detail,
        at=format_time(at),
    )


def end_run(
    connection: Connection,
    run_number: int,
    remaining: ReadinessImpact,
    at: datetime,
    *,
    keep: int | None,
) -> None:
    """Record that a run ended, and the remaining impact on readiness. Drop all but the newest
    `keep` runs; with None, drop nothing. A run that has not ended stays."""
    _END_RUN.run(connection, run=run_number, remaining=remaining, at=format_time(at))
    if keep is not None:
        _DROP_RUNS.run(connection, before=run_number - keep)


def unfinished_runs(connection: Connection) -> list[int]:
    """Return the numbers of the runs that have not ended, oldest first."""
    return [row["run_number"] for row in _SELECT_UNFINISHED.all(connection)]


def last_steps(connection: Connection) -> list[RecoveryStep]:
    """Return the steps of the newest run that ended, in order; empty before the first. The id of a
    batch is in the reason only."""
    return [
        RecoveryStep(
            action=RecoveryAction(
                kind=row["kind"], schema_name=row["schema_name"], reason=row["reason"]
            ),
            outcome=row["outcome"],
            detail=row["detail"],
        )
        for row in _SELECT_LAST_STEPS.all(connection)
    ]


def last_failures(connection: Connection) -> dict[tuple[str, str], str]:
    """Return why actions of the newest recovery that ran to its end failed, by kind and store."""
    return {
        (step.action.kind, step.action.schema_name): step.detail or "the cause is not on record"
        for step in last_steps(connection)
        if step.outcome is ActionOutcome.FAILED
    }


def record_quarantined(connection: Connection, quarantined: Sequence[QuarantinedFile]) -> None:
    """Record quarantined files. The same bytes of the same file are one quarantined file, with its
    number: it was quarantined when they last were, and has not been restored since."""
    _INSERT_QUARANTINED.run_many(
        connection,
        [{**item.model_dump(mode="json"), "quarantine_number": None} for item in quarantined],
    )


def mark_restored(connection: Connection, quarantine_number: int, at: datetime) -> None:
    """Record that a quarantined file was restored to its place."""
    _MARK_RESTORED.run(connection, number=quarantine_number, at=format_time(at))


def find_quarantined(connection: Connection, quarantine_number: int) -> QuarantinedFile | None:
    """Return the quarantined file with a number, or None."""
    row = _SELECT_ONE_QUARANTINED.first(connection, number=quarantine_number)
    return None if row is None else QuarantinedFile.model_validate(row)


def find_quarantined_at(connection: Connection, quarantine_path: str) -> QuarantinedFile | None:
    """Return the quarantined file at a path, or None."""
    row = _SELECT_QUARANTINED_AT.first(connection, path=quarantine_path)
    return None if row is None else QuarantinedFile.model_validate(row)


def list_quarantined(connection: Connection) -> list[QuarantinedFile]:
    """Return all quarantined files, oldest first."""
    return [QuarantinedFile.model_validate(row) for row in _SELECT_QUARANTINED.all(connection)]


def drop_quarantined(connection: Connection, quarantine_number: int) -> None:
    """Delete the row of a quarantined file that is gone."""
    _DELETE_QUARANTINED.run(connection, number=quarantine_number)


# --- statements ---------------------------------------------------------------------------------

_INSERT_RUN = Statement(insert(recovery_runs))
_INSERT_ACTION = Statement(insert(recovery_actions))
_RECORD_STEP = Statement(
    update(recovery_actions)
    .where(
        recovery_actions.c.run_number == bindparam("run"),
        recovery_actions.c.position == bindparam("at_position"),
    )
    .values(outcome=bindparam("result"), detail=bindparam("what"), completed_at=bindparam("at"))
)
_END_RUN = Statement(
    update(recovery_runs)
    .where(recovery_runs.c.run_number == bindparam("run"))
    .values(completed_at=bindparam("at"), remaining_impact=bindparam("remaining"))
)
_DROP_RUNS = Statement(
    delete(recovery_runs).where(
        recovery_runs.c.run_number <= bindparam("before"),
        recovery_runs.c.completed_at.is_not(None),
    )
)
_SELECT_UNFINISHED = Statement(
    select(recovery_runs.c.run_number)
    .where(UNFINISHED_CONDITION)
    .order_by(recovery_runs.c.run_number)
)
_last_run = (
    select(func.max(recovery_runs.c.run_number))
    .where(recovery_runs.c.completed_at.is_not(None))
    .scalar_subquery()
)
_SELECT_LAST_STEPS = Statement(
    select(recovery_actions)
    .where(recovery_actions.c.run_number == _last_run, recovery_actions.c.outcome.is_not(None))
    .order_by(recovery_actions.c.position)
)
_KEPT_AGAIN = ("schema_name", "reason", "quarantined_at", "plan_id", "batch_id", "restored_at")
"""What is new of a quarantined file whose bytes were quarantined before."""
_kept = sqlite_insert(quarantined_files)
_INSERT_QUARANTINED = Statement(
    _kept.on_conflict_do_update(
        index_elements=[quarantined_files.c.quarantine_path],
        set_={name: _kept.excluded[name] for name in _KEPT_AGAIN},
    )
)
_MARK_RESTORED = Statement(
    update(quarantined_files)
    .where(quarantined_files.c.quarantine_number == bindparam("number"))
    .values(restored_at=bindparam("at"))
)
_SELECT_ONE_QUARANTINED = Statement(
    select(quarantined_files).where(quarantined_files.c.quarantine_number == bindparam("number"))
)
_SELECT_QUARANTINED_AT = Statement(
    select(quarantined_files).where(quarantined_files.c.quarantine_path == bindparam("path"))
)
_DELETE_QUARANTINED = Statement(
    delete(quarantined_files).where(quarantined_files.c.quarantine_number == bindparam("number"))
)
_SELECT_QUARANTINED = Statement(
    select(quarantined_files).order_by(
        quarantined_files.c.quarantined_at, quarantined_files.c.quarantine_number
    )
)
