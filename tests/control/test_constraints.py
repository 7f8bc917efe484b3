"""The rules that the database itself keeps, whoever writes to it."""

from __future__ import annotations

import re
import sqlite3
from enum import StrEnum
from itertools import product

import pytest
from sqlalchemy import (
    Column,
    Integer,
)

from rtstore.control.schema import metadata
from rtstore.model.records import (
    BATCH_TRANSITIONS,
    ActionKind,
    ActionOutcome,
    BatchOrigin,
    BatchState,
    Criticality,
    InspectionState,
    ReadinessImpact,
    RecoveryTrigger,
)
from rtstore.model.runs import RunEnding, RunState
from rtstore.model.words import is_word
from tests.control.build import HASH, INSERT_BATCH, INSERT_CONTENT, INSERT_ENTRY, INSERT_WRITE, TIME

ENUMS: dict[tuple[str, str], type[StrEnum]] = {
    ("manifest_entries", "state"): InspectionState,
    ("recovery_actions", "kind"): ActionKind,
    ("recovery_actions", "outcome"): ActionOutcome,
    ("recovery_runs", "readiness_impact"): ReadinessImpact,
    ("recovery_runs", "remaining_impact"): ReadinessImpact,
    ("recovery_runs", "started_by"): RecoveryTrigger,
    ("runs", "ending"): RunEnding,
    ("runs", "state"): RunState,
    ("store_descriptors", "criticality"): Criticality,
    ("write_batches", "origin"): BatchOrigin,
    ("write_batches", "state"): BatchState,
}
"""The columns that hold one of an enum's values."""

COLUMNS = [(table.name, column) for table in metadata.sorted_tables for column in table.columns]


def drop_triggers(connection: sqlite3.Connection) -> None:
    """Drop what refuses a change before the constraint of its column does."""
    for name in ("write_batches_state_is_final", "runs_state_is_final", "runs_keep_their_id"):
        connection.execute(f"DROP TRIGGER {name}")


@pytest.mark.parametrize(("table", "column"), ENUMS)
def test_enum_columns_hold_the_values_of_the_enum(
    populated: sqlite3.Connection, table: str, column: str
) -> None:
    """The CHECK of an enum's column lists exactly the values of the enum, in their order."""
    sql = populated.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    found = re.search(rf"CONSTRAINT ck_{table}_{column}\s+CHECK \({column} IN \(([^)]*)\)\)", sql)
    assert found
    assert re.findall(r"'([^']*)'", found[1]) == [value.value for value in ENUMS[table, column]]


def test_no_enum_column_is_forgotten(populated: sqlite3.Connection) -> None:
    """Every CHECK that lists words is one of those above."""
    rows = populated.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    found = {
        (name, column)
        for name, sql in rows
        for column in re.findall(r"CHECK \((\w+) IN \(\s*'", sql)
    }
    assert found == set(ENUMS)


@pytest.mark.parametrize(("table", "column"), ENUMS)
def test_enum_columns_refuse_other_values(
    populated: sqlite3.Connection, table: str, column: str
) -> None:
    """A word that is not one of the enum's is refused, by the constraint of that column."""
    drop_triggers(populated)
    for value in ("", "unheard_of", next(iter(ENUMS[table, column])).value.upper()):
        with pytest.raises(sqlite3.IntegrityError, match=f"ck_{table}_{column}"):
            populated.execute(f"UPDATE {table} SET {column} = ?", (value,))


WORDS = [
    ("store_descriptors", "owner"),
    ("store_descriptors", "rebuild_strategy"),
    ("write_batches", "reason"),
]
"""The columns that hold a word of the runtime's own."""
NO_WORDS = ["", " a", "a b", "A", "aB", "9a", "_a", "a-b", "é", "aé", "a\n", "a\0b", "\0", "a" * 65]


@pytest.mark.parametrize(("table", "column"), WORDS)
def test_word_columns_hold_words_alone(
    populated: sqlite3.Connection, table: str, column: str
) -> None:
    """A word of the runtime's own is taken as it is, and nothing of another form: as the library
    judges it."""
    for value in ("a", "a9_", "stop_tombstone", "a" * 64):
        assert is_word(value)
        populated.execute(f"UPDATE {table} SET {column} = ?", (value,))
    for value in NO_WORDS:
        assert not is_word(value)
        with pytest.raises(sqlite3.IntegrityError, match=f"ck_{table}_{column}"):
            populated.execute(f"UPDATE {table} SET {column} = ?", (value,))


