"""Objects of the caller's: what is in them, whether that changed, and how two of them differ."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from operator import is_
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, PlainSerializer, RootModel, WrapSerializer
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from rtstore.foreign import fails_again, says_of_data

SERIALIZERS = (PlainSerializer, WrapSerializer)
"""What an annotation of a field may hold that writes it in its own way."""
_SHOWN_AS_THEY_ARE = (float, Decimal, datetime, time)
"""They may be equal, and be written as other texts: 0.0 and -0.0, or one moment in two zones."""
_VALUES = frozenset((str, int, bool, bytes, type(None), UUID, date, timedelta, *_SHOWN_AS_THEY_ARE))
"""The usual types of values that nobody changes in place, and that no object is in."""


def _plain_json() -> CoreSchema:
    value = core_schema.definition_reference_schema("value")
    text = core_schema.str_schema(strict=True)
    choices: dict[Any, CoreSchema] = {
        str: text,
        int: core_schema.int_schema(strict=True),
        float: core_schema.float_schema(strict=True, allow_inf_nan=False),
        bool: core_schema.bool_schema(strict=True),
        type(None): core_schema.none_schema(),
        dict: core_schema.dict_schema(text, value, strict=True),
        list: core_schema.list_schema(value, strict=True),
    }
    tagged = core_schema.tagged_union_schema(choices, discriminator=type, ref="value")
    return core_schema.definitions_schema(value, [tagged])


PLAIN_JSON = SchemaValidator(_plain_json())
"""Checks that data is JSON of exactly the types that JSON has, faster than any function of Python:
it asks `type` what each value is."""


class _Look(Enum):
    """Which parts of models are looked at. What is computed never is."""

    EVERYTHING = "everything"
    """All fields, and the private attributes."""
    WRITTEN = "written"
    """The fields that are not excluded."""
    WRITTEN_AS_THEY_ARE = "written as they are"
    """Those of them that may hold objects, and that no serializer of the model's own writes."""


class _Form(Enum):
    """What kind of object has something in it."""

    MODEL = "model"
    DICT = "dict"
    LIST = "list"
    SET = "set"
    DATACLASS = "dataclass"


_FORMS: dict[_Form, tuple[type, ...]] = {
    _Form.MODEL: (BaseModel,),
    _Form.DICT: (dict,),
    _Form.LIST: (list, tuple, deque),
    _Form.SET: (set, frozenset),
}


_WITH_CLASSES = (_Form.MODEL, _Form.DATACLASS)


def _form_of(value: object) -> _Form | None:
    """Return the form of an object; None where nothing is in it."""
    kind: type = type(value)
    return _form(kind)


@lru_cache(maxsize=500)
def _form(kind: type) -> _Form | None:
    """Return the form of the objects of a class. It is asked of each object in large data, and what
    pydantic makes of `isinstance` is slow."""
    for form, types in _FORMS.items():
        if issubclass(kind, types):
            return form
    return _Form.DATACLASS if is_dataclass(kind) else None


class _Inside(NamedTuple):
    """What is in an object: a container of Python, a model or a dataclass."""

    keys: Sequence[Any]
    values: Sequence[Any]


def _inside(value: Any, look: _Look) -> _Inside | None:
    """Return what is in an object; None for one of another class."""
    kind: type = type(value)
    form = _form(kind)
    if form is _Form.MODEL:
        state, private = value.__dict__, value.__pydantic_private__
        names = [name for name in _names(kind, look) if name in state]
        held = [state[name] for name in names]
        for more in (value.__pydantic_extra__, private if look is _Look.EVERYTHING else None):
            if more:
                names += more
                held += more.values()
        return _Inside(names, held)
    if form is _Form.DICT:
        return _Inside([*value], [*value.values()])
    if form is _Form.LIST or form is _Form.SET:
        return _Inside(range(len(value)), [*value])
    if form is _Form.DATACLASS:
        names = [*_names(kind, look)]
        return _Inside(names, [getattr(value, name, None) for name in names])
    return None


