"""What was committed before can be listed, read, compared and written again."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    ConflictError,
    CorruptDatabaseError,
    InvalidRequestError,
    Retention,
    RuntimeStore,
    RuntimeStoreError,
    StoreFileChangedError,
    UnknownStoreError,
)
from tests.support import IDENTITY, LEASES, LEDGER, NOON, agree, open_store, write


def _clock() -> Any:
    """A minute passes between two looks at it."""
    moments = (NOON + timedelta(minutes=number) for number in range(100_000))
    return lambda: next(moments)


def _write_some(store: RuntimeStore) -> list[str]:
    """`b1` writes both stores, `b2` the ledger, `b3` and `b4` the leases."""
    write(store, LEDGER, "before")
    for number, names in enumerate([(LEASES, LEDGER), (LEDGER,), (LEASES,), (LEASES,)], start=1):
        store.write_batch(
            identity=IDENTITY,
            reason="launch_checkpoint",
            writes=dict.fromkeys(names, f"{number}"),
            batch_id=f"b{number}",
        )
    return ["b1", "b2", "b3", "b4"]


def test_history_lists_the_versions(directory: Path) -> None:
    """Each committed version of a store, oldest first, with its batch, size and hash."""
    with open_store(directory) as store:
        _write_some(store)
        versions = store.history(LEASES)
        assert [version.batch_id for version in versions] == ["b1", "b3", "b4"]
        assert [version.is_current for version in versions] == [False, False, True]
        assert all(version.has_content for version in versions)
        assert [version.high_watermark for version in versions] == [2, 4, 5]
        assert versions[-1].content_hash == store.read(LEASES).content_hash
        assert versions[-1].file_size == (directory / "opencode-host-leases.json").stat().st_size
        assert [item.batch_id for item in store.history(LEASES, limit=2)] == ["b3", "b4"]
        with pytest.raises(InvalidRequestError, match="limit"):
            store.history(LEASES, limit=-1)
        with pytest.raises(UnknownStoreError):
            store.history("nobody")


@pytest.mark.parametrize(("at", "held"), [("b1", "1"), ("b2", "1"), ("b3", "3"), (4, "3")])
def test_a_store_is_read_as_of_a_batch(directory: Path, at: str | int, held: str) -> None:
    """By the id of a batch, or by its high watermark: also one that wrote other stores."""
    with open_store(directory) as store:
        _write_some(store)
        content = store.read(LEASES, at=at)
        assert content.data == held
        assert content.batch_id == f"b{held}"
        assert content.run_id == IDENTITY.run_id


def test_a_store_is_read_as_of_a_time(directory: Path) -> None:
    """What was committed by then counts, to the millisecond."""
    with open_store(directory, clock=_clock()) as store:
        _write_some(store)
        written = {item.batch_id: item.written_at for item in store.history(LEASES)}
        assert store.read(LEASES, at=written["b3"]).data == "3"
        assert store.read(LEASES, at=written["b3"] - timedelta(milliseconds=1)).data == "1"
        assert store.read(LEASES, at=written["b4"] + timedelta(days=999)).data == "4"
        with pytest.raises(InvalidRequestError, match="no batch that was committed by"):
            store.read(LEASES, at=NOON - timedelta(days=1))


FIRST_HOURS = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
LAST_HOURS = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))


@pytest.mark.parametrize(
    ("at", "problem"),
    [
        ("nobody", "no committed batch 'nobody' is on record"),
        (99, "no batch that made the high watermark 99"),
        (0, "a high watermark is 1 or more"),
        (2**64, "a high watermark is 9223372036854775807 or less"),
        (True, "must be a batch id"),
        (1.5, "must be a batch id"),
        ("\ud800", "lone surrogate"),
        (datetime(2026, 4, 21), "needs a time zone"),  # noqa: DTZ001 - the mistake itself
        (FIRST_HOURS, "0001-01-01T00:00:00.05:00 is no time in UTC"),
        (LAST_HOURS, "9999-12-31T23:00:00-05:00 is no time in UTC"),
        (1, "was not written by batch"),
    ],
)
def test_a_point_that_there_was_not(directory: Path, at: Any, problem: str) -> None:
    """Whatever cannot be looked back to is an error that names it, at every way in, and the
    argument that it was given as."""
    with open_store(directory) as store:
        _write_some(store)
        for field, look in (
            ("at", lambda: store.read(LEASES, at=at)),
            ("a", lambda: store.diff(LEASES, at)),
            ("b", lambda: store.diff(LEASES, "b1", at)),
            ("to", lambda: store.revert(LEASES, to=at)),
        ):
            with pytest.raises(InvalidRequestError, match=problem) as caught:
                look()
            assert caught.value.field == field
        assert store.read(LEASES).batch_id == "b4"


def test_beyond_the_retention(directory: Path) -> None:
    """A version whose content is dropped is still listed, and cannot be read; one that may have
    been written by a batch that is gone is not taken for an older one that is still there."""
    keep = Retention(batches=3, contents_per_store=2)
    with open_store(directory, retention=keep) as store:
        write(store, LEDGER, "first")  # current all the time, so this batch stays on record
        for number in range(12):
            write(store, LEASES, number, batch_id=f"b{number}")
        listed = store.history(LEASES)
        assert [item.batch_id for item in listed][-3:] == ["b9", "b10", "b11"]
        assert [item.has_content for item in listed][-3:] == [False, True, True]
        assert store.read(LEASES, at="b10").data == 10
        for field, look in (
            ("at", lambda: store.read(LEASES, at="b9")),
            ("a", lambda: store.diff(LEASES, "b9")),
            ("b", lambda: store.diff(LEASES, "b10", "b9")),
            ("to", lambda: store.revert(LEASES, to="b9")),
        ):
            why = "is not kept any more: history goes back"
            with pytest.raises(InvalidRequestError, match=why) as caught:
                look()
            assert caught.value.field == field
        with pytest.raises(InvalidRequestError, match="no committed batch 'b3' is on record"):
            store.read(LEASES, at="b3")
        assert store.read(LEDGER, at=1).data == "first"
        # Between the ledger's batch and those that are left, batches are missing.
        with pytest.raises(InvalidRequestError, match="is not on record any more"):
            store.read(LEDGER, at="b10")


def test_a_time_after_which_batches_are_gone(directory: Path) -> None:
    """A time between an old batch that is still on record and the ones that are missing cannot be
    told apart from theirs."""
    keep = Retention(batches=3, contents_per_store=None)
    with open_store(directory, retention=keep, clock=_clock()) as store:
        write(store, LEDGER, "first")
        first = store.history(LEDGER)[0].written_at
        for number in range(12):
            write(store, LEASES, number)
        with pytest.raises(InvalidRequestError, match="on record"):
            store.read(LEDGER, at=first + timedelta(seconds=1))


def test_diff_between_two_points(directory: Path) -> None:
    """The older version, the newer one (by default what is committed now), and what differs."""
    with open_store(directory) as store:
        for number, data in enumerate([{"n": 1, "x": 0}, {"n": 2, "x": 0}, {"n": 2}]):
            write(store, LEASES, data, batch_id=f"b{number}")
        found = store.diff(LEASES, "b0")
        assert (found.before.batch_id, found.after.batch_id) == ("b0", "b2")
        assert [item.path for item in found.differences] == ["/n", "/x"]
        assert [item.path for item in store.diff(LEASES, "b0", "b1").differences] == ["/n"]
        assert store.diff(LEASES, 2, 2).differences == ()


def test_revert_is_a_new_batch(directory: Path) -> None:
    """The earlier data is committed again, in a batch of its own; nothing of the history goes."""
    with open_store(directory) as store:
        _write_some(store)
        before = store.history(LEASES)
        batch = store.revert(LEASES, to="b1")
        assert (batch.reason, batch.run_id) == ("recovery", IDENTITY.run_id)
        assert store.read(LEASES).data == "1"
        assert [item.batch_id for item in store.history(LEASES)][:-1] == [
            item.batch_id for item in before
        ]
        assert store.read(LEASES, at="b4").data == "4"
        assert agree(store)
        with pytest.raises(InvalidRequestError, match="there is nothing to revert"):
            store.revert(LEASES, to=batch.batch_id)


def test_revert_leaves_an_edit_by_hand(directory: Path) -> None:
    """A file that somebody changed is neither overwritten nor taken for what is committed."""
    with open_store(directory) as store:
        _write_some(store)
        file = directory / "opencode-host-leases.json"
        file.write_text("an edit by hand")
        with pytest.raises(StoreFileChangedError):
            store.revert(LEASES, to="b1")
        assert file.read_text() == "an edit by hand"


def test_revert_does_not_go_over_a_batch_that_came_between(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written after somebody decided to go back is not undone by it."""
    with open_store(directory) as store:
        _write_some(store)
        really = store._writer.write_batch

        def be_late(*arguments: Any, **options: Any) -> Any:
            monkeypatch.undo()
            write(store, LEASES, "newer")
            return really(*arguments, **options)

        monkeypatch.setattr(store._writer, "write_batch", be_late)
        with pytest.raises(ConflictError):
            store.revert(LEASES, to="b1")
        assert store.read(LEASES).data == "newer"


