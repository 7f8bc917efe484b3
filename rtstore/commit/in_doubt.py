"""Batches that a dead writer left open, finished from the log by whoever comes next.

They go forward together, as they would have been written together: each store is published once,
with the last of its versions, then one transaction completes all of them in their order. So only
the contents of the last versions are needed; what a later batch has superseded is history.

A content that is not in the log (an older version of the library dropped some too early, or
somebody deleted it) is looked for in the store's file and in quarantine. If nobody has it, its
batch can never be completed: it is recorded as failed, with what is gone, and the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import Expected, StoreFile
from rtstore.control import batches, contents, manifest, recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.errors import OpenBatchError, StorageError, UnsafePathError, cause_of
from rtstore.files import durable
from rtstore.files.paths import store_path
from rtstore.files.quarantine import quarantined_path
from rtstore.model.decide import build_plan
from rtstore.model.envelope import content_hash
from rtstore.model.ids import new_plan_id
from rtstore.model.records import (
    ActionOutcome,
    Batch,
    BatchState,
    LoggedBatch,
    PlannedWrite,
    ReadinessImpact,
    RecoveryAction,
    RecoveryStep,
    RecoveryTrigger,
)

logger = logging.getLogger("rtstore.recovery")


def resolve_in_doubt(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
    """Take open batches to their end before a batch is written, and record it like any recovery.

    The caller holds the writer lock and is about to write a batch of its own, so nothing needs to
    be flushed here. Raises `OpenBatchError` when that cannot be done now; a `StopError` comes out
    unchanged. The batches then stay open.
    """
    began_at, database, clock = time.perf_counter(), publisher.database, publisher.clock
    plan = build_plan(
        plan_id=new_plan_id(),
        created_at=clock(),
        team_name=left[0].batch.team_name,
        expected=None,
        manifest=database.read_on_writer(manifest.load),
        descriptors=(),
        findings={},
        open_batches=left,
    )
    with database.write(flush=False) as connection:
        number = recovery_log.begin_run(
            connection, plan, plan.actions, RecoveryTrigger.WRITE, clock()
        )
    try:
        take_to_their_end(left, publisher)
    except (OSError, StorageError) as error:
        batch_id, directory = left[0].batch.batch_id, database.path.parent
        raise OpenBatchError(batch_id, cause_of(error), directory) from error
    steps = [step_of(action, database) for action in plan.actions]
    with database.write(flush=False) as connection:
        for position, step in enumerate(steps):
            recovery_log.record_step(connection, number, position, step, clock())
        keep = publisher.retention.batches
        recovery_log.end_run(connection, number, ReadinessImpact.NONE, clock(), keep=keep)
    duration_s = time.perf_counter() - began_at
    publisher.events.recovered(number, RecoveryTrigger.WRITE, steps, duration_s)


def step_of(action: RecoveryAction, database: Database) -> RecoveryStep:
    """What became of the action to roll a batch forward, once `take_to_their_end` has returned."""
    find = partial(batches.find_batch, batch_id=str(action.batch_id))
    batch: Batch | None = database.read(find)
    if batch is not None and batch.state is BatchState.FAILED:
        return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=batch.last_error)
    detail = f"batch {action.batch_id} finished from the log"
    return RecoveryStep(action=action, outcome=ActionOutcome.DONE, detail=detail)


def take_to_their_end(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
    """Commit open batches from the log, all of them, oldest first; those that cannot be completed
    fail. The caller holds the writer lock.

    The decision to go forward is recorded before the first file is touched, so that a second crash
    continues it. Files that already hold what is to be written are left as they are. Raises
    OSError, `StorageError`, `NewerStoreFileError` or `UnsafePathError` when a file cannot be
    replaced; the batches then stay open.
    """
    going, content_of = _completable(left, publisher)
    if not going:
        return
    with publisher.database.write(flush=True) as connection:
        for logged in going:
            if logged.batch.state is BatchState.PREPARING:
                batches.change_state(connection, logged, BatchState.COMMITTING)
    due = _last_versions(going)
    entries = publisher.entries([version.write.schema_name for version in due])
    for version in due:
        write, batch_id = version.write, version.logged.batch.batch_id
        entry = entries.get(write.schema_name)
        # Wherever names were traded: after a loss of power the file may not show it.
        publisher.resolve_exchange(write, version.first, batch_id, entry)
        if publisher.holds(write):
            continue
        kept = publisher.quarantine.keep(StoreFile.of(write), entry, batch_id, None)
        expected = Expected.after(kept, entry)
        publisher.publish(write, content_of[version.key], batch_id, expected)
    publisher.complete_in_doubt(going)


class _Version(NamedTuple):
    """The last of the versions of a store that open batches write."""

    logged: LoggedBatch
    write: PlannedWrite
    first: int
    """The number of the first open batch that writes the store."""

    @property
    def key(self) -> tuple[int, str]:
        return self.logged.batch.batch_number, self.write.schema_name


def _last_versions(going: Sequence[LoggedBatch]) -> list[_Version]:
    """The last version of each store, in the order in which they are written."""
    first: dict[str, int] = {}
    last: dict[str, _Version] = {}
    for logged in going:
        for write in logged.writes:
            name = write.schema_name
            first.setdefault(name, logged.batch.batch_number)
            last.pop(name, None)
            last[name] = _Version(logged, write, first[name])
    return list(last.values())


def _completable(
    left: Sequence[LoggedBatch], publisher: Publisher
) -> tuple[list[LoggedBatch], Mapping[tuple[int, str], bytes]]:
    """The batches that can be completed, with the contents of the last versions. The others are
    recorded as failed, and what they had put on disk is undone."""
    going, found = list(left), dict[tuple[int, str], bytes]()
    while True:
        for version in _last_versions(going):
            content = found.get(version.key) or _content(version, publisher)
            if content is None:
                _give_up(version, publisher)
                going.remove(version.logged)
                break  # what the batches before it wrote is needed now
            found[version.key] = content
        else:
            return going, found


def _content(version: _Version, publisher: Publisher) -> bytes | None:
    """The bytes of a version: those in the log, or a copy of them that is found elsewhere, which is
    put into the log. None when nobody has them."""
    number, name = version.key
    content = publisher.database.read(
        lambda connection: contents.load_content(connection, number, name)
    )
    if content is not None and content_hash(content) == version.write.content_hash:
        return content
    content = _find(version.write, publisher)
    if content is not None:
        logger.warning("the content of %s in batch %s was found again", name, number)
        with publisher.database.write(flush=True) as connection:
            contents.put_content(connection, number, name, content)
    return content


def _find(write: PlannedWrite, publisher: Publisher) -> bytes | None:
    """A copy of what a batch was to write: in the store's file, or in quarantine."""
    path = store_path(publisher.directory, write.relative_path)
    places = [path, durable.temporary_path(path)]

    def kept(connection: Connection) -> list[str]:
        rows = recovery_log.list_quarantined(connection)
        return [row.quarantine_path for row in rows if row.content_hash == write.content_hash]

    for kept_at in publisher.database.read(kept):
        try:
            places.append(quarantined_path(publisher.directory, kept_at))
        except UnsafePathError:
            continue
    for place in places:
        try:
            content, _ = publisher.fs.read(place)
        except OSError:
            continue
        if content_hash(content) == write.content_hash:
            return content
    return None


def _give_up(version: _Version, publisher: Publisher) -> None:
    """Fail a batch whose content nobody has, and take back what it had put on disk."""
    name, batch = version.write.schema_name, version.logged.batch
    problem = (
        f"its content for {name} is gone: neither the log has it, nor the file, nor quarantine; "
        "so it can never be completed"
    )
    logger.error("batch %s is recorded as failed: %s", batch.batch_id, problem)
    publisher.mark_failed(version.logged, problem)
    publisher.undo(version.logged)
