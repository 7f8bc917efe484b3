"""Whatever dies and when: what was acknowledged is there, and nothing is there in part."""

from __future__ import annotations

import pytest

from .crew import Crew
from .faults import fail_everywhere
from .kills import kill_everywhere, kill_recoveries, open_twice_at_once
from .living import visit_everywhere
from .outages import cut_power_everywhere
from .scenarios import SCENARIOS

RECOVERED = ("write_mixed",)
"""Scenarios whose wrecks are recovered again and again in the fast part."""
VISITED = ("write_over", "update")
"""Scenarios that are visited in the fast part."""
WRITING = ("write_new", "write_over", "write_flushed", "update")
"""Scenarios in which a living writer has nothing to repair."""
RACED = ("new_raced", "refused_raced", "torn_raced", "recover_raced")
"""Variants of others, which in the fast part are only killed."""
SLOW = ("rebuild", "take_back", "write_again", *RACED)
"""Scenarios failed at every point in the full part only: others come by the same places."""

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@every_scenario
def test_killed_at_every_point(crew: Crew, scenario: str) -> None:
    """A process killed by SIGKILL before any call or statement loses nothing that was acknowledged,
    leaves no batch in part and destroys nothing of anybody else's."""
    tally = crew.run(kill_everywhere, scenario)
    assert tally.points > 10, str(tally)
    assert not tally.failures, str(tally)


@every_scenario
def test_error_at_every_point(crew: Crew, full: bool, scenario: str) -> None:
    """An error at any call or statement, once or from there on, comes out as the store's own and
    tells the truth; when the trouble is over, the process and the next one go on."""
    if not full and scenario in SLOW:
        pytest.skip("in the full crash suite only: --crash=full")
    tally = crew.run(fail_everywhere, scenario)
    assert tally.points > 10, str(tally)
    assert not tally.failures, str(tally)


@every_scenario
def test_power_lost_at_every_point(crew: Crew, full: bool, scenario: str) -> None:
    """Power lost before any call or statement, with whatever was not flushed kept, lost or torn,
    takes nothing that was acknowledged."""
    if not full and scenario in ("rebuild", *RACED):
        pytest.skip("in the full crash suite only: --crash=full")
    tally = crew.run(cut_power_everywhere, scenario)
    assert tally.states > 4, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_again_while_recovering(crew: Crew, full: bool, scenario: str) -> None:
    """A recovery killed by SIGKILL before any call or statement is finished by the next one."""
    if not full and scenario not in RECOVERED:
        pytest.skip("in the full crash suite only: --crash=full")
    tally = crew.run(kill_recoveries, scenario)
    assert tally.points > 10, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_recoveries_at_once(crew: Crew, full: bool, scenario: str) -> None:
    """Two processes that open a crashed directory at the same moment both succeed."""
    if not full and scenario not in RECOVERED:
        pytest.skip("in the full crash suite only: --crash=full")
    tally = crew.run(open_twice_at_once, scenario)
    assert tally.points > 4, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", WRITING)
def test_living_writer_is_left_alone(crew: Crew, full: bool, scenario: str) -> None:
    """Beside a writer that stands still anywhere in a batch, a planner sees nothing wrong, a reader
    reads, and whoever opens the store waits or goes on without touching; the writer then ends
    as if nobody had been there."""
    if not full and scenario not in VISITED:
        pytest.skip("in the full crash suite only: --crash=full")
    tally = crew.run(visit_everywhere, scenario)
    assert tally.points > 10, str(tally)
    assert not tally.failures, str(tally)
