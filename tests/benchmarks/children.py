"""Other processes of a benchmark: how they are started, and how they are told to go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

CHECKOUT = Path(__file__).parents[2]


def command(kind: str, *arguments: object) -> list[str]:
    """The command of a child; `workers` has the kinds."""
    return [sys.executable, "-m", "tests.benchmarks.workers", kind, *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment of a child: it finds this checkout wherever it runs."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def compiled_environment(bytecode: Path) -> dict[str, str]:
    """The same for a child that finds all modules compiled, as pip leaves those that it installs;
    the first child writes them into this directory. An environment that forbids this
    (`PYTHONDONTWRITEBYTECODE`) would have the checkout compiled in each, and nothing else."""
    allowed = environment()
    allowed.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**allowed, "PYTHONPYCACHEPREFIX": str(bytecode)}


class Child:
    """A process that does a number of things each time it is told to; ended with the block.

    It says that it is ready first: wait for that. `under` is a command that runs it.
    """

    def __init__(self, kind: str, *arguments: object, under: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*under, *command(kind, *arguments)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self, count: int) -> None:
        """Tell it to begin; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()

    def wait(self) -> str:
        """Wait until it is ready, or has done what it was told; return what it says."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise RuntimeError(f"a child of the benchmark died ({self._process.wait()})")
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()  # the end of its input ends it
