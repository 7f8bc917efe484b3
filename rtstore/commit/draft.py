"""A batch before it is logged: validated, then planned. Reads no file.

The phases of a batch are types. Each step takes what the step before returns:

    BatchRequest -> validate -> Draft -> plan -> PlannedBatch -> log -> Logged -> publish ->
    Published -> complete -> Batch

The writer has the last three.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from rtstore.errors import InvalidRequestError
from rtstore.model.arguments import check_new_id
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EncodedStore, content_hash, encode
from rtstore.model.ids import IdFactory
from rtstore.model.records import (
    Batch,
    BatchOrigin,
    BatchState,
    CommittedFile,
    LoggedBatch,
    PlannedChange,
    PlannedDeletion,
    PlannedWrite,
    PublishedFile,
    QuarantinedFile,
    RunIdentity,
    construct_unchecked,
)
from rtstore.model.request import BatchRequest, BatchTerms


class Draft(NamedTuple):
    """A validated request. Everything is encoded except the time, which is known only under the
    lock."""

    terms: BatchTerms
    batch_id: str | None
    """The id that the caller chose, who may repeat the call. None: the batch gets one under the
    lock."""
    started_at: datetime
    encoded: tuple[tuple[Descriptor, EncodedStore], ...]
    """What it writes, in order."""
    in_place: bool = False
    """Whether its file holds its bytes already, because it adopts that file."""
    deleted: tuple[Descriptor, ...] = ()
    """The stores that it deletes, in order."""

    @property
    def names(self) -> list[str]:
        """Return the names of the stores that it writes, in order, and of those that it deletes."""
        names = [descriptor.schema_name for descriptor, _ in self.encoded]
        if self.deleted:
            names += [descriptor.schema_name for descriptor in self.deleted]
        return names

    @property
    def size(self) -> int:
        """Return how many bytes it writes."""
        return sum(encoded.size for _, encoded in self.encoded)

    @property
    def fenced_run_id(self) -> str | None:
        """Return the id of the run that must be active, or that it begins; None if there is none:
        the library's own batches are of a run that may be over."""
        terms = self.terms
        return terms.identity.run_id if terms.fenced and terms.identity else None

    def unlike(self, first: Batch) -> list[str]:
        """Return the stores of which a batch, of this id, wrote other data, and those that only one
        of the two writes or deletes. None: this is that batch, written again.

        Encoding is deterministic, so the same data with the first write's time has the same bytes
        and the same hash. So this works even when the contents have left the history.
        """
        now: dict[str, EncodedStore | None] = {
            **{descriptor.schema_name: encoded for descriptor, encoded in self.encoded},
            **dict.fromkeys(item.schema_name for item in self.deleted),
        }
        written = {receipt.schema_name: receipt for receipt in first.receipts}
        deleted = {deletion.schema_name for deletion in first.deletions}

        def is_same(name: str) -> bool:
            encoded, receipt = now.get(name), written.get(name)
            if encoded is None or receipt is None:
                return name in now and encoded is None and name in deleted
            return content_hash(encoded.at(receipt.written_at)) == receipt.content_hash

        return [name for name in sorted(now.keys() | written.keys() | deleted) if not is_same(name)]

    def plan(
        self,
        batch_id: str,
        quarantined: Sequence[QuarantinedFile],
        written_at: datetime,
        new_receipt_id: IdFactory,
        deleting: Sequence[CommittedFile] = (),
    ) -> PlannedBatch:
        """Decide everything about the writes: order, contents, hashes, times, ids of receipts; and
        about the deletions, of the versions `deleting`, in their order."""
        # Every usual file system stores microseconds exactly.
        mtime_ns = time.time_ns() // 1000 * 1000
        content_of = {
            descriptor.schema_name: encoded.at(written_at) for descriptor, encoded in self.encoded
        }
        writes = tuple(
            construct_unchecked(
                PlannedWrite,
                {
                    "position": position,
                    "schema_name": descriptor.schema_name,
                    "schema_version": descriptor.schema_version,
                    "relative_path": descriptor.relative_path,
                    "content_hash": content_hash(content_of[descriptor.schema_name]),
                    "file_size": len(content_of[descriptor.schema_name]),
                    "mtime_ns": mtime_ns,
                    "receipt_id": check_new_id("receipt_id_factory", new_receipt_id()),
                    "written_at": written_at,
                },
            )
            for position, (descriptor, _) in enumerate(self.encoded)
        )
        if not self.deleted:
            return PlannedBatch(self, batch_id, quarantined, content_of, writes)
        deletions = tuple(
            construct_unchecked(
                PlannedDeletion,
                {
                    "position": position,
                    "schema_name": descriptor.schema_name,
                    "schema_version": descriptor.schema_version,
                    "relative_path": descriptor.relative_path,
                    "content_hash": version.content_hash,
                    "receipt_id": check_new_id("receipt_id_factory", new_receipt_id()),
                    "deleted_at": written_at,
                },
            )
            for position, (descriptor, version) in enumerate(
                zip(self.deleted, deleting, strict=True), start=len(writes)
            )
        )
        return PlannedBatch(self, batch_id, quarantined, content_of, writes, deletions)


