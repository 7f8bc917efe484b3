"""Creates a runtime directory and its database, and saves its descriptors and its retention."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection

from rtstore.control import batches, manifest, revisions
from rtstore.control.contents import Retention
from rtstore.control.lock import WriterLock
from rtstore.control.lost_entries import paths_of_stores, versions_of_stores
from rtstore.control.manifest import default_manifest
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    CorruptDatabaseError,
    DatabaseLockedError,
    InvalidRequestError,
    NotARuntimeDirectoryError,
    StorageError,
    UnsafePathError,
)
from rtstore.files import durable, owners
from rtstore.files.owners import is_read_only
from rtstore.files.paths import check_directory, runtime_directory_at
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import no_fork
from rtstore.maintenance.hints import (
    import_command,
    knows_no_batch,
    refuse_lost_batches,
    refuse_lost_database,
    suggest_command,
)
from rtstore.model.arguments import check_new_id, time_of
from rtstore.model.data_upgrade import MovedStore
from rtstore.model.descriptors import (
    KNOWN_DESCRIPTORS,
    Descriptor,
    Registry,
    TakenFiles,
    kept_file,
    same_file_key,
    taken_file,
)
from rtstore.model.records import LoggedBatch
from rtstore.model.times import Clock

# `rtstore.maintenance.upgrade` and `rtstore.legacy` are imported where they are used: nearly every
# directory that is opened exists and is current, and then neither is needed.

logger = logging.getLogger("rtstore.maintenance")


def check_made(
    directory: Path, team_name: str | None, descriptors: Registry | None, fs: FileSystem
) -> None:
    """Raise unless there is a database that this package can read as it is. Change nothing.

    Raises `NotARuntimeDirectoryError`, `DatabaseMissingError`, `OlderDatabaseError`,
    `NewerDatabaseError`, `ForeignDatabaseError`, `CorruptDatabaseError`, `StorageError`.
    """
    path = directory / DATABASE_NAME
    with _in_its_own_words(directory):
        if revisions.exists(path):
            revisions.check_current(path)
            return
        if not _is_legacy(directory):
            refuse_lost_database(directory, team_name, descriptors, fs)
    refuse_other_than_directory(directory)
    raise NotARuntimeDirectoryError(
        directory, "there is no runtime store here", *suggest_command(directory, team_name)
    )


def refuse_other_than_directory(directory: Path) -> None:
    """Raise `InvalidRequestError` for something that is there and no directory."""
    if directory.is_symlink() and not directory.exists():
        raise InvalidRequestError(
            "directory", f"{directory} is a symbolic link that leads to nothing"
        )
    if directory.exists() and not directory.is_dir():
        raise InvalidRequestError("directory", f"{directory} is not a directory")


def make_or_upgrade(
    directory: Path,
    team_name: str | None,
    registry: Registry | None,
    lock: WriterLock,
    clock: Clock,
    fs: FileSystem,
    *,
    retention: Retention | None,
    may_upgrade: bool,
    with_data: bool,
    refuse: Callable[..., None],
) -> None:
    """Ensure that there is a database at the newest revision. Of a file that says so itself, only
    that is looked at: `load_head` checks the rest. `with_data`: refuse the upgrade when the data of
    its stores could not be upgraded to the registry afterwards. `refuse` is called with an older
    database, and these options, before anything of it changes, and raises what refuses the
    opening."""
    path = directory / DATABASE_NAME
    if is_read_only(directory):
        raise StorageError(
            directory,
            "the file system is mounted read-only: it can be looked at (read_only=True), and must "
            "be mounted for writing before a runtime starts on it (where an error of the disk made "
            "it read-only, dmesg says so, and it must be checked first)",
            os.strerror(errno.EROFS),
        )
    with _in_its_own_words(directory):
        there = revisions.exists(path)
    if not there:
        make(directory, team_name, registry, lock, clock, fs, retention)
    if revisions.seems_current(path):
        return
    if not may_upgrade:
        revisions.check_current(path)
    elif revisions.inspect_revision(path) != REVISIONS[-1]:
        with no_fork():
            from rtstore.maintenance.upgrade import upgrade_directory

        upgrade_directory(
            directory,
            team_name=team_name,
            clock=clock,
            lock=lock,
            descriptors=registry if with_data else None,
            data_may_be_newer=True,
            fs=fs,
            check_first=partial(refuse, registry=registry, fs=fs, with_data=with_data),
        )


def make(
    directory: Path,
    team_name: str | None,
    registry: Registry | None,
    lock: WriterLock,
    clock: Clock,
    fs: FileSystem,
    retention: Retention | None,
) -> None:
    """Create the runtime directory and its database, unless another process just did."""
    refuse_other_than_directory(directory)
    if not _is_legacy(directory):
        refuse_lost_database(directory, team_name, registry, fs)
    if team_name is None or not team_name.strip():
        raise NotARuntimeDirectoryError(
            directory, "there is no runtime store here, and no team_name to make one for",
            *suggest_command(directory, team_name),
        )  # fmt: skip
    check_new_id("team_name", team_name)
    time_of(clock)
    if _is_legacy(directory):
        raise NotARuntimeDirectoryError(
            directory,
            "it holds the manifest of the legacy format, which a new store would not know",
            *import_command(directory),
        )
    try:
        durable.make_directories(directory, fs)
    except system_error() as error:
        raise StorageError(directory, "the directory cannot be made", str(error)) from error
    path = directory / DATABASE_NAME
    with lock.hold():
        if revisions.exists(path):
            return
        refuse_lost_database(directory, team_name, registry, fs)  # no other writer now

        def fill(connection: Connection) -> None:
            manifest.insert_manifest(connection, default_manifest(team_name, clock()))
            manifest.save_descriptors(
                connection, KNOWN_DESCRIPTORS if registry is None else registry
            )
            if retention is not None:
                manifest.save_retention(connection, retention)

        revisions.create(path, fs, fill, lock=lock)


def load_head(database: Database) -> tuple[manifest.ManifestHead, Retention]:
    """Read the manifest's own row and the retention. Raises as `revisions.inspect_revision` for a
    database that is not at the newest revision, and `DatabaseLockedError` if it just was not."""
    found = database.read(_head_if_current, autocommit=True)
    if found is None:
        revisions.check_current(database.path)
        raise DatabaseLockedError(database.path, "it was changed while it was opened")
    return found


def _head_if_current(connection: Connection) -> tuple[manifest.ManifestHead, Retention] | None:
    return manifest.load_for_opening(connection) if revisions.is_current(connection) else None


def check_before_use(
    directory: Path,
    database: Database,
    head: manifest.ManifestHead,
    registry: Registry | None,
    fs: FileSystem,
    *,
    with_data: bool,
    adopts: bool,
) -> None:
    """Raise when a runtime must not continue with this state. Change nothing.

    Raises `DatabaseMissingError` when the database has no batch but a store file shows that there
    was one. With `with_data`, raises `DataUpgradeError` when the data of a store cannot be upgraded
    to the registry: what is committed, or with `adopts` the edit that is adopted in its place.
    """
    if head.high_watermark == 0:
        known = registry or database.read(manifest.load_descriptors)
        refuse_lost_batches(directory, database, known, fs)
    if registry is not None and with_data:
        with no_fork():
            from rtstore.maintenance.upgrade_data import adopts_edit, rehearse

        edited = partial(adopts_edit, database=database, directory=directory, fs=fs)
        rehearse(database, registry, edited if adopts else None, directory=directory)


@contextmanager
def _in_its_own_words(directory: Path) -> Iterator[None]:
    """Replace the cause of a `StorageError` where the operating system only reports a failure: name
    the WAL that cannot be read, or the owner or mode that forbids it."""
    try:
        yield
    except StorageError as error:
        wal = directory / f"{DATABASE_NAME}-wal"
        if is_read_only(directory) and wal.exists():
            problem = (
                "its WAL cannot be read where nothing may be written, as long as its index (-shm) "
                "is not there: copy the directory to look at it"
            )
            raise StorageError(directory, problem, error.cause) from error
        forbidden = owners.why_forbidden(directory)
        if forbidden is None or owners.whose(directory) is not None:  # the error says it already
            raise
        raise StorageError(directory, forbidden, error.cause) from error


def report_loose_modes(directory: Path) -> None:
    """Log when other users may access what may hold secrets. The mode may be intended, so it is not
    changed."""
    for path in (directory, directory / DATABASE_NAME):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            logger.info("%s is open to other users (mode %03o)", path, mode)


def _is_legacy(directory: Path) -> bool:
    with no_fork():
        from rtstore.legacy import is_to_import

    return is_to_import(directory)


def load_remembered(
    directory: Path,
    database: Database,
    wanted: Registry | None,
    fs: FileSystem,
    *,
    read_only: bool,
) -> tuple[Descriptor, ...]:
    """Return the descriptors that the directory remembers. Raises as `refuse_files` for those that
    are wanted, and will be remembered."""

    def look(connection: Connection) -> tuple[Descriptor, ...]:
        if wanted is not None and not read_only:
            paths = refuse_files(connection, wanted, directory, fs)
            _report_unregistered(wanted, paths)
        return manifest.load_descriptors(connection)

    return database.read(look, autocommit=wanted is None or read_only)


def moves_of(
    connection: Connection, wanted: Iterable[Descriptor], directory: Path
) -> tuple[MovedStore, ...]:
    """Return the committed stores that an opening with these descriptors gives other files."""
    files = paths_of_stores(connection, directory)
    for item in manifest.load_descriptors(connection):
        if item.schema_name in files:
            files[item.schema_name] = item.relative_path
    return tuple(
        MovedStore(schema_name=name, from_path=files[name], to_path=path)
        for name, path in ((item.schema_name, item.relative_path) for item in wanted)
        if files.get(name, path) != path
    )


def remember(
    database: Database,
    lock: WriterLock,
    descriptors: Registry | None,
    retention: Retention | None,
    *,
    before: tuple[Iterable[Descriptor], Retention],
) -> None:
    """Have the directory remember the descriptors and the retention that are given, if they are not
    those `before`. A store whose data is newer than its descriptor here keeps the descriptor of the
    newer program. Raises as `load_remembered`, and then saves nothing."""
    if descriptors is not None and _plain(descriptors) == _plain(before[0]):
        descriptors = None
    if retention == before[1]:
        retention = None
    if descriptors is None and retention is None:
        return
    with lock.hold(), database.write(flush=True) as connection:
        if descriptors is not None:  # no other writer now
            refuse_taken_files(connection, descriptors, database.path.parent)
            manifest.save_descriptors(connection, _with_newer(connection, descriptors))
        if retention is not None:
            manifest.save_retention(connection, retention)


def _with_newer(connection: Connection, wanted: Registry) -> list[Descriptor]:
    """Return the descriptors that are wanted; for data that is newer than its descriptor, the one
    that is remembered, if it is newer. An older program that is refused changes no answer."""
    newer = _kept(connection, wanted, manifest.load_versions)
    return [newer.get(item.schema_name, item) for item in wanted]


def _kept(
    connection: Connection,
    wanted: Iterable[Descriptor],
    versions_in: Callable[[Connection], Mapping[str, int]],
) -> dict[str, Descriptor]:
    """Return the descriptors that stay remembered in place of those that are wanted, by store. The
    versions of the data are only looked for where a descriptor is newer."""
    known = {item.schema_name: item.schema_version for item in wanted}
    newer = {
        item.schema_name: item
        for item in manifest.load_descriptors(connection)
        if item.schema_version > known.get(item.schema_name, item.schema_version)
    }
    versions = versions_in(connection) if newer else {}
    return {name: item for name, item in newer.items() if versions.get(name, 0) > known[name]}


def refuse_files(
    connection: Connection, wanted: Iterable[Descriptor], directory: Path, fs: FileSystem
) -> dict[str, str]:
    """Raise where stores cannot have the files of the descriptors that are wanted: as
    `refuse_taken_files`, `refuse_closed_folders` and `refuse_runtime_directories`. Return the file
    of each committed store: see `paths_of_stores`."""
    committed = refuse_taken_files(connection, wanted, directory)
    paths = {item.schema_name: item.relative_path for item in wanted}
    if any(committed.get(name) != path for name, path in paths.items()):
        moved = manifest.moved_stores(connection, wanted, committed)
        there = {name: path for name, path in moved.items() if name in committed}
        refuse_closed_folders(there, wanted, directory, fs)
        refuse_runtime_directories({name: paths[name] for name in moved}, moved, directory, fs)
    return committed


def refuse_closed_folders(
    moved: Mapping[str, str], wanted: Iterable[Descriptor], directory: Path, fs: FileSystem
) -> None:
    """Raise `UnsafePathError` for a store that is given a file behind a link, or behind what is no
    directory. `moved` are the stores that are given another file, with that which they have."""
    for descriptor in wanted:
        name, path = descriptor.schema_name, descriptor.relative_path
        folder = path.rpartition("/")[0]
        if not folder or name not in moved:
            continue
        try:
            with suppress_system_error():
                check_directory(directory, folder, name, fs)
        except UnsafePathError as error:
            problem = (
                f"{error.problem}. {name} is in {moved[name]}, and these descriptors give it the "
                f"file {path}: nothing was moved"
            )
            raise UnsafePathError(error.path, problem, store=name) from error


def refuse_runtime_directories(
    wanted: Mapping[str, str], moved: Mapping[str, str], directory: Path, fs: FileSystem
) -> None:
    """Raise `UnsafePathError` for a store that is given a path which is a runtime directory, as a
    lane is, or holds one, or is in one: nothing of that is this directory's. `wanted` are the paths
    of the stores that are given another file, `moved` those which they have."""
    for name, path in wanted.items():
        with suppress_system_error():
            found = runtime_directory_at(directory, path, fs)
            if found is not None:
                problem = (
                    f"{found}. {name} is in {moved[name]}: nothing was moved. Give {name} another "
                    "relative_path"
                )
                raise UnsafePathError(path, problem, store=name)


def refuse_taken_files(
    connection: Connection, wanted: Iterable[Descriptor], directory: Path
) -> dict[str, str]:
    """Raise `InvalidRequestError` for a descriptor whose file is that of another store, by its
    entry or by an open batch, or is a folder with that in it, or needs that as a folder: the other
    store has to give its file up first, or each write is refused. So is a file that a newer program
    gave another store, which keeps it. Return the file of each committed store: see
    `paths_of_stores`."""
    open_batches = [item for item in batches.load_open(connection) if item.has_contents]
    committed = paths_of_stores(connection, directory)
    paths = dict(committed)
    for logged in open_batches:
        paths |= {write.schema_name: write.relative_path for write in logged.writes}
        for deletion in logged.deletions:
            paths.pop(deletion.schema_name, None)
    taken = TakenFiles(paths)
    for descriptor in wanted:
        name, path = descriptor.schema_name, descriptor.relative_path
        by = taken.by(name, path)
        if by is not None:
            raise InvalidRequestError("descriptors", taken_file(name, path, by), store=name)
    _refuse_kept_files(connection, wanted, directory, open_batches)
    return committed


def _refuse_kept_files(
    connection: Connection,
    wanted: Iterable[Descriptor],
    directory: Path,
    open_batches: Iterable[LoggedBatch],
) -> None:
    """Raise `InvalidRequestError` for a descriptor whose file is in the way of one that another
    store keeps: `remember` could not save both. Data counts as newer by its entry, also by a lost
    one, or by an open batch."""

    def versions(connection: Connection) -> dict[str, int]:
        found = versions_of_stores(connection, directory)
        for write in (write for logged in open_batches for write in logged.writes):
            before = found.get(write.schema_name, 0)
            found[write.schema_name] = max(before, write.schema_version)
        return found

    kept = _kept(connection, wanted, versions)
    taken = TakenFiles({name: same_file_key(item.relative_path) for name, item in kept.items()})
    for descriptor in wanted:
        name, path = descriptor.schema_name, descriptor.relative_path
        by = taken.by(name, same_file_key(path))
        if by is not None:
            raise InvalidRequestError(
                "descriptors", kept_file(name, path, kept[by.owner]), store=name
            )


def check_files_first(
    database: Database, wanted: Registry | None, fs: FileSystem, *, with_batches: bool
) -> None:
    """Raise as `refuse_files`, of a database of any revision, before anything of it changes;
    `with_batches` as `refuse_lost_batches`, too. Of one whose rows cannot be read, that is decided
    when it is mended."""
    directory = database.path.parent
    with suppress(CorruptDatabaseError):
        if with_batches and knows_no_batch(database):
            known = wanted or database.read(manifest.load_descriptors)
            refuse_lost_batches(directory, database, known, fs)
        if wanted is not None:
            database.read(lambda connection: refuse_files(connection, wanted, directory, fs))


def _report_unregistered(wanted: Registry, committed: Mapping[str, str]) -> None:
    """Log when committed stores have no descriptor. Somebody may have meant it, or may have written
    a retired store again."""
    left = manifest.without_descriptor(committed, wanted)
    if left:
        logger.warning(
            "committed, and named by no descriptor: %s. No plan looks after them, until the "
            "directory is opened with their descriptors, too",
            ", ".join(f"store {name} in {path}" for name, path in left.items()),
        )


_fields_of: Callable[[Descriptor], object] = attrgetter(
    *(name for name, field in Descriptor.model_fields.items() if not field.exclude)
)


def _plain(descriptors: Iterable[Descriptor]) -> list[object]:
    """Return what the database remembers of descriptors."""
    return [_fields_of(item) for item in descriptors]
