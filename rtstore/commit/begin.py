"""The first batch of a run: given, rebuilt and kept stores under a new identity.

It is one batch, so a crash leaves the old run or the new one, never a run without its state. What
is decided here is decided under the writer lock: which run is active, whether its process lives,
and what the kept stores hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.commit.adopt import refuse_newer
from rtstore.commit.draft import Draft, validate
from rtstore.commit.preconditions import CommittedView
from rtstore.commit.publisher import Publisher
from rtstore.control import contents, manifest, runs
from rtstore.control.run_processes import is_alive, is_this_process
from rtstore.control.sqlite.engine import Database
from rtstore.errors import (
    ConflictError,
    ContentMissingError,
    InvalidRequestError,
    RunAliveError,
)
from rtstore.model.data_upgrade import current_data
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EncodedStore
from rtstore.model.records import Batch, RunIdentity
from rtstore.model.request import BatchRequest, StoreWrite
from rtstore.model.runs import RunProcess, RunRecord, RunState
from rtstore.model.typed import data_for


class Beginning(NamedTuple):
    """How a run begins. The data in `request` was checked; nothing was read under the lock yet."""

    request: BatchRequest
    """The stores that are given or rebuilt; perhaps none."""
    keep: tuple[Descriptor, ...]
    """The stores that must be taken over as they are."""
    keep_committed: tuple[Descriptor, ...]
    """The stores that are taken over as they are if anything is committed for them."""
    rebuilt_from: Mapping[str, str | None]
    """By store that was rebuilt: the id of the batch whose data the rebuilder was given."""
    rebuilt_at: int
    """The high watermark at which they were rebuilt."""
    supersede: bool
    """Whether it may begin while a process of the active run lives."""

    @property
    def identity(self) -> RunIdentity:
        """The identity of the new run."""
        assert self.request.identity is not None  # noqa: S101 - a run has one
        return self.request.identity

    @property
    def run_id(self) -> str:
        """The id of the new run."""
        return self.identity.run_id

    @property
    def names(self) -> set[str]:
        """The names of all stores that it may write."""
        kept = {item.schema_name for item in (*self.keep, *self.keep_committed)}
        return kept | {write.descriptor.schema_name for write in self.request.writes}

    def is_active(self, found: CommittedView) -> bool:
        """Return whether the run is active already."""
        return self.run_id == found.active_run_id


class Begun(NamedTuple):
    """A run that began or was resumed. Everything but the batch is known before it is logged: when
    the run has begun, nothing more is read that could fail."""

    batch: Batch | None
    """Its first batch; None when it was resumed."""
    superseded: RunRecord | None
    """The run that was active before, and is superseded; None when none was."""
    left: tuple[str, ...]
    """The committed stores that are still bound to other runs."""
    process: RunProcess | None
    """The process that is recorded as that of the run."""


def superseded_by(batch: Batch, before: RunRecord | None) -> RunRecord | None:
    """Return the record of the run that was active before the one that a batch began."""
    if before is None:
        return None
    return before.model_copy(
        update={
            "state": RunState.SUPERSEDED,
            "superseded_by": batch.run_id,
            "ended_at": batch.receipts[0].written_at,
        }
    )


def left_by(connection: Connection, run_id: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the committed stores that stay bound to other runs when a run writes some stores."""
    entries, written = manifest.load(connection).entries, set(names)
    return tuple(
        item.schema_name
        for item in entries
        if item.run_id != run_id and item.schema_name not in written
    )


def check_beginning(
    connection: Connection, *, identity: RunIdentity, directory: Path, supersede: bool
) -> RunRecord | None:
    """Return the active run. Raises `StaleRunError` when the new run is over, `RunAliveError`, and
    `InvalidRequestError` when it is active under another snapshot or fingerprint."""
    runs.refuse_over(connection, identity.run_id)
    active = runs.active(connection)
    if active is None:
        return None
    if active.run_id == identity.run_id:
        committed = manifest.load_active_identity(connection)
        if committed is not None and committed != identity:
            raise InvalidRequestError(
                "identity",
                f"run {identity.run_id} is active with capability snapshot "
                f"{committed.capability_snapshot_id!r} and behavior fingerprint "
                f"{committed.behavior_fingerprint!r}: a run that begins anew takes a new id",
            )
        return active
    process = active.process
    if process is None or supersede or is_this_process(process):
        return active
    if is_alive(process, directory):
        raise RunAliveError(identity.run_id, active.run_id, process.host, process.pid, directory)
    return active


