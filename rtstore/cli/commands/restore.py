"""`rtstore restore`: makes a new runtime directory from a back-up."""

from __future__ import annotations

from rtstore.cli.backups import check_source, show_backup
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, BackupSource, NewDirectory
from rtstore.cli.output import Cell, page_of
from rtstore.cli.progress import progress_bar
from rtstore.control.schema import REVISIONS
from rtstore.maintenance.backup import restore_backup
from rtstore.shell import shell_word


def run(
    source: BackupSource,
    target: NewDirectory,
    *,
    as_json: AsJson = False,
) -> ExitCode:
    """Make a new runtime directory of a back-up, which is verified first.

    A directory that holds anything is refused: a living store is never overwritten.

    \b
    JSON: as "backup"; path is the new directory
    """
    check_source(source)
    with progress_bar(quiet=as_json) as bar:
        backup = restore_backup(source, target, progress=bar)
    page = page_of(backup, as_json=as_json)
    page.line(Cell("Restored", "good"), f" {source}")
    show_backup(page, backup)
    page.title("Next")
    place = shell_word(target)
    if backup.schema_problem is not None:
        page.line(Cell(f"rtstore doctor {place}", "command"), indent=2)
    elif backup.revision == REVISIONS[-1]:
        page.line(Cell(f"rtstore status {place}", "command"), indent=2)
    else:
        page.line("start the older rtstore that knows this revision, or", indent=2)
        page.line(Cell(f"rtstore upgrade {place}", "command"), indent=2)
    return ExitCode.READY
