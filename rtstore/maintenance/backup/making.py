"""Makes a back-up of a runtime directory while writers go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from rtstore.commit.in_doubt import resolve_in_doubt
from rtstore.commit.publisher import Durability, Publisher
from rtstore.control import batches, contents, manifest, recovery_log
from rtstore.control.lost_entries import (
    lost_beside_files,
    make_again,
    put_right,
)
from rtstore.control.sqlite import copying
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import BackupDamagedError, CorruptDatabaseError, UnsafePathError
from rtstore.files import durable, quarantine
from rtstore.files.new_directory import new_directory
from rtstore.files.owners import explained
from rtstore.files.paths import check_target, store_path
from rtstore.files.quarantine import quarantined_path
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.history.materialize import BackupFile, committed_now, write_store_files
from rtstore.maintenance.backup.record import Backup, ChangedFile, Progress, Step, write_record
from rtstore.maintenance.backup.verifying import (
    describe,
    problem_of_rows,
    verify_bytes,
    without_content,
)
from rtstore.model.arguments import time_of
from rtstore.model.envelope import content_hash
from rtstore.model.records import QuarantinedFile
from rtstore.model.times import Clock, utc_now

_LANES = "lanes"


def back_up(
    directory: Path,
    database: Database,
    destination: str | Path,
    *,
    clock: Clock = utc_now,
    fs: FileSystem | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Copy one consistent state of a runtime directory into a new one; verified when it returns.

    The state is that of one batch: a batch that is in the log at that moment is finished in the
    copy, as opening the store would, and a lost or an altered entry is made again. Takes no lock,
    and no writer waits for it. Lanes below the directory are not copied, and `Backup.lanes` names
    them. The quarantine comes along, and a store file that nobody committed is in quarantine in the
    copy. The destination appears whole, and is flushed. A database of which somebody dropped a
    trigger or a view is copied as it is, and `Backup.schema_problem` says so.

    Raises `InvalidRequestError` when the destination is neither new nor empty, cannot be replaced
    (a link, a mount point, the working directory), or is inside the runtime directory,
    `StorageError`, `CorruptDatabaseError` also for a row or a content that makes no sense, and
    `BackupDamagedError` when the written bytes do not read back.
    """
    destination, fs = Path(destination), fs or FileSystem()
    clock = partial(time_of, clock)
    created_at = clock()
    with (
        new_directory(destination, "destination", fs, outside=directory) as building,
        _told_of_the_source(database.path, destination),
    ):
        path = building / DATABASE_NAME
        tell = progress or _nothing
        copying.copy(database, path, fs, lambda done, of: tell(Step.DATABASE, done, of))
        left_out, files = _fill(directory, building, clock, fs, tell)
        changed, more = _keep_changed(directory, building, database, created_at, fs)
        kept = {file.relative_path for file in files}
        files += [file for file in more if file.relative_path not in kept]
        backup = describe(path, files).model_copy(
            update={
                "path": destination,
                "origin": _as_text(directory.absolute()),
                "created_at": created_at,
                "left_out": tuple(left_out),
                "changed": tuple(changed),
                "lanes": tuple(_lanes(directory)),
            }
        )
        write_record(building, backup, fs)
        verify_bytes(building, fs, progress)
    return backup


def _as_text(path: Path) -> str | None:
    """Return a path as the record can hold it, or None: JSON has no name that is not UTF-8."""
    text = str(path)
    return None if any("\ud800" <= char <= "\udfff" for char in text) else text


@contextmanager
def _told_of_the_source(source: Path, destination: Path) -> Iterator[None]:
    """Raise what is found damaged in the copy as an error of the database that was copied, where it
    is damaged itself: the copy goes."""
    try:
        yield
    except UnsafePathError as error:
        row = f"a row names a file that no store may have: {error}"
        raise CorruptDatabaseError(source, row) from error
    except (CorruptDatabaseError, BackupDamagedError) as error:
        problem = problem_of_rows(source)
        if problem is not None:
            raise CorruptDatabaseError(source, problem) from error
        way = (
            "nothing was left there. What was written does not read back: look at the disk, then "
            "make it again"
        )
        problems = error.problems if isinstance(error, BackupDamagedError) else (error.problem,)
        raise BackupDamagedError(destination, problems, way) from error


def _fill(
    directory: Path, building: Path, clock: Clock, fs: FileSystem, tell: Progress
) -> tuple[list[str], list[BackupFile]]:
    """Write the files next to the copied database. Return what could not be copied, and the files
    that were written."""
    copy = Database(building / DATABASE_NAME)
    try:
        left = [logged for logged in copy.read(batches.load_open) if logged.has_contents]
        if left:
            publisher = Publisher(
                building, copy, clock=clock, durability=Durability.FILES, retention=None, fs=fs
            )
            resolve_in_doubt(left, publisher)
        for name, number in copy.read(partial(lost_beside_files, directory=directory)).items():
            with copy.write(flush=True) as connection:
                make_again(connection, name, number)
        for name in copy.read(contents.altered_entries):
            with copy.write(flush=True) as connection:
                put_right(connection, name)
        files = copy.read(
            lambda connection: write_store_files(connection, building, fs, like=directory)
        )
        left_out = [*without_content(copy.read(committed_now))]
        quarantined = copy.read(_quarantined_now)
        for number, item in enumerate(quarantined):
            kept, problem = _copy_quarantined(directory, building, item, fs)
            files += [] if kept is None else [kept]
            left_out += [] if problem is None else [problem]
            tell(Step.FILES, number + 1, len(quarantined))
    finally:
        copy.close()  # no other process knows the copy: no lock is needed
    return left_out, files


