"""A back-up of a large database is made, checked and restored in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtstore.control.contents import KEEP_EVERYTHING
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.control.sqlite.settings import settings
from tests.support import CHECKOUT, LEASES, breadth, new_directory, open_store, write

BATCHES, CONTENT_BYTES = 52, 2 << 20
LIMIT_MIB = 64

MEASURED = """
import json, sys
from rtstore import RuntimeStore, restore_backup, verify_backup

def peak_mib():  # of this program alone: ru_maxrss begins with what its parent had
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

directory, backup, restored, as_before = sys.argv[1:]
if as_before == "as before":  # the control: the whole database at once, as an image
    from rtstore.control.sqlite import copying
    copying.pages = lambda path: iter([copying._image(path)])
with RuntimeStore.open(directory, read_only=True) as store:
    small = store.read("opencode.hostLeases")
    del small
    before = peak_mib()
    store.back_up(backup)
verify_backup(backup)
restore_backup(backup, restored)
with RuntimeStore.open(backup):  # open in this process, which must not open its database anew
    verify_backup(backup)
print(json.dumps(peak_mib() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by /proc")
@pytest.mark.parametrize("as_before", breadth.params(["streamed", "as before"], normal=()))
def test_memory_does_not_grow_with_the_database(tmp_path: Path, as_before: str) -> None:
    """100 MiB of history: what making, checking and restoring take is a few contents, and nowhere
    near the database. The control, which reads it as one image, is caught."""
    directory = new_directory(tmp_path)
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(BATCHES):
            if number < BATCHES - 1:
                write(store, LEASES, {"n": number, "text": os.urandom(CONTENT_BYTES // 2).hex()})
            else:
                write(store, LEASES, {"n": number})
    assert (directory / "runtime-store.sqlite3").stat().st_size > 90 << 20
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURED,
            directory,
            tmp_path / "backup",
            tmp_path / "restored",
            as_before,
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout) < LIMIT_MIB) is (as_before == "streamed"), done.stdout
    with open_store(tmp_path / "restored") as store:
        assert store.read(LEASES).data == {"n": BATCHES - 1}
    restored = Database(tmp_path / "restored" / DATABASE_NAME, read_only=True)
    assert restored.read(settings)["journal_mode"] == "wal"
    restored.close()
