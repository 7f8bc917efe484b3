"""`rtstore import`: imports a directory of the legacy format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rtstore.cli.descriptors import Descriptors, load_descriptors
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, DryRun, LockTimeout
from rtstore.cli.output import Cell, Column, Page, count, page_of, when
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import check_may_write
from rtstore.legacy import (
    ImportReport,
    LaneImport,
    LaneOutcome,
    StoreOutcome,
    TeamImportReport,
    import_team,
)
from rtstore.model.times import utc_now
from rtstore.shell import shell_command, shell_word


def run(
    directory: Directory,
    *,
    descriptors: Descriptors = None,
    dry_run: DryRun = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Take over a team's directory of the legacy format, with its lanes. No file of it is changed.

    DIR is the runtime directory, or the team's, with .opencode-runtime in it; it may have nothing
    but lanes. Each directory is imported whole or not at all; after an interruption, import again.
    What was imported before is left as it is. Runs that have a tombstone have ended here: their
    batches are refused.

    \b
    JSON: directory, teamName, changed, dryRun, importedAt, highWatermark,
      activeIdentity or null, batches {STATE: number}, receipts (number),
      stores[] {schemaName, relativePath, outcome, registered, detail},
      controlFiles[], endedRuns (number of runs that have ended, by the tombstones),
      otherFiles[] {path, kind}, notes[],
      newerBatches {batchIds[], highWatermark, notInFiles[], takeOver and giveUp {command, why}}
        (what the control files know besides what was imported before) or null,
      lanesOnly (DIR has no control files; the keys above are of none),
      problem (why DIR itself was not imported, which has receipts or store files) or null,
      lanes[] {laneId, path, outcome (imported|imported before|not imported|no control files|
        no directory), state (by lanes.json) or null, report (the keys above) or null,
        problem or null, damaged, retry (import again later)},
      found, imported (numbers of files), skipped[] {path, why}
    """
    check_may_write(directory)
    known = load_descriptors(descriptors)
    with progress_bar(quiet=as_json) as bar:
        report = import_team(
            directory,
            descriptors=known,
            dry_run=dry_run,
            lock_timeout_s=lock_timeout_s,
            progress=bar,
        )
    options = () if descriptors is None else ("--descriptors", descriptors)
    again = shell_command("rtstore", "import", directory, *options)
    _show(page_of(report, as_json=as_json), report, again)
    failed = [lane for lane in report.lanes if lane.outcome is LaneOutcome.NOT_IMPORTED]
    if report.problem is not None or any(lane.damaged for lane in failed):
        return ExitCode.STOP
    if any(lane.retry for lane in failed):
        return ExitCode.RETRY_LATER
    return ExitCode.WRONG_CALL if failed else ExitCode.READY


def _show(page: Page, team: TeamImportReport, again: str) -> None:
    if team.lanes_only:
        page.facts([("Runtime directory", str(team.directory)), ("Team", team.team_name)])
        _show_notes(page, team)
        if team.problem is not None:
            page.line(Cell("Not imported", "bad"), f": the directory itself: {team.problem}")
    else:
        _show_directory(page, team, f"the runtime directory of team {team.team_name}")
    for lane in team.lanes:
        page.gap()
        _show_lane(page, lane)
    _show_summary(page, team)
    steps = [*_next_steps(team, again)]
    if steps:
        page.title("Next")
    for step in steps:
        page.line(step, indent=2)


def _next_steps(team: TeamImportReport, again: str) -> Iterator[str | Cell]:
    if team.dry_run:
        yield Cell(again, "command")
        yield "    does it"
        return
    if team.problem is not None:
        yield Cell(f"rtstore doctor {shell_word(team.directory)}", "command")
    own = () if team.lanes_only else (team,)
    for report in (*own, *(lane.report for lane in team.lanes)):
        if report is not None and report.newer_batches is not None:
            yield Cell(report.newer_batches.take_over.command or "", "command")
            yield f"    {report.newer_batches.take_over.why}"
        if report is not None:
            yield Cell(f"rtstore status {shell_word(report.directory)}", "command")
    for lane in team.lanes:
        if lane.retry:
            yield Cell(f"rtstore import {shell_word(team.directory)}", "command")
        elif lane.outcome is LaneOutcome.NOT_IMPORTED:
            yield Cell(f"rtstore doctor {shell_word(team.directory / lane.path)}", "command")


def _show_lane(page: Page, lane: LaneImport) -> None:
    what = f"lane {lane.lane_id}"
    if lane.report is not None:
        _show_directory(page, lane.report, what, listed=lane.state)
    elif lane.problem is not None:
        page.line(Cell("Not imported", "bad"), f": {what}: {lane.problem}")
    else:
        page.line(Cell("Nothing to import", "warn"), f": {what}: {_NOTHING[lane.outcome]}")


_NOTHING = {
    LaneOutcome.NO_CONTROL_FILES: "its directory has no control files of the legacy format",
    LaneOutcome.NO_DIRECTORY: "only lanes.json names it; it has no directory",
}


def _show_directory(
    page: Page, report: ImportReport, what: str, *, listed: str | None = None
) -> None:
    """Print what was imported. `listed` is what the list of lanes calls a lane."""
    if report.dry_run:
        page.line(f"Would import {what}")
    elif report.changed:
        page.line(Cell("Imported", "good"), f" {what}")
    else:
        page.line("Imported before: everything was left as it was")
    states = ", ".join(f"{number} {state}" for state, number in report.batches.items() if number)
    facts: list[tuple[str, str | Cell]] = [
        ("Runtime directory", str(report.directory)),
        ("Team", report.team_name),
        *([("In lanes.json", listed)] if listed else []),
        ("Imported", when(report.imported_at, utc_now())),
        ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ("Batches", f"{sum(report.batches.values())}: {states}" if states else "none"),
        ("Receipts", str(report.receipts)),
        *([("Ended runs", str(report.ended_runs))] if report.ended_runs else []),
    ]
    page.facts([fact for fact in facts if not (report.dry_run and fact[0] == "Imported")])
    if report.stores:
        _show_stores(page, report)
    _show_notes(page, report)


def _show_notes(page: Page, report: ImportReport) -> None:
    for note in report.notes:
        page.line(Cell("note: ", "warn"), note)


def _show_summary(page: Page, team: TeamImportReport) -> None:
    taken = "would be imported" if team.dry_run else "imported"
    page.title(
        f"{count(team.found, 'file')} found: {team.imported} {taken}, {len(team.skipped)} skipped"
    )
    for file in team.skipped:
        page.line(f"{file.path}  {file.why}", indent=2)


def _show_stores(page: Page, report: ImportReport) -> None:
    found = Counter(store.outcome for store in report.stores)
    parts = ", ".join(f"{number} {outcome}" for outcome, number in found.items())
    page.title(f"{count(len(report.stores), 'store')}: {parts}")
    page.table(
        [
            Column("store"),
            Column("file", 2),
            Column("outcome"),
            Column("detail", 1, room=24, below=True),
        ],
        [
            [
                store.schema_name if store.registered else f"{store.schema_name} (not registered)",
                store.relative_path,
                Cell(
                    store.outcome,
                    "good" if store.outcome is StoreOutcome.CONTENT_TAKEN else "warn",
                ),
                store.detail or "-",
            ]
            for store in report.stores
        ],
        indent=2,
    )
