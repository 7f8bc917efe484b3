"""Libraries broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Control:
    """A way to break the library, and the kind of failure that must be found."""

    break_it: Callable[[], object]
    kinds: tuple[str, ...]


CONTROLS: dict[str, Control] = {}
