"""What is made once for all tests."""

from __future__ import annotations

import pytest

from tests.installed import Installed, install_wheel


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel of this checkout."""
    return install_wheel(tmp_path_factory.mktemp("wheel"))
