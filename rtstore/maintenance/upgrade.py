"""Upgrades the control database of a runtime directory to this package's revision, atomically.

    1 look      read the revision, before anything is changed; current: nothing to do
    2 lock      take the writer lock; look again: another process may have been quicker; make again
                what somebody dropped and needs no row; refuse where a table with rows is gone
    3 back up   the database as it is, through SQLite's backup API; verified, flushed, named
    4 upgrade   run every revision in one transaction, foreign keys off; check before its commit
    5 tidy      remove the back-ups beyond the newest few

Only the commit of step 4 changes anything for a reader. Wherever the process dies, the database is
at the old revision or at the new one, whole. A crash leaves only a back-up, or half of one. It
blocks nothing, and the next upgrade tidies it up.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from pydantic import computed_field
from sqlalchemy import Connection

from rtstore.control import lost_history, parts, upgrade_log
from rtstore.control import revisions as upgrade
from rtstore.control.lock import DEFAULT_TIMEOUT_S, WriterLock
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite import copying
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.control.sqlite.translation import is_refusal
from rtstore.errors import (
    CorruptDatabaseError,
    ForeignDatabaseError,
    NotARuntimeDirectoryError,
    RetryableError,
    RuntimeStoreError,
    StorageError,
    UpgradeFailedError,
    WrongTeamError,
    cause_of,
)
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.forks import no_fork
from rtstore.model import arguments
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.records import Record
from rtstore.model.times import Clock, Timestamp, format_time, to_utc_ms, utc_now

BACKUPS_KEPT = 3
"""The number of back-ups of upgrades that stay in a runtime directory: the newest ones."""

_PREFIX, _SUFFIX = "runtime-store.backup-", ".sqlite3"
_UNFINISHED = f".{_PREFIX}new{_SUFFIX}"

logger = logging.getLogger("rtstore.maintenance")


Tried = Callable[[Database], None]
"""Called with a database as it is, or as an upgrade would leave it, to be read only."""


class UpgradeReport(Record):
    """The report of one call of `upgrade_directory`."""

    directory: Path
    from_revision: str
    to_revision: str
    revisions: tuple[str, ...]
    """The revisions that were run, in order; empty when the database was current."""
    dry_run: bool = False
    """True when they were run on a copy, which is removed; the directory is unchanged."""
    upgraded_at: Timestamp | None = None
    backup: Path | None = None
    """The back-up of the database from before the upgrade; None when no revision was run and no row
    was removed."""
    put_back: tuple[str, ...] = ()
    """What somebody had dropped or altered of the database and that was made again; with `dry_run`,
    that would be: views, triggers and indexes, such as `view run_log` (of an older one, where they
    were dropped), tables that
    only remember, without their rows, such as `table quarantined_files`, and what says which
    revision it is at: `application_id`, `user_version`, `row of alembic_version`, `table
    alembic_version`."""
    removed_rows: int = 0
    """How many rows were left of batches that somebody deleted by hand from a current database, and
    were removed; with `dry_run`, would be."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def changed(self) -> bool:
        """Whether the database of the directory was changed."""
        mended = bool(self.put_back or self.removed_rows)
        return self.backup is not None or (mended and not self.dry_run)


