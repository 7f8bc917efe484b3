"""Committed contents: the redo log first, the history of each store after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import Field
from sqlalchemy import Connection, bindparam, exists, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from rtstore.control import batches
from rtstore.control.schema import (
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.statements import Row, Statement, driver_of
from rtstore.errors import CorruptDatabaseError
from rtstore.model.envelope import content_hash
from rtstore.model.records import Argument, PublishedFile, Record

NUMBER_MAX = 2**63 - 1
"""The largest that SQLite holds."""


class Retention(Argument):
    """How much history is kept. None keeps everything.

    A runtime directory remembers what it was opened with last: see `RuntimeStore.open`.

    What is current or open stays, however old, and counts for nothing else. An eighth more than the
    limits may be there for some batches: it is dropped in chunks.
    """

    batches: int | None = Field(default=1_000, ge=1, le=NUMBER_MAX)
    """Committed and failed batches, with their receipts."""
    contents_per_store: int | None = Field(default=50, ge=1, le=NUMBER_MAX)
    """Committed contents of each store, the current one included."""
    content_bytes: int | None = Field(default=64 << 20, ge=1, le=NUMBER_MAX)
    """Bytes of the committed contents of each store, the current one included. For each store, as
    `contents_per_store` is: a large document does not push out the history of a small one. The
    default keeps 50 contents of up to 1.3 MB, and three of a document of 17 MB."""
    max_age: timedelta | None = Field(default=None, gt=timedelta(0))
    """How long ago a batch may have ended; younger ones are dropped by the other limits only."""


KEEP_EVERYTHING = Retention(batches=None, contents_per_store=None, content_bytes=None)


class Committed(Record):
    """What is committed for one store: where its file and its content are."""

    schema_name: str
    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int
    batch_number: int
    has_content: bool
    """Whether the content is in the database."""


def list_committed(connection: Connection) -> list[Committed]:
    """What is committed, store by store; of a database of any revision."""
    return [Committed.model_validate(row) for row in _SELECT_COMMITTED.all(connection)]


def list_contents(connection: Connection) -> Iterator[tuple[int, str, str, bytes]]:
    """Every content, history included: its batch, its store, the hash that its receipt has, and its
    bytes. One at a time; of a database of any revision."""
    for number, name, expected, text in driver_of(connection).execute(_SELECT_CONTENTS.sql):
        yield number, name, expected, _bytes_of(text)


def insert_contents(connection: Connection, contents: Mapping[int, Mapping[str, bytes]]) -> None:
    """Log the bytes that batches write, by batch number and store name. They are UTF-8: JSON,
    checked before."""
    _INSERT_CONTENT.run_many(
        connection,
        [
            {"batch_number": number, "schema_name": name, "content": content.decode("utf-8")}
            for number, content_of in contents.items()
            for name, content in content_of.items()
        ],
    )


def put_content(
    connection: Connection, batch_number: int, schema_name: str, content: bytes
) -> None:
    """Put a content into the log that is missing there, or was changed."""
    _PUT_CONTENT.run(
        connection,
        batch_number=batch_number,
        schema_name=schema_name,
        content=content.decode("utf-8"),
    )


def load_content(connection: Connection, batch_number: int, schema_name: str) -> bytes | None:
    """The bytes of a store as of the batch that wrote it, or None when they are not here."""
    text = _SELECT_CONTENT.scalar(connection, number=batch_number, name=schema_name)
    return None if text is None else _bytes_of(text)


def contents_since(connection: Connection, batch_number: int, schema_name: str) -> list[bytes]:
    """The bytes that a batch and those after it wrote to a store, or were to write."""
    rows = _SELECT_SINCE.all(connection, number=batch_number, name=schema_name)
    return [_bytes_of(row["content"]) for row in rows]


def is_beginning(connection: Connection, found: bytes, schema_name: str, current: int) -> bool:
    """Whether bytes are a beginning of what a batch wrote to a store, with zeros for what a loss of
    power took. `current` is the batch of its entry, 0 without one.

    Of older versions the one that is looked for lacks its last newline: any other is no JSON. It is
    known by its hash, wherever its content is.
    """
    whole = found.rstrip(b"\0")
    for newline in (b"\n", b"\r\n"):
        if batches.wrote_same_bytes(
            connection, schema_name, content_hash(whole + newline), but_not=None
        ):
            return True
    return any(
        content.startswith(whole) for content in contents_since(connection, current, schema_name)
    )


def holds(connection: Connection, found: bytes, found_hash: str, schema_name: str) -> bool:
    """Whether the database has every byte of what a store's file held: a version of it, or the
    beginning of one, with zeros for what a loss of power took. Of versions before the current one,
    all but the last newline."""
    whole = found.rstrip(b"\0")
    return (
        batches.has_bytes(connection, schema_name, found_hash)
        or batches.has_bytes(connection, schema_name, content_hash(whole + b"\n"))
        or any(
            content.startswith(whole)
            for content in contents_since(
                connection, _SELECT_NUMBER.scalar(connection, name=schema_name) or 0, schema_name
            )
        )
    )


def current_contents(connection: Connection, names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of the current entries of some stores; absent where they are not here."""
    found = {}
    for name in names:
        row = _SELECT_CURRENT.first(connection, name=name)
        if row is not None:
            found[name] = _checked(name, row["content"], row["content_hash"])
    return found


