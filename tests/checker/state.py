"""What a fresh process finds when a life is over, written down for the judge."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from rtstore import (
    DATABASE_NAME,
    InvalidRequestError,
    RuntimeStore,
    RuntimeStoreError,
    StoreContent,
)
from tests.checker.caller import DESCRIPTORS, STORES, Caller

_VERSIONS_MAX = 400
_OURS = {DATABASE_NAME, "runtime-store.lock"}


def write_down_state(caller: Caller, path: Path) -> None:
    """Look, open, look again, use it, close it, look at the folder. Whatever fails is a part of
    what is written down."""
    state: dict[str, Any] = {"problems": []}
    directory = caller.shared.directory
    for step in (_before, _after, _use, _folder):
        try:
            step(caller, directory, state)
        except Exception as error:
            state["problems"].append(f"{step.__name__}: {type(error).__name__}: {error}"[:600])
    path.write_text(json.dumps(state))


def _before(_caller: Caller, directory: Path, state: dict[str, Any]) -> None:
    """What is on record before opening has finished anything."""
    with RuntimeStore.open(directory, read_only=True, recover=False) as store:
        state["before"] = [[b.batch_id, b.state, b.high_watermark] for b in store.batches()]


def _after(_caller: Caller, directory: Path, state: dict[str, Any]) -> None:
    """What is on record, and in the files, when opening has finished what was left over."""
    with _opened(directory, state) as store:
        state["high_watermark"] = store.manifest().high_watermark
        state["batches"] = [[b.batch_id, b.state, b.high_watermark] for b in store.batches()]
        state["contents"], state["versions"], state["files"] = {}, {}, {}
        for descriptor in DESCRIPTORS:
            name = descriptor.schema_name
            content = _read(store, name, state)
            state["contents"][name] = {
                "data": {**content.data, "text": ""},
                "hw": content.high_watermark,
                "batch_id": content.batch_id,
            }
            file = (directory / descriptor.relative_path).read_bytes()
            state["files"][name] = (
                content.content_hash.endswith(hashlib.sha256(file).hexdigest())
                and json.loads(file)["data"] == content.data
            )
            versions = store.history(name)
            state["versions"][name] = [
                [
                    version.batch_id,
                    version.high_watermark,
                    _writer(store, name, version.batch_id) if near else None,
                ]
                for number, version in enumerate(versions)
                for near in [len(versions) - number <= _VERSIONS_MAX]
            ]
        plan, check = store.assess()
        state["plan"] = {
            "actions": [str(action.kind) for action in plan.actions],
            "diagnostics": list(check.diagnostics),
        }
        state["quarantined"] = [str(item) for item in store.quarantined_files()]


def _opened(directory: Path, state: dict[str, Any]) -> RuntimeStore:
    try:
        return RuntimeStore.open(directory)
    except RuntimeStoreError as error:
        state["problems"].append(f"open: {type(error).__name__}: {error}"[:600])
        return RuntimeStore.open(directory, read_only=True)


def _read(store: RuntimeStore, name: str, state: dict[str, Any]) -> StoreContent:
    try:
        return store.read(name)
    except RuntimeStoreError as error:
        state["problems"].append(f"read: {type(error).__name__}: {error}"[:600])
        return store.read(name, verify=False)


def _writer(store: RuntimeStore, name: str, batch_id: str) -> str | None:
    """Who wrote a version; None when its content is not kept any more."""
    try:
        by: str = store.read(name, at=batch_id).data["by"]
    except InvalidRequestError:
        return None
    return by


def _use(caller: Caller, directory: Path, state: dict[str, Any]) -> None:
    """Write, read and close it."""
    with RuntimeStore.open(directory) as store:
        for name in STORES:
            facts = caller.facts_of_write(name)
            batch = store.write_batch(**caller.arguments(facts))
            assert batch.high_watermark == store.read(name).high_watermark
            assert store.read(name).data["by"] == facts["op"]
        state["used"] = store.manifest().high_watermark


def _folder(_caller: Caller, directory: Path, state: dict[str, Any]) -> None:
    """What lies in the folder when everybody has closed, and what SQLite says of the database."""
    stores = {descriptor.relative_path for descriptor in DESCRIPTORS}
    state["left"] = sorted(set(os.listdir(directory)) - stores - _OURS)
    connection = sqlite3.connect(directory / DATABASE_NAME)
    state["integrity"] = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    connection.close()
