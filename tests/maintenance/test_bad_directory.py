"""Directories and databases that are not ours to use: left as they are, each with its own error."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    CorruptDatabaseError,
    ForeignDatabaseError,
    InvalidRequestError,
    NewerDatabaseError,
    NotARuntimeDirectoryError,
    RuntimeStore,
    RuntimeStoreError,
    WrongTeamError,
)
from rtstore.control.sqlite.engine import Database
from rtstore.maintenance.rebuild_database import problem_of
from tests.cli.commands import run
from tests.support import LEASES, TEAM, new_directory, open_store, picture, plain_descriptor, write

NESTED = plain_descriptor("test.nested", "folder/nested.json")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which a store was committed, with a file of others beside it."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "committed")
    (directory / "notes.txt").write_text("somebody's")
    return directory


# --- what is there ------------------------------------------------------------------------------


def _sqlite(path: Path, *statements: str) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


def _change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


def _overwrite_the_manifest(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'runtime_manifest'"
        page = raw.execute(query).fetchone()[0]
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)


def _only_the_wal(path: Path) -> None:
    path.rename(path.with_name(path.name + "-wal"))


DATABASES: dict[str, tuple[Callable[[Path], Any], type[RuntimeStoreError]]] = {
    "a text": (lambda path: path.write_text("not a database" * 100), ForeignDatabaseError),
    "empty": (lambda path: path.write_bytes(b""), CorruptDatabaseError),
    "another program's": (
        lambda path: _sqlite(path, "CREATE TABLE theirs (a)"),
        ForeignDatabaseError,
    ),
    "another program's with its id": (
        lambda path: _sqlite(path, "PRAGMA application_id = 252006674", "CREATE TABLE t (a)"),
        ForeignDatabaseError,
    ),
    "cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        CorruptDatabaseError,
    ),
    "its last page cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        CorruptDatabaseError,
    ),
    "a page overwritten": (_overwrite_the_manifest, CorruptDatabaseError),
    "without its tables": (
        lambda path: _sqlite(path, "PRAGMA application_id = 1920234356", "CREATE TABLE t (a)"),
        CorruptDatabaseError,
    ),
    "without its manifest": (
        lambda path: _change(path, "DELETE FROM runtime_manifest"),
        CorruptDatabaseError,
    ),
    "only its log": (_only_the_wal, CorruptDatabaseError),
    "newer": (
        lambda path: _change(
            path,
            "UPDATE alembic_version SET version_num = '0099_later'",
            "PRAGMA user_version = 99",
        ),
        NewerDatabaseError,
    ),
}


@pytest.mark.parametrize(("spoil", "error"), DATABASES.values(), ids=DATABASES.keys())
@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_that_is_not_ours_to_use_is_left_as_it_is(
    directory: Path,
    spoil: Callable[[Path], Any],
    error: type[RuntimeStoreError],
    *,
    read_only: bool,
) -> None:
    """Foreign, damaged and newer are told apart; the path is named; nothing is touched."""
    path = directory / DATABASE_NAME
    spoil(path)
    before = picture(directory)

    with pytest.raises(error) as caught:
        RuntimeStore.open(directory, team_name=TEAM, read_only=read_only)

    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert picture(directory) == before


@pytest.mark.parametrize("with_wal", [False, True])
@pytest.mark.parametrize("behind", [5, 4096, 5000])
def test_bytes_behind_the_last_page_are_no_damage(
    directory: Path, tmp_path: Path, behind: int, *, with_wal: bool
) -> None:
    """Every page that the header counts is there: what is committed holds."""
    if with_wal:
        directory = _with_wal(directory, tmp_path / "killed")
    with (directory / DATABASE_NAME).open("ab") as file:
        file.write(b"x" * behind)
    assert problem_of(directory / DATABASE_NAME) is None
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.manifest().high_watermark == 1 + with_wal
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, "long" * 25_000)
        assert len(store.batches()) == 2 + with_wal
    assert problem_of(directory / DATABASE_NAME) is None


def _with_wal(directory: Path, copy: Path) -> Path:
    """Write once more. Return a copy of the directory as a kill leaves it, with its WAL."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, "in the WAL")
        shutil.copytree(directory, copy)
    assert (copy / f"{DATABASE_NAME}-wal").stat().st_size
    return copy


