"""Gathers the facts about a runtime directory, whatever state it is in.

Reads only: nothing is created, changed or locked. It works while a writer is busy, and on a
read-only file system. A fact that cannot be read is left out, and `problem` says why when it
matters.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

from sqlalchemy import Connection

from rtstore import legacy
from rtstore.control import (
    contents,
    foreign_wal,
    lost_history,
    manifest,
    parts,
    recovery_log,
    revisions,
)
from rtstore.control.lock import LOCK_NAME, Holder, WriterLock
from rtstore.control.lost_entries import paths_of_stores
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import processes
from rtstore.control.sqlite.added import added_parts
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.control.sqlite.processes import Process
from rtstore.control.sqlite.settings import engine_version, settings
from rtstore.control.sqlite.space import database_bytes
from rtstore.control.sqlite.statements import driver_of
from rtstore.errors import (
    BackupDamagedError,
    CorruptDatabaseError,
    DatabaseLockedError,
    DatabaseMissingError,
    DataUpgradeError,
    ForeignDatabaseError,
    NewerDatabaseError,
    RuntimeStoreError,
    StorageError,
    UnsafePathError,
    UnusableEngineError,
    UpgradeFailedError,
)
from rtstore.files import durable
from rtstore.files.owners import (
    Barrier,
    as_root,
    barrier,
    explained,
    folder_to_write,
    is_others,
    is_read_only,
    may,
    mounts,
    not_changeable,
    not_replaceable,
)
from rtstore.files.paths import (
    end_of_link,
    move_aside_command,
    replace_link_command,
    store_path,
)
from rtstore.files.quarantine import (
    QUARANTINE_DIRECTORY,
    about_link,
    is_changed,
    is_gone,
    is_in_quarantine,
    without_row,
)
from rtstore.files.remains import files_in_folders, had_database, kept_beside, store_files
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.legacy.control_files import MANIFEST_NAMES, RECEIPTS_NAME
from rtstore.legacy.survey import KNOWN_OTHERS
from rtstore.maintenance.backup import verify_backup
from rtstore.maintenance.backup.record import RECORD_NAME, Backup, read_record
from rtstore.maintenance.backup.verifying import (
    problem_of_contents,
    problem_of_schema,
    verify_bytes,
)
from rtstore.maintenance.create import refuse_closed_folders
from rtstore.maintenance.doctor import changed_rows
from rtstore.maintenance.doctor.facts import DatabaseState, Facts
from rtstore.maintenance.hindrances import (
    ALWAYS_WRITTEN,
    hindrances,
    mounted_database,
    no_room,
)
from rtstore.maintenance.hints import nameless as nameless_of
from rtstore.maintenance.hints import read_launch_state, refuse_lost_batches
from rtstore.maintenance.rebuild_database import (
    BROKEN_PREFIX,
    Salvage,
    knows_batch,
    problem_of,
    what_is_left,
)
from rtstore.maintenance.renamed import renamed_databases
from rtstore.maintenance.suggestions import LaunchState, owning_way
from rtstore.maintenance.upgrade import backups_in, lost_marks, upgrade_directory
from rtstore.maintenance.upgrade_data import rehearse
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor, Registry, TakenFiles
from rtstore.model.envelope import content_hash
from rtstore.model.records import Hindrance, RunIdentity, Suggestion
from rtstore.model.times import parse_time, utc_now
from rtstore.shell import shell_word

Result = TypeVar("Result")

_NEIGHBOURS = 1_000
"""The number of names next to the runtime directory that are checked for back-ups of it."""
_OWN_PREFIXES = ("runtime-store.", ".runtime-store.")


def examine(
    directory: Path, known: Registry | None = None, *, now: Callable[[], datetime] = utc_now
) -> Facts:
    """Return all facts that `diagnose` needs, except those of the plan (`verdict`, `next`).

    The stores are those `known`; default: those that the database remembers, or the known ones.
    One that these descriptors would move is looked at where it is.

    Raises OSError when the directory itself cannot be listed.
    """
    fs = FileSystem()
    names = fs.list_directory(directory)
    path = directory / DATABASE_NAME
    moment = now()
    state, problem, odd_file = _state(directory)
    left = what_is_left(path) if state is DatabaseState.DAMAGED else Salvage()
    saved = _descriptors(path) if state in _READABLE else left.descriptors
    committed = _committed(path, directory) if state in _READABLE else {}
    given = _of_given(path, known if state in _READABLE else None, committed, fs)
    descriptors = tuple(where_they_are(known or saved or KNOWN_DESCRIPTORS, given["moved"]))
    files = [store_path(directory, item.relative_path) for item in descriptors]
    there = [file for file in files if _is_there(file)]
    helps = state in (DatabaseState.DAMAGED, DatabaseState.ABSENT)
    kept = kept_beside(directory, fs) if helps else ()
    nameless = _nameless(directory, known or (), fs, state, left)
    space = _space(directory)
    is_full = no_room(directory) is not None
    return Facts(
        directory=directory,
        now=moment,
        state=state,
        problem=problem,
        odd_file=odd_file,
        unlink_odd_file=None if odd_file is None else _bring_wal(odd_file),
        **_of_state(directory, state, problem),
        has_store_files=bool(there or nameless),
        nameless_files=nameless,
        knows_descriptors=state is not DatabaseState.DAMAGED or (known or saved) is not None,
        left_behind=kept,
        had_database=had_database(directory, fs),
        newer_than_control_files=legacy.newer_than_control_files(directory, fs),
        renamed=renamed_databases(directory, fs) if helps else {},
        launch=_launch(directory, left.identity, fs),
        team_in_database=left.team_name,
        **_backups(directory, fs, would_help=helps),
        **(_why_refused(directory, known, fs) if state is DatabaseState.LEGACY else {}),
        **_of_lock(directory, path),
        readers=processes.connected(path),
        in_transaction=processes.in_transaction(path),
        engine=engine_version(),
        file_system=_file_system(directory),
        is_read_only=is_read_only(directory),
        hindrances=_hindrances(directory, descriptors, committed, state),
        committed_bytes=_read(path, database_bytes) if is_full and state in _READABLE else None,
        free_bytes=None if space is None else space.f_bavail * space.f_frsize,
        free_inodes=space.f_favail if space is not None and space.f_files else None,
        others=tuple(_others(directory, names, there)),
        owning=owning_way(directory),
        is_others=is_others(directory, path),
        not_writable=tuple(_not_writable(directory)),
        shut_folders=tuple(_shut_folders(directory, descriptors)),
        loose_modes=tuple(_loose(directory, (directory, path, *there))),
        unreadable=(*_closed_folders(directory, files), *_unreadable((path, *there))),
        settings=(_read(path, settings) or {}) if state in _READABLE else {},
        **(_quarantined(directory, fs) if state in _READABLE else {}),
        stray_files=tuple(_strays(directory, names, there)),
        unknown_files=tuple(_unknown(directory, names, descriptors, committed)),
        unregistered=manifest.without_descriptor(committed, known or saved or ()),
        **given,
        remembers_no_store=known is None and saved is not None and not saved,
        sizes=_sizes(directory, there),
        **(_history(path) if state is DatabaseState.SOUND else {}),
        **(_of_batches(path, descriptors, fs) if state in _READABLE else {}),
        future_files=tuple(_from_the_future(there, moment)),
    )


def where_they_are(
    descriptors: Iterable[Descriptor], moved: Mapping[str, tuple[str, str]]
) -> Iterator[Descriptor]:
    """Yield descriptors, those of `moved` stores with the file that the store has now."""
    for item in descriptors:
        now, _ = moved.get(item.schema_name, (item.relative_path, ""))
        yield item.model_copy(update={"relative_path": now})


def _committed(path: Path, directory: Path) -> dict[str, str]:
    found = _read(path, partial(paths_of_stores, directory=directory))
    return found or _read(path, manifest.load_paths) or {}


def _of_given(
    path: Path, known: Registry | None, committed: Mapping[str, str], fs: FileSystem
) -> dict[str, Any]:
    """Return the facts of descriptors that are given: what an opening with them would do."""
    if known is None:
        return {"moved": {}, "data_refused": None, "move_refused": None}
    moved, move_refused = _moved(path, known, committed), None
    try:
        there = {name: now for name, (now, _) in moved.items() if name in committed}
        refuse_closed_folders(there, known, path.parent, fs)
    except UnsafePathError as error:
        move_refused = str(error)
    return {
        "moved": moved,
        "data_refused": _refused(path, known),
        "move_refused": move_refused,
    }


def _of_batches(path: Path, descriptors: Iterable[Descriptor], fs: FileSystem) -> dict[str, Any]:
    return {
        "newest_batch_at": _newest_batch(path),
        "lost_batches": _lost_batches(path, descriptors, fs),
    }


def _lost_batches(path: Path, descriptors: Iterable[Descriptor], fs: FileSystem) -> str | None:
    """Return why opening is refused where the database has no batch, but a store file had one."""
    database = Database(path, read_only=True)
    try:
        refuse_lost_batches(path.parent, database, descriptors, fs)
    except DatabaseMissingError as error:
        return f"{error.problem}, and there is {', '.join(map(repr, error.found[:3]))}"
    except (RuntimeStoreError, ValueError):
        return None
    finally:
        database.close()
    return None


def _moved(path: Path, known: Registry, committed: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the stores that an opening with these descriptors would move. It refuses to move one
    to where another is: see `hindrances`."""
    found = _read(path, partial(manifest.moved_stores, descriptors=known, committed=committed))
    wanted = {item.schema_name: item.relative_path for item in known}
    taken = TakenFiles(committed)
    return {
        name: (now, wanted[name])
        for name, now in (found or {}).items()
        if taken.by(name, wanted[name]) is None and now not in wanted.values()
    }


