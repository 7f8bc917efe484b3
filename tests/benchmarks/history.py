"""Long histories, made in seconds: rows straight into the tables."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rtstore import Descriptor
from rtstore.control.contents import KEEP_EVERYTHING
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.model.ids import time_ordered_id
from tests.benchmarks.documents import IDENTITY, REASON, TEAM, open_store, write

_CHUNK = 10_000


def build(
    directory: Path, known: Sequence[Descriptor], batches: int, writes: Mapping[str, Any]
) -> None:
    """Make a runtime directory with that many committed batches of one store each, one a second up
    to now, and then one real batch, of all stores. Nobody has the directory open."""
    open_store(directory, known).close()
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        for first in range(1, batches + 1, _CHUNK):
            _insert(connection, known, range(first, min(first + _CHUNK, batches + 1)), batches)
        connection.execute("UPDATE runtime_manifest SET high_watermark = ?", (batches,))
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # The first real batch makes the entries: no recovery is to do it before.
    with open_store(directory, known, retention=KEEP_EVERYTHING, recover=False) as store:
        batch = write(store, writes)
        assert batch.high_watermark == batches + 1


def _insert(
    connection: sqlite3.Connection, known: Sequence[Descriptor], numbers: range, last: int
) -> None:
    rows = list(_rows(known, numbers, last))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "INSERT INTO write_batches (batch_number, batch_id, high_watermark, started_at,"
        " completed_at, reason, team_name, run_id, capability_snapshot_id, behavior_fingerprint,"
        " state, origin) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'committed', 'written')",
        [batch for batch, _, _ in rows],
    )
    connection.executemany(
        "INSERT INTO batch_writes (batch_number, schema_name, receipt_id, relative_path,"
        " content_hash, file_size, mtime_ns, written_at, position, schema_version)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 1)",
        [planned for _, planned, _ in rows],
    )
    connection.executemany(
        "INSERT INTO store_contents (schema_name, batch_number, content) VALUES (?, ?, ?)",
        [content for _, _, content in rows],
    )
    connection.execute("COMMIT")


def _rows(
    known: Sequence[Descriptor], numbers: range, last: int
) -> Iterator[tuple[tuple[object, ...], tuple[object, ...], tuple[object, ...]]]:
    now = datetime.now(UTC)
    identity = (IDENTITY.run_id, IDENTITY.capability_snapshot_id, IDENTITY.behavior_fingerprint)
    for number in numbers:
        store = known[number % len(known)]
        moment = now - timedelta(seconds=last - number + 1)
        at = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        ms = int(moment.timestamp() * 1000)
        document = {
            "schemaVersion": 1,
            "updatedAt": at,
            "data": {"revision": number, "note": "what was true for a second, long ago"},
        }
        content = json.dumps(document, indent=2) + "\n"
        digest = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
        yield (
            (number, _id("batch", ms), number, at, at, REASON, TEAM, *identity),
            (
                number,
                store.schema_name,
                _id("receipt", ms),
                store.relative_path,
                digest,
                len(content),
                ms * 1_000_000,
                at,
            ),
            (store.schema_name, number, content),
        )


def _id(prefix: str, milliseconds: int) -> str:
    """An id as the library would have made it then: they sort by their time."""
    shape = time_ordered_id(prefix)
    digits = f"{milliseconds:012x}"
    tail = secrets.token_hex(10)
    made = f"{prefix}-{digits[:8]}-{digits[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:18]}"
    assert len(made) == len(shape)
    return made
