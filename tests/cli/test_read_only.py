"""Commands that look only look: proved by pictures of the directory, beside a living writer, and
where nothing may be written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rtstore import Descriptor, RunIdentity, RuntimeStore, StartKind, StorageError
from rtstore.cli.exits import ExitCode
from rtstore.files.owners import is_read_only
from tests.cli.commands import crashed_team, ready_team, run, run_all
from tests.cli.test_bad_input import _without_privileges
from tests.support import Picture, breadth, hear, picture
from tests.support.forked import forked

STORE = "opencode.sessionStore"
LOOKING: dict[str, list[str]] = {
    "status": ["DIR"],
    "status of a folder": ["FOLDER"],
    "watch": ["DIR", "-n", "0"],
    "plan": ["DIR"],
    "runs": ["DIR"],
    "log": ["DIR"],
    "doctor": ["DIR"],
    "report": ["DIR", "-o", "PAGE", "--force"],
    "report of a folder": ["FOLDER", "-o", "PAGE", "--force", "--redact"],
    "history": ["DIR", STORE],
    "show": ["DIR", STORE],
    "diff": ["DIR", STORE, "1"],
    "quarantine list": ["DIR"],
    "recover": ["DIR", "--dry-run"],
    "prune": ["DIR", "--batches", "1", "--dry-run"],
    "upgrade": ["DIR", "--dry-run"],
}
"""Every command that changes nothing, with its arguments. PAGE is beside the folder."""
CODES = dict.fromkeys(
    ("status", "status of a folder", "watch", "plan", "doctor", "recover"), ExitCode.NOT_READY
)
"""Of a crashed team; the others have nothing to say about that."""


def words(command: str, directory: Path) -> list[str]:
    """The command line that looks at a directory."""
    folder = directory.parent
    places = {"DIR": str(directory), "FOLDER": str(folder), "PAGE": f"{folder}.html"}
    name = command.removesuffix(" of a folder").split()
    return [*name, *(places.get(word, word) for word in LOOKING[command])]


@pytest.mark.parametrize("command", LOOKING)
def test_an_idle_directory_stays_as_it_is(tmp_path: Path, command: str) -> None:
    """Names, bytes, modes and times are the same before and after: no -wal, no -shm, no lock."""
    directory = ready_team(tmp_path)
    before = picture(directory)
    assert "runtime-store.sqlite3-wal" not in before
    assert run(*words(command, directory)).code == ExitCode.READY
    assert run(*words(command, directory), "--json").code == ExitCode.READY
    assert picture(directory) == before
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


@pytest.mark.parametrize("command", LOOKING)
def test_a_crashed_directory_stays_as_it_is(tmp_path: Path, command: str) -> None:
    """What a dead writer left is there to be looked at again and again."""
    directory = crashed_team(tmp_path)
    before = picture(directory)
    for _ in range(2):
        assert run(*words(command, directory)).code == CODES.get(command, ExitCode.READY)
    assert picture(directory) == before


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Without any permission to write, in the directory or its files, looking works as ever."""
    directory = ready_team(tmp_path)
    paths = [directory, *directory.iterdir()]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = picture(directory)
    commands = {name: words(name, directory) for name in LOOKING}
    commands["init"] = ["init", str(directory), "--team", "demo-team"]
    try:
        results = run_all(list(commands.values()), before=_without_privileges())
        for command, result in zip(commands, results, strict=True):
            # A runtime could not write here, which the doctor says.
            code = ExitCode.NOT_READY if command == "doctor" else ExitCode.READY
            assert (result.code, result.err) == (code, ""), command
        assert picture(directory) == before
    finally:
        for path in paths:
            path.chmod(0o700)


READINESS = {"status", "status of a folder", "watch", "plan", "doctor", "recover"}
"""What tells whether a runtime may start."""


