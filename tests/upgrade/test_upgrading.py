"""An older database becomes a current one, whole or not at all; what is refused stays as it is."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    CorruptDatabaseError,
    ForeignDatabaseError,
    LockTimeoutError,
    NewerDatabaseError,
    NotARuntimeDirectoryError,
    OlderDatabaseError,
    RuntimeStore,
    RuntimeStoreError,
    UpgradeFailedError,
    WriterLock,
    WrongTeamError,
    import_directory,
    upgrade_directory,
)
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.upgrade import BACKUPS_KEPT, backups_in
from tests.support import (
    LEASES,
    NOON,
    WatchedFileSystem,
    agree,
    breadth,
    data_in,
    picture,
)
from tests.support.forked import forked
from tests.support.printed import lines_of
from tests.upgrade.freeze import unpack
from tests.upgrade.life import NOTES
from tests.upgrade.states import (
    OLDER,
    looked_at,
    problems_in_use,
    problems_of_backups,
    problems_of_database,
    problems_of_files,
)

OLDEST, LATEST = REVISIONS[0], REVISIONS[-1]
SHM = ("-shm",)
"""The index of a WAL, which any reader may make anew; it holds no data."""


# --- every revision that was shipped --------------------------------------------------------------


@pytest.mark.parametrize("frozen", OLDER)
def test_a_frozen_directory_comes_up_to_date(frozen: str, tmp_path: Path) -> None:
    """Opening upgrades the database with everything that is in it; the rest of the directory is as
    it was, the back-up is what the database was, and a runtime goes on."""
    directory = unpack(frozen, tmp_path)
    RuntimeStore.open(directory, recover=False).close()
    look = looked_at(directory)
    assert problems_of_database(look / DATABASE_NAME, frozen, (LATEST,)) == []
    assert problems_of_files(look, frozen) == []
    assert len(list(look.glob("runtime-store.backup-*"))) == 1
    assert problems_of_backups(look, frozen) == []
    assert problems_in_use(directory) == []


DIE_WRITING = """
import os, signal, sys
from rtstore import RuntimeStore
from rtstore.parts import FileSystem
from rtstore.testing import Seams
from tests.support import LEASES
from tests.upgrade.life import NOTES, SECOND

class Deadly(FileSystem):
    def rename(self, source, target):
        if target.name == "notes.json":
            os.kill(os.getpid(), signal.SIGKILL)
        super().rename(source, target)

    def rename_new(self, source, target):
        return False  # so that it renames

    def exchange(self, first, second):
        return False  # so that it renames

