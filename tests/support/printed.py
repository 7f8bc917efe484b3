"""What a command of the tests prints, line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support import CHECKOUT


def lines_of(module: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a module of the tests to its end; return the lines of JSON that it prints. Skips the test
    where the module says that strace is not there, or may not trace."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "strace" in done.stderr and done.returncode == 1:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return [json.loads(line) for line in done.stdout.splitlines()]
