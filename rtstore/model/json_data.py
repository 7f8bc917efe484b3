"""JSON data: a model as JSON, and the places where data is no JSON."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from pydantic import (
    BaseModel,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
)
from pydantic_core import to_jsonable_python

from rtstore.errors import InvalidRequestError, shown
from rtstore.foreign import fails_again, origin_of, says_of_data
from rtstore.model.objects import SERIALIZERS, are_equal, first_unlike


class Place(NamedTuple):
    """A place in data. Its text is made only when it is named: a long key stands in the place of
    everything below it."""

    around: Place | None
    step: str
    """Where it is in what is around it: `.key` or `[index]`."""

    def __str__(self) -> str:
        steps = []
        place: Place | None = self
        while place is not None:
            steps.append(place.step)
            place = place.around
        return "".join(reversed(steps))


TOP = Place(None, "data")
"""The place of the data itself."""
DEPTH_MAX = 253
"""How deep lists and objects may be in each other: pydantic goes no deeper, with the envelope."""
DIGITS_MAX = 4300
"""Longer numbers are refused by Python's `json` (sys.set_int_max_str_digits), so by ours, too."""
_TOO_LONG = 10**DIGITS_MAX
_JSON_TYPES = (str, int, float, dict, list, type(None))
_FINITE = "must be a finite number, not {}: JSON has none such"
_SECRETS = (SecretStr, SecretBytes, Secret)
_MASK = "**********"
"""Pydantic writes it in place of a secret, unless the class of that shows another text."""
_MASKED = (
    "a secret would be lost: pydantic writes asterisks in its place. Give the field a serializer "
    "that writes its value (field_serializer), or keep the secret elsewhere"
)
_MASKED_KEY = f"a key is a secret: {_MASKED}"


def dump(
    model: BaseModel,
    store: str,
    *,
    warnings: bool = True,
    may_mask: bool = False,
    known: object = None,
) -> object:
    """Return a model as JSON data, by its own rules.

    Where the type of a field is open (`Any`, extra fields), pydantic writes NaN and infinity as
    null; of the keys 1 and "1" it keeps one; and it writes asterisks in place of a secret. Raises
    `InvalidRequestError`, naming the place, for a number, a key or a secret that would be lost so.
    With `may_mask` secrets may be: what is dumped is not stored. Without `warnings`, pydantic does
    not warn of a field that has another type than its own: whoever calls checks that.

    A dump that is `known` is returned as it is: it was looked at when it was made.

    What is in a set comes sorted, for Python has it in another order in each process.
    """
    as_json = partial(model.model_dump, mode="json", by_alias=True, warnings=warnings)
    try:
        dumped: object = as_json()
    except (ValueError, TypeError) as error:  # the second for a key that is a set
        if not (says_of_data(origin_of(error)) and fails_again(as_json, TypeError)):
            raise origin_of(error) from None
        place, problem = _refused(model, error) or ("data", str(error))
        raise InvalidRequestError(place, problem, store=store) from None
    if known is not None and dumped == known:
        return dumped
    held = _held(model)
    if held is None:
        lost = _lost_in_its_json(model)
        if lost is not None:
            problem = f"{type(model).__name__} cannot be made of its JSON again"
            raise InvalidRequestError(lost, problem, store=store)
        return _with_sets_sorted([model], dumped)
    if are_equal(*held, dumped):
        return dumped
    sets: list[object] = []
    loss = next(_losses(*held, dumped, sets, may_mask=may_mask), None)
    if loss is not None:
        raise InvalidRequestError(*loss, store=store)
    return _with_sets_sorted([*held], dumped) if sets else dumped


def _refused(model: BaseModel, error: Exception) -> tuple[str, str] | None:
    """Return the place of the first key that pydantic cannot write as JSON, and why. Where there is
    none, and pydantic refuses an object that is in itself, or too deep, the place of the first such
    object. None where neither is to be found."""
    endless: tuple[str, str] | None = None
    for held in _held(model) or ():
        for place, value, problem in _walk(held, (dict, list, tuple, deque)):
            if problem is not None and endless is None:
                endless = str(place)[:80], problem
            for key in value if isinstance(value, dict) else ():
                if not _is_key(key):
                    return str(place), _not_text(key)
    # Pydantic raises the very class for these, and a class of its own for all others.
    return endless if type(error) is ValueError else None


def _walk(data: object, containers: tuple[type, ...]) -> Iterator[tuple[Place, Any, str | None]]:
    """Yield each value in data with its place, from the first to the last, and what keeps it from
    being JSON when it is an object that is in itself, or too deep: that is not gone into. What is
    in several places is gone into again only where it lies deeper."""
    pending: list[tuple[Place, Any, tuple[Any, ...] | None, int]] = [(TOP, data, None, 0)]
    depth_of: dict[int, int] = {}
    while pending:
        place, value, around, depth = pending.pop()
        if not isinstance(value, containers):
            yield place, value, None
        elif _is_in(value, around):
            yield place, value, "is an object that it is itself a part of"
        elif depth >= DEPTH_MAX:
            yield place, value, f"is nested deeper than {DEPTH_MAX}"
        elif depth > depth_of.get(id(value), -1):
            depth_of[id(value)] = depth
            yield place, value, None
            around, form = (value, around), ".{}" if isinstance(value, dict) else "[{}]"
            items: Any = value
            pairs = items.items() if isinstance(items, dict) else enumerate(items)
            inner = [(Place(place, form.format(k)), item, around, depth + 1) for k, item in pairs]
            pending.extend(reversed(inner))


