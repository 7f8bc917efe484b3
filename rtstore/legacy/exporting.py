"""Writes the control data as files of the legacy format, for the programs that read it.

`documents` has what they say. Stores and batches that a legacy program cannot use are set aside; an
import reads all of it again. The history of contents, quarantine and recoveries stay in the
database only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control import batches, contents, manifest, recovery_log, runs
from rtstore.control.lock import WriterLock
from rtstore.control.lost_entries import with_lost_entries
from rtstore.control.sqlite.engine import Database
from rtstore.errors import BatchUnfinishedError, StorageError, UnsafePathError
from rtstore.files import durable, quarantine
from rtstore.files.new_directory import new_directory
from rtstore.files.paths import check_target, store_path
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error
from rtstore.history.materialize import BackupFile, write_store_files
from rtstore.legacy.control_files import MANIFEST_NAMES, TOMBSTONES_NAME, current_hash
from rtstore.legacy.documents import (
    Exported,
    control_files,
    own_reasons,
    stores_set_aside,
    with_ended_runs,
)
from rtstore.legacy.survey import hash_at
from rtstore.model.descriptors import LANE_INDEX
from rtstore.model.envelope import content_hash
from rtstore.model.records import BatchState, PlannedWrite, QuarantinedFile, Record
from rtstore.model.times import Clock, to_utc_ms

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
    set_aside: tuple[str, ...]
    """Stores that legacy programs do not know: they refuse a manifest that names one. Their entries
    and receipts are where only an import reads them."""
    own_reasons: tuple[str, ...]
    """Reasons of batches that legacy programs do not know: they read `launch_checkpoint` there, and
    only an import reads the runtime's own word."""
    left_out: tuple[str, ...]
    """Stores whose committed content is not in the database, so that a new directory does not have
    their files."""
    not_committed: tuple[str, ...]
    """Stores that have a file although nothing is committed for them, so that a new directory does
    not have it: a legacy runtime writes some besides its batches. `adopt` commits one."""
    changed: tuple[str, ...]
    """Stores whose file holds something else than what is committed. In place it stays as it is,
    and is not what the manifest says; a new directory has what is committed, and not the edit."""
    replaced: tuple[str, ...]
    """The quarantine paths of control files with other content that were replaced, relative to the
    directory."""


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
        try:
            files = _files(state, names or [MANIFEST_NAMES[0]], directory, fs)
            quarantined = [
                found
                for name, content in files.items()
                if (found := _keep(directory, name, content, clock, fs)) is not None
            ]
            if quarantined:
                with database.write(flush=True) as connection:
                    recovery_log.record_quarantined(connection, quarantined)
            for name, content in files.items():
                durable.replace(
                    directory / name,
                    content,
                    mtime_ns=None,
                    flush=True,
                    within=directory,
                    fs=fs,
                )
            _remember(directory, database, fs)
        except OSError as error:
            raise StorageError(directory, "the export cannot be written", str(error)) from error
        changed = [
            entry.schema_name
            for entry in state.manifest.entries
            if hash_at(directory, entry.schema_name, entry.relative_path, fs) != entry.content_hash
        ]
    replaced = [item.quarantine_path for item in quarantined]
    return _report(directory, state, files, replaced=replaced, changed=changed)


def export_to(
    directory: Path, database: Database, destination: Path, fs: FileSystem
) -> ExportReport:
    """Write a new directory of the legacy format: control files, and every store as committed.

    The directory appears whole, and is durable when it returns. Takes no lock. Raises
    `InvalidRequestError` when the destination is neither new nor empty, or is inside the runtime
    directory, and `StorageError`.
    """
    (report,) = export_team_to(directory, [Place("", database)], destination, fs)
    return report


class Place(NamedTuple):
    """A store of a team that is exported."""

    path: str
    """Relative to the team's runtime directory: `lanes/NAME`, or empty for that directory."""
    database: Database


def export_team_to(
    directory: Path, places: Sequence[Place], destination: Path, fs: FileSystem
) -> list[ExportReport]:
    """Write a team's runtime directory with its lanes, as `export_to` does: the stores of the
    places, and the list of lanes. Return a report for each place."""
    with new_directory(destination, "destination", fs, outside=directory) as building:
        reports = []
        for path, database in places:
            target = building / path
            durable.make_directories(target, fs)
            report = _export_into(directory / path, database, target, fs)
            reports.append(report.model_copy(update={"directory": destination / path}))
        with suppress(FileNotFoundError):
            index, _ = fs.read(directory / LANE_INDEX)
            durable.replace(
                building / LANE_INDEX, index, mtime_ns=None, flush=True, within=building, fs=fs
            )
    return reports


