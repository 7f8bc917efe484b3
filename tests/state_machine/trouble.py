"""What can happen to a call of the store: its process dies, or the operating system refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from hypothesis import strategies as st

from rtstore import FileSystem, RuntimeStore
from tests.support import Crash

CALLS = (
    "create", "write", "set_mode", "set_mtime", "fsync", "close", "rename", "exchange", "unlink",
    "mkdir", "fsync_directory", "lstat", "is_directory", "list_directory", "read",
)  # fmt: skip


class Trouble(NamedTuple):
    """`kind` says what happens, `at` before which call of the seam (from 0)."""

    kind: str
    at: int = 0

    @property
    def is_crash(self) -> bool:
        """Whether the process dies of it."""
        return self.kind not in ("once", "from")

    @property
    def after_log(self) -> bool:
        """Whether a batch that meets it is in the log for certain."""
        return self.kind in POINTS


POINTS = (
    "before the first file",
    "between two files",
    "before the commit record",
    "after the commit record",
)
"""Named moments after the commit point, whatever the number of calls before them."""

_KINDS = ["crash"] * 8 + ["once"] * 3 + ["from"] * 2 + list(POINTS)
TROUBLE = st.one_of(
    st.none(),
    st.none(),
    st.builds(Trouble, st.sampled_from(_KINDS), st.integers(0, 24)),
)
CRASH = st.one_of(st.none(), st.builds(Trouble, st.just("crash"), st.integers(0, 40)))


class FragileFileSystem(FileSystem):
    """Counts its calls while trouble is set, and lets the trouble happen at its call.

    After a crash nothing is done any more, as when the process were dead; only descriptors are
    closed, for the test's own process lives on.
    """

    def __init__(self) -> None:
        self.trouble: Trouble | None = None
        self.count = 0
        self.dead = False
        self.hit = False

    def ask(self, name: str) -> None:
        """Let happen what is to happen before the next call."""
        if self.dead:
            raise Crash
        trouble = self.trouble
        if trouble is None:
            return
        number, self.count = self.count, self.count + 1
        if trouble.kind == "crash" and number == trouble.at:
            self.dead = self.hit = True
            raise Crash
        if (trouble.kind == "once" and number == trouble.at) or (
            trouble.kind == "from" and number >= trouble.at
        ):
            self.hit = True
            if name != "is_directory":  # it answers, and never raises
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def _guarded(name: str) -> Callable[..., Any]:
    real = getattr(FileSystem, name)

    def call(self: FragileFileSystem, *arguments: Any) -> Any:
        if name == "close":
            real(self, *arguments)  # the descriptor is gone, whatever is said of it
        self.ask(name)
        return None if name == "close" else real(self, *arguments)

    return call


for _name in CALLS:
    setattr(FragileFileSystem, _name, _guarded(_name))


@contextmanager
def troubled(
    store: RuntimeStore | None, fs: FragileFileSystem, trouble: Trouble | None
) -> Iterator[None]:
    """Let the trouble happen inside the block."""
    fs.trouble, fs.count, fs.hit = trouble, 0, False
    with ExitStack() as patches:
        if store is not None and trouble is not None and trouble.kind in POINTS:
            _crash_at_point(store, fs, trouble.kind, patches)
        try:
            yield
        finally:
            fs.trouble = None


def _crash_at_point(
    store: RuntimeStore, fs: FragileFileSystem, point: str, patches: ExitStack
) -> None:
    publisher = store._writer.publisher
    name = "complete" if point.endswith("complete") else "publish"
    real = getattr(publisher, name)
    calls: list[None] = []

    def dying(*arguments: Any) -> Any:
        calls.append(None)
        early = point == "between two files" and len(calls) == 1
        if early or point == "after the commit record":
            done = real(*arguments)
            if early:
                return done
        fs.dead = fs.hit = True
        raise Crash

    patches.enter_context(patch.object(publisher, name, dying))
