"""Times as the store writes them: UTC, milliseconds, fixed width, `Z`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

Clock = Callable[[], datetime]
"""A function that returns the current time as an aware `datetime`."""


def utc_now() -> datetime:
    """Return the time now. This is the default clock."""
    return datetime.now(UTC)


def to_utc_ms(moment: datetime) -> datetime:
    """Return a moment in UTC, cut to milliseconds. Raises ValueError for a naive datetime, and for
    one that is no date in UTC: in the first or the last hours that a date can have."""
    utc = _in_utc(moment)
    beyond_ms = utc.microsecond % 1000
    return utc.replace(microsecond=utc.microsecond - beyond_ms) if beyond_ms else utc


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone: the store keeps UTC")
    try:
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{moment.isoformat()} is no time in UTC: {error}") from None


@lru_cache(maxsize=256)  # many rows have the same time
def format_time(moment: datetime) -> str:
    """Return `2026-04-21T12:00:00.000Z`: always 24 characters, so text order is time order."""
    return _in_utc(moment).isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def parse_time(text: str) -> datetime:
    """Return the time in a text with a time zone, as `format_time` writes it. Raises ValueError for
    anything else, even for a value that is no text: it may come from a damaged row."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no time")
    return to_utc_ms(datetime.fromisoformat(text))


Timestamp = Annotated[
    datetime, AfterValidator(to_utc_ms), PlainSerializer(format_time, return_type=str)
]
"""A moment in a record: an aware `datetime` in Python, fixed-width text when dumped."""
