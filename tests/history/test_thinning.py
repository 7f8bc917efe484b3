"""Thinning by age: what stays is the last content of each hour, then of each day; so a busy store
keeps a past."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Connection

from rtstore import DATABASE_NAME, Retention, RuntimeStore
from rtstore.control import retention as pruning
from rtstore.control.retention import Due, Weighed
from rtstore.control.sqlite.engine import Database
from rtstore.model.times import format_time
from rtstore.testing import Seams
from tests.control.build import INSERT_BATCH, INSERT_CONTENT, INSERT_ENTRY, INSERT_WRITE, copied
from tests.support import LEASES, LEDGER, NOON, agree, new_directory, open_store, write

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
THIN = Retention(batches=None, contents_per_store=None, content_bytes=None, thin_by_age=True)
STORES = ("a.store", "b.store")
SIZE = 9
"""In bytes, of each content that `build` writes."""
GAPS = (
    *(timedelta(seconds=1), timedelta(minutes=7), timedelta(minutes=25), HOUR),
    *(timedelta(minutes=59, seconds=59, milliseconds=999), timedelta(hours=5), DAY, 3 * DAY),
)


class Version(NamedTuple):
    """A content of a store; failed ones are no versions of it."""

    store: str
    number: int
    at: datetime
    failed: bool


class RollbackError(Exception):
    """Ends a transaction without a trace."""


def history(seed: int, length: int = 60) -> list[Version]:
    """Batches of one or two stores, at times that are near and far from each other."""
    dice, at, found = random.Random(seed), NOON, []
    for number in range(1, length + 1):
        at += dice.choice(GAPS[: dice.choice((3, 5, len(GAPS)))])
        failed = dice.random() < 0.1
        names = dice.sample(STORES, dice.randint(1, 2))
        found += [Version(name, number, at, failed) for name in names]
    return found


def standing(versions: list[Version], now: datetime) -> set[tuple[str, int]]:
    """What stands for its hour, or for its day where it is older than a day."""
    last = {}
    for item in versions:
        if not item.failed:
            span = "%Y-%m-%d %H" if now - item.at <= DAY else "%Y-%m-%d"
            last[item.store, item.at.strftime(span), span] = item
    ends = {
        (item.store, f"{item.at:%Y-%m-%d}"): item.number for item in versions if not item.failed
    }
    return {
        (item.store, item.number)
        for item in last.values()
        if now - item.at <= DAY or ends[item.store, f"{item.at:%Y-%m-%d}"] == item.number
    }


def promised(versions: list[Version], now: datetime) -> set[tuple[str, int]]:
    """What stays, by the words of the documentation."""
    recent = {(item.store, item.number) for item in versions if now - item.at <= HOUR}
    return recent | standing(versions, now)


def insert(connection: Connection, versions: list[Version]) -> None:
    """Put versions into the tables, as their batches would."""
    for number, (_, _, at, failed) in {item.number: item for item in versions}.items():
        values = (
            number,
            f"batch-{number}",
            *(("failed", None) if failed else ("committed", number)),
        )
        connection.exec_driver_sql(INSERT_BATCH, (*values, format_time(at)))
    for name, number, _, failed in versions:
        connection.exec_driver_sql(INSERT_WRITE, (number, name, f"{name}-{number}", f"{name}.json"))
        connection.exec_driver_sql(INSERT_CONTENT, (number, name, '{"data":1}'))
        if not failed:
            connection.exec_driver_sql(
                "DELETE FROM manifest_entries WHERE schema_name = ?", (name,)
            )
            entry = (number, name, f"{name}.json", f"{name}-{number}")
            connection.exec_driver_sql(INSERT_ENTRY, entry)


def contents(connection: Connection) -> set[tuple[str, int]]:
    """Which contents are there."""
    return {(row[0], row[1]) for row in connection.exec_driver_sql(
        "SELECT schema_name, batch_number FROM store_contents"
    )}  # fmt: skip


def numbers(connection: Connection) -> set[int]:
    """Which batches are there."""
    return {row[0] for row in connection.exec_driver_sql("SELECT batch_number FROM write_batches")}


def prune(connection: Connection, retention: Retention, now: datetime) -> pruning.Excess:
    """Drop all that is beyond, in chunks, and see that it was measured before."""
    limits = pruning.limits_of(connection, retention, now)
    measured, dropped = pruning.measure(connection, limits), pruning.Excess()
    after: int | None = -1
    while after is not None:
        chunk = pruning.drop_batches(connection, limits, after, lambda _, found: found, SIZE * 3)
        after, dropped = chunk.last, dropped.plus(chunk.dropped)
    for name in limits.kept:
        after = -1
        while after is not None:
            chunk = pruning.drop_contents(
                connection, name, limits, after, lambda _, found: found, SIZE * 3
            )
            after, dropped = chunk.last, dropped.plus(chunk.dropped)
    assert dropped == measured
    return dropped


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A control database in which nothing was committed yet."""
    found = Database(copied(tmp_path_factory.mktemp("thinning") / "runtime"))
    yield found
    found.close()


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A transaction of which nothing stays."""
    with suppress(RollbackError), database.write(flush=False) as connection:
        yield connection
        raise RollbackError


@pytest.mark.parametrize("seed", range(8))
def test_what_stays_is_the_last_of_each_hour_and_day(connection: Connection, seed: int) -> None:
    """Whatever the history; pruned once more, nothing goes; and batches stay."""
    versions = history(seed)
    now = versions[-1].at + random.Random(seed).choice((timedelta(0), 2 * HOUR, DAY, 9 * DAY))
    insert(connection, versions)
    prune(connection, THIN, now)
    assert contents(connection) == promised(versions, now)
    assert prune(connection, THIN, now) == pruning.Excess()
    assert numbers(connection) == {item.number for item in versions}


@pytest.mark.parametrize("seed", range(8))
def test_pruning_as_time_goes_leaves_the_same(connection: Connection, seed: int) -> None:
    """What was dropped earlier is nothing that is promised later, however often it is pruned."""
    dice, versions = random.Random(seed), history(seed)
    last = versions[-1].number
    for start, end in itertools.pairwise([0, *sorted(dice.sample(range(1, last), 7)), last]):
        insert(connection, [item for item in versions if start < item.number <= end])
        there = [item for item in versions if item.number <= end]
        now = there[-1].at + dice.choice((timedelta(0), HOUR / 2))
        prune(connection, THIN, now)
        assert contents(connection) == promised(there, now)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_dropping_does_not_count(connection: Connection, seed: int) -> None:
    """One content at a time, in any order: in the end the same are there."""
    dice, versions = random.Random(seed), history(seed, 30)
    now = versions[-1].at + HOUR
    insert(connection, versions)
    while True:
        limits = pruning.limits_of(connection, THIN, now)
        going = [
            (name, row["batch_number"])
            for name, kept in limits.kept.items()
            for row in pruning._SELECT_CONTENTS.all(
                connection, name=name, after=-1, chunk=99, day_ago=limits.day_ago, **kept._asdict()
            )
        ]
        if not going:
            break
        name, number = dice.choice(going)
        pruning.delete_contents(connection, name, [{"batch_number": number}])
    assert contents(connection) == promised(versions, now)


@pytest.mark.parametrize("seed", range(4))
def test_batches_thin_by_and_by(connection: Connection, seed: int) -> None:
    """What batches drop on their way is the same, a chunk at a time, however much had collected."""
    versions = history(seed, 150)
    newest, now = versions[-1].number, versions[-1].at
    insert(connection, versions)
    swept: dict[str, int] = {}
    for _ in range(40):
        due = Due(0, STORES, {}, dict(swept))
        for old in pruning.contents_beyond(connection, THIN, due, newest=newest, now=now):
            assert len(old.rows) <= pruning.CHUNK
            pruning.delete_contents(connection, old.name, old.rows)
            swept.pop(old.name, None)
            if old.swept is not None:
                swept[old.name] = old.swept
    assert contents(connection) == promised(versions, now)


@pytest.mark.parametrize("seed", range(4))
def test_batches_stay_with_what_stands(connection: Connection, seed: int) -> None:
    """Limits of number hold for what is kept in full; beside it, what stands for its hour or day
    stays, with its batch. An age ends it all."""
    versions = history(seed)
    newest, now = versions[-1].number, versions[-1].at
    insert(connection, versions)
    few = THIN.model_copy(update={"batches": 6, "contents_per_store": 2})
    prune(connection, few, now)
    seconds = {name: [n for store, n, *_ in versions if store == name][-2] for name in STORES}
    in_full = {
        (item.store, item.number)
        for item in versions
        if now - item.at <= HOUR and item.number >= max(seconds[item.store], newest - 5)
    }
    left = standing(versions, now) | in_full
    assert contents(connection) == left
    assert numbers(connection) == {number for _, number in left} | set(
        range(newest - 5, newest + 1)
    )
    assert prune(connection, few, now) == pruning.Excess()
    prune(connection, few.model_copy(update={"max_age": 2 * DAY}), now)
    current = {(name, max(n for s, n in left if s == name)) for name in STORES}
    old = {item.number for item in versions if now - item.at > 2 * DAY}
    assert {number for _, number in contents(connection) - current}.isdisjoint(old)


@pytest.mark.parametrize("limit", [4, 10, 25])
def test_the_bytes_have_room_for_the_past(connection: Connection, limit: int) -> None:
    """What is kept in full takes half of the bytes; the rest is for what stands, the newest first;
    together they are no more than the limit. Weighed in chunks or at once, it is the same."""
    busy = [
        Version("a.store", n, NOON + n * timedelta(minutes=6), failed=False) for n in range(1, 400)
    ]
    insert(connection, busy)
    now = busy[-1].at
    retention = THIN.model_copy(update={"content_bytes": limit * SIZE})
    weighed, limits = Weighed(), pruning.limits_of(connection, THIN, now)
    while not weighed.is_done:
        weighed = pruning._weigh(
            connection, retention, "a.store", weighed, limits.kept["a.store"], limits
        )
    prune(connection, retention, now)
    left = sorted((number for _, number in contents(connection)), reverse=True)
    past = sorted((number for _, number in standing(busy, now)), reverse=True)
    in_full = [item.number for item in busy][::-1][: min(limit // 2, 11)]
    before = [number for number in past if number < in_full[-1]]
    assert left == [*in_full, *before[: limit - len(in_full)]]
    assert (weighed.oldest_kept or 0) <= left[-1]
    assert prune(connection, retention, now) == pruning.Excess()


def test_a_busy_store_keeps_a_past(tmp_path: Path) -> None:
    """Written every twenty minutes for two days with little kept in full, each hour and the day
    before can be looked at; what collects between two turns is little; opened again, it is
    remembered."""
    clock = [NOON]
    keep = Retention(batches=8, contents_per_store=3, thin_by_age=True)
    directory = new_directory(tmp_path)
    with open_store(directory, retention=keep, clock=lambda: clock[0]) as store:
        for number in range(140):
            clock[0] += timedelta(minutes=20)
            write(store, LEASES, number)
            if number % 50 == 0:
                write(store, LEDGER, number)
        versions = store.history(LEASES)
        kept = [item for item in versions if item.has_content]
        hours = {item.written_at.replace(minute=0, second=0) for item in kept}
        assert len(hours) >= 23
        assert NOON.date() in {item.written_at.date() for item in kept}
        assert len(kept) <= 3 + 25 + 1 + 8
        assert store.read(LEASES, at=kept[0].batch_id).data < 40
        assert agree(store)
    with RuntimeStore.open(directory, seams=Seams(clock=lambda: clock[0])) as again:
        assert again.retention == keep
        again.prune()
        assert len([item for item in again.history(LEASES) if item.has_content]) <= 3 + 25 + 1
        assert again.prune(dry_run=True).contents == 0


def test_the_database_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    """It is thinned or it is not."""
    with (
        closing(sqlite3.connect(new_directory(tmp_path) / DATABASE_NAME)) as raw,
        pytest.raises(sqlite3.IntegrityError),
    ):
        raw.execute("UPDATE history_retention SET thin_by_age = 2")
