"""Opening, planning, reading and writing cost the same however long the history is.

The statements are those that really run: the trace of every connection that the library opens. Two
things are held against them. SQLite's own plan must not go through a table that grows from end to
end, nor build an index for the occasion. And the steps of SQLite's machine are counted: a search
that is no scan can still walk far.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    BatchFailedError,
    BatchUnfinishedError,
    Retention,
    RuntimeStore,
    StoreFileChangedError,
)
from rtstore.control.contents import KEEP_EVERYTHING
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.files.quarantine import QUARANTINE_DIRECTORY
from tests.benchmarks import history
from tests.benchmarks.documents import IDENTITY, REASON, TEAM, Documents
from tests.support import DIAGNOSTICS, LEASES, LEDGER, Crash, WatchedFileSystem, at, options_of
from tests.support.query_trace import GROWING, Trace, scans, traced

SHORT, LONG = 400, 8_000
"""How many batches, quarantined files and recoveries the histories have."""

AT = "2026-04-21T12:00:00.000Z"


def open_store(directory: Path, **options: Any) -> RuntimeStore:
    """Open a store of the test; whatever it keeps, it keeps everything unless it is told."""
    defaults = {"team_name": TEAM, "retention": KEEP_EVERYTHING}
    return RuntimeStore.open(directory, **options_of(**{**defaults, **options}))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime directory with a short history; to be copied."""
    return past(tmp_path_factory.mktemp("short") / "runtime", SHORT)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a history that is twenty times as long."""
    return past(tmp_path_factory.mktemp("long") / "runtime", LONG)


def past(directory: Path, length: int) -> Path:
    """Make a runtime directory with that many batches, quarantined files and recoveries."""
    history.build(directory, KNOWN_DESCRIPTORS, length, Documents(200).known())
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for number in range(1, length + 1):
            connection.execute(
                "INSERT INTO quarantined_files (relative_path, quarantine_path, reason,"
                " quarantined_at) VALUES ('a.json', ?, 'changed', ?)",
                (f"quarantine/{number}", AT),
            )
            connection.execute(
                "INSERT INTO recovery_runs (run_number, plan_id, started_by, high_watermark,"
                " readiness_impact, started_at, completed_at, remaining_impact)"
                " VALUES (?, ?, 'open', 1, 'blocked', ?, ?, 'none')",
                (number, f"plan-{number}", AT, AT),
            )
            connection.execute(
                "INSERT INTO recovery_actions (run_number, position, kind, schema_name)"
                " VALUES (?, 0, 'quarantine', 'a.store')",
                (number,),
            )
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return directory


# --- what is done -------------------------------------------------------------------------------


def data(revision: int) -> dict[str, int]:
    """Data that the stores used here accept."""
    return {"revision": revision}


def write(store: RuntimeStore, *names: str, revision: int = 1, **options: Any) -> str:
    """Write a batch; return its id."""
    return store.write_batch(
        identity=IDENTITY,
        reason=REASON,
        writes={name: data(revision) for name in names},
        **options,
    ).batch_id


def change_by_hand(store: RuntimeStore, name: str, text: str = '{"schemaVersion": 1}') -> None:
    """Change a store file as another program would."""
    path = store.directory / store.descriptors.get(name).relative_path
    path.write_text(text, encoding="utf-8")


def open_it(directory: Path) -> None:
    """Open and close."""
    open_store(directory).close()


def write_it(directory: Path) -> None:
    """Write, once more under the same id, and with a watermark expected."""
    with open_store(directory) as store:
        batch_id = write(store, LEASES, LEDGER)
        assert write(store, LEASES, LEDGER, batch_id=batch_id) == batch_id
        watermark = store.manifest().high_watermark
        write(store, LEASES, expected_high_watermark=watermark, batch_id="a-new-one")


def update_it(directory: Path) -> None:
    """Read, change, write."""
    with open_store(directory) as store:
        store.update(LEASES, lambda _: data(2), identity=IDENTITY, reason=REASON)


def read_it(directory: Path) -> None:
    """Read one store, all stores, the manifest, a batch."""
    with open_store(directory) as store:
        found = store.read(LEASES)
        store.read(LEASES, verify=False)
        store.snapshot()
        store.manifest()
        assert store.batch(found.batch_id) is not None


def plan_it(directory: Path) -> None:
    """Plan, and check the readiness."""
    with open_store(directory) as store:
        store.plan_recovery(expected=IDENTITY)
        assert store.check_readiness(expected=IDENTITY).ok


def read_only(directory: Path) -> None:
    """Look without changing anything."""
    with open_store(directory, read_only=True) as store:
        store.read(LEASES)
        store.plan_recovery()


def write_and_drop(directory: Path) -> None:
    """Write with a small retention: history is dropped on the way, by number and by age."""
    retention = Retention(batches=10, contents_per_store=2, max_age=timedelta(seconds=30))
    with open_store(directory, retention=retention) as store:
        for revision in range(3):
            write(store, LEASES, DIAGNOSTICS, revision=revision)


def write_and_weigh(directory: Path) -> None:
    """Write with a retention in bytes alone: what was kept for ever is added up on the way."""
    retention = Retention(batches=None, contents_per_store=None, content_bytes=2 << 20)
    with open_store(directory, retention=retention) as store:
        write(store, LEASES, DIAGNOSTICS)


def write_and_thin(directory: Path) -> None:
    """Write with a history that is thinned: what was kept for ever is looked through on the way."""
    retention = Retention(batches=10, contents_per_store=2, content_bytes=None, thin_by_age=True)
    with open_store(directory, retention=retention) as store:
        write(store, LEASES, DIAGNOSTICS)


def recover_a_missing_file(directory: Path) -> None:
    """Plan and recover; the committed content is put back."""
    with open_store(directory) as store:
        (directory / store.descriptors.get(DIAGNOSTICS).relative_path).unlink()
        assert store.recover(store.plan_recovery()).remaining.manifest_healthy


def recover_what_was_changed(directory: Path) -> None:
    """A broken and a changed file: read, planned, recovered."""
    with open_store(directory) as store:
        change_by_hand(store, LEASES, "no JSON")
        change_by_hand(store, LEDGER)
        with pytest.raises(StoreFileChangedError):
            store.read(LEDGER)
        assert store.recover(store.plan_recovery()).remaining.manifest_healthy
        assert len(list((directory / QUARANTINE_DIRECTORY).iterdir())) == 2


def adopt_a_change(directory: Path) -> None:
    """Make a changed file the truth."""
    with open_store(directory) as store:
        change_by_hand(store, LEDGER, '{"schemaVersion": 1, "updatedAt": null, "data": {"a": 1}}')
        store.adopt(LEDGER)


def mark_restored(directory: Path) -> None:
    """Put a quarantined file back where it was."""
    overwrite_a_change(directory)
    with open_store(directory) as store:
        store.restore_quarantined(last_quarantined(store))


def last_quarantined(store: RuntimeStore) -> int:
    """The number of the file quarantined last, by a query of the test's own."""
    with closing(sqlite3.connect(store.directory / DATABASE_NAME)) as connection:
        row = connection.execute("SELECT max(quarantine_number) FROM quarantined_files")
        return int(row.fetchone()[0])