def _refused(path: Path, known: Registry) -> str | None:
    """Return why what is committed cannot be brought up to these descriptors, or None."""
    database = Database(path, read_only=True)
    try:
        rehearse(database, known)
    except DataUpgradeError as error:
        return str(error)
    except (RuntimeStoreError, ValueError):
        return None
    finally:
        database.close()
    return None


def _nameless(
    directory: Path,
    known: Iterable[Descriptor],
    fs: FileSystem,
    state: DatabaseState,
    left: Salvage,
) -> tuple[str, ...]:
    """Return the store files whose stores neither those descriptors nor the known ones name, where
    the database cannot be asked for its own."""
    unread = (DatabaseState.DAMAGED, DatabaseState.ABSENT, DatabaseState.FOREIGN)
    if state not in unread or left.descriptors is not None:
        return ()
    named = {item.relative_path for item in known}
    return tuple(path for path in nameless_of(store_files(directory, (), fs)) if path not in named)


def _launch(directory: Path, active: RunIdentity | None, fs: FileSystem) -> LaunchState:
    """Return what the launch state says, completed from the old database for the same run."""
    launch = read_launch_state(directory, fs)
    if active is None or launch.run_id != active.run_id:
        return launch
    known = launch.capability_snapshot_id or active.capability_snapshot_id
    completed = {
        "capability_snapshot_id": known,
        "behavior_fingerprint": active.behavior_fingerprint,
    }
    return launch.model_copy(update=completed)


