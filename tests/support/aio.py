"""What the tests of the store for asyncio share."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rtstore import AsyncRuntimeStore, Batch
from tests.support import CHECKPOINT, IDENTITY, LEASES, options_of


def run(
    directory: Path, main: Callable[[AsyncRuntimeStore], Coroutine[Any, Any, Any]], **options: Any
) -> None:
    """Run a coroutine function with an open store in a loop of its own. What it leaves open is a
    warning, and so an error, when it is collected."""

    async def opened() -> None:
        async with AsyncRuntimeStore.open(directory, **options_of(**options)) as store:
            await main(store)

    asyncio.run(opened())
    gc.collect()


async def write(store: AsyncRuntimeStore, name: str, data: Any, **options: Any) -> Batch:
    """Commit one store."""
    return await store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={name: data}, **options
    )


async def append(store: AsyncRuntimeStore, item: Any, name: str = LEASES) -> Batch:
    """Append to a store, under the writer lock."""
    return await store.update(
        name, lambda data: [*(data or []), item], identity=IDENTITY, reason="host_lease_update"
    )


async def heartbeat(late: list[float]) -> None:
    """Note by how many seconds the loop is late, again and again."""
    pause = 0.002
    while True:
        before = time.perf_counter()
        await asyncio.sleep(pause)
        late.append(time.perf_counter() - before - pause)
