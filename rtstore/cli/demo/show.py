"""The report of `rtstore demo`, step by step, and how it is printed for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from rtstore.cli.demo.writer import Kill
from rtstore.cli.output import Cell, Column, Page, count
from rtstore.cli.readiness import readiness_cell
from rtstore.cli.snapshot import Look, Verdict
from rtstore.cli.steps import show_steps
from rtstore.model.records import (
    ActionKind,
    BatchState,
    ReadinessCheck,
    ReasonName,
    Record,
    RecoveryPlan,
    RecoveryStep,
)
from rtstore.shell import shell_word


class Query(Record):
    """A question, the line that asks it, and what came out."""

    question: str
    command: str
    """`opening`, and then `sql` in double quotes."""
    opening: str
    sql: str
    output: tuple[str, ...]
    program: str
    """What ran it: `sqlite3`, or Python's module where that program is missing or too old."""


class Version(StrEnum):
    """What a file of the fatal batch holds after the crash."""

    NEW = "new"
    OLD = "old"
    MISSING = "missing"
    OTHER = "other"


class WrittenBatch(Record):
    """A checkpoint that was written before the crash."""

    batch_id: str
    reason: ReasonName
    about: str
    stores: tuple[str, ...]


class FileAfterCrash(Record):
    """One file of the fatal batch."""

    schema_name: str
    relative_path: str
    version: Version


class Crash(Record):
    """The directory as the killed process left it."""

    verdict: Verdict
    files: tuple[FileAfterCrash, ...]
    published: int
    """How many of the files have their new version."""
    temporary_files: tuple[str, ...]
    plan: RecoveryPlan
    logged_receipt_ids: tuple[str, ...]
    """As they stand in the log; empty when the batch is not in it."""


class Outcome(Record):
    """The directory after recovery."""

    verdict: Verdict
    readiness: ReadinessCheck
    batch_id: str
    state: BatchState | None
    """None: the batch was never logged, and never happened."""
    high_watermark: int
    files: tuple[FileAfterCrash, ...]
    receipt_ids: tuple[str, ...]
    same_receipts: bool
    """The receipts are those that were in the log when the process died."""


class DemoReport(Record):
    """What `rtstore demo --json` prints."""

    directory: str
    database: str
    team_name: str
    batches: tuple[WrittenBatch, ...]
    kill: Kill
    crash: Crash
    run_number: int | None
    """The recovery in `recovery_runs`; None when there was nothing to recover."""
    steps: tuple[RecoveryStep, ...]
    outcome: Outcome
    queries: tuple[Query, ...]


_WORDS = {
    Version.NEW: "new version",
    Version.OLD: "old version",
    Version.MISSING: "missing",
    Version.OTHER: "something else",
}
_TONES = {Version.NEW: "good", Version.OLD: "warn", Version.MISSING: "bad", Version.OTHER: "bad"}


def opening(page: Page, directory: Path) -> None:
    """Print what the demo is, and its directory."""
    page.line(Cell("A writer dies in the middle of a batch, and nothing is lost", "title"))
    page.gap()
    page.facts([("Runtime directory", str(directory))])


def checkpoints(page: Page, written: Sequence[WrittenBatch]) -> None:
    """Print step 1: the checkpoints before the crash."""
    page.title("1. A runtime writes checkpoints of its team")
    page.table(
        [
            Column("at"),
            Column("what happened", room=24),
            Column("stores"),
            Column("reason", 1),
            Column("batch", 2),
        ],
        [
            [str(at), batch.about, str(len(batch.stores)), batch.reason, batch.batch_id]
            for at, batch in enumerate(written, 1)
        ],
        indent=2,
    )


def kill(page: Page, kill: Kill, crash: Crash) -> None:
    """Print step 2: the kill."""
    total = len(crash.files)
    page.title(f"2. A second process writes {total} stores as one batch: carol joins the team")
    page.line(
        f"process {kill.process_id} was ",
        Cell(f"killed by signal {kill.signal} after {crash.published} of {total} files", "bad"),
        f" (point {kill.point})",
        indent=2,
    )