def upgrade_directory(
    directory: str | Path,
    *,
    team_name: str | None = None,
    clock: Clock = utc_now,
    lock: WriterLock | None = None,
    lock_timeout_s: float = DEFAULT_TIMEOUT_S,
    dry_run: bool = False,
    descriptors: Iterable[Descriptor] | None = None,
    data_may_be_newer: bool = False,
    progress: copying.Progress | None = None,
    fs: FileSystem | None = None,
    tried: Tried | None = None,
    check_first: Tried | None = None,
) -> UpgradeReport:
    """Upgrade the control database of a runtime directory to the newest revision.

    Before anything changes, the database is backed up into the same directory, and the back-up is
    verified. Durable when it returns. A current database is left as it is, but for views, triggers
    and indexes that somebody dropped or altered: they are made again, without a back-up, as that
    touches no row. So is a dropped table that only remembers (`quarantined_files`,
    `recovery_actions`, `database_upgrades`), without its rows. What was dropped of an older one is
    made again before its back-up, and where another table or a column is gone, the upgrade is
    refused. Made again is also what says which revision a
    database is at, where that is all that it lost or that was altered. Rows that are left of
    batches which somebody deleted by hand are removed after a back-up, as pruning removes them.
    With `dry_run` the upgrade is tried on a copy, and the directory is not changed; `tried` is
    called with the database that came of it, or with that of the directory where nothing would be
    changed. `check_first` is called with the database as it is, of any revision, before anything is
    changed: what it raises refuses the upgrade. `progress` is called with the number of database
    pages that are copied, and the number of all.

    With `descriptors`, a database whose store data could not be upgraded to them is refused first
    (`DataUpgradeError`). Otherwise no program could continue: an older one does not know the new
    database, and a newer one does not know the old data. One with store data that is newer than
    they are is refused as well (`NewerStoreFileError`), unless `data_may_be_newer`, as in an
    opening: that program may write its other stores.

    Raises `UpgradeFailedError` when a revision fails (the database is then unchanged),
    `NotARuntimeDirectoryError`, `WrongTeamError`, `NewerDatabaseError`, `ForeignDatabaseError`,
    `CorruptDatabaseError`, `StorageError`, `DatabaseLockedError`, and `LockTimeoutError` after
    `lock_timeout_s` seconds.
    """
    directory, fs = arguments.path(directory, "directory"), fs or FileSystem()
    arguments.timeout_s(lock_timeout_s, "lock_timeout_s")
    arguments.optional(str, team_name, "team_name")
    clock = arguments.checked_clock(clock)
    arguments.optional_function(progress, "progress")
    registry = None if descriptors is None else Registry(descriptors)
    path = directory / DATABASE_NAME
    if not upgrade.exists(path):
        with no_fork():  # imported only here: it also loads the legacy format
            from rtstore import legacy
            from rtstore.maintenance.hints import refuse_lost_database, suggest_command

        if not legacy.is_to_import(directory):
            refuse_lost_database(directory, team_name, descriptors, fs)
        raise NotARuntimeDirectoryError(
            directory, "there is no runtime store here", *suggest_command(directory, team_name)
        )
    lock = lock or WriterLock(directory, lock_timeout_s)
    lost = _marks_to_put_back(path)
    if check_first is not None:
        with closing(Database(path, read_only=True)) as database:
            check_first(database)
    if lost and registry is not None:  # refuse before anything is changed
        is_current = lost.revision == REVISIONS[-1]
        _check_data(path, registry, is_current=is_current, may_be_newer=data_may_be_newer)
    if lost and dry_run:
        now = clock()
        _on_a_copy(directory, lambda trial: _mark_and_run(trial, lost, now), progress, tried)
        report = _report(directory, lost.revision)
        return report.model_copy(update={"put_back": lost.names, "dry_run": True})
    if lost:
        _mark(path, lock)
    report = _upgrade(
        directory,
        lock,
        team_name=team_name,
        clock=clock,
        dry_run=dry_run,
        registry=registry,
        data_may_be_newer=data_may_be_newer,
        progress=progress,
        fs=fs,
        tried=tried,
    )
    if lost:
        return report.model_copy(update={"put_back": (*lost.names, *report.put_back)})
    return report


def _upgrade(
    directory: Path,
    lock: WriterLock,
    *,
    team_name: str | None,
    clock: Clock,
    dry_run: bool,
    registry: Registry | None,
    data_may_be_newer: bool,
    progress: copying.Progress | None,
    fs: FileSystem,
    tried: Tried | None,
) -> UpgradeReport:
    path = directory / DATABASE_NAME
    found = upgrade.inspect_revision(path)
    is_current = found == REVISIONS[-1]
    if not is_current:
        _check_team(path, team_name)
    if registry is not None:
        _check_data(path, registry, is_current=is_current, may_be_newer=data_may_be_newer)
    if is_current and dry_run:
        return _try_to_complete(directory, progress, tried)
    if is_current:
        return _completed(directory, lock, clock, fs, progress)
    if dry_run:
        return _try(directory, found, clock(), progress, tried)
    with lock.hold():
        found = upgrade.inspect_revision(path)
        if found == REVISIONS[-1]:  # another process upgraded it since the first look
            return _report(directory, found)
        put_back, now = _put_back(path, found), clock()
        with _backed_up(path, found, now, fs, progress) as backup:
            run(path, found, now, backup.name, lock=lock)
    logger.info("%s: upgraded from %s to %s; back-up: %s", path, found, REVISIONS[-1], backup.name)
    update = {"upgraded_at": now, "backup": backup, "put_back": put_back}
    return _report(directory, found).model_copy(update=update)


