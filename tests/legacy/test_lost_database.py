"""A directory that was exported in place, and lost its database afterwards.

The control files of the legacy format in it are those of the day of the export. The store files
are newer, and nobody takes them for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtstore import DatabaseMissingError, NotARuntimeDirectoryError, RuntimeStore
from rtstore.directories import rebuild_database
from tests.cli.commands import run
from tests.support import FILE_OF, IDENTITY, LEASES, LEDGER, data_in, new_directory, open_store

DATABASE = "runtime-store.sqlite3"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory that was exported in place, and lost its database at once."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        store.write_batch(
            identity=IDENTITY, reason="launch_checkpoint", writes={LEASES: 1, LEDGER: 1}
        )
    assert run("export", directory).code == 0
    return directory


def lose(directory: Path) -> None:
    """Remove the database, with what lies beside it."""
    for path in directory.glob(f"{DATABASE}*"):
        path.unlink()


def write_later(directory: Path) -> None:
    """Write one of the stores after the export."""
    with RuntimeStore.open(directory) as store:
        store.write_batch(identity=IDENTITY, reason="launch_checkpoint", writes={LEASES: 2})


def test_the_database_is_called_lost(directory: Path) -> None:
    """By an opening, by status and by the doctor; each names the rebuild, the doctor the import,
    too, and what it would do."""
    write_later(directory)
    lose(directory)
    for read_only in (True, False):
        with pytest.raises(DatabaseMissingError, match="its database is gone") as caught:
            RuntimeStore.open(directory, team_name="team-a", read_only=read_only)
        assert "older than the store files" in str(caught.value)
        assert f"Run: rtstore rebuild {directory}" in str(caught.value)
    said = run("status", directory)
    assert said.code == 5
    assert "its database is gone" in said.err
    assert "rtstore import" not in said.err
    said = run("doctor", directory)
    assert said.code == 1
    assert f"older than {FILE_OF[LEASES]}" in said.out
    rebuild, imports = (said.out.index(f"rtstore {it} {directory}") for it in ("rebuild", "import"))
    assert rebuild < imports
    assert "the newer files are then changed files" in said.out


def test_the_rebuild_keeps_the_newer_files(directory: Path) -> None:
    """Without `force`: the control files are not the last word."""
    write_later(directory)
    lose(directory)
    rebuild_database(directory, team_name="team-a", identity=IDENTITY)
    with RuntimeStore.open(directory) as store:
        assert (store.read(LEASES).data, store.read(LEDGER).data) == (2, 1)


def test_the_import_says_that_the_files_are_newer(directory: Path) -> None:
    """It does what it is asked for; adopting what is newer loses nothing either."""
    write_later(directory)
    lose(directory)
    said = run("import", directory)
    assert said.code == 0
    assert f"{FILE_OF[LEASES]}: written after the control files" in said.out
    assert f"{FILE_OF[LEDGER]}: written after" not in said.out
    with RuntimeStore.open(directory) as store:
        assert data_in(directory / FILE_OF[LEASES]) == 2
        store.adopt(LEASES)
        assert (store.read(LEASES).data, store.read(LEDGER).data) == (2, 1)


def test_where_the_control_files_fit_they_are_imported(directory: Path) -> None:
    """They have the history, too."""
    lose(directory)
    with pytest.raises(NotARuntimeDirectoryError, match="rtstore import"):
        RuntimeStore.open(directory)
    assert "rtstore import" in run("doctor", directory).out
    said = run("import", directory)
    assert "written after" not in said.out
    with RuntimeStore.open(directory) as store:
        assert store.read(LEASES).data == 1


def test_newer_files_of_a_legacy_directory_are_its_own(directory: Path, tmp_path: Path) -> None:
    """Where no database ever was, no database is lost: its program leaves files without a batch."""
    write_later(directory)
    lose(directory)
    (directory / "runtime-store.lock").unlink()
    with pytest.raises(NotARuntimeDirectoryError, match="rtstore import"):
        RuntimeStore.open(directory)
    assert "written after" not in run("import", directory).out
