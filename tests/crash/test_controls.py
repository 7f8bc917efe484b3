"""The suite looks: a library that is broken on purpose is caught, in every way of breaking it."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from .controls import CONTROLS
from .crew import Crew
from .verdicts import Verdict, try_control


@pytest.fixture(scope="module")
def verdicts(crew: Crew, full: bool) -> dict[str, Future[Verdict]]:
    """Every control under way, as many at once as there are workers."""
    return {name: crew.submit(try_control, name, full) for name in CONTROLS}


@pytest.mark.parametrize("name", CONTROLS)
def test_control_is_caught(crew: Crew, verdicts: dict[str, Future[Verdict]], name: str) -> None:
    """A library broken in this way fails the suite."""
    crew.controls_tried.append(name)
    verdict = verdicts[name].result()
    assert verdict.caught_by is not None, str(verdict)
    crew.controls_caught.append(name)


def test_there_are_enough_controls() -> None:
    """At least eight ways to break the library are known, each with what it breaks in words."""
    assert len(CONTROLS) >= 8
    assert all(control.break_it.__doc__ for control in CONTROLS.values())
