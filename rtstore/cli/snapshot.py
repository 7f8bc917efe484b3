"""Reads a runtime directory as of one moment, for `status`, `plan`, `recover` and `demo`.

Everything here only reads. `--json` prints the records.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sqlalchemy import Connection

from rtstore.cli.advice import (
    NextStep,
    next_steps,
    rebuild_of_files,
    rebuild_of_unknown,
    steps_of_backup,
)
from rtstore.cli.discover import BACKUP_RECORD, MANIFEST_NAMES
from rtstore.cli.identity import AS_IT_IS, Expected
from rtstore.cli.obstacles import obstacles_of
from rtstore.cli.output import age_of, size
from rtstore.cli.run_words import process_of
from rtstore.cli.views import WrittenBy, deleted_stores, store_on_record, written_by
from rtstore.commit.adopt import last_identity, not_adoptable
from rtstore.control import history, manifest, runs
from rtstore.control.batches import ReceiptStore, find_batch, find_number
from rtstore.control.contents import StoreSize, list_sizes
from rtstore.control.history import StoreVersion
from rtstore.control.manifest import ManifestHead, ManifestStore
from rtstore.control.run_processes import is_alive
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import (
    ConflictError,
    Hint,
    InvalidRequestError,
    NotARuntimeDirectoryError,
    RuntimeStoreError,
    UnknownStoreError,
)
from rtstore.files import durable
from rtstore.files.inspector import FileInspector
from rtstore.files.paths import store_path
from rtstore.files.system import FileSystem
from rtstore.history.reader import failures_with
from rtstore.maintenance.growth import outgrown, pruning
from rtstore.maintenance.hindrances import hindrances, no_room
from rtstore.maintenance.hints import (
    files_of_lost_batches,
    files_of_unknown_stores,
    read_launch_state,
    suggest_command,
)
from rtstore.model.decide import build_readiness
from rtstore.model.descriptors import Descriptor
from rtstore.model.differences import is_same_json
from rtstore.model.invariants import PROVIDER
from rtstore.model.records import (
    ActionKind,
    Batch,
    BatchReason,
    Criticality,
    Hindrance,
    HindranceKind,
    Inspection,
    InspectionState,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    ReadinessCheck,
    ReadinessReason,
    ReasonName,
    Record,
    RecoveryAction,
    RecoveryPlan,
    RunIdentity,
)
from rtstore.model.runs import RunRecord
from rtstore.model.times import Timestamp, utc_now
from rtstore.recovery.gather import PlanningInput, RecoveryPlanner
from rtstore.shell import shell_command, shell_word
from rtstore.store import RuntimeStore

if TYPE_CHECKING:
    from rtstore.legacy import NewerBatches

Result = TypeVar("Result")

_ATTEMPTS = 5
_NO_FILE = "deleted/store.json"
"""Stands for the file of a store that has none."""


class Verdict(StrEnum):
    """Whether the runtime may start, in one word."""

    READY = "ready"
    DEGRADED = "degraded"
    BLOCKED = "blocked"

    @classmethod
    def of(cls, check: ReadinessCheck) -> Verdict:
        """Return the verdict of a readiness check."""
        if check.ok:
            return cls.READY
        degraded = check.reason is ReadinessReason.REBUILD_IN_PROGRESS
        return cls.DEGRADED if degraded else cls.BLOCKED


class FileHolds(StrEnum):
    """Which version of its store a file holds."""

    COMMITTED = "committed"
    OPEN_BATCH = "open_batch"
    """What a batch writes that is neither committed nor failed."""
    NOTHING = "nothing"
    """There is no file."""
    OTHER = "other"
    """Neither: changed, damaged, or of a store for which nothing is committed."""


class StoreLine(Record):
    """One store: its file, what is to be done, who wrote it last."""

    schema_name: str
    relative_path: str
    criticality: Criticality
    state: InspectionState
    holds: FileHolds
    detail: str | None
    action: ActionKind
    reason: str | None
    file_size: int | None
    """Of the file as it is; None when there is none."""
    history_contents: int
    """The contents that the database keeps beside the current one."""
    history_bytes: int
    batch_id: str | None
    """The batch that wrote what is committed; None while nothing is."""
    high_watermark: int | None
    """Of that batch."""
    batch_reason: ReasonName | None
    written_at: Timestamp | None
    age_seconds: float | None
    deleted_at: Timestamp | None
    """When a batch deleted it; None while something is committed, and of one never written."""


class BackupSign(Record):
    """What the record of a back-up says, in the directory that is one, or was."""

    origin: str | None
    """The directory that was backed up."""
    created_at: Timestamp | None
    is_as_made: bool
    """Whether its database has the batches that were backed up, and no other."""


class OpenBatch(Record):
    """A batch that is neither committed nor failed."""

    batch_id: str
    reason: ReasonName
    run_id: str | None
    started_at: Timestamp
    age_seconds: float
    in_progress: bool
    """Its writer may be alive: the writer lock is held."""
    stores: tuple[str, ...]


class _Rows(NamedTuple):
    """What the database has besides what a plan is made of, as of one moment."""

    head: ManifestHead
    last_batch: Batch | None
    """The one that was committed last."""
    knows_all: bool
    sizes: list[StoreSize]
    writers: dict[str, WrittenBy]
    deleted: dict[str, datetime]
    expected_run: RunRecord | None
    knows_run: bool
    """Whether it knows a run that a file could be adopted for."""


class Look:
    """A runtime directory as it was found, and what follows from it."""

    def __init__(
        self,
        store: RuntimeStore,
        gathered: PlanningInput,
        plan: RecoveryPlan,
        check: ReadinessCheck,
        expected: RunIdentity | None,
        hindered: Sequence[Hindrance],
        rows: _Rows,
    ) -> None:
        self.directory = shown(store.directory)
        self.team_name = store.team_name
        self.retention = store.retention
        self.manifest: Manifest = gathered.view.manifest
        self.plan = plan
        self.hindrances = tuple(hindered)
        self.check = check
        self.verdict = Verdict.of(check)
        self.expected = expected
        run = self.run = gathered.view.last_run
        """The active run, or the last one; None before the first."""
        self.process_alive = None if run is None else is_alive(run.process, store.directory)
        self.now = utc_now()
        self.last_batch = rows.last_batch
        self.knows_all = rows.knows_all
        """Whether the history goes back to the first batch: else a store may have been written."""
        self.lines = _lines(store, gathered, plan, rows, self.now)
        self.outgrown = outgrown(rows.sizes, self.retention.content_bytes)
        """The stores whose history outgrows their data many times over."""
        self.closed = _closed(store, gathered)
        """The stores whose file cannot be read."""
        self.open_batches = _open_batches(gathered, self.now)
        self.unregistered = tuple(
            manifest.without_descriptor(self.manifest.paths, store.descriptors)
        )
        """The committed stores that no descriptor names."""
        found = gathered.findings
        self.newer_files = tuple(found[name].inspection.relative_path for name in plan.newer_stores)
        self.newer_batches = _newer_batches(store)
        steps = next_steps(
            self.directory,
            plan,
            check,
            high_watermark=self.manifest.high_watermark,
            committed=self.manifest.paths,
            paths=_paths(self.lines),
            rebuild=_rebuild(store, rows.head) if gathered.view.last_batch_number == 0 else None,
            unknown=_unknown(store) if gathered.view.last_batch_number == 0 else None,
            obstacles=obstacles_of(
                self.directory, plan.actions, _paths(self.lines, hindered), store.database
            ),
            hindrances=hindered,
            newer_files=self.newer_files,
            newer_batches=self.newer_batches,
            details={line.schema_name: line.detail for line in self.lines if line.detail},
            expected_run=rows.expected_run,
            living=process_of(run) if run and not run.is_over and self.process_alive else None,
            knows_run=rows.knows_run,
            over_again=_over_again(store, rows.head),
            not_adoptable=_not_adoptable(store, self.manifest, plan),
            launched_run=None if self.process_alive else _launched_run(store, self.manifest),
            kept_of_deleted=_kept_of_deleted(store, self.lines),
            undo=None if check.ok else _undo(store, self.manifest),
        )
        self.backup = sign_of_backup(store.directory)
        """What the directory says of itself as a back-up; None when it is none."""
        self.is_whole = not steps
        """Whether there is nothing to put right, be it a back-up or not."""
        self.next, self.next_of_all = self._advice(steps)
        """What makes the runtime ready, in order; and the same, then what else helps."""

    def _advice(
        self, steps: tuple[NextStep, ...]
    ) -> tuple[tuple[NextStep, ...], tuple[NextStep, ...]]:
        if self.backup is not None:
            steps = steps_of_backup(
                self.directory, is_as_made=self.backup.is_as_made, is_whole=self.is_whole
            )
        found = self._where_room_is(steps)
        if self.backup is not None or any(item.schema_name is None for item in self.hindrances):
            return found, found
        more = [_pruning(self)] if self.outgrown else []
        return found, self._where_room_is((*steps, *more))

    def _where_room_is(self, steps: tuple[NextStep, ...]) -> tuple[NextStep, ...]:
        """Return the steps; on a full disk, making room goes before those that need it."""
        if self.hindrances or not any(step.command for step in steps):
            return steps
        full = no_room(self.directory)
        return steps if full is None else (NextStep(command=None, why=full.way.why), *steps)


def _paths(lines: Iterable[StoreLine], but_not: Iterable[Hindrance] = ()) -> dict[str, str]:
    """Return the path of each store, but of those whose path another store's file takes."""
    taken = {item.schema_name for item in but_not if item.kind is HindranceKind.TAKEN}
    return {item.schema_name: item.relative_path for item in lines if item.schema_name not in taken}


