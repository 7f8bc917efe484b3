"""What a batch costs: one flush of the log, a rename for each store, and no more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtstore import Durability, RuntimeStore
from tests.support import (
    CHECKOUT,
    CHECKPOINT,
    IDENTITY,
    WatchedFileSystem,
    agree,
    new_directory,
    open_store,
    plain_descriptor,
)

BATCHES = 5

WRITE = """
import os, sys
from rtstore import RunIdentity, RuntimeStore
with RuntimeStore.open(sys.argv[1], durability=sys.argv[2]) as store:
    def write(number):
        store.write_batch(
            identity=RunIdentity(run_id="run-1"),
            reason="launch_checkpoint",
            writes={name: number for name in sys.argv[4:]},
        )
    write(0)  # makes the files, and the log grow to its size
    write(1)
    os.rename(sys.argv[3], sys.argv[3] + ".begin")
    for number in range(5):
        write(number + 2)
    os.rename(sys.argv[3] + ".begin", sys.argv[3] + ".end")
"""

STORES = tuple(f"test.store{number}" for number in range(5))


@pytest.fixture
def directory(disk: Path) -> Path:
    """A runtime directory of five plain stores, on a disk."""
    directory = new_directory(disk)
    descriptors = [plain_descriptor(name, f"{name}.json") for name in STORES]
    open_store(directory, descriptors=descriptors).close()
    return directory


def write_five(store: RuntimeStore, data: Any) -> None:
    """Write the five stores as one batch."""
    writes = dict.fromkeys(STORES, data)
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)


def test_a_batch_renames_each_store_and_flushes_no_file(directory: Path) -> None:
    """The log can repeat what a loss of power takes from the files, so they need no flush."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        write_five(store, 1)
        fs.calls.clear()
        write_five(store, 2)

        names = fs.names()
        assert [subject for name, subject in fs.calls if name == "rename"] == [
            directory / f"{name}.json" for name in STORES
        ]
        assert names.count("create") == names.count("close") == len(STORES)
        assert [subject for name, subject in fs.calls if name == "unlink"] == [
            directory / f".{name}.json.rtstore-tmp"
            for name in STORES  # the old versions
        ]
        assert not {"fsync", "fsync_directory", "mkdir"} & set(names)
        assert agree(store)


def test_with_files_durable_every_file_and_its_directory_is_flushed(directory: Path) -> None:
    """For readers that look before the store was opened again: file before its rename, name
    after."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs, durability=Durability.FILES) as store:
        write_five(store, 1)
        fs.calls.clear()
        write_five(store, 2)

    steps = [name for name in fs.names() if name in ("fsync", "rename", "fsync_directory")]
    assert steps == ["fsync", "rename", "fsync_directory"] * len(STORES)


def test_a_new_directory_is_flushed_once(tmp_path: Path) -> None:
    """Its name has to last, or all files in it are lost with it."""
    directory, fs = new_directory(tmp_path), WatchedFileSystem()
    nested = plain_descriptor("test.nested", "a/b/nested.json")
    with open_store(directory, fs=fs, descriptors=[nested]) as store:
        for data in range(3):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={"test.nested": data})

    flushed = [subject for name, subject in fs.calls if name == "fsync_directory"]
    assert flushed == [directory, directory / "a"]


def traced(folder: Path, script: str, *arguments: str) -> list[str]:
    """The flushing and renaming system calls of a script, with the paths of what they are for."""
    strace = shutil.which("strace")
    if (
        strace is None
        or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode
    ):
        pytest.skip("no strace, or it may not trace: the calls are counted at the seam alone")
    log = folder / "strace"
    trace = [strace, "-f", "-y", "-o", str(log), "-e", "trace=/^(f?(data)?sync.*|msync|rename.*)$"]
    subprocess.run([*trace, sys.executable, "-c", script, *arguments], cwd=CHECKOUT, check=True)
    return log.read_text().splitlines()


def system_calls(directory: Path, durability: str, stores: tuple[str, ...]) -> list[str]:
    """The flushing and renaming system calls of some batches in the steady state."""
    marker = directory.parent / "marker"
    marker.touch()
    lines = traced(directory.parent, WRITE, str(directory), durability, str(marker), *stores)
    [begin] = [number for number, line in enumerate(lines) if '/marker", ' in line]
    [end] = [number for number, line in enumerate(lines) if '.begin", ' in line]
    calls = [re.match(r"\d+ +(\w+)\(", line) for line in lines[begin + 1 : end]]
    return [call[1] for call in calls if call is not None]


def test_the_system_calls_of_a_batch_of_five(directory: Path) -> None:
    """Seen from outside: one flush of the log and five renames a batch, and no more."""
    calls = system_calls(directory, "log", STORES)

    assert len([call for call in calls if "sync" in call]) == BATCHES
    assert len([call for call in calls if call.startswith("rename")]) == BATCHES * len(STORES)


def test_the_system_calls_of_a_batch_with_durable_files(directory: Path) -> None:
    """The log, then a file and its directory for each store."""
    calls = system_calls(directory, "files", STORES)

    assert len([call for call in calls if "sync" in call]) == BATCHES * (1 + 2 * len(STORES))
    assert len([call for call in calls if call.startswith("rename")]) == BATCHES * len(STORES)


FIRST = """
import sys
from rtstore import RunIdentity, RuntimeStore
with RuntimeStore.open(sys.argv[1], team_name="team-a") as store:
    store.write_batch(
        identity=RunIdentity(run_id="run-1"),
        reason="launch_checkpoint",
        writes={"opencode.hostLeases": 1},
    )
"""


def test_a_new_database_and_its_log_are_on_the_disk_before_they_are_relied_on(
    tmp_path: Path,
) -> None:
    """Seen from outside, as the model of the disk in the crash suite takes it to be: the bytes of a
    new database are flushed before it gets its name, and the name after; the WAL and its name are
    flushed before the first file is renamed."""
    directory = tmp_path / "runtime"
    lines = traced(tmp_path, FIRST, str(directory))

    def at(pattern: str) -> list[int]:
        return [number for number, line in enumerate(lines) if re.search(pattern, line)]

    synced, here = r"sync\(\d+<", re.escape(str(directory))
    [named] = at(r"rename.*/runtime-store\.sqlite3\"")
    [published] = at(r"rename.*/opencode-host-leases\.json\"")
    database, log = at(rf"{synced}{here}/\.runtime-store\.sqlite3\.new>"), at(rf"{synced}.*-wal>")
    names = at(rf"{synced}{here}>")
    assert database
    assert database[-1] < named < min(number for number in names if number > named) < log[0]
    assert any(log[0] < number < published for number in names)
    assert sum(number < published for number in log) >= 1
