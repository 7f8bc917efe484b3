"""The crew that carries out the trials, and counts what they tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.crew import Crew, Hands
from tests.support import breadth
from tests.support.counts import Counts


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether everything is tried."""
    return breadth.is_full()


@pytest.fixture(scope="session")
def hands() -> Iterator[Hands]:
    """The process that carries out trials, for the whole session."""
    hands = Hands()
    yield hands
    hands.close()


@pytest.fixture
def crew(hands: Hands, counts: Counts, full: bool) -> Iterator[Crew]:
    """Who carries out the trials of a test."""
    crew = Crew(hands, full=full)
    yield crew
    crew.count(counts)
