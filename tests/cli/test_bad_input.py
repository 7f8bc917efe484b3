"""Bad input of every kind: a clear message, the right exit code, no traceback, nothing changed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from rtstore.cli.commands import log
from rtstore.cli.exits import ExitCode
from rtstore.errors import (
    ConflictError,
    InvalidRequestError,
    RecoveryFailedError,
    RuntimeStoreError,
    UnusableEngineError,
)
from tests.cli.commands import Result, ready_team, run, run_process
from tests.cli.widths import SESSIONS
from tests.support import hear, picture
from tests.support.forked import forked

DATABASE = "runtime-store.sqlite3"
EVERY_COMMAND = (
    ("status",),
    ("plan",),
    ("recover",),
    ("log",),
    ("runs",),
    ("end-run", "--why", "it hung"),
    ("init", "--team", "demo-team"),
    ("watch",),
    ("history", "launch-state.json"),
    ("show", "launch-state.json"),
    ("diff", "launch-state.json", "1"),
    ("revert", "launch-state.json", "--to", "1"),
    ("adopt", "launch-state.json"),
    ("prune", "--batches", "1"),
    ("backup", "elsewhere"),
    ("export",),
)
"""Every command that opens a store, with what it needs besides the directory."""


def refused(result: Result, code: ExitCode, *words: str) -> None:
    """The command refused with this code, in one line on standard error that has these words."""
    assert (result.code, result.out) == (code, ""), result
    assert result.err.startswith("rtstore: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


# --- directories --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "plan", "recover", "log", "import"])
def test_no_such_directory(tmp_path: Path, command: str) -> None:
    """The path is named, with the command that makes it; nothing is created."""
    missing = tmp_path / "missing"
    result = run(command, missing)
    refused(result, ExitCode.WRONG_CALL, f"{missing}: there is no such directory")
    assert f"Run: rtstore init {missing} --team NAME\n" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "doctor", "report", "watch"])
def test_a_slip_in_the_name_of_a_directory(tmp_path: Path, command: str) -> None:
    """Those that there are can be seen, and no other one is suggested."""
    slip = ready_team(tmp_path).with_name("taem")
    result = run(command, slip)
    refused(result, ExitCode.WRONG_CALL, f"{slip}: there is no such directory")
    assert f"rtstore status {tmp_path}\n" in result.err
    assert "rtstore init" not in result.err


@pytest.mark.parametrize("command", ["status", "doctor", "report", "watch"])
def test_a_folder_of_back_ups(tmp_path: Path, command: str) -> None:
    """It has no store, but what one can be restored from."""
    folder = tmp_path / "kept"
    folder.mkdir()
    for name in ("one", "two"):
        assert run("backup", ready_team(tmp_path / name), folder / name).code == ExitCode.READY
    result = run(command, folder)
    refused(result, ExitCode.WRONG_CALL, "no runtime store here, but 2 back-ups")
    assert f"Run: rtstore verify {folder / 'two'}\n" in result.err


@pytest.mark.parametrize("command", [*EVERY_COMMAND, ("import",)], ids=lambda words: words[0])
def test_a_file_instead_of_a_directory(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file is no directory, not even a database or a store file of one."""
    path = ready_team(tmp_path) / "launch-state.json"
    before = path.read_bytes()
    refused(run(command[0], path, *command[1:]), ExitCode.WRONG_CALL, str(path), "not a directory")
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["status", "plan", "recover", "log"])
def test_a_directory_without_a_store(tmp_path: Path, command: str) -> None:
    """A directory in which nothing was made is told from one that is not there; it stays so."""
    (tmp_path / "notes.txt").write_text("mine")
    result = run(command, tmp_path)
    refused(result, ExitCode.WRONG_CALL, "there is no runtime store here", "rtstore init")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["recover"],
        ["doctor"],
        ["log"],
        ["show", "launch-state.json"],
        ["adopt", "launch-state.json"],
        ["prune", "--batches", "1"],
        ["watch"],
        ["backup", "BACKUP"],
    ],
    ids=" ".join,
)
def test_the_folder_of_a_runtime_directory(tmp_path: Path, words: list[str]) -> None:
    """Who names the folder instead is not told to make a store there, but where to look."""
    ready_team(tmp_path)
    before = picture(tmp_path)
    given = [str(tmp_path / word) if word == "BACKUP" else word for word in words[1:]]
    refused(
        run(words[0], tmp_path, *given),
        ExitCode.WRONG_CALL,
        f"{tmp_path}: there is no runtime store here, but below. Run: rtstore status {tmp_path}\n",
    )
    assert picture(tmp_path) == before


