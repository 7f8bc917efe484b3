"""Put quarantined files back where they were, or remove them for good."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import ANY_VERSION, Expected, StoreFile
from rtstore.control import manifest, recovery_log
from rtstore.control.lock import WriterLock
from rtstore.errors import (
    CorruptDatabaseError,
    InvalidRequestError,
    StorageError,
    UnsafePathError,
)
from rtstore.files import durable, quarantine
from rtstore.files.owners import explained
from rtstore.files.paths import store_path
from rtstore.foreign import system_error
from rtstore.model.descriptors import CONTROL_FILES
from rtstore.model.envelope import content_hash
from rtstore.model.records import QuarantinedFile
from rtstore.model.times import Clock, to_utc_ms
from rtstore.shell import shell_command, shell_word


def restore_quarantined(
    quarantine_number: int, publisher: Publisher, lock: WriterLock, clock: Clock
) -> QuarantinedFile:
    """Put a quarantined file back where it was, or where its store has its file now, byte for byte.
    See `RuntimeStore.restore_quarantined`.

    The copy in quarantine stays, so an interruption loses nothing. Only anything but a regular file
    is moved.
    """
    database = publisher.database
    with lock.hold():
        quarantined = database.read(
            lambda connection: recovery_log.find_quarantined(connection, quarantine_number)
        )
        if quarantined is None:
            raise InvalidRequestError(
                "quarantine_number", f"there is no quarantined file {quarantine_number}"
            )
        _check_folder(publisher)
        kept_at = _path_of(quarantined, publisher)
        if quarantined.relative_path in CONTROL_FILES:
            raise _exported(quarantined, kept_at, publisher)
        quarantined = _for_its_store(quarantined, publisher)
        _refuse_file_of_another(quarantined, kept_at, publisher)
        try:
            path = store_path(publisher.directory, quarantined.relative_path)
        except UnsafePathError as error:
            problem = f"the row of quarantined file {quarantine_number} was changed: {error}"
            raise CorruptDatabaseError(database.path, problem) from error
        try:
            _put_back(quarantined, kept_at, path, publisher)
        except system_error() as error:
            raise StorageError(
                path, "the quarantined file cannot be put back", explained(error, path)
            ) from error
        now = to_utc_ms(clock())
        with database.write(flush=True) as connection:
            recovery_log.mark_restored(connection, quarantine_number, now)
    return quarantined.model_copy(update={"restored_at": now})


def drop_old_quarantined(
    older_than: timedelta, publisher: Publisher, lock: WriterLock, clock: Clock, *, dry_run: bool
) -> tuple[QuarantinedFile, ...]:
    """Remove files quarantined at least that long ago. See `RuntimeStore.prune_quarantine`.

    Each file goes first, then its row. After an interruption in between, the next call finds the
    row, and accepts that its file is missing.
    """
    database, fs = publisher.database, publisher.fs
    try:
        kept_before = to_utc_ms(clock()) - older_than
    except OverflowError:  # before any time that there is: nothing is that old
        return ()

    def find() -> tuple[QuarantinedFile, ...]:
        found = database.read(recovery_log.list_quarantined)
        return tuple(item for item in found if item.quarantined_at <= kept_before)

    if dry_run:
        return find()
    with lock.hold():
        dropped = find()
        _check_folder(publisher)
        for item in dropped:
            path = _path_of(item, publisher)
            try:
                with suppress(FileNotFoundError):
                    durable.remove_tree(path, fs)
            except system_error() as error:
                cause = explained(error, path)
                raise StorageError(path, "the quarantined file cannot be removed", cause) from error
            with database.write(flush=False) as connection:
                recovery_log.drop_quarantined(connection, item.quarantine_number)
    return dropped


def _for_its_store(quarantined: QuarantinedFile, publisher: Publisher) -> QuarantinedFile:
    """Return a quarantined file with the path that its store has now: elsewhere it would be
    nobody's file, or another store's. What is no regular file would be in the way there."""
    name = quarantined.schema_name
    if name is None or quarantined.content_hash is None:
        return quarantined
    now = publisher.database.read(partial(manifest.file_of, schema_name=name))
    return quarantined if now is None else quarantined.model_copy(update={"relative_path": now})


def _refuse_file_of_another(
    quarantined: QuarantinedFile, kept_at: Path, publisher: Publisher
) -> None:
    """Raise where another store has the file by now: the data would pass for that store's."""
    name, path = quarantined.schema_name, quarantined.relative_path
    owner = publisher.database.read(partial(manifest.owner_of, relative_path=path))
    if name is None or owner in (None, name):
        return
    raise InvalidRequestError(
        "quarantine_number",
        f"{path} is the file of store {owner} by now, and what was kept is of store {name}, which "
        f"has no file. To have {name} back, open the directory with a descriptor that gives it "
        "another file, and restore again: then it is put there. To have the bytes alone: "
        f"{shell_command('cp', kept_at, kept_at.name)}",
    )


