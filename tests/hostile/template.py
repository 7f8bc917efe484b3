"""Runtime directories to spoil: one at rest, one as a writer left it that died before its files."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest

from rtstore import KNOWN_DESCRIPTORS, RuntimeStore
from tests.hostile.sessions import NOTES, NOTES_FILE
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LAUNCH,
    LEASES,
    TEAM,
    Crash,
    launch_state,
    plain_descriptor,
    write,
)

DATABASE = "runtime-store.sqlite3"


@functools.cache
def template(*, crashed: bool) -> Path:
    """A runtime directory with some batches, a quarantined file and a recovery in its history."""
    folder = Path(tempfile.mkdtemp(prefix="rtstore-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    directory = folder / "runtime"
    descriptors = [*KNOWN_DESCRIPTORS, plain_descriptor(NOTES, NOTES_FILE)]
    with RuntimeStore.open(directory, team_name=TEAM, descriptors=descriptors) as store:
        writes = {NOTES: [1], LEASES: [1], LAUNCH: launch_state()}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        (directory / NOTES_FILE).write_text('{"schemaVersion": 1, "data": "an edit by hand"}\n')
        store.recover(store.plan_recovery())
        write(store, LEASES, [2])
        if not crashed:
            return directory
        publisher = store._writer.publisher
        with patch.object(publisher, "publish", side_effect=Crash), pytest.raises(Crash):
            write(store, LEASES, [3])
        # Taken while the store is open: what is in the WAL stays there.
        return Path(shutil.copytree(directory, folder / "crashed"))