@pytest.mark.parametrize("read_only", [False, True])
def test_another_teams_directory_is_left_as_it_is(directory: Path, *, read_only: bool) -> None:
    """Both teams are named."""
    before = picture(directory)

    with pytest.raises(WrongTeamError) as caught:
        RuntimeStore.open(directory, team_name="team-b", read_only=read_only)

    error = caught.value
    assert (error.directory, error.expected, error.found) == (directory, "team-b", TEAM)
    assert picture(directory) == before


# --- what is to be made -------------------------------------------------------------------------


OPENINGS: dict[str, tuple[dict[str, Any], type[RuntimeStoreError], str]] = {
    "no team": ({"team_name": None}, NotARuntimeDirectoryError, "team_name"),
    "blank team": ({"team_name": "  "}, NotARuntimeDirectoryError, "team_name"),
    "durability": ({"durability": "maybe"}, InvalidRequestError, "durability"),
    "one store twice": (
        {"descriptors": [NESTED, NESTED]},
        InvalidRequestError,
        "test.nested",
    ),
    "two stores in one file": (
        {"descriptors": [NESTED, plain_descriptor("test.two", "folder/NESTED.json")]},
        InvalidRequestError,
        "test.two",
    ),
    "a file that is a folder of another": (
        {"descriptors": [NESTED, plain_descriptor("test.two", "folder")]},
        InvalidRequestError,
        "test.two",
    ),
}


@pytest.mark.parametrize(("options", "error", "names"), OPENINGS.values(), ids=OPENINGS.keys())
def test_a_store_that_cannot_be_made_is_not_begun(
    tmp_path: Path, options: dict[str, Any], error: type[RuntimeStoreError], names: str
) -> None:
    """Not even the directory is made."""
    with pytest.raises(error) as caught:
        RuntimeStore.open(tmp_path / "new", **{"team_name": TEAM, **options})

    assert names in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_runtime_directory(tmp_path: Path) -> None:
    """It is named, and stays a file."""
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RuntimeStoreError, match=str(path)):
            RuntimeStore.open(path, team_name=TEAM)

    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("command", ["doctor", "status", "plan", "recover", "upgrade", "rebuild"])
def test_the_wal_beside_an_emptied_database_stays(
    directory: Path, tmp_path: Path, command: str
) -> None:
    """SQLite removes the WAL beside a database of no bytes, and with it what was acknowledged. No
    command opens such a database; a rebuild keeps its WAL aside."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, "in the WAL only")
        killed = shutil.copytree(directory, tmp_path / "killed")
    wal = killed / f"{DATABASE_NAME}-wal"
    content = wal.read_bytes()
    assert b"in the WAL only" in content
    (killed / DATABASE_NAME).write_bytes(b"")
    done = run(command, killed, *(["--team", TEAM] if command == "rebuild" else []))
    assert "the file is empty" in done.out + done.err
    kept = killed / "runtime-store.broken-001" / wal.name if command == "rebuild" else wal
    assert kept.read_bytes() == content


def test_no_connection_is_made_to_an_emptied_database(directory: Path, tmp_path: Path) -> None:
    """Whoever asks: the object that all access goes through refuses."""
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, "in the WAL only")
        killed = shutil.copytree(directory, tmp_path / "killed")
    content = (killed / f"{DATABASE_NAME}-wal").read_bytes()
    (killed / DATABASE_NAME).write_bytes(b"")
    for read_only in (True, False):
        database = Database(killed / DATABASE_NAME, read_only=read_only)
        with pytest.raises(CorruptDatabaseError, match="the file is empty"):
            database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        database.close(tidy=False)
        assert (killed / f"{DATABASE_NAME}-wal").read_bytes() == content
