"""The subcommands about files that somebody changed: commit the change, or use the quarantine.

As in `rtstore.cli.app`: only names and help texts, and each imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.completion import quarantined
from rtstore.cli.options import (
    LOCK_TIMEOUT_S,
    NUMBER_MAX,
    AsJson,
    Directory,
    LockTimeout,
    reporting,
)
from rtstore.cli.timeline import Store

Number = Annotated[
    int,
    typer.Argument(
        metavar="NUMBER",
        min=1,
        max=NUMBER_MAX,
        autocompletion=quarantined,
        help='Its number, as in "quarantine list".',
    ),
]

DAYS_MAX = 36_500

quarantine = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Files that were kept before they were overwritten, moved or removed.",
)


def register(app: typer.Typer) -> None:
    """Add these subcommands to the command."""
    app.command(short_help="Make a file changed by hand the truth.")(adopt)
    quarantine.command("list", short_help="The files that were kept.")(list_)
    quarantine.command(short_help="One of them, with its content.")(show)
    quarantine.command(short_help="Put one back where it was.")(restore)
    quarantine.command(short_help="Drop those that are old, for good.")(prune)
    app.add_typer(quarantine, name="quarantine", short_help="Files kept before they were lost.")


def adopt(
    directory: Directory,
    store: Store,
    *,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            help="The run that the file belongs to. What is not given of the identity is taken "
            "from the manifest's active identity.",
        ),
    ] = None,
    capability_snapshot_id: Annotated[
        str | None,
        typer.Option("--capability-snapshot-id", metavar="ID", help="Of that run; '': none."),
    ] = None,
    behavior_fingerprint: Annotated[
        str | None,
        typer.Option("--behavior-fingerprint", metavar="TEXT", help="Of that run; '': none."),
    ] = None,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Make a file that was changed by hand the committed content, byte for byte, in a new batch.

    It must pass what a write must pass; a payload model of the runtime's own is known to no
    command, and is not asked. History stays: "rtstore revert" goes back.

    \b
    JSON: directory, schemaName, batch (as in "log"), modelWasChecked, undo,
      verdict (ready|degraded|blocked), next[] {command, why}
    """
    with reporting(directory, store, as_json=as_json):
        from rtstore.cli import adopt as command

        code = command.run(
            directory,
            store,
            run_id=run_id,
            capability_snapshot_id=capability_snapshot_id,
            behavior_fingerprint=behavior_fingerprint,
            lock_timeout_s=lock_timeout,
            as_json=as_json,
        )
    raise typer.Exit(code)


def list_(directory: Directory, *, as_json: AsJson = False) -> None:
    """List the files in quarantine, oldest first. Changes nothing.

    \b
    JSON: directory, teamName,
      files[] {file {quarantineNumber, schemaName, relativePath, quarantinePath, reason,
        contentHash, fileSize, quarantinedAt, planId, batchId, restoredAt}, ageSeconds,
        isGone}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import quarantine as command

        code = command.list_files(directory, as_json=as_json)
    raise typer.Exit(code)


def show(directory: Directory, number: Number, *, as_json: AsJson = False) -> None:
    """Show one file in quarantine, with its content. Changes nothing.

    \b
    JSON: directory, file (as in "quarantine list"), content or null (text; bytes that are no UTF-8
      as \\xNN), note or null (why the content is missing, or is not what was kept)
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import quarantine as command

        code = command.show(directory, number, as_json=as_json)
    raise typer.Exit(code)


def restore(
    directory: Directory,
    number: Number,
    *,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Put a file in quarantine back where it was, byte for byte. It is not committed by that:
    "rtstore adopt" does so.

    What is there now goes into quarantine, unless it is what is committed.

    \b
    JSON: directory, file (as in "quarantine list"), verdict (ready|degraded|blocked),
      next[] {command, why}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import quarantine as command

        code = command.restore(directory, number, lock_timeout_s=lock_timeout, as_json=as_json)
    raise typer.Exit(code)


def prune(
    directory: Directory,
    *,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, max=DAYS_MAX, help="Kept before so many days."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be dropped.")
    ] = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Drop the files in quarantine that were kept before so many days, for good. Nothing else ever
    drops any.

    \b
    JSON: directory, dryRun, files[] (as in "quarantine list"), bytes
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import quarantine as command

        code = command.prune(
            directory,
            days=older_than,
            dry_run=dry_run,
            lock_timeout_s=lock_timeout,
            as_json=as_json,
        )
    raise typer.Exit(code)
