"""Inspect the revision of a control database, create a new database, and run revisions.

`inspect_revision` decides with one small read whether this package may touch a database at all. It
imports no alembic and changes nothing, not even a `-wal` next to the file. Alembic is imported only
to run revisions.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from rtstore.control import foreign_wal, manifest
from rtstore.control.contents import Retention
from rtstore.control.fingerprints import fits, letters
from rtstore.control.lock import LOCK_NAME, WriterLock
from rtstore.control.schema import APPLICATION_ID, REVISIONS
from rtstore.control.sqlite import idle, processes
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.held import known_elsewhere
from rtstore.control.sqlite.left_wal import begin_behind_stored
from rtstore.control.sqlite.statements import database_of, driver_of
from rtstore.control.sqlite.translation import lacks_descriptors, translate
from rtstore.errors import (
    EMPTY,
    CorruptDatabaseError,
    DatabaseLockedError,
    ForeignDatabaseError,
    NewerDatabaseError,
    OlderDatabaseError,
    RuntimeStoreError,
    StorageError,
    UnusableEngineError,
)
from rtstore.files.durable import NEW_FILE_MODE
from rtstore.files.owners import explained
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import at_fork, no_fork
from rtstore.shell import shell_word

NEW_SUFFIX = ".new"
_SIDE_FILES = ("-wal", "-shm", "-journal")
_FORMAT_AT, _WAL_FORMAT = 18, b"\x02\x02"
_BYTES_MIN = 512
"""The size of the smallest page of SQLite, and so of the smallest database."""
_APPEARS_S = 0.1
"""In seconds. The longest that a process takes to make its WAL, once it has the database open."""
_CURRENT = APPLICATION_ID, len(REVISIONS), 1, REVISIONS[-1]
_NAMES = "SELECT count(*), max(version_num) FROM alembic_version"

_one_at_a_time = threading.Lock()
"""Alembic stores its connection and current revision in module globals: two threads that run
revisions at once, even on two databases, would run each other's."""


def _after_in_child() -> None:
    global _one_at_a_time  # noqa: PLW0603 - its holder may be a thread that the child lacks
    _one_at_a_time = threading.Lock()


at_fork(after_in_child=_after_in_child)