TIMES = [(table, column.name) for table, column in COLUMNS if column.name.endswith("_at")]
HASHES = [(table, column.name) for table, column in COLUMNS if column.name.endswith("_hash")]

BAD_TIMES = [
    "", "2026-04-21", "2026-04-21 12:00:00.000Z", "2026-04-21T12:00:00Z", "2026-04-21T12:00:00.000",
    "2026-04-21T12:00:00.000+00:00", "2026-04-21T12:00:00.000000Z", "2026-04-21T12:00:00.000z",
    "26-04-21T12:00:00.000Z", " 2026-04-21T12:00:00.000Z", "1776772800",
]  # fmt: skip
BAD_HASHES = ["", "0" * 64, HASH.upper(), HASH[:-1], HASH + "0", "md5:" + "0" * 67, " " + HASH]


def test_there_are_times_and_hashes() -> None:
    """The columns below are found by their names; so many there are at least."""
    assert len(TIMES) >= 10
    assert len(HASHES) >= 4


@pytest.mark.parametrize(("table", "column"), TIMES)
def test_time_columns_refuse_other_forms(
    populated: sqlite3.Connection, table: str, column: str
) -> None:
    """A time has 24 characters, is in UTC and says so; everything else is refused."""
    for value in BAD_TIMES:
        with pytest.raises(sqlite3.IntegrityError, match=f"ck_{table}_{column}"):
            populated.execute(f"UPDATE {table} SET {column} = ?", (value,))


@pytest.mark.parametrize(("table", "column"), HASHES)
def test_hash_columns_refuse_other_forms(
    populated: sqlite3.Connection, table: str, column: str
) -> None:
    """A hash is `sha256:` and 64 digits; everything else is refused."""
    for value in BAD_HASHES:
        with pytest.raises(sqlite3.IntegrityError, match=f"ck_{table}_{column}"):
            populated.execute(f"UPDATE {table} SET {column} = ?", (value,))


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, column in COLUMNS], ids=str
)
def test_columns_refuse_other_types(
    populated: sqlite3.Connection, table: str, column: Column[object]
) -> None:
    """STRICT: a number is a number and a text a text, in every column."""
    is_number = isinstance(column.type, Integer)
    wrong, kind = ("twelve", "TEXT") if is_number else (b"\x00", "BLOB")
    drop_triggers(populated)
    message = f"cannot store {kind} value in|datatype mismatch"
    with pytest.raises(sqlite3.Error, match=message):
        populated.execute(f"UPDATE {table} SET {column.name} = ?", (wrong,))


@pytest.mark.parametrize(("before", "after"), list(product(BatchState, BatchState)), ids=str)
def test_transitions_of_a_batch(
    populated: sqlite3.Connection, before: BatchState, after: BatchState
) -> None:
    """The database lets a batch go where `BATCH_TRANSITIONS` lets it, and nowhere else, whoever
    changes the row."""
    completed = {BatchState.COMMITTED: TIME, BatchState.FAILED: TIME}
    watermark = 3 if before is BatchState.COMMITTED else None
    populated.execute(INSERT_BATCH, (9, "batch-9", before, watermark, completed.get(before)))
    change = "UPDATE write_batches SET state = ?, completed_at = ?, high_watermark = NULL"
    values = (after, completed.get(after))
    if after in BATCH_TRANSITIONS[before]:
        populated.execute(f"{change} WHERE batch_number = 9", values)
        expected = after
    else:
        with pytest.raises(sqlite3.IntegrityError, match="illegal transition"):
            populated.execute(f"{change} WHERE batch_number = 9", values)
        expected = before
    found = populated.execute("SELECT state FROM write_batches WHERE batch_number = 9").fetchone()
    assert found == (expected,)


_OVER = {RunState.ENDED, RunState.SUPERSEDED}


