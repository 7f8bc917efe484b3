"""Finds out what is wrong with a control database, and what can still be read from it.

Everything is read through SQLite, read-only. A damaged page makes one query fail, not all of them.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import Field
from sqlalchemy import Connection

from rtstore.control import (
    batches,
    contents,
    lost_entries,
    manifest,
    parts,
    recovery_log,
    revisions,
    runs,
)
from rtstore.control.contents import Retention
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import Database
from rtstore.errors import CorruptDatabaseError, ForeignDatabaseError, RuntimeStoreError
from rtstore.foreign import system_error
from rtstore.maintenance.backup.verifying import problem_of_rows, problem_of_schema
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.model.envelope import content_hash
from rtstore.model.records import Batch, BatchState, ManifestEntry, Record, RunIdentity
from rtstore.model.runs import RunRecord

Result = TypeVar("Result")


class Salvage(Record):
    """What could be read from a database; None or empty where it could not be read."""

    team_name: str | None = None
    identity: RunIdentity | None = None
    high_watermark: int | None = None
    descriptors: tuple[Descriptor, ...] | None = None
    retention: Retention | None = None
    entries: dict[str, ManifestEntry] = Field(default_factory=dict)
    paths: dict[str, str] = Field(default_factory=dict)
    """The files of committed stores, by store name."""
    contents: dict[str, bytes] = Field(default_factory=dict)
    """Committed contents by store name: only those whose hash is that of their entry."""
    open_batches: tuple[str, ...] = ()
    batches: int | None = None
    quarantined: int | None = None
    runs: tuple[RunRecord, ...] | None = None
    """Oldest first."""


def problem_of(path: Path) -> str | None:
    """Return why a control database cannot be used, or None when it is sound.

    Every page, row and content is checked, history included. Raises `NewerDatabaseError`,
    `ForeignDatabaseError` for a database of another program, and `StorageError` and
    `DatabaseLockedError` when the database may be sound but cannot be read now.
    """
    try:
        if not revisions.exists(path):
            return "there is no database"
        revision = revisions.inspect_revision(path)
        is_newest = revision == REVISIONS[-1]
        lost = parts.spoiled_parts(path).lost_tables if is_newest else ()
        problem = problem_of_rows(path, lost_tables=lost)
        return problem or problem_of_schema(path, revision)
    except CorruptDatabaseError as error:
        return error.problem
    except ForeignDatabaseError as error:
        if error.may_be_damage:
            return error.problem
        raise


def what_is_left(path: Path, wanted: Iterable[Descriptor] = ()) -> Salvage:
    """Return everything useful that can still be read. Reads only. Entries and contents are those
    of the stores that are remembered, or are wanted."""
    try:
        found = path.lstat()
        revisions.check_side_files(path)
    except system_error(RuntimeStoreError):
        return Salvage()
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return Salvage()
    database = Database(path, read_only=True)
    try:
        return _read(database, wanted)
    finally:
        database.close()


def knows_batch(path: Path, batch_id: str) -> bool:
    """Return whether a batch of that id can still be read from a database."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        revisions.check_side_files(path)
    except system_error(RuntimeStoreError):
        return False
    database = Database(path, read_only=True)
    try:
        return bool(_attempt(database, lambda found: batches.batch_id_is_known(found, batch_id)))
    finally:
        database.close()


def _read(database: Database, wanted: Iterable[Descriptor]) -> Salvage:
    head = _attempt(database, manifest.load_head)
    descriptors = _attempt(database, manifest.load_descriptors)
    known = descriptors or KNOWN_DESCRIPTORS
    entries, content_of = {}, {}
    for name in dict.fromkeys(item.schema_name for item in (*known, *wanted)):
        entry = _entry(database, name)
        if entry is None:
            continue
        entries[name] = entry
        content = _attempt(database, _content(entry))
        if content is not None and content_hash(content) == entry.content_hash:
            content_of[name] = content
    paths = _attempt(database, manifest.load_paths)
    logged = _attempt(database, batches.load_open) or ()
    committed = _committed(database)
    last = committed[0] if committed else None
    active = _attempt(database, lambda found: (manifest.load_active_identity(found),))
    quarantined = _attempt(database, recovery_log.list_quarantined)
    known_runs = _attempt(database, runs.list_readable)
    return Salvage(
        team_name=head.team_name if head else last.team_name if last else None,
        identity=active[0] if active else _identity_of(committed, entries.values()),
        high_watermark=head.high_watermark if head else last.high_watermark if last else None,
        descriptors=descriptors or None,
        retention=_attempt(database, manifest.load_retention),
        entries=entries,
        paths=(paths or {}) | {name: entry.relative_path for name, entry in entries.items()},
        contents=content_of,
        open_batches=tuple(item.batch.batch_id for item in logged),
        batches=_attempt(database, batches.last_number),
        quarantined=None if quarantined is None else len(quarantined),
        runs=None if known_runs is None else tuple(reversed(known_runs)),
    )


def _committed(database: Database) -> list[Batch]:
    """Return the committed batches, newest first."""
    found = _attempt(database, batches.list_batches) or []
    return [each for each in reversed(found) if each.state is BatchState.COMMITTED]


def _identity_of(
    committed: Iterable[Batch], entries: Iterable[ManifestEntry]
) -> RunIdentity | None:
    """Return the identity of the newest batch of a run that can be read, or else of the newest
    entry of one."""
    newest = sorted(entries, key=lambda entry: entry.batch_number, reverse=True)
    found: list[Batch | ManifestEntry] = [*committed, *newest]
    source = next((each for each in found if each.run_id is not None), None)
    if source is None or source.run_id is None:
        return None
    return RunIdentity(
        run_id=source.run_id,
        capability_snapshot_id=source.capability_snapshot_id,
        behavior_fingerprint=source.behavior_fingerprint,
    )


def _entry(database: Database, name: str) -> ManifestEntry | None:
    """Return the entry of a store, or where that cannot be read what its last batch says."""
    found = _attempt(database, lambda connection: manifest.load_entries(connection, [name]))
    if found is not None:
        return found.get(name)
    return _attempt(database, lambda connection: lost_entries.last_entry(connection, name))


def _content(entry: ManifestEntry) -> Callable[[Connection], bytes | None]:
    return lambda connection: contents.load_content(
        connection, entry.batch_number, entry.schema_name
    )


def _attempt(database: Database, query: Callable[[Connection], Result]) -> Result | None:
    try:
        return database.read(query)
    except Exception:  # noqa: BLE001 - a damaged database can make any query fail
        return None
