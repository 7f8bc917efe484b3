"""An edit that keeps size and time of a file is seen, and kept before anything goes over it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtstore import Durability, FileSystem, RuntimeStore, StoreFileChangedError
from rtstore.files import stamp
from rtstore.model.records import CommittedFile
from tests.support import IDENTITY, LEASES, LEDGER, data_in, file_of, new_directory, write
from tests.support import open_store as open_seeded

TICK_NS = 4_000_000


class CoarseClock(FileSystem):
    """A file system whose change times are those of the last tick, as before Linux 6.13."""

    def lstat(self, path: Path) -> os.stat_result:
        return _ticked(super().lstat(path))

    def stat(self, descriptor: int) -> os.stat_result:
        return _ticked(super().stat(descriptor))

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        content, found = super().read(path)
        return content, _ticked(found)


class StandingClock(CoarseClock):
    """One whose clock does not tick at all while the test runs: every change has the same time."""

    def lstat(self, path: Path) -> os.stat_result:
        return _at(super().lstat(path), _now_ns())

    def stat(self, descriptor: int) -> os.stat_result:
        return _at(super().stat(descriptor), _now_ns())

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        content, found = FileSystem.read(self, path)
        return content, _at(found, _now_ns())


def _now_ns() -> int:
    return 4_102_444_800_000_000_000 + TICK_NS  # later than now, so never long ago


def _ticked(found: os.stat_result) -> os.stat_result:
    return _at(found, found.st_ctime_ns // TICK_NS * TICK_NS)


def _at(found: os.stat_result, ctime_ns: int) -> os.stat_result:
    reduced: Any = found.__reduce__()
    plain, named = reduced[1]
    whole = (*plain[:-1], ctime_ns // 1_000_000_000)
    return os.stat_result(whole, {**named, "st_ctime_ns": ctime_ns})


def edit(path: Path, old: bytes = b"AAAA", new: bytes = b"BBBB") -> None:
    """Change a file in place; size, inode and time of modification stay."""
    before = path.stat()
    content = path.read_bytes()
    assert content.count(old) == 1
    with path.open("r+b") as file:
        file.write(content.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    )


CLOCKS: list[Callable[[], FileSystem]] = [FileSystem, CoarseClock, StandingClock]


@pytest.fixture(params=CLOCKS, ids=lambda clock: clock.__name__)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RuntimeStore]:
    """A store that was written once, on a file system with that clock."""
    with open_seeded(new_directory(tmp_path), fs=request.param()) as store:
        write(store, LEASES, {"token": "AAAA"})
        yield store


def quarantined(store: RuntimeStore) -> list[Any]:
    """The data of what is in quarantine."""
    return [data_in(store.directory / item.quarantine_path) for item in store.quarantined_files()]


def test_it_is_read(store: RuntimeStore) -> None:
    """Reading refuses to go on as if nothing were, also when the file was looked at before."""
    assert store.read(LEASES).data == {"token": "AAAA"}
    edit(file_of(store, LEASES))
    with pytest.raises(StoreFileChangedError):
        store.read(LEASES)
    assert store.read(LEASES, verify=False).data == {"token": "AAAA"}
    edit(file_of(store, LEASES), b"BBBB", b"AAAA")
    assert store.read(LEASES).data == {"token": "AAAA"}


def test_it_is_not_used(store: RuntimeStore) -> None:
    """An update would be based on data that somebody has replaced: it is refused."""
    edit(file_of(store, LEASES))
    with pytest.raises(StoreFileChangedError):
        store.update(LEASES, lambda data: data | {"more": 1}, identity=IDENTITY, reason="recovery")
    assert data_in(file_of(store, LEASES)) == {"token": "BBBB"}


def test_it_is_kept(store: RuntimeStore) -> None:
    """A batch goes over it once it is in quarantine."""
    edit(file_of(store, LEASES))
    write(store, LEASES, {"token": "CCCC"})
    assert quarantined(store) == [{"token": "BBBB"}]
    assert store.read(LEASES).data == {"token": "CCCC"}


def test_it_is_seen_by_who_opens_anew(store: RuntimeStore) -> None:
    """Another process knows the file from the database alone."""
    edit(file_of(store, LEASES))
    with RuntimeStore.open(store.directory, recover=False) as other:
        with pytest.raises(StoreFileChangedError):
            other.read(LEASES)
        write(other, LEASES, {"token": "CCCC"})
        assert quarantined(other) == [{"token": "BBBB"}]


@pytest.mark.parametrize("durability", Durability)
def test_it_may_come_between_the_look_and_the_trade(tmp_path: Path, durability: Durability) -> None:
    """Made while the batch is being logged, it is found in the version that was really replaced."""

    class Raced(FileSystem):
        target: Path | None = None

        def exchange(self, first: Path, second: Path) -> bool:
            if second == self.target:
                self.target = None
                edit(second)
            return super().exchange(first, second)

    fs = Raced()
    with open_seeded(new_directory(tmp_path), fs=fs, durability=durability) as store:
        write(store, LEASES, {"token": "AAAA"})
        fs.target = file_of(store, LEASES)
        write(store, LEASES, {"token": "CCCC"})
        if fs.target is not None:
            pytest.skip("two files cannot trade names here")
        assert quarantined(store) == [{"token": "BBBB"}]


def test_what_changes_no_byte_is_no_edit(store: RuntimeStore) -> None:
    """Another mode, name, inode or time: the hash says that it is the same."""
    path = file_of(store, LEASES)
    path.chmod(0o640)
    assert store.read(LEASES).data == {"token": "AAAA"}
    os.link(path, path.with_name("another-name"))
    assert store.read(LEASES).data == {"token": "AAAA"}
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
    os.utime(path)
    assert store.read(LEASES).data == {"token": "AAAA"}
    write(store, LEASES, {"token": "CCCC"})
    assert store.quarantined_files() == []


def test_a_copied_directory(tmp_path: Path) -> None:
    """Where every inode is another one the hash tells: of what is the same, and of what is not."""
    with open_seeded(new_directory(tmp_path)) as store:
        write(store, LEASES, {"token": "AAAA"})
        write(store, LEDGER, {"token": "AAAA"})
        files = {name: file_of(store, name).name for name in (LEASES, LEDGER)}
    copy = Path(shutil.copytree(store.directory, tmp_path / "copy"))
    edit(copy / files[LEDGER])
    with RuntimeStore.open(copy, recover=False) as copied:
        assert copied.read(LEASES).data == {"token": "AAAA"}
        with pytest.raises(StoreFileChangedError):
            copied.read(LEDGER)


def test_what_was_hashed_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not known from its publication is read once, and again after a change."""
    reads: list[Path] = []

    class Reading(FileSystem):
        def read(self, path: Path) -> tuple[bytes, os.stat_result]:
            reads.append(path)
            return super().read(path)

    monkeypatch.setattr(stamp, "_TICK_NS", -(10**18))  # any clock has ticked since then
    monkeypatch.setattr(stamp, "_COARSE_TICK_NS", -(10**18))
    with open_seeded(new_directory(tmp_path), fs=Reading()) as store:
        write(store, LEASES, {"token": "AAAA"})
        path = file_of(store, LEASES)
        path.chmod(0o640)
        reads.clear()
        assert [store.read(LEASES).data for _ in range(3)] == 3 * [{"token": "AAAA"}]
        assert reads == [path]
        edit(path)
        with pytest.raises(StoreFileChangedError):
            store.read(LEASES)
        assert reads == [path, path]


def test_control_size_and_time_do_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: held by size and time alone, the edit is nowhere any more after the next batch."""

    def as_it_was(there: os.stat_result, committed: CommittedFile | None) -> bool:
        return committed is not None and (there.st_size, there.st_mtime_ns) == (
            committed.file_size,
            committed.mtime_ns,
        )

    for module in ("history.reader", "commit.quarantine", "commit.publisher"):
        monkeypatch.setattr(f"rtstore.{module}.is_as_committed", as_it_was)
    with open_seeded(new_directory(tmp_path)) as store:
        write(store, LEASES, {"token": "AAAA"})
        edit(file_of(store, LEASES))
        assert store.read(LEASES).data == {"token": "AAAA"}


def test_every_inode_fits() -> None:
    """SQLite holds 63 bits and a sign; some file systems use all 64."""
    assert [stamp._signed(inode) for inode in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [
        0,
        2**63 - 1,
        -(2**63),
        -1,
    ]
