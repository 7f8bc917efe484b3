"""How much is tried, and what draws it: the one switch of the tests.

`pytest` runs the usual paths, `pytest -m thorough` the breadth beside them, and `pytest --full`
everything that can be enumerated, in hours on two cores; `--part K/N` divides any of these. Only
`tests/conftest.py` sets what is here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import pytest

T = TypeVar("T")

SEED = 20260421
"""Draws whatever is drawn, unless the command line has another: runs are the same each time."""


class Part(NamedTuple):
    """One part of several, which are the whole together."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return "" if self.of == 1 else f", part {self.number} of {self.of}"

    def of_all(self, every: Sequence[T]) -> list[T]:
        """What belongs to it: every N-th, so that each part has something of each kind."""
        return list(every[self.number - 1 :: self.of])


WHOLE = Part()


def part(text: str) -> Part:
    """Read `K/N`. Raises ValueError, with the reason, for what is none."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not K/N, as 2/5 is: the second of five parts")
    number, of = map(int, found.groups())
    if not 1 <= number <= of:
        raise ValueError(f"{text!r} names no part: K is from 1 to N")
    return Part(number, of)


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
