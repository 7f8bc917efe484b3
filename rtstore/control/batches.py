"""Batches and their writes in the database: the log, completion, and the receipts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import (
    Connection,
    ScalarSelect,
    Table,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    union,
    union_all,
    update,
)

from rtstore.control.schema import (
    OPEN_CONDITION,
    batch_deletions,
    batch_writes,
    manifest_entries,
    store_contents,
    write_batches,
)
from rtstore.control.sqlite.engine import Database
from rtstore.control.sqlite.statements import (
    Row,
    Statement,
    database_of,
    driver_of,
    open_limit,
    swallowed,
)
from rtstore.errors import RuntimeStoreError
from rtstore.model.records import (
    BATCH_TRANSITIONS,
    Batch,
    BatchOrigin,
    BatchState,
    Deletion,
    LoggedBatch,
    PlannedDeletion,
    PlannedWrite,
    Receipt,
    construct_unchecked,
)
from rtstore.model.times import format_time
from rtstore.shell import rtstore_at

NUMBER_MAX = 2**62
"""No batch of ours gets to this number, which is far from the last one that SQLite has."""
FIRST_WITH_DELETIONS = 8
"""The first revision whose batches may delete stores; back-ups of older ones are read, too."""


class ReceiptStore:
    """Reads the batches of a runtime directory and their receipts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self, *, limit: int | None = None) -> list[Batch]:
        """Return the newest `limit` batches, or all, oldest first, each with its receipts."""
        return self.database.read(lambda connection: list_batches(connection, limit=limit))

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch with its receipts, or None when it is unknown or was pruned."""
        return self.database.read(lambda connection: find_batch(connection, batch_id))

    def open_batches(self) -> tuple[LoggedBatch, ...]:
        """Return the open batches, neither committed nor failed, oldest first."""
        return self.database.read(load_open)


def insert_batch(connection: Connection, batch: Batch) -> int:
    """Write the row of a batch. Return its number: its own, or if that is 0, the last plus one."""
    values = batch.model_dump(mode="json", exclude={"receipts", "deletions"})
    values["batch_number"] = batch.batch_number or None
    number = _INSERT_BATCH.run(connection, **values).lastrowid
    assert number is not None  # noqa: S101 - an INSERT of one row has one
    return number


def insert_writes(
    connection: Connection, batch_number: int, writes: Iterable[PlannedWrite]
) -> None:
    """Write the rows of a batch's writes."""
    _INSERT_WRITE.run_many(connection, [_write_row(batch_number, write) for write in writes])


def insert_deletions(
    connection: Connection, batch_number: int, deletions: Iterable[PlannedDeletion]
) -> None:
    """Write the rows of a batch's deletions."""
    rows = [_deletion_row(batch_number, deletion) for deletion in deletions]
    _INSERT_DELETION.write(connection, *rows)


def log(connection: Connection, planned: Sequence[LoggedBatch]) -> None:
    """Write the rows of batches that are being logged, of their writes and of their deletions."""
    _INSERT_BATCH.write(connection, *(_batch_row(logged.batch) for logged in planned))
    _INSERT_WRITE.write(
        connection,
        *(
            _write_row(logged.batch.batch_number, write)
            for logged in planned
            for write in logged.writes
        ),
    )
    _INSERT_DELETION.write(
        connection,
        *(
            _deletion_row(logged.batch.batch_number, deletion)
            for logged in planned
            for deletion in logged.deletions
        ),
    )


def commit(connection: Connection, logged: Sequence[LoggedBatch], *, high_watermark: int) -> None:
    """Mark batches committed in order, numbering high watermarks from `high_watermark`. Raises as
    `change_state`; if this raises, roll back the transaction."""
    changed = _CHANGE_STATE[BatchState.COMMITTED].run_many(
        connection,
        [
            {
                "number": item.batch.batch_number,
                "watermark": high_watermark + position,
                "at": format_time(item.logged_at),
                "error": None,
            }
            for position, item in enumerate(logged)
        ],
    )
    if changed.rowcount != len(logged):
        raise _undecidable(connection, logged, BatchState.COMMITTED)