def _exported(
    quarantined: QuarantinedFile, kept_at: Path, publisher: Publisher
) -> InvalidRequestError:
    """Return the error for a file that an export replaced: it is of no store, and the next export
    would replace it again."""
    here = publisher.directory / quarantined.relative_path
    return InvalidRequestError(
        "quarantine_number",
        f"{quarantined.relative_path} is no file of a store: an export writes it, and the next "
        f"one replaces it again. To have it back until then: cp {shell_word(kept_at)} "
        f"{shell_word(here)}",
    )


def _check_folder(publisher: Publisher) -> None:
    try:
        quarantine.check_folder(publisher.directory, publisher.fs)
    except system_error() as error:
        folder = publisher.directory / quarantine.QUARANTINE_DIRECTORY
        problem = "the quarantine folder cannot be looked at"
        raise StorageError(folder, problem, explained(error, folder)) from error


def _path_of(quarantined: QuarantinedFile, publisher: Publisher) -> Path:
    try:
        return quarantine.quarantined_path(publisher.directory, quarantined.quarantine_path)
    except UnsafePathError as error:
        problem = (
            f"the row of quarantined file {quarantined.quarantine_number} was changed: {error}"
        )
        raise CorruptDatabaseError(publisher.database.path, problem) from error


def _put_back(
    quarantined: QuarantinedFile, kept_at: Path, path: Path, publisher: Publisher
) -> None:
    fs = publisher.fs
    if quarantine.is_gone(publisher.directory, quarantined.quarantine_path, fs):
        raise InvalidRequestError(
            "quarantine_number",
            f"{kept_at} is gone: somebody removed it, or it did not come along when a back-up was "
            "restored, and there is nothing to put back. Only a back-up may have it",
        )
    if quarantined.content_hash is None:
        publisher.remove(*_make_way(quarantined, publisher))
        fs.rename(kept_at, path)
        fs.fsync_directory(path.parent)
        return
    content, _ = fs.read(kept_at)
    if content_hash(content) != quarantined.content_hash:
        raise InvalidRequestError(
            "quarantine_number", f"{kept_at} is not what was kept there any more"
        )
    file, expected = _make_way(quarantined, publisher)
    publisher.replace(file, content, expected)


def _make_way(quarantined: QuarantinedFile, publisher: Publisher) -> tuple[StoreFile, Expected]:
    """Quarantine the file that is there now, unless it is what is committed. Return the file and
    what is expected in its place after that."""
    name = quarantined.schema_name or ""
    entry = publisher.database.read(
        lambda connection: manifest.load_entries(connection, [name])
    ).get(name)
    file = StoreFile(
        schema_name=name, schema_version=ANY_VERSION, relative_path=quarantined.relative_path
    )
    kept = publisher.quarantine.keep(
        file, entry, None, None, reason="replaced by a quarantined file that was restored"
    )
    return file, Expected.after(kept, entry)