@pytest.mark.parametrize(("before", "after"), list(product(RunState, RunState)), ids=str)
def test_transitions_of_a_run(
    populated: sqlite3.Connection, before: RunState, after: RunState
) -> None:
    """A run begins, is active, and is over for ever, whoever changes the row."""
    columns = "ended_at, ending, superseded_by"

    def values(state: RunState) -> tuple[str | None, ...]:
        over = state in _OVER
        return (
            TIME if over else None,
            "finished" if state is RunState.ENDED else None,
            "run-1" if state is RunState.SUPERSEDED else None,
        )

    populated.execute(
        "UPDATE runs SET state = 'ended', ended_at = began_at, ending = 'stopped'"
        " WHERE state = 'active'"
    )
    insert = f"INSERT INTO runs (run_id, state, began_at, {columns}) VALUES ('r', ?, ?, ?, ?, ?)"
    populated.execute(insert, (before, TIME, *values(before)))
    change = f"UPDATE runs SET state = ?, ({columns}) = (?, ?, ?) WHERE run_id = 'r'"
    legal = {(RunState.BEGINNING, RunState.ACTIVE)} | {(RunState.ACTIVE, state) for state in _OVER}
    if (before, after) in legal:
        populated.execute(change, (after, *values(after)))
        return
    with pytest.raises(sqlite3.IntegrityError, match="illegal transition of a run state"):
        populated.execute(change, (after, *values(after)))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM runs WHERE run_id = 'run-0'", "a run is not deleted"),
        ("DELETE FROM runs WHERE run_id = 'run-1'", "a run is not deleted"),
        ("UPDATE runs SET run_id = 'other' WHERE run_id = 'run-0'", "a run keeps its id"),
        (f"INSERT INTO runs (run_id, state, began_at) VALUES ('r', 'active', '{TIME}')", "UNIQUE"),
        (
            f"INSERT INTO runs (run_id, state, began_at) VALUES ('run-0', 'beginning', '{TIME}')",
            "UNIQUE",
        ),
    ],
)
def test_one_run_is_active_and_ids_stay(
    populated: sqlite3.Connection, statement: str, message: str
) -> None:
    """The database keeps every run id, and has one active run at most."""
    with pytest.raises(sqlite3.IntegrityError, match=message):
        populated.execute(statement)


INCONSISTENT = [
    ("preparing", None, TIME, "ck_write_batches_completed"),
    ("committing", None, TIME, "ck_write_batches_completed"),
    ("committed", 3, None, "ck_write_batches_completed"),
    ("preparing", 3, None, "ck_write_batches_high_watermark"),
    ("failed", 3, TIME, "ck_write_batches_high_watermark"),
]


@pytest.mark.parametrize(("state", "watermark", "completed", "constraint"), INCONSISTENT)
def test_a_batch_is_of_a_piece(
    populated: sqlite3.Connection,
    state: str,
    watermark: int | None,
    completed: str | None,
    constraint: str,
) -> None:
    """Only a committed batch has a high watermark; it has a time of completion, an open one not."""
    with pytest.raises(sqlite3.IntegrityError, match=constraint):
        populated.execute(INSERT_BATCH, (9, "batch-9", state, watermark, completed))


INSERT_ACTION = (
    "INSERT INTO recovery_actions (run_number, position, kind, schema_name)"
    " VALUES (?, 0, 'quarantine', 'a.store')"
)
ORPHANS = [
    (INSERT_WRITE, (99, "a.store", "receipt-99", "a.json")),
    (INSERT_CONTENT, (1, "c.store", "{}")),
    (INSERT_CONTENT, (99, "a.store", "{}")),
    (INSERT_ENTRY, (99, "c.store", "c.json", "receipt-99")),
    (INSERT_ACTION, (99,)),
]


@pytest.mark.parametrize(("statement", "values"), ORPHANS, ids=range(len(ORPHANS)))
def test_rows_refer_to_rows_that_are_there(
    populated: sqlite3.Connection, statement: str, values: tuple[object, ...]
) -> None:
    """A row that refers to one that is not there is refused."""
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY constraint failed"):
        populated.execute(statement, values)


IN_USE = [
    ("write_batches WHERE batch_number = 2", "the batch of a current entry"),
    ("write_batches WHERE batch_number = 1", "the batch of a current entry"),
    ("write_batches WHERE batch_number = 3", "or an open batch"),
    ("batch_writes WHERE batch_number = 2", "the content of a current entry"),
    ("batch_writes WHERE batch_number = 3", "or of an open batch"),
    ("batch_writes WHERE batch_number = 1", "FOREIGN KEY constraint failed"),  # has no content
    ("store_contents WHERE batch_number = 2", "the content of a current entry"),
    ("store_contents WHERE batch_number = 3", "or of an open batch"),
    ("store_contents", "the content of a current entry"),
    ("write_batches", "the batch of a current entry"),
]


