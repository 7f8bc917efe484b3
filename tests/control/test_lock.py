"""The writer lock: one writer at a time, across threads and processes, and never a stale lock."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rtstore import InvalidRequestError, LockTimeoutError, StorageError, WriterLock, forks
from rtstore.control.lock import LOCK_NAME, odd_lock, read_signature
from rtstore.errors import RetryableError
from tests.support import answer, child, hear
from tests.support.forked import forked

HOLD = """
from pathlib import Path
from rtstore.control.lock import WriterLock
import os
with WriterLock(Path(sys.argv[1])).hold():
    say("held", os.getpid())
    wait()
say("free")
wait()
"""

COUNT = """
from pathlib import Path
from rtstore.control.lock import WriterLock
directory = Path(sys.argv[1])
lock, counter = WriterLock(directory), directory / "counter"
say("ready")
wait()
for _ in range(int(sys.argv[2])):
    with lock.hold():
        counter.write_text(str(int(counter.read_text()) + 1))
say("done")
"""


def in_thread(lock: WriterLock) -> LockTimeoutError | None:
    """What a thread of its own gets for trying the lock for an instant; None when it had it."""
    raised: list[LockTimeoutError | None] = []

    def work() -> None:
        try:
            with lock.hold(0.05):
                raised.append(None)
        except LockTimeoutError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return raised[0]


def test_one_thread_at_a_time(tmp_path: Path) -> None:
    """Threads that share the lock, and threads with locks of their own, never meet inside."""
    shared = WriterLock(tmp_path)
    inside, most, total = 0, 0, 0

    def work(lock: WriterLock) -> None:
        nonlocal inside, most, total
        for _ in range(20):
            with lock.hold():
                inside += 1
                most = max(most, inside)
                time.sleep(0.0002)
                total += 1
                inside -= 1

    locks = [shared, shared, WriterLock(tmp_path), WriterLock(tmp_path)]
    threads = [threading.Thread(target=work, args=[lock]) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (most, total) == (1, 80)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Processes that count in a file under the lock lose no count."""
    (tmp_path / "counter").write_text("0")

    with forked(COUNT, tmp_path, "100") as first, forked(COUNT, tmp_path, "100") as second:
        assert [hear(first), hear(second)] == ["ready", "ready"]
        answer(first)
        answer(second)
        assert [hear(first), hear(second)] == ["done", "done"]

    assert (tmp_path / "counter").read_text() == "200"


def test_held_by_another_process(tmp_path: Path) -> None:
    """Who waits in vain hears who holds it and since when; a probe sees it; then it is free."""
    lock = WriterLock(tmp_path)
    with forked(HOLD, tmp_path) as process:
        _, pid = hear(process).split()

        assert lock.is_held()
        started = time.monotonic()
        with pytest.raises(LockTimeoutError) as caught, lock.hold(0.2):
            pass
        assert 0.2 <= time.monotonic() - started < 2
        error = caught.value
        assert isinstance(error, RetryableError)
        assert (error.path, error.timeout_s) == (tmp_path / LOCK_NAME, 0.2)
        assert re.fullmatch(
            rf"process {pid} \(.+\) since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z",
            str(error.holder),
        )
        assert str(error.holder) in str(error)

        answer(process)
        assert hear(process) == "free"
        assert not lock.is_held()
        with lock.hold(0):  # a time-out before does no harm
            assert str(os.getpid()) in str(lock.signature())


def test_it_dies_with_its_holder(tmp_path: Path) -> None:
    """A process that is killed while it holds the lock leaves nothing to wait for or to judge."""
    lock = WriterLock(tmp_path)
    with forked(HOLD, tmp_path) as process:
        assert hear(process).startswith("held")
        assert lock.is_held()

        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

        assert not lock.is_held()
        with lock.hold(0):
            assert lock.is_held()


def test_who_waits_gets_it_as_soon_as_it_is_free(tmp_path: Path) -> None:
    """Waiting ends with the holder, not with the time-out."""
    lock = WriterLock(tmp_path)
    with forked(HOLD, tmp_path) as process:
        assert hear(process).startswith("held")
        timer = threading.Timer(0.1, lambda: os.kill(process.pid, signal.SIGKILL))
        timer.start()
        started = time.monotonic()
        with lock.hold(20):
            assert time.monotonic() - started < 5
        timer.join()


def test_held_by_another_thread(tmp_path: Path) -> None:
    """Also through a lock of its own a thread waits, in vain, and can take it afterwards."""
    lock, other = WriterLock(tmp_path), WriterLock(tmp_path)
    with lock.hold():
        for candidate in (lock, other):
            error = in_thread(candidate)
            assert error is not None
            assert str(os.getpid()) in str(error.holder)

    assert in_thread(lock) is None
    assert in_thread(other) is None


