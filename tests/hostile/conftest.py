"""The scene of every test here; and at the end of a run, how much hostile input was tried."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.scene import TRIED, UNEXPECTED, Scene


@pytest.fixture
def scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    """A runtime directory to be, beside files that must not change; checked at the end."""
    caplog.set_level(logging.CRITICAL, logger="rtstore")  # every input has its warnings
    before = len(UNEXPECTED)
    scene = Scene(tmp_path)
    yield scene
    scene.check()
    problems = UNEXPECTED[before:]
    assert not problems, "\n".join(problems[:20])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: inputs, calls made with them, outcomes that must not be."""
    if TRIED:
        inputs = sum(TRIED[name] for name in TRIED if name != "calls")
        terminalreporter.write_line(
            f"hostile input: {inputs} inputs tried in {TRIED['calls']} calls, "
            f"unexpected outcomes {len(UNEXPECTED)}"
        )
