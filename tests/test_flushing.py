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

from .support import (
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
def directory(tmp_path: Path) -> Path:
    """A runtime directory of five plain stores."""
    directory = new_directory(tmp_path)
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
        assert not {"fsync", "fsync_directory", "unlink", "mkdir"} & set(names)
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


def system_calls(directory: Path, durability: str, stores: tuple[str, ...]) -> list[str]:
    """The flushing and renaming system calls of some batches in the steady state."""
    strace = shutil.which("strace")
    if (
        strace is None
        or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode
    ):
        pytest.skip("no strace, or it may not trace: the calls are counted at the seam alone")
    marker, log = directory.parent / "marker", directory.parent / "strace"
    marker.touch()
    trace = [strace, "-f", "-o", str(log), "-e", "trace=/^(f?(data)?sync.*|msync|rename.*)$"]
    script = [sys.executable, "-c", WRITE, str(directory), durability, str(marker), *stores]
    subprocess.run(trace + script, cwd=CHECKOUT, check=True)
    lines = log.read_text().splitlines()
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
