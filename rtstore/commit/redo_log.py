"""The redo log: what must survive of a batch, written before the first file is touched."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from rtstore.commit.draft import Draft
from rtstore.control import batches, contents, manifest, recovery_log
from rtstore.model.records import LoggedBatch


def write_log(connection: Connection, drafts: Sequence[Draft]) -> list[LoggedBatch]:
    """Log batches in their order: their rows, what they write, its contents, and the evidence that
    was kept for them. Durable when the caller's transaction is committed and flushed."""
    number = batches.last_number(connection)
    logged = [draft.numbered(number + position) for position, draft in enumerate(drafts, start=1)]
    batches.log(connection, logged)
    contents.insert_contents(
        connection,
        {
            item.batch.batch_number: draft.content_of
            for item, draft in zip(logged, drafts, strict=True)
        },
    )
    if evidence := [kept for draft in drafts for kept in draft.evidence]:
        recovery_log.record_evidence(connection, evidence)
    manifest.mark_preparing(connection, logged[-1].batch.batch_id)
    return logged
