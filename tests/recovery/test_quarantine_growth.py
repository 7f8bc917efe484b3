"""Quarantine holds what nobody else has, and only a person empties it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rtstore import InvalidRequestError, Retention, RuntimeStore, StorageError
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.system import FileSystem
from tests.support import (
    FILE_OF,
    LEASES,
    LEDGER,
    NOON,
    TEAM,
    file_of,
    new_directory,
    open_store,
    write,
)

TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "its first byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but its last newline": lambda content: content[:-1],
    "half, then zeros": lambda content: content[:30].ljust(len(content), b"\0"),
    "zeros": lambda content: bytes(len(content)),
}
OTHER: dict[str, Callable[[bytes], bytes]] = {
    "one byte more": lambda content: content + b" ",
    "another byte": lambda content: content[:20] + b"#",
    "zeros, then the rest": lambda content: bytes(20) + content[20:],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which a store was written twice."""
    directory = new_directory(tmp_path)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        write(store, LEASES, {"number": 1})
        write(store, LEASES, {"number": 2})
    return directory


@pytest.mark.parametrize("how", TORN)
def test_a_torn_version_of_ours_is_not_kept(directory: Path, how: str) -> None:
    """Every byte of it is in the database: opening puts the file back, and quarantine stays empty;
    a batch goes over it."""
    path = directory / FILE_OF[LEASES]
    torn = TORN[how](path.read_bytes())
    path.write_bytes(torn)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        assert store.read(LEASES).data == {"number": 2}
        path.write_bytes(torn)
        write(store, LEASES, {"number": 3})
        assert store.quarantined_files() == []
    assert not (directory / "quarantine").exists()


@pytest.mark.parametrize("how", OTHER)
def test_whatever_else_is_kept(directory: Path, how: str) -> None:
    """One byte that is not ours, and it is quarantined."""
    path = directory / FILE_OF[LEASES]
    other = OTHER[how](path.read_bytes())
    path.write_bytes(other)
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        store.recover(store.plan_recovery())
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == other


def test_a_thousand_crashes_leave_little(directory: Path) -> None:
    """Torn and recovered again and again: nothing in quarantine, and as many records as batches are
    kept."""
    path = directory / FILE_OF[LEASES]
    for number in range(12):
        path.write_bytes(path.read_bytes()[: 10 + number])
        RuntimeStore.open(directory, retention=Retention(batches=5)).close()
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        runs = connection.execute("SELECT run_number FROM recovery_runs").fetchall()
        actions = connection.execute("SELECT DISTINCT run_number FROM recovery_actions").fetchall()
    assert runs == actions == [(8,), (9,), (10,), (11,), (12,)]
    assert not (directory / "quarantine").exists()


def test_a_run_that_was_interrupted_stays(directory: Path) -> None:
    """Its record says that something did not come to its end, until a later run ends it."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection, connection:
        connection.execute(
            "INSERT INTO recovery_runs (run_number, plan_id, started_by, high_watermark,"
            " readiness_impact, started_at) VALUES (1, 'plan', 'open', 0, 'none', ?)",
            ("2026-01-01T00:00:00.000Z",),
        )
        connection.executemany(
            "INSERT INTO recovery_runs (run_number, plan_id, started_by, high_watermark,"
            " readiness_impact, started_at, completed_at) VALUES (?, 'plan', 'open', 0, 'none',"
            " '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z')",
            [(number,) for number in range(2, 10)],
        )
    (directory / FILE_OF[LEASES]).write_bytes(b"#")
    with RuntimeStore.open(directory, retention=Retention(batches=3)) as store:
        rows = store.database.read(
            lambda connection: connection.exec_driver_sql(
                "SELECT run_number FROM recovery_runs WHERE completed_at IS NOT NULL"
            ).fetchall()
        )
    assert rows[-1] == (10,)
    assert len(rows) <= 4


# --- dropped on request ---------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A directory with quarantined files: an old file, an old folder with a link in it, and a new
    file."""
    directory, now = new_directory(tmp_path), [NOON - timedelta(days=40)]

    def clock() -> datetime:
        return now[0]

    with open_store(directory, clock=clock) as store:
        write(store, LEASES, {"number": 1})
        write(store, LEDGER, {"number": 1})
        file_of(store, LEASES).write_bytes(b"old")
        folder = file_of(store, LEDGER)
        folder.unlink()
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "link").symlink_to(tmp_path / "outside")
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "theirs").write_bytes(b"theirs")
        store.recover(store.plan_recovery())
        now[0] = NOON
        file_of(store, LEASES).write_bytes(b"new")
        store.recover(store.plan_recovery())
        assert len(store.quarantined_files()) == 3
    return directory


