"""Batches as their writer sees them: receipts, entries, files, conditions, retries."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    KEEP_EVERYTHING,
    BatchReason,
    BatchRequest,
    BatchState,
    ConflictError,
    InvalidRequestError,
    ManifestStore,
    ReceiptStore,
    Retention,
    RunIdentity,
    RuntimeStore,
    StoreWrite,
    WrongTeamError,
)
from rtstore.commit.writer import BatchWriter
from rtstore.errors import RetryableError
from tests.support import (
    CHECKPOINT,
    FILE_OF,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    NOON,
    NOON_TEXT,
    SESSIONS,
    Crash,
    Ids,
    WatchedFileSystem,
    agree,
    at_call,
    data_in,
    digest,
    file_of,
    files_picture,
    launch_state,
    open_store,
    plain_descriptor,
    write,
)


def five(number: int = 1) -> dict[str, Any]:
    """Data for five stores."""
    return {
        SESSIONS: {"sessions": [], "number": number},
        LAUNCH: launch_state(number=number),
        LEASES: {"leases": [number]},
        LEDGER: [number],
        "opencode.runtimeDiagnostics": number,
    }


# --- what a batch leaves ------------------------------------------------------------------------


def test_a_batch_comes_back_with_its_receipts_in_order(store: RuntimeStore) -> None:
    """Everything that was decided is in the result: ids, identity, times, order, hashes."""
    batch = store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=five())

    assert (batch.batch_id, batch.state, batch.reason) == (
        "batch-1",
        BatchState.COMMITTED,
        BatchReason.LAUNCH_CHECKPOINT,
    )
    assert (batch.batch_number, batch.high_watermark, batch.team_name) == (1, 1, "team-a")
    assert batch.started_at == batch.completed_at == NOON
    assert [receipt.schema_name for receipt in batch.receipts] == list(five())
    assert [receipt.receipt_id for receipt in batch.receipts] == [
        f"receipt-{number}" for number in range(1, 6)
    ]
    for receipt in batch.receipts:
        path = file_of(store, receipt.schema_name)
        assert receipt.relative_path == path.name
        assert receipt.content_hash == digest(path.read_bytes())
        assert (receipt.file_size, receipt.mtime_ns) == (
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        assert (receipt.run_id, receipt.capability_snapshot_id) == ("run-1", "cap-1")
        assert (receipt.behavior_fingerprint, receipt.written_at) == ("behavior-1", NOON)
        assert receipt.batch_id == "batch-1"
    assert store.batches() == [batch]
    assert store.batch("batch-1") == batch
    assert store.batch("batch-2") is None


def test_the_manifest_says_what_is_committed(store: RuntimeStore) -> None:
    """An entry for each store with the facts of its receipt; the identity; the watermark."""
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=five())
    later = RunIdentity(run_id="run-2")
    second = store.write_batch(identity=later, reason="stop_tombstone", writes={LEDGER: "new"})

    manifest = store.manifest()

    assert (manifest.high_watermark, manifest.last_committed_batch_id) == (2, "batch-2")
    assert manifest.last_preparing_batch_id is None
    assert manifest.active_identity == later
    assert [entry.schema_name for entry in manifest.entries] == sorted(five())
    entry, [receipt] = manifest.entry(LEDGER), second.receipts
    assert entry is not None
    assert (entry.content_hash, entry.file_size, entry.mtime_ns) == (
        receipt.content_hash,
        receipt.file_size,
        receipt.mtime_ns,
    )
    assert (entry.run_id, entry.capability_snapshot_id) == ("run-2", None)
    assert (entry.last_write_receipt_id, entry.batch_number) == (receipt.receipt_id, 2)
    untouched = manifest.entry(LEASES)
    assert untouched is not None
    assert (untouched.run_id, untouched.batch_number) == ("run-1", 1)
    assert agree(store)


def test_the_files_are_whole_envelopes(store: RuntimeStore) -> None:
    """Other programs find version, time and data, and nothing of ours beside them."""
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=five())

    assert data_in(store.directory / FILE_OF[LEASES]) == {"leases": [1]}
    assert f'"updatedAt": "{NOON_TEXT}"' in (store.directory / FILE_OF[LEDGER]).read_text()
    names = {path.name for path in store.directory.iterdir()}
    control = {f"{DATABASE_NAME}{suffix}" for suffix in ("", "-wal", "-shm")}
    assert names - control - {"runtime-store.lock"} == set(FILE_OF.values())


def test_the_permissions_of_a_store_file_are_kept(store: RuntimeStore) -> None:
    """Who opened a file to others finds it open after every batch."""
    write(store, LEASES, 1)
    file_of(store, LEASES).chmod(0o664)
    write(store, LEASES, 2)

    assert file_of(store, LEASES).stat().st_mode & 0o777 == 0o664


def test_the_files_carry_the_times_of_their_receipts(directory: Path) -> None:
    """Also where the clock of the store is not that of the machine."""
    long_ago = datetime(2001, 2, 3, 4, 5, 6, 789_999, tzinfo=UTC)
    with open_store(directory, clock=lambda: long_ago) as store:
        write(store, LEASES, 1)
        [batch] = store.batches()

        assert batch.started_at == long_ago.replace(microsecond=789_000)
        [receipt] = batch.receipts
        assert file_of(store, LEASES).stat().st_mtime_ns == receipt.mtime_ns
        assert '"2001-02-03T04:05:06.789Z"' in file_of(store, LEASES).read_text()


def test_a_time_of_any_zone_is_kept_as_utc(directory: Path) -> None:
    """The clock may tell the time of any place, as long as it says which."""
    east = datetime.fromisoformat("2026-04-21T14:00:00+02:00")
    with open_store(directory, clock=lambda: east) as store:
        write(store, LEASES, 1)

        assert store.batches()[0].started_at == NOON


def test_a_store_below_folders_gets_them(directory: Path) -> None:
    """The folders of a store's path are made when it is first written."""
    nested = plain_descriptor("test.nested", "a/b/nested.json")
    with open_store(directory, descriptors=[nested]) as store:
        write(store, "test.nested", {"deep": True})

        assert data_in(directory / "a" / "b" / "nested.json") == {"deep": True}
        assert agree(store)