def _hindrances(
    directory: Path,
    descriptors: Sequence[Descriptor],
    committed: Mapping[str, str],
    state: DatabaseState,
) -> tuple[Hindrance, ...]:
    paths = {item.schema_name: item.relative_path for item in descriptors}
    mounted = None if state in _READABLE else mounted_database(directory)
    return (*hindrances(directory, paths, committed), *((mounted,) if mounted else ()))


def _of_lock(directory: Path, path: Path) -> dict[str, Any]:
    """Return the facts of the writer lock, and of who writes without it."""
    holder, sql_writer = _writers(WriterLock(directory), path)
    return {"lock_holder": holder, "sql_writer": sql_writer}


def _writers(lock: WriterLock, path: Path) -> tuple[Holder | None, Process | None]:
    """Return who holds the writer lock, and the process that writes to the database without it.

    A writer of rtstore takes the lock first and releases it last, but may do both between two
    checks. So a suspect is checked again while the lock is kept free: a process that writes then
    certainly writes without it.
    """
    holder = lock.look(everyone=True)
    if holder is not None or processes.sql_writer(path) is None:
        return holder, None
    with lock.kept_free() as is_free:
        if is_free:
            return None, processes.sql_writer(path)
    return lock.look(everyone=True), None


def _of_state(directory: Path, state: DatabaseState, problem: str | None) -> dict[str, Any]:
    """Return the facts that only a database in one state has: what can be made again of a damaged
    one, what a link leads to, how a shared one is parted, why an older one cannot be upgraded."""
    path = directory / DATABASE_NAME
    facts: dict[str, Any] = {}
    if state in (DatabaseState.DAMAGED, DatabaseState.FOREIGN):
        lost = lost_marks(path)
        facts["lost_marks"] = () if lost is None else lost.names
    match state:
        case DatabaseState.SOUND:
            facts["in_the_way"] = _in_the_way(path)
            of_quarantine = _read(path, changed_rows.of_quarantine) or {}
            of_stores = _read(path, changed_rows.of_stores) or {}
            of_runs = _read(path, changed_rows.of_runs) or {}
            of_open = _read(path, changed_rows.of_open_batches) or {}
            facts["changed_rows"] = of_quarantine | of_stores | of_runs | of_open
            facts["rows_left"] = _read(path, lost_history.count_remains) or 0
            facts["set_back"] = _read(path, manifest.set_back)
        case DatabaseState.DAMAGED:
            facts["dropped"] = _dropped(path, problem)
            facts["in_files"] = _in_files(directory, path, problem)
            facts["is_sound_without_wal"] = foreign_wal.spoils_pages(
                path, lambda alone: problem_of(alone) is None
            )
        case DatabaseState.FOREIGN:
            facts["linked"] = tuple(_linked(path))
            facts["leads_nowhere"] = path.is_symlink() and not path.exists()
            facts["has_foreign_wal"] = foreign_wal.problem_of_wal(path) is not None
        case DatabaseState.UNUSABLE:
            facts["own_files"] = revisions.own_files_command(path)
        case DatabaseState.OLDER:
            facts |= _try_upgrade(directory)
    return facts


