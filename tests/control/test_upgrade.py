"""Which databases are touched at all, how a new one is made, and how revisions are run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from rtstore import RuntimeStore
from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.errors import (
    CorruptDatabaseError,
    ForeignDatabaseError,
    NewerDatabaseError,
    RuntimeStoreError,
    StorageError,
)
from rtstore.files.system import FileSystem
from tests.control.build import CHECKOUT, batch_count, fill, hashes, make, plain
from tests.support.forked import forked

LATEST = REVISIONS[-1]


def change(path: Path, *statements: str) -> None:
    """Change a database from outside."""
    with plain(path) as connection:
        for statement in statements:
            connection.execute(statement)


# --- may this package touch it? -------------------------------------------------------------------


def test_a_current_database(tmp_path: Path) -> None:
    """A current database is at the newest revision; looking changes nothing."""
    path = make(tmp_path)
    before = hashes(tmp_path)
    assert revisions.inspect_revision(path) == LATEST
    assert hashes(tmp_path) == before


def _newer_number(path: Path) -> None:
    change(path, f"PRAGMA user_version = {len(REVISIONS) + 1}")


def _newer_name(path: Path) -> None:
    change(path, "UPDATE alembic_version SET version_num = '0999_from_the_future'")


def _newer_schema(path: Path) -> None:
    change(path, "CREATE TABLE from_the_future (x)")
    _newer_name(path)


def _newer(path: Path) -> None:
    _newer_number(path)
    _newer_name(path)


def _no_name(path: Path) -> None:
    change(path, "DELETE FROM alembic_version")


def _two_names(path: Path) -> None:
    change(path, f"INSERT INTO alembic_version VALUES ('{REVISIONS[0]}')")


def _no_number(path: Path) -> None:
    change(path, "PRAGMA user_version = 0")


def _no_alembic(path: Path) -> None:
    change(path, "DROP TABLE alembic_version")


def _foreign(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE notes (text)", "PRAGMA user_version = 1")


def _foreign_with_id(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE notes (text)", "PRAGMA application_id = 7")


def _text(path: Path) -> None:
    path.write_text("this is a shopping list, and quite a long one\n" * 100)


def _short_text(path: Path) -> None:
    path.write_text("milk\n")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _one_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.sqlite3"))
    path.symlink_to("elsewhere.sqlite3")


def _dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.sqlite3")


REFUSED: list[tuple[Callable[[Path], None], type[RuntimeStoreError], str]] = [
    (_newer_number, CorruptDatabaseError, f"is {len(REVISIONS) + 1}, but .* says '{LATEST}'"),
    (_newer_schema, NewerDatabaseError, f"at revision 0999_from_the_future, .* up to {LATEST}"),
    (_newer_name, CorruptDatabaseError, "but alembic_version says '0999_from_the_future'"),
    (_newer, NewerDatabaseError, f"0999_from_the_future, .*{LATEST}.*with a newer rtstore"),
    (
        _no_name,
        CorruptDatabaseError,
        "user_version is [0-9]+, but alembic_version says None",
    ),
    (_two_names, CorruptDatabaseError, "alembic_version has 2 rows, not one"),
    (_no_number, CorruptDatabaseError, f"user_version is 0, but alembic_version says '{LATEST}'"),
    (_no_alembic, CorruptDatabaseError, "no such table: alembic_version"),
    (_foreign, ForeignDatabaseError, "its application_id is 0.*Nothing was touched.*Move it away"),
    (_foreign_with_id, ForeignDatabaseError, "its application_id is 7"),
    (_text, ForeignDatabaseError, "the file is not a SQLite database"),
    (_short_text, ForeignDatabaseError, "the file is not a SQLite database"),
    (_empty, CorruptDatabaseError, "the file is empty: it was truncated.*rtstore doctor"),
    (_header_only, CorruptDatabaseError, "is damaged"),
    (_one_page, CorruptDatabaseError, "malformed"),
    (_half, CorruptDatabaseError, "malformed"),
    (_folder, ForeignDatabaseError, "not a regular file"),
    (_link, ForeignDatabaseError, "it is a symbolic link.*make the whole directory a link"),
    (
        _dangling_link,
        ForeignDatabaseError,
        "it is a symbolic link to .*, where nothing is found",
    ),
]


@pytest.mark.parametrize(
    ("prepare", "error", "message"), REFUSED, ids=[row[0].__name__[1:] for row in REFUSED]
)
def test_what_is_refused(
    tmp_path: Path,
    prepare: Callable[[Path], None],
    error: type[RuntimeStoreError],
    message: str,
) -> None:
    """What is newer, foreign or damaged is refused with its own error, which says what was found
    and what helps; not a byte is changed and no file is made."""
    path = make(tmp_path)
    prepare(path)
    before = hashes(tmp_path)
    names = {each.name for each in tmp_path.iterdir()}
    with pytest.raises(error, match=message) as caught:
        revisions.inspect_revision(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    with pytest.raises(error, match=message) as caught:  # opening looks at less, and first
        RuntimeStore.open(tmp_path, team_name="team-a")
    assert type(caught.value) is error
    assert hashes(tmp_path) == before
    assert {each.name for each in tmp_path.iterdir()} == names


def test_a_newer_database_says_both_versions(tmp_path: Path) -> None:
    """The error for a newer database carries both versions as fields."""
    path = make(tmp_path)
    _newer(path)
    with pytest.raises(NewerDatabaseError) as caught:
        revisions.inspect_revision(path)
    assert caught.value.found_revision == "0999_from_the_future"
    assert caught.value.supported_revision == LATEST


@pytest.mark.parametrize("error", [NewerDatabaseError, CorruptDatabaseError])
@pytest.mark.parametrize("name", ["'0999\x1b[2J'", "x'00ff'", "hex(zeroblob(5000))"])
def test_a_name_that_is_none(tmp_path: Path, name: str, error: type[RuntimeStoreError]) -> None:
    """Whatever stands for the name of a revision, the error is one short, printable line; also
    where the schema shows that nobody upgraded it."""
    path = make(tmp_path)
    change(path, f"UPDATE alembic_version SET version_num = {name}")
    if error is NewerDatabaseError:
        change(path, "CREATE TABLE from_the_future (x)")
    with pytest.raises(error) as caught:
        revisions.inspect_revision(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2 * len(str(path)) + 300


def test_what_a_wal_says_counts(tmp_path: Path) -> None:
    """A newer revision that is in the WAL only, of a program that still runs, is seen."""
    path = make(tmp_path)
    with plain(path) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("BEGIN")
        other.execute(f"PRAGMA user_version = {len(REVISIONS) + 1}")
        other.execute("UPDATE alembic_version SET version_num = '0999_from_the_future'")
        other.execute("COMMIT")
        with pytest.raises(NewerDatabaseError):
            revisions.inspect_revision(path)
        before = hashes(tmp_path)
        for read_only in (False, True):
            with pytest.raises(NewerDatabaseError):
                RuntimeStore.open(tmp_path, read_only=read_only)
        assert hashes(tmp_path) == before


def test_whether_there_is_one(tmp_path: Path) -> None:
    """There is a database where something has its name, be it damaged or a dangling link."""
    path = tmp_path / DATABASE_NAME
    assert not revisions.exists(path)
    path.symlink_to("nowhere")
    assert revisions.exists(path)
    path.unlink()
    path.write_bytes(b"")
    assert revisions.exists(path)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_wal_without_its_database(tmp_path: Path, suffix: str) -> None:
    """What belongs beside a database that is gone is damage: a new database would take the old WAL
    for its own."""
    path = tmp_path / DATABASE_NAME
    side = tmp_path / (DATABASE_NAME + suffix)
    side.write_bytes(b"\0" * 4096)
    before = hashes(tmp_path)
    with pytest.raises(CorruptDatabaseError, match=f"gone, but {side.name} is still there"):
        revisions.exists(path)
    assert hashes(tmp_path) == before


OPEN_CURRENT = """
import sys
from rtstore import RuntimeStore
store = RuntimeStore.open(sys.argv[1])
store.manifest()
store.close()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("alembic", "mako")))
"""


def test_opening_a_current_database_loads_no_alembic(tmp_path: Path) -> None:
    """Alembic is loaded only where revisions are run: opening is quick when there are none."""
    make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OPEN_CURRENT, str(tmp_path)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


# --- making one -----------------------------------------------------------------------------------


def test_a_new_database_is_whole(tmp_path: Path) -> None:
    """A new database is there with its first rows, alone in its directory, for its owner only."""
    path = make(tmp_path)
    assert set(hashes(tmp_path)) == {DATABASE_NAME}
    assert path.stat().st_mode & 0o077 == 0
    database = Database(path, read_only=True)
    assert database.read(batch_count) == 0
    database.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(28, "No space left")])
def test_making_that_fails_leaves_nothing(
    tmp_path: Path, error: BaseException | type[BaseException]
) -> None:
    """When the first rows cannot be written there is no database, and nothing else either."""

    def fail(connection: Connection) -> None:
        fill(connection)
        raise error

    with pytest.raises((ValueError, KeyboardInterrupt, StorageError)):
        revisions.create(tmp_path / DATABASE_NAME, FileSystem(), fail, lock=None)
    assert hashes(tmp_path) == {}


class _FailingFileSystem(FileSystem):
    """Fails one kind of call."""

    def __init__(self, failing: str) -> None:
        self._failing = failing

    def rename(self, source: Path, target: Path) -> None:
        """Fail, or rename."""
        if self._failing == "rename":
            raise OSError(5, "Input/output error")
        super().rename(source, target)

    def fsync_directory(self, path: Path) -> None:
        """Fail, or flush."""
        if self._failing == "fsync_directory":
            raise OSError(5, "Input/output error")
        super().fsync_directory(path)


def test_a_rename_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Without its name a database is none: what was built is removed."""
    with pytest.raises(StorageError, match="the database could not be made"):
        revisions.create(tmp_path / DATABASE_NAME, _FailingFileSystem("rename"), fill, lock=None)
    assert hashes(tmp_path) == {}