def overwrite_a_change(directory: Path) -> None:
    """Write over a file that somebody else changed: it is quarantined first."""
    with open_store(directory) as store:
        change_by_hand(store, LEASES)
        write(store, LEASES)
        assert (directory / QUARANTINE_DIRECTORY).is_dir()


def fail_to_publish(directory: Path) -> None:
    """Fail, and put back what was published."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        fs.judge = at("rename", directory / "opencode-diagnostics.json", OSError(13, "refused"))
        with pytest.raises(BatchFailedError):
            write(store, LEASES, DIAGNOSTICS, revision=7)


def crash(directory: Path) -> None:
    """Die between two renames."""
    fs = WatchedFileSystem()
    with open_store(directory, fs=fs) as store:
        fs.judge = at("rename", directory / "opencode-diagnostics.json", Crash())
        with suppress(Crash):
            write(store, LEASES, DIAGNOSTICS, revision=8)


def open_after_a_crash(directory: Path) -> None:
    """Open, which finishes what a dead writer began."""
    crash(directory)
    with open_store(directory, recover=False) as store:
        store.plan_recovery()
        with pytest.raises(BatchUnfinishedError):
            store.read(LEASES)
    with open_store(directory) as store:
        assert store.last_recovery is not None


def write_after_a_crash(directory: Path) -> None:
    """Write, which finishes it too."""
    crash(directory)
    with open_store(directory, recover=False) as store:
        write(store, LEDGER)


WORK: dict[str, Callable[[Path], None]] = {
    work.__name__: work
    for work in (
        open_it,
        write_it,
        update_it,
        read_it,
        plan_it,
        read_only,
        write_and_drop,
        write_and_weigh,
        write_and_thin,
        recover_a_missing_file,
        recover_what_was_changed,
        adopt_a_change,
        overwrite_a_change,
        mark_restored,
        fail_to_publish,
        open_after_a_crash,
        write_after_a_crash,
    )
}


# --- the tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORK)
def test_no_statement_goes_through_a_growing_table(
    name: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In SQLite's plan of every statement, each growing table is searched through an index."""
    directory = Path(shutil.copytree(short, tmp_path / "runtime"))
    with traced(monkeypatch) as trace:
        WORK[name](directory)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        found = {sql: steps for sql in trace.explained() if (steps := scans(connection, sql))}
    assert found == {}


