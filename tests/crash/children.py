"""Child processes that say what happens to them, until they are killed.

What a child says goes through a pipe, in one piece at once, so what was said before a SIGKILL is
always heard. The parent is a process of one thread (see `crew`), so it may fork.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

from tests.crash.ledger import Escaped, Finished, Found, Note, Reached
from tests.crash.probe import END, Fault, Point, Watcher

LIMIT_S = 60
"""A child that takes longer hangs; SIGALRM ends it, and that is a failure."""

Say = Callable[[Note], None]
Work = Callable[[Say], None]


@dataclass
class Ended:
    """A child that is gone: what it said, and how it ended."""

    notes: list[Note] = field(default_factory=list)
    signal: int | None = None
    code: int | None = None

    @property
    def finished(self) -> bool:
        """Whether it came to its end by itself."""
        return self.code == 0 and any(isinstance(note, Finished) for note in self.notes)

    @property
    def killed_at(self) -> Point | None:
        """The point it announced before SIGKILL, or None when it did not end like that."""
        reached = [note.point for note in self.notes if isinstance(note, Reached)]
        return reached[-1] if reached and self.signal == signal.SIGKILL else None

    @property
    def found(self) -> list[Any]:
        """The last list of things that it was sent out to find."""
        found = [note.value for note in self.notes if isinstance(note, Found)]
        return found[-1] if found and isinstance(found[-1], list) else []

    def __str__(self) -> str:
        how = f"signal {self.signal}" if self.signal else f"exit code {self.code}"
        escaped = [note.error for note in self.notes if isinstance(note, Escaped)]
        return f"the child ended by {how} {' '.join(escaped)}".rstrip()


class Child:
    """A forked process that carries out some work."""

    def __init__(self, work: Work, *, limit_s: int = LIMIT_S) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _live(work, writing, limit_s)
        os.close(writing)
        self.pipe: BinaryIO = os.fdopen(reading, "rb")

    def listen(self) -> Iterator[Note]:
        """What it says, until it ends or the caller has heard enough."""
        return _notes(self.pipe)

    def wait(self) -> Ended:
        """Hear the rest, and wait for the end."""
        return self._ended(list(self.listen()))

    @classmethod
    def wait_for_all(cls, children: Sequence[Child]) -> list[Ended]:
        """Hear all of them at once, so that none has to wait until somebody listens."""
        heard = {child.pid: bytearray() for child in children}
        with selectors.DefaultSelector() as selector:
            for child in children:
                selector.register(child.pipe, selectors.EVENT_READ, child)
            while selector.get_map():
                for key, _ in selector.select():
                    said = os.read(key.fd, 1 << 16)
                    heard[key.data.pid] += said
                    if not said:
                        selector.unregister(key.fileobj)
        return [child._ended(list(_notes(BytesIO(heard[child.pid])))) for child in children]

    def _ended(self, notes: list[Note]) -> Ended:
        self.pipe.close()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            return Ended(notes, signal=os.WTERMSIG(status))
        return Ended(notes, code=os.WEXITSTATUS(status))


def _notes(pipe: BinaryIO) -> Iterator[Note]:
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(pipe)


def _live(work: Work, pipe: int, limit_s: int) -> None:
    """The life of a child; never returns."""
    code, one_at_a_time = 1, threading.Lock()

    def say(note: Note) -> None:
        said = memoryview(pickle.dumps(note))
        with one_at_a_time:
            while said:
                said = said[os.write(pipe, said) :]

    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_s)
        work(say)
        say(Finished())
        code = 0
    except BaseException:
        say(Escaped(traceback.format_exc()))
    finally:
        os._exit(code)


# --- watchers of a child ------------------------------------------------------------------------


def killer(say: Say, number: int) -> Watcher:
    """Announce the point of that number, then SIGKILL this process."""

    def watch(point: Point) -> Fault | None:
        if point.number == number:
            say(Reached(point))
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return watch


def pauser(say: Say, target: Point, gate: int) -> Watcher:
    """Announce that point, or the end, then wait until a byte comes through the gate."""
    is_over = False

    def watch(point: Point) -> Fault | None:
        nonlocal is_over
        if not is_over and (point.is_at(target) or point.kind == END):
            is_over = True
            say(Reached(point))
            os.read(gate, 1)
        return None

    return watch
