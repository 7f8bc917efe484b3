"""What the permission bits of a directory or file of its own keep a user from: the command that
gives them is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import DATABASE_NAME
from rtstore.cli.exits import ExitCode
from rtstore.maintenance.backup import verify_backup
from tests.cli.commands import ready_team, run_all
from tests.cli.test_bad_input import _without_privileges
from tests.maintenance.test_rebuild_database import overwrite
from tests.support import breadth, open_store, plain_descriptor, write

COMMANDS = ("status", "doctor", "recover", "log", "plan")


@pytest.mark.parametrize("mode", breadth.params([0o300, 0o600, 0o000], normal=[0o300]))
def test_the_directory_itself(tmp_path: Path, mode: int) -> None:
    """Without the right to list it, or to look into it, nothing can be said but that."""
    directory = ready_team(tmp_path)
    directory.chmod(mode)
    asked = [
        *((name, directory) for name in COMMANDS),
        ("status", directory, "--json"),
        ("doctor", directory, "--json"),
    ]
    for told in run_all(asked, before=_without_privileges()):
        assert told.code == ExitCode.RETRY_LATER, told
        assert f"chmod u+rwx {directory}" in told.err, told
    directory.chmod(0o700)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("database", ["there", "gone", "damaged"])
@pytest.mark.parametrize("mode", breadth.params([0o600, 0o300, 0o000], normal=[0o000]))
def test_a_folder_of_stores(tmp_path: Path, mode: int, database: str) -> None:
    """The doctor looks at all else, and names the folder."""
    directory = tmp_path / "t"
    stores = [plain_descriptor("own.a", "below/a.json"), plain_descriptor("own.b", "b.json")]
    with open_store(directory, descriptors=stores) as store:
        write(store, "own.a", 1)
        write(store, "own.b", 1)
    if database == "gone":
        (directory / DATABASE_NAME).unlink()
    elif database == "damaged":
        overwrite(directory / DATABASE_NAME, "write_batches")
    (directory / "below").chmod(mode)
    (told,) = run_all([("doctor", directory)], before=_without_privileges())
    (directory / "below").chmod(0o700)
    assert told.code == ExitCode.NOT_READY, told
    if database == "there":
        assert f"chmod -R u+rwX {directory}" in told.out, told
    assert "database" in told.out
    assert "permissions" in told.out


def test_a_folder_above_it(tmp_path: Path) -> None:
    """The directory cannot be reached: the mode of the folder is named."""
    (tmp_path / "teams").mkdir()
    directory = ready_team(tmp_path / "teams")
    directory.parent.chmod(0o600)
    for told in run_all([(name, directory) for name in COMMANDS], before=_without_privileges()):
        assert told.code == ExitCode.RETRY_LATER, told
        assert f"chmod u+rwx {directory.parent}" in told.err, told
    directory.parent.chmod(0o700)


@pytest.mark.thorough
def test_a_folder_of_directories(tmp_path: Path) -> None:
    """Its line says so, too; the others are shown."""
    closed = ready_team(tmp_path)
    closed.rename(tmp_path / "closed")
    ready_team(tmp_path)
    (tmp_path / "closed").chmod(0o300)
    (told,) = run_all([("status", tmp_path)], before=_without_privileges())
    assert f"chmod u+rwx {tmp_path / 'closed'}" in told.out.replace("\n", " "), told
    (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("mode", breadth.params([0o000, 0o200], normal=[0o000]))
def test_a_back_up_with_a_store_file_that_cannot_be_read(tmp_path: Path, mode: int) -> None:
    """It has what is committed, which the database has; the file is named, with the command. It
    can be verified by its owner."""
    directory, copy = ready_team(tmp_path), tmp_path / "copy"
    file = directory / "launch-state.json"
    content = file.read_bytes()
    file.chmod(mode)
    (told, verified) = run_all(
        [("backup", directory, copy), ("verify", copy)], before=_without_privileges()
    )
    assert told.code == ExitCode.READY, told
    assert f"chmod u+rw {file}" in told.out, told
    assert verified.code == ExitCode.READY, verified
    backup = verify_backup(copy)
    (changed,) = backup.changed
    assert f"chmod u+rw {file}" in str(changed.problem)
    assert (copy / "launch-state.json").read_bytes() == content
