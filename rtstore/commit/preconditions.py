"""Step 2 of the commit protocol: the checks of a draft before it is logged. The writer lock is
held. Nothing is changed, except that foreign files are copied to quarantine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.commit.adopt import refuse_newer
from rtstore.commit.draft import Draft, PlannedBatch, is_of
from rtstore.commit.in_doubt import resolve_in_doubt
from rtstore.commit.publisher import Publisher
from rtstore.commit.quarantine import CHANGED, CHANGED_AND_DELETED, StoreFile
from rtstore.control import batches, contents, history, manifest, runs
from rtstore.control.batches import ReceiptStore
from rtstore.control.manifest import ManifestHead
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import database_of
from rtstore.errors import (
    ConflictError,
    ContentMissingError,
    InvalidRequestError,
    OtherContentsError,
    WrongTeamError,
)
from rtstore.model.descriptors import TakenBy, taken_file
from rtstore.model.differences import first_places
from rtstore.model.envelope import content_hash, decode_own
from rtstore.model.records import (
    Batch,
    BatchReason,
    BatchState,
    CommittedFile,
    LoggedBatch,
    ManifestEntry,
    PlannedWrite,
    QuarantinedFile,
    RunIdentity,
)
from rtstore.model.request import ExpectedVersions

_PLACES_NAMED = 5
"""How many places of a store an error names."""


class CommittedView(NamedTuple):
    """The committed state, as read under the lock."""

    team_name: str
    high_watermark: int
    files: Mapping[str, CommittedFile]
    """By store. A store that was never written is absent."""
    active_run_id: str | None


class CommittedState:
    """The committed state as one writer knows it while it holds the lock; a cache.

    Most often nobody else has written since its own last batch. Then only stores that are new to it
    are read from the database. After a commit of another writer everything is read again.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._database = publisher.database
        self._moment: tuple[int, int] | None = None
        """The change token of the database when the fields below were read."""
        self._team_name = ""
        self._high_watermark = 0
        self._active_run_id: str | None = None
        self._asked: set[str] = set()
        self._files: dict[str, CommittedFile] = {}

    def refresh(self, names: Collection[str]) -> CommittedView:
        """Resolve in-doubt batches, then return the committed state of the stores about to be
        written. Open batches are in doubt here: we hold the lock, so their writer is dead."""
        moment = self._database.change_token()
        if moment != self._moment:
            left = self._ask_everything(names)
            if left:
                resolve_in_doubt(left, self._publisher)
                moment = self._database.change_token()
                self._ask_everything(names)
            self._moment = moment
        new = set(names) - self._asked
        if new:
            self._files |= self._database.read_on_writer(partial(manifest.load_entries, names=new))
            self._asked |= new
        return CommittedView(
            self._team_name, self._high_watermark, self._files, self._active_run_id
        )

    def forget(self) -> None:
        """Have the next `refresh` read everything from the database."""
        self._moment = None

    def entry(self, name: str) -> CommittedFile | None:
        """Return the committed file of a store as of the last `refresh`, or None."""
        return self._files.get(name)

    def completed(self, logged: Sequence[LoggedBatch], high_watermark: int) -> None:
        """Note that this writer committed batches, by one transaction that logged them and one that
        completed them. It has called `refresh` before. The next `refresh` notices any other
        commit."""
        assert self._moment is not None  # noqa: S101 - `refresh` was called
        if any(_may_change_run(item.batch, self._active_run_id) for item in logged):
            self.forget()
            return
        version, commits = self._moment
        self._high_watermark = high_watermark
        last = {change.schema_name: change for item in logged for change in item.changes}
        for name, change in last.items():
            if isinstance(change, PlannedWrite):
                self._files[name] = self._publisher.published(change)
            else:
                self._files.pop(name, None)
        self._moment = version, commits + 2

    def _ask_everything(self, names: Collection[str]) -> list[LoggedBatch]:
        """Forget all stores, and read the manifest and some stores again. Return the in-doubt
        batches that can be resolved."""

        def query(
            connection: Connection,
        ) -> tuple[ManifestHead, tuple[LoggedBatch, ...], str | None, dict[str, ManifestEntry]]:
            return (
                manifest.load_head(connection),
                batches.load_open(connection),
                runs.active_id(connection),
                manifest.load_entries(connection, names),
            )

        head, open_batches, self._active_run_id, entries = self._database.read_on_writer(query)
        self._team_name, self._high_watermark = head.team_name, head.high_watermark
        self._asked, self._files = set(names), {**entries}
        return [item for item in open_batches if item.has_contents]


def _may_change_run(batch: Batch, active_run_id: str | None) -> bool:
    """Return whether completing a batch may begin or end a run."""
    other = batch.run_id not in (None, active_run_id)
    return other or batch.reason == BatchReason.STOP_TOMBSTONE


