"""What is in objects of models: whether that changed, and whether two objects hold the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from rtstore.model.objects import Picture, are_same

NUMBERS = count()
EAST = timezone(timedelta(hours=5))


class Opaque:
    """Holds a value, and is equal to nothing but itself."""

    def __init__(self) -> None:
        self.n = 0


class Valued:
    """Holds a value, and is equal to what holds the same."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Valued) and other.n == self.n


@dataclass
class Point:
    """A dataclass of Python's own."""

    x: int = 0
    near: list[int] = field(default_factory=list)


@pydantic_dataclass
class Checked:
    """One of pydantic's."""

    x: int = 0


class Part(BaseModel):
    """A part of the data."""

    n: float = 0


class Whole(BaseModel):
    """Holds an object of each kind, and makes other values each time that it is dumped."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    price: Decimal = Decimal("1.0")
    part: Part = Part()
    parts: list[Part] = Field(default_factory=lambda: [Part()])
    by_name: dict[str, Any] = Field(default_factory=lambda: {"a": [1], "b": True})
    tags: set[str] = {"a"}
    pair: tuple[Part, int] = (Part(), 1)
    last: deque[int] = deque([1, 2])
    point: Point = Field(default_factory=Point)
    checked: Checked = Field(default_factory=Checked)
    valued: Valued = Field(default_factory=Valued)
    _secret: int = PrivateAttr(default_factory=lambda: next(NUMBERS))

    @computed_field
    def later(self) -> int:
        """Another value each time."""
        return next(NUMBERS)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def cached(self) -> int:
        """The value of the first look."""
        return next(NUMBERS)

    @field_serializer("price")
    def written(self, value: Decimal) -> str:
        """Another text each time."""
        return f"{value} {next(NUMBERS)}"


def whole() -> Whole:
    """An object that shares nothing with another one."""
    return Whole(more={"deep": [{"a": 1}]}).model_copy(deep=True)


def look(data: Whole) -> None:
    """Ask for all that is computed."""
    data.model_dump(exclude={"valued"})
    assert str((data.later, data.cached))


CHANGES: dict[str, Callable[[Any], object]] = {
    "a field": lambda data: setattr(data, "part", Part(n=1)),
    "a model in a field": lambda data: setattr(data.part, "n", 1),
    "a model in a list": lambda data: setattr(data.parts[0], "n", 1),
    "a model in a tuple": lambda data: setattr(data.pair[0], "n", 1),
    "a list that grows": lambda data: data.parts.append(Part()),
    "a list in a dict": lambda data: data.by_name["a"].append(2),
    "a key": lambda data: data.by_name.update(c=1),
    "a key that goes": lambda data: data.by_name.pop("a"),
    "a number for a truth": lambda data: data.by_name.update(b=1),
    "another form of a number": lambda data: setattr(data, "price", Decimal("1.00")),
    "a zero with a sign": lambda data: setattr(data.part, "n", -0.0),
    "the same moment": lambda data: setattr(data, "at", data.at.astimezone(EAST)),
    "a set": lambda data: data.tags.add("b"),
    "the order of a deque": lambda data: data.last.rotate(),
    "a dataclass": lambda data: setattr(data.point, "x", 1),
    "a list in a dataclass": lambda data: data.point.near.append(1),
    "a dataclass of pydantic": lambda data: setattr(data.checked, "x", 1),
    "a private attribute": lambda data: setattr(data, "_secret", -1),
    "an extra field": lambda data: data.more["deep"][0].update(a=2),
    "an object of another class": lambda data: setattr(data.valued, "n", 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_in_place_is_seen(change: Callable[[Any], object]) -> None:
    """And what was changed in one object differs from the other."""
    data = whole()
    before, other = Picture(data), data.model_copy(deep=True)
    assert are_same(data, other)
    change(data)
    assert not before.is_still_true()
    assert not are_same(data, other)


@pytest.mark.parametrize("data", [whole(), [1, {"a": [whole()]}], {"a": 1.5}, None, "text"])
def test_what_nobody_changes_stays(data: Any) -> None:
    """Whatever is computed meanwhile, and however often: it is no part of what an object holds."""
    before = Picture(data)
    if isinstance(data, Whole):
        look(data)
    assert before.is_still_true()
    assert are_same(data, data)


def test_what_holds_an_object_that_cannot_be_compared_is_not_called_unchanged() -> None:
    """A change of it could not be seen. So somebody else has to look."""
    things: list[Any] = [Opaque(), [MappingProxyType({})]]
    for thing in things:
        assert not Picture(Part.model_construct(n=thing)).is_still_true()


def test_an_object_that_is_in_itself_has_an_end() -> None:
    """Also where the other one is built in the same way."""
    pair = []
    for _ in range(2):
        data = Whole.model_construct(parts=[])
        data.parts.append(data)  # type: ignore[arg-type]
        before = Picture(data)
        assert before.is_still_true()
        pair.append(data)
    pair[0].__pydantic_private__ = pair[1].__pydantic_private__ = None
    assert are_same(*pair)


def test_an_exception_that_is_not_of_the_data_passes() -> None:
    """That of a signal handler, while an object is copied, is no error of the object."""

    class Copied:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def __deepcopy__(self, _: object) -> Copied:
            raise self.error

    for error in (TimeoutError("too late"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            Picture([Copied(error)])
    assert not Picture([Copied(ValueError("no copy"))]).is_still_true()
