"""After a death at any call: what opening puts right by itself, and what it leaves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    ActionKind,
    ActionOutcome,
    BatchState,
    NewerStoreFileError,
    ReadinessImpact,
    RecoveryFailedError,
    RecoveryPlan,
    RuntimeStore,
)
from rtstore.errors import RecoveryNeededError
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    NOON,
    Crash,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    at_call,
    data_in,
    digest,
    files_picture,
    new_directory,
    open_store,
    picture,
    plain_descriptor,
    stray_files,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'
STORES = (LEASES, LEDGER, DIAGNOSTICS)
LOGGED_AFTER = 9
"""The calls before the log is written: those that keep the copy of what was changed by hand."""
CALLS = LOGGED_AFTER + 7 + 7 + 5
"""And those that publish: one file has no mode to keep, and no old version to remove."""
CALLS_OF_RECOVERY = 28
"""Of the recovery of a writer that died at its first store file."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two committed stores, one of them changed by hand since."""
    directory = new_directory(tmp_path)
    with open_store(directory, batch_id_factory=Ids("early"), receipt_id_factory=Ids("e")) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1, LEDGER: 1})
    (directory / FILE_OF[LEDGER]).write_bytes(BY_HAND)
    return directory


def write_all(store: RuntimeStore) -> None:
    """Write the three stores as one batch."""
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=dict.fromkeys(STORES, 2))


def die(directory: Path, number: int) -> None:
    """Write the batch and die at a call of it."""
    fs = WatchedFileSystem(at_call(number, Crash()))
    with open_store(directory, fs=fs, recover=False) as store, pytest.raises(Crash):
        write_all(store)


def quarantined_in(store: RuntimeStore) -> set[bytes]:
    """The bytes of all quarantined files, each where its row says and as its row says."""
    found = set()
    for item in store.quarantined_files():
        content = (store.directory / item.quarantine_path).read_bytes()
        assert (item.content_hash, item.file_size) == (digest(content), len(content))
        found.add(content)
    return found


def check_whole(store: RuntimeStore) -> None:
    """The batch is there, as its caller was or would have been told."""
    [*_, batch] = store.batches()
    assert (batch.batch_id, batch.state) == ("batch-1", BatchState.COMMITTED)
    assert (batch.high_watermark, batch.started_at, batch.completed_at) == (2, NOON, NOON)
    assert [receipt.receipt_id for receipt in batch.receipts] == [
        "receipt-1",
        "receipt-2",
        "receipt-3",
    ]
    assert [data_in(store.directory / FILE_OF[name]) for name in STORES] == [2, 2, 2]
    for receipt in batch.receipts:
        path = store.directory / receipt.relative_path
        assert path.stat().st_mtime_ns == receipt.mtime_ns
    assert agree(store)
    assert BY_HAND in quarantined_in(store)


# --- a writer that died -------------------------------------------------------------------------


