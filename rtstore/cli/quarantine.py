"""Finds a quarantined file by the number that is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.completion import quarantined
from rtstore.cli.options import NUMBER_MAX
from rtstore.errors import InvalidRequestError
from rtstore.model.records import QuarantinedFile
from rtstore.shell import shell_word
from rtstore.store import RuntimeStore

QuarantineNumber = Annotated[
    int,
    typer.Argument(
        metavar="NUMBER",
        min=1,
        max=NUMBER_MAX,
        autocompletion=quarantined,
        help='Its number, as in "quarantine list".',
    ),
]


def find_quarantined(store: RuntimeStore, directory: Path, number: int) -> QuarantinedFile:
    """Return a quarantined file by its number. Raises `InvalidRequestError`."""
    for file in store.quarantined_files():
        if file.quarantine_number == number:
            return file
    raise InvalidRequestError(
        "NUMBER",
        f"there is no quarantined file {number}. Run: rtstore quarantine list "
        f"{shell_word(directory)}",
    )
