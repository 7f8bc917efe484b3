"""What each command shows in a pane of tmux: a terminal that is none of ours."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtstore.cli.layout import width_of
from tests.cli.commands import CHECKOUT
from tests.cli.test_widths import outputs
from tests.cli.widths import ON_A_TERMINAL, masked

TMUX = shutil.which("tmux")
PATIENCE_S = 600
Tmux = Callable[..., str]


@contextmanager
def _tmux(folder: Path) -> Iterator[Tmux]:
    """A server of its own, which keeps all lines."""
    socket, settings = folder / "socket", folder / "tmux.conf"
    settings.write_text("set -g history-limit 50000\n")
    names = ("NO_COLOR", "COLUMNS", "LINES", "TMUX")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(CHECKOUT), "LC_ALL": "C.UTF-8"}

    def tmux(*words: str) -> str:
        done = subprocess.run(
            [str(TMUX), "-S", str(socket), "-f", str(settings), *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
        return done.stdout

    try:
        yield tmux
    finally:
        tmux("kill-server")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.mark.thorough
@pytest.mark.skipif(TMUX is None, reason="there is no tmux: apt-get install tmux")
@pytest.mark.parametrize("width", [80, 40])
def test_each_command_in_tmux(tmp_path: Path, width: int) -> None:
    """Line by line what is in the file of that width for a terminal. The terminal breaks a line
    only where the file has a wider one."""
    printed = outputs(width)
    expected: list[str] = []
    for command, text in printed.items():
        if not command.endswith(ON_A_TERMINAL):
            shown = printed.get(f"{command}{ON_A_TERMINAL}", text)
            expected += [f"$ rtstore {command}", *_lines(shown), ""]
    words = [sys.executable, "-m", "tests.cli.widths", "--here"]
    with _tmux(tmp_path) as tmux:
        run = f"cd {shlex.quote(str(CHECKOUT))}; {shlex.join(words)}"
        signal = f"{TMUX} -S {shlex.quote(str(tmp_path / 'socket'))} wait-for -S done"
        size = ("-x", str(width), "-y", "50")
        tmux("new-session", "-d", *size, f"clear; {run}; {signal}; sleep {PATIENCE_S}")
        tmux("wait-for", "done")
        whole = tmux("capture-pane", "-p", "-J", "-S", "-")
        broken = tmux("capture-pane", "-p", "-S", "-")
    shown_lines = _lines(masked(whole))
    assert [line for line in shown_lines if line] == [line for line in expected if line]
    lines = [max(1, -(-width_of(line) // width)) for line in _lines(whole)]
    assert len(_lines(broken)) == sum(lines)