def current_row(connection: Connection, name: str) -> tuple[bytes, Row] | None:
    """The bytes of a store's current entry, with file and identity of the entry, and `batch_id`,
    `high_watermark` and `written_at` of its batch; None without committed content."""
    row = _SELECT_CURRENT_WITH_BATCH.first(connection, name=name)
    return None if row is None else (_checked(name, row["content"], row["content_hash"]), row)


def stores_with_content(connection: Connection) -> frozenset[str]:
    """The stores whose committed content is in the database.

    Raises `CorruptDatabaseError` where the rows of the batch of an entry are gone.
    """
    rows = _SELECT_ENTRIES.all(connection)
    for row in rows:
        if not row["has_batch"]:
            path = connection.exec_driver_sql("PRAGMA database_list").one()[2]
            raise CorruptDatabaseError(
                Path(path),
                f"the rows of batch number {row['batch_number']}, which wrote "
                f"{row['schema_name']}, are gone: somebody edited the database",
            )
    return frozenset(row["schema_name"] for row in rows if row["has_content"])


def _checked(schema_name: str, text: str, expected_hash: str) -> bytes:
    """The bytes of a content, which are what its entry says: SQLite has no checksums of its own,
    and a damaged page may still hold valid JSON."""
    content = _bytes_of(text)
    if content_hash(content) != expected_hash:
        raise ValueError(f"the committed content of {schema_name} was changed")
    return content


def _bytes_of(text: object) -> bytes:
    """Raises ValueError for what is no text: the row is damaged."""
    if not isinstance(text, str):
        raise ValueError(f"a content is {type(text).__name__}, and no text")
    return text.encode("utf-8")


# --- statements ---------------------------------------------------------------------------------

_INSERT_CONTENT = Statement(insert(store_contents))
_put = sqlite_insert(store_contents)
_PUT_CONTENT = Statement(
    _put.on_conflict_do_update(
        index_elements=[store_contents.c.schema_name, store_contents.c.batch_number],
        set_={"content": _put.excluded.content},
    )
)
_SELECT_CONTENT = Statement(
    select(store_contents.c.content).where(
        store_contents.c.batch_number == bindparam("number"),
        store_contents.c.schema_name == bindparam("name"),
    )
)
_SELECT_NUMBER = Statement(
    select(manifest_entries.c.batch_number).where(
        manifest_entries.c.schema_name == bindparam("name")
    )
)
_SELECT_SINCE = Statement(
    select(store_contents.c.content).where(
        store_contents.c.batch_number >= bindparam("number"),
        store_contents.c.schema_name == bindparam("name"),
    )
)
_IS_CURRENT = (store_contents.c.batch_number == manifest_entries.c.batch_number) & (
    store_contents.c.schema_name == manifest_entries.c.schema_name
)
_SELECT_CURRENT = Statement(
    select(store_contents.c.content, manifest_entries.c.content_hash)
    .join(manifest_entries, _IS_CURRENT)
    .where(manifest_entries.c.schema_name == bindparam("name"))
)
_SELECT_CURRENT_WITH_BATCH = Statement(
    select(
        *(manifest_entries.c[field] for field in PublishedFile._fields),
        manifest_entries.c.run_id,
        manifest_entries.c.capability_snapshot_id,
        manifest_entries.c.behavior_fingerprint,
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
    .where(manifest_entries.c.schema_name == bindparam("name"))
)
_SELECT_ENTRIES = Statement(
    select(
        manifest_entries.c.schema_name,
        manifest_entries.c.batch_number,
        exists().where(_IS_CURRENT).correlate(manifest_entries).label("has_content"),
        exists()
        .where(
            (batch_writes.c.batch_number == manifest_entries.c.batch_number)
            & (batch_writes.c.schema_name == manifest_entries.c.schema_name)
        )
        .correlate(manifest_entries)
        .label("has_batch"),
    )
)

_SELECT_COMMITTED = Statement(
    select(
        manifest_entries.c.schema_name,
        manifest_entries.c.relative_path,
        manifest_entries.c.content_hash,
        manifest_entries.c.file_size,
        manifest_entries.c.mtime_ns,
        manifest_entries.c.batch_number,
        exists().where(_IS_CURRENT).correlate(manifest_entries).label("has_content"),
    ).order_by(manifest_entries.c.schema_name)
)
_SELECT_CONTENTS = Statement(
    select(
        store_contents.c.batch_number,
        store_contents.c.schema_name,
        batch_writes.c.content_hash,
        store_contents.c.content,
    ).join(
        batch_writes,
        (batch_writes.c.batch_number == store_contents.c.batch_number)
        & (batch_writes.c.schema_name == store_contents.c.schema_name),
    )
)