def change_state(
    connection: Connection,
    logged: LoggedBatch,
    to: BatchState,
    *,
    high_watermark: int | None = None,
    completed_at: datetime | None = None,
    last_error: str | None = None,
) -> None:
    """Change the state of a batch, as `BATCH_TRANSITIONS` allows.

    Raises `RuntimeStoreError` when the row's state does not allow it: then somebody else decided
    about the batch, and the caller must stop. Raises as `swallowed` where it does, and no row
    changed.
    """
    changed = _CHANGE_STATE[to].run(
        connection,
        number=logged.batch.batch_number,
        watermark=high_watermark,
        at=None if completed_at is None else format_time(completed_at),
        error=last_error,
    )
    if changed.rowcount != 1:
        raise _undecidable(connection, [logged], to)


def _undecidable(
    connection: Connection, logged: Sequence[LoggedBatch], to: BatchState
) -> RuntimeStoreError:
    rows = [_SELECT_BY_ID.first(connection, batch_id=item.batch.batch_id) for item in logged]
    if all(row and to in BATCH_TRANSITIONS[BatchState(row["state"])] for row in rows):
        return swallowed(connection, "UPDATE write_batches")
    named = ", ".join(item.batch.batch_id for item in logged)
    return RuntimeStoreError(
        f"batch {named} cannot become {to}: it is no longer in the state in which it was "
        f"found. Run: {rtstore_at('plan', database_of(connection).parent)}"
    )


def load_open(connection: Connection) -> tuple[LoggedBatch, ...]:
    """Return the open batches, neither committed nor failed, oldest first, with their writes and
    deletions.

    Raises `ValueError` for one of which a store was committed by a later batch: batches are
    completed in their order, so somebody opened it again, and it would go over newer content.
    """
    rows = _SELECT_OPEN.all(connection)
    deletions = _deletions(connection, rows)
    found = tuple(_logged(connection, row, deletions) for row in rows)
    for logged in found:
        _refuse_overtaken(connection, logged)
    return found


def _refuse_overtaken(connection: Connection, logged: LoggedBatch) -> None:
    number = logged.batch.batch_number
    statements = [_SELECT_LAST_WRITE]
    if logged.has_contents and has_deletions(connection):
        statements.append(_SELECT_LAST_DELETED)
    for name in logged.stores:
        last = max(statement.scalar(connection, name=name) or 0 for statement in statements)
        if last > number:
            raise ValueError(
                f"batch {logged.batch.batch_id} is {logged.batch.state}, but a later one of "
                f"{name}, number {last}, is committed: somebody opened it again"
            )


def find_batch(connection: Connection, batch_id: str) -> Batch | None:
    """Return the batch with an id, with its receipts, or None."""
    row = _SELECT_BY_ID.first(connection, batch_id=batch_id)
    return None if row is None else _with_receipts(connection, [row])[0]


def find_number(connection: Connection, batch_number: int) -> Batch | None:
    """Return the batch with a number, with its receipts, or None."""
    row = _SELECT_BY_NUMBER.first(connection, number=batch_number)
    return None if row is None else _with_receipts(connection, [row])[0]


def list_batches(connection: Connection, *, limit: int | None = None) -> list[Batch]:
    """Return the newest `limit` batches, or all, oldest first, with their receipts."""
    rows = _SELECT_NEWEST.all(connection, count=-1 if limit is None else limit)
    return _with_receipts(connection, rows[::-1])


def read_all(connection: Connection) -> None:
    """Read every batch, in any state, with its receipts, a few at a time. Raises ValueError for a
    row that makes no sense."""
    number = 0
    while rows := _SELECT_AFTER.all(connection, number=number, count=_AT_ONCE):
        _with_receipts(connection, rows)
        number = rows[-1]["batch_number"]


def list_committed_after(connection: Connection, after: int, limit: int) -> list[Batch]:
    """Return the committed batches above a high watermark, with their receipts, oldest first; at
    most `limit`."""
    last = _SELECT_UP_TO.first(connection, watermark=after)
    number = 0 if last is None else last["batch_number"]
    rows = _SELECT_COMMITTED.all(connection, number=number, count=limit)
    return _with_receipts(connection, rows)


