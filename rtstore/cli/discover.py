"""Finds the runtime directories in and below a folder, without opening any but the back-ups: a
runtime may work in one since."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from rtstore.control.lock import LOCK_NAME
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from rtstore.model.descriptors import KNOWN_DESCRIPTORS

DEPTH_MAX = 8
DEPTH_NEAR = 3
"""Lanes are two below their runtime directory."""
DIRECTORIES_MAX = 20_000
"""What is walked at most: a folder may well be somebody's whole home."""

# Said again here, because their packages are large and most walks need no more of them.
BACKUP_RECORD = "runtime-store.backup.json"
LANES = "lanes"
LANE_INDEX = "lanes.json"
RUNTIME_DIRECTORY = ".opencode-runtime"
MANIFEST_NAMES = ("manifest.json", "opencode-runtime-manifest.json")

_SIGNS = {DATABASE_NAME, f"{DATABASE_NAME}-wal", LOCK_NAME} | {
    descriptor.relative_path for descriptor in KNOWN_DESCRIPTORS
}
"""Names that only a runtime directory has; one whose database is gone has the others still."""
_NEVER_INSIDE = {QUARANTINE_DIRECTORY, "node_modules", "__pycache__"}
_OWN_PREFIX = "runtime-store."
"""What a rebuild kept aside, and what a dead process left of a new database."""


class Place(NamedTuple):
    """A directory that holds a runtime store, did once, or cannot be looked into."""

    path: Path
    problem: OSError | None = None
    """Why it cannot be looked into."""


class Walk:
    """A walk through a folder: links are not followed, quarantine and back-ups are not looked into.
    A back-up that was written to since it was made is a runtime directory like any other.

    `tell` is called with the number of directories seen so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        depth_max: int = DEPTH_MAX,
        tell: Callable[[int], None] | None = None,
    ) -> None:
        self.backups: list[Path] = []
        """Each would open as a store, and is none."""
        self.was_cut_short = False
        """Whether there is more below than is walked."""
        self.lane_indexes: list[Path] = []
        """The directories with a list of lanes."""
        self._depth_max = depth_max
        self._tell = tell
        self._seen = 0
        self.places = sorted(self._below(folder, 0), key=lambda place: place.path.parts)
        self._paths = {place.path for place in self.places}

    def lane_id(self, place: Place) -> str | None:
        """Return the id of the lane that a place is in the runtime directory above it, or None."""
        team = self.team_of(place)
        return None if team is None else unquote(place.path.name)

    def team_of(self, place: Place) -> Path | None:
        """Return the runtime directory that a place is a lane of, or None. It may have no control
        files of its own."""
        folder = place.path.parent
        team = folder.parent
        is_team = team in self._paths or team in self.lane_indexes
        return team if folder.name == LANES and is_team else None

    def _below(self, folder: Path, depth: int) -> Iterator[Place]:
        self._seen += 1
        if self._tell is not None:
            self._tell(self._seen)
        try:
            with os.scandir(folder) as entries:
                names = {entry.name: _is_directory(entry) for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return  # gone since its name was read
        except OSError as error:
            yield Place(folder, error)
            return
        if BACKUP_RECORD in names and not _was_written_to(folder):
            self.backups.append(folder)
            return
        if LANE_INDEX in names:
            self.lane_indexes.append(folder)
        if not names.keys().isdisjoint(_SIGNS) or _is_legacy(folder, names):
            yield Place(folder)
        for name in sorted(filter(names.get, names)):
            if _may_hold_places(name):
                if depth >= self._depth_max or self._seen >= DIRECTORIES_MAX:
                    self.was_cut_short = True
                    return
                yield from self._below(folder / name, depth + 1)


class Near(NamedTuple):
    """What is not far below a folder."""

    has_places: bool
    backups: list[Path]


def near(folder: Path) -> Near:
    """Return whether there are runtime directories not far below a folder, and the back-ups."""
    walk = Walk(folder, depth_max=DEPTH_NEAR)
    return Near(any(place.path != folder for place in walk.places), walk.backups)


def has_places_beside(missing: Path) -> bool:
    """Return whether a runtime directory is where a path would be that does not exist."""
    walk = Walk(missing.parent, depth_max=1)
    return any(place.problem is None for place in walk.places)


def _was_written_to(backup: Path) -> bool:
    from rtstore.maintenance.backup.guard import record_of, was_written_to  # few folders have any

    record = record_of(backup)
    return record is not None and was_written_to(record)


def _is_legacy(folder: Path, names: Collection[str]) -> bool:
    if not any(name in names for name in MANIFEST_NAMES):
        return False
    from rtstore.legacy import is_legacy_directory

    return is_legacy_directory(folder)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _may_hold_places(name: str) -> bool:
    if name.startswith("."):
        return name == RUNTIME_DIRECTORY
    return name not in _NEVER_INSIDE and not name.startswith(_OWN_PREFIX)
