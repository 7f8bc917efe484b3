"""The WAL of a store that another process has open is removed by hand: that process saves what was
committed, and nobody comes before it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, RuntimeStore
from rtstore.cli.exits import ExitCode
from rtstore.control.sqlite import processes
from rtstore.errors import DatabaseLockedError, DatabaseLostError
from tests.cli.commands import run
from tests.cli.troubles import findings
from tests.support import LEASES, open_store, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks and /proc of Linux")

WRITER = f"""
import sys
from pathlib import Path
from tests.support import open_store, write

with open_store(Path(sys.argv[1])) as store:
    write(store, {LEASES!r}, 1)
    print("committed", flush=True)
    if sys.stdin.readline() == "write\\n":
        write(store, {LEASES!r}, 2)
"""


@contextmanager
def written_elsewhere(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has a committed batch in its WAL."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "committed\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) in (0, -signal.SIGKILL)


def files_in(directory: Path) -> set[str]:
    """The names of all files."""
    return {item.name for item in directory.iterdir()}


@pytest.mark.parametrize(
    ("gone", "then"),
    [
        (("-wal",), "write"),
        (("-wal", "-shm"), "close"),
        pytest.param(("-wal",), "close", marks=pytest.mark.thorough),
        pytest.param(("-wal", "-shm"), "write", marks=pytest.mark.thorough),
        pytest.param(("-shm",), "close", marks=pytest.mark.thorough),
        pytest.param(("-shm",), "write", marks=pytest.mark.thorough),
    ],
)
def test_who_comes_meanwhile_waits(directory: Path, gone: tuple[str, ...], then: str) -> None:
    """Opening and looking are refused, and make no file in place of what is gone. What was
    acknowledged is saved by the process that has it."""
    with written_elsewhere(directory) as process:
        for suffix in gone:
            (directory / f"{DATABASE_NAME}{suffix}").unlink()
        before = files_in(directory)
        for read_only in (False, True):
            with pytest.raises(DatabaseLockedError, match=rf"process {process.pid} .*: let it"):
                RuntimeStore.open(directory, read_only=read_only)
        assert run("rebuild", directory).code == ExitCode.RETRY_LATER
        (finding,) = findings(directory, "database")
        assert finding["level"] == "red"
        assert f"process {process.pid} " in str(finding)
        assert files_in(directory) == before
        assert process.stdin is not None
        process.stdin.write(f"{then}\n")
    with open_store(directory) as store:
        assert store.read(LEASES).high_watermark == (2 if then == "write" else 1)


def test_who_has_nothing_removed_does_not_wait(directory: Path) -> None:
    """Beside a process that has the store open, and after one that was closed, opening works."""
    with written_elsewhere(directory), open_store(directory) as store:
        assert store.read(LEASES).high_watermark == 1
    with open_store(directory) as store:
        assert store.read(LEASES).high_watermark == 1


def test_who_opens_what_nobody_has_open_lists_no_locks(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel stops all its processors to list the locks of all files. Who opens a store that
    was closed asks for the locks of its database alone."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
    listed, locks_on = [], processes._locks_on

    def counted(path: Path) -> list[tuple[int, str, int, float]]:
        listed.append(path)
        return locks_on(path)

    monkeypatch.setattr(processes, "_locks_on", counted)
    with open_store(directory):
        pass
    assert listed == []
    shutil.rmtree(directory)
    with written_elsewhere(directory):
        (directory / f"{DATABASE_NAME}-wal").unlink()
        with pytest.raises(DatabaseLockedError):
            open_store(directory)
    assert listed != []


@pytest.mark.parametrize("lives", [True, False])
def test_what_was_read_before_is_not_denied(directory: Path, lives: bool) -> None:
    """A store that is open read-only had read what is in a WAL that is removed now. It says so, and
    calls no file edited; who has the WAL saves it."""
    with written_elsewhere(directory) as process:
        store = RuntimeStore.open(directory, read_only=True)
        assert store.read(LEASES).data == 1
        if not lives:
            process.kill()
            process.wait()
        (directory / f"{DATABASE_NAME}-wal").unlink()
        expected = rf"process {process.pid} .*: let it" if lives else "wal was removed"
        with pytest.raises((DatabaseLockedError, DatabaseLostError), match=expected):
            store.read(LEASES)
        if not lives:
            return
    assert store.read(LEASES).data == 1
    store.close()