RuntimeStore.open(sys.argv[1], seams=Seams(fs=Deadly())).write_batch(
    identity=SECOND, reason="delivery_commit", batch_id="killed", writes={LEASES: [4], NOTES: [4]}
)
"""


@pytest.mark.one_in(3)
@pytest.mark.parametrize("frozen", REVISIONS)
def test_a_crash_after_the_upgrade(frozen: str, tmp_path: Path) -> None:
    """In every frozen directory, the newest included, a writer that is killed between two renames
    leaves a batch that the next opening finishes."""
    directory = unpack(frozen, tmp_path)
    assert problems_in_use(directory) == []
    with forked(DIE_WRITING, directory) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    assert data_in(directory / "opencode-host-leases.json") == [4]
    assert data_in(directory / "own" / "notes.json") == [3]
    with RuntimeStore.open(directory) as store:
        assert store.last_recovery is not None
        assert store.manifest().last_committed_batch_id == "killed"
        assert store.read(NOTES).data == store.read(LEASES).data == [4]
        assert agree(store)
        assert len(store.upgrades()) == (frozen != LATEST)


def test_an_upgrade_is_on_record(oldest: Path) -> None:
    """The report and the database say from where, to where and when, and where the back-up is."""
    report = upgrade_directory(oldest, clock=lambda: NOON)
    assert (report.from_revision, report.to_revision) == (OLDEST, LATEST)
    assert (report.revisions, report.changed) == (REVISIONS[1:], True)
    assert report.backup is not None
    assert report.backup.name == (f"runtime-store.backup-{OLDEST}-20260421T120000.000Z.sqlite3")
    with RuntimeStore.open(oldest) as store:
        (row,) = store.upgrades()
    assert (row.from_revision, row.to_revision, row.upgraded_at) == (OLDEST, LATEST, NOON)
    assert row.backup_path == report.backup.name


def test_a_current_directory_is_left_alone(oldest: Path) -> None:
    """The second upgrade has nothing to do, and changes nothing."""
    upgrade_directory(oldest)
    before = picture(oldest)
    report = upgrade_directory(oldest)
    assert (report.changed, report.revisions, report.backup) == (False, (), None)
    assert picture(oldest) == before


def test_old_backups_go(oldest: Path) -> None:
    """Of the back-ups the newest few stay, in the order of their times."""
    report = None
    original = looked_at(oldest)
    for day in range(BACKUPS_KEPT + 2):
        for path in (original / DATABASE_NAME, original / f"{DATABASE_NAME}-wal"):
            (oldest / path.name).write_bytes(path.read_bytes())
        (oldest / f"{DATABASE_NAME}-shm").unlink(missing_ok=True)
        report = upgrade_directory(oldest, clock=lambda day=day: NOON + timedelta(days=day))  # type: ignore[misc]
    kept = backups_in(oldest, WatchedFileSystem())
    assert len(kept) == BACKUPS_KEPT
    assert report is not None
    assert kept[-1] == report.backup
    assert [path.name.rpartition("-")[2][:8] for path in kept] == [
        "20260423", "20260424", "20260425",
    ]  # fmt: skip


def test_a_clock_that_is_wrong(oldest: Path) -> None:
    """The back-up that an upgrade has just made stays, though by its time it were the oldest."""
    for day in range(BACKUPS_KEPT):
        name = f"runtime-store.backup-{OLDEST}-2026042{day}T120000.000Z.sqlite3"
        (oldest / name).write_bytes(b"a database")
    report = upgrade_directory(oldest, clock=lambda: datetime(1970, 1, 1, tzinfo=UTC))
    kept = backups_in(oldest, WatchedFileSystem())
    assert report.backup in kept
    assert len(kept) == BACKUPS_KEPT


def test_progress_is_told(oldest: Path) -> None:
    """An upgrade, and a dry run, tell how much of the database is copied, to the end."""
    told: list[tuple[int, int]] = []
    for dry_run in (True, False):
        upgrade_directory(oldest, dry_run=dry_run, progress=lambda *what: told.append(what))
        assert told
        assert told[-1][0] == told[-1][1]
        told.clear()


def test_two_backups_of_one_moment(oldest: Path) -> None:
    """A back-up never takes the name of another one, whatever the clock says."""
    original = looked_at(oldest)
    first = upgrade_directory(oldest, clock=lambda: NOON).backup
    for path in (original / DATABASE_NAME, original / f"{DATABASE_NAME}-wal"):
        (oldest / path.name).write_bytes(path.read_bytes())
    second = upgrade_directory(oldest, clock=lambda: NOON).backup
    assert backups_in(oldest, WatchedFileSystem()) == [first, second]


# --- what is refused ------------------------------------------------------------------------------


def test_an_older_database_can_be_refused(oldest: Path) -> None:
    """Without leave to upgrade, and read-only, an older database is refused with both revisions and
    what to run; not a byte is changed, the WAL of the killed writer included."""
    before = picture(oldest)
    options: list[dict[str, Any]] = [{"upgrade": False}, {"read_only": True}]
    for option in options:
        with pytest.raises(OlderDatabaseError, match=r"Run: rtstore upgrade .*runtime ") as caught:
            RuntimeStore.open(oldest, **option)
        assert (caught.value.found_revision, caught.value.supported_revision) == (OLDEST, LATEST)
    with pytest.raises(OlderDatabaseError):
        import_directory(oldest)
    assert picture(oldest, without=SHM) == before


def test_nothing_to_upgrade(tmp_path: Path) -> None:
    """Where there is no store, an upgrade says how to make one, and makes nothing."""
    with pytest.raises(NotARuntimeDirectoryError, match=r"rtstore init .*nowhere --team NAME"):
        upgrade_directory(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_another_teams_database_is_not_upgraded(oldest: Path) -> None:
    """A wrong team is refused before the upgrade, not after it."""
    before = picture(oldest)
    with pytest.raises(WrongTeamError):
        RuntimeStore.open(oldest, team_name="team-b")
    assert picture(oldest, without=SHM) == before


def _unknown(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999_from_the_future'")
        connection.execute("PRAGMA user_version = 999")


def _another_program(path: Path) -> None:
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (title TEXT)")


def _truncated(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:10_000])


REFUSED = [
    (
        _unknown,
        NewerDatabaseError,
        rf"0999_from_the_future, .* up to {LATEST}.*with a newer rtstore",
    ),
    (_another_program, ForeignDatabaseError, "not a control database of rtstore.*Nothing was"),
    (_truncated, CorruptDatabaseError, "is damaged: .*malformed.*a back-up"),
]


@pytest.mark.parametrize(
    ("spoil", "error", "message"), REFUSED, ids=[spoil.__name__[1:] for spoil, _, _ in REFUSED]
)
@pytest.mark.parametrize("act", [RuntimeStore.open, upgrade_directory], ids=["open", "upgrade"])
def test_refused_and_untouched(
    oldest: Path, spoil: Any, error: type[RuntimeStoreError], message: str, act: Any
) -> None:
    """An unknown revision, another application's database and a truncated one are refused, each
    with its own error; every file is as it was."""
    spoil(oldest / DATABASE_NAME)
    before = picture(oldest)
    with pytest.raises(error, match=message):
        act(oldest)
    assert picture(oldest) == before


DIE_WITH_A_WAL = """
import os, signal, sqlite3, sys
driver = sqlite3.connect(sys.argv[1], isolation_level=None)
driver.execute("PRAGMA wal_autocheckpoint = 0")
for statement in sys.argv[2:]:
    driver.execute(statement).fetchall()
