"""Back-ups: one consistent state beside busy writers, verified, and restored into a new place."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    Backup,
    BackupDamagedError,
    ExportReport,
    InvalidRequestError,
    NewerDatabaseError,
    RuntimeStore,
    StorageError,
    restore_backup,
    upgrade_directory,
    verify_backup,
)
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from rtstore.maintenance.backup import RECORD_NAME, Step
from rtstore.testing import Seams
from tests.cli.commands import run
from tests.crash.probe import Fault, Point, Probe, SqlFault, watched
from tests.support import (
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    Crash,
    WatchedFileSystem,
    agree,
    at,
    at_call,
    files_picture,
    new_directory,
    open_store,
    options_of,
    picture,
    plain_descriptor,
    write,
)
from tests.support.printed import lines_of
from tests.upgrade.freeze import facts_of, rows_of, unpack

OWN = plain_descriptor("own.notes", "own/notes.json")
TOGETHER = (LEASES, LEDGER)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with a few batches, a quarantined file, and a file in a folder."""
    directory = new_directory(tmp_path)
    with open_store(directory, descriptors=[*_known(), OWN]) as store:
        for number in range(3):
            writes = {name: {"n": number} for name in (*TOGETHER, OWN.schema_name)}
            store.write_batch(identity=IDENTITY, reason="delivery_commit", writes=writes)
        (directory / "opencode-host-leases.json").write_text("{}")
        write(store, LEASES, {"n": 3})
        assert len(store.quarantined_files()) == 1
    return directory


def _known() -> list[Any]:
    from rtstore import KNOWN_DESCRIPTORS

    return list(KNOWN_DESCRIPTORS)


def back_up(directory: Path, destination: Path, **options: Any) -> Any:
    """Back up through a store of its own, as the command does."""
    with RuntimeStore.open(directory, recover=False, **options_of(**options)) as store:
        return store.back_up(destination)


def same(one: Path, other: Path) -> bool:
    """Whether two directories have the same rows and, but for the store's own, the same files."""
    own = (".sqlite3", "-wal", "-shm", "runtime-store.lock", RECORD_NAME)
    pictures = [
        {name: facts[2] for name, facts in picture(each, without=own).items()}
        for each in (one, other)
    ]
    return pictures[0] == pictures[1] and rows_of(one / DATABASE_NAME) == rows_of(
        other / DATABASE_NAME
    )


# --- there and back -------------------------------------------------------------------------------


def test_there_and_back(directory: Path, tmp_path: Path) -> None:
    """What is restored from a back-up is what was backed up: rows, files, quarantine; the back-up
    and the directory stay as they are, and the restored store works on."""
    before = files_picture(directory)
    backup = back_up(directory, tmp_path / "backup")
    assert files_picture(directory) == before
    assert (backup.high_watermark, backup.revision, backup.left_out) == (4, REVISIONS[-1], ())
    assert len(backup.files) == 4
    kept = picture(tmp_path / "backup")
    restored = restore_backup(tmp_path / "backup", tmp_path / "new" / "runtime")
    assert restored.path == tmp_path / "new" / "runtime"
    assert picture(tmp_path / "backup") == kept
    assert same(directory, restored.path)
    with RuntimeStore.open(restored.path) as store:
        assert store.last_recovery is None
        assert agree(store)
        write(store, LEDGER, {"n": 9})
    assert verify_backup(tmp_path / "backup") == backup


def test_permissions_come_along(directory: Path, tmp_path: Path) -> None:
    """A file that other users may read can be read by them in the restored directory too."""
    (directory / "own" / "notes.json").chmod(0o644)
    back_up(directory, tmp_path / "backup")
    restored = restore_backup(tmp_path / "backup", tmp_path / "new").path
    modes = {path.name: path.stat().st_mode & 0o777 for path in restored.rglob("*.json")}
    assert modes.pop("notes.json") == 0o644
    assert set(modes.values()) == {0o600}


