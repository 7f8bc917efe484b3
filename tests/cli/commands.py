"""Running the command in the tests: in this process for speed, in one of its own for the proof."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from rtstore import RuntimeStore
from rtstore.cli.app import app
from rtstore.cli.demo.writer import IDENTITY, TEAM, fatal_checkpoint, first_checkpoints
from rtstore.testing import crash_at

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    def row(self, *words: str) -> str:
        """The one line of the output that has all of these words."""
        lines = [
            line for line in self.out.splitlines() if all(word in line.split() for word in words)
        ]
        assert len(lines) == 1, (words, self.out)
        return lines[0]


def run(*arguments: str | Path, columns: int | None = None) -> Result:
    """Run the command in this process, for a reader of that width."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with _width(columns), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(*arguments)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return Result(code, *texts)


def call(*arguments: str | Path) -> int:
    """Run the command in this process, on the streams that there are; return its exit code."""
    try:
        _command()([_argument(argument) for argument in arguments], prog_name="rtstore")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _width(columns: int | None) -> Iterator[None]:
    before = os.environ.pop("COLUMNS", None)
    if columns is not None:
        os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


@functools.cache
def _command() -> Any:
    """The command, built once."""
    return typer.main.get_command(app)


def _argument(argument: str | Path) -> str:
    """An argument as somebody must give it who wants no option."""
    text = str(argument)
    return f"./{text}" if isinstance(argument, Path) and text.startswith("-") else text


def words_of(command: str) -> list[str]:
    """The words of a command of ours that was printed, as bash reads them."""
    script = f"rtstore() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def run_process(
    *arguments: str | Path,
    environment: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
) -> Result:
    """Run the command in a process of its own, as a shell would, `before` it another program."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "rtstore", *map(str, arguments)],
        env={**_without_columns(), **(environment or {}), "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def _without_columns() -> dict[str, str]:
    """The environment of a reader whose width nobody knows."""
    return {name: value for name, value in os.environ.items() if name != "COLUMNS"}


_RUN_ALL = """
import json, sys
from tests.cli.commands import run
results = [run(*words) for words in json.load(sys.stdin)]
print(json.dumps([[result.code, result.out, result.err] for result in results]))
"""


def run_all(
    commands: Sequence[Sequence[str | Path]], *, before: tuple[str, ...] = ()
) -> list[Result]:
    """Run commands one after the other in one process of their own, `before` it another program."""
    done = subprocess.run(
        [*before, sys.executable, "-c", _RUN_ALL],
        cwd=CHECKOUT,
        input=json.dumps([[str(word) for word in words] for words in commands]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Result(*result) for result in json.loads(done.stdout)]


# --- directories --------------------------------------------------------------------------------


class Crash(BaseException):
    """Stands for the death of a writer."""


@functools.cache
def _templates() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rtstore-cli-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    directory = folder / "ready"
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        for checkpoint in first_checkpoints():
            store.write_batch(identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes)
    crashed = Path(shutil.copytree(directory, folder / "crashed"))
    checkpoint = fatal_checkpoint()
    with crash_at("in-file-3"), RuntimeStore.open(crashed) as store:
        store.write_batch(
            identity=IDENTITY,
            reason=checkpoint.reason,
            writes=checkpoint.writes,
            batch_id="batch-crashed",
        )
    return folder


def ready_team(parent: Path) -> Path:
    """A runtime directory of `demo-team`: ten stores, three batches, ready."""
    return Path(shutil.copytree(_templates() / "ready", parent / "team"))


def crashed_team(parent: Path) -> Path:
    """The same after the death of a writer that had published two of four stores of
    `batch-crashed`; a temporary file is left."""
    return Path(shutil.copytree(_templates() / "crashed", parent / "crashed"))
