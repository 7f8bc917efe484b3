"""Make lost entries again before a writer goes on from what is committed.

Opening does it, too. But somebody may take an entry out of the manifest while a process has the
directory open: without it, a run would leave the store out and name it nowhere, and an update would
begin from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial

from rtstore.commit.publisher import Publisher
from rtstore.control import manifest, recovery_log
from rtstore.control.lost_entries import lost_beside_files, lost_entries, make_again
from rtstore.model.decide import build_plan
from rtstore.model.ids import new_plan_id
from rtstore.model.records import (
    ActionOutcome,
    ReadinessImpact,
    RecoveryStep,
    RecoveryTrigger,
)

MADE_AGAIN = "its entry was made again from the last batch that wrote it"


def make_lost_entries(publisher: Publisher, names: Collection[str] = ()) -> bool:
    """Make every lost entry again whose store has a file, or is one of `names`, and record this
    like any recovery. Return whether there was one.

    The writer lock is held, and no batch is open. Durable on return.
    """
    publisher.database.assert_locked()
    began_at, database, clock = time.perf_counter(), publisher.database, publisher.clock
    lost = database.read_on_writer(partial(lost_beside_files, directory=publisher.directory))
    named = database.read_on_writer(lost_entries) if names else {}
    lost |= {name: number for name, number in named.items() if name in names}
    if not lost:
        return False
    current = database.read_on_writer(manifest.load)
    plan = build_plan(
        plan_id=new_plan_id(),
        created_at=clock(),
        team_name=current.team_name,
        expected=None,
        manifest=current,
        descriptors=(),
        findings={},
        lost_entries=lost,
    )
    steps = [
        RecoveryStep(action=action, outcome=ActionOutcome.DONE, detail=MADE_AGAIN)
        for action in plan.actions
    ]
    with database.write(flush=True) as connection:
        number = recovery_log.begin_run(
            connection, plan, plan.actions, RecoveryTrigger.WRITE, clock()
        )
        for position, step in enumerate(steps):
            name = step.action.schema_name
            make_again(connection, name, lost[name])
            recovery_log.record_step(connection, number, position, step, clock())
        keep = publisher.retention.batches
        recovery_log.end_run(connection, number, ReadinessImpact.NONE, clock(), keep=keep)
    duration_s = time.perf_counter() - began_at
    publisher.events.recovered(number, RecoveryTrigger.WRITE, steps, duration_s)
    return True
