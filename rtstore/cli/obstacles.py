"""Finds obstacles that block a store's file, so that the next recovery would fail again."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from rtstore.control import recovery_log
from rtstore.control.sqlite.engine import Database
from rtstore.files.owners import Barrier, barrier, closed_by_mode, not_changeable
from rtstore.files.paths import end_of_link, runtime_directory_at
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.files.system import FileSystem
from rtstore.maintenance.suggestions import owning_way
from rtstore.model.records import ActionKind, InspectionState, Record, RecoveryAction, Suggestion


class ObstacleKind(StrEnum):
    """What is in the way."""

    LINK = "link"
    OWNER = "owner"
    MODE = "mode"
    """Its own permission bits keep its owner out."""
    READ_ONLY = "read-only"
    """What must be kept cannot be: quarantine is mounted read-only."""
    NO_FOLDER = "no folder"
    """Something else is in place of a folder that it needs."""
    RUNTIME_DIRECTORY = "runtime directory"
    """A folder is in place of the file, and is another runtime directory, or holds one."""
    FAILED = "failed"
    """Not known, but the last recovery failed at it."""


class Obstacle(Record):
    """What is in the way of one store."""

    kind: ObstacleKind
    schema_name: str
    path: Path
    """What is in the way: the link, what belongs to somebody else, what is closed."""
    store_path: Path
    """The file of the store."""
    target: Path | None = None
    """What the link leads to, where that can take its place."""
    way: Suggestion | None = None
    """The command that changes its owner."""
    detail: str | None = None
    """The outcome that the last recovery recorded."""


_TOUCHING = frozenset(
    {
        ActionKind.RESTORE_COMMITTED,
        ActionKind.QUARANTINE,
        ActionKind.ROLL_FORWARD,
        ActionKind.BLOCK_READINESS,
    }
)


def obstacles_of(
    directory: Path, actions: Iterable[RecoveryAction], paths: dict[str, str], database: Database
) -> tuple[Obstacle, ...]:
    """Return what blocks these actions, by the path of each store. Reads only."""
    concerned = [
        action for action in actions if action.kind in _TOUCHING and action.schema_name in paths
    ]
    if not concerned:
        return ()
    failed = database.read(recovery_log.last_failures)
    found: dict[str, Obstacle] = {}
    for action in concerned:
        obstacle = _of(directory, action, paths[action.schema_name], failed)
        if obstacle is not None:
            found.setdefault(action.schema_name, obstacle)
    return tuple(found.values())


def _of(
    directory: Path,
    action: RecoveryAction,
    relative_path: str,
    failed: dict[tuple[str, str], str],
) -> Obstacle | None:
    name, path = action.schema_name, directory.joinpath(*relative_path.split("/"))
    link = _link_on_the_way(directory, relative_path)
    if link is not None:
        target = end_of_link(link, is_folder=link != path)
        return Obstacle(
            kind=ObstacleKind.LINK, schema_name=name, path=link, store_path=path, target=target
        )
    if action.kind is ActionKind.BLOCK_READINESS:
        return None
    there = _out_of_place(directory, relative_path)
    if there is not None:
        return Obstacle(kind=there[0], schema_name=name, path=there[1], store_path=path)
    parts = relative_path.split("/")
    keeps = [] if action.reason == InspectionState.MISSING else [QUARANTINE_DIRECTORY]
    way = [".", *keeps, *("/".join(parts[: end + 1]) for end in range(len(parts)))]
    for blocked in not_changeable(directory, way):
        return Obstacle(
            kind=ObstacleKind.OWNER,
            schema_name=name,
            path=directory if blocked == "." else directory / blocked,
            store_path=path,
            way=owning_way(directory),
        )
    for closed in closed_by_mode(directory, way):
        return Obstacle(
            kind=ObstacleKind.MODE,
            schema_name=name,
            path=directory if closed == "." else directory / closed,
            store_path=path,
        )
    if any(barrier(directory / folder) is Barrier.READ_ONLY for folder in keeps):
        return Obstacle(
            kind=ObstacleKind.READ_ONLY,
            schema_name=name,
            path=directory / QUARANTINE_DIRECTORY,
            store_path=path,
        )
    detail = failed.get((action.kind, name))
    if detail is None:
        return None
    return Obstacle(
        kind=ObstacleKind.FAILED, schema_name=name, path=path, store_path=path, detail=detail
    )


def _link_on_the_way(directory: Path, relative_path: str) -> Path | None:
    path = directory
    for part in relative_path.split("/"):
        path = path / part
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return path
        except OSError:
            return None
    return None


def _out_of_place(directory: Path, relative_path: str) -> tuple[ObstacleKind, Path] | None:
    """Return what has a name that the file of a store, or a folder of it, must have."""
    path = directory
    for part in relative_path.split("/")[:-1]:
        path = path / part
        if os.path.exists(path) and not os.path.isdir(path):
            return ObstacleKind.NO_FOLDER, path
    if runtime_directory_at(directory, relative_path, FileSystem()) is not None:
        return ObstacleKind.RUNTIME_DIRECTORY, directory / relative_path
    return None