def _keep_changed(
    directory: Path, building: Path, source: Database, now: datetime, fs: FileSystem
) -> tuple[list[ChangedFile], list[BackupFile]]:
    """Keep every store file that nobody committed in the quarantine of the copy: otherwise a
    person's edit would be in no copy at all.

    The rows are asked after the files: what a writer at work writes is in them before its file is.
    """
    changed: list[ChangedFile] = []
    files: list[BackupFile] = []
    quarantined: list[QuarantinedFile] = []
    for name, relative_path in source.read(partial(_store_files, directory=directory)):
        try:
            check_target(directory, relative_path, name, fs)
            content, _ = fs.read(store_path(directory, relative_path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except system_error(UnsafePathError) as error:
            problem = f"it cannot be read ({_explained(error, directory / relative_path)})"
            changed.append(_changed(name, relative_path, None, problem))
            continue
        found = content_hash(content)
        known = partial(_is_known, content=content, found=found, name=name, path=relative_path)
        if source.read(known):
            continue
        kept_at = quarantine.keep(building, relative_path, content, fs)
        changed.append(_changed(name, relative_path, kept_at, None))
        size = len(content)
        files.append(
            BackupFile(relative_path=kept_at, content_hash=found, file_size=size, mtime_ns=None)
        )
        quarantined.append(
            QuarantinedFile(
                quarantine_number=0,  # the database assigns it
                schema_name=name,
                relative_path=relative_path,
                quarantine_path=kept_at,
                reason="changed by somebody else when the back-up was made",
                content_hash=found,
                file_size=size,
                quarantined_at=now,
            )
        )
    if quarantined:
        copy = Database(building / DATABASE_NAME)
        try:
            with copy.write(flush=True) as connection:
                recovery_log.record_quarantined(connection, quarantined)
        finally:
            copy.close()
    return changed, files


def _explained(error: Exception, path: Path) -> str:
    return explained(error, path) if isinstance(error, OSError) else str(error)


def _lanes(directory: Path) -> list[str]:
    """Return the runtime directories of lanes below a directory, by relative path."""
    with suppress_system_error():
        found = sorted((directory / _LANES).iterdir())
        return [f"{_LANES}/{lane.name}" for lane in found if (lane / DATABASE_NAME).exists()]
    return []  # there are none, or nobody may look


def _store_files(connection: Connection, *, directory: Path) -> list[tuple[str, str]]:
    """Return every store that the database knows, registered or written once, with its file. One
    that has no file yet where a program gave it another one has its former file, too: an edit of
    that is an edit of the store."""
    written = {item.schema_name: item.relative_path for item in contents.list_committed(connection)}
    known = written | {
        item.schema_name: item.relative_path for item in manifest.load_descriptors(connection)
    }
    former = {
        (name, path)
        for name, path in written.items()
        if path != known[name] and not os.path.lexists(directory / known[name])
    }
    return sorted({*known.items(), *former})


def _is_known(connection: Connection, *, content: bytes, found: str, name: str, path: str) -> bool:
    if contents.holds(connection, content, found, name):
        return True
    return contents.left_by_another(connection, name, path, content, found)[1]


def _changed(
    name: str, relative_path: str, kept_at: str | None, problem: str | None
) -> ChangedFile:
    return ChangedFile(
        schema_name=name, relative_path=relative_path, kept_at=kept_at, problem=problem
    )


def _quarantined_now(connection: Connection) -> list[QuarantinedFile]:
    return [item for item in recovery_log.list_quarantined(connection) if item.restored_at is None]


def _copy_quarantined(
    directory: Path, building: Path, item: QuarantinedFile, fs: FileSystem
) -> tuple[BackupFile | None, str | None]:
    if item.content_hash is None:
        return None, f"{item.quarantine_path}: it is not a regular file"
    try:
        content, _ = fs.read(quarantined_path(directory, item.quarantine_path))
    except system_error(UnsafePathError) as error:
        return None, f"{item.quarantine_path}: it cannot be read ({error})"
    found = content_hash(content)
    problem = None
    if found != item.content_hash:
        problem = f"{item.quarantine_path}: it was changed since it was kept; copied as it is"
    target = quarantined_path(building, item.quarantine_path)
    durable.replace(target, content, mtime_ns=None, flush=True, within=building, fs=fs)
    file = BackupFile(
        relative_path=item.quarantine_path,
        content_hash=found,
        file_size=len(content),
        mtime_ns=None,
    )
    return file, problem


def _nothing(_step: Step, _done: int, _of: int) -> None:
    """No progress is wanted."""
