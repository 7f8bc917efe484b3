"""A back-up of a large database is made, checked and restored in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore.database.contents import KEEP_EVERYTHING
from tests.support import CHECKOUT, LEASES, new_directory, open_store, write

BATCHES, CONTENT_BYTES = 52, 2 << 20
LIMIT_MIB = 64

MEASURED = """
import json, resource, sys
from rtstore import RuntimeStore, restore_backup, verify_backup

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux

directory, backup, restored = sys.argv[1:]
with RuntimeStore.open(directory, read_only=True) as store:
    small = store.read("opencode.hostLeases")
    del small
    before = peak_mib()
    store.back_up(backup)
verify_backup(backup)
restore_backup(backup, restored)
print(json.dumps(peak_mib() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is another one")
def test_memory_does_not_grow_with_the_database(tmp_path: Path) -> None:
    """100 MiB of history: what making, checking and restoring take is a few contents, and nowhere
    near the database, of which one image used to be held twice."""
    directory = new_directory(tmp_path)
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(BATCHES):
            if number < BATCHES - 1:
                write(store, LEASES, {"n": number, "text": os.urandom(CONTENT_BYTES // 2).hex()})
            else:
                write(store, LEASES, {"n": number})
    assert (directory / "runtime-store.sqlite3").stat().st_size > 90 << 20
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, directory, tmp_path / "backup", tmp_path / "restored"],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < LIMIT_MIB
    with open_store(tmp_path / "restored") as store:
        assert store.read(LEASES).data == {"n": BATCHES - 1}