def kept_in(directory: Path) -> set[str]:
    """The paths in quarantine."""
    return {f"quarantine/{path.name}" for path in (directory / "quarantine").iterdir()}


def test_old_evidence_is_dropped_on_request(full: Path, tmp_path: Path) -> None:
    """What is older goes, its row too, through no link; what is younger stays; a dry run says so
    before and changes nothing."""
    with open_store(full) as store:
        before = store.quarantined_files()
        would = store.prune_quarantine(older_than=timedelta(days=30), dry_run=True)
        assert store.quarantined_files() == before
        dropped = store.prune_quarantine(older_than=timedelta(days=30))
        assert dropped == would == tuple(before[:2])
        assert store.quarantined_files() == before[2:]
        assert kept_in(full) == {before[2].quarantine_path}
        assert store.prune_quarantine(older_than=timedelta(days=30)) == ()
        assert store.prune_quarantine(older_than=timedelta(0)) == tuple(before[2:])
        assert kept_in(full) == set()
    assert (tmp_path / "outside" / "theirs").read_bytes() == b"theirs"


@pytest.mark.parametrize("value", [timedelta(seconds=-1), 30, None, "30d"])
def test_an_age_is_a_length_of_time(full: Path, value: object) -> None:
    """Nothing is dropped for a call that is wrong."""
    with open_store(full) as store:
        with pytest.raises(InvalidRequestError, match="older_than"):
            store.prune_quarantine(older_than=value)  # type: ignore[arg-type]
        assert len(store.quarantined_files()) == 3


def test_interrupted_it_is_made_again(full: Path) -> None:
    """A file that cannot be removed keeps its row, and what comes after it stays; a file that is
    gone already loses only its row."""

    class Refusing(FileSystem):
        refused = True

        def unlink(self, path: Path) -> None:
            if self.refused and path.name == "link":
                raise PermissionError(13, "Permission denied", str(path))
            super().unlink(path)

    fs = Refusing()
    with open_store(full, fs=fs) as store:
        with pytest.raises(StorageError, match="the quarantined file cannot be removed"):
            store.prune_quarantine(older_than=timedelta(0))
        left = store.quarantined_files()
        assert any(os.path.lexists(full / item.quarantine_path) for item in left)
        fs.refused = False
        store.prune_quarantine(older_than=timedelta(0))
        assert store.quarantined_files() == []
        assert kept_in(full) == set()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.restore_quarantined(1),
        lambda store: store.prune_quarantine(older_than=timedelta(0)),
    ],
    ids=["restore_quarantined", "prune_quarantine"],
)
def test_a_folder_that_cannot_be_looked_at_is_told(
    full: Path, call: Callable[[RuntimeStore], object]
) -> None:
    """It is an error of the store, and nothing is put back or dropped."""

    class Unreadable(FileSystem):
        def lstat(self, path: Path) -> os.stat_result:
            if path.name == "quarantine":
                raise OSError(5, "Input/output error")
            return super().lstat(path)

    before = kept_in(full)
    with open_store(full, fs=Unreadable(), recover=False) as store:
        rows = store.quarantined_files()
        with pytest.raises(StorageError, match="quarantine folder cannot be looked at") as caught:
            call(store)
        assert caught.value.path == full / "quarantine"
        assert store.quarantined_files() == rows
    assert kept_in(full) == before


def test_a_changed_row_removes_nothing_elsewhere(full: Path) -> None:
    """A path in a row that leads out of quarantine is not followed."""
    victim = full.parent / "victim"
    victim.write_bytes(b"theirs")
    with closing(sqlite3.connect(full / DATABASE_NAME)) as connection, connection:
        connection.execute(
            "UPDATE quarantined_files SET quarantine_path = 'quarantine/../../victim'"
            " WHERE quarantine_number = 1"
        )
    with open_store(full) as store, pytest.raises(Exception, match="was changed"):
        store.prune_quarantine(older_than=timedelta(0))
    assert victim.read_bytes() == b"theirs"
