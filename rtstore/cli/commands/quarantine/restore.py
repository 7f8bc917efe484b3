"""`rtstore quarantine restore`: puts a quarantined file back."""

from __future__ import annotations

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout
from rtstore.cli.output import Cell, page_of
from rtstore.cli.quarantine import QuarantineNumber, find_quarantined
from rtstore.cli.readiness import readiness_cell, show_next
from rtstore.cli.snapshot import Verdict, check_may_write, look_at, open_to_look
from rtstore.model.records import QuarantinedFile, Record
from rtstore.store import RuntimeStore


class RestoreReport(Record):
    """What `rtstore quarantine restore --json` prints."""

    directory: str
    file: QuarantinedFile
    verdict: Verdict
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    number: QuarantineNumber,
    *,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Put a file in quarantine back where it was, byte for byte; where its store has another file
    by now, there. It is not committed by that: "rtstore adopt" does so.

    What is there now goes into quarantine, unless it is what is committed.

    \b
    JSON: directory, file (as in "quarantine list"), verdict (ready|degraded|blocked),
      next[] {command, why}
    """
    check_may_write(directory)
    with open_to_look(directory) as store:  # nothing is made for a wrong call
        find_quarantined(store, directory, number)
    with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
        file = store.restore_quarantined(number)
        look = look_at(store)
    report = RestoreReport(
        directory=str(directory), file=file, verdict=look.verdict, next=look.next
    )
    page = page_of(report, as_json=as_json)
    page.facts(
        [("Put back", Cell(file.relative_path, "good")), ("Readiness", readiness_cell(look))]
    )
    show_next(page, look.next)
    return ExitCode.READY
