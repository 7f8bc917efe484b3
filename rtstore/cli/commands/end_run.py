"""`rtstore end-run`: ends the active run from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.completion import active_run
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout
from rtstore.cli.output import Cell, Page, page_of
from rtstore.cli.readiness import show_next
from rtstore.cli.run_words import end_of, life_cell, process_of
from rtstore.cli.snapshot import check_may_write, open_to_look, shown
from rtstore.control.run_processes import is_alive
from rtstore.errors import InvalidRequestError, StaleRunError
from rtstore.model.records import Record
from rtstore.model.runs import RunEnding, RunRecord, RunState
from rtstore.model.times import format_time
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


class EndRunReport(Record):
    """What `rtstore end-run --json` prints."""

    directory: str
    team_name: str
    run: RunRecord
    process_alive: bool | None
    """Whether its process lives; None when that is not known here."""
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why it ends; it is kept.")],
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            autocompletion=active_run,
            help="Only if this run is the active one.",
        ),
    ] = None,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """End the active run: whatever its process writes after that is refused. For good: the next
    start takes a new run id.

    Its state stays as it is, and no process is stopped. Where no run is active, or --run-id is not
    the active one, nothing is changed, and the exit code is 2.

    \b
    JSON: directory, teamName, run (as in "runs"), processAlive (true, false or null),
      next[] {command, why}
    """
    if not why.strip():
        raise InvalidRequestError("--why", "is empty: say why the run ends")
    check_may_write(directory)
    with open_to_look(directory) as store:  # nothing is made or upgraded for a wrong call
        _check(directory, store.runs(), run_id)
    try:
        with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
            ended = store.end_run(run_id, ending=RunEnding.STOPPED, why=why)
            team_name = store.team_name
    except StaleRunError as error:  # it ended just now
        raise InvalidRequestError("--run-id", f"{error}") from None
    alive = is_alive(ended.process, directory)
    report = EndRunReport(
        directory=str(directory),
        team_name=team_name,
        run=ended,
        process_alive=alive,
        next=_next(shown(directory), ended, alive=alive),
    )
    _show(page_of(report, as_json=as_json), report)
    return ExitCode.READY


def _check(directory: Path, runs: list[RunRecord], run_id: str | None) -> None:
    """Raise `InvalidRequestError` when no run is active, or another one than is meant."""
    active = next((each for each in runs if each.state is RunState.ACTIVE), None)
    if active is not None and run_id in (None, active.run_id):
        return
    now = "no run is active" if active is None else f"run {active.run_id} is the active one"
    if run_id is None:
        raise InvalidRequestError(str(directory), f"{now}: there is nothing to end{_last(runs)}")
    known = next((each for each in runs if each.run_id == run_id), None)
    if known is None:
        raise InvalidRequestError("--run-id", f"there never was a run {run_id} here; {now}")
    if not known.is_over:
        return  # its first batch is in the log: it begins when that is finished, before the end
    raise InvalidRequestError("--run-id", f"{_over(known)} already; {now}")


def _last(runs: list[RunRecord]) -> str:
    over = next((each for each in runs if each.is_over), None)
    return "" if over is None else f". The last: {_over(over)}"


def _over(run: RunRecord) -> str:
    at = "" if run.ended_at is None else f" at {format_time(run.ended_at)}"
    how = "was superseded" if run.superseded_by else "ended"
    return f"run {run.run_id} {how}{at} ({end_of(run)})"


def _next(directory: Path, run: RunRecord, *, alive: bool | None) -> tuple[NextStep, ...]:
    steps = []
    if alive:
        why = f"stop {process_of(run)}, which still runs: its next write is refused"
        steps.append(NextStep(command=None, why=why))
    elif alive is None:
        why = (
            "see that its process has stopped: should it still work here, its next write is refused"
        )
        steps.append(NextStep(command=None, why=why))
    why = "start the runtime under a new run id: it takes the state over (RuntimeStore.begin_run)"
    steps.append(NextStep(command=None, why=why))
    command = f"rtstore runs {shell_word(directory)}"
    steps.append(NextStep(command=command, why="shows every run, and how it ended"))
    return tuple(steps)


def _show(page: Page, report: EndRunReport) -> None:
    ended = report.run
    process = process_of(ended)
    life = life_cell(ended, alive=report.process_alive)
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Team", report.team_name),
            ("Ended", Cell(f"run {ended.run_id}", "good")),
            ("How", end_of(ended)),
            ("Process", Cell(f"{process}: {life.text}" if process else life.text, life.tone)),
        ]
    )
    show_next(page, report.next)
