"""Notices control files that a runtime of the old kind changed after the import, and says how they
are taken over again. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rtstore.control.manifest import ManifestHead
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import LegacyImportError
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import current_hash
from rtstore.shell import shell_command, shell_word

_ASIDE = "runtime-store.before-"


def changed_since_import(directory: Path, head: ManifestHead, fs: FileSystem) -> bool:
    """Return whether the control files say something else than when they were imported, or exported
    last. False where they are gone or cannot be read."""
    if head.imported_at is None:
        return False
    try:
        now = current_hash(directory, fs)
    except LegacyImportError:
        return False
    return now is not None and now != head.imported_hash


def over_again_command(directory: Path, lanes: Iterable[str] = ("",)) -> str:
    """Return the command that moves databases aside and imports the directory again.

    `lanes` are the paths of the directories with these databases, relative to it.
    """
    moves = [_move(directory / path if path else directory) for path in lanes]
    return " && ".join([*moves, shell_command("rtstore", "import", directory)])


def _move(directory: Path) -> str:
    number = 1
    while os.path.lexists(directory / f"{_ASIDE}{number:03}"):
        number += 1
    aside = shell_word(directory / f"{_ASIDE}{number:03}")
    return f"mkdir {aside} && mv {shell_word(directory / DATABASE_NAME)}* {aside}"
