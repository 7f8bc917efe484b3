"""Batches that a dead writer left open are finished, however many they are and whatever is missing.

A directory in which contents of open batches were dropped is one that an older version of the
library pruned: it took a group larger than the retention, killed between its log and its complete.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    DELETED,
    ActionKind,
    ActionOutcome,
    BatchState,
    BatchUnfinishedError,
    BatchWriter,
    CorruptDatabaseError,
    OpenBatchError,
    RecoveryFailedError,
    Retention,
    RuntimeStore,
    StorageError,
)
from rtstore.commit import in_doubt
from rtstore.commit.publisher import Publisher
from rtstore.commit.writer import Logged, Planned
from rtstore.model.request import batch_request
from tests.cli.commands import run
from tests.crash.children import Child
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    Ids,
    WatchedFileSystem,
    agree,
    data_in,
    open_store,
    write,
)


def leave_open(directory: Path, *batches: Mapping[str, object], at: str = "create") -> None:
    """Commit a first version of both stores; then log batches together, and be killed at a call."""

    def die(_number: int, name: str, _subject: Path | int) -> None:
        if name == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def work(_: object) -> None:
        fs = WatchedFileSystem()
        store = open_store(directory, fs=fs)
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "first", LEDGER: "first"}
        )
        requests = [
            batch_request(
                TEAM, store.descriptors, identity=IDENTITY, reason=CHECKPOINT, writes=writes
            )
            for writes in batches
        ]
        pending = [store._writer.prepare(request) for request in requests]
        fs.judge = die
        store._writer.write_pending(pending)

    ended = Child(work).wait()
    assert not ended.finished


def lose_contents(directory: Path, store: str, *numbers: int) -> None:
    """Delete contents by hand, whatever the database says to it."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        query = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        triggers = raw.execute(query).fetchall()
        for name, _ in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        for number in numbers:
            raw.execute(
                "DELETE FROM store_contents WHERE schema_name = ? AND batch_number = ?",
                (store, number),
            )
        for _, sql in triggers:
            raw.execute(sql)


def reopened(directory: Path, **options: object) -> RuntimeStore:
    """Open the store in its next life."""
    return open_store(
        directory,
        batch_id_factory=Ids("later"),
        receipt_id_factory=Ids("later-receipt"),
        **options,
    )


def states(store: RuntimeStore) -> list[str]:
    """The states of its batches."""
    return [batch.state.value for batch in store.batches()]


SIZES = (1, 4, 60)
RETENTIONS = (
    Retention(batches=1, contents_per_store=1),
    Retention(batches=3, contents_per_store=2, content_bytes=1),
    Retention(),
)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("size", "retention"), list(itertools.product(SIZES, RETENTIONS)), ids=str)
@pytest.mark.parametrize("way", ["opened", "written"])
def test_a_group_larger_than_the_retention(
    directory: Path, size: int, retention: Retention, way: str
) -> None:
    """All of it is there in its order, whoever finishes it: pruning touches nothing of it before
    it has ended."""
    leave_open(directory, *({LEASES: number} for number in range(size)))
    with reopened(directory, retention=retention, recover=way == "opened") as store:
        if way == "written":
            write(store, LEDGER, "next")
        assert store.read(LEASES).data == size - 1
        assert store.manifest().high_watermark == size + (2 if way == "written" else 1)
        assert agree(store)
        assert set(states(store)) == {"committed"}
        write(store, LEASES, "last")
        assert store.read(LEASES).data == "last"
        assert store.plan_recovery().readiness_impact == "blocked" or agree(store)


def test_superseded_content_is_not_needed(directory: Path) -> None:
    """What a later open batch writes again is history: its batch is committed without it."""
    leave_open(directory, *({LEASES: number} for number in range(5)))
    lose_contents(directory, LEASES, 2, 3, 4, 5)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        raw.execute("UPDATE write_batches SET state = 'committing' WHERE batch_number = 2")

    with reopened(directory) as store:
        assert states(store) == ["committed"] * 6
        assert store.read(LEASES).data == 4
        assert agree(store)
        assert store.last_recovery is not None
        assert {step.outcome for step in store.last_recovery.steps} == {ActionOutcome.DONE}
    with reopened(directory) as store:
        assert store.last_recovery is None