@pytest.mark.parametrize(("rows", "message"), IN_USE)
@pytest.mark.parametrize("foreign_keys", ["ON", "OFF"])
def test_what_is_current_or_open_stays(
    populated: sqlite3.Connection, rows: str, message: str, foreign_keys: str
) -> None:
    """What is committed now and what an open batch is finished from cannot be deleted, however old:
    neither the contents nor the batch; not by a shell either, which checks no foreign keys."""
    populated.execute(f"PRAGMA foreign_keys = {foreign_keys}")
    if foreign_keys == "OFF" and "batch_writes" in rows:
        pytest.skip("only the cascade goes from there to the contents")
    counts = "SELECT (SELECT count(*) FROM write_batches), (SELECT count(*) FROM store_contents)"
    before = populated.execute(counts).fetchone()
    with pytest.raises(sqlite3.IntegrityError, match=message):
        populated.execute(f"DELETE FROM {rows}")
    assert populated.execute(counts).fetchone() == before


def test_what_is_neither_current_nor_open_goes(populated: sqlite3.Connection) -> None:
    """History is dropped as ever: the content of an older version, and that of a failed batch."""
    populated.execute("DELETE FROM store_contents WHERE batch_number IN (1, 4)")
    left = populated.execute("SELECT batch_number FROM store_contents ORDER BY 1").fetchall()
    assert left == [(2,), (3,)]


def test_a_file_is_known_whole_or_not_at_all(populated: sqlite3.Connection) -> None:
    """An entry has both inode and change time of its file, or neither."""
    populated.execute("UPDATE manifest_entries SET file_inode = 1, file_ctime_ns = 2")
    populated.execute("UPDATE manifest_entries SET file_inode = NULL, file_ctime_ns = NULL")
    for column in ("file_inode", "file_ctime_ns"):
        with pytest.raises(sqlite3.IntegrityError, match="ck_manifest_entries_file_identity"):
            populated.execute(f"UPDATE manifest_entries SET {column} = 1")


def test_what_a_batch_wrote_goes_with_it(populated: sqlite3.Connection) -> None:
    """Dropping a batch drops its writes and contents, and dropping a recovery its actions."""
    populated.execute("DELETE FROM write_batches WHERE batch_number = 4")
    populated.execute("DELETE FROM recovery_runs WHERE run_number = 1")
    for table, column, number in (
        ("batch_writes", "batch_number", 4),
        ("store_contents", "batch_number", 4),
        ("recovery_actions", "run_number", 1),
    ):
        query = f"SELECT count(*) FROM {table} WHERE {column} = ?"
        assert populated.execute(query, (number,)).fetchone() == (0,)


DUPLICATES = [
    (INSERT_BATCH, (9, "batch-1", "preparing", None, None), "write_batches.batch_id"),
    (INSERT_WRITE, (2, "b.store", "receipt-1", "b.json"), "batch_writes.receipt_id"),
    (INSERT_WRITE, (1, "a.store", "receipt-9", "a.json"), "batch_writes.schema_name"),
    (INSERT_ENTRY, (3, "a.store", "x.json", "receipt-3"), "manifest_entries.schema_name"),
]


@pytest.mark.parametrize(("statement", "values", "column"), DUPLICATES)
def test_ids_are_given_once(
    populated: sqlite3.Connection, statement: str, values: tuple[object, ...], column: str
) -> None:
    """No two batches have one id, no two writes one receipt, no store two entries."""
    with pytest.raises(sqlite3.IntegrityError, match=f"UNIQUE constraint failed.*{column}"):
        populated.execute(statement, values)


def test_the_manifest_has_one_row(populated: sqlite3.Connection) -> None:
    """There is one manifest, of one team with a name, and its watermark counts from 0."""
    another = (
        "INSERT INTO runtime_manifest (id, schema_version, team_name, high_watermark, updated_at)"
        " SELECT 2, schema_version, team_name, 0, updated_at FROM runtime_manifest"
    )
    for change, constraint in (
        (another, "one_row"),
        ("UPDATE runtime_manifest SET team_name = ''", "team_name"),
        ("UPDATE runtime_manifest SET high_watermark = -1", "high_watermark"),
    ):
        with pytest.raises(sqlite3.IntegrityError, match=f"ck_runtime_manifest_{constraint}"):
            populated.execute(change)
