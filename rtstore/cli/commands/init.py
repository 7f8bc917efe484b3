"""`rtstore init`: creates a runtime directory for a team."""

from __future__ import annotations

from typing import Annotated

import typer

from rtstore.cli.descriptors import Descriptors, load_descriptors
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout
from rtstore.cli.output import Cell, count, page_of
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.model.records import Record
from rtstore.store import RuntimeStore


class InitReport(Record):
    """What `rtstore init --json` prints."""

    directory: str
    team_name: str
    created: bool
    """False when the store was there already; it was left as it was."""
    database: str
    high_watermark: int
    stores: tuple[str, ...]


def run(
    directory: Directory,
    *,
    team_name: Annotated[str, typer.Option("--team", metavar="NAME", help="Whose state it is.")],
    descriptors: Descriptors = None,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Make a runtime directory for a team. One that is there already is left as it is, with the
    stores that it knows.

    \b
    JSON: directory, teamName, created, database, highWatermark, stores[]
    """
    known = load_descriptors(descriptors)
    database = directory / DATABASE_NAME
    there = database.exists()
    with RuntimeStore.open(
        directory,
        team_name=team_name,
        descriptors=None if there else known,
        recover=False,
        read_only=there,
        lock_timeout_s=lock_timeout_s,
    ) as store:
        report = InitReport(
            directory=str(directory),
            team_name=store.team_name,
            created=not there,
            database=str(database),
            high_watermark=store.manifest().high_watermark,
            stores=store.descriptors.names,
        )
    page = page_of(report, as_json=as_json)
    if report.created:
        page.line(Cell("Created", "good"), f" the runtime store of team {report.team_name}")
    else:
        page.line(f"The runtime store of team {report.team_name} is there already; left as it was")
    page.facts(
        [
            ("Runtime directory", report.directory),
            ("Control database", report.database),
            ("Stores", f"{count(len(report.stores), 'store')} known"),
            ("High watermark", f"{count(report.high_watermark, 'batch')} committed"),
        ]
    )
    return ExitCode.READY
