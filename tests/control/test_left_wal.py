"""What earlier processes left in the WAL is stored before anything is added behind it.

After a failed flush, the pages of a file may be in memory and not on the medium, and no later flush
writes them. The medium is simulated: a WAL whose last pages never came there, then what the next
process writes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from rtstore import DATABASE_NAME, RuntimeStore, StorageError
from rtstore.control.sqlite import left_wal
from tests.support import LEASES, TEAM, new_directory, write

WAL = f"{DATABASE_NAME}-wal"


class Left(NamedTuple):
    """A directory as a process left it that died, or that still lives but writes no more."""

    directory: Path
    stored_bytes: int
    """The size of its WAL before the batch whose flush failed."""


@pytest.fixture
def left(tmp_path: Path) -> Left:
    """Two batches that were flushed, and one whose flush failed."""
    directory = new_directory(tmp_path / "living")
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        write(store, LEASES, {"n": 0})
        write(store, LEASES, {"n": 1})
        stored_bytes = (directory / WAL).stat().st_size
        write(store, LEASES, {"n": 2})
        return Left(shutil.copytree(directory, tmp_path / "left"), stored_bytes)


class Medium:
    """What of a WAL is on the medium. SQLite's writes come there by its own flushes."""

    def __init__(self, left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
        self._wal = wal = left.directory / WAL
        self._left = wal.stat().st_size
        self._stored = bytearray(wal.read_bytes()[: left.stored_bytes].ljust(self._left, b"\0"))
        self._header = wal.read_bytes()[:32]
        self._waiting: list[tuple[int, bytes]] = []
        really_write, really_flush = os.pwrite, os.fsync

        def pwrite(descriptor: int, content: bytes, at: int) -> int:
            written = really_write(descriptor, content[:9_999], at)  # a part, as a system may
            self._waiting.append((at, content[:written]))
            return written

        def fsync(descriptor: int) -> None:
            really_flush(descriptor)
            if os.fstat(descriptor).st_ino == wal.stat().st_ino:
                for at, content in self._waiting:
                    self._stored[at : at + len(content)] = content

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "fsync", fsync)

    def after_a_loss_of_power(self, directory: Path) -> Path:
        """The directory as the next start of the machine finds it."""
        found = shutil.copytree(directory, directory.with_name("after"))
        now = self._wal.read_bytes()
        is_begun_anew = now[:32] != self._header
        (found / WAL).write_bytes(now if is_begun_anew else self._stored + now[self._left :])
        return found


@pytest.fixture(params=["nobody reads", "somebody reads"])
def told_and_found(
    left: Left, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[], tuple[list[str], list[str]]]:
    """Return the batches that the next process tells as committed, and those that are there after a
    loss of power."""

    def go_on() -> tuple[list[str], list[str]]:
        with ExitStack() as stack:
            if request.param == "somebody reads":
                path = left.directory / DATABASE_NAME
                reader = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM runtime_manifest").fetchall()
            medium = Medium(left, monkeypatch)
            with RuntimeStore.open(left.directory, team_name=TEAM) as store:
                write(store, LEASES, {"n": 10})
                write(store, LEASES, {"n": 11})
                told = [batch.batch_id for batch in store.batches()]
                after = medium.after_a_loss_of_power(left.directory)
            monkeypatch.undo()
        with RuntimeStore.open(after) as store:
            return told, [batch.batch_id for batch in store.batches()]

    return go_on


def test_a_loss_of_power_after_a_failed_flush(
    told_and_found: Callable[[], tuple[list[str], list[str]]],
) -> None:
    """What the next process tells as committed stays, and what it found in the log."""
    told, found = told_and_found()
    assert len(told) == 5
    assert found == told


def test_control_without_it(
    told_and_found: Callable[[], tuple[list[str], list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that adds to the WAL as it is loses what it told as committed."""
    monkeypatch.setattr(left_wal, "_has_nothing", lambda _: True)
    told, found = told_and_found()
    assert len(told) == 5
    assert found == told[:2] or found == told[-2:]  # whichever order they are listed in


def _fails(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_wal_that_cannot_be_stored(
    left: Left, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Nothing is added, also at the next try; once it can be stored, everything goes on."""
    wal = left.directory / WAL
    monkeypatch.setattr(left_wal, "_move", lambda _: False)
    with RuntimeStore.open(left.directory, team_name=TEAM) as store:
        before = wal.read_bytes()
        monkeypatch.setattr(os, call, _fails)
        for _ in range(2):
            with pytest.raises(StorageError, match="its WAL cannot be flushed"):
                write(store, LEASES, {"n": 10})
        assert wal.read_bytes() == before
        monkeypatch.undo()
        write(store, LEASES, {"n": 11})
        assert store.manifest().high_watermark == 4


def test_it_is_done_once(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual batch costs one flush, and where nothing was left, the first one, too."""
    moved: list[object] = []
    really: Callable[[sqlite3.Connection], bool] = left_wal._move

    def count(driver: sqlite3.Connection) -> bool:
        moved.append(driver)
        return really(driver)

    monkeypatch.setattr(left_wal, "_move", count)
    for _ in range(2):
        with RuntimeStore.open(left.directory, team_name=TEAM) as store:
            write(store, LEASES, {"n": 3})
            write(store, LEASES, {"n": 4})
        assert len(moved) == 1
