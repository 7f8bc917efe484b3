"""Queries to the control database that the facade does not have: which batch wrote which store.

The views with `data` in them are for people: SQLite before 3.41 refuses their `json_extract` on a
connection that does not trust the schema, and the connections of rtstore do not.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection

from rtstore.control import runs
from rtstore.model.records import ReasonName, Record
from rtstore.model.runs import RunRecord
from rtstore.model.times import Timestamp
from rtstore.store import RuntimeStore

_WRITTEN_BY = """
    SELECT entry.schema_name, batch.batch_id, batch.reason, written.written_at
    FROM manifest_entries AS entry
    JOIN write_batches AS batch ON batch.batch_number = entry.batch_number
    JOIN batch_writes AS written
      ON written.batch_number = entry.batch_number AND written.schema_name = entry.schema_name
"""
_LAST_BATCHES = """
    SELECT batch.run_id, batch.batch_id, batch.reason, batch.started_at
    FROM write_batches AS batch
    JOIN (
      SELECT max(batch_number) AS number FROM write_batches
      WHERE run_id IN (SELECT run_id FROM runs ORDER BY run_number DESC LIMIT ?)
      GROUP BY run_id
    ) AS last ON last.number = batch.batch_number
"""
_STORES_OF_BATCHES = "SELECT batch_id, stores FROM batch_log LIMIT ?"


class WrittenBy(Record):
    """The batch that wrote what is committed for a store."""

    batch_id: str
    reason: ReasonName
    written_at: Timestamp


def written_by(store: RuntimeStore) -> dict[str, WrittenBy]:
    """Return by store name the batch that wrote the committed content; absent without one."""

    def query(connection: Connection) -> dict[str, WrittenBy]:
        rows = connection.exec_driver_sql(_WRITTEN_BY).mappings()
        return {row["schema_name"]: WrittenBy.model_validate(dict(row)) for row in rows}

    return store.database.read(query)


class LastBatch(Record):
    """The newest batch of a run."""

    batch_id: str
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


def stores_of_batches(store: RuntimeStore, limit: int) -> dict[str, tuple[str, ...]]:
    """Return by batch id the stores that each of the newest batches writes, in the order of
    publication. Failed and open batches are included."""

    def query(connection: Connection) -> dict[str, tuple[str, ...]]:
        rows = connection.exec_driver_sql(_STORES_OF_BATCHES, (limit,)).mappings()
        return {
            row["batch_id"]: tuple(row["stores"].split(", ")) if row["stores"] else ()
            for row in rows
        }

    return store.database.read(query)