def test_data_of_any_json_type_is_kept_as_it_is(store: RuntimeStore) -> None:
    """Null, numbers beyond 64 bits, texts with NUL and characters of every plane."""
    data: list[Any] = [None, 2**200, -0.5, "a\0b\u2028\U0001f600", {"": {"é": []}}, True]
    write(store, LEASES, data)

    assert store.read(LEASES).data == data
    assert data_in(file_of(store, LEASES)) == data


def test_pairs_are_as_good_as_a_mapping(store: RuntimeStore) -> None:
    """Writes may be given as pairs, in their order."""
    batch = store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes=[(LEDGER, 1), (LEASES, 2)]
    )

    assert [receipt.schema_name for receipt in batch.receipts] == [LEDGER, LEASES]


# --- compare and swap ---------------------------------------------------------------------------


def test_a_batch_for_another_watermark_is_a_conflict(store: RuntimeStore) -> None:
    """Nothing is written; the error says where the store is, and that trying again may help."""
    write(store, LEASES, 1, expected_high_watermark=0)
    before = files_picture(store.directory)

    for expected in (0, 2):
        with pytest.raises(ConflictError) as caught:
            write(store, LEASES, 2, expected_high_watermark=expected)
        error = caught.value
        assert isinstance(error, RetryableError)
        assert (error.expected_high_watermark, error.high_watermark) == (expected, 1)

    assert files_picture(store.directory) == before
    assert len(store.batches()) == 1
    write(store, LEASES, 2, expected_high_watermark=1)
    assert store.read(LEASES).data == 2


def test_what_a_dead_writer_left_counts_for_the_watermark(directory: Path) -> None:
    """Its batch happens first, so who did not know of it is in conflict."""
    crashing = WatchedFileSystem(at_call(0, Crash()))
    with open_store(directory, fs=crashing) as store, pytest.raises(Crash):
        write(store, LEASES, "dead")
    with open_store(directory, recover=False, batch_id_factory=Ids("late")) as store:
        with pytest.raises(ConflictError):
            write(store, LEDGER, 1, expected_high_watermark=0)

        assert store.manifest().last_committed_batch_id == "batch-1"
        assert data_in(file_of(store, LEASES)) == "dead"


