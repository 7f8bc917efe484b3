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
from rtstore.errors import (
    CorruptDatabaseError,
    ForeignDatabaseError,
    RuntimeStoreError,
    UnsafePathError,
)
from rtstore.files.paths import store_path
from rtstore.foreign import system_error
from rtstore.maintenance.backup.verifying import problem_of_rows, problem_of_schema
from rtstore.maintenance.rebuild_database import forward
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.model.envelope import content_hash
from rtstore.model.records import (
    Batch,
    BatchState,
    LoggedBatch,
    ManifestEntry,
    PlannedWrite,
    Record,
    RunIdentity,
)
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
    logged_here: frozenset[tuple[str, str, str]] = frozenset()
    """The versions of the log and of the history: store, file and hash. None of them is an edit."""
    unwritten: frozenset[str] = frozenset()
    """The stores for which nothing is committed: deleted, or never written."""
    open_batches: tuple[str, ...] | None = ()
    """Those of which the log has too little. None where the log cannot be read."""
    taken_forward: tuple[str, ...] = ()
    """The open batches that are completed from the log: entries and contents are as after them."""
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


def what_is_left(
    path: Path, wanted: Iterable[Descriptor] = (), directory: Path | None = None
) -> Salvage:
    """Return everything useful that can still be read. Reads only. Entries and contents are those
    of the stores that are remembered, or are wanted. `directory` has the store files, if it is not
    that of the database."""
    try:
        found = path.lstat()
        revisions.check_side_files(path)
    except system_error(RuntimeStoreError):
        return Salvage()
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return Salvage()
    directory = directory or path.parent
    database = Database(path, read_only=True)
    try:
        return _forward(database, _read(database, wanted, directory), directory)
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


def _read(database: Database, wanted: Iterable[Descriptor], directory: Path) -> Salvage:
    head = _attempt(database, manifest.load_head)
    descriptors = _attempt(database, manifest.load_descriptors)
    known = descriptors or KNOWN_DESCRIPTORS
    entries, content_of, unwritten = {}, {}, set()
    for name in dict.fromkeys(item.schema_name for item in (*known, *wanted)):
        entry, is_unwritten = _entry(database, name, directory)
        if is_unwritten:
            unwritten.add(name)
        if entry is None:
            continue
        entries[name] = entry
        content = _attempt(database, _content(entry.batch_number, name))
        if content is not None and content_hash(content) == entry.content_hash:
            content_of[name] = content
    paths = _attempt(database, manifest.load_paths)
    committed = _committed(database)
    last = committed[0] if committed else None
    mark = head.high_watermark if head else last.high_watermark if last else None
    numbered = _attempt(database, batches.last_number)
    if mark is not None and mark > manifest.WATERMARK_MAX:
        mark = numbered  # nothing counted so far: it was edited, and the next batch has no room
    active = _attempt(database, lambda found: (manifest.load_active_identity(found),))
    quarantined = _attempt(database, recovery_log.list_quarantined)
    known_runs = _attempt(database, runs.list_readable)
    return Salvage(
        team_name=head.team_name if head else last.team_name if last else None,
        identity=active[0] if active else _identity_of(committed, entries.values()),
        high_watermark=mark,
        descriptors=descriptors or None,
        retention=_attempt(database, manifest.load_retention),
        entries=entries,
        paths=(paths or {}) | {name: entry.relative_path for name, entry in entries.items()},
        contents=content_of,
        logged_here=frozenset(_attempt(database, batches.list_logged_here) or ()),
        unwritten=frozenset(unwritten),
        batches=numbered,
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


def _entry(database: Database, name: str, directory: Path) -> tuple[ManifestEntry | None, bool]:
    """Return the entry of a store, or where that cannot be read what its last batch says; and
    whether it is known that nothing is committed for the store."""
    found = _attempt(database, lambda connection: manifest.load_entries(connection, [name]))
    if found is None:
        entry = _attempt(database, lambda connection: lost_entries.last_entry(connection, name))
        gone = _attempt(database, lambda connection: batches.last_deletion(connection, name))
        return entry, entry is None and gone is not None and not _is_written(database, name)
    if name in found:
        return _attempt(database, _put_right(found[name])) or found[name], False

    def again(connection: Connection) -> ManifestEntry | None:
        number = lost_entries.lost_beside_files(connection, directory).get(name)
        return None if number is None else lost_entries.entry_again(connection, name, number)

    return _attempt(database, again), not _is_written(database, name)


def _put_right(entry: ManifestEntry) -> Callable[[Connection], ManifestEntry]:
    """Return the query for an entry as its batch wrote it, where somebody altered it."""

    def query(connection: Connection) -> ManifestEntry:
        altered = contents.altered_entries(connection)
        is_altered = entry.schema_name in altered
        return lost_entries.as_written(connection, entry) if is_altered else entry

    return query


def _is_written(database: Database, name: str) -> bool:
    """Return whether the last batch of a store wrote it, or that cannot be read."""
    found = _attempt(database, lambda connection: batches.is_written(connection, name))
    return found is None or found


def _content(number: int, name: str) -> Callable[[Connection], bytes | None]:
    return lambda connection: contents.load_content(connection, number, name)


def _forward(database: Database, salvage: Salvage, directory: Path) -> Salvage:
    """Return what would be left once the open batches that the log has whole are completed."""
    logged = _attempt(database, batches.load_open)
    if not logged:
        return salvage.model_copy(update={"open_batches": None if logged is None else ()})

    def content_of(of: LoggedBatch, write: PlannedWrite) -> bytes | None:
        found = _attempt(database, _content(of.batch.batch_number, write.schema_name))
        if found is not None and content_hash(found) == write.content_hash:
            return found
        return _in_file(directory, write)

    going = forward.whole_batches(logged, content_of)
    entries, content, unwritten = dict(salvage.entries), dict(salvage.contents), salvage.unwritten
    for name, (of, change) in forward.last_changes(going).items():
        before = entries.pop(name, None)
        content.pop(name, None)
        unwritten |= {name}
        if isinstance(change, PlannedWrite):
            entries[name] = forward.entry_of(of.batch, change, before)
            content[name] = content_of(of, change) or b""
            unwritten -= {name}
    ids = [item.batch.batch_id for item in going]
    left = [item.batch.batch_id for item in logged if item.batch.batch_id not in ids]
    paths = {name: path for name, path in salvage.paths.items() if name not in unwritten}
    changed = {
        "entries": entries,
        "contents": content,
        "unwritten": unwritten,
        "paths": paths | {name: entry.relative_path for name, entry in entries.items()},
        "identity": forward.identity_after(salvage.identity, going),
        "runs": None if salvage.runs is None else forward.runs_after(salvage.runs, going),
        "open_batches": tuple(left),
        "taken_forward": tuple(ids),
    }
    return salvage.model_copy(update=changed)


def _in_file(directory: Path, write: PlannedWrite) -> bytes | None:
    """Return the bytes of a planned write from the store's file, or None."""
    try:
        found = store_path(directory, write.relative_path).read_bytes()
    except (OSError, UnsafePathError):
        return None
    return found if content_hash(found) == write.content_hash else None


def _attempt(database: Database, query: Callable[[Connection], Result]) -> Result | None:
    try:
        return database.read(query)
    except Exception:  # noqa: BLE001 - a damaged database can make any query fail
        return None
