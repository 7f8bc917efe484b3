"""What was committed before: a part of `RuntimeStore`. Looks only; going back is a new batch."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from rtstore.commit.draft import check_text
from rtstore.commit.writer import BatchWriter
from rtstore.control import contents, history, manifest
from rtstore.control.history import Point, StoreVersion
from rtstore.control.sqlite.engine import Database
from rtstore.errors import InvalidRequestError, shown
from rtstore.history.reader import StoreContent, StoreReader
from rtstore.model import arguments
from rtstore.model.arguments import batch_request, checked_identity, member
from rtstore.model.data_upgrade import brought_up
from rtstore.model.descriptors import Registry
from rtstore.model.differences import Difference, differences
from rtstore.model.envelope import content_hash, decode
from rtstore.model.records import Batch, BatchReason, Record, RunIdentity
from rtstore.model.times import format_time, to_utc_ms

At = str | int | datetime
"""A point in time: the id of a batch, a high watermark, or a time."""


class StoreDifferences(Record):
    """What differs between two versions of a store."""

    schema_name: str
    before: StoreVersion
    after: StoreVersion
    differences: tuple[Difference, ...]


class TimeTravel:
    """The versions of a store: to list, to read, to compare, to go back to."""

    database: Database
    descriptors: Registry
    team_name: str
    _reader: StoreReader
    _writer: BatchWriter

    def history(self, store: str, *, limit: int | None = None) -> list[StoreVersion]:
        """The committed versions of a store, oldest first; the newest `limit` of them.

        Goes back as far as `retention` keeps batches; `has_content` says which of them can be read.
        Takes no lock and does not look at the file.
        """
        name = self.descriptors.get(store).schema_name
        if limit is not None:
            arguments.number(limit, "limit")
        return self.database.read(
            lambda connection: history.list_versions(connection, name, limit)[::-1]
        )

    def diff(self, store: str, a: At, b: At | None = None) -> StoreDifferences:
        """What differs between a store at one point in time and at another (default: now).

        Raises `InvalidRequestError` as `read` does.
        """
        name = self.descriptors.get(store).schema_name
        first = checked_point(a, "a")
        second = None if b is None else checked_point(b, "b")

        def query(connection: Connection) -> StoreDifferences:
            before, old = load_version(connection, name, first)
            after, new = load_version(connection, name, _or_now(connection, second))
            return StoreDifferences(
                schema_name=name,
                before=before,
                after=after,
                differences=differences(decode(old).data, decode(new).data),
            )

        return self.database.read(query)

    def revert(
        self,
        store: str,
        *,
        to: At,
        identity: RunIdentity | None = None,
        reason: BatchReason | str = BatchReason.RECOVERY,
    ) -> Batch:
        """Write what a store held at a point in time again, in a new batch; history stays as it is.

        Data of an older schema version is brought up by the descriptor's functions. `identity` is
        what it is bound to; default: the identity of the last committed batch. Durable when it
        returns.

        Raises `InvalidRequestError` when there is no such version, or when it is what is committed;
        `ConflictError` when a batch was written meanwhile; `StoreFileChangedError` when somebody
        else changed the file; `DataUpgradeError`; otherwise as `write_batch`.
        """
        descriptor = self.descriptors.get(store)
        name, point = descriptor.schema_name, checked_point(to, "to")
        if identity is not None:
            checked_identity(identity)
        reason = member(BatchReason, reason, "reason")

        def query(connection: Connection) -> tuple[StoreVersion, bytes]:
            return load_version(connection, name, point)

        self._reader.check_file(descriptor)
        head = self.database.read(manifest.load)
        version, content = self.database.read(query)
        if version.is_current:
            problem = f"{name} as of batch {version.batch_id} is what is committed"
            raise InvalidRequestError("to", f"{problem}: there is nothing to revert", store=name)
        if identity is None:
            identity = head.active_identity
        if identity is None:
            raise InvalidRequestError("identity", "no run is active, so it must be given")
        request = batch_request(
            self.team_name,
            self.descriptors,
            identity=identity,
            reason=reason,
            writes={name: brought_up(descriptor, content)},
        )
        return self._writer.write_batch(request, expected_high_watermark=head.high_watermark)

    def _content_at(self, name: str, at: At) -> StoreContent:
        def query(connection: Connection) -> StoreContent:
            version, content = load_version(connection, name, at)
            envelope = decode(content)
            return StoreContent(
                schema_name=name,
                schema_version=envelope.schema_version,
                data=envelope.data,
                updated_at=version.written_at,
                **version.model_dump(include=_OF_CONTENT),
            )

        return self.database.read(query)


_OF_CONTENT = {
    "content_hash",
    "batch_id",
    "high_watermark",
    "run_id",
    "capability_snapshot_id",
    "behavior_fingerprint",
}


def _or_now(connection: Connection, at: At | None) -> At:
    if at is not None:
        return at
    last = history.last_committed(connection)
    if last is None:
        raise InvalidRequestError("b", "nothing is committed yet")
    return last.batch_id


def find_point(connection: Connection, at: At) -> Point:
    """The committed batch that a point in time means. Raises `InvalidRequestError` when there was
    none yet, or when it is not on record any more."""
    if isinstance(at, str):
        found = history.point_of_batch(connection, at)
        problem = f"no committed batch {shown(at)} is on record"
    elif isinstance(at, datetime):
        moment = format_time(to_utc_ms(at))
        found = history.point_of_time(connection, moment)
        if found is not None and not history.next_is_there(connection, found.batch_number):
            found = None  # what was committed after it, and by then, is not on record
        problem = f"no batch that was committed by {moment} is on record"
    else:
        found = history.point_of_watermark(connection, at)
        problem = f"no batch that made the high watermark {at} is on record"
    if found is None:
        raise InvalidRequestError("at", f"{problem}: {_REACH}")
    return found


def find_version(connection: Connection, name: str, at: At) -> StoreVersion:
    """The version of a store that was current at a point in time.

    Raises `InvalidRequestError` when the store was not written by then, or when that cannot be told
    any more: a batch that is gone may have written it.
    """
    point = find_point(connection, at)
    version = history.version_at(connection, name, point.batch_number)
    since = 0 if version is None else version.batch_number
    if not history.all_are_there(connection, since, point.batch_number):
        problem = f"what {name} held at batch {point.batch_id} is not on record any more: {_REACH}"
        raise InvalidRequestError("at", problem, store=name)
    if version is None:
        problem = f"{name} was not written by batch {point.batch_id} or any before it"
        raise InvalidRequestError("at", problem, store=name)
    return version


def load_version(connection: Connection, name: str, at: At) -> tuple[StoreVersion, bytes]:
    """That version and its bytes. Raises `InvalidRequestError` when they are not kept any more."""
    version = find_version(connection, name, at)
    content = contents.load_content(connection, version.batch_number, name)
    if content is None:
        problem = f"{name} as of batch {version.batch_id} is not kept any more: {_REACH}"
        raise InvalidRequestError("at", problem, store=name)
    if content_hash(content) != version.content_hash:
        raise ValueError(f"the content of {name} that batch {version.batch_id} wrote was changed")
    return version, content


def checked_point(at: object, field: str = "at") -> At:
    """A point in time, if it is one."""
    if isinstance(at, bool) or not isinstance(at, (str, int, datetime)):
        raise InvalidRequestError(field, "must be a batch id, a high watermark or a datetime")
    if isinstance(at, str):
        return check_text(field, at)
    if isinstance(at, int) and not 0 < at < 2**63:
        raise InvalidRequestError(field, f"a high watermark is 1 or more, not {shown(at)}")
    if isinstance(at, datetime) and at.tzinfo is None:
        raise InvalidRequestError(field, "the time has no time zone")
    return at


_REACH = "history goes back as far as `retention` keeps it (rtstore history DIR STORE)"
