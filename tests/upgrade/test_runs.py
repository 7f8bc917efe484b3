"""The runs that come out of a database from before there was a table of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import RunIdentity, RuntimeStore, StaleRunError
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.support import LEASES
from tests.upgrade.freeze import rows_of, unpack

BEFORE_RUNS = [name for name in REVISIONS if name < "0005"]
NEWEST_BEFORE = BEFORE_RUNS[-1]
UNKNOWN = [None, None, None]
"""Host, pid and start of a process that nobody recorded."""
WAS_SUPERSEDED = [
    1, "run-1", "superseded", "2026-05-01T08:00:03.000Z", "batch-1", *UNKNOWN,
    "2026-05-01T08:00:16.000Z", None, None, "run-2",
]  # fmt: skip
IS_ACTIVE = [
    2, "run-2", "active", "2026-05-01T08:00:16.000Z", "batch-7", *UNKNOWN, None, None, None, None,
]  # fmt: skip


@pytest.mark.parametrize("frozen", BEFORE_RUNS)
def test_the_runs_that_come_out(frozen: str, tmp_path: Path) -> None:
    """The run of the manifest is active, since its first batch, and no process is known of it; the
    one before it was superseded by it, and writes no more."""
    directory = unpack(frozen, tmp_path)
    with RuntimeStore.open(directory) as store:
        assert rows_of(directory / DATABASE_NAME)["runs"] == [WAS_SUPERSEDED, IS_ACTIVE]
        with pytest.raises(StaleRunError) as refused:
            _write(store, "run-1")
        assert (refused.value.by, refused.value.active_run_id) == ("run-2", "run-2")
        _write(store, "run-2")
        assert _runs(store) == ["run-2 active", "run-1 superseded by run-2"]
        _write(store, "run-3")
        assert _runs(store)[:2] == ["run-3 active", "run-2 superseded by run-3"]


def _write(store: RuntimeStore, run_id: str) -> None:
    identity = RunIdentity(run_id=run_id)
    store.write_batch(identity=identity, reason="host_lease_update", writes={LEASES: [run_id]})


def _runs(store: RuntimeStore) -> list[str]:
    """Every run in words, the latest first."""
    return [
        f"{run.run_id} {run.state}"
        + (f" by {run.superseded_by}" if run.superseded_by else "")
        + (f", {run.ending}: {run.why}" if run.ending else "")
        for run in store.runs()
    ]


NOTHING_WRITTEN = """
    DROP TRIGGER write_batches_in_use_stay; DROP TRIGGER store_contents_in_use_stay;
    PRAGMA foreign_keys = OFF;
    DELETE FROM write_batches; DELETE FROM batch_writes;
    DELETE FROM manifest_entries; DELETE FROM store_contents; DELETE FROM quarantined_files;
    DELETE FROM recovery_actions; DELETE FROM recovery_runs;
    UPDATE runtime_manifest SET high_watermark = 0, last_committed_batch_id = NULL,
      last_preparing_batch_id = NULL, last_recovery_plan_id = NULL, active_run_id = NULL,
      active_capability_snapshot_id = NULL, active_behavior_fingerprint = NULL
    """
STOPPED = "ended, stopped: its last batch is a stop_tombstone"
BY_HAND: dict[str, tuple[str, list[str]]] = {
    "the last batch stopped its run": (
        "UPDATE write_batches SET reason = 'stop_tombstone' WHERE batch_id = 'batch-8'",
        [f"run-2 {STOPPED}", "run-1 superseded by run-2"],
    ),
    "an earlier run was stopped": (
        "UPDATE write_batches SET reason = 'stop_tombstone' WHERE batch_id = 'batch-5'",
        ["run-2 active", f"run-1 {STOPPED}"],
    ),
    "a dead run wrote after its successor": (
        """
        UPDATE write_batches SET run_id = 'run-2' WHERE batch_id IN ('batch-2', 'batch-3');
        UPDATE write_batches SET run_id = 'run-1' WHERE batch_id = 'batch-8';
        UPDATE runtime_manifest SET active_run_id = 'run-1'
        """,
        ["run-1 active", "run-2 superseded by run-1"],
    ),
    "batches of a run were pruned, and an entry names it": (
        "UPDATE manifest_entries SET run_id = 'run-0' WHERE schema_name = 'own.notes'",
        ["run-2 active", "run-1 superseded by run-2", "run-0 superseded by run-1"],
    ),
    "no run is named as the active one": (
        "UPDATE runtime_manifest SET active_run_id = NULL",
        ["run-2 ended, stopped: nothing names it as the active run", "run-1 superseded by run-2"],
    ),
}
"""What is changed in a frozen database, and the runs that come out of it."""


def _changed_by_hand(parent: Path, script: str) -> Path:
    directory = unpack(NEWEST_BEFORE, parent)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        raw.executescript(script)
    return directory


@pytest.mark.parametrize("name", BY_HAND)
def test_other_lives(name: str, tmp_path: Path) -> None:
    """Whatever the batches show is one life after the other; the last is active unless it was
    stopped."""
    script, runs = BY_HAND[name]
    directory = _changed_by_hand(tmp_path, script)
    with RuntimeStore.open(directory, recover=False) as store:
        assert _runs(store) == runs


def test_nothing_was_written(tmp_path: Path) -> None:
    """Where no batch was committed there is no run, and a first one begins."""
    directory = _changed_by_hand(tmp_path, NOTHING_WRITTEN)
    with RuntimeStore.open(directory, recover=False) as store:
        assert store.runs() == []
        _write(store, "run-1")
        assert _runs(store) == ["run-1 active"]


def test_an_open_batch_of_a_new_run(tmp_path: Path) -> None:
    """A batch that an older version logged under a run that had written nothing begins that run
    when it is finished after the upgrade."""
    script = "UPDATE write_batches SET run_id = 'run-3' WHERE batch_id = 'batch-open'"
    directory = _changed_by_hand(tmp_path, script)
    with RuntimeStore.open(directory, recover=False) as store:
        assert _runs(store) == ["run-2 active", "run-1 superseded by run-2"]
    with RuntimeStore.open(directory) as store:
        assert _runs(store) == [
            "run-3 active", "run-2 superseded by run-3", "run-1 superseded by run-2",
        ]  # fmt: skip
        assert store.manifest().active_run_id == "run-3"
        with pytest.raises(StaleRunError):
            _write(store, "run-2")
        _write(store, "run-3")
