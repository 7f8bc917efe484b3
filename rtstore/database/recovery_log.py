"""What recoveries did, and the evidence that was kept, in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from rtstore.database.schema import quarantined_files, recovery_actions, recovery_runs
from rtstore.records import (
    QuarantinedFile,
    ReadinessImpact,
    RecoveryAction,
    RecoveryPlan,
    RecoveryStep,
    RecoveryTrigger,
)
from rtstore.times import format_time


def begin_run(
    connection: Connection,
    plan: RecoveryPlan,
    actions: Sequence[RecoveryAction],
    started_by: RecoveryTrigger,
    started_at: datetime,
) -> int:
    """Record that these actions of a plan are about to be carried out; gives the run's number."""
    result = connection.execute(
        insert(recovery_runs),
        {
            "plan_id": plan.plan_id,
            "started_by": started_by,
            "high_watermark": plan.high_watermark,
            "readiness_impact": plan.readiness_impact,
            "started_at": format_time(started_at),
        },
    )
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 - an INSERT of one row has one
    run_number = int(key[0])
    for position, action in enumerate(actions):
        add_action(connection, run_number, position, action)
    return run_number


def add_action(
    connection: Connection, run_number: int, position: int, action: RecoveryAction
) -> None:
    """Record one more action of a run that is under way."""
    connection.execute(
        insert(recovery_actions),
        {
            "run_number": run_number,
            "position": position,
            "kind": action.kind,
            "schema_name": action.schema_name,
            "reason": action.reason,
        },
    )


def record_step(
    connection: Connection, run_number: int, position: int, step: RecoveryStep, at: datetime
) -> None:
    """Record what became of one action."""
    connection.execute(
        update(recovery_actions)
        .where(recovery_actions.c.run_number == run_number, recovery_actions.c.position == position)
        .values(outcome=step.outcome, detail=step.detail, completed_at=format_time(at))
    )


def end_run(
    connection: Connection, run_number: int, remaining: ReadinessImpact, at: datetime
) -> None:
    """Record that a run came to its end, and what is left."""
    connection.execute(
        update(recovery_runs)
        .where(recovery_runs.c.run_number == run_number)
        .values(completed_at=format_time(at), remaining_impact=remaining)
    )


def record_evidence(connection: Connection, evidence: Sequence[QuarantinedFile]) -> None:
    """Record files that were kept. The same bytes of the same store are one piece of evidence."""
    rows = [item.model_dump(mode="json", exclude={"quarantine_number"}) for item in evidence]
    if rows:
        statement = sqlite_insert(quarantined_files).on_conflict_do_nothing(
            index_elements=[quarantined_files.c.quarantine_path]
        )
        connection.execute(statement, rows)


def mark_restored(connection: Connection, quarantine_number: int, at: datetime) -> None:
    """Record that evidence was taken back to where it was."""
    connection.execute(
        update(quarantined_files)
        .where(quarantined_files.c.quarantine_number == quarantine_number)
        .values(restored_at=format_time(at))
    )


def list_evidence(connection: Connection) -> list[QuarantinedFile]:
    """All evidence, oldest first."""
    rows = connection.execute(
        select(quarantined_files).order_by(quarantined_files.c.quarantine_number)
    ).mappings()
    return [QuarantinedFile.model_validate(dict(row)) for row in rows]