# --- versions of stores -------------------------------------------------------------------------


def versions(store: RuntimeStore, name: str) -> list[Any]:
    """The current version of a store in both forms."""
    content = store.read(name)
    return [content.high_watermark, content.batch_id]


def test_a_batch_is_compared_store_by_store(store: RuntimeStore) -> None:
    """What was written beside them is no conflict, and what was written to one of them is."""
    write(store, LEASES, 1, expected={LEASES: None})
    write(store, LEDGER, 1, expected={LEDGER: 0})
    for number in (2, 3):
        version = versions(store, LEASES)[number % 2]
        write(store, "opencode.runtimeDiagnostics", number)
        write(store, LEASES, number, expected={LEASES: version})
        before = files_picture(store.directory)
        with pytest.raises(ConflictError, match=LEASES) as caught:
            store.write_batch(
                identity=IDENTITY,
                reason=CHECKPOINT,
                writes={LEASES: 0, LEDGER: 0},
                expected={LEDGER: 2, LEASES: version},
            )
        error = caught.value
        assert (error.store, error.expected) == (LEASES, version)
        assert error.found in versions(store, LEASES)
        assert type(error.found) is type(version)
        assert error.expected_high_watermark is error.high_watermark is None
        assert files_picture(store.directory) == before


def test_versions_are_compared_beside_the_watermark(store: RuntimeStore) -> None:
    """Both must be as expected."""
    write(store, LEASES, 1)
    for options in (
        {"expected_high_watermark": 0, "expected": {LEASES: 1}},
        {"expected_high_watermark": 1, "expected": {LEASES: 2}},
    ):
        with pytest.raises(ConflictError):
            write(store, LEASES, 2, **options)
    write(store, LEASES, 2, expected_high_watermark=1, expected={LEASES: 1})


def test_a_retry_does_not_compare_versions_again(store: RuntimeStore) -> None:
    """Its own first result is what it would find."""
    retry(store, expected={LEASES: None, LEDGER: None})
    assert retry(store, expected={LEASES: None, LEDGER: None}) == "job-1"
    assert len(store.batches()) == 1


# --- retries ------------------------------------------------------------------------------------


def retry(store: RuntimeStore, **changes: Any) -> str:
    """Write the batch `job-1`, perhaps changed; return its id."""
    call: dict[str, Any] = {
        "identity": IDENTITY,
        "reason": CHECKPOINT,
        "writes": {LEASES: {"a": 1, "b": 2}, LEDGER: [1]},
        "batch_id": "job-1",
    }
    return store.write_batch(**{**call, **changes}).batch_id


def test_a_retry_with_the_same_contents_gives_the_first_result(directory: Path) -> None:
    """Whoever did not hear the answer may ask again: same batch, same receipts, no new write."""
    moment = [NOON]
    with open_store(directory, clock=lambda: moment[0]) as store:
        retry(store)
        first = store.batches()
        before = files_picture(directory)
        moment[0] += timedelta(days=1)

        assert retry(store) == "job-1"
        assert retry(store, writes={LEDGER: [1], LEASES: {"a": 1, "b": 2}}) == "job-1"
        assert retry(store, expected_high_watermark=0) == "job-1"

        assert store.batches() == first
        assert files_picture(directory) == before


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"writes": {LEASES: {"a": 1, "b": 3}, LEDGER: [1]}}, id="other data"),
        pytest.param({"writes": {LEASES: {"b": 2, "a": 1}, LEDGER: [1]}}, id="other key order"),
        pytest.param({"writes": {LEASES: {"a": 1, "b": 2}}}, id="fewer stores"),
        pytest.param(
            {"writes": {LEASES: {"a": 1, "b": 2}, LEDGER: [1], SESSIONS: {}}}, id="more stores"
        ),
        pytest.param({"reason": "stop_tombstone"}, id="other reason"),
        pytest.param({"identity": RunIdentity(run_id="run-1")}, id="other identity"),
        pytest.param({"identity": RunIdentity(run_id="run-2")}, id="other run"),
    ],
)
def test_a_retry_with_anything_else_is_refused(
    store: RuntimeStore, changes: dict[str, Any]
) -> None:
    """One id is one batch: what it wrote cannot be changed afterwards."""
    retry(store)
    before = files_picture(store.directory)

    with pytest.raises(InvalidRequestError, match="job-1") as caught:
        retry(store, **changes)

    assert caught.value.field == "batch_id"
    assert files_picture(store.directory) == before
    assert store.manifest().high_watermark == 1


