"""The outcome of a call: who has it, and how it ends."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from rtstore.aio.outcome import Outcome


def test_one_thread_begins_a_call_once() -> None:
    """However many try; and nobody withdraws it afterwards."""
    outcome: Outcome[int] = Outcome()
    barrier = threading.Barrier(8)

    def begin() -> bool:
        barrier.wait()
        return outcome.begin()

    with ThreadPoolExecutor(8) as threads:
        assert sum(future.result() for future in [threads.submit(begin) for _ in range(8)]) == 1
    assert outcome.thread not in (None, threading.current_thread())
    assert not outcome.begin()
    outcome.withdraw()
    assert not outcome.is_withdrawn
    assert not outcome.is_known
    outcome.succeed(7)
    assert outcome.result() == 7
    assert outcome.error is None


def test_a_call_that_was_withdrawn_neither_begins_nor_ends() -> None:
    """It stays withdrawn, whatever is set afterwards."""
    outcome: Outcome[int] = Outcome()
    outcome.withdraw()
    assert not outcome.begin()
    outcome.succeed(7)
    outcome.fail(OSError())
    assert outcome.is_withdrawn
    assert outcome.is_known
    assert outcome.error is None
    assert outcome.thread is None
    with pytest.raises(CancelledError):
        outcome.result()


def test_the_first_end_stays() -> None:
    """A call that has ended, also one that never began, does not begin, and is not withdrawn."""
    outcome: Outcome[int] = Outcome()
    outcome.fail(OSError("first"))
    outcome.succeed(7)
    outcome.withdraw()
    assert not outcome.begin()
    assert not outcome.is_withdrawn
    with pytest.raises(OSError, match="first"):
        outcome.result()


@pytest.mark.parametrize("end", ["withdraw", "succeed", "fail"])
def test_who_waits_is_called_once(end: str) -> None:
    """Before the end or after it; a second end calls nobody again."""
    outcome: Outcome[int] = Outcome()
    told: list[str] = []
    outcome.call_back(lambda: told.append("before"))
    assert told == []
    if end == "withdraw":
        outcome.withdraw()
    elif end == "succeed":
        outcome.succeed(7)
    else:
        outcome.fail(OSError())
    outcome.call_back(lambda: told.append("after"))
    outcome.succeed(8)
    assert told == ["before", "after"]