def test_the_calls_of_the_batch_are_counted_right(directory: Path) -> None:
    """The tests below die at every one of them."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs, recover=False) as store:
        write_all(store)
        check_whole(store)

    assert len(fs.calls) == CALLS
    assert "quarantine" in str(fs.calls[LOGGED_AFTER - 1][1])


@pytest.mark.parametrize("number", range(LOGGED_AFTER))
def test_death_before_the_log_leaves_everything_as_it_was(directory: Path, number: int) -> None:
    """The batch never was; what was changed by hand is where it was; nothing half is left."""
    before = (directory / FILE_OF[LEASES]).read_bytes()
    die(directory, number)

    with open_store(directory) as store:
        assert [batch.batch_id for batch in store.batches()] == ["early-1"]
        assert (directory / FILE_OF[LEASES]).read_bytes() == before
        assert (directory / FILE_OF[LEDGER]).read_bytes() == BY_HAND
        assert not (directory / FILE_OF[DIAGNOSTICS]).exists()
        assert stray_files(directory) == []
        write_all(store)
        check_whole(store)
        assert len(list((directory / "quarantine").iterdir())) == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", range(LOGGED_AFTER, CALLS))
def test_death_after_the_log_is_rolled_forward(directory: Path, number: int) -> None:
    """The batch is finished with its ids and times, once; the recovery is on record."""
    die(directory, number)

    with open_store(directory) as store:
        check_whole(store)
        assert stray_files(directory) == []
        report = store.last_recovery
        assert report is not None
        assert [step.action.kind for step in report.steps] == [ActionKind.ROLL_FORWARD] * 3
        assert {step.outcome for step in report.steps} == {ActionOutcome.DONE}
        assert report.plan.readiness_impact is ReadinessImpact.BLOCKED
        assert {step.action.batch_id for step in report.steps} == {"batch-1"}
        assert store.manifest().last_recovery_plan_id == report.plan.plan_id
    with open_store(directory) as store:
        assert store.last_recovery is None


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", range(LOGGED_AFTER, CALLS))
def test_looking_at_a_crash_leaves_it_as_it_is(directory: Path, number: int) -> None:
    """Without recovery, and read-only, the plan says blocked and why; not a file is touched."""
    die(directory, number)
    files, everything = files_picture(directory), picture(directory)

    for options in ({"read_only": True}, {"recover": False}):
        with open_store(directory, **options) as store:
            plan = store.plan_recovery()
            assert plan.readiness_impact is ReadinessImpact.BLOCKED
            assert "Uncommitted runtime store batch detected: batch-1" in plan.diagnostics
            rolled = [item for item in plan.actions if item.kind is ActionKind.ROLL_FORWARD]
            assert {item.schema_name for item in rolled} == set(STORES)
            assert store.manifest().high_watermark == 1
            assert store.snapshot().data(LEASES) == 1
            assert files_picture(directory) == files
        if "read_only" in options:
            assert {**picture(directory), **_index(everything)} == everything


def _index(everything: dict[str, Any]) -> dict[str, Any]:
    """The index of the WAL, which SQLite may make anew for a reader; it holds no data."""
    return {name: facts for name, facts in everything.items() if name.endswith("-shm")}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("number", range(LOGGED_AFTER, CALLS))
def test_the_next_writer_finishes_it_too(directory: Path, number: int) -> None:
    """A store that was opened before the other one died need not be opened again."""
    with open_store(
        directory, recover=False, batch_id_factory=Ids("next"), receipt_id_factory=Ids("n")
    ) as survivor:
        die(directory, number)
        write(survivor, LEASES, 3)

        assert [batch.batch_id for batch in survivor.batches()] == ["early-1", "batch-1", "next-1"]
        assert survivor.manifest().high_watermark == 3
        assert [data_in(directory / FILE_OF[name]) for name in STORES] == [3, 2, 2]
        assert stray_files(directory) == []
        assert agree(survivor)


def test_the_calls_of_rolling_forward_are_counted_right(directory: Path) -> None:
    """The test below dies at every one of them."""
    die(directory, LOGGED_AFTER + 1)
    fs = WatchedFileSystem()
    open_store(directory, fs=fs).close()

    assert len(fs.calls) == CALLS_OF_RECOVERY


@pytest.mark.one_in(3)
@pytest.mark.parametrize("number", range(CALLS_OF_RECOVERY))
def test_a_recovery_that_dies_is_continued_by_the_next(directory: Path, number: int) -> None:
    """Death at any call of it: the next one ends with the same batch, ids and times."""
    die(directory, LOGGED_AFTER + 1)
    with pytest.raises(Crash):
        open_store(directory, fs=WatchedFileSystem(at_call(number, Crash())))

    with open_store(directory) as store:
        check_whole(store)
        assert stray_files(directory) == []


def test_an_edit_after_the_death_is_kept_before_the_batch_goes_over_it(directory: Path) -> None:
    """The batch was decided before the edit, so it wins; the edit is quarantined."""
    die(directory, CALLS - 1)
    for name in STORES:
        (directory / FILE_OF[name]).write_bytes(BY_HAND + name.encode())

    with open_store(directory) as store:
        check_whole(store)
        assert {BY_HAND + name.encode() for name in STORES} <= quarantined_in(store)


def test_a_newer_file_stops_the_rolling_forward(directory: Path) -> None:
    """A newer program's state is never overwritten: opening says which file is in the way, and
    goes on once it is gone."""
    die(directory, LOGGED_AFTER)
    path = directory / FILE_OF[DIAGNOSTICS]
    path.write_bytes(b'{"schemaVersion": 9, "data": {}}')

    with pytest.raises(RecoveryFailedError, match=path.name) as caught:
        open_store(directory)
    assert isinstance(caught.value, RecoveryNeededError)
    assert path.read_bytes() == b'{"schemaVersion": 9, "data": {}}'
    with (
        open_store(directory, recover=False) as store,
        pytest.raises(NewerStoreFileError, match=path.name),
    ):
        write(store, LEASES, 3)
    path.rename(directory / "kept-aside.json")
    with open_store(directory) as store:
        check_whole(store)


def test_a_batch_that_cannot_be_finished_is_told_and_stays_decided(directory: Path) -> None:
    """The disk is full while opening: nothing is given up, the next opening finishes it."""
    die(directory, LOGGED_AFTER)
    full = at("rename", directory / FILE_OF[DIAGNOSTICS], OSError(28, "no space"))

    with pytest.raises(RecoveryFailedError, match="no space"):
        open_store(directory, fs=WatchedFileSystem(full))

    with open_store(directory) as store:
        check_whole(store)


# --- files that are not what is committed -------------------------------------------------------


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    facts = path.stat()
    path.write_bytes(b"\0" * facts.st_size)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [_remove, _cut, _empty, _zero, _directory, _fifo]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STORES)
def test_a_lost_or_torn_file_is_put_back_when_the_store_is_opened(
    directory: Path, damage: Callable[[Path], None], name: str
) -> None:
    """The content is in the database; what stood in its place is quarantined, unless it is what is
    left of that content."""
    with open_store(directory) as store:
        write_all(store)
        committed = files_picture(directory)
    path = directory / FILE_OF[name]
    damage(path)
    there = path.read_bytes() if path.is_file() and not path.is_symlink() else None

    with open_store(directory) as store:
        report = store.last_recovery
        assert report is not None
        assert [(step.action.kind, step.action.schema_name) for step in report.steps] == [
            (ActionKind.RESTORE_COMMITTED, name)
        ]
        assert agree(store)
        found = files_picture(directory)
        assert found[path.name][1:] == committed[path.name][1:]
        kept = [item for item in store.quarantined_files() if item.relative_path == path.name]
        is_ours = damage in (_remove, _cut, _empty, _zero)
        assert bool(kept) is (not is_ours or name == LEDGER)
        if there is not None and not is_ours:
            assert (directory / kept[-1].quarantine_path).read_bytes() == there
        elif not is_ours:
            assert kept[-1].content_hash is None
            assert os.path.lexists(directory / kept[-1].quarantine_path)
    with open_store(directory) as store:
        assert store.last_recovery is None


def test_what_an_earlier_batch_wrote_is_brought_up_to_date(directory: Path) -> None:
    """A loss of power may take the files of the last batch and leave its complete: the old version
    is no edit of anybody's."""
    with open_store(directory) as store:
        write_all(store)
        old = {name: (directory / FILE_OF[name]).read_bytes() for name in STORES}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=dict.fromkeys(STORES, 3))
    for name in STORES:
        (directory / FILE_OF[name]).write_bytes(old[name])

    with open_store(directory) as store:
        assert agree(store)
        assert [data_in(directory / FILE_OF[name]) for name in STORES] == [3, 3, 3]
        assert quarantined_in(store) == {BY_HAND}


