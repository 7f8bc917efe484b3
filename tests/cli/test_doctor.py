"""`rtstore doctor`: each kind of trouble found, told apart, and fixed by what it prints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from rtstore import (
    DATABASE_NAME,
    KEEP_EVERYTHING,
    KNOWN_DESCRIPTORS,
    Descriptor,
    LockTimeoutError,
    RunIdentity,
    RuntimeStore,
    StorageError,
    UnusableEngineError,
    WriterLock,
    rebuild_database,
)
from rtstore.cli.demo.writer import IDENTITY
from rtstore.cli.exits import ExitCode
from rtstore.control.lock import LOCK_NAME
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import processes
from rtstore.control.sqlite.processes import Process
from rtstore.files.owners import this_user
from rtstore.maintenance import growth
from rtstore.maintenance.doctor.facts import DatabaseState
from rtstore.maintenance.doctor.gather import examine
from tests.cli.commands import crashed_team, ready_team, run, run_all, run_process
from tests.cli.test_bad_input import _without_privileges
from tests.cli.test_import import _copy
from tests.cli.test_read_only import WRITE_ON
from tests.cli.troubles import LEASES_FILE, TROUBLES, Trouble, findings, go_through
from tests.maintenance.test_rebuild_database import overwrite
from tests.model.build import needs_legacy
from tests.support import CHECKOUT, LEASES, agree, breadth, hear, picture
from tests.support.forked import forked
from tests.upgrade.freeze import unpack


def test_a_diagnostic_file_that_is_rubbish(tmp_path: Path) -> None:
    """It lessens no readiness, yet the doctor does not call it committed; its command mends it."""
    directory = ready_team(tmp_path)
    (directory / "opencode-diagnostics.json").write_text("rubbish, not JSON")
    before = run("doctor", str(directory))
    assert "yellow  stores" in before.out
    assert f"rtstore recover {directory}" in before.out
    assert run("recover", str(directory)).code == ExitCode.READY
    assert "green   stores" in run("doctor", str(directory)).out


def test_the_way_out_of_hard_links_is_a_field_of_its_own(tmp_path: Path) -> None:
    """For programs. It is not in the sentence as well, and gives each directory its own files."""
    directory, copy = ready_team(tmp_path), tmp_path / "copy"
    subprocess.run(["cp", "-al", directory, copy], check=True)
    before = picture(copy)
    found = run("doctor", directory, "--json").json()["findings"]
    (finding,) = (item for item in found if item["check"] == "database")
    (way,) = finding["ways"]
    assert "cp -p" not in finding["sentence"]
    assert way["why"].startswith("gives this directory files of its own")
    subprocess.run(way["command"], shell=True, check=True)
    assert {file.stat().st_nlink for file in directory.glob("runtime-store*")} == {1}
    assert run("status", directory).code == ExitCode.READY
    assert {name: facts[2] for name, facts in picture(copy).items()} == {
        name: facts[2] for name, facts in before.items()
    }
    os.link(directory / DATABASE_NAME, tmp_path / "another")
    with pytest.raises(UnusableEngineError) as caught:
        RuntimeStore.open(directory)
    assert caught.value.command is not None
    assert str(caught.value).endswith(f"({caught.value.command})")
    assert "cp -p" not in caught.value.problem


@pytest.mark.one_in(3)
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_the_fix_that_is_printed_helps(tmp_path: Path, trouble: Trouble) -> None:
    """The doctor finds it, says so in its colour, and prints a command; after that command, status
    says ready, and the doctor finds nothing of the kind."""
    told, directory = go_through(trouble, tmp_path)
    doctor, _, fix, *_, status = told
    assert doctor.result.code == (
        ExitCode.NOT_READY if trouble.level == "red" else ExitCode.READY
    ), doctor.result
    (line,) = [line for line in doctor.result.out.splitlines() if trouble.says in line]
    assert line.split()[0] == trouble.level
    assert fix.command.startswith(trouble.fix)
    assert fix.command in doctor.result.out
    assert fix.result.code == ExitCode.READY, fix.result
    assert status.result.code == ExitCode.READY, status.result
    assert "ready" in status.result.row("Readiness", "ready")
    fixed = directory.with_name(directory.name + trouble.fixed_at)
    assert {finding["level"] for finding in findings(fixed, trouble.check)} == {"green"}


def test_a_ready_team(tmp_path: Path) -> None:
    """Nothing is red; whatever is not green comes from the machine, not from the directory."""
    directory = ready_team(tmp_path)
    result = run("doctor", directory)
    assert (result.code, result.err) == (ExitCode.READY, "")
    report = run("doctor", directory, "--json").json()
    levels = {finding["check"]: finding["level"] for finding in report["findings"]}
    assert levels.keys() == {
        *(
            "database",
            "stores",
            "lock",
            "engine",
            "file_system",
            "space",
            "permissions",
            "quarantine",
        ),
        *("settings", "stray_files", "sizes", "clock"),
    }
    machine = {"engine", "file_system", "space"}
    assert {levels[check] for check in levels.keys() - machine} == {"green"}
    (settings,) = findings(directory, "settings")
    assert "journal_mode wal" in str(settings["sentence"])


def test_a_history_that_outgrows_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commands say what each store takes, which is too much, and the command that ends that. A
    runtime that only has a long history may start."""
    monkeypatch.setattr(growth, "LARGE_HISTORY", 1 << 20)
    monkeypatch.setattr(growth, "USUAL_MIB", 1)
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(14):
            store.write_batch(
                identity=IDENTITY,
                reason="host_lease_update",
                writes={LEASES: f"{number}" + "x" * 100_000},
            )
    for command, name in (("status", "stores"), ("doctor", "stores")):
        taken = run(command, directory, "--json").json()[name]
        (leases,) = [item for item in taken if item["schemaName"] == LEASES]
        assert leases["historyContents"] >= 13
        assert leases["historyBytes"] > 1_300_000
    told, *_ = findings(directory, "sizes")
    assert told["level"] == "yellow"
    assert LEASES in str(told["sentence"])
    (command,) = re.findall(r"rtstore prune .*", run("doctor", directory).out)
    status = run("status", directory)
    assert status.code == ExitCode.READY
    assert f"\nNext\n  {command}\n      the history outgrows the data of {LEASES} (" in status.out
    document = run("status", directory, "--json").json()
    assert [item["schemaName"] for item in document["outgrown"]] == [LEASES]
    assert [step["command"] for step in document["next"]] == [command]
    assert run("plan", directory, "--json").json()["next"] == []
    assert run(*shlex.split(command)[1:]).code == ExitCode.READY
    assert {finding["level"] for finding in findings(directory, "sizes")} == {"green"}
    document = run("status", directory, "--json").json()
    assert (document["outgrown"], document["next"]) == ([], [])


