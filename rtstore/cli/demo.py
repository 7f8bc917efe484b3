"""`rtstore demo`: shows a crash and its recovery in five seconds, in a directory of its own.

It writes checkpoints of a team, and kills a second process in the middle of a batch of four stores.
It shows the result (files of two versions, a plan that says blocked), and recovers by opening the
store. Then it shows the new state (ready, the batch whole, with the ids it was logged with), and
queries the database in SQL.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rtstore.cli import demo_show as show
from rtstore.cli.demo_crash import kill_writer
from rtstore.cli.demo_data import IDENTITY, TEAM, fatal_checkpoint, first_checkpoints
from rtstore.cli.demo_points import find_point
from rtstore.cli.demo_queries import ask
from rtstore.cli.demo_report import (
    Crash,
    DemoReport,
    FileAfterCrash,
    Outcome,
    Version,
    WrittenBatch,
)
from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import (
    FileHolds,
    Look,
    StoreLine,
    look_at,
    open_to_look,
    temporary_files,
)
from rtstore.cli.output import Page, page_for, print_json
from rtstore.control.batches import ReceiptStore
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import InvalidRequestError
from rtstore.model.ids import new_batch_id
from rtstore.model.records import Batch
from rtstore.store import RuntimeStore
from rtstore.testing.points import CrashPoint


def run(directory: Path | None, *, point: str, as_json: bool) -> ExitCode:
    """Run the steps of the demo, and print each as it happens."""
    kill_point = find_point(point)
    directory = _fresh_directory(directory)
    page = Page(io.StringIO()) if as_json else page_for()
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
    show.opening(page, directory)
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
    queries = ask(database)
    show.queries(page, queries)
    show.closing(page, directory)
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
