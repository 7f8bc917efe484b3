"""Back-ups that are made while another process writes: each is of exactly one batch boundary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rtstore import RuntimeStore, restore_backup, validate_invariants
from tests.support import LAUNCH, SESSIONS, agree, answer, hear, new_directory
from tests.support.forked import forked

BATCHES = 1000
COMPATIBILITY, PERMISSIONS = "opencode.compatibilitySnapshot", "opencode.permissionRequests"

WRITER = f"""
from rtstore import RunIdentity, RuntimeStore
store = RuntimeStore.open(sys.argv[1])
say("ready")
wait()
for number in range(1, {BATCHES} + 1):
    run, snapshot = f"run-{{number}}", f"cap-{{number}}"
    identity = RunIdentity(run_id=run, capability_snapshot_id=snapshot, behavior_fingerprint="b")
    alice = {{"name": "alice", "launchState": "confirmed_alive"}}
    session = {{"teamName": "team-a", "memberName": "alice", "runId": run}}
    store.write_batch(identity=identity, reason="launch_checkpoint", writes={{
        "{LAUNCH}": {{
            "providerId": "opencode", "teamName": "team-a", "runId": run,
            "capabilitySnapshotId": snapshot, "members": [alice],
        }},
        "{SESSIONS}": {{"sessions": [session]}},
        "{PERMISSIONS}": {{
            "requests": [{{"appRequestId": "1", "runId": run, "status": "pending"}}]
        }},
        "{COMPATIBILITY}": {{"snapshotId": snapshot}},
    }})
say("done")
wait()
store.close()
"""


def broken_by_mixing(one: dict[str, Any], other: dict[str, Any], store: RuntimeStore) -> int:
    """How many stores of another batch, put one at a time into a restored one, break an invariant:
    the control of finding none."""
    found = 0
    for name in one:
        mixed = {**one, name: other[name]}
        found += bool(
            validate_invariants(
                launch_state=mixed[LAUNCH],
                session_store=mixed[SESSIONS],
                transaction=None,
                delivery_journal=None,
                permission_store=mixed[PERMISSIONS],
                compatibility_snapshot=mixed[COMPATIBILITY],
                manifest=store.manifest(),
            )
        )
    return found


@pytest.mark.thorough
def test_backups_under_a_writing_process(tmp_path: Path) -> None:
    """While another process writes 1,000 batches, each a run of its own in four stores that refer
    to each other, back-ups are made. Each is restored to exactly one batch boundary: stores, files,
    manifest and receipts are of the same batch, and no invariant between the stores is broken,
    which any one of them from another batch would do."""
    directory = new_directory(tmp_path)
    watermarks: list[int] = []
    with forked(WRITER, directory) as writer:
        assert hear(writer) == "ready"
        answer(writer)
        with RuntimeStore.open(directory, recover=False) as store:
            while not watermarks or (watermarks[-1] < BATCHES and len(watermarks) < 40):
                target = tmp_path / f"backup-{len(watermarks)}"
                watermarks.append(store.back_up(target).high_watermark)
                time.sleep(0.1)  # the boundaries are spread over all of the batches
        assert hear(writer) == "done"
        answer(writer)
        writer.wait(30)
    assert watermarks == sorted(watermarks)
    between = [mark for mark in set(watermarks) if 0 < mark < BATCHES]
    assert len(between) >= 3, watermarks
    before: dict[str, Any] = {}
    for number, mark in enumerate(watermarks):
        restored = tmp_path / f"restored-{number}"
        restore_backup(tmp_path / f"backup-{number}", restored)
        with RuntimeStore.open(restored) as store:
            assert store.last_recovery is None
            assert agree(store)
            assert store.invariant_failures() == []
            found = store.snapshot()
            assert found.high_watermark == mark
            assert store.manifest().active_run_id == (f"run-{mark}" if mark else None)
            assert [batch.run_id for batch in store.batches()] == [
                f"run-{earlier}" for earlier in range(1, mark + 1)
            ]
            data = {name: content.data for name, content in found.contents.items()}
            assert len(data) == (4 if mark else 0)
            if data and before and data != before:
                assert broken_by_mixing(data, before, store) == 4
            before = data
    print(f"{len(watermarks)} back-ups at the boundaries {watermarks}")