def list_with_writes(connection: Connection) -> list[tuple[Batch, tuple[PlannedWrite, ...]]]:
    """Return every batch in any state, oldest first, with its writes, done or planned. Of a batch
    that is committed the receipts of its deletions are there, too."""
    found = []
    rows = _SELECT_NEWEST.all(connection, count=-1)[::-1]
    deletions = _deletions(connection, rows)
    for row in rows:
        batch = Batch.model_validate(row)
        if batch.state is BatchState.COMMITTED:
            batch = _with_deletions(batch, deletions)
        found.append((batch, _writes(connection, batch.batch_number)))
    return found


def batch_id_is_known(connection: Connection, batch_id: str) -> bool:
    """Return whether there is a batch with that id, in any state."""
    return _SELECT_BY_ID.first(connection, batch_id=batch_id) is not None


def known_receipts(connection: Connection, receipt_ids: Iterable[str]) -> list[str]:
    """Return those of the receipt ids that are taken."""
    return [
        receipt_id
        for receipt_id in receipt_ids
        if _SELECT_RECEIPT.first(connection, receipt_id=receipt_id) is not None
    ]


def last_deletion(connection: Connection, schema_name: str) -> Deletion | None:
    """Return the last committed deletion of a store that is on record, or None. The store is gone
    if it has no entry, either."""
    row = _SELECT_LAST_DELETION.first(connection, name=schema_name)
    return None if row is None else Deletion.model_validate(row)


def list_gone(connection: Connection) -> list[Deletion]:
    """Return the committed deletions that are on record of stores without an entry, whose file is
    that of no other entry, either."""
    if not _IS_ANY_DELETED.scalar(connection):  # most often; the rest is slow to compile
        return []
    return [Deletion.model_validate(row) for row in _SELECT_GONE.all(connection)]


def was_deleted(connection: Connection, schema_name: str, found: str) -> bool:
    """Return whether a store was deleted, and a batch wrote exactly the bytes with that hash to it.
    Ask of a store without an entry."""
    return (
        last_deletion(connection, schema_name) is not None
        and not is_written(connection, schema_name)
        and wrote_same_bytes(connection, schema_name, found, but_not=None)
    )


def is_written(connection: Connection, schema_name: str) -> bool:
    """Return whether the last committed batch on record that wrote or deleted a store wrote it.
    Then its file is nobody's to remove, also where somebody took its entry away by hand."""
    return bool(_SELECT_IS_WRITTEN.scalar(connection, name=schema_name))


def last_written(connection: Connection, schema_name: str) -> int:
    """Return the number of the last committed batch on record that wrote a store, 0 without one."""
    return _SELECT_LAST_WRITE.scalar(connection, name=schema_name) or 0


def wrote_same_bytes(
    connection: Connection, schema_name: str, content_hash: str, *, but_not: int | None
) -> bool:
    """Return whether a batch other than `but_not`, failed or earlier, wrote exactly these bytes to
    a store, as far back as the history goes.

    Only batches that were logged here count: the receipts of an imported batch say what it wrote,
    and its bytes are in the log only where they were imported with it.
    """
    row = _SELECT_WRITER.first(
        connection, name=schema_name, hash=content_hash, but_not=but_not or 0
    )
    return row is not None


def list_logged_here(connection: Connection) -> list[tuple[str, str, str]]:
    """Return every version that `wrote_same_bytes` may count, as far back as the history goes: the
    store's name, its file then, and the hash."""
    rows = _SELECT_LOGGED_HERE.all(connection)
    return [(row["schema_name"], row["relative_path"], row["content_hash"]) for row in rows]


def written_files(
    connection: Connection, first: int, last: int
) -> list[tuple[int, tuple[str, str]]]:
    """Return the files that the batches numbered `first` to `last` wrote or deleted, or planned to:
    each with the number of the batch, and the store's name and path."""
    return [
        (row["batch_number"], (row["schema_name"], row["relative_path"]))
        for row in _SELECT_FILES.all(connection, first=first, last=last)
    ]


