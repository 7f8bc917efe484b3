"""A document that is larger than SQLite holds is refused up front, with its size and the limit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from rtstore import InvalidRequestError
from rtstore.model import envelope
from rtstore.model.envelope import encode

MEGABYTE = "x" * 1_000_000
MESSAGES: dict[str, Callable[[], Any]] = {
    "messages": lambda: {"messages": [MEGABYTE] * 1_100},
    "list": lambda: [MEGABYTE] * 1_100,
    "nested": lambda: {"sessions": [{"text": MEGABYTE * 999}, {"text": MEGABYTE}]},
    "keys": lambda: {str(number): MEGABYTE for number in range(1_100)},
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_far_too_large_is_not_even_encoded(name: str) -> None:
    """It costs no memory: of its texts only the lengths are looked at."""
    data = MESSAGES[name]()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match="at most 999,900,000") as caught:
            encode(schema_version=1, data=data, store="a.store")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert (caught.value.field, caught.value.store) == ("data", "a.store")


def test_what_only_its_encoding_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small values add up, too; the limit is that of the bytes that are written."""
    monkeypatch.setattr(envelope, "CONTENT_BYTES_MAX", 1_000)
    data = {"values": list(range(1_000))}
    with pytest.raises(InvalidRequestError, match=r"would have [0-9,]+ bytes"):
        encode(schema_version=1, data=data, store="a.store")
    assert encode(schema_version=1, data={"values": [1]}, store="a.store").size < 1_000