def test_content_is_taken_from_the_file(directory: Path) -> None:
    """The batch had come to its rename: the file has what the log has lost."""
    leave_open(directory, {LEASES: "second"}, at="unlink")
    assert data_in(directory / FILE_OF[LEASES]) == "second"
    lose_contents(directory, LEASES, 2)

    with reopened(directory) as store:
        assert store.read(LEASES).data == "second"
        assert agree(store)
        assert states(store) == ["committed", "committed"]


def test_content_is_taken_from_the_temporary_file(directory: Path) -> None:
    """The batch died before its rename."""
    leave_open(directory, {LEASES: "second"}, at="rename")
    lose_contents(directory, LEASES, 2)
    with reopened(directory) as store:
        assert store.read(LEASES).data == "second"
        assert agree(store)


@pytest.mark.parametrize("moved", [False, True])
def test_content_is_taken_from_quarantine(directory: Path, *, moved: bool) -> None:
    """Somebody's copy was kept before: of what the batch wrote. Where a link leads to it, the batch
    stays open until the folder is back: it is not recorded as failed."""
    leave_open(directory, {LEASES: "second"}, at="unlink")
    version = (directory / FILE_OF[LEASES]).read_bytes()
    lose_contents(directory, LEASES, 2)
    (directory / "quarantine").mkdir()
    (directory / "quarantine/copy").write_bytes(version)
    (directory / FILE_OF[LEASES]).unlink()
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        raw.execute(
            "INSERT INTO quarantined_files (schema_name, relative_path, quarantine_path, reason,"
            " content_hash, file_size, quarantined_at) SELECT schema_name, relative_path,"
            " 'quarantine/copy', 'kept', content_hash, file_size, written_at FROM batch_writes"
            " WHERE batch_number = 2"
        )
    if moved:  # to another disk, say
        (directory / "quarantine").rename(directory.parent / "moved")
        (directory / "quarantine").symlink_to(directory.parent / "moved")
        with pytest.raises(RecoveryFailedError, match="'quarantine' is a symbolic link"):
            reopened(directory)
        (directory / "quarantine").unlink()
        (directory.parent / "moved").rename(directory / "quarantine")
    with reopened(directory) as store:
        assert store.read(LEASES).data == "second"
        assert agree(store)


@pytest.mark.parametrize("state", ["preparing", "committing"])
@pytest.mark.parametrize("way", ["opened", "written", "recovered"])
def test_a_batch_whose_content_is_nowhere_fails(directory: Path, state: str, way: str) -> None:
    """Nothing is invented: the batch has failed, and says what is gone. The others go on, the
    store has what was committed before, and the next opening finds nothing to do."""
    leave_open(directory, {LEDGER: "second"}, {LEASES: "lost", LEDGER: "lost"}, at="rename")
    lose_contents(directory, LEASES, 3)
    (directory / f".{FILE_OF[LEASES]}.rtstore-tmp").unlink(missing_ok=True)
    if state == "committing":
        with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
            raw.execute("UPDATE write_batches SET state = 'committing' WHERE batch_number = 3")

    with reopened(directory, recover=way == "opened") as store:
        if way == "opened":
            report = store.last_recovery
            assert report is not None
        elif way == "recovered":
            report = store.recover(store.plan_recovery())
        else:
            write(store, LEDGER, "third")
            report = None
        if report is not None:
            failed = [step for step in report.steps if step.outcome is ActionOutcome.FAILED]
            assert {step.action.kind for step in failed} == {ActionKind.ROLL_FORWARD}
            assert {step.action.batch_id for step in failed} == {"batch-3"}
            assert all(f"content for {LEASES} is gone" in str(step.detail) for step in failed)
        batch = store.batch("batch-3")
        assert batch is not None
        assert batch.state is BatchState.FAILED
        assert f"content for {LEASES} is gone" in str(batch.last_error)
        assert store.read(LEASES).data == "first"
        assert store.read(LEDGER).data == ("third" if way == "written" else "second")
        assert agree(store)
        write(store, LEASES, "again")
    with reopened(directory) as store:
        assert store.last_recovery is None
        assert store.read(LEASES).data == "again"


