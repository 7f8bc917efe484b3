"""Committed contents: the redo log first, the history of each store after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import Field
from sqlalchemy import Connection, bindparam, delete, exists, insert, or_, select

from rtstore.database.schema import (
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.database.statements import Row, Statement, driver_of
from rtstore.envelope import content_hash
from rtstore.records import LoggedBatch, PublishedFile, Record
from rtstore.times import format_time

_BITE = 8
"""About how many rows of history one batch drops at most, so that none ever pays for all of it."""

_NUMBER_MAX = 2**63 - 1
"""The largest that SQLite holds."""

_SPARE_PAGES = 256
"""Free pages that stay in the file: 1 MiB at SQLite's page size of 4 KiB."""

_PAGES_AT_ONCE = 32
"""How many of them one batch gives back at most."""


class Retention(Record):
    """How much history is kept. None keeps everything.

    A runtime directory remembers what it was opened with last: see `RuntimeStore.open`.

    The content of every current entry stays, however old, and so does its batch. An eighth more
    than the limits may be there for some batches: it is dropped in bites.
    """

    batches: int | None = Field(default=1_000, ge=1, le=_NUMBER_MAX)
    """Committed and failed batches, with their receipts."""
    contents_per_store: int | None = Field(default=50, ge=1, le=_NUMBER_MAX)
    """Committed contents of each store, the current one included."""
    max_age: timedelta | None = Field(default=None, gt=timedelta(0))
    """How long ago a batch may have ended; younger ones are dropped by the other limits only."""


KEEP_EVERYTHING = Retention(batches=None, contents_per_store=None)


class Bites:
    """When history is dropped: not with every batch, for what is old enough after some batches lies
    on the same pages of the database, and goes for hardly more than what is after one.

    The first batches of a process drop some each: there may be no more of them. Age is looked at
    with every batch: who sets it has a reason.
    """

    def __init__(self, retention: Retention) -> None:
        limits = (retention.batches, retention.contents_per_store)
        smallest = min(limit for limit in (*limits, 8 * _BITE) if limit is not None)
        # So that an eighth too much is there at most.
        self._every = max(1, smallest // 8) if retention.max_age is None else 1
        self._first = self._every
        """How many of the first batches are still to come."""
        self._batches = 0
        self._names: list[str] = []

    def due(self, logged: Sequence[LoggedBatch]) -> list[str]:
        """The stores whose history is to be dropped now that these batches are written, once for
        each batch that wrote them; none where it can wait."""
        self._batches += len(logged)
        self._names += [write.schema_name for item in logged for write in item.writes]
        self._first -= 1
        if self._batches < self._every and self._first < 0:
            return []
        due, self._names, self._batches = self._names, [], 0
        return due


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


def load_content(connection: Connection, batch_number: int, schema_name: str) -> bytes | None:
    """The bytes of a store as of the batch that wrote it, or None when they are not here."""
    text = _SELECT_CONTENT.scalar(connection, number=batch_number, name=schema_name)
    return None if text is None else _bytes_of(text)


def contents_since(connection: Connection, batch_number: int, schema_name: str) -> list[bytes]:
    """The bytes that a batch and those after it wrote to a store, or were to write."""
    rows = _SELECT_SINCE.all(connection, number=batch_number, name=schema_name)
    return [_bytes_of(row["content"]) for row in rows]


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
    """The stores whose committed content is in the database."""
    return frozenset(row["schema_name"] for row in _SELECT_WITH_CONTENT.all(connection))


def prune(
    connection: Connection,
    retention: Retention,
    names: Sequence[str],
    newest: int,
    now: datetime,
) -> None:
    """Drop history beyond the retention: a bite of it, of the stores just written.

    `names` are those stores, once for each batch that wrote them; `newest` is the number of the
    last of these batches, `now` its time. What a manifest entry refers to is kept.
    """
    if retention.contents_per_store is not None:
        keep = retention.contents_per_store
        _DELETE_OLD_CONTENTS.run_many(
            connection,
            [
                {"name": name, "newer": keep - 1, "bite": _BITE * times}
                for name, times in Counter(names).items()
            ],
        )
    bite = max(_BITE, 2 * len(names))
    if retention.batches is not None and newest > retention.batches:
        _DELETE_OLD_BATCHES.run(connection, before=newest - retention.batches, bite=bite)
    if retention.max_age is not None and now.timestamp() > retention.max_age.total_seconds():
        oldest = format_time(now - retention.max_age)
        _DELETE_AGED_BATCHES.run(connection, before=newest, oldest=oldest, bite=bite)


def give_back(connection: Connection) -> None:
    """Return a bite of the space that dropped history left, where there is much of it.

    What little there is, the next batches fill again; so in the steady state nothing is moved.
    """
    driver = driver_of(connection)
    free = driver.execute("PRAGMA freelist_count").fetchone()[0]
    if free <= _SPARE_PAGES:
        return
    if free > driver.execute("PRAGMA page_count").fetchone()[0] // 4:
        for _ in range(_PAGES_AT_ONCE):
            # One page a call: the driver takes a single step of a statement without columns.
            driver.execute("PRAGMA incremental_vacuum(1)")


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
_SELECT_CONTENT = Statement(
    select(store_contents.c.content).where(
        store_contents.c.batch_number == bindparam("number"),
        store_contents.c.schema_name == bindparam("name"),
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
_SELECT_WITH_CONTENT = Statement(
    select(manifest_entries.c.schema_name).where(
        exists().where(_IS_CURRENT).correlate(manifest_entries)
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

# Found in the primary key (schema_name, batch_number) alone, so it costs little however large the
# contents are. A store has no more than `keep` contents and what a smaller retention left behind.
_kept = store_contents.alias("kept")
_oldest_kept = (
    select(_kept.c.batch_number)
    .where(_kept.c.schema_name == bindparam("name"))
    .order_by(_kept.c.batch_number.desc())
    .limit(1)
    .offset(bindparam("newer"))
    .scalar_subquery()
)
_candidate = store_contents.alias("candidate")
_old_contents = (
    select(_candidate.c.batch_number)
    .where(_candidate.c.schema_name == bindparam("name"), _candidate.c.batch_number < _oldest_kept)
    .order_by(_candidate.c.batch_number)
    .limit(bindparam("bite"))
)
_DELETE_OLD_CONTENTS = Statement(
    delete(store_contents).where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number.in_(_old_contents),
        ~exists().where(_IS_CURRENT).correlate(store_contents),
    )
)
_droppable = (
    select(write_batches.c.batch_number, write_batches.c.completed_at)
    .where(
        or_(write_batches.c.state == "committed", write_batches.c.state == "failed"),
        ~exists()
        .where(manifest_entries.c.batch_number == write_batches.c.batch_number)
        .correlate(write_batches),
    )
    .where(write_batches.c.batch_number <= bindparam("before"))
    .order_by(write_batches.c.batch_number)
    .limit(bindparam("bite"))
)
_old_batches = _droppable.with_only_columns(write_batches.c.batch_number)
# Only the oldest are asked for their age: batches carry times in order.
_oldest = _droppable.subquery()
_aged_batches = select(_oldest.c.batch_number).where(_oldest.c.completed_at < bindparam("oldest"))
_DELETE_AGED_BATCHES = Statement(
    delete(write_batches).where(write_batches.c.batch_number.in_(_aged_batches))
)
_DELETE_OLD_BATCHES = Statement(
    delete(write_batches).where(write_batches.c.batch_number.in_(_old_batches))
)
