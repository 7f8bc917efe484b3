"""Read, change and write one store under the writer lock: no update is lost, none is half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import InvalidRequestError, RuntimeStore, StoreFileChangedError
from tests.support import (
    IDENTITY,
    LEASES,
    LEDGER,
    digest,
    file_of,
    files_picture,
    new_directory,
    open_store,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store in which nothing was committed yet."""
    with open_store(new_directory(tmp_path)) as store:
        yield store


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
