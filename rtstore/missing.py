"""What to run where there is no runtime store."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rtstore.database.engine import DATABASE_NAME
from rtstore.descriptors import KNOWN_DESCRIPTORS


def how_to_make(directory: Path, team_name: str | None) -> str:
    """The command that makes a store in a directory, takes over what is in it, or goes on where the
    store is. Store files whose database is gone want a look first: a new store would know none of
    them."""
    from rtstore import legacy  # only where there is no store

    where, below = shlex.quote(str(directory)), directory / legacy.RUNTIME_DIRECTORY
    if legacy.is_legacy_directory(directory):
        return f"rtstore import {where}"
    if any((directory / item.relative_path).exists() for item in KNOWN_DESCRIPTORS):
        return f"rtstore doctor {where}"
    if os.path.lexists(below / DATABASE_NAME):
        return f"rtstore status {shlex.quote(str(below))}"
    if legacy.is_legacy_directory(below):
        return f"rtstore import {where}"
    return f"rtstore init {where} --team {shlex.quote(team_name or 'NAME')}"
