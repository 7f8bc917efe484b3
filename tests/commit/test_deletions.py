"""Deletions in the commit protocol: groups, failures, races, and what the writer remembers."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rtstore import DELETED, BatchFailedError, BatchState, BatchUnfinishedError, Durability
from rtstore.commit.group import PendingBatch
from rtstore.model.request import batch_request
from rtstore.store import RuntimeStore
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    TEAM,
    WatchedFileSystem,
    file_of,
    new_directory,
    open_store,
    stray_files,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'


def prepared(store: RuntimeStore, **writes: Any) -> PendingBatch:
    """A batch that is about to be written; the stores are named by the last part of their names."""
    names = {"leases": LEASES, "ledger": LEDGER, "diagnostics": DIAGNOSTICS}
    request = batch_request(
        TEAM,
        store.descriptors,
        identity=IDENTITY,
        reason=CHECKPOINT,
        writes={names[name]: data for name, data in writes.items()},
    )
    return store._writer.prepare(request)


def write_together(store: RuntimeStore, *pending: PendingBatch) -> None:
    """Write batches with one flush."""
    store._writer.write_pending(pending)


def test_a_group_publishes_the_last_of_write_and_deletion(tmp_path: Path) -> None:
    """A store that one batch writes and the next deletes gets no new version; each is a batch."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, "old")
        first = prepared(store, leases="new", ledger="first", diagnostics="never seen")
        second = prepared(store, leases=DELETED, diagnostics=DELETED)
        write_together(store, first, second)
        assert [item.result().high_watermark for item in (first, second)] == [2, 3]
        deletions = second.result().deletions
        new_hash = first.result().receipts[0].content_hash
        assert deletions[0].content_hash == new_hash
        assert not file_of(store, LEASES).exists()
        assert not file_of(store, DIAGNOSTICS).exists()
        assert [entry.schema_name for entry in store.manifest().entries] == [LEDGER]
        assert store.read(LEASES, at=2).data == "new"
        assert store.read(DIAGNOSTICS, at=2).data == "never seen"


