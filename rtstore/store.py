"""`RuntimeStore`: the facade that most callers need. It delegates to the layers below."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeVar, overload

from pydantic import BaseModel
from sqlalchemy import Connection

from rtstore.commit import late
from rtstore.commit.adopt import adopting, not_adoptable
from rtstore.commit.begin import Begun
from rtstore.commit.publisher import Durability
from rtstore.commit.reporting import EventDispatcher, Observer, checked_observer
from rtstore.commit.update import Update
from rtstore.commit.writer import BatchWriter
from rtstore.control import history, manifest, recovery_log, revisions, runs, upgrade_log
from rtstore.control.batches import ReceiptStore
from rtstore.control.contents import Retention
from rtstore.control.history import StoreVersion
from rtstore.control.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.control.manifest import ManifestStore
from rtstore.control.run_processes import is_alive, is_this_process
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    BatchUnderWayError,
    InvalidRequestError,
    LockTimeoutError,
    RuntimeStoreError,
    StaleRunError,
    StorageError,
    StoreClosedError,
    StoreFileChangedError,
    UnusableEngineError,
    WrongTeamError,
)
from rtstore.files.inspector import FileInspector
from rtstore.files.seams import Seams, takes_earlier_keywords
from rtstore.files.system import FileSystem
from rtstore.forks import no_fork
from rtstore.history import follow
from rtstore.history.prune import PruneProgress, PruneReport, prune_history
from rtstore.history.reader import Snapshot, StoreContent, StoreReader, content_for
from rtstore.history.versions import (
    CONTENT_FIELDS,
    At,
    StoreDifferences,
    checked_point,
    compare,
    load_version,
    why_nothing_is_committed,
)
from rtstore.maintenance.create import (
    check_before_use,
    check_files_first,
    check_made,
    load_head,
    load_remembered,
    make_or_upgrade,
    moves_of,
    refuse_files,
    remember,
    report_loose_modes,
)
from rtstore.maintenance.hindrances import hindrances
from rtstore.maintenance.upgrade_data import (
    DataUpgradeReport,
    check_files,
    refuse_edits_to_come,
    rehearse,
    upgrade_data,
    waits_for_data,
)
from rtstore.model import arguments
from rtstore.model.arguments import check_text, checked_identity, member, reason_name
from rtstore.model.data_upgrade import MovedStore, upgraded_data, waits_for_upgrade
from rtstore.model.decide import build_readiness
from rtstore.model.descriptors import (
    Descriptor,
    Registry,
    StoreKey,
    StoreKeys,
    diagnostic_only,
    store_name,
)
from rtstore.model.edits import ForeignEdits, checked_edits
from rtstore.model.envelope import decode_own
from rtstore.model.records import (
    Batch,
    BatchReason,
    DatabaseUpgrade,
    Deleted,
    Hindrance,
    Manifest,
    QuarantinedFile,
    ReadinessCheck,
    RecoveryPlan,
    RecoveryReport,
    RunIdentity,
)
from rtstore.model.request import ExpectedVersions, Writes, batch_request
from rtstore.model.runs import RunEnding, RunProcess, RunRecord, RunState, StartState
from rtstore.model.start import start_state
from rtstore.model.typed import StoreData
from rtstore.recovery.begin import Keep, RunStarter
from rtstore.recovery.execute import Recovery
from rtstore.recovery.gather import PlanningInput, RecoveryPlanner
from rtstore.recovery.rebuilders import Rebuilders, Rebuilding, checked_rebuilders
from rtstore.recovery.unquarantine import drop_old_quarantined, restore_quarantined
from rtstore.shell import rtstore_at

if TYPE_CHECKING:
    from rtstore.legacy import ExportReport
    from rtstore.maintenance.backup import Backup
    from rtstore.maintenance.backup.record import Progress

Payload = TypeVar("Payload", bound=BaseModel)
Result = TypeVar("Result")

_CLOSING_TIMEOUT_S = 1.0


class RuntimeStore:
    """The state of one agent runtime: JSON files, and the database that makes them transactional.

    Create one with `RuntimeStore.open`. It is a context manager: leaving the block closes it.
    Threads may share it; a forked process must open its own.
    """

    def __init__(
        self,
        directory: Path,
        database: Database,
        registry: Registry,
        *,
        seams: Seams,
        durability: Durability,
        retention: Retention,
        lock: WriterLock,
        team_name: str,
        on_event: Observer | None = None,
        foreign_edits: ForeignEdits = ForeignEdits.RAISE,
    ) -> None:
        self.directory = directory
        self.team_name = team_name
        self.descriptors = registry
        self.retention = retention
        """How much history stays in the database; batches prune the rest."""
        self.foreign_edits = foreign_edits
        """What it does about store files that somebody else changed."""
        self.database = database
        self.lock = lock
        self.last_recovery: RecoveryReport | None = None
        """The recovery that opening the store ran, or None when none was needed."""
        self.last_data_upgrade: DataUpgradeReport | None = None
        """The stores whose data opening upgraded to the descriptor's version, or None."""
        self._clock = clock = seams.clock
        self._fs = fs = seams.fs
        self._manifest_store = ManifestStore(database, team_name=team_name, clock=clock)
        self._receipt_store = ReceiptStore(database)
        self._writer = BatchWriter(
            directory,
            self._manifest_store,
            self._receipt_store,
            batch_id_factory=seams.batch_id_factory,
            receipt_id_factory=seams.receipt_id_factory,
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
            plan_id_factory=seams.plan_id_factory,
            clock=clock,
            lock=lock,
            may_lock=not database.read_only,
        )
        self._reader = StoreReader(directory, database, registry, lock, fs, foreign_edits)
        self._recovery = Recovery(
            registry,
            database,
            self._planner,
            self._writer.publisher,
            lock,
            clock=clock,
            fs=fs,
        )
        self._starter = RunStarter(registry, self._reader, self._planner, self._writer, team_name)

    # --- opening and closing --------------------------------------------------------------------

    @classmethod
    @takes_earlier_keywords
    def open(
        cls,
        directory: str | Path,
        *,
        team_name: str | None = None,
        descriptors: Iterable[Descriptor] | None = None,
        durability: Durability | str = Durability.LOG,
        lock_timeout_s: float = DEFAULT_TIMEOUT_S,
        retention: Retention | None = None,
        recover: bool = True,
        read_only: bool = False,
        upgrade: bool = True,
        on_event: Observer | None = None,
        foreign_edits: ForeignEdits | str = ForeignEdits.RAISE,
        seams: Seams | None = None,
    ) -> Self:
        """Open the store of a runtime directory. Create both when they do not exist yet.

        Opening also runs the recovery that needs no decision. A batch whose writer died is
        completed from the log. A failed batch is undone to its end. A torn or missing file is
        restored from the committed content. Temporary files are removed. The result is in
        `last_recovery` and in the table `recovery_runs`.

        Args:
            directory: the runtime directory.
            team_name: the team whose state it is. Required to create a store; checked against an
                existing one.
            descriptors: the stores of this runtime. The database remembers them. One whose file
                is another store's, or in its place as a folder, is refused, until that is written
                elsewhere or deleted; so is a path of another runtime directory, such as a lane.
                Default: those remembered, or the known stores of an OpenCode team.
            durability: `log` (one flush a batch) or `files` (the store files are flushed too).
            lock_timeout_s: how long a write waits for other writers, in seconds.
            retention: how much history stays in the database, which remembers it for every
                store opened later without this argument; stores already open do not change.
                Default: the remembered one, or `Retention()` in a new directory.
            recover: whether to run that recovery; if false, everything stays as found.
            read_only: create no file, change nothing, take no lock.
            upgrade: whether to upgrade a database of an older revision (after a back-up), and
                store data of an older schema version (with the functions of the descriptors, in
                one batch of reason `migration`). If false, or with `read_only`, an older database
                raises `OlderDatabaseError`, and older data stays as it is.
            on_event: called with every `Event` (see `rtstore.model.events`) once it is durable: in
                the thread of the call that caused it, before that call returns, without the writer
                lock, so it may use the store. An `Exception` it raises is logged and changes
                nothing. Threads that share the store may call it at the same time.
            foreign_edits: what reads, updates and an upgrade of the data do about a store file that
                somebody else changed:
                `raise` an error, `ignore` the edit and use what is committed, or `adopt` the file
                in a batch of its own if it passes the checks of a write. See `ForeignEdits`.
            seams: where times, ids and files come from, for tests: see `rtstore.testing.Seams`.

        Raises `NotARuntimeDirectoryError`, `WrongTeamError`, `InvalidRequestError`,
        `DatabaseMissingError` (nothing is created or changed), `OlderDatabaseError`,
        `NewerDatabaseError`, `ForeignDatabaseError`, `CorruptDatabaseError` (nothing is touched),
        `UpgradeFailedError`, `DataUpgradeError`, `LockTimeoutError`, `StorageError`,
        `RecoveryFailedError`; `StoreFileChangedError` for data that is to be upgraded, when
        somebody else changed its file.
        """
        directory = arguments.path(directory, "directory").absolute()  # wherever the process goes
        seams = arguments.optional(Seams, seams, "seams") or Seams()
        seams = replace(seams, clock=partial(arguments.time_of, seams.clock))
        clock, fs = seams.clock, seams.fs
        arguments.flags(recover=recover, read_only=read_only, upgrade=upgrade)
        arguments.optional(str, team_name, "team_name")
        registry = None if descriptors is None else Registry(descriptors)
        durability = member(Durability, durability, "durability")
        arguments.optional(Retention, retention, "retention")
        on_event = None if on_event is None else checked_observer(on_event)
        edits = checked_edits(foreign_edits, read_only=read_only)
        lock_timeout_s = arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
        lock = WriterLock(directory, lock_timeout_s, read_only=read_only)
        if read_only:
            check_made(directory, team_name, registry, fs)
        else:
            late.load()
            make_or_upgrade(
                directory, team_name, registry, lock, clock, fs,
                retention=retention, may_upgrade=upgrade, with_data=recover,
                refuse=partial(refuse_opening, edits=edits),
            )  # fmt: skip
        database = Database(directory / DATABASE_NAME, lock=lock, read_only=read_only)
        try:
            head, kept = load_head(database)
            if team_name is not None and team_name != head.team_name:
                raise WrongTeamError(directory, team_name, head.team_name)
            if recover and not read_only:  # refuse before anything is changed
                check_before_use(
                    directory, database, head, registry, fs,
                    with_data=upgrade, adopts=edits is ForeignEdits.ADOPT,
                )  # fmt: skip
            remembered = load_remembered(directory, database, registry, fs, read_only=read_only)
            store = cls(
                directory,
                database,
                Registry(remembered) if registry is None else registry,
                seams=seams,
                durability=durability,
                retention=retention or kept,
                lock=lock,
                team_name=head.team_name,
                on_event=on_event,
                foreign_edits=edits,
            )
            report_loose_modes(directory)
            if recover and not read_only:
                store._put_right(registry, remembered, with_data=upgrade)
            if not read_only:  # last: a refused opening is not remembered
                remember(database, lock, registry, retention, before=(remembered, kept))
        except BaseException:
            database.close(tidy=False)
            raise
        return store

    def _put_right(
        self, given: Registry | None, remembered: Iterable[Descriptor], *, with_data: bool
    ) -> None:
        """Recover automatically. With descriptors that are given, upgrade the store data too.

        Until that is done, the directory remembers the files of the descriptors before."""
        self._reader.is_opening = self._writer.is_opening = True
        self._recovery.files_before = self._files_before(remembered)
        try:
            if given is not None and with_data:  # refuse before anything is moved
                self._upgrading(self._refuse_edits)
            refuse = partial(
                refuse_files, wanted=given or (), directory=self.directory, fs=self._fs
            )
            self.last_recovery = self._recovery.auto_recover(self.team_name, refuse)
            if given is not None and with_data:  # the database does not remember upgrade functions
                self.last_data_upgrade = self._upgrade_data()
        finally:
            self._reader.is_opening = self._writer.is_opening = False
            self._recovery.files_before = {}
            self._writer.events.tell()

    def _upgrade_data(self) -> DataUpgradeReport | None:
        upgrade = partial(
            upgrade_data, self._writer, self.descriptors, self.team_name, self._reader.check_file
        )
        return self._upgrading(partial(self._with_edits, upgrade))

    def _files_before(self, remembered: Iterable[Descriptor]) -> dict[str, str]:
        """Return the files that the directory remembers of stores to which this opening gives
        others, by store."""
        files = {item.schema_name: item.relative_path for item in self.descriptors}
        return {
            item.schema_name: item.relative_path
            for item in remembered
            if files.get(item.schema_name, item.relative_path) != item.relative_path
        }

    def _refuse_edits(self) -> None:
        """Raise for an edit that is in the way of the upgrade of its store's data: of the file that
        an opening leaves as it is, or of the former file of a store that it moves."""
        refuse_edits_to_come(
            self.database,
            self.descriptors,
            self._recovery.edit_to_come,
            self._fs,
            edits=self.foreign_edits,
            directory=self.directory,
        )
        if self.foreign_edits is ForeignEdits.RAISE:
            check_files(
                self.database,
                self.descriptors,
                lambda: self._recovery.left_by_opening(self.plan_recovery()),
                self._reader.check_file,
            )

    def _refuse_rehearsed(self, remembered: Iterable[Descriptor]) -> None:
        self._reader.is_opening = True
        self._recovery.files_before = self._files_before(remembered)
        self._upgrading(self._refuse_edits)

    def _rehearse_upgrade(self) -> tuple[DataUpgradeReport | None, tuple[str, ...]]:
        data = rehearse(self.database, self.descriptors, directory=self.directory)
        return data, self._recovery.making_way(self.plan_recovery())

    def _upgrading(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call. A note on what it raises for a changed file says how to open
        the store all the same."""
        try:
            return call()
        except StoreFileChangedError as error:
            error.add_note(
                "rtstore: its data was to be upgraded, so the store was not opened. "
                f"{self._way_past(error)}"
            )
            raise

    def _way_past(self, error: StoreFileChangedError) -> str:
        """Return how to open the store although the data of one cannot be upgraded."""
        path = error.path.relative_to(self.directory).as_posix()
        known = self.descriptors.get(error.store).model_copy(update={"relative_path": path})
        found = self._planner.inspector.inspect(known, self.manifest().entry(error.store))
        if found.schema_version is not None and found.schema_version > known.schema_version:
            return (
                f"Its file is of schema version {found.schema_version}, newer than this program, "
                "which cannot adopt it. With upgrade=False the other stores can be read"
            )
        ways = "with upgrade=False to read it or to recover first, or with foreign_edits='ignore'"
        if self.foreign_edits is ForeignEdits.RAISE and error.found_hash is not None:
            ways += ", to go on from what is committed, or 'adopt', to commit the file"
        return f"Open it {ways}"

    def close(self) -> None:
        """Close the database. Everything written is durable already, so a store that is never
        closed loses nothing. Closing twice is harmless.

        A call whose work has not begun raises `StoreClosedError`; it writes nothing. A batch in
        progress may end; closing waits for it at most `lock_timeout_s`, or a second where that is
        longer. A read in progress may end, too. Raises `InvalidRequestError` inside of a write.

        When somebody removed the database's WAL, this saves what is in it. Raises
        `DatabaseLostError` when another program has begun a new one. Raises `WalNotSavedError` or
        `DatabaseLockedError` when it cannot be saved now: the store stays open for that, and
        closing it again tries again.

        The last connection to close moves the WAL into the database. No writer may run meanwhile,
        so this takes the writer lock; without the lock, another connection will be the last.
        """
        if self.database.read_only:
            self.database.close()
            return
        self.lock.refuse_reentry("close the store")
        self.database.begin_closing()
        deadline = time.monotonic() + self.lock.timeout_s
        while True:
            try:
                with self.lock.hold(_CLOSING_TIMEOUT_S):
                    self.database.close()
            except (LockTimeoutError, StorageError, StoreClosedError, UnusableEngineError):
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
        expected: ExpectedVersions | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Write several stores as one atomic batch. Return it with its receipts.

        The whole batch is durable when this returns. A crash earlier leaves all of it or nothing.
        A batch under a run id that was never seen begins that run, and supersedes the active one
        even if its process is alive: `begin_run` asks first.
        `writes` maps stores, given by name or by descriptor, to their new data: plain JSON values,
        or an object of a pydantic model; the files are published in its order. Data of a store with
        a payload model must pass it, and is written as the model dumps it. With `DELETED` in place
        of data the batch deletes the store, after what it writes: its file and its entry go, its
        history stays. Something must be committed for it. With `expected`, a
        mapping of stores to versions, the batch is written only if each of them is still what was
        read: the `high_watermark` or `batch_id` of `read(...)`, or None when nothing was committed.
        A store that another program gave another file since this one was opened is refused:
        `StoreFileChangedError` says in `moved_to` where it is; nothing of the batch is written.
        With a `batch_id` the call can be repeated: a batch that was committed before is returned.
        With other contents `OtherContentsError` says where they differ. A model that generates a
        value (`default_factory`) makes other contents of the same JSON each time: make its object
        once, and repeat the call with that. One that computes a value anew does so of the same
        object, too: ask `batch` first. The id of a batch that failed is used up: the next attempt
        takes a new one. See `BatchWriter.write_batch` for `expected_high_watermark` and the errors.
        """
        request = batch_request(
            self.team_name, self.descriptors, identity=identity, reason=reason, writes=writes
        )
        return self._writer.write_batch(
            request,
            expected_high_watermark=expected_high_watermark,
            expected=expected,
            batch_id=batch_id,
        )

    @overload
    def update(
        self,
        store: Descriptor[Payload],
        change: Callable[[Payload], Payload | Deleted],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch: ...

    @overload
    def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch: ...

    @overload
    def update(
        self,
        store: StoreKeys,
        change: Callable[[StoreData], Mapping[Any, Any]],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch | None: ...

    def update(
        self,
        store: StoreKey | Iterable[StoreKey],
        change: Callable[[Any], Any],
        *,
        identity: RunIdentity,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch | None:
        """Read, change and write one store, or several together, under the writer lock, so that no
        update is lost.

        One store: `change` is called with the committed data, which it may modify, and returns the
        new data. A batch is written in any case. With `DELETED` as the result, the batch deletes
        the store. For a store that is given by a descriptor with a payload model, both are objects
        of that model.

        Nothing is committed for a store that was never written, or was deleted. Then `change` is
        called with None, and what it returns is written: a deleted store is there again. By a
        descriptor with a payload model `InvalidRequestError` is raised instead, and `change` is not
        called. JSON null that is committed is None by name, too, and an object of the model, where
        that takes it, by descriptor.

        Several stores, a list: `change` is called with a dict of their committed data, each under
        its name or its descriptor, as it was given (`StoreData`; None for a store with nothing
        committed), and returns a mapping of new data, which may be the same dict. What it leaves
        out stays as it is, and so does what equals what it was given, or what is committed. The
        rest is one batch; when nothing is left, no batch is written, and None is returned. Data
        that it changed in place and left out is refused. An object is compared with what its fields
        and private attributes held when it was given: a value that its model generates or computes
        anew is no change. What is held elsewhere is not seen: in an attribute that is no field, or
        in an object of another class than a model, a dataclass or a container of Python, where that
        calls itself equal to what it was. In place of data it may return `DELETED`, which deletes
        the store.
        A store with nothing committed stays so where it returns None for it, which is what it was
        given, or `DELETED`: the batch is without that store. (`write_batch` takes None as JSON
        null, and refuses such a deletion, as an update of one store refuses both.)

        With a `batch_id` the call can be repeated: if that batch was committed before, it is
        returned, and `change` is not called. So give each update an id of its own: what the
        function would do is not compared. An id is refused when its batch is of another run or
        reason, or wrote a store that this call does not name.

        Durable on return. Raises `StoreFileChangedError` when somebody else changed the file: their
        edit is neither used nor overwritten, unless `foreign_edits` says otherwise;
        `DataRefusedError` when a model does not accept what is committed; and
        `NewerStoreFileError` when a newer program committed it, before `change` is called (for one
        of several that is given by its name, only when `change` changed it).
        """
        is_of_one = isinstance(store, str | Descriptor)
        stores = [store] if isinstance(store, str | Descriptor) else checked_stores(store)
        plain = plain_change(change, store_name(stores[0]) if is_of_one else None)
        update = partial(
            self._writer.update,
            Update(
                stores=tuple(stores),
                descriptors=tuple(self.descriptors.get(item) for item in stores),
                change=plain,
                is_of_one=is_of_one,
                team_name=self.team_name,
                identity=checked_identity(identity),
                reason=reason_name(reason),
                batch_id=batch_id,
            ),
            check_file=self._reader.check_file,
        )
        return self._with_edits(update, batch_id)

    def _with_edits(self, call: Callable[[], Result], batch_id: str | None = None) -> Result:
        """Return the result of a call that raises for store files that somebody else changed: with
        those adopted, where foreign edits are. It is under way all the time."""
        if self.foreign_edits is not ForeignEdits.ADOPT:
            return call()
        with self._writer.queue.under_way(batch_id):
            return adopting(call, partial(self._adopt, by_itself=True))

    # --- runs -----------------------------------------------------------------------------------

    def begin_run(
        self,
        identity: RunIdentity | str,
        *,
        writes: Writes = (),
        keep: Keep = (),
        rebuilders: Rebuilders | None = None,
        supersede: bool = False,
    ) -> Run:
        """Begin a run with one batch of reason `launch_checkpoint`, and own the directory: from
        then on every batch of the run before is refused. Or resume the run, if it is the active
        one: its state is there, so no rebuilder is called, and of `writes` only stores that have
        nothing committed (never written, or deleted) are written, in a batch of their own.

        Args:
            identity: of the new run, or only its id, which resumes the active run whatever its
                snapshot and fingerprint are. An id is used once: never that of a run that ended or
                was superseded.
            writes: the first contents, as in `write_batch`.
            keep: stores that are taken over as they are, or `"all"`: every committed store of the
                descriptors that the directory was opened with, if it is neither given nor rebuilt;
                but no diagnostic one whose data or file this program refuses or cannot read, or
                whose data is lost or waits for its upgrade.
            rebuilders: functions that make data from the old data, by store or by strategy:
                for every store that is neither given nor kept by name. They are called without
                the writer lock, perhaps again when their store was written meanwhile.
            supersede: begin although the process of the active run is alive on this host; its
                writes are refused from then on. (That process may itself begin another run.)

        The process of the run is this one, or, if that is gone, the next one that resumes the run
        or writes under its identity. A child that goes on with the run, as a daemon does, resumes
        it: until its first write, or that, the run's process is gone with the parent.

        A store in none of these stays the old run's; `Run.left` names it. Durable on return. After
        a crash there is the old run, or the new one with all its stores.

        Raises `StaleRunError` for an id that is over, `RunAliveError`, `ConflictError`,
        `InvalidRequestError` (also when the batch would be empty, when a rebuilder returns None,
        and when the run is active under another snapshot or fingerprint), `StoreFileChangedError`,
        `DataRefusedError` and `ContentMissingError` for a kept store, what a rebuilder raises, and
        otherwise as `write_batch`. The run has not begun then, unless `write_batch` says otherwise.
        """
        if isinstance(identity, str):
            identity = self._identity_of(identity)
        identity = checked_identity(identity)
        begun: Begun | None = None
        try:
            begin = partial(
                self._starter.begin,
                identity,
                writes=writes,
                keep=keep,
                rebuilders={} if rebuilders is None else rebuilders,
                supersede=supersede,
            )
            begun = self._with_edits(begin)
            return Run(self, identity, begun.batch, begun.superseded, begun.left, begun.process)
        except BaseException as error:
            if begun is not None and begun.batch is not None:  # interrupted right before the end
                error.add_note(
                    f"rtstore: batch {begun.batch.batch_id} is committed: run {identity.run_id} "
                    "has begun, and beginning it again resumes it"
                )
            raise

    def _identity_of(self, run_id: str) -> RunIdentity:
        """Return the whole identity of the active run, if it is the one with that id; for any other
        id, one without a snapshot or fingerprint."""
        new = checked_identity(RunIdentity(run_id=run_id))
        read = partial(self.database.read, manifest.load_active_identity)
        # An open batch may be the first one of that run.
        active = self._writer.look_settled(read) if self._receipt_store.open_batches() else read()
        return active if active is not None and active.run_id == run_id else new

    def end_run(
        self,
        run_id: str | None = None,
        *,
        why: str | None = None,
        ending: RunEnding | str = RunEnding.STOPPED,
    ) -> RunRecord:
        """End the active run, from inside or outside. Return it. Its further batches are refused.

        With `run_id`, only if that is the active run. Durable on return. Raises `StaleRunError`
        when that run is over, `InvalidRequestError` when it is unknown or no run is active,
        `LockTimeoutError`, `StorageError`; nothing is changed then. `DatabaseFailedError`: the
        flush failed, and the run may have ended or not.
        """
        return self._writer.end_run(
            None if run_id is None else check_text("run_id", run_id),
            ending=member(RunEnding, ending, "ending"),
            why=None if why is None else arguments.reason_in_words(why, "why"),
        )

    def runs(self) -> list[RunRecord]:
        """Return every run of this directory, the latest first. Rows of runs are never dropped.

        The answer is what is on record at this moment: unlike `batch`, this does not wait for a
        call under way that begins or ends a run.
        """
        return self.database.read(runs.list_runs)

    def start_state(self, run: RunIdentity | str | None = None) -> StartState:
        """Return where a runtime stands at its start, in one answer: what to do, and why.

        `run` is the run that is about to start. Without it, the active run is always another's. The
        plan in the answer compares nothing with it. Takes no lock and changes nothing.
        """
        identity = RunIdentity(run_id=run) if isinstance(run, str) else run
        if identity is not None:
            checked_identity(identity)
        gathered, plan, readiness = self._assess(None, with_run=True)
        seen, last = gathered.view.manifest, gathered.view.last_run
        # A record that is newer than the rest can only say that the run is over, and that is final.
        known = (
            None
            if identity is None
            else self.database.read(partial(runs.find, run_id=identity.run_id))
        )
        return start_state(
            run_id=None if identity is None else identity.run_id,
            identity=identity if isinstance(run, RunIdentity) else None,
            known=known,
            last=last,
            process_alive=(
                None
                if last is None or last.state is not RunState.ACTIVE
                else is_alive(last.process, self.directory)
            ),
            is_own=last is not None and is_this_process(last.process),
            manifest=seen,
            plan=plan,
            readiness=readiness,
            hindrances=self._hindrances(seen),
            edits=self.foreign_edits,
            not_adoptable=(
                not_adoptable(plan, seen, self.descriptors, self.directory, self._fs)
                if self.foreign_edits is ForeignEdits.ADOPT
                else {}
            ),
            behind_edits=self._reader.behind_edits(plan),
            diagnostic=diagnostic_only(self.descriptors),
            links={name for name, found in gathered.findings.items() if found.is_link},
            closed={
                name
                for name, found in gathered.findings.items()
                if self._planner.inspector.is_closed(found.inspection)
            },
            failed={} if plan.manifest_healthy else self.database.read(recovery_log.last_failures),
            not_upgraded=[
                item.schema_name
                for item in seen.entries
                if item.schema_name in self.descriptors
                and waits_for_upgrade(self.descriptors.get(item.schema_name), item.schema_version)
            ],
        )

    # --- reading --------------------------------------------------------------------------------

    @overload
    def read(
        self, store: Descriptor[Payload], *, verify: bool = True, at: At | None = None
    ) -> StoreContent[Payload]: ...

    @overload
    def read(self, store: str, *, verify: bool = True, at: At | None = None) -> StoreContent: ...

    def read(self, store: StoreKey, *, verify: bool = True, at: At | None = None) -> StoreContent:
        """Return the committed content of a store, from the database. Takes no lock.

        The data is plain JSON for a store that is given by its name. For one that is given by its
        descriptor it is an object of its payload model; raises `DataRefusedError` when the model
        does not accept what is committed.

        With `verify`, the file is compared with the entry: by size and time, and by hash where
        those differ. Raises `StoreFileChangedError` when somebody else changed or removed the
        file, or it holds what a batch wrote that is not the current one (unless `foreign_edits`
        says otherwise), and `BatchUnfinishedError` when a batch whose writer died changed it. With
        `verify=False` the file is not read. Raises `InvalidRequestError` when nothing is committed
        for the store, which then was never written, or was deleted; and `ContentMissingError` when
        the database has lost what was.

        With `at`, return what the store held at that point: a batch (its id, or its high
        watermark) or a time. The file is not read. Raises `InvalidRequestError` when that point is
        not on record, or not any more: see `retention`. Data of an older schema version is not
        upgraded, as `revert` does it: by name it is plain JSON of that version, by descriptor
        `DataRefusedError` is raised.
        """
        descriptor = self.descriptors.get(store)
        if at is not None:
            then, is_current = self._content_at(descriptor.schema_name, checked_point(at))
            return content_for(store, then, is_current=is_current)
        content = self._with_edits(partial(self._reader.read, descriptor, verify=verify))
        if content is None:
            self._refuse_unwritten(descriptor.schema_name)
        return content_for(store, content)

    def _refuse_unwritten(self, name: str) -> NoReturn:
        """Say of a store without committed content whether it was ever written, or deleted."""
        why = self.database.read(partial(why_nothing_is_committed, name=name))
        raise InvalidRequestError("store", f"no committed content: {why}", store=name)

    def snapshot(self, stores: Iterable[StoreKey] | None = None) -> Snapshot:
        """Several stores (default: all) as of one batch, from the database; takes no lock and does
        not look at the files. A store that was never written is absent; one whose content
        the database has lost is in `lost`. `snapshot[ROSTER].data` is an object of the payload
        model of that descriptor; by name it is plain JSON."""
        names = self.descriptors.names if stores is None else arguments.several(stores, "stores")
        return self._reader.snapshot([self.descriptors.get(name).schema_name for name in names])

    def manifest(self) -> Manifest:
        """Return the manifest: the current entry of every store."""
        return self._manifest_store.read()

    def batches(self, *, limit: int | None = None) -> list[Batch]:
        """Return the newest `limit` batches (default: all) with their receipts, oldest first. This
        does not wait for a batch under way, as `batch` does."""
        if limit is not None:
            arguments.number(limit, "limit")
        return self._receipt_store.list(limit=limit)

    def batch(self, batch_id: str) -> Batch | None:
        """Return one batch with its receipts, or None when it is not on record (any more).

        While another thread is in a call of this object that may write it (given this `batch_id`,
        also while it waits for its turn), wait for its outcome, at most 10 s; inside of a write,
        not at all. Raises `BatchUnderWayError` when it is not on record, and may be later. Inside
        of that call itself, as in the function of an update, the answer is what is on record.
        """
        return self._batch_known(check_text("batch_id", batch_id), self._writer.queue.wait_for)

    def _batch_known(self, batch_id: str, wait_for: Callable[[str], bool]) -> Batch | None:
        """Return a batch once `wait_for` has; that says whether its outcome is known."""
        is_known = wait_for(batch_id)
        found = self._receipt_store.get(batch_id)
        if found is None and not is_known:
            raise BatchUnderWayError(batch_id)
        return found

    def wait(self, *, after: int | None = None, timeout_s: float | None = None) -> list[Batch]:
        """Wait until a batch above a high watermark is committed, by any process. Return the next
        batches above it, oldest first, at most 1,000; none at the time-out.

        Take `after` from `manifest()`, from a `snapshot`, or from the last batch that was returned;
        default: as it is now. Without `timeout_s`, wait for ever. A commit of this process wakes it
        at once, one of another process within some 30 ms. It reads the database only when its files
        have changed, and every five seconds. It ends with `StoreClosedError` when the store is
        closed, and with the other errors of a read.

        Raises `MissedBatchesError` when the next batch is not on record any more, and
        `InvalidRequestError` when no batch has that watermark yet, and inside of a write.
        """
        limit_s = follow.checked_timeout(timeout_s)
        self.lock.refuse_reentry("wait for another")
        return follow.wait(self.database, follow.checked_after(self.database, after), limit_s)

    def follow(
        self, *, after: int | None = None, timeout_s: float | None = None
    ) -> Iterator[Batch]:
        """Return an iterator of the batches above a high watermark, of every process, in their
        order: those that are there, and each that is committed from then on.

        It ends when no batch came for `timeout_s` seconds; without that, it never ends by itself.
        Otherwise as `wait`.
        """
        limit_s = follow.checked_timeout(timeout_s)
        self.lock.refuse_reentry("wait for another")
        return follow.follow(self.database, follow.checked_after(self.database, after), limit_s)

    def quarantined_files(self) -> list[QuarantinedFile]:
        """Return the quarantined files, oldest first."""
        return self.database.read(recovery_log.list_quarantined)

    # --- planning and recovery ------------------------------------------------------------------

    def plan_recovery(self, *, expected: RunIdentity | None = None) -> RecoveryPlan:
        """Compare every store file with the database, and return what to do. Takes no lock.

        The entries are compared with `expected`, the run identity that the runtime is about to
        use. Default: the identity of the last committed batch.
        """
        return self._plan(expected, verify=True)[1]

    def _plan(
        self, expected: RunIdentity | None, *, with_run: bool = False, verify: bool = False
    ) -> tuple[PlanningInput, RecoveryPlan]:
        if expected is not None:
            checked_identity(expected)
        gathered = self._planner.gather(with_run=with_run, verify=verify)
        plan = self._planner.plan_of(
            gathered,
            team_name=self.team_name,
            expected=expected or gathered.view.manifest.active_identity,
        )
        return gathered, plan.model_copy(update={"expects_last": expected is None})

    def check_readiness(self, *, expected: RunIdentity | None = None) -> ReadinessCheck:
        """Return whether the runtime may start: by the plan and the cross-store invariants."""
        return self.assess(expected=expected)[1]

    def assess(self, *, expected: RunIdentity | None = None) -> tuple[RecoveryPlan, ReadinessCheck]:
        """Return the plan, and the readiness that follows from it and from the invariants."""
        return self._assess(expected)[1:]

    def _assess(
        self, expected: RunIdentity | None, *, with_run: bool = False
    ) -> tuple[PlanningInput, RecoveryPlan, ReadinessCheck]:
        gathered, plan = self._plan(expected, with_run=with_run)
        seen = gathered.view.manifest
        failures = self._reader.invariant_failures(seen)
        check = build_readiness(
            recovery_plan=plan,
            invariant_failures=failures,
            hindrances=self._hindrances(seen),
            nothing_committed=seen.high_watermark == 0,
        )
        self._writer.events.checked(plan, check)
        return gathered, plan, check

    def _hindrances(self, seen: Manifest) -> tuple[Hindrance, ...]:
        paths = {item.schema_name: item.relative_path for item in self.descriptors}
        moved: Mapping[str, str] = {}
        if paths != seen.paths and not self.database.read_only:  # which may have any descriptors
            query = partial(
                manifest.moved_stores, descriptors=self.descriptors, committed=seen.paths
            )
            moved = self.database.read(query, autocommit=True)
            newer = {
                item.schema_name
                for item in seen.entries
                if item.schema_name in paths
                and item.schema_version > self.descriptors.get(item.schema_name).schema_version
            }  # another descriptor changes nothing: the plan says what helps
            moved = {name: path for name, path in moved.items() if name not in newer}
        as_process = not self.database.read_only
        return hindrances(self.lock.path.parent, paths, seen.paths, moved, as_process=as_process)

    def invariant_failures(self) -> list[str]:
        """Return every contradiction between the committed contents, in words."""
        return self._reader.invariant_failures()

    def recover(
        self,
        plan: RecoveryPlan,
        *,
        rebuilders: Rebuilders | None = None,
        identity: RunIdentity | None = None,
        dry_run: bool = False,
    ) -> RecoveryReport:
        """Execute a plan: complete open batches, restore committed contents, quarantine files
        that somebody else wrote, and rebuild lost stores with functions of the runtime.

        Args:
            plan: from `plan_recovery`. Refused when a batch was committed since, but for a dry run.
            rebuilders: functions of the runtime, by strategy or store name, for stores that are
                lost, or stale for the identity that the plan expects. What they return is checked
                like a write, and written together in one batch of reason `recovery`. They are
                called without the writer lock; others may write meanwhile, and only where the
                store itself was written, or another run began, the result is not, and the step
                says so. A store without one is not changed, and stays in `remaining`; so does one
                whose data is of an older schema version: that waits for its upgrade.
            identity: what rebuilt stores are bound to. Default: the identity that the plan
                was made for, or else that of the last committed batch. That of a new run begins it.
            dry_run: only report what would be done; change nothing.

        Every action is recorded in `recovery_runs` and `recovery_actions`. After an interruption,
        recover again with a new plan. Raises `StaleRunError` when stores would be rebuilt for a run
        that is over: one that `identity` names, or another than the last, whose stores may be
        repaired after its end. Raises `StoreFileChangedError` when the plan would write a file of
        a store that another program gave another one since: open the directory again; and
        `NewerStoreFileError` when that brought its data up, too. Raises
        `ConflictError`, `WrongTeamError`, `LockTimeoutError`, and the errors of a failing database.
        A failing action is in the report.
        """
        arguments.instance(RecoveryPlan, plan, "plan")
        if identity is not None:
            checked_identity(identity)
        checked = checked_rebuilders({} if rebuilders is None else rebuilders, self.descriptors)
        if dry_run:
            return self._recovery.dry_run(plan, self.team_name)
        rebuilding = Rebuilding(
            checked,
            identity,
            plan,
            registry=self.descriptors,
            reader=self._reader,
            writer=self._writer,
            team_name=self.team_name,
        )
        rebuilding.check_run()
        try:
            report = self._recovery.execute(plan, self.team_name, rebuilding)
        finally:
            self._writer.events.tell()
        if report.run_number is None:
            return report
        expected = identity or plan.named_identity
        return report.model_copy(update={"remaining": self.plan_recovery(expected=expected)})

    def adopt(
        self,
        store: StoreKey,
        *,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Commit a file that somebody changed by hand, byte for byte, in a batch of its own.

        The file must pass the checks of a write. While an older schema version is what is
        committed, a file of that version must pass its upgrade instead. It is bound to `identity`;
        default: the identity of the last committed batch, also of an imported one whose run was
        stopped. Durable on return. Raises `InvalidRequestError` when the file does not pass, is
        missing, or is committed already; when it holds an earlier version, what a batch wrote that
        failed, or what another store left there, which a recovery puts right (of a store that has
        nothing committed it may); and when another program gave the store another file; otherwise
        as `write_batch`.
        """
        return self._adopt(store, identity=identity, reason=reason)

    def _adopt(
        self,
        store: StoreKey,
        *,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
        by_itself: bool = False,
    ) -> Batch:
        descriptor = self.descriptors.get(store)
        if identity is not None:
            checked_identity(identity)
        return self._writer.adopt(
            descriptor,
            team_name=self.team_name,
            identity=identity,
            reason=reason_name(reason),
            by_itself=by_itself,
        )

    def prune_quarantine(
        self, *, older_than: timedelta, dry_run: bool = False
    ) -> tuple[QuarantinedFile, ...]:
        """Remove the files that were quarantined at least `older_than` ago, for good. Return them.

        Nothing else removes files from quarantine, however many there are: each may be the only
        copy. With `dry_run`, only return them. After an interruption, call it again. Raises
        `InvalidRequestError`, `LockTimeoutError`, and `StorageError` for a file that cannot be
        removed; the files before it are removed.
        """
        return drop_old_quarantined(
            arguments.duration(older_than, "older_than"),
            self._writer.publisher,
            self.lock,
            self._clock,
            dry_run=dry_run,
        )

    def restore_quarantined(self, quarantine_number: int) -> QuarantinedFile:
        """Put a quarantined file back where it was, byte for byte; where its store has another file
        by now, there. The `relative_path` of what is returned is where it was put.

        The file there now is quarantined first, unless it is what is committed. This commits
        nothing: the next plan judges the file, and `adopt` commits it. Raises
        `InvalidRequestError` when there is no such quarantined file, or its bytes have changed.
        """
        arguments.number(quarantine_number, "quarantine_number", least=-(2**63))
        try:
            return restore_quarantined(
                quarantine_number, self._writer.publisher, self.lock, self._clock
            )
        finally:
            self._writer.events.tell()

    # --- maintenance ----------------------------------------------------------------------------

    def upgrades(self) -> list[DatabaseUpgrade]:
        """Return the upgrades of the control database, oldest first."""
        return self.database.read(upgrade_log.list_upgrades)

    def back_up(self, destination: str | Path, *, progress: Progress | None = None) -> Backup:
        """Copy one consistent state of database and store files into a new directory; verify it.

        Takes no lock, and no writer waits for it. `progress` is called with the step, the amount
        done, and the total. See `rtstore.maintenance.backup.back_up` for the errors.
        """
        with no_fork():
            from rtstore.maintenance.backup import back_up

        return back_up(
            self.directory,
            self.database,
            arguments.path(destination, "destination"),
            clock=self._clock,
            fs=self._fs,
            progress=arguments.optional_function(progress, "progress"),
        )

    def prune(
        self,
        retention: Retention | None = None,
        *,
        dry_run: bool = False,
        progress: PruneProgress | None = None,
    ) -> PruneReport:
        """Drop the history beyond a retention now, and return the space to the file system.

        Batches prune history by themselves. Call this after the retention became smaller, or with
        a bound by age where nothing is written any more. Current contents, open batches and the
        newest batch stay, whatever the retention; so do quarantined files and the records of
        recoveries, and the deletion of a store that an older batch on record wrote.

        Args:
            retention: how much history to leave, this once. Default: `store.retention`.
            dry_run: only report what would be dropped; take no lock.
            progress: called with the step, the amount done, and the total.

        Takes the writer lock for a fraction of a second at a time, so writers go on meanwhile.
        After an interruption or an error, the history dropped so far is gone and the rest is as
        before; call it again. Durable on return. Raises `LockTimeoutError`, `PruneStoppedError`
        when the disk is full, and the errors of a failing database.
        """
        return prune_history(
            self._writer.publisher,
            self.lock,
            arguments.optional(Retention, retention, "retention") or self.retention,
            self._clock,
            dry_run=dry_run,
            progress=arguments.optional_function(progress, "progress"),
        )

    def export(self, destination: str | Path | None = None) -> ExportReport:
        """Write the manifest and the receipts of the legacy format, whose readers then accept the
        directory: into this directory, under the writer lock, or with the stores into a new one.

        Durable on return. See `rtstore.legacy.exporting` for the contents and the errors.
        """
        with no_fork():
            from rtstore.legacy import export_here, export_to

        if destination is not None:
            target = arguments.path(destination, "destination")
            return export_to(self.directory, self.database, target, self._fs)
        return export_here(self.directory, self.database, self.lock, self._clock, self._fs)

    # --- earlier versions -----------------------------------------------------------------------

    def history(self, store: StoreKey, *, limit: int | None = None) -> list[StoreVersion]:
        """Return the newest `limit` committed versions of a store (default: all), oldest first;
        deletions among them (`is_deletion`).

        History goes back as far as `retention` keeps batches; `has_content` says which versions
        can be read. Takes no lock and does not read the file.
        """
        name = self.descriptors.get(store).schema_name
        if limit is not None:
            arguments.number(limit, "limit")
        return self.database.read(
            lambda connection: history.list_versions(connection, name, limit)[::-1]
        )

    def diff(self, store: StoreKey, a: At, b: At | None = None) -> StoreDifferences:
        """Return the differences of a store between two points in time. Default for `b`: now.

        At either it may be deleted: then all that is on the other side was removed or added. Takes
        no lock and does not read the file. Raises `InvalidRequestError` as `read` does otherwise.
        """
        name = self.descriptors.get(store).schema_name
        first = checked_point(a, "a")
        second = None if b is None else checked_point(b, "b")
        return self.database.read(partial(compare, name=name, a=first, b=second))

    def revert(
        self,
        store: StoreKey,
        *,
        to: At,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Write an earlier version of a store again, in a new batch. History stays as it is.

        `to` is a point in time, as in `read`. Data of an older schema version is upgraded with the
        descriptor's functions. The batch is bound to `identity`; default: the identity of the last
        committed batch. Durable on return.

        Raises `InvalidRequestError` when there is no such version, it is the current one, or it may
        not be written any more; `ConflictError` when a batch was written meanwhile;
        `StoreFileChangedError` when somebody else changed the file; `DataUpgradeError` when a
        function is missing or fails, or for data of a newer program; otherwise as `write_batch`.
        """
        descriptor = self.descriptors.get(store)
        name, point = descriptor.schema_name, checked_point(to, "to")
        if identity is not None:
            checked_identity(identity)
        reason = reason_name(reason)

        def query(connection: Connection) -> tuple[Manifest, StoreVersion, bytes]:
            return manifest.load(connection), *load_version(connection, name, point, "to")

        def look() -> tuple[Manifest, StoreVersion, bytes]:
            self._reader.check_file(descriptor)
            return self.database.read(query)

        head, version, content = self._with_edits(partial(self._writer.look_settled, look))
        if version.is_current:
            problem = f"{name} as of batch {version.batch_id} is what is committed"
            raise InvalidRequestError("to", f"{problem}: there is nothing to revert", store=name)
        fenced = identity is not None
        if identity is None:
            identity = head.active_identity
        if identity is None:
            raise InvalidRequestError("identity", "no run is active, so it must be given")
        request = batch_request(
            self.team_name,
            self.descriptors,
            identity=identity,
            reason=reason,
            writes={name: upgraded_data(descriptor, content, is_history=True)},
            fenced=fenced,
        )
        return self._writer.write_batch(request, expected_high_watermark=head.high_watermark)

    def _content_at(self, name: str, at: At) -> tuple[StoreContent, bool]:
        """Return what a store held at a point in time, and whether that is what is committed."""

        def query(connection: Connection) -> tuple[StoreContent, bool]:
            version, content = load_version(connection, name, at)
            envelope = decode_own(content)
            found = StoreContent(
                schema_name=name,
                schema_version=envelope.schema_version,
                data=envelope.data,
                updated_at=version.written_at,
                **version.model_dump(include=CONTENT_FIELDS),
            )
            return found, version.is_current

        return self.database.read(query)


class RunFacts:
    """How a run began: of `Run` and of `AsyncRun`."""

    def __init__(
        self,
        identity: RunIdentity,
        batch: Batch | None,
        superseded: RunRecord | None,
        left: tuple[str, ...],
    ) -> None:
        self.identity = identity
        self.batch = batch
        """The batch that began the run; None when it was resumed."""
        self.superseded = superseded
        """The run that was active before, and is superseded; None when none was."""
        self.left = left
        """The committed stores that are still bound to other runs."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.identity.run_id

    @property
    def resumed(self) -> bool:
        """Whether the run was active already, so that no batch began it."""
        return self.batch is None


class Run(RunFacts):
    """One life of the runtime, begun or resumed with `RuntimeStore.begin_run`: writes under its
    identity.

    It is a context manager. Leaving the block ends the run as finished; an exception ends it as
    failed; a process that is killed leaves it active, and the next start sees that its process is
    gone. A process that resumed the run while the one that began it lives, as a worker does,
    leaves it active too. It does not close the store.
    """

    def __init__(
        self,
        store: RuntimeStore,
        identity: RunIdentity,
        batch: Batch | None,
        superseded: RunRecord | None,
        left: tuple[str, ...],
        process: RunProcess | None,
    ) -> None:
        super().__init__(identity, batch, superseded, left)
        self.store = store
        self.record: RunRecord | None = None
        """How it ended; None until this object ends it."""
        self._pid = os.getpid() if is_this_process(process) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id!r} of {self.store!r}>"

    def write_batch(
        self,
        reason: BatchReason | str,
        writes: Writes,
        *,
        expected_high_watermark: int | None = None,
        expected: ExpectedVersions | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Write several stores as one atomic batch of this run: see `RuntimeStore.write_batch`.
        Raises `StaleRunError` when the run is over; nothing is written then."""
        return self.store.write_batch(
            identity=self.identity,
            reason=reason,
            writes=writes,
            expected_high_watermark=expected_high_watermark,
            expected=expected,
            batch_id=batch_id,
        )

    @overload
    def update(
        self,
        store: Descriptor[Payload],
        change: Callable[[Payload], Payload | Deleted],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch: ...

    @overload
    def update(
        self,
        store: str,
        change: Callable[[Any], Any],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch: ...

    @overload
    def update(
        self,
        store: StoreKeys,
        change: Callable[[StoreData], Mapping[Any, Any]],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch | None: ...

    def update(
        self,
        store: StoreKey | Iterable[StoreKey],
        change: Callable[[Any], Any],
        *,
        reason: BatchReason | str,
        batch_id: str | None = None,
    ) -> Batch | None:
        """Read, change and write one store, or several together, under the writer lock: see
        `RuntimeStore.update`. Raises `StaleRunError` when the run is over; `change` is not called
        then."""
        update: Callable[..., Batch | None] = self.store.update  # one overload or another
        return update(store, change, identity=self.identity, reason=reason, batch_id=batch_id)

    def plan_recovery(self) -> RecoveryPlan:
        """Return what to do about the store files, for this run's identity."""
        return self.store.plan_recovery(expected=self.identity)

    def check_readiness(self) -> ReadinessCheck:
        """Return whether the runtime may start, with this run's identity."""
        return self.store.check_readiness(expected=self.identity)

    def recover(
        self, plan: RecoveryPlan | None = None, *, rebuilders: Rebuilders | None = None
    ) -> RecoveryReport:
        """Execute a plan (default: a new one), and bind rebuilt stores to this run: see
        `RuntimeStore.recover`."""
        plan = self.plan_recovery() if plan is None else plan
        return self.store.recover(plan, rebuilders=rebuilders, identity=self.identity)

    def end(self, why: str | None = None, *, failed: bool = False) -> RunRecord:
        """End the run, as finished or as failed. Return its record. Calling it again is harmless.

        Durable on return. Raises `StaleRunError` when something else ended or superseded it, and
        otherwise as `RuntimeStore.end_run`.
        """
        if self.record is None:
            ending = RunEnding.FAILED if failed else RunEnding.FINISHED
            self.record = self.store.end_run(self.run_id, why=why, ending=ending)
        return self.record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:  # a worker, or a fork in the block
            return
        is_clean = error is None or (isinstance(error, SystemExit) and not error.code)
        try:
            self.end(None if is_clean else _in_a_line(error), failed=not is_clean)
        except StaleRunError as other:  # it is over: there is nothing to end
            if error is not None and not isinstance(error, StaleRunError):
                note_not_ended(error, self.run_id, other)
        except RuntimeStoreError as other:
            if error is None:
                raise
            note_not_ended(error, self.run_id, other)


def note_not_ended(error: BaseException, run_id: str, other: RuntimeStoreError) -> None:
    """Add to the error of the block of a run why the block did not end the run. When it was over
    before, that may be the cause of the error."""
    error.add_note(f"rtstore: leaving its block did not end run {run_id}: {other}")


def _in_a_line(error: BaseException | None) -> str:
    """Return why a run failed: an exception, or the only one in a group, as text for a row."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    try:
        words = arguments.in_a_line(str(error))
    except Exception:  # noqa: BLE001 - the exception is of any kind
        words = ""
    kind = arguments.in_a_line(type(error).__name__)
    return f"{kind}: {words}"[: arguments.WORDS_LENGTH_MAX] if words else kind


def checked_stores(stores: Iterable[StoreKey]) -> list[StoreKey]:
    """Return the stores of an update. Refuse none at all, and one that is there twice."""
    found = arguments.several(stores, "store")
    if not found:
        raise InvalidRequestError("store", "an update is of at least one store; the list is empty")
    names = [store_name(item) for item in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError("store", "is in the list twice", store=name)
    return found


def plain_change(change: Callable[[Any], Any], store: str | None) -> Callable[[Any], Any]:
    """Return the function of an update, checked. Refuse a coroutine function at once, and a
    function that returns an awaitable when it is called."""
    why = "it is called under the writer lock"
    return arguments.plain_function(change, "change", why, store=store)


class Rehearsal(NamedTuple):
    """What an opening would do."""

    data: DataUpgradeReport | None
    moved: tuple[MovedStore, ...]
    quarantined: tuple[str, ...]
    """The files that would make way for those of stores."""


def refuse_opening(
    database: Database,
    *,
    registry: Registry | None,
    fs: FileSystem,
    edits: ForeignEdits = ForeignEdits.RAISE,
    with_data: bool = True,
) -> None:
    """Raise what an opening with these descriptors would be refused with, before anything changes:
    of a database of any revision. What needs the rows of the newest one, as an edit in the way of
    an upgrade of data does, is asked of a copy."""
    directory = database.path.parent
    check_files_first(database, registry, fs, with_batches=with_data)
    if registry is None or not with_data or not waits_for_data(database, registry, directory):
        return
    with no_fork():
        from rtstore.maintenance.upgrade import upgrade_directory

    def ask(copy: Database) -> None:
        _rehearsing(directory, copy, registry, edits)

    try:
        upgrade_directory(directory, dry_run=True, tried=ask, fs=fs)
    except StoreFileChangedError as error:
        if not revisions.seems_current(database.path):
            error.add_note(
                "rtstore: its database is of an older revision, and nothing of it was changed. "
                f"{rtstore_at('upgrade', directory)} upgrades it without the data: then the ways "
                "above are there"
            )
        raise


def rehearse_upgrade(directory: Path, database: Database, registry: Registry) -> Rehearsal:
    """Return what an opening with these descriptors would upgrade of the data of a directory, and
    which files it would move. Raise what it would be refused with. Only reads. The database may be
    a copy of that of the directory."""
    store = _rehearsing(directory, database, registry, ForeignEdits.RAISE)
    data, quarantined = store._rehearse_upgrade()  # noqa: SLF001 - no call of a runtime
    moved = database.read(partial(moves_of, wanted=registry, directory=directory))
    return Rehearsal(data, moved, quarantined)


def _rehearsing(
    directory: Path, database: Database, registry: Registry, edits: ForeignEdits
) -> RuntimeStore:
    """Return a store that is being opened, and only reads. Raise what that would be refused
    with."""
    seams, adopts = Seams(), edits is ForeignEdits.ADOPT
    head, kept = load_head(database)
    check_before_use(directory, database, head, registry, seams.fs, with_data=True, adopts=adopts)
    remembered = load_remembered(directory, database, registry, seams.fs, read_only=False)
    store = RuntimeStore(
        directory,
        database,
        registry,
        seams=seams,
        durability=Durability.LOG,
        retention=kept,
        lock=WriterLock(directory, read_only=True),
        team_name=head.team_name,
        foreign_edits=edits,
    )
    store._refuse_rehearsed(remembered)  # noqa: SLF001 - no call of a runtime
    return store