def has_bytes(connection: Connection, schema_name: str, content_hash: str) -> bool:
    """Return whether exactly these bytes of a store are in the database, so no copy is needed."""
    return _SELECT_KEEPER.first(connection, name=schema_name, hash=content_hash) is not None


def wrote_for_another(
    connection: Connection, schema_name: str, relative_path: str, content_hash: str
) -> tuple[bool, bool]:
    """Return whether a batch wrote exactly these bytes to a file for another store, which had the
    file before and gave it up; and whether they are in the database, so that no copy is needed. A
    store that merely lost its entry gave nothing up."""
    rows = [
        row
        for row in _SELECT_OTHER_WRITERS.all(
            connection, name=schema_name, path=relative_path, hash=content_hash
        )
        if row["file_now"] != relative_path
        and (row["file_now"] is not None or not is_written(connection, row["schema_name"]))
    ]
    return bool(rows), any(row["has_content"] for row in rows)


def deleted_at(connection: Connection, relative_path: str, *, but_not: str) -> list[str]:
    """Return the stores but one that were deleted while they had a file, and not written since."""
    rows = _SELECT_DELETED_AT.all(connection, path=relative_path, but_not=but_not)
    return [row["schema_name"] for row in rows if not is_written(connection, row["schema_name"])]


def last_number(connection: Connection) -> int:
    """Return the number of the newest batch, 0 before the first. Unlike the high watermark, it
    counts failed batches too. Raises `ValueError` for numbers that we never give."""
    row = _SELECT_NUMBERS.first(connection)
    assert row is not None  # noqa: S101 - an aggregate has a row
    return checked_last_number(row["first_number"], row["last_number"])


def checked_last_number(first: int | None, last: int | None) -> int:
    """Return the last of the batch numbers, or 0. Raises as `last_number`."""
    if first is None or last is None:
        return 0
    if first < 1 or last > NUMBER_MAX:
        wrong = first if first < 1 else last
        raise ValueError(f"there is a batch number {wrong}: no batch of ours has it")
    return last


def _batch_row(batch: Batch) -> Row:
    return {
        "batch_number": batch.batch_number,
        "batch_id": batch.batch_id,
        "state": batch.state.value,
        "reason": str(batch.reason),
        "team_name": batch.team_name,
        "run_id": batch.run_id,
        "capability_snapshot_id": batch.capability_snapshot_id,
        "behavior_fingerprint": batch.behavior_fingerprint,
        "high_watermark": None,
        "started_at": format_time(batch.started_at),
        "completed_at": None,
        "last_error": None,
        "origin": batch.origin.value,
    }


def _write_row(batch_number: int, write: PlannedWrite) -> Row:
    return {
        **write.__dict__,
        "batch_number": batch_number,
        "written_at": format_time(write.written_at),
    }


def _deletion_row(batch_number: int, deletion: PlannedDeletion) -> Row:
    return {
        **deletion.__dict__,
        "batch_number": batch_number,
        "deleted_at": format_time(deletion.deleted_at),
    }


def committed(logged: LoggedBatch, high_watermark: int) -> Batch:
    """Return a logged batch as it is once it is completed, with its receipts."""
    batch = logged.batch
    now = {
        "state": BatchState.COMMITTED,
        "high_watermark": high_watermark,
        "completed_at": logged.logged_at,
        "receipts": tuple(receipt_of(batch, write) for write in logged.writes),
        "deletions": tuple(_deletion_of(batch, item) for item in logged.deletions),
    }
    return construct_unchecked(Batch, {**batch.__dict__, **now})


def receipt_of(batch: Batch, write: PlannedWrite) -> Receipt:
    """Return the receipt of one write of a batch."""
    return construct_unchecked(
        Receipt,
        {
            "mtime_ns": write.mtime_ns,
            "receipt_id": write.receipt_id,
            "batch_id": batch.batch_id,
            "schema_name": write.schema_name,
            "team_name": batch.team_name,
            "run_id": batch.run_id,
            "capability_snapshot_id": batch.capability_snapshot_id,
            "behavior_fingerprint": batch.behavior_fingerprint,
            "schema_version": write.schema_version,
            "relative_path": write.relative_path,
            "content_hash": write.content_hash,
            "file_size": write.file_size,
            "written_at": write.written_at,
        },
    )


