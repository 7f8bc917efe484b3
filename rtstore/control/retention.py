"""Decide which history may be dropped, measure the excess over a retention, and drop it in chunks.

One predicate selects the batches that may be dropped, and one the contents: of batches that have
ended, and that no current entry refers to. So an open batch and what it needs are never dropped,
and never counted in place of others. Both ways of deleting use these predicates: a batch that drops
some history of the stores that it wrote, and a run that drops all excess.

A batch is dropped with the hashes of what it wrote, and only these hashes identify an old version
of a file as ours. So before dropping batches, ask which of them may be forgotten (`MayForget`). The
hashes of an imported batch identify a version only with its contents: the same holds for those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from rtstore.control.contents import NUMBER_MAX, Retention
from rtstore.control.schema import (
    OPEN_CONDITION,
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.statements import Row, Statement
from rtstore.model.records import BatchOrigin
from rtstore.model.times import format_time

_ROWS_AT_ONCE = 200
BYTES_AT_ONCE = 8 << 20
"""In bytes. A chunk takes a fraction of a second, however large the contents are, so that a writer
waits no longer."""

CHUNK = 8
"""About the most rows of history that one batch drops, so that no batch pays for all of it."""
_CHUNK_BYTES = 32 << 20
"""About the most bytes of contents that one batch drops."""
_WEIGHED_AT_ONCE = 40
"""The most contents of a store that one batch weighs: whose sizes it adds up."""
MayForget = Callable[[Connection, Sequence[int]], Sequence[int]]
"""Takes numbers of batches, and returns those whose hashes no file can need any more."""


class Limits(NamedTuple):
    """A retention applied to the history as it was at one moment."""

    newest: int
    """The number of the newest batch that has ended."""
    last_dropped: int
    """Batches up to this number are beyond the limit of batches."""
    oldest: str
    """Batches that ended before this time are beyond the limit of age."""
    oldest_kept: Mapping[str, int]
    """By store: contents of this batch number and later stay."""


class Excess(NamedTuple):
    """A number of batches and contents, and the bytes of these contents."""

    batches: int = 0
    contents: int = 0
    content_bytes: int = 0

    def plus(self, other: Excess) -> Excess:
        """Return the sum of both."""
        return Excess(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Chunk(NamedTuple):
    """The history that one transaction dropped, and where the next transaction continues."""

    dropped: Excess
    last: int | None
    """The number of the last batch that it examined; None when there was nothing left."""


# --- with the batches of a writer ---------------------------------------------------------------


class Due(NamedTuple):
    """History that is to be dropped now."""

    batches: int
    """The number of batches written since some were dropped; 0 when dropping batches can wait."""
    names: Sequence[str]
    """The stores written since their contents were dropped, once for each write."""
    to_weigh: Mapping[str, Weighed]
    """The stores whose contents may have too many bytes, and how far each is weighed."""


class Weighed(NamedTuple):
    """How far the contents of a store are weighed, from the newest to the oldest."""

    number: int | None = None
    """The batch of the last weighed content; None before the first."""
    size: int = 0
    """The bytes of the weighed contents. Contents written meanwhile are weighed the next time."""
    oldest_kept: int | None = None
    """Contents of this batch number and later are within the limit; None while unknown."""
    is_done: bool = False
    """Whether nothing is left to weigh: `oldest_kept` is known, or all contents stay."""


class OldContents(NamedTuple):
    """Contents of a store beyond a retention."""

    name: str
    rows: Sequence[Row]
    more: bool
    """Whether there may be more than these."""
    weighed: Weighed | None
    """How far the contents are weighed now; None when they were not weighed."""


def contents_beyond(connection: Connection, retention: Retention, due: Due) -> list[OldContents]:
    """Return the contents to drop with the batches just written: a chunk for each of their stores,
    and for each store that is being weighed."""
    found = []
    times = Counter(due.names)
    for name in {**times, **due.to_weigh}:
        by_number = _oldest_by_number(connection, retention, name)
        weighed = due.to_weigh.get(name)
        if weighed is not None and not weighed.is_done:
            weighed = _weigh(connection, retention, name, weighed, by_number or 0)
        oldest = max(by_number or 0, (weighed and weighed.oldest_kept) or 0)
        rows: list[Row] = []
        chunk = CHUNK * max(1, times[name])
        if oldest:
            rows = _SELECT_CONTENTS.all(
                connection, name=name, oldest_kept=oldest, after=-1, chunk=chunk
            )
        chosen = _chunk_of(rows, _CHUNK_BYTES)
        more = len(chosen) < len(rows) or len(rows) == chunk
        found.append(OldContents(name, chosen, more, weighed))
    return found


def forgettable(
    connection: Connection, rows: Sequence[Row], may_forget: MayForget
) -> Sequence[Row]:
    """Return the contents without those of imported batches that may not be forgotten."""
    imported = [row["batch_number"] for row in rows if row["is_imported"]]
    if not imported:
        return rows
    needed = set(imported).difference(may_forget(connection, imported))
    return [row for row in rows if row["batch_number"] not in needed]


def delete_contents(connection: Connection, name: str, rows: Sequence[Row]) -> None:
    """Delete contents of a store that may be dropped."""
    _DELETE_CONTENT.run_many(
        connection, [{"number": row["batch_number"], "name": name} for row in rows]
    )


def batches_beyond(
    connection: Connection,
    retention: Retention,
    due: Due,
    *,
    newest: int,
    now: datetime,
    after: int,
) -> list[int]:
    """Return the numbers of the batches to drop with the batches just written: the oldest above
    `after`. `newest` is the last of the batches just written, `now` its time."""
    limits = _limits(retention, newest, now, {})
    upto = newest - 1 if limits.oldest else limits.last_dropped
    if upto < 1:
        return []
    # Only the oldest need a check of their age: the times of batches are in order.
    rows = _SELECT_OLDEST.all(
        connection, newest=newest, upto=upto, after=after, chunk=max(CHUNK, 2 * due.batches)
    )
    return [
        row["batch_number"]
        for row in rows
        if row["batch_number"] <= limits.last_dropped
        or (row["completed_at"] or "~") < limits.oldest
    ]


def delete_batches(connection: Connection, numbers: Iterable[int]) -> None:
    """Delete batches that may be dropped, with their receipts and contents."""
    _DELETE_BATCH.run_many(connection, [{"number": number} for number in numbers])


# --- all that is beyond a retention -------------------------------------------------------------


def limits_of(connection: Connection, retention: Retention, now: datetime) -> Limits:
    """Apply a retention to the current history."""
    oldest_kept = {}
    if retention.contents_per_store is not None or retention.content_bytes is not None:
        for row in _STORES.all(connection):
            number = _oldest_kept(connection, retention, row["schema_name"])
            if number is not None:
                oldest_kept[row["schema_name"]] = number
    return _limits(retention, _NEWEST.scalar(connection) or 0, now, oldest_kept)


def _limits(
    retention: Retention, newest: int, now: datetime, oldest_kept: Mapping[str, int]
) -> Limits:
    oldest = ""
    if retention.max_age is not None and now.timestamp() > retention.max_age.total_seconds():
        oldest = format_time(now - retention.max_age)
    return Limits(
        newest=newest,
        last_dropped=-1 if retention.batches is None else newest - retention.batches,
        oldest=oldest,
        oldest_kept=oldest_kept,
    )


def _oldest_kept(connection: Connection, retention: Retention, name: str) -> int | None:
    """Return the batch number from which on a store's contents stay, or None when all stay."""
    by_number = _oldest_by_number(connection, retention, name)
    weighed = Weighed(is_done=retention.content_bytes is None)
    while not weighed.is_done:
        weighed = _weigh(connection, retention, name, weighed, by_number or 0)
    return max(by_number or 0, weighed.oldest_kept or 0) or None


