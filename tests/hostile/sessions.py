"""The calls that are made with whatever can be opened."""

from __future__ import annotations

from typing import Any

from rtstore import RebuildStrategy
from tests.hostile.scene import Steps
from tests.support import CHECKPOINT, IDENTITY, LAUNCH, LEASES, LEDGER, SESSIONS, write

NOTES = "own.notes"
NOTES_FILE = "members/alice/notes.json"

ABOUT = [LEASES, NOTES, LEDGER, LAUNCH, f"run {IDENTITY.run_id}"]
"""The stores and the run that a message may be about."""

LOOK: Steps = {
    "assess": lambda store: store.assess(),
    "snapshot": lambda store: store.snapshot(),
    "read": lambda store: store.read(LEASES),
    "read in a folder": lambda store: store.read(NOTES),
    "read the database only": lambda store: store.read(LEASES, verify=False),
    "list the quarantine": lambda store: store.quarantined_files(),
    "list the batches": lambda store: store.batches(),
}


def _same(data: Any) -> Any:
    return data


WRITE: Steps = {
    "write": lambda store: write(store, LEASES, ["written"]),
    "write in a folder": lambda store: write(store, NOTES, ["written"]),
    "write the first time": lambda store: write(store, LEDGER, ["written"]),
    "update": lambda store: store.update(LEASES, _same, identity=IDENTITY, reason=CHECKPOINT),
    "adopt": lambda store: store.adopt(LEASES),
    "write again": lambda store: write(store, LEASES, ["once more"], batch_id="again"),
}

RECOVER: Steps = {
    "recover": lambda store: store.recover(
        store.plan_recovery(),
        rebuilders=dict.fromkeys(RebuildStrategy, lambda _: {"sessions": []}),
    ),
    "take back": lambda store: [
        store.restore_quarantined(row.quarantine_number) for row in store.quarantined_files()
    ],
    "recover again": lambda store: store.recover(store.plan_recovery()),
}

__all__ = ["ABOUT", "LOOK", "NOTES", "NOTES_FILE", "RECOVER", "SESSIONS", "WRITE"]
