"""`rtstore adopt`: a file changed by hand becomes what is committed."""

from __future__ import annotations

from pathlib import Path

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import (
    Verdict,
    check_directory,
    expected_identity,
    look_at,
    open_to_look,
    schema_name_of,
)
from rtstore.cli.output import Cell, page_for, print_json
from rtstore.cli.status import readiness_cell, show_next
from rtstore.errors import InvalidRequestError
from rtstore.records import Batch, Record
from rtstore.store import RuntimeStore


class AdoptReport(Record):
    """What `rtstore adopt --json` prints."""

    directory: str
    schema_name: str
    batch: Batch
    verdict: Verdict
    next: tuple[NextStep, ...]


def run(
    directory: Path,
    store_name: str,
    *,
    run_id: str | None,
    capability_snapshot_id: str | None,
    behavior_fingerprint: str | None,
    lock_timeout_s: float,
    as_json: bool,
) -> ExitCode:
    """Commit the file as it is, and say in which batch.

    Opened with `recover=False`: what opening would put right by itself could be this very file.
    """
    check_directory(directory)
    with open_to_look(directory) as store:  # nothing is made for a wrong call
        name = schema_name_of(store, store_name)
        identity = expected_identity(
            store.manifest(), run_id, capability_snapshot_id, behavior_fingerprint
        )
    if identity is None:
        raise InvalidRequestError("--run-id", "is needed: nothing is committed yet")
    with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
        batch = store.adopt(name, identity=identity)
        look = look_at(store)
    report = AdoptReport(
        directory=str(directory),
        schema_name=name,
        batch=batch,
        verdict=look.verdict,
        next=look.next,
    )
    if as_json:
        print_json(report)
        return ExitCode.READY
    page = page_for()
    page.facts(
        [
            ("Store", name),
            ("Committed in batch", Cell(batch.batch_id, "good")),
            ("High watermark", str(batch.high_watermark)),
            ("Readiness", readiness_cell(look)),
        ]
    )
    show_next(page, look)
    return ExitCode.READY
