"""What a runtime directory that was frozen must be, before its upgrade and after it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rtstore import FileSystem, RuntimeStore
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.maintenance.upgrade import BACKUPS_KEPT, backups_in
from rtstore.testing import Seams
from tests.support import LAUNCH, LEASES, Ids, agree, digest
from tests.upgrade.freeze import facts_of, rows_of, schema_of
from tests.upgrade.life import NOTES, OPEN_BATCH, SECOND, TEAM

OLDER = REVISIONS[:-1]


def chosen(arguments: list[str]) -> tuple[str, ...]:
    """The older revisions among the arguments of a command; all of them when it names none."""
    return tuple(name for name in OLDER if name in arguments) or OLDER


ADDED = {"database_upgrades"}
"""Tables that an upgrade itself writes into."""
DEFAULT_RETENTION = [[1, 1_000, 50, None]]
"""What a directory is given that comes from before anything was remembered."""
COLUMNS_ADDED: dict[str, list[tuple[str, list[Any]]]] = {
    "manifest_entries": [("0004", [None, None])],
    "history_retention": [("0004", [None]), ("0007", [0])],
}
"""The columns that a table has got: by which revision, and what is in rows from before."""


@cache
def newest_schema() -> dict[str, str]:
    """The schema of a database that was made new. It takes an upgrade's time: who forks a child for
    each check calls it before that."""
    with TemporaryDirectory() as temporary:
        directory = Path(temporary) / "runtime"
        RuntimeStore.open(directory, team_name=TEAM).close()
        return schema_of(directory / DATABASE_NAME)


def looked_at(directory: Path) -> Path:
    """A copy of a directory for plain SQL: whoever opens a database may merge its WAL."""
    copy = directory.with_name(f"{directory.name}-look")
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(directory, copy))


def revision_of(path: Path) -> str:
    """The revision that a database says it is at; both marks must say the same."""
    with closing(sqlite3.connect(path)) as connection:
        number = connection.execute("PRAGMA user_version").fetchone()[0]
        (name,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert REVISIONS[number - 1] == name
    return str(name)


def problems_of_database(path: Path, frozen: str, wanted: tuple[str, ...]) -> list[str]:
    """What is wrong with a database that was frozen and is now at one of some revisions, with all
    that was in it and nothing else."""
    facts = facts_of(frozen)
    found = revision_of(path)
    problems = [] if found in wanted else [f"it is at {found}"]
    schema = facts["schema"] if found == frozen else newest_schema()
    if schema_of(path) != schema:
        problems.append("its schema is not that of its revision")
    rows, before = rows_of(path), facts["rows"]
    upgrades = len(rows.get("database_upgrades", [])) - len(before.get("database_upgrades", []))
    if upgrades != (found != frozen):
        problems.append(f"{upgrades} upgrades on record")
    if found != frozen:
        before = {"history_retention": DEFAULT_RETENTION, **before}
    return problems + [
        f"the rows of {table} are not what they were"
        for table in before
        if table not in ADDED and rows.get(table) != _widened(table, before[table], frozen, found)
    ]


def _widened(table: str, rows: list[list[Any]], frozen: str, found: str) -> list[list[Any]]:
    added = [
        value
        for since, values in COLUMNS_ADDED.get(table, [])
        if frozen < since <= found
        for value in values
    ]
    return [[*row, *added] for row in rows]


def problems_of_files(directory: Path, frozen: str) -> list[str]:
    """What is wrong with the other files: an upgrade touches none of them."""
    found = {
        path.relative_to(directory).as_posix(): digest(path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "runtime-store." not in path.name
    }
    return [] if found == facts_of(frozen)["files"] else ["the files are not what they were"]


def problems_of_backups(directory: Path, frozen: str) -> list[str]:
    """What is wrong with the back-ups that have their name, or with there being none: that of an
    upgrade that has happened is there."""
    backups = backups_in(directory, FileSystem())
    problems = [
        f"{path.name}: {problem}"
        for path in backups
        for problem in _problems_of_backup(path.read_bytes(), frozen)
    ]
    if len(backups) > BACKUPS_KEPT + 2:  # one of a dead process, one whose removal was not flushed
        problems.append(f"{len(backups)} back-ups")
    rows = rows_of(directory / DATABASE_NAME).get("database_upgrades", [])
    gone = {str(row[-1]) for row in rows} - {path.name for path in backups}
    return problems + [f"{name} is on record, and gone" for name in sorted(gone)]


@cache
def _problems_of_backup(content: bytes, frozen: str) -> list[str]:
    """What is wrong with a back-up; the same bytes are looked at once. It has no WAL."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / DATABASE_NAME
        path.write_bytes(content)
        return problems_of_database(path, frozen, (frozen,))


def problems_in_use(directory: Path) -> list[str]:
    """What is wrong when a runtime goes on with the directory: it opens, finishes the open batch,
    reads everything, writes a batch."""
    problems = []
    with RuntimeStore.open(directory, seams=Seams(batch_id_factory=Ids("next"))) as store:
        manifest = store.manifest()
        if (manifest.high_watermark, manifest.last_committed_batch_id) != (8, OPEN_BATCH):
            problems.append(
                f"{manifest.high_watermark} batches, {manifest.last_committed_batch_id}"
            )
        problems += _unread(store)
        batch = store.write_batch(
            identity=SECOND, reason="host_lease_update", writes={LEASES: {"n": 3}, NOTES: [3]}
        )
        if batch.high_watermark != 9 or store.read(LEASES).data != {"n": 3}:
            problems.append("a batch written after it is not what was written")
        if not agree(store):
            problems.append("a file is not what is committed")
    return problems


def _unread(store: RuntimeStore) -> list[str]:
    expected: dict[str, Any] = {
        NOTES: ["one", 2, None],
        LEASES: {"n": 2},
        LAUNCH: {"providerId": "opencode", "teamName": TEAM, "runId": "run-2", "number": 4},
    }
    found = {name: store.read(name).data for name in expected}
    states = [batch.state.value for batch in store.batches()]
    problems = [] if found == expected else [f"read: {found}"]
    if sorted(set(states)) != ["committed", "failed"] or len(states) != 9:
        problems.append(f"batches: {states}")
    if len(store.quarantined_files()) != 2:
        problems.append("a quarantined file is missing")
    return problems