def test_a_retry_is_recognised_after_later_batches_and_without_its_contents(
    directory: Path,
) -> None:
    """The hash of the receipt is enough, so history may be dropped."""
    with open_store(directory, retention=Retention(batches=None, contents_per_store=1)) as store:
        retry(store)
        for number in range(5):
            write(store, LEASES, number)
        with sqlite3.connect(directory / DATABASE_NAME) as raw:
            kept = raw.execute("SELECT count(*) FROM store_contents WHERE batch_number = 1")
            assert kept.fetchone() == (1,)
        raw.close()

        assert retry(store) == "job-1"
        with pytest.raises(InvalidRequestError):
            retry(store, writes={LEASES: 4, LEDGER: [1]})
        assert store.read(LEASES).data == 4


def test_a_batch_that_failed_is_not_tried_again_under_its_id(directory: Path) -> None:
    """A failed batch never comes back."""
    failing = WatchedFileSystem(at_call(0, OSError(28, "no space")))
    with open_store(directory, fs=failing) as store:
        with pytest.raises(RetryableError, match="no space"):
            retry(store)
        with pytest.raises(InvalidRequestError, match="take a new id"):
            retry(store)
        assert retry(store, batch_id="job-2") == "job-2"


def test_a_retry_after_a_crash_gives_the_batch_that_recovery_finished(directory: Path) -> None:
    """The caller that died and asks again finds its batch done, written once."""
    crashing = WatchedFileSystem(at_call(3, Crash()))
    with open_store(directory, fs=crashing) as store, pytest.raises(Crash):
        retry(store)
    with open_store(directory, recover=False) as store:
        assert retry(store) == "job-1"
        assert store.manifest().high_watermark == 1
        assert agree(store)


def test_ids_that_are_taken_are_refused_before_anything_is_written(directory: Path) -> None:
    """Ids come from outside: a factory that repeats itself is the caller's mistake."""
    with open_store(directory) as store:
        write(store, LEASES, 1)
    before = files_picture(directory)
    with (
        open_store(directory) as store,
        pytest.raises(InvalidRequestError, match="batch-1") as caught,
    ):
        write(store, LEASES, 2)
    assert caught.value.field == "batch_id_factory"
    for factory in (Ids("receipt"), lambda: "same"):
        with (
            open_store(directory, batch_id_factory=Ids("new"), receipt_id_factory=factory) as store,
            pytest.raises(InvalidRequestError) as caught,
        ):
            store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 2, LEDGER: 2})
        assert caught.value.field == "receipt_id_factory"
    assert files_picture(directory) == before


# --- the parts ----------------------------------------------------------------------------------


def test_a_writer_refuses_a_request_of_another_team(store: RuntimeStore) -> None:
    """Composed by hand, too, state of one team never gets into another's directory."""
    writer = BatchWriter(
        store.directory,
        ManifestStore(store.database, team_name="team-b"),
        ReceiptStore(store.database),
    )
    request = BatchRequest(
        team_name="team-b",
        identity=IDENTITY,
        reason=BatchReason.LAUNCH_CHECKPOINT,
        writes=(StoreWrite(descriptor=store.descriptors.get(LEASES), data=1),),
    )

    with pytest.raises(WrongTeamError) as caught:
        writer.write_batch(request)

    assert (caught.value.expected, caught.value.found) == ("team-b", "team-a")
    assert store.batches() == []


def test_keeping_everything_keeps_everything(directory: Path) -> None:
    """With no retention every content stays."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(60):
            write(store, LEASES, number)
        with sqlite3.connect(directory / DATABASE_NAME) as raw:
            assert raw.execute("SELECT count(*) FROM store_contents").fetchone() == (60,)
        raw.close()
