"""`rtstore demo`: shows a crash and its recovery in five seconds, in a directory of its own.

It writes checkpoints of a team, and kills a second process in the middle of a batch of four stores.
It shows the result (files of two versions, a plan that says blocked), and recovers by opening the
store. Then it shows the new state (ready, the batch whole, with the ids it was logged with), and
queries the database in SQL.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
import urllib.parse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.demo import show
from rtstore.cli.demo.show import (
    Crash,
    DemoReport,
    FileAfterCrash,
    Outcome,
    Query,
    Version,
    WrittenBatch,
)
from rtstore.cli.demo.writer import (
    IDENTITY,
    TEAM,
    fatal_checkpoint,
    find_point,
    first_checkpoints,
    kill_writer,
)
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, utf8
from rtstore.cli.output import Page, SilentPage, page_for, print_json, visible
from rtstore.cli.snapshot import (
    FileHolds,
    Look,
    StoreLine,
    look_at,
    open_to_look,
    shown,
    temporary_files,
)
from rtstore.control.batches import ReceiptStore
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import InvalidRequestError
from rtstore.model.ids import new_batch_id
from rtstore.model.records import Batch
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore
from rtstore.testing.points import CrashPoint

WHO = """SELECT reason, age_seconds FROM current_stores
WHERE store = 'opencode.sessionStore'"""
WHAT = """SELECT session.value ->> 'memberName' AS member, session.value ->> 'id' AS session
FROM current_stores, json_each(data, '$.sessions') AS session
WHERE store = 'opencode.sessionStore'"""
CHANGES = """SELECT high_watermark, file_size,
json_array_length(data, '$.sessions') AS sessions
FROM store_history WHERE store = 'opencode.sessionStore'"""
QUESTIONS = (
    ("Since when are the sessions as they are, and why?", WHO),
    ("What is in them?", WHAT),
    ("How did they change over time?", CHANGES),
)


def run(
    target: Annotated[
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
) -> ExitCode:
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
      queries[] {question, command, opening and sql (its parts), output[], program}
    """
    kill_point = find_point(point)
    directory = _fresh_directory(target)
    page = SilentPage() if as_json else page_for()
    report = _play(directory, kill_point, page)
    if as_json:
        print_json(report)
    return ExitCode.READY if report.outcome.readiness.ok else ExitCode.NOT_READY


def _fresh_directory(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="rtstore-demo-"))
    problem = None
    if directory.exists() and not directory.is_dir():
        problem = f"{directory} is not a directory"
    elif directory.exists() and any(directory.iterdir()):
        problem = f"{directory} is not empty, and the demo overwrites nothing"
    if problem is not None:
        raise InvalidRequestError(
            "DIR", f"{problem}. Give it a new directory, or none: rtstore demo"
        )
    return directory.absolute()


def _play(directory: Path, point: CrashPoint, page: Page) -> DemoReport:
    show.opening(page, shown(directory))
    written = _write_checkpoints(directory)
    show.checkpoints(page, written)
    batch_id = new_batch_id()
    kill = kill_writer(directory, point, batch_id)
    crash, look = _look_at_crash(directory, batch_id)
    show.kill(page, kill, crash)
    show.crash(page, crash, look)
    with RuntimeStore.open(directory) as store:
        recovery = store.last_recovery
        outcome, after = _outcome(store, batch_id, crash)
    steps = recovery.steps if recovery else ()
    show.recovery(page, steps, crash)
    show.outcome(page, outcome, after)
    database = directory / DATABASE_NAME
    queries = ask(shown(database))
    show.queries(page, queries)
    show.closing(page, shown(directory))
    return DemoReport(
        directory=str(directory),
        database=str(database),
        team_name=TEAM,
        batches=tuple(written),
        kill=kill,
        crash=crash,
        run_number=recovery.run_number if recovery else None,
        steps=steps,
        outcome=outcome,
        queries=queries,
    )


