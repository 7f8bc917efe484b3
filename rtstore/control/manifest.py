"""The manifest in the database: one row for the directory, an entry for each store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import (
    ColumnClause,
    Connection,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    union,
    update,
)
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from rtstore.control import batches
from rtstore.control.contents import KEEP_EVERYTHING, Retention
from rtstore.control.schema import (
    history_retention,
    manifest_entries,
    runtime_manifest,
    store_descriptors,
    write_batches,
)
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import Row, Statement, database_of, swallowed
from rtstore.errors import CorruptDatabaseError, StoreFileChangedError
from rtstore.files.paths import store_path
from rtstore.model.descriptors import (
    KNOWN_DESCRIPTORS,
    Descriptor,
    TakenBy,
    TakenFiles,
    folders_above,
)
from rtstore.model.records import (
    Batch,
    BatchOrigin,
    BatchState,
    CommittedFile,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    PlannedWrite,
    PublishedFile,
    Record,
    RunIdentity,
)
from rtstore.model.times import Clock, format_time, parse_time, utc_now

READS_MAX = 5
"""How often rows that are not of one moment are read; after that, somebody has edited them."""


class ManifestStore:
    """Reads the manifest of a runtime directory."""

    def __init__(self, database: Database, *, team_name: str, clock: Clock = utc_now) -> None:
        self.database = database
        self.team_name = team_name
        self.clock = clock

    def read(self) -> Manifest:
        """Return the current manifest, from one read transaction, without a lock."""
        for _ in range(READS_MAX):
            found = self.database.read(load_with_last_number)
            if is_of_one_moment(*found):
                break
        return found[0]


class ManifestHead(Record):
    """The manifest's own row without the entries, which a writer needs first."""

    team_name: str
    high_watermark: int
    last_committed_batch_id: str | None
    last_preparing_batch_id: str | None
    imported_at: str | None
    imported_hash: str | None


def default_manifest(team_name: str, updated_at: datetime) -> Manifest:
    """Return the manifest of a directory in which nothing was committed yet."""
    return Manifest(team_name=team_name, updated_at=updated_at)


def insert_manifest(connection: Connection, manifest: Manifest) -> None:
    """Write the manifest row of a new database. Its entries are written with their batches."""
    _INSERT_MANIFEST.run(
        connection,
        id=1,
        imported_at=None,
        imported_hash=None,
        **manifest.model_dump(mode="json", exclude={"entries"}),
    )


def load_head(connection: Connection) -> ManifestHead:
    """Read the manifest's own row."""
    return ManifestHead.model_validate(_manifest_row(connection))


def load_active_identity(connection: Connection) -> RunIdentity | None:
    """Read the identity of the last committed batch from the manifest's own row."""
    return Manifest.model_validate(_manifest_row(connection)).active_identity


def load_for_opening(connection: Connection) -> tuple[ManifestHead, Retention]:
    """Read the manifest's own row and the retention, in one statement."""
    row = _SELECT_FOR_OPENING.first(connection)
    if row is None:
        raise _missing(connection)
    return ManifestHead.model_validate(row), _retention_of(row)


def high_watermark(connection: Connection) -> int:
    """Return the high watermark: the number of committed batches."""
    return int(_SELECT_HIGH_WATERMARK.scalar(connection))


def load(connection: Connection) -> Manifest:
    """Read the manifest and all entries. Raises `ValueError` for batch numbers that make no sense,
    as no batch could be written, and for an entry without a committed batch: its content could not
    be read, and would pass for none."""
    return load_with_last_number(connection)[0]


def load_with_last_number(connection: Connection) -> tuple[Manifest, int]:
    """Do `load`, and return the number of the newest batch, too, which is read first. Raises as
    `load`."""
    row = _manifest_row(connection, _SELECT_WITH_NUMBERS)
    last = batches.checked_last_number(row.pop("first_number"), row.pop("last_number"))
    unwritten = row.pop("unwritten")
    if unwritten is not None:
        raise ValueError(f"the batch that wrote {unwritten} is not on record as committed")
    entries = tuple(_entry_of(*entry.values()) for entry in _SELECT_ENTRIES.all(connection))
    return Manifest.model_validate({**row, "entries": entries}), last


