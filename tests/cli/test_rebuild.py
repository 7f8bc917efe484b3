"""`rtstore rebuild` on the command line."""

from __future__ import annotations

from pathlib import Path

from rtstore import DATABASE_NAME
from rtstore.cli.exits import ExitCode
from tests.cli.commands import ready_team, run
from tests.cli.test_bad_input import refused
from tests.support import picture


def test_a_team_whose_database_is_beyond_help(tmp_path: Path) -> None:
    """Refused until it is said whose state it is; then it says what it took, kept and lost, and
    the next command finds a ready team."""
    directory = ready_team(tmp_path)
    (directory / DATABASE_NAME).write_bytes(b"")
    before = picture(directory, without=("runtime-store.lock",))
    result = run("rebuild", directory)
    refused(result, ExitCode.WRONG_CALL, "--team", "say whose state this is")
    assert picture(directory, without=("runtime-store.lock",)) == before
    result = run("rebuild", directory, "--team", "demo-team", "--run-id", "run-7f3a")
    assert (result.code, result.err) == (ExitCode.READY, "")
    assert "the file is empty: it was truncated" in result.out
    assert str(directory / "runtime-store.broken-001") in result.out
    assert result.out.count("from_file") == 10
    assert "the history: earlier batches" in result.out
    status = run("status", directory, "--run-id", "run-7f3a")
    assert status.code == ExitCode.READY, status.out
    assert "ready" in status.row("Readiness", "ready")


def test_a_sound_team(tmp_path: Path) -> None:
    """Refused, with what would be lost and how to do it all the same."""
    directory = ready_team(tmp_path)
    before = picture(directory, without=("runtime-store.lock",))
    result = run("rebuild", directory)
    refused(result, ExitCode.WRONG_CALL, "--force", "is sound", f"rtstore status {directory}")
    assert picture(directory, without=("runtime-store.lock",)) == before
    assert run("rebuild", directory, "--force").code == ExitCode.READY
