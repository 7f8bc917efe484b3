"""`rtstore export`: writes the control files of the legacy format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import unquote

import typer

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout, utf8
from rtstore.cli.output import Cell, Page, count, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_directory, check_may_write
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from rtstore.legacy import (
    STANDS_FOR_OWN,
    ExportReport,
    Place,
    export_team_to,
    is_legacy_directory,
    lane_names,
    lost_its_manifest,
    over_again_command,
    runtime_directory_of,
    why_lost,
)
from rtstore.model.records import BatchState, Record
from rtstore.shell import rtstore_at, shell_word
from rtstore.store import RuntimeStore


class LaneExport(Record):
    """The outcome for one lane."""

    lane_id: str
    path: str
    """Relative to the team's runtime directory."""
    report: ExportReport | None
    """None when it has no store: it was not imported yet."""


class TeamExportReport(ExportReport):
    """What `rtstore export --json` prints."""

    lanes_only: bool
    """Whether DIR has no store of its own: what is said of stores and batches is of none."""
    problem: str | None
    """Why DIR itself was not exported, although it has control or store files."""
    lanes: tuple[LaneExport, ...]


class _Lane(NamedTuple):
    path: str
    has_store: bool


def run(
    directory: Directory,
    *,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DEST",
            callback=utf8,
            help="A new or empty directory, which gets the stores too. Default: DIR itself.",
        ),
    ] = None,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Write manifest and receipts in the legacy format, for a file-only runtime.

    Its lanes are exported with it, and runs that have ended get a tombstone. What is in the way in
    DIR and says something else is kept in quarantine. "rtstore import" finds everything again; the
    history of contents, quarantine and recoveries stay in the database.

    \b
    JSON: directory, teamName, highWatermark, controlFiles[], stores (number),
      batches {STATE: number}, setAside[], ownReasons[], leftOut[], notCommitted[], changed[],
      replaced[], lanesOnly (DIR has no store; the keys above are of none),
      problem (why DIR itself was not exported, which has control or store files) or null,
      lanes[] {laneId, path, report (the keys above) or null (not imported yet)}
    """
    (check_directory if destination else check_may_write)(directory)
    directory = runtime_directory_of(directory)
    lanes = list(_lanes_of(directory))
    has_lanes = any(lane.has_store for lane in lanes)
    lanes_only = has_lanes and not (directory / DATABASE_NAME).exists()
    paths = [*([] if lanes_only else [""]), *(lane.path for lane in lanes if lane.has_store)]
    with progress_bar(quiet=as_json, what="exporting"), ExitStack() as stack:
        reports = (
            _export_here(directory, paths, lock_timeout_s)
            if destination is None
            else _export_to(directory, paths, destination, stack)
        )
    problem = _why_not_the_top(directory) if lanes_only else None
    report = _of_team(
        reports, lanes, directory if destination is None else destination, problem=problem
    )
    again = None if destination is not None else over_again_command(directory, paths)
    _show(page_of(report, as_json=as_json), report, again)
    return ExitCode.READY


def _lanes_of(directory: Path) -> Iterator[_Lane]:
    for name in lane_names(directory, FileSystem()):
        path = f"lanes/{name}"
        has_store = (directory / path / DATABASE_NAME).exists()
        place = directory / path
        if has_store or is_legacy_directory(place) or lost_its_manifest(place):
            yield _Lane(path, has_store)


def _why_not_the_top(directory: Path) -> str | None:
    """Return why a team's directory without a store is more than its lanes, or None."""
    if is_legacy_directory(directory):
        return f"it was not imported yet. Run: rtstore import {shell_word(directory)}"
    return why_lost(directory, FileSystem())


def _export_here(
    directory: Path, paths: list[str], lock_timeout_s: float
) -> dict[str, ExportReport]:
    reports = {}
    for path in paths:
        with RuntimeStore.open(
            directory / path, upgrade=False, lock_timeout_s=lock_timeout_s
        ) as store:
            report = store.export()
            reports[path] = report.model_copy(update={"directory": directory / path})
    return reports


