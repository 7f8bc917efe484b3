"""What somebody else wrote is kept before it is overwritten, and a newer file is never touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rtstore import NewerStoreFileError, QuarantinedFile, RuntimeStore, StorageError
from rtstore.commit.quarantine import CHANGED
from rtstore.errors import StopError
from rtstore.files.durable import temporary_path
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    WatchedFileSystem,
    agree,
    at,
    digest,
    file_of,
    files_picture,
    open_store,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'


def newer(version: int = 2) -> bytes:
    """A store file that a newer program wrote."""
    return json.dumps({"schemaVersion": version, "data": {}}).encode()


def only_quarantined(store: RuntimeStore) -> QuarantinedFile:
    """The one quarantined file, which is where its row says."""
    [item] = store.quarantined_files()
    kept = (store.directory / item.quarantine_path).read_bytes()
    assert (item.content_hash, item.file_size) == (digest(kept), len(kept))
    names = [path.name for path in (store.directory / "quarantine").iterdir()]
    assert names == [Path(item.quarantine_path).name]
    return item


@pytest.mark.parametrize("content", [BY_HAND, b"not JSON", b" "])
def test_a_file_changed_by_hand_is_kept_before_it_is_overwritten(
    store: RuntimeStore, content: bytes
) -> None:
    """The batch goes through; the row says what it was, when, and which batch came over it."""
    write(store, LEASES, 1)
    file_of(store, LEASES).write_bytes(content)

    write(store, LEASES, 2)

    item = only_quarantined(store)
    assert (store.directory / item.quarantine_path).read_bytes() == content
    assert (item.schema_name, item.relative_path) == (LEASES, FILE_OF[LEASES])
    assert (item.batch_id, item.plan_id, item.reason) == ("batch-2", None, CHANGED)
    assert item.quarantined_at == NOON
    assert store.read(LEASES).data == 2
    assert agree(store)


def test_a_file_without_an_entry_is_kept_too(store: RuntimeStore) -> None:
    """The first batch of a store must not destroy what was there before."""
    file_of(store, LEASES).write_bytes(BY_HAND)

    write(store, LEASES, 1)

    assert (store.directory / only_quarantined(store).quarantine_path).read_bytes() == BY_HAND


def test_the_same_bytes_twice_are_one_piece_of_evidence(store: RuntimeStore) -> None:
    """Somebody who keeps writing the same does not fill the disk. The row says when that was last,
    and which batch came over it."""
    for number in range(3):
        write(store, LEASES, number)
        file_of(store, LEASES).write_bytes(BY_HAND)

    write(store, LEASES, "last")

    assert only_quarantined(store).batch_id == "batch-4"


def test_other_bytes_are_evidence_of_their_own(store: RuntimeStore) -> None:
    """Each version of somebody else's is there, oldest first."""
    for content in (b"one", b"two"):
        write(store, LEASES, 1)
        file_of(store, LEASES).write_bytes(content)
    file_of(store, LEDGER).write_bytes(b"three")

    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEDGER: 1, LEASES: 2})

    found = [
        (item.relative_path, (store.directory / item.quarantine_path).read_bytes())
        for item in store.quarantined_files()
    ]
    assert found == [
        (FILE_OF[LEASES], b"one"),
        (FILE_OF[LEDGER], b"three"),
        (FILE_OF[LEASES], b"two"),
    ]


def test_bytes_that_the_database_has_are_no_evidence(store: RuntimeStore) -> None:
    """A file touched, or put back to an earlier version, holds nothing that could be lost."""
    write(store, LEASES, 1)
    earlier = file_of(store, LEASES).read_bytes()
    file_of(store, LEASES).touch()
    write(store, LEASES, 2)
    file_of(store, LEASES).write_bytes(earlier)
    write(store, LEASES, 3)

    assert store.quarantined_files() == []
    assert not (store.directory / "quarantine").exists()


def test_a_file_that_somebody_removed_is_written_again(store: RuntimeStore) -> None:
    """There is nothing to keep of it."""
    write(store, LEASES, 1)
    file_of(store, LEASES).unlink()

    write(store, LEASES, 2)

    assert store.quarantined_files() == []
    assert agree(store)


