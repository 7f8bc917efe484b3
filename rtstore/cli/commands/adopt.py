"""`rtstore adopt`: commits a file that was changed by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.advice import NextStep
from rtstore.cli.exits import ExitCode
from rtstore.cli.identity import AS_IT_IS, Expected
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout, StoreName
from rtstore.cli.output import Cell, page_of
from rtstore.cli.readiness import readiness_cell, show_contradictions, show_next
from rtstore.cli.snapshot import (
    Verdict,
    check_may_write,
    expected_identity,
    look_at,
    open_to_look,
    schema_name_of,
    way_back,
)
from rtstore.commit.adopt import last_identity
from rtstore.errors import InvalidRequestError
from rtstore.model.data_upgrade import waits_for_upgrade
from rtstore.model.records import Batch, Record
from rtstore.store import RuntimeStore

RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="ID",
        help="The run that the file belongs to. What is not given of the identity is taken "
        "from the manifest's active identity.",
    ),
]
CapabilitySnapshotId = Annotated[
    str | None,
    typer.Option("--capability-snapshot-id", metavar="ID", help="Of that run; '': none."),
]
BehaviorFingerprint = Annotated[
    str | None,
    typer.Option("--behavior-fingerprint", metavar="TEXT", help="Of that run; '': none."),
]


class AdoptReport(Record):
    """What `rtstore adopt --json` prints."""

    directory: str
    schema_name: str
    batch: Batch
    model_was_checked: bool
    """Whether the store's payload model accepts the file; a model of the runtime's own is known to
    no command, so then nobody asked it."""
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
    run_id: RunId = None,
    capability_snapshot_id: CapabilitySnapshotId = None,
    behavior_fingerprint: BehaviorFingerprint = None,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Make a file that was changed by hand the committed content, byte for byte, in a new batch.

    It must pass what a write must pass; a payload model of the runtime's own is known to no
    command, and is not asked. History stays: "rtstore revert" goes back.

    \b
    JSON: directory, schemaName, batch (as in "log"), modelWasChecked, undo, contradictions[],
      verdict (ready|degraded|blocked), next[] {command, why}
    """
    check_may_write(directory)
    with open_to_look(directory) as store:  # nothing is made for a wrong call
        name = schema_name_of(store, store_name)
        given = Expected(run_id, capability_snapshot_id, behavior_fingerprint)
        identity = expected_identity(store.manifest(), given) or store.database.read(last_identity)
    if identity is None:
        raise InvalidRequestError("--run-id", "is needed: no run is known yet")
    # A recovery on opening could replace this very file.
    with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
        before, contradicted = store.manifest(), store.invariant_failures()
        # Of its own accord a file goes to the last run, even if that is over.
        batch = store.adopt(name, identity=None if given == AS_IT_IS else identity)
        model_was_checked = _has_model(store, name)
        contradictions = [it for it in store.invariant_failures() if it not in contradicted]
        look = look_at(store)
    undo = way_back(directory, before, name)
    report = AdoptReport(
        directory=str(directory),
        schema_name=name,
        batch=batch,
        model_was_checked=model_was_checked,
        undo=undo,
        contradictions=tuple(contradictions),
        verdict=look.verdict,
        next=look.next,
    )
    page = page_of(report, as_json=as_json)
    page.facts(
        [
            ("Store", name),
            ("Committed in batch", Cell(batch.batch_id, "good")),
            ("High watermark", str(batch.high_watermark)),
            ("Readiness", readiness_cell(look)),
            ("Payload model", _model(report)),
            *([] if undo is None else [("To undo it", Cell(undo, "command"))]),
        ]
    )
    show_contradictions(page, contradictions)
    show_next(page, look.next)
    return ExitCode.READY


def _has_model(store: RuntimeStore, name: str) -> bool:
    """Return whether there is a model for what is committed now: none is for an older version."""
    descriptor, entry = store.descriptors.get(name), store.manifest().entry(name)
    version = descriptor.schema_version if entry is None else entry.schema_version
    return descriptor.payload is not None and not waits_for_upgrade(descriptor, version)


def _model(report: AdoptReport) -> Cell:
    if report.model_was_checked:
        return Cell("accepts it", "good")
    return Cell("of the runtime's own, if it has one: not asked. Start the runtime to know", "warn")
