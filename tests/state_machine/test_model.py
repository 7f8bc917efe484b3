"""The store against the model: a search in parts, the same each time unless `--seed` draws anew."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.state_machine.machine import StoreMachine
from tests.support import breadth
from tests.support.counts import Counts

PARTS = 4
"""Searches of their own, so that several processes share them; ten times as many in full."""
PROGRAMS = 20
"""How many programs a part runs; ten times as many in full."""


@pytest.mark.parametrize("part", breadth.params(range(breadth.drawn(PARTS)), normal=range(1)))
def test_model(part: int, caplog: pytest.LogCaptureFixture, counts: Counts) -> None:
    """Whatever is done to a store in whatever order, it keeps what the model says it keeps."""
    caplog.set_level(logging.CRITICAL, logger="rtstore")  # thousands of recoveries, all as planned

    @seed(breadth.seed() + part)
    class Machine(StoreMachine):
        pass

    search = settings(
        max_examples=breadth.drawn(PROGRAMS),
        stateful_step_count=50 if breadth.is_full() else 25,
        derandomize=True,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    Machine.tally.clear()
    run_state_machine_as_test(Machine, settings=search)
    print(dict(Machine.tally))
    known = ("programs", "steps", "crashes")
    counts.add("model", **{name: Machine.tally[name] for name in known})