def _oldest_by_number(connection: Connection, retention: Retention, name: str) -> int | None:
    if retention.contents_per_store is None:
        return None
    newer = retention.contents_per_store - 1
    number: int | None = _OLDEST_BY_NUMBER.scalar(connection, name=name, newer=newer)
    return number


def _weigh(
    connection: Connection, retention: Retention, name: str, weighed: Weighed, lowest: int
) -> Weighed:
    """Weigh one more chunk of a store's contents, down to the batch `lowest`: older ones are
    dropped anyway. The newest stays, whatever its size."""
    assert retention.content_bytes is not None  # noqa: S101 - asked where there is a limit only
    number, size, _, _ = weighed
    rows = _SELECT_SIZES.all(
        connection,
        name=name,
        lowest=lowest,
        below=NUMBER_MAX if number is None else number,
        chunk=_WEIGHED_AT_ONCE,
    )
    for row in rows:
        size += row["content_bytes"]
        if size > retention.content_bytes:
            kept = row["batch_number"] if number is None else number
            return Weighed(number, size, oldest_kept=kept, is_done=True)
        number = row["batch_number"]
    return Weighed(number, size, is_done=len(rows) < _WEIGHED_AT_ONCE)


def measure(connection: Connection, limits: Limits) -> Excess:
    """Return how much of the history is beyond the limits."""
    bounds = _bounds(limits)
    total = _excess(_MEASURE_BATCHES.first(connection, **bounds))
    for name, number in limits.oldest_kept.items():
        row = _MEASURE_CONTENTS.first(connection, name=name, oldest_kept=number, **bounds)
        total = total.plus(_excess(row))
    return total


