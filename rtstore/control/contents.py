"""Contents in the database: first the redo log, after the commit the history of each store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import Connection, bindparam, exists, func, insert, literal_column, or_, select
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
from rtstore.model.arguments import NUMBER_MAX
from rtstore.model.envelope import content_hash, hash_of_pieces
from rtstore.model.records import Argument, ManifestEntry, PublishedFile, Record

_PIECE_BYTES = 1 << 20
_ALWAYS_VERIFIED_BYTES = 64 << 10
"""The largest content that is hashed wherever somebody asks whether it is there: that costs less
than finding its row."""


class Retention(Argument):
    """Limits of the history that is kept. A limit of None keeps everything.

    A runtime directory remembers the retention it was last opened with: see `RuntimeStore.open`.

    Current versions and open batches stay, however old; nothing else is dropped in their place. So
    does the batch that deleted a store, as long as one that wrote the store before stays. Up to an
    eighth more than the limits may stay for some batches, because history is dropped in chunks.
    """

    batches: int | None = Field(default=1_000, ge=1, le=NUMBER_MAX)
    """The number of committed and failed batches, with their receipts."""
    contents_per_store: int | None = Field(default=50, ge=1, le=NUMBER_MAX)
    """The number of committed contents of each store, including the current one."""
    content_bytes: int | None = Field(default=64 << 20, ge=1, le=NUMBER_MAX)
    """The bytes of the committed contents of each store, including the current one. It applies to
    each store, like `contents_per_store`: a large document does not push out the history of a small
    one. The default keeps 50 contents of up to 1.3 MB, and three of a document of 17 MB."""
    max_age: timedelta | None = Field(default=None, gt=timedelta(0))
    """The time since a batch ended, at most. Only the other limits drop younger batches."""
    thin_by_age: bool = False
    """Whether to thin what is older than an hour, so that a store that is always written keeps a
    past. Of each store, every content of the last hour stays, then the last one of each hour up
    to a day ago, and the last one of each day before that (hours and days of UTC).

    The other limits go on to count. `batches` and `contents_per_store` limit what is kept in full,
    beside what stands for an hour or a day. `content_bytes` and `max_age` limit all; of the bytes,
    what is kept in full takes at most half."""


KEEP_EVERYTHING = Retention(batches=None, contents_per_store=None, content_bytes=None)


class AlteredContentError(ValueError):
    """The bytes of a current entry are not those of its hash: somebody altered them."""


class Committed(Record):
    """The committed version of one store: its file and its content."""

    schema_name: str
    relative_path: str
    content_hash: str
    file_size: int
    mtime_ns: int
    batch_number: int
    has_content: bool
    """Whether the content is in the database."""


class StoreSize(Record):
    """What a store takes: its file, and its history in the database."""

    schema_name: str
    file_bytes: int
    """Of the committed version."""
    history_contents: int
    """The contents that are kept beside the current one."""
    history_bytes: int
    """The size of their files."""


def list_sizes(connection: Connection) -> list[StoreSize]:
    """Return the size of each store with a committed version. Works with a database of any
    revision."""
    return [StoreSize.model_validate(row) for row in _SELECT_SIZES.all(connection)]


def list_committed(connection: Connection) -> list[Committed]:
    """Return the committed version of each store. Works with a database of any revision."""
    return [Committed.model_validate(row) for row in _SELECT_COMMITTED.all(connection)]


def list_hashes(connection: Connection) -> Iterator[tuple[int, str, str, str]]:
    """Yield for every content, history included: number of its batch, its store, the hash in its
    receipt, and the hash that it has. Only a piece of a content is in memory at a time. Works with
    a database of any revision."""
    driver = driver_of(connection)
    for row, number, name, expected in driver.execute(_SELECT_RECEIPTS.sql):
        with driver.blobopen("store_contents", "content", row, readonly=True) as content:
            found = hash_of_pieces(iter(partial(content.read, _PIECE_BYTES), b""))
        yield number, name, expected, found


def insert_contents(connection: Connection, contents: Mapping[int, Mapping[str, bytes]]) -> None:
    """Log the bytes that batches write, by batch number and store name. They are JSON in UTF-8, and
    were checked before."""
    _INSERT_CONTENT.write(
        connection,
        *(
            {"batch_number": number, "schema_name": name, "content": content.decode("utf-8")}
            for number, content_of in contents.items()
            for name, content in content_of.items()
        ),
    )


def put_content(
    connection: Connection, batch_number: int, schema_name: str, content: bytes
) -> None:
    """Put a content into the log where it is missing, or was changed."""
    _PUT_CONTENT.run(
        connection,
        batch_number=batch_number,
        schema_name=schema_name,
        content=content.decode("utf-8"),
    )


def load_content(connection: Connection, batch_number: int, schema_name: str) -> bytes | None:
    """Return the bytes that a batch wrote to a store, or None when they are not in the database."""
    text = _SELECT_CONTENT.scalar(connection, number=batch_number, name=schema_name)
    return None if text is None else _bytes_of(text)


def contents_since(connection: Connection, batch_number: int, schema_name: str) -> list[bytes]:
    """Return the bytes that a batch and later ones wrote to a store, or planned to write."""
    rows = _SELECT_SINCE.all(connection, number=batch_number, name=schema_name)
    return [_bytes_of(row["content"]) for row in rows]


def is_beginning(connection: Connection, found: bytes, schema_name: str, current: int) -> bool:
    """Return whether bytes are a beginning of a version of a store, with zeros for the part that a
    loss of power took. `current` is the number of the batch of its entry, 0 without one.

    A beginning of an older version can only lack the last newline: any shorter one is not JSON. It
    is found by its hash, so its content need not be in the database.
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