def test_a_holder_that_ends_while_somebody_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that was too long is told as such, also where the holder releases just then."""
    lock, look = WriterLock(tmp_path), os.stat
    hold = lock.hold()

    def release_and_look(*arguments: Any, **options: Any) -> os.stat_result:
        hold.release()
        return look(*arguments, **options)

    monkeypatch.setattr(os, "stat", release_and_look)
    assert isinstance(lock.timed_out(1), LockTimeoutError)
    assert hold.closed
    assert not lock.is_held_here


def test_it_cannot_be_taken_twice_by_one_thread(tmp_path: Path) -> None:
    """Waiting for oneself would never end, so it is an error at once; the first hold stays."""
    lock = WriterLock(tmp_path)
    with lock.hold():
        started = time.monotonic()
        with pytest.raises(InvalidRequestError, match="inside a write"), lock.hold():
            pass
        assert time.monotonic() - started < 1
        assert lock.is_held()
        assert in_thread(lock) is not None

    assert not lock.is_held()


def test_a_second_lock_of_the_same_thread_times_out(tmp_path: Path) -> None:
    """Two stores opened on one directory are two writers, wherever they are."""
    with (
        WriterLock(tmp_path).hold(),
        pytest.raises(LockTimeoutError),
        WriterLock(tmp_path).hold(0.05),
    ):
        pass


def test_an_error_inside_frees_it(tmp_path: Path) -> None:
    """Whatever ends the block ends the hold."""
    lock = WriterLock(tmp_path)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), lock.hold():
            raise error
        assert not lock.is_held()

    assert in_thread(lock) is None


def test_a_probe_creates_nothing_and_disturbs_nobody(tmp_path: Path) -> None:
    """Looking is looking: no file is made, a free lock stays free, a held one held."""
    lock = WriterLock(tmp_path)
    assert not lock.is_held()
    assert not WriterLock(tmp_path / "nowhere").is_held()
    assert list(tmp_path.iterdir()) == []

    with lock.hold():
        assert all(lock.is_held() for _ in range(100))
        assert all(WriterLock(tmp_path).is_held() for _ in range(100))
    before = lock.path.stat()
    assert not lock.is_held()
    assert (lock.path.stat().st_ino, lock.path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_two_probes_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    """Somebody who only looks is no writer."""
    lock = WriterLock(tmp_path)
    with lock.hold():
        pass
    descriptor = os.open(lock.path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert not lock.is_held()
    finally:
        os.close(descriptor)


def test_a_writer_is_not_kept_out_by_probes(tmp_path: Path) -> None:
    """A writer that comes while somebody looks has the lock milliseconds later."""
    lock, stop = WriterLock(tmp_path), threading.Event()

    def probe() -> None:
        while not stop.is_set():
            lock.is_held()

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        for _ in range(50):
            with lock.hold(5):
                pass
    finally:
        stop.set()
        thread.join()


def test_a_lock_file_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    """A writer on the old file and one on the new file would be two; the next one makes anew."""
    lock = WriterLock(tmp_path)
    with lock.hold():
        pass
    lock.path.unlink()

    with lock.hold():
        assert WriterLock(tmp_path).is_held()


def test_a_lock_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """No directory, or something else under the name."""
    with pytest.raises(StorageError, match="nowhere"), WriterLock(tmp_path / "nowhere").hold():
        pass
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(StorageError, match=LOCK_NAME), WriterLock(tmp_path).hold():
        pass


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_what_is_no_file_is_no_lock(tmp_path: Path, kind: int) -> None:
    """The error names what it is, and the command; nobody waits, not even who only looks."""
    path = tmp_path / LOCK_NAME
    try:
        os.mknod(path, kind | 0o600, os.makedev(1, 3))  # as a device: /dev/null
    except PermissionError:
        pytest.skip("making a device is not permitted here")
    assert not WriterLock(tmp_path).is_held()
    with pytest.raises(StorageError, match=f"has its name.*mv {path}"), WriterLock(tmp_path).hold():
        pass
    assert odd_lock(path) in ("a pipe", "a socket", "a device")


FORK = """
from pathlib import Path
from rtstore.control.lock import WriterLock
import os
lock = WriterLock(Path(sys.argv[1]))
reading, writing = os.pipe()
with lock.hold():
    process = os.fork()
    if process == 0:
        os.close(writing)
        mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        os.read(reading, 1)  # until the parent is gone
if process == 0:
    for descriptor in mine:
        os.fstat(descriptor)  # the end of the block has closed nothing of ours
    with lock.hold(10):
        pass
    os._exit(7)
