"""Makes a writer die at a point of the commit protocol, by patching the functions of the protocol.

While `dying_at` is entered, the few functions that every batch of this process goes through report
where they are, and `die` is called at the point. The caller decides what `die` does: raise, kill
the process, or wait to be killed. If it raises, the process counts as dead: every later use of its
databases and its file system raises again. So code that runs on the way out (a `finally`, another
thread) cannot change what a dead process leaves.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection

from rtstore.commit.publisher import Publisher
from rtstore.commit.writer import BatchWriter, Logged, Planned, Published
from rtstore.control.sqlite.engine import Database
from rtstore.files.system import FileSystem
from rtstore.model.records import Batch, PlannedChange, PlannedDeletion, PlannedWrite
from rtstore.testing.points import POINTS, CrashPoint

_OF_A_FILE = re.compile(r"(in-file|after-rename)-[1-9]\d*")
_WATCHING = threading.Lock()


class Watch:
    """The progress of the batches of this process, and whether the process is dead."""

    def __init__(self, point: CrashPoint | str, batch: int, die: Callable[[Watch], object]) -> None:
        self.point = checked_point(point)
        self.batch_ids: tuple[str, ...] = ()
        """The batch to die in and those that share its flush; set just before they are logged."""
        self.is_dead = False
        self.passed: list[str] = []
        """The points that this batch has reached."""
        self.databases: list[Database] = []
        """The databases that were used during the watch."""
        self._batch = batch
        self._die = die
        self._begun = 0
        self._receipt_ids: set[str] = set()
        self._files = 0
        self._here = threading.local()

    def reach(self, point: str) -> None:
        """Die here, if this is the point."""
        self.passed.append(point)
        if point != self.point:
            return
        self.is_dead = True
        self._die(self)

    def check_alive(self) -> None:
        """Call `die` again if the process is dead."""
        if self.is_dead:
            self._die(self)

    # --- what the hooks say -----------------------------------------------------------------------

    def begin(self, going: Sequence[Planned]) -> bool:
        """Note that batches are about to be logged; return whether the one to die in is among
        them."""
        before, self._begun = self._begun, self._begun + len(going)
        if not before < self._batch <= self._begun:
            return False
        self.batch_ids = tuple(item.plan.batch_id for item in going)
        self._receipt_ids = {change.receipt_id for item in going for change in item.plan.changes}
        return True

    def concerns(self, published: Sequence[Published]) -> bool:
        """Return whether the batch to die in is among these."""
        return any(item.logged.batch.batch_id in self.batch_ids for item in published)

    @contextmanager
    def inside(self, transaction: str) -> Iterator[None]:
        """Mark the block in which an SQL transaction of this thread logs or completes the batch."""
        self._here.transaction = transaction
        try:
            yield
        finally:
            self._here.transaction = None

    @contextmanager
    def publishing(self, write: PlannedChange) -> Iterator[None]:
        """Mark the block in which a file is published or removed; count it if it is one of the
        batch."""
        if write.receipt_id not in self._receipt_ids:
            yield
            return
        self._files += 1
        self._here.file = number = self._files
        try:
            yield
        finally:
            self._here.file = None
        self.reach(f"after-rename-{number}")

    def about_to_commit(self) -> None:
        """Note that the SQL transaction of this thread is about to be committed."""
        transaction = getattr(self._here, "transaction", None)
        if transaction is not None:
            self.reach(f"in-{transaction}")

    def is_to_die_in_this_file(self) -> bool:
        """Return whether the file that this thread writes is the one to die in."""
        number = getattr(self._here, "file", None)
        return number is not None and self.point == f"in-file-{number}"


def checked_point(point: CrashPoint | str) -> str:
    """Return the name of a point. Raises `ValueError` when there is no such point."""
    name = str(point)
    names = [known.name for known in POINTS]
    if name not in names and not _OF_A_FILE.fullmatch(name):
        raise ValueError(
            f"{name!r} is no point of the commit protocol; those of a batch of one store are: "
            f"{', '.join(names)} (of a batch of four: crash_points(4))"
        )
    return name


@contextmanager
def dying_at(watch: Watch) -> Iterator[None]:
    """Watch the batches that this process writes during the block, from any thread. Raises
    `RuntimeError` when one is watched already."""
    if not _WATCHING.acquire(blocking=False):
        raise RuntimeError("a process dies once: crash_at is entered already")
    try:
        with ExitStack() as stack:
            for owner, name, function in _hooks(watch):
                stack.enter_context(patch.object(owner, name, function))
            yield
    finally:
        _WATCHING.release()


Hook = tuple[type, str, Callable[..., Any]]
"""A class, the name of its function, and the replacement."""


def _hooks(watch: Watch) -> Iterator[Hook]:
    yield from _hooks_of_the_protocol(watch)
    yield from _hooks_of_the_file_system(watch)
    yield from _hooks_of_the_database(watch)


def _hooks_of_the_protocol(watch: Watch) -> Iterator[Hook]:
    log, complete = BatchWriter._log, BatchWriter._complete  # noqa: SLF001 - steps 3 and 5
    publish, delete = Publisher.publish, Publisher.delete

    def watched_log(writer: BatchWriter, *going: Planned) -> list[Logged]:
        if not watch.begin(going):
            return log(writer, *going)
        watch.reach("before-log")
        with watch.inside("log"):
            logged = log(writer, *going)
        watch.reach("after-log")
        return logged

    def watched_complete(writer: BatchWriter, *published: Published) -> list[Batch]:
        if not watch.concerns(published):
            return complete(writer, *published)
        with watch.inside("complete"):
            batches = complete(writer, *published)
        watch.reach("after-complete")
        return batches

    def watched_publish(publisher: Publisher, write: PlannedWrite, *rest: Any) -> None:
        with watch.publishing(write):
            publish(publisher, write, *rest)

    def watched_delete(publisher: Publisher, deletion: PlannedDeletion, *rest: Any) -> None:
        with watch.publishing(deletion):
            delete(publisher, deletion, *rest)

    yield BatchWriter, "_log", watched_log
    yield BatchWriter, "_complete", watched_complete
    yield Publisher, "publish", watched_publish
    yield Publisher, "delete", watched_delete


def _hooks_of_the_file_system(watch: Watch) -> Iterator[Hook]:
    write, close = FileSystem.write, FileSystem.close

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(fs: FileSystem, *arguments: Any) -> Any:
            watch.check_alive()
            return real(fs, *arguments)

        return call

    def watched_write(fs: FileSystem, descriptor: int, content: memoryview) -> int:
        watch.check_alive()
        if not watch.is_to_die_in_this_file():
            return write(fs, descriptor, content)
        written = write(fs, descriptor, content[: len(content) // 2])
        watch.reach(watch.point)
        return written

    own: dict[str, Callable[..., Any]] = {
        "write": watched_write,
        "close": close,
    }  # a dead process closes its descriptors
    for name, real in inspect.getmembers(FileSystem, inspect.isfunction):
        if not name.startswith("_"):
            yield FileSystem, name, own.get(name) or guarded(real)


def _hooks_of_the_database(watch: Watch) -> Iterator[Hook]:
    write = Database.write

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(database: Database, *arguments: Any, **options: Any) -> Any:
            watch.check_alive()
            _note(watch, database)
            return real(database, *arguments, **options)

        return call

    @contextmanager
    def watched_write(database: Database, *, flush: bool) -> Iterator[Connection]:
        watch.check_alive()
        _note(watch, database)
        with write(database, flush=flush) as connection:
            yield connection
            watch.about_to_commit()

    yield Database, "write", watched_write
    for name in ("read", "read_cached", "read_on_writer"):
        yield Database, name, guarded(getattr(Database, name))


def _note(watch: Watch, database: Database) -> None:
    if database not in watch.databases:
        watch.databases.append(database)
