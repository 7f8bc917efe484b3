"""`alembic` by hand, as whoever writes revisions runs it in a checkout."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import FileSystem, RuntimeStore
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.upgrade import backups_in
from tests.support import CHECKOUT, picture
from tests.upgrade.freeze import rows_of
from tests.upgrade.states import (
    looked_at,
    problems_in_use,
    problems_of_backups,
    problems_of_database,
    problems_of_files,
)

OLDEST, LATEST = REVISIONS[0], REVISIONS[-1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What alembic needs of a checkout, to write revisions in."""
    folder = tmp_path / "checkout"
    shutil.copytree(CHECKOUT / "migrations", folder / "migrations")
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def alembic(
    *words: str, directory: Path | None = None, folder: Path = CHECKOUT
) -> tuple[int, str, str]:
    """Run a command on a runtime directory; return how it ended, and what it said."""
    on = [] if directory is None else ["-x", f"directory={directory}"]
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *on, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.thorough
def test_looking(oldest: Path) -> None:
    """`current` says the revision, and `check` that it is not the newest; nothing is changed, the
    WAL of the killed writer included."""
    before = picture(oldest)
    assert alembic("current", directory=oldest)[:2] == (0, f"{OLDEST}\n")
    code, said, _ = alembic("check", directory=oldest)
    assert (code != 0, said) == (True, "FAILED: Target database is not up to date.\n")
    assert picture(oldest, without=("-shm",)) == before


def test_upgrading(oldest: Path) -> None:
    """`upgrade head` does what opening does: the database is current with all that was in it, what
    it was is kept and on record; then `check` finds no difference to the tables of the package, and
    a second one nothing to do."""
    assert alembic("upgrade", "head", directory=oldest)[0] == 0
    look = looked_at(oldest)
    assert problems_of_database(look / DATABASE_NAME, OLDEST, (LATEST,)) == []
    assert problems_of_files(look, OLDEST) == []
    assert problems_of_backups(look, OLDEST) == []
    (backup,) = backups_in(oldest, FileSystem())
    (row,) = rows_of(look / DATABASE_NAME)["database_upgrades"]
    assert (row[1], row[2], row[4]) == (OLDEST, LATEST, backup.name)
    before = picture(oldest)
    assert alembic("current", directory=oldest)[1] == f"{LATEST} (head)\n"
    assert alembic("check", directory=oldest)[1] == "No new upgrade operations detected.\n"
    assert alembic("upgrade", "head", directory=oldest)[0] == 0
    assert picture(oldest) == before
    assert problems_in_use(oldest) == []


@pytest.mark.thorough
def test_nothing_to_run(oldest: Path) -> None:
    """An upgrade to where the database is leaves no back-up, and no row."""
    rows = rows_of(looked_at(oldest) / DATABASE_NAME)
    assert alembic("upgrade", OLDEST, directory=oldest)[0] == 0
    assert backups_in(oldest, FileSystem()) == []
    assert rows_of(oldest / DATABASE_NAME) == rows


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("downgrade", "-1"), "a revision is not taken back: no upgrade left a back-up in"),
        (("stamp", LATEST), "a revision is run, never only written down"),
        (("ensure_version",), "rtstore init makes a control database"),
        (("upgrade", "head", "--sql"), "rtstore runs its revisions on a database"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_never_done(oldest: Path, words: tuple[str, ...], message: str) -> None:
    """Commands that would harm a control database are refused, and say what helps."""
    before = picture(oldest)
    code, _, said = alembic(*words, directory=oldest)
    assert code != 0
    assert message in said
    assert "Traceback" not in said
    assert picture(oldest) == before


@pytest.mark.thorough
def test_wrong_directories(tmp_path: Path) -> None:
    """Without a directory, in one without a database, and on a database that is not ours, it says
    so and changes nothing."""
    assert "alembic -x directory=DIR current" in alembic("current")[2]
    assert "rtstore init makes one" in alembic("upgrade", "head", directory=tmp_path)[2]
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as other:
        other.execute("CREATE TABLE recipes (title TEXT)")
    before = picture(tmp_path)
    for words in (("current",), ("upgrade", "head")):
        code, _, said = alembic(*words, directory=tmp_path)
        assert code != 0
        assert "is not a control database of rtstore" in said
        assert "Traceback" not in said
    assert picture(tmp_path) == before


@pytest.mark.thorough
def test_the_next_revision(checkout: Path, tmp_path: Path) -> None:
    """A new revision is in the file of its name. As long as it fails, the database is as it was and
    no back-up stays; when it works, it is kept and on record."""
    name = f"{len(REVISIONS) + 1:04d}_colours"
    directory = tmp_path / "runtime"
    RuntimeStore.open(directory, team_name="team-a").close()
    assert alembic("revision", "--rev-id", name, "-m", "Colours.", folder=checkout)[0] == 0
    path = checkout / "migrations" / "versions" / f"{name}.py"
    text = path.read_text()
    before = rows_of(directory / DATABASE_NAME)
    code, _, said = alembic("upgrade", "head", directory=directory, folder=checkout)
    assert code != 0
    assert "write this revision" in said
    assert rows_of(directory / DATABASE_NAME) == before
    assert backups_in(directory, FileSystem()) == []
    work = 'op.execute("CREATE TABLE colours (name TEXT NOT NULL) STRICT")'
    path.write_text(text.replace("raise RuntimeError('write this revision')", work))
    assert alembic("upgrade", "head", directory=directory, folder=checkout)[0] == 0
    (row,) = rows_of(directory / DATABASE_NAME)["database_upgrades"]
    assert (row[1], row[2]) == (LATEST, name)
    assert len(backups_in(directory, FileSystem())) == 1


@pytest.mark.thorough
def test_a_downgrade_names_the_back_up_that_is_there(oldest: Path) -> None:
    """The one that the last upgrade left, as a command that works."""
    assert alembic("upgrade", "head", directory=oldest)[0] == 0
    (kept,) = backups_in(oldest, FileSystem())
    code, _, said = alembic("downgrade", "-1", directory=oldest)
    assert code != 0
    assert f"rtstore restore {kept} NEW_DIR makes a directory of the back-up" in said
