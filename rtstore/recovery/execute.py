"""Execute a plan under the writer lock, step by step; record every step.

    1 lock      no writer is alive now, so every open batch is of a dead one
    2 check     the plan still fits: its team, its high watermark
    3 record    the run and its actions, before the first of them
    4 act       each action inspects its store again, quarantines, then changes the file
    5 rebuild   without the lock: functions of the runtime; what they return becomes a batch
    6 look      a new plan shows what remains; the run is complete

After an interruption at any point, run it again. Each action inspects its store again, an open
batch goes on where it stopped, and the same bytes have the same name in quarantine. A step that
fails is recorded as failed and leaves its store as it was; the other steps go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.commit.adopt import refuse_newer
from rtstore.commit.in_doubt import step_of, take_to_their_end
from rtstore.commit.lost_entries import MADE_AGAIN
from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import ANY_VERSION, Expected, StoreFile
from rtstore.control import batches, contents, manifest, recovery_log
from rtstore.control.lock import WriterLock
from rtstore.control.lost_entries import (
    entry_once_right,
    last_entry,
    lost_beside_files,
    lost_entries,
    make_again,
    put_right,
    with_content_once_right,
)
from rtstore.control.manifest import ManifestHead
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    ConflictError,
    InvalidRequestError,
    RecoveryFailedError,
    RuntimeStoreError,
    WrongTeamError,
    cause_of,
)
from rtstore.files.inspector import FileInspector
from rtstore.files.owners import barrier, cause_explained, folder_to_write
from rtstore.files.paths import runtime_directory_at, store_path
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.decide import (
    CONTENT_MISSING,
    ENTRY_ALTERED,
    ENTRY_MISSING,
    OF_ENTRY,
    REFUSED,
)
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    Inspection,
    InspectionState,
    LoggedBatch,
    ManifestEntry,
    RecoveryAction,
    RecoveryPlan,
    RecoveryReport,
    RecoveryStep,
    RecoveryTrigger,
)
from rtstore.model.times import Clock
from rtstore.recovery.gather import RecoveryPlanner
from rtstore.recovery.intentions import (
    STOP_AT_DIRECTORY,
    STOP_CLOSED,
    STOP_SHUT,
    STOPPING,
    Found,
    intended,
)
from rtstore.recovery.rebuilders import REBUILD_KINDS, Rebuilding
from rtstore.recovery.sweep import Sweeper
from rtstore.shell import shell_word

logger = logging.getLogger("rtstore.recovery")

SAFE_KINDS = frozenset({ActionKind.ROLL_FORWARD, ActionKind.RESTORE_COMMITTED})
"""The actions of an opening: they need no decision and lose nothing. So does one more: a file that
is at the new path of a store makes way."""


_NOT_IN_DATABASE = "its committed content is not in the database"
_NOT_ITS_FILE = "it was there before its store was given this file"
_NOT_FREE = "left where it was: the file that it is given is still another store's"
_EDITED_BEFORE = "former_file_edited"
"""The reason of an action: the file is as committed, but the one that the store had was edited."""
_CAME_ALONG = "its former file was edited, and the edit was copied to this one"
_UNEXPLAINED = (InspectionState.HASH_MISMATCH, InspectionState.UNCOMMITTED_WRITE)
_LINK = (
    "left as it is: it is, or is behind, a symbolic link, which is never followed nor replaced. A "
    "person must put what it leads to in its place, or remove it; status says which command does"
)


_WRITING = frozenset({*STOPPING, *REBUILD_KINDS})
"""The actions that write the file of their descriptor; another goes by the log."""


class _FormerFile(NamedTuple):
    """The file that a store had until an opening gives it another one."""

    relative_path: str
    edit: bytes | None
    """What somebody wrote to it that is to come along; None for no edit."""
    problem: str | None = None
    """Why nobody knows whether it was edited; else None."""


_NO_FORMER_FILE = _FormerFile("", None)


class _Run:
    """A recovery in progress: its number, its actions, and the steps done so far."""

    def __init__(
        self, number: int, actions: list[RecoveryAction], started_by: RecoveryTrigger
    ) -> None:
        self.number = number
        self.actions = actions
        self.started_by = started_by
        self.began_at = time.perf_counter()
        self.steps: dict[int, RecoveryStep] = {}

    def rebuilding(self, rebuilding: Rebuilding) -> set[str]:
        """Return the stores that this run already rebuilds."""
        return {action.schema_name for action in self.actions if rebuilding.concerns(action)}


class Recovery:
    """Executes plans for one runtime directory."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        planner: RecoveryPlanner,
        publisher: Publisher,
        lock: WriterLock,
        *,
        clock: Clock,
        fs: FileSystem,
    ) -> None:
        self._registry = registry
        self._database = database
        self._planner = planner
        self._publisher = publisher
        self._lock = lock
        self._clock = clock
        self._fs = fs
        self._inspector: FileInspector = planner.inspector
        self._directory: Path = planner.inspector.directory
        self._sweeper = Sweeper(registry, database, publisher, self._directory, fs)
        self.files_before: Mapping[str, str] = {}
        """While an opening gives stores other files than the directory remembers: those."""

    # --- the two ways in ------------------------------------------------------------------------

    def auto_recover(
        self, team_name: str, refuse: Callable[[Connection], object]
    ) -> RecoveryReport | None:
        """Run the recovery of an opening. Return its report, or None when nothing was needed.

        Takes the writer lock only when something is needed, and then asks `refuse` once more, which
        raises where stores cannot have the files of their descriptors: another process may have
        taken one since. Raises `RecoveryFailedError` when an
        open batch cannot be completed: nothing can be written before it is; and when what is at the
        new path of a store cannot be moved away: it would pass for the store's from then on. A
        batch whose contents are lost is recorded as failed instead; the report says so. Another
        file that cannot be restored is logged, and stays in the plan.
        """
        plan = self._planner.build_plan(team_name=team_name, expected=None)
        interrupted = self._database.read(recovery_log.unfinished_runs, autocommit=True)
        is_tidy = self._sweeper.is_tidy()
        if not self._safe(plan) and not interrupted and is_tidy:
            return None
        with self._lock.hold():
            self._database.read(refuse)
            plan = self._planner.build_plan(team_name=team_name, expected=None, locked=True)
            actions = self._safe(plan)
            if not actions:
                self._sweep()
                self._close_interrupted(plan)
                return None
            run = self._begin(plan, actions, RecoveryTrigger.OPEN)
            # Batches first: they may be what takes a store out of a file that another one gets.
            for position, action in sorted(enumerate(actions), key=_is_of_file):
                self._record(run, position, self._step(action, plan))
            failed = [step for step in run.steps.values() if _is_failed_batch(step)]
            if any(map(_lets_restore, actions)):
                self._restore_now(run, plan)
            self._sweep()
            report = self._end(run, plan)
            left = self._open_batches()
        failed = failed if left else []
        failed += [step for step in run.steps.values() if _is_failed_move(step)]
        for step in failed:
            raise RecoveryFailedError(
                f"{step.action.kind} ({step.action.schema_name})",
                self._directory,
                step.detail or "unknown cause",
            )
        return report

    def execute(self, plan: RecoveryPlan, team_name: str, rebuilding: Rebuilding) -> RecoveryReport:
        """Execute every action of a plan, and the rebuilds that it makes possible.

        Raises `WrongTeamError` and `ConflictError` when the plan does not fit (any more), and
        `StoreFileChangedError` when it would write a file that another program gave up for another
        one; then nothing is done. The report has the outcome of each action, failures included.
        """
        actions = [action for action in plan.actions if action.kind is not ActionKind.NONE]
        with self._lock.hold():
            self._check_fits(plan, team_name)
            self._refuse_moved(
                item for item in actions if item.kind in STOPPING or rebuilding.concerns(item)
            )
            if not actions:
                self._sweep()
                return RecoveryReport(run_number=None, plan=plan, steps=(), remaining=plan)
            run = self._begin(plan, actions, RecoveryTrigger.RECOVER)
            for position, action in enumerate(actions):
                if not rebuilding.concerns(action):
                    self._record(run, position, self._step(action, plan))
            if _makes_entries(actions):
                self._restore_now(run, plan)
            self._sweep()
            # A store whose file went to quarantine may need a rebuild now.
            for action in self._look_again(plan).actions:
                if rebuilding.concerns(action) and action.schema_name not in run.rebuilding(
                    rebuilding
                ):
                    self._append(run, action)
        left = [action for at, action in enumerate(run.actions) if at not in run.steps]
        rebuilt = rebuilding.rebuild(left)  # without the lock: rebuilders take their time
        for position, action in enumerate(run.actions):
            if position not in run.steps:
                with self._lock.hold():
                    self._record(run, position, rebuilt[action.schema_name])
        with self._lock.hold():
            return self._end(run, plan)

    def dry_run(self, plan: RecoveryPlan, team_name: str) -> RecoveryReport:
        """Return what `execute` would do. Changes nothing and takes no lock.

        The answer is of the moment of the plan: batches committed since do not matter.
        """
        self._check_team(plan, team_name)
        if not self._database.read_only:  # which may have any descriptors
            self._refuse_moved(item for item in plan.actions if item.kind in _WRITING)
        every = (*plan.actions, *plan.afterwards)
        actions = [action for action in every if action.kind is not ActionKind.NONE]
        names = {action.schema_name for action in actions}
        in_database = self._database.read(partial(with_content_once_right, names=names))
        steps = tuple(intended(it, in_database, self._foresee(it)) for it in actions)
        return RecoveryReport(run_number=None, plan=plan, steps=steps, remaining=plan)

    def _check_team(self, plan: RecoveryPlan, team_name: str) -> ManifestHead:
        head = self._database.read(manifest.load_head)
        if team_name != head.team_name or plan.team_name != head.team_name:
            raise WrongTeamError(self._directory, plan.team_name, head.team_name)
        return head

    def _check_fits(self, plan: RecoveryPlan, team_name: str) -> None:
        head = self._check_team(plan, team_name)
        if plan.high_watermark is None:
            raise InvalidRequestError("plan", "it names no high watermark: make one here")
        if plan.high_watermark != head.high_watermark:
            raise ConflictError("the plan", plan.high_watermark, head.high_watermark)

    def _refuse_moved(self, actions: Iterable[RecoveryAction]) -> None:
        """Raise `StoreFileChangedError` for an action whose store another program gave another
        file; `NewerStoreFileError` when it also brought the data up. An opening does not ask: it
        gives the stores the files of its descriptors."""
        names = {item.schema_name for item in actions}

        def query(connection: Connection) -> None:
            entries = manifest.load_entries(connection, names)
            for descriptor in self._registry:
                name = descriptor.schema_name
                if name in names and manifest.moved_to(connection, descriptor, entries.get(name)):
                    refuse_newer(descriptor, entries.get(name), self._directory)
                    manifest.refuse_moved(connection, descriptor, entries.get(name))

        if names:
            self._database.read(query)

    # --- a run: the writer lock is held -----------------------------------------------------------

    def _begin(
        self, plan: RecoveryPlan, actions: Sequence[RecoveryAction], started_by: RecoveryTrigger
    ) -> _Run:
        with self._database.write(flush=True) as connection:
            number = recovery_log.begin_run(connection, plan, actions, started_by, self._clock())
        return _Run(number, list(actions), started_by)

    def _restore_now(self, run: _Run, plan: RecoveryPlan) -> None:
        """Put back what can be put back only since an earlier step of the run; in an opening, what
        is at the new path of such a store makes way."""
        found, kinds = self._look_again(plan), {ActionKind.RESTORE_COMMITTED}
        is_opening = run.started_by is RecoveryTrigger.OPEN
        if is_opening:
            kinds.add(ActionKind.QUARANTINE)
        made = {action.schema_name for action in run.actions if action.reason in OF_ENTRY}
        others = (action for action in found.actions if action.schema_name in made)
        for action in self._safe(found) if is_opening else others:
            if action.kind in kinds and action.reason not in OF_ENTRY:
                self._append(run, action)
                self._record(run, len(run.actions) - 1, self._step(action, plan))

    def _append(self, run: _Run, action: RecoveryAction) -> None:
        with self._database.write(flush=False) as connection:
            recovery_log.add_action(connection, run.number, len(run.actions), action)
        run.actions.append(action)

    def _record(self, run: _Run, position: int, step: RecoveryStep) -> None:
        run.steps[position] = step
        with self._database.write(flush=False) as connection:
            recovery_log.record_step(connection, run.number, position, step, self._clock())
        logger.log(
            logging.WARNING if step.outcome is ActionOutcome.FAILED else logging.INFO,
            "%s of %s: %s%s",
            step.action.kind,
            step.action.schema_name,
            step.outcome,
            f" ({step.detail})" if step.detail else "",
            extra={
                "run_number": run.number,
                "directory": str(self._directory),
                "stores": (step.action.schema_name,),
                "batch_id": step.action.batch_id,
                "action": step.action.kind.value,
                "outcome": step.outcome.value,
            },
        )

    def _end(self, run: _Run, plan: RecoveryPlan) -> RecoveryReport:
        remaining = self._look_again(plan)
        self._close_interrupted(remaining)
        with self._database.write(flush=True) as connection:
            manifest.mark_recovery(connection, plan.plan_id)
        steps = tuple(run.steps[position] for position in range(len(run.actions)))
        duration_s = time.perf_counter() - run.began_at
        self._publisher.events.recovered(run.number, run.started_by, steps, duration_s)
        return RecoveryReport(run_number=run.number, plan=plan, steps=steps, remaining=remaining)

    def _close_interrupted(self, remaining: RecoveryPlan) -> None:
        """End this run, and earlier runs that died: this run inspected their stores again. Actions
        that they did not reach stay without an outcome."""
        with self._database.write(flush=True) as connection:
            for number in recovery_log.unfinished_runs(connection):
                recovery_log.end_run(
                    connection,
                    number,
                    remaining.readiness_impact,
                    self._clock(),
                    keep=self._publisher.retention.batches,
                )

    def _look_again(self, plan: RecoveryPlan) -> RecoveryPlan:
        return self._planner.build_plan(team_name=plan.team_name, expected=None, locked=True)

    def _step(self, action: RecoveryAction, plan: RecoveryPlan) -> RecoveryStep:
        carry_out: dict[ActionKind, Callable[[RecoveryAction, RecoveryPlan], RecoveryStep]] = {
            ActionKind.ROLL_FORWARD: self._roll_forward,
            ActionKind.RESTORE_COMMITTED: self._restore,
            ActionKind.QUARANTINE: self._quarantine,
            ActionKind.BLOCK_READINESS: self._unblock,
        }
        try:
            return carry_out.get(action.kind, _left_to_runtime)(action, plan)
        except system_error(RuntimeStoreError) as error:
            if self._database.failure is not None:
                raise  # the database itself failed: nothing can be recorded, so stop
            why = cause_explained(error)
            return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=why)

    # --- actions --------------------------------------------------------------------------------

    def _roll_forward(self, action: RecoveryAction, _: RecoveryPlan) -> RecoveryStep:
        left = self._open_batches()
        if left:  # an earlier action may have completed them all together
            take_to_their_end(left, self._publisher)
        return step_of(action, self._database)

    def _restore(self, action: RecoveryAction, plan: RecoveryPlan) -> RecoveryStep:
        if action.reason == ENTRY_MISSING:
            return self._make_entry(action)
        if action.reason == ENTRY_ALTERED:
            return self._put_entry_right(action)
        descriptor = self._registry.get(action.schema_name)
        if self._is_taken(descriptor):
            return _skipped(action, _NOT_FREE)
        inspection, entry = self._look(descriptor)
        is_healthy = inspection.state is InspectionState.HEALTHY
        if is_healthy and entry is not None and action.reason == CONTENT_MISSING:
            return self._take_from_file(action, descriptor, entry)
        former = self._former_file(inspection, descriptor, entry)
        edited = former.edit
        if is_healthy and edited is None:
            return _skipped(action, "the file is healthy by now")
        hindrance = self._why_not_to_restore(StoreFile.of(descriptor), entry)
        if edited is None and hindrance is not None:
            return _skipped(action, hindrance)
        kept = self._publisher.quarantine.keep(
            StoreFile.of(descriptor),
            entry,
            None,
            plan.plan_id,
            reason=inspection.message or "damaged",
        )
        expected = Expected.after(kept, entry)
        if edited is not None:
            self._publisher.replace(StoreFile.of(descriptor), edited, expected)
            return _done(action, _CAME_ALONG)
        if not self._publisher.restore(StoreFile.of(descriptor), expected):
            return _skipped(action, _NOT_IN_DATABASE)
        what = "removed: nothing is committed" if entry is None else "committed content put back"
        what += f"; quarantined: {kept.quarantine_path}" if kept else ""
        return _done(action, what + self._say_unread(former))

    def left_by_opening(self, plan: RecoveryPlan) -> set[str]:
        """Return the stores of a plan that an opening would leave as they are, for others to decide
        upon."""
        waiting = {it.schema_name for it in plan.actions if it.kind is not ActionKind.NONE}
        return waiting - {action.schema_name for action in self._safe(plan)}

    def making_way(self, plan: RecoveryPlan) -> tuple[str, ...]:
        """Return the files that an opening would move to quarantine: those in place of stores'
        files whose bytes the database does not have, and what is no file."""
        found: dict[str, None] = {}
        safe = self._safe(plan)
        names = {action.schema_name for action in safe}
        for action in (*safe, *(it for it in plan.afterwards if it.schema_name in names)):
            if action.schema_name in self._registry:
                with suppress_system_error(RuntimeStoreError):
                    if self._makes_way(action):
                        found[self._registry.get(action.schema_name).relative_path] = None
        return tuple(found)

    def _makes_way(self, action: RecoveryAction) -> bool:
        """Return whether something goes to quarantine with an action, or, where it only lets the
        file be put back (`_restore_now`), after it."""
        descriptor = self._registry.get(action.schema_name)
        inspection, entry = self._look_ahead(descriptor)
        file, is_restored = StoreFile.of(descriptor), action.kind is ActionKind.RESTORE_COMMITTED
        if self._is_taken(descriptor) or action.reason == CONTENT_MISSING:
            return False
        if _lets_restore(action):
            if not self._was_elsewhere(descriptor.schema_name):
                return False
            if entry is None:
                entry = self._database.read(partial(last_entry, schema_name=action.schema_name))
        else:
            edited = self._former_file(inspection, descriptor, entry).edit
            if is_restored and edited is None and self._why_not_to_restore(file, entry):
                return False
            if edited is not None and content_hash(edited) == inspection.content_hash:
                return False
        if not is_restored or _lets_restore(action):
            file = file._replace(schema_version=ANY_VERSION)
        return self._publisher.quarantine.would_keep(file, entry)

    def edit_to_come(self, descriptor: Descriptor) -> tuple[str, bytes] | None:
        """Return the former file of a store and its bytes, if it has an edit that an opening would
        copy to the new one; else None. Where an open batch writes the store, nobody can tell."""
        name = descriptor.schema_name
        inspection, entry = self._look(descriptor)
        if inspection.state is InspectionState.HEALTHY and name not in self.files_before:
            return None
        former = self._former_file(inspection, descriptor, entry)
        if former.edit is None:
            return None
        written = (write.schema_name for logged in self._open_batches() for write in logged.writes)
        return None if name in written else (former.relative_path, former.edit)

    def _former_file(
        self, inspection: Inspection, descriptor: Descriptor, entry: ManifestEntry | None
    ) -> _FormerFile:
        """Return what there is of the file of a store before this program gave it another one,
        which is not there yet, or was not its file before. Nobody looks at the old file any more.
        So an edit of it comes along, and is decided upon as any other; but not what is damaged,
        which is no edit, nor what was decided upon: it is in quarantine.
        """
        moved_from = None if entry is None else self._moved_from(descriptor)
        if entry is None or (inspection.state is not InspectionState.MISSING and not moved_from):
            return _NO_FORMER_FILE
        return self._look_at_former(descriptor, entry, moved_from or entry.relative_path)

    def _look_at_former(
        self, descriptor: Descriptor, entry: ManifestEntry, path: str
    ) -> _FormerFile:
        if any(item.relative_path == path for item in self._registry):
            return _NO_FORMER_FILE  # it is not moved, or another store has the file now
        former, edited = StoreFile(descriptor.schema_name, ANY_VERSION, path), None
        try:
            edited = self._publisher.quarantine.foreign_content(former, entry, trust_stamp=False)
        except system_error(RuntimeStoreError) as error:
            return _FormerFile(path, None, cause_of(error))
        if edited is None:
            return _FormerFile(path, None)
        with suppress(RuntimeStoreError):  # of a spoiled row: it is decided upon once more
            if self._is_refused(former, edited):
                return _FormerFile(path, None)
        try:
            decode(edited)
        except EnvelopeError:
            return _FormerFile(path, None)
        return _FormerFile(path, edited)

    def _say_unread(self, former: _FormerFile) -> str:
        """Return the end of a sentence about a former file that cannot be read, which is logged; or
        nothing."""
        if former.problem is None:
            return ""
        path = former.relative_path
        what = f"whether its former file {path} was edited is not known: {former.problem}"
        logger.warning("%s: %s. It is left as it is", self._directory, what)
        return f"; {what}. It is left as it is"

    def _is_refused(self, file: StoreFile, edited: bytes) -> bool:
        """Return whether a recovery, or a batch, took an edit of a store from its place."""
        found, name = content_hash(edited), file.schema_name
        return any(
            (item.schema_name, item.content_hash, item.restored_at) == (name, found, None)
            for item in self._database.read(recovery_log.list_quarantined)
        )

    def _why_not_to_restore(self, file: StoreFile, entry: ManifestEntry | None) -> str | None:
        """Return why a file is left alone, or None. Without an entry it would be removed: so only a
        file goes whose bytes the database has, or one of a deleted store that a batch wrote."""
        if entry is None:
            if self._sweeper.is_back(file):
                return None  # a copy is kept where the database has not the bytes any more
            if self._database.read(partial(batches.is_written, schema_name=file.schema_name)):
                return "a batch on record wrote it, and none deleted it: only its entry is gone"
            foreign = self._publisher.quarantine.foreign_content(file, None, trust_stamp=False)
            why = "nothing is committed, and the database does not have what the file holds"
            return None if foreign is None else why
        is_there = self._database.read(partial(contents.has_content_of, entry=entry))
        return None if is_there else _NOT_IN_DATABASE

    def _make_entry(self, action: RecoveryAction) -> RecoveryStep:
        """Make the lost entry of a store again. What its file is, the next plan says."""
        with self._database.write(flush=True) as connection:
            number = lost_entries(connection).get(action.schema_name)
            if number is None:
                return _skipped(action, "its entry is there by now")
            make_again(connection, action.schema_name, number)
        return _done(action, MADE_AGAIN)

    def _put_entry_right(self, action: RecoveryAction) -> RecoveryStep:
        """Write the altered entry of a store as its batch did."""
        with self._database.write(flush=True) as connection:
            if action.schema_name not in contents.altered_entries(connection):
                return _skipped(action, "its entry is as it was written by now")
            put_right(connection, action.schema_name)
        return _done(action, "its entry was altered, and was put right as its batch wrote it")

    def _take_from_file(
        self, action: RecoveryAction, descriptor: Descriptor, entry: ManifestEntry
    ) -> RecoveryStep:
        """Put the lost content back into the database from the file, if the file's hash shows that
        it is what was committed."""
        path = store_path(self._directory, descriptor.relative_path)
        content, _ = self._fs.read(path)
        if content_hash(content) != entry.content_hash:
            return _skipped(action, "the file was changed meanwhile")
        with self._database.write(flush=True) as connection:
            if descriptor.schema_name in contents.stores_with_content(connection, verify=True):
                return _skipped(action, "its content is in the database by now")
            contents.put_content(connection, entry.batch_number, descriptor.schema_name, content)
        return _done(action, "its content was taken from the file into the database")

    def _quarantine(self, action: RecoveryAction, plan: RecoveryPlan) -> RecoveryStep:
        descriptor = self._registry.get(action.schema_name)
        if self._is_taken(descriptor):
            return _skipped(action, _NOT_FREE)
        inspection, entry = self._look(descriptor)
        if inspection.state is InspectionState.HEALTHY:
            return _skipped(action, "the file is healthy by now")
        if inspection.state is InspectionState.MISSING:
            return _skipped(action, "there is no file")
        # Files that this program cannot read are moved, too, so no version is too new.
        anything = StoreFile.of(descriptor)._replace(schema_version=ANY_VERSION)
        former = self._former_file(inspection, descriptor, entry)
        edited = former.edit
        if edited is not None and content_hash(edited) == inspection.content_hash:
            return _skipped(action, _CAME_ALONG)
        reason = inspection.message or inspection.state
        if self._moved_from(descriptor) is not None:
            reason = _NOT_ITS_FILE
        kept = self._publisher.quarantine.keep(anything, entry, None, plan.plan_id, reason=reason)
        expected = Expected.after(kept, entry)
        where = f"moved to {kept.quarantine_path}" if kept else "its bytes are in the database"
        if edited is not None:
            self._publisher.replace(anything, edited, expected)
            return _done(action, f"{where}; {_CAME_ALONG}")
        if entry is not None and self._publisher.restore(anything, expected):
            return _done(action, f"{where}; committed content put back{self._say_unread(former)}")
        self._publisher.remove(anything, expected)
        return _done(action, f"{where}; nothing to put back")

    def _unblock(self, action: RecoveryAction, plan: RecoveryPlan) -> RecoveryStep:
        """Close an imported batch that was never completed: its contents were never logged."""
        logged = self._open_batch(action)
        if logged is None or logged.has_contents:
            is_link = logged is None and self._is_behind_a_link(action)
            return _skipped(action, _LINK) if is_link else _left_to_runtime(action, plan)
        self._publisher.mark_failed(
            logged, "imported unfinished; its contents were never logged, so recovery closed it"
        )
        return _done(action, f"batch {action.batch_id} closed as failed; no file was touched")

    # --- looking --------------------------------------------------------------------------------

    def _safe(self, plan: RecoveryPlan) -> list[RecoveryAction]:
        """Return the actions of an opening. A store without an entry and without a file may have
        been deleted: whether it comes back, a person decides. What is at the new path of a store
        that this opening moves is no edit of the store, and makes way. What says that it is newer
        than all that the database knows is moved by nobody who was not asked to."""
        moved = self._moved(plan)
        to_look_at = self._to_look_at(plan)
        safe = [
            _making_way(action) if action.schema_name in moved else action
            for action in plan.actions
            if (action.kind in SAFE_KINDS or action.schema_name in moved)
            and action.schema_name not in to_look_at
        ]
        if not _makes_entries(safe):
            return safe
        made = self._database.read(partial(lost_beside_files, directory=self._directory))
        return [
            action
            for action in safe
            if action.reason != ENTRY_MISSING or action.schema_name in made
        ]

    def _to_look_at(self, plan: RecoveryPlan) -> set[str]:
        """Return the stores that an opening leaves to a person, as their files are newer than the
        database. Those of an open batch are not: that is finished, and keeps what is in its way."""
        rolled = {it.schema_name for it in plan.actions if it.kind is ActionKind.ROLL_FORWARD}
        return {*plan.newer_stores} - rolled

    def _moved(self, plan: RecoveryPlan) -> set[str]:
        """Return the stores of an opening whose file is there, though it was not theirs before; of
        those with what is committed in it, the ones that an edit comes to."""
        return {
            item.schema_name
            for item in plan.actions
            if (_is_foreign(item) and self._was_elsewhere(item.schema_name))
            or (item.kind is ActionKind.NONE and self._has_edit_to_come(item.schema_name))
        }

    def _was_elsewhere(self, name: str) -> bool:
        return self._moved_from(self._registry.get(name)) is not None

    def _has_edit_to_come(self, name: str) -> bool:
        if name not in self.files_before:
            return False
        return self.edit_to_come(self._registry.get(name)) is not None

    def _moved_from(self, descriptor: Descriptor) -> str | None:
        """Return the file that a store had until this opening, which gives it another; or None.

        A store that gets the file back in which it was written last had the one in between, if that
        is there: then nothing was ever written to it. Where it is not, the store never left, unless
        somebody refused the edit that the file has."""
        name = descriptor.schema_name

        def query(connection: Connection) -> tuple[ManifestEntry | None, str | None]:
            entry = manifest.load_entries(connection, [name]).get(name)
            return entry, manifest.moved_to(connection, descriptor, entry)

        entry, moved_from = self._database.read(query)
        before = self.files_before.get(name)
        if moved_from is not None or entry is None or before is None:
            return moved_from
        return before if self._left_for(before, descriptor, entry) else None

    def _left_for(self, before: str, descriptor: Descriptor, entry: ManifestEntry) -> bool:
        """Return whether a store that gets a file back had left it for the file `before`."""
        between = StoreFile(descriptor.schema_name, ANY_VERSION, before)
        here = StoreFile.of(descriptor)._replace(schema_version=ANY_VERSION)
        with suppress_system_error(RuntimeStoreError):
            if self._publisher.found_hash(between) is not None:
                return True
        with suppress_system_error(RuntimeStoreError):
            edit = self._publisher.quarantine.foreign_content(here, entry, trust_stamp=False)
            return edit is not None and self._is_refused(here, edit)
        return False

    def _is_taken(self, descriptor: Descriptor) -> bool:
        """Return whether the file of another store, by its entry, keeps one from having its own."""
        name, path = descriptor.schema_name, descriptor.relative_path
        query = partial(manifest.path_taken_by, schema_name=name, relative_path=path)
        return self._database.read(query) is not None

    def _foresee(self, action: RecoveryAction) -> Found:
        """Return what an action would find at the file of its store."""
        touches_file = action.kind in STOPPING and action.reason not in OF_ENTRY
        if action.kind is ActionKind.ROLL_FORWARD and action.schema_name in self._registry:
            return Found(stop=self._shut_to(action))
        if not touches_file or action.schema_name not in self._registry:
            return Found()
        descriptor = self._registry.get(action.schema_name)
        inspection, entry = self._look_ahead(descriptor)
        if self._inspector.is_closed(inspection):
            return Found(stop=STOP_CLOSED)
        if runtime_directory_at(self._directory, descriptor.relative_path, self._fs) is not None:
            return Found(stop=STOP_AT_DIRECTORY)
        former = self._former_file(inspection, descriptor, entry)
        edited_before = None if former.edit is None else former.relative_path
        return Found(stop=self._shut_to(action), edited_before=edited_before)

    def _shut_to(self, action: RecoveryAction) -> str | None:
        """Return the folder in which an action must write and cannot, in words; else None."""
        relative_path = self._registry.get(action.schema_name).relative_path
        writes = (
            action.kind is not ActionKind.QUARANTINE or action.reason != InspectionState.MISSING
        )
        if action.reason == CONTENT_MISSING or not writes:
            return None
        folders = [folder_to_write(self._directory, relative_path.rpartition("/")[0])]
        with suppress_system_error(RuntimeStoreError):
            if self._makes_way(action):
                folders.insert(0, folder_to_write(self._directory, QUARANTINE_DIRECTORY))
        for folder in filter(None, folders):
            shut = barrier(folder)
            if shut is not None:
                return STOP_SHUT.format(shell_word(folder), shut)
        return None

    def _is_behind_a_link(self, action: RecoveryAction) -> bool:
        """Return whether the file of an action's store is a symbolic link, or behind one."""
        if action.schema_name not in self._registry:
            return False
        inspection, _ = self._look(self._registry.get(action.schema_name))
        return self._inspector.is_behind_a_link(inspection)

    def _sweep(self) -> None:
        if not self._open_batches():
            self._sweeper.sweep()

    def _open_batches(self) -> list[LoggedBatch]:
        """Return the open batches that can be completed, oldest first."""
        return [item for item in self._database.read(batches.load_open) if item.has_contents]

    def _open_batch(self, action: RecoveryAction) -> LoggedBatch | None:
        for logged in self._database.read(batches.load_open):
            if logged.batch.batch_id == action.batch_id:
                return logged
        return None

    def _look(self, descriptor: Descriptor) -> tuple[Inspection, ManifestEntry | None]:
        name = descriptor.schema_name
        entry = self._database.read(
            lambda connection: manifest.load_entries(connection, [name])
        ).get(name)
        return self._inspector.inspect(descriptor, entry), entry

    def _look_ahead(self, descriptor: Descriptor) -> tuple[Inspection, ManifestEntry | None]:
        """Do `_look` with the entry as it is once it is put right."""
        entry = self._database.read(partial(entry_once_right, schema_name=descriptor.schema_name))
        return self._inspector.inspect(descriptor, entry), entry


