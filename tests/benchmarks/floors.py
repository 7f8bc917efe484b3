"""The least that could do the same job: what the store's figures are held against.

A floor uses the standard library (one variant another encoder) and nothing of the store's own code
but for the making of the database, so that its tables are the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic_core

from rtstore import Descriptor
from rtstore.control.lock import LOCK_NAME
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.benchmarks.documents import IDENTITY, REASON, TEAM, open_store

Encode = Callable[[object], bytes]

KEPT_CONTENTS, KEPT_BATCHES = 50, 1_000
"""The default retention."""


def dumps(document: object) -> bytes:
    """A document as the standard library writes it."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def fast_dumps(document: object) -> bytes:
    """The same bytes from a fast encoder."""
    return pydantic_core.to_json(document, indent=2)


def now() -> str:
    """The time as the database keeps it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- writing ------------------------------------------------------------------------------------


class RawProtocol:
    """Steps 3 to 5 of the commit protocol in raw `sqlite3`, in the same tables, under a flock.

    Encoding and hashing are in it. With `careful` it has the other duties too: it looks for open
    batches and at the target files before (step 2), and drops history beyond the default retention
    (in step 5). It checks nothing else, and has an answer to no error.
    """

    def __init__(
        self,
        directory: Path,
        known: Sequence[Descriptor],
        *,
        encode: Encode = dumps,
        careful: bool = False,
    ) -> None:
        open_store(directory, known).close()
        self._files = {item.schema_name: directory / item.relative_path for item in known}
        self._encode = encode
        self._careful = careful
        self._connection = sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self._lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the database and the lock."""
        self._connection.close()
        os.close(self._lock)

    def write(self, documents: Mapping[str, Any]) -> None:
        """Write one batch."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            if self._careful:
                self._look(documents)
            at = now()
            contents = {
                name: self._encode({"schemaVersion": 1, "updatedAt": at, "data": document}) + b"\n"
                for name, document in documents.items()
            }
            self._write(at, contents)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def update(self, name: str, change: Callable[[Any], Any]) -> None:
        """Read what is committed, change it, write it."""
        row = self._connection.execute(_CURRENT, (name,)).fetchone()
        self.write({name: change(json.loads(row[0])["data"])})

    def _look(self, names: Iterable[str]) -> None:
        run = self._connection.execute
        run("BEGIN")
        run("SELECT * FROM runtime_manifest").fetchone()
        assert not run(_OPEN_BATCHES).fetchall()
        for name in names:
            entry = run(_ENTRY, (name,)).fetchone()
            if entry is not None:
                found = os.lstat(self._files[name])
                assert (found.st_size, found.st_mtime_ns) == entry
        run("COMMIT")

    def _write(self, at: str, contents: Mapping[str, bytes]) -> None:
        batch_id = f"batch-{uuid.UUID(int=time.time_ns())}"
        mtime_ns = time.time_ns() // 1000 * 1000
        run, run_many = self._connection.execute, self._connection.executemany
        rows = [
            (
                name,
                f"receipt-{uuid.UUID(int=time.time_ns() * 64 + position)}",
                self._files[name].name,
                "sha256:" + hashlib.sha256(content).hexdigest(),
                len(content),
                mtime_ns,
            )
            for position, (name, content) in enumerate(contents.items())
        ]
        run("PRAGMA synchronous = FULL")
        run("BEGIN IMMEDIATE")
        number = run(_INSERT_BATCH, (batch_id, REASON, TEAM, *_IDENTITY, at)).lastrowid
        run_many(_INSERT_WRITE, [(number, at, position, *row) for position, row in enumerate(rows)])
        run_many(
            _INSERT_CONTENT,
            [(name, number, content.decode()) for name, content in contents.items()],
        )
        run("UPDATE runtime_manifest SET last_preparing_batch_id = ?", (batch_id,))
        run("COMMIT")
        for name, content in contents.items():
            replace(self._files[name], content, mtime_ns=mtime_ns, flush=False)
        run("PRAGMA synchronous = NORMAL")
        run("BEGIN IMMEDIATE")
        run_many(_UPSERT_ENTRY, [(number, *_IDENTITY, *row) for row in rows])
        run(_SEAL_MANIFEST, (*_IDENTITY, batch_id, at))
        run(_SEAL_BATCH, (at, number))
        if self._careful and number is not None:
            run_many(_DROP_CONTENTS, [(name, number - KEPT_CONTENTS) for name in contents])
            if number > KEPT_BATCHES:
                run(_DROP_BATCHES, (number - KEPT_BATCHES,))
        run("COMMIT")


def replace(path: Path, content: bytes, *, mtime_ns: int | None, flush: bool) -> None:
    """Write a file anew beside itself and rename it into place."""
    temporary = f"{path}.tmp"
    descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, content)
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


class FlushedFiles:
    """k times (write, fsync, rename) of bytes that are ready, and no database at all."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Replace the files."""
        for name, content in contents.items():
            replace(self._directory / f"{name}.json", content, mtime_ns=None, flush=True)


@dataclass(frozen=True)
class Codec:
    """How a document is parsed and encoded."""

    parse: Callable[[bytes], Any]
    encode: Encode


PLAIN_CODEC = Codec(json.loads, dumps)
FAST_CODEC = Codec(pydantic_core.from_json, fast_dumps)


