"""Read committed contents from the database, and check the store files against them."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, overload

from pydantic import BaseModel, Field
from sqlalchemy import Connection

from rtstore.control import batches, contents, manifest
from rtstore.control.lock import WriterLock
from rtstore.control.lost_entries import lost_entries
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import Row
from rtstore.errors import (
    BatchUnfinishedError,
    ContentMissingError,
    InvalidRequestError,
    StoreFileChangedError,
)
from rtstore.files.owners import explained
from rtstore.files.paths import store_path
from rtstore.files.stamp import is_as_committed, read_hashed
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.data_upgrade import data_problem
from rtstore.model.decide import refused_action
from rtstore.model.descriptors import (
    COMPATIBILITY_SNAPSHOT,
    DELIVERY_JOURNAL,
    LAUNCH_STATE,
    LAUNCH_TRANSACTION,
    PERMISSION_REQUESTS,
    SESSION_STORE,
    Descriptor,
    Registry,
    StoreKey,
    store_name,
)
from rtstore.model.edits import ForeignEdits
from rtstore.model.envelope import EnvelopeError, decode, decode_own
from rtstore.model.invariants import validate_invariants
from rtstore.model.records import (
    InspectionState,
    LoggedBatch,
    Manifest,
    ManifestEntry,
    PublishedFile,
    Record,
    RecoveryAction,
    RecoveryPlan,
)
from rtstore.model.times import Timestamp, parse_time
from rtstore.model.typed import data_for

_SAME = "same"
_LOOKS = 50

_INVARIANT_STORES = {
    "launch_state": LAUNCH_STATE,
    "session_store": SESSION_STORE,
    "transaction": LAUNCH_TRANSACTION,
    "delivery_journal": DELIVERY_JOURNAL,
    "permission_store": PERMISSION_REQUESTS,
    "compatibility_snapshot": COMPATIBILITY_SNAPSHOT,
}


if TYPE_CHECKING:  # `StoreContent` alone is `StoreContent[Any]`
    from typing_extensions import TypeVar

    DataT_co = TypeVar("DataT_co", covariant=True, default=Any)
    Payload = TypeVar("Payload", bound=BaseModel)
else:
    from typing import TypeVar

    DataT_co = TypeVar("DataT_co", covariant=True)
    Payload = TypeVar("Payload", bound=BaseModel)


class StoreContent(Record, Generic[DataT_co]):
    """The committed content of one store."""

    schema_name: str
    schema_version: int
    data: DataT_co
    """Plain JSON; or an object of the payload model, for a store that was given by its
    descriptor."""
    updated_at: Timestamp
    content_hash: str
    batch_id: str
    high_watermark: int | None
    """Of the batch that wrote it; None when an import does not know it."""
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None


class Snapshot(Record):
    """Several stores as of one batch. `in`, `len` and iteration are about the names of those that
    have committed content."""

    high_watermark: int
    contents: dict[str, StoreContent]
    """By store name. A store without committed content is absent."""
    lost: dict[str, int] = Field(default_factory=dict)
    """Stores that a batch wrote, and whose content or entry the database has lost, or never had
    because an import found none. The value is the number of the store's batch."""
    without_entry: frozenset[str] = Field(default=frozenset(), exclude=True)
    """Those of `lost` whose entry is missing from the manifest."""
    directory: Path = Field(default=Path(), exclude=True)
    """The runtime directory."""

    @overload
    def data(self, store: Descriptor[Payload]) -> Payload | None: ...

    @overload
    def data(self, store: str) -> Any: ...

    def data(self, store: StoreKey) -> Any:
        """Return the data of a store, or None when nothing is committed for it. Raises as `get`."""
        content = self.get(store)
        return None if content is None else content.data

    @overload
    def get(self, store: Descriptor[Payload]) -> StoreContent[Payload] | None: ...

    @overload
    def get(self, store: str) -> StoreContent | None: ...

    def get(self, store: StoreKey) -> StoreContent | None:
        """Return the content of a store, or None when nothing is committed for it. Raises
        `ContentMissingError` for a store in `lost`, and `DataRefusedError` as `read`."""
        name = store_name(store)
        self._refuse_lost(name)
        content = self.contents.get(name)
        return None if content is None else content_for(store, content)

    @overload
    def __getitem__(self, store: Descriptor[Payload]) -> StoreContent[Payload]: ...

    @overload
    def __getitem__(self, store: str) -> StoreContent: ...

    def __getitem__(self, store: StoreKey) -> StoreContent:
        """Return the content of a store. Raises as `get`, and `InvalidRequestError` when the
        snapshot has none."""
        content = self.get(store)
        if content is None:
            problem = "no committed content in this snapshot: never written, or not asked for"
            raise InvalidRequestError("store", problem, store=store_name(store))
        return content

    def __contains__(self, store: StoreKey) -> bool:
        """Return whether the snapshot has content of a store. Raises `ContentMissingError` for a
        store in `lost`."""
        name = store_name(store)
        self._refuse_lost(name)
        return name in self.contents

    def _refuse_lost(self, name: str) -> None:
        if name in self.lost:
            entry_missing = name in self.without_entry
            raise ContentMissingError(
                name, self.directory, self.lost[name], entry_missing=entry_missing
            )

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic has fields and values
        return iter(self.contents)

    def __len__(self) -> int:
        return len(self.contents)