def _bring_wal(odd_file: Path) -> str | None:
    """Return the command for a link to a WAL. A link to an index is only moved away: SQLite makes a
    new one."""
    is_wal = odd_file.name.endswith("-wal")
    if not is_wal or not odd_file.is_symlink() or end_of_link(odd_file, is_folder=False) is None:
        return None
    return replace_link_command(odd_file, is_folder=False)


def _in_the_way(path: Path) -> dict[str, str]:
    added = _read(path, lambda connection: added_parts(driver_of(connection)))
    return {part.words: part.statement for part in added or ()}


def _dropped(path: Path, problem: str | None) -> tuple[str, ...]:
    """Return what can be made again of a database that lacks a part, and nothing else."""
    with suppress(RuntimeStoreError):
        revision = revisions.inspect_revision(path)
        if revision != REVISIONS[-1]:
            older = parts.dropped_parts(path, revision)
            lacks = any(
                f"no such {name.replace(' ', ': ', 1)}" in str(problem) for name in older.gone
            )
            return older.gone if lacks and older.can_be_made_again else ()
        if problem == problem_of_schema(path, REVISIONS[-1]):
            spoiled = parts.spoiled_parts(path)
            return spoiled.names if spoiled.can_be_made_again else ()
    return ()


def _in_files(directory: Path, path: Path, problem: str | None) -> tuple[str, ...]:
    """Return the stores whose committed content was altered, when each can be taken from its file
    and nothing else is wrong."""
    with suppress(RuntimeStoreError):
        if problem_of_schema(path, REVISIONS[-1]) is None and problem == problem_of_contents(path):
            return _read(path, partial(_altered_beside_files, directory)) or ()
    return ()


def _altered_beside_files(directory: Path, connection: Connection) -> tuple[str, ...]:
    altered = {
        name: number
        for number, name, expected, found in contents.list_hashes(connection)
        if found != expected
    }
    entries = manifest.load_entries(connection, altered)
    for name, number in altered.items():
        entry, file = entries.get(name), manifest.file_of(connection, name)
        if entry is None or file is None or entry.batch_number != number:
            return ()
        content = _read_whole(store_path(directory, file))
        if content is None or content_hash(content) != entry.content_hash:
            return ()
    return tuple(altered)


