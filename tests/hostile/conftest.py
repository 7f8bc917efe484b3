"""The scene of every test here, which counts how much hostile input was tried."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.scene import TRIED, UNEXPECTED, Scene
from tests.support.counts import Counts


@pytest.fixture
def scene(tmp_path: Path, caplog: pytest.LogCaptureFixture, counts: Counts) -> Iterator[Scene]:
    """A runtime directory to be, beside files that must not change; checked at the end."""
    caplog.set_level(logging.CRITICAL, logger="rtstore")  # every input has its warnings
    problems_before, tried_before = len(UNEXPECTED), TRIED.copy()
    scene = Scene(tmp_path)
    yield scene
    scene.check()
    problems, tried = UNEXPECTED[problems_before:], TRIED - tried_before
    counts.add(
        "hostile input",
        inputs=sum(number for name, number in tried.items() if name != "calls"),
        calls=tried["calls"],
        unexpected_outcomes=len(problems),
    )
    assert not problems, "\n".join(problems[:20])
