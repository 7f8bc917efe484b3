"""A real crash of another process: SIGKILL kills it at the point."""

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
    """The proof that the process reached the point, and was ended by the signal."""

    point: str
    process_id: int
    signal: int
    batch_ids: tuple[str, ...]
    """The ids of the batch that was under way and of those that shared its flush."""


def kill_at(
    point: CrashPoint | str,
    function: Callable[..., Any],
    /,
    *arguments: Any,
    batch: int = 1,
    timeout_s: float = 60.0,
    **options: Any,
) -> Kill:
    """Call a function in a new process, and kill it with SIGKILL at a point of a batch.

    Slower than `crash_at`, but real: everything that the process had in memory is lost. Function
    and arguments are pickled, so it must be a function of a module. A coroutine function is run
    with `asyncio.run`. `batch` is the number of the batch to die in, counting the batches that the
    process writes from 1.

    Raises `PointNotReachedError` when the process ended in another way, with the traceback if the
    function raised, or when it had not reached the point after `timeout_s` seconds. Raises
    `ValueError` for an unknown point.
    """
    name = checked_point(point)
    context = multiprocessing.get_context("spawn")  # the child has no threads of this process
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
    """Return the batches under way at the point, or what went wrong, or None after the time-out."""
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
        except BaseException:  # noqa: BLE001 - all of it is reported
            sender.send(f"the function raised before it came to {point}:\n{traceback.format_exc()}")
        else:
            sender.send(not_reached(point, batch, watch.passed))
