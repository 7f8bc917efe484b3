"""Positive controls: the library broken on purpose, in ways that the suite must catch.

Each control replaces a part of the package, in a process of its own, and goes through the same
enumerations as the real one. One that is not caught means that the suite looks away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from rtstore import (
    BatchFailedError,
    Database,
    FileInspector,
    FileSystem,
    Inspection,
    InspectionState,
    WriterLock,
)
from rtstore.commit import in_doubt, writer
from rtstore.commit.flushing import FlushKnowledge
from rtstore.commit.pruner import Pruner
from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import QuarantineKeeper
from rtstore.commit.update import Update
from rtstore.commit.writer import BatchWriter, Logged, Planned, Published
from rtstore.control import batches, contents, lock, manifest, revisions, runs
from rtstore.control.sqlite.statements import driver_of
from rtstore.files import durable, quarantine
from rtstore.files.paths import store_path
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import content_hash
from rtstore.model.records import (
    ActionKind,
    LoggedBatch,
    ManifestEntry,
    PlannedDeletion,
    PlannedWrite,
    RecoveryPlan,
)
from rtstore.recovery import execute as recovery_module
from rtstore.recovery.execute import Recovery
from rtstore.recovery.gather import RecoveryPlanner
from tests.crash.faults import fail_everywhere
from tests.crash.kills import kill_everywhere, kill_recoveries
from tests.crash.live_writer import visit_everywhere
from tests.crash.power_loss import cut_power_everywhere
from tests.crash.workers import Job


@dataclass(frozen=True)
class Control:
    """One way to break the library, and the enumerations that are to catch it."""

    break_it: Callable[[], None]
    """Replaces parts of the package in this process. Its docstring says what is wrong then."""
    tries: tuple[tuple[Job, str], ...]
    """Enumerations with their scenarios."""
    calls: tuple[str, ...] = ()
    """In the fast part only the points of these calls are tried."""


def _replace(owner: Any, name: str, new: Any) -> Any:
    """Put something else in a place of the package; gives what was there."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    return old


# --- the log ------------------------------------------------------------------------------------


def rename_before_log() -> None:
    """The files are renamed before the batch is in the log."""

    def log(self: BatchWriter, first: Planned, *rest: Planned) -> Any:
        for descriptor, encoded in first.plan.draft.encoded:
            path = store_path(self.directory, descriptor.relative_path)
            content = encoded.at(self._clock())
            durable.replace(
                path,
                content,
                mtime_ns=None,
                flush=False,
                within=self.directory,
                fs=self.publisher.fs,
            )
        return real(self, first, *rest)

    real = _replace(BatchWriter, "_log", log)


_flush_nothing: list[bool] = []


def _let_flushes_be_skipped() -> None:
    def write(self: Database, *, flush: bool) -> Any:
        return real(self, flush=flush and not _flush_nothing)

    real = _replace(Database, "write", write)


def log_not_flushed() -> None:
    """The log is committed with NORMAL: nothing is flushed."""
    _let_flushes_be_skipped()
    _flush_nothing.append(True)


def contents_pruned_too_early() -> None:
    """The history is dropped without a look at what is current."""

    def prune(_: Pruner, connection: Connection, logged: Sequence[LoggedBatch]) -> bool:
        _let_everything_be_deleted(connection)
        sql = "DELETE FROM store_contents WHERE batch_number < ?"
        driver_of(connection).execute(sql, (logged[-1].batch.batch_number,))
        return False

    _replace(Pruner, "prune", prune)


def _let_everything_be_deleted(connection: Connection) -> None:
    """Take away what the database holds by itself."""
    for name in ("store_contents_in_use_stay", "write_batches_in_use_stay"):
        driver_of(connection).execute(f"DROP TRIGGER IF EXISTS {name}")


