"""Who may read what is made: state may hold secrets."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import KNOWN_DESCRIPTORS, RuntimeStore
from tests.hostile.sessions import NOTES, NOTES_FILE
from tests.support import IDENTITY, LEASES, TEAM, plain_descriptor, write

FILE, FOLDER = 0o600, 0o700
STORES = [*KNOWN_DESCRIPTORS, plain_descriptor(NOTES, NOTES_FILE)]


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What the process would take away from the mode of what it makes."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def _modes(directory: Path) -> dict[str, int]:
    found = {str(path.relative_to(directory)): _mode(path) for path in directory.rglob("*")}
    return {".": _mode(directory), **found}


def test_what_is_made_is_its_owners(tmp_path: Path, umask: int) -> None:
    """Every file is made 0600 and every directory 0700, whatever the umask: store files,
    quarantine, the database and what SQLite keeps beside it, the lock, the folders on the way."""
    directory = tmp_path / "teams" / "team-a"
    seen: dict[str, int] = {}
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=STORES) as store:
        for number in range(2):
            write(store, NOTES, number)
            write(store, LEASES, number)
            (directory / NOTES_FILE).write_text(f"edit {number}")
        store.recover(store.plan_recovery())
        store.restore_quarantined(store.quarantined_files()[0].quarantine_number)
        seen.update(_modes(directory))
    seen.update(_modes(directory))
    seen["teams"] = _mode(tmp_path / "teams")
    database = {f"runtime-store.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")}
    assert database | {"runtime-store.lock", NOTES_FILE, "quarantine"} <= seen.keys()
    assert "members/alice" in seen
    folders = {".", "teams", "members", "members/alice", "quarantine"}
    assert {mode for name, mode in seen.items() if name in folders} == {FOLDER}
    assert {mode for name, mode in seen.items() if name not in folders} == {FILE}


def test_looser_modes_are_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody opened to others on purpose stays so, through writes, recoveries and
    restores; opening the store says so once for each."""
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=STORES) as store:
        write(store, NOTES, 1)
        write(store, LEASES, 1)
    loose = {".": 0o755, "runtime-store.sqlite3": 0o640, NOTES_FILE: 0o644, "members": 0o750}
    for name, mode in loose.items():
        (directory / name).chmod(mode)
    caplog.set_level(logging.INFO, logger="rtstore")
    with RuntimeStore.open(directory) as store:
        write(store, NOTES, 2)
        (directory / NOTES_FILE).write_text("an edit by hand")
        store.recover(store.plan_recovery())
        write(store, NOTES, 3)
    modes = _modes(directory)
    assert {name: modes[name] for name in loose} == loose
    assert modes["opencode-host-leases.json"] == FILE
    assert {mode for name, mode in modes.items() if name.startswith("quarantine/")} == {FILE}
    told = [
        record.message for record in caplog.records if "is open to other users" in record.message
    ]
    assert told == [
        f"{directory} is open to other users (mode 755)",
        f"{directory / 'runtime-store.sqlite3'} is open to other users (mode 640)",
    ]


def test_a_lost_file_is_its_owners_again(tmp_path: Path) -> None:
    """A file that was lost is put back for its owner alone: nobody knows what its mode was."""
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name=TEAM) as store:
        write(store, LEASES, 1)
        path = directory / "opencode-host-leases.json"
        path.chmod(0o644)
        path.unlink()
        store.recover(store.plan_recovery(expected=IDENTITY))
        assert _mode(path) == FILE
