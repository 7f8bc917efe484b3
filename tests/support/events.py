"""What the tests of events share: an observer that keeps what it is told."""

from __future__ import annotations

import threading
from pathlib import Path

from rtstore import Event, WriterLock


class Told(list[Event]):
    """Keeps what an observer is told, and looks whether the lock is free meanwhile."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._lock = WriterLock(directory)
        self.threads: list[int] = []

    def __call__(self, event: Event) -> None:
        """Be told."""
        assert not self._lock.is_held()
        self.threads.append(threading.get_ident())
        self.append(event)

    @property
    def kinds(self) -> list[str]:
        """What happened, in order."""
        return [event.kind.value for event in self]
