"""How much history is kept is remembered in the directory, for whoever names nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    KEEP_EVERYTHING,
    AsyncRuntimeStore,
    BatchRequest,
    BatchWriter,
    CorruptDatabaseError,
    InvalidRequestError,
    LockTimeoutError,
    ManifestStore,
    ReceiptStore,
    Retention,
    RuntimeStore,
    StoreWrite,
    WrongTeamError,
    rebuild_database,
    restore_backup,
)
from rtstore.model.records import BatchReason
from rtstore.testing import Seams
from tests.support import (
    IDENTITY,
    LEASES,
    TEAM,
    Crash,
    WatchedFileSystem,
    answer,
    at,
    file_of,
    hear,
    open_store,
    picture,
    write,
)
from tests.support.forked import forked
from tests.support.query_trace import traced

VERSIONS = 70
"""More contents than are kept by default, and than one batch drops."""

DEFAULT = (1_000, 50, None)
SOME = Retention(batches=200, contents_per_store=120, max_age=timedelta(days=90, microseconds=1))


def row(directory: Path) -> tuple[object, ...]:
    """What is remembered, told by plain SQL."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        (found,) = raw.execute(
            "SELECT batches, contents_per_store, max_age_seconds FROM history_retention"
        ).fetchall()
    return tuple(found)


def with_history(directory: Path) -> Path:
    """Have a runtime that keeps everything write one store again and again."""
    with open_store(directory, retention=KEEP_EVERYTHING) as store:
        for number in range(VERSIONS):
            write(store, LEASES, number)
    return directory


def contents(directory: Path) -> int:
    """How many contents there are."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        return int(raw.execute("SELECT count(*) FROM store_contents").fetchone()[0])


# --- who names none -----------------------------------------------------------------------------


def test_who_names_none_drops_nothing_that_the_others_keep(directory: Path) -> None:
    """A program that knows nothing of the first one's retention keeps by it."""
    with_history(directory)
    script = """
from rtstore import RunIdentity, RuntimeStore
with RuntimeStore.open(sys.argv[1]) as store:
    store.write_batch(identity=RunIdentity(run_id="run-2"), reason="host_lease_update",
                      writes={"opencode.hostLeases": "a colleague's"})
    say(store.retention.contents_per_store)
"""
    with forked(script, directory) as process:
        assert hear(process) == "None"
        assert process.wait(30) == 0
    assert contents(directory) == VERSIONS + 1


def test_what_is_named_is_remembered_across_processes(directory: Path) -> None:
    """The last retention that somebody named is that of everybody who names none, to the
    microsecond; it is there as soon as the store is open, whatever happens to the program."""
    script = """
from datetime import timedelta
from rtstore import Retention, RuntimeStore
keep = Retention(batches=200, contents_per_store=120, max_age=timedelta(90, 0, 1))
store = RuntimeStore.open(sys.argv[1], retention=keep)
say("open")
wait()
"""
    with forked(script, directory) as process:
        assert hear(process) == "open"
        process.kill()
    with open_store(directory) as store:
        assert store.retention == SOME
        assert store.prune(dry_run=True).retention == SOME
    with open_store(directory, retention=KEEP_EVERYTHING):
        pass
    assert row(directory) == (None, None, None)
    with open_store(directory) as store:
        assert store.retention == KEEP_EVERYTHING


@pytest.mark.parametrize("named", [None, SOME, KEEP_EVERYTHING], ids=["none", "some", "everything"])
def test_a_new_directory_remembers_what_it_was_made_with(
    tmp_path: Path, named: Retention | None
) -> None:
    """It does so from its first moment on: with the default where nothing was named."""
    fs = WatchedFileSystem()
    new = tmp_path / "new"

    def die_when_it_is_there(_number: int, name: str, _subject: Path | int) -> Crash | None:
        return Crash() if name == "fsync_directory" and (new / DATABASE_NAME).exists() else None

    fs.judge = die_when_it_is_there
    with pytest.raises(Crash):
        RuntimeStore.open(new, team_name=TEAM, retention=named, seams=Seams(fs=fs))
    with open_store(new) as store:
        assert store.retention == (named or Retention())


def test_it_is_the_default_until_somebody_names_one(directory: Path) -> None:
    """Nothing is dropped less than before: history of who never names one stays bounded."""
    assert row(directory) == DEFAULT
    with open_store(directory) as store:
        for number in range(VERSIONS):
            write(store, LEASES, number)
    assert contents(directory) <= 50 * 9 // 8


