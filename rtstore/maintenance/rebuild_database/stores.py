"""Checks store files as a write is checked, so that they can be committed. Reads only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rtstore.errors import InvalidRequestError, UnsafePathError
from rtstore.files.paths import check_target, store_path
from rtstore.files.remains import files_in_folders, store_files
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.maintenance.rebuild_database.broken import Salvage
from rtstore.maintenance.rebuild_database.report import RebuiltStore, StoreOutcome
from rtstore.model.arguments import NUMBER_MAX
from rtstore.model.data_upgrade import data_problem
from rtstore.model.descriptors import NO_STORES, RESERVED_NAMES, Descriptor, Registry
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import ManifestEntry, Record

_SUFFIX = ".json"


class Superseded(Record):
    """What a file holds that is not committed: a version of a batch, which nobody edited."""

    content: bytes
    schema_version: int
    mtime_ns: int


class FoundStore(Record):
    """One store, and the content to commit for it."""

    store: RebuiltStore
    content: bytes | None = None
    """None when there is nothing to commit."""
    schema_version: int = 0
    mtime_ns: int = 0
    entry: ManifestEntry | None = None
    """The entry of the damaged database for exactly this content; None when there is none."""
    before: ManifestEntry | None = None
    """The entry there of other content, where the file was changed since."""
    superseded: Superseded | None = None
    """What its file holds instead; None unless that is a version of ours."""


def at_their_files(directory: Path, wanted: Registry, salvage: Salvage) -> Registry:
    """Return the descriptors that are wanted, each with the file that its store has: a program that
    gives a store a new file may not have opened the directory yet, and an opening moves it.

    Raises `InvalidRequestError` for a descriptor whose file is that of another store.
    """
    remembered = {item.schema_name: item.relative_path for item in salvage.descriptors or ()}
    owners = {path: name for name, path in salvage.paths.items()}
    owners |= {path: name for name, path in remembered.items() if name in salvage.paths}
    found = []
    for item in wanted:
        name, path = item.schema_name, item.relative_path
        owner = owners.get(path, name)
        if owner != name:
            problem = (
                f"the file {path} is that of store {owner}: give {owner} this relative_path here, "
                f"and {name} another one; what an opening moves is moved afterwards"
            )
            raise InvalidRequestError("descriptors", problem, store=name)
        now = _file_now(directory, item, remembered.get(name), salvage)
        found.append(item.model_copy(update={"relative_path": now}))
    return Registry(found)


def _file_now(
    directory: Path, descriptor: Descriptor, remembered: str | None, salvage: Salvage
) -> str:
    """Return the file of a store: the first that is there of the remembered one, that of its entry
    and that of its descriptor; the first, if none is.

    Where no descriptor can be read, an opening may have moved the store since its entry was
    written. Only a file that has exactly what was committed shows that: an older program names the
    file that the store had before.
    """
    own, committed = descriptor.relative_path, salvage.paths.get(descriptor.schema_name)
    paths: dict[str, Path] = {}
    for path in (remembered, committed, own):
        with suppress(UnsafePathError):  # of a damaged entry
            paths |= {} if path is None else {path: store_path(directory, path)}
    there = [path for path, place in paths.items() if os.path.lexists(place)]
    entry = salvage.entries.get(descriptor.schema_name)
    if salvage.descriptors is None and entry is not None:
        as_committed = [path for path in there if _has(paths[path], entry.content_hash)]
        there = [*as_committed, *there]
    return next(iter([*there, *paths]))


def _has(path: Path, expected_hash: str) -> bool:
    try:
        return content_hash(path.read_bytes()) == expected_hash
    except OSError:
        return False


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
    found_hash = content_hash(content)
    same = entry is not None and entry.content_hash == found_hash
    mtime_ns = min(stat.st_mtime_ns, NUMBER_MAX)  # of a file from after the year 2262
    if not same and _is_ours(descriptor, content, salvage):
        held = Superseded(content=content, schema_version=version, mtime_ns=mtime_ns)
        found = _superseded(descriptor, salvage)
        if found is not None:
            return found.model_copy(update={"superseded": held})
    detail = None
    if entry is not None and not same:
        detail = "the file differs from what was committed last; it is taken as it is"
    return FoundStore(
        store=RebuiltStore(
            schema_name=name, relative_path=path, outcome=StoreOutcome.FROM_FILE, detail=detail
        ),
        content=content,
        schema_version=version,
        mtime_ns=mtime_ns,
        entry=entry if same else None,
        before=None if same else entry,
    )


def _is_ours(descriptor: Descriptor, content: bytes, salvage: Salvage) -> bool:
    """Return whether a file, which is not what is committed, holds a version of a batch: see
    `rtstore.control.contents.is_of_batch`. A part of one that is JSON lacks only the newline."""
    name, path = descriptor.schema_name, descriptor.relative_path
    whole = content.rstrip(b"\0")
    hashes = {content_hash(each) for each in (content, whole + b"\n", whole + b"\r\n")}
    return any(
        found in hashes and (store == name or there == path)
        for store, there, found in salvage.logged_here
    )


def _superseded(descriptor: Descriptor, salvage: Salvage) -> FoundStore | None:
    """Return what is committed for a store whose file holds another version of ours; None where
    the database does not say, so that the file is all that is left."""
    name = descriptor.schema_name
    if name in salvage.contents:
        problem = "its file holds another version of ours, of a batch before or one that failed"
        return _instead(descriptor, salvage, StoreOutcome.FROM_DATABASE, problem)
    if name not in salvage.unwritten:
        return None
    detail = "nothing is committed for it: its file is of a batch that failed, or was deleted since"
    store = RebuiltStore(
        schema_name=name,
        relative_path=descriptor.relative_path,
        outcome=StoreOutcome.DELETED,
        detail=detail,
    )
    return FoundStore(store=store)


def nameless_files(directory: Path, registry: Iterable[Descriptor], fs: FileSystem) -> list[str]:
    """Return what `unknown_files` does, without JSON files that no store can have written."""
    known = {item.relative_path for item in registry}
    return sorted({*store_files(directory, (), fs), *files_in_folders(directory, fs)} - known)


def say_whose(
    directory: Path, names: Iterable[str], registry: Iterable[Descriptor], fs: FileSystem
) -> str:
    """Return a sentence on whose files those may be that no descriptor names. Nothing says it for
    sure, so no file is given to a store: it would have another one's data."""
    held: dict[str, str] = {}
    for item in registry:
        found = _hash_at(directory, item.relative_path, fs)
        if found is not None:
            held.setdefault(found, f"{item.relative_path} of {item.schema_name}")
    twins = {name: held.get(_hash_at(directory, name, fs) or "") for name in names}
    same = [f"{name} is, byte for byte, {path}" for name, path in twins.items() if path]
    told = f": {', '.join(same[:5])}" if same else ""
    return (
        "Only the runtime knows whose such a file is: such a store may have been deleted or never "
        f"written, and the file may be one that a store had which has another one now{told}"
    )


def _hash_at(directory: Path, relative_path: str, fs: FileSystem) -> str | None:
    try:
        return content_hash(fs.read(store_path(directory, relative_path))[0])
    except system_error(UnsafePathError):
        return None


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
