"""status, plan and log only look: proved by pictures of the directory, beside a living writer, and
where nothing may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore.cli.exits import ExitCode
from tests.cli.commands import crashed_team, ready_team, run, run_process
from tests.cli.test_bad_input import _without_privileges
from tests.support import child, hear, picture

LOOKING = ("status", "plan", "log")
CODES = {"status": ExitCode.NOT_READY, "plan": ExitCode.NOT_READY, "log": ExitCode.READY}


@pytest.mark.parametrize("command", LOOKING)
def test_an_idle_directory_stays_as_it_is(tmp_path: Path, command: str) -> None:
    """Names, bytes, modes and times are the same before and after: no -wal, no -shm, no lock."""
    directory = ready_team(tmp_path)
    before = picture(directory)
    assert "runtime-store.sqlite3-wal" not in before
    assert run(command, directory).code == ExitCode.READY
    assert run_process(command, directory, "--json").code == ExitCode.READY
    assert picture(directory) == before


@pytest.mark.parametrize("command", LOOKING)
def test_a_crashed_directory_stays_as_it_is(tmp_path: Path, command: str) -> None:
    """What a dead writer left is there to be looked at again and again."""
    directory = crashed_team(tmp_path)
    before = picture(directory)
    for _ in range(2):
        assert run(command, directory).code == CODES[command]
    assert picture(directory) == before


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Without any permission to write, in the directory or its files, looking works as ever."""
    directory = ready_team(tmp_path)
    paths = [directory, *directory.iterdir()]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = picture(directory)
    try:
        for command in LOOKING:
            result = run_process(command, directory, before=_without_privileges())
            assert (result.code, result.err) == (ExitCode.READY, "")
        init = run_process("init", directory, "--team", "demo-team", before=_without_privileges())
        assert init.code == ExitCode.READY
        assert picture(directory) == before
    finally:
        for path in paths:
            path.chmod(0o700)


WRITE_WITHOUT_PAUSE = """
from rtstore import RuntimeStore
from rtstore.cli.demo_data import IDENTITY, fatal_checkpoint
checkpoint = fatal_checkpoint()
with RuntimeStore.open(sys.argv[1]) as store:
    say("writing")
    while True:
        store.write_batch(identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes)
"""


def test_beside_a_living_writer(tmp_path: Path) -> None:
    """While another process writes batch after batch, every look finds a ready team, and adds
    nothing to the directory."""
    directory = ready_team(tmp_path)
    with child(WRITE_WITHOUT_PAUSE, directory) as writer:
        assert hear(writer) == "writing"
        watermarks = []
        for _ in range(5):
            for command in LOOKING:
                result = run(command, directory, "--json")
                assert (result.code, result.err) == (ExitCode.READY, "")
            watermarks.append(result.json()["highWatermark"])
        assert writer.poll() is None
        names = {path.name for path in directory.iterdir()}
    assert watermarks == sorted(watermarks)
    assert watermarks[-1] > watermarks[0]
    assert {name for name in names if not name.endswith((".json", ".rtstore-tmp"))} == {
        "runtime-store.sqlite3",
        "runtime-store.sqlite3-wal",
        "runtime-store.sqlite3-shm",
        "runtime-store.lock",
    }
