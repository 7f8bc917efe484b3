"""Write the committed contents of a database as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field
from sqlalchemy import Connection

from rtstore.control import contents, manifest
from rtstore.control.contents import Committed
from rtstore.files import durable
from rtstore.files.paths import store_path
from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
from rtstore.model.records import ManifestEntry, Record


def write_store_files(
    connection: Connection,
    directory: Path,
    fs: FileSystem,
    *,
    like: Path | None = None,
    entries: Iterable[ManifestEntry] | None = None,
) -> list[BackupFile]:
    """Write every committed store file, in the caller's read transaction, where the store has it
    now; or those of the given `entries`. Return the files written.

    The files are durable on return. Each gets the permissions of the same file in the directory
    `like`. Works with a database of any revision. Raises OSError, and `UnsafePathError` for a row
    with a path that no store can have.
    """
    for item in contents.list_committed(connection) if entries is None else ():
        store_path(directory, item.relative_path)  # a row that makes no sense is not passed over
    written = []
    every: Iterable[Committed | ManifestEntry] = (
        committed_now(connection) if entries is None else entries
    )
    for committed in every:
        content = contents.load_content(connection, committed.batch_number, committed.schema_name)
        if content is None:
            continue
        target = store_path(directory, committed.relative_path)
        mode = None if like is None else _mode_of(store_path(like, committed.relative_path), fs)
        durable.replace(
            target,
            content,
            mtime_ns=committed.mtime_ns,
            flush=True,
            within=directory,
            fs=fs,
            new_mode=mode,
        )
        written.append(
            BackupFile(
                relative_path=committed.relative_path,
                content_hash=content_hash(content),
                file_size=len(content),
                mtime_ns=committed.mtime_ns,
                mode=mode,
            )
        )
    return written


def committed_now(connection: Connection) -> list[Committed]:
    """Return the committed version of each store, with the file that the store has now: a program
    may have given it another one since it was written. Works with a database of any revision."""
    committed = contents.list_committed(connection)
    paths = {item.schema_name: item.relative_path for item in committed}
    now = manifest.files_now(connection, paths)
    return [item.model_copy(update={"relative_path": now[item.schema_name]}) for item in committed]


def _mode_of(path: Path, fs: FileSystem) -> int | None:
    try:
        mode = durable.mode_of(path, fs)
    except NotADirectoryError:
        return None
    if mode is None:
        return None
    return mode & 0o777 | 0o400  # what its owner may not read, nobody could verify


class BackupFile(Record):
    """One file of a back-up, next to its database."""

    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int | None
    """The time of modification in its receipt, in ns; None for a quarantined file."""
    mode: int | None = Field(default=None, ge=0, le=0o777)
    """The permission bits of the file; with None, only its owner may read it."""
