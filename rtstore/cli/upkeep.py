"""The subcommands that maintain a whole runtime directory: pruning, upgrades, back-ups, export.

As in `rtstore.cli.app`: only names and help texts, and each imports what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.options import (
    LOCK_TIMEOUT_S,
    NUMBER_MAX,
    AsJson,
    Directory,
    DryRun,
    LockTimeout,
    reporting,
    utf8,
)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="BACKUP",
        callback=utf8,
        readable=False,
        help="A back-up: its directory, or the database that an upgrade kept.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add these subcommands to the command."""
    app.command(short_help="Drop old history, and give the space back.")(prune)
    app.command(short_help="Bring an older database up to date.")(upgrade)
    app.command(short_help="Copy one consistent state, beside busy writers.")(backup)
    app.command(short_help="Make a new directory of a back-up.")(restore)
    app.command(short_help="Is this back-up sound?")(verify)
    app.command(short_help="Write what a file-only runtime reads.")(export)


def prune(
    directory: Directory,
    *,
    batches: Annotated[
        int | None,
        typer.Option(
            "--batches", metavar="N", min=1, max=NUMBER_MAX, help="Keep at most so many batches."
        ),
    ] = None,
    contents: Annotated[
        int | None,
        typer.Option(
            "--contents",
            metavar="N",
            min=1,
            max=NUMBER_MAX,
            help="Keep at most so many contents of each store.",
        ),
    ] = None,
    mib: Annotated[
        int | None,
        typer.Option(
            "--mib",
            metavar="N",
            min=1,
            max=NUMBER_MAX >> 20,
            help="Keep at most so many MiB of the contents of each store.",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", metavar="N", help="Keep nothing that ended longer ago."),
    ] = None,
    dry_run: DryRun = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Drop the history beyond what is to be kept, and return the space to the file system.

    What is committed now, open batches and the newest batch stay, whatever the limits; so does
    quarantine. Without a limit, what the directory keeps anyway is kept; limits count this once,
    and are not remembered. Writers go on meanwhile; stopped half-way, run it again.

    \b
    JSON: directory, teamName, dryRun, keepsBatches, keepsContentsPerStore, keepsContentBytes,
      keepsDays (each or null: no limit), batches, contents, contentBytes (what was dropped, or
      would be), batchesLeft, contentsLeft, databaseBytesBefore, databaseBytesAfter (null in a dry
      run),
      next[] {command, why}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import prune as command

        code = command.run(
            directory,
            batches=batches,
            contents=contents,
            mib=mib,
            days=days,
            dry_run=dry_run,
            lock_timeout_s=lock_timeout,
            as_json=as_json,
        )
    raise typer.Exit(code)


def upgrade(
    directory: Directory,
    *,
    descriptors: Annotated[
        str | None,
        typer.Option(
            "--descriptors",
            metavar="MODULE:NAME",
            help="The descriptors of the runtime, whose functions bring its store data up.",
        ),
    ] = None,
    dry_run: DryRun = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Bring the control database to this rtstore's revision; a current one is left as it is.

    The database is backed up first, beside itself ("rtstore restore" makes a directory of that
    back-up), and is upgraded whole or not at all. With --dry-run it is tried on a copy. With
    --descriptors, store data of an older schema version is brought up too, in one batch; the module
    is looked for in the current directory as well. Opening a store does the same.

    \b
    JSON: directory, fromRevision, toRevision, revisions[], changed, dryRun,
      upgradedAt or null, backup or null, batchId or null,
      stores[] {schemaName, fromVersion, toVersion}, backups[] (those that are kept)
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import upgrading as command

        code = command.run(
            directory,
            descriptors=descriptors,
            dry_run=dry_run,
            lock_timeout_s=lock_timeout,
            as_json=as_json,
        )
    raise typer.Exit(code)


def backup(
    directory: Directory,
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DEST", callback=utf8, readable=False, help="A new or empty directory."
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Copy one consistent state of database and store files; verified when it is done.

    Writers need not stop, and do not wait. The back-up is a directory that opens as a ready store.

    \b
    JSON: formatVersion, path, teamName, revision, highWatermark, lastCommittedBatchId or null,
      origin or null (the directory that it was made of), createdAt, databaseHash,
      files[] {relativePath, contentHash, fileSize, mtimeNs or null, mode or null},
      leftOut[] (files whose bytes could not be had, and why),
      changed[] {schemaName, relativePath, keptAt or null, problem or null} (store files that nobody
        committed; in the back-up they are evidence)
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import backups as command

        code = command.back_up(directory, destination, as_json=as_json)
    raise typer.Exit(code)


def restore(
    source: Source,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", callback=utf8, readable=False, help="A new or empty directory."
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Make a new runtime directory of a back-up, which is verified first.

    A directory that holds anything is refused: a living store is never overwritten.

    \b
    JSON: as "backup"; path is the new directory
    """
    with reporting(as_json=as_json):
        from rtstore.cli import backups as command

        code = command.restore(source, directory, as_json=as_json)
    raise typer.Exit(code)


def verify(source: Source, *, as_json: AsJson = False) -> None:
    """Check a back-up: every page, every content, every file against its hash. Changes nothing.

    \b
    JSON: as "backup"
    """
    with reporting(as_json=as_json):
        from rtstore.cli import backups as command

        code = command.verify(source, as_json=as_json)
    raise typer.Exit(code)


def export(
    directory: Directory,
    *,
    destination: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DEST",
            callback=utf8,
            help="A new or empty directory, which gets the stores too. Default: DIR itself.",
        ),
    ] = None,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Write manifest and receipts as the file-only ancestor's, for its readers.

    What is in the way in DIR and says something else is kept in quarantine. "rtstore import" finds
    everything again; the history of contents, evidence and recoveries stay in the database.

    \b
    JSON: directory, teamName, highWatermark, controlFiles[], stores (number),
      batches {STATE: number}, leftOut[], replaced[]
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import exporting as command

        code = command.run(directory, destination, lock_timeout_s=lock_timeout, as_json=as_json)
    raise typer.Exit(code)
