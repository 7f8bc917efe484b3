"""The crash of the demo: a real process is killed in the middle of a batch."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from rtstore.errors import RetryableError
from rtstore.model.records import Record
from rtstore.testing.points import CrashPoint

HANDSHAKE_TIMEOUT_S = 60.0


class DemoFailedError(RetryableError):
    """The writer of the demo did not die as it should; the directory is left for a look."""


class Kill(Record):
    """The proof: the process came to the point, and ended by the signal."""

    point: str
    process_id: int
    signal: int


def kill_writer(directory: Path, point: CrashPoint, batch_id: str) -> Kill:
    """Start a writer, wait until it reports that it is at the point, kill it, and check its end.

    Raises `DemoFailedError` when it never reached the point, or did not end by SIGKILL.
    """
    with subprocess.Popen(  # noqa: S603 - this very Python, with arguments of our own
        [
            *(sys.executable, "-P", "-m", "rtstore.cli.demo_writer"),
            *(str(directory), point.name, batch_id),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        try:
            said = _handshake(process)
        finally:
            process.send_signal(signal.SIGKILL)
        _, complaints = process.communicate()
    if said != point.name or process.returncode != -signal.SIGKILL:
        raise DemoFailedError(
            f"the writer of the demo should have said {point.name!r} and been killed by signal "
            f"{signal.SIGKILL.value}; it said {said!r} and ended with {process.returncode}. "
            f"{complaints.decode(errors='replace').strip()[-500:]} Look at: {directory}"
        )
    return Kill(point=said, process_id=process.pid, signal=-process.returncode)


def _handshake(process: subprocess.Popen[bytes]) -> str:
    """Return the line that the writer prints at its point; empty when it ends or hangs instead."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    ready, _, _ = select.select([process.stdout], [], [], HANDSHAKE_TIMEOUT_S)
    return process.stdout.readline().decode().strip() if ready else ""
