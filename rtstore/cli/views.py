"""Queries to the control database that the facade does not have: which batch wrote which store.

The views with `data` in them are for people: SQLite before 3.41 refuses their `json_extract` on a
connection that does not trust the schema, and the connections of rtstore do not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from rtstore.control import batches, runs
from rtstore.model.records import Batch, ReasonName, Record
from rtstore.model.runs import RunRecord
from rtstore.model.times import Timestamp, parse_time
from rtstore.store import RuntimeStore

_WRITTEN_BY = """
    SELECT entry.schema_name, batch.batch_id, batch.high_watermark, batch.reason,
      written.written_at
    FROM manifest_entries AS entry
    JOIN write_batches AS batch ON batch.batch_number = entry.batch_number
    JOIN batch_writes AS written
      ON written.batch_number = entry.batch_number AND written.schema_name = entry.schema_name
"""
_DELETED = "SELECT store, max(deleted_at) FROM store_deletions WHERE is_gone GROUP BY store"
_LAST_BATCHES = """
    SELECT batch.run_id, batch.batch_id, batch.high_watermark, batch.reason, batch.started_at
    FROM write_batches AS batch
    JOIN (
      SELECT max(batch_number) AS number FROM write_batches
      WHERE run_id IN (SELECT run_id FROM runs ORDER BY run_number DESC LIMIT ?)
      GROUP BY run_id
    ) AS last ON last.number = batch.batch_number
"""
_IS_RUN = """
    SELECT EXISTS (SELECT 1 FROM runs WHERE run_id = :run_id)
        OR EXISTS (SELECT 1 FROM write_batches WHERE run_id = :run_id)
"""
_LAST_BATCH_OF_RUN = """
    SELECT batch_id FROM write_batches
    WHERE run_id = ? AND state = 'committed' ORDER BY batch_number DESC LIMIT 1
"""
_NAMED_LIKE = """
    SELECT id, high_watermark, is_run, count(*) OVER () AS matches FROM (
      SELECT batch_id AS id, high_watermark, FALSE AS is_run FROM write_batches
      WHERE NOT :only_runs AND state = 'committed'
        AND (batch_id GLOB :first OR batch_id GLOB :second OR batch_id GLOB 'batch-' || :first)
      UNION ALL
      SELECT run_id, NULL, TRUE FROM
        (SELECT run_id FROM runs UNION SELECT run_id FROM write_batches WHERE run_id IS NOT NULL)
      WHERE run_id GLOB :first OR run_id GLOB :second
    )
    LIMIT :limit
"""
_LOG = """
    SELECT batch_id FROM write_batches AS batch
    WHERE batch_number > :after
      AND (:since IS NULL OR started_at >= :since)
      AND (:run_id IS NULL OR run_id = :run_id)
      AND (:schema_name IS NULL OR EXISTS
        (SELECT 1 FROM batch_writes AS written
         WHERE written.batch_number = batch.batch_number
           AND written.schema_name = :schema_name)
       OR EXISTS
        (SELECT 1 FROM batch_deletions AS deletion
         WHERE deletion.batch_number = batch.batch_number
           AND deletion.schema_name = :schema_name))
    ORDER BY batch_number DESC LIMIT :limit
"""
_STORES_OF_BATCH = """
    SELECT touched.schema_name
    FROM (
      SELECT batch_number, schema_name, position FROM batch_writes
      UNION ALL
      SELECT batch_number, schema_name, position FROM batch_deletions
    ) AS touched
    JOIN write_batches AS batch ON batch.batch_number = touched.batch_number
    WHERE batch.batch_id = ? ORDER BY touched.position
"""
_STORES_OF_BATCHES = "SELECT batch_id, stores, deleted_stores FROM batch_log LIMIT ?"


_ON_RECORD = """
    SELECT touched.schema_name
    FROM (
      SELECT batch_number, schema_name, relative_path FROM batch_writes
      UNION ALL
      SELECT batch_number, schema_name, relative_path FROM batch_deletions
    ) AS touched
    JOIN write_batches AS batch ON batch.batch_number = touched.batch_number
    WHERE batch.state = 'committed' AND ? IN (touched.schema_name, touched.relative_path)
    ORDER BY touched.batch_number DESC LIMIT 1