class PlannedBatch(NamedTuple):
    """A batch that passed the checks of step 2. Everything about it is decided but its number."""

    draft: Draft
    batch_id: str
    quarantined: Sequence[QuarantinedFile]
    """The foreign files that were quarantined before this batch replaces them."""
    content_of: Mapping[str, bytes]
    """The bytes that it writes, by store."""
    writes: tuple[PlannedWrite, ...]
    deletions: tuple[PlannedDeletion, ...] = ()

    @property
    def changes(self) -> tuple[PlannedChange, ...]:
        """Its writes, and then its deletions: the order of their publication."""
        return *self.writes, *self.deletions

    @property
    def names(self) -> Collection[str]:
        """The names of the stores that it writes or deletes."""
        if not self.deletions:
            return self.content_of.keys()
        return {*self.content_of, *(deletion.schema_name for deletion in self.deletions)}

    def version_of(self, schema_name: str) -> PublishedFile | None:
        """Return the version that it writes of a store; None for one that it deletes."""
        for write in self.writes:
            if write.schema_name == schema_name:
                return write.published()
        return None

    def numbered(self, batch_number: int) -> LoggedBatch:
        """Return the batch as it is logged under a number."""
        terms = self.draft.terms
        run_id, capability_snapshot_id, behavior_fingerprint = _parts(terms.identity)
        batch = construct_unchecked(
            Batch,
            {
                "batch_number": batch_number,
                "batch_id": self.batch_id,
                "team_name": terms.team_name,
                "run_id": run_id,
                "capability_snapshot_id": capability_snapshot_id,
                "behavior_fingerprint": behavior_fingerprint,
                "reason": terms.reason,
                "state": BatchState.PREPARING,
                "origin": BatchOrigin.WRITTEN,
                "high_watermark": None,
                "started_at": self.draft.started_at,
                "completed_at": None,
                "last_error": None,
                "receipts": (),
                "deletions": (),
            },
        )
        values = {"batch": batch, "writes": self.writes, "deletions": self.deletions}
        return construct_unchecked(LoggedBatch, values)


def is_of(first: Batch, identity: RunIdentity | None, reason: str) -> bool:
    """Return whether a batch was written under an identity and for a reason."""
    return (
        first.run_id,
        first.capability_snapshot_id,
        first.behavior_fingerprint,
        first.reason,
    ) == (*_parts(identity), reason)


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
        problem = "a batch writes or deletes at least one store; it is empty"
        raise InvalidRequestError("writes", problem)
    if batch_id is not None:
        check_new_id("batch_id", batch_id)
    encoded: dict[str, tuple[Descriptor, EncodedStore]] = {}
    deleted: dict[str, Descriptor] = {}
    for write in request.writes:
        descriptor = write.descriptor
        name = descriptor.schema_name
        if name in encoded or name in deleted:
            raise InvalidRequestError("writes", "the store is in the batch twice", store=name)
        if write.deletes:
            deleted[name] = descriptor
            continue
        encoded[name] = (
            descriptor,
            encode(
                schema_version=descriptor.schema_version,
                data=write.data,
                store=name,
                payload=descriptor.payload,
                stays=write.stays,
            ),
        )
    return Draft(
        request.terms,
        batch_id,
        started_at,
        tuple(encoded.values()),
        deleted=tuple(deleted.values()),
    )
