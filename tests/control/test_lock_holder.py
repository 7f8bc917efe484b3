"""Who is said to hold the writer lock: a process only where the system confirms it. The text of the
lock file says who took it last, which another program's lock does not change."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtstore import LockTimeoutError, WriterLock, forks
from rtstore.control.lock import LOCK_NAME
from rtstore.control.sqlite import processes
from tests.support import answer, hear
from tests.support.forked import forked

pytestmark = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="the system does not tell who holds a lock"
)

OTHER = """
import fcntl, os, sys
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(directory, {"exclusive": fcntl.LOCK_EX, "shared": fcntl.LOCK_SH}[sys.argv[2]])
say("held")
wait()
"""

LEFT = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
child = os.fork()
if child:
    say(child)
    os._exit(0)
wait()
"""


@pytest.fixture
def lock(tmp_path: Path) -> WriterLock:
    """A lock that this process took last, and released."""
    lock = WriterLock(tmp_path)
    lock.hold().release()
    return lock


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """A lock that this process has without rtstore."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def refusal(lock: WriterLock) -> LockTimeoutError:
    """The error of a call that does not get the lock."""
    with pytest.raises(LockTimeoutError) as caught, lock.hold(0):
        pass
    return caught.value


@pytest.mark.parametrize("how", ["exclusive", "shared"])
def test_another_program(lock: WriterLock, tmp_path: Path, how: str) -> None:
    """It is named, with what it has locked; who signed the lock last is not."""
    with forked(OTHER, tmp_path, how) as other:
        assert hear(other) == "held"
        error, holder = refusal(lock), lock.look()
        words = "a shared lock" if how == "shared" else "a lock"
        assert f": held by process {other.pid} (" in str(error)
        assert f"by {words} on the directory, and not as a writer of rtstore" in str(error)
        assert str(os.getpid()) not in str(error)
        assert not error.is_own_process
        assert holder is not None
        assert (holder.is_writer, holder.since) == (False, None)
        answer(other)
        other.wait(20)
    assert lock.look() is None


def test_a_lock_that_was_left_to_a_child(lock: WriterLock, tmp_path: Path) -> None:
    """The list of locks names who took it, which has ended: its pid may be anybody's by now."""
    with forked(LEFT, tmp_path) as taker:
        child = int(hear(taker))
        taker.wait(20)
        assert f"held by process {child} (" in str(refusal(lock))
        answer(taker)


def test_everyone_who_has_it(lock: WriterLock, tmp_path: Path) -> None:
    """The lock is free only once all of them have let it go, so all are named to who asks."""
    with locked(tmp_path):
        child = os.fork()
        if not child:
            signal.pause()
        holder = lock.look(everyone=True)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert holder is not None
    assert {item.pid for item in holder.processes} == {os.getpid(), child}


def test_a_lock_that_the_program_took_itself(lock: WriterLock, tmp_path: Path) -> None:
    """As its own lock of one instance, on the directory or on the file."""
    for path in (tmp_path, tmp_path / LOCK_NAME):
        with locked(path):
            error = refusal(lock)
            assert error.is_own_process
            assert "the program itself has a lock there" in str(error)
        assert not lock.timed_out(0).is_own_process


@pytest.mark.parametrize("takers", [{1}, set(), None])
def test_a_holder_that_the_system_does_not_show(
    lock: WriterLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takers: set[int] | None
) -> None:
    """Such as one of another user or container, or any where there is no /proc: then it is only
    said who signed the lock last."""
    monkeypatch.setattr(processes, "flock_takers", lambda _: takers)
    monkeypatch.setattr(processes, "flocks_of", lambda *_: [])
    with locked(tmp_path):
        error, holder = refusal(lock), lock.look()
    assert "held by a process that is not known here" in str(error)
    assert f"last signed by process {os.getpid()} on " in str(error)
    assert not error.is_own_process
    assert holder is not None
    assert holder.processes == ()


def test_its_own_write_is_known_everywhere(
    lock: WriterLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of this process needs no system to confirm it."""
    monkeypatch.setattr(processes, "flock_takers", lambda _: None)
    with lock.hold():
        holder = WriterLock(lock.path.parent).look()
    assert holder is not None
    assert holder.is_writer
    assert holder.words.startswith(f"process {os.getpid()} (")
    assert " since " in holder.words


def test_nobody(lock: WriterLock, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is taken beside a fork: that is not said to be anybody's."""
    monkeypatch.setattr(forks, "_imminent", {0: float("inf")})
    error = refusal(lock)
    assert "nobody is seen to hold it now" in str(error)
    assert (error.holder, error.is_own_process) == (None, False)


def test_calls_that_time_out_together(
    lock: WriterLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a look at who holds it, which costs the whole machine something. A later one looks
    again."""
    looks, takers = [], processes.flock_takers

    def counted(paths: Sequence[str]) -> set[int] | None:
        looks.append(paths)
        return takers(paths)

    monkeypatch.setattr(processes, "flock_takers", counted)
    with locked(tmp_path):
        errors = [lock.timed_out(30) for _ in range(50)]
    assert len(looks) == 1
    assert len({str(error) for error in errors}) == 1
    monkeypatch.setattr("rtstore.control.lock._SEEN_S", 0)
    assert lock.timed_out(30).holder is None
