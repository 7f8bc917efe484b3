"""How much is tried, and what draws it: the one switch of the tests.

`pytest` runs the usual paths, `pytest -m thorough` the breadth beside them, and `pytest --full`
everything that can be enumerated, in hours on two cores. Only `tests/conftest.py` sets what is
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

import pytest

T = TypeVar("T")

SEED = 20260421
"""Draws whatever is drawn, unless the command line has another: runs are the same each time."""


@dataclass
class _Chosen:
    full: bool = False
    seed: int = SEED


_chosen = _Chosen()


def choose(*, full: bool, seed: int) -> None:
    """Set what the command line says."""
    _chosen.full, _chosen.seed = full, seed


def is_full() -> bool:
    """Whether everything is tried."""
    return _chosen.full


def seed() -> int:
    """What draws; printed, and set by `--seed` to repeat a run."""
    return _chosen.seed


def drawn(number: int) -> int:
    """How much is drawn at random, of what is drawn `number` times by default."""
    return number * (10 if _chosen.full else 1)


def params(
    every: Iterable[T], *, normal: Collection[T], thorough: Collection[T] | None = None
) -> list[object]:
    """Parameters of a test: the normal ones as they are, the thorough ones with their mark (all
    others, where none are named), and the rest in the full run only."""
    found: list[object] = []
    for name in every:
        if name in normal:
            found.append(name)
        elif thorough is None or name in thorough or is_full():
            found.append(pytest.param(name, marks=pytest.mark.thorough))
    return found
