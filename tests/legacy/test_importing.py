"""What an import takes over of a directory."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    KNOWN_DESCRIPTORS,
    BatchReason,
    BatchState,
    RunEnding,
    RunIdentity,
    RunState,
    RuntimeStore,
    StaleRunError,
    StartKind,
)
from rtstore.legacy import StoreOutcome
from rtstore.model.records import BatchOrigin
from tests.legacy.build import (
    DUSK,
    FERRY,
    HARBOUR,
    IMPORTED_AT,
    MANIFEST,
    OTHER_MANIFEST,
    OWN,
    RECEIPTS,
    TOMBSTONES,
    copy,
    edit,
    edit_manifest,
    edit_receipts,
    opened,
    outcomes,
    rows,
    take,
)
from tests.support import LAUNCH, LEDGER, agree, picture, plain_descriptor

EVIDENCE = "opencode.e2eEvidence"
"""A store that the legacy runtime has a name for, and no descriptor."""


# --- a whole directory --------------------------------------------------------------------------


def test_a_healthy_directory_is_ready_after_its_import(tmp_path: Path) -> None:
    """A directory whose files are all what was committed is ready for its run at once, although
    one of its batches failed: the legacy runtime called it blocked for ever."""
    directory = copy(HARBOUR, tmp_path)
    report = take(directory)
    assert report.changed
    assert (report.team_name, report.high_watermark, report.active_identity) == ("harbour", 7, DUSK)
    assert report.batches == {BatchState.COMMITTED: 7, BatchState.FAILED: 1}
    assert report.receipts == 15
    assert set(outcomes(report).values()) == {StoreOutcome.CONTENT_TAKEN}
    assert len(report.stores) == 10
    assert report.control_files == (MANIFEST, RECEIPTS, TOMBSTONES)
    assert report.notes == ()
    with opened(directory) as store:
        assert store.last_recovery is None
        assert store.check_readiness(expected=DUSK).ok
        assert store.check_readiness().ok
        assert agree(store)
        assert store.read(LAUNCH).data["members"][1]["name"] == "Jürgen ⚓"


def test_batches_keep_their_ids_times_states_and_receipts(tmp_path: Path) -> None:
    """The history is as it was written: batch and receipt ids, times, reasons, the error of the
    failed batch; the high watermarks are counted back from the manifest's."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    with opened(directory) as store:
        batches = store.batches()
    assert [batch.batch_id for batch in batches] == [f"harbour-batch-{n}" for n in range(1, 9)]
    assert [batch.high_watermark for batch in batches] == [1, 2, None, 3, 4, 5, 6, 7]
    assert {batch.origin for batch in batches} == {BatchOrigin.IMPORTED}
    failed = batches[2]
    assert (failed.state, failed.reason) == (BatchState.FAILED, BatchReason.RECOVERY)
    assert failed.last_error == "EACCES: permission denied, open 'launch-state.json'"
    assert failed.completed_at is not None
    receipt = batches[1].receipts[1]
    dumped = receipt.model_dump(mode="json", by_alias=True)
    original: dict[str, object] = {}
    edit_receipts(directory, lambda items: original.update(items[1]["receipts"][1]))
    assert {key: dumped[key] for key in original} == original


