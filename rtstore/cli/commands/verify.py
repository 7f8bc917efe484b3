"""`rtstore verify`: checks a back-up."""

from __future__ import annotations

from pathlib import Path

from rtstore.cli.backups import check_source, show_backup
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, BackupSource
from rtstore.cli.output import Cell, Page, page_of
from rtstore.cli.progress import progress_bar
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.backup import RECORD_NAME, verify_backup
from rtstore.shell import shell_word


def run(source: BackupSource, *, as_json: AsJson = False) -> ExitCode:
    """Check a back-up: every page, every content, every file against its hash. Changes nothing.

    Of a database alone (an upgrade keeps one), no file is looked at.

    \b
    JSON: as "backup"
    """
    check_source(source)
    with progress_bar(quiet=as_json) as bar:
        backup = verify_backup(source, progress=bar)
    page = page_of(backup, as_json=as_json)
    if source.is_dir():
        page.line(Cell("Sound", "good"), ": the database and every file are what was backed up")
    else:
        page.line(Cell("Sound", "good"), ": every page and every content of this database")
    show_backup(page, backup)
    if source.name == DATABASE_NAME:
        _say_that_it_is_no_backup(page, source.parent)
    return ExitCode.READY


def _say_that_it_is_no_backup(page: Page, directory: Path) -> None:
    where, is_backup = shell_word(directory), (directory / RECORD_NAME).exists()
    whose = "a back-up, which is more than that" if is_backup else "a runtime directory"
    page.line(Cell("no back-up: ", "warn"), f"it is the database of {whose}")
    page.title("Next")
    command = f"rtstore verify {where}" if is_backup else f"rtstore backup {where} DEST"
    page.line(Cell(command, "command"), indent=2)