def test_an_untouched_file_is_read_only_when_it_goes(directory: Path) -> None:
    """What `lstat` says tells that nobody was there. Only the version that was really replaced is
    read, under its other name, where the file system can have two files trade names."""
    reads: list[Path] = []

    class Reading(WatchedFileSystem):
        def read(self, path: Path) -> Any:
            reads.append(path)
            return super().read(path)

    with open_store(directory, fs=Reading()) as store:
        write(store, LEASES, 1)
        entry = store.manifest().entry(LEASES)
        stamped = entry is not None and entry.file_inode is not None
        reads.clear()
        write(store, LEASES, 2)
        target = file_of(store, LEASES)

    assert reads.count(temporary_path(target)) <= 1
    assert set(reads) <= ({temporary_path(target)} if stamped else {temporary_path(target), target})


def test_the_copy_is_durable_before_the_batch_is_logged(directory: Path) -> None:
    """Bytes flushed, name flushed, and only then the first file of the batch is made."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs, recover=False, batch_id_factory=lambda: "new") as store:
        file_of(store, LEASES).write_bytes(BY_HAND)
        fs.calls.clear()
        store._writer._receipt_id_factory = lambda: "new-receipt"
        write(store, LEASES, 2)
        kept = store.directory / only_quarantined(store).quarantine_path

    renames = [number for number, call in enumerate(fs.calls) if call[0] == "rename"]
    assert [fs.calls[number][1] for number in renames] == [kept, directory / FILE_OF[LEASES]]
    assert "fsync" in fs.names()[: renames[0]]
    assert ("fsync_directory", kept.parent) in fs.calls[renames[0] : renames[1]]


def test_a_newer_file_refuses_the_batch(store: RuntimeStore) -> None:
    """A newer program's state is not for this one to overwrite: stop, and say which versions."""
    write(store, LEASES, 1)
    path = file_of(store, LEASES)
    path.write_bytes(newer(3))
    before = files_picture(store.directory)

    with pytest.raises(NewerStoreFileError) as caught:
        write(store, LEASES, 2)

    error = caught.value
    assert isinstance(error, StopError)
    assert (error.store, error.path) == (LEASES, path)
    assert (error.found_version, error.supported_version) == (3, 1)
    assert files_picture(store.directory) == before
    assert len(store.batches()) == 1
    assert store.quarantined_files() == []


@pytest.mark.parametrize("order", [[LEDGER, LEASES], [LEASES, LEDGER]])
def test_a_newer_file_refuses_the_batch_before_evidence_of_another_is_kept(
    store: RuntimeStore, order: list[str]
) -> None:
    """A refused batch leaves no trace, whatever the order of its stores."""
    file_of(store, LEDGER).write_bytes(BY_HAND)
    file_of(store, LEASES).write_bytes(newer())
    before = files_picture(store.directory)

    with pytest.raises(NewerStoreFileError):
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=dict.fromkeys(order, 1))

    assert files_picture(store.directory) == before
    assert not (store.directory / "quarantine").exists()
    write(store, LEDGER, 1)
    assert only_quarantined(store).relative_path == FILE_OF[LEDGER]


def test_evidence_that_cannot_be_kept_stops_the_batch(directory: Path) -> None:
    """Without its copy nothing is overwritten; the error says which file and why."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
        file_of(store, LEASES).write_bytes(BY_HAND)
        before = files_picture(directory)
    fs = WatchedFileSystem(at("mkdir", directory / "quarantine", OSError(28, "no space")))
    with open_store(directory, fs=fs) as store:
        with pytest.raises(StorageError, match="no space") as caught:
            store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={DIAGNOSTICS: 1, LEASES: 2}
            )

        assert caught.value.path == directory / FILE_OF[LEASES]
        assert files_picture(directory) == before
        assert [batch.state for batch in store.batches()] == ["committed"]


def test_a_file_that_cannot_be_read_stops_the_batch(directory: Path) -> None:
    """What cannot be copied cannot be kept."""

    class Unreadable(WatchedFileSystem):
        def read(self, path: Path) -> Any:
            raise OSError(5, "input/output error")

    file = directory / FILE_OF[LEASES]
    file.write_bytes(BY_HAND)
    with open_store(directory, fs=Unreadable(), recover=False) as store:
        with pytest.raises(StorageError, match="cannot be read") as caught:
            write(store, LEASES, 1)
        assert caught.value.path == file
        assert store.batches() == []
    assert file.read_bytes() == BY_HAND
