"""An upgrade that fails leaves the database as it was, and costs nothing that was kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from rtstore import (
    CorruptDatabaseError,
    RuntimeStore,
    StorageError,
    UpgradeFailedError,
    upgrade_directory,
)
from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.upgrade import BACKUPS_KEPT, backups_in
from tests.crash.probe import Fault, Point, Probe, SqlFault, watched
from tests.support import NOON, Crash, WatchedFileSystem, at_call, picture
from tests.upgrade.freeze import unpack
from tests.upgrade.states import (
    looked_at,
    problems_in_use,
    problems_of_backups,
    problems_of_database,
)

OLDEST, LATEST = REVISIONS[0], REVISIONS[-1]


def _fail(_: object) -> None:
    raise ValueError("a revision with a mistake")


def test_a_revision_that_fails(oldest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a revision fails the database is as it was, and the error says so; with the mistake gone
    the upgrade works."""
    with monkeypatch.context() as patch:
        patch.setattr(revisions, "run_revisions", _fail)
        with pytest.raises(UpgradeFailedError, match="a revision with a mistake") as caught:
            RuntimeStore.open(oldest)
    assert f"is at {OLDEST} as before" in str(caught.value)
    assert backups_in(oldest, WatchedFileSystem()) == []  # nothing that fills the disk
    look = looked_at(oldest)
    assert problems_of_database(look / DATABASE_NAME, OLDEST, (OLDEST,)) == []
    assert problems_in_use(oldest) == []


def test_a_damaged_database_is_not_upgraded(oldest: Path) -> None:
    """Damage that the first look cannot see is found by the back-up's verification: the error names
    the database, which stays as it is."""
    path = oldest / DATABASE_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'ix_manifest_entries_batch_number'"
        (page,) = connection.execute(query).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 + 100 : page * 4096] = bytes(3996)
    path.write_bytes(content)
    before = picture(oldest)
    with pytest.raises(CorruptDatabaseError, match=f"{DATABASE_NAME} is damaged") as caught:
        upgrade_directory(oldest)
    assert caught.value.path == path
    assert picture(oldest, without=("runtime-store.lock",)) == before


def test_a_full_disk_is_worth_another_try(oldest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass by itself is told as such, and the database is as it was."""

    def full(_: object) -> None:
        raise StorageError(oldest / DATABASE_NAME, "the disk is full", "no space")

    with monkeypatch.context() as patch:
        patch.setattr(revisions, "run_revisions", full)
        with pytest.raises(StorageError, match="the disk is full"):
            RuntimeStore.open(oldest)
    assert problems_in_use(oldest) == []


def test_a_commit_that_may_have_happened(oldest: Path) -> None:
    """When the flush of the upgrade's commit fails, nobody knows what is on the disk: the error
    says so, and the back-up stays; the next opening goes on from either."""

    def fail(point: Point) -> Fault | None:
        return SqlFault(sqlite3.SQLITE_IOERR_FSYNC, "after") if point.call == "COMMIT" else None

    with (
        watched(Probe(fail)) as fs,
        pytest.raises(UpgradeFailedError, match="Nobody knows which of the two") as caught,
    ):
        upgrade_directory(oldest, fs=fs)
    assert caught.value.unsure
    look = looked_at(oldest)
    assert len(backups_in(look, WatchedFileSystem())) == 1
    assert problems_of_backups(look, OLDEST) == []
    assert problems_of_database(look / DATABASE_NAME, OLDEST, (OLDEST, LATEST)) == []
    assert problems_in_use(oldest) == []


@pytest.mark.thorough
def test_every_failing_file_operation(tmp_path: Path) -> None:
    """When any file operation of the upgrade fails, the store is at the old revision or the new
    one, whole, no half of a back-up stays, and the next opening goes on."""
    watched = WatchedFileSystem()
    upgrade_directory(unpack(OLDEST, tmp_path / "whole"), fs=watched)
    assert set(watched.names()) == {"create", "close", "rename", "fsync_directory", "unlink"}
    for number, (name, _) in enumerate(watched.calls):
        directory = unpack(OLDEST, tmp_path / str(number))
        fs = WatchedFileSystem(at_call(number, OSError(28, "No space left on device")))
        try:
            upgrade_directory(directory, fs=fs)
        except StorageError as error:
            assert "No space left" in str(error), name
        look = looked_at(directory)
        assert problems_of_database(look / DATABASE_NAME, OLDEST, (OLDEST, LATEST)) == []
        assert problems_of_backups(look, OLDEST) == []
        assert [path.name for path in look.glob(".runtime-store.backup*")] == []
        assert problems_in_use(directory) == []


def test_an_upgrade_that_fails_costs_no_backup(
    oldest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-ups go when an upgrade has worked; one that fails leaves those that are there."""
    kept = [f"runtime-store.backup-0000_old-2026042{day}T120000.000Z.sqlite3" for day in range(3)]
    for name in kept:
        (oldest / name).write_bytes(b"a database")
    with monkeypatch.context() as patch:
        patch.setattr(revisions, "run_revisions", _fail)
        with pytest.raises(UpgradeFailedError):
            upgrade_directory(oldest)
    assert [path.name for path in backups_in(oldest, WatchedFileSystem())] == kept
    report = upgrade_directory(oldest)
    left = [path.name for path in backups_in(oldest, WatchedFileSystem())]
    assert report.backup is not None
    assert left == [*kept[1:], report.backup.name]


def test_what_dead_ones_left_does_not_fill_the_disk(
    oldest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many processes die in the middle of an upgrade, their back-ups are no more than one
    beyond the newest few."""
    fs = WatchedFileSystem()
    days = iter(range(99))
    with monkeypatch.context() as patch:
        patch.setattr("rtstore.maintenance.upgrade.run", _crash)
        for _ in range(BACKUPS_KEPT + 3):
            with pytest.raises(Crash):
                upgrade_directory(oldest, clock=lambda: NOON + timedelta(days=next(days)))
            assert len(backups_in(oldest, fs)) <= BACKUPS_KEPT + 1
    assert upgrade_directory(oldest).changed
    assert len(backups_in(oldest, WatchedFileSystem())) == BACKUPS_KEPT


def _crash(*_: object, **__: object) -> None:
    raise Crash
