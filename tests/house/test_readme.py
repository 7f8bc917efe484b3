"""The README is true: every command and program in it runs, and prints what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import readme
from tests.support.installed import Installed

ROOT = readme.README.parent
INSTALL_AND_DEMO = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/rtstore demo"
INSTALL_AND_TEST = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/pytest"
)


@pytest.mark.early
def test_every_command_and_program_prints_what_the_readme_shows(
    disk: Path, installed: Installed
) -> None:
    """All commands and programs of the README, run in order in a fresh directory with nothing but
    the installed wheel, print what it shows (ids, times and sizes compared by their shape)."""
    ran = 0
    for step in readme.steps(readme.README.read_text(encoding="utf-8")):
        printed = readme.run(step, disk, installed.bin)
        ran += 1
        if step.kind == "console":
            assert readme.matches(step.shown, printed), (
                f"README line {step.line}: $ {step.source}\nprinted:\n{printed}\n"
                "To renew the README: python -m tests.support.readme --renew"
            )
    assert ran >= 8


def test_the_comparison_notices_a_difference() -> None:
    """The check above is not vacuous: another word, or a line too many, is a mismatch."""
    assert readme.matches("a\n...\nz\n", "a\nb\nc\nz\n")
    assert not readme.matches("ready\n", "blocked\n")
    assert not readme.matches("a\nb\n", "a\n")
    assert readme.matches("12 B, 3 s ago", "9 B, 11 s ago")


def test_the_two_commands_are_in_the_readme_and_ci_runs_the_same() -> None:
    """The README shows exactly the two commands, and `.ci/run` installs and tests as it says."""
    text = readme.README.read_text(encoding="utf-8")
    assert f"$ {INSTALL_AND_DEMO}\n" in text
    assert f"$ {INSTALL_AND_TEST}\n" in text
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -q -e '.[dev]'" in ci
    assert re.search(r"(^|/)pytest(\s|$|\")", ci, re.MULTILINE)


@pytest.mark.early
@pytest.mark.thorough
def test_the_first_command_works_on_a_fresh_machine(tmp_path: Path) -> None:
    """The README's first command, as it stands, in a copy of the tracked files: it makes the
    environment, installs, and the demo ends with a ready store."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        source, target = ROOT / name, tmp_path / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    command = INSTALL_AND_DEMO.replace("python3", sys.executable, 1)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed by signal 9" in done.stdout
    assert "ready" in done.stdout.lower()
