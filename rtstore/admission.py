"""Step 2 of the commit protocol: what a draft must pass before it is logged. The writer lock is
held (but for `check_targets`), and nothing is changed; only evidence is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from rtstore.adoption import refuse_newer
from rtstore.database import batches, contents, manifest
from rtstore.database.batches import ReceiptStore
from rtstore.database.engine import Database
from rtstore.database.manifest import ManifestHead
from rtstore.descriptors import Descriptor
from rtstore.draft import Draft
from rtstore.errors import ConflictError, InvalidRequestError, StorageError, WrongTeamError
from rtstore.files.paths import check_target, store_path
from rtstore.files.system import FileSystem
from rtstore.left_over import finish_left_over
from rtstore.publication import Publisher, StoreFile
from rtstore.records import Batch, BatchState, LoggedBatch, ManifestEntry
from rtstore.store_versions import data_now


def check_targets(draft: Draft, directory: Path, fs: FileSystem) -> None:
    """Raise `UnsafePathError` or `StorageError` unless every file can be written."""
    for descriptor, _ in draft.encoded:
        relative_path, name = descriptor.relative_path, descriptor.schema_name
        try:
            check_target(directory, relative_path, name, fs)
        except OSError as error:
            path = store_path(directory, relative_path)
            raise StorageError(path, "the file cannot be looked at", str(error)) from error


class Found(NamedTuple):
    """What is committed, as found under the lock."""

    head: ManifestHead
    entries: Mapping[str, ManifestEntry]


def look(names: Collection[str], publisher: Publisher) -> Found:
    """What is committed for the stores about to be written, after what a dead writer left was
    rolled forward. We hold its lock, so it is dead."""

    def query(connection: Connection) -> tuple[Found, tuple[LoggedBatch, ...]]:
        head = manifest.load_head(connection)
        entries = manifest.load_entries(connection, names)
        return Found(head, entries), batches.load_open(connection)

    found, open_batches = publisher.database.read_as_writer(query)
    left = [logged for logged in open_batches if logged.has_contents]
    if not left:
        return found
    finish_left_over(left, publisher)
    return publisher.database.read_as_writer(query)[0]


def look_again(found: Found, names: Collection[str], database: Database) -> Found:
    """The same for the stores of batches that join those for which we have looked."""
    more = set(names) - found.entries.keys()
    if not more:
        return found
    entries = database.read_as_writer(partial(manifest.load_entries, names=more))
    return Found(found.head, {**found.entries, **entries})


def committed_data(descriptor: Descriptor, database: Database) -> Any:
    """The committed data of a store that is about to be changed, or None before the first. Raises
    `DataUpgradeError` when it is of an older version."""
    name = descriptor.schema_name

    def query(connection: Connection) -> Any:
        content = contents.current_contents(connection, [name]).get(name)
        return None if content is None else data_now(descriptor, content)

    return database.read_as_writer(query)


def check_manifest(
    draft: Draft, head: ManifestHead, expected_high_watermark: int | None, directory: Path
) -> None:
    """Raise `WrongTeamError`, or `ConflictError` unless the high watermark is the expected one."""
    if head.team_name != draft.request.team_name:
        raise WrongTeamError(directory, draft.request.team_name, head.team_name)
    if expected_high_watermark not in (None, head.high_watermark):
        assert expected_high_watermark is not None  # noqa: S101 - the line above
        raise ConflictError("this batch", expected_high_watermark, head.high_watermark)


def first_result(draft: Draft, receipt_store: ReceiptStore) -> Batch | None:
    """The first result of a batch that is written again under the same id. Raises
    `InvalidRequestError` when the id was another batch's, or the batch has failed."""
    if draft.batch_id is None:
        return None
    first = receipt_store.get(draft.batch_id)
    if first is None:
        return None
    if not draft.id_given:
        # It was carried out before, or tried, by a leader that did not come to its end.
        if [receipt.receipt_id for receipt in first.receipts] != [
            write.receipt_id for write in draft.writes
        ]:
            raise _taken(draft)
        return first
    if first.state is BatchState.FAILED:
        raise InvalidRequestError(
            "batch_id", f"batch {first.batch_id} failed before, and stays so: take a new id"
        )
    if not draft.repeats(first):
        raise InvalidRequestError(
            "batch_id",
            f"batch {first.batch_id} was written before with other contents: take a new id",
        )
    return first


def keep_evidence(
    draft: Draft,
    entries: Mapping[str, ManifestEntry],
    publisher: Publisher,
    *,
    but_not: Collection[str],
) -> None:
    """Copy what somebody else changed into quarantine. The rows are written with the log.

    All files are looked at before the first copy is made: an unsafe path, a newer file or newer
    committed content refuses the batch, and it leaves no trace then. `but_not` are stores whose
    files were looked at for an earlier batch of the group.
    """
    foreign = []
    for descriptor, _ in draft.encoded:
        if descriptor.schema_name in but_not:
            continue
        file, entry = StoreFile.of(descriptor), entries.get(descriptor.schema_name)
        refuse_newer(descriptor, entry, publisher.directory)
        found = publisher.foreign_content(file, entry, trust_mtime=True)
        if found is not None:
            foreign.append((file, found))
    draft.evidence = [publisher.keep_copy(file, found, draft.batch_id) for file, found in foreign]


def check_paths(
    draft: Draft,
    entries: Mapping[str, ManifestEntry],
    owners: Mapping[str, str],
    database: Database,
) -> None:
    """Raise `InvalidRequestError` when a file that it writes is another store's: by its entry, by
    an earlier batch of the group (`owners`, by path), or in the batch itself."""
    owners = dict(owners)
    for descriptor, _ in draft.encoded:
        name, path = descriptor.schema_name, descriptor.relative_path
        entry = entries.get(name)
        owner = owners.setdefault(path, name)
        if owner == name and (entry is None or entry.relative_path != path):
            owner = (
                database.read_as_writer(partial(manifest.path_owner, relative_path=path)) or name
            )
        if owner != name:
            raise InvalidRequestError(
                "relative_path", f"the file {path} is that of store {owner}", store=name
            )


def check_ids(draft: Draft, connection: Connection) -> None:
    """Raise `InvalidRequestError` when an id of it is taken: they come from outside (factories,
    callers), so they are checked like any other input."""
    if batches.batch_id_is_known(connection, str(draft.batch_id)):
        raise _taken(draft)
    receipt_ids = [write.receipt_id for write in draft.writes]
    taken = batches.known_receipts(connection, receipt_ids)
    if taken or len(set(receipt_ids)) < len(receipt_ids):
        raise InvalidRequestError(
            "receipt_id_factory", f"it made {(taken or receipt_ids)[0]!r}, which is taken"
        )


def _taken(draft: Draft) -> InvalidRequestError:
    return InvalidRequestError("batch_id_factory", f"it made {draft.batch_id!r}, which is taken")
