"""What keeps everybody from writing in a runtime directory, and the way out. Reads only.

Whether this user may write is another question: the runtime may be another one's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from rtstore.control.lock import LOCK_NAME, odd_lock
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import StorageError
from rtstore.files.owners import (
    Barrier,
    as_root,
    barrier,
    folder_to_write,
    is_immutable,
    is_mount_point,
    is_others,
    is_read_only,
    may,
    mounts,
    not_changeable,
)
from rtstore.files.paths import move_aside_command, store_path
from rtstore.foreign import system_error
from rtstore.maintenance.suggestions import owning_way, way_to_register
from rtstore.model.descriptors import TakenFiles
from rtstore.model.records import ROOM_FOR_NOTHING, Hindrance, HindranceKind, Suggestion
from rtstore.shell import rtstore_at, shell_word

FULL_BYTES = 1 << 20
"""With less free space than this, a batch may find no room."""
ALWAYS_WRITTEN = (LOCK_NAME, *(f"{DATABASE_NAME}{end}" for end in ("", "-wal", "-shm")))


def hindrances(
    directory: Path,
    stores: Mapping[str, str],
    committed: Mapping[str, str],
    moved: Mapping[str, str] = {},
    *,
    as_process: bool = False,
) -> tuple[Hindrance, ...]:
    """Return what keeps writes out of a directory, by the path of each store; those of all stores
    first. `committed` are the paths of the stores by their entries, `moved` those of stores that
    have another file than in `stores`.

    Asked by the readiness check, by `rtstore status` and by `rtstore doctor`. The runtime asks
    `as_process`: what may this process write? Others ask for the user of the directory.
    """
    whole = tuple(_of_all(directory, as_process=as_process))
    if whole:
        return whole
    if committed and not stores:
        return (_no_stores(directory, committed),)
    here = {name: path for name, path in stores.items() if name not in moved}
    return (
        *_of_stores(directory, here, as_process=as_process),
        *_taken(here, committed),
        *_moved(moved),
    )


def mounted_database(directory: Path) -> Hindrance | None:
    """Return a hindrance if the database is a mount point, which cannot be replaced; else None."""
    path = directory / DATABASE_NAME
    if not is_mount_point(path):
        return None
    quoted = shell_word(path)
    return Hindrance(
        kind=HindranceKind.MOUNT,
        problem="the database is a mount point, and what is mounted cannot be replaced",
        way=Suggestion(
            command=None,
            why=f"a person must unmount {quoted} first, and mount the directory instead of the one "
            "file; then look again",
        ),
    )


def refuse_mounted_database(directory: Path) -> None:
    """Raise `StorageError` where the database cannot be replaced."""
    found = mounted_database(directory)
    if found is not None:
        raise StorageError(directory / DATABASE_NAME, found.problem, found.way.why)


def free_bytes(directory: Path) -> int | None:
    """Return how much room this user has on the file system; None where it cannot be found out."""
    try:
        found = os.statvfs(directory)
    except system_error(AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def no_room(directory: Path) -> Hindrance | None:
    """Return a full disk as a hindrance, or None. It hinders only what needs room."""
    free = free_bytes(directory)
    if free is None or free >= FULL_BYTES:
        return None
    full = "full" if free < ROOM_FOR_NOTHING else "nearly full"
    return Hindrance(
        kind=HindranceKind.FULL,
        problem=f"the disk is {full}",
        way=Suggestion(
            command=None,
            why=f"first, a person must make room, for the disk is {full}: {free >> 10} KiB are "
            f"free. How much is missing: {rtstore_at('doctor', directory)}",
        ),
    )


def _of_all(directory: Path, *, as_process: bool) -> Iterator[Hindrance]:
    if is_read_only(directory):
        yield _read_only(directory, None)
        return
    always_written = _always_written(directory)
    lock = always_written[0]
    problem = odd_lock(lock)
    if problem is not None:
        yield Hindrance(
            kind=HindranceKind.LOCK,
            problem=f"the writer lock cannot be taken: its file is {problem}",
            way=Suggestion(
                command=move_aside_command(lock),
                why=f"moves away what has the name of the lock file, which is {problem}: until "
                "then nothing can be written",
            ),
        )
        return
    fixed = [item for item in (directory, *always_written) if is_immutable(item)]
    if fixed:
        yield _immutable(fixed[0], None)
        return
    foreign = _of_others(directory, as_process=as_process)
    if foreign:
        yield Hindrance(
            kind=HindranceKind.OWNER,
            problem="writing does not work: another user owns, and keeps from this one, "
            f"{', '.join(foreign)}",
            way=owning_way(directory),
        )
    elif as_process:
        yield from _own_modes((directory, *always_written))


def _own_modes(paths: Iterable[Path]) -> Iterator[Hindrance]:
    """Yield the first of what every write needs that its mode keeps this user from."""
    for path in paths:
        needed = os.W_OK | (os.X_OK if path.is_dir() else os.R_OK)
        if os.path.exists(path) and not may(path, needed):
            shown = shell_word(path)
            yield Hindrance(
                kind=HindranceKind.MODE,
                problem=f"writing does not work: the mode of {shown} keeps its owner from writing",
                way=Suggestion(
                    command=f"chmod u+rw{'x' if path.is_dir() else ''} {shown}",
                    why="lets its owner write: until then nothing can be written",
                ),
            )
            return


@lru_cache(maxsize=64)
def _always_written(directory: Path) -> tuple[Path, ...]:
    """Return the paths of the lock file, of the database and of the files that SQLite has beside
    it."""
    return tuple(directory / name for name in ALWAYS_WRITTEN)


def _of_others(directory: Path, *, as_process: bool) -> tuple[str, ...]:
    """What every write needs, and another user keeps from the one who asks."""
    found = tuple(not_changeable(directory, (".", *ALWAYS_WRITTEN)))
    if not found or not (as_process or not _is_others(directory)):
        return ()
    return tuple("the directory" if name == "." else name for name in found)


def _is_others(directory: Path) -> bool:
    return is_others(directory, directory / DATABASE_NAME)


def _of_stores(
    directory: Path, stores: Mapping[str, str], *, as_process: bool
) -> Iterator[Hindrance]:
    real = _path(os.path.realpath(directory))
    mounted = {mount.path for mount in mounts(below=real)}
    folders = {path.rpartition("/")[0] for path in stores.values()} - {""}
    closed = {real / folder for folder in folders if is_read_only(real / folder)}
    fixed = {real / folder for folder in folders if is_immutable(real / folder)}
    shut = _shut(directory, folders, as_process=as_process)
    for name, relative_path in stores.items():
        text = f"{real}/{relative_path}"
        is_free = may(text, os.W_OK) or not may(text, os.F_OK)
        if is_free and not mounted and not closed and not fixed and not shut:
            continue  # most often, and quickly
        if relative_path.rpartition("/")[0] in shut:
            yield _shut_to(name, directory, shut[relative_path.rpartition("/")[0]])
        path = store_path(real, relative_path)
        if not is_free and is_immutable(path):
            yield _immutable(store_path(directory, relative_path), name)
        shown = store_path(directory, relative_path)
        if path.parent in fixed:
            yield _immutable(shown.parent, name)
        if path in mounted:
            again = rtstore_at("recover", directory)
            yield Hindrance(
                kind=HindranceKind.MOUNT,
                schema_name=name,
                problem=f"{name} cannot be written: its file is a mount point",
                way=Suggestion(
                    command=None,
                    why="a person must mount the directory instead of the one file: "
                    f"{shell_word(shown)} is a mount point, and what is mounted cannot be "
                    f"replaced; then: {again}",
                ),
            )
        elif path.parent in closed:
            yield _read_only(shown.parent, name)


def _shut(directory: Path, folders: Iterable[str], *, as_process: bool) -> dict[str, Path]:
    """Return the folders of stores in which the one who asks can write nothing, each with the
    folder that its owner or its mode keeps shut."""
    shut = {}
    for folder in folders:
        if may(directory / folder, os.W_OK | os.X_OK):
            continue
        path = folder_to_write(directory, folder)
        if path is None or barrier(path) not in (Barrier.OWNER, Barrier.MODE):
            continue
        if as_process or not _is_others(directory):
            shut[folder] = path
    return shut


def _shut_to(name: str, directory: Path, folder: Path) -> Hindrance:
    shown = shell_word(folder)
    if barrier(folder) is Barrier.MODE:
        return Hindrance(
            kind=HindranceKind.MODE,
            schema_name=name,
            problem=f"{name} cannot be written: the mode of {shown} keeps its owner from writing",
            way=Suggestion(
                command=f"chmod u+rwx {shown}",
                why="lets its owner write there: until then a batch that writes a store there "
                "fails",
            ),
        )
    return Hindrance(
        kind=HindranceKind.OWNER,
        schema_name=name,
        problem=f"{name} cannot be written: {shown} belongs to another user, and lets this one "
        "write nothing",
        way=owning_way(directory),
    )


def _no_stores(directory: Path, committed: Mapping[str, str]) -> Hindrance:
    """Without a descriptor no file is looked at, and nothing can be read or written."""
    names = ", ".join(committed)
    way = way_to_register(directory, committed)
    return Hindrance(
        kind=HindranceKind.NO_STORES,
        problem=f"no descriptor is registered, so that no store is looked after: committed {names}",
        way=Suggestion(command=way.command, why=f"no store is looked after here: {way.why}"),
    )


def _taken(stores: Mapping[str, str], committed: Mapping[str, str]) -> Iterator[Hindrance]:
    """Opening refuses such descriptors; but another process may have written a store since."""
    taken = TakenFiles(committed)
    for name, path in stores.items():
        by = taken.by(name, path)
        if by is not None:
            yield Hindrance(
                kind=HindranceKind.TAKEN,
                schema_name=name,
                problem=f"{name} cannot be written: {by.problem(path)}",
                way=Suggestion(command=None, why=f"the runtime must {by.way(name)}"),
            )


def _moved(stores: Mapping[str, str]) -> Iterator[Hindrance]:
    """Opening gives stores their files; but another process may have given them others since."""
    for name, path in stores.items():
        way = "open the directory again, with the descriptor for that file or without descriptors"
        yield Hindrance(
            kind=HindranceKind.MOVED,
            schema_name=name,
            problem=f"{name} cannot be written: another program gave it the file {path}; {way}",
            way=Suggestion(command=None, why=f"the runtime must {way}: {name} is in {path} now"),
        )


_path = lru_cache(maxsize=64)(Path)


def _immutable(path: Path, name: str | None) -> Hindrance:
    what = "writing does not work" if name is None else f"{name} cannot be written"
    return Hindrance(
        kind=HindranceKind.IMMUTABLE,
        schema_name=name,
        problem=f"{what}: somebody made {path.name} immutable (chattr)",
        way=Suggestion(
            command=as_root(f"chattr -i {shell_word(path)}"),
            why="lets it be changed again, by root: until then nobody can",
        ),
    )


def _read_only(path: Path, name: str | None) -> Hindrance:
    what = "writing does not" if name is None else f"{name} cannot be written"
    return Hindrance(
        kind=HindranceKind.READ_ONLY,
        schema_name=name,
        problem=f"the file system is mounted read-only: looking works, {what}",
        way=Suggestion(
            command=None,
            why=f"a person must mount {shell_word(path)} for writing first: until then "
            "neither the runtime nor a recovery can work there",
        ),
    )
