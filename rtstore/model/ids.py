"""Ids that sort by the time they were created, so that indexes over them grow at one end only."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

IdFactory = Callable[[], str]
"""Returns a new id at each call; no two calls may return the same."""


def time_ordered_id(prefix: str) -> str:
    """Return `PREFIX-` and a UUID version 7 (RFC 9562): milliseconds since 1970, 74 random bits."""
    when = f"{time.time_ns() // 1_000_000:012x}"
    rest = secrets.token_hex(10)
    variant = "89ab"[int(rest[3], 16) % 4]
    return f"{prefix}-{when[:8]}-{when[8:12]}-7{rest[:3]}-{variant}{rest[4:7]}-{rest[7:19]}"


def new_batch_id() -> str:
    """Return an id for a batch."""
    return time_ordered_id("batch")


def new_receipt_id() -> str:
    """Return an id for a receipt."""
    return time_ordered_id("receipt")


def new_plan_id() -> str:
    """Return an id for a recovery plan."""
    return time_ordered_id("plan")
