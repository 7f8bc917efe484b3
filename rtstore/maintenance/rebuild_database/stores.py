"""Checks store files as a write is checked, so that they can be committed. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files.paths import check_target, store_path
from rtstore.files.remains import files_in_folders
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.maintenance.rebuild_database.broken import Salvage
from rtstore.maintenance.rebuild_database.report import RebuiltStore, StoreOutcome
from rtstore.model.arguments import NUMBER_MAX
from rtstore.model.data_upgrade import data_problem
from rtstore.model.descriptors import NO_STORES, RESERVED_NAMES, Descriptor
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import ManifestEntry, Record

_SUFFIX = ".json"


class FoundStore(Record):
    """One store, and the content to commit for it."""

    store: RebuiltStore
    content: bytes | None = None
    """None when there is nothing to commit."""
    schema_version: int = 0
    mtime_ns: int = 0
    entry: ManifestEntry | None = None
    """The entry of the damaged database for exactly this content; None when there is none."""


def look_at_store(
    directory: Path, descriptor: Descriptor, salvage: Salvage, fs: FileSystem
) -> FoundStore:
    """Return what can be committed for one store: its file, or else its content in the damaged
    database."""
    name, path = descriptor.schema_name, descriptor.relative_path
    entry = salvage.entries.get(name)
    try:
        check_target(directory, path, name, fs)
        content, stat = fs.read(store_path(directory, path))
    except (FileNotFoundError, NotADirectoryError):
        return _instead(descriptor, salvage, StoreOutcome.MISSING, "there is no file")
    except system_error(UnsafePathError) as error:
        return _instead(descriptor, salvage, StoreOutcome.LEFT_OUT, str(error))
    problem, version = _problem(descriptor, content)
    if problem is not None:
        return _instead(descriptor, salvage, StoreOutcome.LEFT_OUT, problem)
    same = entry is not None and entry.content_hash == content_hash(content)
    detail = None
    if entry is not None and not same:
        detail = "the file differs from what was committed last; it is taken as it is"
    return FoundStore(
        store=RebuiltStore(
            schema_name=name, relative_path=path, outcome=StoreOutcome.FROM_FILE, detail=detail
        ),
        content=content,
        schema_version=version,
        mtime_ns=min(stat.st_mtime_ns, NUMBER_MAX),  # of a file from after the year 2262
        entry=entry if same else None,
    )


def unknown_files(directory: Path, registry: Iterable[Descriptor], fs: FileSystem) -> list[str]:
    """Return the JSON files in the directory, and the store files in its folders, that belong to no
    known store. They may belong to stores that only the damaged database knew."""
    known = {item.relative_path for item in registry} | RESERVED_NAMES | NO_STORES
    names = [
        name
        for name in fs.list_directory(directory)
        if name.endswith(_SUFFIX) and not name.startswith(".")
    ]
    return sorted({*names, *files_in_folders(directory, fs)} - known)


def _problem(descriptor: Descriptor, content: bytes) -> tuple[str | None, int]:
    """Return why a file cannot be committed, or None; and its schema version. Data of an older
    version is committed as it is: opening the store upgrades it."""
    try:
        envelope = decode(content)
    except EnvelopeError as error:
        return str(error), 0
    found, known = envelope.schema_version, descriptor.schema_version
    if found > known:
        return f"schema version {found}, this program knows {known}", found
    if found < 1:
        return f"schema version {found}", found
    return data_problem(descriptor, found, envelope.data), found


def _instead(
    descriptor: Descriptor, salvage: Salvage, outcome: StoreOutcome, problem: str
) -> FoundStore:
    name = descriptor.schema_name
    content, entry = salvage.contents.get(name), salvage.entries.get(name)
    found = content is not None and entry is not None
    detail = None if outcome is StoreOutcome.MISSING and not found else problem
    store = RebuiltStore(
        schema_name=name,
        relative_path=descriptor.relative_path,
        outcome=StoreOutcome.FROM_DATABASE if found else outcome,
        detail=detail,
    )
    if content is None or entry is None:
        return FoundStore(store=store)
    return FoundStore(
        store=store,
        content=content,
        schema_version=entry.schema_version,
        mtime_ns=entry.mtime_ns,
        entry=entry,
    )
