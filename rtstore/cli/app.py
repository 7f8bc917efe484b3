"""The subcommands, their options and their help.

This module has only names and help texts. Each subcommand imports what it needs when it runs, so
`rtstore --help` does not load the database layer.

With `--json`, standard output has exactly one JSON document: the report of the command, or on an
error `{"error": {"type", "message", "exitCode"}}`, where the type is the class of the exception.
(`watch` prints one document a line.) Keys are camelCase and stable; new keys may be added. The
message of an error goes to standard error with and without `--json`. A wrong option is refused
before `--json` is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli import keeping, timeline, trouble, upkeep
from rtstore.cli.exits import ExitCode, exit_code_help
from rtstore.cli.groups import Sections
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

JSON_ERRORS = """\
An error goes to standard error; with --json, standard output then has
  {"error": {"type", "message", "exitCode"}}"""

app = typer.Typer(
    cls=Sections,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=f"\b\nExit codes:\n{exit_code_help()}\n\n\b\n{JSON_ERRORS}",
)


RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        metavar="ID",
        help="The run that the stores should belong to. What is not given of the expected "
        "identity is taken from the manifest's active identity.",
    ),
]
CapabilitySnapshotId = Annotated[
    str | None,
    typer.Option(
        "--capability-snapshot-id", metavar="ID", help="The expected capability snapshot; '': none."
    ),
]
BehaviorFingerprint = Annotated[
    str | None,
    typer.Option(
        "--behavior-fingerprint", metavar="TEXT", help="The expected fingerprint; '': none."
    ),
]


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if wanted:
        from rtstore import __version__

        typer.echo(f"rtstore {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def rtstore(
    context: typer.Context,
    *,
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The state of an agent runtime: JSON files, made transactional by a SQLite database.

    Not sure where to start? rtstore demo
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.WRONG_CALL)


@app.command(short_help="Make a runtime directory for a team.")
def init(
    directory: Directory,
    *,
    team: Annotated[str, typer.Option("--team", metavar="NAME", help="Whose state it is.")],
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Make a runtime directory for a team. One that is there already is left as it is.

    \b
    JSON: directory, teamName, created, database, highWatermark, stores[]
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import init as command

        code = command.run(directory, team_name=team, lock_timeout_s=lock_timeout, as_json=as_json)
    raise typer.Exit(code)


@app.command("import", short_help="Take over a file-only directory.")
def import_(
    directory: Directory,
    *,
    dry_run: DryRun = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Take over a team's directory of the file-only ancestor, with its lanes. No file of it is
    changed.

    DIR is the runtime directory, or the team's, with .opencode-runtime in it. Each directory is
    imported whole or not at all; after an interruption, import again. What was imported before is
    left as it is.

    \b
    JSON: directory, teamName, changed, dryRun, importedAt, highWatermark,
      activeIdentity or null, batches {STATE: number}, receipts (number),
      stores[] {schemaName, relativePath, outcome, registered, detail},
      controlFiles[], otherFiles[] {path, kind}, notes[],
      lanes[] {laneId, path, report (the keys above) or null, problem or null,
        damaged},
      found, imported (numbers of files), skipped[] {path, why}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import importing as command

        code = command.run(directory, dry_run=dry_run, lock_timeout_s=lock_timeout, as_json=as_json)
    raise typer.Exit(code)


@app.command(short_help="May the runtime start, and on what?")
def status(
    directory: Directory,
    *,
    run_id: RunId = None,
    capability_snapshot_id: CapabilitySnapshotId = None,
    behavior_fingerprint: BehaviorFingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Show what is committed, what the files hold, and whether the runtime may start.

    Its lanes are shown below it; the exit code is that of DIR alone. DIR may also be a folder: then
    every runtime directory and lane below it is a line, and the exit code is the highest of all.
    Changes nothing, and works beside a writer.

    \b
    JSON: directory, teamName, verdict (ready|degraded|blocked),
      readiness {ok, reason, diagnostics[]}, highWatermark,
      activeIdentity and expectedIdentity
        {runId, capabilitySnapshotId, behaviorFingerprint} or null,
      lastBatch {batchId, reason, runId, completedAt, ageSeconds, stores[]} or null,
      openBatches[] {batchId, reason, runId, startedAt, ageSeconds, inProgress, stores[]},
      newerFiles[] (of which the database may lack the batches), lockHolder,
      databaseBytes, walBytes,
      keepsBatches, keepsContentsPerStore, keepsContentBytes, keepsDays (each or null: no limit),
      stores[] {schemaName, relativePath, criticality, state,
        holds (committed|open_batch|nothing|other), detail, action, reason, fileSize,
        batchId, batchReason, writtenAt, ageSeconds},
      below[] (the lanes; as directories[] of a folder), next[] {command, why}
    JSON of a folder: folder, exitCode,
      directories[] {directory, laneId or null, state (ready|degraded|blocked|locked|forbidden|
        older|newer|foreign|damaged|no_database|not_imported|failed), why or null, exitCode,
        teamName, highWatermark, activeRunId, lastBatchAt, ageSeconds, databaseBytes, lockHolder
        (each or null), next[] {command, why}},
      backups[] (left out), wasCutShort
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import status as command

        code = command.run(
            directory,
            run_id=run_id,
            capability_snapshot_id=capability_snapshot_id,
            behavior_fingerprint=behavior_fingerprint,
            as_json=as_json,
        )
    raise typer.Exit(code)


@app.command(short_help="The same, and each batch, as it happens.")
def watch(
    directory: Directory,
    *,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", min=0.05, max=86_400, help="How often to look."
        ),
    ] = 1.0,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="End after this time."),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option("-n", "--number", metavar="N", min=0, help="End after so many changes."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a line, for programs.")
    ] = False,
) -> None:
    """Show batches and readiness as they change, until Ctrl-C. Changes nothing, and no writer waits
    for it.

    Ended by Ctrl-C the exit code is 130; ended by --for or --number, that of "status" at the end.

    \b
    JSON, a document a line, each with event and at:
      event "state" (the first line, and when the readiness changes): directory, teamName,
        verdict, readiness, highWatermark, activeIdentity, openBatches[], next[] (as in "status")
      event "batch" (one that is new, or has ended): batch (as in "log"), stores[]
      event "error" (it cannot be looked at meanwhile): error {type, message, exitCode}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import watch as command

        code = command.run(
            directory, interval_s=interval, for_s=seconds, changes=number, as_json=as_json
        )
    raise typer.Exit(code)


