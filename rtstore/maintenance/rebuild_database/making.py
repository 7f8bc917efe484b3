"""Makes a new control database from the store files, and replaces one that is beyond repair.

    1 look       check that it is beyond repair; refuse a sound, newer or foreign database
    2 lock       take the writer lock; look again
    3 read       read what the old one still has: the team, descriptors, entries, contents
    4 survey     check every store file as a write is checked
    5 make       make the new database, whole and flushed, under another name
    6 set aside  move the old one and its WAL, by renaming, into a folder (made before step 5)
    7 publish    rename the new database to its name

A crash before step 6 leaves the old database in its place, as damaged as it was. A crash between 6
and 7 leaves no database, and the new one under its other name. Every opening then refuses
(`revisions.exists`), so that no runtime starts with an empty store. In both cases, run it again.

The old database is moved, never opened with plain file calls and never deleted. The store files are
only read. A process that still has the old database open notices at its next read or write
(`Database` compares the file with its own). Closing it does not touch the new WAL: SQLite notices
that its database was moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore import legacy
from rtstore.control import batches, contents, manifest, revisions, runs
from rtstore.control.contents import Retention
from rtstore.control.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    DatabaseMissingError,
    ForeignDatabaseError,
    InvalidRequestError,
    LegacyImportError,
    NotARuntimeDirectoryError,
    StorageError,
    WrongTeamError,
)
from rtstore.files.remains import store_files
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.maintenance.hindrances import refuse_mounted_database
from rtstore.maintenance.hints import (
    create_command,
    import_command,
    read_launch_state,
    refuse_lost_batches,
    refuse_renamed_database,
    what_is_there,
)
from rtstore.maintenance.rebuild_database.broken import Salvage, problem_of, what_is_left
from rtstore.maintenance.rebuild_database.forward import entry_under
from rtstore.maintenance.rebuild_database.report import RebuildReport, RebuiltStore, StoreOutcome
from rtstore.maintenance.rebuild_database.stores import (
    FoundStore,
    at_their_files,
    look_at_store,
    nameless_files,
    say_whose,
    unknown_files,
)
from rtstore.maintenance.suggestions import (
    LaunchState,
    about_descriptors,
    rebuild_command,
    rebuild_with_descriptors,
    two_teams,
)
from rtstore.model import arguments
from rtstore.model.arguments import check_id, check_new_id
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, RUN_TOMBSTONES, Descriptor, Registry
from rtstore.model.envelope import content_hash
from rtstore.model.ids import IdFactory, new_batch_id, new_receipt_id
from rtstore.model.records import (
    Batch,
    BatchReason,
    BatchState,
    Manifest,
    ManifestEntry,
    PlannedWrite,
    RunIdentity,
)
from rtstore.model.runs import RunRecord, RunState
from rtstore.model.times import Clock, utc_now
from rtstore.shell import rtstore_at, shell_command

NO_BATCH = "it knows of no batch: it is a new one, or its WAL did not come along"
BROKEN_PREFIX = "runtime-store.broken-"
_SUPERSEDED = "its files were there when the database was rebuilt, and were not what was committed"
_FILES = ("", "-wal", "-shm", "-journal")


def rebuild_database(
    directory: str | Path,
    *,
    team_name: str | None = None,
    descriptors: Iterable[Descriptor] | None = None,
    identity: RunIdentity | None = None,
    force: bool = False,
    clock: Clock = utc_now,
    batch_id_factory: IdFactory = new_batch_id,
    receipt_id_factory: IdFactory = new_receipt_id,
    lock_timeout_s: float = DEFAULT_TIMEOUT_S,
    fs: FileSystem | None = None,
) -> RebuildReport:
    """Make a new control database from the store files, when the old one is beyond repair.

    Every store file that passes the checks of a write is committed, byte for byte, in one batch of
    reason `recovery`; but one that holds another version of ours, of a batch before or one that
    failed, is none where the old database says what was committed. An open batch that its log has
    whole counts as committed. The files are not changed; the next opening writes and removes what
    differs. The old database is moved into a folder next to
    the new one. Durable when it returns. It can be run again after any interruption.

    Args:
        directory: the runtime directory.
        team_name: the team; needed when it cannot be read from the old database.
        descriptors: the stores of this runtime. Default: those saved in the old database, or the
            known stores of an OpenCode team.
        identity: the run identity for files whose identity cannot be read from the old database,
            or that were changed, and the active identity when that cannot be read. Without it a
            file that was changed stays with the run of its store, and one of which the old database
            says nothing belongs to no run, and is stale for every run that expects its own
            identity.
        force: rebuild also when the database is sound, of another program, or there under another
            name, or when there are store files whose stores no descriptor names; those files are
            left out.
        clock, batch_id_factory, receipt_id_factory: sources of times and ids.
        lock_timeout_s: how long to wait for a writer, in seconds.
        fs: the seam to the file system, for tests.

    Raises `InvalidRequestError` for a sound database or an unknown team, `WrongTeamError`,
    `DatabaseMissingError` for one that has another name, `NotARuntimeDirectoryError`,
    `NewerDatabaseError`, `ForeignDatabaseError`, `DatabaseLockedError`, `LockTimeoutError` and
    `StorageError`. The old database is then in its place, or the error says what to run.
    """
    directory, fs = arguments.path(directory, "directory"), fs or FileSystem()
    arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
    arguments.optional(str, team_name, "team_name")
    clock = arguments.checked_clock(clock)
    if identity is not None:
        arguments.checked_identity(identity)
    path = directory / DATABASE_NAME
    registry = None if descriptors is None else Registry(descriptors)
    _check_reason(directory, registry, fs, force=force)
    refuse_mounted_database(directory)
    lock = WriterLock(directory, lock_timeout_s)
    with lock.hold():
        problem = _check_reason(directory, registry, fs, force=force)
        now = clock()
        try:
            interrupted = _interrupted(directory)
            folder = newest_broken(directory, fs) if interrupted else None
            if folder is not None:
                _set_aside(directory, folder, fs)  # the WAL belongs to the old database
            old = (folder or directory) / DATABASE_NAME
            salvage = what_is_left(old, registry or (), directory)
            team = _team(directory, team_name, salvage, read_launch_state(directory, fs))
            known = Registry(salvage.descriptors or KNOWN_DESCRIPTORS)
            if registry is not None:
                known = at_their_files(directory, registry, salvage)
            stores = [look_at_store(directory, item, salvage, fs) for item in known]
            if salvage.descriptors is None and not force:
                lost = None if registry is None else _without_file(stores)
                taken = any(found.content is not None for found in stores)
                _refuse_nameless(directory, known, team, identity, fs, lost, taken=taken)
            buried = _buried(directory, salvage, known, fs)
            ids = _Ids(batch_id_factory, receipt_id_factory)
            new = _NewDatabase(team, identity, salvage, stores, ids, now, buried.runs)
            if not interrupted:
                folder = _make_folder(directory, fs)
            waiting = revisions.rebuilt_path(path)
            revisions.create(waiting, fs, lambda rows: new.fill(rows, known), lock=lock)
            if folder is not None:
                _set_aside(directory, folder, fs)
            fs.rename(waiting, path)
            fs.fsync_directory(directory)
        except system_error() as error:
            raise StorageError(
                path, "the rebuild stopped; run it again when the cause is gone", str(error)
            ) from error
        return RebuildReport(
            directory=directory,
            team_name=team,
            problem=problem,
            kept_aside=folder,
            batch_id=new.batch_id,
            high_watermark=new.high_watermark,
            active_identity=new.identity,
            stores=tuple(found.store for found in stores),
            lost=tuple(_lost(salvage, new.stores, buried)),
            notes=tuple(_notes(salvage, _say_files(directory, known, registry, fs), buried)),
        )


# --- 1 to 3 -----------------------------------------------------------------------------------


def _check_reason(
    directory: Path, registry: Registry | None, fs: FileSystem, *, force: bool
) -> str:
    """Return what is wrong with the database. Raises when nothing is wrong, or when it must not be
    moved."""
    path = directory / DATABASE_NAME
    if not fs.is_directory(directory):
        raise NotARuntimeDirectoryError(
            directory, "there is no such directory", *create_command(directory, None)
        )
    try:
        problem = problem_of(path)
    except ForeignDatabaseError as error:
        if not force or error.path != path:  # an odd side file; the database may be sound
            raise
        return error.problem
    if problem is None:
        if _knows_less_than_the_files(directory, registry):
            return NO_BATCH
        if force:
            return "nothing: it was rebuilt on demand"
        raise InvalidRequestError(
            "force",
            f"the database of {directory} is sound, and rebuilding it would lose its history. "
            f"Run: {rtstore_at('status', directory)} (to rebuild it all the same: "
            f"{shell_command('rtstore', 'rebuild', directory, '--force')})",
        )
    if not force and not _interrupted(directory):
        refuse_renamed_database(directory, what_is_there(directory, registry or (), fs), fs)
    if not os.path.lexists(path) and legacy.is_to_import(directory):
        raise NotARuntimeDirectoryError(
            directory, "it is a directory of the legacy format", *import_command(directory)
        )
    if not _anything_to_rebuild(directory, registry, fs):
        raise NotARuntimeDirectoryError(
            directory,
            "there is neither a database nor a store file to rebuild from",
            *create_command(directory, None),
        )
    return problem


def _knows_less_than_the_files(directory: Path, registry: Registry | None) -> bool:
    """Return whether store files show batches that a sound database does not have; see
    `refuse_lost_batches`. The stores are those given, as in the opening that refuses them."""
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        known = registry or database.read(manifest.load_descriptors)
        refuse_lost_batches(directory, database, known, FileSystem())
    except DatabaseMissingError:
        return True
    finally:
        database.close()
    return False


def _anything_to_rebuild(directory: Path, registry: Registry | None, fs: FileSystem) -> bool:
    own = [f"{DATABASE_NAME}{suffix}" for suffix in _FILES]
    return (
        _interrupted(directory)
        or any(os.path.lexists(directory / name) for name in own)
        or bool(store_files(directory, _paths(registry or KNOWN_DESCRIPTORS), fs))
    )


def _refuse_nameless(
    directory: Path,
    known: Registry,
    team: str,
    identity: RunIdentity | None,
    fs: FileSystem,
    lost: Mapping[str, str] | None,
    *,
    taken: bool,
) -> None:
    """Raise when there are store files whose stores no descriptor names. A store file does not
    contain its store's name, and leaving it out would silently reset that store. `lost` are the
    stores without a file by their paths, where descriptors were given: one of the files may be
    theirs. `taken` says whether any file is taken without them: else the database would know of no
    batch, and no runtime that has stores for those files could open it."""
    found = nameless_files(directory, known, fs) if lost else []
    if lost is None:
        found = sorted(set(store_files(directory, (), fs)) - set(_paths(known)))
    if not found:
        return
    names = _some(found)
    run = LaunchState() if identity is None else LaunchState(**identity.model_dump())
    again = rebuild_with_descriptors(directory, run, team_name=team)
    if lost is None:
        forced = rebuild_command(directory, run, "--force", team_name=team)
        problem = (
            f"{names}: store files whose stores only the descriptors of the runtime name. Run: "
            f"{again} ({about_descriptors(directory, team_name=team)})"
        )
        if taken:
            problem += (
                ". Or leave them as they are, and adopt them one by one once the runtime has "
                f"opened the store ({forced})"
            )
    else:
        forced = rebuild_with_descriptors(directory, run, "--force", team_name=team)
        without = _some([f"{name} (no {path})" for path, name in lost.items()])
        problem = (
            f"none of these descriptors names {names}, and there are stores without a file: "
            f"{without}. {say_whose(directory, found, known, fs)}. If one of these stores has its "
            "data in such a file, rebuild with descriptors that name it there; an opening with "
            "these moves it afterwards. Otherwise, leave "
            f"{names} as {'it is' if len(found) == 1 else 'they are'}, with none of that data in "
            f"any store ({forced})"
        )
    raise InvalidRequestError("descriptors", problem)


def _without_file(stores: Iterable[FoundStore]) -> dict[str, str]:
    """Return the names of the stores of which nothing was found, by their paths."""
    return {
        found.store.relative_path: found.store.schema_name
        for found in stores
        if found.store.outcome is StoreOutcome.MISSING
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _paths(descriptors: Iterable[Descriptor]) -> list[str]:
    return [item.relative_path for item in descriptors]


def _team(directory: Path, wanted: str | None, salvage: Salvage, launch: LaunchState) -> str:
    found = salvage.team_name
    if wanted is None and found is None:
        raise InvalidRequestError(
            "team_name", "no database has it (any more): say whose state this is"
        )
    if wanted is not None and found is not None and wanted != found:
        raise WrongTeamError(directory, wanted, found)
    undecided = two_teams(directory, found, launch) if wanted is None else None
    if undecided is not None:
        problem = f"{undecided}. Or say {found!r}: then the files become those of that team"
        raise InvalidRequestError("team_name", problem)
    return check_id("team_name", found) if found else check_new_id("team_name", wanted)


# --- 5: make ----------------------------------------------------------------------------------


def _completed(given: RunIdentity | None, active: RunIdentity | None) -> RunIdentity | None:
    """Return the identity that was given, completed from the old database for the same run."""
    if given is None or active is None or given.run_id != active.run_id:
        return given
    return RunIdentity(
        run_id=given.run_id,
        capability_snapshot_id=given.capability_snapshot_id or active.capability_snapshot_id,
        behavior_fingerprint=given.behavior_fingerprint or active.behavior_fingerprint,
    )


class _Buried(NamedTuple):
    """The runs that the legacy list of ended runs names."""

    runs: tuple[legacy.Tombstone, ...] = ()
    problem: str | None = None
    """Why the list cannot be read."""

    @property
    def known(self) -> str:
        """What is known of the runs all the same."""
        names = len({tombstone.run_id for tombstone in self.runs})
        return f", but for {names} that {RUN_TOMBSTONES} says ended" if names else ""


def _buried(directory: Path, salvage: Salvage, known: Registry, fs: FileSystem) -> _Buried:
    """Return the ended runs where no old database says which runs there were."""
    if salvage.runs is not None or RUN_TOMBSTONES in _paths(known):
        return _Buried()
    try:
        return _Buried(legacy.read_tombstones(directory, fs))
    except LegacyImportError as error:
        return _Buried(problem=error.problem)


class _Ids(NamedTuple):
    """Sources of ids."""

    batch_id_factory: IdFactory
    receipt_id_factory: IdFactory

    def batch_id(self) -> str:
        return check_new_id("batch_id_factory", self.batch_id_factory())

    def receipt_id(self) -> str:
        return check_new_id("receipt_id_factory", self.receipt_id_factory())


class _NewDatabase:
    """The rows of the new database, computed before it is made."""

    def __init__(
        self,
        team_name: str,
        identity: RunIdentity | None,
        salvage: Salvage,
        stores: list[FoundStore],
        ids: _Ids,
        now: datetime,
        tombstones: Sequence[legacy.Tombstone],
    ) -> None:
        self._team_name = team_name
        self._given = _completed(identity, salvage.identity)
        self._now = now
        self._ids = ids
        self._taken = [found for found in stores if found.content is not None]
        self.stores = [found.store for found in stores]
        self.identity = salvage.identity or identity
        self._retention = salvage.retention
        self._known_runs = salvage.runs or ()
        self._tombstones = tombstones
        self._superseded = [found for found in stores if found.superseded is not None]
        self.batch_id = ids.batch_id() if self._taken else None
        self.high_watermark = (salvage.high_watermark or 0) + bool(self._taken)

    def fill(self, connection: Connection, registry: Registry) -> None:
        """Write all rows, in the caller's transaction."""
        own = self.identity
        manifest.insert_manifest(
            connection,
            Manifest(
                team_name=self._team_name,
                active_run_id=own.run_id if own else None,
                active_capability_snapshot_id=own.capability_snapshot_id if own else None,
                active_behavior_fingerprint=own.behavior_fingerprint if own else None,
                high_watermark=self.high_watermark,
                last_committed_batch_id=self.batch_id,
                updated_at=self._now,
            ),
        )
        manifest.save_descriptors(connection, registry)
        if self._retention is not None:
            manifest.save_retention(connection, self._retention)
        if self._superseded:
            self._fill_superseded(connection)
        if self.batch_id is not None:
            self._fill_batch(connection, self.batch_id)
        runs.insert_runs(connection, self._runs(connection))

    def _fill_batch(self, connection: Connection, batch_id: str) -> None:
        number = batches.insert_batch(connection, self._batch(batch_id))
        writes = [self._write(position, found) for position, found in enumerate(self._taken)]
        batches.insert_writes(connection, number, writes)
        pairs = list(zip(self._taken, writes, strict=True))
        contents.insert_contents(
            connection,
            {number: {write.schema_name: found.content or b"" for found, write in pairs}},
        )
        manifest.insert_entries(
            connection, [self._entry(number, found, write) for found, write in pairs]
        )

    def _fill_superseded(self, connection: Connection) -> None:
        """Record what files hold that is not committed as a batch that failed. So the next opening
        knows it as ours, and puts what is committed in its place, or removes it."""
        committed = self._batch(self._ids.batch_id())
        nobody = {"run_id": None, "capability_snapshot_id": None, "behavior_fingerprint": None}
        failed = {"state": BatchState.FAILED, "high_watermark": None, "last_error": _SUPERSEDED}
        batch = committed.model_copy(update={**nobody, **failed})
        number = batches.insert_batch(connection, batch)
        pairs = [
            (
                found.superseded.content,
                self._write(position, found.model_copy(update=found.superseded.model_dump())),
            )
            for position, found in enumerate(self._superseded)
            if found.superseded is not None
        ]
        batches.insert_writes(connection, number, [write for _, write in pairs])
        content_of = {write.schema_name: content for content, write in pairs}
        contents.insert_contents(connection, {number: content_of})

    def _runs(self, connection: Connection) -> list[RunRecord]:
        """Return the runs of the old database or of the list of ended runs, and those that only the
        new rows show."""
        known = [run for run in self._known_runs if run.state is not RunState.BEGINNING]
        active = next((run for run in known if run.state is RunState.ACTIVE), None)
        ids = {run.run_id for run in known}
        shown = []
        for run in runs.runs_of_batches(connection, self._now):
            if run.run_id in ids:
                continue
            over = {
                "state": RunState.SUPERSEDED,
                "superseded_by": active.run_id if active else None,
                "ended_at": self._now,
            }
            shows_two = active is not None and run.state is RunState.ACTIVE
            shown.append(run.model_copy(update=over) if shows_two else run)
        return legacy.with_tombstones([*shown, *known], self._tombstones, self._now)

    def _batch(self, batch_id: str) -> Batch:
        own = self.identity
        return Batch(
            batch_number=0,  # the database assigns it
            batch_id=batch_id,
            team_name=self._team_name,
            run_id=own.run_id if own else None,
            capability_snapshot_id=own.capability_snapshot_id if own else None,
            behavior_fingerprint=own.behavior_fingerprint if own else None,
            reason=BatchReason.RECOVERY,
            state=BatchState.COMMITTED,
            high_watermark=self.high_watermark,
            started_at=self._now,
            completed_at=self._now,
        )

    def _write(self, position: int, found: FoundStore) -> PlannedWrite:
        content = found.content or b""
        return PlannedWrite(
            position=position,
            schema_name=found.store.schema_name,
            schema_version=found.schema_version,
            relative_path=found.store.relative_path,
            content_hash=content_hash(content),
            file_size=len(content),
            mtime_ns=found.mtime_ns,
            receipt_id=self._ids.receipt_id(),
            written_at=self._now,
        )

    def _entry(self, number: int, found: FoundStore, write: PlannedWrite) -> ManifestEntry:
        return entry_under(found.entry or self._given or found.before, write, number)