def _read_whole(path: Path) -> bytes | None:
    with suppress(OSError):
        return FileSystem().read(path)[0]
    return None


def _try_upgrade(directory: Path) -> dict[str, Any]:
    """Return the facts of an upgrade that would fail. It is tried only where something was added to
    the database or dropped from it: a trial takes a copy of all of it."""
    path = directory / DATABASE_NAME
    with suppress(RuntimeStoreError):
        if parts.differences(path, revisions.inspect_revision(path)) == ((), ()):
            return {}
        try:
            upgrade_directory(directory, dry_run=True)
        except UpgradeFailedError as error:
            return {"upgrade_refused": error.cause, "added": error.added, "gone": error.gone}
    return {}


_READABLE = (DatabaseState.SOUND, DatabaseState.OLDER)


_State = tuple[DatabaseState, str | None, Path | None]
"""The state of the database, what is wrong with it, and the odd file next to it."""


def _why_refused(directory: Path, known: Registry | None, fs: FileSystem) -> dict[str, Any]:
    """Return the facts of control files of the legacy format that cannot be imported."""
    refused = legacy.why_refused(directory, fs, known)
    if refused is None:
        return {}
    path = refused.path
    is_linked = path.is_symlink() and end_of_link(path, is_folder=False) is not None
    return {
        "import_refused": f"{path.name}: {refused.problem}",
        "damaged_control_file": path if refused.damaged else None,
        "unlink_control_file": replace_link_command(path, is_folder=False) if is_linked else None,
    }


def _state(directory: Path) -> _State:
    path = directory / DATABASE_NAME
    try:
        there = _lstat(path) is not None
        if not there and _lstat(revisions.rebuilt_path(path)) is not None:
            return DatabaseState.REBUILD_INTERRUPTED, None, None
        if not there and legacy.is_to_import(directory):
            return DatabaseState.LEGACY, None, None
        problem = problem_of(path)
        if problem is None:
            return _state_of_revision(revisions.inspect_revision(path))
    except RuntimeStoreError as error:
        return _state_of_error(error, path)
    absent = not there and not _something_beside(path)
    return (DatabaseState.ABSENT if absent else DatabaseState.DAMAGED), problem, None


def _state_of_revision(revision: str) -> _State:
    if revision == REVISIONS[-1]:
        return DatabaseState.SOUND, None, None
    return DatabaseState.OLDER, f"revision {revision}; this one is at {REVISIONS[-1]}", None


def _state_of_error(error: RuntimeStoreError, path: Path) -> _State:
    match error:
        case NewerDatabaseError():
            known = f"revision {error.found_revision}; known up to {error.supported_revision}"
            return DatabaseState.NEWER, known, None
        case ForeignDatabaseError():
            odd_file = None if error.path == path else error.path
            return DatabaseState.FOREIGN, error.problem, odd_file
        case CorruptDatabaseError():
            return DatabaseState.DAMAGED, error.problem, None
        case DatabaseLockedError():
            return DatabaseState.LOCKED, f"{error.cause}. {error.way}", None
        case StorageError():
            return DatabaseState.UNREADABLE, f"{error.problem} ({error.cause})", None
        case UnusableEngineError():
            return DatabaseState.UNUSABLE, error.problem, None
        case _:
            return DatabaseState.UNREADABLE, str(error), None


def _something_beside(path: Path) -> bool:
    """Return whether a WAL or a rollback journal is there, which belongs to a database."""
    return any(
        _lstat(path.with_name(path.name + suffix)) is not None for suffix in ("-wal", "-journal")
    )


# --- the database ---------------------------------------------------------------------------------


def _read(path: Path, query: Callable[[Connection], Result]) -> Result | None:
    """Run a query on a database that was readable a moment ago; return None when it no longer
    is."""
    database = Database(path, read_only=True)
    try:
        return database.read(query)
    except (RuntimeStoreError, ValueError):
        return None
    finally:
        database.close()