def is_of_one_moment(manifest: Manifest, last_number: int) -> bool:
    """Return whether no entry is of a batch after the newest one that was read first. One is where
    code of this process dropped the locks that keep the pages of a read transaction, by closing a
    file of the database: then read again."""
    return all(entry.batch_number <= last_number for entry in manifest.entries)


def last_known_at(connection: Connection) -> datetime | None:
    """Return the latest time that is known of the newest batch, whatever became of it; None without
    one. What a later batch wrote is of a later time. The import of a batch is the latest time of
    it, for a legacy runtime also wrote besides its batches."""
    batch = batches.find_number(connection, batches.last_number(connection))
    if batch is None:
        return None
    times = [batch.started_at, *(item.written_at for item in batch.receipts)]
    times += [item.deleted_at for item in batch.deletions]
    times += [] if batch.completed_at is None else [batch.completed_at]
    if batch.origin is BatchOrigin.IMPORTED:
        imported_at = load_head(connection).imported_at
        times += [] if imported_at is None else [parse_time(imported_at)]
    return max(times)


def load_entries(connection: Connection, names: Iterable[str]) -> dict[str, ManifestEntry]:
    """Return the entries of some stores, by name. Omit a store without one."""
    found = {}
    for name in names:
        row = _SELECT_ENTRY.first(connection, schema_name=name)
        if row is not None:
            found[name] = _entry_of(*row.values())
    return found


@lru_cache(maxsize=4096)
def _entry_of(*values: object) -> ManifestEntry:
    """Return the entry of a row. Most rows are the same in each read, and an entry is immutable, so
    a row that was validated once is not validated again. A row of an older revision has only the
    first columns."""
    return ManifestEntry.model_validate(dict(zip(_ENTRY_COLUMNS, values, strict=False)))


def load_versions(connection: Connection) -> dict[str, int]:
    """Return the schema version of each committed store, by name."""
    return {row["schema_name"]: row["schema_version"] for row in _SELECT_VERSIONS.all(connection)}


def load_paths(connection: Connection) -> dict[str, str]:
    """Return the file of each committed store, by the store's name."""
    return {row["schema_name"]: row["relative_path"] for row in _SELECT_PATHS.all(connection)}


def files_now(connection: Connection, committed: Mapping[str, str]) -> dict[str, str]:
    """Return the file that each of some stores has now, as `file_of` says. `committed` are the
    files that they were written to. All keep those where what is remembered gives a file to two
    stores: an opening moves none to where another is. Works with a database of any revision."""
    known = {row["schema_name"]: row["relative_path"] for row in _REMEMBERED_PATHS.all(connection)}
    found = {name: known.get(name, path) for name, path in committed.items()}
    taken = TakenFiles(found)
    if any(taken.by(name, path) is not None for name, path in found.items()):
        return dict(committed)
    return found


class ChangedPath(NamedTuple):
    """A store whose entry names another file than the batch that wrote it: somebody changed one of
    the two rows."""

    schema_name: str
    of_entry: str
    of_batch: str
    batch_number: int
    remembered: str | None
    """The file of the descriptor that the directory remembers."""
    content_hash: str


def changed_paths(connection: Connection) -> list[ChangedPath]:
    """Return each store whose entry names another file than the batch that wrote it."""
    return [ChangedPath(*row) for row in connection.exec_driver_sql(_CHANGED_PATHS)]


def set_back_entries(connection: Connection) -> list[tuple[str, int, int]]:
    """Return each store whose entry is of an earlier batch than the last that wrote the store:
    somebody changed the row. With the numbers of the two batches."""
    return [(str(name), int(number), int(last)) for name, number, last in
            connection.exec_driver_sql(_SET_BACK_ENTRIES)]  # fmt: skip


def without_descriptor(
    paths: Mapping[str, str], descriptors: Iterable[Descriptor]
) -> dict[str, str]:
    """Return those of `load_paths` whose store no descriptor names: neither a plan nor a snapshot
    has it."""
    named = {item.schema_name for item in descriptors}
    return {name: path for name, path in paths.items() if name not in named}