def _deletion_of(batch: Batch, deletion: PlannedDeletion) -> Deletion:
    return construct_unchecked(
        Deletion,
        {
            "receipt_id": deletion.receipt_id,
            "batch_id": batch.batch_id,
            "schema_name": deletion.schema_name,
            "schema_version": deletion.schema_version,
            "relative_path": deletion.relative_path,
            "content_hash": deletion.content_hash,
            "deleted_at": deletion.deleted_at,
        },
    )


# --- statements and rows ------------------------------------------------------------------------

_INSERT_BATCH = Statement(insert(write_batches))
_INSERT_WRITE = Statement(insert(batch_writes))
_INSERT_DELETION = Statement(insert(batch_deletions))
_SELECT_BY_ID = Statement(
    select(write_batches).where(write_batches.c.batch_id == bindparam("batch_id"))
)
_SELECT_BY_NUMBER = Statement(
    select(write_batches).where(write_batches.c.batch_number == bindparam("number"))
)
_SELECT_OPEN = Statement(
    select(write_batches).where(OPEN_CONDITION).order_by(write_batches.c.batch_number)
)
_SELECT_NEWEST = Statement(
    select(write_batches).order_by(write_batches.c.batch_number.desc()).limit(open_limit("count"))
)
_SELECT_AFTER = Statement(
    select(write_batches)
    .where(write_batches.c.batch_number > bindparam("number"))
    .order_by(write_batches.c.batch_number)
    .limit(open_limit("count"))
)
_AT_ONCE = 500
# Watermarks rise with the numbers, so this walks back from the newest to the first that is met.
_SELECT_UP_TO = Statement(
    select(write_batches.c.batch_number)
    .where(write_batches.c.high_watermark <= bindparam("watermark"))
    .order_by(write_batches.c.batch_number.desc())
    .limit(1)
)
_SELECT_COMMITTED = Statement(
    select(write_batches)
    .where(
        write_batches.c.batch_number > bindparam("number"),
        write_batches.c.high_watermark.is_not(None),
    )
    .order_by(write_batches.c.batch_number)
    .limit(open_limit("count"))
)
_SELECT_WRITES = Statement(
    select(batch_writes)
    .where(batch_writes.c.batch_number == bindparam("number"))
    .order_by(batch_writes.c.position)
)
_SELECT_DELETIONS = Statement(
    select(batch_deletions)
    .where(batch_deletions.c.batch_number.between(bindparam("first"), bindparam("last")))
    .order_by(batch_deletions.c.batch_number, batch_deletions.c.position)
)
_DELETIONS = (
    select(
        batch_deletions.c.receipt_id,
        write_batches.c.batch_id,
        batch_deletions.c.schema_name,
        batch_deletions.c.schema_version,
        batch_deletions.c.relative_path,
        batch_deletions.c.content_hash,
        batch_deletions.c.deleted_at,
    )
    .join(write_batches, write_batches.c.batch_number == batch_deletions.c.batch_number)
    .where(write_batches.c.state == BatchState.COMMITTED.value)
    .order_by(batch_deletions.c.batch_number.desc())
)
_SELECT_LAST_DELETION = Statement(
    _DELETIONS.where(batch_deletions.c.schema_name == bindparam("name")).limit(1)
)
_IS_ANY_DELETED = Statement(
    select(exists(select(literal_column("1")).select_from(batch_deletions)))
)
_later = write_batches.alias()
_SELECT_GONE = Statement(
    _DELETIONS.where(
        ~exists()
        .where(
            or_(
                manifest_entries.c.schema_name == batch_deletions.c.schema_name,
                manifest_entries.c.relative_path == batch_deletions.c.relative_path,
            )
        )
        .correlate(batch_deletions),
        ~exists()
        .where(
            batch_writes.c.schema_name == batch_deletions.c.schema_name,
            batch_writes.c.batch_number > batch_deletions.c.batch_number,
            _later.c.batch_number == batch_writes.c.batch_number,
            _later.c.state == BatchState.COMMITTED.value,
        )
        .correlate(batch_deletions),
    )
)