def test_a_long_history_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status names the history, but no command that would be refused: it ends what is in the way
    first."""
    monkeypatch.setattr(growth, "LARGE_HISTORY", 1)
    monkeypatch.setattr(growth, "MANY_TIMES", 0)
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory, retention=KEEP_EVERYTHING) as store:
        store.write_batch(
            identity=IDENTITY, reason="host_lease_update", writes={LEASES: {"leases": []}}
        )
    lock = directory / LOCK_NAME
    lock.unlink()
    lock.mkdir()
    document = run("status", directory, "--json").json()
    assert LEASES in [item["schemaName"] for item in document["outgrown"]]
    assert "rtstore prune" not in str(document["next"])
    assert str(lock) in str(document["next"])


# --- only looking ---------------------------------------------------------------------------------


def test_it_changes_nothing(tmp_path: Path) -> None:
    """On a sound directory, a crashed one and a broken one: the same names, bytes, modes, times."""
    broken = crashed_team(tmp_path)
    shutil.copytree(broken, tmp_path / "worse")
    (tmp_path / "worse" / DATABASE_NAME).write_bytes(b"noise" * 1000)
    for directory in (ready_team(tmp_path), broken, tmp_path / "worse"):
        before = picture(directory)
        run("doctor", directory)
        run("doctor", directory, "--json")
        assert picture(directory) == before


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Without any permission to write it looks as ever, and says that writing would not work."""
    directory = ready_team(tmp_path)
    paths = [directory, *directory.iterdir()]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = picture(directory)
    try:
        result = run_process("doctor", directory, before=_without_privileges())
        assert (result.code, result.err) == (ExitCode.NOT_READY, "")
        assert "this user may not write here" in result.out
        assert f"chmod -R u+rwX {directory}" in result.out
        assert "every store file is what is committed: ready" in result.out
        assert picture(directory) == before
    finally:
        for path in paths:
            path.chmod(0o700)


