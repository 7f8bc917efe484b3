"""Small runtimes that the tests crash: functions of a module, so that another process can run
them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rtstore import AsyncRuntimeStore, RunIdentity, RuntimeStore

IDENTITY = RunIdentity(run_id="run-1")
STORES = ("opencode.hostLeases", "opencode.promptDeliveryLedger", "opencode.runtimeDiagnostics")


def checkpoint(directory: Path, *numbers: int) -> None:
    """Write a batch of three stores for each number."""
    with RuntimeStore.open(directory, team_name="team-a") as store:
        for number in numbers:
            store.write_batch(
                identity=IDENTITY,
                reason="launch_checkpoint",
                writes=dict.fromkeys(STORES, number),
                batch_id=f"batch-{number}",
            )


async def checkpoint_async(directory: Path, *numbers: int) -> None:
    """Write the checkpoints with asyncio."""
    async with AsyncRuntimeStore.open(directory, team_name="team-a") as store:
        for number in numbers:
            await store.write_batch(
                identity=IDENTITY,
                reason="launch_checkpoint",
                writes=dict.fromkeys(STORES, number),
                batch_id=f"batch-{number}",
            )


def start(directory: Path) -> Any:
    """Start on what is there: return what all stores hold."""
    with RuntimeStore.open(directory) as store:
        found = {store.read(name).data for name in STORES}
        (number,) = found
        return number


def fail(directory: Path) -> None:
    """Raise before anything is written."""
    raise LookupError(directory.name)


def sleep(directory: Path) -> None:
    """Never come to any point."""
    assert directory.exists()
    time.sleep(600)
