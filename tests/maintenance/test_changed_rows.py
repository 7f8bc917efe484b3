"""A path that somebody changed in a row: what is refused because of it sends to the doctor, and the
doctor sees it, with a command that puts it right."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    DELETED,
    OpenBatchError,
    RecoveryFailedError,
    RuntimeStore,
    StatementRefusedError,
)
from rtstore.cli.demo.writer import IDENTITY
from rtstore.cli.exits import ExitCode
from rtstore.testing import crash_at
from tests.cli.commands import Result, crashed_team, ready_team, run
from tests.cli.troubles import findings, run_command
from tests.support import CHECKPOINT

LEASES_FILE = "opencode-host-leases.json"


def _change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        raw.execute(statement)


def _ask(directory: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw:
        return raw.execute(query).fetchall()


def _put_right(directory: Path, *, ready: bool = True) -> None:
    """Run what the doctor prints."""
    found: list[dict[str, Any]] = findings(directory, "database")
    finding, *_ = [item for item in found if item["level"] == "red"]
    (way,) = finding["ways"]
    assert run("doctor", directory).code == ExitCode.NOT_READY
    assert run_command(way["command"]).code == 0
    if ready:
        assert run("doctor", directory).code == ExitCode.READY


@pytest.fixture
def quarantined(tmp_path: Path) -> Path:
    """A directory with two quarantined files; the row of the first names one outside."""
    directory = ready_team(tmp_path)
    for number in range(2):
        (directory / LEASES_FILE).write_text(f"edit {number}")
        assert run("recover", directory).code == ExitCode.READY
    _change(
        directory,
        "UPDATE quarantined_files SET quarantine_path = '../outside' WHERE quarantine_number = 1",
    )
    (tmp_path / "outside").write_text("somebody's")
    return directory


@pytest.mark.parametrize("words", [("prune", "--older-than", "0"), ("restore", "1")])
def test_a_row_of_the_quarantine(quarantined: Path, words: tuple[str, ...]) -> None:
    """After the command, the others can be pruned; nothing outside was touched."""

    def attempt() -> Result:
        name, *rest = words
        return run("quarantine", name, quarantined, *rest)

    refused = attempt()
    assert refused.code == ExitCode.STOP
    assert "rtstore doctor" in refused.err
    _put_right(quarantined)
    if words[0] == "prune":
        assert attempt().code == ExitCode.READY
    assert (quarantined.parent / "outside").read_text() == "somebody's"


@pytest.mark.parametrize("path", ["../evil.json", "runtime-store.sqlite3", "o''ther.json"])
def test_an_entry_of_the_manifest(tmp_path: Path, path: str) -> None:
    """The batch that wrote the store says where it is."""
    directory = ready_team(tmp_path)
    _change(
        directory,
        f"UPDATE manifest_entries SET relative_path = '{path}' "
        "WHERE schema_name = 'opencode.launchState'",
    )
    refused = run("backup", directory, tmp_path / "copy")
    if "ther" not in path:
        assert refused.code == ExitCode.STOP, refused
        assert f"rtstore doctor {directory}" in refused.err
    _put_right(directory)
    assert run("backup", directory, tmp_path / "sound").code == ExitCode.READY


SESSIONS, PERMISSIONS = "opencode.sessionStore", "opencode.permissionRequests"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("path", ["../../etc/x", "other.json", "opencode-permissions.json"])
@pytest.mark.parametrize("remembers", [True, False])
def test_a_receipt(tmp_path: Path, path: str, remembers: bool) -> None:
    """The directory remembers where the store is, or its file says so: the row of the batch is put
    right, and the entry stays."""
    directory = ready_team(tmp_path)
    written = f"UPDATE batch_writes SET relative_path = '{path}' WHERE schema_name = '{SESSIONS}'"
    entry = f"SELECT relative_path FROM manifest_entries WHERE schema_name = '{SESSIONS}'"
    before = _ask(directory, entry)
    _change(directory, written)
    if not remembers:
        _change(directory, "DELETE FROM store_descriptors")
    _put_right(directory, ready=remembers)
    assert _ask(directory, entry) == before
    assert run("backup", directory, tmp_path / "sound").code == ExitCode.READY


def test_an_entry_that_was_set_back(tmp_path: Path) -> None:
    """An opening puts the file back to what the entry says; the doctor says what the log says, and
    its command and a recovery bring the last batch back."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        before = store.read(SESSIONS).data
        last = {**before, "more": 1}
        identity = store.manifest().active_identity
        assert identity is not None
        store.write_batch(identity=identity, reason=CHECKPOINT, writes={SESSIONS: last})
    entry = f"SELECT * FROM manifest_entries WHERE schema_name = '{SESSIONS}'"
    row = _ask(directory, entry)
    columns = "batch_number, content_hash, file_size"
    _change(
        directory,
        f"UPDATE manifest_entries SET ({columns}) = (SELECT {columns} FROM batch_writes "
        f"WHERE schema_name = '{SESSIONS}' ORDER BY batch_number LIMIT 1) "
        f"WHERE schema_name = '{SESSIONS}'",
    )
    with RuntimeStore.open(directory) as store:
        assert store.read(SESSIONS).data == before
    _put_right(directory, ready=False)
    assert _ask(directory, entry) == row
    assert run("recover", directory).code == ExitCode.READY
    with RuntimeStore.open(directory) as store:
        assert store.read(SESSIONS).data == last
    assert run("doctor", directory).code == ExitCode.READY