def total(connection: Connection) -> Excess:
    """Return how much history there is."""
    return _excess(_TOTAL.first(connection))


def drop_batches(
    connection: Connection, limits: Limits, after: int, may_forget: MayForget, at_once: int
) -> Chunk:
    """Drop a chunk of the batches beyond the limits, with their receipts and contents: the oldest
    with a number above `after`, of about `at_once` bytes."""
    rows = _SELECT_BATCHES.all(connection, after=after, chunk=_ROWS_AT_ONCE, **_bounds(limits))
    chosen = _chunk_of(rows, at_once)
    gone = set(may_forget(connection, [row["batch_number"] for row in chosen]))
    delete_batches(connection, gone)
    dropped = Excess(
        batches=len(gone),
        contents=sum(row["contents"] for row in chosen if row["batch_number"] in gone),
        content_bytes=sum(row["content_bytes"] for row in chosen if row["batch_number"] in gone),
    )
    return Chunk(dropped, chosen[-1]["batch_number"] if chosen else None)


def drop_contents(
    connection: Connection,
    name: str,
    oldest_kept: int,
    after: int,
    may_forget: MayForget,
    at_once: int,
) -> Chunk:
    """Drop a chunk of the contents of a store from batches between `after` and `oldest_kept`, of
    about `at_once` bytes. Batches stay."""
    rows = _SELECT_CONTENTS.all(
        connection, name=name, oldest_kept=oldest_kept, after=after, chunk=_ROWS_AT_ONCE
    )
    chosen = _chunk_of(rows, at_once)
    gone = forgettable(connection, chosen, may_forget)
    delete_contents(connection, name, gone)
    dropped = Excess(0, len(gone), sum(row["content_bytes"] for row in gone))
    return Chunk(dropped, chosen[-1]["batch_number"] if chosen else None)


def _bounds(limits: Limits) -> dict[str, object]:
    return {
        "newest": limits.newest,
        "last_dropped": limits.last_dropped,
        "oldest": limits.oldest,
    }


def _chunk_of(rows: Iterable[Row], at_once: int) -> list[Row]:
    """Return the first of the rows, up to `at_once` bytes; at least one, if there are any."""
    chosen: list[Row] = []
    size = 0
    for row in rows:
        size += row["content_bytes"]
        if chosen and size > at_once:
            break
        chosen.append(row)
    return chosen


def _excess(row: Row | None) -> Excess:
    return Excess() if row is None else Excess(*row.values())


# --- statements ---------------------------------------------------------------------------------