@pytest.mark.parametrize("mode", breadth.params([0o400, 0], normal=[0]))
def test_a_lock_file_that_may_not_be_written(tmp_path: Path, mode: int) -> None:
    """No batch can take the lock then: the doctor, to whom the error sends, does not call it free,
    and names the file and a command that helps."""
    directory = ready_team(tmp_path)
    (directory / LOCK_NAME).chmod(mode)
    words = ("end-run", directory, "--why", "it hung")
    refused, doctor = run_all([words, ("doctor", directory)], before=_without_privileges())
    assert refused.code == ExitCode.RETRY_LATER
    assert f"rtstore doctor {directory}" in refused.err
    assert doctor.code == ExitCode.NOT_READY
    assert f"this user may not write {LOCK_NAME}" in doctor.out
    assert "green   lock " not in doctor.out
    subprocess.run(["chmod", "-R", "u+rwX", str(directory)], check=True)
    assert run_process("doctor", directory, before=_without_privileges()).code == ExitCode.READY


def test_where_nothing_may_be_read(tmp_path: Path) -> None:
    """A database that may not be read is forbidden, not damaged."""
    directory = ready_team(tmp_path)
    path = directory / DATABASE_NAME
    path.chmod(0)
    try:
        result = run_process("doctor", directory, before=_without_privileges())
        assert result.code == ExitCode.NOT_READY
        assert "it cannot be read" in result.out
        assert "damaged" not in result.out
    finally:
        path.chmod(0o600)


def test_a_store_file_that_may_not_be_read(tmp_path: Path) -> None:
    """It may be what is committed: nobody calls it damaged or changed, no recovery is promised, and
    everybody names the `chmod` after which all is well."""
    directory = ready_team(tmp_path)
    path = directory / LEASES_FILE
    path.chmod(0)
    commands = ("status", "plan", "recover", "status", "doctor")
    told = run_all([(name, directory) for name in commands], before=_without_privileges())
    for command, result in zip(commands, told, strict=True):
        assert result.code == ExitCode.NOT_READY, result
        assert f"chmod u+rw {path}" in result.out, (command, result)
        assert not re.search(r"damaged|differs|[.][.] ", result.out), (command, result)
        assert f"  rtstore recover {directory}" not in result.out, (command, result)
    status, plan, recover, *_ = told
    assert "not readable" in status.out
    assert "stop at the file, which cannot be read" in plan.out
    assert "nobody knows whether it is what is committed" in recover.out
    subprocess.run(["chmod", "u+rw", str(path)], check=True)
    assert run_process("status", directory, before=_without_privileges()).code == ExitCode.READY


