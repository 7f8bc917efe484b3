"""Find out that the control files of the legacy format are not the last word in a directory.

An export in place leaves them beside the database. When that is lost, they say what was committed
on the day of the export, and the store files have all that came later. Control files that a program
of the legacy format left know of every file that it committed, so there is nothing of the kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import LegacyImportError
from rtstore.files.remains import had_database, store_files, written_at
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import is_legacy_directory, read_control_files
from rtstore.legacy.finishing import finished
from rtstore.legacy.survey import hash_at
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Registry


def newer_than_control_files(directory: Path, fs: FileSystem) -> tuple[str, ...]:
    """Return the store files that an import would not take for committed, and that say that they
    were written after the manifest of the legacy format. Never raises.

    Empty where nothing shows that there was a database of ours (its lock file, its WAL, its
    quarantine): a program of the legacy format may leave files that no batch wrote. Empty where
    there is a database, and where the control files are damaged.
    """
    if os.path.lexists(directory / DATABASE_NAME) or not is_legacy_directory(directory):
        return ()
    if not had_database(directory, fs):
        return ()
    try:
        files = read_control_files(directory, fs)
    except LegacyImportError:
        return ()
    done = finished(
        files, Registry(KNOWN_DESCRIPTORS), lambda name, path: hash_at(directory, name, path, fs)
    )
    committed = {
        entry.relative_path: (entry.schema_name, entry.content_hash) for entry in done.files.entries
    }
    found = []
    for path in store_files(directory, committed, fs):
        at = written_at(directory, path, fs)
        if at is None or at < files.manifest.updated_at:
            continue
        name, expected = committed.get(path, (path, None))
        if hash_at(directory, name, path, fs) != expected:
            found.append(path)
    return tuple(found)


def is_to_import(directory: Path) -> bool:
    """Return whether a directory without a database is of the legacy format, and its control files
    are the last word there."""
    return is_legacy_directory(directory) and not newer_than_control_files(directory, FileSystem())


def of_newer_files(newer: Sequence[str]) -> Iterator[str]:
    """Yield the note of an import where `newer_than_control_files` found some."""
    if not newer:
        return
    names = ", ".join(newer[:3]) + (f" and {len(newer) - 3} more" if newer[3:] else "")
    yield (
        f"{names}: written after the control files, and there was a database of rtstore here. What "
        "is taken over is older: rtstore adopt makes each such file the truth, and status names "
        "the commands. A recovery moves them into quarantine"
    )
