"""What somebody did to rows with the `sqlite3` shell, and by which nothing that is committed is
lost: it stops neither a writer nor a back-up, the doctor says it, and there is a way out."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    CorruptDatabaseError,
    LockTimeoutError,
    RuntimeStore,
    restore_backup,
    upgrade_directory,
    verify_backup,
)
from rtstore.control.lock import WriterLock
from rtstore.control.schema import REVISIONS
from rtstore.files.system import FileSystem
from rtstore.maintenance.upgrade import backups_in
from tests.cli.commands import Result, ready_team, run
from tests.support import CHECKPOINT, IDENTITY
from tests.upgrade.freeze import rows_of, unpack

LEASES = "opencode.hostLeases"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory at rest, with some batches of which nothing is current any more."""
    found = ready_team(tmp_path)
    for number in range(3):
        _write(found, number)
    return found


def _write(directory: Path, number: int) -> int:
    with RuntimeStore.open(directory) as store:
        identity = store.manifest().active_identity or IDENTITY
        batch = store.write_batch(
            identity=identity, reason=CHECKPOINT, writes={LEASES: {"leases": [], "n": number}}
        )
        assert batch.high_watermark is not None
        return batch.high_watermark


def _sql(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


def _rows(directory: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        return raw.execute(sql).fetchall()


def _finding(examined: Result) -> tuple[str, str, list[str | None]]:
    (found,) = (item for item in examined.json()["findings"] if item["check"] == "database")
    return found["level"], found["sentence"], [way["command"] for way in found["ways"]]


LEFT = "DELETE FROM write_batches WHERE batch_number IN (4, 5)"


def test_batches_that_somebody_deleted_are_lost_history(directory: Path, tmp_path: Path) -> None:
    """The rest holds: it is read, written and backed up, and the doctor says what is lost. The
    upgrade that it names removes what is left of those batches, and touches no other."""
    before = _rows(directory, "SELECT * FROM write_batches WHERE batch_number NOT IN (4, 5)")
    current = {path.name: path.read_bytes() for path in directory.glob("*.json")}
    _sql(directory, LEFT)
    assert run("status", directory).code == 0
    level, sentence, ways = _finding(run("doctor", directory, "--json"))
    assert (level, ways) == ("yellow", [f"rtstore upgrade {directory}"])
    assert "somebody deleted history of it by hand" in sentence
    assert run("backup", directory, tmp_path / "backup").code == 0
    verify_backup(tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "restored")
    assert run("status", tmp_path / "restored").code == 0
    tried = upgrade_directory(directory, dry_run=True)
    assert (tried.removed_rows, tried.changed) == (2, False)
    left = _rows(directory, "SELECT * FROM store_contents ORDER BY schema_name, batch_number")
    said = run("upgrade", directory).out
    assert "Removed 2 rows that were left of history that somebody deleted by hand" in said
    (backup,) = backups_in(directory, FileSystem())  # they may have had the only copy of a content
    assert f"rtstore restore {backup} NEW_DIR" in said
    with closing(sqlite3.connect(backup)) as raw:
        kept = raw.execute("SELECT * FROM store_contents ORDER BY schema_name, batch_number")
        assert kept.fetchall() == left
    assert _rows(directory, "PRAGMA foreign_key_check") == []
    assert _rows(directory, "SELECT * FROM write_batches") == before
    assert {path.name: path.read_bytes() for path in directory.glob("*.json")} == current
    assert _finding(run("doctor", directory, "--json"))[0] == "green"
    assert not upgrade_directory(directory).changed
    assert _write(directory, 9) == 7


def test_recoveries_and_contents_that_somebody_deleted(directory: Path) -> None:
    """Their remains go the same way."""
    _sql(
        directory,
        "INSERT INTO recovery_actions (run_number, position, kind, schema_name) "
        "VALUES (99, 0, 'none', 'x')",
        "DELETE FROM batch_writes WHERE batch_number = 4",
    )
    assert _finding(run("doctor", directory, "--json"))[0] == "yellow"
    report = upgrade_directory(directory)
    assert report.changed
    assert (report.backup, report.revisions) == (backups_in(directory, FileSystem())[-1], ())
    assert _rows(directory, "PRAGMA foreign_key_check") == []


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM write_batches WHERE batch_number = 6",
        "DELETE FROM write_batches WHERE batch_number = 3",
        "UPDATE write_batches SET state = 'failed', high_watermark = NULL WHERE batch_number = 6",
    ],
)
def test_a_current_entry_without_its_batch_is_damage(edit: str, directory: Path) -> None:
    """It is not history: without that row, what is committed could not be read, and would pass for
    nothing. So every command says it, no batch is written, and an upgrade changes nothing."""
    _sql(
        directory,
        "DROP TRIGGER write_batches_in_use_stay",
        "DROP TRIGGER write_batches_state_is_final",
        edit,
    )
    before = rows_of(directory / DATABASE_NAME)
    for command in ("status", "plan", "recover"):
        refused = run(command, directory)
        assert (refused.code, "is not on record as committed" in refused.err) == (5, True)
    assert "damaged" in run("doctor", directory).out
    with pytest.raises(CorruptDatabaseError):
        _write(directory, 9)
    with suppress(CorruptDatabaseError):
        upgrade_directory(directory)
    assert rows_of(directory / DATABASE_NAME) == before


