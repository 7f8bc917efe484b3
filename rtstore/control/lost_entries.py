"""Find the entries that somebody took out of the manifest or altered by hand, and make them again.

Only a batch takes an entry away, and its deletion is on record then. So a store without an entry
whose last committed batch wrote it has lost its entry, if no later batch is missing on record: the
one that deleted it could be that. Nor may a later one be empty: every batch writes or deletes a
store, so somebody took its rows away, and a deletion could be among them.

A deletion that a batch has beside its writes can be taken away without a trace in the rows. Then
the file is gone, too. So without a file, only a person can say whether the store was deleted: see
`lost_beside_files`.

An entry that somebody altered contradicts the receipt of its batch. The content in the database
says which of the two is right: where that is the receipt, the entry is put right.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from sqlalchemy import Connection, text

from rtstore.control import batches, history, manifest
from rtstore.control.contents import altered_entries, has_content_of
from rtstore.control.sqlite.statements import Statement, database_of
from rtstore.errors import UnsafePathError
from rtstore.files.paths import store_path
from rtstore.model.records import Manifest, ManifestEntry

# Each step of the recursion is one search in the index over (schema_name, batch_number), and so is
# the search for a last write: the history may be long. Most often no name is found, and what is
# asked of each need not be compiled.
_NAMES = Statement(
    text("""
    WITH RECURSIVE names(name) AS (
      SELECT min(schema_name) FROM batch_writes
      UNION ALL
      SELECT (SELECT min(schema_name) FROM batch_writes WHERE schema_name > name)
      FROM names WHERE name IS NOT NULL
    )
    SELECT name FROM names
    WHERE name IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM manifest_entries WHERE schema_name = name)
""")
)
_CANDIDATE = Statement(
    text("""
    SELECT written.batch_number
    FROM batch_writes AS written JOIN write_batches AS batch USING (batch_number)
    WHERE written.schema_name = :name AND written.batch_number = (
        SELECT last.batch_number
        FROM batch_writes AS last JOIN write_batches AS batch USING (batch_number)
        WHERE last.schema_name = :name AND batch.state = 'committed'
        ORDER BY last.batch_number DESC LIMIT 1
      )
      AND batch.origin = 'written'
      AND NOT EXISTS (
        SELECT 1 FROM manifest_entries AS entry WHERE entry.relative_path = written.relative_path)
""")
)
_WRITE = Statement(
    text("""
    SELECT schema_name, schema_version, relative_path, content_hash, file_size, mtime_ns,
      receipt_id AS last_write_receipt_id, batch_number
    FROM batch_writes WHERE schema_name = :name AND batch_number = :number
""")
)
# A batch of no run, which brings store data up, leaves the identity of its entries as it was.
_IDENTITY = Statement(
    text("""
    SELECT batch.run_id, batch.capability_snapshot_id, batch.behavior_fingerprint
    FROM batch_writes AS written JOIN write_batches AS batch USING (batch_number)
    WHERE written.schema_name = :name AND written.batch_number <= :number
      AND batch.state = 'committed' AND batch.run_id IS NOT NULL
    ORDER BY written.batch_number DESC LIMIT 1
""")
)


_IS_ONE_EMPTY = Statement(
    text("""
    SELECT EXISTS (
      SELECT 1 FROM write_batches AS batch
      WHERE batch.batch_number > :number AND batch.state = 'committed'
        AND batch.origin = 'written'
        AND NOT EXISTS (SELECT 1 FROM batch_writes AS written
                        WHERE written.batch_number = batch.batch_number)
        AND NOT EXISTS (SELECT 1 FROM batch_deletions AS deletion
                        WHERE deletion.batch_number = batch.batch_number))