def test_a_backup_is_a_ready_store(directory: Path, tmp_path: Path) -> None:
    """A back-up opens like any runtime directory, with nothing to recover."""
    back_up(directory, tmp_path / "backup")
    with open_store(tmp_path / "backup") as store:
        assert store.last_recovery is None
        assert agree(store)
        assert store.read(OWN.schema_name).data == {"n": 2}


def test_an_edited_file_is_kept_as_evidence(directory: Path, tmp_path: Path) -> None:
    """The back-up has what is committed in its place, says so, and the edit comes back from it."""
    path, never = directory / "opencode-host-leases.json", directory / "launch-state.json"
    edited = path.read_text().replace('"n": 3', '"n": 33')
    path.write_text(edited)
    never.write_text(edited)
    (directory / "own" / "notes.json").unlink()
    (directory / "own" / "notes.json").symlink_to(path)
    backup = back_up(directory, tmp_path / "backup")
    told = {file.relative_path: file for file in backup.changed}
    assert told.keys() == {path.name, never.name, "own/notes.json"}
    assert told["own/notes.json"].kept_at is None
    assert verify_backup(tmp_path / "backup") == backup
    with RuntimeStore.open(restore_backup(tmp_path / "backup", tmp_path / "new").path) as store:
        assert agree(store)
        numbers = {
            item.quarantine_path: item.quarantine_number for item in store.quarantined_files()
        }
        store.restore_quarantined(numbers[str(told[path.name].kept_at)])
        assert (tmp_path / "new" / path.name).read_text() == edited
    again = back_up(tmp_path / "new", tmp_path / "again")  # the same quarantined file, once
    assert [file.relative_path for file in again.changed] == [path.name]
    assert len(again.files) == len({file.relative_path for file in again.files})


def test_an_earlier_version_in_the_place_of_a_file_is_no_edit(
    directory: Path, tmp_path: Path
) -> None:
    """Its bytes are in the database; a writer at work leaves such a file to be seen, too."""
    path = directory / "opencode-host-leases.json"
    before = path.read_bytes()
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, {"n": 4})
    path.write_bytes(before)
    assert back_up(directory, tmp_path / "backup").changed == ()


def test_a_batch_that_a_dead_writer_left_is_finished_in_the_copy(tmp_path: Path) -> None:
    """A batch in the log will happen, so the back-up has it whole; the directory stays as found."""
    directory = new_directory(tmp_path)
    fs = WatchedFileSystem(at("rename", directory / "opencode-host-leases.json", Crash()))
    store = open_store(directory, fs=fs)
    with pytest.raises(Crash):
        store.write_batch(
            identity=IDENTITY,
            reason="delivery_commit",
            writes={name: {"n": 1} for name in reversed(TOGETHER)},
        )
    with store.lock.hold():
        store.database.close()
    with RuntimeStore.open(directory, read_only=True) as looking:
        backup = looking.back_up(tmp_path / "backup")
        assert looking.manifest().high_watermark == 0
    assert backup.high_watermark == 1
    with open_store(tmp_path / "backup") as copied:
        assert copied.last_recovery is None
        assert copied.snapshot(TOGETHER).high_watermark == 1
        assert agree(copied)


@pytest.mark.thorough
def test_an_upgrades_backup_is_restored_by_the_same_call(tmp_path: Path) -> None:
    """The database that an upgrade kept becomes a directory at its old revision, with its store
    files; an rtstore of that time can go on with it, and this one upgrades it anew."""
    for frozen in REVISIONS[:-1]:
        directory = unpack(frozen, tmp_path / frozen)
        kept = upgrade_directory(directory).backup
        assert kept is not None
        assert verify_backup(kept).revision == frozen
        record = restore_backup(kept, tmp_path / frozen / "restored")
        restored = record.path
        assert len(record.left_out) == 2
        assert all(": it is in the directory" in why for why in record.left_out)
        assert rows_of(restored / DATABASE_NAME) == facts_of(frozen)["rows"]
        with RuntimeStore.open(restored) as store:
            assert store.manifest().high_watermark == 8
            assert agree(store)


