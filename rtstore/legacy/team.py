"""Imports a whole team: its runtime directory and every lane below it.

The directories are imported one after the other, each atomically. After a crash, import again: it
imports the rest, and the result is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from rtstore.control.lock import DEFAULT_TIMEOUT_S
from rtstore.errors import LegacyImportError
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import RUNTIME_DIRECTORY, is_legacy_directory
from rtstore.legacy.importing import import_directory
from rtstore.legacy.report import (
    ImportReport,
    LaneImport,
    OtherKind,
    SkippedFile,
    StoreOutcome,
    TeamImportReport,
)
from rtstore.legacy.survey import LANES, is_own, kind_of
from rtstore.model import arguments
from rtstore.model.descriptors import Descriptor
from rtstore.model.ids import IdFactory, new_batch_id
from rtstore.model.times import Clock, utc_now

Progress = Callable[[str, int, int], None]
"""Called with the directory's name or the lane's id, the number of its stores read, and of all."""

_WHY = {
    OtherKind.LANE_INDEX: "the runtime's list of lanes; it stays in use",
    OtherKind.RUN_TOMBSTONES: "the runtime's list of ended runs; it stays in use",
    OtherKind.LOCK: "a lock of the old kind, which nobody needs any more",
    OtherKind.TEMPORARY_FILE: "a temporary file of a writer that died",
    OtherKind.OTHER: "nothing that the control files know of",
}


def runtime_directory_of(directory: Path) -> Path:
    """Return the legacy runtime directory of a team's directory: itself, or the
    `.opencode-runtime` in it."""
    below = directory / RUNTIME_DIRECTORY
    if not is_legacy_directory(directory) and is_legacy_directory(below):
        return below
    return directory


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

    `directory` is the runtime directory, or the team's directory with `.opencode-runtime` in it.
    The other arguments are those of `import_directory`, which describes what is imported, except
    that `progress` is also called with the name of the directory or the id of the lane. Durable
    when it returns.

    Directories that were imported before are left as they are, so an interrupted import can be run
    again. A lane that cannot be imported is in the report, and the others are imported.

    Raises what `import_directory` raises for the team's own directory.
    """
    directory = runtime_directory_of(arguments.path(directory, "directory"))
    fs = fs or FileSystem()
    arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
    arguments.optional_function(progress, "progress")
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

    own = take(directory, directory.name)
    lanes = []
    for path in _lanes_of(directory, fs):
        place, lane_id = directory / path, unquote(path.removeprefix(f"{LANES}/"))
        try:
            lane = LaneImport(lane_id=lane_id, path=path, report=take(place, lane_id))
        except LegacyImportError as error:
            lane = LaneImport(
                lane_id=lane_id,
                path=path,
                report=None,
                problem=str(error),
                damaged=error.damaged,
            )
        lanes.append(lane)
    skipped = [*_skipped(directory, own, "", fs)]
    for lane in lanes:
        skipped += _skipped(directory / lane.path, lane.report, f"{lane.path}/", fs)
    imported = sum(_taken(report) for report in (own, *(lane.report for lane in lanes)))
    return TeamImportReport(
        **own.model_dump(),
        lanes=tuple(lanes),
        found=imported + len(skipped),
        imported=imported,
        skipped=tuple(skipped),
    )


def _lanes_of(directory: Path, fs: FileSystem) -> list[str]:
    """Return the paths of the lanes: directories below `lanes/` with a legacy manifest."""
    folder = directory / LANES
    if os.path.islink(folder) or not fs.is_directory(folder):
        return []
    return [
        f"{LANES}/{name}"
        for name in sorted(fs.list_directory(folder))
        if not os.path.islink(folder / name) and is_legacy_directory(folder / name)
    ]


def _taken(report: ImportReport | None) -> int:
    if report is None:
        return 0
    taken = [store for store in report.stores if store.outcome is StoreOutcome.CONTENT_TAKEN]
    return len(report.control_files) + len(taken)


def _skipped(
    directory: Path, report: ImportReport | None, prefix: str, fs: FileSystem
) -> Iterator[SkippedFile]:
    """Yield every file of one directory that was not imported, with the reason."""
    taken: set[str] = set()
    why: dict[str, str] = {}
    default = "not looked at: the directory could not be imported"
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
        said = default if kind is OtherKind.OTHER else _WHY[kind]
        if path not in taken:
            yield SkippedFile(path=prefix + path, why=why.get(path, said))


def _files_below(directory: Path, folder: str, fs: FileSystem) -> Iterator[str]:
    """Yield every file of a runtime directory, except lanes and the files of rtstore."""
    for name in sorted(fs.list_directory(directory / folder if folder else directory)):
        path = f"{folder}/{name}" if folder else name
        if not folder and is_own(name):
            continue
        if os.path.islink(directory / path) or not fs.is_directory(directory / path):
            yield path
        elif path == QUARANTINE_DIRECTORY or (
            folder == LANES and is_legacy_directory(directory / path)
        ):
            continue
        else:
            yield from _files_below(directory, path, fs)