@pytest.mark.parametrize(
    "longest", [timedelta.max, timedelta(microseconds=1), timedelta(days=36_500, microseconds=999)]
)
def test_every_age_can_be_remembered(directory: Path, longest: timedelta) -> None:
    """The shortest and the longest age are read back as they were, but for a day of those that
    are longer than anything."""
    with open_store(directory, retention=Retention(max_age=longest)):
        pass
    with open_store(directory) as store:
        found = store.retention.max_age
    assert found is not None
    assert found == longest or longest - found <= timedelta(days=1) < timedelta(days=10**8) < found


@pytest.mark.parametrize("field", ["batches", "contents_per_store"])
def test_more_than_the_database_can_hold_is_refused(field: str) -> None:
    """A limit is a number that SQLite has; the largest of those works."""
    with pytest.raises(ValueError, match=field):
        Retention.model_validate({field: 2**63})


def test_the_largest_limits_work(directory: Path) -> None:
    """Nothing overflows on the way, in a batch or in a prune."""
    largest = Retention(batches=2**63 - 1, contents_per_store=2**63 - 1)
    with open_store(directory, retention=largest) as store:
        write(store, LEASES, 1)
        write(store, LEASES, 2)
        assert store.prune().contents_left == 2
    with open_store(directory) as store:
        assert store.retention == largest


async def _in_a_loop(directory: Path) -> Retention:
    async with AsyncRuntimeStore.open(directory, retention=SOME):
        pass
    async with AsyncRuntimeStore.open(directory) as store:
        return store.retention


def test_asynchronous_stores_remember_too(directory: Path) -> None:
    """They share the directory, and so what it remembers."""
    assert asyncio.run(_in_a_loop(directory)) == SOME


# --- what changes nothing -----------------------------------------------------------------------


def test_looking_changes_nothing(directory: Path) -> None:
    """Opened read-only, a retention counts for what is asked there, and is not remembered."""
    with_history(directory)
    before = picture(directory)
    with RuntimeStore.open(directory, read_only=True, retention=Retention(batches=5)) as store:
        assert store.prune(dry_run=True).batches == VERSIONS - 5
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.prune(dry_run=True).batches == 0
    assert picture(directory) == before


def test_pruning_is_not_remembered(directory: Path) -> None:
    """Limits that are given to `prune` count this once."""
    with_history(directory)
    with open_store(directory) as store:
        assert store.prune(Retention(batches=20)).batches == VERSIONS - 20
        assert store.prune().batches == 0
    assert row(directory) == (None, None, None)


def test_who_is_refused_changes_nothing(directory: Path) -> None:
    """Neither another team's program nor a wrong argument says how much is kept."""
    with pytest.raises(WrongTeamError):
        open_store(directory, team_name="another", retention=KEEP_EVERYTHING)
    with pytest.raises(InvalidRequestError, match="retention"):
        open_store(directory, retention=0)
    assert row(directory) == DEFAULT


def test_only_what_differs_is_written(directory: Path) -> None:
    """Beside a writer that holds the lock, naming what is remembered waits for nobody; another
    retention waits for the lock, and in vain changes nothing."""
    script = """
from pathlib import Path
from rtstore import WriterLock
with WriterLock(Path(sys.argv[1])).hold():
    say("held")
    wait()
"""
    with open_store(directory, retention=SOME):
        pass
    with forked(script, directory) as process:
        assert hear(process) == "held"
        with open_store(directory, retention=SOME, lock_timeout_s=0.05) as store:
            assert store.retention == SOME
        with pytest.raises(LockTimeoutError):
            open_store(directory, retention=KEEP_EVERYTHING, lock_timeout_s=0.05)
        answer(process)
    with open_store(directory) as store:
        assert store.retention == SOME