def test_a_flush_that_fails_after_the_rename(tmp_path: Path) -> None:
    """When the name could not be made durable the caller is told; what is there is a whole
    database."""
    path = tmp_path / DATABASE_NAME
    with pytest.raises(StorageError, match="was made, but its name could not be flushed"):
        revisions.create(path, _FailingFileSystem("fsync_directory"), fill, lock=None)
    assert revisions.inspect_revision(path) == LATEST


def test_errors_of_sqlite_are_ours(tmp_path: Path) -> None:
    """What SQLite refuses while a database is made comes out as an error of ours."""

    def overfill(connection: Connection) -> None:
        fill(connection)
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.exec_driver_sql("CREATE TABLE bulk (text)")
        connection.exec_driver_sql("INSERT INTO bulk VALUES (hex(zeroblob(100000)))")

    with pytest.raises(StorageError, match="the disk is full"):
        revisions.create(tmp_path / DATABASE_NAME, FileSystem(), overfill, lock=None)
    assert hashes(tmp_path) == {}


def test_rows_that_refer_to_nothing_are_found(tmp_path: Path) -> None:
    """Foreign keys are off while revisions run, so they are checked before the commit."""

    def orphan(connection: Connection) -> None:
        fill(connection)
        connection.exec_driver_sql(
            "INSERT INTO store_contents (schema_name, batch_number, content) VALUES ('a', 9, '{}')"
        )

    with pytest.raises(CorruptDatabaseError, match="1 rows refer to rows that are not there"):
        revisions.create(tmp_path / DATABASE_NAME, FileSystem(), orphan, lock=None)
    assert hashes(tmp_path) == {}