def test_a_version_that_was_tampered_with_is_damage(directory: Path) -> None:
    """Contents of the history are held against the hashes of their receipts."""
    with open_store(directory) as store:
        _write_some(store)
        with store.lock.hold(), store.database.write(flush=True) as connection:
            connection.exec_driver_sql(
                "UPDATE store_contents SET content = '{}' WHERE schema_name = ?", (LEASES,)
            )
        for look in (lambda: store.read(LEASES, at="b1"), lambda: store.diff(LEASES, "b1", "b3")):
            with pytest.raises(CorruptDatabaseError, match="was changed"):
                look()


def test_nothing_is_looked_back_to_in_an_empty_store(directory: Path) -> None:
    """A store without batches has no history, and says so."""
    with open_store(directory) as store:
        assert store.history(LEASES) == []
        for look in (lambda: store.diff(LEASES, 1), lambda: store.revert(LEASES, to=1)):
            with pytest.raises(RuntimeStoreError, match="on record"):
                look()


def test_looking_back_from_asyncio(directory: Path) -> None:
    """The same calls, awaited."""

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory) as store:
            assert (await store.read(LEASES, at="b1")).data == "1"
            assert len(await store.history(LEASES)) == 3
            assert len((await store.diff(LEASES, "b1")).differences) == 1
            await store.revert(LEASES, to="b1")
            assert (await store.read(LEASES)).data == "1"

    with open_store(directory) as store:
        _write_some(store)
    asyncio.run(main())
