"""Entries of the manifest that somebody altered by hand: the batch and the content say how they
were, and a recovery puts them right, once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import ActionKind, ReadinessImpact, RuntimeStore, rebuild_database
from rtstore.maintenance.backup import verify_backup
from tests.cli.commands import run
from tests.cli.walks import walk
from tests.support import (
    IDENTITY,
    agree,
    files_picture,
    open_store,
    plain_descriptor,
    write,
)

NAME, OTHER = "own.a", "own.b"
CHANGES = {
    "a byte more": "file_size = file_size + 1",
    "a byte less": "file_size = file_size - 1",
    "another hash": "content_hash = substr(content_hash, 1, 70) || "
    "CASE substr(content_hash, 71) WHEN '0' THEN '1' ELSE '0' END",
    "another version": "schema_version = schema_version + 1",
    "an earlier batch": "batch_number = (SELECT min(batch_number) FROM batch_writes AS written "
    "WHERE written.schema_name = manifest_entries.schema_name)",
    "all of that": "file_size = 0, schema_version = 9, content_hash = 'sha256:' || "
    "printf('%064d', 0)",
}
COLUMNS = (
    "schema_name, schema_version, relative_path, content_hash, file_size, mtime_ns, run_id, "
    "capability_snapshot_id, behavior_fingerprint, last_write_receipt_id, state, batch_number"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two stores, one written twice."""
    directory = tmp_path / "t"
    stores = [plain_descriptor(NAME, "a.json"), plain_descriptor(OTHER, "b.json")]
    with open_store(directory, descriptors=stores) as store:
        write(store, NAME, "first")
        write(store, OTHER, "of the ledger")
        write(store, NAME, "second")
    return directory


def _sql(directory: Path, statement: str) -> list[Any]:
    path = directory / "runtime-store.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def _entries(directory: Path) -> list[Any]:
    return _sql(directory, f"SELECT {COLUMNS} FROM manifest_entries ORDER BY schema_name")


def _alter(directory: Path, change: str) -> None:
    _sql(directory, f"UPDATE manifest_entries SET {change} WHERE schema_name = '{NAME}'")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("file", ["there", "gone"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_one_recovery_puts_it_right(directory: Path, change: str, file: str) -> None:
    """Status and doctor name the recovery. It puts back the row, and a file that is gone; no file
    is moved, and there is nothing left to advise."""
    before, files = _entries(directory), files_picture(directory)
    _alter(directory, change)
    if file == "gone":
        (directory / "a.json").unlink()
    status = run("status", directory, "--json").json()
    assert status["verdict"] != "ready"
    (step,) = status["next"]
    assert step["command"] == f"rtstore recover {directory}"
    assert "puts the entries of" in step["why"]
    assert f"rtstore recover {directory}" in run("doctor", directory).out
    assert [step.advice for step in walk(directory)] == [f"rtstore recover {directory}"]
    assert _entries(directory) == before
    assert files_picture(directory) == files
    assert run("doctor", directory).code == 0
    assert run("quarantine", directory, "--json").json()["files"] == []


def test_opening_puts_it_right_and_the_plan_says_why(directory: Path) -> None:
    """As it makes an entry again that is gone. A run of another program that has the directory open
    is told that it is not ready."""
    before = _entries(directory)
    with RuntimeStore.open(directory, recover=False) as store:
        _alter(directory, CHANGES["another hash"])
        plan = store.plan_recovery()
        assert plan.readiness_impact is not ReadinessImpact.NONE
        (action,) = [item for item in plan.actions if item.reason == "entry_altered"]
        assert (action.kind, action.schema_name) == (ActionKind.RESTORE_COMMITTED, NAME)
        assert not store.check_readiness(expected=IDENTITY).ok
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "second"
        assert agree(store)
        write(store, NAME, "third")
    assert len(before) == len(_entries(directory))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_has_it_right(directory: Path, tmp_path: Path, change: str) -> None:
    """A back-up that is called sound opens as a ready store, an export has the sizes and hashes
    that were committed, and a rebuild takes the store as it was."""
    _sql(directory, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert run("export", directory, "--to", tmp_path / "exported before").code == 0
    _alter(directory, change)
    assert run("backup", directory, tmp_path / "backup").code == 0
    assert run("verify", tmp_path / "backup").code == 0
    assert run("restore", tmp_path / "backup", tmp_path / "restored").code == 0
    assert run("status", tmp_path / "restored", "--json").json()["verdict"] == "ready"
    assert verify_backup(tmp_path / "backup").high_watermark == 3
    assert run("export", directory, "--to", tmp_path / "exported").code == 0
    (manifest,) = (tmp_path / "exported").glob("*manifest.json")
    assert manifest.read_bytes() == (tmp_path / "exported before" / manifest.name).read_bytes()
    (directory / "a.json").unlink()
    report = rebuild_database(directory, force=True, identity=IDENTITY)
    assert NAME not in " ".join(report.lost)
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "second"


def test_where_the_receipt_is_altered_too_nothing_goes_round(
    directory: Path, tmp_path: Path
) -> None:
    """The hash says that the content is what was committed, whatever the two sizes say: so it is
    put back where the file is gone, and nobody says that it is not in the database."""
    for table in ("manifest_entries", "batch_writes"):
        _sql(directory, f"UPDATE {table} SET file_size = 7 WHERE schema_name = '{NAME}'")
    (directory / "a.json").unlink()
    assert [step.advice for step in walk(directory)] == [f"rtstore recover {directory}"]
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "second"


def test_a_receipt_that_contradicts_the_entry_is_damage(directory: Path) -> None:
    """Where the content is that of the entry, the row of the batch is wrong: no back-up calls that
    sound, the doctor says it, and its rebuild takes what is committed."""
    _sql(directory, f"UPDATE batch_writes SET file_size = 7 WHERE schema_name = '{NAME}'")
    refused = run("backup", directory, directory.with_name("backup"))
    assert (refused.code, "is not what the receipt of its batch says" in refused.err) == (5, True)
    findings = run("doctor", directory, "--json").json()["findings"]
    (red,) = [item for item in findings if item["level"] == "red"]
    (way,) = [way["command"] for way in red["ways"]]
    assert way.startswith(f"rtstore rebuild {directory} ")
    assert run("rebuild", directory, "--run-id", IDENTITY.run_id).code == 0
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "second"
