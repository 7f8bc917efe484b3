"""Makes directories as a legacy runtime leaves them: batches, crashes at each step, damage, lanes.

Only the format is played, step by step as its writer goes: the batch as `preparing` in the receipts
and in the manifest, the files, the receipts, the manifest. It may die between any two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from rtstore import KNOWN_DESCRIPTORS
from tests.support import digest

BEGIN = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
PATH_OF = {item.schema_name: item.relative_path for item in KNOWN_DESCRIPTORS}
OWN_STORE = "my.notes"
PATHS = {**PATH_OF, OWN_STORE: "notes/my-notes.json"}
REASONS = (
    "launch_checkpoint", "permission_reconcile", "delivery_commit", "host_lease_update",
    "compatibility_discovery", "stop_tombstone", "migration", "recovery",
)  # fmt: skip
ARRAYS: dict[str, tuple[str, ...]] = {
    "opencode.deliveryJournal": ("idempotencyKey", "status"),
    "opencode.permissionRequests": ("appRequestId", "state"),
    "opencode.launchTransaction": ("runId", "status"),
    "opencode.promptDeliveryLedger": ("id", "status"),
}
STEPS = ("receipts", "preparing", "a file", "the files", "receipts committed", "complete")
"""After each of these a writer may die; after the last one it has not."""
STATES = ("active", "stopped", "degraded")


@dataclass
class Legacy:
    """One runtime directory of the legacy format, and what its writer did to it."""

    path: Path
    team: str
    random: Random
    did: list[str] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    finished: str | None = None
    """The id of a batch whose writer died before the manifest, with all its files as it left
    them."""

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        self.now = BEGIN + timedelta(seconds=self.random.randrange(10**6))
        self.manifest: dict[str, Any] = {
            "schemaVersion": 1,
            "teamName": self.team,
            "activeRunId": None,
            "activeCapabilitySnapshotId": None,
            "activeBehaviorFingerprint": None,
            "highWatermark": 0,
            "lastCommittedBatchId": None,
            "lastPreparingBatchId": None,
            "lastRecoveryPlanId": None,
            "entries": [],
        }
        self.enveloped = self.random.random() < 0.8
        other = self.random.random() < 0.2
        self.manifest_name = "opencode-runtime-manifest.json" if other else "manifest.json"

    # --- what the writer does -------------------------------------------------------------------

    def time(self) -> str:
        """A moment later."""
        self.now += timedelta(milliseconds=self.random.randrange(1, 5000))
        return self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def save(self, name: str, data: Any) -> bytes:
        """Write a file with its envelope; a control file may go without."""
        control = name == self.manifest_name or name == "opencode-runtime-receipts.json"
        document = data
        if self.enveloped or not control:
            document = {"schemaVersion": 1, "updatedAt": self.time(), "data": data}
        content = json.dumps(document, indent=2).encode()
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return content

    def save_manifest(self, **changes: Any) -> None:
        """Write the manifest with some values changed."""
        self.manifest = {**self.manifest, **changes, "updatedAt": self.time()}
        self.save(self.manifest_name, self.manifest)

    def save_receipts(self) -> None:
        """Write the list of batches."""
        self.save("opencode-runtime-receipts.json", self.batches)

    def write(self, identity: dict[str, Any], die_after: str) -> None:
        """Write a batch, and die after a step."""
        self.did.append(f"batch up to: {die_after}")
        names = self.random.sample(sorted(PATHS), self.random.randrange(0, 5))
        batch: dict[str, Any] = {
            "batchId": f"batch-{len(self.batches) + 1}-{self.random.getrandbits(40):x}",
            "teamName": self.team,
            **identity,
            "reason": self.random.choice(REASONS),
            "startedAt": self.time(),
            "completedAt": None,
            "state": self.random.choice(["preparing", "committing"]),
            "receipts": [],
            "lastError": None,
        }
        for step in STEPS:
            self.step(step, batch, identity, names)
            if step == die_after:
                if step == "receipts committed":
                    self.finished = batch["batchId"]
                return

    def step(
        self, step: str, batch: dict[str, Any], identity: dict[str, Any], names: list[str]
    ) -> None:
        """Do one step of a batch."""
        match step:
            case "receipts":
                self.finished = None
                self.batches.append(batch)
                self.save_receipts()
            case "preparing":
                self.save_manifest(lastPreparingBatchId=batch["batchId"])
            case "a file":
                for name in names[:1]:
                    self.save(PATHS[name], self.data(name, identity["runId"]))
            case "the files":
                batch["_receipts"] = [self.put(name, batch, identity) for name in names]
            case "receipts committed":
                receipts = batch.pop("_receipts")
                batch.update(state="committed", completedAt=self.time(), receipts=receipts)
                self.save_receipts()
            case _:
                self.complete(batch, identity)

    def put(self, name: str, batch: dict[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
        """Write a store's file, and give its receipt."""
        content = self.save(PATHS[name], self.data(name, identity["runId"]))
        return {
            "receiptId": f"receipt-{self.random.getrandbits(60):x}",
            "batchId": batch["batchId"],
            "schemaName": name,
            "teamName": self.team,
            **identity,
            "schemaVersion": 1,
            "relativePath": PATHS[name],
            "contentHash": digest(content),
            "fileSize": len(content),
            "mtimeMs": self.now.timestamp() * 1000 + self.random.random(),
            "writtenAt": self.time(),
        }

    def complete(self, batch: dict[str, Any], identity: dict[str, Any]) -> None:
        """Have the manifest count a batch."""
        kept = ("teamName", "batchId", "receiptId", "writtenAt")
        entries = {entry["schemaName"]: entry for entry in self.manifest["entries"]}
        for receipt in batch["receipts"]:
            entry = {key: value for key, value in receipt.items() if key not in kept}
            entries[receipt["schemaName"]] = {
                **entry,
                "lastWriteReceiptId": receipt["receiptId"],
                "state": "healthy",
            }
        self.save_manifest(
            entries=[entries[name] for name in sorted(entries)],
            highWatermark=self.manifest["highWatermark"] + 1,
            lastCommittedBatchId=batch["batchId"],
            lastPreparingBatchId=None,
            **{f"active{key[0].upper()}{key[1:]}": value for key, value in identity.items()},
        )

    def fail(self, identity: dict[str, Any]) -> None:
        """Begin a batch, and record that it failed."""
        self.write(identity, "preparing")
        self.batches[-1].update(state="failed", completedAt=self.time(), lastError="boom")
        self.save_receipts()

    def data(self, name: str, run_id: str | None) -> Any:
        """What a store may hold."""
        number = self.random.randrange(1000)
        if name == "opencode.launchState":
            return {"providerId": "opencode", "teamName": self.team, "runId": run_id, "n": number}
        if name in ARRAYS:
            keys = {key: f"{key}-{number}" for key in ARRAYS[name]}
            record = {**keys, "runId": run_id, "teamName": self.team}
            if name == "opencode.deliveryJournal" and number % 3 == 0:
                return [record, {"kind": "committed_receipt", "idempotencyKey": f"k-{number}"}]
            return [record]
        return {"n": number}

    # --- what happens to it ---------------------------------------------------------------------

    def set_active_run(self) -> None:
        """Set the active run without a batch, or none."""
        self.did.append("active run set")
        run_id = self.random.choice(["run-1", "run-9", None])
        self.save_manifest(activeRunId=run_id)

    def bury(self) -> None:
        """Write the list of runs that are dead."""
        self.did.append("tombstones")
        record = {
            "tombstoneId": "tombstone-1",
            "teamName": self.team,
            "runId": self.random.choice(["run-0", "run-1"]),
            "reason": "relaunch_started",
            "createdAt": self.time(),
            "diagnostic": None,
        }
        self.save("opencode-run-tombstones.json", [record])

    def write_beside(self) -> None:
        """Write a store without a batch, as some parts of the runtime do."""
        name = self.random.choice(sorted(ARRAYS))
        self.did.append(f"{name} without a batch")
        self.save(PATHS[name], self.data(name, "run-1"))
        self.finished = None

    def leave_beside(self) -> None:
        """Leave what dead writers leave."""
        self.did.append("a temporary file and a lock")
        (self.path / "opencode-sessions.json.tmp.4711.1").write_bytes(b'{"schemaVersion"')
        (self.path / "launch-state.json.lock").write_bytes(b"")

    def forget_something(self) -> None:
        """Have an entry of the manifest not know something, or say another state."""
        if not self.manifest["entries"]:
            return
        entry = self.random.choice(self.manifest["entries"])
        unknown = self.random.choice(
            ["contentHash", "fileSize", "mtimeMs", "lastWriteReceiptId", "state"]
        )
        self.did.append(f"entry of {entry['schemaName']}: {unknown}")
        state = self.random.choice(["stale_run", "rebuild_required", "missing"])
        entry[unknown] = state if unknown == "state" else None
        content = json.dumps(self.manifest)
        if self.enveloped:
            envelope = {"schemaVersion": 1, "updatedAt": self.manifest["updatedAt"]}
            content = json.dumps({**envelope, "data": self.manifest})
        (self.path / self.manifest_name).write_text(content)

    def lose_receipts(self) -> None:
        """Remove the list of batches."""
        self.did.append("receipts lost")
        (self.path / "opencode-runtime-receipts.json").unlink(missing_ok=True)
        self.finished = None

    def damage(self) -> None:
        """Damage a store's file, or remove it."""
        name = self.random.choice(sorted(PATHS))
        path = self.path / PATHS[name]
        kind, content = self.random.choice(list(_damaged(path)))
        self.did.append(f"{kind}: {name}")
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        elif path.exists():
            path.unlink()
        self.finished = None


