"""What a run was measured on: without it, no two runs can be compared."""

from __future__ import annotations

import os
import platform
import sqlite3
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks import peers
from tests.benchmarks.children import CHECKOUT

MEMORY = ("tmpfs", "ramfs")
"""File systems on which a flush costs nothing, so that most ratios mean nothing."""


def machine() -> dict[str, Any]:
    """The machine, without its name."""
    return {
        "cpu_count": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "machine": platform.machine(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what takes part; None for a peer that is not installed."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("sqlalchemy", "pydantic")},
        "rtstore": _own_version(),
        **{name: peers.version_of(name) for name in peers.ALL},
    }


def _own_version() -> str:
    """Of the checkout: what is measured is the package beside these tests."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on, where Linux tells it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    best, found = "", "unknown"
    for line in lines:
        left, _, right = line.partition(" - ")
        mounted = left.split()[4].replace("\\040", " ")
        inside = directory.resolve().is_relative_to(mounted)
        if inside and len(mounted) >= len(best):
            best, found = mounted, right.split()[0]
    return found
