"""`rtstore adopt` and `rtstore quarantine`, as they are typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, DELETED, RuntimeStore
from rtstore.cli.exits import ExitCode
from tests.cli.commands import crashed_team, ready_team, run
from tests.cli.troubles import run_command
from tests.support import CHECKPOINT, IDENTITY, TEAM, picture, plain_descriptor

SESSIONS = "opencode.sessionStore"
LAUNCH = "opencode.launchState"
LEASES = "opencode.hostLeases"
FILE = "opencode-sessions.json"


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A team of which somebody edited the sessions by hand."""
    directory = ready_team(tmp_path)
    path = directory / FILE
    path.write_text(path.read_text() + "\n")
    return directory


@pytest.fixture
def kept(edited: Path) -> Path:
    """The same after a recovery, which moved the edited file into quarantine."""
    assert run("recover", edited).row("quarantine", SESSIONS, "done")
    return edited


@pytest.mark.parametrize("store", [SESSIONS, FILE])
def test_the_printed_fix_keeps_an_edit(edited: Path, store: str) -> None:
    """`status` prints the command; it commits the very bytes, and the team is ready."""
    assert f"  rtstore adopt {edited} {SESSIONS}\n" in run("status", edited).out
    content = (edited / FILE).read_bytes()
    done = run("adopt", edited, store)
    assert (done.code, done.err) == (ExitCode.READY, "")
    assert (edited / FILE).read_bytes() == content
    assert run("status", edited).code == ExitCode.READY


def test_adopt_refuses_what_a_write_would_refuse(edited: Path) -> None:
    """Nothing to adopt, an unknown store, and rubbish: each is a wrong call, and changes nothing
    that can be seen in the directory."""
    assert run("adopt", edited, SESSIONS).code == ExitCode.READY
    (edited / "opencode-host-leases.json").write_text("{")
    before = picture(edited)
    for store, says in (
        (SESSIONS, "nothing to adopt"),
        ("opencode.nothing", "unknown store"),
        ("opencode.hostLeases", "opencode-host-leases.json"),
    ):
        refused = run("adopt", edited, store)
        assert refused.code == ExitCode.WRONG_CALL, refused
        assert says in refused.err
        after = picture(edited)
        assert {name: after[name] for name in before if name.endswith(".json")} == {
            name: before[name] for name in before if name.endswith(".json")
        }


def test_adopt_refuses_an_earlier_version_and_names_the_way_back(edited: Path) -> None:
    """A recovery puts right such a file, and the plan says so; the command in the error commits the
    version again."""
    earlier = (edited / FILE).read_bytes()
    assert run("adopt", edited, SESSIONS).code == ExitCode.READY
    assert run("revert", edited, SESSIONS, "--to", "1").code == ExitCode.READY
    committed = (edited / FILE).read_bytes()
    (edited / FILE).write_bytes(earlier)
    refused = run("adopt", edited, SESSIONS)
    assert refused.code == ExitCode.WRONG_CALL
    assert "holds what a batch wrote" in refused.err
    assert run("plan", edited).row(SESSIONS, "restore_committed")
    assert (edited / FILE).read_bytes() == earlier
    assert f"rtstore plan {edited}" in run("show", edited, SESSIONS).err
    assert run("recover", edited).code == ExitCode.READY
    assert (edited / FILE).read_bytes() == committed
    (way,) = re.findall(r"rtstore (revert \S+ \S+ --to) POINT", " ".join(refused.err.split()))
    high_watermark = run("status", edited, "--json").json()["highWatermark"]
    assert run(*shlex.split(way), str(high_watermark - 1)).code == ExitCode.READY
    assert json.loads((edited / FILE).read_bytes())["data"] == json.loads(earlier)["data"]


def test_adopt_says_which_model_was_asked_and_how_to_undo_it(edited: Path, tmp_path: Path) -> None:
    """A known store's model accepts the file; that of a runtime's own store is known to no command,
    and was not asked. The command that undoes it runs, and what was committed is back."""
    before = (edited / FILE).read_bytes().rstrip(b"\n")
    done = run("adopt", edited, SESSIONS, "--json").json()
    assert done["modelWasChecked"] is True
    assert run(*shlex.split(done["undo"])[1:]).code == ExitCode.READY
    assert json.loads((edited / FILE).read_bytes())["data"] == json.loads(before)["data"]
    with RuntimeStore.open(
        tmp_path / "own", team_name=TEAM, descriptors=[plain_descriptor("own.notes", "notes.json")]
    ) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={"own.notes": {"a": 1}})
        path = store.directory / store.descriptors.get("own.notes").relative_path
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    assert "not asked" in run("adopt", tmp_path / "own", "own.notes").out