@app.command(short_help="What is wrong, and what to do.")
def plan(
    directory: Directory,
    *,
    run_id: RunId = None,
    capability_snapshot_id: CapabilitySnapshotId = None,
    behavior_fingerprint: BehaviorFingerprint = None,
    as_json: AsJson = False,
) -> None:
    """Show what is wrong, and what "recover" would do about it. Changes nothing.

    \b
    JSON: directory, teamName, verdict, readiness, expectedIdentity,
      plan {planId, teamName, runId, createdAt, highWatermark, manifestHealthy,
        readinessImpact (none|degraded|blocked), actions[] {kind, schemaName, reason?},
        diagnostics[]},
      recovery[] {schemaName, kind, reason, intention}, next[] {command, why}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import plan as command

        code = command.run(
            directory,
            run_id=run_id,
            capability_snapshot_id=capability_snapshot_id,
            behavior_fingerprint=behavior_fingerprint,
            as_json=as_json,
        )
    raise typer.Exit(code)


@app.command(short_help="Put right what can be.")
def recover(
    directory: Directory,
    *,
    dry_run: DryRun = False,
    lock_timeout: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Put right what can be, and show each step and what is left.

    Open batches are finished from the log, committed contents are put back, changed files go into
    quarantine. What needs the runtime is left to it. Running it again does no harm.

    \b
    JSON: directory, teamName, dryRun, runNumber, plan (as in "plan"),
      steps[] {action {kind, schemaName, reason?}, outcome (done|skipped|failed), detail},
      removedFiles[], remaining (a plan), verdict, readiness, next[]
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import recover as command

        code = command.run(directory, lock_timeout_s=lock_timeout, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(code)


@app.command(short_help="The batches, newest first.")
def log(
    directory: Directory,
    *,
    number: Annotated[
        int,
        typer.Option(
            "-n", "--number", metavar="N", min=1, max=NUMBER_MAX, help="How many batches."
        ),
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """List the batches, newest first. Changes nothing.

    \b
    JSON: directory, teamName, highWatermark,
      batches[] {batch {batchNumber, batchId, teamName, runId, capabilitySnapshotId,
        behaviorFingerprint, reason, state (preparing|committing|committed|failed),
        origin (written|imported), highWatermark, startedAt, completedAt, lastError,
        receipts[]}, stores[], ageSeconds}
    """
    with reporting(directory, as_json=as_json):
        from rtstore.cli import log as command

        code = command.run(directory, limit=number, as_json=as_json)
    raise typer.Exit(code)


@app.command(short_help="A writer is killed; see what is left.")
def demo(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            callback=utf8,
            help="A new or empty directory. Default: a temporary one.",
        ),
    ] = None,
    *,
    point: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Where in the commit protocol the writer is killed; or a number."
        ),
    ] = "after-rename-2",
    as_json: AsJson = False,
) -> None:
    """Kill a writer in the middle of a batch, look at what is left, and recover.

    \b
    Points, in order (a batch of four stores):
       1  before-log        nothing is written yet
       2  in-log            the batch is written to the log, not committed
       3  after-log         the batch is in the log, no file is touched
       4  in-file-1         half of the first new file is written
       5  after-rename-1    the first file is published
       6  in-file-2     7  after-rename-2
       8  in-file-3     9  after-rename-3
      10  in-file-4    11  after-rename-4
      12  in-complete           its commit record is written, not committed
      13  after-complete        the batch is committed, the caller was not told

    \b
    JSON: directory, database, teamName, batches[] {batchId, reason, about, stores[]},
      kill {point, processId, signal},
      crash {verdict, files[] {schemaName, relativePath, version}, published,
        temporaryFiles[], plan, loggedReceiptIds[]},
      runNumber, steps[],
      outcome {verdict, readiness, batchId, state, highWatermark, files[], receiptIds[],
        sameReceipts},
      queries[] {question, command, output[], program}
    """
    with reporting(as_json=as_json):
        from rtstore.cli import demo as command

        code = command.run(directory, point=point, as_json=as_json)
    raise typer.Exit(code)


timeline.register(app)
keeping.register(app)
trouble.register(app)
upkeep.register(app)