@lru_cache(maxsize=500)
def _names(kind: type, look: _Look) -> tuple[str, ...]:
    """Return the names of the fields of a model, or a dataclass, that are looked at."""
    every: dict[str, FieldInfo] | None = getattr(kind, "__pydantic_fields__", None)
    if every is None:  # a dataclass of Python's own
        return tuple(field.name for field in fields(kind))
    written = {name: field for name, field in every.items() if not field.exclude}
    if look is not _Look.WRITTEN_AS_THEY_ARE:
        return tuple(every if look is _Look.EVERYTHING else written)
    own: Any = kind.__pydantic_decorators__  # type: ignore[attr-defined]
    if own.model_serializers:
        return ()
    chosen = {name for item in own.field_serializers.values() for name in item.info.fields}
    return tuple(
        name
        for name, field in written.items()
        if chosen.isdisjoint((name, "*"))
        and not any(isinstance(item, SERIALIZERS) for item in field.metadata)
        and getattr(field, "exclude_if", None) is None
        and _may_hold_objects(field.annotation)
    )


def _may_hold_objects(annotation: Any) -> bool:
    """Return whether what a field is for may have an object in it, and is not values only."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        is_chosen = any(isinstance(item, SERIALIZERS) for item in arguments[1:])
        return not is_chosen and _may_hold_objects(arguments[0])
    if arguments:
        return origin is not Literal and any(map(_may_hold_objects, arguments))
    return annotation not in (*_VALUES, ...)


class Picture:
    """What was in data at one moment. It tells later whether that is still so."""

    def __init__(self, data: object) -> None:
        self._parts: list[tuple[object, _Inside]] = []
        self._copies: list[tuple[object, tuple[object] | None]] = []
        pending, seen = [data], set[int]()
        while pending:
            value = pending.pop()
            if type(value) in _VALUES or id(value) in seen:
                continue
            seen.add(id(value))
            held = _inside(value, _Look.EVERYTHING)
            if held is None:
                self._copies.append((value, _copy_of(value)))
            else:
                self._parts.append((value, held))
                pending.extend(held.values)

    def is_still_true(self) -> bool:
        """Return whether every object in the data holds what it held then. False also where that
        cannot be known: of an object without fields that no copy is equal to."""
        return all(_holds(value, held) for value, held in self._parts) and all(
            copy is not None and are_equal(*copy, value) for value, copy in self._copies
        )


def _copy_of(value: object) -> tuple[object] | None:
    copy = partial(deepcopy, value)
    try:
        copied = copy()
    except Exception as error:
        if not (says_of_data(error) and fails_again(copy, Exception)):
            raise
        return None
    return (copied,) if are_equal(copied, value) else None


def _holds(value: object, held: _Inside) -> bool:
    now = _inside(value, _Look.EVERYTHING)
    if now is None or now.keys != held.keys:
        return False
    return all(map(is_, held.values, now.values)) or all(
        map(_is_same_value, held.values, now.values)
    )


def _is_same_value(one: object, other: object) -> bool:
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other) or kind not in _VALUES or one != other:
        return False
    return kind not in _SHOWN_AS_THEY_ARE or repr(one) == repr(other)


def are_equal(held: object, other: object) -> bool:
    """Return whether two objects of the caller's say that they are equal. Never raises."""
    try:
        return bool(held == other)
    except Exception:  # noqa: BLE001 - of the caller's objects; whoever looks closer decides
        return False


class _Step(NamedTuple):
    """Two values at the same place of two objects, and how that place is reached."""

    around: _Step | None
    key: Any
    one: Any
    other: Any

    @property
    def place(self) -> str:
        """The place in the JSON of the first object: `data.members[2].name`."""
        if self.around is None:
            return "data"
        holder, key = self.around.one, self.key
        if isinstance(holder, RootModel):
            return self.around.place
        if isinstance(holder, BaseModel) and key in type(holder).model_fields:
            key = type(holder).model_fields[key].serialization_alias or key
        is_index = _form_of(holder) is _Form.LIST
        return self.around.place + (f"[{key}]" if is_index else f".{key}")


def are_same(one: object, other: object) -> bool:
    """Return whether two pieces of data hold the same, to be written as the same text. What is
    computed does not count, and an object without fields says itself what it is equal to."""
    return one is other or all(
        _is_same_value(step.one, step.other)
        or (
            type(step.one) is type(step.other) not in _VALUES
            and not isinstance(step.one, BaseModel)
            and are_equal(step.one, step.other)
        )
        for step in _leaves(one, other, _Look.EVERYTHING)
    )


