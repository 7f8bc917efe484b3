"""The store against the model.

The default search is short and the same each time. The long one is anew each time, and prints how
to repeat what fails (`@reproduce_failure`):

    RTSTORE_THOROUGH=20000 pytest tests/model
"""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import StoreMachine

THOROUGH = int(os.environ.get("RTSTORE_THOROUGH") or 0)
"""How many programs the long search runs; 0 for the short one."""

SEARCH = settings(
    max_examples=THOROUGH or 60,
    stateful_step_count=50 if THOROUGH else 25,
    derandomize=not THOROUGH,
    deadline=None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_model(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is done to a store in whatever order, it keeps what the model says it keeps."""
    caplog.set_level(logging.CRITICAL, logger="rtstore")  # thousands of recoveries, all as planned
    StoreMachine.tally.clear()
    run_state_machine_as_test(StoreMachine, settings=SEARCH)
    print(dict(StoreMachine.tally))