def test_progress_is_told(directory: Path, tmp_path: Path) -> None:
    """A back-up and a restore tell how far they are, each step to its end."""
    told: list[tuple[Step, int, int]] = []
    with open_store(directory) as store:
        store.back_up(tmp_path / "backup", progress=lambda *what: told.append(what))
    restore_backup(tmp_path / "backup", tmp_path / "new", progress=lambda *what: told.append(what))
    for step in Step:
        done = [(number, total) for which, number, total in told if which is step]
        assert done, step
        assert done[-1][0] == done[-1][1]


def test_the_same_for_asyncio(directory: Path, tmp_path: Path) -> None:
    """An asyncio runtime backs up and exports while it goes on writing; both are sound."""

    async def live() -> tuple[Backup, ExportReport]:
        async with AsyncRuntimeStore.open(directory) as store:
            assert await store.upgrades() == []
            making = asyncio.gather(
                store.back_up(tmp_path / "backup"), store.export(tmp_path / "files")
            )
            for number in range(20):
                await store.write_batch(
                    identity=IDENTITY, reason="delivery_commit", writes={LEDGER: {"n": number}}
                )
            return await making

    backup, report = asyncio.run(live())
    assert verify_backup(tmp_path / "backup") == backup
    assert {backup.high_watermark, report.high_watermark} <= set(range(4, 25))


ANOTHER_FILE: dict[str, dict[str, str]] = {
    "moved": {"own.a": "new.json", "own.b": "b.json"},
    "into a folder": {"own.a": "in/a/folder.json", "own.b": "b.json"},
}


@pytest.mark.parametrize("edited", [False, True], ids=["as committed", "edited since"])
@pytest.mark.parametrize("files", ANOTHER_FILE.values(), ids=ANOTHER_FILE)
def test_a_store_that_moved_and_was_not_written_since(
    tmp_path: Path, files: dict[str, str], edited: bool
) -> None:
    """It is in the back-up where it is now, with the mode that it has there: what is restored is
    ready as it stands, and so is what the database alone gives back."""
    source, made = tmp_path / "source", tmp_path / "made"
    before = [plain_descriptor("own.a", "a.json"), plain_descriptor("own.b", "b.json")]
    with open_store(source, descriptors=before) as store:
        store.write_batch(identity=IDENTITY, reason="recovery", writes={"own.a": 1, "own.b": 2})
    now = [plain_descriptor(name, path) for name, path in files.items()]
    open_store(source, descriptors=now).close()
    (source / files["own.a"]).chmod(0o640)
    committed = {path: (source / path).read_bytes() for path in files.values()}
    if edited:
        (source / files["own.a"]).write_text("an edit")
    assert run("backup", source, made).code == 0
    assert verify_backup(made).path == made
    restored = {"whole": tmp_path / "whole", "database": tmp_path / "database"}
    assert run("restore", made, restored["whole"]).code == 0
    copy = shutil.copy(made / DATABASE_NAME, tmp_path / "alone.sqlite3")
    paths = {file.relative_path for file in verify_backup(copy).files}
    assert paths == set(files.values())
    assert run("restore", copy, restored["database"]).code == 0
    assert ((restored["whole"] / files["own.a"]).stat().st_mode & 0o777) == 0o640
    for directory in (made, *restored.values()):
        found = {path: (directory / path).read_bytes() for path in files.values()}
        assert found == committed
        with RuntimeStore.open(directory, read_only=True) as store:
            assert store.check_readiness().ok
    for directory in restored.values():
        assert run("status", directory).code == 0
        assert run("doctor", directory).code == 0, run("doctor", directory).out
        assert {path.name for path in directory.rglob("*.json")} == {
            Path(path).name for path in files.values()
        }


