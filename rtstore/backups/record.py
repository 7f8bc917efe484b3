"""What a back-up says of itself, and how a directory comes into being whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from rtstore.errors import BackupDamagedError, InvalidRequestError, StorageError
from rtstore.files import durable
from rtstore.files.system import FileSystem
from rtstore.records import Record
from rtstore.times import Timestamp

RECORD_NAME = "runtime-store.backup.json"
_FORMAT = 1


class Step(StrEnum):
    """What is under way, for a progress bar."""

    DATABASE = "database"
    """Pages copied."""
    FILES = "files"
    """Files written."""
    CHECK = "check"
    """Files and database verified."""


Progress = Callable[[Step, int, int], None]
"""Called with the step, how much of it is done, and how much there is to do."""


class BackupFile(Record):
    """One file of a back-up beside its database."""

    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int | None
    """The time of modification that its receipt has; None for evidence in quarantine."""


class Backup(Record):
    """A back-up, as its record says it is."""

    format_version: int = Field(default=_FORMAT, ge=1)
    path: Path = Field(default=Path())
    """Where it is: a directory, or the database that an upgrade kept."""
    team_name: str
    revision: str
    """Of its database."""
    high_watermark: int
    """The number of batches that were committed."""
    last_committed_batch_id: str | None
    created_at: Timestamp | None
    """When it was made; None for the database that an upgrade kept, whose name says it."""
    database_hash: str
    files: tuple[BackupFile, ...]
    left_out: tuple[str, ...] = ()
    """Files that the database knows of and whose bytes could not be had, each with the reason."""


def write_record(directory: Path, backup: Backup, fs: FileSystem) -> None:
    """Write the record of a back-up; durable when it returns. Raises OSError."""
    document = backup.model_dump(mode="json", by_alias=True, exclude={"path"})
    text = json.dumps(document, indent=2) + "\n"
    durable.replace(directory / RECORD_NAME, text.encode(), mtime_ns=None, flush=True, fs=fs)


def read_record(directory: Path, fs: FileSystem) -> Backup:
    """The record of a back-up. Raises `BackupDamagedError` where there is none that makes sense."""
    path = directory / RECORD_NAME
    try:
        content, _ = fs.read(path)
    except FileNotFoundError:
        raise BackupDamagedError(
            directory, (f"there is no {RECORD_NAME}: it is no back-up, or was never finished",)
        ) from None
    except OSError as error:
        raise BackupDamagedError(directory, (f"{RECORD_NAME} cannot be read: {error}",)) from error
    try:
        backup = Backup.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BackupDamagedError(directory, (f"{RECORD_NAME}: {where}: {first['msg']}",)) from None
    if backup.format_version > _FORMAT:
        problem = f"its format {backup.format_version} is newer than this rtstore knows"
        raise BackupDamagedError(directory, (f"{problem}. Run: pip install --upgrade rtstore",))
    return backup.model_copy(update={"path": directory})


@contextmanager
def new_directory(target: Path, what: str, fs: FileSystem) -> Iterator[Path]:
    """A directory that gets its name when the block has ended well, whole and flushed.

    `target` must not exist, or be an empty directory. What a process that died in the block left
    has another name, and is in nobody's way but that of the next one that makes the same target.
    Raises `InvalidRequestError` where something is in the way, `StorageError`.
    """
    _refuse_used(target, what, fs)
    building = target.with_name(f".{target.name}{durable.TEMPORARY_SUFFIX}")
    try:
        durable.make_directories(target.parent, fs)
        try:
            fs.mkdir(building)
        except FileExistsError:
            raise InvalidRequestError(
                what,
                f"{building} is in the way: somebody makes {target.name} at this moment, or died "
                "doing it. In the second case remove that directory and run this again",
            ) from None
        try:
            yield building
            fs.fsync_directory(building)
            _refuse_used(target, what, fs)
            fs.rename(building, target)
            fs.fsync_directory(target.parent)
        except BaseException:
            with suppress(OSError):
                _remove(building, fs)
            raise
    except OSError as error:
        raise StorageError(target, "it cannot be made", str(error)) from error


def _refuse_used(target: Path, what: str, fs: FileSystem) -> None:
    try:
        names = fs.list_directory(target)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidRequestError(what, f"{target} is not a directory") from None
    except OSError as error:
        raise StorageError(target, "it cannot be looked at", str(error)) from error
    if names:
        raise InvalidRequestError(
            what, f"{target} is not empty: give a directory that is new or empty"
        )


def _remove(directory: Path, fs: FileSystem) -> None:
    """Remove a directory that this process made, with everything in it."""
    for name in fs.list_directory(directory):
        path = directory / name
        if fs.is_directory(path):
            _remove(path, fs)
        else:
            fs.unlink(path)
    fs.rmdir(directory)
