"""`rtstore backup`, `restore` and `verify`: makes, restores and checks back-ups."""

from __future__ import annotations

from pathlib import Path

from rtstore.cli.exits import ExitCode
from rtstore.cli.looking import check_directory
from rtstore.cli.output import Cell, Page, count, page_for, print_json, size, when
from rtstore.cli.progress import progress_bar
from rtstore.control.schema import REVISIONS
from rtstore.maintenance.backup import Backup, ChangedFile, restore_backup, verify_backup
from rtstore.model.times import utc_now
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore


def back_up(directory: Path, destination: Path, *, as_json: bool) -> ExitCode:
    """Back a runtime directory up."""
    check_directory(directory)
    with RuntimeStore.open(directory, read_only=True) as store, progress_bar(quiet=as_json) as bar:
        backup = store.back_up(destination, progress=bar)
    if as_json:
        print_json(backup)
        return ExitCode.READY
    page = page_for()
    page.line(Cell("Backed up", "good"), f" {directory}")
    _show(page, backup)
    page.title("Next")
    place = shell_word(destination)
    page.line(Cell(f"rtstore verify {place}", "title"), indent=2)
    page.line(Cell(f"rtstore restore {place} NEW_DIR", "title"), indent=2)
    return ExitCode.READY


def restore(source: Path, directory: Path, *, as_json: bool) -> ExitCode:
    """Make a runtime directory from a back-up."""
    with progress_bar(quiet=as_json) as bar:
        backup = restore_backup(source, directory, progress=bar)
    if as_json:
        print_json(backup)
        return ExitCode.READY
    page = page_for()
    page.line(Cell("Restored", "good"), f" {source}")
    _show(page, backup)
    page.title("Next")
    place = shell_word(directory)
    if backup.revision == REVISIONS[-1]:
        page.line(Cell(f"rtstore status {place}", "title"), indent=2)
    else:
        page.line("start the older rtstore that knows this revision, or", indent=2)
        page.line(Cell(f"rtstore upgrade {place}", "title"), indent=2)
    return ExitCode.READY


def verify(source: Path, *, as_json: bool) -> ExitCode:
    """Check a back-up."""
    with progress_bar(quiet=as_json) as bar:
        backup = verify_backup(source, progress=bar)
    if as_json:
        print_json(backup)
        return ExitCode.READY
    page = page_for()
    page.line(Cell("Sound", "good"), ": the database and every file are what was backed up")
    _show(page, backup)
    return ExitCode.READY


def _show(page: Page, backup: Backup) -> None:
    total = sum(file.file_size for file in backup.files)
    facts: list[tuple[str, str | Cell]] = [
        ("Where", str(backup.path)),
        ("Team", backup.team_name),
        ("High watermark", f"{count(backup.high_watermark, 'batch')} committed"),
        ("Revision", backup.revision),
        ("Files", f"{count(len(backup.files), 'file')}, {size(total)}"),
    ]
    if backup.created_at is not None:
        facts.insert(1, ("Made", when(backup.created_at, utc_now())))
    page.facts(facts)
    for file in backup.changed:
        page.line(Cell("changed: ", "warn"), _in_words(file))
    for problem in backup.left_out:
        page.line(Cell("left out: ", "warn"), problem)


def _in_words(file: ChangedFile) -> str:
    what = f"{file.relative_path} was not as committed when this was made, and"
    if file.kept_at is None:
        return f"{what} is not in the back-up: {file.problem}; what is committed is"
    return f"{what} is kept as {file.kept_at}: in its place is what is committed"
