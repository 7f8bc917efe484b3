"""Resolve in-doubt batches: the next writer or recovery finishes them from the log.

They go forward together, like a group: each store is published once, with the last of its versions,
then one transaction completes all of them in their order. So only the contents of the last versions
are needed; superseded versions are history. A store that is deleted last has its file removed.

A content that is not in the log (an older version of the library dropped some too early, or
somebody deleted it) is searched for in the store's file and in quarantine. Without a copy, its
batch can never be completed: it is recorded as failed, with the lost store, and the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import CHANGED_AND_DELETED, Expected, StoreFile
from rtstore.control import batches, contents, manifest, recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    OpenBatchError,
    StatementRefusedError,
    StorageError,
    UnsafePathError,
    cause_of,
)
from rtstore.files import durable
from rtstore.files.owners import cause_explained
from rtstore.files.paths import store_path
from rtstore.files.quarantine import is_in_quarantine, quarantined_path
from rtstore.foreign import system_error
from rtstore.model.decide import build_plan
from rtstore.model.envelope import content_hash
from rtstore.model.ids import new_plan_id
from rtstore.model.records import (
    ActionOutcome,
    Batch,
    BatchState,
    LoggedBatch,
    ManifestEntry,
    PlannedChange,
    PlannedDeletion,
    PlannedWrite,
    ReadinessImpact,
    RecoveryAction,
    RecoveryStep,
    RecoveryTrigger,
)
from rtstore.shell import rtstore_at

logger = logging.getLogger("rtstore.recovery")


def resolve_in_doubt(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
    """Resolve in-doubt batches before a batch is written, and record this like any recovery.

    The caller is about to write a batch of its own, so the record needs no flush. Raises
    `OpenBatchError` when that cannot be done now; a `StopError` passes unchanged, unless the
    database refused a statement. The batches then stay open.
    """
    publisher.database.assert_locked()
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
    batch_id, directory = left[0].batch.batch_id, database.path.parent
    try:
        with database.write(flush=False) as connection:
            number = recovery_log.begin_run(
                connection, plan, plan.actions, RecoveryTrigger.WRITE, clock()
            )
    except StatementRefusedError as error:
        raise OpenBatchError(batch_id, cause_of(error), directory) from error
    try:
        take_to_their_end(left, publisher)
    except system_error(StorageError, StatementRefusedError, UnsafePathError) as error:
        raise OpenBatchError(batch_id, cause_explained(error), directory) from error
    steps = [step_of(action, database) for action in plan.actions]
    with database.write(flush=False) as connection:
        for position, step in enumerate(steps):
            recovery_log.record_step(connection, number, position, step, clock())
        keep = publisher.retention.batches
        recovery_log.end_run(connection, number, ReadinessImpact.NONE, clock(), keep=keep)
    duration_s = time.perf_counter() - began_at
    publisher.events.recovered(number, RecoveryTrigger.WRITE, steps, duration_s)


def step_of(action: RecoveryAction, database: Database) -> RecoveryStep:
    """Return the outcome of an action that rolls a batch forward, after `take_to_their_end`."""
    find = partial(batches.find_batch, batch_id=str(action.batch_id))
    batch: Batch | None = database.read(find)
    if batch is not None and batch.state is BatchState.FAILED:
        return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=batch.last_error)
    detail = f"batch {action.batch_id} finished from the log"
    return RecoveryStep(action=action, outcome=ActionOutcome.DONE, detail=detail)


def take_to_their_end(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
    """Commit all in-doubt batches from the log, oldest first. Record those that cannot be completed
    as failed.

    The decision to go forward is durable before the first file is touched, so after a second crash
    it is continued. Files that already hold the planned bytes stay as they are. Raises OSError,
    `StorageError`, `NewerStoreFileError` or `UnsafePathError` when a file cannot be replaced, and
    `StatementRefusedError`; the batches then stay open.
    """
    publisher.database.assert_locked()
    _check_paths(left, publisher.directory)
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
        # For every store: after a loss of power the file may not show that it was exchanged.
        publisher.resolve_exchange(write, version.first, batch_id, entry)
        if isinstance(write, PlannedDeletion):
            _delete(write, entry, batch_id, publisher)
            continue
        if publisher.holds(write):
            continue
        kept = publisher.quarantine.keep(StoreFile.of(write), entry, batch_id, None)
        expected = Expected.after(kept, entry)
        publisher.publish(write, content_of[version.key], batch_id, expected)
    publisher.complete_in_doubt(going)


def _check_paths(left: Sequence[LoggedBatch], directory: Path) -> None:
    """Raise `UnsafePathError` for a row of the log with a path that no store may have. The log took
    it, so somebody changed it since; the doctor says how to put it right."""
    for version in _last_versions(left):
        try:
            store_path(directory, version.write.relative_path)
        except UnsafePathError as error:
            problem = (
                f"{error.problem}. Somebody changed this row of batch "
                f"{version.logged.batch.batch_id}. What puts it right: "
                f"{rtstore_at('doctor', directory)}"
            )
            name = version.write.schema_name
            raise UnsafePathError(error.path, problem, store=name) from error


def _delete(
    deletion: PlannedDeletion, entry: ManifestEntry | None, batch_id: str, publisher: Publisher
) -> None:
    """Remove the file of a store that is deleted, unless it is gone already."""
    if not publisher.is_gone(deletion):
        kept = publisher.quarantine.keep(
            StoreFile.of(deletion), entry, batch_id, None, reason=CHANGED_AND_DELETED
        )
        publisher.delete(deletion, batch_id, Expected.after(kept, entry))


class _Version(NamedTuple):
    """The last version of a store that in-doubt batches write, or its deletion."""

    logged: LoggedBatch
    write: PlannedChange
    first: int
    """The number of the first in-doubt batch that writes or deletes the store."""

    @property
    def key(self) -> tuple[int, str]:
        return self.logged.batch.batch_number, self.write.schema_name


def _last_versions(going: Sequence[LoggedBatch]) -> list[_Version]:
    """Return the last version of each store, in the order in which they are written."""
    first: dict[str, int] = {}
    last: dict[str, _Version] = {}
    for logged in going:
        for write in logged.changes:
            name = write.schema_name
            first.setdefault(name, logged.batch.batch_number)
            last.pop(name, None)
            last[name] = _Version(logged, write, first[name])
    return list(last.values())


def _completable(
    left: Sequence[LoggedBatch], publisher: Publisher
) -> tuple[list[LoggedBatch], Mapping[tuple[int, str], bytes]]:
    """Return the batches that can be completed, and the contents of the last versions. Record the
    others as failed, and undo the files that they published."""
    going, found = list(left), dict[tuple[int, str], bytes]()
    while True:
        for version in _last_versions(going):
            if isinstance(version.write, PlannedDeletion):
                continue
            content = found.get(version.key) or _content(version, version.write, publisher)
            if content is None:
                _give_up(version, publisher)
                going.remove(version.logged)
                break  # the last version is now one of an earlier batch
            found[version.key] = content
        else:
            return going, found


def _content(version: _Version, write: PlannedWrite, publisher: Publisher) -> bytes | None:
    """Return the bytes of a version from the log. If they are missing there, find a copy elsewhere,
    and put it into the log. Return None when there is no copy."""
    number, name = version.key
    content = publisher.database.read(
        lambda connection: contents.load_content(connection, number, name)
    )
    if content is not None and content_hash(content) == write.content_hash:
        return content
    content = _find(write, publisher)
    if content is not None:
        logger.warning("the content of %s in batch %s was found again", name, number)
        with publisher.database.write(flush=True) as connection:
            contents.put_content(connection, number, name, content)
    return content


def _find(write: PlannedWrite, publisher: Publisher) -> bytes | None:
    """Return a copy of the bytes of a planned write from the store's file, its temporary file or
    quarantine, or None. Raises `UnsafePathError` where it may be in a quarantine that is not to be
    read now: then nothing is lost yet."""
    path = store_path(publisher.directory, write.relative_path)
    places = [path, durable.temporary_path(path)]

    def kept(connection: Connection) -> list[str]:
        rows = recovery_log.list_quarantined(connection)
        return [row.quarantine_path for row in rows if row.content_hash == write.content_hash]

    closed: UnsafePathError | None = None
    for kept_at in publisher.database.read(kept):
        try:
            places.append(quarantined_path(publisher.directory, kept_at))
        except UnsafePathError as error:
            if is_in_quarantine(kept_at):
                closed = error
    for place in places:
        try:
            content, _ = publisher.fs.read(place)
        except system_error():
            continue
        if content_hash(content) == write.content_hash:
            return content
    if closed is not None:
        raise closed
    return None


def _give_up(version: _Version, publisher: Publisher) -> None:
    """Record a batch whose content is lost as failed, and undo the files that it published."""
    name, batch = version.write.schema_name, version.logged.batch
    problem = (
        f"its content for {name} is gone: neither the log has it, nor the file, nor quarantine; "
        "so it can never be completed"
    )
    logger.error("batch %s is recorded as failed: %s", batch.batch_id, problem)
    publisher.mark_failed(version.logged, problem)
    publisher.undo(version.logged)
