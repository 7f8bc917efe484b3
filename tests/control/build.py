"""Control databases for the tests of `rtstore.control`, and small helpers to look at them."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from rtstore.control import manifest, revisions
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.files.system import FileSystem
from rtstore.model.descriptors import KNOWN_DESCRIPTORS

CHECKOUT = Path(__file__).parents[2]
RUN_S_MAX = 300
"""How long a script may take. It is for what would never end: on a busy machine, a new interpreter
alone takes half a minute to load the library."""

NOON = datetime(2026, 4, 21, 12, 0, tzinfo=UTC)
TIME = "2026-04-21T12:00:00.000Z"
HASH = "sha256:" + "0" * 64


def fill(connection: Connection) -> None:
    """The first rows of a control database."""
    manifest.insert_manifest(connection, manifest.default_manifest("team-a", NOON))
    manifest.save_descriptors(connection, KNOWN_DESCRIPTORS)


def make(directory: Path) -> Path:
    """A new control database in a directory, as `RuntimeStore.open` makes one."""
    directory.mkdir(exist_ok=True)
    path = directory / DATABASE_NAME
    revisions.create(path, FileSystem(), fill, lock=None)
    return path


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rtstore-control-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make(folder / "runtime")


def copied(directory: Path) -> Path:
    """The same, as a copy of one that was made once for all tests: the revisions take long."""
    return Path(shutil.copytree(_template().parent, directory)) / DATABASE_NAME


@contextmanager
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection as another program would have it, in autocommit mode, foreign keys on."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def batch_count(connection: Connection) -> int:
    """How many batches there are: a query for `Database.read`."""
    return int(connection.exec_driver_sql("SELECT count(*) FROM write_batches").scalar_one())


def add_batch(connection: Connection, number: int) -> None:
    """Insert a batch that is being prepared, through a connection of the library."""
    connection.exec_driver_sql(INSERT_BATCH, (number, f"batch-{number}", "preparing", None, None))


def write_one(database: Database, number: int = 1) -> None:
    """Write one batch."""
    with database.write(flush=True) as connection:
        add_batch(connection, number)


def run(script: str, *arguments: str | Path) -> str:
    """Run a script in a Python of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script, *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}: {done.stderr}"
    return done.stdout


INSERT_BATCH = (
    "INSERT INTO write_batches (batch_number, batch_id, state, high_watermark, completed_at,"
    " reason, team_name, run_id, started_at, origin)"
    f" VALUES (?, ?, ?, ?, ?, 'launch_checkpoint', 'team-a', 'run-1', '{TIME}', 'written')"
)
INSERT_WRITE = (
    "INSERT INTO batch_writes (batch_number, schema_name, position, receipt_id, schema_version,"
    " relative_path, content_hash, file_size, mtime_ns, written_at)"
    f" VALUES (?, ?, 0, ?, 1, ?, '{HASH}', 9, 0, '{TIME}')"
)
INSERT_DELETION = (
    "INSERT INTO batch_deletions (batch_number, schema_name, position, receipt_id, schema_version,"
    " relative_path, content_hash, deleted_at)"
    f" VALUES (?, ?, 1, ?, 1, ?, '{HASH}', '{TIME}')"
)
INSERT_CONTENT = "INSERT INTO store_contents (batch_number, schema_name, content) VALUES (?, ?, ?)"
INSERT_ENTRY = (
    "INSERT INTO manifest_entries (batch_number, schema_name, schema_version, relative_path,"
    " content_hash, file_size, mtime_ns, last_write_receipt_id, state)"
    f" VALUES (?, ?, 1, ?, '{HASH}', 9, 0, ?, 'healthy')"
)


def populate(connection: sqlite3.Connection) -> None:
    """Rows in every table: two committed batches, an open one, a failed one, an imported one; a
    deletion; a quarantined file; a recovery that ended and one that did not; an upgrade; two
    runs."""
    batches = [
        (1, "batch-1", "committed", 1, TIME),
        (2, "batch-2", "committed", 2, TIME),
        (3, "batch-3", "preparing", None, None),
        (4, "batch-4", "failed", None, TIME),
        (5, "batch-5", "preparing", None, None),
    ]
    connection.executemany(INSERT_BATCH, batches)
    for number in (1, 2, 3, 4):
        write = (number, "a.store", f"receipt-{number}", "a.json")
        connection.execute(INSERT_WRITE, write)
        connection.execute(
            INSERT_CONTENT, (number, "a.store", f'{{"data": {{"number": {number}}}}}')
        )
    connection.execute(INSERT_WRITE, (1, "b.store", "receipt-b", "b.json"))  # content is gone
    connection.execute(INSERT_DELETION, (2, "c.store", "receipt-c", "c.json"))
    connection.execute(INSERT_ENTRY, (2, "a.store", "a.json", "receipt-2"))
    connection.execute(INSERT_ENTRY, (1, "b.store", "b.json", "receipt-b"))
    connection.execute("UPDATE write_batches SET origin = 'imported' WHERE batch_number = 5")
    connection.execute("UPDATE write_batches SET last_error = 'disk full' WHERE batch_number = 4")
    connection.executemany(
        "INSERT INTO runs (run_id, state, began_at, host, pid, ended_at, superseded_by)"
        f" VALUES (?, ?, '{TIME}', 'host', 1, ?, ?)",
        [("run-0", "superseded", TIME, "run-1"), ("run-1", "active", None, None)],
    )
    connection.execute(
        "INSERT INTO quarantined_files (schema_name, relative_path, quarantine_path, reason,"
        " content_hash, file_size, quarantined_at)"
        " VALUES ('a.store', 'a.json', 'q/a.json', 'hash_mismatch', ?, 9, ?)",
        (HASH, TIME),
    )
    for number, completed in ((1, TIME), (2, None)):
        connection.execute(
            "INSERT INTO recovery_runs (run_number, plan_id, started_by, high_watermark,"
            " readiness_impact, started_at, completed_at, remaining_impact)"
            " VALUES (?, 'plan-1', 'open', 1, 'blocked', ?, ?, 'none')",
            (number, TIME, completed),
        )
    connection.execute(
        "INSERT INTO recovery_actions (run_number, position, kind, schema_name, outcome,"
        " completed_at) VALUES (1, 0, 'restore_committed', 'a.store', 'done', ?)",
        (TIME,),
    )
    connection.execute(
        "INSERT INTO database_upgrades (from_revision, to_revision, upgraded_at, backup_path)"
        " VALUES ('0000_first', '0001_second', ?, 'runtime-store.back-up.sqlite3')",
        (TIME,),
    )


def hashes(directory: Path) -> dict[str, str]:
    """Every file below a directory with the hash of its bytes. No database in it may be open in
    this process: closing a descriptor of it would drop SQLite's locks."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