def _is_key(key: object) -> bool:
    if isinstance(key, str):
        return True
    try:
        to_jsonable_python({key: None})
    except Exception:  # noqa: BLE001 - a key of the caller's
        return False
    return True


def _held(model: BaseModel) -> tuple[object] | None:
    """Return the data of a model as Python holds it; None where Python cannot make that, as of a
    set of models."""
    as_held = partial(model.model_dump, by_alias=True, warnings=False)
    try:
        return (as_held(),)
    except Exception as error:  # noqa: BLE001 - a function of the caller's raises what it likes
        if not (says_of_data(origin_of(error)) and fails_again(as_held, Exception)):
            raise origin_of(error) from None
        return None


def are_same_object(given: BaseModel, other: BaseModel) -> bool:
    """Return whether two objects of a model hold the same. What the model itself says of that is
    not asked, and a field that is not written does not count."""
    held = _held(given)
    return (held is not None and are_equal(held, _held(other))) or first_unlike(
        given, other
    ) is None


def first_difference(dumped: object, again: object, place: str = "data") -> tuple[str, str]:
    """Return the first place where the dump of a model and the dump of what is read back of it
    differ, and how."""
    if isinstance(dumped, dict) and isinstance(again, dict):
        for key in {**dumped, **again}:
            at = f"{place}.{key}"
            if key not in again:
                return at, f"{shown(dumped[key])} would be lost"
            if key not in dumped:
                return at, f"{shown(again[key])} would be added"
            if dumped[key] != again[key]:
                return first_difference(dumped[key], again[key], at)
    if isinstance(dumped, list) and isinstance(again, list):
        for index, (item, other) in enumerate(zip(dumped, again, strict=False)):
            if item != other:
                return first_difference(item, other, f"{place}[{index}]")
    return place, f"{shown(dumped)} would come back as {shown(again)}"


def _lost_in_its_json(model: BaseModel) -> str | None:
    """Return the first place of a model that comes back of its JSON as another thing, or the whole;
    None where all comes back."""

    def make() -> BaseModel:
        return type(model).model_validate_json(model.model_dump_json(by_alias=True))

    try:
        again = make()
    except ValueError as error:
        if not fails_again(make):
            raise origin_of(error) from None
        return str(TOP)
    return None if are_equal(model, again) else first_unlike(model, again)


def _losses(
    held: object, dumped: object, sets: list[object], *, may_mask: bool
) -> Iterator[tuple[str, str]]:
    """Yield the places of values that a model has and its JSON lacks, each with the problem. Put
    the sets on the way into a list."""
    pending: list[tuple[Place, Any, Any]] = [(TOP, held, dumped)]
    while pending:
        place, value, written = pending.pop()
        problem = _loss(value, written) or (None if may_mask else _masked(value, written))
        if problem is not None:
            yield str(place), problem
        if isinstance(value, (set, frozenset)):
            sets.append(value)
        pending += _inside(place, value, written)


def _with_sets_sorted(held: list[Any], dumped: Any) -> Any:
    """Return JSON data with the contents of each set in an order of their own. `held` is what it
    was dumped of, or all of which one was: an item of a set is not known by its place."""
    held = [value.root if isinstance(value, RootModel) else value for value in held]
    if isinstance(dumped, dict):
        fields = [_fields(value, dumped) for value in held]
        return {
            key: _with_sets_sorted([found[key] for found in fields if key in found], value)
            for key, value in dumped.items()
        }
    if not isinstance(dumped, list) or not held:
        return dumped
    if all(isinstance(value, (set, frozenset)) for value in held):
        inner = list(chain.from_iterable(held))
        return _sorted([_with_sets_sorted(inner, item) for item in dumped])
    if all(isinstance(value, (list, tuple, deque)) for value in held):
        return [
            _with_sets_sorted([value[index] for value in held if index < len(value)], item)
            for index, item in enumerate(dumped)
        ]
    return dumped


def _fields(value: object, dumped: dict[str, Any]) -> dict[Any, Any]:
    """Return what is in a dict, a model or a dataclass, by its keys in JSON; nothing of anything
    else."""
    if isinstance(value, BaseModel):
        return _fields_of_model(value)
    if is_dataclass(value):
        return dict(vars(value))
    if not isinstance(value, dict):
        return {}
    return dict(zip(dumped, value.values(), strict=True)) if len(value) == len(dumped) else value


