"""Find the rows that somebody changed, and the SQL that puts them right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection

from rtstore.control import batches, manifest, recovery_log, runs
from rtstore.control.manifest import ChangedPath
from rtstore.control.sqlite.statements import database_of
from rtstore.errors import UnsafePathError, shown
from rtstore.files.paths import store_path
from rtstore.files.quarantine import is_in_quarantine
from rtstore.files.stamp import read_hashed
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error
from rtstore.model.descriptors import default_path, relative_path_problem
from rtstore.model.records import PlannedDeletion


def of_stores(connection: Connection) -> dict[str, str]:
    """Return the rows about files of stores that somebody changed, in words, each with the SQL that
    puts it right."""
    directory = database_of(connection).parent
    of_entries: list[ChangedPath] = []
    of_batches: list[ChangedPath] = []
    for item in manifest.changed_paths(connection):
        (of_entries if _is_of_entry(item, directory) else of_batches).append(item)
    return dict((*_of_batches(of_batches), *_of_entries(of_entries), *_set_back(connection)))


def of_quarantine(connection: Connection) -> dict[str, str]:
    """Return the rows about quarantined files that somebody changed, in words, each with the SQL
    that takes it out."""
    found = {}
    for item in recovery_log.list_quarantined(connection):
        if not is_in_quarantine(item.quarantine_path):
            number, kept_at = item.quarantine_number, item.quarantine_path
            problem = f"quarantined file {number} is said to be {shown(kept_at)}"
            where = f"quarantine_number = {number}"
            found[problem] = f"DELETE FROM quarantined_files WHERE {where}"  # noqa: S608 - printed
    return found


def of_runs(connection: Connection) -> dict[str, str]:
    """Return the run that somebody made by hand and that no batch begins, in words, with the SQL
    that takes it out."""
    found = runs.stray_beginning(connection)
    if found is None:
        return {}
    number, run_id = found
    problem = f"run {shown(run_id)} is said to be beginning, and no batch begins it"
    return {problem: f"DELETE FROM runs WHERE run_number = {number}"}  # noqa: S608 - printed


def of_open_batches(connection: Connection) -> dict[str, str]:
    """Return the rows of open batches with a path that no store may have, in words, each with the
    SQL that gives it the file that the directory has of the store."""
    descriptors = manifest.load_descriptors(connection)
    remembered = {item.schema_name: item.relative_path for item in descriptors}
    committed = manifest.load_paths(connection)
    found = {}
    for logged in batches.load_open(connection):
        for write in logged.changes:
            name = write.schema_name
            path = _possible(remembered.get(name), committed.get(name), default_path(name))
            if relative_path_problem(write.relative_path) is None or path is None:
                continue
            problem = (
                f"open batch {logged.batch.batch_id} is said to have {name} in "
                f"{shown(write.relative_path)}"
            )
            table = "batch_deletions" if isinstance(write, PlannedDeletion) else "batch_writes"
            where = f"batch_number = {logged.batch.batch_number} AND schema_name = {_text(name)}"
            change = f"SET relative_path = {_text(path)}"
            found[problem] = f"UPDATE {table} {change} WHERE {where}"
    return found


def _possible(*paths: str | None) -> str | None:
    """Return the first path that a store may have."""
    return next((path for path in paths if path and relative_path_problem(path) is None), None)


def _is_of_entry(item: ChangedPath, directory: Path) -> bool:
    """Return whether the entry is the row that was changed, and not that of the batch.

    The right one names the file that the directory remembers of the store; where that says nothing,
    the file that holds what was committed, or the only one that a store may have.
    """
    if item.remembered in (item.of_entry, item.of_batch):
        return item.of_entry != item.remembered
    of_entry, of_batch = (
        _evidence(directory, path, item.content_hash) for path in (item.of_entry, item.of_batch)
    )
    return of_batch >= of_entry


def _evidence(directory: Path, relative_path: str, content_hash: str) -> int:
    """Return how much speaks for a file: 0 when no store may have it, 2 when it is as committed."""
    try:
        path = store_path(directory, relative_path)
    except UnsafePathError:
        return 0
    with suppress_system_error():
        _, found, _ = read_hashed(path, FileSystem())
        return 2 if found == content_hash else 1
    return 1


def _of_batches(changed: Sequence[ChangedPath]) -> Iterator[tuple[str, str]]:
    for item in changed:
        number = item.batch_number
        problem = (
            f"{item.schema_name} is in {item.of_entry!r}, and batch number {number} is said to "
            f"have written it to {shown(item.of_batch)}"
        )
        where = f"batch_number = {number} AND schema_name = {_text(item.schema_name)}"
        change = f"SET relative_path = {_text(item.of_entry)}"
        yield problem, f"UPDATE batch_writes {change} WHERE {where}"


def _of_entries(changed: Sequence[ChangedPath]) -> Iterator[tuple[str, str]]:
    """Yield the entries. No two may name the same file, not even within a statement: so where one
    has the file of another, all of them are changed together, and get names of their own first."""
    taken = {item.of_entry for item in changed}
    together = any(item.of_batch in taken for item in changed)
    for item in changed:
        problem = (
            f"{item.schema_name} is said to be in {shown(item.of_entry)}, and was written to "
            f"{item.of_batch}"
        )
        yield problem, _together(changed) if together else _set_entry(item)


def _set_entry(item: ChangedPath) -> str:
    change = f"SET relative_path = {_text(item.of_batch)}"
    return f"UPDATE manifest_entries {change} WHERE schema_name = {_text(item.schema_name)}"


def _together(changed: Sequence[ChangedPath]) -> str:
    names = ", ".join(_text(item.schema_name) for item in changed)
    aside = "SET relative_path = relative_path || '.' || schema_name"
    statements = (
        f"UPDATE manifest_entries {aside} WHERE schema_name IN ({names})",
        *map(_set_entry, changed),
    )
    return f"BEGIN; {'; '.join(statements)}; COMMIT"


_OF_WRITE = "schema_version, relative_path, content_hash, file_size, mtime_ns, batch_number"


def _set_back(connection: Connection) -> Iterator[tuple[str, str]]:
    for name, number, last in manifest.set_back_entries(connection):
        problem = (
            f"the entry of {name} is that of batch number {number}, and batch number {last} wrote "
            "the store last, which may have been undone in its file. After the command a recovery "
            "puts that right"
        )
        where = f"schema_name = {_text(name)}"
        write = f"FROM batch_writes WHERE batch_number = {last} AND {where}"
        columns = f"({_OF_WRITE}, last_write_receipt_id) = (SELECT {_OF_WRITE}, receipt_id {write})"
        yield problem, f"UPDATE manifest_entries SET {columns} WHERE {where}"  # noqa: S608 - printed


def _text(value: str) -> str:
    quoted = value.replace("'", "''")
    return f"'{quoted}'"
