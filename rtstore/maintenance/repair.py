"""Plans, readiness, and what puts things right: a part of `RuntimeStore`."""

from __future__ import annotations

from datetime import timedelta

from rtstore.commit.writer import BatchWriter
from rtstore.control import manifest
from rtstore.control.lock import WriterLock
from rtstore.control.sqlite.engine import Database
from rtstore.errors import InvalidRequestError
from rtstore.history.reader import StoreReader
from rtstore.maintenance.doctor.facts import Hindrance
from rtstore.maintenance.hindrances import hindrances
from rtstore.model import arguments
from rtstore.model.arguments import checked_identity, member
from rtstore.model.descriptors import Registry
from rtstore.model.readiness import build_readiness
from rtstore.model.records import (
    Batch,
    BatchReason,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.model.times import Clock
from rtstore.recovery.execute import Recovery
from rtstore.recovery.gather import RecoveryPlanner
from rtstore.recovery.rebuilders import Rebuilders, Rebuilding, checked_rebuilders
from rtstore.recovery.unquarantine import drop_old_evidence, take_back


class Repair:
    """What is wrong, whether the runtime may start all the same, and the ways out."""

    database: Database
    descriptors: Registry
    lock: WriterLock
    team_name: str
    _clock: Clock
    _planner: RecoveryPlanner
    _reader: StoreReader
    _recovery: Recovery
    _writer: BatchWriter

    def plan_recovery(self, *, expected: RunIdentity | None = None) -> RecoveryPlan:
        """Hold every store file against the database and say what to do; takes no lock.

        `expected` is the run identity that the runtime is about to use; without it the entries are
        held against the identity of the last committed batch.
        """
        return self._plan(expected)[0]

    def _plan(self, expected: RunIdentity | None) -> tuple[RecoveryPlan, Manifest]:
        if expected is not None:
            checked_identity(expected)
        survey = self._planner.survey()
        seen = survey.view.manifest
        expected = expected or seen.active_identity
        return self._planner.plan_of(survey, team_name=self.team_name, expected=expected), seen

    def check_readiness(self, *, expected: RunIdentity | None = None) -> ReadinessCheck:
        """Whether the runtime may start on this state: the plan and the cross-store invariants."""
        return self.assess(expected=expected)[1]

    def assess(self, *, expected: RunIdentity | None = None) -> tuple[RecoveryPlan, ReadinessCheck]:
        """The plan, and the readiness that follows from it and from the invariants."""
        plan, seen = self._plan(expected)
        failures = self._reader.invariant_failures(seen)
        check = build_readiness(
            recovery_plan=plan, invariant_failures=failures, hindrances=self._hindrances()
        )
        self._writer.events.checked(plan, check)
        return plan, check

    def _hindrances(self) -> tuple[Hindrance, ...]:
        paths = {item.schema_name: item.relative_path for item in self.descriptors}
        return hindrances(self.lock.path.parent, paths)

    def invariant_failures(self) -> list[str]:
        """What the committed contents contradict each other in."""
        return self._reader.invariant_failures()

    def recover(
        self,
        plan: RecoveryPlan,
        *,
        rebuilders: Rebuilders | None = None,
        identity: RunIdentity | None = None,
        dry_run: bool = False,
    ) -> RecoveryReport:
        """Carry out a plan: open batches go forward, committed contents are put back, files that
        are not ours to judge are moved into quarantine, lost stores are rebuilt by the runtime.

        Args:
            plan: from `plan_recovery`. Refused when a batch was committed since.
            rebuilders: functions of the runtime, by strategy; what one returns is checked like a
                write and written as a batch of reason `recovery`. They are called without the
                writer lock. A store without one is left, and stays in `remaining`.
            identity: what rebuilt stores are bound to; default: that of the last committed batch.
            dry_run: only say what would be done; nothing is changed.

        Everything is recorded in `recovery_runs` and `recovery_actions`. Interrupted anywhere, it
        can be run again with a new plan. Raises `ConflictError`, `WrongTeamError`,
        `LockTimeoutError`, and what a failing database raises; a failing action is in the report.
        """
        arguments.instance(RecoveryPlan, plan, "plan")
        if identity is not None:
            checked_identity(identity)
        rebuilders = checked_rebuilders({} if rebuilders is None else rebuilders)
        if dry_run:
            return self._recovery.rehearse(plan, self.team_name)
        rebuilding = Rebuilding(
            rebuilders,
            identity,
            registry=self.descriptors,
            reader=self._reader,
            writer=self._writer,
            team_name=self.team_name,
        )
        try:
            report = self._recovery.carry_out(plan, self.team_name, rebuilding)
        finally:
            self._writer.events.tell()
        if report.run_number is None:
            return report
        return report.model_copy(update={"remaining": self.plan_recovery(expected=identity)})

    def adopt(
        self,
        store: str,
        *,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Make a file that somebody changed by hand the committed content, byte for byte, in a
        batch of its own.

        The file must pass what a write must pass. `identity` is what it is bound to; default: the
        identity of the last committed batch. Raises `InvalidRequestError` when the file does not
        pass, is missing, or is what is committed already; otherwise as `write_batch`.
        """
        descriptor = self.descriptors.get(store)
        if identity is not None:
            checked_identity(identity)
        else:
            identity = self.database.read(manifest.load).active_identity
        if identity is None:
            raise InvalidRequestError("identity", "nothing is committed yet, so it must be given")
        return self._writer.adopt(
            descriptor,
            team_name=self.team_name,
            identity=identity,
            reason=member(BatchReason, reason, "reason"),
        )

    def prune_quarantine(
        self, *, older_than: timedelta, dry_run: bool = False
    ) -> tuple[QuarantinedFile, ...]:
        """Drop the files in quarantine that were kept longer ago than that, for good; returns them.

        Nothing is dropped from quarantine otherwise, however much there is: what is there nobody
        else has. With `dry_run` nothing is dropped now either. Interrupted, it can be made again.
        Raises `InvalidRequestError`, `LockTimeoutError`, and `StorageError` for a file that cannot
        be removed; those before it are gone.
        """
        return drop_old_evidence(
            arguments.duration(older_than, "older_than"),
            self._writer.publisher,
            self.lock,
            self._clock,
            dry_run=dry_run,
        )

    def take_back(self, quarantine_number: int) -> QuarantinedFile:
        """Put a quarantined file back where it was, byte for byte.

        What is there now is kept as evidence first, unless it is what is committed. The file is
        not committed by this: the next plan judges it, and `adopt` makes it the truth. Raises
        `InvalidRequestError` when there is no such evidence, or its bytes are not what they were.
        """
        arguments.number(quarantine_number, "quarantine_number", least=-(2**63))
        try:
            return take_back(quarantine_number, self._writer.publisher, self.lock, self._clock)
        finally:
            self._writer.events.tell()