def test_a_writer_that_comes_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the writer lock after the doctor found it free writes as it should, and is not
    to be killed; nor is one that is done before the doctor looks again."""
    directory = ready_team(tmp_path)
    suspect = Process(pid=4711, command="python", since=None)
    with ExitStack() as writer:

        def comes(_: Path) -> Process:
            writer.enter_context(WriterLock(directory).hold())
            return suspect

        monkeypatch.setattr(processes, "sql_writer", comes)
        facts = examine(directory)
    assert facts.sql_writer is None
    assert facts.lock_holder is not None
    seen = [suspect, None]
    monkeypatch.setattr(processes, "sql_writer", lambda _: seen.pop(0))
    facts = examine(directory)
    assert (facts.sql_writer, facts.lock_holder) == (None, None)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "name",
    [
        *(".", DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", LOCK_NAME),
        *("opencode-sessions.json", "notes"),
    ],
)
def test_what_somebody_made_immutable_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    """Not even root can write then, whatever the modes are; nothing is called ready or free."""
    directory = ready_team(tmp_path)
    path = directory / name
    if name.endswith(("-wal", "-shm")):
        path.touch()  # as a writer that was killed leaves them
    if name == "notes":
        _write_in_folder(directory)
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("this user, or this file system, knows no immutable files")
    try:
        found, looked = run("doctor", directory, "--json"), run("status", directory)
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    command = f"{'sudo ' if os.geteuid() else ''}chattr -i {path}"
    assert found.code == looked.code == ExitCode.NOT_READY
    reds = [item for item in found.json()["findings"] if item["level"] == "red"]
    assert {way["command"] for item in reds for way in item["ways"]} == {command}
    assert command in looked.out
    assert "Readiness      ready" not in looked.out
    if name not in ("opencode-sessions.json", "notes"):
        assert "lock" not in {item["check"] for item in found.json()["findings"]}


def test_the_rebuild_that_is_printed_names_the_whole_identity(tmp_path: Path) -> None:
    """Where the database still says of which identity the files are, the command that is printed
    makes a directory that is ready."""
    directory = ready_team(tmp_path)
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("UPDATE runtime_manifest SET updated_at = '2026-99-99T99:99:99.999Z'")
    (found,) = (
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    )
    command = found["ways"][-1]["command"]
    assert str(IDENTITY.behavior_fingerprint) in shlex.split(command)
    assert run(*shlex.split(command)[1:]).code == 0
    assert run("status", directory).code == ExitCode.READY


def _write_in_folder(directory: Path) -> None:
    """Write a store whose file is in the folder `notes`."""
    notes = Descriptor("app.notes", relative_path="notes/notes.json")
    with RuntimeStore.open(directory, descriptors=(*KNOWN_DESCRIPTORS, notes)) as store:
        store.write_batch(identity=IDENTITY, reason="host_lease_update", writes={"app.notes": {}})


def test_the_lock_is_kept_free_for_an_instant(tmp_path: Path) -> None:
    """Nobody takes it during the block, so that who writes then writes without it; after the block
    it can be had."""
    directory = ready_team(tmp_path)
    with WriterLock(directory).kept_free() as is_free:
        assert is_free
        with pytest.raises(LockTimeoutError), WriterLock(directory).hold(0.05):
            pass
    with WriterLock(directory).hold(0.05), WriterLock(directory).kept_free() as is_free:
        assert not is_free


def test_beside_a_living_writer(tmp_path: Path) -> None:
    """While another process writes batch after batch, every look finds a sound, ready team."""
    directory = ready_team(tmp_path)
    with forked(WRITE_ON, directory) as writer:
        assert hear(writer) == "writing"
        for _ in range(5):
            result = run("doctor", directory)
            assert (result.code, result.err) == (ExitCode.READY, ""), result.out
        assert writer.poll() is None
    (lock,) = findings(directory, "lock")
    assert lock["level"] == "green"


def test_a_writer_that_holds_the_lock(tmp_path: Path) -> None:
    """Who, and since when."""
    directory = ready_team(tmp_path)
    with WriterLock(directory).hold():
        (lock,) = findings(directory, "lock")
    assert lock["level"] == "green"
    assert "a writer is at work: process " in str(lock["sentence"])
    assert " since 20" in str(lock["sentence"])


# --- other states ---------------------------------------------------------------------------------


def test_a_newer_database(tmp_path: Path) -> None:
    """Both revisions, and what to install."""
    directory = ready_team(tmp_path)
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099_later'")
        raw.execute("PRAGMA user_version = 99")
    result = run("doctor", directory)
    assert result.code == ExitCode.NOT_READY
    assert "0099_later; known up to 00" in result.out
    assert "open it with a newer rtstore" in result.out


def test_places_without_a_store(tmp_path: Path) -> None:
    """A directory with nothing in it, one of the legacy format, and one that is not there."""
    result = run("doctor", tmp_path)
    assert result.code == ExitCode.NOT_READY
    assert f"rtstore init {tmp_path} --team NAME" in result.out
    (tmp_path / "opencode-runtime-manifest.json").write_text("{}")
    assert f"rtstore import {tmp_path}" in run("doctor", tmp_path).out
    assert run("doctor", tmp_path / "missing").code == ExitCode.WRONG_CALL


def test_status_sends_to_the_doctor(tmp_path: Path) -> None:
    """Where the database is gone but the store files are there, or it is damaged, `status` says to
    ask the doctor, and not to make a store that would know none of them."""
    directory = ready_team(tmp_path)
    path = directory / DATABASE_NAME
    path.write_bytes(b"")
    assert f"rtstore doctor {directory}" in run("status", directory).err
    path.unlink()
    result = run("status", directory)
    assert (result.code, "rtstore init" in result.err) == (ExitCode.STOP, False)
    assert f"Run: rtstore rebuild {directory}" in result.err
    assert f"rtstore doctor {directory}" in result.err


def test_an_older_database(tmp_path: Path) -> None:
    """Its upgrade is printed, and helps."""
    directory = unpack(REVISIONS[0], tmp_path)
    (database,) = findings(directory, "database")
    assert (database["level"], REVISIONS[0] in str(database["sentence"])) == ("yellow", True)
    assert f"rtstore upgrade {directory}" in str(database["ways"])
    assert run("upgrade", directory).code == ExitCode.READY
    (database,) = findings(directory, "database")
    assert database["level"] == "green"


def test_a_batch_from_the_future(tmp_path: Path) -> None:
    """A clock that was wrong shows in the times of batches and files."""
    directory = ready_team(tmp_path)
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("UPDATE write_batches SET started_at = '2099-01-01T00:00:00.000Z'")
    (clock,) = findings(directory, "clock")
    assert (clock["level"], "2099-01-01" in str(clock["sentence"])) == ("yellow", True)


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system with nothing left is said to be full, and what it is."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        directory = ready_team(tmp_path)
        with (tmp_path / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass
        result = run("doctor", directory)
        assert result.code == ExitCode.NOT_READY
        assert "the disk is full: 0.0 KiB free" in result.out
        assert "tmpfs is in memory" in result.out
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@contextmanager
def _killed_writer_on_a_read_only_mount(place: Path, *, without: str | None) -> Iterator[Path]:
    """The directory of a killed writer, its WAL still full, where nothing may be written."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        directory = ready_team(place)
        with forked(WRITE_ON, directory) as writer:
            assert hear(writer) == "writing"
            wal = directory / f"{DATABASE_NAME}-wal"
            while not wal.exists() or wal.stat().st_size == 0:
                assert writer.poll() is None
                time.sleep(0.01)
            writer.kill()
            writer.wait()
        if without is not None:
            (directory / f"{DATABASE_NAME}{without}").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        before = picture(directory)
        yield directory
        assert picture(directory) == before
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.thorough
def test_on_a_read_only_mount_after_a_crash(tmp_path: Path) -> None:
    """Doctor, status, log and plan look as ever, and not a byte changes."""
    with _killed_writer_on_a_read_only_mount(tmp_path, without=None) as directory:
        looks = ("doctor", "status", "log", "plan")
        doctor, *others = run_all([(command, directory) for command in looks])
        assert "mounted read-only" in doctor.out, doctor
        assert "every page of it is sound" in doctor.out, doctor
        for result in others:
            assert result.code in (ExitCode.READY, ExitCode.NOT_READY), result


