"""The manifest in the database: one row for the directory, an entry for each store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, RowMapping, bindparam, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from rtstore.database.engine import Database
from rtstore.database.schema import manifest_entries, runtime_manifest, store_descriptors
from rtstore.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.errors import CorruptDatabaseError
from rtstore.records import LoggedBatch, Manifest, ManifestEntry, PlannedWrite, Record
from rtstore.times import Clock, format_time, utc_now


class ManifestStore:
    """Reads the manifest of a runtime directory."""

    def __init__(self, database: Database, *, team_name: str, clock: Clock = utc_now) -> None:
        self.database = database
        self.team_name = team_name
        self.clock = clock

    def read(self) -> Manifest:
        """The manifest as of now, in one read transaction; takes no lock."""
        return self.database.read(load)


class ManifestHead(Record):
    """The manifest's own row, without the entries: what a writer needs to know first."""

    team_name: str
    high_watermark: int
    last_committed_batch_id: str | None
    last_preparing_batch_id: str | None
    imported_at: str | None
    imported_hash: str | None


def default_manifest(team_name: str, updated_at: datetime) -> Manifest:
    """The manifest of a directory in which nothing was committed yet."""
    return Manifest(team_name=team_name, updated_at=updated_at)


def insert_manifest(connection: Connection, manifest: Manifest) -> None:
    """Write the first row of a new database (its entries are written with their batches)."""
    connection.execute(
        insert(runtime_manifest),
        {
            "id": 1,
            "schema_version": manifest.schema_version,
            "team_name": manifest.team_name,
            "active_run_id": manifest.active_run_id,
            "active_capability_snapshot_id": manifest.active_capability_snapshot_id,
            "active_behavior_fingerprint": manifest.active_behavior_fingerprint,
            "high_watermark": manifest.high_watermark,
            "last_committed_batch_id": manifest.last_committed_batch_id,
            "last_preparing_batch_id": manifest.last_preparing_batch_id,
            "last_recovery_plan_id": manifest.last_recovery_plan_id,
            "updated_at": format_time(manifest.updated_at),
        },
    )


def load_head(connection: Connection) -> ManifestHead:
    """Read the manifest's own row."""
    return ManifestHead.model_validate(dict(_manifest_row(connection)))


def load(connection: Connection) -> Manifest:
    """Read the manifest and all entries."""
    row = dict(_manifest_row(connection))
    entries = connection.execute(_SELECT_ENTRIES).mappings()
    return Manifest.model_validate({**row, "entries": tuple(_entry(entry) for entry in entries)})


def load_entries(connection: Connection, names: Sequence[str]) -> dict[str, ManifestEntry]:
    """The entries of some stores; a store without one is absent."""
    rows = connection.execute(_SELECT_ENTRIES_OF, {"names": list(names)}).mappings()
    return {row["schema_name"]: _entry(row) for row in rows}


def mark_preparing(connection: Connection, batch_id: str | None) -> None:
    """Say which batch is open, or that none is."""
    connection.execute(_MARK_PREPARING, {"batch_id": batch_id})


def seal(connection: Connection, logged: LoggedBatch, *, high_watermark: int) -> None:
    """Make a batch's writes the current entries, its identity the active one."""
    batch = logged.batch
    connection.execute(_UPSERT_ENTRY, [_entry_row(logged, write) for write in logged.writes])
    connection.execute(
        _SEAL_MANIFEST,
        {
            "active_run_id": batch.run_id,
            "active_capability_snapshot_id": batch.capability_snapshot_id,
            "active_behavior_fingerprint": batch.behavior_fingerprint,
            "high_watermark": high_watermark,
            "last_committed_batch_id": batch.batch_id,
            "last_preparing_batch_id": None,
            "updated_at": format_time(logged.writes[0].written_at),
        },
    )


