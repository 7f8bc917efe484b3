"""The suite looks: a library that is broken on purpose is caught, in every way of breaking it."""

from __future__ import annotations

import pytest

from tests.crash.control_results import try_control
from tests.crash.controls import CONTROLS
from tests.crash.crew import Crew
from tests.crash.faults import fail_everywhere
from tests.crash.kills import kill_everywhere
from tests.crash.live_writer import visit_everywhere
from tests.crash.power_loss import cut_power_everywhere
from tests.crash.scenarios import SCENARIOS
from tests.support import breadth

QUICK = ("log_not_flushed", "complete_before_publish", "quarantine_skipped", "no_fence")
"""Controls that are tried with every change."""


@pytest.mark.parametrize("name", breadth.params(CONTROLS, normal=QUICK))
def test_control_is_caught(crew: Crew, full: bool, name: str) -> None:
    """A library broken in this way fails the suite."""
    crew.controls_tried.append(name)
    verdict = crew.do(try_control, name, full)
    assert verdict.caught_by is not None, str(verdict)
    crew.controls_caught.append(name)


def test_there_are_enough_controls() -> None:
    """At least eight ways to break the library are known, each with what it breaks in words."""
    assert len(CONTROLS) >= 8
    assert all(control.break_it.__doc__ for control in CONTROLS.values())


def test_each_way_has_a_control() -> None:
    """Each way to go through the points of a scenario catches a control by itself; and what a
    control names is a scenario."""
    alone = {control.tries[0][0] for control in CONTROLS.values() if len(control.tries) == 1}
    assert {kill_everywhere, fail_everywhere, cut_power_everywhere, visit_everywhere} <= alone
    named = {scenario for control in CONTROLS.values() for _, scenario in control.tries}
    assert named <= set(SCENARIOS)