def _descriptors(path: Path) -> Sequence[Descriptor] | None:
    return _read(path, manifest.load_descriptors)


def _closed_quarantine(directory: Path) -> dict[str, Any]:
    """Return why no file can be quarantined, and what changes that."""
    folder = directory / QUARANTINE_DIRECTORY
    found = _lstat(folder)
    if found is None:
        return {}
    command: str | None
    helps, is_shut = "lets files be kept again", barrier(folder)
    if stat.S_ISLNK(found.st_mode):
        why, command, helps = about_link(folder)
    elif not stat.S_ISDIR(found.st_mode):
        why, command = "it is no directory", move_aside_command(folder)
    elif is_shut is Barrier.READ_ONLY and not is_read_only(directory):
        why, command = is_shut, None
        helps = f"a person must mount {shell_word(folder)} for writing first"
    elif is_shut is Barrier.IMMUTABLE:
        why, command = is_shut, as_root(f"chattr -i {shell_word(folder)}")
    elif is_shut is Barrier.MODE:
        why, command = is_shut, f"chmod u+rwx {shell_word(folder)}"
    else:
        return {}
    way = Suggestion(command=command, why=helps)
    return {"closed_quarantine": why, "open_quarantine": way}


def _quarantined(directory: Path, fs: FileSystem) -> dict[str, Any]:
    """Return the facts of the quarantine: what is missing, and what is not as it was kept."""
    known = _read(directory / DATABASE_NAME, recovery_log.list_quarantined)
    if known is None:
        return {}
    kept = {
        item.quarantine_path: item
        for item in known
        if item.restored_at is None and is_in_quarantine(item.quarantine_path)
    }
    return {
        **_closed_quarantine(directory),
        "unlisted_quarantined": tuple(
            without_row(directory, {item.quarantine_path for item in known}, fs)
        ),
        "lost_quarantined": tuple(path for path in kept if is_gone(directory, path, fs)),
        "changed_quarantined": tuple(
            path
            for path, item in kept.items()
            if is_changed(directory, path, item.content_hash, fs)
        ),
    }


def _history(path: Path) -> dict[str, Any]:
    """Return the facts of the history in bytes: what each store takes, and what limits it."""
    kept = _read(path, manifest.load_retention)
    return {
        "store_sizes": tuple(_read(path, contents.list_sizes) or ()),
        "content_bytes": None if kept is None else kept.content_bytes,
    }


def _newest_batch(path: Path) -> datetime | None:
    def query(connection: Connection) -> str | None:
        row = connection.exec_driver_sql("SELECT max(started_at) FROM write_batches").fetchone()
        return None if row is None else row[0]

    found = _read(path, query)
    return None if found is None else parse_time(found)


def _backup(directory: Path, fs: FileSystem) -> Path | None:
    """Return the newest sound back-up of this directory: the one with the most batches, and of
    those the one that was made last. The times of files say nothing: a copy has others.

    Candidates are the back-ups of upgrades in it, and the back-ups next to it that are of this
    directory: another directory of the same team may have its back-ups there too."""
    candidates: list[tuple[int, float, Path]] = []
    for number, path in enumerate(backups_in(directory, fs)):  # oldest first
        head = _read(path, manifest.load_head)
        candidates.append((head.high_watermark if head else 0, float(number), path))
    beside: list[str] = []
    with suppress_system_error():
        beside = fs.list_directory(directory.absolute().parent)[:_NEIGHBOURS]
    for name in beside:
        path = directory.absolute().parent / name
        with suppress_system_error(RuntimeStoreError):
            if _lstat(path / RECORD_NAME) is None:
                continue
            record = read_record(path, fs)
            if _is_of(directory, record):
                made = record.created_at.timestamp() if record.created_at else 0.0
                candidates.append((record.high_watermark, made, path))
    for *_, path in sorted(candidates, reverse=True):
        with suppress_system_error(RuntimeStoreError):
            verify_backup(path)
            return path
    return None