def path_taken_by(connection: Connection, schema_name: str, relative_path: str) -> TakenBy | None:
    """Return the other store, by its entry, whose file keeps a store from having a path; or None.
    See `rtstore.model.descriptors.TakenFiles`."""
    for path in (relative_path, *folders_above(relative_path)):
        owner = _SELECT_PATH_OWNER.scalar(connection, path=path)
        if owner == schema_name and path == relative_path:
            return None
        if owner not in (None, schema_name):
            return TakenBy(str(owner), path)
    # The folder's files are those between "folder/" and "folder0", as "0" comes after "/".
    inside = {"low": f"{relative_path}/", "high": f"{relative_path}0"}
    row = _SELECT_IN_FOLDER.first(connection, schema_name=schema_name, **inside)
    return None if row is None else TakenBy(row["schema_name"], row["relative_path"])


def mark_preparing(connection: Connection, batch_id: str | None) -> None:
    """Record the batch that is open; with None, that none is."""
    _MARK_PREPARING.write(connection, {"batch_id": batch_id})


def complete(
    connection: Connection,
    logged: Sequence[LoggedBatch],
    published: Callable[[PlannedWrite], PublishedFile],
    *,
    high_watermark: int,
) -> None:
    """Make the writes of batches the current entries, take the entries of deleted stores away, and
    make the identity of the last batch the active one. `published` returns the file of a write;
    `high_watermark` is that of the last batch.

    A batch without an identity belongs to no run (an upgrade of store data). The entries that it
    writes keep their identity, and the active identity stays.
    """
    last_write: dict[str, tuple[Batch, PlannedWrite]] = {}
    bound_to: dict[str, Batch] = {}
    deleted: set[str] = set()
    for item in logged:
        for write in item.writes:
            last_write[write.schema_name] = item.batch, write
            if item.batch.run_id is not None:
                bound_to[write.schema_name] = item.batch
            deleted.discard(write.schema_name)
        for deletion in item.deletions:
            last_write.pop(deletion.schema_name, None)
            bound_to.pop(deletion.schema_name, None)
            deleted.add(deletion.schema_name)
    if deleted:
        _delete_entries(connection, deleted)
    rows: list[Row] = []
    keeping: list[Row] = []
    for name, (batch, write) in last_write.items():
        row = _entry_row(batch.batch_number, write, published(write), bound_to.get(name, batch))
        (rows if name in bound_to else keeping).append(row)
    _upsert_entries(connection, rows)
    _UPSERT_KEEPING.write(connection, *keeping)
    last = logged[-1]
    values: Row = {
        "watermark": high_watermark,
        "batch_id": last.batch.batch_id,
        "at": format_time(last.logged_at),
    }
    bound = [item.batch for item in logged if item.batch.run_id is not None]
    if not bound:
        _SEAL_KEEPING.write(connection, values)
        return
    identity = {
        "run_id": bound[-1].run_id,
        "capability_snapshot_id": bound[-1].capability_snapshot_id,
        "behavior_fingerprint": bound[-1].behavior_fingerprint,
    }
    _SEAL_MANIFEST.write(connection, {**values, **identity})


def insert_entries(connection: Connection, entries: Iterable[ManifestEntry]) -> None:
    """Write imported entries."""
    _UPSERT_ENTRY.run_many(connection, [entry.model_dump(mode="json") for entry in entries])


def _upsert_entries(connection: Connection, rows: Sequence[Row]) -> None:
    """Write entries. Most often each is there, and keeps its file: then the index over the paths
    need not be written."""
    if _UPDATE_WHERE_IT_WAS.run_many(connection, rows).rowcount < len(rows):
        _UPSERT_ENTRY.write(connection, *rows)


def _delete_entries(connection: Connection, names: Iterable[str]) -> None:
    """Take entries away; a store that was written and deleted in one group has none. Raises as
    `swallowed` where one stayed."""
    _DELETE_ENTRY.run_many(connection, [{"schema_name": name} for name in names])
    if load_entries(connection, names):
        raise swallowed(connection, "DELETE FROM manifest_entries")


def mark_recovery(connection: Connection, plan_id: str) -> None:
    """Record the plan that was executed last."""
    _MARK_RECOVERY.run(connection, plan_id=plan_id)


def save_imported_hash(connection: Connection, content_hash: str) -> None:
    """Record the hash of the control files of the legacy format as they are now."""
    _SAVE_IMPORTED_HASH.run(connection, content_hash=content_hash)


# --- descriptors --------------------------------------------------------------------------------


