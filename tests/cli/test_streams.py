"""Streams that are closed, full or read no further: the work is done, and the exit code is true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore import RuntimeStore
from rtstore.cli.exits import ExitCode
from rtstore.maintenance.backup import verify_backup
from rtstore.records import RunState
from tests.cli.commands import CHECKOUT, Result, crashed_team, ready_team
from tests.support import breadth

LEFT_OUT = ("COLUMNS", "PYTHONUNBUFFERED")
CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")
LOOKS = (
    "status team",
    "status team --json",
    "plan team",
    "doctor team",
    "show team launch-state.json",
    "guide",
    "--help",
    "--version",
)
"""Each of them answers `ExitCode.READY`."""
FULL = "rtstore: standard output cannot be written: No space left on device\n"


def shell(folder: Path, script: str, **environment: str) -> Result:
    """Run a script in a shell of its own that has the command `rtstore`."""
    begin = f'rtstore() {{ "{sys.executable}" -m rtstore "$@"; }}; set -o pipefail\n'
    kept = {name: text for name, text in os.environ.items() if name not in LEFT_OUT}
    done = subprocess.run(
        ["bash", "-c", begin + script],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(CHECKOUT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.thorough
def test_closed_streams_of_commands_that_look(tmp_path: Path) -> None:
    """A cron job or a daemon may have none of them: the answer is the exit code."""
    ready_team(tmp_path)
    script = "".join(f"rtstore {words} >&-; echo $?\n" for words in LOOKS)
    done = shell(tmp_path, script)
    assert (done.err, done.out.split()) == ("", ["0"] * len(LOOKS))


def test_closed_streams_of_what_is_not_ready(tmp_path: Path) -> None:
    """Neither is a directory in need taken for a ready one, nor a wrong call for a right one."""
    crashed_team(tmp_path)
    calls = {"status crashed": 1, "status nowhere --json": 2, "status --no": 2}
    script = "".join(f"rtstore {words} >&-; echo $?\n" for words in calls)
    done = shell(tmp_path, script)
    assert done.out.split() == [str(code) for code in calls.values()]
    assert "Traceback" not in done.err
    assert done.err.count("rtstore: nowhere: ") == 1


@pytest.mark.thorough
@pytest.mark.parametrize("closed", breadth.params(CLOSED, normal=CLOSED[-1:]))
def test_closed_streams_of_commands_that_write(tmp_path: Path, closed: str) -> None:
    """They do their work once, and say so by their exit code; no file of theirs is taken for a
    stream."""
    crashed_team(tmp_path)
    done = shell(
        tmp_path,
        f"rtstore recover crashed {closed} && rtstore end-run crashed --why x {closed} &&"
        f" rtstore backup crashed kept {closed}",
    )
    assert (done.code, done.err) == (ExitCode.READY, "")
    verify_backup(tmp_path / "kept")
    with RuntimeStore.open(tmp_path / "kept", read_only=True) as store:
        (run,) = store.runs()
        assert (run.state, store.manifest().high_watermark) == (RunState.ENDED, 4)


@pytest.mark.thorough
@pytest.mark.parametrize("unbuffered", breadth.params(["", "1"], normal=[""]))
def test_full_output(tmp_path: Path, unbuffered: str) -> None:
    """One line says it, and the exit code is that of a full disk, with and without `--json`."""
    ready_team(tmp_path)
    calls = ("status team", "status team --json", "guide limits", "report team -o -", "--help")
    script = "".join(f"rtstore {words} >/dev/full || echo $?\n" for words in calls)
    done = shell(tmp_path, script, PYTHONUNBUFFERED=unbuffered)
    assert done.err == FULL * len(calls)
    assert done.out.split() == [str(int(ExitCode.RETRY_LATER))] * len(calls)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output_of_a_command_that_failed(tmp_path: Path, unbuffered: str) -> None:
    """What failed first is what is said, and what the exit code is about."""
    script = "rtstore status nowhere --json >/dev/full"
    done = shell(tmp_path, script, PYTHONUNBUFFERED=unbuffered)
    assert done.code == ExitCode.WRONG_CALL
    assert done.err.startswith("rtstore: nowhere: there is no such directory")
    assert done.err.count("\n") == 1


def test_full_output_of_a_command_that_writes(tmp_path: Path) -> None:
    """Its work is done nevertheless, and doing it once more is refused."""
    crashed_team(tmp_path)
    done = shell(
        tmp_path,
        "rtstore recover crashed >/dev/full; rtstore end-run crashed --why x --json >/dev/full",
    )
    assert (done.code, done.err) == (ExitCode.RETRY_LATER, FULL * 2)
    with RuntimeStore.open(tmp_path / "crashed", read_only=True) as store:
        assert [run.state for run in store.runs()] == [RunState.ENDED]


def test_full_errors(tmp_path: Path) -> None:
    """Nobody can be told; the exit code is the usual one."""
    ready_team(tmp_path)
    calls = {"status team": 0, "status nowhere": 2, "status --no": 2}
    script = "".join(f"rtstore {words} 2>/dev/full >out; echo $?\n" for words in calls)
    done = shell(tmp_path, script, PYTHONUNBUFFERED="1")
    assert (done.out.split(), done.err) == ([str(code) for code in calls.values()], "")


@pytest.mark.parametrize("words", ["log team --json", "--help", "watch team"])
def test_a_reader_that_leaves(tmp_path: Path, words: str) -> None:
    """Who has read enough needs no message; what was cut off is not called ready, or blocked."""
    ready_team(tmp_path)
    script = f"rtstore {words} | true"
    done = shell(tmp_path, script, PYTHONUNBUFFERED="1")
    assert (done.code, done.out, done.err) == (ExitCode.RETRY_LATER, "", "")


def test_open_streams_are_as_they_were(tmp_path: Path) -> None:
    """A name that the encoding lacks is escaped, and a document is whole."""
    shutil.move(ready_team(tmp_path), tmp_path / "é")
    done = shell(tmp_path, "rtstore status é --json", PYTHONIOENCODING="ascii")
    assert json.loads(done.out)["directory"].endswith("é")
    done = shell(tmp_path, "rtstore status é", PYTHONIOENCODING="ascii")
    assert done.out.splitlines()[0].endswith("\\xe9")
