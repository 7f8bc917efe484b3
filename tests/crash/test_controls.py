"""The suite looks: a library that is broken on purpose is caught, in every way of breaking it."""

from __future__ import annotations

import pytest

from tests.crash.control_results import try_control
from tests.crash.controls import CONTROLS
from tests.crash.workers import Crew
from tests.support import breadth

QUICK = ("log_not_flushed", "complete_before_publish", "quarantine_skipped", "no_fence", "no_lock")
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