class FlushedDocument:
    """A document in a file: read, parsed, changed, encoded, hashed, and written with one flush."""

    def __init__(self, path: Path, document: Any, codec: Codec) -> None:
        self._path = path
        self._codec = codec
        self.hash = ""
        replace(path, codec.encode(document), mtime_ns=None, flush=True)

    def update(self, change: Callable[[Any], Any]) -> None:
        """Change the document."""
        with open(self._path, "rb") as file:
            content = self._codec.encode(change(self._codec.parse(file.read())))
        self.hash = hashlib.sha256(content).hexdigest()
        replace(self._path, content, mtime_ns=None, flush=True)


class FullCommit:
    """One SQLite commit of bytes that are ready, at `synchronous=FULL`, and nothing else."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._connection = sqlite3.connect(directory / "commit.sqlite3", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE contents (name TEXT, content TEXT)")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Insert the contents in one transaction."""
        rows = [(name, content.decode()) for name, content in contents.items()]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO contents VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")


_IDENTITY = (IDENTITY.run_id, IDENTITY.capability_snapshot_id, IDENTITY.behavior_fingerprint)
_OPEN_BATCHES = "SELECT * FROM write_batches WHERE state IN ('preparing', 'committing')"
_ENTRY = "SELECT file_size, mtime_ns FROM manifest_entries WHERE schema_name = ?"
_CURRENT = (
    "SELECT content FROM store_contents JOIN manifest_entries USING (schema_name, batch_number)"
    " WHERE schema_name = ?"
)
_INSERT_BATCH = (
    "INSERT INTO write_batches (batch_id, state, reason, team_name, run_id,"
    " capability_snapshot_id, behavior_fingerprint, started_at, origin)"
    " VALUES (?, 'preparing', ?, ?, ?, ?, ?, ?, 'written')"
)
_INSERT_WRITE = (
    "INSERT INTO batch_writes (batch_number, written_at, position, schema_name, receipt_id,"
    " relative_path, content_hash, file_size, mtime_ns, schema_version)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
)
_INSERT_CONTENT = "INSERT INTO store_contents (schema_name, batch_number, content) VALUES (?, ?, ?)"
_UPSERT_ENTRY = (
    "INSERT INTO manifest_entries (batch_number, run_id, capability_snapshot_id,"
    " behavior_fingerprint, schema_name, schema_version, last_write_receipt_id, relative_path,"
    " content_hash, file_size, mtime_ns, state)"
    " VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, 'healthy')"
    " ON CONFLICT (schema_name) DO UPDATE SET batch_number = excluded.batch_number,"
    " run_id = excluded.run_id, capability_snapshot_id = excluded.capability_snapshot_id,"
    " behavior_fingerprint = excluded.behavior_fingerprint,"
    " last_write_receipt_id = excluded.last_write_receipt_id,"
    " content_hash = excluded.content_hash, file_size = excluded.file_size,"
    " mtime_ns = excluded.mtime_ns"
)
_SEAL_MANIFEST = (
    "UPDATE runtime_manifest SET active_run_id = ?, active_capability_snapshot_id = ?,"
    " active_behavior_fingerprint = ?, high_watermark = high_watermark + 1,"
    " last_committed_batch_id = ?, last_preparing_batch_id = NULL, updated_at = ?"
)
_SEAL_BATCH = (
    "UPDATE write_batches SET state = 'committed', completed_at = ?,"
    " high_watermark = (SELECT high_watermark FROM runtime_manifest) WHERE batch_number = ?"
)
_DROP_CONTENTS = "DELETE FROM store_contents WHERE schema_name = ? AND batch_number <= ?"
_DROP_BATCHES = (
    "DELETE FROM write_batches WHERE batch_number <= ? AND batch_number NOT IN"
    " (SELECT batch_number FROM manifest_entries)"
)


# --- reading ------------------------------------------------------------------------------------


def read_and_parse(paths: Iterable[Path]) -> list[Any]:
    """Read files and parse them."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(json.loads(file.read())["data"])
    return found


def read_and_hash(paths: Iterable[Path]) -> list[str]:
    """Read files and hash them."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(hashlib.sha256(file.read()).hexdigest())
    return found


def make_plain(database: Path) -> None:
    """Make a database of one table, in WAL mode."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchone()
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    connection.close()


def open_and_commit(database: Path) -> None:
    """Open a database, commit one row with a flush, close it."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO numbers VALUES (1)")
        connection.execute("COMMIT")
    finally:
        connection.close()


def open_and_query(database: Path) -> int:
    """Open a database, ask it one thing, close it."""
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT high_watermark FROM runtime_manifest").fetchone()[0])
    finally:
        connection.close()


# --- importing ----------------------------------------------------------------------------------

IMPORT_FLOOR = "import sqlalchemy, pydantic"

IMPORT_IN_USE_FLOOR = """
import pydantic
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, select

class Model(pydantic.BaseModel):
    number: int

table = Table("numbers", MetaData(), Column("number", Integer))
engine = create_engine("sqlite://")
table.metadata.create_all(engine)
with engine.connect() as connection:
    rows = connection.execute(select(table)).mappings()
    found = [Model.model_validate(row) for row in rows]
"""
"""Both libraries load much of themselves when they are first used, not when they are imported."""


def import_command(code: str, *arguments: object) -> list[str]:
    """A Python of its own that runs some code and says how many seconds it took."""
    timed = f"import time\nstart = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    return [sys.executable, "-c", timed, *map(str, arguments)]
