"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.completion import stores
from rtstore.shell import is_utf8

LOCK_TIMEOUT_S = 10.0
NUMBER_MAX = 1_000_000_000


def utf8(path: Path | None) -> Path | None:
    """Refuse a path that is not UTF-8, which JSON and SQLite cannot represent."""
    if path is not None and not is_utf8(path):
        raise typer.BadParameter("the path is not UTF-8 text")
    return path


def _directory(path: Path) -> Path:
    if not is_utf8(path):
        problem = "the path is not UTF-8 text; where it is there, from inside of it, '.' will do"
        raise typer.BadParameter(problem)
    return path


Directory = Annotated[
    Path,
    # Whether it can be read is found out where the error says more.
    typer.Argument(
        metavar="DIR", callback=_directory, readable=False, help="The runtime directory."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
Wide = Annotated[
    bool,
    typer.Option("--wide", help="Cut no id, break no line, and leave no column out."),
]
LockTimeout = Annotated[
    float,
    typer.Option(
        "--lock-timeout", metavar="SECONDS", min=0, help="How long to wait for another writer."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
StoreName = Annotated[
    str,
    typer.Argument(
        metavar="STORE", autocompletion=stores, help="A store, by its name or by its file."
    ),
]
BackupSource = Annotated[
    Path,
    typer.Argument(
        metavar="BACKUP",
        callback=utf8,
        readable=False,
        help="A back-up: its directory, or the database that an upgrade kept.",
    ),
]
NewDirectory = Annotated[
    Path,
    typer.Argument(metavar="DIR", callback=utf8, readable=False, help="A new or empty directory."),
]
