"""The crew that carries out the trials, and the line that says what they tried."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .crew import Crew

_CREW = pytest.StashKey[Crew]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--crash=full` tries every point in every way; without it, a part that is fast enough for
    every change."""
    parser.addoption("--crash", choices=("fast", "full"), default="fast", help="crash suite")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is tried."""
    return bool(request.config.getoption("--crash", default="fast") == "full")


@pytest.fixture(scope="session")
def crew(request: pytest.FixtureRequest, full: bool) -> Iterator[Crew]:
    """The worker processes, for the whole session."""
    crew = Crew(full=full)
    request.config.stash[_CREW] = crew
    yield crew
    crew.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was tried, in one line; and what the runs of many processes came to."""
    crew = config.stash.get(_CREW, None)
    if crew is None:
        return
    terminalreporter.section("crash suite")
    part = "full" if crew.full else "fast part"
    terminalreporter.line(
        f"{part}: {crew.total.points} points, {crew.total.states} states, "
        f"failures {len(crew.total.failures)}, "
        f"controls caught {len(crew.controls_caught)} of {len(crew.controls_tried)}, "
        f"{time.monotonic() - crew.started_s:.0f} s"
    )
    for line in crew.lines:
        terminalreporter.line(line)