@pytest.mark.thorough
def test_where_sqlite_cannot_read_the_wal(tmp_path: Path) -> None:
    """Without its index a WAL cannot be read there: that is not damage, and a copy helps."""
    (tmp_path / "mounted").mkdir()
    place = _killed_writer_on_a_read_only_mount(tmp_path / "mounted", without="-shm")
    with place as directory:
        doctor, status = run_all([("doctor", directory), ("status", directory)])
        assert doctor.code == ExitCode.NOT_READY
        assert "it cannot be read: its file system is mounted read-only" in doctor.out
        assert f"cp -r {directory} ~/copy-of-team" in doctor.out
        assert status.code == ExitCode.RETRY_LATER
        copy = shutil.copytree(directory, tmp_path / "copy")
    assert "every page of it is sound" in run("doctor", copy).out


@pytest.mark.parametrize("seed", breadth.params(range(4), normal=[0]))
def test_whatever_was_done_to_the_database(tmp_path: Path, seed: int) -> None:
    """Bytes turned over, pages of noise, cut short: the doctor always has an answer; what it calls
    damaged or not ours can be rebuilt, and what it calls sound can be read."""
    random = Random(seed)
    base = ready_team(tmp_path)
    for number in range(6):
        directory = tmp_path / str(number)
        shutil.copytree(base, directory)
        path = directory / DATABASE_NAME
        content = bytearray(path.read_bytes())
        start = random.randrange(len(content))
        if number % 3 == 0:
            for _ in range(10):
                content[random.randrange(len(content))] = random.randrange(256)
        elif number % 3 == 1:
            content[start : start + 4096] = random.randbytes(len(content[start : start + 4096]))
        else:
            del content[start:]
        path.write_bytes(content)
        state = examine(directory).state
        assert run("doctor", directory, "--json").code in (ExitCode.READY, ExitCode.NOT_READY)
        if state in (DatabaseState.DAMAGED, DatabaseState.FOREIGN):
            rebuild_database(directory, team_name="demo-team", force=True)
        elif state is not DatabaseState.SOUND:
            continue  # a byte of the header says that it is of another revision
        with RuntimeStore.open(directory) as store:
            assert store.batches()
            assert agree(store)


