"""The file seam is tried on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import on_disk


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory on a disk, in place of pytest's own."""
    with on_disk() as folder:
        yield folder