def content_for(store: StoreKey, content: StoreContent, *, is_current: bool = True) -> StoreContent:
    """Return a content with its data as its caller asked for the store: see `data_for`."""
    earlier = None if is_current else content.batch_id
    data = data_for(store, content.data, content.schema_version, earlier_batch_id=earlier)
    return content if data is content.data else content.model_copy(update={"data": data})


class StoreReader:
    """Reads the committed contents of one runtime directory. Takes no lock."""

    def __init__(
        self,
        directory: Path,
        database: Database,
        registry: Registry,
        lock: WriterLock,
        fs: FileSystem,
        foreign_edits: ForeignEdits = ForeignEdits.RAISE,
    ) -> None:
        self._directory = directory
        self._foreign_edits = foreign_edits
        self._database = database
        self._registry = registry
        self._lock = lock
        self._fs = fs
        self.is_opening = False
        """True while the stores get the files of the descriptors of an opening."""
        self._judged: tuple[tuple[object, ...], tuple[str, ...]] | None = None
        """What was committed when the invariants were last checked, and the failures found."""

    def load(self, names: Sequence[str]) -> dict[str, StoreContent]:
        """Return the committed contents of stores as of one batch; omit a store without one."""
        return self._database.read(lambda connection: _load(connection, names))

    def read(self, descriptor: Descriptor, *, verify: bool) -> StoreContent | None:
        """Return the committed content of a store, or None. With `verify`, also `check_file`."""
        name = descriptor.schema_name

        def query(connection: Connection) -> tuple[StoreContent, PublishedFile] | None:
            found = contents.current_row(connection, name)
            if found is None:
                return None
            content, row = found
            return _content_of(name, content, row), _file_of(row)

        found = self._database.read(query, autocommit=True)
        if found is None:
            if verify and self._foreign_edits is ForeignEdits.ADOPT:
                self._check_edit(descriptor)  # which is all that there is of the store
            self._refuse_lost(name)
            if verify:
                self.check_file(descriptor)
            self._refuse_without_entry(name)
            return None
        content, committed = found
        if verify and not self._is_untouched(descriptor, committed):
            self.check_file(descriptor)
        return content

    def _is_untouched(self, descriptor: Descriptor, committed: PublishedFile) -> bool:
        """Return whether the file shows no change since its batch published it, or since this
        process hashed it."""
        try:
            found = self._fs.lstat(store_path(self._directory, descriptor.relative_path))
        except system_error():
            return False
        return is_as_committed(found, committed)

    def snapshot(self, names: Sequence[str]) -> Snapshot:
        """Return a snapshot: the contents of stores as of one batch, and its high watermark.

        Code of this process that reads and closes a file of the database drops the locks that keep
        the pages of a read transaction. Then contents may be newer than the high watermark, which
        is read first and stays in SQLite's cache: such a snapshot is taken again.
        """

        def query(connection: Connection) -> Snapshot:
            high_watermark = manifest.load_head(connection).high_watermark
            found = _load(connection, names)
            absent = [name for name in names if name not in found]
            without_entry = _without_entry(connection, absent)
            return Snapshot(
                high_watermark=high_watermark,
                contents=found,
                lost=_lost(connection, absent) | without_entry,
                without_entry=frozenset(without_entry),
                directory=self._directory,
            )

        for _ in range(_LOOKS):
            taken = self._database.read(query)
            newest = max((item.high_watermark or 0 for item in taken.contents.values()), default=0)
            if newest <= taken.high_watermark:
                break
        return taken

    def _refuse_lost(self, name: str) -> None:
        """Raise `ContentMissingError` for a store with an entry and no content."""
        for batch_number in self._database.read(lambda found: _lost(found, [name])).values():
            raise ContentMissingError(name, self._directory, batch_number)

    def _refuse_without_entry(self, name: str) -> None:
        """Raise `ContentMissingError` for a store whose entry was taken out of the manifest."""
        missing = self._database.read(lambda found: _without_entry(found, [name]))
        for batch_number in missing.values():
            raise ContentMissingError(name, self._directory, batch_number, entry_missing=True)

    def invariant_failures(self, seen: Manifest | None = None) -> list[str]:
        """Return the contradictions between the committed contents as of one batch: the batch of a
        manifest that was just `seen`, or a later one."""
        known = self._judged
        if seen is not None and known is not None and known[0] == _committed(seen):
            return list(known[1])

        def query(connection: Connection) -> tuple[Manifest, dict[str, StoreContent] | None]:
            current = manifest.load(connection)
            if known is not None and known[0] == _committed(current):
                return current, None
            names = [name for name in _INVARIANT_STORES.values() if name in self._registry]
            return current, _load(connection, names)

        current, content_of = self._database.read(query)
        if content_of is None:
            assert known is not None  # noqa: S101 - or the contents were loaded
            return list(known[1])
        failures = _failures(self._registry, current, content_of)
        self._judged = _committed(current), tuple(failures)
        return failures

    def check_file(self, descriptor: Descriptor) -> None:
        """Raise `StoreFileChangedError` unless the file is what is committed, or foreign edits are
        ignored; `BatchUnfinishedError` when it is what a dead writer was about to commit.

        A living writer may have published its next version already, or completed it since the entry
        was read. So a file that differs is compared with the rows once more.
        """
        name, path = descriptor.schema_name, store_path(self._directory, descriptor.relative_path)
        for _ in range(_LOOKS):
            before = self._database.read(lambda connection: _entry_and_open(connection, name))
            entry = before[0]
            found, content = self._read_unless_same(path, entry)
            if found is _SAME or (entry is None and found is None):
                return
            writer_lives = self._lock.is_held()
            after = self._database.read(lambda connection: _entry_and_open(connection, name))
            for logged in after[1]:
                if (name, found) in logged.planned:
                    if writer_lives:
                        return  # published, and about to be committed
                    if before == after:
                        failure = self._database.failure
                        raise BatchUnfinishedError(
                            logged.batch.batch_id,
                            failure or "its writer died, or could not finish it",
                            decided=failure is None,
                            directory=self._directory,
                        )
            if before == after and self._foreign_edits is ForeignEdits.IGNORE:
                return
            if before == after:
                raise self._changed(descriptor, entry, found, content)
        return  # batches come faster than these checks, so no other version lasted either

    def _check_edit(self, descriptor: Descriptor) -> None:
        """Raise `StoreFileChangedError` for a file that somebody edited; not for one that is
        missing, or that a batch wrote."""
        try:
            self.check_file(descriptor)
        except StoreFileChangedError as error:
            if error.found_hash is not None and not error.of_batch:
                raise

    def behind_edits(self, plan: RecoveryPlan) -> dict[str, RecoveryAction]:
        """Return the stores of a plan with an edited file of which a read gives nothing, because
        edits are ignored, and what is committed is refused or lost. Each has the action that there
        would be without the edit; that of the plan where the content is lost."""
        if self._foreign_edits is not ForeignEdits.IGNORE:
            return {}
        edited = {
            item.schema_name: item
            for item in plan.actions
            if item.reason == InspectionState.HASH_MISMATCH
        }
        if not edited:
            return {}
        snapshot = self.snapshot(list(edited))
        found = {name: edited[name] for name in snapshot.lost}
        for name, content in snapshot.contents.items():
            descriptor, version = self._registry.get(name), content.schema_version
            if version > descriptor.schema_version:
                found[name] = refused_action(descriptor, InspectionState.FUTURE_SCHEMA)
            elif data_problem(descriptor, version, content.data) is not None:
                found[name] = refused_action(descriptor, InspectionState.QUARANTINED)
        return found

    def _changed(
        self,
        descriptor: Descriptor,
        entry: ManifestEntry | None,
        found: str | None,
        content: bytes | None,
    ) -> StoreFileChangedError:
        """Return what is said of a file that is not what is committed: an edit, or what the library
        made so itself."""
        name = descriptor.schema_name

        def query(connection: Connection) -> tuple[bool, str | None, bool, bool]:
            of_batch = found is not None and contents.is_of_batch(
                connection,
                name,
                found,
                lambda: content if _is_sound(content) else None,
                current=None if entry is None else entry.batch_number,
                relative_path=descriptor.relative_path,
            )
            is_lost = name in _lost(connection, [name])
            moved_to = manifest.moved_to(connection, descriptor, entry)
            registered = manifest.is_remembered(connection, name)
            return of_batch, None if self.is_opening else moved_to, is_lost, registered

        of_batch, moved_to, content_lost, registered = self._database.read(query)
        return StoreFileChangedError(
            name,
            store_path(self._directory, descriptor.relative_path),
            None if entry is None else entry.content_hash,
            found,
            directory=self._directory,
            of_batch=of_batch,
            content_lost=content_lost,
            moved_to=moved_to,
            registered=registered,
        )

    def _read_unless_same(
        self, path: Path, entry: ManifestEntry | None
    ) -> tuple[str | None, bytes | None]:
        """Return the hash of a file and its bytes; `_SAME` where it is what is committed."""
        try:
            if entry is not None and is_as_committed(self._fs.lstat(path), entry):
                return _SAME, None
            content, found, _ = read_hashed(path, self._fs)
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        except system_error() as error:
            if error.errno == errno.ELOOP:
                return "a symbolic link", None
            return f"unreadable ({explained(error, path)})", None
        is_same = entry is not None and found == entry.content_hash
        return _SAME if is_same else found, content


