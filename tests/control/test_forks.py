"""Forks: a child has no share in the parent's connections, opens its own, and nothing is lost."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rtstore.control.sqlite import sessions
from tests.control.build import run
from tests.support import breadth

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

COMMON = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
from rtstore.control.sqlite import sessions
from rtstore.control.sqlite.engine import Database
from rtstore.errors import StoreClosedError, StoreForkedError
from tests.control.build import add_batch, batch_count, write_one

path = Path(sys.argv[1])

def in_child(work):
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0, status
        return
    try:
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def sound(database, count):
    assert database.read(batch_count) == count
    check = lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one()
    assert database.read(check) == "ok"
"""

ANY_ORDER = (
    COMMON
    + """
order = sys.argv[2]
database = Database(path)
write_one(database, 1)
assert database.read(batch_count) == 1
to_child, to_parent = os.pipe(), os.pipe()
child = os.fork()
if not child:
    own = Database(path)
    write_one(own, 2)
    os.write(to_parent[1], b"x")
    os.read(to_child[0], 1)
    write_one(own, 3)
    if order != "killed":
        own.close()
    os.write(to_parent[1], b"x")
    os.kill(os.getpid(), 9)
os.read(to_parent[0], 1)
write_one(database, 4)
if order == "parent first":
    database.close()
os.write(to_child[1], b"x")
os.read(to_parent[0], 1)
os.waitpid(child, 0)
if order != "parent first":
    database.close()
other = Database(path)
sound(other, 4)
other.close()
print("fine")
"""
)


@pytest.mark.parametrize(
    "order", breadth.params(["parent first", "child first", "killed"], normal=["killed"])
)
def test_both_write_and_close_in_any_order(path: Path, order: str) -> None:
    """Nothing that either acknowledged is lost, whoever closes first or is killed."""
    assert run(ANY_ORDER, path, order) == "fine\n"


INSIDE = (
    COMMON
    + """
where = sys.argv[2]
database = Database(path)
write_one(database, 1)
parent = os.getpid()

def fork_here(connection):
    def child():
        try:
            Database(path).read(batch_count)
        except StoreForkedError as error:
            assert "spawn" in str(error)
        else:
            raise AssertionError("it was opened")
    in_child(child)
    if where == "write":
        add_batch(connection, 2)
    child = os.fork()   # and this one goes on in the middle of it
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    return batch_count(connection)

try:
    if where == "write":
        with database.write(flush=True) as connection:
            fork_here(connection)
    elif where == "read":
        database.read(fork_here)
    else:
        database.read_on_writer(fork_here)
except StoreClosedError:
    assert os.getpid() != parent
    database.close()
    sys.exit(7)
assert os.getpid() == parent
write_one(database, 3)
sound(database, 3 if where == "write" else 2)
database.close()
print("fine")
"""
)


@pytest.mark.parametrize(
    "where", breadth.params(["write", "read", "read as writer"], normal=["write"])
)
def test_a_fork_inside_of_a_transaction(path: Path, where: str) -> None:
    """The child can neither go on with the transaction nor open the database; it ends as it likes,
    and the parent commits as if nothing had been."""
    assert run(INSIDE, path, where) == "fine\n"


BESIDE = (
    COMMON
    + """
from rtstore import forks
sessions.PATIENCE_S = forks.PATIENCE_S = 120  # a fork may give up; a slow machine is no reason here
database = Database(path)
write_one(database, 1)
numbers, stop = iter(range(2, 100000)), threading.Event()
written = [1]

def write():
    while not stop.is_set():
        write_one(database, next(numbers))
        written[0] += 1

def read():
    while not stop.is_set():
        database.read(batch_count)
        database.read_cached(batch_count)

def work():
    own = Database(path)
    assert own.read(batch_count) >= 1
    own.close()

def fork():
    for _ in range(6):
        in_child(work)

threads = [threading.Thread(target=work) for work in (write, read, read)]
forks = [threading.Thread(target=fork) for _ in range(2)]
[thread.start() for thread in (*threads, *forks)]
[thread.join() for thread in forks]
stop.set()
[thread.join() for thread in threads]
sound(database, written[0])
database.close()
print("fine")
"""
)


