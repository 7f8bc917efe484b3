"""A living store while somebody moves its directory, removes its lock, or saves a file again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rtstore import (
    ActionKind,
    BatchFailedError,
    BatchState,
    DatabaseLostError,
    FileSystem,
    LockTimeoutError,
    RuntimeStore,
    StoreClosedError,
)
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    agree,
    file_of,
    new_directory,
    open_store,
    write,
)


class Interrupted(FileSystem):
    """Lets somebody else do something before the first call of a kind, then goes on."""

    def __init__(self) -> None:
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def create(self, path: Path, mode: int) -> int:
        """Create a file."""
        self.before.pop("create", bool)()
        return super().create(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file."""
        self.before.pop("rename", bool)()
        super().rename(source, target)

    def rename_new(self, source: Path, target: Path) -> bool:
        """Another way to give a new version its name."""
        self.before.pop("rename", bool)()
        return super().rename_new(source, target)

    def exchange(self, first: Path, second: Path) -> bool:
        """And another."""
        self.before.pop("rename", bool)()
        return super().exchange(first, second)

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """Read a file."""
        found = super().read(path)
        self.after.pop("read", bool)()
        return found


# --- the directory ------------------------------------------------------------------------------


def test_a_process_that_changes_its_working_directory_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was opened by a relative path stays where it is, wherever its process goes."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with RuntimeStore.open("runtime", team_name=TEAM) as store:
        write(store, LEASES, 1)
        monkeypatch.chdir(tmp_path / "elsewhere")
        write(store, LEASES, 2)
        assert store.read(LEASES).data == 2
        assert agree(store)
        assert store.directory == tmp_path / "runtime"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_that_was_moved_is_not_written_to(tmp_path: Path) -> None:
    """Once its directory has another name, or another store has its name, a store is refused in
    words; both directories are as they were."""
    directory, moved = new_directory(tmp_path), tmp_path / "moved"
    with open_store(directory) as store:
        write(store, LEASES, 1)
        directory.rename(moved)
        with RuntimeStore.open(directory, team_name="team-b") as other:
            write(other, LEASES, 7)
            for use in (lambda: write(store, LEASES, 2), lambda: store.read(LEASES)):
                with pytest.raises(StoreClosedError, match="has another database now"):
                    use()
            assert other.read(LEASES).data == 7
    with RuntimeStore.open(moved) as store:
        assert store.last_recovery is None
        assert store.read(LEASES).data == 1


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_directory_that_is_gone_can_only_be_opened_anew(
    tmp_path: Path, *, is_removed: bool
) -> None:
    """No call that is repeated helps there, a write as little as a read, and the error says so; the
    store can be closed. Once the directory is back, the same store goes on."""
    directory, moved = new_directory(tmp_path), tmp_path / "moved"
    with open_store(directory) as store:
        store.begin_run(IDENTITY, writes={LEASES: 1})
        shutil.rmtree(directory) if is_removed else directory.rename(moved)
        for call in (
            lambda: write(store, LEASES, 2),
            lambda: store.update(LEASES, lambda old: old, identity=IDENTITY, reason=CHECKPOINT),
            lambda: store.prune_quarantine(older_than=timedelta(0)),
            store.end_run,
            lambda: store.read(LEASES),
        ):
            with pytest.raises(StoreClosedError, match="was moved, renamed or removed") as caught:
                call()
            assert caught.value.is_gone
        if not is_removed:
            moved.rename(directory)
            write(store, LEASES, 2)
            assert agree(store)


def test_a_directory_that_is_moved_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    """A batch that was logged goes forward where its log is. The caller is not told that it will
    here."""
    directory, moved, fs = new_directory(tmp_path), tmp_path / "moved", Interrupted()
    with open_store(directory, fs=fs) as store:
        write(store, LEASES, 1)
        fs.before["create"] = lambda: directory.rename(moved)
        with pytest.raises(DatabaseLostError) as caught:
            write(store, LEASES, 2)
        assert caught.value.committed
    with RuntimeStore.open(moved) as store:
        assert store.read(LEASES).data == 2
        assert agree(store)


# --- the lock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["create", "rename"])
def test_a_lock_that_is_removed_in_the_middle_of_a_batch(tmp_path: Path, call: str) -> None:
    """Somebody removes the lock file under its holder, whose batch is in the log: no other writer
    gets in, and the holder ends its batch itself."""
    directory, fs = new_directory(tmp_path), Interrupted()
    with (
        open_store(directory, fs=fs) as store,
        open_store(directory, lock_timeout_s=0.05) as other,
    ):
        write(store, LEASES, 1)

        def sabotage() -> None:
            store.lock.path.unlink()
            with pytest.raises(LockTimeoutError):
                write(other, LEASES, 9)

        fs.before[call] = sabotage
        write(store, LEASES, 2)
        write(store, LEASES, 3)
    with RuntimeStore.open(directory) as store:
        assert store.last_recovery is None
        assert [batch.state for batch in store.batches()] == [BatchState.COMMITTED] * 3
        assert store.read(LEASES).data == 3
        assert agree(store)


# --- files --------------------------------------------------------------------------------------


def test_a_file_that_is_saved_again_while_it_is_adopted(tmp_path: Path) -> None:
    """The version that was looked at is adopted; the one that was saved after it stays in the file,
    and the next plan asks what to do about it."""
    fs = Interrupted()
    with open_store(new_directory(tmp_path), fs=fs) as store:
        write(store, LEASES, 1)
        path = file_of(store, LEASES)
        first, second = (
            path.read_bytes().replace(b'"data": 1', b'"data": %d' % number) for number in (2, 3)
        )
        path.write_bytes(first)
        fs.after["read"] = lambda: path.write_bytes(second)
        store.adopt(LEASES, identity=IDENTITY)
        assert path.read_bytes() == second
        assert store.read(LEASES, verify=False).data == 2
        [action] = [a for a in store.plan_recovery().actions if a.schema_name == LEASES]
        assert action.kind is ActionKind.QUARANTINE


def test_a_file_with_another_name_elsewhere_keeps_its_bytes_there(tmp_path: Path) -> None:
    """A hard link of a store file is a file of its own after a batch: it is not written through."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, 1)
        link = tmp_path / "link.json"
        os.link(file_of(store, LEASES), link)
        before = link.read_bytes()
        write(store, LEASES, 2)
        assert link.read_bytes() == before
        assert agree(store)


# --- the clock ----------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards(tmp_path: Path) -> None:
    """Batches keep their order by number, whatever the clock says, and one that fails while it goes
    backwards is recorded as failed."""
    times = [datetime(2026, 4, 21, 12, tzinfo=UTC) - timedelta(days=n) for n in range(400)]
    fs = Interrupted()
    directory = new_directory(tmp_path)
    with open_store(directory, clock=lambda: times.pop(0), fs=fs) as store:
        for number in (1, 2, 3):
            write(store, LEASES, number)

        def full() -> None:
            raise OSError(28, "No space left on device")

        fs.before["rename"] = full
        with pytest.raises(BatchFailedError):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 4, LEDGER: 4})
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == 3
        marks = [batch.high_watermark for batch in store.batches()]
        assert marks == [1, 2, 3, None]
        assert (directory / FILE_OF[LEDGER]).exists() is False
        assert agree(store)
