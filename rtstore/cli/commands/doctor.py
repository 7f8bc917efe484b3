"""`rtstore doctor`: checks everything that can be wrong with a runtime directory, and suggests
repairs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rtstore.cli.descriptors import Descriptors, load_descriptors
from rtstore.cli.discover import near
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory
from rtstore.cli.output import Cell, Page, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import Look, check_directory, look_at
from rtstore.control.contents import StoreSize
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    NewerStoreFileError,
    NotARuntimeDirectoryError,
    RuntimeStoreError,
    StoreFileChangedError,
    UnsafePathError,
)
from rtstore.files.system import FileSystem
from rtstore.maintenance.doctor.facts import DatabaseState, Facts
from rtstore.maintenance.doctor.finding import Check, Finding, Level
from rtstore.maintenance.doctor.gather import examine, where_they_are
from rtstore.maintenance.doctor.judge import diagnose, worst
from rtstore.maintenance.hints import suggest_command
from rtstore.model.descriptors import Registry
from rtstore.model.records import Record, Suggestion
from rtstore.store import RuntimeStore, refuse_opening

_ORDER = (Level.RED, Level.YELLOW, Level.GREEN)
_TONES = {Level.GREEN: "good", Level.YELLOW: "warn", Level.RED: "bad"}


class DoctorReport(Record):
    """What `rtstore doctor --json` prints."""

    directory: str
    level: Level
    """That of the worst finding."""
    findings: tuple[Finding, ...]
    """The worst first."""
    stores: tuple[StoreSize, ...]
    """What each store takes; none where the database is not of this revision."""


def run(
    directory: Directory, *, descriptors: Descriptors = None, as_json: AsJson = False
) -> ExitCode:
    """Look at everything that can be wrong with a runtime directory, and print the way out.

    Green: as it should be. Yellow: works, but look at it. Red: does not work, or will lose
    something; the exit code is then 1. Changes nothing, works while others write, and on whatever
    is left of a store. With --descriptors the stores are those, whatever the database remembers; it
    says what opening with them would move, or why that is refused.

    \b
    JSON: directory, level (green|yellow|red),
      findings[] {check (database|backup|stores|lock|engine|file_system|space|permissions|settings|
        quarantine|stray_files|sizes|clock), level, sentence, ways[] {command or null, why}},
      stores[] {schemaName, fileBytes, historyContents, historyBytes}
    """
    check_directory(directory)
    known = load_descriptors(descriptors)
    with progress_bar(quiet=as_json, what="examining"):
        facts = examine(directory, known)
        if facts.state is DatabaseState.SOUND:
            facts = _with_plan(facts, known)
        if facts.state in (DatabaseState.SOUND, DatabaseState.OLDER) and known is not None:
            facts = _with_refusal(facts, known)
    facts = facts.model_copy(update={"descriptors_name": descriptors})
    if facts.state is DatabaseState.ABSENT and not (facts.has_store_files or facts.renamed):
        _send_below(directory)
    findings = tuple(sorted(diagnose(facts), key=lambda finding: _ORDER.index(finding.level)))
    report = DoctorReport(
        directory=str(directory), level=worst(findings), findings=findings, stores=facts.store_sizes
    )
    _show(page_of(report, as_json=as_json), report)
    return ExitCode.NOT_READY if report.level is Level.RED else ExitCode.READY


def _send_below(directory: Path) -> None:
    """Raise when there are stores or back-ups below, so that no new store is suggested here."""
    if any(near(directory)):
        raise NotARuntimeDirectoryError(
            directory, "there is no runtime store here", *suggest_command(directory, None)
        )


def _with_plan(facts: Facts, known: Registry | None) -> Facts:
    """Return the facts with the verdict and the next steps of `rtstore status`."""
    here = None if known is None else where_they_are(known, facts.moved)
    try:
        with RuntimeStore.open(facts.directory, descriptors=here, read_only=True) as store:
            look: Look = look_at(store)
    except RuntimeStoreError:
        return facts  # it was sound a moment ago: the next look says what happened
    steps = () if look.is_whole else look.next  # of a back-up, the next step may be the doctor
    ways = tuple(Suggestion(command=step.command, why=step.why) for step in steps)
    newer = None if look.newer_batches is None else look.newer_batches.said
    return facts.model_copy(
        update={"verdict": str(look.verdict), "next": ways, "newer_batches": newer}
    )


def _with_refusal(facts: Facts, known: Registry) -> Facts:
    """Return the facts with what refuses an opening beside the data: an edit, or what is at a new
    path. The rest is known."""
    if facts.data_refused is not None or facts.move_refused is not None:
        return facts
    try:
        with closing(Database(facts.directory / DATABASE_NAME, read_only=True)) as database:
            refuse_opening(database, registry=known, fs=FileSystem())
    except (StoreFileChangedError, NewerStoreFileError) as error:
        return facts.model_copy(update={"edit_refused": str(error)})
    except UnsafePathError as error:
        return facts.model_copy(update={"move_refused": str(error)})
    except RuntimeStoreError:
        pass
    return facts


def _show(page: Page, report: DoctorReport) -> None:
    counts = [sum(finding.level is level for finding in report.findings) for level in _ORDER]
    levels = ", ".join(
        f"{number} {level}" for number, level in zip(counts, _ORDER, strict=True) if number
    )
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Diagnosis", Cell(levels, _TONES[report.level])),
        ]
    )
    page.gap()
    width = max(len(check) for check in Check)
    more = page.hanging(width + 10)
    for finding in report.findings:
        page.line(
            Cell(f"{finding.level:<6}", _TONES[finding.level]),
            f"  {finding.check.replace('_', ' '):<{width}}  {finding.sentence}",
            more=more,
        )
        for way in finding.ways:
            if way.command:
                page.line(Cell(way.command, "command"), indent=more)
            page.line(way.why, indent=more + (4 if way.command else 0))
