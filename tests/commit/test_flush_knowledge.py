"""No batch is dropped while the medium may still hold what it wrote; one flush serves for many.

What a loss of power may take back is asked of the modelled disk of the crash suite; here it is what
is flushed, when, and what happens when that fails.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rtstore import Durability, Retention, RuntimeStore
from tests.legacy import build as legacy
from tests.support import (
    FILE_OF,
    LEASES,
    LEDGER,
    SESSIONS,
    Ids,
    WatchedFileSystem,
    agree,
    open_store,
    write,
)


@pytest.fixture
def fs() -> WatchedFileSystem:
    """Notes what is flushed."""
    return WatchedFileSystem()


@pytest.fixture
def store(directory: Path, fs: WatchedFileSystem) -> Iterator[RuntimeStore]:
    """A store that keeps few batches."""
    with open_store(directory, fs=fs, retention=Retention(batches=8, contents_per_store=2)) as it:
        yield it


def flushed(fs: WatchedFileSystem, name: str = LEASES) -> int:
    """How often the file of a store was flushed after it had been published."""
    return sum(
        call == "flush" and isinstance(subject, Path) and subject.name == FILE_OF[name]
        for call, subject in fs.calls
    )


def numbers(store: RuntimeStore) -> list[int]:
    """The numbers of the batches that are known."""
    return [batch.batch_number for batch in store.batches()]


def test_one_flush_for_a_whole_retention(store: RuntimeStore, fs: WatchedFileSystem) -> None:
    """Nothing is flushed before the first batch is to be dropped, and then once every eight."""
    for number in range(8):
        write(store, LEASES, number)
    assert flushed(fs) == 0
    for number in range(8, 80):
        write(store, LEASES, number)
    assert numbers(store) == list(range(73, 81))
    assert flushed(fs) == 9
    flushes = [call for call in fs.calls if call[0] in ("flush", "fsync_directory")]
    assert [call for call, _ in flushes] == ["flush", "fsync_directory"] * 9


def test_each_store_has_its_own(store: RuntimeStore, fs: WatchedFileSystem) -> None:
    """A store that is written seldom is flushed when its batch is to go, and not again."""
    write(store, LEDGER, "once")
    write(store, LEDGER, "twice")
    for number in range(40):
        write(store, LEASES, number)
    assert flushed(fs, LEDGER) == 1
    assert numbers(store) == [2, *range(35, 43)]


def test_the_current_version_is_not_ruled_out(store: RuntimeStore, fs: WatchedFileSystem) -> None:
    """The version that was flushed is on the medium; its batch goes after the next flush only."""
    for number in range(9):
        write(store, LEASES, number)
    assert flushed(fs) == 1  # of the ninth version, so that the first could go
    for number in range(9, 16):
        write(store, LEASES, number)
    assert flushed(fs) == 1
    write(store, LEASES, 16)  # the ninth is to go
    assert flushed(fs) == 2


def test_prune_flushes_first(directory: Path, fs: WatchedFileSystem) -> None:
    """What is dropped at once, by a process that knows nothing, needs one flush of each file."""
    with open_store(directory, retention=Retention(batches=None)) as store:
        for number in range(30):
            write(store, (LEASES, LEDGER)[number % 2], number)
    with open_store(directory, fs=fs) as store:
        order: list[str] = []
        fs.judge = lambda _number, name, _subject: order.append(name)
        report = store.prune(Retention(batches=5))
        assert report.batches == 25
        assert (flushed(fs), flushed(fs, LEDGER)) == (1, 1)
        assert order == ["flush", "fsync_directory"] * 2


@pytest.mark.parametrize("call", ["flush", "fsync_directory"])
def test_a_flush_that_fails_drops_nothing(
    store: RuntimeStore, fs: WatchedFileSystem, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """The batch is committed all the same. The file is written anew from the database, and only
    the new one is flushed: the next flush of the old one would say that all is well."""
    path = store.directory / FILE_OF[LEASES]
    for number in range(8):
        write(store, LEASES, number)
    failed: list[int] = []

    def fail_once(_number: int, name: str, subject: Path | int) -> OSError | None:
        if name == call and not failed:
            failed.append(os.stat(path).st_ino)
            return OSError(errno.EIO, "a test")
        return None

    fs.judge = fail_once
    with caplog.at_level(logging.WARNING):
        write(store, LEASES, 8)
    assert "cannot be flushed: no batch of it is dropped" in caplog.text
    assert store.read(LEASES).data == 8
    assert numbers(store) == list(range(1, 10))
    assert os.stat(path).st_ino != failed[0]
    assert agree(store)
    write(store, LEASES, 9)
    assert numbers(store) == list(range(3, 11))


ONE_CONTENT = Retention(batches=None, contents_per_store=1)
IMPORTED = """
    SELECT count(*) FROM store_contents JOIN write_batches USING (batch_number)
    WHERE origin = 'imported' AND schema_name = 'opencode.sessionStore'