def test_an_adoption_that_makes_the_stores_contradict_each_other(tmp_path: Path) -> None:
    """It says so, and whoever looks later is told the command that takes it back, too. After a
    revert to such a state nothing is offered that would lead from one to the next."""
    directory = ready_team(tmp_path)
    path = directory / FILE
    whole = json.loads(path.read_text())
    whole["data"]["sessions"].pop()
    path.write_text(json.dumps(whole))
    with RuntimeStore.open(directory, read_only=True) as store:
        at = store.read(SESSIONS, verify=False).high_watermark
        adopted_at = store.manifest().high_watermark + 1
    undo = f"rtstore revert {directory} {SESSIONS} --to {at}"
    done = run("adopt", directory, SESSIONS)
    assert done.code == ExitCode.READY
    assert "The runtime is blocked now: by this batch the stores contradict each other" in done.out
    assert "has no matching OpenCode session record" in done.out
    for command in ("status", "doctor", "recover"):
        assert f"{undo}\n" in run(command, directory).out, command
    assert f"{undo}\n" in done.out
    assert run(*shlex.split(undo)[1:]).code == ExitCode.READY
    assert run("status", directory).code == ExitCode.READY
    assert run("revert", directory, SESSIONS, "--to", str(adopted_at)).code == ExitCode.READY
    looked = run("status", directory)
    assert "the stores contradict each other" in looked.out
    assert "rtstore revert" not in looked.out


def _yesterdays_database(tmp_path: Path) -> Path:
    """A directory whose database is older than its files: these are of a run that it never saw."""
    directory = ready_team(tmp_path)
    older = tmp_path / "older.sqlite3"
    shutil.copy2(directory / DATABASE_NAME, older)
    with RuntimeStore.open(directory) as store:
        launch = store.read(LAUNCH).data
        store.write_batch(
            identity=IDENTITY.model_copy(update={"run_id": "run-of-today"}),
            reason=CHECKPOINT,
            writes={
                LAUNCH: {**launch, "runId": "run-of-today", "members": []},
                LEASES: {"leases": [], "today": True},
            },
        )
    for suffix in ("-wal", "-shm"):
        directory.joinpath(DATABASE_NAME + suffix).unlink(missing_ok=True)
    shutil.copy2(older, directory / DATABASE_NAME)
    return directory


def test_only_the_adoption_that_made_the_stores_contradict_is_taken_back(tmp_path: Path) -> None:
    """Not the last one, which has nothing to do with it: the revert that is named settles it."""
    directory = _yesterdays_database(tmp_path)
    with RuntimeStore.open(directory, read_only=True) as store:
        at = store.read(LAUNCH, verify=False).high_watermark
    for name in (LAUNCH, LEASES):
        assert run("adopt", directory, name).code == ExitCode.READY
    undo = f"rtstore revert {directory} {LAUNCH} --to {at}"
    for command in ("status", "doctor"):
        said = run(command, directory).out
        assert f"{undo}\n" in said
        assert f"{LEASES} --to" not in said
    assert run(*shlex.split(undo)[1:]).code == ExitCode.READY
    assert run("status", directory).code == ExitCode.READY


