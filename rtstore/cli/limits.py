"""Shows a retention, in words and for `--json`."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from rtstore.cli.output import count, size
from rtstore.control.contents import Retention


class Limits(TypedDict):
    """What `--json` says of a retention; null: no limit."""

    keeps_batches: int | None
    keeps_contents_per_store: int | None
    keeps_content_bytes: int | None
    keeps_days: float | None
    thins_by_age: bool


def limits_of(retention: Retention) -> Limits:
    """Return the fields of a JSON document for a retention."""
    return Limits(
        keeps_batches=retention.batches,
        keeps_contents_per_store=retention.contents_per_store,
        keeps_content_bytes=retention.content_bytes,
        keeps_days=days_of(retention),
        thins_by_age=retention.thin_by_age,
    )


def days_of(retention: Retention) -> float | None:
    """Return the longest age, in days; None without a limit."""
    return None if retention.max_age is None else retention.max_age / timedelta(days=1)


def in_words(retention: Retention) -> str:
    """Return the limits in words, or that there is none."""
    parts = []
    if retention.batches is not None:
        parts.append(f"at most {count(retention.batches, 'batch')}")
    of_each = []
    if retention.contents_per_store is not None:
        of_each.append(count(retention.contents_per_store, "content"))
    if retention.content_bytes is not None:
        of_each.append(size(retention.content_bytes))
    if of_each:
        parts.append(f"at most {' and '.join(of_each)} of each store")
    if retention.max_age is not None:
        parts.append(f"nothing older than {days_of(retention):g} days")
    if retention.thin_by_age:
        parts.append("of what is older than an hour, one content an hour, then one a day")
    return ", ".join(parts) or "everything"
