"""The standard streams of the command: stands in for closed ones, and tells their failures apart.

Loads nothing else, so that a help is there at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO, cast


class OutputLostError(Exception):
    """Standard output cannot be written. It is no `OSError`: those are about files of a store."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.has_left = cause.errno == errno.EPIPE
        """Whether its reader has gone, as `head` does when it has read enough."""


class _Output(io.FileIO):
    """Standard output, whose failures are told from those of other files."""

    def write(self, data: object, /) -> int:
        """Write data."""
        try:
            return super().write(cast("bytes", data))
        except OSError as error:
            raise OutputLostError(error) from error


class _Errors(io.FileIO):
    """Standard error. Where it cannot be written there is nobody to tell."""

    def write(self, data: object, /) -> int:
        """Write data, or drop it."""
        try:
            return super().write(cast("bytes", data))
        except OSError:
            return len(cast("bytes", data))


def take_over() -> None:
    """Replace the standard streams by those of this module, and closed ones by `/dev/null`."""
    for number in range(3):
        _occupy(number)
    if sys.stdin is None:
        nothing = io.BufferedReader(io.FileIO(0, closefd=False))
        sys.stdin = io.TextIOWrapper(nothing, encoding="utf-8")
    sys.stdout = _over(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _over(_Errors(2, "w", closefd=False), sys.stderr)


def _occupy(number: int) -> None:
    """Open a descriptor that is closed, so that no file of a store gets its number."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        os.dup2(opened, number)  # which is the same one, unless a lower one is free again
        if opened != number:
            os.close(opened)


def _over(file: io.FileIO, before: TextIO | None) -> TextIO:
    """Return a stream that is like the one before. A path or a name that its encoding lacks is
    shown, never a traceback."""
    if before is not None and not isinstance(before, io.TextIOWrapper):
        return before
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=before is not None and (before.line_buffering or before.write_through),
    )


def run(command: Callable[[], object]) -> int:
    """Run a command, which ends by `SystemExit`, and return its exit code.

    Where its output is lost and it has not failed by itself, that is said and is its failure.
    """
    code = 0
    try:
        try:
            command()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
    except OutputLostError as error:
        _drop_output()
        from rtstore.cli.exits import ExitCode

        if code in (ExitCode.READY, ExitCode.NOT_READY):
            if not error.has_left:
                sys.stderr.write(f"rtstore: standard output cannot be written: {error}\n")
            return ExitCode.RETRY_LATER
    return code


def _drop_output() -> None:
    """Let what is left of standard output go nowhere, so that Python does not fail at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
