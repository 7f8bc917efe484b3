"""`rtstore backup`: copies one consistent state of a runtime directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.backups import show_backup
from rtstore.cli.exits import ExitCode
from rtstore.cli.options import AsJson, Directory, utf8
from rtstore.cli.output import Cell, page_of
from rtstore.cli.progress import progress_bar
from rtstore.cli.snapshot import open_to_look
from rtstore.shell import shell_word


def run(
    directory: Directory,
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DEST", callback=utf8, readable=False, help="A new or empty directory."
        ),
    ],
    *,
    as_json: AsJson = False,
) -> ExitCode:
    """Copy one consistent state of database and store files; verified when it is done.

    Writers need not stop, and do not wait. The back-up is a directory that opens as a ready store.
    A lane is a runtime directory of its own: it is not in the back-up of its team.

    \b
    JSON: formatVersion, path, teamName, revision, highWatermark, lastCommittedBatchId or null,
      origin or null (the directory that it was made of), createdAt, databaseHash,
      files[] {relativePath, contentHash, fileSize, mtimeNs or null, mode or null},
      leftOut[] (files whose bytes could not be had, and why),
      changed[] {schemaName, relativePath, keptAt or null, problem or null} (store files that nobody
        committed; in the back-up they are in quarantine),
      lanes[] (lanes below it, which are not in the back-up),
      schemaProblem or null (what somebody had dropped of the database, in words)
    """
    with open_to_look(directory) as store, progress_bar(quiet=as_json) as bar:
        backup = store.back_up(destination, progress=bar)
    page = page_of(backup, as_json=as_json)
    page.line(Cell("Backed up", "good"), f" {directory}")
    show_backup(page, backup)
    page.title("Next")
    for lane in backup.lanes:
        source, copy = directory / lane, f"{destination}-{Path(lane).name}"
        page.line(
            Cell(f"rtstore backup {shell_word(source)} {shell_word(copy)}", "command"), indent=2
        )
    place = shell_word(destination)
    look = f"rtstore verify {place}"
    if backup.schema_problem is not None:
        look = f"rtstore doctor {shell_word(directory)}"
    page.line(Cell(look, "command"), indent=2)
    page.line(Cell(f"rtstore restore {place} NEW_DIR", "command"), indent=2)
    return ExitCode.READY