"""


def imported(tmp_path: Path) -> Path:
    """A directory with an imported batch: one that is known as ours by its contents alone. Dropped
    too early, the version that a loss of power brings back would be taken for somebody else's."""
    directory = legacy.copy(legacy.HARBOUR, tmp_path)
    legacy.take(directory)
    assert legacy.rows(directory, IMPORTED) == [(1,)]
    return directory


def refuses_flushes(_number: int, name: str, subject: Path | int) -> OSError | None:
    """Fail each flush of the sessions' file."""
    mine = isinstance(subject, Path) and subject.name == FILE_OF[SESSIONS]
    return OSError(errno.EIO, "a test") if mine and name == "flush" else None


def test_batches_keep_an_imported_content_until_its_file_is_flushed(
    tmp_path: Path, fs: WatchedFileSystem
) -> None:
    """The flush fails, and the content stays; with the next version, it goes."""
    directory = imported(tmp_path)
    with legacy.opened(directory, fs=fs, retention=ONE_CONTENT) as store:
        fs.judge = refuses_flushes
        write(store, SESSIONS, {"sessions": []})
        assert legacy.rows(directory, IMPORTED) == [(1,)]
        fs.judge = None
        write(store, SESSIONS, {"sessions": []})
        assert legacy.rows(directory, IMPORTED) == [(0,)]


@pytest.mark.parametrize("fails", [True, False])
def test_pruning_keeps_an_imported_content_until_its_file_is_flushed(
    tmp_path: Path, fs: WatchedFileSystem, *, fails: bool
) -> None:
    """The same of a run that drops all that is beyond the retention."""
    directory = imported(tmp_path)
    with legacy.opened(directory, retention=Retention(batches=None)) as store:
        write(store, SESSIONS, {"sessions": []})
    with legacy.opened(directory, fs=fs) as store:
        fs.judge = refuses_flushes if fails else None
        store.prune(ONE_CONTENT)
        assert flushed(fs, SESSIONS) == 1
        assert legacy.rows(directory, IMPORTED) == [(int(fails),)]


def test_a_file_that_cannot_be_written_anew_keeps_its_history(
    store: RuntimeStore, fs: WatchedFileSystem
) -> None:
    """As long as no new version can be flushed, the batches that wrote the store stay; those of
    others go."""
    path = store.directory / FILE_OF[LEDGER]
    write(store, LEDGER, 1)
    write(store, LEDGER, 2)

    def refuse(_number: int, name: str, subject: Path | int) -> OSError | None:
        mine = isinstance(subject, Path) and path.name in subject.name
        return OSError(errno.EIO, "a test") if mine and name in ("flush", "create") else None

    fs.judge = refuse
    for number in range(40):
        write(store, LEASES, number)
    assert numbers(store) == [1, 2, *range(35, 43)]
    assert store.read(LEDGER).data == 2
    fs.judge = None
    for number in range(20):
        write(store, LEASES, number)
    assert numbers(store) == [2, *range(55, 63)]