# --- 6: set aside -------------------------------------------------------------------------------


def newest_broken(directory: Path, fs: FileSystem) -> Path | None:
    """Return the folder with the database that was set aside last, or None."""
    numbers = [
        int(name.removeprefix(BROKEN_PREFIX))
        for name in fs.list_directory(directory)
        if name.startswith(BROKEN_PREFIX) and name.removeprefix(BROKEN_PREFIX).isdecimal()
    ]
    return _broken(directory, max(numbers)) if numbers else None


def _broken(directory: Path, number: int) -> Path:
    return directory / f"{BROKEN_PREFIX}{number:03}"


def _make_folder(directory: Path, fs: FileSystem) -> Path | None:
    """Create and return the folder for the old database; return None when there is nothing to move.
    It exists before the new database does, so an interrupted rebuild finds its own as the newest.
    """
    newest = newest_broken(directory, fs)
    if not any(os.path.lexists(directory / f"{DATABASE_NAME}{suffix}") for suffix in _FILES):
        return None
    if newest is not None and not fs.list_directory(newest):  # of an interrupted rebuild
        return newest
    last = 0 if newest is None else int(newest.name.removeprefix(BROKEN_PREFIX))
    folder = _broken(directory, last + 1)
    fs.mkdir(folder)
    fs.fsync_directory(directory)
    return folder


