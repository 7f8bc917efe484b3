"""Fixtures for the tests of a runtime. A test suite enables them by name:

pytest_plugins = ["rtstore.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore.files.seams import Seams
from rtstore.store import RuntimeStore
from rtstore.testing.sources import Ids, StepClock

TEAM = "team-test"


@pytest.fixture
def runtime_directory(tmp_path: Path) -> Path:
    """A path at which a runtime directory can be created; nothing is there yet."""
    return tmp_path / "runtime"


@pytest.fixture
def store_options() -> dict[str, Any]:
    """Options of `RuntimeStore.open` and `AsyncRuntimeStore.open` that make times and ids the same
    in every run."""
    seams = Seams(
        clock=StepClock(),
        batch_id_factory=Ids("batch"),
        receipt_id_factory=Ids("receipt"),
        plan_id_factory=Ids("plan"),
    )
    return {"seams": seams}


@pytest.fixture
def runtime_store(runtime_directory: Path, store_options: dict[str, Any]) -> Iterator[RuntimeStore]:
    """An open store of the team `team-test`, in which nothing is committed yet."""
    with RuntimeStore.open(runtime_directory, team_name=TEAM, **store_options) as store:
        yield store