def _mounted_read_only(folder: Path, *options: str) -> tuple[str, ...]:
    """What runs a program that sees a folder on a read-only mount; the test is skipped where there
    are no such mounts."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    before = ("unshare", *options, "--mount", "sh", "-c", script, str(folder))
    probe = (*before, "sh", "-c", 'test -d "$0" && ! touch "$0/probe" 2>/dev/null', str(folder))
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("a mount of one's own is not permitted here")
    return before


@pytest.mark.thorough
@pytest.mark.parametrize("make", breadth.params([ready_team, crashed_team], normal=[crashed_team]))
def test_on_a_read_only_mount(tmp_path: Path, make: object) -> None:
    """On a mount that refuses every write, no runtime can start: all that tell of readiness say so.
    The others say what they say elsewhere; what has to write says that it cannot, and leaves
    nothing."""
    directory = make(tmp_path)  # type: ignore[operator]
    mounted = _mounted_read_only(tmp_path, "--map-root-user")
    elsewhere = {name: run(*words(name, directory), "--json").code for name in LOOKING}
    before: Picture = picture(tmp_path)
    writing = [["prune", directory, "--batches", "1"], ["recover", directory]]
    writing += [["adopt", directory, STORE], ["revert", directory, STORE, "--to", "1"]]
    writing += [["end-run", directory, "--why", "it hung"]]
    looking = [[*words(name, directory), "--json"] for name in LOOKING]
    results = run_all([*looking, *writing], before=mounted)
    for (command, code), result in zip(elsewhere.items(), results, strict=False):
        expected = ExitCode.NOT_READY if command in READINESS else code
        assert (result.code, result.err) == (expected, ""), command
        assert result.out.startswith("{"), command
    for words_of, result in zip(writing, results[len(looking) :], strict=True):
        assert (result.code, result.out) == (ExitCode.RETRY_LATER, ""), words_of
        assert f"What is in the way: rtstore doctor {directory}\n" in result.err, words_of
    (doctor,) = run_all([["doctor", directory]], before=mounted)
    assert "mounted read-only" in doctor.out
    assert picture(tmp_path) == before


def test_a_file_system_that_an_error_made_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 shows that in no flag of the mount, and refuses each change: everybody who is asked says
    what they say of a read-only mount."""
    directory = ready_team(tmp_path)

    def refused(path: Path, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with RuntimeStore.open(directory) as store:
        monkeypatch.setattr(os, "removexattr", refused, raising=False)
        assert not store.check_readiness().ok
        start = store.start_state("run-9")
        assert (start.kind, "mounted read-only" in start.why) == (StartKind.REFUSE, True)
    for command in ("status", "doctor"):
        told = run(command, directory)
        assert "mounted read-only" in told.out, command
        assert "must mount" in told.out, command
        assert told.code == ExitCode.NOT_READY, command
    with pytest.raises(StorageError, match="mounted read-only: it can be looked at"):
        RuntimeStore.open(directory)


def test_asking_whether_a_mount_is_read_only_changes_nothing(tmp_path: Path) -> None:
    """It asks for a change that there is nothing to make of: not even a time is another one."""
    before = tmp_path.stat()
    assert not is_read_only(tmp_path)
    assert tmp_path.stat() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_stores_on_a_read_only_mount(tmp_path: Path) -> None:
    """No mode and no owner opens it: only the mount is named."""
    directory, folder = tmp_path / "team", tmp_path / "team" / "sub"
    with RuntimeStore.open(
        directory, team_name="t", descriptors=[Descriptor("own.a", relative_path="sub/a.json")]
    ) as store:
        store.write_batch(identity=RunIdentity(run_id="run-1"), reason="why", writes={"own.a": 1})
    for path in (directory, *directory.iterdir()):
        os.chown(path, 65_533, -1)  # root, who looks, is another user
    (doctor,) = run_all([["doctor", directory]], before=_mounted_read_only(folder))
    assert "mounted read-only" in doctor.out
    assert doctor.code == ExitCode.NOT_READY
    assert "chmod" not in doctor.out
    assert "chown" not in doctor.out


WRITE_ON = """
import time
from rtstore import KEEP_EVERYTHING, RuntimeStore
from rtstore.cli.demo.writer import IDENTITY, fatal_checkpoint
checkpoint = fatal_checkpoint()
with RuntimeStore.open(sys.argv[1], retention=KEEP_EVERYTHING) as store:
    say("writing")
    while True:
        store.write_batch(identity=IDENTITY, reason=checkpoint.reason, writes=checkpoint.writes)
        time.sleep(0.02)  # the history grows, and each look lasts longer
"""


@pytest.mark.thorough
def test_beside_a_living_writer(tmp_path: Path) -> None:
    """While another process writes batch after batch, every look finds a ready team, and adds
    nothing to the directory."""
    directory = ready_team(tmp_path)
    with forked(WRITE_ON, directory) as writer:
        assert hear(writer) == "writing"
        watermarks = []
        for _ in range(2):
            for command in LOOKING:
                result = run(*words(command, directory), "--json")
                assert (result.code, result.err) == (ExitCode.READY, ""), command
            watermarks.append(run("log", directory, "--json").json()["highWatermark"])
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
