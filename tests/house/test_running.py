"""How the tests are run: a machine that is too slow for all of them says what it left out, and may
take them in parts."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.support import CHECKOUT, breadth


def _pytest(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *options],
        check=False,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )


@pytest.mark.thorough
@pytest.mark.parametrize(("seconds", "outcome"), [(-1, "skipped"), (600, "passed")])
def test_no_test_begins_after_the_moment_that_is_named(seconds: float, outcome: str) -> None:
    """It is skipped, with the reason; before that moment it is run."""
    told = _pytest("--until", str(time.time() + seconds), "tests/house/test_documents.py")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f" {outcome}" in told.stdout.splitlines()[-1], told.stdout
    assert ("no time was left for it" in told.stdout) == (outcome == "skipped")


def _selected(*options: str) -> list[str]:
    told = _pytest("--full", "--collect-only", "-q", *options, "tests/crash/test_crashes.py")
    assert told.returncode == 0, told.stdout + told.stderr
    return [line for line in told.stdout.splitlines() if "::" in line]


@pytest.mark.thorough
def test_the_parts_are_the_whole() -> None:
    """Each test is in one part, and the parts are as large as one another."""
    whole = _selected()
    parts = [_selected("--part", f"{number}/2") for number in (1, 2)]
    assert sorted(whole) == sorted(test for part in parts for test in part)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.thorough
def test_a_part_counts_what_it_tried() -> None:
    """Below its counts nobody takes a part for the whole."""
    told = _pytest("--part", "1/2", "-k", "test_two_recoveries", "tests/crash/test_crashes.py")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "what was tried, part 1 of 2" in told.stdout


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1/0", "0/0", "-1/3", "1", "1/", "a/b", "1/2/3", ""]
)
def test_no_part_is_refused(text: str) -> None:
    """Tests that nobody asked for are not taken for those that were."""
    with pytest.raises(ValueError, match=r"K/N, as 2/5 is|K is from 1 to N"):
        breadth.part(text)


@pytest.mark.thorough
def test_a_wrong_part_ends_the_run_at_once() -> None:
    """With what is wrong, and before any test."""
    told = _pytest("--part", "4/3", "tests/house/test_running.py")
    assert told.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--part: '4/3' names no part: K is from 1 to N" in told.stderr