@needs_legacy
def test_what_the_legacy_runtime_left(tmp_path: Path) -> None:
    """After an import its control files and its list of lanes lie about as they should."""
    directory = _copy(tmp_path, "team-a")
    assert run("import", directory).code == ExitCode.READY
    (finding,) = findings(directory, "stray_files")
    assert finding["level"] == "green"


def test_a_link_to_a_database_with_a_wal(tmp_path: Path) -> None:
    """Both files are brought back by the command that is printed; nothing that was committed since
    the last checkpoint is lost by it."""
    directory = ready_team(tmp_path)
    with forked(WRITE_ON, directory) as writer:
        assert hear(writer) == "writing"
        writer.kill()
        writer.wait()
    (tmp_path / "away").mkdir()
    for suffix in ("", "-wal"):
        name = f"runtime-store.sqlite3{suffix}"
        (directory / name).rename(tmp_path / "away" / name)
    (directory / "runtime-store.sqlite3-shm").unlink()
    (directory / "runtime-store.sqlite3").symlink_to(tmp_path / "away" / "runtime-store.sqlite3")
    (finding,) = findings(directory, "database")
    command = finding["ways"][0]["command"]  # type: ignore[index]
    assert command.count("mv ") == 2
    subprocess.run(command, shell=True, check=True)
    assert run("recover", directory).code == ExitCode.READY
    assert run("doctor", directory).code == ExitCode.READY


# --- back-ups of this directory, and of no other --------------------------------------------------


def _backup_offered(directory: Path) -> str | None:
    """The back-up that the doctor would restore."""
    commands = [
        way["command"]
        for finding in findings(directory, "database")
        for way in finding["ways"]  # type: ignore[attr-defined]
    ]
    offered = [shlex.split(command)[2] for command in commands if " restore " in command]
    return offered[0] if offered else None


@pytest.mark.parametrize("copied_last", ["older", "newer"])
def test_the_back_up_with_the_most_batches_is_offered(tmp_path: Path, copied_last: str) -> None:
    """Whatever the times of its files say: they are those of the last copy."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        store.back_up(tmp_path / "older")
        store.update(LEASES, lambda data: data, identity=IDENTITY, reason="host_lease_update")
        store.back_up(tmp_path / "newer")
    for number, name in enumerate(("older", "newer")):
        late = 2 if name == copied_last else number
        os.utime(
            tmp_path / name / "runtime-store.backup.json",
            (1_900_000_000 + late, 1_900_000_000 + late),
        )
    overwrite(directory / DATABASE_NAME, "write_batches")
    assert _backup_offered(directory) == str(tmp_path / "newer")


def test_the_back_up_of_another_directory_is_not_offered(tmp_path: Path) -> None:
    """Two directories of one team, each with its back-up beside them: each gets its own, and none
    the other's, though that is the newer one. One that was moved since is known by its batches."""
    (tmp_path / "other").mkdir()
    mine = ready_team(tmp_path)
    other = ready_team(tmp_path / "other").rename(tmp_path / "team of the other")
    for directory in (mine, other):
        with RuntimeStore.open(directory) as store:
            store.update(LEASES, lambda data: data, identity=IDENTITY, reason="host_lease_update")
            store.back_up(f"{directory}.backup")
    for directory in (mine, other):
        overwrite(directory / DATABASE_NAME, "recovery_runs")
        assert _backup_offered(directory) == f"{directory}.backup"
    moved = mine.rename(tmp_path / "moved")
    assert _backup_offered(moved) == f"{mine}.backup"
    shutil.rmtree(f"{mine}.backup")
    assert _backup_offered(moved) is None
    (moved / DATABASE_NAME).unlink()
    assert _backup_offered(moved) is None


def test_a_name_to_restore_to_that_is_free(tmp_path: Path) -> None:
    """The second time the first place is taken, and the command works as it is printed."""
    directory = ready_team(tmp_path)
    assert run("backup", directory, tmp_path / "kept").code == 0
    overwrite(directory / DATABASE_NAME, "write_batches")
    for number in ("", "-2"):
        (finding,) = findings(directory, "database")
        command = finding["ways"][0]["command"]  # type: ignore[index]
        assert command.endswith(f"-restored{number}")
        assert run(*shlex.split(command)[1:]).code == 0


# --- what belongs to somebody else ----------------------------------------------------------------

SOMEBODY_ELSE = 54321


def _give_away(*paths: Path) -> None:
    try:
        for path in paths:
            os.chown(path, SOMEBODY_ELSE, SOMEBODY_ELSE)
    except PermissionError:
        pytest.skip("only root gives files away")


