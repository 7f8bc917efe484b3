"""How the tests are run: a machine that is too slow for all of them says what it left out."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.support import CHECKOUT


@pytest.mark.thorough
@pytest.mark.parametrize(("seconds", "outcome"), [(-1, "skipped"), (600, "passed")])
def test_no_test_begins_after_the_moment_that_is_named(seconds: float, outcome: str) -> None:
    """It is skipped, with the reason; before that moment it is run."""
    options = ("-n", "0", "-p", "no:cacheprovider", "--until", str(time.time() + seconds))
    told = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/house/test_documents.py"],
        check=False,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert f" {outcome}" in told.stdout.splitlines()[-1], told.stdout
    assert ("no time was left for it" in told.stdout) == (outcome == "skipped")