def crash(page: Page, crash: Crash, look: Look) -> None:
    """Print step 3: the directory after the crash."""
    page.title("3. What the crash left")
    _show_files(page, crash.files)
    for name in crash.temporary_files:
        page.line(f"{name}  temporary file, cut short", indent=2)
    others = len(look.lines) - len(crash.files)
    page.line(f"the {count(others, 'other file')}: as committed", indent=2)
    if 0 < crash.published < len(crash.files):
        page.line("Half a batch: who reads the files now gets two versions at once.", indent=2)
    page.gap()
    page.line("Plan: ", readiness_cell(look), indent=2)
    for text in look.check.diagnostics:
        page.line(text, indent=4)
    for action in look.plan.actions:
        if action.kind is not ActionKind.NONE:
            page.line(f"{action.kind}  {action.schema_name}", indent=4)


def recovery(page: Page, steps: tuple[RecoveryStep, ...], crash: Crash) -> None:
    """Print step 4: the steps of the recovery."""
    page.title("4. The runtime opens the store again: recovery")
    if not steps and crash.logged_receipt_ids:
        page.line("nothing to do: the batch is committed, only its writer was not told", indent=2)
    elif not steps:
        page.line("nothing to do: the batch never came into the log, so it never was", indent=2)
    else:
        show_steps(page, steps)


def outcome(page: Page, outcome: Outcome, look: Look) -> None:
    """Print step 5: the state after the recovery."""
    page.title("5. Afterwards")
    if outcome.state is None:
        batch, receipts = f"{outcome.batch_id} is nowhere, not even half of it", "none"
    else:
        batch = f"{outcome.batch_id} {outcome.state}, high watermark {outcome.high_watermark}"
        receipts = f"{count(len(outcome.receipt_ids), 'receipt')}, " + (
            "with the ids that were logged before the crash"
            if outcome.same_receipts
            else "but not those that were logged before the crash"
        )
    page.facts(
        [
            ("  Readiness", readiness_cell(look)),
            ("  Batch", batch),
            ("  Receipts", receipts),
            ("  Files", _versions(outcome.files)),
        ]
    )


def queries(page: Page, queries: Sequence[Query]) -> None:
    """Print step 6: the SQL queries."""
    page.title("6. Ask the database yourself")
    for query in queries:
        page.line(query.question, indent=2)
        if page.is_narrower_than(f"  {query.command}"):
            page.line(Cell(f"{query.opening} \\", "command"), indent=2)
            page.line(Cell(f'"{query.sql}"', "title"), indent=4)  # SQL may go on in any line
        else:
            page.line(Cell(query.command, "command"), indent=2)
        for line in query.output:
            page.exact(f"    {line}")
        if query.program != "sqlite3":
            page.line(f"(the sqlite3 program is missing or too old: by {query.program})", indent=4)
        page.gap()


def closing(page: Page, directory: Path) -> None:
    """Where it all is, and how to go on."""
    page.line("Everything is still in ", Cell(str(directory), "title"))
    for command in ("status", "log"):
        page.line(Cell(f"rtstore {command} {shell_word(directory)}", "command"), indent=2)


def _versions(files: Sequence[FileAfterCrash]) -> str:
    found = Counter(file.version for file in files)
    if len(found) == 1:
        return f"all {len(files)}: {_WORDS[files[0].version]}"
    return ", ".join(f"{number}: {_WORDS[version]}" for version, number in found.items())


def _show_files(page: Page, files: Sequence[FileAfterCrash]) -> None:
    page.table(
        [Column("file"), Column("store", 1), Column("holds")],
        [
            [file.relative_path, file.schema_name, Cell(_WORDS[file.version], _TONES[file.version])]
            for file in files
        ],
        indent=2,
    )
