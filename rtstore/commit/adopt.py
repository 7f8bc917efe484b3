"""Adopt a file that was changed by hand: it must pass the checks of a write.

Neither an adoption nor a write replaces what a newer program committed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from rtstore.commit.draft import Draft, validate
from rtstore.commit.publisher import Publisher
from rtstore.control import batches, contents, manifest, runs
from rtstore.errors import (
    DataUpgradeError,
    InvalidRequestError,
    NewerStoreFileError,
    RuntimeStoreError,
    StorageError,
    StoreFileChangedError,
    UpgradeProblem,
)
from rtstore.files.owners import explained
from rtstore.files.paths import check_target, store_path
from rtstore.files.system import FileSystem
from rtstore.foreign import system_error
from rtstore.model.data_upgrade import upgraded_data, waits_for_upgrade
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.envelope import (
    EncodedStore,
    EnvelopeError,
    content_hash,
    decode,
    encode,
    refuse_too_large,
)
from rtstore.model.records import (
    Batch,
    CommittedFile,
    InspectionState,
    Manifest,
    RecoveryPlan,
    RunIdentity,
)
from rtstore.model.request import BatchRequest, StoreWrite
from rtstore.shell import rtstore_at, shell_word

Result = TypeVar("Result")

_ADOPTIONS_MAX = 100
"""The most adoptions for one call: it may read several stores, and each may change again."""


def adopting(call: Callable[[], Result], adopt: Callable[[str], Batch]) -> Result:
    """Return the result of a call. When it raises because somebody changed the file of a store,
    adopt that file, and call it again. Raises `StoreFileChangedError` for a file that is missing,
    is no edit, or cannot be adopted. A note on whatever is raised names the edits that were adopted
    before: they stay."""
    adopted: list[str] = []
    try:
        return _adopting(call, adopt, adopted)
    except BaseException as error:
        for note in adopted:
            error.add_note(note)
        raise


def _adopting(
    call: Callable[[], Result], adopt: Callable[[str], Batch], adopted: list[str]
) -> Result:
    refused: dict[tuple[str, str], InvalidRequestError] = {}
    for _ in range(_ADOPTIONS_MAX):
        try:
            return call()
        except StoreFileChangedError as changed:
            if changed.found_hash is None or changed.of_batch or changed.moved_to is not None:
                raise  # there is no edit: nobody changed what is committed
            file = changed.store, changed.found_hash
            if file in refused:  # it still is as it was when it was refused
                why = refused[file]
                raise StoreFileChangedError(
                    changed.store,
                    changed.path,
                    changed.expected_hash,
                    changed.found_hash,
                    directory=changed.directory,
                    not_adopted=f"{why.field}: {why.problem}",
                    of_batch=changed.of_batch,
                    content_lost=changed.content_lost,
                    registered=changed.registered,
                ) from why
        try:
            batch = adopt(file[0])
            adopted.append(
                f"rtstore: the edit of {file[0]} was adopted before, and stays: "
                f"batch {batch.batch_id} is committed"
            )
        except InvalidRequestError as error:
            refused[file] = error
    return call()


def last_identity(connection: Connection) -> RunIdentity | None:
    """Return the identity that a file is adopted for by itself, or None when no run is known.

    It is the active one, which stays that of the last batch when its run is over. An imported
    manifest may name none: then it is that of its last batch, or else the last run.
    """
    active = manifest.load_active_identity(connection)
    if active is not None:
        return active
    last = manifest.load(connection).last_committed_batch_id
    batch = None if last is None else batches.find_batch(connection, last)
    if batch is not None and batch.run_id:
        return RunIdentity(
            run_id=batch.run_id,
            capability_snapshot_id=batch.capability_snapshot_id,
            behavior_fingerprint=batch.behavior_fingerprint,
        )
    run = runs.last(connection)
    return None if run is None or not run.run_id else RunIdentity(run_id=run.run_id)


def draft_of_file(
    descriptor: Descriptor,
    entry: CommittedFile | None,
    publisher: Publisher,
    *,
    team_name: str,
    identity: RunIdentity,
    reason: str,
    fenced: bool,
    by_itself: bool,
    is_opening: bool,
    now: datetime,
) -> Draft:
    """Return the draft of a batch that holds a store file byte for byte. Raises as
    `read_for_adoption` and `refuse_own`, and as `validate` for the file's data."""
    content = read_for_adoption(publisher.directory, descriptor, entry, publisher.fs)
    publisher.database.read(
        partial(
            refuse_own,
            directory=publisher.directory,
            descriptor=descriptor,
            content=content,
            by_itself=by_itself,
            is_opening=is_opening,
        )
    )
    envelope = decode(content)
    descriptor = at_version(descriptor, envelope.schema_version)
    write = StoreWrite(descriptor=descriptor, data=envelope.data, stays=True)
    request = BatchRequest(
        team_name=team_name, identity=identity, reason=reason, writes=(write,), fenced=fenced
    )
    encoded = ((descriptor, EncodedStore.exactly(content)),)
    return validate(request, None, now)._replace(encoded=encoded, in_place=True)


def not_adoptable(
    plan: RecoveryPlan,
    current: Manifest,
    registry: Registry,
    directory: Path,
    fs: FileSystem,
) -> dict[str, str]:
    """Return why a file that a plan found changed cannot be adopted as it is now, by store."""
    problems = {}
    for action in plan.actions:
        if action.reason not in (InspectionState.HASH_MISMATCH, InspectionState.UNCOMMITTED_WRITE):
            continue
        descriptor = registry.get(action.schema_name)
        entry = current.entry(action.schema_name)
        try:
            content = read_for_adoption(directory, descriptor, entry, fs)
            envelope = decode(content)
            encode(
                schema_version=envelope.schema_version,
                data=envelope.data,
                store=descriptor.schema_name,
                payload=at_version(descriptor, envelope.schema_version).payload,
                stays=True,
            )
        except InvalidRequestError as error:
            where = "" if error.field in ("store", "file") else f"{error.field}: "
            problems[action.schema_name] = where + error.problem
        except RuntimeStoreError as error:
            problems[action.schema_name] = str(error)
    return problems


