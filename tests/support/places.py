"""Where tests keep their directories: in memory, where that can be had, and some of them on a disk.

A flush takes a disk some milliseconds, and nearly every test makes some; none can see whether one
reached a medium, for a loss of power is modelled and never provoked. The file seam, the flushes and
the README are tried on a disk all the same, and so is everything in the full run or where `TMPDIR`
says where directories belong.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = "/dev/shm"
"""A file system in memory, where Linux has one."""

ROOM = 2 << 30
"""What must be free there: containers often have a small one."""

_DISK = "RTSTORE_TESTS_DISK"
"""The environment tells the processes of a run where its disk is."""


def choose(*, full: bool) -> None:
    """Have directories made in memory from here on, by this process and those it starts."""
    if _DISK in os.environ or "TMPDIR" in os.environ or full:
        return
    if os.access(MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ[_DISK] = tempfile.gettempdir()
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


@contextmanager
def on_disk() -> Iterator[Path]:
    """A directory on a disk, which goes away with the block."""
    disk = os.environ.get(_DISK, tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="rtstore-test-", dir=disk) as folder:
        yield Path(folder)