def _export_into(directory: Path, database: Database, target: Path, fs: FileSystem) -> ExportReport:
    def write(connection: Connection) -> tuple[Exported, list[BackupFile]]:
        state = _read(connection)
        entries = state.manifest.entries
        return state, write_store_files(connection, target, fs, like=directory, entries=entries)

    state, written = database.read(write)
    files = _files(state, [MANIFEST_NAMES[0]], directory, fs)
    if not state.has_store_at(TOMBSTONES_NAME):
        with suppress(FileNotFoundError):  # as it is, where no run is added to it
            files = {TOMBSTONES_NAME: fs.read(directory / TOMBSTONES_NAME)[0], **files}
    for name, content in files.items():
        durable.replace(target / name, content, mtime_ns=None, flush=True, within=target, fs=fs)
    paths = {file.relative_path for file in written}
    left_out = [
        entry.schema_name for entry in state.manifest.entries if entry.relative_path not in paths
    ]
    changed = _edited(directory, database, state, fs)
    report = _report(target, state, files, left_out=left_out, changed=changed)
    committed = {entry.schema_name for entry in state.manifest.entries}
    not_committed = tuple(
        item.schema_name
        for item in database.read(manifest.load_descriptors)
        if item.schema_name not in committed
        and os.path.lexists(store_path(directory, item.relative_path))
    )
    return report.model_copy(update={"not_committed": not_committed})


def _read(connection: Connection) -> Exported:
    """Return what is exported; with the entries that somebody took out by hand, and each store in
    the file that it has now: a program may have given it another one since it was written."""
    found = with_lost_entries(connection, manifest.load(connection))
    written = {entry.schema_name: entry.relative_path for entry in found.entries}
    now = manifest.files_now(connection, written)
    moved = {
        entry.last_write_receipt_id: now[entry.schema_name]
        for entry in found.entries
        if now[entry.schema_name] != entry.relative_path
    }
    entries = tuple(
        entry.model_copy(update={"relative_path": now[entry.schema_name]})
        for entry in found.entries
    )
    return Exported(
        manifest=found.model_copy(update={"entries": entries}),
        batches=tuple(
            (batch, tuple(_at_its_file(write, moved) for write in writes))
            for batch, writes in batches.list_with_writes(connection)
        ),
        runs=tuple(runs.list_runs(connection)),
    )


def _at_its_file(write: PlannedWrite, moved: Mapping[str, str]) -> PlannedWrite:
    """Return a write with the file of its entry: an import refuses an entry that contradicts its
    receipt. `moved` are the files of moved stores, by the receipt of the entry."""
    path = moved.get(write.receipt_id)
    return write if path is None else write.model_copy(update={"relative_path": path})


def _files(
    state: Exported, manifest_names: Iterable[str], directory: Path, fs: FileSystem
) -> dict[str, bytes]:
    """Return the files to write by name, in the order of writing. The list of ended runs is one
    of them only where a run is added to that in the directory."""
    found: bytes | None = None
    with suppress(FileNotFoundError):
        found, _ = fs.read(directory / TOMBSTONES_NAME)
    tombstones = None
    if not state.has_store_at(TOMBSTONES_NAME):
        tombstones = with_ended_runs(found, state)
    ended = {} if tombstones is None else {TOMBSTONES_NAME: tombstones}
    return {**ended, **control_files(state, manifest_names)}


def _edited(directory: Path, database: Database, state: Exported, fs: FileSystem) -> list[str]:
    """Return the stores whose file holds what the database does not have. It is asked after the
    file: what a writer at work writes is in it before its file is."""
    found = []
    for entry in state.manifest.entries:
        name, path = entry.schema_name, entry.relative_path
        with suppress_system_error(UnsafePathError):  # what cannot be read is no edit
            check_target(directory, path, name, fs)
            content, _ = fs.read(store_path(directory, path))
            here = content_hash(content)
            holds = partial(contents.holds, found=content, found_hash=here, schema_name=name)
            if here != entry.content_hash and not database.read(holds):
                found.append(name)
    return found


def _report(
    directory: Path,
    state: Exported,
    files: Iterable[str],
    *,
    left_out: Iterable[str] = (),
    replaced: Iterable[str] = (),
    changed: Iterable[str] = (),
) -> ExportReport:
    states = [batch.state for batch, _ in state.batches]
    return ExportReport(
        directory=directory,
        team_name=state.manifest.team_name,
        high_watermark=state.manifest.high_watermark,
        control_files=tuple(files),
        stores=len(state.manifest.entries),
        batches={each: states.count(each) for each in BatchState if each in states},
        set_aside=tuple(stores_set_aside(state.manifest)),
        own_reasons=tuple(own_reasons(state)),
        left_out=tuple(left_out),
        not_committed=(),
        changed=tuple(changed),
        replaced=tuple(replaced),
    )


def _remember(directory: Path, database: Database, fs: FileSystem) -> None:
    """Record in an imported store what its control files say now, so that whoever changes them
    after the export is noticed."""
    head, now = database.read(manifest.load_head), current_hash(directory, fs)
    if head.imported_at is not None and now is not None and now != head.imported_hash:
        with database.write(flush=True) as connection:
            manifest.save_imported_hash(connection, now)


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