@pytest.mark.parametrize("remembers", [True, False])
def test_entries_that_have_each_others_files(tmp_path: Path, remembers: bool) -> None:
    """No two entries may name the same file, so both are changed by one command."""
    directory = ready_team(tmp_path)
    paths = "SELECT schema_name, relative_path FROM manifest_entries ORDER BY schema_name"
    before = _ask(directory, paths)
    of = dict(before)
    for name, path in (
        (SESSIONS, "aside.json"),
        (PERMISSIONS, of[SESSIONS]),
        (SESSIONS, of[PERMISSIONS]),
    ):
        _change(
            directory,
            f"UPDATE manifest_entries SET relative_path = '{path}' WHERE schema_name = '{name}'",
        )
    if not remembers:
        _change(directory, "DELETE FROM store_descriptors")
    _put_right(directory, ready=remembers)
    assert _ask(directory, paths) == before
    assert run("backup", directory, tmp_path / "sound").code == ExitCode.READY


def test_a_run_that_no_batch_begins(tmp_path: Path) -> None:
    """While its row is there no run can begin, and the error sends to the doctor, which takes the
    row out. A run whose batch was logged by a process that died is none: an opening begins it."""
    directory = ready_team(tmp_path)
    columns = "(run_number, run_id, state, began_at)"
    _change(
        directory,
        f"INSERT INTO runs {columns} VALUES (99, 'r''2', 'beginning', '2026-11-30T00:00:00.000Z')",
    )
    with RuntimeStore.open(directory) as store:
        with pytest.raises(StatementRefusedError, match=f"rtstore doctor {directory}"):
            store.begin_run("run-9", keep="all")
        _put_right(directory)
        store.begin_run("run-9", keep="all")
    with crash_at("after-log"), RuntimeStore.open(directory) as store:
        store.begin_run("run-10", keep="all", supersede=True)
    assert _ask(directory, "SELECT run_id FROM runs WHERE state = 'beginning'") == [("run-10",)]
    assert "is said to be beginning" not in run("doctor", directory).out


def test_a_row_of_an_open_batch(tmp_path: Path) -> None:
    """A recovery names the row and the doctor, whose command lets the batch go forward. Nothing is
    written outside."""
    directory = crashed_team(tmp_path)
    _change(
        directory,
        "UPDATE batch_writes SET relative_path = '../evil.json' WHERE position = 0 AND "
        "batch_number = (SELECT max(batch_number) FROM write_batches)",
    )
    refused = run("recover", directory)
    assert refused.code == ExitCode.NOT_READY
    assert f"What puts it right: rtstore doctor {directory}" in refused.out
    _put_right(directory, ready=False)
    assert run("recover", directory).code == ExitCode.READY
    assert run("doctor", directory).code == ExitCode.READY
    assert not (tmp_path / "evil.json").exists()


def test_a_row_of_an_open_deletion(tmp_path: Path) -> None:
    """So does a row of what is deleted. A writer that was there before is told of the batch that is
    in the way of its own."""
    directory = ready_team(tmp_path)
    leases: dict[str, Any] = {"identity": IDENTITY, "reason": "host_lease_update"}
    with RuntimeStore.open(directory) as other:
        with RuntimeStore.open(directory) as store, crash_at("after-log"):
            store.write_batch(**leases, writes={"opencode.hostLeases": DELETED})
        _change(directory, "UPDATE batch_deletions SET relative_path = '/etc/passwd'")
        with pytest.raises(OpenBatchError, match=r"'/etc/passwd' .*rtstore doctor"):
            other.write_batch(**leases, writes={SESSIONS: {}})
    with pytest.raises(RecoveryFailedError, match=r"'/etc/passwd' of store opencode\.hostLeases"):
        RuntimeStore.open(directory)
    _put_right(directory, ready=False)
    RuntimeStore.open(directory).close()
    assert not (directory / LEASES_FILE).exists()
