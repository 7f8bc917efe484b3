"""A batch before it is logged: checked and encoded without looking at any file."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from rtstore.descriptors import Descriptor
from rtstore.envelope import EncodedStore, content_hash, encode
from rtstore.errors import InvalidRequestError
from rtstore.ids import IdFactory
from rtstore.records import (
    Batch,
    BatchReason,
    BatchState,
    PlannedWrite,
    Record,
    RunIdentity,
)


class StoreWrite(Record):
    """New data for one store."""

    descriptor: Descriptor
    data: Any


class BatchRequest(Record):
    """What is to be written as one batch, in the order in which the files are published."""

    team_name: str
    identity: RunIdentity
    reason: BatchReason
    writes: tuple[StoreWrite, ...]


class Draft:
    """A validated request: everything encoded but for the time, which is known under the lock."""

    def __init__(self, request: BatchRequest, batch_id: str | None, started_at: datetime) -> None:
        self.request = request
        self.batch_id = batch_id
        self.started_at = started_at
        self.encoded: list[tuple[Descriptor, EncodedStore]] = []

    @property
    def names(self) -> list[str]:
        """The stores that it writes, in order."""
        return [descriptor.schema_name for descriptor, _ in self.encoded]

    def repeats(self, first: Batch) -> bool:
        """Whether this is the batch that was written before.

        Encoding is deterministic, so the same data at the time of the first writing must give the
        same bytes; that holds even where the contents have left the history.
        """
        identity = self.request.identity
        now = {descriptor.schema_name: encoded for descriptor, encoded in self.encoded}
        return (
            (first.run_id, first.capability_snapshot_id, first.behavior_fingerprint, first.reason)
            == (
                identity.run_id,
                identity.capability_snapshot_id,
                identity.behavior_fingerprint,
                self.request.reason,
            )
            and now.keys() == {receipt.schema_name for receipt in first.receipts}
            and all(
                content_hash(now[receipt.schema_name].at(receipt.written_at))
                == receipt.content_hash
                for receipt in first.receipts
            )
        )

    def plan(
        self, content_of: dict[str, bytes], written_at: datetime, new_receipt_id: IdFactory
    ) -> list[PlannedWrite]:
        """Decide everything about the writes: order, hashes, times, the ids of the receipts."""
        # Microseconds are what every usual file system keeps exactly.
        mtime_ns = time.time_ns() // 1000 * 1000
        return [
            PlannedWrite(
                position=position,
                schema_name=descriptor.schema_name,
                schema_version=descriptor.schema_version,
                relative_path=descriptor.relative_path,
                content_hash=content_hash(content_of[descriptor.schema_name]),
                file_size=len(content_of[descriptor.schema_name]),
                mtime_ns=mtime_ns,
                receipt_id=check_id("receipt_id_factory", new_receipt_id()),
                written_at=written_at,
            )
            for position, (descriptor, _) in enumerate(self.encoded)
        ]

    def new_batch(self, batch_id: str) -> Batch:
        """The batch as it is logged; the database gives it its number."""
        identity = self.request.identity
        return Batch(
            batch_number=0,
            batch_id=batch_id,
            team_name=self.request.team_name,
            run_id=identity.run_id,
            capability_snapshot_id=identity.capability_snapshot_id,
            behavior_fingerprint=identity.behavior_fingerprint,
            reason=self.request.reason,
            state=BatchState.PREPARING,
            started_at=self.started_at,
        )


def validate(request: BatchRequest, batch_id: str | None, started_at: datetime) -> Draft:
    """Step 1 of the commit protocol: check and encode everything that can be without I/O.

    Raises `InvalidRequestError` for an empty batch, a store that is in it twice, a batch id that is
    none, and data that is not JSON or that the payload model refuses.
    """
    if not request.writes:
        raise InvalidRequestError("writes", "a batch writes at least one store; it is empty")
    if batch_id is not None:
        check_id("batch_id", batch_id)
    draft = Draft(request, batch_id, started_at)
    seen: set[str] = set()
    for write in request.writes:
        descriptor = write.descriptor
        if descriptor.schema_name in seen:
            raise InvalidRequestError(
                "writes", "the store is in the batch twice", store=descriptor.schema_name
            )
        seen.add(descriptor.schema_name)
        encoded = encode(
            schema_version=descriptor.schema_version,
            data=write.data,
            store=descriptor.schema_name,
            payload=descriptor.payload,
        )
        draft.encoded.append((descriptor, encoded))
    return draft


def check_id(field: str, value: object) -> str:
    """Give an id that comes from outside. Raises `InvalidRequestError` unless it is a text that
    can be written down."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"an id is a text, not {value!r}")
    if not value.strip():
        raise InvalidRequestError(field, "an id is not empty")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise InvalidRequestError(field, f"the id {value!a} holds a lone surrogate")
    return value
