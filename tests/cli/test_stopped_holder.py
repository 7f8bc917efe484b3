"""Who keeps others from writing, and how the lock is freed: a writer that is stopped by a signal
(SIGSTOP, Ctrl-Z) while it holds the writer lock, and another program that has locked it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import LockTimeoutError, RuntimeStore
from rtstore.control.lock import WriterLock
from tests.cli.commands import run
from tests.support import IDENTITY, LEASES, child, hear, new_directory, open_store, write
from tests.support.forked import forked

HOLD = """
import sys
from rtstore import RuntimeStore

with RuntimeStore.open(sys.argv[1]) as store:
    store.begin_run("run-2", keep="all")
    with store.lock.hold():
        say("held")
        wait()
"""


OTHER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2]))
say("held")
wait()
"""


def stopped(directory: Path) -> int | None:
    """The process that holds the lock and is stopped by a signal, as the system says."""
    holder = WriterLock(directory).look()
    return None if holder is None else holder.stopped


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with one store."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "first")
        store.end_run(IDENTITY.run_id)
    return directory


@pytest.fixture
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, and is stopped."""
    with child(HOLD, directory) as process:
        assert hear(process) == "held"
        assert stopped(directory) is None
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process


def test_the_doctor_is_red_where_a_write_would_fail(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    """And names both ways out."""
    said = run("doctor", directory)
    assert said.code == 1
    assert f"process {holder.pid} is stopped by a signal: every write waits for it" in said.out
    assert f"kill -CONT {holder.pid}\n" in said.out
    assert f"kill -KILL {holder.pid}\n" in said.out


def test_status_and_runs_name_the_way_out(directory: Path, holder: subprocess.Popen[str]) -> None:
    """The runtime is ready all the same: nothing is wrong with what is committed."""
    said = run("status", directory)
    assert f"kill -CONT {holder.pid}\n" in said.out
    assert f"kill -KILL {holder.pid}\n" in said.out
    said = run("runs", directory)
    assert " stopped " in said.row("run-2", "active")
    assert f"kill -CONT {holder.pid}\n" in said.out


def test_who_waits_in_vain_is_told(directory: Path, holder: subprocess.Popen[str]) -> None:
    """Waiting longer would not help: so it is not advised."""
    with RuntimeStore.open(directory, lock_timeout_s=0.05) as store:
        with pytest.raises(LockTimeoutError, match=f"kill -CONT {holder.pid}") as caught:
            write(store, LEASES, "second")
        assert caught.value.stopped_process == holder.pid
        assert "wait longer" not in str(caught.value)
    for command in ("end-run", "prune"):
        options = ("--why", "it hangs") if command == "end-run" else ("--batches", "1")
        said = run(command, directory, *options, "--lock-timeout", "0.05")
        assert said.code == 3, said
        assert f"kill -KILL {holder.pid}" in said.err


def test_what_they_name_frees_the_lock(directory: Path, holder: subprocess.Popen[str]) -> None:
    """Once it goes on it is a writer at work; once it is killed, the lock is free."""
    os.kill(holder.pid, signal.SIGCONT)
    os.waitid(os.P_PID, holder.pid, os.WCONTINUED | os.WNOWAIT)
    assert stopped(directory) is None
    assert "a writer is at work" in run("doctor", directory).out
    os.kill(holder.pid, signal.SIGSTOP)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert stopped(directory) is None
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == "first"
        assert not store.lock.is_held()


def test_another_stopped_process_is_not_blamed(
    directory: Path, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    """The text of a lock file may name any process; the lock itself says who holds it."""
    text = (directory / "runtime-store.lock").read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "runtime-store.lock").write_text(text)
    assert stopped(directory) == holder.pid
    assert stopped(tmp_path / "other") is None


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_the_doctor_is_red_where_another_program_has_the_lock(directory: Path, how: int) -> None:
    """Every write fails meanwhile. What is advised ends that program, and not the runtime, which
    wrote last and is idle; and it frees the lock."""
    with forked(OTHER, directory, str(how)) as other:
        assert hear(other) == "held"
        doctor = run("doctor", directory)
        assert re.findall("kill .*", doctor.out) == [f"kill {other.pid}"]
        looked = run("status", directory).row("Writer", "lock")
        for said in (doctor.row("red", "lock"), looked):
            assert f"held by process {other.pid} (" in said
            assert f"process {os.getpid()}" not in said
        os.kill(other.pid, signal.SIGTERM)
        other.wait(20)
    WriterLock(directory).hold(0).release()
    assert run("doctor", directory).row("green", "lock")
