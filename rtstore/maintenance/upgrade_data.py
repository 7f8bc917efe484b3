"""Upgrades the data of a directory's stores to the schema versions of its descriptors.

All stores that need it are written in one batch of reason `migration`, which belongs to no run. The
entries keep their identity, so a stale store stays stale. The old contents are in the history, as
with any batch. A file of a newer version refuses this batch, as it refuses any batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from rtstore.commit.adopt import last_identity, read_for_adoption, refuse_newer, refuse_own
from rtstore.commit.writer import BatchWriter
from rtstore.control import contents, lost_entries, manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    ConflictError,
    CorruptDatabaseError,
    DataUpgradeError,
    InvalidRequestError,
    NewerStoreFileError,
    RuntimeStoreError,
    StoreFileChangedError,
)
from rtstore.files.paths import store_path
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.data_upgrade import (
    UpgradedStore,
    check_steps,
    upgraded_data,
    waits_for_upgrade,
)
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.edits import ForeignEdits
from rtstore.model.envelope import content_hash, decode, decode_own
from rtstore.model.records import BatchReason, ManifestEntry, Record
from rtstore.model.request import BatchRequest, StoreWrite

_ATTEMPTS = 20


class DataUpgradeReport(Record):
    """The result of an upgrade of store data."""

    batch_id: str | None
    """The batch that wrote the new data; None for a rehearsal."""
    stores: tuple[UpgradedStore, ...]


CheckFile = Callable[[Descriptor], None]
"""Raises `StoreFileChangedError` for a store whose file somebody changed."""
Adopts = Callable[[Descriptor], bool]
"""Whether the file of a store is an edit that is adopted before its data is upgraded."""


def refuse_newer_data(database: Database, registry: Registry) -> None:
    """Raise `NewerStoreFileError` for the first store whose committed data is newer than its
    descriptor: nothing leads back. Only reads; the database may have any revision."""

    def query(connection: Connection) -> None:
        entries = manifest.load_entries(connection, registry.names)
        for descriptor in registry:
            refuse_newer(descriptor, entries.get(descriptor.schema_name), database.path.parent)

    database.read(query)


def rehearse(
    database: Database,
    registry: Registry,
    adopts: Adopts | None = None,
    *,
    directory: Path | None = None,
) -> DataUpgradeReport | None:
    """Try every upgrade function on the committed contents, and return what would be upgraded; None
    when nothing would be. Only reads; the database may have any revision, and be a copy of that of
    the directory. A store whose entry an opening makes again counts. Raises `DataUpgradeError`, but
    for a store whose edit takes the place of what is committed."""
    found: list[UpgradedStore] = []
    where = directory or database.path.parent
    for descriptor in database.read(partial(_older, registry=registry, directory=where)):
        try:
            _, stores, _ = database.read(partial(_prepare, older=[descriptor], directory=where))
            found.extend(stores)
        except DataUpgradeError as error:
            if adopts is None:
                raise
            try:
                if not adopts(descriptor):
                    raise
            except RuntimeStoreError as why:
                if why is not error:
                    error.add_note(f"rtstore: nor can its file be adopted: {why}")
                raise error from None
    return DataUpgradeReport(batch_id=None, stores=tuple(found)) if found else None


def adopts_edit(
    descriptor: Descriptor, *, database: Database, directory: Path, fs: FileSystem
) -> bool:
    """Return whether somebody edited the file of a store, and an opening that adopts edits can go
    on from that. Raises why it cannot: as `read_for_adoption` and `upgraded_data`."""
    name = descriptor.schema_name

    def query(connection: Connection) -> tuple[ManifestEntry | None, bool, str | None]:
        entry = manifest.load_entries(connection, [name]).get(name)
        before = manifest.file_of(connection, name)
        moved_from = manifest.moved_to(connection, descriptor, entry)
        if before is not None and os.path.lexists(store_path(directory, before)):
            moved_from = before  # also where it gets the file back that it had before that one
        return entry, last_identity(connection) is not None, moved_from

    entry, has_identity, moved_from = database.read(query)
    if moved_from is not None:  # an edit of the former file comes along, and no other
        descriptor = descriptor.model_copy(update={"relative_path": moved_from})
    try:
        there, _ = fs.read(store_path(directory, descriptor.relative_path))
    except system_error():
        return False
    if entry is None or content_hash(there) == entry.content_hash:
        return False
    _check_adoption(database, descriptor, entry, fs, has_identity=has_identity, directory=directory)
    return True


def _check_adoption(
    database: Database,
    descriptor: Descriptor,
    entry: ManifestEntry,
    fs: FileSystem,
    *,
    has_identity: bool,
    directory: Path,
) -> None:
    """Raise unless an opening that adopts edits can go on from the file of a descriptor."""
    content = read_for_adoption(directory, descriptor, entry, fs)
    database.read(
        partial(
            refuse_own,
            directory=directory,
            descriptor=descriptor,
            content=content,
            by_itself=True,
            is_opening=True,
        )
    )
    if not has_identity:
        raise InvalidRequestError("identity", "no run is known yet, so it must be given")
    upgraded_data(descriptor, content)


def refuse_edits_to_come(
    database: Database,
    registry: Registry,
    edit_to_come: Callable[[Descriptor], tuple[str, bytes] | None],
    fs: FileSystem,
    *,
    edits: ForeignEdits,
    directory: Path,
) -> None:
    """Raise for a store whose data is to be upgraded, and that an opening gives another file, if
    somebody edited the former one: `StoreFileChangedError`, unless the opening adopts edits and can
    upgrade this one; what `upgraded_data` raises where that fails. One that ignores edits is
    refused only where the file is newer than its program: `NewerStoreFileError`, which its batch
    would raise, of a copy. Changes nothing."""
    if all(item.schema_version == 1 for item in registry):
        return
    older = database.read(partial(_older, registry=registry))
    there = database.read(contents.stores_with_content) if older else frozenset()
    for descriptor in older:
        edit = edit_to_come(descriptor) if descriptor.schema_name in there else None
        if edit is not None:
            former = descriptor.model_copy(update={"relative_path": edit[0]})
            if edits is ForeignEdits.IGNORE:
                _refuse_newer_edit(former, edit[1], directory)
            else:
                adopts = edits is ForeignEdits.ADOPT
                _refuse_edit(database, former, edit[1], fs, adopts=adopts, directory=directory)


def _refuse_newer_edit(descriptor: Descriptor, edit: bytes, directory: Path) -> None:
    found, supported = decode(edit).schema_version, descriptor.schema_version
    if found > supported:
        path = store_path(directory, descriptor.relative_path)
        raise NewerStoreFileError(descriptor.schema_name, path, found, supported)


def _refuse_edit(
    database: Database,
    descriptor: Descriptor,
    edit: bytes,
    fs: FileSystem,
    *,
    adopts: bool,
    directory: Path,
) -> None:
    name, not_adopted = descriptor.schema_name, None

    def query(connection: Connection) -> tuple[ManifestEntry | None, bool]:
        entries = manifest.load_entries(connection, [name])
        return entries.get(name), last_identity(connection) is not None

    entry, has_identity = database.read(query)
    if adopts and entry is not None:
        try:
            return _check_adoption(
                database, descriptor, entry, fs, has_identity=has_identity, directory=directory
            )
        except InvalidRequestError as error:
            not_adopted = f"{error.field}: {error.problem}"
    raise StoreFileChangedError(
        name,
        store_path(directory, descriptor.relative_path),
        None if entry is None else entry.content_hash,
        content_hash(edit),
        directory=directory,
        not_adopted=not_adopted,
    )


def waits_for_data(database: Database, registry: Registry, directory: Path) -> bool:
    """Return whether an opening with these descriptors would upgrade the data of a store. Only
    reads; the database may have any revision. False of one whose rows cannot be read."""
    with suppress(CorruptDatabaseError):
        return bool(database.read(partial(_older, registry=registry, directory=directory)))
    return False


def check_files(
    database: Database,
    registry: Registry,
    left: Callable[[], Set[str]],
    check_file: CheckFile,
) -> None:
    """Ask `check_file` about the stores of `upgrade_data`, as that does, but only about those that
    are `left` as they are by the recovery of an opening. Only reads."""
    if all(item.schema_version == 1 for item in registry):
        return
    older = database.read(partial(_older, registry=registry))
    there = database.read(contents.stores_with_content) if older else frozenset()
    names = left() & there if older else frozenset()
    for descriptor in older:
        if descriptor.schema_name in names:
            check_file(descriptor)


def upgrade_data(
    writer: BatchWriter,
    registry: Registry,
    team_name: str,
    check_file: CheckFile,
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
        older = database.read(partial(_older, registry=registry))
        if not older:
            return None
        there = database.read(contents.stores_with_content)
        for descriptor in older:
            if descriptor.schema_name in there:  # an edit comes first: what is committed may fail
                check_file(descriptor)
        high_watermark, found, writes = database.read(partial(_prepare, older=older))
        if not writes:
            return None
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


def _older(
    connection: Connection, registry: Iterable[Descriptor], directory: Path | None = None
) -> list[Descriptor]:
    """Return the descriptors of stores whose committed data is of an older version. With the
    directory, also of those whose entry an opening makes again there."""
    registry = list(registry)
    versions = manifest.load_versions(connection)
    if any(item.schema_version > 1 and item.schema_name not in versions for item in registry):
        for name, (entry, _) in _made_again(connection, directory).items():
            versions[name] = entry.schema_version
    return [
        item
        for item in registry
        if waits_for_upgrade(item, versions.get(item.schema_name, item.schema_version))
    ]


def _made_again(
    connection: Connection, directory: Path | None
) -> dict[str, tuple[ManifestEntry, bytes | None]]:
    """Return the entries that an opening makes again in a directory, each with its content."""
    if directory is None:
        return {}
    return {
        name: (
            lost_entries.entry_again(connection, name, number),
            contents.load_content(connection, number, name),
        )
        for name, number in lost_entries.lost_beside_files(connection, directory).items()
    }


def _prepare(
    connection: Connection, older: Iterable[Descriptor], directory: Path | None = None
) -> tuple[int, tuple[UpgradedStore, ...], tuple[StoreWrite, ...]]:
    """Return the high watermark, the stores to upgrade, and their new data."""
    found, writes = [], []
    versions = manifest.load_versions(connection)
    for descriptor in older:
        name = descriptor.schema_name
        content = contents.current_contents(connection, [name]).get(name)
        if name not in versions:
            again = _made_again(connection, directory).get(name)
            if again is not None:
                versions[name], content = again[0].schema_version, again[1]
        check_steps(descriptor, versions.get(name, descriptor.schema_version))
        if content is None:
            continue
        data = upgraded_data(descriptor, content)
        writes.append(StoreWrite(descriptor=descriptor, data=data))
        found.append(
            UpgradedStore(
                schema_name=name,
                from_version=decode_own(content).schema_version,
                to_version=descriptor.schema_version,
            )
        )
    return manifest.load_head(connection).high_watermark, tuple(found), tuple(writes)