def check_manifest(
    draft: Draft, found: CommittedView, expected_high_watermark: int | None, directory: Path
) -> None:
    """Raise `WrongTeamError`, or `ConflictError` unless the high watermark is the expected one."""
    if found.team_name != draft.terms.team_name:
        raise WrongTeamError(directory, draft.terms.team_name, found.team_name)
    if expected_high_watermark not in (None, found.high_watermark):
        assert expected_high_watermark is not None  # noqa: S101 - the line above
        raise ConflictError("this batch", expected_high_watermark, found.high_watermark)


def check_versions(expected: ExpectedVersions, database: Database) -> None:
    """Raise `ConflictError` for the first store whose version is not the expected one."""
    for name, version in expected.items():
        point = database.read_on_writer(partial(history.point_of_store, name=name))
        found: int | str | None = None
        if point is not None:
            is_by_id = isinstance(version, str) or point.high_watermark is None
            found = point.batch_id if is_by_id else point.high_watermark
        if (version or None) != found:
            gone = None
            if found is None:
                gone = database.read_on_writer(partial(batches.last_deletion, schema_name=name))
            deleted_by = None if gone is None else gone.batch_id
            raise ConflictError("this batch", version, found, store=name, deleted_by=deleted_by)


def check_run(run_id: str, found: CommittedView, database: Database) -> None:
    """Raise `StaleRunError` when a run is over. A run that was never seen is none: its first batch
    begins it."""
    if run_id != found.active_run_id:
        database.read_on_writer(partial(runs.refuse_over, run_id=run_id))


def first_result(
    draft: Draft, planned: PlannedBatch | None, receipt_store: ReceiptStore
) -> Batch | None:
    """Return the first result of a batch that is written again under the same id, or None if it is
    new. Raises `InvalidRequestError` when the id is another batch's, or the batch has failed, and
    `OtherContentsError` when its contents were others.

    `planned` is the plan of a leader that was interrupted: it has written the batch, or not.
    """
    if draft.batch_id is None:
        return None if planned is None else _written_by_another(planned, receipt_store)
    first = _find(draft.batch_id, receipt_store)
    if first is None:
        return None
    if not is_of(first, draft.terms.identity, draft.terms.reason):
        what = f"for another identity or reason (run {first.run_id}, {first.reason})"
        raise InvalidRequestError(
            "batch_id", f"batch {first.batch_id} was written before {what}: take a new id"
        )
    unlike = draft.unlike(first)
    if unlike:
        raise _other_contents(draft, first, unlike, receipt_store.database)
    return first


def _other_contents(
    draft: Draft, first: Batch, unlike: Sequence[str], database: Database
) -> OtherContentsError:
    """Return the error that says in which places of some stores the contents differ."""
    now = {descriptor.schema_name: encoded for descriptor, encoded in draft.encoded}
    differing: dict[str, tuple[str, ...] | None] = {}
    for receipt in first.receipts:
        name = receipt.schema_name
        if name not in unlike or name not in now:
            continue
        written = database.read(
            partial(contents.load_content, batch_number=first.batch_number, schema_name=name)
        )
        differing[name] = None
        if written is not None and content_hash(written) == receipt.content_hash:
            before, after = decode_own(written), decode_own(now[name].at(receipt.written_at))
            differing[name] = first_places(before.data, after.data, _PLACES_NAMED)
    return OtherContentsError(
        first.batch_id,
        differing,
        tuple(name for name in unlike if name not in differing),
        is_committed=first.state is BatchState.COMMITTED,
    )


def first_update(
    batch_id: str,
    names: Collection[str],
    identity: RunIdentity,
    reason: str,
    receipt_store: ReceiptStore,
) -> Batch | None:
    """Return the first result of an update that is called again under the same id, or None if it is
    new. Its function is not called again, so what it would return is not compared. Raises
    `InvalidRequestError` when the batch is of another run or reason, wrote a store that the update
    does not name, or has failed. (An update writes only what it changed, so it may name more.)"""
    first = _find(batch_id, receipt_store)
    if first is None:
        return None
    written = set(first.stores)
    if not (is_of(first, identity, reason) and written.issubset(names)):
        raise InvalidRequestError(
            "batch_id",
            f"batch {batch_id} was written before by another call, with reason {first.reason}, of "
            f"run {first.run_id}, into {', '.join(sorted(written))}: take a new id",
        )
    return first


def _find(batch_id: str, receipt_store: ReceiptStore) -> Batch | None:
    first = receipt_store.get(batch_id)
    if first is not None and first.state is BatchState.FAILED:
        raise InvalidRequestError(
            "batch_id", f"batch {batch_id} failed before, and stays so: take a new id"
        )
    return first


def _written_by_another(planned: PlannedBatch, receipt_store: ReceiptStore) -> Batch | None:
    first = receipt_store.get(planned.batch_id)
    if first is None:
        return None
    if first.state is BatchState.FAILED:
        raise InvalidRequestError("batch_id", f"batch {first.batch_id} has failed, and stays so")
    if [receipt.receipt_id for receipt in first.every_receipt] != [
        change.receipt_id for change in planned.changes
    ]:
        raise _taken(planned.batch_id)
    return first


