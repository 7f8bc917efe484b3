"""`RuntimeStore`: the facade that most callers need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from rtstore.commit.draft import check_text
from rtstore.commit.group import Submission
from rtstore.commit.publisher import Durability
from rtstore.commit.reporting import EventDispatcher, Observer, checked_observer
from rtstore.commit.writer import BatchWriter
from rtstore.control import manifest, recovery_log
from rtstore.control.batches import ReceiptStore
from rtstore.control.contents import Retention
from rtstore.control.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.control.manifest import ManifestStore
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    InvalidRequestError,
    LockTimeoutError,
    StorageError,
    StoreClosedError,
    UnusableEngineError,
    WrongTeamError,
)
from rtstore.files.inspector import FileInspector
from rtstore.files.system import FileSystem
from rtstore.history.reader import Snapshot, StoreContent, StoreReader
from rtstore.history.versions import At, TimeTravel, checked_point
from rtstore.maintenance.create import (
    check_before_use,
    check_made,
    make_or_upgrade,
    register,
    remember_retention,
    report_loose_modes,
)
from rtstore.maintenance.repair import Repair
from rtstore.maintenance.upgrade_data import DataUpgradeReport, upgrade_data
from rtstore.maintenance.upkeep import Upkeep
from rtstore.model import arguments
from rtstore.model.arguments import Writes, batch_request, checked_identity, member
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.ids import IdFactory, new_batch_id, new_plan_id, new_receipt_id
from rtstore.model.records import (
    Batch,
    BatchReason,
    Manifest,
    QuarantinedFile,
    RecoveryReport,
    RunIdentity,
)
from rtstore.model.times import Clock, utc_now
from rtstore.recovery.execute import Recovery
from rtstore.recovery.gather import RecoveryPlanner

_CLOSING_TIMEOUT_S = 1.0


class RuntimeStore(Repair, TimeTravel, Upkeep):
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
        on_event: Observer | None = None,
    ) -> None:
        self.directory = directory
        self.team_name = team_name
        self.descriptors = registry
        self.retention = retention
        """How much history is kept."""
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
            events=EventDispatcher(database, team_name, on_event),
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
        on_event: Observer | None = None,
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
            retention: how much history is kept, by this store and, as it is remembered, by every
                one that is opened without naming it from then on; those that are open go on as
                they are. Default: what is remembered, or `Retention()` in a new directory.
            recover: whether to put right what is safe to.
            read_only: open for looking only: makes no file, changes nothing, takes no lock.
            upgrade: whether a database of an older revision is upgraded (it is backed up first) or
                refused with `OlderDatabaseError`, as it always is when opened read-only; and
                whether store data of an older schema version is brought up, by the functions of
                the descriptors, in one batch of reason `migration`.
            on_event: is told of every `Event` (see `rtstore.model.events`) when it is durable: in the
                thread of the call that did it, before that call returns, without the writer lock,
                so it may use the store. An Exception of it is logged, and changes nothing. Threads
                that share the store call it at the same time.
            fs: the seam to the file system, for tests.

        Raises `NotARuntimeDirectoryError`, `WrongTeamError`, `InvalidRequestError`,
        `DatabaseMissingError` (nothing is made or changed), `OlderDatabaseError`,
        `NewerDatabaseError`, `ForeignDatabaseError`, `CorruptDatabaseError` (nothing is touched),
        `UpgradeFailedError`, `DataUpgradeError`, `LockTimeoutError`, `StorageError`,
        `RecoveryFailedError`.
        """
        directory = arguments.path(directory, "directory").absolute()  # wherever the process goes
        fs = arguments.instance(FileSystem, FileSystem() if fs is None else fs, "fs")
        arguments.optional(str, team_name, "team_name")
        registry = None if descriptors is None else Registry(descriptors)
        durability = member(Durability, durability, "durability")
        arguments.optional(Retention, retention, "retention")
        on_event = None if on_event is None else checked_observer(on_event)
        arguments.function(batch_id_factory, "batch_id_factory")
        arguments.function(receipt_id_factory, "receipt_id_factory")
        arguments.function(plan_id_factory, "plan_id_factory")
        lock_timeout_s = arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
        lock = WriterLock(directory, lock_timeout_s, read_only=read_only)
        if read_only:
            check_made(directory, team_name, registry, fs)
        else:
            make_or_upgrade(
                directory, team_name, registry, lock, clock, fs,
                retention=retention, may_upgrade=upgrade, with_data=recover,
            )  # fmt: skip
        database = Database(directory / DATABASE_NAME, read_only=read_only)
        try:
            head, remembered = database.read(manifest.load_for_opening, single=True)
            found = head.team_name
            if team_name is not None and team_name != found:
                raise WrongTeamError(directory, team_name, found)
            if recover and not read_only:  # what must fail does so before anything is changed
                check_before_use(directory, database, head, registry, fs, with_data=upgrade)
            store = cls(
                directory,
                database,
                register(database, registry, lock, read_only=read_only),
                clock=clock,
                batch_id_factory=batch_id_factory,
                receipt_id_factory=receipt_id_factory,
                plan_id_factory=plan_id_factory,
                durability=durability,
                retention=remember_retention(
                    database, retention, remembered, lock, read_only=read_only
                ),
                lock=lock,
                fs=fs,
                team_name=found,
                on_event=on_event,
            )
            report_loose_modes(directory)
            if recover and not read_only:
                store._put_right(registry if upgrade else None)
        except BaseException:
            database.close(tidy=False)
            raise
        return store

    def _put_right(self, registry: Registry | None) -> None:
        """What opening does by itself, and for a registry given: bringing store data up."""
        try:
            self.last_recovery = self._recovery.finish_what_is_safe(self.team_name)
        finally:
            self._writer.events.tell()
        if registry is not None:  # the functions are not remembered
            self.last_data_upgrade = upgrade_data(
                self._writer, self.descriptors, self.team_name, self._reader.check_file
            )

    def close(self) -> None:
        """Close the database. Everything written is durable already; closing twice is harmless, and
        a store that nobody closes loses nothing.

        What has not begun yet is refused from here on (`StoreClosedError`, nothing of it was
        written). A batch under way may end; closing waits for it as long as a write waits for the
        lock. A read under way ends, too. Raises `InvalidRequestError` inside of a write, and
        `DatabaseLostError` when somebody removed the database's WAL and it could not be saved.

        The last connection to close moves the WAL into the database: not beside a writer, so under
        the writer lock; when that cannot be had, somebody else will be the last.
        """
        if self.database.read_only:
            self.database.close()
            return
        self.lock.refuse_reentry()
        self.database.begin_closing()
        deadline = time.monotonic() + self.lock.timeout_s
        while True:
            try:
                with self.lock.hold(_CLOSING_TIMEOUT_S):
                    self.database.close()
            except (LockTimeoutError, StorageError, UnusableEngineError):
                if self.lock.is_held_here and time.monotonic() < deadline:
                    continue
                self.database.close(tidy=False)
            return

    def __repr__(self) -> str:
        try:
            self.database.check_usable()
        except StoreClosedError:
            state = " (closed)"
        else:
            state = ""
        return f"<{type(self).__name__} of team {self.team_name!r} in {self.directory}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or sent to another process: "
            "open the directory there"
        )

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
        return self._update(store, plain_change(change, store), identity, reason)

    def _update(
        self,
        store: str,
        change: Callable[[Any], Any],
        identity: RunIdentity,
        reason: BatchReason | str,
        beside: Callable[[], Sequence[Submission]] | None = None,
    ) -> Batch:
        descriptor = self.descriptors.get(store)
        return self._writer.update(
            descriptor,
            change,
            team_name=self.team_name,
            identity=checked_identity(identity),
            reason=member(BatchReason, reason, "reason"),
            check_current=lambda: self._reader.check_file(descriptor),
            beside=beside,
        )

    # --- reading --------------------------------------------------------------------------------

    def read(self, store: str, *, verify: bool = True, at: At | None = None) -> StoreContent:
        """The committed content of a store, from the database; takes no lock.

        The file's size and time are held against the entry, its hash where those differ. Raises
        `StoreFileChangedError` when somebody else changed or removed the file, and
        `BatchUnfinishedError` when a batch whose writer died has changed it (with `verify=False`
        the file is not looked at); `InvalidRequestError` when nothing is committed for it, and
        `ContentMissingError` when something is and the database has lost it.

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
        not look at the files. A store that was never written is absent; one whose content
        the database has lost is in `lost`."""
        names = self.descriptors.names if stores is None else arguments.several(stores, "stores")
        return self._reader.snapshot([self.descriptors.get(name).schema_name for name in names])

    def manifest(self) -> Manifest:
        """What is committed now."""
        return self._manifest_store.read()

    def batches(self, *, limit: int | None = None) -> list[Batch]:
        """The batches, oldest first, with their receipts; the newest `limit` of them."""
        if limit is not None:
            arguments.number(limit, "limit")
        return self._receipt_store.list(limit=limit)

    def batch(self, batch_id: str) -> Batch | None:
        """One batch with its receipts, or None when it is not known (any more)."""
        return self._receipt_store.get(check_text("batch_id", batch_id))

    def quarantined_files(self) -> list[QuarantinedFile]:
        """The evidence kept so far, oldest first."""
        return self.database.read(recovery_log.list_evidence)


def plain_change(change: Callable[[Any], Any], store: str) -> Callable[[Any], Any]:
    """The function of an update. Refuses a coroutine function at once, and one in disguise when it
    is called."""
    why = "it is called under the writer lock"
    return arguments.plain_function(change, "change", why, store=store)
