"""What callers are told is held against what is there, from outside, whatever comes between.

An hour of it: `python -m tests.checker --seconds 3600 --seed 1`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checker.controls import CONTROLS
from tests.checker.mix import DISTURBANCES, draw
from tests.checker.verdict import KINDS
from tests.support import breadth
from tests.support.counts import Counts

CHECKOUT = Path(__file__).parents[2]
SECONDS = 4
"""How long a part takes; parts run beside each other."""
PARTS = 24
"""One of them with every change; ten times as many in full."""
HANDFUL = ("acknowledges_what_it_does_not_write", "times_out_after_it_has_written")
"""Controls of the normal run."""


def _check(*options: str) -> tuple[str, dict[str, int]]:
    """Run the checker; return what it printed, and the failures of each kind."""
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
    assert all(found.values()), done.stdout + done.stderr  # the checker itself failed
    return done.stdout, {kind: int(match[1]) for kind, match in found.items() if match}


@pytest.mark.early
@pytest.mark.parametrize("part", breadth.params(range(breadth.drawn(PARTS)), normal=range(1)))
def test_every_answer_is_true(tmp_path: Path, counts: Counts, part: int) -> None:
    """Told committed is there, told refused never appears, order holds, nobody hangs."""
    seed = breadth.seed() + 100_000 * part
    output, failures = _check(
        "--seconds", str(SECONDS), "--seed", str(seed), "--keep", str(tmp_path)
    )  # fmt: skip
    tried = output.splitlines()[-1].partition(f"seed {seed}")[2]
    for number, kind in re.findall(r"(\d+) (lives|calls)", tried):
        counts.add("checker", **{kind: int(number)})
    for kind, number in re.findall(r"(told committed|decided|refused|unknown) (\d+)", tried):
        counts.add("checker", **{kind: int(number)})
    counts.add("checker", **failures)
    assert failures == dict.fromkeys(KINDS, 0), output


@pytest.mark.parametrize("name", breadth.params(CONTROLS, normal=HANDFUL))
def test_control_is_caught(counts: Counts, name: str) -> None:
    """A library that is broken in one way is caught, and for what is wrong with it."""
    counts.add("checker", controls=1)
    fields = ("seconds=0.5", "processes=2", "threads=2", "lock_timeout_s=0.3", "batches=null",
              "contents=null", "loop=false")  # fmt: skip
    output, failures = _check(
        "--control", name, "--only", CONTROLS[name].only, "--lives", "40", "--patience", "5",
        "--first", *(part for field in fields for part in ("--set", field)),
    )  # fmt: skip
    assert any(failures[kind] for kind in CONTROLS[name].kinds), output
    counts.add("checker", controls_caught=1)


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
