"""What a writer knows from its last batch, and when it has to ask again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, BatchFailedError, ConflictError, WrongTeamError
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    open_store,
    plain_descriptor,
    write,
)
from tests.support.query_trace import traced

TURNS = 2 + 5
"""How many of ten batches drop contents by default."""
LOOKING = ("FROM runtime_manifest", "FROM manifest_entries", "FROM write_batches")


def test_a_writer_alone_does_not_ask_for_what_it_committed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries of the stores that it wrote, and what is open, it knows. Only a batch whose turn
    it is to drop contents asks which of them no open batch needs: they are not its own."""
    with traced(monkeypatch) as trace, open_store(directory) as store:
        write(store, LEASES, 1)
        write(store, LEDGER, 1)
        trace.statements.clear()
        for number in range(10):
            write(store, LEASES if number % 2 else LEDGER, number)
        assert agree(store)
    asked = [sql for sql in trace.statements if "WHERE" in sql and "SELECT" in sql[:6]]
    asked_of_open = [sql for sql in asked if "state IN" in sql and "FROM runs" not in sql]
    assert not [sql for sql in asked_of_open if "FROM store_contents" not in sql]
    assert sum(trace.statements[sql] for sql in asked_of_open) <= TURNS
    assert trace.statements["PRAGMA data_version"] == 10


def test_what_another_writer_commits_is_seen(directory: Path) -> None:
    """Each goes over what the other committed, which is not quarantined, and counts on from it."""
    ids = {"batch_id_factory": Ids("other"), "receipt_id_factory": Ids("o")}
    with open_store(directory) as one, open_store(directory, **ids) as other:
        for number in range(4):
            write(one, LEASES, number)
            write(other, LEASES, -number)
        assert one.manifest().high_watermark == 8
        assert one.quarantined_files() == []
        assert agree(one)
        write(other, LEDGER, 1)
        with pytest.raises(ConflictError):
            one.write_batch(
                identity=IDENTITY,
                reason=CHECKPOINT,
                writes={LEASES: 1},
                expected_high_watermark=8,
            )


def test_what_somebody_does_in_the_database_is_seen(directory: Path) -> None:
    """Another program committed, so nothing is taken as known."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
        with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
            raw.execute("UPDATE runtime_manifest SET team_name = 'team-b'")
        with pytest.raises(WrongTeamError):
            write(store, LEASES, 2)


def test_a_file_changed_by_hand_is_seen_by_a_writer_that_knows_the_entry(directory: Path) -> None:
    """The entry is known, the file is looked at every time."""
    with open_store(directory) as store:
        for number in range(3):
            write(store, LEASES, number)
            (directory / FILE_OF[LEASES]).write_text(f"by hand, {number}")
        write(store, LEASES, 3)
        assert len(store.quarantined_files()) == 3


def test_what_is_known_after_a_failure_is_what_is_committed(directory: Path) -> None:
    """A batch that failed left no trace in what the next one is held against."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        write(store, LEASES, 1)
        fs.judge = at("rename", directory / FILE_OF[LEASES], OSError(13, "refused"))
        with pytest.raises(BatchFailedError):
            write(store, LEASES, 2)
        fs.judge = None
        write(store, LEASES, 3)
        assert store.manifest().high_watermark == 2
        assert store.quarantined_files() == []
        assert agree(store)


def test_a_store_that_gets_another_file_has_it_in_its_entry(tmp_path: Path) -> None:
    """Alone, and among stores that stay where they were; the old name is free for others then."""
    one, two = plain_descriptor("test.one", "one.json"), plain_descriptor("test.two", "two.json")
    with open_store(tmp_path / "team", descriptors=(one, two)) as store:
        write(store, "test.one", 1)
        write(store, "test.two", 1)
    moved = plain_descriptor("test.one", "moved.json")
    ids = {"batch_id_factory": Ids("later"), "receipt_id_factory": Ids("l")}
    with open_store(tmp_path / "team", descriptors=(moved, two), **ids) as store:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={"test.two": 2, "test.one": 2}
        )
        paths = {entry.schema_name: entry.relative_path for entry in store.manifest().entries}
        assert paths == {"test.one": "moved.json", "test.two": "two.json"}
        assert [store.read(name).data for name in ("test.one", "test.two")] == [2, 2]