def test_what_another_user_left_here(tmp_path: Path) -> None:
    """Doctor and status name `chown`, for the user of the directory; a recovery that cannot keep
    its quarantined file is not advised again."""
    directory = ready_team(tmp_path)
    (directory / LEASES_FILE).write_text("{")
    (directory / "quarantine").mkdir(mode=0o700)
    _give_away(directory / "quarantine", directory / "opencode-sessions.json")
    user = this_user()
    looks = [("doctor", directory), ("status", directory)]
    doctor, status = run_all(looks, before=_without_privileges())
    assert "of another user, and not to be changed by this one" in doctor.out, doctor
    assert f"sudo chown -R {user} {directory}" in doctor.out
    assert "chmod" not in doctor.out
    assert f"sudo chown -R {user} {directory}" in status.out, status
    assert f"\n  rtstore recover {directory}" not in status.out
    subprocess.run(["chown", "-R", user, str(directory)], check=True)
    assert run_process("recover", directory, before=_without_privileges()).code == 0


@pytest.mark.parametrize(
    "name", breadth.params(["runtime-store.lock", DATABASE_NAME], normal=[DATABASE_NAME])
)
def test_what_every_write_needs_is_of_another_user(tmp_path: Path, name: str) -> None:
    """Status does not call that ready, for the user of the directory, and names `chown` as the
    doctor does; after it, the directory is ready."""
    directory = ready_team(tmp_path)
    _give_away(directory / name)
    (directory / name).chmod(0o644)
    chown = f"sudo chown -R {this_user()} {directory}"
    looks = [("status", directory), ("doctor", directory)]
    for told in run_all(looks, before=_without_privileges()):
        assert told.code == ExitCode.NOT_READY, told
        assert name in told.out
        assert chown in told.out
    assert run("status", directory).code == ExitCode.READY  # root may write
    subprocess.run(chown.split()[1:], check=True)
    assert run_process("status", directory, before=_without_privileges()).code == ExitCode.READY


