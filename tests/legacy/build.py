"""Legacy directories for the tests: frozen ones of our own, and those beside the checkout.

`harbour` has two runs, a failed batch between them, a lane, and everything healthy; its control
files are in envelopes. `ferry-crashed` died after its first file; its control files are bare, and
the manifest has its other name. What the legacy runtime planned for them is in `expected/`.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, ImportReport, RunIdentity, RuntimeStore, import_directory
from rtstore.legacy import StoreOutcome
from tests.support import CHECKOUT, digest, options_of

OWN = CHECKOUT / "tests" / "fixtures" / "legacy"
SHARED = CHECKOUT.parent / "shared" / "legacy"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(),
    reason="example directories are not beside this checkout (../shared/legacy)",
)

HARBOUR = "harbour"
LANE = "harbour/lanes/secondary%3Aopencode%3Amira"
FERRY = "ferry-crashed"
DUSK = RunIdentity(
    run_id="run-dusk", capability_snapshot_id="cap-8", behavior_fingerprint="behavior-blue"
)
EBB = RunIdentity(
    run_id="run-ebb", capability_snapshot_id="cap-3", behavior_fingerprint="behavior-grey"
)

MANIFEST, OTHER_MANIFEST = "manifest.json", "opencode-runtime-manifest.json"
RECEIPTS = "opencode-runtime-receipts.json"
TOMBSTONES = "opencode-run-tombstones.json"
IMPORTED_AT = datetime(2026, 6, 3, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """A directory of the legacy runtime, and where its plan for it is."""

    name: str
    root: Path
    directory: str
    expected_name: str

    def copy(self, parent: Path) -> Path:
        """A copy of the directory, to import."""
        return Path(shutil.copytree(self.root / self.directory, parent / "runtime"))

    @property
    def expected(self) -> dict[str, Any]:
        """What the legacy runtime said of it."""
        path = self.root / "expected" / f"{self.expected_name}.json"
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found


CASES = (
    Case("harbour", OWN, HARBOUR, "harbour"),
    Case("its lane", OWN, LANE, "harbour.lane-mira"),
    Case("ferry-crashed", OWN, FERRY, "ferry-crashed"),
    Case("team-a", SHARED, "team-a/.opencode-runtime", "team-a"),
    Case(
        "lane alice",
        SHARED,
        "team-a/.opencode-runtime/lanes/secondary%3Aopencode%3Aalice",
        "team-a.lane-alice",
    ),
    Case("team-b-crashed", SHARED, "team-b-crashed/.opencode-runtime", "team-b-crashed"),
)


def all_cases() -> list[Any]:
    """Every case as a parameter; those of the shared directories are skipped where there are
    none."""
    return [
        pytest.param(case, id=case.name, marks=[needs_shared] if case.root == SHARED else [])
        for case in CASES
    ]


def copy(name: str, parent: Path) -> Path:
    """A copy of one of our own directories."""
    return Path(shutil.copytree(OWN / name, parent / "runtime"))


def take(directory: Path, **options: Any) -> ImportReport:
    """Import a directory at a time of our own."""
    return import_directory(directory, **{"clock": lambda: IMPORTED_AT, **options})


@contextmanager
def opened(directory: Path, **options: Any) -> Iterator[RuntimeStore]:
    """The store of an imported directory."""
    with RuntimeStore.open(
        directory, **options_of(**{"clock": lambda: IMPORTED_AT, **options})
    ) as store:
        yield store


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON document; the function changes it in place or gives another one."""
    document = json.loads(path.read_bytes())
    changed = change(document)
    path.write_text(json.dumps(document if changed is None else changed), encoding="utf-8")


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the manifest says, whether it is in an envelope or not."""
    name = MANIFEST if (directory / MANIFEST).exists() else OTHER_MANIFEST
    edit(directory / name, lambda document: change(document.get("data", document)))


def edit_receipts(directory: Path, change: Callable[[list[Any]], None]) -> None:
    """Change the list of batches, whether it is in an envelope or not."""

    def change_inside(document: Any) -> None:
        change(document["data"] if isinstance(document, dict) else document)

    edit(directory / RECEIPTS, change_inside)


def add_store(directory: Path, name: str, path: str, content: bytes, receipt_id: str) -> None:
    """Write a store file and its entry, as if the legacy runtime had; no receipt."""
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    (directory / path).write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        entry = {
            **manifest["entries"][0],
            "schemaName": name,
            "relativePath": path,
            "contentHash": digest(content),
            "fileSize": len(content),
            "lastWriteReceiptId": receipt_id,
        }
        manifest["entries"].append(entry)

    edit_manifest(directory, change)


def write_late(directory: Path, number: int, *stores: str, counted: bool = False) -> str:
    """Have a legacy writer write a batch of stores; `counted`: its manifest too."""
    manifest = json.loads((directory / MANIFEST).read_bytes())["data"]
    entries = {entry["schemaName"]: entry for entry in manifest["entries"]}
    batch_id, at = f"late-{number}", f"2026-06-02T09:00:{number:02}.000Z"
    receipts = []
    for name in stores:
        path = directory / entries[name]["relativePath"]
        content = json.dumps({**json.loads(path.read_bytes()), "updatedAt": at}).encode()
        path.write_bytes(content)
        entries[name] |= {"contentHash": digest(content), "fileSize": len(content)}
        entries[name]["lastWriteReceiptId"] = f"{batch_id}-{name}"
        receipt = {key: value for key, value in entries[name].items() if key != "state"}
        receipt["receiptId"] = receipt.pop("lastWriteReceiptId")
        receipts.append(receipt | {"batchId": batch_id, "teamName": "harbour", "writtenAt": at})
    batch = {"batchId": batch_id, "teamName": "harbour", "reason": "delivery_commit",
             "state": "committed", "startedAt": at, "completedAt": at, "receipts": receipts,
             **DUSK.model_dump(by_alias=True)}  # fmt: skip
    for receipt in receipts:
        receipt.update(DUSK.model_dump(by_alias=True))
    edit_receipts(directory, lambda batches: batches.append(batch))

    def count(found: dict[str, Any]) -> None:
        if counted:
            found["entries"] = list(entries.values())
            found.update(lastCommittedBatchId=batch_id, highWatermark=found["highWatermark"] + 1)
        found["lastPreparingBatchId"] = None if counted else batch_id

    edit_manifest(directory, count)
    return batch_id


def outcomes(report: ImportReport) -> dict[str, StoreOutcome]:
    """What became of each store, by name."""
    return {store.schema_name: store.outcome for store in report.stores}


def rows(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query says of the database of a directory, as its user would ask."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        return connection.execute(sql).fetchall()


def all_rows(directory: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    tables = rows(directory, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    return {
        name: sorted(rows(directory, f'SELECT * FROM "{name}"'), key=repr) for (name,) in tables
    }
