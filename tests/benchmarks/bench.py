"""What every case gets: its sizes, a directory of its own, a place for notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.measure import Figure
from tests.benchmarks.sizes import Sizes


@dataclass
class Bench:
    """One case under way."""

    sizes: Sizes
    directory: Path
    """Empty, on the file system that is measured, and removed afterwards."""
    bytecode: Path
    """What Pythons of their own compile; shared by all cases."""
    notes: list[str] = field(default_factory=list)
    """What could not be measured, and other things to know; shared by all cases."""


Case = Callable[[Bench], Iterator[Figure]]


def human_size(size: int) -> str:
    """A size in the unit that suits it."""
    if size >= 1_000_000:
        return f"{size / 1_000_000:g} MB"
    return f"{size / 1_024:.0f} KB" if size >= 1_024 else f"{size} B"