def _lets_restore(action: RecoveryAction) -> bool:
    """Return whether something may be put back only after an action. A finished batch publishes
    where its log says; this program may have given the store another file since."""
    return action.kind is ActionKind.ROLL_FORWARD or action.reason in OF_ENTRY


def _is_foreign(action: RecoveryAction) -> bool:
    """Return whether an action is of a file that is there and not what is committed. One of a newer
    program may be."""
    is_newer = action.reason == InspectionState.FUTURE_SCHEMA
    return action.reason in _UNEXPLAINED or (is_newer and action.kind is ActionKind.QUARANTINE)


def _is_of_file(numbered: tuple[int, RecoveryAction]) -> bool:
    return numbered[1].kind is not ActionKind.ROLL_FORWARD


def _making_way(action: RecoveryAction) -> RecoveryAction:
    if action.kind in SAFE_KINDS:
        return action
    if action.kind is ActionKind.NONE:
        update = {"kind": ActionKind.RESTORE_COMMITTED, "reason": _EDITED_BEFORE}
        return action.model_copy(update=update)
    return action.model_copy(update={"kind": ActionKind.QUARANTINE, "rebuilder": None})


def _makes_entries(actions: Iterable[RecoveryAction]) -> bool:
    return any(action.reason in OF_ENTRY for action in actions)


def _is_failed_batch(step: RecoveryStep) -> bool:
    return (step.action.kind, step.outcome) == (ActionKind.ROLL_FORWARD, ActionOutcome.FAILED)


def _is_failed_move(step: RecoveryStep) -> bool:
    return (step.action.kind, step.outcome) == (ActionKind.QUARANTINE, ActionOutcome.FAILED)


def _left_to_runtime(action: RecoveryAction, _: RecoveryPlan) -> RecoveryStep:
    if action.reason == InspectionState.QUARANTINED:
        detail = (
            "left as it is: what is committed does not pass this runtime's model of "
            f"{action.schema_name}, which no command knows. The runtime must write the store again "
            "or accept its data; rtstore revert goes back to an older version"
        )
        return _skipped(action, detail)
    if action.reason in REFUSED:
        detail = (
            "left as it is: what a recovery does would change nothing; status says who must act"
        )
        return _skipped(action, detail)
    return _skipped(action, "waits for the runtime to write the store again")


def _done(action: RecoveryAction, detail: str) -> RecoveryStep:
    return RecoveryStep(action=action, outcome=ActionOutcome.DONE, detail=detail)


def _skipped(action: RecoveryAction, detail: str) -> RecoveryStep:
    return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
