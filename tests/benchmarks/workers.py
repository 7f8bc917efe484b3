"""What the other processes of a benchmark do.

python -m tests.benchmarks.workers KIND ARGUMENT ...
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from rtstore import FileSystem
from tests.benchmarks import flushes
from tests.benchmarks.crowd import LOCK_TIMEOUT_S, Crowd
from tests.benchmarks.documents import Documents, descriptors, open_store, write
from tests.benchmarks.floors import RawProtocol


class DyingFileSystem(FileSystem):
    """Ends the process at a rename, as a loss of the process would."""

    def __init__(self) -> None:
        self.renames_left: int | None = None

    def rename(self, source: Path, target: Path) -> None:
        if self.renames_left is not None:
            if self.renames_left == 0:
                os._exit(0)
            self.renames_left -= 1
        super().rename(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        return self.renames_left is None and super().rename_new(source, target)

    def exchange(self, first: Path, second: Path) -> bool:
        return self.renames_left is None and super().exchange(first, second)


def crash(directory: Path, stores: int, size: int) -> None:
    """Write a batch of all stores, and die in the middle of publishing a second one."""
    known, fs, documents = descriptors(stores), DyingFileSystem(), Documents(size)
    store = open_store(directory, known, fs=fs)
    write(store, documents.some(store.descriptors.names))
    fs.renames_left = stores // 2
    write(store, documents.some(store.descriptors.names))
    raise AssertionError("it should have died")


def write_on_command(directory: Path, stores: int, number: int, size: int) -> None:
    """Write as many batches as each line of the input says, to one store of several."""
    known, documents = descriptors(stores), Documents(size)
    name = known[number].schema_name
    with open_store(directory, known, lock_timeout_s=LOCK_TIMEOUT_S) as store:
        _say("ready")
        for line in sys.stdin:
            for _ in range(int(line)):
                write(store, {name: documents.new()})
            _say("done")


def write_late_on_command(directory: Path, stores: int, number: int, size: int) -> None:
    """Write a batch for each line of the input, a while after it; say at what time it was
    committed."""
    known, documents = descriptors(stores), Documents(size)
    with open_store(directory, known, lock_timeout_s=LOCK_TIMEOUT_S) as store:
        _say("ready")
        for _ in sys.stdin:
            time.sleep(random.uniform(0.01, 0.1))
            write(store, {known[number].schema_name: documents.new()})
            _say(str(time.monotonic()))


def write_raw_on_command(directory: Path, stores: int, number: int, size: int) -> None:
    """The same in raw `sqlite3`."""
    known, documents = descriptors(stores), Documents(size)
    name = known[number].schema_name
    with closing(RawProtocol(directory, known, careful=True)) as raw:
        _say("ready")
        for line in sys.stdin:
            for _ in range(int(line)):
                raw.write({name: documents.new()})
            _say("done")


def crowds_on_command(directory: Path, callers: int, size: int) -> None:
    """Let one caller, and then many, write as many batches each as a line of the input says; tell
    how many a second that made: of the one, of the many with a store each, with the same store."""
    known = descriptors(callers)
    names = [item.schema_name for item in known]
    with ExitStack() as stack:
        options = {"lock_timeout_s": LOCK_TIMEOUT_S}
        store = stack.enter_context(open_store(directory, known, **options))
        crowds = [
            Crowd(store, written, number, size, stack)
            for number, written in ((1, names), (callers, names), (callers, names[:1]))
        ]
        _say("ready")
        for line in sys.stdin:
            _say(" ".join(str(crowd.turn(int(line))) for crowd in crowds))


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(kind: str, directory: str, *numbers: str) -> None:
    """Do what the kind says."""
    works: dict[str, Callable[..., None]] = {
        "crash": crash,
        "write": write_on_command,
        "write-late": write_late_on_command,
        "write-raw": write_raw_on_command,
        "crowds": crowds_on_command,
        "flushes": flushes.run,
    }
    works[kind](Path(directory), *map(int, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