def is_of_batch(
    connection: Connection,
    schema_name: str,
    found_hash: str,
    read: Callable[[], bytes | None],
    *,
    current: int | None,
    relative_path: str,
) -> bool:
    """Return whether a store's file, which is not what is committed, holds only bytes of a batch of
    the log: of an earlier one or a failed one, wholly or but for the end; or of one that wrote
    another store there, which had the file before. Nobody edited such a file.

    `current` is the number of the batch of its entry, None without one. `read` returns the bytes
    with that hash, or None where they are not to be had any more.
    """
    if batches.wrote_same_bytes(connection, schema_name, found_hash, but_not=current):
        return True
    if batches.wrote_for_another(connection, schema_name, relative_path, found_hash)[0]:
        return True
    found = read()
    if found is None:
        return False
    if left_by_another(connection, schema_name, relative_path, found, found_hash)[0]:
        return True
    if current is None:
        return holds(connection, found, found_hash, schema_name)
    return is_beginning(connection, found, schema_name, current)


def left_by_another(
    connection: Connection, schema_name: str, relative_path: str, found: bytes, found_hash: str
) -> tuple[bool, bool]:
    """Return whether a store's file holds only bytes that a batch wrote there for another store,
    which gave the file up: what that left, or what a loss of power brought back, wholly or in part,
    of one that was deleted. Return, too, whether the database has every byte, so that no copy is
    needed."""
    if not batches.has_deletions(connection):
        return False, False
    wrote, has_bytes = batches.wrote_for_another(connection, schema_name, relative_path, found_hash)
    if has_bytes:
        return True, True
    others = batches.deleted_at(connection, relative_path, but_not=schema_name)
    is_held = any(holds(connection, found, found_hash, other) for other in others)
    return wrote or is_held, is_held


def holds(connection: Connection, found: bytes, found_hash: str, schema_name: str) -> bool:
    """Return whether the database has every byte that a store's file held: a version of it, or a
    beginning of one, with zeros for the part that a loss of power took. A beginning of a version
    before the current one may lack only the last newline."""
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
    """Return the bytes of the current entries of some stores, by name. Omit a store without
    content in the database. Raises ValueError when the bytes do not match the entry's hash."""
    found = {}
    for name in names:
        row = _SELECT_CURRENT.first(connection, name=name)
        if row is not None:
            found[name] = _checked(name, row["content"], row["content_hash"])
    return found


def current_row(connection: Connection, name: str) -> tuple[bytes, Row] | None:
    """Return the bytes of a store's current entry, with file and identity of the entry, and the
    `batch_id`, `high_watermark` and `written_at` of its batch. Return None without committed
    content. Raises ValueError when the bytes do not match the entry's hash."""
    row = _SELECT_CURRENT_WITH_BATCH.first(connection, name=name)
    return None if row is None else (_checked(name, row["content"], row["content_hash"]), row)


def row_as_committed(connection: Connection, name: str) -> tuple[bytes, Row] | None:
    """Return what `current_row` does, but None for a content that somebody altered: it is lost, as
    if it were gone."""
    try:
        return current_row(connection, name)
    except AlteredContentError:
        return None


class EntriesFound(NamedTuple):
    """The entries, held against the contents and the receipts of their batches."""

    stores_with_content: frozenset[str]
    altered: tuple[str, ...]
    """See `altered_entries`."""


def stores_with_content(connection: Connection, *, verify: bool = False) -> frozenset[str]:
    """Return the stores whose committed content is in the database. One that somebody altered is
    not: its hash shows that. Of a large one only the size is asked, unless `verify`.

    Raises `CorruptDatabaseError` when the rows of the batch of an entry are gone.
    """
    return look_at_entries(connection, verify=verify).stores_with_content


def has_content_of(connection: Connection, entry: ManifestEntry) -> bool:
    """Return whether the content of an entry is in the database, with the entry's hash."""
    number, name = entry.batch_number, entry.schema_name
    row = {
        "content_row": _SELECT_CONTENT_ROW.scalar(connection, number=number, name=name),
        "content_hash": entry.content_hash,
    }
    return row["content_row"] is not None and _is_as_committed(connection, row, verify=True)


def altered_entries(connection: Connection) -> tuple[str, ...]:
    """Return the stores whose entry is not what its batch wrote, though the content in the database
    is: somebody altered the entry. Nothing is said of a database of an older revision."""
    if not batches.has_deletions(connection):
        return ()
    rows = _SELECT_ENTRIES.all(connection)
    return tuple(row["schema_name"] for row in rows if _is_altered(connection, row))