def _last_in(table: Table) -> ScalarSelect[int]:
    return (
        select(table.c.batch_number)
        .join(write_batches, write_batches.c.batch_number == table.c.batch_number)
        .where(
            table.c.schema_name == bindparam("name"),
            write_batches.c.state == BatchState.COMMITTED.value,
        )
        .order_by(table.c.batch_number.desc())
        .limit(1)
        .scalar_subquery()
    )


_SELECT_LAST_WRITE = Statement(select(_last_in(batch_writes)))
_SELECT_LAST_DELETED = Statement(select(_last_in(batch_deletions)))
_SELECT_IS_WRITTEN = Statement(
    select(_last_in(batch_writes) > func.coalesce(_last_in(batch_deletions), 0))
)
_SELECT_RECEIPT = Statement(
    union_all(
        *(
            select(table.c.batch_number).where(table.c.receipt_id == bindparam("receipt_id"))
            for table in (batch_writes, batch_deletions)
        )
    )
)
_SELECT_FILES = Statement(
    union_all(
        *(
            select(table.c.batch_number, table.c.schema_name, table.c.relative_path).where(
                table.c.batch_number.between(bindparam("first"), bindparam("last"))
            )
            for table in (batch_writes, batch_deletions)
        )
    )
)
# Two subqueries: SQLite finds a minimum or a maximum in the index, but not both in one query.
NUMBERS = (
    select(func.min(write_batches.c.batch_number)).scalar_subquery().label("first_number"),
    select(func.max(write_batches.c.batch_number)).scalar_subquery().label("last_number"),
)
"""Columns for `checked_last_number`."""
_SELECT_NUMBERS = Statement(select(*NUMBERS))
# Both are found through the index on (schema_name, content_hash), however long the history is.
_HAS_CONTENT = (store_contents.c.batch_number == batch_writes.c.batch_number) & (
    store_contents.c.schema_name == batch_writes.c.schema_name
)
_SELECT_WRITER = Statement(
    select(batch_writes.c.batch_number)
    .join(write_batches, write_batches.c.batch_number == batch_writes.c.batch_number)
    .where(
        batch_writes.c.schema_name == bindparam("name"),
        batch_writes.c.content_hash == bindparam("hash"),
        batch_writes.c.batch_number != bindparam("but_not"),
        or_(
            write_batches.c.origin == BatchOrigin.WRITTEN.value,
            exists().where(_HAS_CONTENT).correlate(batch_writes),
        ),
    )
    .limit(1)
)
_SELECT_LOGGED_HERE = Statement(
    select(batch_writes.c.schema_name, batch_writes.c.relative_path, batch_writes.c.content_hash)
    .join(write_batches, write_batches.c.batch_number == batch_writes.c.batch_number)
    .where(
        or_(
            write_batches.c.origin == BatchOrigin.WRITTEN.value,
            exists().where(_HAS_CONTENT).correlate(batch_writes),
        )
    )
)
_SELECT_KEEPER = Statement(
    select(batch_writes.c.batch_number)
    .join(store_contents, _HAS_CONTENT)
    .where(
        batch_writes.c.schema_name == bindparam("name"),
        batch_writes.c.content_hash == bindparam("hash"),
    )
    .order_by(batch_writes.c.batch_number.desc())  # the contents of the oldest may be gone
    .limit(1)
)
# Who gave a file up has an entry with another one, or was deleted.
_SELECT_OTHER_WRITERS = Statement(
    select(
        batch_writes.c.schema_name,
        exists().where(_HAS_CONTENT).correlate(batch_writes).label("has_content"),
        select(manifest_entries.c.relative_path)
        .where(manifest_entries.c.schema_name == batch_writes.c.schema_name)
        .correlate(batch_writes)
        .scalar_subquery()
        .label("file_now"),
    )
    .select_from(batch_writes)
    .join(write_batches, write_batches.c.batch_number == batch_writes.c.batch_number)
    .where(
        batch_writes.c.schema_name.in_(
            union(select(manifest_entries.c.schema_name), select(batch_deletions.c.schema_name))
        ),
        batch_writes.c.schema_name != bindparam("name"),
        batch_writes.c.content_hash == bindparam("hash"),
        batch_writes.c.relative_path == bindparam("path"),
        or_(
            write_batches.c.origin == BatchOrigin.WRITTEN.value,
            exists().where(_HAS_CONTENT).correlate(batch_writes),
        ),
    )
)
_SELECT_DELETED_AT = Statement(
    select(batch_deletions.c.schema_name)
    .distinct()
    .where(
        batch_deletions.c.relative_path == bindparam("path"),
        batch_deletions.c.schema_name != bindparam("but_not"),
    )
)


