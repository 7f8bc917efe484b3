"""Keeps commands from writing into a back-up, which no restore would take any more then."""

from __future__ import annotations

import os
from pathlib import Path

from rtstore.control import manifest, revisions
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import BackupDamagedError, InvalidRequestError, RuntimeStoreError
from rtstore.files.system import FileSystem
from rtstore.maintenance.backup.record import RECORD_NAME, Backup, read_record
from rtstore.model.times import format_time
from rtstore.shell import rtstore_at


def record_of(directory: Path) -> Backup | None:
    """Return the record of a back-up in a directory; None where there is none that can be read."""
    try:
        return read_record(directory, FileSystem())
    except BackupDamagedError:
        return None


def was_written_to(record: Backup) -> bool:
    """Return whether the database of a back-up has other batches, or another revision, than were
    backed up: a runtime works in it, or did. That is one small read, and finds no other change."""
    path = record.path / DATABASE_NAME
    database = Database(path, read_only=True)
    try:
        revision, head = revisions.inspect_revision(path), database.read(manifest.load_head)
    except RuntimeStoreError:
        return False  # nobody knows; verifying says what is wrong
    finally:
        database.close()
    return (revision, head.high_watermark, head.last_committed_batch_id) != (
        record.revision,
        record.high_watermark,
        record.last_committed_batch_id,
    )


def refuse_backup(directory: Path) -> None:
    """Raise `InvalidRequestError` for a back-up: what writes to it would spoil it."""
    if not os.path.lexists(directory / RECORD_NAME):
        return
    record = record_of(directory)
    run = f"{rtstore_at('restore', directory)} NEW_DIR"
    if record is None or was_written_to(record):
        what = "it was made as a back-up, and is not as it was made"
        run = rtstore_at("doctor", directory)
    else:
        of = "" if record.origin is None else f" of {record.origin}"
        made = "" if record.created_at is None else f", made {format_time(record.created_at)}"
        what = f"it is a back-up{of}{made}, which this would spoil"
    raise InvalidRequestError(str(directory), f"{what}. Nothing was changed. Run: {run}")
