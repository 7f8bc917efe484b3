"""Imports a whole team: its runtime directory and every lane below it.

The directories are imported one after the other, each atomically. After a crash, import again: it
imports the rest, and the result is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rtstore.control.lock import DEFAULT_TIMEOUT_S
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import (
    InvalidRequestError,
    LegacyImportError,
    RetryableError,
    RuntimeStoreError,
    StopError,
    StorageError,
)
from rtstore.files.quarantine import QUARANTINE_DIRECTORY, without_row
from rtstore.files.remains import store_files
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import (
    MANIFEST_NAMES,
    RECEIPTS_NAME,
    RUNTIME_DIRECTORY,
    is_legacy_directory,
    lacks_manifest,
    team_name_in,
)
from rtstore.legacy.importing import import_directory
from rtstore.legacy.lanes import (
    LaneIndex,
    is_lane,
    is_team_directory,
    lane_names,
    lost_its_manifest,
    name_of,
    read_lane_index,
)
from rtstore.legacy.report import (
    ImportReport,
    LaneImport,
    LaneOutcome,
    OtherKind,
    SkippedFile,
    StoreOutcome,
    TeamImportReport,
)
from rtstore.legacy.survey import LANES, is_own, kind_of
from rtstore.model import arguments
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.model.ids import IdFactory, new_batch_id
from rtstore.model.times import Clock, to_utc_ms, utc_now
from rtstore.shell import rtstore_at

Progress = Callable[[str, int, int], None]
"""Called with the directory's name or the lane's id, the number of its stores read, and of all."""

_WHY = {
    OtherKind.LANE_INDEX: "the runtime's list of lanes; it stays in use",
    OtherKind.RUN_TOMBSTONES: "the runtime's list of ended runs; it stays in use",
    OtherKind.LOCK: "a lock of the old kind, which nobody needs any more",
    OtherKind.TEMPORARY_FILE: "a temporary file of a writer that died",
    OtherKind.OTHER: "nothing that the control files know of",
}
_IN_QUARANTINE = "in quarantine before the import, of another program or an earlier database"
_NOT_LOOKED_AT = "not looked at: the directory could not be imported"
_LANES_ONLY = "there are no control files at the top: the lanes have their own"
_NO_MANIFEST = "not imported: the manifest is gone"
_NO_CONTROL_FILES = "there are no control files of the legacy format beside it"


def runtime_directory_of(directory: Path) -> Path:
    """Return the runtime directory of a team's directory: itself, or the `.opencode-runtime` in
    it."""
    below = directory / RUNTIME_DIRECTORY
    return below if not _is_team(directory) and _is_team(below) else directory


def _is_team(directory: Path) -> bool:
    return is_legacy_directory(directory) or is_team_directory(directory)


def import_team(
    directory: str | Path,
    *,
    descriptors: Iterable[Descriptor] | None = None,
    clock: Clock = utc_now,
    lock_timeout_s: float = DEFAULT_TIMEOUT_S,
    dry_run: bool = False,
    progress: Progress | None = None,
    fs: FileSystem | None = None,
    batch_id_factory: IdFactory = new_batch_id,
) -> TeamImportReport:
    """Import a team's runtime directory and all lanes in it; no JSON file is changed.

    `directory` is the runtime directory, or the team's directory with `.opencode-runtime` in it. It
    may have no control files of its own, and lanes only. The other arguments are those of
    `import_directory`, which describes what is imported, except that `progress` is also called with
    the name of the directory or the id of the lane. Durable when it returns.

    Directories that were imported before are left as they are, so an interrupted import can be run
    again. A lane that cannot be imported, now or at all, is in the report, and the others are
    imported. So is one that only the list of lanes knows, or that has no control files.

    Raises what `import_directory` raises for the team's own directory.
    """
    directory = runtime_directory_of(arguments.path(directory, "directory"))
    fs = fs or FileSystem()
    arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
    arguments.optional_function(progress, "progress")
    clock = arguments.checked_clock(clock)
    known = None if descriptors is None else tuple(descriptors)

    def take(place: Path, name: str) -> ImportReport:
        return import_directory(
            place,
            descriptors=known,
            clock=clock,
            lock_timeout_s=lock_timeout_s,
            dry_run=dry_run,
            progress=None if progress is None else lambda done, of: progress(name, done, of),
            fs=fs,
            batch_id_factory=batch_id_factory,
        )

    own = _import_own(directory, take)
    problem = None if own is not None else why_lost(directory, fs)
    index = read_lane_index(directory, fs)
    lanes = [*_import_lanes(directory, index, take, fs)]
    nowhere = _NO_CONTROL_FILES if problem is None else _NO_MANIFEST
    skipped = [*_skipped(directory, own, "", nowhere, fs)]
    for lane in lanes:
        if _is_separate(directory / lane.path):
            own_store = lane.outcome is LaneOutcome.NO_CONTROL_FILES
            nowhere = _NO_CONTROL_FILES if own_store else _NOT_LOOKED_AT
            skipped += _skipped(directory / lane.path, lane.report, f"{lane.path}/", nowhere, fs)
    imported = sum(_taken(report) for report in (own, *(lane.report for lane in lanes)))
    report = own or _of_lanes(directory, lanes, clock, fs, dry_run=dry_run)
    lanes_only = own is None and problem is None
    problem_of_index = None if index is None else index.problem
    notes = [*report.notes, _LANES_ONLY if lanes_only else None, problem_of_index]
    return TeamImportReport(
        **{**report.model_dump(), "notes": [note for note in notes if note is not None]},
        lanes_only=own is None,
        problem=problem,
        lanes=tuple(lanes),
        found=imported + len(skipped),
        imported=imported,
        skipped=tuple(skipped),
    )


def why_lost(directory: Path, fs: FileSystem) -> str | None:
    """Return why a runtime directory without a manifest and without a database cannot be imported,
    or None when it has neither receipts nor store files."""
    if os.path.lexists(directory / DATABASE_NAME) or is_legacy_directory(directory):
        return None
    known = [item.relative_path for item in KNOWN_DESCRIPTORS]
    receipts = [RECEIPTS_NAME] if lacks_manifest(directory) else []
    stores = [
        path for path in store_files(directory, known, fs) if not path.startswith(f"{LANES}/")
    ]
    found = [*receipts, *stores]
    if not found:
        return None
    more = f" and {len(found) - 3} more" if found[3:] else ""
    return (
        f"its manifest is gone, or there never was one: there is no {MANIFEST_NAMES[0]}, but "
        f"{', '.join(found[:3])}{more}. The ways out: the manifest from a "
        f"back-up, then import again; or what is said by: {rtstore_at('doctor', directory)}"
    )


def _is_separate(place: Path) -> bool:
    """Return whether the files of a directory below `lanes/` are counted with that lane."""
    return is_lane(place) or lost_its_manifest(place)


def _import_own(directory: Path, take: Callable[[Path, str], ImportReport]) -> ImportReport | None:
    """Import the team's own directory. Return None when it has lanes, or a list of them, and no
    control files to import."""
    if is_legacy_directory(directory) or not is_team_directory(directory):
        return take(directory, directory.name)
    if not os.path.lexists(directory / DATABASE_NAME):
        return None
    try:
        return take(directory, directory.name)
    except LegacyImportError:  # a store of its own, which was never of the legacy format
        return None


def _import_lanes(
    directory: Path,
    index: LaneIndex | None,
    take: Callable[[Path, str], ImportReport],
    fs: FileSystem,
) -> Iterator[LaneImport]:
    """Import each lane that is one. Yield what became of it, and of what the list of lanes names
    besides."""
    names = lane_names(directory, fs)
    for name in names:
        place, lane_id = directory / LANES / name, unquote(name)
        lane = LaneImport(
            lane_id=lane_id,
            path=f"{LANES}/{name}",
            outcome=LaneOutcome.NO_CONTROL_FILES,
            state=None if index is None else index.state_of(name),
            report=None,
        )
        if is_lane(place):
            yield lane.model_copy(update=_import_lane(place, lane_id, take))
        elif lost_its_manifest(place):
            outcome, problem = LaneOutcome.NOT_IMPORTED, why_lost(place, fs)
            update = {"outcome": outcome, "problem": problem, "damaged": True}
            yield lane.model_copy(update=update)
        else:
            yield lane
    for lane_id, state in ({} if index is None else index.states).items():
        if name_of(lane_id) not in names and not os.path.lexists(
            directory / LANES / name_of(lane_id)
        ):  # a link is among the files that were skipped
            yield LaneImport(
                lane_id=lane_id,
                path=f"{LANES}/{name_of(lane_id)}",
                outcome=LaneOutcome.NO_DIRECTORY,
                state=state,
                report=None,
            )


def _import_lane(
    place: Path, lane_id: str, take: Callable[[Path, str], ImportReport]
) -> dict[str, Any]:
    """Import a lane. Return what became of it, as fields of its `LaneImport`."""
    try:
        report = take(place, lane_id)
    except LegacyImportError as error:
        if not is_legacy_directory(place):  # a store of its own, which was never of that format
            return {}
        return {
            "outcome": LaneOutcome.NOT_IMPORTED,
            "problem": str(error),
            "damaged": error.damaged,
        }
    except InvalidRequestError:  # of the call, and of no lane
        raise
    except (RuntimeStoreError, OSError) as error:  # what was imported by now stays, and is reported
        return {
            "outcome": LaneOutcome.NOT_IMPORTED,
            "problem": _said_of_one(error),
            "damaged": isinstance(error, StopError),
            "retry": isinstance(error, RetryableError | OSError),
        }
    is_new = report.changed or report.dry_run
    outcome = LaneOutcome.IMPORTED if is_new else LaneOutcome.IMPORTED_BEFORE
    return {"outcome": outcome, "report": report}


def _said_of_one(error: RuntimeStoreError | OSError) -> str:
    """Return what went wrong with one lane. That nothing was committed is not true of the others,
    which the message of a `StorageError` does not know."""
    if isinstance(error, StorageError):
        return f"{error.path}: {error.problem} ({error.cause})"
    return str(error)


def _of_lanes(
    directory: Path, lanes: Iterable[LaneImport], clock: Clock, fs: FileSystem, *, dry_run: bool
) -> ImportReport:
    """Return the report of a directory without control files, whose lanes were imported."""
    reports = [lane.report for lane in lanes if lane.report is not None]
    names = (team_name_in(directory / lane.path, fs) for lane in lanes)
    named = next((name for name in names if name is not None), None)
    team = directory.parent if directory.name == RUNTIME_DIRECTORY else directory
    return ImportReport(
        directory=directory,
        team_name=reports[0].team_name if reports else named or team.absolute().name,
        changed=any(report.changed for report in reports),
        dry_run=dry_run,
        imported_at=max((report.imported_at for report in reports), default=to_utc_ms(clock())),
        high_watermark=0,
        active_identity=None,
        batches={},
        receipts=0,
    )


def _taken(report: ImportReport | None) -> int:
    if report is None:
        return 0
    taken = [store for store in report.stores if store.outcome is StoreOutcome.CONTENT_TAKEN]
    return len(report.control_files) + len(taken)


def _skipped(
    directory: Path, report: ImportReport | None, prefix: str, nowhere: str, fs: FileSystem
) -> Iterator[SkippedFile]:
    """Yield every file of one directory that was not imported, with the reason: `nowhere` when
    there is no report."""
    if _has_no_rows_of_quarantine(directory, report):
        for path in without_row(directory, (), fs):
            yield SkippedFile(path=prefix + path, why=_IN_QUARANTINE)
    taken: set[str] = set()
    why: dict[str, str] = {}
    default = nowhere
    if report is not None:
        default = _WHY[OtherKind.OTHER]
        if not report.changed and not report.dry_run:
            default = "the directory was imported before"
        taken = set(report.control_files)
        for store in report.stores:
            if store.outcome is StoreOutcome.CONTENT_TAKEN:
                taken.add(store.relative_path)
            else:
                why[store.relative_path] = f"{store.schema_name}: {store.outcome.value}"
        why |= {file.path: _WHY[file.kind] for file in report.other_files if file.kind in _WHY}
    for path in _files_below(directory, "", fs):
        kind = kind_of(path.rpartition("/")[2])
        in_no_lane = report is not None and path.startswith(f"{LANES}/")  # was never imported
        said = _WHY[OtherKind.OTHER] if in_no_lane else default
        said = said if kind is OtherKind.OTHER else _WHY[kind]
        if path not in taken:
            yield SkippedFile(path=prefix + path, why=why.get(path, said))


def _has_no_rows_of_quarantine(directory: Path, report: ImportReport | None) -> bool:
    """Return whether what is in quarantine was there before any database of this directory."""
    if report is None:
        return not os.path.lexists(directory / DATABASE_NAME)
    return report.changed or report.dry_run


def _files_below(directory: Path, folder: str, fs: FileSystem) -> Iterator[str]:
    """Yield every file of a runtime directory, except lanes and the files of rtstore."""
    for name in sorted(fs.list_directory(directory / folder if folder else directory)):
        path = f"{folder}/{name}" if folder else name
        if not folder and is_own(name):
            continue
        if os.path.islink(directory / path) or not fs.is_directory(directory / path):
            yield path
        elif path == QUARANTINE_DIRECTORY or (folder == LANES and _is_separate(directory / path)):
            continue
        else:
            yield from _files_below(directory, path, fs)