def open_batches_pruned() -> None:
    """Batches that a dead writer left are finished one by one, and with each go contents that those
    after it need."""
    sql = """
        DELETE FROM store_contents WHERE schema_name = ?1 AND batch_number < (
          SELECT batch_number FROM store_contents WHERE schema_name = ?1
          ORDER BY batch_number DESC LIMIT 1 OFFSET ?2
        ) AND batch_number > ?3
        """

    def take(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
        keep = publisher.retention.contents_per_store or 1
        for logged in left:
            real([logged], publisher)
            with publisher.database.write(flush=False) as connection:
                _let_everything_be_deleted(connection)
                for write in logged.writes:
                    values = (write.schema_name, keep - 1, logged.batch.batch_number)
                    driver_of(connection).execute(sql, values)

    real = _replace(in_doubt, "take_to_their_end", take)
    _replace(recovery_module, "take_to_their_end", take)


def batches_forgotten_unflushed() -> None:
    """Batches are dropped from the history whatever the medium may hold of them."""
    _replace(FlushKnowledge, "may_forget", lambda _, __, numbers, newest: numbers)


def beginnings_taken_for_theirs() -> None:
    """A file that is a beginning of what we wrote is taken for changed by somebody else."""
    _replace(contents, "is_beginning", lambda *_: False)


def failed_flush_forgotten() -> None:
    """A flush of the database that failed is taken for one that can be tried again."""

    def commit(self: Database, *rest: Any) -> None:
        try:
            real(self, *rest)
        finally:
            self._failure = None

    real = _replace(Database, "_commit", commit)


# --- publishing and completing
# ---------------------------------------------------------------------


def complete_before_publish() -> None:
    """The batch is committed before its files are there."""
    completed: dict[str, int] = {}

    def publish(self: BatchWriter, item: Logged, *rest: Any) -> None:
        completed[item.plan.batch_id] = real_complete(self.publisher, item.logged)
        real_publish(self, item, *rest)

    def complete(self: Publisher, logged: LoggedBatch) -> Any:
        return completed.pop(logged.batch.batch_id, None) or real_complete(self, logged)

    real_publish = _replace(BatchWriter, "_publish", publish)
    real_complete = _replace(Publisher, "complete", complete)


def written_in_place() -> None:
    """A file is written under its own name instead of a temporary one."""

    def publish(self: Publisher, write: PlannedWrite, content: bytes, *_: Any) -> None:
        path = store_path(self.directory, write.relative_path)
        durable.make_directories(path.parent, self.fs)
        path.unlink(missing_ok=True)
        descriptor = self.fs.create(path, 0o600)
        durable._fill(descriptor, content, None, write.mtime_ns, None, flush=False, fs=self.fs)

    _replace(Publisher, "publish", publish)


def short_writes_believed() -> None:
    """A write that was short is taken for a whole one."""

    class Once(FileSystem):
        """Says that everything was written, whatever was."""

        def __init__(self, fs: FileSystem) -> None:
            self.fs = fs

        def write(self, descriptor: int, content: memoryview) -> int:
            self.fs.write(descriptor, content)
            return len(content)

        def set_mode(self, descriptor: int, mode: int) -> None:
            self.fs.set_mode(descriptor, mode)

        def set_mtime(self, descriptor: int, mtime_ns: int) -> None:
            self.fs.set_mtime(descriptor, mtime_ns)

        def fsync(self, descriptor: int) -> None:
            self.fs.fsync(descriptor)

        def close(self, descriptor: int) -> None:
            self.fs.close(descriptor)

    def fill(*arguments: Any, fs: FileSystem, **options: Any) -> Any:
        return real(*arguments, fs=Once(fs), **options)

    real = _replace(durable, "_fill", fill)


def files_not_flushed() -> None:
    """`durability="files"` flushes no files."""

    def publish(self: Publisher, write: PlannedWrite, content: bytes, *_: Any) -> None:
        path = store_path(self.directory, write.relative_path)
        durable.replace(
            path, content, mtime_ns=write.mtime_ns, flush=False, within=self.directory, fs=self.fs
        )

    _replace(Publisher, "publish", publish)


def database_named_too_early() -> None:
    """A new database has its name before it is whole."""

    def create(
        path: Path, fs: FileSystem, fill: Callable[[Connection], None], *, lock: WriterLock | None
    ) -> None:
        assert lock is not None
        fs.close(fs.create(path, 0o600))
        with revisions.revision_connection(path, create=True) as connection:
            revisions.run_revisions(connection)
            fill(connection)
        revisions._make_wal(path)
        fs.fsync_directory(path.parent)

    _replace(revisions, "create", create)


# --- deletions ----------------------------------------------------------------------------------


def entry_of_deleted_stays() -> None:
    """The file of a deleted store goes, and its entry stays."""
    _replace(manifest, "_delete_entries", lambda *_: None)


def deletion_not_rolled_forward() -> None:
    """A batch that a dead writer left is finished without its deletions."""

    def load_open(connection: Connection) -> tuple[LoggedBatch, ...]:
        found: tuple[LoggedBatch, ...] = real(connection)
        kept = [item.model_copy(update={"deletions": ()}) for item in found if item.writes]
        return tuple(kept)

    real = _replace(batches, "load_open", load_open)


def removed_not_looked_at() -> None:
    """What somebody wrote just before the file of a store is removed goes with it."""

    def delete(self: Publisher, deletion: PlannedDeletion, *_: Any) -> None:
        path = store_path(self.directory, deletion.relative_path)
        temporary = durable.temporary_path(path)
        self.fs.rename(path, temporary)
        self.fs.unlink(temporary)

    _replace(Publisher, "delete", delete)


def deletion_not_undone() -> None:
    """A batch that failed leaves the files away that it has removed."""

    def undo(self: Publisher, logged: LoggedBatch, *rest: Any) -> None:
        real(self, logged.model_copy(update={"deletions": ()}), *rest)

    real = _replace(Publisher, "undo", undo)


def deleted_file_left_when_it_is_back() -> None:
    """The file of a deleted store that a loss of power brought back is left alone."""

    def is_ours(
        self: RecoveryPlanner, inspection: Inspection, entry: ManifestEntry | None, **options: Any
    ) -> bool:
        return entry is not None and bool(real(self, inspection, entry, **options))

    real = _replace(RecoveryPlanner, "_is_ours", is_ours)


# --- batches that share a flush -----------------------------------------------------------------


def group_not_flushed() -> None:
    """The log of several batches is committed with NORMAL; that of one is flushed."""
    _let_flushes_be_skipped()

    def log(self: BatchWriter, *going: Any) -> Any:
        _flush_nothing.extend([True] if len(going) > 1 else [])
        try:
            return real(self, *going)
        finally:
            _flush_nothing.clear()

    real = _replace(BatchWriter, "_log", log)


def several_updated_one_by_one() -> None:
    """An update of several stores writes each of them as a batch of its own."""

    def update(self: BatchWriter, update: Update, **options: Any) -> Any:
        batch = None
        for descriptor in update.descriptors:
            alone = update._replace(
                change=partial(_change_one, update, descriptor.schema_name),
                batch_id=f"{update.batch_id}-{descriptor.schema_name}",
            )
            batch = real(self, alone, **options) or batch
        return batch

    real = _replace(BatchWriter, "update", update)


def _change_one(update: Update, name: str, data: dict[str, Any]) -> dict[str, Any]:
    return {name: update.change(deepcopy(data))[name]}


def newest_rolled_forward_first() -> None:
    """Of several open batches the newest is finished first."""

    def load_open(connection: Connection) -> tuple[LoggedBatch, ...]:
        found: tuple[LoggedBatch, ...] = real(connection)
        return found[::-1]

    real = _replace(batches, "load_open", load_open)


def shared_store_left_behind() -> None:
    """When one batch of a group fails, the store that it shared with the others is not published
    again."""

    def together(self: BatchWriter, logged: Sequence[Logged]) -> list[Published]:
        last = {name: item.number for item in logged for name in item.plan.content_of}
        going = []
        for item in logged:
            due = {name for name in item.plan.content_of if last[name] == item.number}
            try:
                self._publish(item, due, ())
                going.append(Published(item.pending_batch, item.logged))
            except BatchFailedError as error:
                item.pending_batch.error = error
        return going

    _replace(BatchWriter, "_publish_together", together)


# --- failing ------------------------------------------------------------------------------------


def failed_batch_comes_back() -> None:
    """A batch that could not be published is undone, but not recorded as failed."""
    _replace(Publisher, "mark_failed", lambda *_: None)


def failure_not_flushed() -> None:
    """A batch is recorded as failed without a flush before it is undone."""
    _let_flushes_be_skipped()

    def mark_failed(self: Publisher, logged: LoggedBatch, cause: str) -> None:
        _flush_nothing.append(True)
        try:
            real(self, logged, cause)
        finally:
            _flush_nothing.pop()

    real = _replace(Publisher, "mark_failed", mark_failed)


def failed_batch_not_undone() -> None:
    """A batch that failed leaves the files that it published."""
    _replace(Publisher, "undo", lambda *_: None)


# --- quarantine ---------------------------------------------------------------------------------


def quarantine_skipped() -> None:
    """What somebody else changed is overwritten without a copy."""
    _replace(QuarantineKeeper, "_is_foreign", lambda *_: False)


def replaced_not_looked_at() -> None:
    """What somebody wrote after the look at a file is removed with the version it replaced."""
    _replace(QuarantineKeeper, "quarantine_replaced", lambda *_: None)


def trade_forgotten() -> None:
    """What a dead writer's version replaced is looked at only where that version is whole."""

    def finish(self: Publisher, write: PlannedWrite, *rest: Any) -> None:
        if self.holds(write):
            real(self, write, *rest)

    real = _replace(Publisher, "resolve_exchange", finish)
    left_not_looked_at()


def new_name_taken_away() -> None:
    """A store's first file is renamed over whatever somebody put there meanwhile."""

    def rename(_: FileSystem, source: Path, target: Path) -> bool:
        os.replace(source, target)
        return True

    _replace(FileSystem, "rename_new", rename)


def left_not_looked_at() -> None:
    """What a dead writer left under a temporary name is removed, whatever it is."""
    _replace(Publisher, "on_stale_temp", lambda *_: None)


def quarantine_not_flushed() -> None:
    """The copy of what somebody else changed is not flushed before the file is overwritten."""

    def keep(directory: Path, relative_path: str, content: bytes, fs: FileSystem) -> str:
        kept_at = quarantine.quarantine_path(relative_path, content_hash(content))
        durable.replace(
            directory / kept_at, content, mtime_ns=None, flush=False, within=directory, fs=fs
        )
        return kept_at

    _replace(quarantine, "keep", keep)


# --- recovery -----------------------------------------------------------------------------------


def preparing_rolled_back() -> None:
    """Opening a store takes an unfinished batch back instead of forward."""

    def finish(self: Recovery, team_name: str, refuse: Callable[[Any], object]) -> Any:
        if not self._lock.is_held():
            with self._lock.hold():
                for logged in self._planner._receipt_store.open_batches():
                    self._publisher.mark_failed(logged, "its writer died")
                    self._publisher.undo(logged)
        return real(self, team_name, refuse)

    real = _replace(Recovery, "auto_recover", finish)


def only_open_batches_checked() -> None:
    """Opening a store finishes open batches and looks at no file of a committed one."""

    def safe(_: Recovery, plan: RecoveryPlan) -> list[Any]:
        return [action for action in plan.actions if action.kind is ActionKind.ROLL_FORWARD]

    _replace(Recovery, "_safe", safe)


def mtime_trusted_in_recovery() -> None:
    """A file whose size and time are right is taken for whole."""

    def inspect(
        self: FileInspector, descriptor: Descriptor, entry: ManifestEntry | None
    ) -> Inspection:
        inspection: Inspection = real(self, descriptor, entry)
        try:
            found = os.stat(store_path(self.directory, descriptor.relative_path))
        except OSError:
            return inspection
        if entry and (found.st_size, found.st_mtime_ns) == (entry.file_size, entry.mtime_ns):
            healthy = {"state": InspectionState.HEALTHY, "message": None, "fault": None}
            return inspection.model_copy(update=healthy)
        return inspection

    real = _replace(FileInspector, "inspect", inspect)


def receipts_regenerated() -> None:
    """Recovery finishes a batch under receipt ids of its own."""

    def take(left: Sequence[LoggedBatch], publisher: Publisher) -> None:
        sql = "UPDATE batch_writes SET receipt_id = receipt_id || '-again' WHERE batch_number = ?"
        with publisher.database.write(flush=True) as connection:
            for logged in left:
                driver_of(connection).execute(sql, (logged.batch.batch_number,))
        real([_with_other_receipts(logged) for logged in left], publisher)

    real = _replace(in_doubt, "take_to_their_end", take)
    _replace(recovery_module, "take_to_their_end", take)


def _with_other_receipts(logged: LoggedBatch) -> LoggedBatch:
    renamed = [
        write.model_copy(update={"receipt_id": f"{write.receipt_id}-again"})
        for write in logged.writes
    ]
    return logged.model_copy(update={"writes": tuple(renamed)})


# --- runs ---------------------------------------------------------------------------------------


def no_fence() -> None:
    """A batch of a run that ended or was superseded is written like any other."""

    def admit(connection: Connection, logged: LoggedBatch, directory: Path) -> None:
        if runs.find(connection, str(logged.batch.run_id)) is None:
            real(connection, logged, directory)

    real = _replace(runs, "admit", admit)
    _replace(writer, "check_run", lambda *_: None)


def run_begun_without_its_stores() -> None:
    """A run is active as soon as its first batch is logged, and stays so when that fails."""

    def admit(connection: Connection, logged: LoggedBatch, directory: Path) -> None:
        real(connection, logged, directory)
        if runs.active_id(connection) != logged.batch.run_id:
            runs.complete(connection, [logged])

    real = _replace(runs, "admit", admit)


def end_not_flushed() -> None:
    """The end of a run is acknowledged before it is flushed."""
    _let_flushes_be_skipped()

    def end_run(self: BatchWriter, *rest: Any, **options: Any) -> Any:
        _flush_nothing.append(True)
        try:
            return real(self, *rest, **options)
        finally:
            _flush_nothing.pop()

    real = _replace(BatchWriter, "end_run", end_run)


def no_lock() -> None:
    """Nobody takes the writer lock."""

    _replace(lock, "_lock", lambda _: True)
    _replace(WriterLock, "_lock_directory", lambda _, __: True)
    _replace(WriterLock, "is_held", lambda _: False)


CONTROLS: Mapping[str, Control] = {
    control.break_it.__name__: control
    for control in (
        Control(rename_before_log, ((kill_everywhere, "write_over"),)),
        Control(log_not_flushed, ((cut_power_everywhere, "update"),)),
        Control(contents_pruned_too_early, ((kill_everywhere, "open_torn"),)),
        Control(open_batches_pruned, ((cut_power_everywhere, "write_many_together"),)),
        Control(batches_forgotten_unflushed, ((cut_power_everywhere, "write_many"),)),
        Control(beginnings_taken_for_theirs, ((cut_power_everywhere, "write_over"),)),
        Control(failed_flush_forgotten, ((fail_everywhere, "write_over"),), ("COMMIT",)),
        Control(complete_before_publish, ((visit_everywhere, "update"),)),
        Control(written_in_place, ((kill_everywhere, "update"),)),
        Control(short_writes_believed, ((fail_everywhere, "update"),), ("write",)),
        Control(files_not_flushed, ((cut_power_everywhere, "write_flushed"),)),
        Control(database_named_too_early, ((kill_everywhere, "import"),)),
        Control(group_not_flushed, ((cut_power_everywhere, "write_together"),)),
        Control(several_updated_one_by_one, ((kill_everywhere, "update_several"),)),
        Control(newest_rolled_forward_first, ((kill_everywhere, "write_together"),)),
        Control(shared_store_left_behind, ((fail_everywhere, "write_together"),), ("create",)),
        Control(failed_batch_comes_back, ((kill_everywhere, "write_refused"),)),
        Control(failure_not_flushed, ((cut_power_everywhere, "write_refused"),)),
        Control(failed_batch_not_undone, ((kill_everywhere, "write_refused"),)),
        Control(quarantine_skipped, ((kill_everywhere, "write_mixed"),)),
        Control(replaced_not_looked_at, ((kill_everywhere, "write_raced"),)),
        Control(trade_forgotten, ((cut_power_everywhere, "write_raced"),)),
        Control(new_name_taken_away, ((kill_everywhere, "new_raced"),)),
        Control(left_not_looked_at, ((kill_everywhere, "torn_raced"),)),
        Control(quarantine_not_flushed, ((cut_power_everywhere, "write_mixed"),)),
        Control(preparing_rolled_back, ((cut_power_everywhere, "update"),)),
        Control(only_open_batches_checked, ((kill_everywhere, "open_torn"),)),
        Control(mtime_trusted_in_recovery, ((kill_everywhere, "open_torn"),)),
        Control(receipts_regenerated, ((cut_power_everywhere, "update"),)),
        Control(no_fence, ((kill_everywhere, "zombie"),)),
        Control(run_begun_without_its_stores, ((fail_everywhere, "begin_run"),), ("create",)),
        Control(end_not_flushed, ((cut_power_everywhere, "end_run"),)),
        Control(entry_of_deleted_stays, ((kill_everywhere, "delete_alone"),)),
        Control(deletion_not_rolled_forward, ((kill_everywhere, "delete_together"),)),
        Control(removed_not_looked_at, ((kill_everywhere, "delete_raced"),)),
        Control(deletion_not_undone, ((fail_everywhere, "delete_refused"),), ("rename",)),
        Control(deleted_file_left_when_it_is_back, ((cut_power_everywhere, "delete_alone"),)),
        Control(no_lock, ((visit_everywhere, "update"), (kill_recoveries, "write_over"))),
    )
}
"""By name."""
