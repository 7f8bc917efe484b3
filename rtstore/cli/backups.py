"""Shows a back-up."""

from __future__ import annotations

import os
from pathlib import Path

from rtstore.cli.output import Cell, Page, count, size, when
from rtstore.errors import InvalidRequestError
from rtstore.maintenance.backup import Backup, ChangedFile
from rtstore.model.times import utc_now


def check_source(source: Path) -> None:
    """Raise `InvalidRequestError` when there is nothing at the path of a back-up. What may not be
    looked at is left to the library, which says why."""
    try:
        os.stat(source)
    except (FileNotFoundError, NotADirectoryError):
        problem = f"{source}: there is no such file or directory"
        raise InvalidRequestError("BACKUP", problem) from None
    except OSError:
        return


def show_backup(page: Page, backup: Backup) -> None:
    """Print what is in a back-up, and what is not."""
    files = f"{count(len(backup.files), 'file')}, {size(sum(it.file_size for it in backup.files))}"
    if not backup.path.is_dir():  # a database alone
        files = f"none looked at; it has the contents of {files}"
    facts: list[tuple[str, str | Cell]] = [
        ("Where", str(backup.path)),
        ("Team", backup.team_name),
        ("High watermark", f"{count(backup.high_watermark, 'batch')} committed"),
        ("Revision", backup.revision),
        ("Files", files),
    ]
    if backup.created_at is not None:
        facts.insert(1, ("Made", when(backup.created_at, utc_now())))
    page.facts(facts)
    if backup.schema_problem is not None:
        page.line(Cell("damaged: ", "bad"), backup.schema_problem)
    for file in backup.changed:
        page.line(Cell("changed: ", "warn"), _in_words(file))
    for problem in backup.left_out:
        page.line(Cell("left out: ", "warn"), problem)
    for lane in backup.lanes:
        page.line(Cell("not in it: ", "warn"), f"{lane}, a runtime directory of its own")


def _in_words(file: ChangedFile) -> str:
    if file.kept_at is None:
        return (
            f"{file.relative_path} may not be as committed: {file.problem}. In the back-up is what "
            "is committed"
        )
    what = f"{file.relative_path} was not as committed when this was made, and"
    return f"{what} is kept as {file.kept_at}: in its place is what is committed"