def test_forks_beside_threads_that_read_and_write(path: Path) -> None:
    """Two threads fork while others read and write: every child opens its own, none waits for
    ever, and nothing is lost."""
    assert run(BESIDE, path) == "fine\n"


def test_a_pause_is_never_taken_for_an_earlier_one_of_its_thread() -> None:
    """A thread that waits finds a pause over, and forgets it. Whichever line it stops at, a pause
    that the same thread has begun meanwhile stays: without it, a fork would copy connections that
    are in use."""
    for line in range(1, 100):
        pause = sessions.Pause()
        reached, go_on = threading.Event(), threading.Event()
        waiting = threading.Thread(target=_wait_and_stop_at, args=(line, reached, go_on))
        pause.close()
        waiting.start()
        assert reached.wait(60)
        pause = sessions.Pause()
        go_on.set()
        # Either it sees this pause, and waits for its end, or it has looked before.
        waiting.join(0.02)
        assert sessions.is_pausing()
        pause.close()
        waiting.join(60)
        if not _stopped.pop():
            break
    else:
        raise AssertionError("it never came to an end")
    assert line > 3


_stopped: list[bool] = []


def _wait_and_stop_at(number: int, reached: threading.Event, go_on: threading.Event) -> None:
    """Wait for the pauses of others, and stop before one of the lines that this runs."""
    left = number

    def stop(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != sessions.__file__:
            return None
        if event == "line" and left:
            left -= 1
            if not left:
                reached.set()
                go_on.wait(60)
        return stop

    sys.settrace(stop)
    try:
        sessions.wait_for_others()
    finally:
        sys.settrace(None)
    _stopped.append(not left)
    reached.set()


IMPATIENT = (
    COMMON
    + """
sessions.PATIENCE_S = 0.05
database = Database(path)
write_one(database, 1)
inside, leave = threading.Event(), threading.Event()

def write():
    with database.write(flush=True) as connection:
        add_batch(connection, 2)
        inside.set()
        leave.wait()

thread = threading.Thread(target=write)
thread.start()
inside.wait()

def child():
    try:
        Database(path).read(batch_count)
    except StoreForkedError:
        return
    raise AssertionError("it was opened")

in_child(child)
leave.set()
thread.join()
sound(database, 2)

def later():
    own = Database(path)
    sound(own, 2)
    own.close()

in_child(later)
database.close()
print("fine")
"""
)


BESIDE_A_LOOK = (
    COMMON
    + """
import signal, sqlite3, time
from rtstore import forks
from rtstore.control.sqlite import engine
from rtstore.control import revisions as upgrade

where, how = sys.argv[2:]
is_inside, begun, has_forked = False, threading.Event(), False

class Slow:
    # SQLite as it is, but for opening: that takes until another thread is about to fork, or has.
    def __getattr__(self, name):
        return getattr(sqlite3, name)

    def connect(self, *args, **options):
        global is_inside
        is_inside = True
        begun.set()
        deadline = time.monotonic() + 20
        while not (forks._forking or sessions._pauses or has_forked):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.05)
        is_inside = False
        return sqlite3.connect(*args, **options)

cuts = []

def cut_off(number, frame):
    # Once in the first wait of a handler, and once in the second.
    while frame and frame.f_code.co_name not in ("_before_fork", "quiesce"):
        frame = frame.f_back
    if frame and len(cuts) < 2 and not cuts.count(frame):
        cuts.append(frame)
        raise KeyboardInterrupt

if how == "control":
    forks.no_fork.__enter__ = lambda self: None
    sessions.quiesce = lambda *_: True
(upgrade if where == "header" else engine).sqlite3 = Slow()
look = {
    "header": lambda: upgrade.inspect_revision(path),
    "idle": lambda: Database(path, read_only=True).read(batch_count),
}[where]
thread = threading.Thread(target=look)
thread.start()
assert begun.wait(60)
if how == "interrupted":
    signal.signal(signal.SIGALRM, cut_off)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    sys.unraisablehook = lambda error: None
child = os.fork()
if not child:
    os._exit(3 if is_inside else 0)
signal.setitimer(signal.ITIMER_REAL, 0)
has_forked = True
print(bool(cuts), end=" ")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""
)


@pytest.mark.parametrize("where", breadth.params(["header", "idle"], normal=["header"]))
@pytest.mark.parametrize(
    ("how", "told"),
    [("library", "False 0\n"), ("interrupted", "True 0\n"), ("control", "False 3\n")],
)
def test_a_fork_beside_a_thread_that_opens_sqlite(
    path: Path, where: str, how: str, told: str
) -> None:
    """SQLite has locks of its own while it opens a file: a fork waits for that, or its child could
    never open one. It waits also where exceptions of a signal handler come meanwhile, which Python
    prints, and then forks."""
    assert run(BESIDE_A_LOOK, path, where, how) == told


def test_a_transaction_that_does_not_end(path: Path) -> None:
    """A fork waits for other threads' transactions only so long; then its child is refused."""
    assert run(IMPATIENT, path) == "fine\n"


DESCRIPTORS = (
    COMMON
    + """
database = Database(path)
write_one(database, 1)
database.read(batch_count)

def child():
    names = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
             if os.path.lexists(f"/proc/self/fd/{n}")]
    assert not [name for name in names if path.name in name], names

in_child(child)
database.close()
in_child(child)
dropped = Database(path)
write_one(dropped, 2)
generator = dropped.write(flush=False)
generator.__enter__()
del generator
in_child(child)
dropped.close()
print("fine")
"""
)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc")
def test_a_child_has_no_descriptor_of_the_database(path: Path) -> None:
    """Whether the store is open, closed or was interrupted when the parent forks."""
    assert run(DESCRIPTORS, path) == "fine\n"


IN_A_CALL = (
    COMMON
    + """
from rtstore import RunIdentity, RuntimeStore
from tests.support import CHECKPOINT, IDENTITY, LEASES, new_directory, open_store

store = open_store(new_directory(path.parent))
inside = []

def fork(error=None):
    inside.append(os.fork())
    if not inside[0] and error:
        raise error
    return [1]

def expect(call, kind, text):
    inside.clear()
    try:
        batch = call()
    except BaseException as error:
        told = " ".join([str(error), *getattr(error, "__notes__", ())])
        fine = not inside[0] and type(error) is kind and text in told
        fine or print(repr(error), told, file=sys.stderr, flush=True)
        os._exit(0 if fine else 1)
    if not inside[0]:
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(inside[0], 0)[1]) == 0
    assert store.batch(batch.batch_id).state == "committed"

def update(change):
    return store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)

expect(lambda: update(lambda _: fork()), StoreClosedError, "which the parent carries out")
expect(
    lambda: update(lambda _: fork(KeyboardInterrupt())),
    KeyboardInterrupt,
    "not known whether the batch is committed: the parent process carries it out",
)
store.close()
print("fine")
"""
)


def test_a_fork_in_the_middle_of_a_call(path: Path) -> None:
    """The child, which returns through the same call, is told that its parent carries it out."""
    assert run(IN_A_CALL, path) == "fine\n"


LOOKS_AT_THE_WAL = (
    COMMON
    + """
from rtstore.control import foreign_wal, revisions

database = Database(path)
write_one(database, 1)
look, waited = foreign_wal.problem_of_wal, []

def while_a_thread_forks(path):
    thread = threading.Thread(target=in_child, args=[lambda: None], daemon=True)
    thread.start()
    thread.join(5)
    waited.append(thread.is_alive())
    return look(path)

foreign_wal.problem_of_wal = while_a_thread_forks
revisions.inspect_revision(path)
assert waited == [False], waited
"""
)


def test_a_fork_does_not_wait_for_a_look_at_the_wal(path: Path) -> None:
    """That look waits for forks: if a fork waited for it too, both would for ten seconds."""
    run(LOOKS_AT_THE_WAL, path)
