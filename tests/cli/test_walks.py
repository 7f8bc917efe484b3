"""No advice leads back to itself, whatever is wrong and whichever way is chosen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    CorruptDatabaseError,
    RuntimeStore,
    RuntimeStoreError,
    StartKind,
    rebuild_database,
)
from rtstore.cli.demo.writer import TEAM
from rtstore.cli.exits import ExitCode
from rtstore.shell import shell_command
from tests.cli.commands import ready_team, run, words_of
from tests.cli.troubles import LEASES_FILE, TROUBLES
from tests.cli.walks import (
    NOTES,
    WALKED,
    Step,
    delete_batch_writes,
    old_copy,
    own_stores_forgotten,
    walk,
)
from tests.support import breadth

CHOICES: dict[str, Callable[[list[Any]], Any]] = {
    "the first": lambda ways: ways[0],
    "the last": lambda ways: ways[-1],
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("choice", breadth.params(CHOICES, normal=["the first"]))
@pytest.mark.parametrize("trouble", WALKED)
def test_advice_comes_to_an_end(tmp_path: Path, trouble: str, choice: str) -> None:
    """Status, or else the doctor, is asked what to do, and that is run as it is printed, again and
    again: in the end the runtime may start, or somebody is named who must act."""
    (tmp_path / "a team's").mkdir()
    walk(WALKED[trouble](tmp_path / "a team's"), choose=CHOICES[choice])


@pytest.mark.thorough
@pytest.mark.parametrize("trouble", WALKED)
def test_a_start_comes_to_an_end(tmp_path: Path, trouble: str) -> None:
    """A runtime that recovers as its start says is not told so again: it begins its run, is refused
    with a reason, or needs its rebuilders."""
    directory = WALKED[trouble](tmp_path)
    try:
        store = RuntimeStore.open(directory)
    except RuntimeStoreError:
        return
    with store:
        start = store.start_state("run-new")
        if start.kind is StartKind.REPAIR:
            store.recover(start.plan)
            start = store.start_state("run-new")
        if start.kind is StartKind.REPAIR:
            assert start.why.startswith("recover with a rebuilder of the runtime: ")
        elif start.kind is StartKind.REFUSE:
            assert "recover" not in start.why
        else:
            store.begin_run("run-new", keep="all", supersede=True)
            assert store.start_state("run-new").kind is StartKind.RESUME


@pytest.mark.parametrize(
    "trouble",
    breadth.params(WALKED, normal=["a first session without its WAL, of a known store"]),
)
def test_the_doctor_is_red_where_opening_is_refused(tmp_path: Path, trouble: str) -> None:
    """Nobody hears that a directory works, and is refused it."""
    directory = WALKED[trouble](tmp_path)
    told = run("doctor", directory)
    try:
        RuntimeStore.open(directory).close()
    except RuntimeStoreError:
        assert told.code == ExitCode.NOT_READY, told


ODD_NAMES = (
    "-dash",
    "two words",
    "it's",
    "esc\x1b[31mred",
    "new\nline",
    "\\'\t'",
    "\u202eleft",
    "$(true)",
)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_that_a_shell_reads_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is printed for a directory of such a name is for this directory, and runs."""
    monkeypatch.chdir(tmp_path)
    directory = ready_team(tmp_path).rename(tmp_path / name).relative_to(tmp_path)
    (directory / DATABASE_NAME).unlink()
    (directory / LEASES_FILE).unlink()
    (directory / LEASES_FILE).symlink_to("nowhere")
    steps = [step.advice.split()[0] for step in walk(directory)]
    assert steps[0] == "rtstore"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_word_is_read_back(name: str) -> None:
    """Bash gets every word back, and a terminal shows it whole."""
    command = shell_command("rtstore", name, Path(name))
    assert words_of(command) == [name, f"./{name}" if name.startswith("-") else name]
    assert command.isprintable()


def test_files_of_another_team_than_the_database(tmp_path: Path) -> None:
    """Nobody takes them over without a word: status, doctor and a rebuild name both teams, and what
    they say makes them the team's again."""
    directory = WALKED["an empty database of another team"](tmp_path)
    (step,) = walk(directory)
    refused = run("rebuild", directory)
    assert refused.code == ExitCode.WRONG_CALL, refused
    for told in (step.advice, refused.err, run("doctor", directory).out):
        assert "of team 'blue'" in told
        assert f"of team '{TEAM}'" in told
    command = step.advice.partition("makes one of them (")[2].partition("). The database")[0]
    aside, rebuild = command.rsplit(" && ", 1)
    subprocess.run(["bash", "-c", aside], check=True)
    assert run(*words_of(rebuild)).code == 0
    assert run("status", directory, "--json").json()["teamName"] == TEAM
    assert walk(directory) == []


def test_import_of_a_damaged_manifest(tmp_path: Path) -> None:
    """It is damage, not a wrong call; the doctor knows of it before anybody imports."""
    directory = WALKED["the legacy manifest torn"](tmp_path)
    result = run("import", directory)
    assert result.code == ExitCode.STOP
    assert f"rtstore doctor {directory}" in result.err
    assert "manifest.json: it is damaged" in run("doctor", directory).out


def test_an_old_copy_of_the_database(tmp_path: Path) -> None:
    """Status and doctor say that batches may be missing, before they advise what moves the files; a
    file that was edited by hand does not look so."""
    directory = old_copy(tmp_path)
    status = run("status", directory, "--json").json()
    assert set(status["newerFiles"]) == {LEASES_FILE, "opencode-sessions.json"}
    assert status["next"][0]["command"] is None
    for told in (status["next"][0]["why"], run("doctor", directory).out):
        assert "batches that were acknowledged are missing" in told
    (tmp_path / "edited").mkdir()
    edited = TROUBLES["a file edited by hand"].make(tmp_path / "edited")
    assert run("status", edited, "--json").json()["newerFiles"] == []


