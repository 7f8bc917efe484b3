"""`rtstore verify`: checks a back-up."""

from __future__ import annotations

from rtstore.cli.backups import show_backup
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, BackupSource
from rtstore.cli.output import Cell, page_of
from rtstore.cli.progress import progress_bar
from rtstore.maintenance.backup import verify_backup


def run(source: BackupSource, *, as_json: AsJson = False) -> ExitCode:
    """Check a back-up: every page, every content, every file against its hash. Changes nothing.

    \b
    JSON: as "backup"
    """
    with progress_bar(quiet=as_json) as bar:
        backup = verify_backup(source, progress=bar)
    page = page_of(backup, as_json=as_json)
    page.line(Cell("Sound", "good"), ": the database and every file are what was backed up")
    show_backup(page, backup)
    return ExitCode.READY
