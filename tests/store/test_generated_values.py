"""Models that generate values: each object of them is another one, made of the same JSON or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field, PrivateAttr, computed_field

from rtstore import Batch, Descriptor, InvalidRequestError, RuntimeStore, StoreData
from tests.support import IDENTITY, files_picture, open_store

NUMBERS = count(1)


class Member(BaseModel):
    """A part of the data, with an id of its own."""

    name: str = "ann"
    id: UUID = Field(default_factory=uuid4)


class Born(BaseModel):
    """Gained fields since its data was committed."""

    n: int = 0
    id: UUID = Field(default_factory=uuid4)
    members: list[Member] = Field(default_factory=lambda: [Member()])


class Seen(BaseModel):
    """Computes another value each time that it is dumped."""

    n: int = 0
    members: list[Member] = []
    _token: UUID = PrivateAttr(default_factory=uuid4)

    @computed_field
    def age(self) -> int:
        """What a clock would say."""
        return next(NUMBERS)


BORN, SEEN = Descriptor("own.born", payload=Born), Descriptor("own.seen", payload=Seen)
NOTES = Descriptor("own.notes")
MODELS: list[Descriptor] = [BORN, SEEN]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store in which `Born` had one field when it was committed."""
    before = [Descriptor("own.born"), SEEN, NOTES]
    with open_store(tmp_path / "runtime", descriptors=before) as store:
        write(store, {"own.born": {"n": 1}, SEEN: Seen(n=1, members=[Member()]), NOTES: 0})
    with RuntimeStore.open(tmp_path / "runtime", descriptors=[BORN, SEEN, NOTES]) as store:
        yield store


def write(store: RuntimeStore, writes: Mapping[Any, Any], **options: Any) -> Batch:
    """Write stores."""
    return store.write_batch(identity=IDENTITY, reason="test", writes=writes, **options)


def update(
    store: RuntimeStore, keys: list[Any], change: Callable[[StoreData], Mapping[Any, Any]]
) -> tuple[str, ...]:
    """Update several stores; return those that were written."""
    batch = store.update(keys, change, identity=IDENTITY, reason="test")
    return () if batch is None else batch.stores


# --- updates of several stores --------------------------------------------------------------------

ALONE: dict[str, Callable[[StoreData], Mapping[Any, Any]]] = {
    "left out": lambda _: {},
    "as given": lambda data: data,
    "looked at": lambda data: {key: data[key] for key in data if str(data[key])},
    "taken out": lambda data: {key: data.pop(key) for key in list(data)},
    "a copy": lambda data: {
        key: item.model_copy(deep=True) if isinstance(item, BaseModel) else item
        for key, item in data.items()
    },
}


@pytest.mark.parametrize("change", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("key", [BORN, SEEN, "own.born", "own.seen"], ids=str)
def test_what_a_function_leaves_alone_is_neither_refused_nor_written(
    store: RuntimeStore, key: Any, change: Callable[[StoreData], Mapping[Any, Any]]
) -> None:
    """By descriptor and by name: with nothing else changed there is no batch, and with another
    store changed that one is written."""
    before = files_picture(store.directory)
    assert update(store, [key, NOTES], change) == ()
    assert files_picture(store.directory) == before
    assert update(store, [key, NOTES], lambda data: {**change(data), NOTES: [1]}) == ("own.notes",)


IN_PLACE: dict[str, Callable[[StoreData, Any], object]] = {
    "a field": lambda data, key: setattr(data[key], "n", 2),
    "a list": lambda data, key: data[key].members.append(Member(name="bob")),
    "in a list": lambda data, key: setattr(data[key].members[0], "name", "bob"),
    "taken out": lambda data, key: setattr(data.pop(key), "n", 2),
    "another object": lambda data, key: data.update({key: data[key].model_copy(update={"n": 2})}),
}


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("key", MODELS, ids=lambda item: item.schema_name)
def test_what_a_function_changed_in_place_and_left_out_is_refused(
    store: RuntimeStore, key: Any, change: Callable[[StoreData, Any], object]
) -> None:
    """It would be lost."""
    before = files_picture(store.directory)

    def changing(data: StoreData) -> dict[Any, Any]:
        change(data, key)
        return {NOTES: 1}

    with pytest.raises(InvalidRequestError, match="changed its data in place") as refused:
        update(store, [key, NOTES], changing)
    assert (refused.value.field, refused.value.store) == ("change", key.schema_name)
    assert files_picture(store.directory) == before


@pytest.mark.parametrize("key", MODELS, ids=lambda item: item.schema_name)
def test_what_a_function_changed_is_written(store: RuntimeStore, key: Any) -> None:
    """Where it changed the object in place, with what the model generated; and where it returns a
    new one."""

    def changing(data: StoreData) -> StoreData:
        data[key].members[0].name = "bob"
        return data

    assert update(store, [key, NOTES], changing) == (key.schema_name,)
    assert store.read(key).data.members[0].name == "bob"
    assert update(store, [key, NOTES], lambda _: {key: key.payload(n=3)}) == (key.schema_name,)


def test_a_store_with_nothing_committed_may_be_left_out(tmp_path: Path) -> None:
    """By a descriptor with a model there is no object of it then."""
    with open_store(tmp_path / "runtime", descriptors=[*MODELS, NOTES]) as store:
        assert update(store, [*MODELS, NOTES], lambda _: {NOTES: 1}) == ("own.notes",)

        def adding(data: StoreData) -> dict[Any, Any]:
            data[SEEN] = Seen()
            return {}

        with pytest.raises(InvalidRequestError, match="changed its data in place"):
            update(store, [*MODELS, NOTES], adding)


def test_an_object_that_computes_a_value_comes_back_as_the_same(store: RuntimeStore) -> None:
    """What is computed and what is private may be something else each time: nothing of it is
    stored, or needs to come back."""
    write(store, {SEEN: Seen(n=7)})
    assert store.read(SEEN).data.n == 7