"""


class WrittenBy(Record):
    """The batch that wrote what is committed for a store."""

    batch_id: str
    high_watermark: int | None
    reason: ReasonName
    written_at: Timestamp


def written_by(connection: Connection) -> dict[str, WrittenBy]:
    """Return by store name the batch that wrote the committed content; absent without one."""
    rows = connection.exec_driver_sql(_WRITTEN_BY).mappings()
    return {row["schema_name"]: WrittenBy.model_validate(dict(row)) for row in rows}


def deleted_stores(connection: Connection) -> dict[str, datetime]:
    """Return the stores that were deleted and not written again, each with the time."""
    return {name: parse_time(at) for name, at in connection.exec_driver_sql(_DELETED)}


def store_on_record(store: RuntimeStore, given: str) -> str | None:
    """Return the name of the store of that name or file which a committed batch wrote or deleted
    last, whether it has a descriptor or not."""
    found = store.database.read(lambda connection: _one(connection, _ON_RECORD, (given,)))
    return None if found is None else str(found)


class LastBatch(Record):
    """The newest batch of a run."""

    batch_id: str
    high_watermark: int | None
    reason: ReasonName
    started_at: Timestamp


class RunsRead(NamedTuple):
    """The newest runs of a directory, as of one moment."""

    number: int
    """How many runs there are in all."""
    active: RunRecord | None
    newest: list[RunRecord]
    last_batch_of: dict[str, LastBatch]
    """By run id, the newest batch that is kept of the run, whatever became of it."""


def newest_runs(store: RuntimeStore, limit: int) -> RunsRead:
    """Read the newest runs, latest first, and the last batch of each."""

    def query(connection: Connection) -> RunsRead:
        rows = connection.exec_driver_sql(_LAST_BATCHES, (limit,)).mappings()
        return RunsRead(
            runs.count(connection),
            runs.active(connection),
            runs.list_runs(connection, limit=limit),
            {row["run_id"]: LastBatch.model_validate(dict(row)) for row in rows},
        )

    return store.database.read(query)


class Named(Record):
    """A committed batch or a run, with its whole id."""

    id: str
    high_watermark: int | None
    is_run: bool
    matches: int
    """How many there are in all whose id matches as this one does."""

    @property
    def in_words(self) -> str:
        """What it is, for people who must choose."""
        if self.is_run:
            return f"run {self.id}"
        return f"{self.id} (high watermark {self.high_watermark or 'not known'})"


def run_is_known(store: RuntimeStore, run_id: str) -> bool:
    """Return whether there ever was a run of that id, as far as is on record."""
    return bool(store.database.read(lambda found: _one(found, _IS_RUN, {"run_id": run_id})))


def last_batch_of_run(store: RuntimeStore, run_id: str) -> str | None:
    """Return the id of the last committed batch of a run that is on record, or None."""
    found = store.database.read(lambda connection: _one(connection, _LAST_BATCH_OF_RUN, (run_id,)))
    return None if found is None else str(found)


def named_like(
    store: RuntimeStore, first: str, second: str, limit: int, *, only_runs: bool = False
) -> list[Named]:
    """Return the committed batches and the runs whose id matches a pattern of two; that of a batch
    may lack its `batch-` before the first."""
    given = {"first": first, "second": second, "limit": limit, "only_runs": only_runs}

    def query(connection: Connection) -> list[Named]:
        rows = connection.exec_driver_sql(_NAMED_LIKE, given).mappings()
        return [Named.model_validate(dict(row)) for row in rows]

    return store.database.read(query)


class Wanted(NamedTuple):
    """Which batches of the log are wanted; None: any."""

    run_id: str | None = None
    schema_name: str | None = None
    since: str | None = None
    """A time as the database has it: those that began then or later."""
    after: int = 0
    """Those with a greater number."""


def log_of(store: RuntimeStore, wanted: Wanted, limit: int) -> list[tuple[Batch, tuple[str, ...]]]:
    """Return the newest batches that are wanted, latest first, each with the stores that it writes
    or deletes in the order of publication, as of one moment."""

    def query(connection: Connection) -> list[tuple[Batch, tuple[str, ...]]]:
        given = {**wanted._asdict(), "limit": limit}
        found = []
        for batch_id in connection.exec_driver_sql(_LOG, given).scalars().all():
            batch = batches.find_batch(connection, batch_id)
            names = connection.exec_driver_sql(_STORES_OF_BATCH, (batch_id,)).scalars()
            if batch is not None:
                found.append((batch, tuple(names)))
        return found

    return store.database.read(query)


def _one(connection: Connection, statement: str, given: Any) -> Any:
    return connection.exec_driver_sql(statement, given).scalar()


def stores_of_batches(store: RuntimeStore, limit: int) -> dict[str, tuple[str, ...]]:
    """Return by batch id the stores that each of the newest batches writes or deletes, in the order
    of publication. Failed and open batches are included."""

    def query(connection: Connection) -> dict[str, tuple[str, ...]]:
        rows = connection.exec_driver_sql(_STORES_OF_BATCHES, (limit,)).mappings()
        return {
            row["batch_id"]: tuple(
                name
                for names in (row["stores"], row["deleted_stores"])
                if names
                for name in names.split(", ")
            )
            for row in rows
        }

    return store.database.read(query)
