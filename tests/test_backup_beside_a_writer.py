"""Back-ups that are made while another process writes: each is of exactly one batch boundary."""

from __future__ import annotations

import time
from pathlib import Path

from rtstore import RuntimeStore, restore_backup
from tests.support import agree, answer, child, hear, new_directory

WRITER = """
from rtstore import RunIdentity, RuntimeStore
identity = RunIdentity(run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="b")
store = RuntimeStore.open(sys.argv[1])
say("ready")
wait()
for number in range(1, 1001):
    data = {"n": number}
    store.write_batch(identity=identity, reason="delivery_commit", writes={
        "opencode.hostLeases": data,
        "opencode.promptDeliveryLedger": data,
        "opencode.runtimeDiagnostics": data,
    })
say("done")
wait()
store.close()
"""


def test_backups_under_a_writing_process(tmp_path: Path) -> None:
    """While another process writes 1,000 batches of three stores, back-ups are made; each is
    restored to exactly one batch boundary: the three stores, their files, the manifest and the
    receipts are of the same batch."""
    directory = new_directory(tmp_path)
    watermarks: list[int] = []
    with child(WRITER, directory) as writer:
        assert hear(writer) == "ready"
        answer(writer)
        with RuntimeStore.open(directory, recover=False) as store:
            while not watermarks or (watermarks[-1] < 1000 and len(watermarks) < 40):
                target = tmp_path / f"backup-{len(watermarks)}"
                watermarks.append(store.back_up(target).high_watermark)
                time.sleep(0.1)  # the boundaries are spread over all of the batches
        assert hear(writer) == "done"
        answer(writer)
        writer.wait(30)
    assert watermarks == sorted(watermarks)
    between = [mark for mark in set(watermarks) if 0 < mark < 1000]
    assert len(between) >= 3, watermarks
    for number, mark in enumerate(watermarks):
        restored = tmp_path / f"restored-{number}"
        restore_backup(tmp_path / f"backup-{number}", restored)
        with RuntimeStore.open(restored) as store:
            assert store.last_recovery is None
            assert agree(store)
            assert store.invariant_failures() == []
            found = store.snapshot()
            assert found.high_watermark == mark
            assert {content.data["n"] for content in found.contents.values()} <= {mark}
            assert len(store.batches()) == min(mark, 1000)
    print(f"{len(watermarks)} back-ups at the boundaries {watermarks}")
