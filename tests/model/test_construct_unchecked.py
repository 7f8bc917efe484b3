"""Records that are made without a check are the records that a check would have given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rtstore.model.records import PlannedWrite, Receipt, construct_unchecked

NOON = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)
RECEIPT: dict[str, Any] = {
    "receipt_id": "receipt-1",
    "batch_id": "batch-1",
    "schema_name": "opencode.hostLeases",
    "team_name": "team-a",
    "run_id": "run-1",
    "capability_snapshot_id": None,
    "behavior_fingerprint": None,
    "schema_version": 1,
    "relative_path": "opencode-host-leases.json",
    "content_hash": "sha256:" + "0" * 64,
    "file_size": 12,
    "written_at": NOON,
    "mtime_ns": 1_776_772_800_123_456_000,
}


def test_a_trusted_record_is_like_a_checked_one() -> None:
    """Equal, of the same hash, and dumped the same, to the order of its fields."""
    checked, unchecked = Receipt.model_validate(RECEIPT), construct_unchecked(Receipt, {**RECEIPT})
    assert unchecked == checked
    assert repr(unchecked) == repr(checked)
    for options in ({}, {"mode": "json", "by_alias": True}, {"exclude_unset": True}):
        dumped, wanted = unchecked.model_dump(**options), checked.model_dump(**options)
        assert list(dumped.items()) == list(wanted.items())
    assert unchecked.model_copy(update={"file_size": 13}).file_size == 13


def test_a_trusted_record_is_frozen() -> None:
    """As every record is."""
    with pytest.raises(ValueError, match="frozen"):
        construct_unchecked(Receipt, {**RECEIPT}).file_size = 13  # type: ignore[misc]


def test_a_field_that_is_missing_is_an_error() -> None:
    """No default is filled in, so none may be relied on."""
    with pytest.raises(KeyError, match="position"):
        construct_unchecked(PlannedWrite, {"schema_name": "opencode.hostLeases"})