def _backups(directory: Path, fs: FileSystem, *, would_help: bool) -> dict[str, Any]:
    """Return the facts of back-ups: the one that would help, and what this directory is of one."""
    is_backup = _lstat(directory / RECORD_NAME) is not None
    return {
        "backup": _backup(directory, fs) if would_help else None,
        "restored": _free_name(directory) if would_help or is_backup else None,
        **(_as_backup(directory, fs) if is_backup else {}),
    }


def _as_backup(directory: Path, fs: FileSystem) -> dict[str, Any]:
    """Return the facts of a directory that is a back-up, or was made as one."""
    facts: dict[str, Any] = {"is_backup": True}
    with suppress(BackupDamagedError):
        record = read_record(directory, fs)
        facts |= {"backup_origin": record.origin, "backup_made_at": record.created_at}
    try:
        verify_bytes(directory, fs, None)
    except BackupDamagedError as error:
        facts["backup_problems"] = error.problems
    except NewerDatabaseError:
        pass  # as it was made
    except RuntimeStoreError as error:
        facts["backup_problems"] = (str(error),)
    return facts


def _free_name(directory: Path) -> Path:
    """Return a free path next to a directory, to restore a back-up to."""
    base = directory if directory.name not in ("", "..") else directory.resolve()
    for number in range(1, _NEIGHBOURS):
        path = base.with_name(f"{base.name}-restored{'' if number == 1 else f'-{number}'}")
        if _lstat(path) is None:
            return path
    return base.with_name(f"{base.name}-restored")


def _is_of(directory: Path, record: Backup) -> bool:
    """Return whether a back-up is of this directory. Either its record names the directory, or the
    database still has the last batch of the back-up. The second finds back-ups of a directory that
    was moved since, and back-ups whose record does not name one."""
    if record.origin == str(directory.absolute()):
        return True
    last = record.last_committed_batch_id
    return last is not None and knows_batch(directory / DATABASE_NAME, last)