def load_descriptors(connection: Connection) -> tuple[Descriptor, ...]:
    """Return the descriptors as the runtime registered them. The payload models of the known stores
    are added; those of a runtime's own stores are in the runtime."""
    return tuple(_descriptor_of(**row) for row in _SELECT_DESCRIPTORS.all(connection))


@lru_cache(maxsize=1024, typed=True)
def _descriptor_of(**row: object) -> Descriptor:
    """Return the descriptor of a row. As with entries, one row is validated once."""
    return Descriptor.model_validate({**row, "payload": _PAYLOADS.get(row["schema_name"])})


def file_of(connection: Connection, schema_name: str) -> str | None:
    """Return the file that a store has now: that of the descriptor which the directory remembers,
    or else of its entry; None without either."""
    remembered = _SELECT_REMEMBERED_PATH.scalar(connection, schema_name=schema_name)
    if remembered is not None:
        return str(remembered)
    entry = load_entries(connection, [schema_name]).get(schema_name)
    return None if entry is None else entry.relative_path


def owner_of(connection: Connection, relative_path: str) -> str | None:
    """Return the store whose file has this path now, as `file_of` says; None without one."""
    rows = _SELECT_OWNERS.all(connection, path=relative_path)
    names = [row["schema_name"] for row in rows]
    return next((name for name in names if file_of(connection, name) == relative_path), None)


def is_remembered(connection: Connection, schema_name: str) -> bool:
    """Return whether the directory remembers a descriptor of a store. Plans have no other."""
    return _SELECT_REMEMBERED_PATH.first(connection, schema_name=schema_name) is not None


def moved_to(
    connection: Connection, descriptor: Descriptor, entry: CommittedFile | None
) -> str | None:
    """Return the file that another program gave a store since a program took this descriptor for
    it; None while the file of the descriptor is the store's."""
    committed = None if entry is None else entry.relative_path
    if committed == descriptor.relative_path:
        return None
    remembered = _SELECT_REMEMBERED_PATH.scalar(connection, schema_name=descriptor.schema_name)
    return _other_file(descriptor, None if remembered is None else str(remembered), committed)


def moved_stores(
    connection: Connection, descriptors: Iterable[Descriptor], committed: Mapping[str, str]
) -> dict[str, str]:
    """Return the stores that have another file than their descriptors say, as `moved_to` finds it.
    `committed` are the files of the entries."""
    known = {row["schema_name"]: row["relative_path"] for row in _REMEMBERED_PATHS.all(connection)}
    found = {}
    for item in descriptors:
        path = committed.get(item.schema_name)
        if path != item.relative_path:
            other = _other_file(item, known.get(item.schema_name), path)
            if other is not None:
                found[item.schema_name] = other
    return found


def _other_file(
    descriptor: Descriptor, remembered: str | None, committed: str | None
) -> str | None:
    """Return the file of a store if it is not that of its descriptor. What the directory remembers
    counts: a program that gives a store a new file may not have written it yet."""
    found = remembered or committed
    return None if found == descriptor.relative_path else found


def refuse_moved(
    connection: Connection, descriptor: Descriptor, entry: CommittedFile | None
) -> None:
    """Raise `StoreFileChangedError` for a store that another program gave another file: it must not
    be written where it was."""
    found = moved_to(connection, descriptor, entry)
    if found is not None:
        directory = database_of(connection).parent
        raise StoreFileChangedError(
            descriptor.schema_name,
            store_path(directory, descriptor.relative_path),
            None if entry is None else entry.content_hash,
            None,
            directory=directory,
            moved_to=found,
        )


def save_descriptors(connection: Connection, descriptors: Iterable[Descriptor]) -> None:
    """Replace the registered descriptors with these, in their order."""
    _DELETE_DESCRIPTORS.run(connection)
    _INSERT_DESCRIPTOR.run_many(
        connection,
        [
            {"position": position, **descriptor.model_dump(mode="json")}
            for position, descriptor in enumerate(descriptors)
        ],
    )


# --- retention ----------------------------------------------------------------------------------


def load_retention(connection: Connection) -> Retention:
    """Return the remembered retention; without its row, one that keeps everything."""
    return _retention_of(_SELECT_RETENTION.first(connection))


def save_retention(connection: Connection, retention: Retention) -> None:
    """Remember a retention."""
    age = retention.max_age
    _SAVE_RETENTION.run(
        connection,
        id=1,
        batches=retention.batches,
        contents_per_store=retention.contents_per_store,
        max_age_seconds=None if age is None else min(age, _AGE_MAX).total_seconds(),
        content_bytes=retention.content_bytes,
        thin_by_age=int(retention.thin_by_age),
    )