def _to_state(target: BatchState) -> Statement:
    sources = [state for state, targets in BATCH_TRANSITIONS.items() if target in targets]
    return Statement(
        update(write_batches)
        .where(
            write_batches.c.batch_number == bindparam("number"),
            or_(*(write_batches.c.state == source.value for source in sources)),
        )
        .values(
            state=target.value,
            high_watermark=bindparam("watermark"),
            completed_at=bindparam("at"),
            last_error=bindparam("error"),
        )
    )


_CHANGE_STATE = {
    state: _to_state(state)
    for state in (BatchState.COMMITTING, BatchState.COMMITTED, BatchState.FAILED)
}


def _writes(connection: Connection, batch_number: int) -> tuple[PlannedWrite, ...]:
    rows = _SELECT_WRITES.all(connection, number=batch_number)
    return tuple(PlannedWrite.model_validate(row) for row in rows)


def _deletions(
    connection: Connection, rows: Sequence[Row]
) -> dict[int, tuple[PlannedDeletion, ...]]:
    """Return the deletions of batches whose rows these are, by batch number; none from a database
    of a revision before there were any."""
    numbers = [row["batch_number"] for row in rows]
    if not numbers or not has_deletions(connection):
        return {}
    found: dict[int, tuple[PlannedDeletion, ...]] = {}
    for row in _SELECT_DELETIONS.all(connection, first=min(numbers), last=max(numbers)):
        number = row["batch_number"]
        found[number] = (*found.get(number, ()), PlannedDeletion.model_validate(row))
    return found


def has_deletions(connection: Connection) -> bool:
    """Return whether a database is of a revision that has deletions."""
    (revision,) = driver_of(connection).execute("PRAGMA user_version").fetchone()
    return bool(revision >= FIRST_WITH_DELETIONS)


def _logged(
    connection: Connection, row: Row, deletions: Mapping[int, tuple[PlannedDeletion, ...]]
) -> LoggedBatch:
    batch = Batch.model_validate(row)
    if batch.origin is BatchOrigin.IMPORTED:
        # Its contents were never in a log of ours, so it cannot be completed from there.
        return LoggedBatch(batch=batch)
    number = batch.batch_number
    return LoggedBatch(
        batch=batch, writes=_writes(connection, number), deletions=deletions.get(number, ())
    )


def _with_receipts(connection: Connection, rows: Sequence[Row]) -> list[Batch]:
    """Return the batches of rows, those that are committed with their receipts."""
    deletions = _deletions(connection, rows)
    found = []
    for row in rows:
        batch = Batch.model_validate(row)
        if batch.state is BatchState.COMMITTED:
            writes = _writes(connection, batch.batch_number)
            receipts = tuple(receipt_of(batch, write) for write in writes)
            batch = _with_deletions(batch.model_copy(update={"receipts": receipts}), deletions)
        found.append(batch)
    return found


def _with_deletions(batch: Batch, deletions: Mapping[int, tuple[PlannedDeletion, ...]]) -> Batch:
    deleted = deletions.get(batch.batch_number, ())
    if not deleted:
        return batch
    of_batch = tuple(_deletion_of(batch, deletion) for deletion in deleted)
    return batch.model_copy(update={"deletions": of_batch})
