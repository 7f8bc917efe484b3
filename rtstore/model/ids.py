"""Ids that sort by the time they were made, so that the indexes over them only grow at one end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

IdFactory = Callable[[], str]
"""Makes a new id at each call; no two calls may give the same."""


def time_ordered_id(prefix: str) -> str:
    """`PREFIX-` and a UUID version 7 (RFC 9562): milliseconds since 1970, then 74 random bits."""
    when = f"{time.time_ns() // 1_000_000:012x}"
    rest = secrets.token_hex(10)
    variant = "89ab"[int(rest[3], 16) % 4]
    return f"{prefix}-{when[:8]}-{when[8:12]}-7{rest[:3]}-{variant}{rest[4:7]}-{rest[7:19]}"


def new_batch_id() -> str:
    """An id for a batch."""
    return time_ordered_id("batch")


def new_receipt_id() -> str:
    """An id for a receipt."""
    return time_ordered_id("receipt")


def new_plan_id() -> str:
    """An id for a recovery plan."""
    return time_ordered_id("plan")
