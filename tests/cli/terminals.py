"""Terminals for the tests: one of some width for a process or for this one, and what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest.mock import patch

from tests.cli.commands import CHECKOUT, call

ROWS = 50
_PIECE = re.compile(r"\x1b\[(?P<number>[?\d;]*)(?P<order>[A-Za-z])|[\r\n]|[^\r\n\x1b]+")


def _open(width: int) -> tuple[int, int]:
    """A new terminal: our end of it, and that of a program."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, width, 0, 0))
    return ours, theirs


def _environment(**given: str) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return {**inherited, "TERM": "xterm-256color", **given}


def on_terminal(width: int, *arguments: str | Path, **environment: str) -> str:
    """What the command, in a process of its own, writes to a terminal of that width."""
    ours, theirs = _open(width)
    with subprocess.Popen(
        [sys.executable, "-m", "rtstore", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=_environment(PYTHONPATH=str(CHECKOUT), **environment),
    ) as process:
        os.close(theirs)
        printed = _read_all(ours)
        assert process.wait() in (0, 1)
    return printed.replace("\r\n", "\n")


def run_on_terminal(*arguments: str | Path, columns: int) -> str:
    """Run the command in this process; return what stands on a terminal of that width."""
    ours, theirs = _open(columns)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(_read_all(ours)))
    reader.start()
    try:
        with patch.dict(os.environ, _environment(), clear=True), _streams(theirs):
            call(*arguments)
    finally:
        os.close(theirs)
        reader.join()
    return screen_of(read[0])


@contextlib.contextmanager
def _streams(descriptor: int) -> Iterator[None]:
    """Let standard output and errors be that terminal, as far as Python goes."""
    with (
        _stream(descriptor) as out,
        _stream(descriptor) as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        yield


def _stream(descriptor: int) -> IO[str]:
    return open(os.dup(descriptor), "w", encoding="utf-8", buffering=1)


def _read_all(descriptor: int) -> str:
    pieces = []
    try:
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode()


def screen_of(written: str) -> str:
    """What a terminal that breaks no line shows of what was written to it: without colours, and
    without what was erased."""
    lines, row, column = [""], 0, 0
    for piece in _PIECE.finditer(written):
        text, order = piece[0], piece["order"]
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif order is None:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif order == "A":
            row = max(0, row - int(piece["number"] or 1))
        elif order == "K":
            lines[row] = "" if piece["number"] == "2" else lines[row][:column]
        else:
            assert order in "mhl", f"what does {text!r} do?"  # colours, and a hidden cursor
    return "\n".join(line.rstrip() for line in lines)