def test_the_statements_that_run_are_seen(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is not vacuous: the trace shows statements of every kind for every growing
    table, and those that drop history."""
    seen = set()
    with traced(monkeypatch) as trace:
        for name, work in WORK.items():
            work(Path(shutil.copytree(short, tmp_path / name)))
    for sql in trace.explained():
        verb = sql.split(None, 1)[0].upper()
        seen |= {(verb, table) for table in GROWING if re.search(rf"\b{table}\b", sql)}
    assert {("INSERT", table) for table in GROWING} <= seen
    assert {table for verb, table in seen if verb == "SELECT"} >= {
        "write_batches", "batch_writes", "store_contents", "quarantined_files", "recovery_runs",
    }  # fmt: skip
    assert {("DELETE", "write_batches"), ("DELETE", "store_contents")} <= seen
    choosing = [sql for sql in trace.explained() if "batch_number <= " in sql]
    assert [sql for sql in choosing if "completed_at" in sql]  # by number, and by age
    assert {("UPDATE", "write_batches"), ("UPDATE", "recovery_actions")} <= seen


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT * FROM batch_writes WHERE content_hash = 'x'", 1),
        ("SELECT * FROM batch_writes AS b WHERE b.content_hash = 'x'", 1),
        ("SELECT * FROM write_batches WHERE reason = 'recovery'", 1),
        ("SELECT * FROM write_batches WHERE state = 'failed'", 0),
        ("SELECT count(*) FROM store_contents", 1),
        ("SELECT 1 FROM manifest_entries WHERE 1 IN (SELECT batch_number FROM store_contents)", 1),
        ("SELECT 1 FROM recovery_runs AS r JOIN recovery_actions AS a ON a.kind = r.plan_id", 2),
        ("DELETE FROM write_batches WHERE started_at < 'x'", 1),
        ("UPDATE recovery_runs SET plan_id = 'x' WHERE plan_id = 'y'", 1),
        ("SELECT * FROM write_batches WHERE batch_id = 'x'", 0),
        ("SELECT max(batch_number) FROM write_batches", 0),
        ("SELECT * FROM write_batches WHERE state IN ('preparing', 'committing')", 0),
        ("SELECT * FROM manifest_entries", 0),
    ],
)
def test_the_checker_sees_a_scan(short: Path, sql: str, found: int) -> None:
    """Steps that are known to go through a growing table are flagged, an index that is made for
    the occasion too; searches, short indexes and small tables are not."""
    with closing(
        sqlite3.connect(f"{(short / DATABASE_NAME).as_uri()}?mode=ro", uri=True)
    ) as connection:
        assert len(scans(connection, sql)) == found


def test_dropping_a_row_finds_what_refers_to_it_through_an_index(short: Path) -> None:
    """SQLite looks for the rows that refer to one that is dropped; no plan shows it. The columns of
    every foreign key of a growing table begin an index."""
    checked = set()
    with closing(
        sqlite3.connect(f"{(short / DATABASE_NAME).as_uri()}?mode=ro", uri=True)
    ) as connection:
        for table in GROWING | {"manifest_entries"}:
            keys: dict[int, list[str]] = {}
            for number, _, _, column, *_ in connection.execute(f"PRAGMA foreign_key_list({table})"):
                keys.setdefault(number, []).append(column)
            for columns in keys.values():
                where = " AND ".join(f"{column} = 1" for column in columns)
                plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {where}")
                assert [step[3] for step in plan if not step[3].startswith("SEARCH")] == []
                checked.add(table)
    assert checked == {"batch_writes", "store_contents", "manifest_entries", "recovery_actions"}


@pytest.mark.parametrize("name", WORK)
def test_the_work_does_not_grow_with_the_history(
    name: str, short: Path, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes about as many steps with a history that is twenty times as long."""
    steps = {}
    for origin in (short, long):
        directory = Path(shutil.copytree(origin, tmp_path / origin.parent.name))
        with traced(monkeypatch) as trace:
            WORK[name](directory)
        steps[origin] = trace.steps
    assert steps[short] > 100
    assert steps[long] <= 1.1 * steps[short] + 100


def test_the_steps_of_a_scan_are_counted(short: Path, long: Path) -> None:
    """The count above sees what no plan shows: a search that walks through a whole history."""
    steps = []
    for origin in (short, long):
        trace = Trace()
        with closing(
            sqlite3.connect(f"{(origin / DATABASE_NAME).as_uri()}?mode=ro", uri=True)
        ) as one:
            sql = "SELECT count(*) FROM batch_writes WHERE schema_name = ? AND relative_path = 'x'"
            trace.watch(one).execute(sql, (LEASES,)).fetchall()
            assert scans(one, sql.replace("?", "'x'")) == []
        steps.append(trace.steps)
    assert steps[1] > 5 * steps[0]


# --- what people ask the views ------------------------------------------------------------------

QUESTIONS = (
    ("batch_log", "batch_id"),
    ("batch_log", "run_id"),
    ("store_history", "store"),
    ("store_history", "batch_id"),
    ("store_history", "run_id"),
    ("store_changes", "store"),
    ("store_changes", "batch_id"),
    ("store_changes", "run_id"),
    ("write_receipts", "schema_name"),
    ("write_receipts", "batch_id"),
    ("write_receipts", "run_id"),
    ("run_log", "run_id"),
    ("current_stores", "store"),
)
"""A view, and what it is asked for: one store, one batch or one run."""
ORDER = {"store_history": "batch_number", "store_changes": "batch_number"}
"""The column by which the rows of a view come in order."""


def looked_at(directory: Path, view: str, column: str) -> tuple[list[str], int, int]:
    """The scans in the plan of a question about one thing in the middle of a history, its rows, and
    its steps."""
    trace = Trace()
    uri = f"{(directory / DATABASE_NAME).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (texts,) = connection.execute(
            "SELECT group_concat(sql) FROM sqlite_schema WHERE name IN (?, 'write_receipts')",
            (view,),
        ).fetchone()
        asked_for = connection.execute(
            "SELECT batch_id, run_id, schema_name, schema_name"
            " FROM write_batches JOIN batch_writes USING (batch_number) WHERE batch_number = ?",
            (SHORT // 2,),
        ).fetchone()
        names = ("batch_id", "run_id", "schema_name", "store")
        value = dict(zip(names, asked_for, strict=True))
        sql = f"SELECT * FROM {view} WHERE {column} = ? LIMIT 5"
        found = scans(connection, sql, (value[column],), aliases_in=texts)
        rows = trace.watch(connection).execute(sql, (value[column],))
        place = [name for name, *_ in rows.description].index(ORDER.get(view, column))
        numbers = [row[place] for row in rows]
        assert view not in ORDER or numbers == sorted(numbers)
    return found, len(numbers), trace.steps


@pytest.mark.parametrize(("view", "column"), QUESTIONS)
def test_a_view_looks_only_at_what_it_is_asked_for(
    view: str, column: str, short: Path, long: Path
) -> None:
    """Asked for one store, one batch or one run, each growing table is searched through an index,
    and the steps do not grow with the history; a run that all of it is of is counted, though."""
    found, rows, steps = looked_at(short, view, column)
    assert found == []
    assert rows >= 1
    if view != "run_log":
        assert looked_at(long, view, column)[2] <= 1.1 * steps + 100


@pytest.mark.parametrize("view", ["store_history", "store_changes"])
def test_the_newest_of_a_store_are_found_first(view: str, short: Path, long: Path) -> None:
    """So are they without a filter; nothing is compared or sorted that is not shown."""
    for where in ("WHERE store = 'opencode.hostLeases'", ""):
        steps = []
        for directory in (short, long):
            trace = Trace()
            with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
                rows = trace.watch(connection).execute(
                    f"SELECT * FROM {view} {where} ORDER BY batch_number DESC LIMIT 3"
                )
                assert len(rows.fetchall()) == 3
            steps.append(trace.steps)
        assert steps[1] <= 1.1 * steps[0] + 100


def test_versions_are_counted_without_reading_them(short: Path) -> None:
    """A content that no column asks for is not parsed: counting takes a few steps a version."""
    trace = Trace()
    with closing(sqlite3.connect(short / DATABASE_NAME)) as connection:
        query = "SELECT count(*) FROM store_history WHERE store = 'opencode.hostLeases'"
        ((number,),) = trace.watch(connection).execute(query).fetchall()
    assert number >= SHORT // len(KNOWN_DESCRIPTORS)
    assert trace.steps < 40 * number