def _retention_of(row: Row | None) -> Retention:
    if row is None or row["retention_id"] is None:
        return KEEP_EVERYTHING  # without a limit from a program, nothing is dropped
    return Retention.model_validate(
        {
            "batches": row["batches"],
            "contents_per_store": row["contents_per_store"],
            "max_age": row["max_age_seconds"],
            "content_bytes": row.get("content_bytes"),  # one of an older revision has none
            "thin_by_age": row.get("thin_by_age", 0),
        }
    )


# --- statements ---------------------------------------------------------------------------------

_CHANGED_PATHS = """
    SELECT entry.schema_name, CAST(entry.relative_path AS TEXT), CAST(logged.relative_path AS TEXT),
      entry.batch_number, known.relative_path, entry.content_hash
    FROM manifest_entries AS entry JOIN batch_writes AS logged
      ON logged.batch_number = entry.batch_number AND logged.schema_name = entry.schema_name
    LEFT JOIN store_descriptors AS known ON known.schema_name = entry.schema_name
    WHERE logged.relative_path <> entry.relative_path
"""
_SET_BACK_ENTRIES = """
    SELECT entry.schema_name, entry.batch_number, max(written.batch_number)
    FROM manifest_entries AS entry
    JOIN batch_writes AS written
      ON written.schema_name = entry.schema_name AND written.batch_number > entry.batch_number
    JOIN write_batches AS batch ON batch.batch_number = written.batch_number
    WHERE batch.state = 'committed' AND batch.origin = 'written'
    GROUP BY entry.schema_name
"""
_INSERT_MANIFEST = Statement(insert(runtime_manifest))
# Somebody may have changed the high watermark of the manifest. It must never be below that of the
# last batch: the next one would get one that was given before; nor so high that none comes after.
WATERMARK_MAX = 1 << 53
_written_mark = runtime_manifest.c.high_watermark
_high_watermark = func.max(
    case((_written_mark <= literal_column(str(WATERMARK_MAX)), _written_mark), else_=0),
    func.coalesce(
        select(write_batches.c.high_watermark)
        .where(write_batches.c.batch_id == runtime_manifest.c.last_committed_batch_id)
        .correlate(runtime_manifest)
        .scalar_subquery(),
        _written_mark,
    ),
).label("high_watermark")
_manifest_columns = (
    *(column for column in runtime_manifest.columns if column.name != "high_watermark"),
    _high_watermark,
)
_SELECT_MANIFEST = Statement(select(*_manifest_columns))
_unwritten = (
    select(func.min(manifest_entries.c.schema_name))
    .where(
        ~exists().where(
            write_batches.c.batch_number == manifest_entries.c.batch_number,
            write_batches.c.state == BatchState.COMMITTED.value,
        )
    )
    .scalar_subquery()
    .label("unwritten")
)
_SELECT_WITH_NUMBERS = Statement(select(*_manifest_columns, *batches.NUMBERS, _unwritten))
_SELECT_HIGH_WATERMARK = Statement(select(_high_watermark))
_ENTRY_COLUMNS = tuple(manifest_entries.c.keys())
# All columns there are, because a rebuild also reads entries and retention of an older revision.
_EVERY_COLUMN: ColumnClause[Any] = literal_column("*")
_SELECT_ENTRIES = Statement(
    select(_EVERY_COLUMN).select_from(manifest_entries).order_by(manifest_entries.c.schema_name)
)
_SELECT_ENTRY = Statement(
    select(_EVERY_COLUMN)
    .select_from(manifest_entries)
    .where(manifest_entries.c.schema_name == bindparam("schema_name"))
)
_DELETE_ENTRY = Statement(
    delete(manifest_entries).where(manifest_entries.c.schema_name == bindparam("schema_name"))
)
_SELECT_PATH_OWNER = Statement(
    select(manifest_entries.c.schema_name).where(
        manifest_entries.c.relative_path == bindparam("path")
    )
)
_SELECT_IN_FOLDER = Statement(
    select(manifest_entries.c.schema_name, manifest_entries.c.relative_path)
    .where(
        manifest_entries.c.relative_path > bindparam("low"),
        manifest_entries.c.relative_path < bindparam("high"),
        manifest_entries.c.schema_name != bindparam("schema_name"),
    )
    .limit(1)
)
_REMEMBERED_PATHS = Statement(
    select(store_descriptors.c.schema_name, store_descriptors.c.relative_path)
)
_SELECT_REMEMBERED_PATH = Statement(
    select(store_descriptors.c.relative_path).where(
        store_descriptors.c.schema_name == bindparam("schema_name")
    )
)
_SELECT_OWNERS = Statement(
    union(
        *(
            select(table.c.schema_name).where(table.c.relative_path == bindparam("path"))
            for table in (store_descriptors, manifest_entries)
        )
    )
)
_SELECT_DESCRIPTORS = Statement(
    select(
        store_descriptors.c.schema_name,
        store_descriptors.c.schema_version,
        store_descriptors.c.relative_path,
        store_descriptors.c.criticality,
        store_descriptors.c.owner,
        store_descriptors.c.rebuild_strategy,
    ).order_by(store_descriptors.c.position)
)
_PAYLOADS: dict[object, type[BaseModel] | None] = {
    known.schema_name: known.payload for known in KNOWN_DESCRIPTORS
}
_DELETE_DESCRIPTORS = Statement(delete(store_descriptors))
_INSERT_DESCRIPTOR = Statement(insert(store_descriptors))
_retention_columns = (
    history_retention.c.id.label("retention_id"),
    history_retention.c.batches,
    history_retention.c.contents_per_store,
    history_retention.c.max_age_seconds,
    history_retention.c.content_bytes,
    history_retention.c.thin_by_age,
)
_SELECT_RETENTION = Statement(
    select(history_retention.c.id.label("retention_id"), _EVERY_COLUMN).select_from(
        history_retention
    )
)
_SELECT_FOR_OPENING = Statement(
    select(*_manifest_columns, *_retention_columns)
    .select_from(runtime_manifest)
    .outerjoin(history_retention, history_retention.c.id == runtime_manifest.c.id)
)
_named = sqlite_insert(history_retention)
_SAVE_RETENTION = Statement(
    _named.on_conflict_do_update(
        index_elements=[history_retention.c.id],
        set_={
            column.name: _named.excluded[column.name]
            for column in history_retention.columns
            if column.name != "id"
        },
    )
)
_AGE_MAX = timedelta(days=999_999_999)
"""The longest age that can be read back: the most that pydantic accepts as seconds."""
_MARK_PREPARING = Statement(
    update(runtime_manifest).values(last_preparing_batch_id=bindparam("batch_id"))
)
_SAVE_IMPORTED_HASH = Statement(
    update(runtime_manifest).values(imported_hash=bindparam("content_hash"))
)
_MARK_RECOVERY = Statement(
    update(runtime_manifest).values(last_recovery_plan_id=bindparam("plan_id"))
)
_sealed = update(runtime_manifest).values(
    high_watermark=bindparam("watermark"),
    last_committed_batch_id=bindparam("batch_id"),
    # A recovery may complete batches one by one that were logged together.
    last_preparing_batch_id=func.nullif(
        runtime_manifest.c.last_preparing_batch_id, bindparam("batch_id")
    ),
    updated_at=bindparam("at"),
)
_SEAL_KEEPING = Statement(_sealed)
_SEAL_MANIFEST = Statement(
    _sealed.values(
        active_run_id=bindparam("run_id"),
        active_capability_snapshot_id=bindparam("capability_snapshot_id"),
        active_behavior_fingerprint=bindparam("behavior_fingerprint"),
    )
)
_IDENTITY = ("run_id", "capability_snapshot_id", "behavior_fingerprint")


