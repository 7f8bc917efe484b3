"""Finds a quarantined file by the number that is typed, and reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtstore.cli.completion import quarantined
from rtstore.cli.options import NUMBER_MAX
from rtstore.errors import InvalidRequestError, UnsafePathError
from rtstore.files.quarantine import is_in_quarantine, quarantined_path
from rtstore.files.system import FileSystem
from rtstore.model.envelope import content_hash
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


def content_of(directory: Path, file: QuarantinedFile) -> tuple[str | None, str | None]:
    """Return the content as text, and what is wrong with it, if anything."""
    if file.content_hash is None:
        return None, "it was no regular file, and was moved as it was"
    try:
        content, _ = FileSystem().read(quarantined_path(directory, file.quarantine_path))
    except (OSError, UnsafePathError) as error:
        if not is_in_quarantine(file.quarantine_path):
            return None, f"its row was changed: {error}"
        return None, f"it cannot be read: {error}"
    note = None
    if content_hash(content) != file.content_hash:
        note = "it was changed since it was kept"
    return content.decode("utf-8", "backslashreplace"), note