def first_unlike(one: object, other: object) -> str | None:
    """Return the first place where two pieces of data do not hold what is equal in the fields that
    are written; None where there is none. What a model itself says of that is not asked."""
    for step in _leaves(one, other, _Look.WRITTEN):
        if isinstance(step.one, BaseModel) or not are_equal(step.one, step.other):
            return step.place
    return None


class OtherClass(NamedTuple):
    """A place in an object, the class of the object there, and of what comes back of it."""

    place: str
    given: type
    read_back: type


def first_other_class(given: BaseModel, read_back: BaseModel) -> OtherClass | None:
    """Return the first place inside of an object where the object of a model or a dataclass comes
    back as one of another class; None where there is none. What a serializer of the model's own
    writes is not looked at: that may choose."""
    for step in _leaves(given, read_back, _Look.WRITTEN_AS_THEY_ARE):
        kinds = _class_of(step.one), _class_of(step.other)
        is_inside = step.around is not None
        if is_inside and kinds[0] is not kinds[1] and _form_of(step.one) in _WITH_CLASSES:
            return OtherClass(step.place, *kinds)
    return None


def _leaves(one: object, other: object, look: _Look) -> Iterator[_Step]:
    """Yield what nothing is in, in two objects, and where they are not alike: models of two
    classes, lists of two lengths. Unless everything is looked at, lists and dicts of other types
    are alike."""
    pending = [_Step(None, None, one, other)]
    seen = set[tuple[int, int]]()
    while pending:
        step = pending.pop()
        pairs = _pairs(step, look)
        if pairs is None:
            yield step
        elif (both := (id(step.one), id(step.other))) not in seen:
            seen.add(both)
            pending.extend(_Step(step, *pair) for pair in reversed(pairs))


def _pairs(step: _Step, look: _Look) -> list[tuple[Any, Any, Any]] | None:
    """Return the keys and the values in two objects that are alike; None for others."""
    one, other = step.one, step.other
    kind: type = type(one)
    if kind in _VALUES or _form(kind) is _Form.SET:
        return None
    if kind is not type(other) and not _may_differ(step, look):
        return None
    is_of_classes = look is _Look.WRITTEN_AS_THEY_ARE
    if is_of_classes and kind in (dict, list) and PLAIN_JSON.isinstance_python(one):
        return []
    held, there = _inside(one, look), _inside(other, look)
    if held is None or there is None:
        return None
    values, are_as_many = there.values, len(held.keys) == len(there.keys)
    if held.keys != there.keys:
        found = dict(zip(there.keys, values, strict=True))
        if found.keys() >= set(held.keys) and (is_of_classes or are_as_many):
            values = [found[key] for key in held.keys]
        elif look is _Look.EVERYTHING or not are_as_many:
            return None
    pairs = zip(held.keys, held.values, values, strict=True)
    if not is_of_classes:
        return list(pairs)
    return [(key, a, b) for key, a, b in pairs if not _is_of_one_class(a, b)]


def _is_of_one_class(one: Any, other: Any) -> bool:
    """Return whether nothing in a value can come back as an object of another class: it is a usual
    value, or a model of the same class whose fields hold no objects, as most are."""
    kind: type = type(one)
    if kind in _VALUES:
        return True
    if _form(kind) is not _Form.MODEL or one.__pydantic_extra__:
        return False
    return not _names(kind, _Look.WRITTEN_AS_THEY_ARE) and kind is type(other)


def _may_differ(step: _Step, look: _Look) -> bool:
    """Return whether two objects of different types may be alike. (Which class the object itself
    may have that comes back as its payload model is checked when it is given.)"""
    form = _form_of(step.one)
    if look is _Look.EVERYTHING or form is not _form_of(step.other):
        return False
    if form is _Form.MODEL:
        is_whole = step.around is None and look is _Look.WRITTEN_AS_THEY_ARE
        return is_whole or _class_of(step.one) is _class_of(step.other)
    return form in (_Form.DICT, _Form.LIST)


def _class_of(value: Any) -> type:
    """Return the class of an object; of a generic model, the one that has no parameters yet."""
    kind: type = type(value)
    generic: dict[str, Any] = getattr(kind, "__pydantic_generic_metadata__", {})
    return generic.get("origin") or kind
