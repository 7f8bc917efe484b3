"""The asyncio part of a worker: groups of writes, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rtstore import AsyncRuntimeStore, StopError
from tests.checker.caller import IDENTITY, LEDGER, STORES, Caller, changing


class LoopCaller:
    """A loop in a thread, with an `AsyncRuntimeStore`; writes down what a `Caller` does."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.caller.big = False  # there may be a hundred at once
        self.shared, self.mix, self.random = caller.shared, caller.mix, caller.random

    def run(self) -> None:
        """Call until the life is over."""
        asyncio.run(self._live())

    async def _live(self) -> None:
        while not self.shared.over():
            store = await self._open()
            if store is None:
                await asyncio.sleep(0.01)
                continue
            await self._use(store)

    async def _open(self) -> AsyncRuntimeStore | None:
        async def opened() -> AsyncRuntimeStore:
            return await AsyncRuntimeStore.open(
                self.shared.directory,
                retention=self.mix.retention,
                lock_timeout_s=self.mix.lock_timeout_s,
                on_event=self.shared.observe,
            )

        store = await self._call("open", opened)
        return store if isinstance(store, AsyncRuntimeStore) else None

    async def _use(self, store: AsyncRuntimeStore) -> None:
        """Until the life is over, it is closed, or says that it cannot go on."""
        while not self.shared.over():
            kind = self.random.random()
            if kind < 0.35:
                done = await self._group(store)
            elif kind < 0.5 and self.mix.has("cancel"):
                done = await self._cancelled(store)
            else:
                done = await self._one(store)
            if any(isinstance(item, StopError) for item in done):
                break
            if self.mix.has("close") and self.random.random() < 0.05:
                group = asyncio.create_task(self._group(store))
                await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.01)))
                await self._call("close", store.aclose)
                await group
                return
        await self._call("close", store.aclose)

    async def _call(
        self, action: str, function: Callable[[], Awaitable[Any]], **facts: Any
    ) -> object:
        """Make a call; return its result, or what it raised."""
        call = self.caller.begin(action, **facts)
        try:
            value = await function()
        except BaseException as error:
            self.caller.raised(call, error, retried=facts.get("retried", False))
            return error
        self.caller.returned(call, value)
        return value

    def _write(self, store: AsyncRuntimeStore) -> Awaitable[object]:
        facts = self.caller.facts_of_write(batch_id=self.random.random() < 0.8)
        arguments = self.caller.arguments(facts)
        return self._call("write", lambda: store.write_batch(**arguments), **facts)

    def _update(self, store: AsyncRuntimeStore) -> Awaitable[object]:
        name = self.random.choice((LEDGER, *STORES))
        op = self.caller.next_name()
        change = changing(op, name, self.caller.takes_s())
        return self._call(
            "update",
            lambda: store.update(name, change, identity=IDENTITY, reason="delivery_commit"),
            op=op,
            stores=(name,),
            batch_id=None,
        )

    def _read(self, store: AsyncRuntimeStore) -> Awaitable[object]:
        name = self.random.choice((LEDGER, *STORES))
        return self._call("read", lambda: store.read(name), stores=(name,))

    async def _group(self, store: AsyncRuntimeStore) -> list[object]:
        """Many at once: they share flushes."""
        makers = (self._write, self._write, self._write, self._write, self._update, self._read)
        size = self.random.randint(1, self.mix.group)
        calls = [self.random.choice(makers)(store) for _ in range(size)]
        return list(await asyncio.gather(*calls))

    async def _one(self, store: AsyncRuntimeStore) -> list[object]:
        make = self.random.choice((self._write, self._update, self._read))
        if self.random.random() < 0.2:
            return [await self._call("snapshot", store.snapshot)]
        return [await make(store)]

    async def _cancelled(self, store: AsyncRuntimeStore) -> list[object]:
        """Some tasks, cancelled at some moment. What was told is written down by the tasks."""
        makers = (self._write, self._update, self._read)
        tasks = [
            asyncio.ensure_future(self.random.choice(makers)(store))
            for _ in range(self.random.randint(1, 6))
        ]
        await asyncio.sleep(self.random.choice((0, 0, 0.0005, 0.002, 0.01)))
        for task in tasks:
            if self.random.random() < 0.7:
                task.cancel()
        return list(await asyncio.gather(*tasks, return_exceptions=True))