def test_an_edit_of_the_file_that_a_store_had(tmp_path: Path) -> None:
    """Until the store has its new file, the edit is one of the store, and comes along."""
    source, made = tmp_path / "source", tmp_path / "made"
    with open_store(source, descriptors=[plain_descriptor("own.a", "a.json")]) as store:
        store.write_batch(identity=IDENTITY, reason="recovery", writes={"own.a": 1})
    (source / "a.json").write_text("an edit")
    now = [plain_descriptor("own.a", "b.json")]
    with open_store(source, descriptors=now, recover=False) as store:
        (changed,) = store.back_up(made).changed
    assert (changed.relative_path, changed.problem) == ("a.json", None)
    assert changed.kept_at is not None
    assert (made / changed.kept_at).read_text() == "an edit"
    with RuntimeStore.open(made, read_only=True) as store:
        assert store.check_readiness().ok
        assert store.read("own.a").data == 1


# --- what is refused ------------------------------------------------------------------------------


def test_nothing_is_overwritten(directory: Path, tmp_path: Path) -> None:
    """Neither a back-up nor a restore touches a directory that has something in it: a living store
    least of all."""
    back_up(directory, tmp_path / "backup")
    for target in (directory, tmp_path / "backup"):
        before = picture(target, without=("runtime-store.lock",))
        with (
            RuntimeStore.open(directory, read_only=True) as store,
            pytest.raises(InvalidRequestError, match="is not empty"),
        ):
            store.back_up(target)
        with pytest.raises(InvalidRequestError, match="is not empty"):
            restore_backup(tmp_path / "backup", target)
        assert picture(target, without=("runtime-store.lock",)) == before
    (tmp_path / "file").write_text("here")
    with pytest.raises(InvalidRequestError, match="is not a directory"):
        restore_backup(tmp_path / "backup", tmp_path / "file")


def test_nothing_is_put_into_what_it_is_made_of(directory: Path, tmp_path: Path) -> None:
    """A back-up or an export inside of the runtime directory would be lost with it, and a restore
    inside of a back-up would become a part of that: each is refused, and makes nothing."""
    back_up(directory, tmp_path / "backup")
    (tmp_path / "link").symlink_to(directory)
    before = picture(tmp_path)
    with RuntimeStore.open(directory, read_only=True) as store:
        for inside in (directory / "backup", directory / "quarantine" / "b", tmp_path / "link/b"):
            for act in (store.back_up, store.export):
                with pytest.raises(InvalidRequestError, match=r"is inside of .*runtime: give"):
                    act(inside)
    with pytest.raises(InvalidRequestError, match=r"is inside of .*backup: give"):
        restore_backup(tmp_path / "backup", tmp_path / "backup" / "new")
    assert picture(tmp_path) == before


def test_an_empty_directory_is_taken(directory: Path, tmp_path: Path) -> None:
    """A directory that is there and empty is as good as a new one."""
    for name in ("backup", "new"):
        (tmp_path / name).mkdir()
    back_up(directory, tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "new")
    assert same(directory, tmp_path / "new")


def test_a_directory_whose_path_is_no_text(directory: Path, tmp_path: Path) -> None:
    """The record of the back-up, which is JSON, leaves the path out; all else is as ever."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    moved = directory.rename(place / "runtime")
    assert back_up(moved, place / "backup").origin is None
    assert verify_backup(place / "backup").origin is None
    restore_backup(place / "backup", place / "new")
    assert same(moved, place / "new")


@pytest.mark.parametrize("leads_to", ["empty", "nothing", "link"])
def test_a_link_is_no_destination(directory: Path, tmp_path: Path, leads_to: str) -> None:
    """A directory cannot take the place of a link: that is said before any work, and where to."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(leads_to)
    back_up(directory, tmp_path / "backup")
    before = picture(tmp_path)
    wrong = pytest.raises(InvalidRequestError, match=r"link is a symbolic link.*: give")
    with RuntimeStore.open(directory, read_only=True) as store:
        for act in (store.back_up, store.export):
            with wrong:
                act(tmp_path / "link")
    with wrong:
        restore_backup(tmp_path / "backup", tmp_path / "link")
    assert picture(tmp_path) == before