def _pruning(look: Look) -> NextStep:
    """Return the step that drops history which has outgrown its data."""
    stores = ", ".join(
        f"{item.schema_name} ({size(item.history_bytes)} beside {size(item.file_bytes)})"
        for item in look.outgrown
    )
    way = pruning(look.directory, look.retention.content_bytes)
    return NextStep(
        command=way.command, why=f"the history outgrows the data of {stores}: {way.why}"
    )


def _rebuild(store: RuntimeStore, head: ManifestHead) -> NextStep | None:
    """Return the advice for files that a database without any batch knows nothing of; None where
    they were there before an import."""
    fs = FileSystem()
    if head.imported_at is not None and not files_of_lost_batches(
        store.directory, store.database, store.descriptors, fs
    ):
        return None
    launch = read_launch_state(store.directory, fs)
    return rebuild_of_files(shown(store.directory), store.team_name, launch)


def _unknown(store: RuntimeStore) -> str | None:
    """Return what takes store files of which a database without any batch knows no store."""
    fs = FileSystem()
    files = files_of_unknown_stores(store.directory, store.database, store.descriptors, fs)
    if not files:
        return None
    launch = read_launch_state(store.directory, fs)
    return rebuild_of_unknown(shown(store.directory), store.team_name, launch, files)


def _newer_batches(store: RuntimeStore) -> NewerBatches | None:
    """Return what a program of the legacy format committed since an import or an export."""
    if not any(os.path.lexists(store.directory / name) for name in MANIFEST_NAMES):
        return None
    from rtstore.legacy import newer_batches  # most directories have no such files

    return newer_batches(shown(store.directory), store.database, FileSystem())


