"""Remove what a dead writer left, and the files of deleted stores that are back."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import ANY_VERSION, Expected, StoreFile
from rtstore.control import batches, manifest
from rtstore.control.sqlite.engine import Database
from rtstore.errors import RuntimeStoreError, StorageError, UnsafePathError
from rtstore.files import durable
from rtstore.files.paths import check_directory, store_path
from rtstore.files.quarantine import QUARANTINE_DIRECTORY, check_folder
from rtstore.files.system import FileSystem
from rtstore.foreign import suppress_system_error, system_error
from rtstore.model.descriptors import Registry

logger = logging.getLogger("rtstore.recovery")


class Sweeper:
    """Finds and removes them in one runtime directory."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        publisher: Publisher,
        directory: Path,
        fs: FileSystem,
    ) -> None:
        self._registry = registry
        self._database = database
        self._publisher = publisher
        self._directory = directory
        self._fs = fs

    def is_tidy(self) -> bool:
        """Return whether there is nothing to remove."""
        return not self._stray_files() and not self._files_back()

    def sweep(self) -> None:
        """Remove temporary files, and those of deleted stores that are back. No batch is open.

        New versions in them are whole in the log. Old versions, replaced by an exchange, were
        examined when their batch was completed; those of stores are examined now."""
        strays = self._stray_files()
        files = self._store_files() if strays else {}
        for path in strays:
            try:
                if path in files:
                    self._publisher.on_stale_temp(path, files[path])
                self._fs.unlink(path)
            except FileNotFoundError:
                continue
            except system_error(StorageError) as error:
                logger.warning("temporary file %s cannot be removed: %s", path, error)
        for file in self._files_back():
            try:
                kept = self._publisher.quarantine.keep(file, None, None, None)
                self._publisher.remove(file, Expected.after(kept, None))
            except system_error(RuntimeStoreError) as error:
                logger.warning("%s cannot be removed: %s", file.relative_path, error)

    def is_back(self, file: StoreFile) -> bool:
        """Return whether a file is, byte for byte, what a batch wrote to a store that was deleted
        since: its removal was not on the medium yet. Or it is what another store left there."""
        found, name = self._publisher.found_hash(file), file.schema_name
        if found is None:
            return False

        def is_of_batch(connection: Connection) -> bool:
            if batches.was_deleted(connection, name, found):
                return True
            is_written = batches.is_written(connection, name)
            path = file.relative_path
            return not is_written and batches.wrote_for_another(connection, name, path, found)[0]

        return self._database.read(is_of_batch)

    def _stray_files(self) -> list[Path]:
        """Return the temporary files in the folders of the stores and in quarantine. A living
        writer has one at a time, so only under the lock are all of them of dead writers."""
        folders = {self._directory}
        with suppress_system_error(UnsafePathError):
            check_folder(self._directory, self._fs)
            folders.add(self._directory / QUARANTINE_DIRECTORY)
        for descriptor in self._registry:
            parent = descriptor.relative_path.rpartition("/")[0]
            if not parent:
                continue
            with suppress_system_error(UnsafePathError):  # never remove files behind a link
                name = descriptor.schema_name
                folders.add(check_directory(self._directory, parent, name, self._fs))
        found: list[Path] = []
        for folder in sorted(folders):
            with suppress_system_error():
                found.extend(
                    folder / name
                    for name in self._fs.list_directory(folder)
                    if durable.is_temporary(name)
                )
        return found

    def _files_back(self) -> list[StoreFile]:
        """Return the files that are back of deleted stores and that no descriptor names any more: a
        loss of power took their removal back. (The plan has those that one names.)"""
        gone = self._database.read(batches.list_gone, autocommit=True)
        known = {item.relative_path for item in self._registry} if gone else set()
        found: dict[str, StoreFile] = {}
        for item in gone:
            file = StoreFile(item.schema_name, ANY_VERSION, item.relative_path)
            if item.relative_path in known:
                continue
            with suppress_system_error(RuntimeStoreError):
                if self._publisher.found_hash(file) and self._is_ours(file):
                    found[item.relative_path] = file
        return list(found.values())

    def _is_ours(self, file: StoreFile) -> bool:
        foreign = self._publisher.quarantine.foreign_content(file, None, trust_stamp=False)
        return foreign is None or self.is_back(file)

    def _store_files(self) -> dict[Path, StoreFile]:
        """Return the files of registered and committed stores, by their temporary paths."""
        entries = self._database.read(manifest.load).entries
        files = [StoreFile.of(descriptor) for descriptor in self._registry]
        files += [StoreFile(item.schema_name, None, item.relative_path) for item in entries]
        found = {}
        for file in files:
            with suppress(UnsafePathError):  # from a row that somebody changed
                path = store_path(self._directory, file.relative_path)
                found[durable.temporary_path(path)] = file
        return found
