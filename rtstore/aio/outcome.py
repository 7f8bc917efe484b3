"""What comes of a call that one thread makes and others wait for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Generic, TypeVar, cast

Result = TypeVar("Result")

_NOBODY: tuple[threading.Thread, ...] = ()


class Outcome(Generic[Result]):
    """Whether a call was withdrawn, or which thread has begun it; then its result or its error.

    One atomic operation, `dict.setdefault`, decides who has the call, and another one its end. So
    no lock can stay taken, and it costs a third of a `concurrent.futures.Future`.
    """

    __slots__ = ("_end", "_has", "_waiting")

    def __init__(self) -> None:
        self._has: dict[None, tuple[threading.Thread, ...]] = {}
        """The thread that has the call; `_NOBODY` when it was withdrawn before."""
        self._end: dict[None, tuple[Result | None, BaseException | None]] = {}
        self._waiting: deque[Callable[[], None]] = deque()

    # --- who has it -------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Return whether this thread is to make the call. If True, it can no longer be withdrawn.
        One thread begins it, once, however many try."""
        me = (threading.current_thread(),)
        return self._has.setdefault(None, me) is me and not self._end

    def withdraw(self) -> None:
        """Prevent the call from beginning; no effect if it has begun or ended."""
        if not self._end and self._has.setdefault(None, _NOBODY) is _NOBODY:
            self._announce()

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that has begun the call, if one has."""
        for thread in self._has.get(None, ()):
            return thread
        return None

    @property
    def is_withdrawn(self) -> bool:
        """Whether it will never begin."""
        return self._has.get(None) is _NOBODY and not self._end

    # --- how it ends ------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether it has ended, or will never begin."""
        return bool(self._end) or self._has.get(None) is _NOBODY

    def succeed(self, result: Result) -> None:
        """Set a result, unless the outcome is known."""
        self._set(result, None)

    def fail(self, error: BaseException) -> None:
        """Set an error, unless the outcome is known."""
        self._set(None, error)

    def _set(self, result: Result | None, error: BaseException | None) -> None:
        if self._has.get(None) is not _NOBODY:
            self._end.setdefault(None, (result, error))
        self._announce()

    @property
    def error(self) -> BaseException | None:
        """Its error; None when there is none, or none is known."""
        return self._end.get(None, (None, None))[1]

    def result(self) -> Result:
        """Return its result, or raise its error. It is known."""
        if not self._end:
            raise CancelledError
        result, error = self._end[None]
        if error is not None:
            raise error
        return cast("Result", result)

    # --- who waits for it -------------------------------------------------------------------------

    def call_back(self, function: Callable[[], None]) -> None:
        """Call a function when it is known: in the thread that ends it, or now."""
        self._waiting.append(function)
        if self.is_known:
            self._announce()

    def _announce(self) -> None:
        while self._waiting:
            try:
                function = self._waiting.popleft()
            except IndexError:  # another thread was quicker
                return
            function()