def test_what_a_failed_batch_had_published_is_undone(directory: Path) -> None:
    """One of its stores was published already; the content of the other is nowhere."""
    leave_open(directory, {LEDGER: "lost", LEASES: "lost"}, at="unlink")
    assert data_in(directory / FILE_OF[LEDGER]) == "lost"
    lose_contents(directory, LEASES, 2)
    with reopened(directory) as store:
        assert states(store) == ["committed", "failed"]
        assert (store.read(LEDGER).data, store.read(LEASES).data) == ("first", "first")
        assert agree(store)


def test_a_torn_file_beside_a_batch_that_fails(directory: Path) -> None:
    """The opening that finds out puts the file right, too."""
    leave_open(directory, {LEASES: "lost"})
    lose_contents(directory, LEASES, 2)
    (directory / FILE_OF[LEASES]).write_bytes(b"")
    with reopened(directory) as store:
        assert states(store) == ["committed", "failed"]
        assert store.read(LEASES).data == "first"
        assert agree(store)
    with reopened(directory) as store:
        assert store.last_recovery is None


def test_a_file_that_cannot_be_written_leaves_all_open(directory: Path) -> None:
    """Nothing is half: the batches stay open, and are finished when the trouble is over."""
    leave_open(directory, {LEASES: "second"}, {LEDGER: "second"}, {LEASES: "third"})
    fs = WatchedFileSystem(
        lambda _number, name, _subject: OSError(28, "no room") if name == "rename" else None
    )
    with reopened(directory, recover=False, fs=fs) as store:
        with pytest.raises(OpenBatchError, match=r"nothing of this call .* no room") as caught:
            write(store, LEASES, "fourth")
        assert caught.value.batch_id == store.batches()[1].batch_id  # not the caller's own
        with pytest.raises(OpenBatchError):
            store.update(LEDGER, lambda _: "mine", identity=IDENTITY, reason="delivery_commit")
        assert states(store) == ["committed", *["committing"] * 3]
        fs.judge = None
        write(store, LEASES, "fourth")
        assert store.read(LEASES).data == "fourth"
        assert store.read(LEDGER).data == "second"
        assert states(store) == ["committed"] * 5


@pytest.mark.parametrize("store_name", [LEASES, LEDGER])
@pytest.mark.parametrize("at", ["create", "unlink"])
@pytest.mark.parametrize("policy", ["raise", "adopt"])
def test_a_revert_finishes_them_first(
    directory: Path, store_name: str, at: str, policy: str
) -> None:
    """As any write does, in a store that was opened before or without a recovery: then it goes back
    from what was decided. Whether the file was published by then makes no difference."""
    leave_open(directory, {LEASES: "second", LEDGER: "second"}, at=at)
    with reopened(directory, recover=False, foreign_edits=policy) as store:
        batch = store.revert(store_name, to=1)
        assert (batch.high_watermark, batch.stores) == (3, (store_name,))
        assert states(store) == ["committed"] * 3
        now = {name: store.read(name).data for name in (LEASES, LEDGER)}
        assert now == {**dict.fromkeys((LEASES, LEDGER), "second"), store_name: "first"}
        assert agree(store)


def test_a_revert_that_cannot_finish_them_says_so(directory: Path) -> None:
    """Nothing of it was written, and the error names the batch that is in the way. It is no error
    of the call: the same one succeeds when the trouble is over."""
    leave_open(directory, {LEASES: "second", LEDGER: "second"}, at="unlink")
    fs = WatchedFileSystem(
        lambda _number, name, _subject: OSError(28, "no room") if name == "rename" else None
    )
    with reopened(directory, recover=False, fs=fs) as store:
        for name in (LEASES, LEDGER):
            with pytest.raises(OpenBatchError, match="nothing of this call was written") as caught:
                store.revert(name, to=1)
            assert caught.value.batch_id == store.batches()[1].batch_id
        fs.judge = None
        store.revert(LEASES, to=1)
        assert (store.read(LEASES).data, store.read(LEDGER).data) == ("first", "second")