def _interrupted(directory: Path) -> bool:
    """Return whether a rebuild died after it began to move the old database."""
    path = directory / DATABASE_NAME
    return not os.path.lexists(path) and revisions.rebuilt_path(path).exists()


def _set_aside(directory: Path, folder: Path, fs: FileSystem) -> None:
    """Move the old database and its side files; the database first. Without it, every opening
    refuses because of the side files and the new database under its other name."""
    for suffix in _FILES:
        source = directory / f"{DATABASE_NAME}{suffix}"
        if os.path.lexists(source):
            fs.rename(source, folder / source.name)
    fs.fsync_directory(folder)
    fs.fsync_directory(directory)


# --- report -------------------------------------------------------------------------------------


def _lost(salvage: Salvage, stores: Iterable[RebuiltStore], buried: _Buried) -> list[str]:
    known = f" (the last had number {salvage.batches})" if salvage.batches else ""
    lost = [
        f"the history: earlier batches{known}, their receipts, and earlier contents",
        "the records of recoveries, upgrades and quarantined files"
        + (f" ({salvage.quarantined} files)" if salvage.quarantined else "")
        + "; what is in quarantine/ stays there",
    ]
    if salvage.runs is None:
        lost.append(
            f"which runs there were{buried.known}: an id of {'another' if buried.runs else 'a'} "
            "run that ended or was superseded is taken for a new one, so see that no process of "
            "such a run is alive"
        )
    if salvage.retention is None:
        kept = Retention()
        lost.append(
            f"how much history is kept: {kept.batches} batches, {kept.contents_per_store} contents "
            "and 64 MiB a store again, until a runtime says what it keeps"
        )
    return lost + [
        f"{store.schema_name}: its file cannot be taken: {store.detail}"
        for store in stores
        if store.outcome is StoreOutcome.LEFT_OUT
    ]