def insert_entries(connection: Connection, entries: Iterable[ManifestEntry]) -> None:
    """Write entries that were imported."""
    names = set(manifest_entries.columns.keys())
    rows = [entry.model_dump(mode="json", include=names) for entry in entries]
    for row in rows:
        row.pop("mtime_ms")  # derived, for readers of the JSON
    if rows:
        connection.execute(insert(manifest_entries), rows)


def mark_recovery(connection: Connection, plan_id: str) -> None:
    """Say which plan was carried out last."""
    connection.execute(_MARK_RECOVERY, {"plan_id": plan_id})


# --- descriptors --------------------------------------------------------------------------------


def load_descriptors(connection: Connection) -> tuple[Descriptor, ...]:
    """The descriptors as the runtime registered them. The payload models of the known stores are
    added; those of a runtime's own stores live in the runtime."""
    payloads = {known.schema_name: known.payload for known in KNOWN_DESCRIPTORS}
    return tuple(
        Descriptor.model_validate({**row, "payload": payloads.get(row["schema_name"])})
        for row in connection.execute(_SELECT_DESCRIPTORS).mappings()
    )


def save_descriptors(connection: Connection, descriptors: Iterable[Descriptor]) -> None:
    """Make these the registered descriptors, in their order."""
    connection.execute(store_descriptors.delete())
    rows = [
        {"position": position, **descriptor.model_dump(mode="json")}
        for position, descriptor in enumerate(descriptors)
    ]
    if rows:
        connection.execute(insert(store_descriptors), rows)


# --- statements ---------------------------------------------------------------------------------

_SELECT_MANIFEST = select(runtime_manifest)
_SELECT_ENTRIES = select(manifest_entries).order_by(manifest_entries.c.schema_name)
_SELECT_ENTRIES_OF = select(manifest_entries).where(
    manifest_entries.c.schema_name.in_(bindparam("names", expanding=True))
)
_SELECT_DESCRIPTORS = select(
    store_descriptors.c.schema_name,
    store_descriptors.c.schema_version,
    store_descriptors.c.relative_path,
    store_descriptors.c.criticality,
    store_descriptors.c.owner,
    store_descriptors.c.rebuild_strategy,
).order_by(store_descriptors.c.position)
_MARK_PREPARING = update(runtime_manifest).values(last_preparing_batch_id=bindparam("batch_id"))
_MARK_RECOVERY = update(runtime_manifest).values(last_recovery_plan_id=bindparam("plan_id"))
_SEAL_MANIFEST = update(runtime_manifest)
_INSERT_ENTRY = sqlite_insert(manifest_entries)
_UPSERT_ENTRY = _INSERT_ENTRY.on_conflict_do_update(
    index_elements=[manifest_entries.c.schema_name],
    set_={
        column.name: _INSERT_ENTRY.excluded[column.name]
        for column in manifest_entries.columns
        if column.name != "schema_name"
    },
)


def _entry_row(logged: LoggedBatch, write: PlannedWrite) -> dict[str, object]:
    return {
        "schema_name": write.schema_name,
        "schema_version": write.schema_version,
        "relative_path": write.relative_path,
        "content_hash": write.content_hash,
        "file_size": write.file_size,
        "mtime_ns": write.mtime_ns,
        "run_id": logged.batch.run_id,
        "capability_snapshot_id": logged.batch.capability_snapshot_id,
        "behavior_fingerprint": logged.batch.behavior_fingerprint,
        "last_write_receipt_id": write.receipt_id,
        "state": "healthy",
        "batch_number": logged.batch.batch_number,
    }


def _entry(row: RowMapping) -> ManifestEntry:
    return ManifestEntry.model_validate(dict(row))


def _manifest_row(connection: Connection) -> RowMapping:
    row = connection.execute(_SELECT_MANIFEST).mappings().one_or_none()
    if row is None:
        name = connection.exec_driver_sql("PRAGMA database_list").one()[2]
        raise CorruptDatabaseError(Path(name), "the manifest row is missing")
    return row