def _fields_of_model(model: BaseModel) -> dict[str, Any]:
    """Return what a model holds, by its keys in JSON, without what a serializer of its own writes,
    which chose the order."""
    kind, own = type(model), type(model).__pydantic_decorators__
    if own.model_serializers:
        return {}
    chosen = {name for item in own.field_serializers.values() for name in item.info.fields}
    found: dict[str, Any] = dict(model.__pydantic_extra__ or {})
    for name, field in kind.model_fields.items():
        if name not in chosen and not any(isinstance(x, SERIALIZERS) for x in field.metadata):
            found[field.serialization_alias or name] = getattr(model, name, None)
    for name, computed in kind.model_computed_fields.items():
        found[computed.alias or name] = getattr(model, name, None)
    return found


def _sorted(items: list[Any]) -> list[Any]:
    """Return the dumped contents of a set, sorted: numbers and texts as such, others as JSON."""
    try:
        if {type(item) for item in items} in ({str}, {int}, {float}, {int, float}):
            return sorted(items)
        return sorted(items, key=json.dumps)
    except ValueError:  # a number of too many digits, which is refused anyway
        return items


def _loss(value: Any, written: Any) -> str | None:
    """Return why a number or a key is lost, in what is dumped of a value; None where none is."""
    if _is_not_finite(value):
        return _FINITE.format(value) if written is None else None
    are_objects = isinstance(value, dict) and isinstance(written, dict)
    if are_objects and len(written) < len(value) and not all(isinstance(k, str) for k in value):
        return f"of {len(value)} keys two or more are the same text in JSON"
    is_set = isinstance(value, (set, frozenset)) and isinstance(written, list)
    if is_set and None in written and None not in value:  # a copy: its order may be another one
        return _FINITE.format(next(filter(_is_not_finite, value), "what is in it"))
    return None


def _masked(value: Any, written: Any) -> str | None:
    """Return why a secret is lost, in what is dumped of a value; None where none is."""
    if isinstance(value, _SECRETS):
        return _MASKED if _is_mask(written, value) else None
    if isinstance(value, (set, frozenset)):
        texts = {text for text in _leaves(written) if isinstance(text, str)}
        secrets = [item for item in _leaves(value) if isinstance(item, _SECRETS)]
        masks = ((text, item) for item in secrets for text in {_MASK, str(item)} & texts)
        return _MASKED if any(_is_mask(*mask) for mask in masks) else None
    if isinstance(value, dict) and isinstance(written, dict) and len(value) == len(written):
        pairs = zip(value, written, strict=True)
        keys = (_is_mask(text, key) for key, text in pairs if isinstance(key, _SECRETS))
        return _MASKED_KEY if any(keys) else None
    return None


def _is_mask(written: object, secret: Any) -> bool:
    """Return whether a secret was written as it is shown, and its value is another text."""
    if written not in (_MASK, str(secret)):
        return False
    value = secret.get_secret_value()
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return bool(written != text)


def _leaves(value: object) -> Iterator[object]:
    """Yield what is in nested sets, tuples and lists, and is none of them. What is in several of
    them, or in itself, is looked at once."""
    pending, seen = [value], set()
    while pending:
        found = pending.pop()
        if isinstance(found, (set, frozenset, tuple, list)):
            if id(found) not in seen:
                seen.add(id(found))
                pending += found
        else:
            yield found


def _inside(place: Place, value: Any, written: Any) -> list[tuple[Place, Any, Any]]:
    """Return what is in a list or an object, each with its place, and as it was dumped."""
    if isinstance(value, dict) and isinstance(written, dict):
        if len(written) == len(value):
            pairs = zip(value.values(), written.items(), strict=True)
            return [(Place(place, f".{key}"), item, other) for item, (key, other) in pairs]
        return [
            (Place(place, f".{key}"), item, written[key])
            for key, item in value.items()
            if key in written
        ]
    if isinstance(written, list) and isinstance(value, (list, tuple, deque)):
        items = enumerate(zip(value, written, strict=False))
        return [(Place(place, f"[{index}]"), *both) for index, both in items]
    return []


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def first_problem(data: object) -> tuple[str, str] | None:
    """Return the first place in data that is no JSON, or a number that could not be read back, and
    why; None when there is none."""
    for place, value, endless in _walk(data, (dict, list)):
        problem = _problem_of(value) or endless
        if problem is not None:
            return str(place)[:80] if problem == endless else str(place), problem
    return None


def _problem_of(value: object) -> str | None:
    if not isinstance(value, _JSON_TYPES):
        return f"is of type {type(value).__name__}, and no JSON: {shown(value)}"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return _not_text(key)
    if isinstance(value, int) and abs(value) >= _TOO_LONG:
        return f"the number has more than {DIGITS_MAX} digits, and could not be read back"
    return _FINITE.format(value) if _is_not_finite(value) else None


def _not_text(key: object) -> str:
    return f"the key {shown(key)} is refused: it must be a text, not {type(key).__name__}"


def _is_in(value: object, around: tuple[Any, ...] | None) -> bool:
    while around is not None:
        holder, around = around
        if holder is value:
            return True
    return False
