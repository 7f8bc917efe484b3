"""Upgrades the data of a directory's stores to the schema versions of its descriptors.

All stores that need it are written in one batch of reason `migration`, which belongs to no run. The
entries keep their identity, so a stale store stays stale. The old contents are in the history, as
with any batch. A file of a newer version refuses this batch, as it refuses any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy import Connection

from rtstore.commit.adopt import refuse_newer
from rtstore.commit.writer import BatchWriter
from rtstore.control import contents, manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import ConflictError
from rtstore.model.data_upgrade import (
    UpgradedStore,
    check_steps,
    upgraded_data,
    waits_for_upgrade,
)
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.envelope import decode
from rtstore.model.records import BatchReason, Record
from rtstore.model.request import BatchRequest, StoreWrite

_ATTEMPTS = 20


class DataUpgradeReport(Record):
    """The result of an upgrade of store data."""

    batch_id: str | None
    """The batch that wrote the new data; None for a rehearsal."""
    stores: tuple[UpgradedStore, ...]


def refuse_newer_data(database: Database, registry: Registry) -> None:
    """Raise `NewerStoreFileError` for the first store whose committed data is newer than its
    descriptor: nothing leads back. Only reads; the database may have any revision."""

    def query(connection: Connection) -> None:
        entries = manifest.load_entries(connection, registry.names)
        for descriptor in registry:
            refuse_newer(descriptor, entries.get(descriptor.schema_name), database.path.parent)

    database.read(query)


def rehearse(database: Database, registry: Registry) -> DataUpgradeReport | None:
    """Try every upgrade function on the committed contents, and return what would be upgraded; None
    when nothing would be. Only reads; the database may have any revision. Raises
    `DataUpgradeError`."""
    if not database.read(lambda connection: list(_older(connection, registry))):
        return None
    _, found, _ = database.read(lambda connection: _prepare(connection, registry))
    return DataUpgradeReport(batch_id=None, stores=found) if found else None


def upgrade_data(
    writer: BatchWriter,
    registry: Registry,
    team_name: str,
    check_file: Callable[[Descriptor], None],
) -> DataUpgradeReport | None:
    """Upgrade the data of stores that is older than their descriptors, in one batch. Return None
    when there is none.

    Durable when it returns. A store whose committed content is not in the database is left as it
    is. Raises `DataUpgradeError`, `StoreFileChangedError` when another program changed a file that
    would be overwritten, and what `BatchWriter.write_batch` raises. When it raises, nothing is
    changed.
    """
    database = writer.database
    for attempt in range(_ATTEMPTS):
        if not database.read(lambda connection: list(_older(connection, registry))):
            return None
        high_watermark, found, writes = database.read(
            lambda connection: _prepare(connection, registry)
        )
        if not writes:
            return None
        for write in writes:
            check_file(write.descriptor)
        request = BatchRequest(
            team_name=team_name, identity=None, reason=BatchReason.MIGRATION, writes=writes
        )
        try:
            batch = writer.write_batch(request, expected_high_watermark=high_watermark)
        except ConflictError:  # another batch was committed meanwhile: read again
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return DataUpgradeReport(batch_id=batch.batch_id, stores=found)
    return None


def _older(connection: Connection, registry: Iterable[Descriptor]) -> Iterator[Descriptor]:
    versions = manifest.load_versions(connection)
    for descriptor in registry:
        found = versions.get(descriptor.schema_name, descriptor.schema_version)
        if waits_for_upgrade(descriptor, found):
            check_steps(descriptor, found)
            yield descriptor


def _prepare(
    connection: Connection, registry: Registry
) -> tuple[int, tuple[UpgradedStore, ...], tuple[StoreWrite, ...]]:
    """Return the high watermark, the stores to upgrade, and their new data."""
    found, writes = [], []
    for descriptor in _older(connection, registry):
        name = descriptor.schema_name
        content = contents.current_contents(connection, [name]).get(name)
        if content is None:
            continue
        data = upgraded_data(descriptor, content)
        writes.append(StoreWrite(descriptor=descriptor, data=data))
        found.append(
            UpgradedStore(
                schema_name=name,
                from_version=decode(content).schema_version,
                to_version=descriptor.schema_version,
            )
        )
    return manifest.load_head(connection).high_watermark, tuple(found), tuple(writes)