def _try(
    directory: Path,
    found: str,
    now: datetime,
    progress: copying.Progress | None,
    tried: Tried | None,
) -> UpgradeReport:
    """Try an upgrade on a copy."""
    dropped = _dropped(directory / DATABASE_NAME, found)  # a copy is verified, and tells less

    def change(trial: Path) -> None:
        _put_back(trial, found)
        run(trial, found, now, "", lock=None)

    _on_a_copy(directory, change, progress, tried)
    update = {"put_back": dropped.gone, "dry_run": True}
    return _report(directory, found).model_copy(update=update)


def _put_back(path: Path, found: str) -> tuple[str, ...]:
    """Make again what somebody dropped of an older database and needs no row, before it is backed
    up: a back-up without it would be refused."""
    dropped = _dropped(path, found)
    if dropped.gone:
        try:
            with upgrade.revision_connection(path) as connection:
                parts.make_again(connection, dropped, found)
        except RetryableError:
            raise
        except RuntimeStoreError as error:
            raise _refused(path, found, error) from error
        logger.info("%s: made again before its upgrade: %s", path, ", ".join(dropped.gone))
    return dropped.gone


def _dropped(path: Path, found: str) -> parts.Spoiled:
    """Return what somebody dropped of an older database and needs no row. Refuse where more is
    gone: few revisions touch every table, and the others would leave a database that cannot be used
    at the newest revision."""
    dropped = parts.dropped_parts(path, found)
    if not dropped.can_be_made_again:
        cause = "not all that its revision makes is there"
        raise UpgradeFailedError(path, found, REVISIONS[-1], cause, gone=dropped.gone)
    return dropped


@contextmanager
def upgrade_by_hand(directory: str | Path) -> Iterator[Connection]:
    """Open a block that runs some revisions on the connection it receives: under the writer lock,
    after a back-up, in one transaction that is checked and recorded.

    For `alembic upgrade` in a checkout. Raises what `upgrade_directory` raises, and
    `InvalidRequestError` for a back-up. If the block raises, the database is unchanged.
    """
    directory, fs = Path(directory), FileSystem()
    with no_fork():
        from rtstore.maintenance.backup.guard import refuse_backup

    refuse_backup(directory)
    path = directory / DATABASE_NAME
    with WriterLock(directory).hold():
        found = upgrade.inspect_revision(path)
        _check_team(path, None)
        if found != REVISIONS[-1]:
            _put_back(path, found)
        now = to_utc_ms(utc_now())
        with (
            _backed_up(path, found, now, fs, None) as backup,
            upgrade.revision_connection(path) as connection,
        ):
            yield connection
            reached = upgrade.name_of_revision(connection)
            if reached != found:
                upgrade_log.insert_upgrade(
                    connection,
                    found=found,
                    reached=reached,
                    upgraded_at=now,
                    backup_path=backup.name,
                )
        if reached == found:
            with suppress_system_error():
                fs.unlink(backup)
            return
    logger.info("%s: upgraded from %s to %s; back-up: %s", path, found, reached, backup.name)


def run(
    path: Path, found: str, now: datetime, backup_name: str, *, lock: WriterLock | None
) -> None:
    """Do step 4: run all revisions after `found` and record them, in one transaction. `lock` as in
    `revisions.create`."""
    if lock is not None:
        lock.assert_held()
    try:
        with upgrade.revision_connection(path) as connection:
            lost_history.remove_remains(connection)
            upgrade.run_revisions(connection)
            upgrade_log.insert_upgrade(
                connection,
                found=found,
                reached=REVISIONS[-1],
                upgraded_at=now,
                backup_path=backup_name,
            )
    except upgrade.UnsureCommitError as error:
        raise UpgradeFailedError(
            path, found, REVISIONS[-1], cause_of(error), unsure=True
        ) from error
    except RetryableError:
        raise  # disk full, locked: the same upgrade may work later
    except RuntimeStoreError as error:
        raise _refused(path, found, error) from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise UpgradeFailedError(path, found, REVISIONS[-1], cause) from error


def _refused(path: Path, found: str, error: RuntimeStoreError) -> UpgradeFailedError:
    """Return the error for a revision that the database refused. SQLite calls it an error in the
    SQL, no damage, when something is there that the revision makes, or something is gone."""
    if not is_refusal(error.__cause__):
        return UpgradeFailedError(path, found, REVISIONS[-1], cause_of(error))
    added, gone = parts.differences(path, found)
    cause = error.problem if isinstance(error, CorruptDatabaseError) else cause_of(error)
    return UpgradeFailedError(path, found, REVISIONS[-1], cause, added=added, gone=gone)


def backups_in(directory: Path, fs: FileSystem) -> list[Path]:
    """Return the back-ups of upgrades in a runtime directory, oldest first."""
    names = [
        name
        for name in fs.list_directory(directory)
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    ]
    return [directory / name for name in sorted(names, key=_time_in)]