def _export_to(
    directory: Path, paths: list[str], destination: Path, stack: ExitStack
) -> dict[str, ExportReport]:
    places = []
    for path in paths:
        store = stack.enter_context(RuntimeStore.open(directory / path, read_only=True))
        places.append(Place(path, store.database))
    reports = export_team_to(directory, places, destination, FileSystem())
    return dict(zip(paths, reports, strict=True))


def _of_team(
    reports: dict[str, ExportReport],
    lanes: list[_Lane],
    directory: Path,
    *,
    problem: str | None,
) -> TeamExportReport:
    own = reports.get("")
    first = own or next(iter(reports.values()))
    nothing = ExportReport(
        directory=directory,
        team_name=first.team_name,
        high_watermark=0,
        control_files=(),
        stores=0,
        batches={},
        set_aside=(),
        own_reasons=(),
        left_out=(),
        not_committed=(),
        changed=(),
        replaced=(),
    )
    return TeamExportReport(
        **(own or nothing).model_dump(),
        lanes_only=own is None,
        problem=problem,
        lanes=tuple(
            LaneExport(
                lane_id=unquote(lane.path.removeprefix("lanes/")),
                path=lane.path,
                report=reports.get(lane.path),
            )
            for lane in lanes
        ),
    )


def _show(page: Page, team: TeamExportReport, again: str | None) -> None:
    """Print the report. `again` takes a directory that has databases over again: it was exported
    in place."""
    in_place = again is not None
    if not team.lanes_only:
        what = f"the runtime directory of team {team.team_name}"
        _show_directory(page, team, what, in_place=in_place)
    if team.problem is not None:
        page.line(Cell("Not exported", "warn"), f": the directory itself: {team.problem}")
    for lane in team.lanes:
        page.gap()
        if lane.report is None:
            page.line(Cell("Not exported", "warn"), f": lane {lane.lane_id} was not imported yet")
        else:
            _show_directory(page, lane.report, f"lane {lane.lane_id}", in_place=in_place)
    page.title("Next")
    page.line("start the runtime that reads these files, and no other meanwhile", indent=2)
    back = again or f"rtstore import {shell_word(team.directory)}"
    page.line(Cell(back, "command"), indent=2)
    moved = "moves the database aside, and " if again else ""
    page.line(f"afterwards: {moved}takes over again what that runtime wrote", indent=6)


def _of_changed(report: ExportReport, *, in_place: bool) -> str:
    if not in_place:
        return "its file was changed since it was committed, and this is not what it holds"
    look = rtstore_at("status", report.directory)
    return f"its file is not what the manifest says. First: {look}, and export again after that"


def _show_directory(page: Page, report: ExportReport, what: str, *, in_place: bool) -> None:
    page.line(Cell("Exported", "good"), f" {what}")
    aside = report.batches.get(BatchState.FAILED, 0)
    listed = sum(report.batches.values()) - aside
    page.facts(
        [
            ("Where", str(report.directory)),
            ("Written", ", ".join(report.control_files)),
            ("Stores", count(report.stores, "entry")),
            ("Batches", f"{listed} in the receipts, {aside} failed set aside"),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ]
    )
    for path in report.replaced:
        page.line(Cell("kept: ", "warn"), path)
    for store in report.set_aside:
        page.line(
            Cell("set aside: ", "warn"),
            f"{store}: a file-only runtime would refuse a manifest that names it",
        )
    for reason in report.own_reasons:
        page.line(
            Cell("renamed: ", "warn"),
            f"the reason {reason}: a file-only runtime reads {STANDS_FOR_OWN} there",
        )
    for store in report.left_out:
        page.line(Cell("left out: ", "warn"), f"{store}: its content is not in the database")
    for store in report.changed:
        page.line(Cell("changed: ", "warn"), f"{store}: {_of_changed(report, in_place=in_place)}")
    for store in report.not_committed:
        page.line(
            Cell("left out: ", "warn"), f"{store}: nothing is committed, only its file is here"
        )
