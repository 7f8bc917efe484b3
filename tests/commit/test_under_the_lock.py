"""What only the holder of the writer lock may do fails without it, before it touches anything."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rtstore import RuntimeStore
from rtstore.commit.in_doubt import resolve_in_doubt, take_to_their_end
from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import Expected, StoreFile
from rtstore.control import batches, manifest, revisions
from rtstore.control.lock import LockNotHeldError, WriterLock
from rtstore.files.durable import temporary_path
from rtstore.files.system import FileSystem
from rtstore.maintenance import upgrade
from rtstore.model.records import LoggedBatch, PlannedWrite
from tests.support import (
    FILE_OF,
    LEASES,
    NOON,
    Crash,
    new_directory,
    open_store,
    picture,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'


class Scene(NamedTuple):
    """A store with an in-doubt batch, a file and a temporary file that others wrote."""

    store: RuntimeStore
    logged: LoggedBatch

    @property
    def publisher(self) -> Publisher:
        return self.store._writer.publisher

    @property
    def planned(self) -> PlannedWrite:
        return self.logged.writes[0]

    @property
    def file(self) -> StoreFile:
        return StoreFile.of(self.planned)

    @property
    def path(self) -> Path:
        return self.store.directory / self.planned.relative_path


Act = Callable[[Scene], object]

ACTS: dict[str, Act] = {
    "write": lambda scene: scene.store.database.write(flush=False).__enter__(),
    "write, flushed": lambda scene: scene.store.database.write(flush=True).__enter__(),
    "read on writer": lambda scene: scene.store.database.read_on_writer(manifest.load),
    "change token": lambda scene: scene.store.database.change_token(),
    "close": lambda scene: scene.store.database.close(),
    "publish": lambda scene: scene.publisher.publish(scene.planned, b"new", "batch-1"),
    "replace": lambda scene: scene.publisher.replace(scene.file, b"new", Expected(None)),
    "complete": lambda scene: scene.publisher.complete(scene.logged),
    "complete in doubt": lambda scene: scene.publisher.complete_in_doubt([scene.logged]),
    "resolve exchange": lambda scene: scene.publisher.resolve_exchange(
        scene.planned, 1, "batch-1", None
    ),
    "mark failed": lambda scene: scene.publisher.mark_failed(scene.logged, "a cause"),
    "undo": lambda scene: scene.publisher.undo(scene.logged),
    "restore": lambda scene: scene.publisher.restore(scene.file, Expected(None)),
    "remove": lambda scene: scene.publisher.remove(scene.file, Expected(None)),
    "stale temporary file": lambda scene: scene.publisher.on_stale_temp(
        temporary_path(scene.path), scene.file
    ),
    "keep": lambda scene: scene.publisher.quarantine.keep(scene.file, None, None, None),
    "keep a copy": lambda scene: scene.publisher.quarantine.keep_copy(scene.file, b"new", None),
    "quarantine the replaced": lambda scene: scene.publisher.quarantine.quarantine_replaced(
        scene.path, scene.file, None, Expected(None)
    ),
    "resolve in doubt": lambda scene: resolve_in_doubt([scene.logged], scene.publisher),
    "take to the end": lambda scene: take_to_their_end([scene.logged], scene.publisher),
    "plan as the holder": lambda scene: scene.store._planner.build_plan(
        team_name=scene.store.team_name, expected=None, locked=True
    ),
    "create": lambda scene: revisions.create(
        scene.store.directory / "new.sqlite3", FileSystem(), print, lock=scene.store.lock
    ),
    "upgrade": lambda scene: upgrade.run(
        scene.store.database.path, "0001_initial", NOON, "none", lock=scene.store.lock
    ),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One scene for all acts: none of them changes anything."""
    directory = new_directory(tmp_path_factory.mktemp("scene"))
    store = open_store(directory)
    write(store, LEASES, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "replace", _crash)
        with pytest.raises(Crash):
            write(store, LEASES, 2)
    path = directory / FILE_OF[LEASES]
    temporary_path(path).write_bytes(BY_HAND)
    yield Scene(store, store.database.read(batches.load_open)[0])
    store.close()


def _crash(*_: object, **__: object) -> None:
    raise Crash


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_nothing_is_touched_without_the_lock(scene: Scene, act: Act) -> None:
    """Another thread's hold, or that of another object, is not ours."""
    before = picture(scene.store.directory, without=("-shm", ".lock"))
    with pytest.raises(LockNotHeldError, match="does not hold the writer lock"):
        act(scene)
    with WriterLock(scene.store.directory).hold(), pytest.raises(LockNotHeldError):
        act(scene)
    assert picture(scene.store.directory, without=("-shm", ".lock")) == before


def test_only_the_thread_and_process_that_took_it_hold_it(tmp_path: Path) -> None:
    """A fork and another thread do not; nor does the thread after the end of its hold."""
    lock = WriterLock(tmp_path)
    seen: list[BaseException | None] = []

    def look() -> None:
        try:
            lock.assert_held()
        except LockNotHeldError as error:
            seen.append(error)
        else:
            seen.append(None)

    look()
    with lock.hold():
        look()
        other = threading.Thread(target=look)
        other.start()
        other.join()
        child = os.fork()
        if child == 0:
            look()
            os._exit(0 if seen[-1] is not None else 1)
        assert os.waitpid(child, 0)[1] == 0
        look()
    look()
    assert [error is None for error in seen] == [False, True, False, True, False]
