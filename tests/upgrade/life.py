"""The life of a runtime directory, lived with whatever code is there, and then frozen.

In it: batches of known and of own stores, one that failed, one that deletes, runs in each state,
history, quarantine, a recovery, and at the end a writer that is killed between two renames. What is
left has an open batch in a WAL that nobody has merged. `python -m tests.upgrade.life DIR` lives it
up to that death.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rtstore import DELETED, BatchFailedError, FileSystem, Retention, RunIdentity, RuntimeStore
from rtstore.control import run_processes
from rtstore.model.descriptors import KNOWN_DESCRIPTORS, Descriptor
from rtstore.model.records import Criticality
from rtstore.model.runs import RunProcess
from rtstore.testing import Seams
from tests.support import DIAGNOSTICS, LAUNCH, LEASES, LEDGER, SESSIONS, Ids

TEAM = "team-frozen"
ZEROTH = RunIdentity(run_id="run-0")
FIRST = RunIdentity(run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="blue")
SECOND = RunIdentity(run_id="run-2", capability_snapshot_id="cap-2", behavior_fingerprint="green")
NOTES = "own.notes"
OWN = Descriptor(
    schema_name=NOTES,
    relative_path="own/notes.json",
    criticality=Criticality.READINESS_BLOCKING,
    owner="scribe",
    rebuild_strategy="ask_the_scribe",
)
"""A store with words of its own, which no revision before 0006 takes."""
DESCRIPTORS = (*KNOWN_DESCRIPTORS, OWN)
START = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
OPEN_BATCH = "batch-open"
KEPT = Retention(batches=900, contents_per_store=40, max_age=timedelta(days=40_000))
"""More than is ever there: an age before the first of all times counts for nothing."""


class _Clock:
    """A second later each time."""

    def __init__(self, start: datetime) -> None:
        self._seconds = itertools.count()
        self._start = start

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=next(self._seconds))


class _Refusing(FileSystem):
    """Refuses to give one file its name, or dies instead."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.deadly = False

    def rename(self, source: Path, target: Path) -> None:
        """Rename, or not."""
        if target.name == self.name:
            if self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")
        super().rename(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        """Not here: it renames."""
        return False

    def exchange(self, first: Path, second: Path) -> bool:
        """Not here: it renames."""
        return False


def _frozen_process(directory: Path) -> RunProcess:
    """Stands for the process of every run: that of another host, whatever the directory is."""
    assert directory.is_dir()
    return RunProcess(host="frozen-host", pid=4711, start=None)


def launch(run_id: str, number: int) -> dict[str, Any]:
    """A launch state that says which version it is."""
    return {"providerId": "opencode", "teamName": TEAM, "runId": run_id, "number": number}


def live(directory: Path) -> None:
    """Live the whole life; does not return."""
    run_processes.this_process = _frozen_process
    fs = _Refusing()
    store = RuntimeStore.open(
        directory,
        team_name=TEAM,
        descriptors=DESCRIPTORS,
        seams=Seams(
            clock=_Clock(START),
            batch_id_factory=Ids("batch"),
            receipt_id_factory=Ids("receipt"),
            plan_id_factory=Ids("plan"),
            fs=fs,
        ),
        retention=KEPT,
    )

    def write(identity: RunIdentity, reason: str, **options: Any) -> None:
        store.write_batch(identity=identity, reason=reason, **options)

    for number in range(3):
        write(
            FIRST if number else ZEROTH,
            "launch_checkpoint",
            writes={LAUNCH: launch("run-1", number), SESSIONS: {"sessions": []}},
        )
    write(FIRST, "host_lease_update", writes={LEASES: {"text": "é \u2028 \U0001f600", "n": 1}})
    write(FIRST, "notes_were_taken", writes={NOTES: ["one", 2, None], LEDGER: {"n": 1}})
    fs.name = "opencode-diagnostics.json"
    with suppress(BatchFailedError):
        write(FIRST, "launch_checkpoint", writes={LEASES: {"n": 99}, DIAGNOSTICS: {"n": 99}})
    fs.name = None
    store.end_run("run-1", why="the day is over")
    # Somebody else's hand: quarantined files of a write over it, and of a recovery.
    (directory / "opencode-host-leases.json").write_text('{"schemaVersion": 1, "data": "mine"}')
    write(SECOND, "host_lease_update", writes={LEASES: {"n": 2}})
    (directory / "own" / "notes.json").write_text("{]")
    (directory / "opencode-prompt-delivery-ledger.json").unlink()
    store.recover(store.plan_recovery())
    last = {LAUNCH: launch("run-2", 3), DIAGNOSTICS: {"n": 1}, LEDGER: DELETED}
    write(SECOND, "launch_checkpoint", writes=last)
    store.close()
    with RuntimeStore.open(
        directory, seams=Seams(clock=_Clock(START + timedelta(hours=1)), fs=fs)
    ) as again:
        fs.name, fs.deadly = "opencode-diagnostics.json", True
        again.write_batch(
            identity=SECOND,
            reason="launch_checkpoint",
            writes={LAUNCH: launch("run-2", 4), DIAGNOSTICS: {"n": 2}},
            batch_id=OPEN_BATCH,
        )


if __name__ == "__main__":
    live(Path(sys.argv[1]))
