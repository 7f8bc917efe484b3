"""Who began last owns the directory, in whatever order processes begin, write, die and return."""

from __future__ import annotations

import pytest

from tests.crash.interleavings import (
    DRAWN,
    DRAWN_THOROUGH,
    interleave,
    interleave_without_fence,
)
from tests.crash.workers import Crew
from tests.support import breadth


@pytest.mark.parametrize("draws", [DRAWN, pytest.param(DRAWN_THOROUGH, marks=pytest.mark.thorough)])
def test_four_processes_begin_write_die_and_return(crew: Crew, draws: int) -> None:
    """No batch of a superseded run comes after the one that superseded it, every acknowledged batch
    is there, one run is active or none, and each refusal is true."""
    tally = crew.run(interleave, "runs", draws=breadth.drawn(draws), seed=breadth.seed())
    assert tally.states == breadth.drawn(draws)
    assert tally.points > 10 * draws
    assert not tally.failures, str(tally)


def test_without_the_fence_it_is_seen(crew: Crew) -> None:
    """A library in which a dead run may write on is caught by the same interleavings."""
    tally = crew.do(interleave_without_fence, breadth.seed())
    assert tally.failures, str(tally)
    assert "was committed after" in tally.failures[0]