@pytest.mark.parametrize("revision", [REVISIONS[0], REVISIONS[-2]])
def test_an_older_database_is_upgraded_without_them(revision: str, tmp_path: Path) -> None:
    """What is left is in its back-up only."""
    directory = unpack(revision, tmp_path)
    (first,) = _rows(
        directory,
        "SELECT min(batch_number) FROM batch_writes WHERE batch_number NOT IN "
        "(SELECT batch_number FROM manifest_entries)",
    )
    assert first[0] is not None
    _sql(directory, f"DELETE FROM write_batches WHERE batch_number = {first[0]}")
    assert upgrade_directory(directory).to_revision == REVISIONS[-1]
    assert _rows(directory, "PRAGMA foreign_key_check") == []


def test_nothing_is_removed_beside_a_writer(directory: Path) -> None:
    """It is a write like any other: under the writer lock."""
    _sql(directory, LEFT)
    before = rows_of(directory / DATABASE_NAME)
    with WriterLock(directory).hold(), pytest.raises(LockTimeoutError):
        upgrade_directory(directory, lock=WriterLock(directory, 0.01))
    assert rows_of(directory / DATABASE_NAME) == before


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE runtime_manifest SET high_watermark = 2",
        "UPDATE runtime_manifest SET high_watermark = 9223372036854775807",
        "UPDATE write_batches SET high_watermark = high_watermark + 10",
    ],
)
def test_no_watermark_is_given_a_second_time(edit: str, directory: Path, tmp_path: Path) -> None:
    """The next batch gets one above every one in the log, whatever somebody wrote into the
    manifest. Every command goes by the newest batch, and the doctor says it until then."""
    _sql(directory, edit)
    (highest,) = _rows(directory, "SELECT max(high_watermark) FROM write_batches")[0]
    assert isinstance(highest, int)
    assert run("status", directory, "--json").json()["highWatermark"] == highest
    level, sentence, _ = _finding(run("doctor", directory, "--json"))
    assert (level, "changed the high watermark of the manifest" in sentence) == ("yellow", True)
    assert run("backup", directory, tmp_path / "backup").code == 0
    assert verify_backup(tmp_path / "backup").high_watermark == highest
    assert _write(directory, 9) == highest + 1
    assert _rows(directory, "SELECT high_watermark FROM runtime_manifest") == [(highest + 1,)]
    assert _finding(run("doctor", directory, "--json"))[0] == "green"


def test_a_watermark_is_set_back_beside_a_writer_that_works(directory: Path) -> None:
    """It looks at the log with every batch that it completes."""
    with RuntimeStore.open(directory) as store:
        identity = store.manifest().active_identity or IDENTITY
        given = []
        for number in range(3):
            _sql(directory, "UPDATE runtime_manifest SET high_watermark = 1")
            batch = store.write_batch(
                identity=identity, reason=CHECKPOINT, writes={LEASES: {"leases": [], "n": number}}
            )
            given.append(batch.high_watermark)
    assert given == [7, 8, 9]
