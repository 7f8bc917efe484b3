"""A runtime's own test suite, run with the plugin as a stranger would: it passes for a runtime that
starts as it should, and finds each that does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore.testing import crash_points
from tests.support import CHECKOUT

OPTIONS = ("-q", "-rf", "-W", "error", "-p", "no:cacheprovider")
CONFTEST = 'pytest_plugins = ["rtstore.testing.plugin"]\n'

RUNTIME = """
import json
from rtstore import RunIdentity, RuntimeStore

IDENTITY = RunIdentity(run_id="run-1")
FILES = {
    "opencode.hostLeases": "opencode-host-leases.json",
    "opencode.runtimeDiagnostics": "opencode-diagnostics.json",
}

def checkpoint(directory, number, **options):
    with RuntimeStore.open(directory, team_name="team-a", **options) as store:
        store.write_batch(identity=IDENTITY, reason="launch_checkpoint",
                          writes=dict.fromkeys(FILES, number))

def files(directory):
    return [json.loads((directory / name).read_text())["data"] for name in FILES.values()]
"""

STARTS = {
    "as it should": """
def start(directory):
    with RuntimeStore.open(directory) as store:
        return [store.read(name).data for name in FILES]
""",
    "without the store": """
def start(directory):
    return files(directory)
""",
    "without recovery": """
def start(directory):
    with RuntimeStore.open(directory, recover=False) as store:
        return files(directory)
""",
    "with an empty state whenever anything is odd": """
def start(directory):
    with RuntimeStore.open(directory, read_only=True) as store:
        if any(action.kind != "none" for action in store.plan_recovery().actions
               if action.schema_name in FILES):
            return [0, 0]
    with RuntimeStore.open(directory) as store:
        return [store.read(name).data for name in FILES]
""",
}

SUITE = """
import pytest
from rtstore.testing import crash_at, crash_points, kill_at
from runtime import IDENTITY, checkpoint, start

@pytest.mark.parametrize("point", crash_points(stores=2), ids=str)
def test_starts_after_a_crash(runtime_directory, store_options, point):
    checkpoint(runtime_directory, 1, **store_options)
    with crash_at(point):
        checkpoint(runtime_directory, 2, **store_options)
    assert start(runtime_directory) == ([2, 2] if point.logged else [1, 1])

@pytest.mark.parametrize("point", ["after-rename-1"])
def test_starts_after_a_kill(runtime_directory, point):
    checkpoint(runtime_directory, 1)
    kill_at(point, checkpoint, runtime_directory, 2)
    assert start(runtime_directory) == [2, 2]

def test_the_fixtures(runtime_store, runtime_directory):
    assert runtime_store.directory == runtime_directory
    batch = runtime_store.write_batch(identity=IDENTITY,
        reason="launch_checkpoint", writes={"opencode.hostLeases": 1})
    assert batch.batch_id == "batch-1"
    assert batch.receipts[0].receipt_id == "receipt-1"
    assert batch.started_at.year == 2026
"""


def run_suite(folder: Path, start: str, *, conftest: str = CONFTEST) -> tuple[int, set[str], str]:
    """Run the suite with a runtime that starts in that way; its exit code, the tests that failed,
    and what it said."""
    for name, text in {
        "conftest.py": conftest, "runtime.py": RUNTIME + STARTS[start], "test_startup.py": SUITE,
    }.items():  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "--basetemp", folder / "made"],
        cwd=folder,
        # Others' plugins would take as long to load as the suite takes to run.
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = set(re.findall(r"^FAILED test_startup.py::(\S+)", done.stdout, re.MULTILINE))
    return done.returncode, failed, done.stdout + done.stderr


def crashes(*points: str) -> set[str]:
    """The names of the tests that crash at these points."""
    return {f"test_starts_after_a_crash[{point}]" for point in points}


HALF_WRITTEN = [
    point.name
    for point in crash_points(2)
    if point.logged and not point.completed and point.published < 2
]
OPEN = [point.name for point in crash_points(2) if point.logged and not point.completed]


def test_a_runtime_that_starts_as_it_should_passes(tmp_path: Path) -> None:
    """Every point, a real kill and the fixtures, with warnings as errors."""
    code, failed, said = run_suite(tmp_path, "as it should")
    assert (code, failed) == (0, set()), said
    assert f"{len(crash_points(2)) + 2} passed" in said


@pytest.mark.parametrize(
    ("start", "points"),
    [
        pytest.param("without the store", HALF_WRITTEN, marks=pytest.mark.thorough),
        pytest.param("without recovery", HALF_WRITTEN, marks=pytest.mark.thorough),
        ("with an empty state whenever anything is odd", OPEN),
    ],
)
def test_a_runtime_that_starts_on_half_a_batch_is_caught(
    tmp_path: Path, start: str, points: list[str]
) -> None:
    """Exactly where it goes wrong, and only there."""
    code, failed, said = run_suite(tmp_path, start)
    assert code == 1, said
    assert failed == {*crashes(*points), "test_starts_after_a_kill[after-rename-1]"}, said


def test_the_plugin_is_there_for_who_asks(tmp_path: Path) -> None:
    """Without the line in `conftest.py` there are no fixtures of ours: installing the package does
    nothing to a test suite."""
    code, _, said = run_suite(tmp_path, "as it should", conftest="")
    assert code == 1
    assert "fixture 'runtime_directory' not found" in said


@pytest.mark.thorough
def test_it_is_used_without_pytest(tmp_path: Path) -> None:
    """`rtstore.testing` needs no pytest: other test runners can use it."""
    script = (
        "import json, sys\n"
        "sys.modules['pytest'] = None\n"
        "from pathlib import Path\n"
        "from rtstore.testing import POINTS, crash_at\n"
        "from runtime import checkpoint, start\n"
        "found = []\n"
        "for point in POINTS:\n"
        "    directory = Path(point.name)\n"
        "    checkpoint(directory, 1)\n"
        "    with crash_at(point):\n"
        "        checkpoint(directory, 2)\n"
        "    found.append(start(directory)[0])\n"
        "print(json.dumps(found))\n"
    )
    (tmp_path / "runtime.py").write_text(RUNTIME + STARTS["as it should"], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        # Others' plugins would take as long to load as the suite takes to run.
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == [1, 1, 2, 2, 2, 2, 2]