@pytest.mark.parametrize("command", ["status", "recover", "init"])
def test_a_directory_of_the_legacy_format(tmp_path: Path, command: str) -> None:
    """A file-only directory is sent to import, by every command; nothing is created."""
    (tmp_path / "opencode-runtime-manifest.json").write_text("{}")
    options = ["--team", "t"] if command == "init" else []
    refused(run(command, tmp_path, *options), ExitCode.WRONG_CALL, f"rtstore import {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["opencode-runtime-manifest.json"]


def test_another_team(tmp_path: Path) -> None:
    """A directory is never taken over for another team."""
    directory = ready_team(tmp_path)
    before = picture(directory)
    result = run("init", directory, "--team", "other")
    refused(result, ExitCode.WRONG_CALL, "'demo-team'", "'other'")
    assert picture(directory) == before


def test_a_directory_that_was_never_legacy(tmp_path: Path) -> None:
    """Import says what is missing, and writes nothing."""
    result = run("import", tmp_path)
    refused(result, ExitCode.WRONG_CALL, str(tmp_path), "cannot import")
    assert list(tmp_path.iterdir()) == []


# --- databases ----------------------------------------------------------------------------------


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (id)")
    connection.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE alembic_version SET version_num = '0099_future'")
    connection.close()
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)


def _no_database(path: Path) -> None:
    path.write_text("not a database, by any means")


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _gone(path: Path) -> None:
    path.rename(path.with_name(path.name + "-wal"))


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_foreign, ("is not a control database of rtstore", "application_id")),
        (_no_database, ("is not a control database of rtstore", "not a SQLite database")),
        (_newer, ("0099_future", "open it with a newer rtstore")),
        (_emptied, ("is damaged", "truncated")),
        (_cut_short, ("is damaged",)),
        (_gone, ("is damaged", "the database is gone")),
    ],
)
def test_a_database_that_is_not_ours_to_touch(
    tmp_path: Path,
    damage: Callable[[Path], None],
    words: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Foreign, newer and damaged are told apart, and left byte for byte as they are."""
    directory = ready_team(tmp_path)
    path = directory / DATABASE
    if damage is _foreign:
        path.unlink()
    damage(path)
    before = picture(directory)
    refused(run(command[0], directory, *command[1:]), ExitCode.STOP, str(path), *words)
    assert picture(directory) == before


# --- locks and permissions ----------------------------------------------------------------------

HOLD = """
from pathlib import Path
from rtstore.control.lock import WriterLock
with WriterLock(Path(sys.argv[1])).hold():
    say("held")
    wait()
"""


def test_a_locked_directory(tmp_path: Path) -> None:
    """A writing command gives up after its time-out and says who holds the lock since when; a
    reading one does not wait."""
    directory = ready_team(tmp_path)
    sessions = directory / "opencode-sessions.json"
    sessions.unlink()
    with forked(HOLD, directory) as holder:
        assert hear(holder) == "held"
        result = run("recover", directory, "--lock-timeout", "0.1")
        refused(result, ExitCode.RETRY_LATER, "was not free within 0.1 s", f"process {holder.pid}")
        status = run("status", directory)
        assert f"Writer lock        held by process {holder.pid} (" in status.out
        holder_words = run("status", directory, "--json").json()["lockHolder"]
        assert holder_words.startswith(f"process {holder.pid} ")
    assert not sessions.exists()
    assert run("recover", directory).code == ExitCode.READY
    assert sessions.exists()


def _without_privileges() -> tuple[str, ...]:
    """What makes a process of the superuser obey permission bits, as others do anyway."""
    program = shutil.which("setpriv")
    if program is None:
        return ()
    return (program, "--bounding-set=-dac_override,-dac_read_search,-fowner")


def test_forbidden(tmp_path: Path) -> None:
    """No permission is neither an empty directory nor a missing one."""
    directory = ready_team(tmp_path)
    directory.chmod(0)
    try:
        result = run_process("status", directory, before=_without_privileges())
    finally:
        directory.chmod(0o700)
    if result.code == ExitCode.READY:
        pytest.skip("this process may read everything, and there is no setpriv to change that")
    refused(result, ExitCode.RETRY_LATER, "Permission denied", str(directory))


@pytest.mark.parametrize("words", [["verify"], ["restore"]])
def test_no_such_back_up(tmp_path: Path, words: list[str]) -> None:
    """What is not there is a wrong call, and no back-up that was damaged."""
    missing, target = tmp_path / "nowhere", [tmp_path / "new"] * (words == ["restore"])
    result = run(*words, missing, *target)
    refused(result, ExitCode.WRONG_CALL, f"BACKUP: {missing}: there is no such file or directory")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_may_not_be_looked_at(tmp_path: Path) -> None:
    """A back-up in, from or to a folder that may not be entered: no permission, no traceback."""
    directory, closed = ready_team(tmp_path), tmp_path / "closed"
    assert run("backup", directory, tmp_path / "sound").code == ExitCode.READY
    closed.mkdir(mode=0)
    for words in (
        ("verify", closed / "x"),
        ("restore", closed / "x", tmp_path / "restored"),
        ("restore", tmp_path / "sound", closed / "x"),
        ("backup", directory, closed / "x"),
        ("export", directory, "--to", closed / "x"),
    ):
        result = run_process(*words, before=_without_privileges())
        if result.code == ExitCode.READY:
            pytest.skip("this process may enter everything")
        refused(result, ExitCode.RETRY_LATER, "Permission denied", str(closed / "x"))


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "bogus"),
        (["status"], "Missing argument 'DIR'"),
        (["status", ".", "--bogus"], "--bogus"),
        (["status", ".", "more"], "more"),
        (["init", "."], "--team"),
        (["log", ".", "-n", "0"], "'-n'"),
        (["log", ".", "-n", "many"], "'-n'"),
        (["log", ".", "-n", "99999999999999999999"], "'-n'"),
        (["history", ".", "x", "-n", "99999999999999999999"], "'-n'"),
        (["prune", ".", "--batches", "99999999999999999999"], "'--batches'"),
        (["prune", ".", "--contents", "99999999999999999999"], "'--contents'"),
        (["quarantine", "show", ".", "99999999999999999999"], "NUMBER"),
        (["watch", ".", "--interval", "1e300"], "'--interval'"),
        (["stauts", "."], "Did you mean 'status'?"),
        (["recover", ".", "--lock-timeout", "-1"], "'--lock-timeout'"),
        (["status", "sur\udcff"], "UTF-8"),
        (["demo", "sur\udcff"], "UTF-8"),
    ],
)
def test_wrong_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """What cannot be understood is named, with exit code 2, before anything is done."""
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.code, result.out) == (ExitCode.WRONG_CALL, "")
    assert words in result.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_team_name(tmp_path: Path) -> None:
    """A store belongs to a team that has a name."""
    refused(run("init", tmp_path / "new", "--team", " "), ExitCode.WRONG_CALL, "no team_name")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    """The name that was meant is told, then all that there are; and nothing for Python."""
    directory = ready_team(tmp_path)
    for word in ("sessionStore", "opencode.sessionstore", "opencode.sesionStore"):
        result = run("show", directory, word)
        refused(result, ExitCode.WRONG_CALL, "Did you mean opencode.sessionStore? There are: ")
        assert "descriptors" not in result.err
    refused(
        run("history", directory, "xyzzy"),
        ExitCode.WRONG_CALL,
        "unknown store 'xyzzy'. There are: ",
    )


def test_commands_in_messages_can_be_typed(tmp_path: Path) -> None:
    """What is to be run is told with the directory and the store in it, quoted for the shell."""
    directory = ready_team(tmp_path).rename(tmp_path / "my team")
    result = run("show", directory, "launch-state.json", "--at", "nope")
    refused(result, ExitCode.WRONG_CALL, f": rtstore log '{directory}'\n")
    (directory / "launch-state.json").write_text("{}")
    shown = run("show", directory, "launch-state.json")
    assert f"Run: rtstore plan '{directory}' (" in shown.err


# --- other ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("field", "is wrong"), ExitCode.WRONG_CALL),
        (ConflictError("the plan", 1, 2), ExitCode.RETRY_LATER),
        (PermissionError(13, "Permission denied", "/somewhere"), ExitCode.RETRY_LATER),
        (RecoveryFailedError("step", Path("/somewhere"), "cause"), ExitCode.RECOVERY_NEEDED),
        (RuntimeStoreError("not what was expected"), ExitCode.RECOVERY_NEEDED),
        (UnusableEngineError(Path("/somewhere"), "too old"), ExitCode.STOP),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_error_has_its_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeStoreError | OSError,
    code: ExitCode,
) -> None:
    """The exit code says what the caller can do, whatever was raised on purpose."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(log, "open_to_look", fail)
    result = run("log", tmp_path)
    refused(result, code, str(error).replace(" DIR", f" {tmp_path}"))


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C ends a command with 130, without a traceback."""

    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "open_to_look", interrupt)
    result = run("log", tmp_path)
    assert (result.code, result.err) == (ExitCode.INTERRUPTED, "")


# --- JSON ---------------------------------------------------------------------------------------


def test_errors_as_json(tmp_path: Path) -> None:
    """With `--json` an error is a document on standard output, and its message is on standard
    error all the same."""
    missing = tmp_path / "missing"
    result = run_process("status", missing, "--json")
    message = f"{missing}: there is no such directory. Run: rtstore init {missing} --team NAME"
    assert result.json() == {
        "error": {"type": "NotARuntimeDirectoryError", "message": message, "exitCode": 2}
    }
    assert (result.code, result.err) == (2, f"rtstore: {message}\n")


def test_errors_as_json_from_every_command(tmp_path: Path) -> None:
    """The shape is the same for all commands."""
    (tmp_path / DATABASE).write_text("not a database")
    for command in (*EVERY_COMMAND, ("import",)):
        result = run(command[0], tmp_path, *command[1:], "--json")
        assert result.code == ExitCode.STOP
        assert result.json()["error"]["type"] == "ForeignDatabaseError"
        assert result.json()["error"]["exitCode"] == ExitCode.STOP


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["show", SESSIONS, "--at"], "--at"),
        (["diff", SESSIONS], "A"),
        (["diff", SESSIONS, "1"], "B"),
        (["log", "--since"], "--since"),
        (["revert", SESSIONS, "--to"], "--to"),
    ],
)
def test_a_point_that_is_none(tmp_path: Path, words: list[str], option: str) -> None:
    """It is refused by the name under which it was typed, and nothing changes."""
    directory = ready_team(tmp_path)
    before = picture(directory)
    command, *others = words
    for point, why in (
        ("99", "no batch that made the high watermark 99 is on record: it is 3 now"),
        ("batch-nowhere", "'batch-nowhere' is not a high watermark (300), an age (5m), a time ("),
        ("now", "'now' is not a high watermark (300), an age (5m), a time ("),
    ):
        result = run(command, directory, *others, point)
        assert result.code == ExitCode.WRONG_CALL
        assert result.err.startswith(f"rtstore: {option}: {why}"), result.err
        assert "retention" not in result.err
    assert picture(directory) == before