def _upsert(but_not: Iterable[str]) -> Statement:
    entry = sqlite_insert(manifest_entries)
    changed = {
        column.name: entry.excluded[column.name]
        for column in manifest_entries.columns
        if column.name not in but_not
    }
    return Statement(
        entry.on_conflict_do_update(index_elements=[manifest_entries.c.schema_name], set_=changed)
    )


_UPSERT_ENTRY = _upsert(("schema_name",))
_UPSERT_KEEPING = _upsert(("schema_name", *_IDENTITY))
_WHERE_IT_WAS = ("schema_name", "relative_path")
_UPDATE_WHERE_IT_WAS = Statement(
    update(manifest_entries)
    .where(*(manifest_entries.c[name] == bindparam(name) for name in _WHERE_IT_WAS))
    .values(
        {
            column: bindparam(column.name)
            for column in manifest_entries.columns
            if column.name not in _WHERE_IT_WAS
        }
    )
)
_SELECT_VERSIONS = Statement(
    select(manifest_entries.c.schema_name, manifest_entries.c.schema_version)
)

_SELECT_PATHS = Statement(select(manifest_entries.c.schema_name, manifest_entries.c.relative_path))


def _entry_row(
    batch_number: int, write: PlannedWrite, file: PublishedFile, bound_to: Batch
) -> dict[str, object]:
    return {
        "schema_name": write.schema_name,
        "schema_version": write.schema_version,
        "relative_path": write.relative_path,
        "content_hash": write.content_hash,
        "file_size": write.file_size,
        "mtime_ns": write.mtime_ns,
        "run_id": bound_to.run_id,
        "capability_snapshot_id": bound_to.capability_snapshot_id,
        "behavior_fingerprint": bound_to.behavior_fingerprint,
        "last_write_receipt_id": write.receipt_id,
        "state": "healthy",
        "batch_number": batch_number,
        "file_inode": file.file_inode,
        "file_ctime_ns": file.file_ctime_ns,
    }


