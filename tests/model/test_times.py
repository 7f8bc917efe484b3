"""Times as the store keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel, ValidationError

from rtstore.model.times import Timestamp, format_time, parse_time, to_utc_ms, utc_now

EAST = timezone(timedelta(hours=3))


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 4, 21, 12, tzinfo=UTC), "2026-04-21T12:00:00.000Z"),
        (datetime(2026, 4, 21, 12, 0, 0, 1000, tzinfo=UTC), "2026-04-21T12:00:00.001Z"),
        (datetime(2026, 4, 21, 12, 0, 0, 999_999, tzinfo=UTC), "2026-04-21T12:00:00.999Z"),
        (datetime(2026, 4, 21, 1, 30, tzinfo=EAST), "2026-04-20T22:30:00.000Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999Z"),
    ],
)
def test_format(moment: datetime, text: str) -> None:
    """A time is written in UTC, cut (never rounded up) to milliseconds, in 24 characters."""
    assert format_time(moment) == text
    assert len(text) == 24


def test_text_order_is_time_order() -> None:
    """Sorting the texts sorts the moments, whatever zone they were told in."""
    start = datetime(2026, 4, 21, 12, tzinfo=EAST)
    moments = [start + timedelta(milliseconds=step) for step in (0, 1, 10, 999, 1000, 86_400_000)]
    texts = [format_time(moment) for moment in moments]
    assert texts == sorted(texts)
    assert len(set(texts)) == len(texts)


def test_round_trip() -> None:
    """What was written reads back as the same moment, cut to milliseconds."""
    moment = datetime(2026, 4, 21, 15, 4, 5, 678_901, tzinfo=EAST)
    assert parse_time(format_time(moment)) == to_utc_ms(moment)
    assert to_utc_ms(moment).microsecond == 678_000
    assert to_utc_ms(moment).utcoffset() == timedelta(0)


def test_naive_times_are_refused() -> None:
    """A time without a zone is refused, not guessed."""
    naive = datetime(2026, 4, 21, 12, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        to_utc_ms(naive)
    with pytest.raises(ValueError, match="time zone"):
        format_time(naive)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noon",
        "2026-04-21T12:00:00.000",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:00:00-05:00",
    ],
)
def test_unreadable_times_are_refused(text: str) -> None:
    """Text that is no time, or one without a zone, raises ValueError."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_time(text)


def test_the_default_clock_tells_utc() -> None:
    """The default clock tells an aware time in UTC."""
    assert utc_now().utcoffset() == timedelta(0)


class _Event(BaseModel):
    at: Timestamp


def test_a_timestamp_in_a_record() -> None:
    """A record holds an aware datetime and dumps it as text, in Python mode and in JSON."""
    event = _Event(at=datetime(2026, 4, 21, 15, 0, 0, 1999, tzinfo=EAST))
    assert event.at == datetime(2026, 4, 21, 12, 0, 0, 1000, tzinfo=UTC)
    assert event.model_dump() == {"at": "2026-04-21T12:00:00.001Z"}
    assert _Event.model_validate_json(event.model_dump_json()) == event
    with pytest.raises(ValidationError, match="time zone"):
        _Event.model_validate({"at": "2026-04-21T12:00:00"})
