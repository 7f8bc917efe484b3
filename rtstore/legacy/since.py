"""Finds the batches that a program of the legacy format committed after an import, or after an
export in place: the control files know them, and the database does not.

Reads only, and raises nothing for what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, select

from rtstore.control import batches, manifest
from rtstore.control.schema import write_batches
from rtstore.control.sqlite.engine import Database
from rtstore.errors import LegacyImportError
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import (
    MANIFEST_NAMES,
    ControlFiles,
    current_hash,
    read_control_files,
)
from rtstore.legacy.over_again import over_again_command
from rtstore.legacy.report import NewerBatches, StoreOutcome
from rtstore.legacy.survey import look_at_stores
from rtstore.model.descriptors import Registry
from rtstore.model.records import OPEN_STATES, BatchState, Suggestion
from rtstore.model.times import parse_time
from rtstore.shell import shell_command

_HELD = (StoreOutcome.CONTENT_TAKEN, StoreOutcome.NOT_A_STORE_FILE)


def newer_batches(directory: Path, database: Database, fs: FileSystem) -> NewerBatches | None:
    """Return what the control files in a directory know besides what its database does, or None:
    also where there are none, where they cannot be read, which an import says, and where an import
    would take them, for the database is empty."""
    if not any(os.path.lexists(directory / name) for name in MANIFEST_NAMES):
        return None
    head = database.read(manifest.load_head)
    try:
        if current_hash(directory, fs) == head.imported_hash:
            return None
        files = read_control_files(directory, fs)
    except LegacyImportError:
        return None
    is_empty = head.imported_at is None and not database.read(batches.last_number)
    if is_empty or files.manifest.team_name != head.team_name:
        return None
    found = database.read(lambda connection: tuple(_unknown(connection, files)))
    if not found:
        return None
    ours = database.read(manifest.load)
    receipts = {entry.last_write_receipt_id for entry in ours.entries}
    written = {item.schema_name for item in files.entries if item.receipt_id not in receipts}
    return NewerBatches(
        batch_ids=found,
        high_watermark=files.manifest.high_watermark,
        not_in_files=tuple(
            item.store.schema_name
            for item in look_at_stores(directory, files, Registry(()), fs)
            if item.store.schema_name in written and item.store.outcome not in _HELD
        ),
        take_over=Suggestion(
            command=over_again_command(directory),
            why="takes them over: moves this database aside, with its history and what it alone "
            "knows, and imports the directory as it is now. Stop both programs first",
        ),
        give_up=Suggestion(
            command=shell_command("rtstore", "export", directory),
            why="writes the control files anew from the database, and keeps those of now in "
            "quarantine: gives up what they alone know",
        ),
    )


def _unknown(connection: Connection, files: ControlFiles) -> Iterator[str]:
    """Yield the committed batches that are not in the log. One that was pruned from it is none of
    them: an export numbered it, or it is older than what is still there."""
    log = write_batches.c
    rows = connection.execute(select(log.batch_id, log.state, log.started_at)).all()
    known = {row.batch_id for row in rows if row.state not in OPEN_STATES}
    oldest = min((parse_time(row.started_at) for row in rows), default=None)
    for batch in files.batches:
        is_new = batch.batch_id not in known and not batch.is_numbered
        in_time = oldest is None or batch.started_at >= oldest
        if batch.state is BatchState.COMMITTED and is_new and in_time:
            yield batch.batch_id
    last = files.manifest.last_committed_batch_id
    known |= {batch.batch_id for batch in files.batches}
    without_receipts = last is not None and last not in known
    if without_receipts and files.manifest.high_watermark > manifest.high_watermark(connection):
        yield str(last)