def test_entries_are_taken_as_they_are(tmp_path: Path) -> None:
    """Every key of every manifest entry is kept, the time in milliseconds to the last bit."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    with opened(directory) as store:
        dumped = store.manifest().model_dump(mode="json", by_alias=True)

    def compare(manifest: dict[str, object]) -> None:
        entries = manifest.pop("entries")
        assert isinstance(entries, list)
        for mine, theirs in zip(dumped["entries"], sorted(entries, key=_name), strict=True):
            assert {key: mine[key] for key in theirs} == theirs
        assert {key: dumped[key] for key in manifest} == manifest

    edit_manifest(directory, compare)


def _name(entry: dict[str, str]) -> str:
    return entry["schemaName"]


def test_the_json_files_stay_as_they_are(tmp_path: Path) -> None:
    """An import adds the database and the lock file, and touches nothing that was there."""
    directory = copy(HARBOUR, tmp_path)
    before = picture(directory)
    take(directory)
    after = picture(directory)
    assert set(after) - set(before) == {"runtime-store.sqlite3", "runtime-store.lock"}
    assert {name: after[name] for name in before} == before


def test_people_find_the_import_in_the_database(tmp_path: Path) -> None:
    """The views show imported stores with their data, when the import was, and what is open."""
    directory = copy(FERRY, tmp_path)
    take(directory)
    assert rows(directory, "SELECT count(*), count(data) FROM current_stores") == [(10, 9)]
    assert rows(directory, "SELECT imported_at FROM runtime_manifest") == [
        ("2026-06-03T09:30:00.000Z",)
    ]
    problems = rows(directory, "SELECT problem, subject, explanation FROM open_problems")
    assert problems == [
        ("open batch", "ferry-batch-3", "imported unfinished; its contents were never logged"),
        (
            "content not in database",
            LAUNCH,
            "the file did not match its entry when it was imported",
        ),
    ]


@pytest.mark.parametrize("other_name", [False, True])
@pytest.mark.parametrize("bare", [(), (MANIFEST,), (RECEIPTS,), (MANIFEST, RECEIPTS)])
def test_control_files_may_be_enveloped_or_bare(
    tmp_path: Path, bare: tuple[str, ...], other_name: bool
) -> None:
    """Each control file may be in an envelope or bare, and the manifest may have either name."""
    directory = copy(HARBOUR, tmp_path)
    for name in bare:
        edit(directory / name, lambda document: document["data"])
    if other_name:
        (directory / MANIFEST).rename(directory / OTHER_MANIFEST)
    report = take(directory)
    assert (report.high_watermark, report.receipts) == (7, 15)
    with opened(directory) as store:
        assert store.check_readiness(expected=DUSK).ok


def test_a_manifest_may_lie_there_twice_when_both_are_the_same(tmp_path: Path) -> None:
    """Two manifests that are byte for byte the same are one."""
    directory = copy(HARBOUR, tmp_path)
    shutil.copy(directory / MANIFEST, directory / OTHER_MANIFEST)
    assert take(directory).control_files == (MANIFEST, OTHER_MANIFEST, RECEIPTS, TOMBSTONES)


def test_a_directory_in_which_nothing_was_committed(tmp_path: Path) -> None:
    """A manifest without entries and an empty list of batches are imported like any other."""
    directory = copy(HARBOUR, tmp_path)
    edit_receipts(directory, lambda batches: batches.clear())

    def empty(manifest: dict[str, object]) -> None:
        manifest.update(entries=[], highWatermark=0, lastCommittedBatchId=None, activeRunId=None)

    edit_manifest(directory, empty)
    report = take(directory)
    assert (report.changed, report.high_watermark, report.active_identity) == (True, 0, None)
    assert report.batches == {}
    assert set(outcomes(report).values()) == {StoreOutcome.NO_MANIFEST_ENTRY}


# --- into a store that is empty -------------------------------------------------------------------


def test_an_empty_store_takes_an_import(tmp_path: Path) -> None:
    """A store in which nothing was committed takes an import, and keeps its descriptors."""
    directory = tmp_path / "runtime"
    mine = [*KNOWN_DESCRIPTORS, plain_descriptor(EVIDENCE, "opencode-e2e-evidence.json")]
    RuntimeStore.open(directory, team_name="harbour", descriptors=mine).close()
    shutil.copytree(OWN / HARBOUR, directory, dirs_exist_ok=True)
    report = take(directory)
    assert (report.changed, report.high_watermark) == (True, 7)
    assert not take(directory).changed
    with opened(directory) as store:
        assert store.check_readiness(expected=DUSK).ok is False
        assert EVIDENCE in store.descriptors
        assert f"Runtime store missing: {EVIDENCE}" in store.plan_recovery().diagnostics
        assert len(store.batches()) == 8


def test_an_import_gives_the_same_rows_either_way(tmp_path: Path) -> None:
    """Into a new database or into an empty one: the history is the same."""
    fresh = copy(HARBOUR, tmp_path / "one")
    empty = tmp_path / "two" / "runtime"
    RuntimeStore.open(empty, team_name="harbour").close()
    shutil.copytree(OWN / HARBOUR, empty, dirs_exist_ok=True)
    assert take(fresh).model_dump(exclude={"directory"}) == take(empty).model_dump(
        exclude={"directory"}
    )
    for table in ("runtime_manifest", "write_batches", "batch_writes", "manifest_entries"):
        sql = f"SELECT * FROM {table}"
        assert rows(fresh, sql) == rows(empty, sql)


# --- tombstones -----------------------------------------------------------------------------------


def _with_tombstones(parent: Path, document: object) -> Path:
    directory = copy(HARBOUR, parent)
    (directory / TOMBSTONES).write_text(json.dumps(document), encoding="utf-8")
    return directory


def test_a_run_with_a_tombstone_is_refused(tmp_path: Path) -> None:
    """It has ended, for the reason of its tombstone, and nothing that it writes is taken; the run
    that came after it goes on. The list itself stays as it is."""
    directory = copy(HARBOUR, tmp_path)
    before = (directory / TOMBSTONES).read_bytes()
    assert take(directory).ended_runs == 1
    with opened(directory) as store:
        dusk, dawn = store.runs()
        assert (dusk.run_id, dusk.state) == ("run-dusk", RunState.ACTIVE)
        assert (dawn.run_id, dawn.state, dawn.ending) == (
            "run-dawn",
            RunState.ENDED,
            RunEnding.STOPPED,
        )
        assert dawn.why == "relaunch_started"
        with pytest.raises(StaleRunError, match=r"run-dawn ended .*relaunch_started"):
            store.update(LEDGER, dict, identity=RunIdentity(run_id="run-dawn"), reason="recovery")
        store.update(LEDGER, dict, identity=DUSK, reason="delivery_commit")
        store.export()
    assert (directory / TOMBSTONES).read_bytes() == before


NOON = "2026-05-31T12:00:00.000Z"


@pytest.mark.parametrize(
    "document",
    [
        [{"runId": "run-x", "stoppedAt": NOON, "reason": "stopped by hand"}],
        [{"runId": "run-x", "createdAt": NOON, "stoppedAt": None, "reason": "stopped by hand"}],
        {"schemaVersion": 1, "data": [{"runId": "run-x", "at": NOON, "reason": "stopped by hand"}]},
        [
            {"runId": "run-x", "at": "2026-06-02T00:00:00Z", "reason": "again"},
            {"runId": "run-x", "endedAt": NOON, "diagnostic": "stopped by hand"},
        ],
    ],
    ids=["bare", "created", "enveloped", "twice"],
)
def test_a_tombstone_of_a_run_that_wrote_nothing(tmp_path: Path, document: Any) -> None:
    """Its id is not used again either, and it is the earlier one of the runs; the first tombstone
    of a run counts."""
    directory = _with_tombstones(tmp_path, document)
    assert take(directory).ended_runs == 1
    with opened(directory) as store:
        assert [run.run_id for run in store.runs()] == ["run-dusk", "run-dawn", "run-x"]
        dead = store.runs()[-1]
        assert (dead.ended_at, dead.why) == (datetime.fromisoformat(NOON), "stopped by hand")
        with pytest.raises(StaleRunError, match="run-x ended at 2026-05-31 12:00:00 UTC"):
            store.begin_run("run-x", keep="all")


def test_a_tombstone_of_the_active_run(tmp_path: Path) -> None:
    """No run is active then, whatever the manifest says, and a new one takes the state over."""
    directory = _with_tombstones(tmp_path, [{"runId": "run-dusk"}, {"runId": "run-x"}])
    assert take(directory).ended_runs == 2
    with opened(directory) as store:
        last = store.runs()[0]
        assert (last.run_id, last.state) == ("run-dusk", RunState.ENDED)
        assert (last.ended_at, last.why) == (IMPORTED_AT, "a tombstone without a reason")
        state = store.start_state("run-night")
        assert (state.kind, state.run) == (StartKind.TAKE_OVER, last)
        store.begin_run("run-night", keep="all").end()


def test_an_empty_list_of_tombstones(tmp_path: Path) -> None:
    """It ends nothing."""
    assert take(_with_tombstones(tmp_path, [])).ended_runs == 0