def _damaged(path: Path) -> Iterator[tuple[str, bytes | None]]:
    old = path.read_bytes() if path.exists() else b'{"schemaVersion": 1, "data": {"n": -1}}'
    yield "removed", None
    yield "empty", b""
    yield "garbage", b"\x00\xffnot json"
    yield "torn", old[: len(old) // 2]
    yield "without its end", old.rstrip(b"}")
    yield "a newer version", b'{"schemaVersion": 99, "updatedAt": "x", "data": {}}'
    yield "edited", b'{"schemaVersion": 1, "updatedAt": "2026-05-01T00:00:00.000Z", "data": {}}'
    yield "null", b'{"schemaVersion": 1, "data": null}'
    yield "an array", b"[1, 2]"
    yield "a fraction", b'{"schemaVersion": 1.0, "data": {}}'


def _live(legacy: Legacy) -> Legacy:
    """Let a directory live: batches, then perhaps a crash, and what happens to it after that."""
    random = legacy.random
    lives = [
        {
            "runId": run,
            "capabilitySnapshotId": random.choice([None, "cap-1"]),
            "behaviorFingerprint": random.choice([None, "fp-1"]),
        }
        for run in ("run-0", "run-1", random.choice(["run-1", None]))
    ]
    legacy.save_manifest()
    if random.random() < 0.3:
        legacy.set_active_run()
    for number in range(random.randrange(0, 5)):
        identity = lives[min(number, random.randrange(3))]
        if random.random() < 0.12:
            legacy.fail(identity)
        else:
            legacy.write(identity, random.choice(["complete"] * 6 + ["receipts committed"]))
    if random.random() < 0.6:
        died = random.choice([*STEPS[1:], "receipts committed"])
        legacy.write(random.choice(lives), died)
    for happening, share in (
        (legacy.damage, 0.5),
        (legacy.damage, 0.3),
        (legacy.write_beside, 0.15),
        (legacy.set_active_run, 0.1),
        (legacy.forget_something, 0.12),
        (legacy.bury, 0.2),
        (legacy.leave_beside, 0.15),
        (legacy.lose_receipts, 0.04),
    ):
        if random.random() < share:
            happening()
    return legacy


@dataclass
class Team:
    """A directory that was generated: one, or a team with lanes."""

    path: Path
    """What is given to the import."""
    top: Path
    """Its runtime directory."""
    directories: list[Legacy]
    """Every one with control files."""
    nowhere: list[str]
    """The lanes that only the list of lanes knows."""

    @property
    def story(self) -> str:
        """What happened to it, for a person."""
        return "\n".join(f"{each.path.name}: {', '.join(each.did)}" for each in self.directories)


def generate(parent: Path, seed: int) -> Team:
    """Make a directory: the same one for the same seed."""
    random = Random(seed)
    path = parent / f"d{seed}"
    if random.random() < 0.7:
        alone = _live(Legacy(path, "one", random))
        return Team(path, path, [alone], [])
    top = path / ".opencode-runtime"
    found = []
    if random.random() < 0.4:
        found.append(_live(Legacy(top, "many", random)))
    lanes: dict[str, Any] = {}
    for number in range(random.randrange(1, 3)):
        lane_id = f"secondary:opencode:m {number}/ü"
        lane = Legacy(top / "lanes" / quote(lane_id, safe="!~*'()"), "many", random)
        found.append(_live(lane))
        if random.random() < 0.8:
            lanes[lane_id] = {"laneId": lane_id, "state": random.choice(STATES)}
    nowhere = []
    if random.random() < 0.3:
        lanes["gone"] = {"laneId": "gone", "state": "stopped"}
        nowhere.append("gone")
    if random.random() < 0.3:
        (top / "lanes" / "empty").mkdir()
    if random.random() < 0.9:
        index = {"version": 1, "updatedAt": "2026-05-01T08:00:00.000Z", "lanes": lanes}
        (top / "lanes.json").write_text(json.dumps(index))
    else:
        nowhere = []
    return Team(path, top, found, nowhere)