def at_version(descriptor: Descriptor, schema_version: int) -> Descriptor:
    """Return the descriptor as of the schema version of a file: that of an older version has no
    model, for the one that there is does not judge it."""
    if not waits_for_upgrade(descriptor, schema_version):
        return descriptor
    return descriptor.model_copy(update={"schema_version": schema_version, "payload": None})


def _try_upgrade(descriptor: Descriptor, content: bytes, path: Path) -> None:
    """Raise `InvalidRequestError` when the functions of a descriptor do not bring the data of a
    file up to its version. Without functions nothing is known of it."""
    try:
        upgraded_data(descriptor, content)
    except DataUpgradeError as error:
        if error.kind is UpgradeProblem.NO_STEP:
            return
        problem = (
            f"{path} cannot be brought up to schema version {error.wanted_version}: {error.problem}"
        )
        raise InvalidRequestError("file", problem, store=descriptor.schema_name) from error


def refuse_newer(descriptor: Descriptor, entry: CommittedFile | None, directory: Path) -> None:
    """Raise `NewerStoreFileError` when the committed version is of a newer program."""
    if entry is not None and entry.schema_version > descriptor.schema_version:
        raise NewerStoreFileError(
            descriptor.schema_name,
            store_path(directory, entry.relative_path),
            entry.schema_version,
            descriptor.schema_version,
            is_committed=True,
        )


def refuse_own(
    connection: Connection,
    *,
    directory: Path,
    descriptor: Descriptor,
    content: bytes,
    by_itself: bool,
    is_opening: bool,
) -> None:
    """Raise `InvalidRequestError` for a file that holds what a batch wrote, and that opening puts
    right; and for one that is not the store's file any more, unless an opening gives it that.

    Who asks for the file by name may have it where no other command brings its content back: where
    nothing is committed, its content is lost, or the database has not these bytes any more. But
    nothing is adopted `by_itself` that the log knows. What another store left in the file is no
    other than an earlier version of this one.
    """
    name, relative_path = descriptor.schema_name, descriptor.relative_path
    entry = manifest.load_entries(connection, [name]).get(name)
    path = store_path(directory, relative_path)
    moved_to = manifest.moved_to(connection, descriptor, entry)
    if moved_to is not None and not is_opening:
        problem = f"another program gave the store the file {moved_to}: {path} is not its file now"
        raise InvalidRequestError("store", problem, store=name)
    found_hash = content_hash(content)
    is_own = contents.holds(connection, content, found_hash, name)
    is_anothers, is_held = (
        (False, False)
        if is_own
        else contents.left_by_another(connection, name, relative_path, content, found_hash)
    )
    if not by_itself and (
        entry is None
        or name not in contents.stores_with_content(connection)
        or not (is_own or is_held)
    ):
        return
    if is_anothers or contents.is_of_batch(
        connection,
        name,
        found_hash,
        lambda: content,
        current=None if entry is None else entry.batch_number,
        relative_path=relative_path,
    ):
        look, back = rtstore_at("plan", directory), rtstore_at("revert", directory)
        what = " for another store, which had the file before" if is_anothers else ""
        problem = (
            f"{path} holds what a batch wrote{what}, or a part of it, and is no edit (what becomes "
            f"of it: {look})"
        )
        if not is_anothers:
            version = f"{back} {shell_word(name)} --to POINT"
            problem += f". To go back to an earlier version: {version}"
        raise InvalidRequestError("file", problem, store=name)


def read_for_adoption(
    directory: Path, descriptor: Descriptor, entry: CommittedFile | None, fs: FileSystem
) -> bytes:
    """Return the bytes of a store file that is to be adopted.

    Raises `InvalidRequestError` when there is no file, or when the file is not an envelope, is of
    an older schema version, or already is the committed version; `NewerStoreFileError`;
    `StorageError` when it cannot be read. The data is checked when the draft is made.

    A file of an older version than the descriptor's is adopted unless what is committed is newer:
    it waits for its upgrade, too. Its data is checked by that upgrade, if the descriptor has the
    functions.
    """
    name = descriptor.schema_name
    refuse_newer(descriptor, entry, directory)
    path = store_path(directory, descriptor.relative_path)
    try:
        check_target(directory, descriptor.relative_path, name, fs)
        content, _ = fs.read(path)
        envelope = decode(content)
    except FileNotFoundError:
        raise InvalidRequestError("store", f"there is no file {path}", store=name) from None
    except system_error() as error:
        raise StorageError(path, "the file cannot be read", explained(error, path)) from error
    except EnvelopeError as error:
        raise InvalidRequestError("file", f"{path}: {error}", store=name) from None
    if envelope.schema_version > descriptor.schema_version:
        raise NewerStoreFileError(name, path, envelope.schema_version, descriptor.schema_version)
    if waits_for_upgrade(descriptor, envelope.schema_version):
        known = descriptor if entry is None else entry
        if envelope.schema_version < known.schema_version:
            problem = (
                f"{path} has schema version {envelope.schema_version}, "
                f"the store has {known.schema_version}"
            )
            raise InvalidRequestError("file", problem, store=name)
        _try_upgrade(descriptor, content, path)
    refuse_too_large(len(content), name)
    if entry is not None and entry.content_hash == content_hash(content):
        problem = f"{path} is what is committed: there is nothing to adopt"
        raise InvalidRequestError("file", problem, store=name)
    return content