def _manifest_row(connection: Connection, statement: Statement | None = None) -> Row:
    row = (statement or _SELECT_MANIFEST).first(connection)
    if row is None:
        raise _missing(connection)
    return row


def _missing(connection: Connection) -> CorruptDatabaseError:
    name = connection.exec_driver_sql("PRAGMA database_list").one()[2]
    return CorruptDatabaseError(Path(name), "the manifest row is missing")


_CONTRADICTIONS = """
    SELECT 'the entry of ' || entry.schema_name || ' is not what the receipt of its batch says',
      entry.schema_name
    FROM manifest_entries AS entry
    JOIN batch_writes AS written
      ON written.batch_number = entry.batch_number AND written.schema_name = entry.schema_name
    JOIN write_batches AS batch ON batch.batch_number = entry.batch_number
    WHERE batch.origin = 'written'
      AND (written.content_hash, written.file_size) <> (entry.content_hash, entry.file_size)
    UNION ALL
    SELECT newest.batch_id || ' has high watermark ' || newest.high_watermark
      || ', and the last batch has ' || last.high_watermark, NULL
    FROM (SELECT batch_id, max(high_watermark) AS high_watermark FROM write_batches
          WHERE state = 'committed') AS newest
    JOIN (SELECT max(manifest.high_watermark, coalesce(batch.high_watermark, 0)) AS high_watermark
          FROM runtime_manifest AS manifest
          LEFT JOIN write_batches AS batch ON batch.batch_id = manifest.last_committed_batch_id
          ) AS last
      ON newest.high_watermark > last.high_watermark
    UNION ALL
    SELECT 'the manifest calls ' || batch.batch_id || ' the last committed batch, which is '
      || batch.state, NULL
    FROM runtime_manifest AS manifest
    JOIN write_batches AS batch ON batch.batch_id = manifest.last_committed_batch_id
    WHERE batch.state <> 'committed'
"""


_SET_BACK = """
    SELECT 'it is ' || manifest.high_watermark || ', and ' || last.batch_id || ' has '
      || last.high_watermark
    FROM runtime_manifest AS manifest
    JOIN write_batches AS last ON last.batch_id = manifest.last_committed_batch_id
    WHERE manifest.high_watermark NOT BETWEEN last.high_watermark AND ?
"""


def set_back(connection: Connection) -> str | None:
    """Return in words that the high watermark of the manifest is behind that of the last batch, or
    far beyond any, or None. Reading and writing go by the batch."""
    found = connection.exec_driver_sql(_SET_BACK, (WATERMARK_MAX,)).scalar()
    return None if found is None else str(found)


def contradictions(connection: Connection, *, but_of: Collection[str] = ()) -> list[str]:
    """Return a sentence for each place where the manifest and the batches of a current database
    contradict each other: somebody edited a row. The entries of some stores are not looked at."""
    found = connection.exec_driver_sql(_CONTRADICTIONS)
    return [str(sentence) for sentence, name in found if name not in but_of]
