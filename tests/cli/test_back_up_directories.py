"""A back-up is looked at and restored; no command writes to it. One that was written to is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtstore import DATABASE_NAME, RuntimeStore, upgrade_directory, verify_backup
from rtstore.cli.exits import ExitCode
from rtstore.control.schema import REVISIONS
from rtstore.maintenance.backup import RECORD_NAME, back_up
from tests.cli.commands import ready_team, run
from tests.support import CHECKOUT, LEASES, picture, write
from tests.upgrade.freeze import unpack

WRITING = [
    ("recover",),
    ("recover", "--dry-run"),
    ("adopt", "opencode.hostLeases"),
    ("revert", "opencode.hostLeases", "--to", "1"),
    ("end-run", "--why", "a test"),
    ("rebuild", "--force"),
    ("import",),
    ("prune", "--contents", "1"),
    ("upgrade",),
    ("upgrade", "--dry-run"),
    ("export",),
    ("quarantine", "prune", "--older-than", "0"),
    ("quarantine", "restore", "1"),
]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A back-up of a ready directory."""
    assert run("backup", ready_team(tmp_path), tmp_path / "backup").code == 0
    return tmp_path / "backup"


def _findings(directory: Path) -> dict[str, Any]:
    return {item["check"]: item for item in run("doctor", directory, "--json").json()["findings"]}


def _on(directory: Path, words: tuple[str, ...]) -> list[str | Path]:
    at = 2 if words[0] == "quarantine" else 1
    return [*words[:at], directory, *words[at:]]


def _older(tmp_path: Path) -> Path:
    """A back-up at an older revision, as the rtstore of that time made it."""
    from rtstore.control.sqlite.engine import Database

    directory, backup = unpack(REVISIONS[-2], tmp_path), tmp_path / "older"
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        back_up(directory, database, backup)
    finally:
        database.close()
    return backup


@pytest.mark.one_in(3)
@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_no_command_writes_to_a_backup(words: tuple[str, ...], backup: Path) -> None:
    """It says what that is and names the restore, which works; the back-up is sound as before."""
    before = picture(backup)
    refused = run(*_on(backup, words))
    assert refused.code == ExitCode.WRONG_CALL
    assert f"{backup}: it is a back-up of {backup.parent / 'team'}, made 20" in refused.err
    assert refused.err.rstrip().endswith(f"Run: rtstore restore {backup} NEW_DIR")
    assert picture(backup) == before
    verify_backup(backup)
    assert run("restore", backup, backup.parent / "new").code == 0
    assert run("recover", backup.parent / "new").code == 0


def test_what_only_looks_works(backup: Path) -> None:
    """Status and doctor say that it is a back-up, and advise nothing that writes."""
    seen = run("status", backup)
    assert seen.code == 0
    restore = f"rtstore restore {backup} NEW_DIR"
    assert f"Back-up            of {backup.parent / 'team'}, made 20" in seen.out
    assert restore in seen.out
    told = run("status", backup, "--json").json()["backup"]
    assert (told["origin"], told["isAsMade"]) == (str(backup.parent / "team"), True)
    assert _findings(backup)["backup"]["level"] == "green"
    assert run("export", backup, "--to", backup.parent / "exported").code == 0
    verify_backup(backup)
    assert run("status", backup.parent / "team", "--json").json()["backup"] is None


def test_an_older_backup_is_restored_and_not_upgraded(tmp_path: Path) -> None:
    """After an update of the program: an upgrade would spoil it. What is restored is upgraded."""
    backup = _older(tmp_path)
    seen = run("status", backup)
    assert seen.code == ExitCode.STOP
    assert seen.err.rstrip().endswith(f"It is a back-up. Run: rtstore restore {backup} NEW_DIR")
    ways = [way["command"] for item in _findings(backup).values() for way in item["ways"]]
    assert f"rtstore restore {backup} {backup}-restored" in ways
    assert not any("rtstore upgrade" in (way or "") for way in ways)
    assert run("upgrade", backup).code == ExitCode.WRONG_CALL
    assert run("restore", backup, f"{backup}-restored").code == 0
    assert upgrade_directory(f"{backup}-restored").changed
    assert run("status", f"{backup}-restored").code != ExitCode.STOP
    verify_backup(backup)


def test_an_older_backup_is_not_upgraded_by_hand(tmp_path: Path) -> None:
    """Nor by alembic in a checkout."""
    backup = _older(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-x", f"directory={backup}", "upgrade", "head"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"Run: rtstore restore {backup} NEW_DIR" in done.stderr
    verify_backup(backup)


def _work_in(backup: Path) -> None:
    with RuntimeStore.open(backup) as store:
        write(store, LEASES, {"n": 99})


def test_a_backup_in_which_a_runtime_works_is_told(backup: Path) -> None:
    """It is no back-up any more: a folder shows it as a directory, status and doctor say so, and
    each way out works."""
    folder = backup.parent
    assert run("status", folder, "--json").json()["backups"] == [str(backup)]
    _work_in(backup)
    document = run("status", folder, "--json").json()
    assert document["backups"] == []
    (line,) = (item for item in document["directories"] if item["directory"] == str(backup))
    assert line["next"][0]["command"] == f"rtstore doctor {backup}"
    assert run("status", backup, "--json").json()["backup"]["isAsMade"] is False
    assert "no more as it was made" in run("status", backup).out
    refused = run("recover", backup)
    assert refused.code == ExitCode.WRONG_CALL
    assert refused.err.rstrip().endswith(f"Run: rtstore doctor {backup}")
    found = _findings(backup)["backup"]
    assert found["level"] == "yellow"
    assert "it was changed since" in found["sentence"]
    restore, remove = (way["command"] for way in found["ways"])
    ways = [way["command"] for item in _findings(backup).values() for way in item["ways"]]
    assert f"rtstore doctor {backup}" not in ways
    assert run(*restore.split()[1:]).code == 0
    assert run("show", f"{backup}-restored", LEASES).out == run("show", backup, LEASES).out
    assert remove == f"rm {backup / RECORD_NAME}"
    (backup / RECORD_NAME).unlink()
    assert run("recover", backup).code != ExitCode.WRONG_CALL
    assert "backup" not in _findings(backup)


def test_a_backup_with_a_changed_file(backup: Path) -> None:
    """Nothing is put right in it: status sends to the doctor, whose way out makes a directory with
    what is committed."""
    (backup / "opencode-host-leases.json").write_text("{}")
    (step,) = run("status", backup, "--json").json()["next"]
    assert step["command"] == f"rtstore doctor {backup}"
    found = _findings(backup)
    assert "its bytes are not those" in found["backup"]["sentence"]
    ways = [way["command"] for item in found.values() for way in item["ways"]]
    for command in ("recover", "adopt", "doctor"):
        assert not any(f"rtstore {command}" in (way or "") for way in ways)
    assert run(*found["backup"]["ways"][0]["command"].split()[1:]).code == 0
    assert run("status", f"{backup}-restored").code == 0


def test_a_damaged_backup(backup: Path) -> None:
    """No command repairs it, and the doctor advises none: another back-up helps."""
    path = backup / DATABASE_NAME
    path.write_bytes(path.read_bytes()[:8192])
    assert run("rebuild", backup).code == ExitCode.WRONG_CALL
    ways = [way["command"] for item in _findings(backup).values() for way in item["ways"]]
    assert not any(f"rebuild {backup}" in (way or "") for way in ways)
    assert not any(f"restore {backup}" in (way or "") for way in ways)
