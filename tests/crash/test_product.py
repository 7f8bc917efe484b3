"""Everything meets everything: scenarios made from their parts; see `product`.

A handful is tried with every change, more of them in the thorough part, all in full: which ones is
drawn, each time the same ones unless `--seed` draws others. Each is killed and failed at the calls
that change something. The scenarios of `test_crashes` are, in full, also killed and failed at the
calls that only look.
"""

from __future__ import annotations

import pytest

from tests.crash.crew import Crew
from tests.crash.faults import fail_everywhere
from tests.crash.kills import kill_everywhere
from tests.crash.power_loss import cut_power_everywhere
from tests.crash.product import DONE, GROUPS, KEPT, PRODUCT, STORES, drawn
from tests.support import breadth

STATES = 2
"""How many states after a loss of power are drawn at each point; ten times as many in full."""


def _some(normal: int, thorough: int, full: int | None = None) -> list[object]:
    """Names of scenarios. The first ones drawn are the same, however many there are. The very
    first, which takes longest, is none of the normal part."""
    seed = breadth.seed()
    every = drawn(len(PRODUCT) if full is None else full, seed)
    return breadth.params(every, normal=every[1 : 1 + normal], thorough=every[:thorough])


@pytest.mark.parametrize("scenario", _some(1, 13))
def test_killed_at_every_point(crew: Crew, scenario: str) -> None:
    """A process killed before any call or statement loses nothing that was acknowledged, leaves no
    batch in part, destroys nothing of anybody else's, and can be opened again."""
    tally = crew.run(kill_everywhere, scenario, only_changing=True)
    assert tally.points > 4, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", _some(0, 7, 60))
def test_error_at_every_point(crew: Crew, scenario: str) -> None:
    """An error at any call or statement tells the truth; when the trouble is over, the process and
    the next one go on."""
    tally = crew.run(fail_everywhere, scenario, only_changing=True)
    assert tally.points > 4, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", _some(0, 10, 120))
def test_power_lost_at_every_point(crew: Crew, scenario: str) -> None:
    """Power lost before any call or statement, with any of the names and bytes that were not
    flushed, takes nothing that was acknowledged, and no version of ours is taken for somebody
    else's, however long ago it was written."""
    states = breadth.drawn(STATES)
    tally = crew.run(cut_power_everywhere, scenario, draws=states, seed=breadth.seed())
    assert tally.points > 4, str(tally)
    assert not tally.failures, str(tally)


def test_every_part_is_drawn() -> None:
    """In as many scenarios as the longest part has variants, each variant of each part comes up."""
    names = drawn(max(len(DONE), len(GROUPS), len(STORES), len(KEPT)), breadth.seed())
    parts = [set(map(str, each)) for each in zip(*(PRODUCT[name] for name in names), strict=True)]
    variants = [DONE, GROUPS, STORES, KEPT]
    for found, expected in zip(parts, variants, strict=True):
        assert found == set(map(str, expected))


def test_a_longer_draw_begins_like_a_shorter_one() -> None:
    """The handful is a part of what is tried in the thorough run, and that of what is in full."""
    few, many = drawn(5, 1), drawn(50, 1)
    assert list(many[:5]) == list(few)
    assert len(set(drawn(len(PRODUCT), 1))) == len(PRODUCT)