def test_an_adoption_that_settles_nothing_is_not_taken_back(tmp_path: Path) -> None:
    """A contradiction that was there before an adoption is the runtime's to settle."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={SESSIONS: {"sessions": []}})
    path = directory / "opencode-host-leases.json"
    path.write_text(path.read_text().replace('"data":', '"data" :'))
    whole = json.loads(path.read_text())
    whole["data"]["more"] = 1
    path.write_text(json.dumps(whole))
    assert run("adopt", directory, LEASES).code == ExitCode.READY
    said = run("status", directory).out
    assert "the stores contradict each other" in said
    assert "rtstore revert" not in said


def test_a_launch_state_of_another_run_is_adopted_with_its_run(tmp_path: Path) -> None:
    """Under the last run it would contradict the manifest. Following the advice, nothing does."""
    directory = _yesterdays_database(tmp_path)
    advised = f"rtstore adopt {directory} {LAUNCH} --run-id run-of-today"
    assert f"{advised}\n" in run("status", directory).out
    done = run(*shlex.split(advised)[1:], "--json").json()
    assert done["contradictions"] == []
    assert run("adopt", directory, LEASES).code == ExitCode.READY
    assert "contradict" not in run("status", directory).out


def test_an_adoption_without_contradictions(edited: Path) -> None:
    """None is told of where there is none."""
    assert run("adopt", edited, SESSIONS, "--json").json()["contradictions"] == []


def test_adopt_needs_a_run_while_nothing_is_committed(tmp_path: Path) -> None:
    """The message names the option; with it, the file is the first batch."""
    directory = tmp_path / "new"
    run("init", directory, "--team", "t")
    (directory / FILE).write_bytes((ready_team(tmp_path) / FILE).read_bytes())
    refused = run("adopt", directory, FILE)
    assert (refused.code, "--run-id" in refused.err) == (ExitCode.WRONG_CALL, True)
    assert run("adopt", directory, FILE, "--run-id", "run-7").code == ExitCode.READY
    assert "run-7" in run("history", directory, FILE).out


def test_quarantine_list_and_show(kept: Path) -> None:
    """The edited file is listed, and shown with what is in it; looking changes nothing."""
    before = picture(kept)
    assert run("quarantine", "list", kept).row("1", FILE)
    shown = run("quarantine", "show", kept, "1")
    assert '"sessions"' in shown.out
    assert SESSIONS in shown.row("Store", SESSIONS)
    assert picture(kept) == before
    (path,) = (kept / "quarantine").iterdir()
    path.write_bytes(b"\xff\x1b[31m")
    shown = run("quarantine", "show", kept, "1")
    assert "it was changed since it was kept" in shown.out
    assert "\\xff\\x1b[31m" in shown.out
    path.unlink()
    assert "it cannot be read" in run("quarantine", "show", kept, "1").out


def test_evidence_that_is_gone(kept: Path) -> None:
    """The list marks it, the doctor says it, and nothing is there to be put back."""
    (file,) = (kept / "quarantine").iterdir()
    file.unlink()
    assert "gone: quarantine/" in run("quarantine", "list", kept).out
    (listed,) = run("quarantine", "list", kept, "--json").json()["files"]
    assert listed["isGone"] is True
    before = picture(kept, without=("runtime-store.lock",))
    result = run("quarantine", "restore", kept, "1")
    assert result.code == ExitCode.WRONG_CALL
    assert "is gone" in result.err
    assert "doctor" not in result.err
    assert picture(kept, without=("runtime-store.lock",)) == before
    doctor = run("doctor", kept)
    assert "yellow  quarantine" in doctor.out
    assert doctor.code == ExitCode.READY


def test_evidence_that_was_changed(kept: Path) -> None:
    """The doctor says that it is not what was kept."""
    assert "quarantine   no file is missing in it, or was changed" in run("doctor", kept).out
    (file,) = (kept / "quarantine").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"#\n")
    doctor = run("doctor", kept)
    assert (
        f"somebody changed, so that they cannot be put back: quarantine/{file.name}" in doctor.out
    )
    assert "yellow  quarantine" in doctor.out


def test_nothing_in_quarantine(tmp_path: Path) -> None:
    """That is said, and is no error; a number that there is not is one, with the next command."""
    directory = ready_team(tmp_path)
    assert run("quarantine", "list", directory).out == "nothing is in quarantine\n"
    before = picture(directory)
    for command in ("show", "restore"):
        refused = run("quarantine", command, directory, "7")
        assert refused.code == ExitCode.WRONG_CALL
        assert f"rtstore quarantine list {directory}" in refused.err
    assert picture(directory) == before


def test_an_edit_comes_back_and_is_adopted(kept: Path) -> None:
    """What a recovery took away is put back byte for byte; the fix printed then makes it count."""
    (path,) = (kept / "quarantine").iterdir()
    content = path.read_bytes()
    assert (kept / FILE).read_bytes() != content
    done = run("quarantine", "restore", kept, "1")
    assert done.code == ExitCode.READY
    assert f"  rtstore adopt {kept} {SESSIONS}\n" in done.out
    assert (kept / FILE).read_bytes() == content
    assert run("adopt", kept, SESSIONS).code == ExitCode.READY
    assert run("status", kept).code == ExitCode.READY
    assert "ago" in run("quarantine", "list", kept).row("1", FILE)


@pytest.mark.parametrize("restored", [True, False], ids=["put back", "edited again"])
@pytest.mark.parametrize("by", ["a recovery", "a write"])
def test_bytes_that_are_quarantined_again(kept: Path, restored: bool, by: str) -> None:
    """They are there since then, whatever became of them before: an old date would let them be
    dropped at once, and a file that is in quarantine was not put back."""
    (path,) = (kept / "quarantine").iterdir()
    content = path.read_bytes()
    with closing(sqlite3.connect(kept / DATABASE_NAME)) as raw, raw:
        raw.execute("UPDATE quarantined_files SET quarantined_at = '2020-01-01T00:00:00.000Z'")
    if restored:
        assert run("quarantine", "restore", kept, "1").code == ExitCode.READY
    (kept / FILE).write_bytes(content)
    if by == "a recovery":
        run("recover", kept)
    else:
        with RuntimeStore.open(kept, recover=False) as store:
            store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={SESSIONS: {"sessions": []}}
            )
    (found,) = run("quarantine", "list", kept, "--json").json()["files"]
    listed = found["file"]
    assert (listed["quarantineNumber"], listed["restoredAt"]) == (1, None)
    assert "2020" not in listed["quarantinedAt"]
    with closing(sqlite3.connect(kept / DATABASE_NAME)) as raw:
        problems = raw.execute("SELECT problem FROM open_problems").fetchall()
    assert len(problems) == 1
    assert run("quarantine", "prune", kept, "--older-than", "30").code == ExitCode.READY
    assert path.read_bytes() == content


def test_a_file_of_a_retired_store_does_not_go_over_that_of_another(tmp_path: Path) -> None:
    """It would pass for data of that store. Each way that the refusal names works."""
    directory, cwd = tmp_path / "t", tmp_path / "here"
    cwd.mkdir()
    old, new = (plain_descriptor(name, "a.json") for name in ("own.old", "own.new"))
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=[old]) as store:
        store.write_batch(identity=IDENTITY, reason="w", writes={"own.old": "committed"})
    path = directory / "a.json"
    path.write_bytes(path.read_bytes().replace(b"committed", b"edited"))
    edit = path.read_bytes()
    assert run("recover", directory).code == ExitCode.READY
    with RuntimeStore.open(directory) as store:
        store.write_batch(identity=IDENTITY, reason="w", writes={"own.old": DELETED})
    with RuntimeStore.open(directory, descriptors=[new]) as store:
        assert "own.new" in refused_restore(directory)  # whose file it will be
        store.write_batch(identity=IDENTITY, reason="w", writes={"own.new": "new"})
    lock = "runtime-store.lock"
    before = picture(directory, without=(lock,))
    told = refused_restore(directory)
    assert "a.json is the file of store own.new by now" in told
    assert picture(directory, without=(lock,)) == before
    subprocess.run(told.rpartition("alone: ")[2], shell=True, cwd=cwd, check=True)
    assert [item.read_bytes() for item in cwd.iterdir()] == [edit]
    back = plain_descriptor("own.old", "old.json")
    with RuntimeStore.open(directory, descriptors=[new, back]):
        pass
    run("quarantine", "restore", directory, "1")
    assert (directory / "old.json").read_bytes() == edit
    assert run("adopt", directory, "own.old").code == ExitCode.READY
    with RuntimeStore.open(directory) as store:
        assert (store.read("own.old").data, store.read("own.new").data) == ("edited", "new")


def refused_restore(directory: Path) -> str:
    """What is said when number 1 is not put back."""
    done = run("quarantine", "restore", directory, "1")
    assert done.code == ExitCode.WRONG_CALL
    return done.err.strip()


def test_the_directory_alone_is_listed(kept: Path) -> None:
    """What is no command and no directory is told to be neither."""
    assert run("quarantine", kept).out == run("quarantine", "list", kept).out
    assert run("quarantine", kept, "--json").json()["files"][0]["isGone"] is False
    assert "there is no such directory" in run("quarantine", kept / "nowhere").err
    assert "No such command 'shwo'" in run("quarantine", "shwo", kept, "1").err
    assert "Missing argument" in run("quarantine", "show").err


def test_what_a_file_in_quarantine_would_change(kept: Path) -> None:
    """Compared with what is committed now; what has no data is shown by another command."""
    same = run("quarantine", "diff", kept, "1")
    assert (same.code, same.out.endswith("\nno difference\n")) == (ExitCode.READY, True)
    path = kept / FILE
    path.write_text(path.read_text().replace("ses-alice", "ses-alicia"))
    run("recover", kept)
    report = run("quarantine", "diff", kept, "2", "--json").json()
    assert report["differences"] == [
        {
            "kind": "changed",
            "path": "/sessions/0/id",
            "before": "ses-alice",
            "after": "ses-alicia",
        }
    ]
    assert (report["highWatermark"], report["note"]) == (1, None)
    path.write_text("[")
    run("recover", kept)
    refused = run("quarantine", "diff", kept, "3")
    assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, "")
    assert f"Run: rtstore quarantine show {kept} 3" in refused.err


def test_quarantine_beside_a_crash(tmp_path: Path) -> None:
    """Looking at it finishes nothing that a dead writer left."""
    directory = crashed_team(tmp_path)
    before = picture(directory)
    assert run("quarantine", "list", directory).code == ExitCode.READY
    assert picture(directory) == before


def _link_away(folder: Path) -> None:
    (folder.parent.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent.parent / "elsewhere")


def _link_to_nothing(folder: Path) -> None:
    folder.symlink_to("not-mounted")


def _make_immutable(folder: Path) -> None:
    folder.mkdir()
    if subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("this user, or this file system, knows no immutable files")


CLOSED: dict[str, Callable[[Path], object]] = {
    "a link": _link_away,
    "a link to nothing": _link_to_nothing,
    "a file": Path.touch,
    "immutable": _make_immutable,
}


@pytest.mark.parametrize("closed", CLOSED)
def test_a_quarantine_that_nothing_can_be_put_into(edited: Path, closed: str) -> None:
    """The doctor is red before anything fails, and its command lets the edit be kept."""
    CLOSED[closed](edited / "quarantine")
    try:
        told = run("doctor", edited, "--json")
        refused = run("recover", edited)
        (finding,) = (item for item in told.json()["findings"] if item["check"] == "quarantine")
        (way,) = finding["ways"]
        assert (told.code, finding["level"]) == (ExitCode.NOT_READY, "red")
        assert refused.code == ExitCode.NOT_READY
    finally:
        if closed == "immutable":
            subprocess.run(["chattr", "-i", edited / "quarantine"], check=True)
    if closed != "immutable":
        assert run_command(way["command"]).code == 0
    else:
        assert way["command"].endswith(f"chattr -i {edited / 'quarantine'}")
    assert run("recover", edited).row("quarantine", SESSIONS, "done")
    assert "no file is missing in it" in run("doctor", edited).out
    if closed == "a link to nothing":
        assert (edited / "quarantine.aside").is_symlink()


def test_a_quarantine_that_was_moved_to_another_disk(kept: Path) -> None:
    """What was kept is still there after the way that the doctor prints, and is told as it is
    before; the folder that the link leads to stays."""
    moved = (kept / "quarantine").rename(kept.parent / "large disk")
    before = _contents(moved)
    (kept / "quarantine").symlink_to(moved)
    looked = run("quarantine", "show", kept, "1")
    assert "it cannot be read: path 'quarantine' is a symbolic link" in looked.out
    (finding,) = (
        item
        for item in run("doctor", kept, "--json").json()["findings"]
        if item["check"] == "quarantine"
    )
    assert str(moved) in finding["sentence"]
    (way,) = finding["ways"]
    assert run_command(way["command"]).code == 0
    assert _contents(moved) == _contents(kept / "quarantine") == before
    assert "no file is missing in it" in run("doctor", kept).out
    assert run("quarantine", "restore", kept, "1").code == ExitCode.READY


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
