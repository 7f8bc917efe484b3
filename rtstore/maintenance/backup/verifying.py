"""Checks a back-up against its record, and its database for consistency."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from rtstore.control import batches, contents, manifest, parts, recovery_log, revisions, runs
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import copying
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    BackupDamagedError,
    CorruptDatabaseError,
    ForeignDatabaseError,
    NewerDatabaseError,
    RuntimeStoreError,
    StorageError,
    UnsafePathError,
)
from rtstore.files.owners import explained
from rtstore.files.paths import store_path
from rtstore.files.quarantine import (
    QUARANTINE_DIRECTORY,
    is_in_quarantine,
    quarantined_path,
)
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.history.materialize import BackupFile, committed_now
from rtstore.maintenance.backup.record import Backup, Progress, Step, read_record
from rtstore.model import arguments
from rtstore.model.envelope import content_hash, hash_of_pieces


def verify_backup(
    backup: str | Path, *, fs: FileSystem | None = None, progress: Progress | None = None
) -> Backup:
    """Check a back-up, byte for byte, and return its record. Changes nothing.

    A back-up is a directory that `back_up` made, or the database that an upgrade backed up. Checked
    are every page, index, foreign key and row of the database, the hash of its pages, the hash of
    every content in it, and the hash of every file. `progress` is called with the step, the amount
    that is done, and the amount of all. Of a database alone no file is looked at. Raises
    `BackupDamagedError` with everything that is wrong, also where somebody had dropped a part of
    the schema before it was made, and `NewerDatabaseError` for a back-up of a newer rtstore.
    """
    path, fs = arguments.path(backup, "backup"), fs or FileSystem()
    arguments.optional_function(progress, "progress")
    record = verify_bytes(path, fs, progress)
    if record.schema_problem is not None:
        way = (
            "no row and no file of it differs, so it can be restored, and rtstore upgrade makes "
            "again what can be made again; or use another back-up"
        )
        raise BackupDamagedError(path, (record.schema_problem,), way)
    return record


def verify_bytes(path: Path, fs: FileSystem, progress: Progress | None) -> Backup:
    """Check that a back-up is what was backed up, and return its record. A part of the schema that
    was gone before is no reason to refuse it: `schema_problem` says so.

    Raises as `verify_backup` otherwise.
    """
    if not fs.is_directory(path):
        return verify_database(path)
    record = read_record(path, fs)
    database, schema_problem = path / DATABASE_NAME, None
    problems = [*_problems_of_files(record, fs, progress)]
    try:
        found = revisions.inspect_revision(database)
        copying.check(database)
        if found != record.revision:
            problems.append(f"the database is at {found}, not {record.revision}")
        if hash_of_pieces(copying.pages(database)) != record.database_hash:
            problems.append("the database is not the one that was backed up: it was changed since")
        read_everything(database, found)
        problems += problems_of_contents(database)
        schema_problem = problem_of_schema(database, found)
    except BackupDamagedError:
        raise
    except RuntimeStoreError as error:
        if isinstance(error, NewerDatabaseError) and not problems and _is_as_kept(record):
            raise  # sound, as far as this rtstore can tell
        problems.append(_in_short(error))
    if problems:
        raise BackupDamagedError(path, tuple(problems))
    return record.model_copy(update={"schema_problem": schema_problem})


def _in_short(error: RuntimeStoreError) -> str:
    """Return what is wrong with the database of a back-up, without the advice for a database that
    is in use."""
    match error:
        case CorruptDatabaseError():
            return f"{error.path.name} is damaged: {error.problem}"
        case ForeignDatabaseError():
            return f"{error.path.name} is not a control database of rtstore: {error.problem}"
        case NewerDatabaseError():
            return f"{error.path.name} is at revision {error.found_revision}, of a newer rtstore"
        case _:
            return str(error).rstrip(".")


def _is_as_kept(record: Backup) -> bool:
    """Return whether the database is, page by page, the one that was backed up."""
    return hash_of_pieces(copying.pages(record.path / DATABASE_NAME)) == record.database_hash


def verify_database(path: Path) -> Backup:
    """Verify a database alone, at any revision that this package knows."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise BackupDamagedError(path, ("there is no such file or directory",)) from None
    except system_error() as error:
        raise StorageError(path, "it cannot be looked at", explained(error, path)) from error
    revision = revisions.inspect_revision(path)
    copying.check(path)
    read_everything(path, revision)
    problems = problems_of_contents(path)
    if problems:
        raise BackupDamagedError(path, tuple(problems))
    database = Database(path, read_only=True)
    try:
        committed = database.read(committed_now)
        quarantined = database.read(recovery_log.list_quarantined)
    finally:
        database.close()
    backup = describe(
        path,
        [
            BackupFile(
                relative_path=file.relative_path,
                content_hash=file.content_hash,
                file_size=file.file_size,
                mtime_ns=file.mtime_ns,
            )
            for file in committed
            if file.has_content
        ],
    )
    left_out = [
        f"{item.quarantine_path}: it is in the directory that was upgraded only"
        for item in quarantined
        if item.restored_at is None
    ]
    return backup.model_copy(update={"left_out": (*without_content(committed), *left_out)})


