"""`rtstore runs`: lists the runs, newest first."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.batches import at_cell
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import NUMBER_MAX, AsJson, Directory, Wide
from rtstore.cli.output import Cell, Column, Page, age_of, ago, count, page_of
from rtstore.cli.readiness import show_next
from rtstore.cli.run_words import end_of, is_halted, life_cell, process_of, state_cell
from rtstore.cli.snapshot import open_to_look, shown
from rtstore.cli.views import LastBatch, newest_runs
from rtstore.control.run_processes import is_alive
from rtstore.model.records import Record
from rtstore.model.runs import RunEnding, RunRecord, RunState
from rtstore.model.times import utc_now
from rtstore.shell import shell_command


class RunLine(Record):
    """One run."""

    run: RunRecord
    process_alive: bool | None
    """Whether its process lives; None when that is not known here."""
    age_seconds: float
    """Since it began."""
    last_batch: LastBatch | None
    """None when it wrote none, or none of them is kept."""


class RunsReport(Record):
    """What `rtstore runs --json` prints."""

    directory: str
    team_name: str
    active_run_id: str | None
    number: int
    """How many runs there are in all."""
    runs: tuple[RunLine, ...]
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    *,
    number: Annotated[
        int,
        typer.Option("-n", "--number", metavar="N", min=1, max=NUMBER_MAX, help="How many runs."),
    ] = 20,
    wide: Wide = False,
    as_json: AsJson = False,
) -> ExitCode:
    """List the runs, newest first: how each ended and why, its last batch, and whether its process
    lives. Changes nothing.

    A run is one life of the runtime. One is active, or none. The others ended, or were superseded
    by one that began; their batches are refused, and their ids are not used again. The process is
    the one that began or resumed the run, or the next one that wrote for it once that was gone:
    whether it lives can be told on its own host only.

    \b
    JSON: directory, teamName, activeRunId or null, number (of all runs),
      runs[] {run {runId, state (beginning|active|ended|superseded), beganAt, begunByBatch or null,
          process {host, pid, start} or null, endedAt or null,
          ending (finished|failed|stopped) or null, why or null, supersededBy or null},
        processAlive (true, false, or null: not known), ageSeconds,
        lastBatch {batchId, highWatermark or null, reason, startedAt} or null},
      next[] {command, why}
    """
    with open_to_look(directory) as store:
        found = newest_runs(store, number)
        team_name = store.team_name
    now = utc_now()
    lines = tuple(
        RunLine(
            run=each,
            process_alive=is_alive(each.process, directory),
            age_seconds=age_of(each.began_at, now),
            last_batch=found.last_batch_of.get(each.run_id),
        )
        for each in found.newest
    )
    report = RunsReport(
        directory=str(directory),
        team_name=team_name,
        active_run_id=None if found.active is None else found.active.run_id,
        number=found.number,
        runs=lines,
        next=tuple(step for line in lines for step in _steps(shown(directory), line, found.active)),
    )
    _show(page_of(report, as_json=as_json, wide=wide), report, now)
    return ExitCode.READY


def _steps(directory: Path, line: RunLine, active: RunRecord | None) -> list[NextStep]:
    """Return what is to be done about a run whose process outlives it, or the other way round."""
    run, process = line.run, process_of(line.run)
    goes_on = active is not None and active.process == run.process
    if line.process_alive and _was_ended_by_others(run) and not goes_on:
        why = f"stop {process}: its run {run.run_id} is over, and every write of it is refused"
        return [NextStep(command=None, why=why)]
    if run.state is RunState.ACTIVE and line.process_alive and is_halted(run):
        why = (
            f"lets {process} of run {run.run_id} go on, which is stopped by a signal, and not dead"
        )
        return [NextStep(command=f"kill -CONT {run.process.pid}", why=why)] if run.process else []
    if run.state is RunState.ACTIVE and line.process_alive is False:
        why = (
            f"run {run.run_id} never ended, and its {process} is gone: start the runtime, which "
            "resumes that run under its id, or begins a new one and takes its state over"
        )
        command = shell_command(
            *("rtstore", "end-run", directory, "--run-id", run.run_id),
            *("--why", "its process is gone"),
        )
        instead = "only if that run is not to be resumed: ends it, so that its id is refused"
        return [NextStep(command=None, why=why), NextStep(command=command, why=instead)]
    return []


def _was_ended_by_others(run: RunRecord) -> bool:
    return run.state is RunState.SUPERSEDED or run.ending is RunEnding.STOPPED


# --- for people ---------------------------------------------------------------------------------


def _show(page: Page, report: RunsReport, now: datetime) -> None:
    shown_only = "" if len(report.runs) == report.number else f", the newest {len(report.runs)}"
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            ("Active run", report.active_run_id or "none"),
            ("Runs", f"{count(report.number, 'run')}{shown_only}"),
        ]
    )
    if report.runs:
        page.gap()
        columns = [
            Column("run"),
            Column("state"),
            Column("process", 1),
            Column("which", 7),
            Column("how it ended", 2, room=18, below=True),
            Column("began", 3),
            Column("at", 4),
            Column("last batch", 5),
            Column("written", 6),
            Column("batch", 8),
        ]
        page.table(columns, [_row(page, line, now) for line in report.runs])
    show_next(page, report.next)


def _row(page: Page, line: RunLine, now: datetime) -> list[str | Cell]:
    run, last = line.run, line.last_batch
    return [
        run.run_id,
        state_cell(run),
        life_cell(run, alive=line.process_alive),
        process_of(run) or "-",
        f"by {page.id(run.superseded_by)}" if run.superseded_by else end_of(run),
        ago(run.began_at, now),
        "-" if last is None else at_cell(last.high_watermark),
        "-" if last is None else last.reason,
        "-" if last is None else ago(last.started_at, now),
        "-" if last is None else last.batch_id,
    ]