def migrations_path() -> Path:
    """Return the folder with alembic's `env.py` and `versions/`: inside an installed package, next
    to it in a checkout. Raises `UnusableEngineError` when there is none."""
    package = Path(__file__).parent.parent
    for candidate in (package / "migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file() and (candidate / "versions").is_dir():
            return candidate
    raise UnusableEngineError(
        package, "the migrations are missing from this installation. Install rtstore again"
    )


def exists(path: Path) -> bool:
    """Return whether there is a control database at the path, damaged or not.

    Raises `CorruptDatabaseError` when only a side file of a database is there: a new database would
    take the old `-wal` for its own. Also raises it when a rebuild was interrupted: an empty
    database must not replace the rebuilt one. Raises `StorageError` when that is unknown.
    """
    if _is_there(path):
        return True
    if _is_there(rebuilt_path(path)):
        raise CorruptDatabaseError(path, "a rebuild was interrupted, and must be run again")
    for suffix in _SIDE_FILES:
        side = path.with_name(path.name + suffix)
        if _is_there(side):
            raise CorruptDatabaseError(
                path, f"the database is gone, but {side.name} is still there"
            )
    return False


def rebuilt_path(path: Path) -> Path:
    """Return where a complete rebuilt database waits until the damaged one is moved away."""
    return path.with_name("runtime-store.rebuilt.sqlite3")


def _is_there(path: Path) -> bool:
    """Return whether the name exists. Raises `StorageError` when that is unknown: a directory that
    this process may not search is not an empty one."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except system_error() as error:
        raise StorageError(path, "it cannot be looked at", explained(error, path)) from error
    return True


def check_current(path: Path) -> None:
    """Raise `OlderDatabaseError` for a database of an older revision; otherwise as
    `inspect_revision`."""
    found = inspect_revision(path)
    if found != REVISIONS[-1]:
        raise OlderDatabaseError(path, found, REVISIONS[-1])


def seems_current(path: Path) -> bool:
    """Return whether the main file alone says that it is at the newest revision. Open no WAL. The
    caller checks `is_current` in its first read.

    Raises as `inspect_revision` for a file that alone shows to be foreign, newer or damaged.
    """
    return _check_header(path)


def is_current(connection: Connection) -> bool:
    """Return whether the database of a connection is at the newest revision."""
    return marks(connection) == _CURRENT


def inspect_revision(path: Path) -> str:
    """Return the revision of an existing control database: one that this package knows.

    Read-only. A file that alone shows to be foreign, newer or damaged is refused before its WAL is
    opened. Only to read a WAL may SQLite create its index again, the `-shm`, which holds no data.
    Raises `ForeignDatabaseError`, `CorruptDatabaseError`, `NewerDatabaseError`, or `StorageError`
    when it cannot be read.
    """
    _check_header(path)
    # The expected answer is true even if a writer came in between: no part of an older revision has
    # these values. Any other answer is read again, and then with patience.
    with suppress(RuntimeStoreError):
        if _look_at_revision(path, at_once=True) == _CURRENT:
            return REVISIONS[-1]
    application_id, number, rows, name = _look_at_revision(path)
    _check_application(path, application_id)
    numbered = REVISIONS[number - 1] if 0 < number <= len(REVISIONS) else None
    # A number that no revision has, with the name and the schema of one, was altered.
    revision = numbered or (name if name in REVISIONS else None)
    if revision is None or not _is_made_by(path, revision):
        _check_not_newer(path, number, name)
    if rows > 1:
        raise CorruptDatabaseError(path, f"alembic_version has {rows} rows, not one")
    if name is None or numbered != name:
        raise CorruptDatabaseError(
            path, f"user_version is {number}, but alembic_version says {name!r:.80}"
        )
    return name


def _is_made_by(path: Path, revision: str) -> bool:
    """Return whether a database has exactly the schema of a revision, whatever its marks say."""
    database = Database(path, read_only=True)
    try:
        return fits(database.read(lambda connection: letters(driver_of(connection))), revision)
    finally:
        database.close()


def _look_at_revision(path: Path, *, at_once: bool = False) -> tuple[int, int, int, str | None]:
    database = Database(path, read_only=True, at_once=at_once)
    try:
        return database.read(marks)
    finally:
        database.close()


def name_of_revision(connection: Connection) -> str:
    """Return the name of the revision of a database, in the transaction of a connection."""
    return str(connection.exec_driver_sql(_NAMES).one()[1])


def marks(connection: Connection) -> tuple[int, int, int, str | None]:
    """Return what says which revision a database is at: its application id, its user version, how
    many rows `alembic_version` has, and the name in it."""
    driver = driver_of(connection)
    (application_id,) = driver.execute("PRAGMA application_id").fetchone()
    (number,) = driver.execute("PRAGMA user_version").fetchone()
    rows, name = driver.execute(_NAMES).fetchone()
    return int(application_id), int(number), int(rows), None if name is None else str(name)


def _check_not_newer(path: Path, number: int, name: str | None) -> None:
    if number > len(REVISIONS) or (name is not None and name not in REVISIONS):
        found = f"number {number}" if name is None or name in REVISIONS else name
        if not found.isprintable() or len(found) > 80:
            found = f"{found!r:.80}"
        raise NewerDatabaseError(path, found, REVISIONS[-1])


def _check_header(path: Path) -> bool:
    """Check the main file alone, as an immutable one, before a WAL is opened. Check again if the
    file was written meanwhile. Return whether it has the number of the newest revision."""
    for _ in range(idle.ATTEMPTS):
        before = idle.file_state(path), idle.wal_size(path)
        try:
            return _look_at_header(path)
        except (CorruptDatabaseError, ForeignDatabaseError):
            if before == (idle.file_state(path), idle.wal_size(path)):
                raise
    raise DatabaseLockedError(path, "it kept changing while it was looked at")


def check_names(path: Path) -> os.stat_result:
    """Check, without opening it, that the file is regular and has only this name. Return its stat.

    Raises `ForeignDatabaseError`, `UnusableEngineError` or `StorageError`."""
    try:
        found = os.lstat(path)  # a link: two directories, and so two locks, for one database
    except system_error() as error:
        raise StorageError(path, "the file cannot be looked at", explained(error, path)) from error
    if stat.S_ISLNK(found.st_mode):
        if not path.exists():
            raise ForeignDatabaseError(
                path,
                f"it is a symbolic link to {os.readlink(path)}, where nothing is found. A person "
                "must mount or restore what it leads to, and have that itself here",
            )
        raise ForeignDatabaseError(
            path,
            "it is a symbolic link, and a database that has two names has two writer locks. Have "
            "the database itself here, or make the whole directory a link",
        )
    if not stat.S_ISREG(found.st_mode):
        raise ForeignDatabaseError(path, "it is not a regular file")
    if found.st_nlink > 1:
        raise _shared(path, path)
    return found


def _shared(path: Path, file: Path) -> UnusableEngineError:
    """Return the error for a file of a database that has another name as well."""
    return UnusableEngineError(
        file,
        "the file has another name as well (a hard link, such as `cp -al` makes), and two "
        "directories that share it would lose batches. Give this directory files of its own, "
        "while no program has either open",
        own_files_command(path),
    )


def own_files_command(path: Path) -> str | None:
    """Return the command that gives a directory files of its own, where files of its database have
    other names; else None. It is for all of them: with a WAL that two directories share, each would
    write the batches of the other."""
    files = [path, *(path.with_name(path.name + suffix) for suffix in _SIDE_FILES)]
    if not any(map(_has_other_names, files)):
        return None
    shared = [one for one in (*files, path.with_name(LOCK_NAME)) if _has_other_names(one)]
    commands = [
        f"cp -p {shell_word(one)} {own} && mv {own} {shell_word(one)}"
        for one, own in ((one, shell_word(Path(f"{one}.own"))) for one in shared)
    ]
    return " && ".join(commands)


def _has_other_names(path: Path) -> bool:
    with suppress_system_error():
        found = os.lstat(path)
        return stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    return False


def _look_at_header(path: Path) -> bool:
    found = check_names(path)
    if found.st_size == 0:
        raise CorruptDatabaseError(path, EMPTY)
    _check_unsafe(path)  # it waits for forks, and they for whom has the header open
    try:
        with _header_of(path) as header:
            _check_gone(path)  # its locks are asked for by the descriptor that is open now
            application_id = header.execute("PRAGMA application_id").fetchone()[0]
            number = header.execute("PRAGMA user_version").fetchone()[0]
            page_size = header.execute("PRAGMA page_size").fetchone()[0]
            # SQLite refuses a file that lacks whole pages. The count reads the whole schema.
            is_cut = found.st_size % page_size > 0
            pages = header.execute("PRAGMA page_count").fetchone()[0] if is_cut else 0
            name, is_newer = _newer_in(header, number, has_wal=idle.wal_size(path) > 0)
    except UnicodeDecodeError as error:  # in SQLite's own message, which quotes what is there
        raise CorruptDatabaseError(path, "what it says of itself is no text") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_NOTADB:
            problem = idle.why_no_database(path)
            raise ForeignDatabaseError(path, problem, may_be_damage=True) from error
        if code == sqlite3.SQLITE_CORRUPT and idle.wal_size(path) > 0:
            return False  # an interrupted checkpoint: the file is whole only with its WAL
        raise translate(error, path) from error
    if found.st_size < _BYTES_MIN:  # SQLite takes such a file for an empty database of nobody
        raise CorruptDatabaseError(path, f"it was cut short, to less than {_BYTES_MIN} bytes")
    _check_application(path, application_id)
    if is_newer:
        _check_not_newer(path, number, name)
    if found.st_size < pages * page_size and not idle.wal_size(path):
        # SQLite reads the missing part of the page as zeros. With a WAL: an interrupted checkpoint.
        # What is behind the last page it never reads, and the next page goes over it.
        raise CorruptDatabaseError(path, "its last page is cut short")
    return bool(number == len(REVISIONS))


def _newer_in(header: sqlite3.Connection, number: int, *, has_wal: bool) -> tuple[str | None, bool]:
    """Return the name of the revision, and whether the file alone shows that it is newer: a WAL
    could only make it newer. A number that no revision has is not enough beside the name and the
    schema of one; the name of a newer one may be in the WAL."""
    if number <= len(REVISIONS):
        return None, False
    name = _name_in(header)
    if name not in REVISIONS:
        return name, True
    return name, not has_wal and not fits(letters(header), name)


def _name_in(header: sqlite3.Connection) -> str | None:
    """Return the name of the revision if the file alone has it, or None: it may be in the WAL."""
    with suppress(sqlite3.Error, UnicodeDecodeError):
        return str(header.execute(_NAMES).fetchone()[1])
    return None


def _check_application(path: Path, application_id: int) -> None:
    if application_id != APPLICATION_ID:
        raise ForeignDatabaseError(
            path, f"its application_id is {application_id}, not {APPLICATION_ID}"
        )


def check_side_files(path: Path) -> None:
    """Raise `ForeignDatabaseError` or `UnusableEngineError` for a side file that is not safe:
    SQLite opens and writes any file with the name of a WAL, a link, a pipe, and the WAL of another
    database included. Raises `DatabaseLockedError` for one that is gone although another process
    has it open, and `StorageError`."""
    _check_unsafe(path)
    _check_gone(path)


def _check_unsafe(path: Path) -> None:
    for suffix in _SIDE_FILES:
        side = path.with_name(path.name + suffix)
        try:
            found = os.lstat(side)
        except FileNotFoundError:
            continue
        except system_error() as error:
            raise StorageError(
                side, "the file cannot be looked at", explained(error, side)
            ) from error
        if not stat.S_ISREG(found.st_mode):
            raise ForeignDatabaseError(side, "it is not a regular file")
        if found.st_nlink > 1:
            raise _shared(path, side)
        if suffix == "-journal" and found.st_size > 0 and _is_wal(path):
            raise ForeignDatabaseError(
                side,
                "it is a rollback journal, which a database in WAL mode has none of, and SQLite "
                "would write it into the database",
            )
    _check_wal(path)


def _check_gone(path: Path) -> None:
    """Raise `DatabaseLockedError` when the WAL or its index was removed while another process had
    the database open. What was committed last is in that process only, which saves it with its next
    write, or when it closes: unless SQLite makes new files for us before."""
    deadline = time.monotonic() + _APPEARS_S
    while True:
        gone = [
            path.name + suffix
            for suffix in ("-wal", "-shm")
            if not os.path.lexists(path.with_name(path.name + suffix))
        ]
        users = processes.reading(path) if gone else ()
        if not users or not _is_wal(path):
            return
        if time.monotonic() >= deadline:
            break
        time.sleep(_APPEARS_S / 20)  # it may be opening the database at this moment
    names = " and ".join(gone) + (" was" if len(gone) == 1 else " were")
    raise known_elsewhere(path, names, users)


def _check_wal(path: Path) -> None:
    """Raise `ForeignDatabaseError` for a WAL of another database, before SQLite writes it into this
    one."""
    problem = foreign_wal.problem_of_wal(path)
    if problem is not None:
        wal = path.with_name(path.name + "-wal")
        quoted = shell_word(wal)
        raise ForeignDatabaseError(wal, problem, move=f"mv {quoted} {quoted}.aside")


def _is_wal(path: Path) -> bool:
    """Return whether the header says WAL mode (sqlite.org/fileformat.html, 1.3)."""
    with suppress_system_error():
        return idle.piece(path, _FORMAT_AT, len(_WAL_FORMAT)) == _WAL_FORMAT
    return False


@contextmanager
def _header_of(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that reads the main file alone. A fork waits for its end: while it opens or
    closes, SQLite holds locks of its own, which a child would inherit for ever."""
    with (
        no_fork(),
        closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as header,
    ):
        yield header


def create(
    path: Path, fs: FileSystem, fill: Callable[[Connection], None], *, lock: WriterLock | None
) -> None:
    """Create a new control database completely, then give it its name. Durable on return.

    Call it under the `lock` of the directory; without a `lock`, nobody else knows the directory.

    `fill` writes the first rows, in the transaction that creates the tables. Until the rename there
    is no database at `path`, after it a complete one, whenever a crash comes; so an empty or short
    file with that name is always damage. The caller has checked `exists`. Raises `StorageError`,
    and the errors of `fill`.
    """
    if lock is not None:
        lock.assert_held()
    building = path.with_name(f".{path.name}{NEW_SUFFIX}")
    try:
        _remove_unfinished(path, fs)
        # Only for its owner. SQLite creates the side files with the same mode.
        fs.close(fs.create(building, NEW_FILE_MODE))
        with revision_connection(building, create=True) as connection:
            run_revisions(connection)
            manifest.save_retention(connection, Retention())  # the revisions set older limits
            fill(connection)
        _make_wal(building)
        fs.rename(building, path)
    except BaseException as error:
        with suppress_system_error():
            _remove_unfinished(path, fs)
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(
                path, "the database could not be made", explained(error, path)
            ) from error
        if isinstance(error, (DBAPIError, sqlite3.Error)):
            raise translate(error, path) from error
        raise
    try:
        fs.fsync_directory(path.parent)
    except system_error() as error:
        problem = "the database was made, but its name could not be flushed to the disk"
        raise StorageError(path, problem, str(error)) from error


def _remove_unfinished(path: Path, fs: FileSystem) -> None:
    """Remove the incomplete files of a process that died in `create`. Raises OSError."""
    building = path.with_name(f".{path.name}{NEW_SUFFIX}")
    for suffix in ("", *_SIDE_FILES):
        with suppress(FileNotFoundError):
            fs.unlink(building.with_name(building.name + suffix))


def run_revisions(connection: Connection, to: str = "head") -> None:
    """Upgrade the database of a connection to a revision, by default the newest, in the caller's
    transaction. Raises `StorageError` when the system refuses to read the revisions, and
    `UnusableEngineError` when that revision was not reached."""
    with no_fork():
        from alembic import command
        from alembic.config import Config

    folder, config = migrations_path(), Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with no_fork(), _one_at_a_time:
            command.upgrade(config, to)
    except system_error() as error:
        raise StorageError(folder, "the revisions cannot be read", str(error)) from error
    wanted = REVISIONS[-1] if to == "head" else to
    # Where alembic cannot list the revisions, it finds none, and is content.
    if connection.exec_driver_sql("PRAGMA user_version").scalar_one() <= REVISIONS.index(wanted):
        if lacks_descriptors():
            raise StorageError(folder, "the revisions cannot be read", "too many files are open")
        problem = f"its revisions do not lead to {wanted}. Install rtstore again"
        raise UnusableEngineError(folder, problem)


@contextmanager
def revision_connection(path: Path, *, create: bool = False) -> Iterator[Connection]:
    """Open a separate connection for revisions: one IMMEDIATE transaction, foreign keys off.

    Foreign keys are off because rebuilding a table drops it, which would delete the rows that refer
    to it. So foreign keys and the whole file are checked before the commit. Raises
    `UnsureCommitError` when the commit fails but may have happened.
    """

    def connect() -> sqlite3.Connection:
        driver = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None
        )
        driver.execute("PRAGMA synchronous = FULL")
        driver.execute("PRAGMA foreign_keys = OFF")
        if create:
            # They take effect only before the first table. Incremental: the space of dropped
            # history can be released in small chunks, without rewriting the file.
            driver.execute("PRAGMA auto_vacuum = INCREMENTAL")
            driver.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        return driver

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", begin_immediate)
    event.listen(engine, "commit", lambda connection: _commit(connection, path))
    try:
        with no_fork(), engine.begin() as connection:
            yield connection
            _check_whole(connection, path)
    except (DBAPIError, sqlite3.Error) as error:
        raise translate(error, path) from error
    finally:
        engine.dispose()