def without_content(committed: Iterable[contents.Committed]) -> Iterator[str]:
    """Yield the files whose bytes no back-up can have, each with the reason."""
    for file in committed:
        if not file.has_content:
            yield f"{file.relative_path}: its committed content is not in the database"


def describe(path: Path, files: Iterable[BackupFile]) -> Backup:
    """Return the record for a database that nobody writes to, and the files that belong to it."""
    database = Database(path, read_only=True)
    try:
        head = database.read(manifest.load_head)
    finally:
        database.close()
    revision = revisions.inspect_revision(path)
    return Backup(
        path=path,
        team_name=head.team_name,
        revision=revision,
        high_watermark=head.high_watermark,
        last_committed_batch_id=head.last_committed_batch_id,
        created_at=None,
        database_hash=hash_of_pieces(copying.pages(path)),
        files=tuple(files),
        schema_problem=problem_of_schema(path, revision),
    )


def problem_of_schema(path: Path, revision: str) -> str | None:
    """Return what somebody dropped or altered of the schema, in words, or None. Older revisions are
    upgraded first, and not compared."""
    if revision != REVISIONS[-1]:
        return None
    spoiled = parts.spoiled_parts(path)
    gone = _words(spoiled.gone, "gone: somebody dropped that")
    altered = _words(spoiled.altered, "not what its revision makes: somebody altered that")
    return "; ".join(filter(None, (gone, altered))) or None


def _words(names: tuple[str, ...], what: str) -> str:
    if not names:
        return ""
    more = f" (and {len(names) - 3} more)" if names[3:] else ""
    return f"its {' and its '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'} {what}"


def problem_of_rows(
    path: Path, revision: str | None = None, *, lost_tables: Container[str] = ()
) -> str | None:
    """Return what is wrong with the pages, rows and contents of a database, in words, or None. An
    altered entry that an opening puts right is not.

    Raises as `revisions.inspect_revision`, but for damage; with a `revision`, the database is not
    asked for it. No row of `lost_tables` is asked for.
    """
    try:
        revision = revision or revisions.inspect_revision(path)
        copying.check(path)
        read_everything(path, revision, lost_tables=lost_tables, is_to_be_opened=True)
    except CorruptDatabaseError as error:
        return error.problem
    return problem_of_contents(path)


def problem_of_contents(path: Path) -> str | None:
    """Return `problems_of_contents` in words, or None."""
    wrong = problems_of_contents(path)
    more = f" (and {len(wrong) - 3} more)" if wrong[3:] else ""
    return f"{'; '.join(wrong[:3])}{more}" if wrong else None


def read_everything(
    path: Path,
    revision: str,
    *,
    lost_tables: Container[str] = (),
    is_to_be_opened: bool = False,
) -> None:
    """Read every row that the commands read, history included, but for the contents. Raises
    `CorruptDatabaseError` for one that makes no sense, or contradicts another, also where both pass
    SQLite's own checks; but not for what an opening puts right, where it `is_to_be_opened`."""
    database = Database(path, read_only=True)
    try:
        database.read(manifest.load)
        database.read(manifest.load_descriptors)
        database.read(batches.read_all)
        database.read(batches.load_open)
        if "quarantined_files" not in lost_tables:
            database.read(recovery_log.list_quarantined)
        if "recovery_actions" not in lost_tables:
            database.read(recovery_log.last_steps)
        if revision == REVISIONS[-1]:  # an older database does not have it
            database.read(manifest.load_retention)
            database.read(runs.list_runs)
            mended = database.read(contents.altered_entries) if is_to_be_opened else ()
            for problem in database.read(partial(manifest.contradictions, but_of=mended)):
                raise CorruptDatabaseError(path, problem)
    finally:
        database.close()


def problems_of_contents(path: Path) -> list[str]:
    """Return a sentence for each content, history included, whose hash differs from its receipt."""
    database = Database(path, read_only=True)
    try:
        return database.read(_differing_contents)
    finally:
        database.close()


def _differing_contents(connection: Connection) -> list[str]:
    return [
        f"the content of {name} in batch {number} is not what its receipt says"
        for number, name, expected, found in contents.list_hashes(connection)
        if found != expected
    ]


def _problems_of_files(record: Backup, fs: FileSystem, progress: Progress | None) -> Iterator[str]:
    for number, file in enumerate(record.files, start=1):
        try:
            content, _ = fs.read(path_of(record.path, file))
        except UnsafePathError as error:
            kept = is_in_quarantine(file.relative_path)
            what = f"{file.relative_path} cannot be read" if kept else "a path that no back-up has"
            yield f"{what}: {error}"
            continue
        except system_error() as error:
            yield f"{file.relative_path}: {error.strerror or error}"
            continue
        if content_hash(content) != file.content_hash:
            yield f"{file.relative_path}: its bytes are not those that were backed up"
        if progress is not None:
            progress(Step.CHECK, number, len(record.files))


def path_of(directory: Path, file: BackupFile) -> Path:
    """Return the path of a file in a back-up. The record is untrusted: raises `UnsafePathError` for
    a path outside the back-up."""
    if file.relative_path.startswith(f"{QUARANTINE_DIRECTORY}/"):
        return quarantined_path(directory, file.relative_path)
    return store_path(directory, file.relative_path)