def shown(path: Path) -> Path:
    """Return a path as it is shown and typed: relative to the working directory when below it."""
    path = path.absolute()
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path


def way_back(directory: Path, before: Manifest, schema_name: str) -> str | None:
    """Return the command that commits again what was committed for a store in an earlier manifest;
    None where nothing was."""
    if before.entry(schema_name) is None:
        return None
    then = str(before.high_watermark)
    return shell_command("rtstore", "revert", shown(directory), schema_name, "--to", then)


@contextmanager
def open_to_look(directory: Path) -> Iterator[RuntimeStore]:
    """Open a runtime directory read-only: nothing is created, changed or locked."""
    check_directory(directory)
    with RuntimeStore.open(directory, read_only=True) as store:
        yield store


@contextmanager
def open_to_look_at(directory: Path, given: str) -> Iterator[tuple[RuntimeStore, str]]:
    """Open a runtime directory as `open_to_look`, to look at a store that only history may know.
    Yield its name too."""
    with open_to_look(directory) as store:
        name = name_on_record(store, given)
        if name in store.descriptors:
            yield store, name
            return
        # Of a deleted store no file is read, and another may have the one that it had.
        path = store.manifest().paths.get(name, _NO_FILE)
        descriptors = [*store.descriptors, Descriptor(name, relative_path=path)]
    with RuntimeStore.open(directory, descriptors=descriptors, read_only=True) as store:
        yield store, name


def name_on_record(store: RuntimeStore, given: str) -> str:
    """Return the name of the store that was typed by its name or its file. It is registered, or a
    committed batch on record wrote or deleted it."""
    try:
        return _name_of(store, given)
    except UnknownStoreError as error:
        if not error.has_history:
            raise
        return error.store


