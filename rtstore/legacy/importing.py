"""Imports the control data of the legacy format into a control database, atomically.

    1 look       already imported: change nothing; else check everything that can be read
    2 lock       take the writer lock; look again, because the files may have changed
    3 write      make a new database, whole, under another name (or fill an empty one in one
                 transaction)
    4 check      check that the control files are still those that were read
    5 publish    rename the database to its name, or commit the transaction

After a crash there is no database or a complete one; import again to continue. The JSON files are
read and never written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, func, select

from rtstore.control import batches, manifest, revisions
from rtstore.control.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.control.manifest import ManifestHead
from rtstore.control.schema import batch_writes, runtime_manifest, write_batches
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import InvalidRequestError, LegacyImportError
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import (
    ControlFiles,
    are_unchanged,
    current_hash,
    read_control_files,
)
from rtstore.legacy.finishing import Finished, finished
from rtstore.legacy.lost_database import newer_than_control_files, of_newer_files
from rtstore.legacy.notes import NEW_ID, notes
from rtstore.legacy.over_again import over_again_command
from rtstore.legacy.report import ImportReport, NewerBatches
from rtstore.legacy.rows import write_rows
from rtstore.legacy.since import newer_batches
from rtstore.legacy.survey import (
    FoundStore,
    Progress,
    check_descriptors,
    hash_at,
    look_at_stores,
    look_beside,
)
from rtstore.model import arguments
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor, Registry
from rtstore.model.ids import IdFactory, new_batch_id
from rtstore.model.records import BatchOrigin, BatchState, Record
from rtstore.model.times import Clock, parse_time, to_utc_ms, utc_now


class _Task(Record):
    """What to import, and into what: read and checked. Nothing has been changed yet."""

    files: ControlFiles
    descriptors: tuple[Descriptor, ...]
    into_existing: bool
    """Whether there is a control database; it is empty."""


def import_directory(
    directory: str | Path,
    *,
    descriptors: Iterable[Descriptor] | None = None,
    clock: Clock = utc_now,
    lock_timeout_s: float = DEFAULT_TIMEOUT_S,
    dry_run: bool = False,
    progress: Progress | None = None,
    fs: FileSystem | None = None,
    batch_id_factory: IdFactory = new_batch_id,
) -> ImportReport:
    """Import a runtime directory of the legacy format; its JSON files are not changed.

    Manifest, batches, receipts and entries become rows with the same ids, times and states. The
    runs of the legacy runtime's tombstones become ended runs, whose batches are refused. The
    bytes of every store file that matches its entry become its committed content. Files that
    differ, are missing or were never committed are reported, and recovery plans for them as the
    legacy program would. Durable when it returns.

    A directory that was imported before is left as it is, whether it was written to since or not
    (`changed` is false). A lane below `lanes/` is a directory of its own: `import_team` imports all
    of them.

    Args:
        directory: the runtime directory.
        descriptors: the stores of this runtime; they are saved. Default: those saved in an empty
            store here, or the known stores of an OpenCode team. A store that has an entry but no
            descriptor is imported too, and reported.
        clock: the source of the time of the import.
        lock_timeout_s: how long to wait for a writer of this directory, in seconds.
        dry_run: only report what would be imported: the import runs in a temporary directory, and
            nothing is written here, not even a lock file.
        progress: called with the number of stores that were read, and of all.
        fs: the seam to the file system, for tests.
        batch_id_factory: makes the id of the batch that stands for lost receipts.

    Raises `LegacyImportError`, naming the file and the place, when the directory is not of the
    legacy format, when a control file is damaged or changes meanwhile, and when the store here has
    batches of its own. Nothing is written then. Other errors are those of `RuntimeStore.open`.
    """
    directory, fs = arguments.path(directory, "directory"), fs or FileSystem()
    arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
    arguments.optional_function(progress, "progress")
    clock = arguments.checked_clock(clock)
    registry = None if descriptors is None else Registry(descriptors)
    # Everything that can be refused is refused before even a lock file is created.
    newer = newer_than_control_files(directory, fs)
    task = _look(directory, registry, fs)
    if isinstance(task, ImportReport):
        return task
    importer = _Importer(directory, clock, batch_id_factory, fs, progress, newer)
    if dry_run:
        return importer.dry_run(task)
    lock = WriterLock(directory, lock_timeout_s)
    with lock.hold():
        task = _look(directory, registry, fs)
        if isinstance(task, ImportReport):  # another process imported it since the first look
            return task
        return importer.run(task, lock)


def why_refused(
    directory: Path, fs: FileSystem, registry: Registry | None = None
) -> LegacyImportError | None:
    """Return what an import with those stores would be refused for, or None. Default: the known
    ones. Reads only."""
    try:
        files = read_control_files(directory, fs)
        check_descriptors(files, registry or Registry(KNOWN_DESCRIPTORS))
    except LegacyImportError as error:
        return error
    return None


# --- 1 and 2: look --------------------------------------------------------------------------------


def _look(directory: Path, registry: Registry | None, fs: FileSystem) -> _Task | ImportReport:
    """Return what to import, or the report of an earlier import. Reads only."""
    path = directory / DATABASE_NAME
    head: ManifestHead | None = None
    if revisions.exists(path):
        revisions.check_current(path)
        database = Database(path, read_only=True)
        try:
            head, last_number, remembered = database.read(_look_at_database)
            if head.imported_at is not None:
                report = database.read(lambda connection: _report(connection, directory))
                return _repeated(report, head, newer_batches(directory, database, fs), fs)
            newer = newer_batches(directory, database, fs)
        finally:
            database.close()
        _refuse_used(path, head, last_number, newer)
        registry = Registry(remembered) if registry is None else registry
    registry = Registry(KNOWN_DESCRIPTORS) if registry is None else registry
    files = read_control_files(directory, fs)
    if head is not None and head.team_name != files.manifest.team_name:
        raise files.bad_manifest(
            "teamName",
            f"{files.manifest.team_name!r}, but the store in this directory, which is still "
            f"empty, was made for team {head.team_name!r}",
        )
    check_descriptors(files, registry)
    return _Task(files=files, descriptors=tuple(registry), into_existing=head is not None)


def _look_at_database(
    connection: Connection,
) -> tuple[ManifestHead, int, tuple[Descriptor, ...]]:
    return (
        manifest.load_head(connection),
        batches.last_number(connection),
        manifest.load_descriptors(connection),
    )


def _refuse_used(
    path: Path, head: ManifestHead, last_number: int, newer: NewerBatches | None = None
) -> None:
    if newer is not None:
        way = f"Run: {newer.take_over.command} (this {newer.take_over.why})"
        raise LegacyImportError(path, f"there is a store already, and {newer.said}. {way}")
    if head.high_watermark or last_number:
        raise LegacyImportError(
            path,
            f"the directory already has a store with batches of its own (team {head.team_name!r}, "
            f"high watermark {head.high_watermark}), which an import would mix with "
            "the old ones. Import a copy of the control files in a directory of their own",
        )


def _repeated(
    report: ImportReport, head: ManifestHead, newer: NewerBatches | None, fs: FileSystem
) -> ImportReport:
    """Return the report of an import that has nothing to do."""
    said = ["the directory was imported before: nothing was changed"]
    try:
        now = current_hash(report.directory, fs)
    except LegacyImportError as error:
        said.append(f"a legacy control file cannot be read any more: {error.problem}")
    else:
        if now is None:
            said.append("the manifest of the legacy format is gone; the store does not need it")
        elif newer is not None:
            said.append(f"{newer.said}. That was not imported")
        elif now != head.imported_hash:
            said.append(
                "the control files were changed after the import, perhaps by a runtime of the old "
                "kind that still runs; what they say now was not imported. To take it over, stop "
                "what uses the store, and move the database aside, which keeps what was written "
                f"here since: {over_again_command(report.directory)}"
            )
    return report.model_copy(
        update={"changed": False, "notes": tuple(said), "newer_batches": newer}
    )


# --- 3 to 5: write --------------------------------------------------------------------------------


class _Importer:
    """Runs one import."""

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        batch_id_factory: IdFactory,
        fs: FileSystem,
        progress: Progress | None,
        newer: Sequence[str],
    ) -> None:
        self._directory = directory
        self._newer = newer
        self._clock = clock
        self._new_id = batch_id_factory
        self._fs = fs
        self._progress = progress

    def run(self, task: _Task, lock: WriterLock) -> ImportReport:
        """Import, under the writer lock."""
        path = self._directory / DATABASE_NAME
        if task.into_existing:
            return self._import(task, lambda fill: _fill_existing(path, lock, fill))
        return self._import(task, lambda fill: revisions.create(path, self._fs, fill, lock=lock))

    def dry_run(self, task: _Task) -> ImportReport:
        """Import into a private database in a temporary directory, and remove it."""
        with tempfile.TemporaryDirectory(prefix="rtstore-import-") as temporary:
            trial = Path(temporary) / DATABASE_NAME
            report = self._import(
                task,
                lambda fill: revisions.create(trial, FileSystem(), fill, lock=None),
                dry_run=True,
            )
        return report.model_copy(update={"changed": False, "dry_run": True})

    def _import(
        self,
        task: _Task,
        write: Callable[[Callable[[Connection], None]], None],
        *,
        dry_run: bool = False,
    ) -> ImportReport:
        directory = self._directory
        done, stores = self._survey(task)
        files = done.files
        content_of = {
            found.store.schema_name: found.content for found in stores if found.content is not None
        }
        stand_in_id = _new_id(self._new_id, files) if files.entries_without_receipt else None
        stand_in = stand_in_id and (NEW_ID if dry_run else f"batch {stand_in_id}")
        reports: list[ImportReport] = []

        def fill(connection: Connection) -> None:
            write_rows(
                connection,
                files,
                task.descriptors,
                content_of,
                imported_at=to_utc_ms(self._clock()),
                stand_in_id=stand_in_id,
            )
            reports.append(_report(connection, directory))
            if not are_unchanged(directory, files, self._fs):
                raise LegacyImportError(
                    directory,
                    "its control files changed while they were imported: a runtime of the old kind "
                    "still runs here. Stop it, then import again",
                )

        write(fill)
        return reports[0].model_copy(
            update={
                "stores": tuple(found.store for found in stores),
                "control_files": files.names,
                "ended_runs": len({tombstone.run_id for tombstone in files.tombstones}),
                "other_files": tuple(look_beside(directory, files, stores, self._fs)),
                "notes": (
                    *of_newer_files(self._newer),
                    *notes(done, stores, stand_in),
                ),
            }
        )

    def _survey(self, task: _Task) -> tuple[Finished, list[FoundStore]]:
        """Return the control files to import, and the stores compared with them. Batches that the
        manifest does not count yet are finished where the stores hold them."""
        registry = Registry(task.descriptors)
        directory, fs = self._directory, self._fs
        done = finished(task.files, registry, lambda name, path: hash_at(directory, name, path, fs))
        return done, look_at_stores(directory, done.files, registry, fs, self._progress)


def _fill_existing(path: Path, lock: WriterLock, fill: Callable[[Connection], None]) -> None:
    """Import into a store that has no batch yet."""
    database = Database(path, lock=lock)
    try:
        with database.write(flush=True) as connection:
            _refuse_used(path, manifest.load_head(connection), batches.last_number(connection))
            connection.execute(delete(runtime_manifest))
            fill(connection)
    finally:
        database.close()


def _new_id(batch_id_factory: IdFactory, files: ControlFiles) -> str:
    batch_id = arguments.check_new_id("batch_id_factory", batch_id_factory())
    if any(batch.batch_id == batch_id for batch in files.batches):
        raise InvalidRequestError("batch_id_factory", f"it made {batch_id!r}, which is taken")
    return batch_id


# --- report ---------------------------------------------------------------------------------------


def _report(connection: Connection, directory: Path) -> ImportReport:
    """Return the report of an import, from the rows."""
    current = manifest.load(connection)
    imported_at = manifest.load_head(connection).imported_at
    assert imported_at is not None  # noqa: S101 - reported only where it was imported
    imported = write_batches.c.origin == BatchOrigin.IMPORTED.value
    states = connection.execute(
        select(write_batches.c.state, func.count()).where(imported).group_by(write_batches.c.state)
    )
    receipts = connection.execute(
        select(func.count())
        .select_from(batch_writes.join(write_batches))
        .where(imported, write_batches.c.state == BatchState.COMMITTED.value)
    ).scalar_one()
    return ImportReport(
        directory=directory,
        team_name=current.team_name,
        changed=True,
        imported_at=parse_time(imported_at),
        high_watermark=current.high_watermark,
        active_identity=current.active_identity,
        batches={BatchState(state): int(count) for state, count in states},
        receipts=int(receipts),
    )
