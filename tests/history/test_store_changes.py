"""The view `store_changes`: what it says of two versions is what differs between them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from rtstore import DATABASE_NAME
from rtstore.control.contents import KEEP_EVERYTHING
from tests.support import LEASES, open_store, write

LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 1.5, -3, 2**53, {}, []),
    *("", "a", "true", "null", "1", "[]", "{}", "{x", "é 😀", 'a "quoted" \\ word'),
)
_TOLD = "SELECT batch_number, path, before, after FROM store_changes ORDER BY batch_number, path"
KEYS = ("a", "b", "lists", "odd key", "é")


def _value(random: Random, depth: int) -> Any:
    if depth and random.random() < 0.4:
        return {random.choice(KEYS): _value(random, depth - 1) for _ in range(random.randrange(4))}
    if depth and random.random() < 0.4:
        return [_value(random, depth - 1) for _ in range(random.randrange(4))]
    return random.choice(LEAVES)


def _changed(random: Random, value: Any) -> Any:
    if random.random() < 0.2:
        return _value(random, 3)
    if isinstance(value, dict):
        return {key: _changed(random, each) for key, each in value.items() if random.random() < 0.9}
    if isinstance(value, list):
        more = [_value(random, 2)] if random.random() < 0.2 else []
        return [_changed(random, each) if random.random() < 0.5 else each for each in value] + more
    return value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The path of each value that holds no other, as SQLite writes it, and the value as JSON."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            name = key if key.isascii() and key.isalnum() else f'"{key}"'
            yield from _leaves(each, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{path}[{number}]")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def test_every_value_that_differs_and_no_other(tmp_path: Path) -> None:
    """Of documents of every shape, written one over the other: new, gone and other values, also
    where a value is replaced by one that holds values, or an empty one by a full one."""
    random = Random(5)
    documents = [_value(random, 4)]
    for _ in range(150):
        documents.append(_changed(random, documents[-1]))
    with open_store(tmp_path / "team", retention=KEEP_EVERYTHING) as store:
        for document in documents:
            write(store, LEASES, {"data": document})
    with closing(sqlite3.connect(tmp_path / "team" / DATABASE_NAME)) as connection:
        told = connection.execute(_TOLD).fetchall()
    expected = []
    for number, (before, after) in enumerate(pairwise(documents), 2):
        old, new = dict(_leaves(before, "$.data")), dict(_leaves(after, "$.data"))
        differ = [path for path in old.keys() | new.keys() if old.get(path) != new.get(path)]
        expected += [(number, path, old.get(path), new.get(path)) for path in sorted(differ)]
    assert len(expected) > 100
    assert told == expected
