"""Batches that a dead writer left, finished by the writer that comes next."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rtstore.database import manifest, recovery_log
from rtstore.errors import BatchUnfinishedError, cause_of
from rtstore.ids import new_plan_id
from rtstore.planning import build_plan
from rtstore.records import (
    ActionOutcome,
    LoggedBatch,
    ReadinessImpact,
    RecoveryStep,
    RecoveryTrigger,
)
from rtstore.writing.publication import Publisher


def finish_left_over(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
    """Roll open batches forward from the log, oldest first, and record it like any recovery.

    The caller holds the writer lock and is about to write a batch of its own, so nothing needs to
    be flushed here. Raises `BatchUnfinishedError` when a file cannot be replaced; what else
    `Publisher.roll_forward` raises comes out unchanged. The batch then stays open.
    """
    began_at, database, clock = time.perf_counter(), publisher.database, publisher.clock
    plan = build_plan(
        plan_id=new_plan_id(),
        created_at=clock(),
        team_name=left[0].batch.team_name,
        expected=None,
        manifest=database.read_as_writer(manifest.load),
        descriptors=(),
        findings={},
        open_batches=left,
    )
    with database.write(flush=False) as connection:
        number = recovery_log.begin_run(
            connection, plan, plan.actions, RecoveryTrigger.WRITE, clock()
        )
    for logged in left:
        try:
            publisher.roll_forward(logged)
        except OSError as error:
            raise BatchUnfinishedError(
                logged.batch.batch_id, cause_of(error), decided=True
            ) from error
    steps = [RecoveryStep(action=action, outcome=ActionOutcome.DONE) for action in plan.actions]
    with database.write(flush=False) as connection:
        for position, step in enumerate(steps):
            recovery_log.record_step(connection, number, position, step, clock())
        recovery_log.end_run(connection, number, ReadinessImpact.NONE, clock())
    duration_s = time.perf_counter() - began_at
    publisher.events.recovered(number, RecoveryTrigger.WRITE, steps, duration_s)