def schema_name_of(store: RuntimeStore, given: str) -> str:
    """Return the name of the registered store that was typed by its name or its file. Raises
    `UnknownStoreError`, and `InvalidRequestError` for a file that the store does not have now."""
    name = _name_of(store, given)
    path = store.descriptors.get(name).relative_path
    if given in (name, path):
        return name
    problem = f"{given} is not its file now: that is {path}. Give its name, or that file"
    raise InvalidRequestError("store", problem, store=name)


def _name_of(store: RuntimeStore, given: str) -> str:
    for descriptor in store.descriptors:
        if given in (descriptor.schema_name, descriptor.relative_path):
            return descriptor.schema_name
    try:
        return store.descriptors.get(given).schema_name  # raises, and names those that there are
    except UnknownStoreError as error:
        name = store_on_record(store, given)
        if name is None:
            raise
        if name in store.descriptors:
            return name
        raise UnknownStoreError(name, error.known, has_history=True) from None


def check_directory(directory: Path) -> None:
    """Raise `NotARuntimeDirectoryError` when the path is not a directory that can be read."""
    if not directory.exists():
        raise NotARuntimeDirectoryError(
            directory, "there is no such directory", *suggest_command(directory, None)
        )
    if not directory.is_dir():
        run = f"rtstore status {shell_word(directory.parent)}"
        raise NotARuntimeDirectoryError(directory, "it is not a directory", run, Hint.LOOK)
    list(directory.iterdir())  # forbidden is not the same as empty


def check_may_write(directory: Path) -> None:
    """Raise as `check_directory`, and for a back-up, which no command writes to."""
    check_directory(directory)
    if os.path.lexists(directory / BACKUP_RECORD):
        from rtstore.maintenance.backup.guard import refuse_backup  # most are none

        refuse_backup(directory)


def sign_of_backup(directory: Path) -> BackupSign | None:
    """Return what a directory says of itself as a back-up; None when it is none."""
    if not os.path.lexists(directory / BACKUP_RECORD):
        return None
    from rtstore.maintenance.backup.guard import record_of, was_written_to  # most are none

    record = record_of(directory)
    if record is None:
        return BackupSign(origin=None, created_at=None, is_as_made=False)
    return BackupSign(
        origin=record.origin,
        created_at=record.created_at,
        is_as_made=not was_written_to(record),
    )


def bytes_on_disk(directory: Path) -> tuple[int, int]:
    """Return the sizes of the database and of its WAL, in bytes. The files are not opened, because
    closing them would drop SQLite's locks."""
    sizes = []
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
        try:
            sizes.append((directory / name).stat().st_size)
        except FileNotFoundError:
            sizes.append(0)
    return sizes[0], sizes[1]


def expected_identity(manifest: Manifest, given: Expected) -> RunIdentity | None:
    """Return the identity to compare the entries with: the given parts, and the rest from the
    manifest.

    An empty capability snapshot or fingerprint stands for none. Returns None while no run is active
    and nothing is given. After a run that was stopped, the manifest may still have the other parts.
    """
    if given.run_id == "":
        raise InvalidRequestError("--run-id", "is empty")
    run_id = given.run_id or manifest.active_run_id
    if not run_id:
        if given == AS_IT_IS:
            return None
        why = "no run is active" if manifest.high_watermark else "nothing is committed yet"
        raise InvalidRequestError("--run-id", f"is needed: {why}")
    snapshot_id, fingerprint = given.capability_snapshot_id, given.behavior_fingerprint
    return RunIdentity(
        run_id=run_id,
        capability_snapshot_id=_part(snapshot_id, manifest.active_capability_snapshot_id),
        behavior_fingerprint=_part(fingerprint, manifest.active_behavior_fingerprint),
    )


def _part(given: str | None, known: str | None) -> str | None:
    return known if given is None else given or None


def look_at(store: RuntimeStore, given: Expected = AS_IT_IS) -> Look:
    """Inspect every store, plan, and check readiness for the expected identity. Only reads."""
    planner = RecoveryPlanner(
        store.descriptors,
        ManifestStore(store.database, team_name=store.team_name),
        ReceiptStore(store.database),
        FileInspector(store.directory),
        lock=store.lock,
    )
    gathered = planner.gather(with_run=True, verify=True)
    expected = expected_identity(gathered.view.manifest, given)
    plan = planner.plan_of(gathered, team_name=store.team_name, expected=expected)
    paths = {item.schema_name: item.relative_path for item in store.descriptors}
    hindered = hindrances(shown(store.directory), paths, gathered.view.manifest.paths)
    check = build_readiness(
        recovery_plan=plan,
        invariant_failures=store.invariant_failures(),
        hindrances=hindered,
        nothing_committed=gathered.view.manifest.high_watermark == 0,
    )
    last_batch_id = gathered.view.manifest.last_committed_batch_id
    rows = store.database.read(partial(_rows, last_batch_id=last_batch_id, expected=expected))
    return Look(store, gathered, plan, check, expected, hindered, rows)


