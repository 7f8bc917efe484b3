"""Ids that sort by the time they were made, so that the indexes over them only grow at one end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

IdFactory = Callable[[], str]
"""Makes a new id at each call; no two calls may give the same."""


def time_ordered_id(prefix: str) -> str:
    """`PREFIX-` and a UUID version 7 (RFC 9562): milliseconds since 1970, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    digits = f"{value:032x}"
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return f"{prefix}-{'-'.join(parts)}"


def new_batch_id() -> str:
    """An id for a batch."""
    return time_ordered_id("batch")


def new_receipt_id() -> str:
    """An id for a receipt."""
    return time_ordered_id("receipt")


def new_plan_id() -> str:
    """An id for a recovery plan."""
    return time_ordered_id("plan")