def versions_to_delete(
    draft: Draft,
    found: CommittedView,
    before: Sequence[PlannedBatch],
    database: Database,
) -> tuple[CommittedFile, ...]:
    """Return the versions that a draft deletes: those that are committed, or that a batch `before`
    it in its group writes.

    Raises `InvalidRequestError` where there is none, and `ContentMissingError` where the database
    has lost the content: the file is then the last copy.
    """
    versions = []
    for descriptor in draft.deleted:
        name = descriptor.schema_name
        version = found.files.get(name)
        last = next((plan for plan in reversed(before) if name in plan.names), None)
        if last is not None:
            version = last.version_of(name)
        if version is None:
            problem = "nothing is committed for it, so there is nothing to delete"
            raise InvalidRequestError("writes", problem, store=name)
        if last is None:
            database.read_on_writer(partial(_refuse_lost_content, name=name))
        versions.append(version)
    return tuple(versions)


def _refuse_lost_content(connection: Connection, name: str) -> None:
    for entry in manifest.load_entries(connection, [name]).values():
        if contents.load_content(connection, entry.batch_number, name) is None:
            directory = database_of(connection).parent
            raise ContentMissingError(name, directory, entry.batch_number)


def quarantine_foreign_files(
    draft: Draft,
    batch_id: str,
    files: Mapping[str, CommittedFile],
    publisher: Publisher,
    *,
    but_not: Collection[str],
    deleting: Sequence[CommittedFile] = (),
) -> list[QuarantinedFile]:
    """Copy foreign files to quarantine, and return their records. Their rows are written with the
    log.

    All files are checked before the first copy is made: an unsafe path, a newer file or newer
    committed content refuses the batch, which then leaves no trace. `but_not` are stores whose
    files were checked for an earlier batch of the group; `deleting` are the versions that the draft
    deletes, in their order.
    """
    foreign = []
    going = [(descriptor, StoreFile.of(descriptor)) for descriptor, _ in draft.encoded]
    going += [
        (item, StoreFile(item.schema_name, item.schema_version, version.relative_path))
        for item, version in zip(draft.deleted, deleting, strict=True)
    ]
    for descriptor, file in going:
        if descriptor.schema_name in but_not:
            continue
        committed = files.get(descriptor.schema_name)
        refuse_newer(descriptor, committed, publisher.directory)
        found = publisher.quarantine.foreign_content(file, committed, trust_stamp=True)
        if found is not None:
            foreign.append((file, found))
    gone = {item.schema_name for item in draft.deleted}
    return [
        publisher.quarantine.keep_copy(
            file,
            found,
            batch_id,
            reason=CHANGED_AND_DELETED if file.schema_name in gone else CHANGED,
        )
        for file, found in foreign
    ]


def check_paths(
    draft: Draft,
    files: Mapping[str, CommittedFile],
    owners: Mapping[str, str],
    database: Database,
) -> None:
    """Raise `InvalidRequestError` when the draft writes a file of another store. The owner of a
    file is known by its entry, an earlier batch of the group (`owners`, by path), or the draft."""
    here: dict[str, str] = {}
    for descriptor, _ in draft.encoded:
        name, path = descriptor.schema_name, descriptor.relative_path
        committed = files.get(name)
        owner = owners.get(path) or here.setdefault(path, name)
        taken = None if owner == name else TakenBy(owner, path)
        if taken is None and (committed is None or committed.relative_path != path):
            taken = database.read_on_writer(
                partial(manifest.path_taken_by, schema_name=name, relative_path=path)
            )
        if taken is not None:
            raise InvalidRequestError("relative_path", taken_file(name, path, taken), store=name)


def check_moved(draft: Draft, files: Mapping[str, CommittedFile], database: Database) -> None:
    """Raise `StoreFileChangedError` when another program gave a store of the draft another file;
    `NewerStoreFileError` when it also brought the data up.

    It is no question while a directory is opened: that gives the stores the files of its
    descriptors, which are remembered at its end.
    """
    others = [
        (descriptor, committed)
        for descriptor in (*(item for item, _ in draft.encoded), *draft.deleted)
        if (committed := files.get(descriptor.schema_name)) is None
        or committed.relative_path != descriptor.relative_path
    ]

    def query(connection: Connection) -> None:
        for descriptor, committed in others:
            refuse_newer(descriptor, committed, database.path.parent)
            manifest.refuse_moved(connection, descriptor, committed)

    if others:
        database.read_on_writer(query)


def check_ids(planned: PlannedBatch, connection: Connection) -> None:
    """Raise `InvalidRequestError` when an id of the batch is taken. Ids come from outside
    (factories, callers), so they are checked like any other input."""
    if batches.batch_id_is_known(connection, planned.batch_id):
        raise _taken(planned.batch_id)
    receipt_ids = [change.receipt_id for change in planned.changes]
    taken = batches.known_receipts(connection, receipt_ids)
    if taken or len(set(receipt_ids)) < len(receipt_ids):
        raise InvalidRequestError(
            "receipt_id_factory", f"it made {(taken or receipt_ids)[0]!r}, which is taken"
        )


def _taken(batch_id: str) -> InvalidRequestError:
    return InvalidRequestError("batch_id_factory", f"it made {batch_id!r}, which is taken")
