"""Read, change and write stores under the writer lock: no update is lost, none is half done."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rtstore import (
    DELETED,
    Batch,
    InvalidRequestError,
    RunIdentity,
    RuntimeStore,
    StoreFileChangedError,
)
from tests.support import (
    IDENTITY,
    LEASES,
    LEDGER,
    SESSIONS,
    digest,
    file_of,
    files_picture,
    write,
)


def update(store: RuntimeStore, change: Callable[[Any], Any]) -> Any:
    """Update the leases; return what is committed afterwards."""
    store.update(LEASES, change, identity=IDENTITY, reason="host_lease_update")
    return store.read(LEASES).data


def test_an_update_gets_what_is_committed_and_writes_what_it_returns(store: RuntimeStore) -> None:
    """None before the first; then the data, which it may change in place."""
    seen: list[Any] = []

    def append(data: list[int] | None) -> list[int]:
        seen.append(data and list(data))
        data = data or []
        data.append(len(data))
        return data

    assert update(store, append) == [0]
    assert update(store, append) == [0, 1]
    assert seen == [None, [0]]
    assert [batch.reason for batch in store.batches()] == ["host_lease_update"] * 2


def test_an_update_that_returns_nothing_is_a_mistake(store: RuntimeStore) -> None:
    """Whoever changes in place and forgets to return is told, and nothing is lost."""
    write(store, LEASES, [1])
    before = files_picture(store.directory)

    with pytest.raises(InvalidRequestError, match="returned None") as caught:
        update(store, lambda data: data.append(2))

    assert (caught.value.field, caught.value.store) == ("change", LEASES)
    assert files_picture(store.directory) == before
    assert update(store, lambda data: [*data, 3]) == [1, 3]


@pytest.mark.parametrize("error", [KeyError("theirs"), KeyboardInterrupt()])
def test_an_update_that_raises_leaves_nothing(store: RuntimeStore, error: BaseException) -> None:
    """What it raises comes out unchanged, the lock is free, the next update works."""
    write(store, LEASES, [1])
    before = files_picture(store.directory)

    def fail(_: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        update(store, fail)

    assert caught.value is error
    assert files_picture(store.directory) == before
    assert len(store.batches()) == 1
    assert not store.lock.is_held()
    assert update(store, lambda data: [*data, 2]) == [1, 2]


def test_an_update_must_not_write_to_its_own_store(store: RuntimeStore) -> None:
    """It holds the writer lock, so a write inside it could only wait for itself."""

    def nested(data: Any) -> Any:
        write(store, LEDGER, 1)
        return data

    with pytest.raises(InvalidRequestError, match="inside a write"):
        update(store, nested)
    assert store.batches() == []
    assert update(store, lambda _: "alone") == "alone"


def test_an_update_must_not_close_its_own_store(store: RuntimeStore) -> None:
    """What is refused is said as it is."""

    def closing(data: Any) -> Any:
        store.close()
        return data

    with pytest.raises(InvalidRequestError, match="inside a write must not close the store"):
        update(store, closing)
    assert update(store, lambda _: "open") == "open"


def test_an_update_may_read(store: RuntimeStore) -> None:
    """Reading takes no lock, so it works inside, and sees what is committed."""
    write(store, LEDGER, 7)

    assert update(store, lambda _: store.read(LEDGER).data) == 7
    assert update(store, lambda data: [data, store.read(LEASES).data]) == [7, 7]


def test_an_update_refuses_a_file_that_somebody_changed(store: RuntimeStore) -> None:
    """Their edit is neither used nor overwritten, and the function is not called."""
    write(store, LEASES, [1])
    path = file_of(store, LEASES)
    path.write_text("by hand")
    before = files_picture(store.directory)

    with pytest.raises(StoreFileChangedError) as caught:
        update(store, lambda _: pytest.fail("called"))

    assert (caught.value.store, caught.value.path) == (LEASES, path)
    assert caught.value.found_hash == digest(b"by hand")
    assert files_picture(store.directory) == before
    path.unlink()
    with pytest.raises(StoreFileChangedError, match="is missing"):
        update(store, lambda _: pytest.fail("called"))


def test_an_update_with_data_that_is_refused_leaves_nothing(store: RuntimeStore) -> None:
    """What it returns is checked like any write."""
    write(store, LEASES, [1])

    with pytest.raises(InvalidRequestError) as caught:
        update(store, lambda _: {"a": {1, 2}})

    assert (caught.value.field, caught.value.store) == ("data.a", LEASES)
    assert store.read(LEASES).data == [1]


# --- several stores -----------------------------------------------------------------------------


def update_both(
    store: RuntimeStore, change: Callable[[dict[str, Any]], Any], **options: Any
) -> Batch | None:
    """Update the leases and the ledger together."""
    call: dict[str, Any] = {"identity": IDENTITY, "reason": "delivery_commit", **options}
    return store.update([LEASES, LEDGER], change, **call)


def move(data: dict[str, Any]) -> dict[str, Any]:
    """Move an item from one store to the other; put one there at the beginning."""
    data[LEDGER] = [*(data[LEDGER] or []), (data[LEASES] or ["first"]).pop()]
    data[LEASES] = data[LEASES] or []
    return data


def written(batch: Batch | None) -> list[str]:
    """The stores that a batch wrote."""
    return [] if batch is None else [receipt.schema_name for receipt in batch.receipts]


def test_several_stores_are_changed_in_one_batch(store: RuntimeStore) -> None:
    """The function gets both, and both are written, in the order of the call."""
    assert written(update_both(store, move)) == [LEASES, LEDGER]
    assert (store.read(LEASES).data, store.read(LEDGER).data) == ([], ["first"])
    assert written(update_both(store, lambda data: {LEDGER: 2, LEASES: 1})) == [LEASES, LEDGER]
    assert len(store.batches()) == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: {**data, LEDGER: {"b": [1.0], "a": 2}}, id="the other as it was"),
        pytest.param(lambda _: {LEDGER: {"b": [1.0], "a": 2}}, id="the other left out"),
        pytest.param(
            lambda _: {LEASES: {"b": 1, "a": {}}, LEDGER: {"b": [1.0], "a": 2}}, id="keys moved"
        ),
    ],
)
def test_only_what_changed_is_written(store: RuntimeStore, change: Any) -> None:
    """The other store keeps its version. JSON is compared: 1 and 1.0 are not the same."""
    write(store, LEASES, {"a": {}, "b": 1})
    write(store, LEDGER, {"a": 2, "b": [1]})
    before = store.read(LEASES)
    assert written(update_both(store, change)) == [LEDGER]
    assert store.read(LEASES) == before
    assert store.read(LEDGER).data == {"b": [1.0], "a": 2}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data, id="as they are"),
        pytest.param(lambda _: {}, id="none returned"),
        pytest.param(lambda data: {LEDGER: data[LEDGER]}, id="never written, and stays so"),
    ],
)
def test_a_change_that_changes_nothing_writes_no_batch(store: RuntimeStore, change: Any) -> None:
    """It returns None; no file and no row is another one, also under an id."""
    write(store, LEASES, [1])
    before = files_picture(store.directory)
    assert update_both(store, change) is None
    assert update_both(store, change, batch_id="job-1") is None
    assert files_picture(store.directory) == before
    assert len(store.batches()) == 1
    assert written(update_both(store, move, batch_id="job-1")) == [LEASES, LEDGER]


@pytest.mark.parametrize("nothing", [None, DELETED], ids=["None", "DELETED"])
@pytest.mark.parametrize("was_deleted", [False, True], ids=["never written", "deleted"])
def test_what_has_nothing_committed_and_gets_nothing(
    store: RuntimeStore, nothing: object, *, was_deleted: bool
) -> None:
    """Of several, the batch is without that store; where it alone was returned, there is no batch.
    By itself it is refused: an update of one store is always written."""
    write(store, LEASES, [1])
    if was_deleted:
        write(store, LEDGER, [1])
        write(store, LEDGER, DELETED)
    before = files_picture(store.directory)
    for stores in ([LEASES, LEDGER], [LEDGER]):
        call: dict[str, Any] = {"identity": IDENTITY, "reason": "delivery_commit"}
        assert store.update(stores, lambda _: {LEDGER: nothing}, batch_id="job-1", **call) is None
    with pytest.raises(InvalidRequestError, match=r"returned None|nothing is committed") as caught:
        store.update(LEDGER, lambda _: nothing, identity=IDENTITY, reason="delivery_commit")
    assert caught.value.store == LEDGER
    assert (files_picture(store.directory), store.batch("job-1")) == (before, None)
    batch = update_both(store, lambda _: {LEASES: [2], LEDGER: nothing}, batch_id="job-1")
    assert batch is not None
    assert (batch.stores, batch.batch_id) == ((LEASES,), "job-1")
    assert store.manifest().entry(LEDGER) is None


def test_one_store_is_written_in_any_case(store: RuntimeStore) -> None:
    """It has a new receipt, with a new time; a list of one is like any list."""
    write(store, LEASES, [1])
    assert update(store, lambda data: data) == [1]
    assert len(store.batches()) == 2
    assert (
        store.update([LEASES], lambda data: data, identity=IDENTITY, reason="delivery_commit")
        is None
    )


@pytest.mark.parametrize("stores", [LEASES, [LEASES, LEDGER]], ids=["one", "two"])
def test_an_update_can_be_repeated_under_its_id(store: RuntimeStore, stores: Any) -> None:
    """The first result is returned, and the function is not called again; also after others wrote,
    and after the run has ended."""
    call: dict[str, Any] = {"identity": IDENTITY, "reason": "delivery_commit"}

    def change(data: Any) -> Any:
        return [1] if stores == LEASES else {LEASES: [1]}

    first = store.update(stores, change, batch_id="job-1", **call)
    assert first is not None
    assert first.batch_id == "job-1"
    write(store, LEASES, [2])
    store.end_run()
    again = store.update(stores, lambda _: pytest.fail("called"), batch_id="job-1", **call)
    assert again == first
    assert store.read(LEASES).data == [2]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"reason": "recovery"}, id="other reason"),
        pytest.param({"identity": RunIdentity(run_id="run-1")}, id="other identity"),
        pytest.param({"store": [LEASES, SESSIONS]}, id="other stores"),
        pytest.param({"store": LEDGER}, id="fewer stores"),
    ],
)
def test_an_id_of_another_update_is_refused(store: RuntimeStore, changes: dict[str, Any]) -> None:
    """One id is one batch; the function is not called."""
    update_both(store, move, batch_id="job-1")
    call = {"store": [LEASES, LEDGER], "identity": IDENTITY, "reason": "delivery_commit", **changes}
    with pytest.raises(InvalidRequestError, match="job-1") as caught:
        store.update(change=lambda _: pytest.fail("called"), batch_id="job-1", **call)
    assert caught.value.field == "batch_id"
    assert len(store.batches()) == 1


def test_an_edit_of_any_of_several_files_refuses_the_update(store: RuntimeStore) -> None:
    """Also where that store would not be written; the function is not called."""
    update_both(store, move)
    file_of(store, LEDGER).write_text("by hand")
    with pytest.raises(StoreFileChangedError) as caught:
        update_both(store, lambda _: pytest.fail("called"))
    assert caught.value.store == LEDGER


@pytest.mark.parametrize(
    "wrong",
    [10**5000, [1, {"n": -(10**4300)}], math.nan, {1, 2}],
    ids=["long", "inside", "NaN", "set"],
)
def test_an_update_of_several_names_what_cannot_be_written_as_that_of_one_does(
    store: RuntimeStore, wrong: Any
) -> None:
    """Also where Python has no text of it; and the same where it was changed in place."""
    write(store, LEASES, {"n": 1})
    write(store, SESSIONS, {"n": 1})
    problems = []
    for stores in (LEASES, [LEASES, SESSIONS]):

        def change(_: Any, stores: Any = stores) -> Any:
            return {"n": wrong} if stores is LEASES else {LEASES: {"n": wrong}}

        with pytest.raises(InvalidRequestError) as caught:
            store.update(stores, change, identity=IDENTITY, reason="host_lease_update")
        problems.append((caught.value.field, caught.value.problem, caught.value.store))
    assert problems[0] == problems[1]

    def in_place(given: Any) -> Any:
        given[LEASES]["n"] = wrong
        return {}

    with pytest.raises(InvalidRequestError):
        store.update([LEASES, SESSIONS], in_place, identity=IDENTITY, reason="host_lease_update")
    assert store.read(LEASES).data == {"n": 1}
