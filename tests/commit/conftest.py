"""An observer of a runtime directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.events import Told


@pytest.fixture
def told(directory: Path) -> Told:
    """An observer of that directory."""
    return Told(directory)
