"""The stores and the documents that the benchmarks write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtstore import (
    KNOWN_DESCRIPTORS,
    Batch,
    BatchReason,
    Criticality,
    Descriptor,
    Owner,
    RebuildStrategy,
    RunIdentity,
    RuntimeStore,
)
from rtstore.model.descriptors import COMPATIBILITY_SNAPSHOT, LAUNCH_STATE

TEAM = "team-bench"
IDENTITY = RunIdentity(
    run_id="run-1", capability_snapshot_id="cap-1", behavior_fingerprint="behavior-1"
)
REASON = BatchReason.LAUNCH_CHECKPOINT


def descriptors(count: int) -> tuple[Descriptor, ...]:
    """Stores of a runtime's own, which accept any JSON."""
    return tuple(
        Descriptor(
            schema_name=f"bench.store{number:04}",
            relative_path=f"bench-{number:04}.json",
            criticality=Criticality.READINESS_BLOCKING,
            owner=Owner.E2E,
            rebuild_strategy=RebuildStrategy.NONE,
        )
        for number in range(count)
    )


class Documents:
    """Makes documents of about one size, no two alike."""

    def __init__(self, size: int) -> None:
        self._items: list[dict[str, Any]] = []
        self._count = 0
        length = 0
        while length < size:
            item = _item(len(self._items))
            # With the indentation that it has in the envelope, and the comma after it.
            length += len(json.dumps(item, indent=2)) + 6 * (len(item) + 2) + 2
            self._items.append(item)

    def new(self) -> dict[str, Any]:
        """The next document."""
        self._count += 1
        return {"revision": self._count, "items": self._items}

    def some(self, names: Iterable[str]) -> dict[str, Any]:
        """A document for each of some stores."""
        return {name: self.new() for name in names}

    def known(self) -> dict[str, Any]:
        """A document for each of the known stores, as its payload model wants it."""
        found = self.some(descriptor.schema_name for descriptor in KNOWN_DESCRIPTORS)
        found[LAUNCH_STATE] |= {
            "providerId": "opencode",
            "teamName": TEAM,
            "runId": IDENTITY.run_id,
            "capabilitySnapshotId": IDENTITY.capability_snapshot_id,
        }
        found[COMPATIBILITY_SNAPSHOT]["snapshotId"] = IDENTITY.capability_snapshot_id
        return found


class Supply:
    """The batches of one contender, each made before the clock runs."""

    def __init__(self, names: Sequence[str], size: int) -> None:
        self.documents: dict[str, Any] = {}
        self.contents: dict[str, bytes] = {}
        self._names = names
        self._source = Documents(size)

    def make(self) -> None:
        """Make the documents of the next batch."""
        self.documents = self._source.some(self._names)

    def make_bytes(self) -> None:
        """Make them, and encode them too."""
        self.make()
        self.contents = {
            name: json.dumps(document, indent=2).encode()
            for name, document in self.documents.items()
        }


def _item(number: int) -> dict[str, Any]:
    return {
        "memberName": f"member-{number}",
        "sessionId": f"ses_{number * 7919 % 99991:05}",
        "runId": "run-1",
        "attempts": number % 4,
        "confirmed": number % 3 == 0,
        "lastError": None,
        "note": "Straße 1, déjà vu",
    }


def open_store(directory: Path, known: Iterable[Descriptor] | None, **options: Any) -> RuntimeStore:
    """Open a store of the benchmarks; makes it when it is not there."""
    return RuntimeStore.open(directory, team_name=TEAM, descriptors=known, **options)


def write(store: RuntimeStore, writes: Mapping[str, Any]) -> Batch:
    """Write a batch."""
    return store.write_batch(identity=IDENTITY, reason=REASON, writes=writes)
