"""`RuntimeStore`: the facade that most callers need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rtstore.arguments import Writes, batch_request, checked_identity, member
from rtstore.data_upgrade import DataUpgradeReport, rehearse, upgrade_data
from rtstore.database import manifest, recovery_log
from rtstore.database.batches import ReceiptStore
from rtstore.database.contents import Retention
from rtstore.database.engine import DATABASE_NAME, Database
from rtstore.database.manifest import ManifestStore
from rtstore.descriptors import Descriptor, Registry
from rtstore.directory import check_made, make_or_upgrade, register, report_loose_modes
from rtstore.draft import check_text
from rtstore.errors import (
    InvalidRequestError,
    LockTimeoutError,
    StorageError,
    WrongTeamError,
)
from rtstore.evidence import take_back
from rtstore.files.inspector import FileInspector
from rtstore.files.system import FileSystem
from rtstore.ids import IdFactory, new_batch_id, new_plan_id, new_receipt_id
from rtstore.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.planner import RecoveryPlanner
from rtstore.publication import Durability
from rtstore.reader import Snapshot, StoreContent, StoreReader
from rtstore.readiness import build_readiness
from rtstore.rebuilding import Rebuilders, Rebuilding
from rtstore.records import (
    Batch,
    BatchReason,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.recovery import Recovery
from rtstore.time_travel import At, TimeTravel, checked_point
from rtstore.times import Clock, utc_now
from rtstore.upkeep import Upkeep
from rtstore.writer import BatchWriter

_CLOSING_TIMEOUT_S = 1.0


class RuntimeStore(Upkeep, TimeTravel):
    """The state of one agent runtime: JSON files, and the database that makes them transactional.

    Made by `RuntimeStore.open`; a context manager. Safe to share between threads, not across forks.
    """

    def __init__(
        self,
        directory: Path,
        database: Database,
        registry: Registry,
        *,
        clock: Clock,
        batch_id_factory: IdFactory,
        receipt_id_factory: IdFactory,
        plan_id_factory: IdFactory,
        durability: Durability,
        retention: Retention,
        lock: WriterLock,
        fs: FileSystem,
        team_name: str,
    ) -> None:
        self.directory = directory
        self.team_name = team_name
        self.descriptors = registry
        self.database = database
        self.lock = lock
        self.last_recovery: RecoveryReport | None = None
        """What opening the store had to put right, or None."""
        self.last_data_upgrade: DataUpgradeReport | None = None
        """The stores whose data opening brought up to its descriptor's version, or None."""
        self._clock = clock
        self._fs = fs
        self._manifest_store = ManifestStore(database, team_name=team_name, clock=clock)
        self._receipt_store = ReceiptStore(database)
        self._writer = BatchWriter(
            directory,
            self._manifest_store,
            self._receipt_store,
            batch_id_factory=batch_id_factory,
            receipt_id_factory=receipt_id_factory,
            clock=clock,
            lock=lock,
            durability=durability,
            retention=retention,
            fs=fs,
        )
        self._planner = RecoveryPlanner(
            registry,
            self._manifest_store,
            self._receipt_store,
            FileInspector(directory, fs),
            plan_id_factory=plan_id_factory,
            clock=clock,
            lock=lock,
            may_lock=not database.read_only,
        )
        self._reader = StoreReader(directory, database, registry, lock, fs)
        self._recovery = Recovery(
            registry,
            database,
            self._planner,
            self._writer.publisher,
            lock,
            clock=clock,
            fs=fs,
        )

    # --- opening and closing --------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        team_name: str | None = None,
        descriptors: Iterable[Descriptor] | None = None,
        clock: Clock = utc_now,
        batch_id_factory: IdFactory = new_batch_id,
        receipt_id_factory: IdFactory = new_receipt_id,
        plan_id_factory: IdFactory = new_plan_id,
        durability: Durability | str = Durability.LOG,
        lock_timeout_s: float = DEFAULT_TIMEOUT_S,
        retention: Retention | None = None,
        recover: bool = True,
        read_only: bool = False,
        upgrade: bool = True,
        fs: FileSystem | None = None,
    ) -> Self:
        """Open the store of a runtime directory; make both if they are not there yet.

        Opening finishes by itself what is safe and local: a batch whose writer died goes forward
        from the log, a failed one finishes its undoing, a torn or missing file is put back from the
        committed content, temporary files go. What it did is in `last_recovery` and in the table
        `recovery_runs`. With `recover=False` everything is left as found.

        Args:
            directory: the runtime directory.
            team_name: whose state it is. Needed to make a store; checked when there is one.
            descriptors: the stores of this runtime; they are remembered. Default: those remembered,
                or the known stores of an OpenCode team.
            clock, batch_id_factory, receipt_id_factory, plan_id_factory: sources of times and ids.
            durability: `log` (one flush a batch) or `files` (the store files are flushed too).
            lock_timeout_s: how long a write waits for other writers, in seconds.
            retention: how much history is kept.
            recover: whether to put right what is safe to.
            read_only: open for looking only: makes no file, changes nothing, takes no lock.
            upgrade: whether a database of an older revision is upgraded (it is backed up first) or
                refused with `OlderDatabaseError`, as it always is when opened read-only; and
                whether store data of an older schema version is brought up, by the functions of
                the descriptors, in one batch of reason `migration`.
            fs: the seam to the file system, for tests.

        Raises `NotARuntimeDirectoryError`, `WrongTeamError`, `InvalidRequestError` (nothing is
        made or changed), `OlderDatabaseError`, `NewerDatabaseError`, `ForeignDatabaseError`,
        `CorruptDatabaseError` (nothing is touched), `UpgradeFailedError`, `DataUpgradeError`,
        `LockTimeoutError`, `StorageError`, `RecoveryFailedError`.
        """
        directory = Path(directory).absolute()  # it stays there, wherever the process goes
        fs = fs or FileSystem()
        registry = None if descriptors is None else Registry(descriptors)
        durability = member(Durability, durability, "durability")
        lock = WriterLock(directory, lock_timeout_s, read_only=read_only)
        path = directory / DATABASE_NAME
        if read_only:
            check_made(directory, team_name)
        else:
            make_or_upgrade(
                directory, team_name, registry, lock, clock, fs,
                may_upgrade=upgrade, with_data=recover,
            )  # fmt: skip
        database = Database(path, read_only=read_only)
        try:
            found = database.read(manifest.load_head, single=True).team_name
            if team_name not in (None, found):
                assert team_name is not None  # noqa: S101 - the line above
                raise WrongTeamError(directory, team_name, found)
            if registry is not None and upgrade and recover and not read_only:
                rehearse(database, registry)  # what must fail does so before anything is changed
            store = cls(
                directory,
                database,
                register(database, registry, lock, read_only=read_only),
                clock=clock,
                batch_id_factory=batch_id_factory,
                receipt_id_factory=receipt_id_factory,
                plan_id_factory=plan_id_factory,
                durability=durability,
                retention=retention or Retention(),
                lock=lock,
                fs=fs,
                team_name=found,
            )
            report_loose_modes(directory)
            if recover and not read_only:
                store.last_recovery = store._recovery.finish_what_is_safe(found)
                if upgrade and registry is not None:  # the functions are not remembered
                    store.last_data_upgrade = upgrade_data(
                        store._writer, store.descriptors, found, store._reader.check_file
                    )
        except BaseException:
            database.close(tidy=False)
            raise
        return store

    def close(self) -> None:
        """Close the database. Everything written is durable already; closing twice is harmless.

        The last connection to close moves the WAL into the database: not beside a writer, so under
        the writer lock; when that cannot be had, somebody else will be the last.
        """
        if self.database.read_only:
            self.database.close()
            return
        try:
            with self.lock.hold(_CLOSING_TIMEOUT_S):
                self.database.close()
        except (LockTimeoutError, StorageError, InvalidRequestError):
            self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- writing --------------------------------------------------------------------------------

    def write_batch(
        self,
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        writes: Writes,
        expected_high_watermark: int | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Write several stores as one atomic batch; gives it with its receipts.

        Durable when it returns: all of it is there, whatever dies and when. `writes` maps store
        names to their new data (plain JSON values, or a pydantic model), and is published in its
        order. See `BatchWriter.write_batch` for `expected_high_watermark`, `batch_id` and the
        errors.
        """
        request = batch_request(
            self.team_name, self.descriptors, identity=identity, reason=reason, writes=writes
        )
        return self._writer.write_batch(
            request, expected_high_watermark=expected_high_watermark, batch_id=batch_id
        )

    def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
    ) -> Batch:
        """Read, change and write one store under the writer lock, so that no update is lost.

        `change` gets the committed data (None before the first), which it may modify, and gives the
        new data. Raises `StoreFileChangedError` when somebody else changed the file: their edit is
        neither used nor overwritten.
        """
        descriptor = self.descriptors.get(store)
        return self._writer.update(
            descriptor,
            change,
            team_name=self.team_name,
            identity=checked_identity(identity),
            reason=member(BatchReason, reason, "reason"),
            check_current=lambda: self._reader.check_file(descriptor),
        )

    # --- reading --------------------------------------------------------------------------------

    def read(self, store: str, *, verify: bool = True, at: At | None = None) -> StoreContent:
        """The committed content of a store, from the database; takes no lock.

        The file's size and time are held against the entry, its hash where those differ. Raises
        `StoreFileChangedError` when somebody else changed or removed the file, and
        `BatchUnfinishedError` when a batch whose writer died has changed it (with `verify=False`
        the file is not looked at); `InvalidRequestError` when nothing is committed for it.

        With `at` it is what the store held at a point in time: as of a batch (its id, or the high
        watermark that it made), or at a time; the file is not looked at. Raises
        `InvalidRequestError` when that is not on record (any more): see `retention`.
        """
        descriptor = self.descriptors.get(store)
        if at is not None:
            return self._content_at(descriptor.schema_name, checked_point(at))
        content = self._reader.read(descriptor, verify=verify)
        if content is None:
            raise InvalidRequestError(
                "store", "no committed content: it was never written in a batch", store=store
            )
        return content

    def snapshot(self, stores: Iterable[str] | None = None) -> Snapshot:
        """Several stores (default: all) as of one batch, from the database; takes no lock and does
        not look at the files. A store that was never written is absent."""
        names = [
            self.descriptors.get(name).schema_name
            for name in (self.descriptors.names if stores is None else stores)
        ]
        return self._reader.snapshot(names)

    def manifest(self) -> Manifest:
        """What is committed now."""
        return self._manifest_store.read()

    def batches(self, *, limit: int | None = None) -> list[Batch]:
        """The batches, oldest first, with their receipts; the newest `limit` of them."""
        return self._receipt_store.list(limit=limit)

    def batch(self, batch_id: str) -> Batch | None:
        """One batch with its receipts, or None when it is not known (any more)."""
        return self._receipt_store.get(check_text("batch_id", batch_id))

    def quarantined_files(self) -> list[QuarantinedFile]:
        """The evidence kept so far, oldest first."""
        return self.database.read(recovery_log.list_evidence)

    # --- planning and recovery --------------------------------------------------------------------

    def plan_recovery(self, *, expected: RunIdentity | None = None) -> RecoveryPlan:
        """Hold every store file against the database and say what to do; takes no lock.

        `expected` is the run identity that the runtime is about to use; without it the entries are
        held against the identity of the last committed batch.
        """
        return self._plan(expected)[0]

    def _plan(self, expected: RunIdentity | None) -> tuple[RecoveryPlan, Manifest]:
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
        return plan, build_readiness(recovery_plan=plan, invariant_failures=failures)

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
        if dry_run:
            return self._recovery.rehearse(plan, self.team_name)
        rebuilding = Rebuilding(
            rebuilders or {},
            identity,
            registry=self.descriptors,
            reader=self._reader,
            writer=self._writer,
            team_name=self.team_name,
        )
        report = self._recovery.carry_out(plan, self.team_name, rebuilding)
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
        identity = identity or self.manifest().active_identity
        if identity is None:
            raise InvalidRequestError("identity", "nothing is committed yet, so it must be given")
        return self._writer.adopt(
            self.descriptors.get(store),
            team_name=self.team_name,
            identity=checked_identity(identity),
            reason=member(BatchReason, reason, "reason"),
        )

    def take_back(self, quarantine_number: int) -> QuarantinedFile:
        """Put a quarantined file back where it was, byte for byte.

        What is there now is kept as evidence first, unless it is what is committed. The file is
        not committed by this: the next plan judges it, and `adopt` makes it the truth. Raises
        `InvalidRequestError` when there is no such evidence, or its bytes are not what they were.
        """
        return take_back(quarantine_number, self._writer.publisher, self.lock, self._clock)
