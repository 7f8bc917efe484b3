"""`rtstore quarantine prune`: drops old files from quarantine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from rtstore.cli.exits import ExitCode
from rtstore.cli.options import LOCK_TIMEOUT_S, AsJson, Directory, LockTimeout
from rtstore.cli.output import count, page_of, size
from rtstore.cli.snapshot import check_may_write, open_to_look
from rtstore.model.records import QuarantinedFile, Record
from rtstore.store import RuntimeStore

_DAYS_MAX = 36_500


class DropReport(Record):
    """What `rtstore quarantine prune --json` prints."""

    directory: str
    dry_run: bool
    files: tuple[QuarantinedFile, ...]
    bytes: int


def run(
    directory: Directory,
    *,
    days: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, max=_DAYS_MAX, help="Kept before so many days."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be dropped.")
    ] = False,
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S,
    as_json: AsJson = False,
) -> ExitCode:
    """Drop the files in quarantine that were kept before so many days, for good. Nothing else ever
    drops any.

    \b
    JSON: directory, dryRun, files[] (as in "quarantine list"), bytes
    """
    check_may_write(directory)
    older_than = timedelta(days=days)
    if dry_run:
        with open_to_look(directory) as store:
            dropped = store.prune_quarantine(older_than=older_than, dry_run=True)
    else:
        with RuntimeStore.open(directory, recover=False, lock_timeout_s=lock_timeout_s) as store:
            dropped = store.prune_quarantine(older_than=older_than)
    total = sum(file.file_size or 0 for file in dropped)
    report = DropReport(directory=str(directory), dry_run=dry_run, files=dropped, bytes=total)
    page = page_of(report, as_json=as_json)
    what = "would be dropped from quarantine" if dry_run else "dropped from quarantine"
    page.line(f"{count(len(dropped), 'file')} {what}, {size(total)}")
    for file in dropped if dry_run else ():
        page.line(f"  {file.quarantine_number}  {file.quarantine_path}")
    return ExitCode.READY
