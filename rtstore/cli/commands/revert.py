"""`rtstore revert`: commits an earlier version of a store again."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.batches import at_cell
from rtstore.cli.completion import versions
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout, StoreName
from rtstore.cli.output import Cell, page_of
from rtstore.cli.readiness import readiness_cell, show_contradictions, show_next
from rtstore.cli.snapshot import (
    Verdict,
    check_may_write,
    look_at,
    open_to_look,
    schema_name_of,
    way_back,
)
from rtstore.cli.versions import AT, named, point_of
from rtstore.model.records import Batch, Record
from rtstore.model.times import format_time
from rtstore.store import RuntimeStore


class RevertReport(Record):
    """What `rtstore revert --json` prints."""

    directory: str
    schema_name: str
    to: str
    batch: Batch
    undo: str | None
    """The command that commits again what was committed before; None where nothing was."""
    contradictions: tuple[str, ...]
    """In what the stores contradict each other since then, and did not before."""
    verdict: Verdict
    next: tuple[NextStep, ...]


def run(
    directory: Directory,
    store_name: StoreName,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="AT", autocompletion=versions, help=f"Back to {AT}.")
    ],
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Write an earlier version of a store again, in a new batch. History stays as it is.

    \b
    JSON: directory, schemaName, to (the batch id that it had), batch (as in "log"),
      undo, contradictions[], verdict (ready|degraded|blocked), next[] {command, why}
    """
    check_may_write(directory)
    # Nothing is made or recovered for a wrong call.
    with open_to_look(directory) as store, named(at="--to"):
        name = schema_name_of(store, store_name)
        version = store.read(name, at=point_of(store, to, "--to"))
    with RuntimeStore.open(directory, lock_timeout_s=lock_timeout_s) as store, named(to="--to"):
        before, contradicted = store.manifest(), store.invariant_failures()
        batch = store.revert(name, to=version.batch_id)
        contradictions = [it for it in store.invariant_failures() if it not in contradicted]
        look = look_at(store)
    undo = way_back(directory, before, name)
    report = RevertReport(
        directory=str(directory),
        schema_name=name,
        to=version.batch_id,
        batch=batch,
        undo=undo,
        contradictions=tuple(contradictions),
        verdict=look.verdict,
        next=look.next,
    )
    at, page = at_cell(version.high_watermark), page_of(report, as_json=as_json)
    page.facts(
        [
            ("Store", name),
            ("Is again as of", f"{at} ({version.batch_id}), {format_time(version.updated_at)}"),
            ("Written in batch", Cell(batch.batch_id, "good")),
            ("High watermark", str(batch.high_watermark)),
            ("Readiness", readiness_cell(look)),
            *([] if undo is None else [("To undo it", Cell(undo, "command"))]),
        ]
    )
    show_contradictions(page, contradictions)
    show_next(page, look.next)
    return ExitCode.READY
