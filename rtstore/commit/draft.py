"""A batch before it is logged: checked and encoded without reading any file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from rtstore.errors import InvalidRequestError
from rtstore.model.arguments import check_id
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EncodedStore, content_hash, encode
from rtstore.model.ids import IdFactory
from rtstore.model.records import (
    Batch,
    BatchOrigin,
    BatchState,
    LoggedBatch,
    PlannedWrite,
    QuarantinedFile,
    RunIdentity,
    construct_unchecked,
)
from rtstore.model.request import BatchRequest


class Draft:
    """A validated request. Everything is encoded except the time, which is known only under the
    lock; then `plan` decides its contents and writes."""

    __slots__ = (
        "batch_id",
        "content_of",
        "encoded",
        "id_given",
        "in_place",
        "quarantined",
        "request",
        "size",
        "started_at",
        "writes",
    )  # fmt: skip

    def __init__(self, request: BatchRequest, batch_id: str | None, started_at: datetime) -> None:
        self.request = request
        self.batch_id = batch_id
        """The id of the batch; None until it has one."""
        self.id_given = batch_id is not None
        """Whether the caller chose the id, and may repeat the call."""
        self.started_at = started_at
        self.in_place = False
        """Whether its file holds its bytes already, because it adopts that file."""
        self.encoded: list[tuple[Descriptor, EncodedStore]] = []
        self.size = 0
        """About how many bytes it writes."""
        self.quarantined: Sequence[QuarantinedFile] = ()
        """The foreign files that were quarantined before this batch replaces them."""
        self.content_of: dict[str, bytes] = {}
        """The bytes that it writes, by store. Set by `plan`, like `writes`."""
        self.writes: tuple[PlannedWrite, ...] = ()

    def add(self, descriptor: Descriptor, encoded: EncodedStore) -> None:
        """Add one more store to its writes."""
        self.encoded.append((descriptor, encoded))
        self.size += encoded.size

    @property
    def names(self) -> list[str]:
        """Return the names of the stores that it writes, in order."""
        return [descriptor.schema_name for descriptor, _ in self.encoded]

    @property
    def fenced_run_id(self) -> str | None:
        """Return the id of the run that must be active, or that it begins; None if there is none:
        the library's own batches are of a run that may be over."""
        request = self.request
        return request.identity.run_id if request.fenced and request.identity else None

    def repeats(self, first: Batch) -> bool:
        """Return whether `first` is this batch, written before.

        Encoding is deterministic, so the same data with the first write's time has the same bytes
        and the same hash. So this works even when the contents have left the history.
        """
        identity = self.request.identity
        now = {descriptor.schema_name: encoded for descriptor, encoded in self.encoded}
        return (
            (first.run_id, first.capability_snapshot_id, first.behavior_fingerprint, first.reason)
            == (*_parts(identity), self.request.reason)
            and now.keys() == {receipt.schema_name for receipt in first.receipts}
            and all(
                content_hash(now[receipt.schema_name].at(receipt.written_at))
                == receipt.content_hash
                for receipt in first.receipts
            )
        )

    def plan(self, written_at: datetime, new_receipt_id: IdFactory) -> None:
        """Decide everything about the writes: order, contents, hashes, times, ids of receipts."""
        # Every usual file system stores microseconds exactly.
        mtime_ns = time.time_ns() // 1000 * 1000
        self.content_of = {
            descriptor.schema_name: encoded.at(written_at) for descriptor, encoded in self.encoded
        }
        self.writes = tuple(
            construct_unchecked(
                PlannedWrite,
                position=position,
                schema_name=descriptor.schema_name,
                schema_version=descriptor.schema_version,
                relative_path=descriptor.relative_path,
                content_hash=content_hash(self.content_of[descriptor.schema_name]),
                file_size=len(self.content_of[descriptor.schema_name]),
                mtime_ns=mtime_ns,
                receipt_id=check_id("receipt_id_factory", new_receipt_id()),
                written_at=written_at,
            )
            for position, (descriptor, _) in enumerate(self.encoded)
        )

    def numbered(self, batch_number: int) -> LoggedBatch:
        """Return the planned batch as it is logged under a number."""
        run_id, capability_snapshot_id, behavior_fingerprint = _parts(self.request.identity)
        assert self.batch_id is not None  # noqa: S101 - it has one before it is logged
        batch = construct_unchecked(
            Batch,
            batch_number=batch_number,
            batch_id=self.batch_id,
            team_name=self.request.team_name,
            run_id=run_id,
            capability_snapshot_id=capability_snapshot_id,
            behavior_fingerprint=behavior_fingerprint,
            reason=self.request.reason,
            state=BatchState.PREPARING,
            origin=BatchOrigin.WRITTEN,
            high_watermark=None,
            started_at=self.started_at,
            completed_at=None,
            last_error=None,
            receipts=(),
        )
        return construct_unchecked(LoggedBatch, batch=batch, writes=self.writes)


def _parts(identity: RunIdentity | None) -> tuple[str | None, str | None, str | None]:
    if identity is None:
        return None, None, None
    return identity.run_id, identity.capability_snapshot_id, identity.behavior_fingerprint


def validate(request: BatchRequest, batch_id: str | None, started_at: datetime) -> Draft:
    """Do step 1 of the commit protocol: check and encode all that needs no I/O.

    Raises `InvalidRequestError` for an empty batch, a store that is in it twice, an invalid batch
    id, and data that is not JSON or that the payload model refuses.
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
        draft.add(descriptor, encoded)
    return draft