def _others(directory: Path, names: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    """Yield the paths that belong to the store, are owned by another user, and keep this one from
    what must be done with them."""
    stores = [str(file.relative_to(directory)) for file in files]
    inside = [name for name in sorted(names) if name.startswith(_OWN_PREFIXES)]
    inside.append(QUARANTINE_DIRECTORY)
    with suppress_system_error():
        inside += [
            f"{QUARANTINE_DIRECTORY}/{name}"
            for name in sorted(os.listdir(directory / QUARANTINE_DIRECTORY))
        ]
    paths = (*stores, *inside)
    folders = {str(parent) for path in paths for parent in PurePath(path).parents} - {"."}
    yield from not_changeable(directory, dict.fromkeys((*sorted(folders), *inside)))
    yield from not_replaceable(directory, stores)


def _linked(path: Path) -> Iterator[Path]:
    """Yield the sound database that a link under the database's name leads to, its WAL first."""
    found = _lstat(path)
    if found is None or not stat.S_ISLNK(found.st_mode):
        return
    try:
        target = path.resolve(strict=True)
        if problem_of(target) is None:
            revisions.inspect_revision(target)
            yield from (
                item
                for item in (target.with_name(f"{target.name}-wal"), target)
                if _lstat(item) is not None
            )
    except system_error(RuntimeError, RuntimeStoreError):
        return


# --- the files ------------------------------------------------------------------------------------


def _strays(directory: Path, names: Sequence[str], files: Sequence[Path]) -> Iterator[str]:
    folders = {directory, *(file.parent for file in files)}
    for folder in sorted(folders):
        with suppress_system_error():
            for name in sorted(os.listdir(folder)):
                if durable.is_temporary(name):
                    yield str((folder / name).relative_to(directory))
    yield from (name for name in sorted(names) if name.startswith(".runtime-store."))


def _unknown(
    directory: Path,
    names: Sequence[str],
    descriptors: Sequence[Descriptor],
    committed: Mapping[str, str],
) -> Iterator[str]:
    others = manifest.without_descriptor(committed, descriptors).values()
    store_files = (*(item.relative_path for item in descriptors), *others)
    known = {path.split("/")[0] for path in store_files}
    known |= {QUARANTINE_DIRECTORY, LOCK_NAME, DATABASE_NAME, RECORD_NAME}
    known |= {*MANIFEST_NAMES, RECEIPTS_NAME, *KNOWN_OTHERS}
    for name in sorted(names):
        own = name.startswith(_OWN_PREFIXES) or durable.is_temporary(name)
        if name not in known and not own and name.endswith(".json"):
            yield name
    for path in files_in_folders(directory, FileSystem()):
        if path not in store_files:
            yield path


def _sizes(directory: Path, files: Sequence[Path]) -> dict[str, int]:
    path = directory / DATABASE_NAME
    found = {
        "store files": sum(map(_size, files)),
        "database": _size(path),
        "WAL": _size(path.with_name(path.name + "-wal")),
        "quarantine": _size_below(directory / QUARANTINE_DIRECTORY),
        "back-ups of upgrades": sum(
            _size(item) for item in directory.glob("runtime-store.backup-*.sqlite3")
        ),
        "databases set aside": sum(
            _size_below(item) for item in directory.glob(f"{BROKEN_PREFIX}*")
        ),
    }
    return {name: size for name, size in found.items() if size}


def _from_the_future(files: Sequence[Path], now: datetime) -> Iterator[str]:
    for file in files:
        if _mtime(file) > now.timestamp() + 2:
            yield file.name


def _not_writable(directory: Path) -> Iterator[str]:
    for name in (".", *ALWAYS_WRITTEN):
        path = directory / name
        if os.path.exists(path) and not may(path, os.R_OK | os.W_OK):
            yield name


def _shut_folders(directory: Path, descriptors: Iterable[Descriptor]) -> Iterator[str]:
    """Yield the folders of stores, below the directory, in which this user may change nothing. One
    that is not there yet must be made in the nearest one that is."""
    folders = {item.relative_path.rpartition("/")[0] for item in descriptors} - {""}
    needed = {folder_to_write(directory, folder) for folder in folders} - {None}
    for path in sorted(path for path in needed if path is not None):
        if barrier(path) in (Barrier.OWNER, Barrier.MODE):
            yield f"{path.relative_to(directory)}/"


def _loose(directory: Path, paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        found = _lstat(path)
        if found is None or stat.S_ISLNK(found.st_mode):  # the mode of a link has no meaning
            continue
        if stat.S_IMODE(found.st_mode) & 0o077:
            name = "the directory" if path == directory else path.name
            yield f"{name} ({stat.S_IMODE(found.st_mode):03o})"


# --- what it stands on ----------------------------------------------------------------------------


def _space(directory: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(directory)
    except system_error(AttributeError):
        return None


def _file_system(directory: Path) -> str | None:
    """Return the type of the file system of a directory, as Linux reports it, or None."""
    best: tuple[int, str] | None = None
    try:
        real = directory.resolve()
    except system_error(RuntimeError):
        return None
    for mount in mounts():
        depth = len(mount.path.parts)
        if real.is_relative_to(mount.path) and (best is None or depth >= best[0]):
            best = depth, mount.kind
    return None if best is None else best[1]


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except system_error() as error:
        raise StorageError(path, "it cannot be looked at", explained(error, path)) from error


def _is_there(path: Path) -> bool:
    """Return whether something can be seen at a path. In a closed folder nothing can."""
    with suppress(StorageError):
        return _lstat(path) is not None
    return False


def _closed_folders(directory: Path, files: Iterable[Path]) -> Iterator[str]:
    """Yield the folders of files that are closed, below the directory: what is in them cannot be
    looked at."""
    for folder in sorted({file.parent for file in files} - {directory}):
        if os.path.isdir(folder) and not may(folder, os.R_OK | os.X_OK):
            yield f"{folder.relative_to(directory)}/"


def _unreadable(paths: Iterable[Path]) -> Iterator[str]:
    seen = (path for path in paths if _is_there(path) and os.path.exists(path))
    return (path.name for path in seen if not may(path, os.R_OK))


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except system_error():
        return 0


def _mtime(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except system_error():
        return 0.0


def _size_below(folder: Path) -> int:
    return sum(_size(Path(root) / name) for root, _, names in os.walk(folder) for name in names)
