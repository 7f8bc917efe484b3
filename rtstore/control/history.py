"""Read the versions of a store, as far back as the retention goes."""

from __future__ import annotations

from operator import itemgetter

from sqlalchemy import Connection, bindparam, exists, func, literal, select

from rtstore.control.schema import (
    batch_deletions,
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.statements import Statement, open_limit
from rtstore.model.records import BatchOrigin, ReasonName, Record
from rtstore.model.times import Timestamp


class StoreVersion(Record):
    """One committed version of a store, or a deletion of it (`is_deletion`)."""

    batch_number: int
    batch_id: str
    high_watermark: int | None
    """Of its batch; None when an import does not know it."""
    reason: ReasonName
    run_id: str | None
    capability_snapshot_id: str | None
    behavior_fingerprint: str | None
    written_at: Timestamp
    content_hash: str
    """Of a deletion: the hash of the version that was deleted."""
    file_size: int
    """The size of its file, in bytes; 0 of a deletion."""
    is_current: bool
    """Whether it is the version that is committed now; never so of a deletion."""
    has_content: bool
    """Whether it can be read: its content is within the retention. A deletion has none."""
    is_deletion: bool = False
    """Whether its batch deleted the store: it had no file and no content from then on."""


class Point(Record):
    """A committed batch, as a point in time to look back to."""

    batch_number: int
    batch_id: str
    high_watermark: int | None


def list_versions(connection: Connection, name: str, limit: int | None) -> list[StoreVersion]:
    """Return the newest `limit` committed versions and deletions of a store, or all, newest
    first."""
    count = -1 if limit is None else limit
    rows = _SELECT_VERSIONS.all(connection, name=name, limit=count)
    if deletions := _SELECT_DELETIONS.all(connection, name=name, limit=count):
        rows = sorted(rows + deletions, key=itemgetter("batch_number"), reverse=True)[:limit]
    return [StoreVersion.model_validate(row) for row in rows]


def version_at(connection: Connection, name: str, batch_number: int) -> StoreVersion | None:
    """Return the newest committed version of a store up to a batch, or the deletion after it; None
    when there is neither."""
    row = _SELECT_VERSION_AT.first(connection, name=name, number=batch_number)
    deletion = _SELECT_DELETION_AT.first(connection, name=name, number=batch_number)
    if deletion is not None and (row is None or row["batch_number"] < deletion["batch_number"]):
        row = deletion
    return None if row is None else StoreVersion.model_validate(row)


def point_of_batch(connection: Connection, batch_id: str) -> Point | None:
    """Return the committed batch with an id, or None."""
    return _point(_SELECT_BATCH.first(connection, batch_id=batch_id))


def point_of_store(connection: Connection, name: str) -> Point | None:
    """Return the batch that wrote the current version of a store, or None when nothing is committed
    for it."""
    return _point(_SELECT_OF_STORE.first(connection, name=name))


def point_of_watermark(connection: Connection, high_watermark: int) -> Point | None:
    """Return the committed batch with a high watermark, or None."""
    return _point(_SELECT_WATERMARK.first(connection, high_watermark=high_watermark))


def point_of_time(connection: Connection, moment: str) -> Point | None:
    """Return the last batch committed up to a time, or None. The times of batches are in order."""
    return _point(_SELECT_TIME.first(connection, moment=moment))


def last_committed(connection: Connection) -> Point | None:
    """Return the last committed batch, or None."""
    return _point(_SELECT_LAST.first(connection))


def all_are_there(connection: Connection, after: int, until: int) -> bool:
    """Return whether the history has every batch numbered from `after` + 1 to `until`. Numbers have
    no gaps, so a missing batch was pruned."""
    found = _COUNT.scalar(connection, after=after, until=until)
    return bool(found == until - after)


def is_whole(connection: Connection) -> bool:
    """Return whether the history has every batch from the first on, and none was imported. Only
    then a store without any version was never written."""
    last = _LAST.scalar(connection) or 0
    return bool(_COUNT_WRITTEN.scalar(connection) == last)


def next_is_there(connection: Connection, batch_number: int) -> bool:
    """Return whether the next batch was not pruned: it is there, or this batch is the last."""
    last = _LAST.scalar(connection)
    return bool(batch_number == last) or all_are_there(connection, batch_number, batch_number + 1)


def _point(row: dict[str, object] | None) -> Point | None:
    return None if row is None else Point.model_validate(row)


# --- statements ---------------------------------------------------------------------------------

_IS_CURRENT = (manifest_entries.c.schema_name == batch_writes.c.schema_name) & (
    manifest_entries.c.batch_number == batch_writes.c.batch_number
)
_HAS_CONTENT = (store_contents.c.schema_name == batch_writes.c.schema_name) & (
    store_contents.c.batch_number == batch_writes.c.batch_number
)
_VERSIONS = (
    select(
        write_batches.c.batch_number,
        write_batches.c.batch_id,
        write_batches.c.high_watermark,
        write_batches.c.reason,
        write_batches.c.run_id,
        write_batches.c.capability_snapshot_id,
        write_batches.c.behavior_fingerprint,
        batch_writes.c.written_at,
        batch_writes.c.content_hash,
        batch_writes.c.file_size,
        exists().where(_IS_CURRENT).correlate(batch_writes).label("is_current"),
        exists().where(_HAS_CONTENT).correlate(batch_writes).label("has_content"),
    )
    .join(write_batches, write_batches.c.batch_number == batch_writes.c.batch_number)
    .where(
        batch_writes.c.schema_name == bindparam("name"),
        write_batches.c.state == "committed",
    )
    .order_by(batch_writes.c.batch_number.desc())
)
_SELECT_VERSIONS = Statement(_VERSIONS.limit(open_limit("limit")))
_SELECT_VERSION_AT = Statement(
    _VERSIONS.where(batch_writes.c.batch_number <= bindparam("number")).limit(1)
)
_DELETIONS = (
    select(
        write_batches.c.batch_number,
        write_batches.c.batch_id,
        write_batches.c.high_watermark,
        write_batches.c.reason,
        write_batches.c.run_id,
        write_batches.c.capability_snapshot_id,
        write_batches.c.behavior_fingerprint,
        batch_deletions.c.deleted_at.label("written_at"),
        batch_deletions.c.content_hash,
        literal(0).label("file_size"),
        literal(0).label("is_current"),
        literal(0).label("has_content"),
        literal(1).label("is_deletion"),
    )
    .join(write_batches, write_batches.c.batch_number == batch_deletions.c.batch_number)
    .where(
        batch_deletions.c.schema_name == bindparam("name"),
        write_batches.c.state == "committed",
    )
    .order_by(batch_deletions.c.batch_number.desc())
)
_SELECT_DELETIONS = Statement(_DELETIONS.limit(open_limit("limit")))
_SELECT_DELETION_AT = Statement(
    _DELETIONS.where(batch_deletions.c.batch_number <= bindparam("number")).limit(1)
)
_BATCH = select(
    write_batches.c.batch_number, write_batches.c.batch_id, write_batches.c.high_watermark
).where(write_batches.c.state == "committed")
_SELECT_BATCH = Statement(_BATCH.where(write_batches.c.batch_id == bindparam("batch_id")))
_SELECT_OF_STORE = Statement(
    _BATCH.join(
        manifest_entries, manifest_entries.c.batch_number == write_batches.c.batch_number
    ).where(manifest_entries.c.schema_name == bindparam("name"))
)
_SELECT_WATERMARK = Statement(
    _BATCH.where(write_batches.c.high_watermark == bindparam("high_watermark"))
    .order_by(write_batches.c.batch_number.desc())
    .limit(1)
)
_SELECT_TIME = Statement(
    _BATCH.where(write_batches.c.completed_at <= bindparam("moment"))
    .order_by(write_batches.c.batch_number.desc())
    .limit(1)
)
_SELECT_LAST = Statement(_BATCH.order_by(write_batches.c.batch_number.desc()).limit(1))
_COUNT = Statement(
    select(func.count())
    .select_from(write_batches)
    .where(
        write_batches.c.batch_number > bindparam("after"),
        write_batches.c.batch_number <= bindparam("until"),
    )
)
_COUNT_WRITTEN = Statement(
    select(func.count())
    .select_from(write_batches)
    .where(write_batches.c.origin == BatchOrigin.WRITTEN.value)
)
_LAST = Statement(select(func.max(write_batches.c.batch_number)))