def draft_of_beginning(
    beginning: Beginning,
    found: CommittedView,
    publisher: Publisher,
    *,
    check_file: Callable[[Descriptor], None],
    now: datetime,
) -> Draft:
    """Return the draft of the first batch, with the stores that are kept.

    Raises `ConflictError` when a store changed after it was rebuilt, `StoreFileChangedError`,
    `ContentMissingError`, `DataUpgradeError`, `NewerStoreFileError`, `DataRefusedError` or
    `InvalidRequestError` for a store that cannot be kept, and `InvalidRequestError` when the batch
    would be empty.
    """
    _check_rebuilt(beginning, found, publisher.database)
    kept = [*beginning.keep]
    kept += [item for item in beginning.keep_committed if item.schema_name in found.files]
    content_of = _contents_to_keep(kept, found, publisher, check_file)
    writes = [_kept_write(item, content_of[item.schema_name]) for item in kept]
    request = beginning.request.model_copy(update={"writes": (*beginning.request.writes, *writes)})
    if not request.writes:
        raise InvalidRequestError(
            "writes",
            "a run begins with at least one store: give its first contents (writes), keep stores "
            "of the run before (keep), or have them rebuilt (rebuilders). A store that no "
            "descriptor names is not kept",
        )
    draft = validate(request, None, now)
    encoded = tuple(
        (descriptor, _as_it_is(descriptor, content_of) or encoded)
        for descriptor, encoded in draft.encoded
    )
    return draft._replace(encoded=encoded)


def draft_of_first_contents(
    beginning: Beginning, found: CommittedView, *, now: datetime
) -> Draft | None:
    """Return the draft of what a run that is resumed still lacks: the given contents of stores that
    were never written. None when there are none."""
    writes = tuple(
        write
        for write in beginning.request.writes
        if write.descriptor.schema_name not in found.files
    )
    if not writes:
        return None
    return validate(beginning.request.model_copy(update={"writes": writes}), None, now)


def _kept_write(descriptor: Descriptor, content: bytes) -> StoreWrite:
    """Return a kept store as it is. Raises `DataRefusedError` when it does not pass its model."""
    data = current_data(descriptor, content)
    data_for(descriptor, data, descriptor.schema_version)
    return StoreWrite(descriptor=descriptor, data=data, stays=True)


def _as_it_is(descriptor: Descriptor, content_of: Mapping[str, bytes]) -> EncodedStore | None:
    """Return the same bytes for a kept store; None for one that is given."""
    content = content_of.get(descriptor.schema_name)
    return None if content is None else EncodedStore.exactly(content)


def _contents_to_keep(
    kept: list[Descriptor],
    found: CommittedView,
    publisher: Publisher,
    check_file: Callable[[Descriptor], None],
) -> dict[str, bytes]:
    """Return the committed bytes of stores. Raises when nothing is committed for one, a newer
    program committed it, its content is lost, or somebody else changed its file."""
    for descriptor in kept:
        committed = found.files.get(descriptor.schema_name)
        if committed is None:
            raise InvalidRequestError(
                "keep", "nothing is committed for it", store=descriptor.schema_name
            )
        refuse_newer(descriptor, committed, publisher.directory)
        if not publisher.seems_unchanged(descriptor, committed):
            check_file(descriptor)

    def query(connection: Connection) -> dict[str, bytes]:
        names = [item.schema_name for item in kept]
        content_of = contents.current_contents(connection, names)
        for entry in manifest.load_entries(connection, names).values():
            if entry.schema_name not in content_of:
                directory = publisher.directory
                raise ContentMissingError(entry.schema_name, directory, entry.batch_number)
        return content_of

    return publisher.database.read_on_writer(query)


def _check_rebuilt(beginning: Beginning, found: CommittedView, database: Database) -> None:
    """Raise `ConflictError` when a store that was rebuilt was written in the meantime."""
    for name, batch_id in beginning.rebuilt_from.items():
        current = database.read_on_writer(partial(contents.current_row, name=name))
        now = None if current is None else current[1]["batch_id"]
        if now != batch_id:
            raise ConflictError(
                f"the rebuilt data of {name}", beginning.rebuilt_at, found.high_watermark
            )
