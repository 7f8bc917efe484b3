"""What is stored is what an object dumps. Its model makes of it what dumps the same again, and has
objects of the same classes in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SerializeAsAny,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from rtstore.errors import InvalidRequestError
from rtstore.model.envelope import decode, encode
from rtstore.model.payloads import PartialModel
from tests.support import NOON


def stored(data: Any, payload: type[BaseModel], *, stays: bool = False) -> Any:
    """The data in the file that some data becomes."""
    encoded = encode(schema_version=1, data=data, store="own.store", payload=payload, stays=stays)
    return decode(encoded.at(NOON)).data


class Half(BaseModel):
    """Writes bytes as base64, and takes them as they are."""

    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Both(Half):
    """Takes what it writes."""

    model_config = ConfigDict(val_json_bytes="base64")


class HalfPart(PartialModel):
    """The same of a model that knows only a part of its data."""

    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Doubling(BaseModel):
    """Its validator changes what it is given each time."""

    n: int = 0

    @field_validator("n")
    @classmethod
    def double(cls, value: int) -> int:
        """Twice the value."""
        return value * 2


class Shape(BaseModel):
    """What another one is a kind of."""

    name: str = "a"


class Circle(Shape):
    """Has a field more."""

    radius: int = 1


class Drawing(BaseModel):
    """Writes all fields of the objects that it holds, and reads only those that it knows."""

    shapes: list[SerializeAsAny[Shape]] = []


class DrawingPart(PartialModel):
    """The same of a model that knows only a part of its data."""

    shape: SerializeAsAny[Shape]


class Aliased(BaseModel):
    """Writes under one name, and reads under another."""

    n: int = Field(0, serialization_alias="number")


class Counted(BaseModel):
    """Takes a number for a text, too."""

    n: int = 0
    inner: Shape = Shape()


def assigned(model: type[BaseModel], **values: Any) -> BaseModel:
    """An object that holds what its validators would make another thing of."""
    return model.model_construct(**values)


class Sized(Shape):
    """Adds no field, but writes one more."""

    @computed_field
    def size(self) -> int:
        """How long its name is."""
        return len(self.name)


REFUSED: dict[str, tuple[Any, type[BaseModel], str, str]] = {
    "bytes": (Half(raw=b"abc"), Half, "data.raw", "'YWJj' would come back as 'WVdKag=='"),
    "bytes in JSON": ({"raw": "abc"}, Half, "data.raw", "'YWJj' would come back as 'WVdKag=='"),
    "bytes in a part": (HalfPart(raw=b"abc"), HalfPart, "data.raw", "would come back as"),
    "a validator that doubles": (
        Doubling.model_construct(n=1), Doubling, "data.n", "1 would come back as 2",
    ),
    "a validator that doubles, JSON": ({"n": 1}, Doubling, "data.n", "2 would come back as 4"),
    "an object of a subclass inside": (
        Drawing(shapes=[Shape(), Circle(radius=7)]), Drawing, "data.shapes[1].radius",
        "7 would be lost",
    ),
    "an object of a subclass in a part": (
        DrawingPart(shape=Circle(radius=7)), DrawingPart, "data.shape.radius", "7 would be lost",
    ),
    "two names": (Aliased(n=3), Aliased, "data.number", "3 would come back as 0"),
    "two names, JSON": ({"n": 3}, Aliased, "data.number", "3 would come back as 0"),
    "a text that was assigned": (
        assigned(Counted, n="7"), Counted, "data.n", "'7' would come back as 7",
    ),
    "a dict that was assigned": (
        assigned(Counted, inner={}), Counted, "data.inner.name", "'a' would be added",
    ),
    "a list that would grow": (
        assigned(Drawing, shapes=[{"name": "a"}, {}]), Drawing, "data.shapes[1].name",
        "'a' would be added",
    ),
    "a computed field of a subclass": (Sized(), Shape, "data.size", "1 would be lost"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "payload", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_a_dump_that_would_come_back_as_another_one_is_refused(
    data: Any, payload: type[BaseModel], field: str, words: str
) -> None:
    """It would be lost, or change with each write. The error names the place, and what to do."""
    with pytest.raises(InvalidRequestError) as refused:
        stored(data, payload)

    assert (refused.value.field, refused.value.store) == (field, "own.store")
    assert f"{payload.__name__} does not make the same again" in refused.value.problem
    assert words in refused.value.problem
    assert "val_json_bytes" in refused.value.problem


@pytest.mark.parametrize("data", [{"raw": "abc"}, {"raw": "YWJj"}])
def test_bytes_that_stay_as_they_are_need_no_dump(data: Any) -> None:
    """A file that is adopted, and a store that is kept, need only pass their model."""
    stored(data, Half, stays=True)


class Everything(BaseModel):
    """Values that JSON has no type for."""

    model_config = ConfigDict(extra="allow")

    at: datetime = NOON
    lasts: timedelta = timedelta(0)
    price: Decimal = Decimal(0)
    raw: bytes = b""
    rate: float = 0
    tags: set[str] = set()
    by_number: dict[int, str] = {}
    either: int | str = 0
    anything: Any = None
    hidden: int = Field(5, exclude=True)

    @computed_field
    def twice(self) -> float:
        """The double of a field."""
        return self.rate * 2


class Rounded(BaseModel):
    """Writes less than it holds."""

    rate: float

    @field_serializer("rate")
    def two_digits(self, value: float) -> float:
        """The value as it is written."""
        return round(value, 2)


EAST = timezone(timedelta(hours=5, minutes=30))

STORED: dict[str, tuple[BaseModel, Any]] = {
    "bytes that are read as they are written": (Both(raw=b"\xff\xfe"), {"raw": "__4="}),
    "a field that is not written": (
        Everything.model_validate({"hidden": 9, "more": {"at": NOON}, "anything": (1, NOON)}),
        {**json.loads(Everything().model_dump_json()), "more": {"at": "2026-04-21T12:00:00Z"},
         "anything": [1, "2026-04-21T12:00:00Z"]},
    ),
    "values of many types": (
        Everything(at=datetime(2026, 1, 1, tzinfo=EAST), lasts=timedelta(-1, microseconds=1),
                   price=Decimal("1.10"), raw=b"abc", rate=1, by_number={1: "a"}, either="1"),
        {"at": "2026-01-01T00:00:00+05:30", "lasts": "-PT23H59M59.999999S", "price": "1.10",
         "raw": "abc", "rate": 1.0, "tags": [], "by_number": {"1": "a"}, "either": "1",
         "anything": None, "twice": 2.0},
    ),
    "less than what is held": (Rounded(rate=1.23456), {"rate": 1.23}),
    "an object of the class of the field": (
        Drawing(shapes=[Shape(name="b")]), {"shapes": [{"name": "b"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), STORED.values(), ids=STORED)
def test_what_an_object_dumps_is_stored(data: BaseModel, expected: Any) -> None:
    """What comes back is written as the same again."""
    payload = type(data)
    found = stored(data, payload)

    assert found == expected == json.loads(data.model_dump_json(by_alias=True))
    assert stored(payload.model_validate_json(json.dumps(found)), payload) == found


def test_plain_json_is_stored_as_what_the_object_of_it_dumps() -> None:
    """Its texts become numbers, and its times are written in one form; then it stays."""
    data = {"at": "2026-01-01T00:00:00+00:00", "rate": "1.5", "price": 1, "tags": ["a", "a"]}
    found = stored(data, Everything)

    assert (found["at"], found["rate"], found["price"]) == ("2026-01-01T00:00:00Z", 1.5, "1")
    assert found["tags"] == ["a"]
    assert stored(found, Everything) == found


def test_the_order_of_a_set_means_nothing() -> None:
    """A set that is made of its items in another order may have them in another order."""

    class Numbers(BaseModel):
        all: set[int]

    small = set(range(64))
    first = Numbers(all={8, 0} | small)
    second = Numbers(all=small - set(range(1, 8)) - set(range(9, 64)))
    for numbers in (first, second, Numbers(all={0, 8}), Numbers(all={8, 0})):
        assert set(stored(numbers, Numbers)["all"]) == numbers.all


class Later(BaseModel):
    """Writes something else each time."""

    n: int = 0
    _clock: ClassVar[Any] = count()

    @computed_field
    def written(self) -> int:
        """How often it was written before."""
        return int(next(self._clock))


def test_what_is_computed_as_it_is_written_may_be_another_value_the_next_time() -> None:
    """The object that comes back is equal, and nothing of it is lost."""
    assert stored(Later(n=1), Later)["n"] == stored({"n": "1"}, Later)["n"] == 1


class Moment(BaseModel):
    """Holds its time in one zone."""

    at: datetime

    @field_validator("at")
    @classmethod
    def in_utc(cls, value: datetime) -> datetime:
        """The same moment."""
        return value.astimezone(UTC)


def test_the_same_moment_in_another_zone_is_the_same() -> None:
    """An object is equal to the one that comes back, and is stored as it is dumped."""
    moment = Moment.model_construct(at=datetime(2026, 1, 1, tzinfo=EAST))
    assert stored(moment, Moment) == {"at": "2026-01-01T00:00:00+05:30"}


class Loose(BaseModel):
    """Calls any two of its kind equal."""

    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes = b""
    __hash__: ClassVar[Callable[..., int] | None] = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loose)


def test_a_model_that_calls_all_objects_equal_is_not_believed() -> None:
    """Its fields are compared."""
    with pytest.raises(InvalidRequestError, match="does not make the same again"):
        stored(Loose(raw=b"abc"), Loose)


# --- classes --------------------------------------------------------------------------------------


class Running(BaseModel):
    """A state of an agent."""

    model_config = ConfigDict(frozen=True)

    since: int = 1


class Stopped(BaseModel):
    """Another one, with the same fields."""

    model_config = ConfigDict(frozen=True)

    since: int = 1


class Named(Running):
    """Adds nothing."""


class Timed(Running):
    """Adds what the field of its base has no place for."""

    until: int = 2


@dataclass(frozen=True)
class RunningPoint:
    """The same without a model."""

    since: int = 1


@dataclass(frozen=True)
class StoppedPoint:
    """And another one."""

    since: int = 1


State = Running | Stopped


Kind = TypeVar("Kind")


class Boxed(BaseModel, Generic[Kind]):
    """Of any kind."""

    held: Kind | None = None
    others: list[State] = []


class Agent(BaseModel):
    """Its states are told apart by nothing."""

    model_config = ConfigDict(extra="allow")

    state: State = Running()
    by_alias: State = Field(Running(), alias="byAlias")
    all: list[State] = []
    pair: tuple[int, State | None] = (1, None)
    by_name: dict[str, list[State]] = {}
    by_number: dict[int | str, State] = {}
    set_of: set[State] = set()
    base: Running = Running()
    point: RunningPoint | StoppedPoint = RunningPoint()
    deep: list[Agent] = []
    root: Root | None = None
    box: Box | None = None
    boxed: Boxed | None = None  # type: ignore[type-arg]
    anything: Any = None
    hidden: State = Field(Running(), exclude=True)
    _private: State = Stopped()


class Root(RootModel[list[State]]):
    """Has no name of its own in JSON."""


@pydantic_dataclass
class Box:
    """A dataclass of pydantic with a model in it."""

    state: State = Running()
    hidden: State = Field(default=Running(), exclude=True)


CLASSES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a field": ({"state": Stopped()}, "data.state", "Stopped", "Running"),
    "a field with an alias": ({"byAlias": Stopped()}, "data.byAlias", "Stopped", "Running"),
    "a list": ({"all": [Running(), Stopped()]}, "data.all[1]", "Stopped", "Running"),
    "a tuple": ({"pair": (1, Stopped())}, "data.pair[1]", "Stopped", "Running"),
    "a dict": ({"by_name": {"a": [Stopped()]}}, "data.by_name.a[0]", "Stopped", "Running"),
    "a key that is a number": (
        {"by_number": {1: Running(), 2: Stopped()}}, "data.by_number.2", "Stopped", "Running",
    ),
    "a subclass with the same fields": ({"base": Named()}, "data.base", "Named", "Running"),
    "a subclass with more": ({"base": Timed()}, "data.base", "Timed", "Running"),
    "a dataclass": ({"point": StoppedPoint()}, "data.point", "StoppedPoint", "RunningPoint"),
    "deeper": (
        {"deep": [Agent(), Agent(base=Named())]}, "data.deep[1].base", "Named", "Running",
    ),
    "a root": ({"root": Root([Stopped()])}, "data.root[0]", "Stopped", "Running"),
    "in a dataclass": ({"box": Box(state=Stopped())}, "data.box.state", "Stopped", "Running"),
    "a generic model": (
        {"boxed": Boxed[int](others=[Stopped()])}, "data.boxed.others[0]", "Stopped", "Running",
    ),
    "anything": ({"anything": [Running()]}, "data.anything[0]", "Running", "dict"),
    "a dataclass as anything": (
        {"anything": StoppedPoint()}, "data.anything", "StoppedPoint", "dict",
    ),
    "an extra field": ({"more": {"a": Running()}}, "data.more.a", "Running", "dict"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "field", "given", "back"), CLASSES.values(), ids=CLASSES)
def test_an_object_inside_that_would_be_of_another_class_is_refused(
    values: dict[str, Any], field: str, given: str, back: str
) -> None:
    """Its JSON does not say which it was. The error names the place, the classes and the remedy."""
    with pytest.raises(InvalidRequestError) as refused:
        stored(Agent(**values), Agent)
    assert refused.value.field == field
    assert f"a {given} would come back as a {back}" in refused.value.problem
    assert "discriminator" in refused.value.problem


@pytest.mark.parametrize("data", [Agent(set_of={Stopped()}), Agent(anything=[{Stopped()}])])
def test_a_set_of_objects_that_come_back_as_others_is_refused(data: Agent) -> None:
    """With its place; which of them it is, a set does not say."""
    with pytest.raises(InvalidRequestError, match="cannot be made of its JSON again") as refused:
        stored(data, Agent)
    assert refused.value.field in ("data.set_of", "data.anything[0]")
    assert stored(Agent(set_of={Running()}), Agent)["set_of"] == [{"since": 1}]


def test_an_object_of_a_subclass_of_the_model_itself_may_be_given() -> None:
    """Where it adds no field: it is the store's model that says what comes back. What is inside is
    looked at."""

    class Mine(Agent):
        """Adds a function."""

    assert stored(Mine(), Agent)["state"] == {"since": 1}
    for data in (Mine(state=Stopped()), assigned(Mine, base=Stopped())):
        with pytest.raises(InvalidRequestError, match="a Stopped would come back as a Running"):
            stored(data, Agent)


class Cat(BaseModel):
    """Says what it is."""

    kind: Literal["cat"] = "cat"
    legs: int = 4


class Dog(BaseModel):
    """The same."""

    kind: Literal["dog"] = "dog"
    legs: int = 4


class Chosen(Running):
    """Is told by its validator."""

    @model_validator(mode="wrap")
    @classmethod
    def by_time(cls, data: Any, handler: Callable[[Any], Any]) -> Any:
        """One of a subclass for some."""
        if isinstance(data, dict) and data["since"] > 5 and cls is Chosen:
            return Late.model_validate(data)
        return handler(data)


class Late(Chosen):
    """Some."""


class Zoo(BaseModel):
    """Tells all that is in it apart."""

    pet: Cat | Dog = Field(default_factory=Dog, discriminator="kind")
    pets: list[Cat | Dog] = [Cat(), Dog()]
    when: Chosen = Late(since=6)
    written: Running = Named()
    named: list[Annotated[Running, PlainSerializer(lambda item: {"since": item.since})]] = [Named()]
    sometimes: State | None = None
    boxed: Boxed = Boxed[int](held=1)  # type: ignore[type-arg]
    numbers: dict[int, State] = {1: Running()}
    hidden: State = Field(Stopped(), exclude=True)
    _private: State = Stopped()

    @field_serializer("written")
    def short(self, value: Running) -> dict[str, int]:
        """What it is without its class."""
        return {"since": value.since}


@pytest.mark.parametrize("data", [Zoo(), Agent(anything=[1, (2, NOON)], pair=(1, Running()))])
def test_an_object_whose_classes_come_back_is_stored(data: BaseModel) -> None:
    """So is one with a serializer of its own, which chose what is written; what is not written may
    be anything."""
    assert stored(data, type(data)) == json.loads(data.model_dump_json(by_alias=True))


def test_only_objects_that_are_given_are_looked_at() -> None:
    """JSON has no classes, and bytes that stay are checked only."""
    assert stored({"state": {"since": 3}}, Agent)["state"] == {"since": 3}
    stored(Agent(state=Stopped()), Agent, stays=True)
