"""The record in a back-up: what it holds, and of which state."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from rtstore.errors import BackupDamagedError
from rtstore.files import durable
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.history.materialize import BackupFile
from rtstore.model.records import Record
from rtstore.model.times import Timestamp

RECORD_NAME = "runtime-store.backup.json"
_FORMAT = 1


class Step(StrEnum):
    """The step that is running, for a progress bar."""

    DATABASE = "database"
    """Copies the database; counted in pages (in bytes when a back-up is restored)."""
    FILES = "files"
    """Writes the files; counted in files."""
    CHECK = "check"
    """Verifies files and database; counted in files."""


Progress = Callable[[Step, int, int], None]
"""Called with the step, the amount of it that is done, and the amount of all."""


class ChangedFile(Record):
    """A store file that nobody committed as it was when the back-up was made."""

    schema_name: str
    relative_path: str
    kept_at: str | None
    """Where its bytes are in the back-up, in quarantine; None: they could not be read."""
    problem: str | None = None
    """Why not."""


class Backup(Record):
    """A back-up, as its record describes it."""

    format_version: int = Field(default=_FORMAT, ge=1)
    path: Path = Field(default=Path())
    """The path of the back-up: a directory, or the database that an upgrade backed up."""
    team_name: str
    revision: str
    """The revision of its database."""
    high_watermark: int
    """The number of batches that were committed."""
    last_committed_batch_id: str | None
    origin: str | None = None
    """The runtime directory that was backed up; None when that is not recorded: of an
    upgrade's, and where its path is not UTF-8."""
    created_at: Timestamp | None
    """When it was made; None for the database that an upgrade backed up, which has it in its
    name."""
    database_hash: str
    files: tuple[BackupFile, ...]
    left_out: tuple[str, ...] = ()
    """Files that the database knows of and whose bytes could not be had, each with the reason."""
    changed: tuple[ChangedFile, ...] = ()
    """Store files in whose place the back-up has what is committed."""
    lanes: tuple[str, ...] = ()
    """Lanes below the directory that are not in the back-up, by relative path: each is a runtime
    directory with a database of its own, and is backed up by itself."""
    schema_problem: str | None = None
    """What somebody had dropped of the schema of its database, in words. It is not recorded, but
    looked at anew."""


def write_record(directory: Path, backup: Backup, fs: FileSystem) -> None:
    """Write the record of a back-up. Durable when it returns. Raises OSError."""
    document = backup.model_dump(mode="json", by_alias=True, exclude={"path", "schema_problem"})
    text = json.dumps(document, indent=2) + "\n"
    durable.replace(
        directory / RECORD_NAME, text.encode(), mtime_ns=None, flush=True, within=directory, fs=fs
    )


def read_record(directory: Path, fs: FileSystem) -> Backup:
    """Read the record of a back-up. Raises `BackupDamagedError` when it is missing or invalid."""
    path = directory / RECORD_NAME
    try:
        content, _ = fs.read(path)
    except FileNotFoundError:
        raise BackupDamagedError(
            directory, (f"there is no {RECORD_NAME}: it is no back-up, or was never finished",)
        ) from None
    except system_error() as error:
        raise BackupDamagedError(directory, (f"{RECORD_NAME} cannot be read: {error}",)) from error
    try:
        backup = Backup.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BackupDamagedError(directory, (f"{RECORD_NAME}: {where}: {first['msg']}",)) from None
    if backup.format_version > _FORMAT:
        problem = f"its format {backup.format_version} is newer than this rtstore knows"
        raise BackupDamagedError(directory, (f"{problem}: use a newer rtstore",))
    return backup.model_copy(update={"path": directory})