def _write_checkpoints(directory: Path) -> list[WrittenBatch]:
    written = []
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        for checkpoint in first_checkpoints():
            batch = store.write_batch(
                identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes
            )
            written.append(
                WrittenBatch(
                    batch_id=batch.batch_id,
                    reason=batch.reason,
                    about=checkpoint.about,
                    stores=tuple(checkpoint.writes),
                )
            )
    return written


def _look_at_crash(directory: Path, batch_id: str) -> tuple[Crash, Look]:
    with open_to_look(directory) as store:
        look = look_at(store)
        files = _files(look, batch_id)
        crash = Crash(
            verdict=look.verdict,
            files=files,
            published=sum(file.version is Version.NEW for file in files),
            temporary_files=temporary_files(store),
            plan=look.plan,
            logged_receipt_ids=_logged_receipt_ids(store, batch_id),
        )
    return crash, look


def _logged_receipt_ids(store: RuntimeStore, batch_id: str) -> tuple[str, ...]:
    for logged in ReceiptStore(store.database).open_batches():
        if logged.batch.batch_id == batch_id:
            return tuple(write.receipt_id for write in logged.writes)
    return _receipt_ids(store.batch(batch_id))


def _receipt_ids(batch: Batch | None) -> tuple[str, ...]:
    return tuple(receipt.receipt_id for receipt in batch.receipts) if batch else ()


def _outcome(store: RuntimeStore, batch_id: str, crash: Crash) -> tuple[Outcome, Look]:
    look = look_at(store)
    batch = store.batch(batch_id)
    receipt_ids = _receipt_ids(batch)
    outcome = Outcome(
        verdict=look.verdict,
        readiness=look.check,
        batch_id=batch_id,
        state=batch.state if batch else None,
        high_watermark=look.manifest.high_watermark,
        files=_files(look, batch_id),
        receipt_ids=receipt_ids,
        same_receipts=receipt_ids == crash.logged_receipt_ids,
    )
    return outcome, look


def _files(look: Look, batch_id: str) -> tuple[FileAfterCrash, ...]:
    """Return the files of the fatal batch, in the order of publication."""
    lines = {line.schema_name: line for line in look.lines}
    return tuple(
        FileAfterCrash(
            schema_name=name,
            relative_path=lines[name].relative_path,
            version=_version(lines[name], batch_id),
        )
        for name in fatal_checkpoint().writes
    )


def _version(line: StoreLine, batch_id: str) -> Version:
    if line.holds is FileHolds.COMMITTED:
        return Version.NEW if line.batch_id == batch_id else Version.OLD
    if line.holds is FileHolds.OPEN_BATCH:
        return Version.NEW
    return Version.MISSING if line.holds is FileHolds.NOTHING else Version.OTHER


def ask(database: Path) -> tuple[Query, ...]:
    """Run the three queries. They only read."""
    return tuple(_ask(database, question, sql.replace("\n", " ")) for question, sql in QUESTIONS)


def _ask(database: Path, question: str, sql: str) -> Query:
    program = "sqlite3"
    words = [program, "-readonly", "-header", "-column"]
    output = _by_program([*words, str(database.absolute()), sql])
    if output is None:
        output, program = _by_module(database, sql), "Python's sqlite3 module"
    opening = " ".join([*words, shell_word(database)])
    return Query(
        question=question,
        command=f'{opening} "{sql}"',
        opening=opening,
        sql=sql,
        output=tuple(output),
        program=program,
    )


def _by_program(command: Sequence[str]) -> list[str] | None:
    """Return the output of the sqlite3 program; None when it is missing, or too old for `->>`."""
    program = shutil.which(command[0])
    if program is None:
        return None
    result = subprocess.run(  # noqa: S603 - SQL of our own, no shell
        [program, *command[1:]], capture_output=True, text=True, check=False, timeout=30
    )
    if result.returncode:
        return None
    return [line.rstrip() for line in result.stdout.splitlines()]


def _by_module(database: Path, sql: str) -> list[str]:
    uri = f"file:{urllib.parse.quote(str(database))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        cursor = connection.execute(sql)
        rows = [[column[0] for column in cursor.description]]
        rows += [[visible(str(value)) for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