_STORES = Statement(select(batch_writes.c.schema_name).distinct())
_IN_BATCH = store_contents.c.batch_number == write_batches.c.batch_number
_AS_WRITTEN = and_(
    store_contents.c.batch_number == batch_writes.c.batch_number,
    store_contents.c.schema_name == batch_writes.c.schema_name,
)

_BATCH_HAS_ENDED = or_(write_batches.c.state == "committed", write_batches.c.state == "failed")
_BATCH_MAY_GO = and_(
    _BATCH_HAS_ENDED,
    write_batches.c.batch_number < bindparam("newest"),
    ~exists()
    .where(manifest_entries.c.batch_number == write_batches.c.batch_number)
    .correlate(write_batches),
)
"""Selects the batches that may be dropped with their writes. `newest` is the last ended batch."""

# This uses the index of the open batches, which is nearly empty.
_CONTENT_HAS_ENDED = ~exists().where(
    write_batches.c.batch_number == store_contents.c.batch_number, OPEN_CONDITION
).correlate(store_contents)
_CONTENT_MAY_GO = and_(
    _CONTENT_HAS_ENDED,
    ~exists()
    .where(
        manifest_entries.c.batch_number == store_contents.c.batch_number,
        manifest_entries.c.schema_name == store_contents.c.schema_name,
    )
    .correlate(store_contents),
)
"""Selects the contents that may be dropped while their batch stays."""

_NEWEST = Statement(
    select(write_batches.c.batch_number)
    .where(_BATCH_HAS_ENDED)
    .order_by(write_batches.c.batch_number.desc())
    .limit(1)
)
# Found in the primary key (schema_name, batch_number) alone, however large the contents are.
_OLDEST_BY_NUMBER = Statement(
    select(store_contents.c.batch_number)
    .where(store_contents.c.schema_name == bindparam("name"), _CONTENT_HAS_ENDED)
    .order_by(store_contents.c.batch_number.desc())
    .limit(1)
    .offset(bindparam("newer"))
)
# From the newest to the oldest, in the same key.
_SELECT_SIZES = Statement(
    select(store_contents.c.batch_number, batch_writes.c.file_size.label("content_bytes"))
    .join(batch_writes, _AS_WRITTEN)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number >= bindparam("lowest"),
        store_contents.c.batch_number < bindparam("below"),
        _CONTENT_HAS_ENDED,
    )
    .order_by(store_contents.c.batch_number.desc())
    .limit(bindparam("chunk"))
)

_BEYOND = and_(
    _BATCH_MAY_GO,
    or_(
        write_batches.c.batch_number <= bindparam("last_dropped"),
        and_(
            write_batches.c.completed_at.is_not(None),
            write_batches.c.completed_at < bindparam("oldest"),
        ),
    ),
)
_SELECT_OLDEST = Statement(
    select(write_batches.c.batch_number, write_batches.c.completed_at)
    .where(
        _BATCH_MAY_GO,
        write_batches.c.batch_number > bindparam("after"),
        write_batches.c.batch_number <= bindparam("upto"),
    )
    .order_by(write_batches.c.batch_number)
    .limit(bindparam("chunk"))
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
    .limit(bindparam("chunk"))
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
    select(
        store_contents.c.batch_number,
        batch_writes.c.file_size.label("content_bytes"),
        exists()
        .where(_IN_BATCH, write_batches.c.origin == BatchOrigin.IMPORTED.value)
        .correlate(store_contents)
        .label("is_imported"),
    )
    .join(batch_writes, _AS_WRITTEN)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number < bindparam("oldest_kept"),
        _CONTENT_MAY_GO,
    )
)
_SELECT_CONTENTS = Statement(
    _OLD_CONTENTS.where(store_contents.c.batch_number > bindparam("after"))
    .order_by(store_contents.c.batch_number)
    .limit(bindparam("chunk"))
)
_of_batches_that_stay = _OLD_CONTENTS.join(write_batches, _IN_BATCH).where(not_(_BEYOND)).subquery()
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
