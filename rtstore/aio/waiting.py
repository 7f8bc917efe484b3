"""Wait on a loop for batches of any process. No thread waits: the loop itself looks at the stamp of
a file, which takes some microseconds, and a thread reads the database when that has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from rtstore.control.lock import POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_MIN
from rtstore.control.sqlite.engine import Database
from rtstore.history.follow import POLL_S
from rtstore.model.records import Batch


async def wait(
    database: Database,
    read: Callable[[], Awaitable[list[Batch]]],
    check_open: Callable[[], None],
    timeout_s: float | None,
) -> list[Batch]:
    """Return the batches that `read` finds, as soon as there are any; none at the time-out. Calls
    `check_open` at each look."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    pause = _Pause()
    watch = database.watch(pause.end_soon)
    while True:
        check_open()
        if watch.is_due():
            found = await read()
            if found:
                return found
        left_s = POLL_S if deadline is None else min(POLL_S, deadline - time.monotonic())
        if left_s <= 0:
            return []
        if not watch.is_announced:
            await pause.take(left_s)


async def until(is_so: Callable[[], bool], limit_s: float) -> bool:
    """Wait until something is so, at most for a while. Return whether it is. It takes no thread."""
    deadline, pause_s = time.monotonic() + limit_s, POLL_INTERVAL_S_MIN
    while not is_so():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, POLL_INTERVAL_S_MAX)
    return True


class _Pause:
    """A pause of one task, which any thread can end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()

    async def take(self, seconds: float) -> None:
        """Wait for that long, or until it is ended."""
        self._ended = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._end)
        try:
            await self._ended
        finally:
            timer.cancel()

    def end_soon(self) -> None:
        """End the pause, from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