# --- steps ----------------------------------------------------------------------------------------


def _report(directory: Path, found: str) -> UpgradeReport:
    return UpgradeReport(
        directory=directory,
        from_revision=found,
        to_revision=REVISIONS[-1],
        revisions=REVISIONS[REVISIONS.index(found) + 1 :],
    )


def _completed(
    directory: Path,
    lock: WriterLock,
    clock: Clock,
    fs: FileSystem,
    progress: copying.Progress | None,
) -> UpgradeReport:
    """Make again what somebody dropped or altered of a current database, where no row stands
    against it. Before rows are removed, the database is backed up: they may have the only copy of a
    content."""
    path, report = directory / DATABASE_NAME, _report(directory, REVISIONS[-1])
    spoiled, remains, backup = _to_make_again(path), _remains(path), None
    if spoiled.names or remains:
        with lock.hold():
            # Another process may have been quicker.
            spoiled, remains = _to_make_again(path), _remains(path)
            if remains:
                with _backed_up(path, REVISIONS[-1], clock(), fs, progress) as backup:
                    _make_again(path, spoiled)
            elif spoiled.names:
                _make_again(path, spoiled)
    update = {"put_back": spoiled.names, "removed_rows": remains, "backup": backup}
    return report.model_copy(update=update)


def _try_to_complete(
    directory: Path, progress: copying.Progress | None, tried: Tried | None
) -> UpgradeReport:
    """Try on a copy what `_completed` would do."""
    path, report = directory / DATABASE_NAME, _report(directory, REVISIONS[-1])
    spoiled, remains = _to_make_again(path), _remains(path)
    if spoiled.names or remains:
        _on_a_copy(directory, lambda trial: _make_again(trial, spoiled), progress, tried)
    elif tried is not None:
        with closing(Database(path, read_only=True)) as database:
            tried(database)
    update = {"put_back": spoiled.names, "removed_rows": remains, "dry_run": True}
    return report.model_copy(update=update)


def _make_again(path: Path, spoiled: parts.Spoiled) -> None:
    with upgrade.revision_connection(path) as connection:
        parts.make_again(connection, spoiled)
        lost_history.remove_remains(connection)


def _remains(path: Path) -> int:
    """Return how many rows are left of history that somebody deleted. A database that is damaged
    is left as it is."""
    database = Database(path, read_only=True)
    try:
        return database.read(lost_history.count_remains)
    except CorruptDatabaseError:  # a table is gone
        return 0
    finally:
        database.close()


def _marks_to_put_back(path: Path) -> parts.LostMarks | None:
    """Return the marks that are lost where that is why a database is refused; else None, and it is
    refused when it is used."""
    try:
        upgrade.inspect_revision(path)
    except (CorruptDatabaseError, ForeignDatabaseError):
        return lost_marks(path)
    return None


def lost_marks(path: Path) -> parts.LostMarks | None:
    """Return the marks that a database lost, when that is all that is wrong with it, else None."""
    with no_fork():
        from rtstore.maintenance.backup.verifying import problem_of_rows

    lost = parts.lost_marks(path)
    with suppress(RuntimeStoreError):
        if lost is not None and problem_of_rows(path, lost.revision) is None:
            return lost
    return None


def _mark(path: Path, lock: WriterLock) -> None:
    """Write again what says which revision a database is at."""
    with lock.hold():
        lost = lost_marks(path)  # another process may have been quicker
        if lost is not None:
            with upgrade.revision_connection(path) as connection:
                parts.put_marks_back(connection, lost)
            logger.info("%s: its %s made again", path, ", its ".join(lost.names))


def _mark_and_run(trial: Path, lost: parts.LostMarks, now: datetime) -> None:
    with upgrade.revision_connection(trial) as connection:
        parts.put_marks_back(connection, lost)
    if lost.revision != REVISIONS[-1]:
        run(trial, lost.revision, now, "", lock=None)


def _to_make_again(path: Path) -> parts.Spoiled:
    spoiled = parts.spoiled_parts(path)
    return spoiled if spoiled.can_be_made_again else parts.Spoiled()


def _check_team(path: Path, team_name: str | None) -> None:
    """Raise for another team's database or one without a manifest, before it is backed up or
    upgraded."""
    database = Database(path, read_only=True)
    try:
        found = database.read(upgrade_log.team_name)
    finally:
        database.close()
    if found is None:
        raise CorruptDatabaseError(path, "it has no manifest")
    if team_name not in (None, found):
        raise WrongTeamError(path.parent, str(team_name), found)


