"""Directories of the legacy format that nobody chose, each imported, opened, recovered, exported.

    python -m tests.legacy.test_generated [NUMBER [FIRST]]

tries NUMBER of them (600 by default), from the FIRST on, and prints how many there were of each
kind.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import ActionKind, BatchState, Manifest, RecoveryPlan, RuntimeStore, import_team
from rtstore.legacy import LaneOutcome
from tests.cli.commands import run
from tests.legacy.build import IMPORTED_AT, all_rows
from tests.legacy.generator import OWN_STORE, Legacy, Team, generate
from tests.support import CONTROL, breadth, digest

PER_PART = 4
PARTS = 130
DATABASE = "runtime-store.sqlite3"

Files = dict[str, str]
"""The hash of each file by its path."""


def files_in(directory: Path) -> Files:
    """Every file that is not the store's own."""
    return {
        path.relative_to(directory).as_posix(): digest(path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(CONTROL)
    }


def lost(before: Files, directory: Path) -> list[str]:
    """The files whose bytes are nowhere: not in a file, not in quarantine, in no database."""
    kept = set(files_in(directory).values())
    for path in directory.rglob(DATABASE):
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT content FROM store_contents").fetchall()
        kept |= {digest(row[0].encode()) for row in rows}
    debris = (".lock", ".tmp.4711.1")
    return [name for name, found in before.items() if found not in kept and found and not
            name.endswith(debris)]  # fmt: skip


def said(plan: RecoveryPlan) -> list[tuple[str, str, str | None]]:
    """What a plan says, but for its id and time."""
    return [(action.kind, action.schema_name, action.reason) for action in plan.actions]


def promises_nothing_that_is_not_there(store: RuntimeStore) -> bool:
    """Whether every content that is to be put back is in the database, or in the sound file."""
    plan = store.plan_recovery()
    with closing(sqlite3.connect(store.directory / DATABASE)) as connection:
        sql = "SELECT schema_name FROM manifest_entries NATURAL JOIN store_contents"
        there = {row[0] for row in connection.execute(sql)}
    return all(
        action.schema_name in there
        for action in plan.actions
        if action.kind is ActionKind.RESTORE_COMMITTED and action.reason != "content_missing"
    )


def check_import(team: Team) -> None:
    """The import says where every file went, and changes none; a second one changes nothing."""
    before = files_in(team.path)
    report = import_team(team.path, clock=lambda: IMPORTED_AT)
    assert files_in(team.path) == before
    skipped = [file.path for file in report.skipped]
    assert report.found == report.imported + len(skipped) == len(before)
    assert len(set(skipped)) == len(skipped)
    below = {path.removeprefix(".opencode-runtime/") for path in before}
    assert set(skipped) <= below
    assert report.lanes_only == (team.top not in [each.path for each in team.directories])
    lanes = {team.top / lane.path: lane for lane in report.lanes}
    for each in team.directories:
        assert each.path == team.top or lanes[each.path].outcome is LaneOutcome.IMPORTED
    nowhere = [lane.lane_id for lane in report.lanes if lane.outcome is LaneOutcome.NO_DIRECTORY]
    assert nowhere == team.nowhere
    rows = {each.path: all_rows(each.path) for each in team.directories}
    again = import_team(team.path)
    assert not again.changed
    assert {each.path: all_rows(each.path) for each in team.directories} == rows
    assert files_in(team.path) == before


def check_finished(legacy: Legacy) -> None:
    """A batch that only its receipts call committed is committed, where the files hold it."""
    with RuntimeStore.open(legacy.path, read_only=True) as store:
        manifest = store.manifest()
        batch = store.batch(legacy.finished or "")
        assert batch is not None
        assert (batch.state, batch.high_watermark) == (
            BatchState.COMMITTED,
            manifest.high_watermark,
        )
        assert manifest.last_committed_batch_id == legacy.finished
        assert manifest.last_preparing_batch_id is None
        for receipt in batch.receipts:
            entry = manifest.entry(receipt.schema_name)
            assert entry is not None
            assert entry.last_write_receipt_id == receipt.receipt_id
            if receipt.schema_name != OWN_STORE:
                assert store.read(receipt.schema_name).batch_id == legacy.finished


def check_life(legacy: Legacy) -> None:
    """Nothing is lost by opening; to recover twice is to recover once; no advice goes on."""
    before = files_in(legacy.path)
    with RuntimeStore.open(legacy.path, read_only=True) as store:
        assert promises_nothing_that_is_not_there(store)
        manifest = store.manifest()
    with RuntimeStore.open(legacy.path) as store:
        assert lost(before, legacy.path) == []
        gone = set(before) - set(files_in(legacy.path))
        assert all("tmp" in name for name in gone), gone
        assert promises_nothing_that_is_not_there(store)
        assert same(manifest, store.manifest())
        store.recover(store.plan_recovery())
        once, plan = files_in(legacy.path), store.plan_recovery()
        assert lost(before, legacy.path) == []
        store.recover(plan)
        assert (files_in(legacy.path), said(store.plan_recovery())) == (once, said(plan))
        assert not [batch for batch in store.batches() if batch.state is BatchState.PREPARING]
    steps = run("status", legacy.path, "--json").json()["next"]
    assert not any("rtstore recover" in (step["command"] or "") for step in steps), steps


def same(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests say the same, but for the recovery in between."""
    without = {"last_recovery_plan_id", "updated_at"}
    return one.model_dump(exclude=without) == other.model_dump(exclude=without)


def check_round_trip(team: Team, parent: Path) -> None:
    """What is exported and imported again says the same: lanes, tombstones, failed batches, stores
    of one's own. A second time, the files say the same too."""
    out, back = parent / "out", parent / "back"
    exported = run("export", team.path, "--to", out, "--json").json()
    assert exported["lanesOnly"] == (not (team.top / DATABASE).exists())
    import_team(out)
    for each in team.directories:
        place = out / each.path.relative_to(team.top)
        assert facts_of(place) == facts_of(each.path), each.path
    if (team.top / "lanes.json").exists() and len(team.directories) > 1:
        assert (out / "lanes.json").read_bytes() == (team.top / "lanes.json").read_bytes()
    assert run("export", out, "--to", back).code == 0
    assert files_in(back) == {
        name: found for name, found in files_in(out).items() if not name.startswith("quarantine/")
    }
    for path in (out, back):
        shutil.rmtree(path)


def facts_of(directory: Path) -> dict[str, Any]:
    """What a store says that a legacy file has a place for."""
    with RuntimeStore.open(directory, read_only=True) as store:
        manifest = store.manifest()
        entries = [entry.model_dump(exclude={"batch_number"}) for entry in manifest.entries]
        return {
            "manifest": manifest.model_dump(exclude={"entries"}),
            "entries": entries,
            "batches": [
                batch.model_dump(exclude={"batch_number", "origin"}) for batch in store.batches()
            ],
            "runs": {run.run_id: (run.state, run.why) for run in store.runs()},
        }


def check(parent: Path, seed: int, tally: Counter[str]) -> None:
    """Check one directory."""
    team = generate(parent, seed)
    try:
        check_import(team)
        for each in team.directories:
            if each.finished is not None:
                tally["died before the manifest"] += 1
                check_finished(each)
        if seed % 3 == 0:
            check_round_trip(team, parent)
            tally["there and back"] += 1
        for each in team.directories:
            check_life(each)
    except BaseException as error:
        error.add_note(f"seed {seed}:\n{team.story}")
        raise
    tally["directories"] += 1
    tally["teams with lanes"] += len(team.directories) > 1 or team.path != team.top
    shutil.rmtree(team.path)


@pytest.mark.parametrize(
    "part", breadth.params(range(PARTS), normal=range(1), thorough=range(1, 16))
)
def test_generated_directories(part: int, tmp_path: Path) -> None:
    """Whatever a legacy writer left, and whoever damaged it: nothing is lost, nothing is promised
    that is not there, and nothing goes round in a circle."""
    for number in range(PER_PART):
        check(tmp_path, breadth.seed() + part * PER_PART + number, Counter())


def main(arguments: list[str]) -> None:
    """The command."""
    tally: Counter[str] = Counter()
    number, first = (*map(int, arguments), *(600, 0)[len(arguments) :])
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(breadth.SEED + first, breadth.SEED + first + number):
            check(Path(folder), seed, tally)
    print(dict(tally))


if __name__ == "__main__":
    main(sys.argv[1:])
