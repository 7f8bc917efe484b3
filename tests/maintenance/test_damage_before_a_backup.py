"""What was damaged before a back-up was made is found when it is made, and when it is verified."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME, BackupDamagedError, restore_backup, verify_backup
from rtstore.maintenance.backup import RECORD_NAME
from tests.cli.commands import Result, ready_team, run

SENSELESS = {
    "the manifest": "UPDATE runtime_manifest SET updated_at = '2026-13-01T00:00:00.000Z'",
    "a batch": "UPDATE write_batches SET completed_at = '2026-13-01T00:00:00.000Z' "
    "WHERE batch_number = 1",
    "a run": "UPDATE runs SET began_at = '2026-13-01T00:00:00.000Z'",
    "a receipt": "UPDATE batch_writes SET content_hash = 'sha256:' || printf('%.64c', 'z') "
    "WHERE batch_number = 1",
    "a receipt beside its entry": "UPDATE batch_writes SET content_hash = 'sha256:' || "
    "substr(content_hash, 9) || '0' WHERE schema_name = 'opencode.launchState'",
    "the watermark of an older batch": "UPDATE write_batches SET high_watermark = 90 "
    "WHERE batch_number = 2",
    "the last batch": "REPLACE INTO write_batches SELECT batch_number, batch_id, 'failed', reason, "
    "team_name, run_id, capability_snapshot_id, behavior_fingerprint, NULL, started_at, "
    "completed_at, 'oops', origin FROM write_batches ORDER BY batch_number DESC LIMIT 1",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory at rest."""
    return ready_team(tmp_path)


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(statement)


def _commands(examined: Result) -> list[str]:
    """Every command that the doctor suggests."""
    findings = examined.json()["findings"]
    return [way["command"] for item in findings for way in item["ways"] if way["command"]]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("what", SENSELESS)
def test_a_damaged_database_is_not_backed_up(what: str, directory: Path, tmp_path: Path) -> None:
    """The error names the database itself, not the copy that is gone, and the doctor; that finds it
    damaged, too."""
    _sql(directory / DATABASE_NAME, SENSELESS[what])
    refused = run("backup", directory, tmp_path / "backup")
    assert refused.code == 5
    assert f"{directory / DATABASE_NAME} is damaged: " in refused.err
    assert refused.err.rstrip().endswith(f"rtstore doctor {directory}")
    assert "rtstore-tmp" not in refused.err
    assert "back-up is" not in refused.err
    assert not (tmp_path / "backup").exists()
    assert "is damaged" in run("doctor", directory).out


@pytest.mark.one_in(3)
@pytest.mark.parametrize("what", SENSELESS)
def test_a_backup_that_no_command_can_use_is_not_sound(
    what: str, directory: Path, tmp_path: Path
) -> None:
    """As an earlier rtstore made some: bytes and record agree, but the rows make no sense.
    Verifying finds it, a restore makes nothing of it, and the doctor does not advise it."""
    backup, record = tmp_path / "backup", tmp_path / "backup" / RECORD_NAME
    assert run("backup", directory, backup).code == 0
    for path in (directory, backup):
        _sql(path / DATABASE_NAME, SENSELESS[what])
        _sql(path / DATABASE_NAME, "PRAGMA wal_checkpoint(TRUNCATE)")
    digest = hashlib.sha256((backup / DATABASE_NAME).read_bytes()).hexdigest()
    told = {**json.loads(record.read_bytes()), "databaseHash": f"sha256:{digest}"}
    record.write_text(json.dumps(told))
    with pytest.raises(BackupDamagedError) as caught:
        verify_backup(backup)
    assert not any("changed since" in problem for problem in caught.value.problems)
    with pytest.raises(BackupDamagedError):
        restore_backup(backup, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    ways = _commands(run("doctor", directory, "--json"))
    assert any("rebuild" in way for way in ways)
    assert not any("restore" in way for way in ways)


def test_a_damaged_backup_is_told_once(directory: Path, tmp_path: Path) -> None:
    """What is wrong with its database, and one piece of advice: it is not that of the database."""
    backup = tmp_path / "backup"
    assert run("backup", directory, backup).code == 0
    (backup / DATABASE_NAME).write_bytes(b"noise" * 1000)
    said = run("verify", backup).err
    assert said.count("Nothing was touched") == 1
    assert "rtstore doctor" not in said
    assert said.rstrip().endswith("use another back-up.")


def test_a_changed_backup_of_a_newer_rtstore_is_told_once(directory: Path, tmp_path: Path) -> None:
    """It was changed since, so that what it says of its revision may be wrong, too."""
    backup = tmp_path / "backup"
    assert run("backup", directory, backup).code == 0
    _sql(backup / DATABASE_NAME, "UPDATE alembic_version SET version_num = '0999_later'")
    _sql(backup / DATABASE_NAME, "PRAGMA user_version = 999")
    said = run("verify", backup).err
    assert said.count("Nothing was touched") == 1
    assert "of a newer rtstore" in said
