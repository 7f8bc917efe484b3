"""How much history a directory keeps that comes from before that was remembered."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import KEEP_EVERYTHING, Retention, RuntimeStore
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.support import LEASES
from tests.upgrade.freeze import unpack
from tests.upgrade.life import TEAM

TIME = "2026-04-21T12:00:00.000Z"
HASH = "sha256:" + "0" * 64
ADD_BATCH = f"""
    INSERT INTO write_batches (batch_number, batch_id, state, reason, team_name, started_at,
                               completed_at, origin)
    VALUES (?, ?, 'failed', 'host_lease_update', '{TEAM}', '{TIME}', '{TIME}', 'written')"""
ADD_WRITE = f"""
    INSERT INTO batch_writes VALUES
    (?, '{LEASES}', 0, ?, 1, 'a.json', '{HASH}', 2, 0, '{TIME}')"""
ADD_CONTENT = f"INSERT INTO store_contents VALUES ('{LEASES}', ?, '{{}}')"


def _with_history(directory: Path, *, batches: int, contents: int) -> None:
    """Have so many batches, and so many contents of a store, in an older database."""
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as raw, raw:
        there = raw.execute("SELECT count(*), max(batch_number) FROM write_batches").fetchone()
        numbers = [there[1] + number + 1 for number in range(batches - there[0])]
        raw.executemany(ADD_BATCH, [(number, f"more-{number}") for number in numbers])
        there = raw.execute(
            "SELECT count(*) FROM store_contents WHERE schema_name = ?", (LEASES,)
        ).fetchone()
        more = numbers[: contents - there[0]]
        raw.executemany(ADD_WRITE, [(number, f"more-{number}") for number in more])
        raw.executemany(ADD_CONTENT, [(number,) for number in more])


@pytest.mark.parametrize(
    ("batches", "contents", "remembered"),
    [
        (2_000, 100, Retention(content_bytes=None)),
        (2_001, 100, Retention(batches=None, content_bytes=None)),
        (2_000, 101, Retention(contents_per_store=None, content_bytes=None)),
        (2_001, 101, KEEP_EVERYTHING),
    ],
)
def test_an_upgrade_does_not_make_a_long_history_short(
    batches: int, contents: int, remembered: Retention, tmp_path: Path
) -> None:
    """Where far more is there than who names no retention ever kept, nothing of it is dropped until
    the runtime says how much it keeps. Bytes had no limit, so they have none until it names one."""
    directory = unpack(REVISIONS[0], tmp_path)
    _with_history(directory, batches=batches, contents=contents)
    with RuntimeStore.open(directory) as store:
        assert store.retention == remembered
