"""Which process is that of a run: the one that began or resumed it, and when that is gone, the next
one that writes under its identity."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from rtstore import RunAliveError, RuntimeStore, StartKind
from rtstore.control import run_processes, runs
from rtstore.model.runs import RunProcess
from tests.support import answer, hear, plain_descriptor
from tests.support.forked import forked

NAME = "test.a"
DESCRIPTORS = [plain_descriptor(NAME, "a.json")]
GONE = 2**22 + 1  # above every pid of Linux

DAEMON = """
import os, sys
from rtstore import RuntimeStore, StoreClosedError

with RuntimeStore.open(sys.argv[1]) as store:
    run = store.begin_run("run-1", writes={"test.a": 1})
    reading, writing = os.pipe()
    child = os.fork()
if child:
    os._exit(0)  # so ends the parent of a daemon
os.close(writing)
os.read(reading, 1)
try:
    run.write_batch("recovery", {"test.a": 2})
except StoreClosedError as error:
    say(error)
with RuntimeStore.open(sys.argv[1]) as store:
    store.write_batch(identity=run.identity, reason="recovery", writes={"test.a": 2})
    say(os.getpid())
    wait()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A new directory of one store."""
    directory = tmp_path / "rt"
    RuntimeStore.open(directory, team_name="team-a", descriptors=DESCRIPTORS).close()
    return directory


def record(store: RuntimeStore, process: RunProcess) -> None:
    """Have the database say that a process is that of the active run."""
    with store.lock.hold(), store.database.write(flush=False) as connection:
        runs.resume(connection, "run-1", process)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_process_that_becomes_a_daemon_is_that_of_its_run(directory: Path) -> None:
    """It may open the store again and write, under the identity that it has. While it lives, no
    other run begins unasked; the error of what it inherited says how to be the run's at once."""
    with forked(DAEMON, directory) as process:
        assert "begin_run with its id" in hear(process)
        pid = int(hear(process))
        with RuntimeStore.open(directory) as store:
            state = store.start_state("run-2")
            assert (state.kind, state.process_alive) == (StartKind.TAKE_OVER, True)
            with pytest.raises(RunAliveError) as refused:
                store.begin_run("run-2", keep="all")
            assert refused.value.pid == pid
        answer(process)


def test_who_writes_on_is_recorded_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a process that lives, or of which that is not known, stays that of the run."""
    with RuntimeStore.open(directory) as store:
        run = store.begin_run("run-1", writes={NAME: 1})
        here = run_processes.this_process(directory)
        write = partial(run.write_batch, "recovery", {NAME: 2})
        others = {
            "alive": here.model_copy(update={"pid": os.getppid(), "start": None}),
            "elsewhere": here.model_copy(update={"host": "elsewhere", "pid": GONE}),
        }
        for other in others.values():
            record(store, other)
            write()
            assert store.runs()[0].process == other
        record(store, here.model_copy(update={"pid": GONE}))
        store.revert(NAME, to=1)  # names no run, so it changes nothing about one
        assert store.start_state("run-2").process_alive is False
        write()
        assert store.runs()[0].process == here
        monkeypatch.setattr(run_processes, "is_alive", None)  # the usual batch does not ask
        write()