def _rows(
    connection: Connection, *, last_batch_id: str | None, expected: RunIdentity | None
) -> _Rows:
    return _Rows(
        head=manifest.load_head(connection),
        last_batch=None if last_batch_id is None else find_batch(connection, last_batch_id),
        knows_all=history.is_whole(connection),
        sizes=list_sizes(connection),
        writers=written_by(connection),
        deleted=deleted_stores(connection),
        expected_run=None if expected is None else runs.find(connection, expected.run_id),
        knows_run=last_identity(connection) is not None,
    )


def until_it_fits(plan_and_use: Callable[[], Result]) -> Result:
    """Make a plan and use it; try again when a writer committed a batch in between.

    Raises `ConflictError` when every attempt fails like that.
    """
    for _ in range(_ATTEMPTS - 1):
        with suppress(ConflictError):
            return plan_and_use()
    return plan_and_use()


def temporary_files(store: RuntimeStore) -> tuple[str, ...]:
    """Return the temporary files next to the store files, relative to the runtime directory."""
    folders = {store.directory} | {
        store_path(store.directory, descriptor.relative_path).parent
        for descriptor in store.descriptors
    }
    found: list[str] = []
    for folder in sorted(folders):
        with suppress(OSError):  # it is closed, or not there: a recovery says so, where it matters
            inside = sorted(folder.iterdir())
            there = (path for path in inside if durable.is_temporary(path.name))
            found.extend(str(path.relative_to(store.directory)) for path in there)
    return tuple(found)


# --- parts of a look ----------------------------------------------------------------------------


def _lines(
    store: RuntimeStore,
    gathered: PlanningInput,
    plan: RecoveryPlan,
    rows: _Rows,
    now: datetime,
) -> tuple[StoreLine, ...]:
    actions = {action.schema_name: action for action in reversed(plan.actions)}
    planned = _planned(gathered.view.open_batches)
    sizes = {found.schema_name: found for found in rows.sizes}
    return tuple(
        _line(
            gathered.findings[descriptor.schema_name].inspection,
            gathered.view.manifest.entry(descriptor.schema_name),
            descriptor.criticality,
            actions.get(descriptor.schema_name),
            rows.writers.get(descriptor.schema_name),
            sizes.get(descriptor.schema_name),
            planned,
            now,
            rows.deleted.get(descriptor.schema_name),
        )
        for descriptor in store.descriptors
    )


def _line(
    inspection: Inspection,
    entry: ManifestEntry | None,
    criticality: Criticality,
    action: RecoveryAction | None,
    writer: WrittenBy | None,
    taken: StoreSize | None,
    planned: frozenset[tuple[str, str | None]],
    now: datetime,
    deleted_at: datetime | None,
) -> StoreLine:
    return StoreLine(
        schema_name=inspection.schema_name,
        relative_path=inspection.relative_path,
        criticality=criticality,
        state=inspection.state,
        holds=_holds(inspection, entry, planned),
        detail=inspection.detail,
        action=action.kind if action else ActionKind.NONE,
        reason=action.reason if action else None,
        file_size=inspection.file_size,
        history_contents=taken.history_contents if taken else 0,
        history_bytes=taken.history_bytes if taken else 0,
        batch_id=writer.batch_id if writer else None,
        high_watermark=writer.high_watermark if writer else None,
        batch_reason=writer.reason if writer else None,
        written_at=writer.written_at if writer else None,
        age_seconds=age_of(writer.written_at, now) if writer else None,
        deleted_at=deleted_at,
    )


def _closed(store: RuntimeStore, gathered: PlanningInput) -> frozenset[str]:
    inspector = FileInspector(store.directory)
    found = gathered.findings.items()
    return frozenset(name for name, finding in found if inspector.is_closed(finding.inspection))


def _kept_of_deleted(store: RuntimeStore, lines: Iterable[StoreLine]) -> dict[str, str]:
    """Return by deleted store the point in time of its last version, where that can be read."""
    kept = {}
    for line in lines:
        if line.deleted_at is None:
            continue
        versions = [
            item for item in store.history(line.schema_name, limit=2) if not item.is_deletion
        ]
        if versions and versions[-1].has_content:
            kept[line.schema_name] = _at(versions[-1])
    return kept