def test_an_empty_database_of_the_same_team(tmp_path: Path) -> None:
    """The command that is printed names the run of the files: one rebuild, and it is ready."""
    assert len(walk(WALKED["an empty database of the same team"](tmp_path))) == 1


@pytest.mark.parametrize(
    "trouble", ["nothing but a batch that failed", "what is committed does not pass its model"]
)
def test_a_recovery_that_changes_nothing_is_not_advised(tmp_path: Path, trouble: str) -> None:
    """The runtime is named at once: no command helps where nothing was ever committed, or where
    what is committed is the trouble."""
    (step,) = walk(WALKED[trouble](tmp_path))
    assert "rtstore recover" not in step.advice


def test_a_walk_finds_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: an advice that changes nothing is caught."""
    again = ("degraded", [{"command": f"rtstore status {tmp_path}", "why": "it may help"}])
    monkeypatch.setattr("tests.cli.walks.advice_for", lambda _: again)
    with pytest.raises(AssertionError, match="leads back to itself"):
        walk(ready_team(tmp_path))


def test_deleted_writes_of_batches_are_told_by_all(tmp_path: Path) -> None:
    """Reading, status and opening call it damage, as the doctor does, and not never written."""
    directory = ready_team(tmp_path)
    store = RuntimeStore.open(directory, read_only=True)
    with store:
        delete_batch_writes(directory)
        with pytest.raises(CorruptDatabaseError, match=r"which wrote .* are gone"):
            store.read("opencode.hostLeases")
    result = run("status", directory)
    assert result.code != 0
    assert "are gone: somebody edited the database" in result.out + result.err
    with pytest.raises(CorruptDatabaseError, match="are gone"), RuntimeStore.open(directory):
        pass


@pytest.mark.parametrize(
    ("trouble", "force"),
    [
        ("stores of its own, the database gone", False),
        ("stores of its own, the database cut to a byte", False),
        ("stores of its own, the database nonsense", False),
        ("stores of its own, another program's database", True),
        ("forgotten by a forced rebuild", False),
    ],
)
def test_a_rebuild_is_named_with_the_descriptors(
    tmp_path: Path, trouble: str, *, force: bool
) -> None:
    """Where no database knows the stores of a runtime: by the doctor, or by the error that the
    runtime gets. As it is printed, it is accepted, and forgets no store."""
    directory = WALKED.get(trouble, own_stores_forgotten)(tmp_path)
    with pytest.raises(RuntimeStoreError) as caught:
        RuntimeStore.open(directory, descriptors=[NOTES])
    told = str(caught.value) + run("doctor", directory).out
    named = [line for line in told.split("\n") if "rtstore rebuild" in line]
    assert named
    options = " --force --descriptors MODULE:NAME" if force else " --descriptors MODULE:NAME"
    assert all(options in line for line in named)
    rebuild_database(directory, team_name=TEAM, descriptors=[NOTES], force=force)
    with RuntimeStore.open(directory, descriptors=[NOTES]) as store:
        assert store.read(NOTES).data == 1


def test_a_newer_file_names_the_newer_program(tmp_path: Path) -> None:
    """Before the recovery that would move the file away."""
    directory = WALKED["a file of a newer program"](tmp_path)
    out = run("status", directory).out
    assert out.index("start the newer program") < out.index("rtstore recover")


def test_a_file_that_is_a_mount_point(tmp_path: Path) -> None:
    """It cannot be replaced, so a person is named at once, and not after a recovery that fails."""
    directory = ready_team(tmp_path)
    path, host = directory / LEASES_FILE, tmp_path / "host.json"
    shutil.copy(path, host)
    bound = ["mount", "--bind", str(host), str(path)]
    if shutil.which("mount") is None or subprocess.run(bound, check=False).returncode:
        pytest.skip("mounting a file is not permitted here")
    try:
        host.write_text("{")
        (step,) = walk(directory)
        assert isinstance(step, Step)
        assert "is a mount point" in step.advice
        result = run("recover", directory)
        assert "is a mount point" in result.out, result
    finally:
        subprocess.run(["umount", str(path)], check=True)
    assert run("recover", directory).code == 0


@pytest.mark.parametrize("name", [LEASES_FILE, DATABASE_NAME, "."])
def test_what_is_mounted_is_named_with_a_person(tmp_path: Path, name: str) -> None:
    """A store file with what is committed, an empty database, the directory read-only: nobody is
    sent to a command that cannot work."""
    directory = ready_team(tmp_path)
    path, host = directory / name, tmp_path / "host"
    bound = ["mount", "--bind", str(directory if name == "." else host), str(path)]
    host.write_bytes(b"" if name == DATABASE_NAME else (directory / LEASES_FILE).read_bytes())
    if shutil.which("mount") is None or subprocess.run(bound, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        if name == ".":
            subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        (step,) = walk(directory)
        assert step.advice.startswith("a person must")
        if name == DATABASE_NAME:
            assert "must unmount" in run("rebuild", directory).err
    finally:
        subprocess.run(["umount", str(path)], check=True)
    assert walk(directory) == []


def test_a_lock_file_that_is_none_stops_the_runtime(tmp_path: Path) -> None:
    """The readiness check of a living store says it too."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        store.lock.path.unlink()
        store.lock.path.mkdir()
        assert not store.check_readiness().ok