def test_somebody_elses_file_is_flushed_as_it_is(
    store: RuntimeStore, fs: WatchedFileSystem
) -> None:
    """The medium holds their version then, and none of ours."""
    write(store, LEDGER, 1)
    write(store, LEDGER, 2)
    (store.directory / FILE_OF[LEDGER]).write_text("theirs")
    for number in range(20):
        write(store, LEASES, number)
    assert numbers(store) == [2, *range(15, 23)]
    assert flushed(fs, LEDGER) == 1


def test_an_old_version_that_somebody_put_back_is_kept_known(
    store: RuntimeStore, fs: WatchedFileSystem
) -> None:
    """What the file holds is ours; without its batch it would be taken for somebody else's."""
    path = store.directory / FILE_OF[LEDGER]
    write(store, LEDGER, 1)
    old = path.read_bytes()
    write(store, LEDGER, 2)
    path.write_bytes(old)
    for number in range(40):
        write(store, LEASES, number)
    assert numbers(store) == [1, 2, *range(35, 43)]
    assert flushed(fs, LEDGER) == 1
    with open_store(
        store.directory, batch_id_factory=Ids("later"), receipt_id_factory=Ids("later")
    ) as later:
        assert later.last_recovery is not None
        assert agree(later)
        assert later.plan_recovery().readiness_impact == "blocked" or agree(later)


def test_a_copy_of_the_directory_can_be_pruned(directory: Path, tmp_path: Path) -> None:
    """`cp -r` gives the files other times. What they hold is current all the same, also where an
    earlier batch wrote the same bytes."""
    with open_store(directory, retention=Retention(batches=None)) as store:
        for number in (1, 2, 2):
            write(store, LEDGER, number)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy, copy_function=shutil.copyfile)
    with open_store(copy) as store:
        hashes = [batch.receipts[0].content_hash for batch in store.batches()]
        assert hashes[-1] == hashes[-2]  # as it must be for this test
        rehearsed = store.prune(Retention(batches=1), dry_run=True)
        report = store.prune(Retention(batches=1))
        assert (report.batches, report.batches_held) == (rehearsed.batches, 0) == (2, 0)
        assert numbers(store) == [3]
        assert agree(store)


def test_pruning_says_what_it_could_not_drop(directory: Path, fs: WatchedFileSystem) -> None:
    """A batch whose file cannot be flushed stays, and is counted as held until it goes."""
    with open_store(directory, fs=fs, retention=Retention(batches=None)) as store:
        for number in range(6):
            write(store, (LEASES, SESSIONS)[number % 2], {"sessions": []})
        fs.judge = refuses_flushes
        report = store.prune(Retention(batches=1))
        assert (report.batches, report.batches_held, report.batches_left) == (2, 2, 4)
        fs.judge = None
        write(store, SESSIONS, {"sessions": []})
        report = store.prune(Retention(batches=1))
        assert (report.batches_held, report.batches_left) == (0, 2)


def test_a_file_that_is_gone_holds_nothing(store: RuntimeStore, fs: WatchedFileSystem) -> None:
    """That there is none is flushed with its directory."""
    write(store, LEDGER, 1)
    write(store, LEDGER, 2)
    (store.directory / FILE_OF[LEDGER]).unlink()
    for number in range(20):
        write(store, LEASES, number)
    assert numbers(store) == [2, *range(15, 23)]


def test_with_flushed_files(directory: Path, fs: WatchedFileSystem) -> None:
    """`durability="files"` asks in the same way: what is flushed already costs next to nothing."""
    retention = Retention(batches=4)
    with open_store(directory, fs=fs, retention=retention, durability=Durability.FILES) as store:
        for number in range(12):
            write(store, LEASES, number)
        assert numbers(store) == list(range(9, 13))
