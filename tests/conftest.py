"""What is made once for all tests, and what holds for all of them."""

from __future__ import annotations

import signal

import pytest

from tests.installed import Installed, install_wheel

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would every process that
    # a test starts and means to interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel of this checkout."""
    return install_wheel(tmp_path_factory.mktemp("wheel"))
