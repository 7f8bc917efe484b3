"""Raising at the n-th line that a thread runs in the package, and asking afterwards whether
anybody was harmed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import rtstore
from rtstore import Batch, RunIdentity, RuntimeStore
from rtstore.control.lock import LOCK_NAME
from rtstore.foreign import origin_of
from tests.support import CHECKPOINT, IDENTITY, LEDGER

PACKAGE = str(Path(rtstore.__file__).parent) + os.sep
PATIENCE_S = 10.0
"""After how long a thread is said to hang."""


class Strike(BaseException):
    """Comes from nowhere, like KeyboardInterrupt."""


class Striker:
    """Raises once, at the n-th line that the current thread runs in files of the package whose
    names begin as given. A context manager; the trace function goes with it."""

    def __init__(
        self,
        number: int,
        files: Sequence[str] = ("",),
        error: type[BaseException] = Strike,
    ) -> None:
        self.number = number
        self.error = error
        """What it raises."""
        self.answer: str | None = None
        """What came of the call instead of the exception."""
        self.lines = 0
        self.struck: str | None = None
        """Where it raised."""
        self.is_excused = False
        """Whether it raised where Python only prints it, or in the function of a caller, whose
        exception it then is."""
        self._prefixes = tuple(PACKAGE + name for name in files)

    def __enter__(self) -> Self:
        gc.disable()  # CPython 3.11 dies of a strike in a finalizer that the collector calls
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        gc.enable()

    def check(self, outcome: object) -> None:
        """Note an outcome that is not the exception."""
        error = origin_of(outcome) if isinstance(outcome, Exception) else outcome
        is_it = type(error) is self.error and str(error) == "struck"
        if self.struck and not (is_it or self.is_excused):
            self.answer = f"{outcome!r} caused by {getattr(outcome, '__cause__', None)!r}"

    def _enter_frame(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._trace if frame.f_code.co_filename.startswith(self._prefixes) else None

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                code = frame.f_code
                name = code.co_filename.removeprefix(PACKAGE)
                self.struck = f"{name}:{frame.f_lineno} {code.co_name}"
                self.is_excused = _is_excused(frame)
                raise self.error("struck")
        return self._trace


def _is_excused(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "own_error"):
            return True
        frame = frame.f_back
    return False


NEIGHBOUR = """
import fcntl, os, sys
name, directory = sys.argv[1:]
for _ in sys.stdin:
    held = []
    for path, flags in ((name, os.O_RDWR), (directory, os.O_RDONLY)):
        descriptor = os.open(path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.append(os.path.basename(path))
        os.close(descriptor)
    print(*held, flush=True)
"""


class Neighbour:
    """Another process, which tries to lock what the writer lock is made of."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR, directory / LOCK_NAME, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=PATIENCE_S)

    def what_is_held(self) -> str:
        """What it cannot lock; an empty text if nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


def count_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def open_files(directory: Path) -> list[str]:
    """What this process has open in a directory."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(name for name in names if name.startswith(f"{directory}/"))


@dataclass
class Tally:
    """What came of striking, over many points."""

    points: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """What the callers were told of their batches."""
    faults: list[str] = field(default_factory=list)

    def fault(self, point: str | None, what: str) -> None:
        """Something that must not be."""
        self.faults.append(f"{point}: {what}")

    def __str__(self) -> str:
        kinds = Counter(fault.split(": ", 1)[1].split(" (")[0] for fault in self.faults)
        faults = ", ".join(f"{kind} {count}" for kind, count in kinds.items()) or "none"
        told = ", ".join(f"{what} {count}" for what, count in sorted(self.told.items()))
        return f"points {self.points}; told: {told or '-'}; faults: {faults}"


def check_told(
    store: RuntimeStore, point: str | None, batch_id: str, outcome: object, tally: Tally
) -> None:
    """Hold what a caller was told of its batch against what is on record."""
    known = store.batch(batch_id)
    found = "absent" if known is None else known.state.value
    notes = " ".join(
        note
        for note in getattr(outcome, "__notes__", ())
        if f"{batch_id} " in note or "the batch " in note
    )
    if "not known" in notes:
        tally.told["not known"] += 1
        return
    if isinstance(outcome, Batch) or "is committed" in notes:
        told = "committed"
    elif "nothing of" in notes:
        told = "nothing written"
    else:
        told = "nothing said" if str(outcome) == "struck" else type(outcome).__name__
    tally.told[told] += 1
    if (told == "committed") != (found == "committed"):
        tally.fault(point, f"untrue: told {told}, it is {found} ({outcome!r} {notes})")


def identity_to_write_for(store: RuntimeStore) -> RunIdentity:
    """The active run, or a new one where it is over."""
    for run in store.runs()[:1]:
        after = "-" if run.is_over else ""
        return IDENTITY.model_copy(update={"run_id": f"{run.run_id}{after}"})
    return IDENTITY


def check_usable(store: RuntimeStore, point: str | None, tally: Tally) -> None:
    """Whether the object still writes, and reads what it writes, in this thread and in another."""
    number = tally.points
    for in_thread in (False, True):
        found: list[object] = []

        def use() -> None:
            try:
                store.write_batch(
                    identity=identity_to_write_for(store),
                    reason=CHECKPOINT,
                    writes={LEDGER: [number, in_thread]},  # noqa: B023 - called at once
                )
                found.append(store.read(LEDGER).data)  # noqa: B023
            except BaseException as error:
                found.append(error)  # noqa: B023

        thread = threading.Thread(target=use, daemon=True)
        if in_thread:
            thread.start()
            thread.join(PATIENCE_S)
        else:
            use()
        if not found:
            tally.fault(point, "hangs")
        elif found[0] != [number, in_thread]:
            tally.fault(point, f"unusable ({found[0]!r})")