def test_what_befalls_the_rest_of_a_group_is_nobody_elses_outcome(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that cannot be logged is written batch by batch. One of them is logged and its
    complete fails; it is told so. The next cannot be written before that one is finished; it is
    told so."""
    log, complete = BatchWriter._log, Publisher.complete

    def log_one(self: BatchWriter, *going: Planned) -> list[Logged]:
        if len(going) > 1:
            raise StorageError(directory, "the disk is full", "for a group")
        return log(self, *going)

    def no_seal(*_: object) -> int:
        raise StorageError(directory, "the disk is full", "for a complete")

    monkeypatch.setattr(BatchWriter, "_log", log_one)
    monkeypatch.setattr(Publisher, "complete", no_seal)
    with reopened(directory, recover=False) as store:
        before = len(store.batches())
        writer = store._writer
        group = [
            writer.prepare(
                batch_request(
                    TEAM,
                    store.descriptors,
                    identity=IDENTITY,
                    reason="delivery_commit",
                    writes={LEASES: number},
                ),
                batch_id=f"of-a-group-{number}",
            )
            for number in range(3)
        ]
        monkeypatch.setattr(in_doubt, "take_to_their_end", no_seal)
        writer.write_pending(group)
        assert [type(item.error) for item in group] == [
            BatchUnfinishedError,
            OpenBatchError,
            OpenBatchError,
        ]
        assert store.batch("of-a-group-1") is store.batch("of-a-group-2") is None
        assert len(store.batches()) == before + 1
        monkeypatch.setattr(Publisher, "complete", complete)
    monkeypatch.undo()
    with reopened(directory) as store:
        assert store.read(LEASES).data == 0


def test_a_backup_of_such_a_directory(directory: Path, tmp_path: Path) -> None:
    """What opening would come to is what is backed up."""
    leave_open(directory, {LEDGER: "second"}, {LEASES: "lost"})
    lose_contents(directory, LEASES, 3)
    with reopened(directory, recover=False) as store:
        store.back_up(tmp_path / "copy")
    with reopened(tmp_path / "copy") as store:
        assert store.last_recovery is None
        assert store.read(LEDGER).data == "second"
        assert states(store) == ["committed", "committed", "failed"]


@pytest.mark.parametrize("state", ["preparing", "committing"])
def test_a_batch_that_somebody_opened_again_goes_over_nothing(state: str, tmp_path: Path) -> None:
    """Batches are completed in their order. One that is open while a later batch of its store is
    committed is damage: nobody rolls it forward, writes beside it, or changes a file."""
    with open_store(tmp_path) as store:
        for number in range(3):
            write(store, LEASES, number)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as raw, raw:
        raw.execute("DROP TRIGGER write_batches_state_is_final")
        raw.execute(
            "UPDATE write_batches SET state = ?, completed_at = NULL, high_watermark = NULL "
            "WHERE batch_number = 1",
            (state,),
        )
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    with pytest.raises(CorruptDatabaseError, match="somebody opened it again"):
        open_store(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before
    for command in ("status", "plan", "recover"):
        assert run(command, tmp_path).code == 5
    assert "somebody opened it again" in run("doctor", tmp_path).out


def test_a_batch_that_somebody_opened_again_after_a_deletion(tmp_path: Path) -> None:
    """A later batch that deletes the store is a later batch, too: the file does not come back."""
    with open_store(tmp_path) as store:
        write(store, LEASES, 1)
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED})
        deleted = store.manifest().high_watermark
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as raw, raw:
        raw.execute("DROP TRIGGER write_batches_state_is_final")
        raw.execute(
            "UPDATE write_batches SET state = 'committing', completed_at = NULL, "
            "high_watermark = NULL WHERE high_watermark < ?",
            (deleted,),
        )
    with pytest.raises(CorruptDatabaseError, match="somebody opened it again"):
        open_store(tmp_path)
    assert not (tmp_path / FILE_OF[LEASES]).exists()
