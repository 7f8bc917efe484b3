"""Reads a point in the history of a store, as it is typed."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from rtstore.errors import InvalidRequestError
from rtstore.history.versions import At

AT = "a batch id, a high watermark (12), or a time (2026-04-21T12:00:00Z)"
"""What a point may be, for the help of options."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]|$)")


def point_of(text: str) -> At:
    """Parse a point in time. Digits alone are a high watermark. A text that begins like a date is a
    time (UTC, unless it names another zone). Everything else is a batch id."""
    if text.isascii() and text.isdigit():
        return int(text)
    if not _TIME.match(text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError("at", f"{text!r} is no time: {error}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
