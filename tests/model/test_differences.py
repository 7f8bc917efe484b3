"""What differs between two versions of a store's data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from rtstore import Difference, DifferenceKind
from rtstore.model.differences import differences

DATA = some.recursive(
    some.none() | some.booleans() | some.integers(-3, 3) | some.sampled_from(["", "a", "a/b", "~"]),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(some.sampled_from(["", "a", "a/b", "~1", "0"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def _told(before: Any, after: Any) -> list[tuple[str, str]]:
    return [(found.kind.value, found.path) for found in differences(before, after)]


def _look_up(data: Any, path: str) -> Any:
    """What a JSON Pointer points to."""
    for step in path.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("changed", "/a")]),
        ({"a": 1}, {"b": 1}, [("removed", "/a"), ("added", "/b")]),
        ({"a": {"b": [1]}}, {"a": {"b": []}}, [("removed", "/a/b/0")]),
        ([1, 2, 3], [0, 1, 2, 3], [("added", "/0")]),
        ([1, 2, 3], [1, 3], [("removed", "/1")]),
        ([{"id": 1, "n": 1}, {"id": 2}], [{"id": 1, "n": 2}, {"id": 2}], [("changed", "/0/n")]),
        ({"a/b": {"~": 1}}, {"a/b": {"~": 2}}, [("changed", "/a~1b/~0")]),
        (1, True, [("changed", "")]),
        (1, 1.0, [("changed", "")]),
        ([1], [True], [("changed", "/0")]),
        ({}, [], [("changed", "")]),
        (None, {"a": None}, [("changed", "")]),
        ({"a": None}, {}, [("removed", "/a")]),
        (0.0, -0.0, [("changed", "")]),
        # Below an element that moved: each path points into its own version.
        (
            [0, {"a": 1}, 2],
            [2, 0, {"b": 1}, 2],
            [("added", "/0"), ("removed", "/1/a"), ("added", "/2/b")],
        ),
    ],
)
def test_what_is_told(before: Any, after: Any, told: list[tuple[str, str]]) -> None:
    """One difference for each value that came, went or changed, where it did."""
    assert _told(before, after) == told


@settings(max_examples=300, deadline=None)
@given(DATA, DATA)
def test_every_difference_is_one(before: Any, after: Any) -> None:
    """Nothing is told of the same data, something of other data, and each difference is found where
    its path points to: what went in the older version, everything else in the newer one."""
    found = differences(before, after)
    assert bool(found) == (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))
    for item in found:
        if item.kind is DifferenceKind.REMOVED:
            assert _look_up(before, item.path) == item.before
        else:
            assert _look_up(after, item.path) == item.after


def test_long_lists_are_compared_in_time() -> None:
    """Two long lists that have nothing in common are held against each other place by place, and
    one element more in a long list is one difference."""
    long = [{"id": number} for number in range(5_000)]
    other = [{"id": -1 - number} for number in range(5_000)]
    assert len(differences(long, other)) == 5_000
    assert differences(long, [*long[:7], "new", *long[7:]]) == (
        Difference(kind=DifferenceKind.ADDED, path="/7", after="new"),
    )
