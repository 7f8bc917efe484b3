"""Finds the lanes of a team's runtime directory, and reads its list of them.

A lane is a runtime directory of its own, below `lanes/`, named by its id, percent-encoded. The list
`lanes.json` says which lane is active. Either may lack what the other has, and often the directory
has no control files of its own. Reads only, and raises nothing for what it finds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import pydantic_core

from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from rtstore.legacy.control_files import is_legacy_directory, lacks_manifest
from rtstore.legacy.survey import LANES
from rtstore.model.descriptors import LANE_INDEX
from rtstore.model.records import Record

_PLAIN = "!~*'()"
"""What the names of lanes keep as it is, besides letters, digits and `-_.`."""


class LaneIndex(Record):
    """The list of lanes."""

    states: Mapping[str, str]
    """The state of each lane by its id, such as `active`, `stopped` or `degraded`."""
    problem: str | None = None
    """Why it cannot be read, so that it says nothing; or what of it."""

    def state_of(self, name: str) -> str | None:
        """Return the state of the lane in a directory below `lanes/`, or None when the list does
        not know it."""
        return self.states.get(unquote(name)) if name == name_of(unquote(name)) else None


def read_lane_index(directory: Path, fs: FileSystem) -> LaneIndex | None:
    """Return the list of lanes of a runtime directory, or None when it has none."""
    try:
        content, _ = fs.read(directory / LANE_INDEX)
        document = pydantic_core.from_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return LaneIndex(states={}, problem=f"{LANE_INDEX} cannot be read: {error}")
    if isinstance(document, dict) and isinstance(document.get("data"), dict):
        document = document["data"]
    lanes = document.get("lanes") if isinstance(document, dict) else None
    if not isinstance(lanes, dict):
        return LaneIndex(states={}, problem=f"{LANE_INDEX} has no object of lanes")
    states = {lane_id: line.get("state") for lane_id, line in lanes.items() if _is_line(line)}
    unread = [lane_id for lane_id in lanes if lane_id not in states]
    problem = f"{LANE_INDEX} does not say the state of {', '.join(unread)}" if unread else None
    return LaneIndex(states=states, problem=problem)


def _is_line(line: object) -> bool:
    return isinstance(line, dict) and isinstance(line.get("state"), str)


def name_of(lane_id: str) -> str:
    """Return the name of a lane's directory."""
    return quote(lane_id, safe=_PLAIN, errors="replace")


def lane_names(directory: Path, fs: FileSystem) -> list[str]:
    """Return the names of the directories below `lanes/`; a link is none."""
    folder = directory / LANES
    try:
        if os.path.islink(folder):
            return []
        return [
            name
            for name in sorted(fs.list_directory(folder))
            if not os.path.islink(folder / name) and fs.is_directory(folder / name)
        ]
    except OSError:
        return []


def is_lane(directory: Path) -> bool:
    """Return whether a directory below `lanes/` is a runtime directory, of either format."""
    return os.path.lexists(directory / DATABASE_NAME) or is_legacy_directory(directory)


def lost_its_manifest(directory: Path) -> bool:
    """Return whether a directory below `lanes/` was one of the legacy format, whose manifest is
    gone: its receipts are there, and no database."""
    return lacks_manifest(directory) and not os.path.lexists(directory / DATABASE_NAME)


def has_lanes(directory: Path, fs: FileSystem | None = None) -> bool:
    """Return whether a directory is the runtime directory of a team with lanes."""
    fs = fs or FileSystem()
    return any(is_lane(directory / LANES / name) for name in lane_names(directory, fs))


def is_team_directory(directory: Path, fs: FileSystem | None = None) -> bool:
    """Return whether a directory has lanes, or a list that names some."""
    fs = fs or FileSystem()
    index = read_lane_index(directory, fs)
    return has_lanes(directory, fs) or (index is not None and bool(index.states))


def has_lanes_to_import(directory: Path, fs: FileSystem | None = None) -> bool:
    """Return whether a lane of a directory is of the legacy format, and was not imported yet."""
    fs = fs or FileSystem()
    return any(
        is_legacy_directory(lane) and not os.path.lexists(lane / DATABASE_NAME)
        for lane in (directory / LANES / name for name in lane_names(directory, fs))
    )