def test_what_a_dead_maker_left_is_removed(tmp_path: Path) -> None:
    """What a process left that died while it made a database is no obstacle, and goes."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f".{DATABASE_NAME}.new{suffix}").write_bytes(b"half of something")
    path = tmp_path / DATABASE_NAME
    assert not revisions.exists(path)
    make(tmp_path)
    assert set(hashes(tmp_path)) == {DATABASE_NAME}
    assert revisions.inspect_revision(path) == LATEST


DIE_WHILE_MAKING = """
import os, signal, sys
from pathlib import Path
from rtstore.control import revisions as upgrade
from rtstore.files.system import FileSystem

class Deadly(FileSystem):
    def rename(self, source, target):
        if sys.argv[2] == "after":
            super().rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

def fill(connection):
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)

upgrade.create(Path(sys.argv[1]), Deadly(), fill, lock=None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL here")
@pytest.mark.parametrize("moment", ["within", "before", "after"])
def test_a_maker_that_is_killed(tmp_path: Path, moment: str) -> None:
    """A process that is killed while it makes a database leaves none under that name before the
    rename, and a whole one after it; the next one makes it."""
    path = tmp_path / DATABASE_NAME
    with forked(DIE_WHILE_MAKING, path, moment) as maker:
        assert maker.wait(60) == -9
    assert revisions.exists(path) == (moment == "after")
    if moment != "after":
        assert hashes(tmp_path) != {}
        make(tmp_path)
    assert set(hashes(tmp_path)) == {DATABASE_NAME}
    assert revisions.inspect_revision(path) == LATEST


def test_threads_make_databases_at_the_same_time(tmp_path: Path) -> None:
    """Threads that make databases in different directories do not run each other's revisions."""
    together = threading.Barrier(6, timeout=20)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        together.wait()
        try:
            make(tmp_path / str(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = [revisions.inspect_revision(tmp_path / str(n) / DATABASE_NAME) for n in range(6)]
    assert found == [LATEST] * 6
