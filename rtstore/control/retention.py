"""Decide which history may be dropped, measure the excess over a retention, and drop it in chunks.

One predicate selects the batches that may be dropped, and one the contents: of batches that have
ended, and that no current entry refers to. So an open batch and what it needs are never dropped,
and never counted in place of others. Both ways of deleting use these predicates: a batch that drops
some history of the stores that it wrote, and a run that drops all excess.

The batch that deleted a store for good stays as long as one that wrote the store before stays:
without it, the last word about the store would be that it was written. Batches go the oldest first,
so each is asked at its own turn whether it still has an older one to tell of.

A batch is dropped with the hashes of what it wrote, and only these hashes identify an old version
of a file as ours. So before dropping batches, ask which of them may be forgotten (`MayForget`). The
hashes of an imported batch identify a version only with its contents: the same holds for those. And
for those of a store without an entry, which was deleted: until its removal is flushed, a loss of
power may bring back a part of its file, and only the content identifies a part.

Thinning by age: a committed content that is older than an hour *stands for* its hour when it is the
last one of its store in it; one that is older than a day stands for its day likewise. Hours and
days are those of UTC, so what stands does not depend on when it is looked at, and what goes once is
never missed later. Of each store, a newest part is kept in full: what is younger than an hour, and
within the limits of batches and of contents. Before it, what stands is kept, with its batch. The
limits of age and of bytes end that, too; of the bytes, the part in full takes at most half.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)

from rtstore.control.contents import Retention
from rtstore.control.schema import (
    OPEN_CONDITION,
    batch_deletions,
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.statements import Row, Statement, open_limit
from rtstore.model.arguments import NUMBER_MAX
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
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_STANDING = 26
"""About the most contents of one day that stand for their hour."""
MayForget = Callable[[Connection, Sequence[int]], Sequence[int]]
"""Takes numbers of batches, and returns those whose hashes no file can need any more."""


class Kept(NamedTuple):
    """Which contents of a store stay, by the number of their batch. Without thinning, both numbers
    are the same."""

    in_full: int = 0
    """Contents of this number and later stay."""
    at_all: int = 0
    """Contents before this number go. From here to `in_full`, those stay that stand for their hour
    or day."""

    def within(self, weighed: Weighed | None) -> Kept:
        """Return what stays within the limit of bytes, too."""
        if weighed is None:
            return self
        at_all = max(self.at_all, weighed.oldest_kept or 0)
        return Kept(max(self.in_full, weighed.in_full or 0, at_all), at_all)


class Limits(NamedTuple):
    """A retention applied to the history as it was at one moment."""

    newest: int
    """The number of the newest batch that has ended."""
    last_dropped: int
    """Batches up to this number are beyond the limit of batches."""
    oldest: str
    """Batches that ended before this time are beyond the limit of age."""
    day_ago: str = ""
    """A day before the moment; empty without thinning."""
    first_recent: int = 0
    """The number of the first batch of the last hour; 0 without thinning."""
    kept: Mapping[str, Kept] = MappingProxyType({})
    """By store; one of which everything stays is absent."""
    telling: frozenset[int] = frozenset()
    """The numbers of the batches that stay because they tell of the deletion of a store that an
    older batch wrote, which stays."""


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
    held: int = 0
    """The number of rows that it examined and that may not be forgotten yet."""


# --- with the batches of a writer ---------------------------------------------------------------


class Due(NamedTuple):
    """History that is to be dropped now."""

    batches: int
    """The number of batches written since some were dropped; 0 when dropping batches can wait."""
    names: Sequence[str]
    """The stores written since their contents were dropped, once for each write."""
    to_weigh: Mapping[str, Weighed]
    """The stores whose contents may have too many bytes, and how far each is weighed."""
    swept: Mapping[str, int] = MappingProxyType({})
    """By store: where looking through its older contents continues, if it has not come to the
    end."""


class Weighed(NamedTuple):
    """How far the contents of a store are weighed, from the newest to the oldest."""

    number: int | None = None
    """The batch of the last weighed content; None before the first."""
    size: int = 0
    """The bytes of the weighed contents. Contents written meanwhile are weighed the next time."""
    in_full: int | None = None
    """With thinning: contents of this number and later have their part of the bytes, and earlier
    ones are weighed only if they stand for their hour or day. None while all are weighed."""
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
    swept: int | None
    """Where looking through the older contents continues; None at their end, or without
    thinning."""


class OldBatches(NamedTuple):
    """Batches beyond a retention."""

    oldest: Sequence[int]
    """The numbers of those that were found among the oldest."""
    newly: Sequence[int]
    """The numbers of others that have just passed the limit of batches. With thinning, many older
    ones may stay."""
    last: int | None
    """The last batch that was looked at among the oldest; None when no others are beyond."""


def contents_beyond(
    connection: Connection, retention: Retention, due: Due, *, newest: int, now: datetime
) -> Iterator[OldContents]:
    """Yield the contents to drop with the batches just written: a chunk for each of their stores,
    and for each store that is being weighed. `newest` is the last of the batches just written,
    `now` its time."""
    times = Counter(due.names)
    limits = _limits(connection, retention, newest, now)
    for name in {**times, **due.to_weigh}:
        kept = _kept_by_number(connection, retention, name, limits)
        weighed = due.to_weigh.get(name)
        if weighed is not None and not weighed.is_done:
            weighed = _weigh(connection, retention, name, weighed, kept, limits)
        kept = kept.within(weighed)
        rows: list[Row] = []
        chunk = CHUNK * max(1, times[name])
        if kept.at_all:
            rows = _SELECT_CONTENTS.all(
                connection,
                name=name,
                in_full=kept.at_all,
                at_all=kept.at_all,
                day_ago=limits.day_ago,
                after=-1,
                chunk=chunk,
            )
        thinned, swept = _thin(connection, name, kept, limits, chunk, due.swept.get(name))
        chosen = _chunk_of(thinned + rows, _CHUNK_BYTES)
        more = len(chosen) < len(thinned) + len(rows) or chunk in (len(thinned), len(rows))
        yield OldContents(name, chosen, more, weighed, swept)


def _thin(
    connection: Connection, name: str, kept: Kept, limits: Limits, chunk: int, swept: int | None
) -> tuple[list[Row], int | None]:
    """Return a chunk of the contents that thinning drops, and where to continue.

    Looks at the first ones before those that are kept in full, which have just got there, and then
    at some of the older ones, where a smaller retention or the end of a day may have left some.
    """
    if kept.in_full <= kept.at_all:
        return [], None
    bounds = {"at_all": kept.at_all, "day_ago": limits.day_ago}
    look = chunk + _STANDING
    rows = _SELECT_TO_THIN.all(connection, name=name, below=kept.in_full, chunk=look, **bounds)
    last = None
    if len(rows) == look:
        below = rows[-1]["batch_number"]
        below = below if swept is None else min(below, swept)
        older = _SELECT_TO_THIN.all(connection, name=name, below=below, chunk=CHUNK, **bounds)
        last = older[-1]["batch_number"] if len(older) == CHUNK else None
        rows += older
    going = [row for row in rows if not row["stands"]]
    return going[:chunk], None if len(going) > chunk else last


def forgettable(
    connection: Connection, rows: Sequence[Row], may_forget: MayForget
) -> Sequence[Row]:
    """Return the contents without those that may not be forgotten, of imported batches and of
    stores that are deleted."""
    asked = [row["batch_number"] for row in rows if row["is_evidence"]]
    if not asked:
        return rows
    needed = set(asked).difference(may_forget(connection, asked))
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
) -> OldBatches:
    """Return the batches to drop with the batches just written: the oldest above `after`. `newest`
    is the last of the batches just written, `now` its time."""
    limits = _limits(connection, retention, newest, now)
    upto = newest - 1 if limits.oldest else limits.last_dropped
    if upto < 1:
        return OldBatches((), (), None)
    chunk = max(CHUNK, 2 * due.batches)
    bounds = {"newest": newest, **_standing(limits)}
    # Only the oldest need a check of their age: the times of batches are in order.
    rows = _SELECT_OLDEST.all(connection, upto=upto, after=after, chunk=chunk, **bounds)
    newly: list[Row] = []
    is_full = len(rows) == chunk and _is_beyond(rows[-1], limits)
    if is_full and limits.day_ago:
        after = max(rows[-1]["batch_number"], limits.last_dropped - 2 * chunk)
        newly = _SELECT_OLDEST.all(
            connection, upto=limits.last_dropped, after=after, chunk=2 * chunk, **bounds
        )
    return OldBatches(
        [row["batch_number"] for row in rows if _goes(row, limits)],
        [row["batch_number"] for row in newly if _goes(row, limits)],
        rows[-1]["batch_number"] if is_full else None,
    )


def _is_beyond(row: Row, limits: Limits) -> bool:
    is_old: bool = (row["completed_at"] or "~") < limits.oldest
    return is_old or row["batch_number"] <= limits.last_dropped


def _goes(row: Row, limits: Limits) -> bool:
    is_old = (row["completed_at"] or "~") < limits.oldest
    return _is_beyond(row, limits) and (is_old or not row["stands"])


def delete_batches(connection: Connection, numbers: Iterable[int]) -> set[int]:
    """Delete batches that may be dropped, with their receipts and contents, the oldest first.
    Return the numbers of those that are gone: one that tells of a deletion may have to stay."""
    return {
        number
        for number in sorted(numbers)
        if _DELETE_BATCH.run(connection, number=number).rowcount == 1
    }


# --- all that is beyond a retention -------------------------------------------------------------


def limits_of(connection: Connection, retention: Retention, now: datetime) -> Limits:
    """Apply a retention to the current history."""
    limits = _limits(connection, retention, _NEWEST.scalar(connection) or 0, now)
    kept = {}
    if (retention.contents_per_store, retention.content_bytes) != (None, None) or limits.day_ago:
        for row in _STORES.all(connection):
            kept[row["schema_name"]] = _kept(connection, retention, row["schema_name"], limits)
    limits = limits._replace(kept={name: numbers for name, numbers in kept.items() if any(numbers)})
    # Oldest first: a batch that stays for its deletion may have written what a later one deleted.
    for row in _DELETIONS_BEYOND.all(connection, **_bounds(limits)):
        number, name = row["batch_number"], row["schema_name"]
        if number not in limits.telling and _IS_OLDER_KEPT.scalar(
            connection, name=name, before=number, **_bounds(limits)
        ):
            limits = limits._replace(telling=limits.telling | {number})
    return limits


def _limits(connection: Connection, retention: Retention, newest: int, now: datetime) -> Limits:
    oldest = ""
    if retention.max_age is not None and now.timestamp() > retention.max_age.total_seconds():
        oldest = format_time(now - retention.max_age)
    limits = Limits(
        newest=newest,
        last_dropped=-1 if retention.batches is None else newest - retention.batches,
        oldest=oldest,
    )
    if not retention.thin_by_age or now.timestamp() < _DAY.total_seconds():
        return limits
    return limits._replace(
        day_ago=format_time(now - _DAY),
        first_recent=_first_since(connection, format_time(now - _HOUR), newest),
    )


def _first_since(connection: Connection, moment: str, newest: int) -> int:
    """Return a number so that no batch before it ended at that time or later: halving finds it, for
    the times of batches are in order."""
    low, high = 0, newest + 1
    while low < high:
        middle = (low + high) // 2
        row = _SELECT_ENDED.first(connection, number=middle)
        if row is None or row["completed_at"] >= moment:
            high = middle
        else:
            low = row["batch_number"] + 1
    return low


def _kept(connection: Connection, retention: Retention, name: str, limits: Limits) -> Kept:
    """Return which contents of a store stay."""
    kept = _kept_by_number(connection, retention, name, limits)
    weighed = Weighed(is_done=retention.content_bytes is None)
    while not weighed.is_done:
        weighed = _weigh(connection, retention, name, weighed, kept, limits)
    return kept.within(weighed)


def _kept_by_number(
    connection: Connection, retention: Retention, name: str, limits: Limits
) -> Kept:
    """Return which contents of a store stay, but for the limit of bytes."""
    number = 0
    if retention.contents_per_store is not None:
        newer = retention.contents_per_store - 1
        number = _OLDEST_BY_NUMBER.scalar(connection, name=name, newer=newer) or 0
    if not limits.day_ago:
        return Kept(number, number)
    return Kept(max(number, limits.first_recent, limits.last_dropped + 1), 0)


def _weigh(
    connection: Connection,
    retention: Retention,
    name: str,
    weighed: Weighed,
    kept: Kept,
    limits: Limits,
) -> Weighed:
    """Weigh one more chunk of a store's contents, down to the oldest that is not dropped anyway.
    The newest stays, whatever its size."""
    most = retention.content_bytes
    assert most is not None  # noqa: S101 - asked where there is a limit only
    number, size, in_full, _, _ = weighed
    rows = _SELECT_SIZES.all(
        connection,
        name=name,
        lowest=kept.at_all,
        below=NUMBER_MAX if number is None else number,
        chunk=_WEIGHED_AT_ONCE,
        day_ago=limits.day_ago,
    )
    for row in rows:
        this, more = row["batch_number"], row["content_bytes"]
        if limits.day_ago and in_full is None and number is not None:
            in_full = number if this < kept.in_full or size + more > most // 2 else None
        if in_full is None or row["stands"]:
            size += more
            if size > most:
                oldest = this if number is None else number
                return Weighed(number, size, in_full, oldest_kept=oldest, is_done=True)
        number = this
    return Weighed(number, size, in_full, is_done=len(rows) < _WEIGHED_AT_ONCE)


def measure(connection: Connection, limits: Limits) -> Excess:
    """Return how much of the history is beyond the limits."""
    bounds = _bounds(limits)
    total = _excess(_MEASURE_BATCHES.first(connection, **bounds))
    for name, kept in limits.kept.items():
        row = _MEASURE_CONTENTS.first(connection, name=name, **kept._asdict(), **bounds)
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
    forgotten = set(may_forget(connection, [row["batch_number"] for row in chosen]))
    gone = delete_batches(connection, forgotten)
    dropped = Excess(
        batches=len(gone),
        contents=sum(row["contents"] for row in chosen if row["batch_number"] in gone),
        content_bytes=sum(row["content_bytes"] for row in chosen if row["batch_number"] in gone),
    )
    last = chosen[-1]["batch_number"] if chosen else None
    return Chunk(dropped, last, held=len(chosen) - len(forgotten))


def drop_contents(
    connection: Connection,
    name: str,
    limits: Limits,
    after: int,
    may_forget: MayForget,
    at_once: int,
) -> Chunk:
    """Drop a chunk of the contents of a store beyond the limits, from batches after `after`, of
    about `at_once` bytes. Batches stay."""
    rows = _SELECT_CONTENTS.all(
        connection,
        name=name,
        after=after,
        chunk=_ROWS_AT_ONCE,
        **limits.kept[name]._asdict(),
        day_ago=limits.day_ago,
    )
    chosen = _chunk_of(rows, at_once)
    gone = forgettable(connection, chosen, may_forget)
    delete_contents(connection, name, gone)
    dropped = Excess(0, len(gone), sum(row["content_bytes"] for row in gone))
    last = chosen[-1]["batch_number"] if chosen else None
    return Chunk(dropped, last, held=len(chosen) - len(gone))


def _bounds(limits: Limits) -> dict[str, object]:
    return {
        "newest": limits.newest,
        "last_dropped": limits.last_dropped,
        "oldest": limits.oldest,
        "telling": json.dumps(sorted(limits.telling)),
        **_standing(limits),
    }


def _standing(limits: Limits) -> dict[str, object]:
    oldest = {name: kept.at_all for name, kept in limits.kept.items()}
    return {"oldest_standing": json.dumps(oldest), "day_ago": limits.day_ago}


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

_later_deletion = batch_deletions.alias()
_IS_LAST_WORD = and_(
    ~exists()
    .where(manifest_entries.c.schema_name == batch_deletions.c.schema_name)
    .correlate(batch_deletions),
    ~exists()
    .where(
        _later_deletion.c.schema_name == batch_deletions.c.schema_name,
        _later_deletion.c.batch_number > batch_deletions.c.batch_number,
    )
    .correlate(batch_deletions),
)
"""Selects the deletions of stores that are gone: the last one of each."""
_TELLS = (
    exists()
    .where(
        batch_deletions.c.batch_number == write_batches.c.batch_number,
        _IS_LAST_WORD,
        exists()
        .where(
            batch_writes.c.schema_name == batch_deletions.c.schema_name,
            batch_writes.c.batch_number < batch_deletions.c.batch_number,
        )
        .correlate(batch_deletions),
    )
    .correlate(write_batches)
)
"""Selects the batches that deleted for good a store that an older batch on record wrote."""

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

_later, _later_batch = store_contents.alias(), write_batches.alias()


def _is_last_of(length: int) -> ColumnElement[bool]:
    """Whether the next committed content of the store has another beginning of its time."""
    following = (
        select(func.substr(_later_batch.c.completed_at, 1, length))
        .select_from(_later)
        .join(_later_batch, _later_batch.c.batch_number == _later.c.batch_number)
        .where(
            _later.c.schema_name == store_contents.c.schema_name,
            _later.c.batch_number > store_contents.c.batch_number,
            _later_batch.c.state == "committed",
        )
        .order_by(_later.c.batch_number)
        .limit(1)
        .correlate(store_contents)
        .scalar_subquery()
    )
    return func.coalesce(following, "") != func.substr(write_batches.c.completed_at, 1, length)


_THINS = bindparam("day_ago") != ""
# As cases, because SQLite evaluates only the case that is true.
_STANDS = case(
    (not_(_THINS) | (write_batches.c.state != "committed"), false()),
    (write_batches.c.completed_at >= bindparam("day_ago"), _is_last_of(len("YYYY-MM-DDTHH"))),
    else_=_is_last_of(len("YYYY-MM-DD")),
)
"""Selects the contents that stand for their hour or day; without thinning none."""
_oldest_standing = func.json_each(bindparam("oldest_standing")).table_valued("key", "value")
_oldest_of_store = (
    select(_oldest_standing.c.value)
    .where(_oldest_standing.c.key == batch_writes.c.schema_name)
    .correlate(batch_writes)
    .scalar_subquery()
)
_has_standing = (
    exists()
    .where(
        batch_writes.c.batch_number == write_batches.c.batch_number,
        _AS_WRITTEN,
        store_contents.c.batch_number >= func.coalesce(_oldest_of_store, 0),
        _STANDS,
    )
    .correlate(write_batches)
)
_BATCH_STANDS = case((_THINS, _has_standing), else_=false())
"""Selects the batches with such a content, unless there are too many bytes of them."""

_NEWEST = Statement(
    select(write_batches.c.batch_number)
    .where(_BATCH_HAS_ENDED)
    .order_by(write_batches.c.batch_number.desc())
    .limit(1)
)
_SELECT_ENDED = Statement(
    select(write_batches.c.batch_number, write_batches.c.completed_at)
    .where(
        write_batches.c.batch_number >= bindparam("number"),
        write_batches.c.completed_at.is_not(None),
    )
    .order_by(write_batches.c.batch_number)
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
    select(
        store_contents.c.batch_number,
        batch_writes.c.file_size.label("content_bytes"),
        _STANDS.label("stands"),
    )
    .join(batch_writes, _AS_WRITTEN)
    .join(write_batches, _IN_BATCH)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number >= bindparam("lowest"),
        store_contents.c.batch_number < bindparam("below"),
        _CONTENT_HAS_ENDED,
    )
    .order_by(store_contents.c.batch_number.desc())
    .limit(open_limit("chunk"))
)

_BEYOND = and_(
    _BATCH_MAY_GO,
    or_(
        and_(write_batches.c.batch_number <= bindparam("last_dropped"), not_(_BATCH_STANDS)),
        and_(
            write_batches.c.completed_at.is_not(None),
            write_batches.c.completed_at < bindparam("oldest"),
        ),
    ),
    write_batches.c.batch_number.not_in(
        select(func.json_each(bindparam("telling")).table_valued("value").c.value)
    ),
)
# Of the batches that the limits would drop: with what is found by then as `telling`.
_DELETIONS_BEYOND = Statement(
    select(batch_deletions.c.batch_number, batch_deletions.c.schema_name)
    .join(write_batches, write_batches.c.batch_number == batch_deletions.c.batch_number)
    .where(_IS_LAST_WORD, _BEYOND)
    .order_by(batch_deletions.c.batch_number)
)
_IS_OLDER_KEPT = Statement(
    select(write_batches.c.batch_number)
    .join(batch_writes, batch_writes.c.batch_number == write_batches.c.batch_number)
    .where(
        batch_writes.c.schema_name == bindparam("name"),
        batch_writes.c.batch_number < bindparam("before"),
        not_(_BEYOND),
    )
    .limit(1)
)
_SELECT_OLDEST = Statement(
    select(
        write_batches.c.batch_number,
        write_batches.c.completed_at,
        _BATCH_STANDS.label("stands"),
    )
    .where(
        _BATCH_MAY_GO,
        write_batches.c.batch_number > bindparam("after"),
        write_batches.c.batch_number <= bindparam("upto"),
    )
    .order_by(write_batches.c.batch_number)
    .limit(open_limit("chunk"))
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
    .limit(open_limit("chunk"))
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
    delete(write_batches).where(write_batches.c.batch_number == bindparam("number"), not_(_TELLS))
)

_IS_EVIDENCE = or_(
    write_batches.c.origin == BatchOrigin.IMPORTED.value,
    ~exists()
    .where(manifest_entries.c.schema_name == store_contents.c.schema_name)
    .correlate(store_contents),
)
"""Selects the contents that identify a version of a file, where its hash alone does not."""
_OLD_CONTENTS = (
    select(
        store_contents.c.batch_number,
        batch_writes.c.file_size.label("content_bytes"),
        _IS_EVIDENCE.label("is_evidence"),
    )
    .join(batch_writes, _AS_WRITTEN)
    .join(write_batches, _IN_BATCH)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number < bindparam("in_full"),
        or_(store_contents.c.batch_number < bindparam("at_all"), not_(_STANDS)),
        _CONTENT_MAY_GO,
    )
)
# From the newest to the oldest, whether they stay or not: what one look costs is known.
_SELECT_TO_THIN = Statement(
    select(
        store_contents.c.batch_number,
        batch_writes.c.file_size.label("content_bytes"),
        _IS_EVIDENCE.label("is_evidence"),
        _STANDS.label("stands"),
    )
    .join(batch_writes, _AS_WRITTEN)
    .join(write_batches, _IN_BATCH)
    .where(
        store_contents.c.schema_name == bindparam("name"),
        store_contents.c.batch_number < bindparam("below"),
        store_contents.c.batch_number >= bindparam("at_all"),
        _CONTENT_MAY_GO,
    )
    .order_by(store_contents.c.batch_number.desc())
    .limit(open_limit("chunk"))
)
_SELECT_CONTENTS = Statement(
    _OLD_CONTENTS.where(store_contents.c.batch_number > bindparam("after"))
    .order_by(store_contents.c.batch_number)
    .limit(open_limit("chunk"))
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
