"""A fork beside a thread that imports, or makes a database: the child is not left with half."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.control.build import run
from tests.support import answer, breadth, hear
from tests.support.forked import forked, printed_by

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

BESIDE = """
import importlib.abc, importlib.machinery, os, signal, sys, threading, time
from pathlib import Path
import rtstore
from rtstore import forks

place, what, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
begun, forked = threading.Event(), threading.Event()
signal.alarm(30)  # nothing of this waits for ever

def trade_names(here):
    from rtstore.files.system import FileSystem
    for name in "ab":
        (here / name).write_text(name)
    FileSystem().exchange(here / "a", here / "b")
    assert (here / "a").read_text() == "b"

def make_a_database(here):
    from rtstore.control import revisions as upgrade
    from tests.control.build import make
    assert make(here).exists()

def front_door(here):
    rtstore.build_readiness  # noqa: B018

def tell(here):
    from rtstore.commit.reporting import EventDispatcher
    from rtstore.errors import BatchFailedError
    from rtstore.control.sqlite.engine import Database
    names = "batch-1", "todo.state", "a reason", "a cause"
    error = BatchFailedError(*names, undone=True, directory=here)
    EventDispatcher(Database(here / "none"))._failed(error, 0.1)

work, module = {
    "trade names": (trade_names, "ctypes"),
    "make a database": (make_a_database, "alembic.config"),
    "front door": (front_door, "rtstore.model.decide"),
    "tell": (tell, "rtstore.model.events"),
}[what]
import tests.control.build, rtstore.commit.reporting, rtstore.files.system  # not tested here
if module == "rtstore.model.decide":
    sys.modules.pop(module, None)
assert module not in sys.modules, module

class Slow(importlib.abc.MetaPathFinder):
    # In the middle of the import until another thread is about to fork, or has forked.
    def find_spec(self, name, path, target=None):
        if name != module or forked.is_set():
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        carry_out = spec.loader.exec_module

        def wait_first(made):
            begun.set()
            while not forked.is_set() and (how == "control" or not forks._forking):
                time.sleep(0.001)
            carry_out(made)

        spec.loader.exec_module = wait_first
        return spec

sys.meta_path.insert(0, Slow())
if how == "control":
    forks.no_fork.__enter__ = lambda self: None

here = [place / name for name in ("parent", "child")]
for each in here:
    each.mkdir()
thread = threading.Thread(target=work, args=here[:1])
thread.start()
assert begun.wait(20)
child = os.fork()
if not child:
    signal.alarm(1 if how == "control" else 30)
    try:
        forked.set()
        work(here[1])
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
forked.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


IMPORTS = ("trade names", "make a database", "front door", "tell")


@pytest.mark.parametrize("what", breadth.params(IMPORTS, normal=IMPORTS[1:2]))
def test_the_child_of_a_fork_beside_an_import(tmp_path: Path, what: str) -> None:
    """The child does the same as the thread that was in the middle of an import."""
    assert run(BESIDE, tmp_path, what, "mended") == "0\n"


def test_where_a_fork_does_not_wait_the_child_hangs(tmp_path: Path) -> None:
    """The control: the child waits for ever for a lock that no thread of its own has."""
    assert run(BESIDE, tmp_path, "trade names", "control") == f"{-signal.SIGALRM}\n"


# --- what the tests themselves fork ---------------------------------------------------------------

ALONE = """
import threading
was_loaded = "rtstore.store" in sys.modules
say(was_loaded, threading.active_count(), len(os.listdir("/proc/self/fd")) < 12, os.environ["SEEN"])
wait()
sys.exit(3)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_a_forked_script_has_nothing_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the library loaded, one thread, few descriptors and the environment of the moment;
    how it ends is heard."""
    monkeypatch.setenv("SEEN", "now")
    with forked("import os\n" + ALONE) as process:
        assert hear(process) == "True 1 True now"
        assert process.poll() is None
        answer(process)
        assert process.wait(60) == 3
    with forked("wait()") as process:
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    with pytest.raises(AssertionError):
        printed_by("raise SystemExit(1)")
