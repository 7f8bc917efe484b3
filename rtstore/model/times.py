"""Times as the store keeps them: UTC, milliseconds, fixed width, `Z`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

Clock = Callable[[], datetime]
"""Anything that tells the time as an aware `datetime`."""


def utc_now() -> datetime:
    """The default clock."""
    return datetime.now(UTC)


def to_utc_ms(moment: datetime) -> datetime:
    """The same moment in UTC, cut to milliseconds. Raises ValueError for a naive datetime."""
    utc = _in_utc(moment)
    beyond_ms = utc.microsecond % 1000
    return utc.replace(microsecond=utc.microsecond - beyond_ms) if beyond_ms else utc


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone: the store keeps UTC")
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


@lru_cache(maxsize=256)  # one moment stands in many rows
def format_time(moment: datetime) -> str:
    """`2026-04-21T12:00:00.000Z`: always 24 characters, so that text order is time order."""
    return _in_utc(moment).isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def parse_time(text: str) -> datetime:
    """Read a time with a time zone, as `format_time` writes it. Raises ValueError for others, what
    is no text included: it may come from a damaged row."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no time")
    return to_utc_ms(datetime.fromisoformat(text))


Timestamp = Annotated[
    datetime, AfterValidator(to_utc_ms), PlainSerializer(format_time, return_type=str)
]
"""A moment in a record: an aware `datetime` in Python, fixed-width text when dumped."""
