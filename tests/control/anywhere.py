"""An exception at any line: raises at the n-th line of the package that a call runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import rtstore

PACKAGE = str(Path(rtstore.__file__).parent)


class Boom(BaseException):
    """Comes from nowhere, as KeyboardInterrupt does."""


def raise_at(number: int, call: Callable[[], Any]) -> Boom | None:
    """Run a call with a `Boom` at its n-th line; return it, or None when it has fewer lines."""
    left = [number]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise Boom
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Boom as boom:
        return boom
    finally:
        sys.settrace(before)
    return None


def every_line(call: Callable[[], Any], *, at_most: int = 1000) -> Iterator[Boom]:
    """The `Boom` of each line of a call in turn, with its traceback, as a shell would keep it; of a
    call with many lines, of so many spread over it."""
    lines = count_lines(call)
    assert lines > 20  # it was traced at all
    step = max(1, -(-lines // at_most))
    for number in range(0, lines + step, step):
        boom = raise_at(number, call)
        if boom is None:
            return
        yield boom


def count_lines(call: Callable[[], Any]) -> int:
    """How many lines of the package a call runs."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