def failures_with(database: Database, registry: Registry, content: StoreContent) -> list[str]:
    """Return what `invariant_failures` would return if a store had that content."""
    names = [name for name in _INVARIANT_STORES.values() if name in registry]
    current, found = database.read(
        lambda connection: (manifest.load(connection), _load(connection, names))
    )
    return _failures(registry, current, {**found, content.schema_name: content})


def _failures(
    registry: Registry, current: Manifest, content_of: Mapping[str, StoreContent]
) -> list[str]:
    stores = {
        argument: _invariant_data(registry, name, content_of.get(name))
        for argument, name in _INVARIANT_STORES.items()
    }
    # What is committed and cannot be judged here is not missing: its content is lost, its data is
    # of another version or refused, or only other programs have a descriptor for it.
    unknown = {
        argument
        for argument, name in _INVARIANT_STORES.items()
        if stores[argument] is None and current.entry(name) is not None
    }
    return validate_invariants(manifest=current, unknown=unknown, **stores)


def _invariant_data(registry: Registry, name: str, content: StoreContent | None) -> Any:
    """Return the committed data of a store, or None when there is none that its model accepts;
    then the inspection of the file reports it. Data of another schema version is none: these
    invariants say nothing about it."""
    if content is None or not isinstance(content.data, dict | list):
        return None
    descriptor, version = registry.get(name), content.schema_version
    if version != descriptor.schema_version:
        return None
    refused = data_problem(descriptor, version, content.data) is not None
    return None if refused else content.data


