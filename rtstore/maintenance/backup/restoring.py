"""Makes a runtime directory from a back-up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rtstore.control.sqlite import copying
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import BackupDamagedError
from rtstore.files import durable
from rtstore.files.new_directory import new_directory, refuse_target
from rtstore.files.system import FileSystem
from rtstore.history.materialize import write_store_files
from rtstore.maintenance.backup.record import Backup, Progress, Step
from rtstore.maintenance.backup.verifying import path_of, verify_bytes
from rtstore.model import arguments
from rtstore.model.envelope import content_hash, hash_of_pieces


def restore_backup(
    backup: str | Path,
    directory: str | Path,
    *,
    fs: FileSystem | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Make a new runtime directory from a back-up, which is verified first and is not changed.

    The directory must be new or empty: one in use is never overwritten. It appears whole, and is
    durable when it returns. For a database that an upgrade backed up, the store files are written
    from the committed contents; the database stays at its revision, for a program that knows no
    newer one. What somebody had dropped of the schema before the back-up was made is gone in the
    new directory, too, and `Backup.schema_problem` says so. `progress` is called with the step, the
    amount that is done, and the amount of all.

    Return the record of the back-up, with the path of the new directory. Raises
    `BackupDamagedError`, `InvalidRequestError` when the directory is not empty, cannot be replaced
    (a link, a mount point, the working directory), or is inside the back-up, and `StorageError`.
    """
    source, directory = arguments.path(backup, "backup"), arguments.path(directory, "directory")
    fs = fs or FileSystem()
    arguments.optional_function(progress, "progress")
    refuse_target(directory, "directory", fs)
    record = verify_bytes(source, fs, progress)
    is_whole = fs.is_directory(source)
    outside = source if is_whole else None
    with new_directory(directory, "directory", fs, outside=outside) as building:
        database = building / DATABASE_NAME
        _copy_database(source / DATABASE_NAME if is_whole else source, database, fs, progress)
        if hash_of_pieces(copying.pages(database)) != record.database_hash:
            raise BackupDamagedError(source, ("the database changed meanwhile",))
        if is_whole:
            _copy_files(record, building, fs, progress)
        else:
            _write_files(database, building, fs)
    return record.model_copy(update={"path": directory})


def _copy_database(source: Path, target: Path, fs: FileSystem, progress: Progress | None) -> None:
    total = source.stat().st_size

    def pieces() -> Iterator[bytes]:
        done = 0
        for piece in copying.pages(source):
            yield piece
            done += len(piece)
            if progress is not None:
                progress(Step.DATABASE, done, max(done, total))

    durable.create(target, pieces(), fs)


def _write_files(path: Path, building: Path, fs: FileSystem) -> None:
    database = Database(path, read_only=True)
    try:
        database.read(lambda connection: write_store_files(connection, building, fs))
    finally:
        database.close()


def _copy_files(record: Backup, building: Path, fs: FileSystem, progress: Progress | None) -> None:
    for number, file in enumerate(record.files, start=1):
        content, _ = fs.read(path_of(record.path, file))
        if content_hash(content) != file.content_hash:
            raise BackupDamagedError(record.path, (f"{file.relative_path} changed meanwhile",))
        target = path_of(building, file)
        durable.replace(
            target,
            content,
            mtime_ns=file.mtime_ns,
            flush=True,
            within=building,
            fs=fs,
            new_mode=file.mode,
        )
        if progress is not None:
            progress(Step.FILES, number, len(record.files))