def _at(version: StoreVersion) -> str:
    """Return a version as it is typed."""
    at = version.high_watermark
    return version.batch_id if at is None else str(at)


def _undo(store: RuntimeStore, found: Manifest) -> NextStep | None:
    """Return the step that takes back an adoption without which the stores would contradict each
    other less: of the newest one where there are several; None where no adoption made them do
    so. Data that was there before is a revert's, to be left alone."""
    failures = set(store.invariant_failures())
    adopted = [entry for entry in found.entries if _is_adopted(store, entry.batch_number)]
    for entry in sorted(adopted, key=lambda entry: entry.batch_number, reverse=True):
        name = entry.schema_name
        versions = store.history(name) if name in store.descriptors else []
        if len(versions) < 2 or not all(item.has_content for item in versions[-2:]):
            continue
        kept = [item.batch_id for item in reversed(versions) if item.has_content]
        try:
            now, *before = (store.read(name, at=batch_id) for batch_id in kept)
            if any(is_same_json(now.data, content.data) for content in before):
                continue
            left = failures_with(store.database, store.descriptors, before[0])
        except RuntimeStoreError:  # pruned at this moment, or damaged: to look needs no old version
            continue
        if set(left) < failures:
            directory = shell_word(shown(store.directory))
            return NextStep(
                command=f"rtstore revert {directory} {shell_word(name)} --to {_at(versions[-2])}",
                why=f"or this: since {name} was adopted, they do so. It writes {name} again as it "
                "was before",
            )
    return None


def _is_adopted(store: RuntimeStore, batch_number: int) -> bool:
    """Return whether a batch looks like an adoption: a recovery of one store."""
    batch = store.database.read(lambda connection: find_number(connection, batch_number))
    return batch is not None and batch.reason == BatchReason.RECOVERY and len(batch.stores) == 1


def _holds(
    inspection: Inspection,
    entry: ManifestEntry | None,
    planned: frozenset[tuple[str, str | None]],
) -> FileHolds:
    if inspection.state is InspectionState.MISSING:
        return FileHolds.NOTHING
    if entry is not None and inspection.content_hash == entry.content_hash:
        return FileHolds.COMMITTED
    found = inspection.content_hash  # None: it cannot be read
    if found is not None and (inspection.schema_name, found) in planned:
        return FileHolds.OPEN_BATCH
    return FileHolds.OTHER


def _planned(open_batches: Sequence[LoggedBatch]) -> frozenset[tuple[str, str | None]]:
    return frozenset(pair for logged in open_batches for pair in logged.planned)


def _over_again(store: RuntimeStore, head: ManifestHead) -> str | None:
    """Return the command that takes over what a runtime of the old kind wrote after the import, or
    None where it wrote nothing."""
    if head.imported_at is None:
        return None
    from rtstore import legacy  # few stores were imported

    directory = shown(store.directory)
    changed = legacy.changed_since_import(store.directory, head, FileSystem())
    return legacy.over_again_command(directory) if changed else None


def _not_adoptable(store: RuntimeStore, found: Manifest, plan: RecoveryPlan) -> dict[str, str]:
    return not_adoptable(plan, found, store.descriptors, store.directory, FileSystem())


def _launched_run(store: RuntimeStore, found: Manifest) -> str | None:
    """Return the run that the file of the launch state names, if its adoption can begin it: it is
    not the active one, and not over."""
    launch = read_launch_state(store.directory, FileSystem())
    run_id = launch.run_id
    if launch.provider_id != PROVIDER or run_id is None or run_id == found.active_run_id:
        return None
    known = store.database.read(lambda connection: runs.find(connection, run_id))
    return run_id if known is None or not known.is_over else None


def _open_batches(gathered: PlanningInput, now: datetime) -> tuple[OpenBatch, ...]:
    crashed = {logged.batch.batch_id for logged in gathered.crashed_batches}
    return tuple(
        OpenBatch(
            batch_id=logged.batch.batch_id,
            reason=logged.batch.reason,
            run_id=logged.batch.run_id,
            started_at=logged.batch.started_at,
            age_seconds=age_of(logged.batch.started_at, now),
            in_progress=logged.batch.batch_id not in crashed,
            stores=logged.stores,
        )
        for logged in gathered.view.open_batches
    )