class UnsureCommitError(StorageError):
    """The flush in the commit of revisions failed: the whole commit may be on the disk."""


def begin_immediate(connection: Connection) -> None:
    """Begin a transaction that writes, for an engine that leaves that to its listeners."""
    begin_behind_stored(driver_of(connection), database_of(connection))


def _commit(connection: Connection, path: Path) -> None:
    try:
        connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        found = translate(error, path)
        code = getattr(error.orig, "sqlite_errorcode", 0)
        if isinstance(found, StorageError) and code & 0xFF == sqlite3.SQLITE_IOERR:
            raise UnsureCommitError(path, found.problem, found.cause) from error
        raise found from error


def _check_whole(connection: Connection, path: Path) -> None:
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if orphans:
        raise CorruptDatabaseError(path, f"{len(orphans)} rows refer to rows that are not there")
    answer = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
    if answer != "ok":
        raise CorruptDatabaseError(path, str(answer))


def _make_wal(path: Path) -> None:
    # The mode is a property of the file. It is set before other processes can know the file.
    with no_fork(), closing(sqlite3.connect(path, isolation_level=None)) as driver:
        mode = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise UnusableEngineError(
            path.parent,
            f"the file system does not allow WAL mode (journal mode stays {mode!r}); network and "
            "virtual file systems often do not. Use a local directory.",
        )
