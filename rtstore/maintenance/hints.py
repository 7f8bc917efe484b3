"""Suggests what to do where there is no runtime store: a new directory, a legacy directory, or one
whose database is gone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rtstore.control import batches, manifest, revisions
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import DatabaseMissingError, Hint
from rtstore.files.paths import store_path
from rtstore.files.remains import (
    files_in_folders,
    had_database,
    has_envelope,
    kept_beside,
    store_files,
    written_at,
)
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.forks import no_fork
from rtstore.maintenance.renamed import renamed_databases
from rtstore.maintenance.suggestions import (
    LaunchState,
    about_descriptors,
    rebuild_command,
    rebuild_with_descriptors,
    say_renamed,
    two_teams,
)
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, LAUNCH_STATE, Descriptor
from rtstore.model.times import parse_time
from rtstore.shell import rtstore_at, shell_word

_KNOWN_NAMES = frozenset(item.schema_name for item in KNOWN_DESCRIPTORS)


class SuggestedCommand(NamedTuple):
    """A command, and what it does: the end of a `NotARuntimeDirectoryError`."""

    run: str
    hint: Hint


def suggest_command(directory: Path, team_name: str | None) -> SuggestedCommand:
    """Return the command that creates a store in a directory, imports a legacy directory, or uses
    the store below it. For store files without a database it is the doctor: a new store would know
    none of them."""
    with no_fork():  # only where there is no store
        from rtstore import legacy

    below = directory / legacy.RUNTIME_DIRECTORY
    if legacy.is_to_import(directory):
        return import_command(directory)
    if what_is_there(directory, KNOWN_DESCRIPTORS, FileSystem()):
        return SuggestedCommand(rtstore_at("doctor", directory), Hint.EXAMINE)
    if os.path.lexists(below / DATABASE_NAME):
        return SuggestedCommand(rtstore_at("status", below), Hint.LOOK)
    if legacy.is_legacy_directory(below):
        return import_command(directory)
    for team in (directory, below):
        if legacy.has_lanes_to_import(team):
            return import_command(directory)
        if legacy.has_lanes(team):
            return SuggestedCommand(rtstore_at("status", team), Hint.LOOK)
    return create_command(directory, team_name)


def create_command(directory: Path, team_name: str | None) -> SuggestedCommand:
    """Return the command that creates a store in a directory."""
    run = f"{rtstore_at('init', directory)} --team {shell_word(team_name or 'NAME')}"
    return SuggestedCommand(run, Hint.CREATE)


def import_command(directory: Path) -> SuggestedCommand:
    """Return the command that imports a legacy directory."""
    return SuggestedCommand(rtstore_at("import", directory), Hint.IMPORT)


def what_is_there(
    directory: Path, descriptors: Iterable[Descriptor], fs: FileSystem
) -> tuple[str, ...]:
    """Return what shows that a directory without a database once had one: store files, quarantine,
    and databases that were set aside or renamed."""
    known = [item.relative_path for item in (*KNOWN_DESCRIPTORS, *descriptors)]
    return (
        *store_files(directory, known, fs),
        *kept_beside(directory, fs),
        *renamed_databases(directory, fs),
    )


def refuse_lost_database(
    directory: Path,
    team_name: str | None,
    descriptors: Iterable[Descriptor] | None,
    fs: FileSystem,
) -> None:
    """Raise `DatabaseMissingError` when there is no database, but there are files that it knew.

    Reads the files first and looks for the database afterwards. A database that another process
    creates at this moment exists before its first store file.
    """
    found = what_is_there(directory, descriptors or (), fs)
    if found and not revisions.exists(directory / DATABASE_NAME):
        refuse_renamed_database(directory, found, fs)
        launch = read_launch_state(directory, fs)
        team = launch.team_name or team_name or "NAME"
        run = rebuild_command(directory, launch, team_name=team)
        if nameless(store_files(directory, (), fs)):
            run = rebuild_with_descriptors(directory, launch, team_name=team)
            run += f" ({about_descriptors(directory, team_name=team)})"
        gone = had_database(directory, fs)
        problem = "its database is gone" if gone else "its database is gone, or it never had one"
        with no_fork():
            from rtstore import legacy
        if legacy.newer_than_control_files(directory, fs):
            problem += "; the control files of the legacy format are older than the store files"
        raise DatabaseMissingError(directory, found, problem, run)


def refuse_renamed_database(directory: Path, found: tuple[str, ...], fs: FileSystem) -> None:
    """Raise `DatabaseMissingError` when a directory has a database of rtstore under another name
    only. `found` is what is there, for the error."""
    renamed = renamed_databases(directory, fs)
    if renamed:
        problem = f"its database is gone. {say_renamed(tuple(renamed))}"
        run = next(iter(renamed.values())) if len(renamed) == 1 else rtstore_at("doctor", directory)
        raise DatabaseMissingError(directory, found, problem, run, renamed=tuple(renamed))


def refuse_lost_batches(
    directory: Path, database: Database, descriptors: Iterable[Descriptor], fs: FileSystem
) -> None:
    """Raise `DatabaseMissingError` when the database has no batch, but a store file is there: the
    batches of its first session were in a WAL that was not copied along.
    """
    found = files_of_lost_batches(directory, database, descriptors, fs)
    if found:
        launch = read_launch_state(directory, fs)
        problem = "its database knows of no batch: it is a new one, or its WAL did not come along"
        run = rebuild_command(directory, launch)
        team = database.read(manifest.load_head).team_name
        named = database.read(manifest.load_descriptors) or KNOWN_DESCRIPTORS
        if not {item.relative_path for item in named}.issuperset(found):
            run = rebuild_with_descriptors(directory, launch, team_name=team)
            run += f" ({about_descriptors(directory, team_name=team)})"
        if two_teams(directory, team, launch) is not None:
            problem += f"; it is of team {team!r}, and the files are of team {launch.team_name!r}"
            run = rtstore_at("doctor", directory)
        raise DatabaseMissingError(directory, found, problem, run)


def files_of_lost_batches(
    directory: Path, database: Database, descriptors: Iterable[Descriptor], fs: FileSystem
) -> tuple[str, ...]:
    """Return the store files that show that there was a batch, while the database has none.

    Reads the files first and the rows afterwards: a batch has its row before its first file. After
    an import, only a file that says that it was written since then shows one: a legacy runtime
    writes some without any batch.
    """
    paths = [item.relative_path for item in descriptors]
    found = tuple(path for path in paths if has_envelope(directory, path, fs))
    return _of_lost_batches(directory, database, found, fs)


def _of_lost_batches(
    directory: Path, database: Database, files: Iterable[str], fs: FileSystem
) -> tuple[str, ...]:
    found = tuple(files)
    if not found or not knows_no_batch(database):
        return ()
    imported_at = database.read(manifest.load_head).imported_at
    if imported_at is None:
        return found
    since = parse_time(imported_at)
    written = {path: written_at(directory, path, fs) for path in found}
    return tuple(path for path, at in written.items() if at is not None and at > since)


def files_of_unknown_stores(
    directory: Path, database: Database, descriptors: Iterable[Descriptor], fs: FileSystem
) -> tuple[str, ...]:
    """Return the store files of which a database without any batch knows no store, where it knows
    no store of a runtime's own, either: a runtime that has them is refused, as
    `refuse_lost_batches` says. Once a runtime has registered stores of its own, it has opened the
    directory beside such files: they are none of its."""
    if not {item.schema_name for item in descriptors} <= _KNOWN_NAMES:
        return ()
    top = (path for path in store_files(directory, (), fs) if "/" not in path)
    found = nameless((*top, *files_in_folders(directory, fs)))
    return _of_lost_batches(directory, database, found, fs)


def knows_no_batch(database: Database) -> bool:
    """Return whether no batch was ever logged in a database."""
    return database.read(batches.last_number) == 0


def nameless(files: Iterable[str]) -> list[str]:
    """Return the store files whose stores only the runtime can name: a file does not contain the
    name of its store."""
    known = {item.relative_path for item in KNOWN_DESCRIPTORS}
    return [path for path in files if path not in known]


def read_launch_state(directory: Path, fs: FileSystem) -> LaunchState:
    """Return what the launch state says in plain text, if it can be read at all."""
    (launch,) = (item for item in KNOWN_DESCRIPTORS if item.schema_name == LAUNCH_STATE)
    try:
        document = json.loads(fs.read(store_path(directory, launch.relative_path))[0])
        data = document["data"].items()
    except system_error(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return LaunchState()
    texts = {
        name: value
        for name, value in data
        if isinstance(value, str) and value.strip() and value.isprintable()
    }
    return LaunchState(
        team_name=texts.get("teamName"),
        run_id=texts.get("runId"),
        provider_id=texts.get("providerId"),
        capability_snapshot_id=texts.get("capabilitySnapshotId"),
    )
