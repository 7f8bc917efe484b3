"""What one trial stands for: only what is the same to the library is left out."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import DATABASE_NAME
from rtstore.model.descriptors import LAUNCH_STATE
from tests.crash.client import FILES
from tests.crash.ledger import Broken, Foreign, Intent, Ledger, Told
from tests.crash.probe import FILE, SQL, Point
from tests.crash.sameness import Passed, look_at
from tests.crash.scenarios import SCENARIOS
from tests.crash.witness import Witness, as_good

WRITTEN = FILES[LAUNCH_STATE]


@pytest.fixture
def beginning(tmp_path: Path) -> tuple[Path, Ledger]:
    """A directory at rest, and its ledger."""
    directory = tmp_path / "beginning"
    return directory, Ledger.of(SCENARIOS["write_over"].begin(directory))


def _copy(directory: Path, name: str) -> Path:
    return Path(shutil.copytree(directory, directory.with_name(name)))


def _sql(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute(statement)


def _place(directory: Path, ledger: Ledger) -> str | None:
    return Passed().place(look_at(directory), ledger, "closed")


def test_what_only_took_place_at_another_time_is_the_same(
    beginning: tuple[Path, Ledger],
) -> None:
    """Copies are other files; and what was written later, but in the same order, is the same."""
    directory, ledger = beginning
    one, other = _copy(directory, "one"), _copy(directory, "other")
    later = 1_000_000_000
    for name in (path for path in FILES.values() if (other / path).exists()):
        time = (other / name).stat().st_mtime_ns + later
        os.utime(other / name, ns=(time, time))
    for table in ("batch_writes", "manifest_entries"):
        _sql(other, f"UPDATE {table} SET mtime_ns = mtime_ns + {later}")
    told_later = Ledger.of([*ledger.intents.values()])
    for batch in ledger.told.values():
        receipts = [
            receipt.model_copy(update={"mtime_ns": receipt.mtime_ns + later})
            for receipt in batch.receipts
        ]
        told_later.add(Told(batch.model_copy(update={"receipts": tuple(receipts)})))
    assert _place(one, ledger) == _place(other, told_later)
    assert _place(one, ledger) != _place(other, ledger)


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: (path / WRITTEN).write_bytes(b"{}"),
    "mode": lambda path: (path / WRITTEN).chmod(0o640),
    "a time that is not the row's": lambda path: os.utime(path / WRITTEN),
    "a name": lambda path: (path / "another").touch(),
    "a folder": lambda path: (path / "another").mkdir(),
    "no file": lambda path: (path / WRITTEN).unlink(),
    "a row": lambda path: _sql(path, "UPDATE write_batches SET reason = 'another'"),
    "no row": lambda path: _sql(path, "DELETE FROM store_contents WHERE batch_number = 1"),
    "schema": lambda path: _sql(path, "CREATE INDEX another ON batch_writes (mtime_ns)"),
    "a file that is another": lambda path: _sql(
        path, "UPDATE manifest_entries SET file_inode = 1, file_ctime_ns = 1"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_another_is_tried(beginning: tuple[Path, Ledger], change: str) -> None:
    """Whatever the library could see makes a directory another one."""
    directory, ledger = beginning
    before = _place(directory, ledger)
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
    without_triggers = _place(directory, ledger)
    CHANGES[change](directory)
    assert len({before, without_triggers, _place(directory, ledger)}) == 3


def test_another_promise_is_tried(beginning: tuple[Path, Ledger]) -> None:
    """The same directory is another one to callers who were promised something else."""
    directory, ledger = beginning
    found = {_place(directory, ledger)}
    ledger.add(Foreign(WRITTEN, b"{}"))
    found.add(_place(directory, ledger))
    ledger.add(Intent("another", {LAUNCH_STATE: None}))
    found.add(_place(directory, ledger))
    batch = next(iter(ledger.told.values()))
    ledger.add(Told(batch.model_copy(update={"reason": "another"})))
    found.add(_place(directory, ledger))
    ledger.add(Told(batch.model_copy(update={"batch_id": "another"})))
    found.add(_place(directory, ledger))
    assert len(found) == 5
    ledger.add(Broken("something"))
    assert _place(directory, ledger) is None


def test_nothing_stands_for_an_open_database(beginning: tuple[Path, Ledger]) -> None:
    """While something may be in the WAL, rows and pages are not all that there is."""
    directory, ledger = beginning
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as connection:
        connection.execute("SELECT * FROM write_batches").fetchall()
        assert (directory / f"{DATABASE_NAME}-wal").exists()
        assert _place(directory, ledger) is None


LOOKS = [Point(number, FILE, "lstat", "a file", changes_before=1) for number in (2, 3, 4)]
TARGET = Point(5, SQL, "COMMIT", "", changes_before=1)
POINTS = [Point(1, FILE, "create", "a file"), *LOOKS, TARGET]


def test_one_kill_does_where_nothing_changes(tmp_path: Path) -> None:
    """All calls that only look are as good as the next one that changes something."""
    witness = Witness(tmp_path, TARGET)
    (tmp_path / "a file").write_bytes(b"x")
    for point in POINTS:
        witness.look(point)
    assert as_good(POINTS, TARGET, witness.moments) == LOOKS[::-1]


def test_a_kill_stands_for_no_other_directory(tmp_path: Path) -> None:
    """A byte that changes between two points, or a note, is seen; so are other calls."""
    path = tmp_path / "a file"
    path.write_bytes(b"x")
    for change in ("bytes", "note", "call"):
        witness = Witness(tmp_path, TARGET)
        for point in POINTS:
            if point is LOOKS[1]:
                _change(path, witness, change)
            witness.look(point)
        expected = LOOKS[:0:-1]
        points = [*POINTS[:1], Point(2, FILE, "read", "a file", changes_before=1), *POINTS[2:]]
        points = points if change == "call" else POINTS
        assert as_good(points, TARGET, witness.moments) == expected, change


def _change(path: Path, witness: Witness, change: str) -> None:
    if change == "bytes":
        there = path.stat()
        path.write_bytes(bytes([path.read_bytes()[0] + 1]))
        os.utime(path, ns=(there.st_mtime_ns, there.st_mtime_ns))  # only the byte tells
    if change == "note":
        witness.said += 1