def test_a_mount_point_is_no_destination(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty disk is where a back-up goes: below its mount point, which is said before any
    work."""
    disk, backup = tmp_path / "disk", tmp_path / "backup"
    disk.mkdir()
    back_up(directory, backup)
    before = picture(tmp_path)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == disk)
    wrong = pytest.raises(InvalidRequestError, match=f"mount point, .* such as {disk}/new")
    with RuntimeStore.open(directory, read_only=True) as store, wrong:
        store.back_up(disk)
    with wrong:
        restore_backup(backup, disk)
    assert picture(tmp_path) == before
    restore_backup(backup, disk / "new")


def test_a_mount_point_that_looks_like_a_directory(directory: Path, tmp_path: Path) -> None:
    """A folder of the same disk that is mounted is found out when it is to be replaced: it is
    refused as another one, and nothing is left."""

    class Mounted(FileSystem):
        def rename(self, source: Path, target: Path) -> None:
            if target == tmp_path / "disk":
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            super().rename(source, target)

    (tmp_path / "disk").mkdir()
    back_up(directory, tmp_path / "backup")
    before = picture(tmp_path)
    with pytest.raises(InvalidRequestError, match=f"such as {tmp_path}/disk/new"):
        restore_backup(tmp_path / "backup", tmp_path / "disk", fs=Mounted())
    assert picture(tmp_path) == before


@pytest.mark.parametrize("target", [".", "..", "../empty", "new/.."])
def test_the_working_directory_is_no_destination(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Whoever stands in it would stand in a directory that is gone."""
    back_up(directory, tmp_path / "backup")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = picture(tmp_path)
    with pytest.raises(InvalidRequestError, match=r"directory: .*give|not empty: give"):
        restore_backup(tmp_path / "backup", target)
    assert picture(tmp_path) == before


def _flip(name: str) -> Callable[[Path], None]:
    def flip(backup: Path) -> None:
        content = bytearray((backup / name).read_bytes())
        content[len(content) // 2] ^= 1
        (backup / name).write_bytes(content)

    return flip


def _sql(*statements: str) -> Callable[[Path], None]:
    def change(backup: Path) -> None:
        with closing(sqlite3.connect(backup / DATABASE_NAME, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return change


def _record(**changes: Any) -> Callable[[Path], None]:
    def change(backup: Path) -> None:
        record = json.loads((backup / RECORD_NAME).read_bytes())
        (backup / RECORD_NAME).write_text(json.dumps({**record, **changes}))

    return change


def _half_a_record(backup: Path) -> None:
    (backup / RECORD_NAME).write_text("{")


def _outside(backup: Path) -> None:
    record = json.loads((backup / RECORD_NAME).read_bytes())
    record["files"][0]["relativePath"] = "../secret"
    (backup / RECORD_NAME).write_text(json.dumps(record))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file's bit": (_flip("own/notes.json"), "own/notes.json: its bytes are not"),
    "a file gone": (lambda b: (b / "own" / "notes.json").unlink(), "own/notes.json: No such file"),
    "a page": (_flip(DATABASE_NAME), "database"),
    "the database gone": (lambda b: (b / DATABASE_NAME).unlink(), "cannot be looked at"),
    "a content": (
        _sql("UPDATE store_contents SET content = content || ' '"),
        "it was changed since.*in batch 1 is not what its receipt says",
    ),
    "a row": (_sql("UPDATE runtime_manifest SET high_watermark = 9"), "it was changed since"),
    "no record": (lambda b: (b / RECORD_NAME).unlink(), "or was never finished"),
    "half a record": (_half_a_record, "Invalid JSON"),
    "a newer record": (_record(formatVersion=2), "use a newer rtstore"),
    "a path outside": (_outside, "a path that no back-up has"),
}  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(what: str, directory: Path, tmp_path: Path) -> None:
    """Whatever was changed in a back-up is found by verifying it, and by restoring, which then
    makes nothing."""
    backup = tmp_path / "backup"
    back_up(directory, backup)
    verify_backup(backup)
    change, message = DAMAGE[what]
    change(backup)
    with pytest.raises(BackupDamagedError, match=message):
        verify_backup(backup)
    with pytest.raises(BackupDamagedError):
        restore_backup(backup, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_schema_that_was_damaged_before_is_copied_and_never_sound(
    directory: Path, tmp_path: Path
) -> None:
    """Somebody dropped a trigger and a view: nothing of the rows is lost, the back-up and the
    restore say what is gone, and verifying does not call that sound."""
    backup, gone = tmp_path / "backup", "its trigger runs_stay and its view current_state are gone"
    _sql("DROP TRIGGER runs_stay", "DROP VIEW current_state")(directory)
    assert gone in (back_up(directory, backup).schema_problem or "")
    assert "schemaProblem" not in json.loads((backup / RECORD_NAME).read_bytes())
    for path in (backup, backup / DATABASE_NAME):
        with pytest.raises(BackupDamagedError, match=gone):
            verify_backup(path)
    with pytest.raises(BackupDamagedError, match="rtstore upgrade makes again what can be made"):
        verify_backup(backup)
    assert gone in (restore_backup(backup, tmp_path / "new").schema_problem or "")
    assert same(directory, tmp_path / "new")


@pytest.mark.thorough
def test_noise_is_damage(directory: Path, tmp_path: Path) -> None:
    """Whatever bytes of a record or a database are turned over, it is an error of ours, or nothing
    that matters was hit; a restore then makes nothing."""
    back_up(directory, tmp_path / "sound")
    dice, refused = random.Random(5), 0
    for number in range(80):
        backup, new = tmp_path / f"backup-{number}", tmp_path / f"new-{number}"
        shutil.copytree(tmp_path / "sound", backup)
        path = backup / (DATABASE_NAME if number % 2 else RECORD_NAME)
        content = bytearray(path.read_bytes())
        for _ in range(dice.choice([1, 3, 20])):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
        try:
            restore_backup(backup, new)
        except BackupDamagedError:
            refused += 1
            assert not new.exists()
    assert refused > 60


def test_a_backup_of_a_newer_rtstore(directory: Path, tmp_path: Path) -> None:
    """The database of a newer rtstore is no damage: what helps is another version."""
    backup = tmp_path / "backup"
    back_up(directory, backup)
    later = "UPDATE alembic_version SET version_num = '0999_later'"
    _sql(later, "PRAGMA user_version = 999")(backup)
    with pytest.raises(BackupDamagedError, match="of a newer rtstore"):
        verify_backup(backup)  # it was changed since, so nothing that it says can be relied on
    record = json.loads((backup / RECORD_NAME).read_bytes())
    content = (backup / DATABASE_NAME).read_bytes()
    record["databaseHash"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    (backup / RECORD_NAME).write_text(json.dumps(record))
    for act in (verify_backup, lambda path: restore_backup(path, tmp_path / "new")):
        with pytest.raises(NewerDatabaseError):
            act(backup)
    assert not (tmp_path / "new").exists()
    with pytest.raises(NewerDatabaseError):
        verify_backup(backup / DATABASE_NAME)
    with pytest.raises(BackupDamagedError, match="there is no such file"):
        verify_backup(tmp_path / "nowhere")


# --- failures and crashes -------------------------------------------------------------------------


@pytest.mark.thorough
def test_every_failing_file_operation(directory: Path, tmp_path: Path) -> None:
    """When any file operation of a back-up or of a restore fails, there is none, and nothing of it
    stays; or it is there whole."""
    whole = WatchedFileSystem()
    back_up(directory, tmp_path / "backup", fs=whole)
    from rtstore.maintenance.backup import back_up as back_up_of

    def backing(target: Path, fs: WatchedFileSystem) -> None:
        with RuntimeStore.open(directory, read_only=True) as store:
            back_up_of(directory, store.database, target, clock=lambda: NOON, fs=fs)

    def restoring(target: Path, fs: WatchedFileSystem) -> None:
        restore_backup(tmp_path / "backup", target, fs=fs)

    for act in (backing, restoring):
        watched = WatchedFileSystem()
        act(tmp_path / f"whole-{act.__name__}", watched)
        assert len(watched.calls) > 15
        for number in range(len(watched.calls)):
            target = tmp_path / "places" / f"{act.__name__}-{number}"
            fs = WatchedFileSystem(at_call(number, OSError(28, "No space left on device")))
            with pytest.raises(StorageError, match="No space left"):
                act(target, fs)
            if target.exists():
                assert same(directory, target)
        assert not list((tmp_path / "places").glob(".*"))


@pytest.mark.thorough
def test_killed_anywhere() -> None:
    """Killed before any step of a back-up or a restore that changes something, there is none of
    that name, or a whole one; the directory that was backed up is as it was."""
    lines = lines_of("tests.maintenance.backup_kills", "--quick")
    assert {line["job"] for line in lines} == {"backup", "restore", "control"}
    for line in lines:
        is_control = line["job"] == "control"
        assert is_control or line["points"] > 15
        assert bool(line["failures"]) is is_control, line["first"]


def test_which_disk_is_full(directory: Path, tmp_path: Path) -> None:
    """An error while the database is copied names what is written, not what is read."""

    def full(point: Point) -> Fault | None:
        return SqlFault(sqlite3.SQLITE_FULL) if point.call == "BACKUP" else None

    with (
        RuntimeStore.open(directory, read_only=True) as store,
        watched(Probe(full)),
        pytest.raises(StorageError, match="the disk is full") as caught,
    ):
        store.back_up(tmp_path / "backup")
    assert caught.value.path == tmp_path / ".backup.rtstore-tmp" / DATABASE_NAME
    assert not list(tmp_path.glob("*backup*"))


def test_what_a_dead_one_left_is_taken_over(directory: Path, tmp_path: Path) -> None:
    """Where a process died making the same back-up, the next one makes it, without its remains."""
    left = tmp_path / ".backup.rtstore-tmp"
    (left / "folder").mkdir(parents=True)
    (left / "folder" / "half.json").write_text("{")

    with RuntimeStore.open(directory, read_only=True) as store:
        backup = store.back_up(tmp_path / "backup")

    assert not left.exists()
    assert not (backup.path / "folder").exists()
    assert verify_backup(backup.path).database_hash == backup.database_hash


def test_two_do_not_make_the_same_backup(directory: Path, tmp_path: Path) -> None:
    """While one makes it, another is refused and disturbs nothing."""
    refused: list[str] = []

    def meanwhile(step: Step, done: int, of: int) -> None:
        if not refused:
            with pytest.raises(InvalidRequestError, match="another process makes backup") as caught:
                store.back_up(tmp_path / "backup")
            refused.append(caught.value.field)

    with RuntimeStore.open(directory, read_only=True) as store:
        backup = store.back_up(tmp_path / "backup", progress=meanwhile)

    assert refused == ["destination"]
    assert verify_backup(backup.path).database_hash == backup.database_hash


def test_what_is_not_left_by_a_dead_one_is_named(directory: Path, tmp_path: Path) -> None:
    """A file of that name is not taken over; the error says how to remove it."""
    left = tmp_path / ".backup.rtstore-tmp"
    left.write_text("mine")
    with (
        RuntimeStore.open(directory, read_only=True) as store,
        pytest.raises(InvalidRequestError, match=f"in the way.*rm -r {left}"),
    ):
        store.back_up(tmp_path / "backup")
    assert left.read_text() == "mine"


def test_a_backup_interrupted_in_its_first_moment_leaves_nothing(
    directory: Path, tmp_path: Path
) -> None:
    """Not even the directory that was just made."""

    class Interrupted(FileSystem):
        def mkdir(self, path: Path) -> None:
            super().mkdir(path)
            raise KeyboardInterrupt

    with (
        RuntimeStore.open(directory, read_only=True, seams=Seams(fs=Interrupted())) as store,
        pytest.raises(KeyboardInterrupt),
    ):
        store.back_up(tmp_path / "backup")
    assert not list(tmp_path.glob("*backup*"))