@pytest.mark.parametrize(
    "content",
    [BY_HAND + b" ", b'{"schemaVersion": 7, "data": 1}'],
    ids=["changed by hand", "newer"],
)
def test_opening_leaves_what_wants_a_decision(directory: Path, content: bytes) -> None:
    """A sound file that somebody else wrote is not for opening to judge: it stays, and the plan
    asks."""
    path = directory / FILE_OF[LEASES]
    path.write_bytes(content)
    before = files_picture(directory)

    with open_store(directory) as store:
        assert store.last_recovery is None
        kinds = {action.schema_name: action.kind for action in store.plan_recovery().actions}
        assert kinds[LEASES] is ActionKind.QUARANTINE
        assert store.quarantined_files() == []
    assert files_picture(directory) == before


def test_temporary_files_are_swept_wherever_a_writer_may_have_left_them(directory: Path) -> None:
    """Beside the stores and in quarantine; nothing else goes."""
    die(directory, 5)
    names = [".opencode-sessions.json.rtstore-tmp", "quarantine/.x.json.0.rtstore-tmp"]
    others = [".hidden.json", "notes.rtstore-tmp", "quarantine/notes.txt"]
    (directory / "quarantine").mkdir(exist_ok=True)
    for name in names + others:
        (directory / name).write_text("half")

    with open_store(directory) as store:
        assert store.last_recovery is None

    assert not any((directory / name).exists() for name in names)
    assert all((directory / name).read_text() == "half" for name in others)


def test_nothing_is_swept_behind_a_link(tmp_path: Path) -> None:
    """A folder that leads out of the runtime directory is not ours to tidy up."""
    directory, outside = new_directory(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (outside / ".a.json.rtstore-tmp").write_text("somebody's")
    (directory / "folder").symlink_to(outside)

    open_store(directory, descriptors=[plain_descriptor("test.a", "folder/a.json")]).close()

    assert (outside / ".a.json.rtstore-tmp").read_text() == "somebody's"


def test_a_file_that_cannot_be_put_back_is_logged_and_stays_in_the_plan(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store opens all the same, and the others are put back."""
    with open_store(directory) as store:
        write_all(store)
    for name in (LEASES, DIAGNOSTICS):
        (directory / FILE_OF[name]).unlink()
    judge = at("rename", directory / FILE_OF[LEASES], OSError(28, "no space"))

    with (
        caplog.at_level(logging.INFO, logger="rtstore.recovery"),
        open_store(directory, fs=WatchedFileSystem(judge)) as store,
    ):
        assert store.last_recovery is not None
        outcomes = {step.action.schema_name: step.outcome for step in store.last_recovery.steps}
        assert outcomes == {LEASES: ActionOutcome.FAILED, DIAGNOSTICS: ActionOutcome.DONE}
        plan: RecoveryPlan = store.last_recovery.remaining
        assert [item.schema_name for item in plan.actions if item.reason == "missing"].count(
            LEASES
        ) == 1
        assert store.read(DIAGNOSTICS).data == 2

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    [record] = [record for record in warnings if record.name == "rtstore.recovery"]
    assert LEASES in record.getMessage()
    assert "no space" in record.getMessage()