say("free")
wait()
os.close(writing)
say(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_that_is_forked_under_the_lock_has_no_part_in_it(tmp_path: Path) -> None:
    """It neither keeps the lock from others nor lets it go for its parent, and closes nothing that
    is its own."""
    with child(FORK, tmp_path) as process:
        assert hear(process) == "free"
        with WriterLock(tmp_path).hold(10):  # the child may just be being born
            pass
        answer(process)
        assert hear(process) == "7"


CHILD = """
from pathlib import Path
from rtstore.control import lock as lock_module
from rtstore.control.lock import LOCK_NAME, WriterLock
import os
directory, what, how, *call = Path(sys.argv[1]), *sys.argv[2:]
lock = WriterLock(directory)
reading, writing = os.pipe()

def live_as_the_child():
    os.close(writing)
    os.read(reading, 1)  # until the parent has let the lock go
    try:
        lock.hold(5 if how == "library" else 0.2).release()
    except BaseException:
        os._exit(1)
    os._exit(0)
"""

JUST_OPENED = (
    CHILD
    + """
opened = {"file": directory / LOCK_NAME, "directory": directory}[what]
lock.path.touch()
born, really_open = [], os.open

def open_beside_a_fork(path, *flags):
    descriptor = really_open(path, *flags)
    if Path(path) == opened and not born:
        born.append(os.fork())
        if not born[0]:
            live_as_the_child()
    return descriptor

if how == "control":
    lock_module.may_be_inherited = lambda _: False
os.open = open_beside_a_fork
if call == ["look"]:
    assert not lock.is_held()
else:
    with lock.hold():
        assert lock.is_held_by_this_thread
os.close(writing)
say(os.waitstatus_to_exitcode(os.waitpid(born[0], 0)[1]))
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.parametrize("call", ["hold", "look"])
@pytest.mark.parametrize(("how", "code"), [("library", "0"), ("control", "1")])
def test_a_child_that_is_forked_just_when_a_descriptor_is_opened_has_no_part_in_the_lock(
    tmp_path: Path, what: str, call: str, how: str, code: str
) -> None:
    """Another thread may fork before the descriptor is noted as one that a child has to close. It
    does not become a lock: the child would keep it, and wait for itself."""
    with forked(JUST_OPENED, tmp_path, what, how, call) as process:
        assert hear(process) == code


JUST_CLOSED = (
    CHILD
    + """
hold = lock.hold()
number = {"file": hold, "directory": hold.directory}[what].fileno()
kept = os.dup(number)
hold.close()
os.dup2(kept, number)  # as in the middle of the close: the object is closed, the descriptor is not
os.close(kept)
if how == "control":
    lock_module._is_lock_on = lambda *_: False
child = os.fork()
if not child:
    live_as_the_child()
os.close(number)
os.close(writing)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="the system does not tell")
@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.parametrize(("how", "code"), [("library", "0"), ("control", "1")])
def test_a_child_that_is_forked_in_the_middle_of_a_close_has_no_part_in_the_lock(
    tmp_path: Path, what: str, how: str, code: str
) -> None:
    """Python marks an object as closed before it closes the descriptor: the child would keep the
    lock, and nobody could write until it ends."""
    with forked(JUST_CLOSED, tmp_path, what, how) as process:
        assert hear(process) == code


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_keeps_the_descriptors_that_its_parent_has_of_the_same_files(
    tmp_path: Path,
) -> None:
    """They may have the number that a descriptor of the lock had."""
    lock = WriterLock(tmp_path)
    with lock.hold():
        pass
    own = [os.open(path, os.O_RDONLY) for path in (*lock.names, *lock.names)]
    process = os.fork()
    if not process:
        try:
            for descriptor in own:
                os.fstat(descriptor)
        except OSError:
            os._exit(1)
        os._exit(0)
    for descriptor in own:
        os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_the_signature_is_read_back(tmp_path: Path) -> None:
    """Who holds the lock and since when are facts; what another program wrote there is no error."""
    lock = WriterLock(tmp_path)
    with lock.hold():
        found = read_signature(lock.signature() or "")
    assert found.process_id == os.getpid()
    assert found.since is not None
    assert read_signature("process 42 on box since 2026-99-99T99:99:99.999Z") == (42, None)
    for text in (
        "",
        "an unknown process",
        "process 0 on box since now",
        f"process {'9' * 40} on b",
    ):
        assert read_signature(text) == (None, None)


def test_what_stands_in_the_lock_file_is_shown_without_control_characters(tmp_path: Path) -> None:
    """Anybody may have written there."""
    (tmp_path / LOCK_NAME).write_bytes(b"\x1b[31mprocess 1\x07\n")
    assert WriterLock(tmp_path).signature() == "[31mprocess 1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_that_is_over_says_nothing_of_another_thread_that_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is opened between the handlers before a fork and the fork is in the child, too, and
    would be a lock there: so nothing is locked until that fork is over, whoever forks meanwhile."""
    monkeypatch.setattr(forks, "FORK_S_MAX", 600)
    begun, over = threading.Event(), threading.Event()

    def fork() -> None:
        forks._before_fork()
        begun.set()
        over.wait(60)
        forks._after_in_parent()

    thread = threading.Thread(target=fork)
    thread.start()
    assert begun.wait(60)
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    lock = WriterLock(tmp_path)
    with pytest.raises(LockTimeoutError), lock.hold(timeout_s=0):
        pass
    over.set()
    thread.join()
    with lock.hold(timeout_s=0):
        assert lock.is_held()
