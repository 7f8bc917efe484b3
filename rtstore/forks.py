"""Make a fork wait for imports inside of functions, and for runs of revisions.

A fork copies only the thread that forks. When another thread is in the middle of an import, the
child gets a half-made module and its import lock, which no thread will release: a child that needs
that module waits for ever. The globals of alembic have the same problem. So work that must be whole
in a child runs in `with no_fork():`. A fork waits for the blocks that have begun; a block that
begins later waits for the fork. No block takes a connection from a pool: a fork waits for
connections first (see `rtstore.control.sqlite.sessions`).

A child also gets the descriptors that another thread has just opened, and does not know them. None
of them may become a lock, which the child would keep: `may_be_inherited` tells.

Python drops a handler of a fork that an exception of a signal handler cuts off, prints the
exception, and forks. So a handler that is registered here (`at_fork`) begins again.

None of this is a lock that a thread could fail to release. A block counts only while its `no_fork`
object exists; the block holds that object, whatever exception ends it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count

PATIENCE_S = 10.0
"""How long a fork waits for a block, and a block for a fork."""
_POLL_S = 0.001
FORK_S_MAX = 1.0
"""In seconds. A fork that is about to happen for longer than this was given up: an exception cut
its handlers off."""


class no_fork:  # noqa: N801 - used like a word of the language
    """A block during which no other thread of this process forks."""

    __slots__ = ("__weakref__", "_number", "_thread")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._number = next(_numbers)

    def __enter__(self) -> None:
        is_inner = _thread_is_in_one()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            # Announce first, then look; a fork does the same.
            # The end of a block that is lost is in C, where no exception can come and be lost.
            forget = partial(_blocks.pop, self._number)
            _blocks[self._number] = weakref.ref(self, forget), self._thread
            if is_inner or not _another_forks() or time.monotonic() >= deadline:
                return
            _blocks.pop(self._number, None)
            time.sleep(_POLL_S)

    def __exit__(self, *_: object) -> None:
        _blocks.pop(self._number, None)


def last_fork() -> int:
    """Return a number that changes with each fork of this process."""
    return _last[0]


def may_be_inherited(since: int) -> bool:
    """Return whether a forked child may have a descriptor and not know it.

    Call `last_fork` for `since`, open the descriptor, note it for the handler in the child, and
    then ask. The answer is yes where a fork happened since, or is about to happen: that child may
    have been forked before the note.
    """
    return since != _last[0] or any(
        time.monotonic() - began_at < FORK_S_MAX for began_at in list(_imminent.values())
    )


def _thread_is_in_one() -> bool:
    this = threading.get_ident()
    return any(thread == this and block() is not None for block, thread in list(_blocks.values()))


def _another_is_in_one() -> bool:
    this = threading.get_ident()
    return any(thread != this and block() is not None for block, thread in list(_blocks.values()))


def _another_forks() -> bool:
    this = threading.get_ident()
    return any(thread != this for thread in list(_forking))


def _before_fork() -> None:
    _forking[threading.get_ident()] = True
    deadline = time.monotonic() + PATIENCE_S
    try:
        while _another_is_in_one() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        _last[0] = next(_numbers)
        _imminent[threading.get_ident()] = time.monotonic()


def _after_in_parent() -> None:
    _imminent.pop(threading.get_ident(), None)
    _forking.pop(threading.get_ident(), None)


def _after_in_child() -> None:
    this = threading.get_ident()
    _imminent.clear()
    _forking.clear()
    for number, (_, thread) in list(_blocks.items()):
        if thread != this:
            _blocks.pop(number, None)


_numbers = count()
_blocks: dict[int, tuple[weakref.ref[no_fork], int]] = {}
"""The blocks that have begun, by number, each with its thread."""
_forking: dict[int, bool] = {}
"""The threads that are about to fork, or wait for blocks first."""
_imminent: dict[int, float] = {}
"""The threads that fork at this moment, each with since when."""
_last = [0]
"""The number of the last fork."""


def at_fork(
    before: Callable[[], None] | None = None,
    after_in_parent: Callable[[], None] | None = None,
    after_in_child: Callable[[], None] | None = None,
) -> None:
    """Register handlers of a fork, as `os.register_at_fork` does. Each runs to its end, whatever
    cuts it off, and at least twice: doing it again changes nothing."""
    named = {
        "before": before,
        "after_in_parent": after_in_parent,
        "after_in_child": after_in_child,
    }
    handlers = {name: partial(_to_its_end, handler) for name, handler in named.items() if handler}
    if hasattr(os, "register_at_fork"):
        # Twice: an exception at the very first line of a handler comes before all that it does.
        os.register_at_fork(**handlers)
        os.register_at_fork(**handlers)


def _to_its_end(handler: Callable[[], None]) -> None:
    """Call a handler until nothing cuts it off. Raise then what cut it off, for Python to print."""
    raised: BaseException | None = None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            handler()
        except BaseException as error:  # noqa: BLE001 - of a signal handler, at any line
            raised = error
            if time.monotonic() < deadline:
                continue
        break
    if raised is not None:
        raise raised


# `before` handlers run in reverse order of registration. This module is imported before all others
# that register handlers, so this one waits last. `after_in_parent` of this one is the first.
at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
