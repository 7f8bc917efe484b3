"""What callers are told is held against what is there, from outside, whatever comes between.

An hour of it: `python -m tests.checker --seconds 3600 --seed 1`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checker.controls import CONTROLS
from tests.checker.mix import DISTURBANCES, draw
from tests.checker.verdict import KINDS

CHECKOUT = Path(__file__).parents[2]
SECONDS = 60 * int(os.environ.get("RTSTORE_THOROUGH", "1"))
HANDFUL = ("acknowledges_what_it_does_not_write", "times_out_after_it_has_written")
"""Controls of the normal run."""


def _check(*options: str) -> tuple[str, dict[str, int]]:
    """Run the checker; gives what it printed, and the failures of each kind."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.checker", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    summary = done.stdout.splitlines()[-1]
    found = {kind: re.search(rf"\b{kind} (\d+)", summary) for kind in KINDS}
    return done.stdout, {kind: int(match[1]) for kind, match in found.items() if match}


@pytest.mark.slow
def test_every_answer_is_true(tmp_path: Path) -> None:
    """Told committed is there, told refused never appears, order holds, nobody hangs."""
    output, failures = _check("--seconds", str(SECONDS), "--seed", "1", "--keep", str(tmp_path))
    assert failures == dict.fromkeys(KINDS, 0), output


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLS)
def test_control_is_caught(name: str) -> None:
    """A library that is broken in one way is caught, and for what is wrong with it."""
    if name not in HANDFUL and "RTSTORE_THOROUGH" not in os.environ:
        pytest.skip("two controls are enough for the normal run")
    fields = ("seconds=0.5", "processes=2", "threads=2", "lock_timeout_s=0.3", "batches=null",
              "contents=null")  # fmt: skip
    output, failures = _check(
        "--control", name, "--only", CONTROLS[name].only, "--lives", "12", "--patience", "5",
        "--first", *(part for field in fields for part in ("--set", field)),
    )  # fmt: skip
    assert any(failures[kind] for kind in CONTROLS[name].kinds), output


def test_a_mix_is_drawn_from_its_seed() -> None:
    """The same seed draws the same life; switching a disturbance off changes nothing else."""
    for seed in range(200):
        whole = draw(seed)
        assert draw(seed) == whole
        less = draw(seed, without=["kill"])
        assert set(whole.disturbances) - set(less.disturbances) <= {"kill"}
        assert draw(seed, only=whole.disturbances) == whole
    drawn = {name for seed in range(200) for name in draw(seed).disturbances}
    assert drawn == set(DISTURBANCES)
