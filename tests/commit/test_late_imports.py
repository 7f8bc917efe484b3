"""What a write needs is loaded when its store is opened: while the interpreter ends, nothing can be
imported, and a batch that is logged by then would stay open."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import RunState, RuntimeStore
from tests.support import child, hear, plain_descriptor

A, B = "test.a", "test.b"
WRITE = """
import gc, logging, sys
from rtstore import DELETED, RuntimeStore

if sys.argv[2] == "heard":
    logging.basicConfig(level=logging.DEBUG, stream=open(sys.argv[3], "w"))

class Keeper:
    def __init__(self):
        self.store = RuntimeStore.open(sys.argv[1])
        self.told = []

    def __del__(self):
        assert sys.meta_path is None
        store = self.store
        run = store.begin_run("run-1", writes={"test.a": 1, "test.b": 1})
        run.update("test.a", lambda old: old + 1, reason="recovery")
        (store.directory / "a.json").write_text("somebody's")
        run.write_batch("recovery", {"test.a": 3, "test.b": DELETED})
        store.revert("test.a", to=2)
        store.recover(store.plan_recovery())
        run.end()
        say("written")

keeper = Keeper()
keeper.itself = keeper  # so only the end of the interpreter collects it
"""


@pytest.mark.parametrize("how", ["heard", "unheard"])
def test_a_store_that_writes_first_while_the_interpreter_ends(tmp_path: Path, how: str) -> None:
    """As an object does that saves its state when it is finalized."""
    directory = tmp_path / "rt"
    descriptors = [plain_descriptor(A, "a.json"), plain_descriptor(B, "b.json")]
    RuntimeStore.open(directory, team_name="team-a", descriptors=descriptors).close()
    with child(WRITE, directory, how, tmp_path / "log") as process:
        assert hear(process) == "written"
        process.wait(60)
    with RuntimeStore.open(directory) as store:
        assert store.last_recovery is None
        assert store.read(A).data == 2
        assert store.runs()[0].state is RunState.ENDED