os.kill(os.getpid(), signal.SIGKILL)
"""
STAMP = "UPDATE alembic_version SET version_num = '0999_from_the_future'"
NUMBER = "PRAGMA user_version = 999"
MERGE = "PRAGMA wal_checkpoint(TRUNCATE)"
WRITE = "CREATE TABLE of_the_future (text)"


@pytest.mark.parametrize("act", [RuntimeStore.open, upgrade_directory], ids=["open", "upgrade"])
@pytest.mark.parametrize("in_wal", [False, True], ids=["in the file", "in the WAL"])
def test_what_a_newer_program_left_is_not_touched(oldest: Path, in_wal: bool, act: Any) -> None:
    """A newer database whose writer was killed is refused with everything beside it as it was, its
    WAL and its `-shm` too. (Where only the WAL says that it is newer, SQLite makes the `-shm` anew
    to read it.)"""
    path = oldest / DATABASE_NAME
    statements = [STAMP, NUMBER, *([] if in_wal else [MERGE]), WRITE]
    with forked(DIE_WITH_A_WAL, path, *statements) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    kept = SHM if in_wal else ()
    before = picture(oldest, without=kept)
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    with pytest.raises(NewerDatabaseError, match="at revision 0999_from_the_future"):
        act(oldest)
    assert picture(oldest, without=kept) == before


def test_a_dry_run_changes_nothing(oldest: Path) -> None:
    """A dry run tries the upgrade on a copy that goes again, and says what would be done; one that
    would fail fails."""
    before = picture(oldest)
    report = upgrade_directory(oldest, dry_run=True)
    assert (report.dry_run, report.changed, report.revisions) == (True, False, REVISIONS[1:])
    assert picture(oldest, without=SHM) == before
    with closing(sqlite3.connect(oldest / DATABASE_NAME)) as connection:
        connection.execute("CREATE TABLE database_upgrades (in_the_way)")
    with pytest.raises(UpgradeFailedError, match="table database_upgrades already exists"):
        upgrade_directory(oldest, dry_run=True)


# --- others ---------------------------------------------------------------------------------------


def test_an_upgrade_waits_for_a_writer(oldest: Path) -> None:
    """Beside a writer an upgrade waits, and says who holds the lock when it has waited enough."""
    with WriterLock(oldest).hold(), pytest.raises(LockTimeoutError, match="held by process"):
        upgrade_directory(oldest, lock_timeout_s=0.05)
    assert upgrade_directory(oldest).changed


def test_a_program_that_was_overtaken_writes_no_more(tmp_path: Path) -> None:
    """A store that is open while a newer program upgrades its database refuses to write, so that
    nothing old gets into what is new; it can still be read and closed."""
    store = RuntimeStore.open(tmp_path / "runtime", team_name="team-a")
    with closing(sqlite3.connect(tmp_path / "runtime" / DATABASE_NAME)) as newer:
        newer.execute(f"PRAGMA user_version = {len(REVISIONS) + 1}")
    with pytest.raises(NewerDatabaseError, match="with a newer rtstore"):
        _write(store)
    assert store.manifest().high_watermark == 0
    store.close()


def _write(store: RuntimeStore) -> None:
    from tests.support import IDENTITY

    store.write_batch(identity=IDENTITY, reason="host_lease_update", writes={LEASES: {}})


# --- processes ------------------------------------------------------------------------------------


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
each_older = pytest.mark.parametrize("frozen", breadth.params(OLDER, normal=()))
ENDS = (OLDER[0], OLDER[-1])
"""An upgrade of the oldest runs every later revision, in one transaction; that of the newest runs
one. Those in between are tried in the full run."""
from_both_ends = pytest.mark.parametrize("frozen", breadth.params(OLDER, normal=(), thorough=ENDS))


@needs_fork
@pytest.mark.parametrize("frozen", breadth.params(OLDER, normal=(), thorough=ENDS))
def test_an_upgrade_that_is_killed(frozen: str) -> None:
    """Killed before any SQL statement or file operation that follows a change, the store is at the
    old revision or the new one, whole, and a runtime goes on."""
    (line,) = lines_of("tests.upgrade.kills", "--quick", "kill", frozen)
    assert line["revision"] == frozen
    assert line["sql"] > 10
    assert line["file"] > 5
    assert line["failures"] == 0, line["first"]


@pytest.mark.early
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("frozen", breadth.params(OLDER, normal=(), thorough=OLDER[-1:]))
def test_killed_in_a_system_call(frozen: str) -> None:
    """An upgrade is killed in place of a system call that changes a file, those of SQLite too: the
    first and the last of each kind."""
    (line,) = lines_of("tests.upgrade.system_calls", "--quick", frozen)
    assert {"fdatasync", "pwrite64", "ftruncate"} <= line.keys()
    assert line["failures"] == 0, line["first"]


@pytest.mark.early
@needs_fork
@from_both_ends
@pytest.mark.parametrize("job", ["fail", "power", "control"])
def test_an_upgrade_in_trouble(frozen: str, job: str) -> None:
    """With an error in place of any call that writes, and with the power lost at any moment, the
    store is at the old revision or the new one, whole; at the new one its back-up is there. The
    control, whose back-up is not flushed with its name, is caught."""
    (line,) = lines_of("tests.upgrade.trouble", "--quick", job, frozen)
    assert line["job"] == job
    assert line["points"] > 10 or job == "control"
    assert bool(line["failures"]) is (job == "control"), line["first"]


@each_older
def test_the_check_sees_half_an_upgrade(frozen: str) -> None:
    """The control of the above: an upgrade in pieces, killed the same way, is caught."""
    (line,) = lines_of("tests.upgrade.kills", "control", frozen)
    assert line["failures"] > 0


@each_older
def test_ten_processes_at_once(frozen: str) -> None:
    """Ten processes open one old store at the same moment: one upgrades, ten work."""
    (line,) = lines_of("tests.upgrade.kills", "crowd", frozen)
    assert (line["points"], line["failures"]) == (10, 0), line["first"]