def _is_sound(content: bytes | None) -> bool:
    """Return whether a file is an envelope. What is damaged is no edit either, and has a plan of
    its own."""
    try:
        return content is not None and decode(content) is not None
    except EnvelopeError:
        return False


def _committed(current: Manifest) -> tuple[object, ...]:
    """Return all that the invariants depend on. While it is equal, their result is."""
    return current.team_name, current.high_watermark, current.active_identity, current.entries


def _entry_and_open(
    connection: Connection, name: str
) -> tuple[ManifestEntry | None, tuple[LoggedBatch, ...]]:
    """Return a store's entry, and the open batches, as of one moment."""
    return manifest.load_entries(connection, [name]).get(name), batches.load_open(connection)


def _load(connection: Connection, names: Sequence[str]) -> dict[str, StoreContent]:
    found = ((name, contents.row_as_committed(connection, name)) for name in names)
    return {name: _content_of(name, *current) for name, current in found if current is not None}


_FILE = itemgetter(*PublishedFile._fields)


def _file_of(row: Row) -> PublishedFile:
    return PublishedFile._make(_FILE(row))


def _lost(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return the stores with an entry and no content, each with the batch number of its entry."""
    entries = manifest.load_entries(connection, names)
    there = contents.stores_with_content(connection, verify=True) if entries else frozenset()
    return {name: entry.batch_number for name, entry in entries.items() if name not in there}


def _without_entry(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return the stores whose entry is lost, each with the number of the batch that wrote it."""
    lost = lost_entries(connection) if names else {}
    return {name: number for name, number in lost.items() if name in names}


def _content_of(name: str, content: bytes, row: Row) -> StoreContent:
    envelope = decode_own(content)
    return StoreContent(
        schema_name=name,
        schema_version=envelope.schema_version,
        data=envelope.data,
        updated_at=parse_time(row["written_at"]),
        content_hash=row["content_hash"],
        batch_id=row["batch_id"],
        high_watermark=row["high_watermark"],
        run_id=row["run_id"],
        capability_snapshot_id=row["capability_snapshot_id"],
        behavior_fingerprint=row["behavior_fingerprint"],
    )
