"""The data of the demo's team, checkpoint by checkpoint.

Every store satisfies its payload model, and the stores are consistent with each other, so the team
is ready after each of these batches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rtstore.model.descriptors import (
    COMPATIBILITY_SNAPSHOT,
    DELIVERY_JOURNAL,
    HOST_LEASES,
    LAUNCH_STATE,
    LAUNCH_TRANSACTION,
    PERMISSION_REQUESTS,
    PROMPT_DELIVERY_LEDGER,
    RUNTIME_DIAGNOSTICS,
    RUNTIME_REVISION,
    SESSION_STORE,
)
from rtstore.model.records import BatchReason, RunIdentity

TEAM = "demo-team"
RUN = "run-7f3a"
IDENTITY = RunIdentity(
    run_id=RUN,
    capability_snapshot_id="capabilities-1.14.31",
    behavior_fingerprint="sha256:5d41402a",
)


class Checkpoint(NamedTuple):
    """One batch of the demo, and what it is about."""

    about: str
    reason: BatchReason
    writes: dict[str, Any]


def first_checkpoints() -> tuple[Checkpoint, ...]:
    """Return the checkpoints that the runtime writes before the crash."""
    members = ("alice", "bob")
    return (
        Checkpoint(
            "alice and bob are launched",
            BatchReason.LAUNCH_CHECKPOINT,
            {**_launch(members, revision=1), **_rest_of_the_stores()},
        ),
        Checkpoint(
            "alice may run the tests",
            BatchReason.PERMISSION_RECONCILE,
            {PERMISSION_REQUESTS: {"requests": [_permission("answered")]}},
        ),
        Checkpoint(
            "alice reports to the user",
            BatchReason.DELIVERY_COMMIT,
            {
                DELIVERY_JOURNAL: {"records": [_delivery()]},
                PROMPT_DELIVERY_LEDGER: {"records": [_prompt("responded")]},
            },
        ),
    )


def fatal_checkpoint() -> Checkpoint:
    """Return the batch of four stores in which the writer is killed: carol joins the team."""
    return Checkpoint(
        "carol joins the team",
        BatchReason.LAUNCH_CHECKPOINT,
        _launch(("alice", "bob", "carol"), revision=2),
    )


def _launch(members: tuple[str, ...], *, revision: int) -> dict[str, Any]:
    """Return four stores that must change together. Half of them would name a live member without a
    known session."""
    return {
        LAUNCH_STATE: {
            "providerId": "opencode",
            "teamName": TEAM,
            "runId": RUN,
            "capabilitySnapshotId": IDENTITY.capability_snapshot_id,
            "aggregateState": "ready",
            "members": [{"name": name, "launchState": "confirmed_alive"} for name in members],
        },
        HOST_LEASES: {
            "leases": [
                {"leaseId": f"lease-{name}", "teamName": TEAM, "runId": RUN, "state": "active"}
                for name in members
            ]
        },
        SESSION_STORE: {
            "sessions": [
                {"id": f"ses-{name}", "teamName": TEAM, "memberName": name, "runId": RUN}
                for name in members
            ]
        },
        RUNTIME_REVISION: {"revision": revision, "runId": RUN},
    }


def _rest_of_the_stores() -> dict[str, Any]:
    return {
        LAUNCH_TRANSACTION: {"teamName": TEAM, "runId": RUN, "status": "ready"},
        DELIVERY_JOURNAL: {"records": []},
        PROMPT_DELIVERY_LEDGER: {"records": [_prompt("accepted")]},
        PERMISSION_REQUESTS: {"requests": [_permission("pending")]},
        COMPATIBILITY_SNAPSHOT: {
            "snapshotId": IDENTITY.capability_snapshot_id,
            "opencodeVersion": "1.14.31",
        },
        RUNTIME_DIAGNOSTICS: {"events": [{"severity": "info", "message": "launched"}]},
    }


def _permission(status: str) -> dict[str, Any]:
    return {
        "appRequestId": f"opencode:{RUN}:per-1",
        "runId": RUN,
        "teamName": TEAM,
        "memberName": "alice",
        "permission": "bash",
        "patterns": ["pytest *"],
        "status": status,
    }


def _delivery() -> dict[str, Any]:
    return {
        "idempotencyKey": f"{RUN}:msg-1",
        "runId": RUN,
        "teamName": TEAM,
        "fromMemberName": "alice",
        "destination": {"kind": "user_sent_messages"},
        "status": "committed",
    }


def _prompt(status: str) -> dict[str, Any]:
    return {"id": "prompt-1", "teamName": TEAM, "memberName": "alice", "status": status}
