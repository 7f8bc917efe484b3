"""Sets in payload models: Python has their contents in another order in each process, and a store
file always in the same one, or a batch that is repeated would not be the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    computed_field,
    field_serializer,
)

from rtstore.model.envelope import decode_own, encode
from rtstore.model.payloads import PartialModel
from tests.support import NOON


class Rank(StrEnum):
    """Texts in a set."""

    HIGH = "high"
    LOW = "low"


class Member(BaseModel):
    """A model in a set."""

    model_config = ConfigDict(frozen=True)
    name: str
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Point:
    """A dataclass in a set."""

    x: int
    near: frozenset[int] = frozenset()


class Sets(BaseModel):
    """Sets wherever Python can hold them."""

    model_config = ConfigDict(extra="allow")
    plain: set[int] = set()
    mixed: set[int | str | None] = set()
    deep: frozenset[frozenset[int]] = frozenset()
    pairs: set[tuple[int, frozenset[int]]] = set()
    by_number: dict[int, set[int]] = Field(default={}, alias="byNumber")
    in_list: list[dict[str, set[int]]] = Field(default=[], alias="inList")
    points: list[Point] = Field(default=[])


class WithModels(BaseModel):
    """A model that Python itself cannot dump, for the dump of a model can be in no set."""

    members: set[Member]
    points: set[Point] = set()
    others: RootModel[set[int]] = RootModel[set[int]](set())
    numbers: set[int] = Field(default=set(), alias="theNumbers")
    in_order: Annotated[set[int], PlainSerializer(lambda found: sorted(found, reverse=True))] = (
        set()
    )
    chosen: set[int] = set()

    @field_serializer("chosen")
    def _choose(self, chosen: set[int]) -> list[int]:
        return sorted(chosen, reverse=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> set[int]:
        """Computed."""
        return set(self.numbers)


class Ordered(BaseModel):
    """A model whose serializer chooses the order."""

    ranks: set[int]

    @field_serializer("ranks")
    def _highest_first(self, ranks: set[int]) -> list[int]:
        return sorted(ranks, reverse=True)


def written(data: Any) -> Any:
    """The data of a store file, as JSON."""
    kind = type(data)
    encoded = encode(schema_version=1, data=data, store="test.store", payload=kind)
    return decode_own(encoded.at(NOON)).data


def either(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Some items in the one order, and in the other."""
    found = list(items)
    yield found
    yield found[::-1]


FEW = (0, 8, 16)
"""Python has them in the order in which they were put into a set."""


def test_the_order_of_a_set_depends_on_how_it_was_made() -> None:
    """So these tests see what a file would hold of it."""
    assert [list(set(items)) for items in either(FEW)] == [[0, 8, 16], [16, 8, 0]]


def test_what_is_in_a_set_is_written_sorted() -> None:
    """Wherever the set is, and however it was made; lists and tuples stay in their order."""
    for items in either(FEW):
        data = Sets.model_validate(
            {
                "plain": items,
                "mixed": [*items, "b", "a", None],
                "deep": [items, [8, *items[:1]]],
                "pairs": [(2, frozenset(items)), (1, frozenset(items))],
                "byNumber": {2: items, 1: items},
                "inList": [{"z": items}, {"a": items}],
                "points": [Point(2, frozenset(items)), Point(1, frozenset(items))],
                "more": {"any": set(items)},
            }
        )
        found = written(data)
        assert found["plain"] == [0, 8, 16]
        assert found["mixed"] == ["a", "b", 0, 16, 8, None]
        assert all(item == sorted(item) for item in found["deep"])
        assert found["pairs"] == [[1, [0, 8, 16]], [2, [0, 8, 16]]]
        assert list(found["byNumber"].items()) == [("2", [0, 8, 16]), ("1", [0, 8, 16])]
        assert found["inList"] == [{"z": [0, 8, 16]}, {"a": [0, 8, 16]}]
        assert found["points"] == [{"x": 2, "near": [0, 8, 16]}, {"x": 1, "near": [0, 8, 16]}]
        assert found["more"] == {"any": [0, 8, 16]}


def test_a_set_of_models_is_written_sorted() -> None:
    """So are the sets in its models, and beside it; what a serializer of the model wrote stays."""
    for items in either(FEW):
        names = list(either("abcdefgh"))[items[0] == 0]
        data = WithModels(
            members={Member(name=name, groups=frozenset(items)) for name in names},
            points={Point(x, frozenset(items)) for x in items},
            others=RootModel[set[int]](set(items)),
            theNumbers=set(items),
            in_order=set(items),
            chosen=set(items),
        )
        found = written(data)
        assert found["members"] == [{"name": name, "groups": [0, 8, 16]} for name in "abcdefgh"]
        assert sorted(point["x"] for point in found["points"]) == [0, 8, 16]
        assert all(point["near"] == [0, 8, 16] for point in found["points"])
        for name in ("others", "theNumbers", "twice"):
            assert found[name] == [0, 8, 16], name
        assert found["in_order"] == found["chosen"] == [16, 8, 0]


@pytest.mark.parametrize("items", list(either(FEW)))
def test_a_serializer_of_the_model_chooses_the_order(items: list[int]) -> None:
    """What it wrote is not sorted."""
    assert written(Ordered(ranks=set(items))) == {"ranks": [16, 8, 0]}


def test_of_members_that_a_serializer_makes_equal_one_comes_back() -> None:
    """As the guide says: all are written, and the model takes them for one."""

    class Loud(BaseModel):
        names: set[Annotated[str, PlainSerializer(str.upper)]]

    found = written(Loud(names={"a", "A", "b"}))
    assert found == {"names": ["A", "A", "B"]}
    assert Loud.model_validate(found).names == {"A", "B"}


def test_json_by_name_is_written_as_the_model_dumps_it() -> None:
    """Sorted too; but with a `PartialModel` JSON stays as it is."""

    class Part(PartialModel):
        ranks: set[Rank]

    data = {"ranks": ["low", "high"]}
    encoded = encode(schema_version=1, data=data, store="test.store", payload=Part)
    assert decode_own(encoded.at(NOON)).data == data
    assert written(Part(ranks={Rank.LOW, Rank.HIGH})) == {"ranks": ["high", "low"]}


PROCESS = """
from pydantic import BaseModel
from rtstore.model.json_data import dump
class Names(BaseModel):
    names: set[str]
print(dump(Names(names=map(str, range(20))), "test.store"))
"""


def test_each_process_writes_the_same() -> None:
    """Python draws the order of texts in a set anew in each process."""
    found = {
        subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