def test_a_group_writes_anew_what_it_deleted(tmp_path: Path) -> None:
    """The entry is that of the last batch."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, "old")
        batches = [prepared(store, leases=DELETED), prepared(store, leases="anew")]
        write_together(store, *batches)
        assert store.read(LEASES).data == "anew"
        assert [version.is_deletion for version in store.history(LEASES)] == [False, True, False]
        write(store, LEASES, "and again")


def test_a_store_that_the_group_has_deleted_is_not_deleted_again(tmp_path: Path) -> None:
    """That batch alone is refused, and leaves the group."""
    with open_store(new_directory(tmp_path)) as store:
        write(store, LEASES, "old")
        batches = [
            prepared(store, leases=DELETED),
            prepared(store, leases=DELETED, ledger="refused"),
            prepared(store, ledger="written"),
        ]
        write_together(store, *batches)
        assert batches[0].batch is not None
        assert "nothing is committed for it" in str(batches[1].error)
        assert store.read(LEDGER).data == "written"


class Refusing(WatchedFileSystem):
    """Refuses to move the file of a store to its temporary name."""

    def __init__(self, store_name: str) -> None:
        super().__init__(lambda *_: None)
        self.path_name: str | None = FILE_OF[store_name]

    def rename(self, source: Path, target: Path) -> None:
        """Rename, or not."""
        if source.name == self.path_name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        super().rename(source, target)


def test_a_batch_that_fails_puts_back_what_it_removed(tmp_path: Path) -> None:
    """Byte for byte, and with the same mode: what was committed, and what somebody else had written
    there."""
    fs = Refusing(LEDGER)
    with open_store(new_directory(tmp_path), fs=fs) as store:
        write(store, LEASES, "leases")
        write(store, LEDGER, "ledger")
        write(store, DIAGNOSTICS, "diagnostics")
        file_of(store, DIAGNOSTICS).write_bytes(BY_HAND)
        file_of(store, LEASES).chmod(0o640)
        file_of(store, DIAGNOSTICS).chmod(0o604)
        before = _files(store.directory)
        with pytest.raises(BatchFailedError) as caught:
            store.write_batch(
                identity=IDENTITY,
                reason=CHECKPOINT,
                writes={LEASES: DELETED, DIAGNOSTICS: DELETED, LEDGER: DELETED},
            )
        assert (caught.value.undone, caught.value.deletes) == (True, True)
        path = file_of(store, LEDGER)
        assert f"could not delete store {LEDGER}, whose file is {path}: " in str(caught.value)
        assert _files(store.directory) == before
        assert stray_files(store.directory) == []
        failed = store.batches()[-1]
        assert (failed.state, failed.deletions) == (BatchState.FAILED, ())
        assert len(store.manifest().entries) == 3
        assert not any(version.is_deletion for version in store.history(LEASES))
        fs.path_name = None
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: DELETED})


def test_a_batch_that_fails_leaves_a_file_away_that_was_gone_before(tmp_path: Path) -> None:
    """All files are as they were before it."""
    with open_store(new_directory(tmp_path), fs=Refusing(LEDGER)) as store:
        write(store, LEASES, "leases")
        write(store, LEDGER, "ledger")
        file_of(store, LEASES).unlink()
        with pytest.raises(BatchFailedError):
            store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED, LEDGER: DELETED}
            )
        assert not file_of(store, LEASES).exists()
        assert file_of(store, LEDGER).exists()


class Overtaken(WatchedFileSystem):
    """Somebody writes a file right before it is removed, and anew right after."""

    def __init__(self, *, anew: bool) -> None:
        super().__init__(lambda *_: None)
        self.anew = anew
        self.refuses = False

    def rename(self, source: Path, target: Path) -> None:
        """Rename what somebody has written meanwhile."""
        if source.name == FILE_OF[LEASES]:
            source.write_bytes(BY_HAND)
            super().rename(source, target)
            if self.anew:
                source.write_bytes(BY_HAND.replace(b"by hand", b"by hand, anew"))
            return
        super().rename(source, target)


@pytest.mark.parametrize("anew", [False, True])
def test_what_is_written_while_a_file_is_removed_is_kept(tmp_path: Path, anew: bool) -> None:
    """What was there last is in quarantine; what came after stays, as a file that nobody
    committed."""
    with open_store(new_directory(tmp_path), fs=Overtaken(anew=anew)) as store:
        write(store, LEASES, "leases")
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED})
        (kept,) = store.quarantined_files()
        assert (store.directory / kept.quarantine_path).read_bytes() == BY_HAND
        assert kept.reason == "changed by somebody else before its store was deleted"
        assert file_of(store, LEASES).exists() is anew
        assert store.manifest().entries == ()


@pytest.mark.parametrize("anew", [False, True])
def test_what_cannot_be_kept_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """It gets its name back, and the batch fails. If somebody has taken that name, the batch stays
    in the log, and the next writer keeps both."""
    with open_store(new_directory(tmp_path), fs=Overtaken(anew=anew)) as store:
        write(store, LEASES, "leases")
        keep = store._writer.publisher.quarantine.keep_copy

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(store._writer.publisher.quarantine, "keep_copy", refuse)
        expected = BatchUnfinishedError if anew else BatchFailedError
        with pytest.raises(expected):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED})
        monkeypatch.setattr(store._writer.publisher.quarantine, "keep_copy", keep)
        if not anew:
            assert file_of(store, LEASES).read_bytes() == BY_HAND
            return
    with open_store(store.directory) as again:
        assert again.manifest().entries == ()
        assert not file_of(again, LEASES).exists()
        kept = {
            (again.directory / row.quarantine_path).read_bytes()
            for row in again.quarantined_files()
        }
        assert kept == {BY_HAND, BY_HAND.replace(b"by hand", b"by hand, anew")}


@pytest.mark.parametrize("durability", list(Durability))
def test_a_file_that_is_gone_already_is_deleted(tmp_path: Path, durability: Durability) -> None:
    """Nothing is to be removed; the entry goes."""
    with open_store(new_directory(tmp_path), durability=durability) as store:
        write(store, LEASES, "leases")
        file_of(store, LEASES).unlink()
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED})
        assert store.manifest().entries == ()


def test_a_second_writer_sees_the_deletion(tmp_path: Path) -> None:
    """And the first one what that wrote since."""
    directory = new_directory(tmp_path)
    with open_store(directory) as one, open_store(directory, receipt_id_factory=_ids("b")) as two:
        write(one, LEASES, "one", batch_id="a-1")
        one.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED}, batch_id="a-2"
        )
        write(two, LEASES, "two", batch_id="a-3")
        one.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED}, batch_id="a-4"
        )
        assert two.manifest().entries == ()


def _files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """The store files, with their modes."""
    return {
        path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.glob("*.json")
    }


def _ids(prefix: str) -> Any:
    numbers = iter(range(1, 100))
    return lambda: f"{prefix}-{next(numbers)}"