def test_remembering_costs_no_statement(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening asks for it in the statement that it makes anyway, and no batch asks."""
    with traced(monkeypatch) as trace:
        with open_store(directory) as store:
            write(store, LEASES, 1)
            write(store, LEASES, 2)
        asked = [sql for sql in trace.statements.elements() if "history_retention" in sql]
    assert len(asked) == 1
    assert "FROM runtime_manifest" in asked[0]


# --- who else writes ----------------------------------------------------------------------------


def _leave_a_batch(directory: Path) -> None:
    fs = WatchedFileSystem()
    store = RuntimeStore.open(directory, seams=Seams(fs=fs))
    fs.judge = at("rename", file_of(store, LEASES), Crash())
    with suppress(Crash):
        write(store, LEASES, "of a dead writer", batch_id="batch-left")
    with store.lock.hold():
        store.database.close()


def test_a_back_up_keeps_what_the_runtime_keeps(directory: Path, tmp_path: Path) -> None:
    """Nothing is dropped in it, not even by the dead writer's batch that is finished there; and a
    directory that is made of it remembers the same."""
    with_history(directory)
    _leave_a_batch(directory)
    with RuntimeStore.open(directory, read_only=True) as store:
        store.back_up(tmp_path / "copy")
    restore_backup(tmp_path / "copy", tmp_path / "again")
    with open_store(tmp_path / "again") as store:
        assert store.read(LEASES).data == "of a dead writer"
        assert store.retention == KEEP_EVERYTHING
    assert contents(tmp_path / "again") == VERSIONS + 1


def test_a_writer_made_by_hand_keeps_what_the_runtime_keeps(directory: Path) -> None:
    """A writer that is not told keeps by what is remembered."""
    with_history(directory)
    with open_store(directory) as store:
        writer = BatchWriter(
            directory, ManifestStore(store.database, team_name=TEAM), ReceiptStore(store.database)
        )
        writer.write_batch(
            BatchRequest(
                team_name=TEAM,
                identity=IDENTITY,
                reason=BatchReason.HOST_LEASE_UPDATE,
                writes=(StoreWrite(descriptor=store.descriptors.get(LEASES), data="by hand"),),
            )
        )
    assert contents(directory) == VERSIONS + 1


# --- damage -------------------------------------------------------------------------------------

DAMAGE = (
    "UPDATE history_retention SET batches = 0",
    "UPDATE history_retention SET batches = -5",
    "UPDATE history_retention SET contents_per_store = 0",
    "UPDATE history_retention SET max_age_seconds = 0",
    "UPDATE history_retention SET max_age_seconds = -1.5",
    "UPDATE history_retention SET max_age_seconds = 1e-9",
    "UPDATE history_retention SET max_age_seconds = 9e999",
    "DROP TABLE history_retention",
)


def _damage(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute(statement)


def test_a_row_that_is_deleted_drops_nothing(directory: Path) -> None:
    """Everything is kept, until a program names a retention; that is remembered as ever."""
    with_history(directory)
    _damage(directory, "DELETE FROM history_retention")
    with RuntimeStore.open(directory) as store:
        assert store.retention == KEEP_EVERYTHING
        write(store, LEASES, "one more")
    assert contents(directory) == VERSIONS + 1

    RuntimeStore.open(directory, retention=Retention(batches=5)).close()
    with RuntimeStore.open(directory) as store:
        assert store.retention == Retention(batches=5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("statement", DAMAGE)
def test_a_row_that_makes_no_sense_is_damage(directory: Path, statement: str) -> None:
    """It is told as damage, and nothing is dropped by it; a rebuild takes the default then, and
    says so."""
    with_history(directory)
    _damage(directory, statement)
    for options in ({}, {"retention": KEEP_EVERYTHING}, {"read_only": True}):
        with pytest.raises(CorruptDatabaseError):
            RuntimeStore.open(directory, **options)
    assert contents(directory) == VERSIONS

    report = rebuild_database(directory)

    assert any("1000 batches, 50 contents and 64 MiB" in line for line in report.lost), report.lost
    assert row(directory) == DEFAULT
    with open_store(directory) as store:
        assert store.read(LEASES).data == VERSIONS - 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO history_retention (id) VALUES (2)",
        "UPDATE history_retention SET batches = 0",
        "UPDATE history_retention SET contents_per_store = 0",
        "UPDATE history_retention SET max_age_seconds = 0",
    ],
)
def test_the_database_itself_refuses_what_makes_no_sense(directory: Path, statement: str) -> None:
    """There is one row, and no limit that keeps nothing."""
    with (
        closing(sqlite3.connect(directory / DATABASE_NAME)) as raw,
        pytest.raises(sqlite3.IntegrityError),
    ):
        raw.execute(statement)


def test_a_rebuild_keeps_by_what_the_old_database_remembers(directory: Path) -> None:
    """Where it can still be read, the new database remembers the same."""
    with open_store(directory, retention=SOME) as store:
        write(store, LEASES, 1)
    _damage(directory, "UPDATE store_contents SET content = 'another'")
    report = rebuild_database(directory)
    assert not any("50 contents" in line for line in report.lost)
    with open_store(directory) as store:
        assert store.retention == SOME