def test_another_users_directory(tmp_path: Path) -> None:
    """It says whose it is and who asks, in the library and in every command."""
    directory = ready_team(tmp_path)
    _give_away(directory, *directory.iterdir())
    commands = [(name, directory) for name in ("status", "doctor", "recover")]
    for result in run_all(commands, before=_without_privileges()):
        assert result.code == ExitCode.RETRY_LATER, result
        assert f"it belongs to {SOMEBODY_ELSE}:{SOMEBODY_ELSE}, and this is" in result.err
        assert "run this as its owner" in result.err
        assert "chown" not in result.err or os.geteuid(), "root cannot take what is given to it"
    code = (
        "import sys; from rtstore import RuntimeStore, StorageError\n"
        "try: RuntimeStore.open(sys.argv[1], team_name='demo-team')\n"
        "except StorageError as error: print(error)"
    )
    done = subprocess.run(
        [*_without_privileges(), sys.executable, "-c", code, str(directory)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "belongs to" in done.stdout, done


def test_root_without_its_rights(tmp_path: Path) -> None:
    """In a container that took them away, root is another user as any: nobody says that the
    directory's user could not write, and no change of owner is advised."""
    if os.geteuid():
        pytest.skip("only root can give files away")
    directory = ready_team(tmp_path)
    _give_away(directory, *directory.iterdir())
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    looks = [("status", directory), ("doctor", directory)]
    status, doctor = run_all(looks, before=_without_privileges())
    assert status.code == ExitCode.READY, status
    assert f"run this as {SOMEBODY_ELSE}:{SOMEBODY_ELSE}" in doctor.out
    assert "chown" not in status.out + doctor.out


def test_a_quarantine_that_is_mounted_read_only(tmp_path: Path) -> None:
    """The mount is named, and no mode: in the doctor, and where something must be kept there."""
    directory = ready_team(tmp_path)
    folder = directory / "quarantine"
    folder.mkdir(mode=0o700)
    mount = ["mount", "--bind", str(folder), str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        (directory / LEASES_FILE).write_text("no JSON")
        found = run("doctor", directory).out
        assert "it is mounted read-only: no file can be kept there" in found
        assert "chmod u+rwx" not in found
        dry = run("recover", directory, "--dry-run", "--json").json()["steps"][0]["intention"]
        assert dry == f"stop at {folder}, where nothing can be written: it is mounted read-only"
        told = run("status", directory).out
        assert f"a person must mount {folder} for writing first" in told
        assert f"\n  rtstore recover {directory}" not in told
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_mount_in_its_own_words(tmp_path: Path) -> None:
    """Opening for writing says so at once, whatever lies beside the database."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        directory = ready_team(tmp_path)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(StorageError, match="mounted read-only: it can be looked at"):
            RuntimeStore.open(directory)
        RuntimeStore.open(directory, read_only=True).close()
        assert "mounted read-only" in run("recover", directory).err
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_database_behind_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """A volume that is not mounted: what is missing is named, and is looked for before a new
    database is made. It is not called unreadable."""
    directory = ready_team(tmp_path)
    database = directory / DATABASE_NAME
    database.rename(tmp_path / "elsewhere")
    database.symlink_to(tmp_path / "not-mounted")
    assert f"symbolic link to {tmp_path / 'not-mounted'}" in run("status", directory).err
    findings = run("doctor", directory, "--json").json()["findings"]
    (found,) = [item for item in findings if item["level"] == "red"]
    assert str(tmp_path / "not-mounted") in found["sentence"]
    first, second = found["ways"]
    assert first["command"] is None
    assert "--force" in second["command"]
    assert "only if that is lost for good" in second["why"]


def test_a_wal_behind_a_link_is_brought_back(tmp_path: Path) -> None:
    """Batches may be in it: it is never moved away."""
    with closing(sqlite3.connect(ready_team(tmp_path) / DATABASE_NAME)) as reader:
        reader.execute("SELECT * FROM current_stores").fetchone()  # who closes leaves the WAL
        assert run("end-run", tmp_path / "team", "--why", "x").code == 0
        directory = shutil.copytree(tmp_path / "team", tmp_path / "killed")
    wal = directory / f"{DATABASE_NAME}-wal"
    assert wal.stat().st_size > 0
    before = run("runs", directory, "--json").json()
    kept = wal.rename(tmp_path / "elsewhere")
    wal.symlink_to(kept)
    (database,) = [
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    ]
    (way,) = database["ways"]
    subprocess.run(way["command"], shell=True, check=True)
    assert not wal.is_symlink()
    ended = run("runs", directory, "--json").json()["runs"][0]["run"]["state"]
    assert ended == before["runs"][0]["run"]["state"] == "ended"


def test_a_wal_whose_rows_somebody_edited(tmp_path: Path) -> None:
    """The database without it is sound, too, and of an earlier day: the WAL has batches, and is not
    advised away."""
    directory = ready_team(tmp_path)
    code = (
        "import os, sqlite3, sys; from pathlib import Path; from rtstore import RuntimeStore; "
        "from tests.support import LEASES, write; "
        "store = RuntimeStore.open(Path(sys.argv[1])); write(store, LEASES, {'n': 1}); "
        "raw = sqlite3.connect(store.database.path, isolation_level=None); "
        "raw.execute('UPDATE write_batches SET high_watermark = 90 WHERE batch_number = 1'); "
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=True, cwd=CHECKOUT)
    assert (directory / f"{DATABASE_NAME}-wal").stat().st_size > 0
    (database,) = [
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    ]
    assert database["level"] == "red"
    assert not [way for way in database["ways"] if "-wal" in (way["command"] or "")]


def test_a_wal_of_another_database(tmp_path: Path) -> None:
    """The database is sound without it, so that comes before a rebuild, which loses the history."""
    directory, other = ready_team(tmp_path), tmp_path / "other"
    writes = {"own.notes": "x" * 9_000}
    for number in range(2):  # the second WAL has some of the pages only
        with RuntimeStore.open(
            other, team_name="other", descriptors=[Descriptor("own.notes")]
        ) as store:
            for _ in range(30):
                store.write_batch(
                    identity=RunIdentity(run_id=f"r{number}"), reason="recovery", writes=writes
                )
            foreign = (other / f"{DATABASE_NAME}-wal").read_bytes()
    (directory / f"{DATABASE_NAME}-wal").write_bytes(foreign)
    (database,) = [
        item
        for item in run("doctor", directory, "--json").json()["findings"]
        if item["check"] == "database"
    ]
    first = database["ways"][0]["command"]
    assert first.startswith("mv ")
    subprocess.run(first, shell=True, check=True)
    assert run("log", directory, "--json").json()["highWatermark"] == 3
    assert run("doctor", directory).code == 0
