"""A directory to upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore.control.schema import REVISIONS
from tests.upgrade.freeze import unpack


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    """The oldest frozen directory, as a killed writer left it."""
    return unpack(REVISIONS[0], tmp_path)
