"""A crash of another process, real: it is killed by SIGKILL at the point."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rtstore.model.records import Record
from rtstore.testing.crashes import PointNotReachedError, not_reached
from rtstore.testing.dying import Watch, checked_point, dying_at
from rtstore.testing.points import CrashPoint


class Kill(Record):
    """The proof: the process came to the point, and ended by the signal."""

    point: str
    process_id: int
    signal: int
    batch_ids: tuple[str, ...]
    """The batch that was under way, with those that shared its flush."""


def kill_at(
    point: CrashPoint | str,
    function: Callable[..., Any],
    /,
    *arguments: Any,
    batch: int = 1,
    timeout_s: float = 60.0,
    **options: Any,
) -> Kill:
    """Call a function in a new process, which is killed by SIGKILL at a point of a batch.

    Slower than `crash_at`, and no simulation: whatever the process had in memory is gone. Function
    and arguments are pickled, so it is a function of a module; a coroutine function is run by
    `asyncio.run`. `batch` counts the batches that the process writes, from 1.

    Raises `PointNotReachedError`, with the traceback of what the function raised, when the process
    ended otherwise or was not there after `timeout_s` seconds.
    """
    name = checked_point(point)
    context = multiprocessing.get_context("spawn")  # no thread of this process is in it
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, name, batch, function, arguments, options))
    process.start()
    sender.close()
    try:
        said = _hear(receiver, timeout_s)
        process.join(timeout_s if said is not None else 0)
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(said, tuple) and process.exitcode == -signal.SIGKILL:
        return Kill(point=name, process_id=process.pid or 0, signal=signal.SIGKILL, batch_ids=said)
    if said is None:
        said = f"the process was not at {name} after {timeout_s:g} s"
    raise PointNotReachedError(f"{said} (it ended with {process.exitcode})")


def _hear(receiver: Connection, timeout_s: float) -> tuple[str, ...] | str | None:
    """The batches under way at the point, what went wrong instead, or None for silence."""
    if not receiver.poll(timeout_s):
        return None
    try:
        said: tuple[str, ...] | str = receiver.recv()
    except EOFError:
        return "the process ended without a word"
    return said


def _run(
    sender: Connection,
    point: str,
    batch: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    def die(watch: Watch) -> None:
        sender.send(watch.batch_ids)
        os.kill(os.getpid(), signal.SIGKILL)

    watch = Watch(point, batch, die)
    with dying_at(watch):
        try:
            done = function(*arguments, **options)
            if inspect.iscoroutine(done):
                asyncio.run(done)
        except BaseException:  # noqa: BLE001 - all of it is told
            sender.send(f"the function raised before it came to {point}:\n{traceback.format_exc()}")
        else:
            sender.send(not_reached(point, batch, watch.passed))
