"""A disk that is full, and a directory that may not be written: nothing is lost, and it is said."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore import (
    FileSystem,
    PruneStoppedError,
    QuarantinedFile,
    Retention,
    RuntimeStore,
    upgrade_directory,
    verify_backup,
)
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.statements import driver_of
from rtstore.errors import BatchFailedError, BatchUnfinishedError, RuntimeStoreError, StorageError
from rtstore.testing import Seams
from tests.hostile.scene import Scene
from tests.hostile.sessions import ABOUT, LOOK, RECOVER, WRITE
from tests.hostile.template import DATABASE, template
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    Picture,
    agree,
    may_do_anything,
    write,
)
from tests.upgrade.freeze import unpack
from tests.upgrade.states import (
    looked_at,
    problems_in_use,
    problems_of_backups,
    problems_of_database,
)

KILOBYTE = 1024
STORES = (LEASES, LEDGER)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _allow(connection: Connection, pages: int) -> None:
    """Let the database grow by so many pages, as far as the writing connection goes."""
    driver = driver_of(connection)
    now = driver.execute("PRAGMA page_count").fetchone()[0]
    driver.execute(f"PRAGMA max_page_count = {now + pages}")


def _write(store: RuntimeStore, number: int, size: int = 3 * KILOBYTE) -> None:
    store.write_batch(
        identity=IDENTITY,
        reason=CHECKPOINT,
        writes={name: {"n": number, "text": "x" * size} for name in STORES},
        batch_id=f"batch {number}",
    )


def test_full_file_system(scene: Scene) -> None:
    """However little room is left, a batch is whole or not there; every call answers; and with room
    again, everything acknowledged is there, and a further batch works."""
    with _mounted(scene.folder / "small", "size=4m"):
        scene.directory = scene.folder / "small" / "runtime"
        scene.forget()
        for room in [*range(0, 120, 6), 160, 240]:
            scene.begin("full disks", f"{room} KB left")
            _fill_and_free(scene, room * KILOBYTE)
            scene.check()
            scene.remove()


def _fill_and_free(scene: Scene, room: int) -> None:
    shutil.copytree(template(crashed=False), scene.directory)
    store = RuntimeStore.open(scene.directory)
    _write(store, 0)
    filler = _fill(scene.directory.parent, room)
    acknowledged, unsure = {0}, set()
    about = [*STORES, DATABASE, scene.directory]
    for number in range(1, 12):
        error = scene.call("write", lambda number=number: _write(store, number), about)  # type: ignore[misc]
        if error is None:
            acknowledged.add(number)
        elif isinstance(error, BatchUnfinishedError):
            unsure.add(number)
    scene.call("assess", store.assess, about)
    scene.call("close", store.close, about)
    scene.session({**LOOK, **WRITE, **RECOVER}, [*ABOUT, *about])
    filler.unlink()
    _check_after(scene, acknowledged, unsure)


def _check_after(scene: Scene, acknowledged: set[int], unsure: set[int]) -> None:
    """With room again everything is as it was said to be."""
    with RuntimeStore.open(scene.directory) as store:
        found = {
            int(batch.batch_id.split()[1])
            for batch in store.batches()
            if batch.state == "committed" and batch.batch_id.startswith("batch ")
        }
        assert acknowledged <= found <= acknowledged | unsure, scene.what
        _write(store, 99)
        assert agree(store), scene.what


def test_pruning_on_a_full_disk(tmp_path: Path) -> None:
    """It cannot drop what it cannot write down: it says how much room it needs, drops nothing by
    half, and with that much room it works."""
    folder = tmp_path / "small"
    with _mounted(folder, "size=14m"), RuntimeStore.open(folder / "rt", team_name="t") as store:
        (folder / "other").write_bytes(bytes(4 << 20))
        with suppress(RuntimeStoreError):
            for number in range(100):
                _write(store, number, size=150 * KILOBYTE)
        _fill(folder, 0)
        before = len(store.batches())
        few = Retention(batches=2, contents_per_store=1)
        with pytest.raises(PruneStoppedError, match=r"free about [1-4] MiB") as caught:
            store.prune(few)
        assert len(store.batches()) == before - caught.value.batches
        os.truncate(folder / "other", (4 << 20) - caught.value.room)
        report = store.prune(few)
        assert report.batches_left < 5 < before
        _write(store, 1000)
        assert agree(store)


class FullFileSystem(FileSystem):
    """Writes some bytes more, then no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, descriptor: int, content: memoryview) -> int:
        """Write what there is room for."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(descriptor, content[: self.room])
        self.room -= written
        return written

    def create(self, path: Path, mode: int) -> int:
        """Make a file, if there is room for its name."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path, mode)


@pytest.mark.thorough
def test_files_do_not_fit(scene: Scene) -> None:
    """When the files of a batch do not fit, it fails as a whole, the files are as before, and the
    error names the store."""
    about = [*STORES, scene.directory]
    for room in range(0, 8 * KILOBYTE, 256):
        scene.begin("full disks", f"{room} bytes for files")
        shutil.copytree(template(crashed=False), scene.directory)
        with RuntimeStore.open(scene.directory) as store:
            _write(store, 0)
            (scene.directory / "opencode-host-leases.json").write_text("an edit by hand")
        before = scene.files()
        with RuntimeStore.open(
            scene.directory, recover=False, seams=Seams(fs=FullFileSystem(room))
        ) as store:
            error = scene.call("write", functools.partial(_write, store, 1), about)
            kept = store.quarantined_files()
        if error is not None:
            after = scene.files()
            gained = {name for name in after if name not in before and "quarantine" not in name}
            # On a disk with no room at all nothing can be put back either: the error says so, what
            # was there is in quarantine, and opening the store finishes it (`_check_after`).
            undone = not isinstance(error, BatchFailedError) or error.undone
            if undone and (gained or any(before[n][2] != after[n][2] for n in before)):
                scene.unexpected("write", "the files are not as before")
            if not undone and "an edit by hand" not in _texts(scene, kept):
                scene.unexpected("write", "the edit by hand is lost")
        elif "an edit by hand" not in _texts(scene, kept):
            scene.unexpected("write", "the edit by hand is lost")
        _check_after(scene, {0} | ({1} if error is None else set()), set())
        scene.remove()


