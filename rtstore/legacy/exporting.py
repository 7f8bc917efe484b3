"""Writes the control data as files of the legacy format, for the programs that read it.

What the legacy format has no place for is stored in additional keys, which legacy programs do not
read: the exact time of a file (`mtimeNs`) and a batch's high watermark. A failed batch would block
their readiness forever, so it is set aside in the envelope of the receipts. An import reads all of
this again. The history of contents, quarantine and recoveries stay in the database only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from rtstore.control import batches, manifest, recovery_log
from rtstore.control.lock import WriterLock
from rtstore.control.sqlite.engine import Database
from rtstore.errors import BatchUnfinishedError, StorageError
from rtstore.files import durable, quarantine
from rtstore.files.new_directory import new_directory
from rtstore.files.system import FileSystem
from rtstore.history.materialize import write_store_files
from rtstore.legacy.control_files import (
    MANIFEST_NAMES,
    OUR_KEY,
    RECEIPTS_NAME,
    SCHEMA_VERSION,
    UNAMBIGUOUS_MANIFEST,
)
from rtstore.model.envelope import content_hash
from rtstore.model.records import Batch, BatchState, Manifest, PlannedWrite, QuarantinedFile, Record
from rtstore.model.times import Clock, format_time, to_utc_ms

REPLACED = "replaced by an export"
"""The reason with which an older legacy control file is quarantined."""


class ExportReport(Record):
    """The report of an export."""

    directory: Path
    team_name: str
    high_watermark: int
    control_files: tuple[str, ...]
    stores: int
    """The number of entries in the manifest."""
    batches: dict[BatchState, int]
    """The number of batches in the receipts, by state; failed ones are set aside."""
    left_out: tuple[str, ...]
    """Stores whose committed content is not in the database, so that a new directory does not have
    their files."""
    replaced: tuple[str, ...]
    """The quarantine paths of control files with other content that were replaced, relative to the
    directory."""


class _State(Record):
    """Everything to export, as of one moment."""

    manifest: Manifest
    batches: tuple[tuple[Batch, tuple[PlannedWrite, ...]], ...]


def export_here(
    directory: Path, database: Database, lock: WriterLock, clock: Clock, fs: FileSystem
) -> ExportReport:
    """Write manifest and receipts next to the stores, under the writer lock.

    Durable when it returns. Control files with other content are quarantined first. After a crash
    each file is the old one or the new one, whole; export again to finish. Raises
    `BatchUnfinishedError` while a batch is open, `StorageError`, and `LockTimeoutError`.
    """
    with lock.hold():
        state = database.read(_read)
        unfinished = next(iter(database.read(batches.load_open)), None)
        if unfinished is not None and unfinished.has_contents:
            raise BatchUnfinishedError(
                unfinished.batch.batch_id, "its writer died", decided=True, directory=directory
            )
        names = [name for name in MANIFEST_NAMES if (directory / name).exists()]
        files = _files(state, names or [MANIFEST_NAMES[0]])
        try:
            quarantined = [
                found
                for name, content in files.items()
                if (found := _keep(directory, name, content, clock, fs)) is not None
            ]
            if quarantined:
                with database.write(flush=True) as connection:
                    recovery_log.record_quarantined(connection, quarantined)
            for name, content in files.items():
                durable.replace(directory / name, content, mtime_ns=None, flush=True, fs=fs)
        except OSError as error:
            raise StorageError(directory, "the export cannot be written", str(error)) from error
    return _report(directory, state, files, replaced=[item.quarantine_path for item in quarantined])


def export_to(
    directory: Path, database: Database, destination: Path, fs: FileSystem
) -> ExportReport:
    """Write a new directory of the legacy format: control files, and every store as committed.

    The directory appears whole, and is durable when it returns. Takes no lock. Raises
    `InvalidRequestError` when the destination is neither new nor empty, or is inside the runtime
    directory, and `StorageError`.
    """
    with new_directory(destination, "destination", fs, outside=directory) as building:
        state, written = database.read(
            lambda connection: (
                _read(connection),
                write_store_files(connection, building, fs, like=directory),
            )
        )
        paths = {file.relative_path for file in written}
        files = _files(state, [MANIFEST_NAMES[0]])
        for name, content in files.items():
            durable.replace(building / name, content, mtime_ns=None, flush=True, fs=fs)
    left_out = [
        entry.schema_name for entry in state.manifest.entries if entry.relative_path not in paths
    ]
    return _report(destination, state, files, left_out=left_out)


def _read(connection: Connection) -> _State:
    return _State(
        manifest=manifest.load(connection),
        batches=tuple(batches.list_with_writes(connection)),
    )


def _report(
    directory: Path,
    state: _State,
    files: Iterable[str],
    *,
    left_out: Iterable[str] = (),
    replaced: Iterable[str] = (),
) -> ExportReport:
    states = [batch.state for batch, _ in state.batches]
    return ExportReport(
        directory=directory,
        team_name=state.manifest.team_name,
        high_watermark=state.manifest.high_watermark,
        control_files=tuple(files),
        stores=len(state.manifest.entries),
        batches={each: states.count(each) for each in BatchState if each in states},
        left_out=tuple(left_out),
        replaced=tuple(replaced),
    )


def _keep(
    directory: Path, name: str, content: bytes, clock: Clock, fs: FileSystem
) -> QuarantinedFile | None:
    """Quarantine a control file that is about to be replaced, and return its row; None when there
    is no file, or its content is the same."""
    try:
        found, _ = fs.read(directory / name)
    except FileNotFoundError:
        return None
    if found == content:
        return None
    kept_at = quarantine.keep(directory, name, found, fs)
    return QuarantinedFile(
        quarantine_number=0,
        schema_name=None,
        relative_path=name,
        quarantine_path=kept_at,
        reason=REPLACED,
        content_hash=content_hash(found),
        file_size=len(found),
        quarantined_at=to_utc_ms(clock()),
    )


# --- the documents --------------------------------------------------------------------------------


def _files(state: _State, manifest_names: Iterable[str]) -> dict[str, bytes]:
    """Return the control files by name, in the order of writing. The manifest is last, because it
    says what is committed."""
    receipts = _envelope(state, _receipts(state.batches), _set_aside(state.batches))
    manifest_file = _envelope(state, _manifest(state.manifest), None)
    names = sorted(manifest_names, key=UNAMBIGUOUS_MANIFEST.__eq__)
    return {RECEIPTS_NAME: receipts, **dict.fromkeys(names, manifest_file)}


def _envelope(state: _State, data: object, ours: object) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": SCHEMA_VERSION,
        "updatedAt": format_time(state.manifest.updated_at),
        "data": data,
    }
    if ours is not None:
        document[OUR_KEY] = ours
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _manifest(current: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = current.model_dump(mode="json", by_alias=True)
    for entry in document["entries"]:
        del entry["batchNumber"]  # not in the legacy format; the receipt identifies the batch
    return document


def _receipts(found: Iterable[tuple[Batch, tuple[PlannedWrite, ...]]]) -> list[dict[str, Any]]:
    return [_batch(*each) for each in found if each[0].state is not BatchState.FAILED]


def _set_aside(found: Iterable[tuple[Batch, tuple[PlannedWrite, ...]]]) -> object:
    failed = [
        {"position": position, "batch": _batch(*each)}
        for position, each in enumerate(found)
        if each[0].state is BatchState.FAILED
    ]
    return {"failedBatches": failed} if failed else None


def _batch(batch: Batch, writes: Iterable[PlannedWrite]) -> dict[str, Any]:
    receipt_of: Callable[[Batch, PlannedWrite], Record] = batches.receipt_of
    document: dict[str, Any] = batch.model_dump(
        mode="json", by_alias=True, exclude={"batch_number", "origin", "receipts"}
    )
    document["receipts"] = [
        receipt_of(batch, write).model_dump(mode="json", by_alias=True) for write in writes
    ]
    return document
