"""Committed contents: the redo log first, the history of each store after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field
from sqlalchemy import Connection, bindparam, delete, exists, insert, select

from rtstore.database.schema import (
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.records import ManifestEntry, Record

_BITE = 8
"""How many rows of history one batch drops at most, so that no batch ever pays for all of it."""


class Retention(Record):
    """How much history is kept. None keeps everything.

    The content of every current entry stays, however old, and so does its batch.
    """

    batches: int | None = Field(default=1_000, ge=1)
    """Committed and failed batches, with their receipts."""
    contents_per_store: int | None = Field(default=50, ge=1)
    """Committed contents of each store, the current one included."""


KEEP_EVERYTHING = Retention(batches=None, contents_per_store=None)


class WrittenBy(Record):
    """The batch that wrote a current entry."""

    batch_id: str
    high_watermark: int | None
    written_at: str


def insert_contents(
    connection: Connection, batch_number: int, contents: Mapping[str, bytes]
) -> None:
    """Log the bytes that a batch writes, by store name. They are UTF-8: JSON, checked before."""
    rows = [
        {"batch_number": batch_number, "schema_name": name, "content": content.decode("utf-8")}
        for name, content in contents.items()
    ]
    if rows:
        connection.execute(insert(store_contents), rows)


def load_content(connection: Connection, batch_number: int, schema_name: str) -> bytes | None:
    """The bytes of a store as of the batch that wrote it, or None when they are not here."""
    text = connection.execute(
        _SELECT_CONTENT, {"number": batch_number, "name": schema_name}
    ).scalar_one_or_none()
    return None if text is None else text.encode("utf-8")


def current_contents(connection: Connection, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of the current entries of some stores; absent where they are not here."""
    rows = connection.execute(_SELECT_CURRENT, {"names": list(names)})
    return {row.schema_name: row.content.encode("utf-8") for row in rows}


def current_with_batch(
    connection: Connection, names: Sequence[str]
) -> Iterator[tuple[str, bytes, ManifestEntry, WrittenBy]]:
    """The bytes of the current entries of some stores, each with its entry and its batch; a store
    without committed content is absent."""
    rows = connection.execute(_SELECT_CURRENT_WITH_BATCH, {"names": list(names)}).mappings()
    for row in rows:
        values = dict(row)
        written_by = WrittenBy(
            batch_id=values.pop("batch_id"),
            high_watermark=values.pop("high_watermark"),
            written_at=values.pop("written_at"),
        )
        content = values.pop("content").encode("utf-8")
        yield row["schema_name"], content, ManifestEntry.model_validate(values), written_by


def stores_with_content(connection: Connection) -> frozenset[str]:
    """The stores whose committed content is in the database."""
    return frozenset(connection.execute(_SELECT_WITH_CONTENT).scalars())


def prune(connection: Connection, retention: Retention, names: Sequence[str], newest: int) -> None:
    """Drop history beyond the retention: a bite of it, of the stores just written.

    `newest` is the number of the batch just written. What a manifest entry refers to is kept.
    """
    if retention.contents_per_store is not None:
        for name in names:
            connection.execute(
                _DELETE_OLD_CONTENTS,
                {"name": name, "keep": retention.contents_per_store, "bite": _BITE},
            )
    if retention.batches is not None and newest > retention.batches:
        connection.execute(
            _DELETE_OLD_BATCHES, {"before": newest - retention.batches, "bite": _BITE}
        )


# --- statements ---------------------------------------------------------------------------------

_SELECT_CONTENT = select(store_contents.c.content).where(
    store_contents.c.batch_number == bindparam("number"),
    store_contents.c.schema_name == bindparam("name"),
)
_IS_CURRENT = (store_contents.c.batch_number == manifest_entries.c.batch_number) & (
    store_contents.c.schema_name == manifest_entries.c.schema_name
)
_SELECT_CURRENT = (
    select(store_contents.c.schema_name, store_contents.c.content)
    .join(manifest_entries, _IS_CURRENT)
    .where(manifest_entries.c.schema_name.in_(bindparam("names", expanding=True)))
)
_SELECT_CURRENT_WITH_BATCH = (
    select(
        manifest_entries,
        store_contents.c.content,
        write_batches.c.batch_id,
        write_batches.c.high_watermark,
        batch_writes.c.written_at,
    )
    .join(store_contents, _IS_CURRENT)
    .join(write_batches, write_batches.c.batch_number == manifest_entries.c.batch_number)
    .join(
        batch_writes,
        (batch_writes.c.batch_number == manifest_entries.c.batch_number)
        & (batch_writes.c.schema_name == manifest_entries.c.schema_name),
    )
    .where(manifest_entries.c.schema_name.in_(bindparam("names", expanding=True)))
)
_SELECT_WITH_CONTENT = select(manifest_entries.c.schema_name).where(
    exists().where(_IS_CURRENT).correlate(manifest_entries)
)

# Found in the primary key (schema_name, batch_number) alone, so it costs little however large the
# contents are. A store has no more than `keep` contents and what a smaller retention left behind.
_kept = store_contents.alias("kept")
_oldest_kept = (
    select(_kept.c.batch_number)
    .where(_kept.c.schema_name == bindparam("name"))
    .order_by(_kept.c.batch_number.desc())
    .limit(1)
    .offset(bindparam("keep") - 1)
    .scalar_subquery()
)
_candidate = store_contents.alias("candidate")
_old_contents = (
    select(_candidate.c.batch_number)
    .where(_candidate.c.schema_name == bindparam("name"), _candidate.c.batch_number < _oldest_kept)
    .order_by(_candidate.c.batch_number)
    .limit(bindparam("bite"))
)
_DELETE_OLD_CONTENTS = delete(store_contents).where(
    store_contents.c.schema_name == bindparam("name"),
    store_contents.c.batch_number.in_(_old_contents),
    ~exists().where(_IS_CURRENT).correlate(store_contents),
)
_old_batches = (
    select(write_batches.c.batch_number)
    .where(
        write_batches.c.batch_number <= bindparam("before"),
        write_batches.c.state.in_(["committed", "failed"]),
        ~exists()
        .where(manifest_entries.c.batch_number == write_batches.c.batch_number)
        .correlate(write_batches),
    )
    .order_by(write_batches.c.batch_number)
    .limit(bindparam("bite"))
)
_DELETE_OLD_BATCHES = delete(write_batches).where(write_batches.c.batch_number.in_(_old_batches))
