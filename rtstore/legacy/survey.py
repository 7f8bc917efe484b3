"""Compares the store files of a legacy directory with its manifest, and lists its other files.

Reads only. Each store file is read once: the imported bytes are the bytes that were hashed, also
when the file changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rtstore.errors import UnsafePathError
from rtstore.files.paths import check_target, store_path
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import (
    TOMBSTONES_NAME,
    ControlFiles,
    is_legacy_directory,
)
from rtstore.legacy.format import LegacyEntry
from rtstore.legacy.report import ImportedStore, OtherFile, OtherKind, StoreOutcome
from rtstore.model.descriptors import LANE_INDEX, RESERVED_NAMES, Registry
from rtstore.model.envelope import EnvelopeError, content_hash, decode
from rtstore.model.records import Record
from rtstore.shell import rtstore_at

LANES = "lanes"
KNOWN_OTHERS = {
    LANE_INDEX: OtherKind.LANE_INDEX,
    TOMBSTONES_NAME: OtherKind.RUN_TOMBSTONES,
}
"""Files of the runtime that are not stores, and stay in use."""
_OWN_PREFIXES = ("runtime-store.", ".runtime-store.")
"""The database, its side files, the writer lock, and the unfinished database of a dead process."""


Progress = Callable[[int, int], None]
"""Called with the number of stores that were read, and the number of all."""


class FoundStore(Record):
    """One store, and its bytes when they are to be imported."""

    store: ImportedStore
    content: bytes | None = None


def check_descriptors(files: ControlFiles, registry: Registry) -> None:
    """Raise `LegacyImportError` for an entry that contradicts a descriptor."""
    owners = {item.relative_path.casefold(): item.schema_name for item in registry}
    for index, entry in enumerate(files.manifest.entries):
        name, path = entry.schema_name, entry.relative_path
        place = f"entries[{index}].relativePath"
        if name in registry and path != registry.get(name).relative_path:
            raise files.bad_manifest(
                place,
                f"{path!r} here, {registry.get(name).relative_path!r} in the descriptor of {name}. "
                f"{_ways(files)}",
            )
        owner = owners.get(path.casefold(), name)
        if owner != name:
            problem = f"{path!r} is the file of {owner}, not of {name}. {_ways(files)}"
            raise files.bad_manifest(place, problem)


def _ways(files: ControlFiles) -> str:
    """Return what helps where a store's name and path in the manifest are not those of a
    descriptor."""
    return (
        f"If somebody edited {files.manifest_path.name}, correct the entry in it, and import "
        "again. If the runtime has the store there, or had it there once, import it with "
        "descriptors that say so, and open it with those of now then, which gives the store its "
        f"file: {rtstore_at('import', files.manifest_path.parent)} --descriptors MODULE:NAME"
    )


def look_at_stores(
    directory: Path,
    files: ControlFiles,
    registry: Registry,
    fs: FileSystem,
    progress: Progress | None = None,
) -> list[FoundStore]:
    """Return every store with an entry or a file; the registered ones first, in their order."""
    entries = {entry.schema_name: entry for entry in files.entries}
    known = [(item.schema_name, item.relative_path) for item in registry]
    unknown = [
        (name, entry.relative_path) for name, entry in entries.items() if name not in registry
    ]
    found = []
    for number, (name, path) in enumerate([*known, *unknown], start=1):
        store = _look(directory, name, path, entries.get(name), fs)
        if store is not None and number > len(known):
            unregistered = store.store.model_copy(update={"registered": False})
            store = store.model_copy(update={"store": unregistered})
        if store is not None:
            found.append(store)
        if progress is not None:
            progress(number, len(known) + len(unknown))
    return found


def hash_at(directory: Path, name: str, relative_path: str, fs: FileSystem) -> str | None:
    """Return the hash of a store's file; None when there is none that can be read."""
    try:
        check_target(directory, relative_path, name, fs)
        content, _ = fs.read(store_path(directory, relative_path))
    except (OSError, UnsafePathError):
        return None
    return content_hash(content)


def look_beside(
    directory: Path, files: ControlFiles, stores: list[FoundStore], fs: FileSystem
) -> list[OtherFile]:
    """Return the other files in the folders that hold stores. They are reported, and not
    changed."""
    paths = {store.store.relative_path for store in stores} | set(files.names)
    folders = {path.rpartition("/")[0] for path in paths} | {""}
    parents = {parent for folder in folders for parent in _parents(folder)}
    others: list[OtherFile] = []
    for folder in sorted(folders):
        for name in sorted(_names(store_path(directory, folder) if folder else directory, fs)):
            path = f"{folder}/{name}" if folder else name
            if path not in paths and path not in parents and not (folder == "" and _own(name)):
                others.extend(_other(directory, path, name, fs))
    return others


def _look(
    directory: Path, name: str, relative_path: str, entry: LegacyEntry | None, fs: FileSystem
) -> FoundStore | None:
    """Return one store; None when it has neither entry nor file."""

    def found(
        outcome: StoreOutcome, detail: str | None = None, content: bytes | None = None
    ) -> FoundStore:
        store = ImportedStore(
            schema_name=name, relative_path=relative_path, outcome=outcome, detail=detail
        )
        return FoundStore(store=store, content=content)

    try:
        check_target(directory, relative_path, name, fs)
        content, _ = fs.read(store_path(directory, relative_path))
    except (FileNotFoundError, NotADirectoryError):
        return None if entry is None else found(StoreOutcome.MISSING)
    except (OSError, UnsafePathError) as error:
        return found(StoreOutcome.UNREADABLE, str(error))
    if entry is None:
        return found(StoreOutcome.NO_MANIFEST_ENTRY)
    if content_hash(content) != entry.content_hash:
        return found(StoreOutcome.HASH_DIFFERS)
    try:
        decode(content)
    except EnvelopeError as error:
        return found(StoreOutcome.NOT_A_STORE_FILE, str(error))
    return found(StoreOutcome.CONTENT_TAKEN, content=content)


def is_own(name: str) -> bool:
    """Return whether a name at the top of a runtime directory belongs to rtstore itself; legacy
    control files do not."""
    return name == QUARANTINE_DIRECTORY or name.startswith(_OWN_PREFIXES)


def _other(directory: Path, path: str, name: str, fs: FileSystem) -> Iterator[OtherFile]:
    if path == LANES and fs.is_directory(directory / LANES):
        for lane in sorted(_names(directory / LANES, fs)):
            is_lane = is_legacy_directory(directory / LANES / lane)
            kind = OtherKind.LANE if is_lane else OtherKind.OTHER
            yield OtherFile(path=f"{LANES}/{lane}", kind=kind)
    else:
        yield OtherFile(path=path, kind=kind_of(name))


def kind_of(name: str) -> OtherKind:
    """Return the kind of a file next to the stores, by its name."""
    if name.endswith(".lock"):
        return OtherKind.LOCK
    if ".tmp." in name or name.endswith(".tmp"):
        return OtherKind.TEMPORARY_FILE
    return KNOWN_OTHERS.get(name, OtherKind.OTHER)


def _own(name: str) -> bool:
    """Return whether a name in the runtime directory is a control file, or belongs to rtstore."""
    return name in RESERVED_NAMES or name == QUARANTINE_DIRECTORY or name.startswith(_OWN_PREFIXES)


def _parents(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _names(path: Path, fs: FileSystem) -> list[str]:
    try:
        return fs.list_directory(path)
    except OSError:
        return []