def _texts(scene: Scene, kept: list[QuarantinedFile]) -> set[str]:
    return {(scene.directory / row.quarantine_path).read_text() for row in kept}


@pytest.mark.thorough
def test_database_does_not_grow(scene: Scene) -> None:
    """When the database may not grow, the batch is refused, nothing is written, and the error says
    that the disk is full."""
    for pages in range(12):
        scene.begin("full disks", f"{pages} pages more")
        shutil.copytree(template(crashed=False), scene.directory)
        with RuntimeStore.open(scene.directory) as store:
            _write(store, 0)
            with store.lock.hold():
                store.database.read_on_writer(functools.partial(_allow, pages=pages))
            acknowledged: set[int] = {0}
            for number in range(1, 8):
                files = scene.files()
                error = scene.call(
                    "write",
                    functools.partial(_write, store, number, 20 * KILOBYTE),
                    [DATABASE],
                )
                if error is None:
                    acknowledged.add(number)
                    continue
                assert isinstance(error, StorageError), repr(error)
                assert "full" in str(error)
                assert scene.files() == files
            assert len(acknowledged) < 8
            store.assess()
        _check_after(scene, acknowledged, set())
        scene.remove()


@pytest.mark.thorough
def test_an_upgrade_does_not_fit(tmp_path: Path) -> None:
    """However little room is left, an upgrade is done or as if it had never begun, its back-up is
    whole or not there, and with room again a runtime goes on."""
    outcomes = set()
    with _mounted(tmp_path / "small", "size=2m"):
        for room in range(0, 360, 24):
            directory = unpack(REVISIONS[0], tmp_path / "small")
            filler = _fill(directory.parent, room * KILOBYTE)
            try:
                upgrade_directory(directory)
                outcomes.add("done")
            except StorageError as error:
                outcomes.add(error.problem)
            assert not list(directory.glob(".runtime-store.backup-new*"))
            filler.unlink()
            look = looked_at(directory)
            wanted = (REVISIONS[0], REVISIONS[-1])
            assert problems_of_database(look / DATABASE, REVISIONS[0], wanted) == []
            assert problems_of_backups(look, REVISIONS[0]) == []
            assert problems_in_use(directory) == []
            shutil.rmtree(directory)
            shutil.rmtree(look)
    assert {"done", "the disk is full"} <= outcomes


@pytest.mark.thorough
def test_a_backup_does_not_fit(tmp_path: Path) -> None:
    """However little room is left where a back-up goes, it is whole or not there, and the error
    names the place."""
    outcomes, small = set(), tmp_path / "small"
    with (
        _mounted(small, "size=2m"),
        RuntimeStore.open(template(crashed=False), read_only=True) as store,
    ):
        for room in range(0, 400, 24):
            filler = _fill(small, room * KILOBYTE)
            try:
                verify_backup(store.back_up(small / "backup").path)
                outcomes.add("done")
                shutil.rmtree(small / "backup")
            except StorageError as error:
                outcomes.add("full")
                assert small in error.path.parents
            assert [path.name for path in small.iterdir()] == ["filler"]
            filler.unlink()
    assert outcomes == {"done", "full"}


def _fill(folder: Path, room: int) -> Path:
    """Fill a file system but for so many bytes."""
    filler, stat = folder / "filler", os.statvfs(folder)
    filler.write_bytes(bytes(max(0, stat.f_bavail * stat.f_frsize - room)))
    return filler


@pytest.mark.parametrize("crashed", [False, True], ids=["at rest", "crashed"])
def test_read_only_file_system(scene: Scene, crashed: bool) -> None:
    """Where nothing may be written, looking works as far as SQLite can; writing says why not."""
    with _mounted(scene.folder / "fixed", "size=4m"):
        fixed = scene.folder / "fixed"
        shutil.copytree(template(crashed=crashed), fixed / "runtime")
        subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
        scene.directory = fixed / "runtime"
        scene.forget()
        _look_and_write(scene, crashed=crashed, look=scene.whole)


@pytest.mark.skipif(may_do_anything(), reason="nothing is forbidden to this user")
@pytest.mark.parametrize("crashed", [False, True], ids=["at rest", "crashed"])
def test_read_only_directory(scene: Scene, crashed: bool) -> None:
    """The same where the directory may be read only. A crash leaves a WAL, which may be written: so
    the database may record what it tried; no other file changes."""
    shutil.copytree(template(crashed=crashed), scene.directory)
    folders = [scene.directory, *(p for p in scene.directory.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        _look_and_write(scene, crashed=crashed, look=scene.files if crashed else scene.whole)
    finally:
        for folder in folders:
            folder.chmod(0o700)


def _look_and_write(scene: Scene, *, crashed: bool, look: Callable[[], Picture]) -> None:
    scene.begin("read-only directories", "crashed" if crashed else "at rest")
    before = look()
    about = [*ABOUT, DATABASE, scene.directory]
    assert scene.session(LOOK, about, read_only=True) or crashed
    scene.session({**LOOK, **WRITE, **RECOVER}, about, recover=False)
    scene.session({**LOOK, **WRITE, **RECOVER}, about)
    assert look() == before
    with pytest.raises(RuntimeStoreError), RuntimeStore.open(scene.directory) as store:
        write(store, LEASES, ["no"])
