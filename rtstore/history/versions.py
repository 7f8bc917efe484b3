"""Find and load earlier versions of a store. Reads only: reverting is a new batch."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from rtstore.control import batches, contents, history
from rtstore.control.history import Point, StoreVersion
from rtstore.control.sqlite.statements import database_of
from rtstore.errors import InvalidRequestError, shown
from rtstore.foreign import fails_again
from rtstore.model.arguments import NUMBER_MAX, check_text
from rtstore.model.differences import Difference, DifferenceKind, differences
from rtstore.model.envelope import content_hash, decode_own
from rtstore.model.records import BatchOrigin, Record
from rtstore.model.times import format_time, to_utc_ms
from rtstore.shell import rtstore_at, shell_word

At = str | int | datetime
"""A point in time: the id of a batch, a high watermark, or a time."""


class StoreDifferences(Record):
    """The differences between two versions of a store. Of a deletion (`is_deletion`) there is no
    data: all that is on the other side was removed or added."""

    schema_name: str
    before: StoreVersion
    after: StoreVersion
    differences: tuple[Difference, ...]


CONTENT_FIELDS = {
    "content_hash",
    "batch_id",
    "high_watermark",
    "run_id",
    "capability_snapshot_id",
    "behavior_fingerprint",
}


def or_now(connection: Connection, at: At | None) -> At:
    """Return the point in time, or the last committed batch for None."""
    if at is not None:
        return at
    last = history.last_committed(connection)
    if last is None:
        raise InvalidRequestError("b", "nothing is committed yet")
    return last.batch_id


def find_point(connection: Connection, name: str | None, at: At, field: str = "at") -> Point:
    """Return the committed batch of a point in time, to look for a store there (or for no store).

    Raises `InvalidRequestError` when there was none yet, or when it is not on record any more. Here
    and below, `field` is the argument that the point was given as.
    """
    if isinstance(at, str):
        found = history.point_of_batch(connection, at)
        problem = f"no committed batch {shown(at)} is on record"
    elif isinstance(at, datetime):
        moment = format_time(to_utc_ms(at))
        found = history.point_of_time(connection, moment)
        if found is not None and not history.next_is_there(connection, found.batch_number):
            found = None  # a later batch, committed by that time, is not on record
        problem = f"no batch that was committed by {moment} is on record"
    else:
        found = history.point_of_watermark(connection, at)
        problem = f"no batch that made the high watermark {at} is on record"
        last = history.last_committed(connection)
        newest = 0 if last is None else last.high_watermark or 0
        if at > newest:
            raise InvalidRequestError(field, f"{problem}: it is {newest} now")
    if found is None:
        raise InvalidRequestError(field, f"{problem}: {_reach(connection, name)}")
    return found


def find_version(connection: Connection, name: str, at: At, field: str = "at") -> StoreVersion:
    """Return the version of a store that was current at a point in time.

    Raises `InvalidRequestError` when the store was not written by then or was deleted, or when this
    is unknown: a batch that is not on record any more may have written it.
    """
    version, point = _version_or_deletion(connection, name, at, field)
    if version.is_deletion:
        problem = f"it was {deletion_in_words(version.batch_id, version.written_at)}"
        if version.batch_id != point.batch_id:
            problem += f", and not written again by batch {point.batch_id}"
        raise InvalidRequestError(field, problem, store=name)
    return version


def _version_or_deletion(
    connection: Connection, name: str, at: At, field: str
) -> tuple[StoreVersion, Point]:
    """Return what a store was at a point in time, and that point."""
    point = find_point(connection, name, at, field)
    version = history.version_at(connection, name, point.batch_number)
    since = 0 if version is None else version.batch_number
    if not history.all_are_there(connection, since, point.batch_number):
        problem = f"what {name} held at batch {point.batch_id} is not on record any more"
        reach = _reach(connection, name)
        raise InvalidRequestError(field, f"{problem}: {reach}", store=name)
    if version is None:
        problem = f"{name} was not written by batch {point.batch_id} or any before it"
        raise InvalidRequestError(field, problem, store=name)
    return version, point


def why_nothing_is_committed(connection: Connection, name: str) -> str:
    """Return why a store has no committed content: it was deleted, was never written, or, where the
    history does not go back to the first batch, that it has neither."""
    if batches.is_written(connection, name):
        return "a batch on record wrote it, and the one that deleted it is not on record any more"
    deletion = batches.last_deletion(connection, name)
    if deletion is not None:
        return f"it was {deletion_in_words(deletion.batch_id, deletion.deleted_at)}"
    return why_without_versions(connection)


def why_without_versions(connection: Connection) -> str:
    """Return why a store has no version on record."""
    if history.is_whole(connection):
        return "it was never written in a batch"
    return f"no batch on record wrote it, or deleted it: {_reach(connection, None)}"


def deletion_in_words(batch_id: str, deleted_at: datetime) -> str:
    """Return when a store was deleted, and by which batch, in words."""
    return f"deleted by batch {batch_id} at {format_time(deleted_at)}"


def load_version(
    connection: Connection, name: str, at: At, field: str = "at"
) -> tuple[StoreVersion, bytes]:
    """Return the version of `find_version` and its bytes.

    Raises `InvalidRequestError` as that does, and when the bytes are not in the database. Raises
    ValueError when the bytes do not have the recorded hash."""
    version = find_version(connection, name, at, field)
    return version, _bytes_of(connection, name, version, field)


def compare(connection: Connection, name: str, a: At, b: At | None) -> StoreDifferences:
    """Return the differences of a store between two points in time; without `b`, until now. At
    either it may be deleted. Raises as `load_version` does for any other version."""
    before, _ = _version_or_deletion(connection, name, a, "a")
    after, _ = _version_or_deletion(connection, name, or_now(connection, b), "b")
    old, new = (
        []
        if version.is_deletion
        else [decode_own(_bytes_of(connection, name, version, field)).data]
        for version, field in ((before, "a"), (after, "b"))
    )
    if old and new:
        found = differences(*old, *new)
    else:
        found = (
            *(Difference(kind=DifferenceKind.REMOVED, path="", before=data) for data in old),
            *(Difference(kind=DifferenceKind.ADDED, path="", after=data) for data in new),
        )
    return StoreDifferences(schema_name=name, before=before, after=after, differences=found)


def _bytes_of(connection: Connection, name: str, version: StoreVersion, field: str) -> bytes:
    """Return the bytes of a version, as `load_version` does."""
    content = contents.load_content(connection, version.batch_number, name)
    if content is None:
        reach = _reach(connection, name)
        why = f"is not kept any more: {reach}"
        batch = batches.find_batch(connection, version.batch_id)
        if batch is not None and batch.origin is BatchOrigin.IMPORTED:
            why = f"is not here: an import has the current versions only, and {reach}"
        problem = f"{name} as of batch {version.batch_id} {why}"
        raise InvalidRequestError(field, problem, store=name)
    if content_hash(content) != version.content_hash:
        raise ValueError(f"the content of {name} that batch {version.batch_id} wrote was changed")
    return content


def checked_point(at: object, field: str = "at") -> At:
    """Return a valid point in time. Raises `InvalidRequestError` for any other value."""
    if isinstance(at, bool) or not isinstance(at, (str, int, datetime)):
        raise InvalidRequestError(field, "must be a batch id, a high watermark or a datetime")
    if isinstance(at, str):
        return check_text(field, at)
    if isinstance(at, int) and at < 1:
        raise InvalidRequestError(field, f"a high watermark is 1 or more, not {shown(at)}")
    if isinstance(at, int) and at > NUMBER_MAX:
        problem = f"a high watermark is {NUMBER_MAX} or less, not {shown(at)}"
        raise InvalidRequestError(field, problem)
    if isinstance(at, datetime):
        in_utc = partial(to_utc_ms, at)
        try:
            in_utc()
        except ValueError as error:
            if not fails_again(in_utc):
                raise
            raise InvalidRequestError(field, str(error)) from None
    return at


def _reach(connection: Connection, name: str | None) -> str:
    directory = database_of(connection).parent
    command = rtstore_at("log", directory)
    if name is not None:
        command = f"{rtstore_at('history', directory)} {shell_word(name)}"
    return f"history goes back as far as `retention` keeps it ({command})"
