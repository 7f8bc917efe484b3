"""The phases of a batch are types: each step takes only what the step before gives."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from rtstore.commit.draft import validate
from rtstore.model.descriptors import HOST_LEASES, KNOWN_DESCRIPTORS, Registry
from rtstore.model.records import BatchReason
from rtstore.model.request import BatchRequest, StoreWrite
from tests.support import IDENTITY, NOON, TEAM

if TYPE_CHECKING:
    from rtstore.commit.draft import Draft
    from rtstore.commit.writer import BatchWriter, Logged, Planned

    def wrong_orders(writer: BatchWriter, draft: Draft, planned: Planned, logged: Logged) -> None:
        """Each line is an error for mypy, which refuses an `ignore` without one."""
        draft.numbered(1)  # type: ignore[attr-defined]
        writer._log(draft)  # type: ignore[arg-type]
        writer._publish_together([planned])  # type: ignore[list-item]
        writer._complete(planned)  # type: ignore[arg-type]
        writer._complete(logged)  # type: ignore[arg-type]


def test_no_phase_changes_and_each_has_all_of_its_parts() -> None:
    """A draft that is planned stays as it is, so it can be planned again."""
    write = StoreWrite(descriptor=Registry(KNOWN_DESCRIPTORS).get(HOST_LEASES), data=[])
    request = BatchRequest(
        team_name=TEAM, identity=IDENTITY, reason=BatchReason.DELIVERY_COMMIT, writes=(write,)
    )
    draft = validate(request, None, NOON)
    assert draft.terms == (TEAM, IDENTITY, BatchReason.DELIVERY_COMMIT, True)
    ids = map("receipt-{}".format, itertools.count(1))
    first = draft.plan("batch-1", (), NOON, ids.__next__)
    second = draft.plan("batch-1", (), NOON, ids.__next__)
    for phase, name in [(draft, "batch_id"), (first, "writes"), (first.writes[0], "receipt_id")]:
        with pytest.raises((AttributeError, ValueError)):
            setattr(phase, name, "other")
    assert draft.batch_id is None
    assert first.content_of == second.content_of
    assert [item.writes[0].receipt_id for item in (first, second)] == ["receipt-1", "receipt-2"]
    assert first.numbered(7).writes == first.writes