def look_at_entries(connection: Connection, *, verify: bool = False) -> EntriesFound:
    """Return `stores_with_content` and `altered_entries`, which are of the same rows."""
    rows = _SELECT_ENTRIES.all(connection)
    for row in rows:
        if not row["has_batch"]:
            path = connection.exec_driver_sql("PRAGMA database_list").one()[2]
            raise CorruptDatabaseError(
                Path(path),
                f"the rows of batch number {row['batch_number']}, which wrote "
                f"{row['schema_name']}, are gone: somebody edited the database",
            )
    with_content = frozenset(
        row["schema_name"]
        for row in rows
        if row["content_row"] is not None and _is_as_committed(connection, row, verify=verify)
    )
    altered = (row["schema_name"] for row in rows if _is_altered(connection, row))
    return EntriesFound(with_content, tuple(altered))


def _is_as_committed(connection: Connection, row: Row, *, verify: bool) -> bool:
    """Return whether a content has the hash of its row. One of the right size is taken for it where
    it is large, unless `verify`; a size alone proves nothing against it."""
    driver, number = driver_of(connection), row["content_row"]
    with driver.blobopen("store_contents", "content", number, readonly=True) as content:
        is_large = len(content) > _ALWAYS_VERIFIED_BYTES
        if is_large and not verify and len(content) == row["file_size"]:
            return True
        found = hash_of_pieces(iter(partial(content.read, _PIECE_BYTES), b""))
        return bool(found == row["content_hash"])


def _is_altered(connection: Connection, row: Row) -> bool:
    """Return whether an entry differs from its receipt, whose hash and size its content has."""
    if not row["differs"] or row["content_row"] is None:
        return False
    found = _SELECT_RECEIPT.first(connection, number=row["batch_number"], name=row["schema_name"])
    received = {**row, **(found or {})}
    driver, number = driver_of(connection), row["content_row"]
    with driver.blobopen("store_contents", "content", number, readonly=True) as content:
        if len(content) != received["file_size"]:
            return False
    return _is_as_committed(connection, received, verify=True)


def _checked(schema_name: str, text: str, expected_hash: str) -> bytes:
    """Return the bytes of a content. Raises `AlteredContentError` unless they match the entry:
    SQLite has no checksums of its own, and a damaged page may still hold valid JSON."""
    content = _bytes_of(text)
    if content_hash(content) != expected_hash:
        raise AlteredContentError(f"the committed content of {schema_name} was changed")
    return content


def _bytes_of(text: object) -> bytes:
    """Return a text as bytes. Raises ValueError for any other type: the row is damaged."""
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
_SELECT_CONTENT_ROW = Statement(
    select(literal_column("store_contents.rowid"))
    .select_from(store_contents)
    .where(
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
        manifest_entries.c.content_hash,
        manifest_entries.c.file_size,
        select(literal_column("store_contents.rowid"))
        .select_from(store_contents)
        .where(_IS_CURRENT)
        .correlate(manifest_entries)
        .scalar_subquery()
        .label("content_row"),
        batch_writes.c.batch_number.is_not(None).label("has_batch"),
        or_(
            *(
                batch_writes.c[name] != manifest_entries.c[name]
                for name in ("content_hash", "file_size", "schema_version")
            )
        ).label("differs"),
    )
    .select_from(manifest_entries)
    .outerjoin(
        batch_writes,
        (batch_writes.c.batch_number == manifest_entries.c.batch_number)
        & (batch_writes.c.schema_name == manifest_entries.c.schema_name),
    )
    .order_by(manifest_entries.c.schema_name)
)

_SELECT_RECEIPT = Statement(
    select(batch_writes.c.content_hash, batch_writes.c.file_size).where(
        batch_writes.c.batch_number == bindparam("number"),
        batch_writes.c.schema_name == bindparam("name"),
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
_SELECT_SIZES = Statement(
    select(
        manifest_entries.c.schema_name,
        manifest_entries.c.file_size.label("file_bytes"),
        func.count(batch_writes.c.batch_number).label("history_contents"),
        func.coalesce(func.sum(batch_writes.c.file_size), 0).label("history_bytes"),
    )
    .select_from(manifest_entries)
    .outerjoin(
        store_contents,
        (store_contents.c.schema_name == manifest_entries.c.schema_name)
        & (store_contents.c.batch_number != manifest_entries.c.batch_number),
    )
    .outerjoin(
        batch_writes,
        (batch_writes.c.batch_number == store_contents.c.batch_number)
        & (batch_writes.c.schema_name == store_contents.c.schema_name),
    )
    .group_by(manifest_entries.c.schema_name)
)
_SELECT_RECEIPTS = Statement(
    select(
        literal_column("store_contents.rowid"),
        store_contents.c.batch_number,
        store_contents.c.schema_name,
        batch_writes.c.content_hash,
    ).join(
        batch_writes,
        (batch_writes.c.batch_number == store_contents.c.batch_number)
        & (batch_writes.c.schema_name == store_contents.c.schema_name),
    )
)