""")
)


def put_right(connection: Connection, schema_name: str) -> None:
    """Write an altered entry as its batch wrote it: see `as_written`."""
    entry = manifest.load_entries(connection, [schema_name])[schema_name]
    manifest.insert_entries(connection, [as_written(connection, entry)])


def as_written(connection: Connection, entry: ManifestEntry) -> ManifestEntry:
    """Return an entry with the version, hash, size and time that its batch wrote. The file that it
    names, and its run, stay. Its batch is the last one that wrote the store: where the entry names
    an earlier one, that was altered, too."""
    name = entry.schema_name
    number = max(entry.batch_number, batches.last_written(connection, name))
    write = _WRITE.first(connection, name=name, number=number)
    columns = (
        "schema_version", "content_hash", "file_size", "mtime_ns", "batch_number",
        "last_write_receipt_id",
    )  # fmt: skip
    written = {column: write[column] for column in columns} if write else {}
    return ManifestEntry.model_validate({**entry.model_dump(), **written})


def lost_entries(connection: Connection) -> dict[str, int]:
    """Return the stores whose entry is lost, each with the number of the batch that wrote it last;
    none from a database of a revision before there were deletions."""
    if not batches.has_deletions(connection):
        return {}
    names = [row["name"] for row in _NAMES.all(connection)]
    found = {name: _CANDIDATE.scalar(connection, name=name) for name in names}
    return {
        name: number
        for name, number in found.items()
        if number is not None
        and batches.is_written(connection, name)
        and history.all_are_there(connection, number, batches.last_number(connection))
        and not _IS_ONE_EMPTY.scalar(connection, number=number)
    }


def lost_beside_files(connection: Connection, directory: Path) -> dict[str, int]:
    """Return those of the lost entries that are made again unasked: their stores have files in the
    directory. A store without one may have been deleted, and somebody took the record of that
    away."""
    return {
        name: number
        for name, number in lost_entries(connection).items()
        if _has_file(connection, directory, name, number)
    }


def paths_of_stores(connection: Connection, directory: Path) -> dict[str, str]:
    """Return the file of each committed store, by the store's name: by its entry, or by the one
    that an opening makes again."""
    paths = manifest.load_paths(connection)
    for name, number in lost_beside_files(connection, directory).items():
        paths[name] = entry_again(connection, name, number).relative_path
    return paths


def versions_of_stores(connection: Connection, directory: Path) -> dict[str, int]:
    """Return the schema version of each committed store, as `paths_of_stores` finds them."""
    versions = manifest.load_versions(connection)
    for name, number in lost_beside_files(connection, directory).items():
        versions[name] = entry_again(connection, name, number).schema_version
    return versions


def _has_file(connection: Connection, directory: Path, schema_name: str, number: int) -> bool:
    """Return whether a store has a file: where its batch wrote it, or where it is now."""
    write = _WRITE.first(connection, name=schema_name, number=number)
    if write is None:
        return False
    if _is_there(directory, write["relative_path"]):
        return True
    now = manifest.file_of(connection, schema_name)
    return now is not None and _is_there(directory, now)


def _is_there(directory: Path, relative_path: str) -> bool:
    try:
        return os.path.lexists(store_path(directory, relative_path))
    except UnsafePathError:  # from a row that somebody changed
        return False


def entry_again(connection: Connection, schema_name: str, number: int) -> ManifestEntry:
    """Return the entry of a store as the batch that wrote it last left it. Which file has it is not
    known: only the hash can tell."""
    write = _WRITE.first(connection, name=schema_name, number=number)
    identity = _IDENTITY.first(connection, name=schema_name, number=number)
    nobody = {"run_id": None, "capability_snapshot_id": None, "behavior_fingerprint": None}
    return ManifestEntry.model_validate({**(write or {}), **(identity or nobody)})


def last_entry(connection: Connection, schema_name: str) -> ManifestEntry | None:
    """Return the entry of a store as its last committed batch left it; None where that deleted the
    store, or no batch on record wrote it."""
    if not batches.is_written(connection, schema_name):
        return None
    return entry_again(connection, schema_name, batches.last_written(connection, schema_name))


def with_lost_entries(connection: Connection, found: Manifest) -> Manifest:
    """Return a manifest that was just read with the lost and the altered entries, as an opening
    makes them."""
    lost = lost_beside_files(connection, database_of(connection).parent)
    return with_entries_right(connection, found, lost, altered_entries(connection))


def with_entries_right(
    connection: Connection, found: Manifest, lost: Mapping[str, int], altered: Collection[str]
) -> Manifest:
    """Return a manifest that was just read with these lost entries made again, and these altered
    ones put right."""
    if not lost and not altered:
        return found
    entries = [
        as_written(connection, entry) if entry.schema_name in altered else entry
        for entry in found.entries
    ]
    entries += [entry_again(connection, name, number) for name, number in lost.items()]
    entries.sort(key=lambda entry: entry.schema_name)
    return found.model_copy(update={"entries": tuple(entries)})


def entry_once_right(connection: Connection, schema_name: str) -> ManifestEntry | None:
    """Return the entry of a store as it is, or as a recovery makes it again or puts it right; None
    where it has none then, either."""
    entry = manifest.load_entries(connection, [schema_name]).get(schema_name)
    if entry is None:
        number = lost_entries(connection).get(schema_name)
        return None if number is None else entry_again(connection, schema_name, number)
    is_altered = schema_name in altered_entries(connection)
    return as_written(connection, entry) if is_altered else entry


def with_content_once_right(connection: Connection, names: Iterable[str]) -> frozenset[str]:
    """Return those of some stores whose content is in the database, by `entry_once_right`."""
    entries = (entry_once_right(connection, name) for name in names)
    return frozenset(
        entry.schema_name
        for entry in entries
        if entry is not None and has_content_of(connection, entry)
    )


def make_again(connection: Connection, schema_name: str, number: int) -> None:
    """Write the lost entry of a store: see `entry_again`."""
    manifest.insert_entries(connection, [entry_again(connection, schema_name, number)])
