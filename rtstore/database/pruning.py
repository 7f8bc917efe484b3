"""History beyond a retention: how much there is, and dropping it in bites.

A batch drops a bite of what its own stores have too much of (`contents.prune`); here all of it is
found. What a manifest entry refers to, open batches, and the newest batch always stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
)

from rtstore.database.contents import Retention
from rtstore.database.schema import batch_writes, manifest_entries, store_contents, write_batches
from rtstore.database.statements import Row, Statement, driver_of
from rtstore.times import format_time

_ROWS_AT_ONCE = 200
_BYTES_AT_ONCE = 8 << 20
_PAGES_AT_ONCE = 256
"""A bite is a fraction of a second, however large the contents are: a writer waits no longer."""


class Limits(NamedTuple):
    """A retention held against a history as it was at one moment."""

    newest: int
    """The number of the newest batch."""
    last_dropped: int
    """Batches up to this number go for their number."""
    oldest: str
    """Batches that ended before this time go for their age."""
    oldest_kept: Mapping[str, int]
    """By store, the number of the batch from which on its contents stay."""


class Excess(NamedTuple):
    """Rows of the history, and how many bytes of contents there are in them."""

    batches: int = 0
    contents: int = 0
    content_bytes: int = 0

    def plus(self, other: Excess) -> Excess:
        """Both together."""
        return Excess(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Bite(NamedTuple):
    """What one transaction dropped, and where the next one goes on."""

    dropped: Excess
    last: int | None
    """The number of the last batch that it came to; None when there was nothing left."""


def limits_of(connection: Connection, retention: Retention, now: datetime) -> Limits:
    """What a retention means for the history as it is."""
    newest = _NEWEST.scalar(connection) or 0
    oldest = ""
    if retention.max_age is not None and now.timestamp() > retention.max_age.total_seconds():
        oldest = format_time(now - retention.max_age)
    oldest_kept = {}
    if retention.contents_per_store is not None:
        newer = retention.contents_per_store - 1
        for row in _STORES.all(connection):
            name = row["schema_name"]
            number = _OLDEST_KEPT.scalar(connection, name=name, newer=newer)
            if number is not None:
                oldest_kept[name] = number
    return Limits(
        newest=newest,
        last_dropped=-1 if retention.batches is None else newest - retention.batches,
        oldest=oldest,
        oldest_kept=oldest_kept,
    )


def measure(connection: Connection, limits: Limits) -> Excess:
    """How much of the history is beyond the limits."""
    bounds = _bounds(limits)
    total = _excess(_MEASURE_BATCHES.first(connection, **bounds))
    for name, number in limits.oldest_kept.items():
        row = _MEASURE_CONTENTS.first(connection, name=name, oldest_kept=number, **bounds)
        total = total.plus(_excess(row))
    return total


def total(connection: Connection) -> Excess:
    """How much history there is."""
    return _excess(_TOTAL.first(connection))


def drop_batches(connection: Connection, limits: Limits, after: int) -> Bite:
    """Drop a bite of the batches beyond the limits, with their receipts and contents: the oldest
    of those with a number above `after`."""
    rows = _SELECT_BATCHES.all(connection, after=after, bite=_ROWS_AT_ONCE, **_bounds(limits))
    chosen = _bite_of(rows)
    _DELETE_BATCH.run_many(connection, [{"number": row["batch_number"]} for row in chosen])
    dropped = Excess(
        batches=len(chosen),
        contents=sum(row["contents"] for row in chosen),
        content_bytes=sum(row["content_bytes"] for row in chosen),
    )
    return Bite(dropped, chosen[-1]["batch_number"] if chosen else None)


def drop_contents(connection: Connection, name: str, oldest_kept: int, after: int) -> Bite:
    """Drop a bite of the contents of a store that are older than those kept; their batches stay."""
    rows = _SELECT_CONTENTS.all(
        connection, name=name, oldest_kept=oldest_kept, after=after, bite=_ROWS_AT_ONCE
    )
    chosen = _bite_of(rows)
    _DELETE_CONTENT.run_many(
        connection, [{"number": row["batch_number"], "name": name} for row in chosen]
    )
    dropped = Excess(0, len(chosen), sum(row["content_bytes"] for row in chosen))
    return Bite(dropped, chosen[-1]["batch_number"] if chosen else None)


def free_pages(connection: Connection) -> int:
    """How many pages of the database hold nothing."""
    free: int = driver_of(connection).execute("PRAGMA freelist_count").fetchone()[0]
    return free


def give_back(connection: Connection) -> int:
    """Return a bite of the free pages to the file system; gives how many are free still.

    When that is the last of them, SQLite moves the WAL into the database after the commit, as far
    as readers let it: the file is as long as before until then.
    """
    driver = driver_of(connection)
    for _ in range(min(free_pages(connection), _PAGES_AT_ONCE)):
        # One page a call: the driver takes a single step of a statement without columns.
        driver.execute("PRAGMA incremental_vacuum(1)")
    left = free_pages(connection)
    driver.execute("PRAGMA wal_autocheckpoint = 1000" if left else "PRAGMA wal_autocheckpoint = 1")
    return left


def checkpoint_as_ever(connection: Connection) -> None:
    """Have SQLite checkpoint when the WAL has grown to a thousand pages, as is its default."""
    driver_of(connection).execute("PRAGMA wal_autocheckpoint = 1000")


def database_bytes(connection: Connection) -> int:
    """The size of the database, as this transaction sees it."""
    driver = driver_of(connection)
    pages: int = driver.execute("PRAGMA page_count").fetchone()[0]
    size: int = driver.execute("PRAGMA page_size").fetchone()[0]
    return pages * size


def _bounds(limits: Limits) -> dict[str, object]:
    return {
        "newest": limits.newest,
        "last_dropped": limits.last_dropped,
        "oldest": limits.oldest,
    }


def _bite_of(rows: Iterable[Row]) -> list[Row]:
    """The first of the rows, as many as hold no more bytes than a bite may; at least one."""
    chosen: list[Row] = []
    size = 0
    for row in rows:
        size += row["content_bytes"]
        if chosen and size > _BYTES_AT_ONCE:
            break
        chosen.append(row)
    return chosen


def _excess(row: Row | None) -> Excess:
    return Excess() if row is None else Excess(*row.values())


# --- statements ---------------------------------------------------------------------------------

_NEWEST = Statement(select(func.max(write_batches.c.batch_number)))
_STORES = Statement(select(batch_writes.c.schema_name).distinct())
_HAS_ENDED = or_(write_batches.c.state == "committed", write_batches.c.state == "failed")
_IN_BATCH = store_contents.c.batch_number == write_batches.c.batch_number
_AS_WRITTEN = and_(
    store_contents.c.batch_number == batch_writes.c.batch_number,
    store_contents.c.schema_name == batch_writes.c.schema_name,
)
_OLDEST_KEPT = Statement(
    select(store_contents.c.batch_number)
    .join(write_batches, _IN_BATCH)
    .where(store_contents.c.schema_name == bindparam("name"), _HAS_ENDED)
    .order_by(store_contents.c.batch_number.desc())
    .limit(1)
    .offset(bindparam("newer"))
)

_BEYOND = and_(
    _HAS_ENDED,
    write_batches.c.batch_number < bindparam("newest"),
    or_(
        write_batches.c.batch_number <= bindparam("last_dropped"),
        and_(
            write_batches.c.completed_at.is_not(None),
            write_batches.c.completed_at < bindparam("oldest"),
        ),
    ),
    ~exists()
    .where(manifest_entries.c.batch_number == write_batches.c.batch_number)
    .correlate(write_batches),
)


def _sum_of_contents(*columns: str) -> Select[tuple[int, ...]]:
    found = {
        "contents": func.count(),
        "content_bytes": func.coalesce(func.sum(batch_writes.c.file_size), 0),
    }
    return (
        select(*(found[name].label(name) for name in columns))
        .select_from(batch_writes.join(store_contents, _AS_WRITTEN))
        .where(batch_writes.c.batch_number == write_batches.c.batch_number)
        .correlate(write_batches)
    )


_BATCHES_WITH_SIZES = select(
    write_batches.c.batch_number,
    _sum_of_contents("contents").scalar_subquery().label("contents"),
    _sum_of_contents("content_bytes").scalar_subquery().label("content_bytes"),
)
_SELECT_BATCHES = Statement(
    _BATCHES_WITH_SIZES.where(_BEYOND, write_batches.c.batch_number > bindparam("after"))
    .order_by(write_batches.c.batch_number)
    .limit(bindparam("bite"))
)
_measured = _BATCHES_WITH_SIZES.where(_BEYOND).subquery()
_MEASURE_BATCHES = Statement(
    select(
        func.count().label("batches"),
        func.coalesce(func.sum(_measured.c.contents), 0).label("contents"),
        func.coalesce(func.sum(_measured.c.content_bytes), 0).label("content_bytes"),
    ).select_from(_measured)
)
_DELETE_BATCH = Statement(
    delete(write_batches).where(write_batches.c.batch_number == bindparam("number"))
)

_OLD_CONTENTS = (
    select(store_contents.c.batch_number, batch_writes.c.file_size.label("content_bytes"))
    .join(batch_writes, _AS_WRITTEN)
    .join(write_batches, _IN_BATCH)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number < bindparam("oldest_kept"),
        _HAS_ENDED,
        ~exists()
        .where(
            manifest_entries.c.batch_number == store_contents.c.batch_number,
            manifest_entries.c.schema_name == store_contents.c.schema_name,
        )
        .correlate(store_contents),
    )
)
_SELECT_CONTENTS = Statement(
    _OLD_CONTENTS.where(store_contents.c.batch_number > bindparam("after"))
    .order_by(store_contents.c.batch_number)
    .limit(bindparam("bite"))
)
_of_batches_that_stay = _OLD_CONTENTS.where(not_(_BEYOND)).subquery()
_MEASURE_CONTENTS = Statement(
    select(
        literal(0).label("batches"),
        func.count().label("contents"),
        func.coalesce(func.sum(_of_batches_that_stay.c.content_bytes), 0).label("content_bytes"),
    ).select_from(_of_batches_that_stay)
)
_DELETE_CONTENT = Statement(
    delete(store_contents).where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number == bindparam("number"),
    )
)
_TOTAL = Statement(
    select(
        select(func.count()).select_from(write_batches).scalar_subquery().label("batches"),
        func.count().label("contents"),
        func.coalesce(func.sum(batch_writes.c.file_size), 0).label("content_bytes"),
    ).select_from(batch_writes.join(store_contents, _AS_WRITTEN))
)
