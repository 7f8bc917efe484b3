"""Compare two versions of a store's data: pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import islice
from typing import Any

from rtstore.model.records import Record

_COMPARISONS_MAX = 250_000
"""Lists that would need more comparisons are compared index by index instead."""


class DifferenceKind(StrEnum):
    """What happened to a value."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Difference(Record):
    """One value that was added, removed or changed between two versions."""

    kind: DifferenceKind
    path: str
    """A JSON Pointer (RFC 6901): for a removed value into the older version, otherwise into the
    newer one. The empty path is the whole data."""
    before: Any = None
    after: Any = None


def differences(before: Any, after: Any) -> tuple[Difference, ...]:
    """Return all differences between two pieces of JSON data, in the order of the older one.

    Objects are compared key by key. In lists, insertions and removals are found, so a new first
    element is one difference. An element that replaces another is compared with it in depth.
    """
    return tuple(_between(before, after, "", ""))


def first_places(before: Any, after: Any, most: int) -> tuple[str, ...]:
    """Return the paths of the first differences between two pieces of JSON data."""
    return tuple(item.path for item in islice(_between(before, after, "", ""), most))


def is_same_json(before: Any, after: Any) -> bool:
    """Return whether two pieces of data are the same JSON. The order of keys does not matter."""
    return _text(before) == _text(after)


# Each function below takes the place of `before` in the older version and the place of `after` in
# the newer one. They differ below a list where elements came or went before this one.


def _between(before: Any, after: Any, old_path: str, path: str) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _objects(before, after, old_path, path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(before, after, old_path, path)
    elif not is_same_json(before, after):
        yield Difference(kind=DifferenceKind.CHANGED, path=path, before=before, after=after)


def _objects(
    before: dict[str, Any], after: dict[str, Any], old_path: str, path: str
) -> Iterator[Difference]:
    for key, value in before.items():
        if key in after:
            yield from _between(value, after[key], _below(old_path, key), _below(path, key))
        else:
            yield _removed(value, _below(old_path, key))
    for key, value in after.items():
        if key not in before:
            yield _added(value, _below(path, key))


def _lists(before: list[Any], after: list[Any], old_path: str, path: str) -> Iterator[Difference]:
    for tag, start, end, new_start, new_end in _steps(before, after):
        if tag == "equal":
            continue
        shared = min(end - start, new_end - new_start)
        for offset in range(shared):
            old, new = start + offset, new_start + offset
            yield from _between(before[old], after[new], _below(old_path, old), _below(path, new))
        for place in range(start + shared, end):
            yield _removed(before[place], _below(old_path, place))
        for place in range(new_start + shared, new_end):
            yield _added(after[place], _below(path, place))


def _steps(before: list[Any], after: list[Any]) -> list[tuple[str, int, int, int, int]]:
    """Return how one list becomes the other, in the form of `SequenceMatcher.get_opcodes`."""
    old, new = [_text(item) for item in before], [_text(item) for item in after]
    shortest = min(len(old), len(new))
    head = next((n for n in range(shortest) if old[n] != new[n]), shortest)
    room = shortest - head
    tail = next((n for n in range(room) if old[-1 - n] != new[-1 - n]), room)
    old_end, new_end = len(old) - tail, len(new) - tail
    if (old_end - head) * (new_end - head) > _COMPARISONS_MAX:
        return [("replace", head, old_end, head, new_end)]
    matcher = SequenceMatcher(None, old[head:old_end], new[head:new_end], autojunk=False)
    return [
        (tag, head + start, head + end, head + new_start, head + new_stop)
        for tag, start, end, new_start, new_stop in matcher.get_opcodes()
    ]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _below(path: str, key: str | int) -> str:
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _removed(value: Any, path: str) -> Difference:
    return Difference(kind=DifferenceKind.REMOVED, path=path, before=value)


def _added(value: Any, path: str) -> Difference:
    return Difference(kind=DifferenceKind.ADDED, path=path, after=value)