@contextmanager
def _backed_up(
    path: Path, found: str, now: datetime, fs: FileSystem, progress: copying.Progress | None
) -> Iterator[Path]:
    """Steps 3 and 5, around a block that does step 4. The block receives the back-up's path."""
    _tidy(path.parent, fs)  # remove back-ups of crashed processes, which never reached step 5
    backup = _back_up(path, found, now, fs, progress)
    try:
        yield backup
    except Exception as error:
        # The database still equals the back-up; one back-up for each attempt would fill the disk.
        if not isinstance(error.__cause__ or error, upgrade.UnsureCommitError):
            with suppress_system_error():
                fs.unlink(backup)
        raise
    _tidy(path.parent, fs, backup)


def _check_data(path: Path, registry: Registry, *, is_current: bool, may_be_newer: bool) -> None:
    """Refuse data that is newer than its descriptor, and data that cannot be upgraded."""
    with no_fork():
        from rtstore.maintenance.upgrade_data import refuse_newer_data, rehearse

    database = Database(path, read_only=True)
    try:
        if not may_be_newer:
            refuse_newer_data(database, registry)
        # What cannot be read of a current one is mended first.
        with suppress(CorruptDatabaseError) if is_current else nullcontext():
            rehearse(database, registry)
    finally:
        database.close()


def _back_up(
    path: Path, found: str, now: datetime, fs: FileSystem, progress: copying.Progress | None
) -> Path:
    """Step 3: make the back-up under another name, flush it, and rename it when it is whole."""
    building = path.with_name(_UNFINISHED)
    try:
        _remove_unfinished(path.parent, fs)
        database = Database(path, read_only=True)
        try:
            copying.copy(database, building, fs, progress)
        finally:
            database.close()
        backup = _free_name(path.parent, found, now)
        fs.rename(building, backup)
        fs.fsync_directory(path.parent)
    except system_error() as error:
        with suppress_system_error():
            _remove_unfinished(path.parent, fs)
        raise StorageError(path, "the back-up cannot be made", str(error)) from error
    except BaseException:
        with suppress_system_error():
            _remove_unfinished(path.parent, fs)
        raise
    return backup


def _remove_unfinished(directory: Path, fs: FileSystem) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            fs.unlink(directory / f"{_UNFINISHED}{suffix}")


def _free_name(directory: Path, found: str, now: datetime) -> Path:
    stamp = format_time(now).replace("-", "").replace(":", "")
    for number in _counting():
        path = directory / f"{_PREFIX}{found}-{stamp}{number}{_SUFFIX}"
        if not path.exists():
            return path
    raise AssertionError


def _counting() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f".{number}"
        number += 1


def _time_in(name: str) -> str:
    return name.removeprefix(_PREFIX).removesuffix(_SUFFIX).rpartition("-")[2]


def _tidy(directory: Path, fs: FileSystem, *made: Path) -> None:
    """Step 5: remove old back-ups. The one just made stays, whatever time the clock gave it. One
    that cannot be removed stays too, and is logged."""
    try:
        others = [path for path in backups_in(directory, fs) if path not in made]
        for path in others[: max(0, len(others) + len(made) - BACKUPS_KEPT)]:
            fs.unlink(path)
    except system_error() as error:
        logger.warning("%s: an old back-up cannot be removed: %s", directory, error)


def _on_a_copy(
    directory: Path,
    change: Callable[[Path], None],
    progress: copying.Progress | None,
    tried: Tried | None,
) -> None:
    """Change a private copy of the database in a temporary directory, and remove the copy. What is
    raised names the database of the directory: the copy is gone."""
    path = directory / DATABASE_NAME
    try:
        with tempfile.TemporaryDirectory(prefix="rtstore-upgrade-") as temporary:
            trial = Path(temporary) / DATABASE_NAME
            with closing(Database(path, read_only=True)) as database:
                copying.copy(database, trial, FileSystem(), progress)
            change(trial)
            if tried is not None:
                with closing(Database(trial, read_only=True)) as database:
                    tried(database)
    except UpgradeFailedError as error:
        raise UpgradeFailedError(
            path,
            error.found_revision,
            REVISIONS[-1],
            error.cause,
            added=error.added,
            gone=error.gone,
        ) from error.__cause__
    except CorruptDatabaseError as error:
        raise CorruptDatabaseError(path, error.problem) from error.__cause__
    except system_error() as error:
        place = Path(tempfile.gettempdir())
        raise StorageError(place, "the copy cannot be made there", str(error)) from error
