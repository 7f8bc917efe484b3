"""The subcommands about earlier versions of a store: list, show, compare and write again.

As in `rtstore.cli.app`: only names and help texts, and each imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.completion import stores, versions
from rtstore.cli.options import (
    LOCK_TIMEOUT_S,
    NUMBER_MAX,
    AsJson,
    Directory,
    LockTimeout,
    reporting,
)

Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE", autocompletion=stores, help="A store, by its name or by its file."
    ),
]
_AT = "a batch id, a high watermark (12), or a time (2026-04-21T12:00:00Z)"


def register(app: typer.Typer) -> None:
    """Add these subcommands to the command."""
    app.command(short_help="The versions of a store, newest first.")(history)
    app.command(short_help="What a store holds, or held.")(show)
    app.command(short_help="What changed in a store.")(diff)
    app.command(short_help="Write an earlier version of a store again.")(revert)


def history(
    directory: Directory,
    store: Store,
    *,
    number: Annotated[
        int,
        typer.Option(
            "-n", "--number", metavar="N", min=1, max=NUMBER_MAX, help="How many versions."
        ),
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """List the committed versions of a store, newest first. Changes nothing.

    \b
    JSON: directory, schemaName,
      versions[] {version {batchNumber, batchId, highWatermark, reason, runId,
        capabilitySnapshotId, behaviorFingerprint, writtenAt, contentHash, fileSize, isCurrent,
        hasContent}, ageSeconds}
    """
    with reporting(directory, store, as_json=as_json):
        from rtstore.cli import history as command

        code = command.list_versions(directory, store, limit=number, as_json=as_json)
    raise typer.Exit(code)


def show(
    directory: Directory,
    store: Store,
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="AT", autocompletion=versions, help=f"As of {_AT}."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is committed for a store, now or as of an earlier batch. Changes nothing.

    \b
    JSON: directory, note or null,
      content {schemaName, schemaVersion, data, updatedAt, contentHash, batchId, highWatermark,
        runId, capabilitySnapshotId, behaviorFingerprint}
    """
    with reporting(directory, store, as_json=as_json):
        from rtstore.cli import history as command

        code = command.show(directory, store, at, as_json=as_json)
    raise typer.Exit(code)


def diff(
    directory: Directory,
    store: Store,
    a: Annotated[
        str,
        typer.Argument(metavar="A", autocompletion=versions, help=f"The older one: {_AT}."),
    ],
    b: Annotated[
        str | None,
        typer.Argument(metavar="[B]", autocompletion=versions, help="The newer one. Default: now."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two versions of a store, value by value. Changes nothing.

    \b
    JSON: directory, schemaName, before and after (a version, as in "history"),
      differences[] {kind (added|removed|changed), path (a JSON Pointer), before, after}
    """
    with reporting(directory, store, as_json=as_json):
        from rtstore.cli import history as command

        code = command.diff(directory, store, a, b, as_json=as_json)
    raise typer.Exit(code)


def revert(
    directory: Directory,
    store: Store,
    *,
    to: Annotated[
        str, typer.Option("--to", metavar="AT", autocompletion=versions, help=f"Back to {_AT}.")
    ],
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Write an earlier version of a store again, in a new batch. History stays as it is.

    \b
    JSON: directory, schemaName, to (the batch id that it had), batch (as in "log")
    """
    with reporting(directory, store, as_json=as_json):
        from rtstore.cli import history as command

        code = command.revert(directory, store, to, lock_timeout_s=lock_timeout, as_json=as_json)
    raise typer.Exit(code)