class _Files(NamedTuple):
    """What is to be said of files."""

    moved: tuple[str, ...]
    """Stores that have another file than the descriptors that were given say."""
    unknown: tuple[str, ...]
    """Store files that belong to no store."""


def _say_files(directory: Path, known: Registry, given: Registry | None, fs: FileSystem) -> _Files:
    now = {item.schema_name: item.relative_path for item in known}
    moved = tuple(
        f"{item.schema_name} stays in its file {now[item.schema_name]}; opening the directory with "
        f"these descriptors gives it {item.relative_path}"
        for item in given or ()
        if now[item.schema_name] != item.relative_path
    )
    names = ", ".join(unknown_files(directory, known, fs))
    if not names:
        return _Files(moved, ())
    end = "a runtime with stores of its own calls rebuild_database with its descriptors"
    if given is not None:
        end = "none of these names it, so it is left as it is, and none of it is taken"
    return _Files(moved, (f"no descriptor is known for {names}: {end}",))


def _notes(salvage: Salvage, files: _Files, buried: _Buried) -> list[str]:
    notes = [*files.moved]
    notes += [
        f"batch {batch_id} was being written: it is committed as a whole, from the log"
        for batch_id in salvage.taken_forward
    ]
    notes += [
        f"batch {batch_id} was being written, and the log has not all of it: it is dropped, but "
        "where a file of it is all that is left of a store"
        for batch_id in salvage.open_batches or ()
    ]
    if salvage.open_batches is None:
        notes.append("which batches were being written cannot be read: files may be there in part")
    if buried.problem is not None:
        notes.append(f"the list of ended runs was not taken: {buried.problem}")
    if salvage.descriptors is None:
        notes += files.unknown
    return notes
