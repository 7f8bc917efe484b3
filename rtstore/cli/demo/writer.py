"""The process that the demo kills, the batches that it and the demo write, and the kill.

    python -m rtstore.cli.demo.writer DIR POINT BATCH_ID

The process is an ordinary writer: it writes one batch, and stops at the given point. There
it prints a line on standard output, and waits to be killed. If its parent is gone (standard input
is closed), it ends by itself at that point.

Every store satisfies its payload model, and the stores are consistent with each other, so the team
is ready after each of these batches.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rtstore.errors import InvalidRequestError, RetryableError
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
from rtstore.model.records import BatchReason, ReasonName, Record, RunIdentity
from rtstore.store import RuntimeStore
from rtstore.testing.dying import Watch, dying_at
from rtstore.testing.points import CrashPoint, crash_points

TEAM = "demo-team"
RUN = "run-7f3a"
IDENTITY = RunIdentity(
    run_id=RUN,
    capability_snapshot_id="capabilities-1.14.31",
    behavior_fingerprint="sha256:5d41402a",
)
STORES = 4
"""How many stores the batch has in which the writer is killed."""
KILL_POINTS = crash_points(STORES)
"""The points of the commit protocol, in the order in which a writer comes by."""
HANDSHAKE_TIMEOUT_S = 60.0


class Checkpoint(NamedTuple):
    """One batch of the demo, and what it is about."""

    about: str
    reason: ReasonName
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


def find_point(text: str) -> CrashPoint:
    """Return a point by its name or its number, counted from 1. Raises `InvalidRequestError`."""
    for number, point in enumerate(KILL_POINTS, start=1):
        if text in (point.name, str(number)):
            return point
    names = ", ".join(point.name for point in KILL_POINTS)
    raise InvalidRequestError("--point", f"{text!r} is not 1 to {len(KILL_POINTS)}, nor: {names}")


class DemoFailedError(RetryableError):
    """The writer of the demo did not die as it should; the directory is left for a look."""


class Kill(Record):
    """The proof: the process came to the point, and ended by the signal."""

    point: str
    process_id: int
    signal: int


def kill_writer(directory: Path, point: CrashPoint, batch_id: str) -> Kill:
    """Start a writer, wait until it reports that it is at the point, kill it, and check its end.

    Raises `DemoFailedError` when it never reached the point, or did not end by SIGKILL.
    """
    with subprocess.Popen(  # noqa: S603 - this very Python, with arguments of our own
        [
            *(sys.executable, "-P", "-m", "rtstore.cli.demo.writer"),
            *(str(directory), point.name, batch_id),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        try:
            said = _handshake(process)
        finally:
            process.send_signal(signal.SIGKILL)
        _, complaints = process.communicate()
    if said != point.name or process.returncode != -signal.SIGKILL:
        raise DemoFailedError(
            f"the writer of the demo should have said {point.name!r} and been killed by signal "
            f"{signal.SIGKILL.value}; it said {said!r} and ended with {process.returncode}. "
            f"{complaints.decode(errors='replace').strip()[-500:]} Look at: {directory}"
        )
    return Kill(point=said, process_id=process.pid, signal=-process.returncode)


def _handshake(process: subprocess.Popen[bytes]) -> str:
    """Return the line that the writer prints at its point; empty when it ends or hangs instead."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    ready, _, _ = select.select([process.stdout], [], [], HANDSHAKE_TIMEOUT_S)
    return process.stdout.readline().decode().strip() if ready else ""


def wait_for_death(watch: Watch) -> None:
    """Print the point, wait to be killed, and never return."""
    os.write(sys.stdout.fileno(), f"{watch.point}\n".encode())
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main(directory: Path, point: str, batch_id: str) -> None:
    """Write the fatal batch, up to the point."""
    checkpoint = fatal_checkpoint()
    with (
        dying_at(Watch(point, 1, wait_for_death)),
        RuntimeStore.open(directory, recover=False) as store,
    ):
        store.write_batch(
            identity=IDENTITY,
            reason=checkpoint.reason,
            writes=checkpoint.writes,
            batch_id=batch_id,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
