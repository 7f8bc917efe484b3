"""The subcommands for a damaged runtime directory: find out what is wrong, and rebuild.

As in `rtstore.cli.app`: only names and help texts, and each imports what it needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout, reporting


def register(app: typer.Typer) -> None:
    """Add these subcommands to the command."""
    app.command(short_help="What is wrong here, and the way out.")(doctor)
    app.command(short_help="A database beyond help: a new one from the files.")(rebuild)


def doctor(directory: Directory, *, as_json: AsJson = False) -> None:
    """Look at everything that can be wrong with a runtime directory, and print the way out.

    Green: as it should be. Yellow: works, but look at it. Red: does not work, or will lose
    something; the exit code is then 1. Changes nothing, works beside a writer, and on whatever is
    left of a store.

    \b
    JSON: directory, level (green|yellow|red),
      findings[] {check (database|stores|lock|engine|file_system|space|permissions|settings|
        quarantine|stray_files|sizes|clock), level, sentence, ways[] {command or null, why}}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import doctor as command

        code = command.run(directory, as_json=as_json)
    raise typer.Exit(code)


def rebuild(
    directory: Directory,
    *,
    team: Annotated[
        str | None,
        typer.Option(
            "--team",
            metavar="NAME",
            help="Whose state it is, where the old database does not tell it any more.",
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            help="The run that files belong to of which the old database does not tell it.",
        ),
    ] = None,
    capability_snapshot_id: Annotated[
        str | None,
        typer.Option("--capability-snapshot-id", metavar="ID", help="Of that run."),
    ] = None,
    behavior_fingerprint: Annotated[
        str | None,
        typer.Option("--behavior-fingerprint", metavar="TEXT", help="Of that run."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although the database is sound, or another program's."),
    ] = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Make a new control database from the store files, when the old one is beyond help.

    Every file that passes what a write must pass becomes what is committed. The files stay as they
    are; the old database is kept in a folder beside the new one. History and receipts are lost. A
    sound database is refused, and so is one of a newer rtstore. Stopped half-way, run it again.

    \b
    JSON: directory, teamName, problem, keptAside or null, batchId or null, highWatermark,
      activeIdentity {runId, capabilitySnapshotId, behaviorFingerprint} or null,
      stores[] {schemaName, relativePath, outcome (from_file|from_database|left_out|missing),
        detail}, lost[], notes[], next[] {command, why}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import rebuild as command

        code = command.run(
            directory,
            team_name=team,
            identity=command.identity_of(run_id, capability_snapshot_id, behavior_fingerprint),
            force=force,
            lock_timeout_s=lock_timeout,
            as_json=as_json,
        )
    raise typer.Exit(code)
