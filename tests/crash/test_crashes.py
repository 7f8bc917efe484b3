"""Whatever dies and when: what was acknowledged is there, and nothing is there in part."""

from __future__ import annotations

import pytest

from tests.crash.crew import Crew
from tests.crash.faults import fail_everywhere
from tests.crash.kills import kill_everywhere, kill_recoveries, open_twice_at_once
from tests.crash.live_writer import visit_everywhere
from tests.crash.power_loss import cut_power_everywhere
from tests.crash.scenarios import SCENARIOS
from tests.crash.workers import Tally
from tests.support import breadth

RACED = ("new_raced", "refused_raced", "torn_raced", "recover_raced", "delete_raced")
"""Variants of others, which are only killed, but for the full run."""
SLOW = (
    "rebuild", "restore_quarantined", "recover", "write_again", "delete_many", "delete_imported",
    "delete_begin", *RACED,
)  # fmt: skip
"""Scenarios failed at every point in the full run only: others come by the same places."""
SLOW_TO_CUT = (
    "rebuild", "write_many", "write_together_refused", "write_together_mixed",
    "delete_many", "delete_imported", "delete_begin", "delete_together", *RACED,
)  # fmt: skip
"""Scenarios cut off from power in the full run only, for the same reason."""
KILLED = ("make", "write_mixed", "update_several", "open_torn", "begin_run")
"""Scenarios killed with every change."""
FAILED = ("update",)
"""Scenarios failed with every change."""
CUT = ("make", "update", "delete_alone")
"""Scenarios cut off from power with every change."""
RECOVERED = ("write_mixed",)
"""Scenarios whose wrecks are recovered again and again, but for the full run."""
WRITING = ("write_new", "write_over", "write_flushed", "update", "delete")
"""Scenarios in which a living writer has nothing to repair."""
VISITED = ("write_over", "update", "delete")
"""Scenarios that are visited, but for the full run."""


def _but(*names: str) -> list[str]:
    return [name for name in SCENARIOS if name not in names]


def _passed(tally: Tally, *, points: int = 10) -> None:
    assert tally.points > points, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.parametrize("scenario", breadth.params(SCENARIOS, normal=KILLED))
def test_killed_at_every_point(crew: Crew, scenario: str) -> None:
    """A process killed by SIGKILL before any call or statement loses nothing that was acknowledged,
    leaves no batch in part and destroys nothing of anybody else's."""
    _passed(crew.run(kill_everywhere, scenario))


@pytest.mark.parametrize("scenario", breadth.params(SCENARIOS, normal=FAILED, thorough=_but(*SLOW)))
def test_error_at_every_point(crew: Crew, scenario: str) -> None:
    """An error at any call or statement, once or from there on, comes out as the store's own and
    tells the truth; when the trouble is over, the process and the next one go on."""
    _passed(crew.run(fail_everywhere, scenario))


@pytest.mark.parametrize(
    "scenario", breadth.params(SCENARIOS, normal=CUT, thorough=_but(*SLOW_TO_CUT))
)
def test_power_lost_at_every_point(crew: Crew, scenario: str) -> None:
    """Power lost before any call or statement, with whatever was not flushed kept, lost or torn,
    takes nothing that was acknowledged."""
    tally = crew.run(cut_power_everywhere, scenario)
    assert tally.points >= 4, str(tally)
    assert tally.states >= tally.points, str(tally)
    assert not tally.failures, str(tally)


@pytest.mark.early
@pytest.mark.parametrize("scenario", breadth.params(SCENARIOS, normal=(), thorough=RECOVERED))
def test_killed_again_while_recovering(crew: Crew, scenario: str) -> None:
    """A recovery killed by SIGKILL before any call or statement is finished by the next one."""
    _passed(crew.run(kill_recoveries, scenario))


@pytest.mark.parametrize("scenario", breadth.params(SCENARIOS, normal=RECOVERED, thorough=()))
def test_two_recoveries_at_once(crew: Crew, scenario: str) -> None:
    """Two processes that open a crashed directory at the same moment both succeed."""
    _passed(crew.run(open_twice_at_once, scenario), points=4)


@pytest.mark.parametrize("scenario", breadth.params(WRITING, normal=(), thorough=VISITED))
def test_living_writer_is_left_alone(crew: Crew, scenario: str) -> None:
    """Beside a writer that stands still anywhere in a batch, a planner sees nothing wrong, a reader
    reads, and whoever opens the store waits or goes on without touching; the writer then ends
    as if nobody had been there."""
    _passed(crew.run(visit_everywhere, scenario))
