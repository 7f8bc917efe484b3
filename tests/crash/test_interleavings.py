"""Who began last owns the directory, in whatever order processes begin, write, die and return."""

from __future__ import annotations

import pytest

from tests.crash.crew import Crew
from tests.crash.interleavings import (
    DRAWN,
    DRAWN_THOROUGH,
    PARTS,
    interleave,
    interleave_without_fence,
)
from tests.support import breadth


def _try_some(crew: Crew, first: int, draws: int) -> None:
    tally = crew.run(interleave, "runs", first=first, draws=draws, seed=breadth.seed())
    assert tally.states == draws
    assert tally.points > 10 * draws
    assert not tally.failures, str(tally)


def test_four_processes_begin_write_die_and_return(crew: Crew) -> None:
    """No batch of a superseded run comes after the one that superseded it, every acknowledged batch
    is there, one run is active or none, and each refusal is true."""
    _try_some(crew, 0, breadth.drawn(DRAWN))


@pytest.mark.early
@pytest.mark.thorough
@pytest.mark.parametrize("part", breadth.params(range(PARTS), normal=(), thorough=(0, 1)))
def test_more_interleavings(crew: Crew, part: int) -> None:
    """So it is in others, which no part has in common with another."""
    draws = breadth.drawn(DRAWN_THOROUGH)
    _try_some(crew, breadth.drawn(DRAWN) + part * draws, draws)


def test_without_the_fence_it_is_seen(crew: Crew) -> None:
    """A library in which a dead run may write on is caught by the same interleavings."""
    tally = crew.do(interleave_without_fence, breadth.seed())
    assert tally.failures, str(tally)
    assert "was committed after" in tally.failures[0]
