"""Control files that are sound and do not fit together, and what is derived from them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtstore import (
    ActionKind,
    ActionOutcome,
    BatchReason,
    BatchState,
    DatabaseMissingError,
    InvalidRequestError,
    RecoveryAction,
    RunState,
    RuntimeStore,
)
from rtstore.legacy import StoreOutcome
from rtstore.legacy.format import LegacyEntry
from tests.cli.commands import run, words_of
from tests.legacy.build import (
    DUSK,
    EBB,
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
    take,
    write_late,
)
from tests.support import FILE_OF, LAUNCH, LEASES, LEDGER, SESSIONS, digest

# --- what does not fit together -------------------------------------------------------------------


def test_receipts_may_be_absent(tmp_path: Path) -> None:
    """Without receipts, entries and contents are imported all the same: one batch stands for those
    that wrote them, the high watermark goes on from the manifest's, and the report says so."""
    directory = copy(HARBOUR, tmp_path)
    (directory / RECEIPTS).unlink()
    report = take(directory, batch_id_factory=lambda: "stand-in")
    assert report.control_files == (MANIFEST, TOMBSTONES)
    assert report.batches == {BatchState.COMMITTED: 1}
    assert report.notes[0] == f"there is no {RECEIPTS}: the history of batches was not imported"
    assert "batch stand-in" in report.notes[1]
    with opened(directory) as store:
        (batch,) = store.batches()
        assert (batch.batch_id, batch.reason, batch.high_watermark) == (
            "stand-in",
            BatchReason.MIGRATION,
            None,
        )
        assert (batch.run_id, batch.completed_at) == (None, IMPORTED_AT)
        assert store.check_readiness(expected=DUSK).ok
        content = store.read(SESSIONS)
        entry = store.manifest().entry(SESSIONS)
        assert entry is not None
        assert (content.run_id, content.high_watermark) == ("run-dusk", None)
        assert content.updated_at.timestamp() == int(Fraction(entry.mtime_ns, 10**6)) / 1000
        written = store.write_batch(
            identity=DUSK, reason=BatchReason.LAUNCH_CHECKPOINT, writes={LEDGER: []}
        )
        assert written.high_watermark == 8


def test_one_lost_receipt(tmp_path: Path) -> None:
    """An entry whose receipt is lost belongs to the batch that stands for it; its receipt id stays,
    and all other entries belong to the batches that wrote them."""
    directory = copy(HARBOUR, tmp_path)

    def lose(batches: list[dict[str, list[object]]]) -> None:
        del batches[5]["receipts"][1]

    edit_receipts(directory, lose)
    (rehearsed,) = take(directory, dry_run=True).notes
    assert f"no receipt was found for {SESSIONS}: a batch, whose id the import makes," in rehearsed
    report = take(directory, batch_id_factory=lambda: "stand-in")
    (note,) = report.notes
    assert note == (
        f"no receipt was found for {SESSIONS}: batch stand-in, of reason migration and not counted "
        "in the high watermark, stands for the batches that wrote them"
    )
    with opened(directory) as store:
        batches = store.batches()
        assert [batch.high_watermark for batch in batches] == [1, 2, None, 3, 4, 5, 6, 7, None]
        (receipt,) = batches[-1].receipts
        assert (receipt.receipt_id, receipt.schema_name) == ("harbour-receipt-6-2", SESSIONS)
        assert store.check_readiness(expected=DUSK).ok


def test_an_id_for_the_lost_receipts_must_be_new(tmp_path: Path) -> None:
    """A factory that makes an id which an imported batch has, or one that is no line, is refused;
    nothing is imported."""
    directory = copy(HARBOUR, tmp_path)
    edit_receipts(directory, lambda batches: batches[5]["receipts"].clear())
    with pytest.raises(InvalidRequestError, match="batch_id_factory: holds the control character"):
        take(directory, batch_id_factory=lambda: "harbour\nbatch")
    with pytest.raises(InvalidRequestError, match=r"batch_id_factory: it made 'harbour-batch-2'"):
        take(directory, batch_id_factory=lambda: "harbour-batch-2")
    assert not (directory / "runtime-store.sqlite3").exists()


@pytest.mark.parametrize(
    ("high_watermark", "last_committed", "numbers"),
    [
        (7, "harbour-batch-8", [1, 2, None, 3, 4, 5, 6, 7]),
        (70, "harbour-batch-8", [64, 65, None, 66, 67, 68, 69, 70]),
        (3, "harbour-batch-8", [None, None, None, None, None, 1, 2, 3]),
        (6, "harbour-batch-7", [1, 2, None, 3, 4, 5, 6, None]),
        (7, "harbour-batch-3", [None] * 8),
        (7, "gone", [None] * 8),
        (0, None, [None] * 8),
    ],
)
def test_high_watermarks_are_counted_back_from_the_manifests(
    tmp_path: Path, high_watermark: int, last_committed: str | None, numbers: list[int | None]
) -> None:
    """The batch that the manifest names has its high watermark, those before it one less each; a
    number below 1, a batch that the manifest does not count and a batch that is not there give
    none."""
    directory = copy(HARBOUR, tmp_path)

    def change(manifest: dict[str, object]) -> None:
        manifest.update(highWatermark=high_watermark, lastCommittedBatchId=last_committed)

    edit_manifest(directory, change)
    report = take(directory)
    assert any("gone" in note for note in report.notes) == (last_committed == "gone")
    with opened(directory) as store:
        assert [batch.high_watermark for batch in store.batches()] == numbers
        assert store.manifest().high_watermark == high_watermark


def _die_before_the_manifest(directory: Path, *stores: str, first: bool = False) -> str:
    """Have a legacy writer write a batch of stores, and die when the receipts call it committed.
    `first`: it is the store's first batch."""
    manifest = json.loads((directory / OTHER_MANIFEST).read_bytes())
    entries = {entry["schemaName"]: entry for entry in manifest["entries"]}
    receipts = []
    for name in stores:
        content = json.dumps(
            {"schemaVersion": 1, "updatedAt": "2026-06-01T09:00:19.000Z", "data": DATA_OF[name]}
        ).encode()
        (directory / entries[name]["relativePath"]).write_bytes(content)
        shared = ("schemaName", "schemaVersion", "relativePath", "mtimeMs", "runId",
                  "capabilitySnapshotId", "behaviorFingerprint")  # fmt: skip
        receipts.append(
            {
                **{key: entries[name][key] for key in shared},
                "receiptId": f"late-{name}",
                "batchId": "ferry-batch-3",
                "teamName": "ferry",
                "contentHash": digest(content),
                "fileSize": len(content),
                "writtenAt": "2026-06-01T09:00:19.000Z",
            }
        )

    def finish(batches: list[dict[str, object]]) -> None:
        batches[2].update(
            state="committed", completedAt="2026-06-01T09:00:20.000Z", receipts=receipts
        )
        if first:
            del batches[:2]

    edit_receipts(directory, finish)
    if first:
        nothing: dict[str, object] = {
            "highWatermark": 0,
            "lastCommittedBatchId": None,
            "entries": [],
        }
        edit_manifest(directory, lambda found: found.update(nothing))
    return "ferry-batch-3"


DATA_OF: dict[str, object] = {
    LAUNCH: {"providerId": "opencode", "teamName": "ferry", "runId": "run-ebb"},
    SESSIONS: {"sessions": []},
    LEASES: {"n": 3},
}


@pytest.mark.parametrize("first", [False, True])
def test_a_writer_that_died_between_receipts_and_manifest(tmp_path: Path, *, first: bool) -> None:
    """A legacy writer writes the files, the receipts, and then the manifest. A batch that only the
    receipts call committed is finished where the files hold it, its first one too; and it is as if
    the manifest had counted it."""
    directory = copy(FERRY, tmp_path)
    batch_id = _die_before_the_manifest(directory, LAUNCH, SESSIONS, first=first)
    report = take(directory)
    assert "so the batch was finished" in report.notes[0]
    assert outcomes(report)[SESSIONS] is StoreOutcome.CONTENT_TAKEN
    with opened(directory) as store:
        manifest = store.manifest()
        assert (manifest.high_watermark, manifest.last_committed_batch_id) == (
            1 if first else 3,
            batch_id,
        )
        assert (manifest.last_preparing_batch_id, manifest.active_identity) == (None, EBB)
        assert store.last_recovery is None
        content = store.read(SESSIONS)
        assert (content.batch_id, content.high_watermark) == (batch_id, 1 if first else 3)
        assert not {SESSIONS, LAUNCH} & {
            action.schema_name
            for action in store.plan_recovery().actions
            if action.kind is not ActionKind.NONE
        }
        store.export(tmp_path / "out")
    assert take(tmp_path / "out").high_watermark == (1 if first else 3)


@pytest.mark.parametrize("first", [False, True])
def test_a_batch_whose_files_are_not_all_there(tmp_path: Path, *, first: bool) -> None:
    """Where one file does not hold what the receipts name, the batch is not finished. Its bytes are
    in no log: no content is promised that is not there, opening changes nothing, and a recovery
    moves into quarantine what it takes away, once."""
    directory = copy(FERRY, tmp_path)
    _die_before_the_manifest(directory, LEASES, SESSIONS, first=first)
    (directory / FILE_OF[LEASES]).write_bytes(b'{"schemaVersion": 1, "data": {"n": "other"}}')
    sessions = (directory / FILE_OF[SESSIONS]).read_bytes()
    report = take(directory)
    assert any("was not finished" in note for note in report.notes)
    with opened(directory) as store:
        assert store.last_recovery is None
        assert (directory / FILE_OF[SESSIONS]).read_bytes() == sessions
        plan = store.plan_recovery(expected=EBB)
        kinds = {action.schema_name: action.kind for action in plan.actions}
        assert ActionKind.RESTORE_COMMITTED not in kinds.values()
        assert kinds[SESSIONS] is (
            ActionKind.REBUILD_FROM_PROVIDER if first else ActionKind.QUARANTINE
        )
        store.recover(plan)
        kept = {(directory / item.quarantine_path) for item in store.quarantined_files()}
        assert sessions in [path.read_bytes() for path in (*kept, directory / FILE_OF[SESSIONS])
                            if path.exists()]  # fmt: skip
        assert ActionKind.QUARANTINE not in {
            action.kind for action in store.plan_recovery().actions if action.reason != "missing"
        }


def _numbers(store: RuntimeStore) -> list[tuple[str, BatchState, int | None]]:
    return [(batch.batch_id, batch.state, batch.high_watermark) for batch in store.batches()[-3:]]


@pytest.mark.parametrize("older_manifest", [False, True])
def test_several_batches_that_the_manifest_does_not_count(
    tmp_path: Path, *, older_manifest: bool
) -> None:
    """All of them are finished in their order, also when the manifest is simply older and names
    none. The last batch that it counts keeps its number, and no file is taken away."""
    directory = copy(HARBOUR, tmp_path)
    manifest = (directory / MANIFEST).read_bytes()
    write_late(directory, 1, LEASES)
    write_late(directory, 2, LEASES, SESSIONS)
    if older_manifest:
        (directory / MANIFEST).write_bytes(manifest)
    (note,) = take(directory).notes
    assert note.startswith("batches late-1, late-2 had their receipts")
    with opened(directory) as store:
        assert _numbers(store) == [
            ("harbour-batch-8", BatchState.COMMITTED, 7),
            ("late-1", BatchState.COMMITTED, 8),
            ("late-2", BatchState.COMMITTED, 9),
        ]
        assert store.manifest().high_watermark == 9
        assert store.manifest().last_preparing_batch_id is None
        assert {store.read(name).batch_id for name in (LEASES, SESSIONS)} == {"late-2"}
        assert store.check_readiness(expected=DUSK).ok
        store.export(tmp_path / "out")
    assert take(tmp_path / "out").notes == ()


def test_a_batch_before_the_last_that_the_manifest_does_not_count(tmp_path: Path) -> None:
    """The next writer's manifest counts its own batch alone: the one before it is finished too,
    without a number, since the manifest has none for it."""
    directory = copy(HARBOUR, tmp_path)
    write_late(directory, 1, LEASES)
    edit_manifest(directory, lambda found: found.update(lastPreparingBatchId=None))
    write_late(directory, 2, SESSIONS, counted=True)
    notes = take(directory).notes
    assert notes[0].startswith("batch late-1 had its receipts")
    with opened(directory) as store:
        assert _numbers(store) == [
            ("harbour-batch-8", BatchState.COMMITTED, 7),
            ("late-1", BatchState.COMMITTED, None),
            ("late-2", BatchState.COMMITTED, 8),
        ]
        assert store.read(LEASES).batch_id == "late-1"
        assert store.check_readiness(expected=DUSK).ok
        store.export(tmp_path / "out")
    assert take(tmp_path / "out").notes == ()


def test_a_batch_among_others_whose_files_are_not_all_there(tmp_path: Path) -> None:
    """It is not called committed, and does not hold up the batches around it, nor their numbers."""
    directory = copy(HARBOUR, tmp_path)
    write_late(directory, 1, LEASES)
    write_late(directory, 2, LAUNCH, LEDGER)
    write_late(directory, 3, SESSIONS)
    (directory / FILE_OF[LEDGER]).write_bytes(b"{}")
    notes = take(directory).notes
    assert notes[1].startswith("batch late-2: the receipts say committed")
    with opened(directory) as store:
        assert _numbers(store) == [
            ("late-1", BatchState.COMMITTED, 8),
            ("late-2", BatchState.FAILED, None),
            ("late-3", BatchState.COMMITTED, 9),
        ]
        assert "did not finish it" in (store.batches()[-2].last_error or "")
        assert store.read(LEASES).batch_id == "late-1"


def test_a_file_that_differs_from_its_entry(tmp_path: Path) -> None:
    """Nothing is said to be put back that the database does not have; and a file of an older format
    is not said to be adopted as it is."""
    directory = copy(HARBOUR, tmp_path)
    path = directory / FILE_OF[SESSIONS]
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 1', b'"schemaVersion": 0'))
    take(directory)
    (item,) = run("plan", directory, "--json").json()["recovery"]
    assert item["intention"] == "move the file into quarantine; there is nothing to put back"
    step, *_ = run("status", directory, "--json").json()["next"]
    assert step["command"] is None
    assert "has schema version 0, the store has 1. Then: rtstore adopt" in step["why"]


def test_a_file_is_adopted_when_no_run_is_active(tmp_path: Path) -> None:
    """The manifest of a stopped runtime names no active run: the command that is printed adopts the
    file for the run of the last batch, whose end stays."""
    directory = copy(HARBOUR, tmp_path)
    edit_manifest(directory, lambda found: found.update(activeRunId=None))
    path = directory / FILE_OF[SESSIONS]
    path.write_bytes(path.read_bytes() + b" ")
    take(directory)
    step, *_ = run("status", directory, "--json").json()["next"]
    assert run(*words_of(step["command"])).code == 0
    with opened(directory) as store:
        batch = store.batches()[-1]
        assert (batch.run_id, batch.receipts[0].schema_name) == (DUSK.run_id, SESSIONS)
        assert {each.run_id: each.state for each in store.runs()}[DUSK.run_id] is RunState.ENDED


def test_what_is_said_of_a_directory_with_an_open_batch(tmp_path: Path) -> None:
    """Before the import the doctor prints no command that needs a database; after it, a recovery is
    said to close the batch, which no log can complete."""
    directory = copy(FERRY, tmp_path)
    assert "runtime-store.sqlite3" not in run("doctor", directory).out
    take(directory)
    steps = run("status", directory, "--json").json()["next"]
    (recover,) = [step for step in steps if "rtstore recover" in (step["command"] or "")]
    assert "closes ferry-batch-3 as failed, imported unfinished" in recover["why"]


def test_a_file_that_belongs_to_no_run(tmp_path: Path) -> None:
    """Where no run is known at all, somebody must name one, and no command without it is
    printed."""
    directory = copy(HARBOUR, tmp_path)
    nobody = {
        "runId": None,
        "capabilitySnapshotId": None,
        "behaviorFingerprint": None,
    }
    (directory / RECEIPTS).unlink()
    (directory / TOMBSTONES).unlink()

    def forget(found: dict[str, Any]) -> None:
        found["activeRunId"] = None
        for entry in found["entries"]:
            entry.update(nobody)

    edit_manifest(directory, forget)
    path = directory / FILE_OF[SESSIONS]
    path.write_bytes(path.read_bytes() + b" ")
    take(directory)
    step, *_ = run("status", directory, "--json").json()["next"]
    assert (step["command"], "--run-id RUN, with the run" in step["why"]) == (None, True)
    tried = run("adopt", directory, SESSIONS)
    assert "--run-id: is needed: no run is known yet" in tried.err
    assert run("adopt", directory, SESSIONS, "--run-id", "run-new").code == 0


def test_nothing_is_removed_that_is_nowhere_else(tmp_path: Path) -> None:
    """A plan from elsewhere that restores a store without an entry, and without contents, removes
    nothing."""
    directory = copy(FERRY, tmp_path)
    _die_before_the_manifest(directory, LEASES, SESSIONS, first=True)
    (directory / FILE_OF[LEASES]).unlink()
    take(directory)
    before = (directory / FILE_OF[SESSIONS]).read_bytes()
    with opened(directory) as store:
        plan = store.plan_recovery()
        action = RecoveryAction(
            kind=ActionKind.RESTORE_COMMITTED, schema_name=SESSIONS, reason="uncommitted_write"
        )
        step, *_ = store.recover(plan.model_copy(update={"actions": (action,)})).steps
        assert (step.outcome, step.detail) == (
            ActionOutcome.SKIPPED,
            "nothing is committed, and the database does not have what the file holds",
        )
        assert (directory / FILE_OF[SESSIONS]).read_bytes() == before


def test_a_run_that_was_set_after_the_death(tmp_path: Path) -> None:
    """A legacy runtime sets the active run without a batch: the manifest is newer than the batch
    that is finished, and its run stays the active one."""
    directory = copy(FERRY, tmp_path)
    _die_before_the_manifest(directory, SESSIONS)
    edit_manifest(
        directory,
        lambda found: found.update(activeRunId="run-flood", updatedAt="2026-06-01T10:00:00.000Z"),
    )
    take(directory)
    with opened(directory) as store:
        manifest = store.manifest()
        assert (manifest.high_watermark, manifest.active_run_id) == (3, "run-flood")
        assert store.runs()[0].run_id == "run-flood"
        assert store.runs()[0].state is RunState.ACTIVE


def test_an_imported_version_that_a_loss_of_power_brought_back(tmp_path: Path) -> None:
    """The content of an imported entry is in the log: when it is in the file again after a batch,
    the batch's version is put back, and nothing goes to quarantine."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    imported = (directory / FILE_OF[LEDGER]).read_bytes()
    with opened(directory) as store:
        store.write_batch(
            identity=DUSK, reason=BatchReason.DELIVERY_COMMIT, writes={LEDGER: ["new"]}
        )
    (directory / FILE_OF[LEDGER]).write_bytes(imported)
    with opened(directory) as store:
        assert store.last_recovery is not None
        assert store.read(LEDGER).data == ["new"]
        assert store.quarantined_files() == []


def test_an_imported_version_that_is_not_current(tmp_path: Path) -> None:
    """The receipts of an imported batch say what it wrote; its bytes were never here. The error
    does not blame the retention alone."""
    directory = copy(HARBOUR, tmp_path)
    take(directory)
    with opened(directory) as store:
        (old, *_) = [item for item in reversed(store.history(LAUNCH)) if not item.has_content]
        with pytest.raises(InvalidRequestError, match="is not here: an import has the current"):
            store.read(LAUNCH, at=old.batch_id)


# --- what a manifest may say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ({"state": "stale_run"}, "says stale_run: every plan finds out anew"),
        ({"state": "rebuild_required"}, "says rebuild_required: every plan finds out anew"),
        ({"fileSize": None, "mtimeMs": None}, None),
        ({"lastWriteReceiptId": None}, "no receipt was found for opencode.sessionStore"),
        ({"contentHash": None}, "the entry of opencode.sessionStore has no hash"),
    ],
)
def test_an_entry_that_does_not_know_all(
    tmp_path: Path, unknown: dict[str, object], said: str | None
) -> None:
    """States that we do not have, and null for a hash, a size, a time or a receipt, are taken as
    what they are; without a hash nothing is committed. What is exported is imported again."""
    directory = copy(HARBOUR, tmp_path)

    def change(manifest: dict[str, list[dict[str, object]]]) -> None:
        for entry in manifest["entries"]:
            if entry["schemaName"] == SESSIONS:
                entry.update(unknown)

    edit_manifest(directory, change)
    report = take(directory)
    assert [note for note in report.notes if said is None or said in note] or said is None
    with opened(directory) as store:
        entry = store.manifest().entry(SESSIONS)
        if "contentHash" in unknown:
            assert entry is None
            assert outcomes(report)[SESSIONS] is StoreOutcome.NO_MANIFEST_ENTRY
        else:
            assert entry is not None
            assert entry.file_size == len((directory / FILE_OF[SESSIONS]).read_bytes())
            assert store.check_readiness(expected=DUSK).ok
            assert store.read(SESSIONS).run_id == "run-dusk"
        store.export(tmp_path / "out")
    assert SESSIONS in outcomes(take(tmp_path / "out")) or entry is None


def test_files_without_any_batch(tmp_path: Path) -> None:
    """A legacy runtime writes some stores without a batch. An imported directory that has only such
    files opens; one with a file from after the import has lost the batch that wrote it."""
    directory = copy(FERRY, tmp_path)
    nothing: dict[str, object] = {"highWatermark": 0, "lastCommittedBatchId": None, "entries": []}
    edit_manifest(directory, lambda found: found.update(nothing, lastPreparingBatchId=None))
    (directory / RECEIPTS).unlink()
    take(directory)
    with opened(directory) as store:
        assert store.last_recovery is None
        assert store.plan_recovery().actions[1].reason == "uncommitted_write"
    edit(directory / FILE_OF[LEASES], lambda found: found.update(updatedAt="2027-01-01T00:00:00Z"))
    with pytest.raises(DatabaseMissingError, match="its database knows of no batch"):
        RuntimeStore.open(directory)


def test_a_stopped_run_is_compared_with_what_is_expected(tmp_path: Path) -> None:
    """After a stop the manifest names no run. The plan compares what the caller expects, and the
    run has ended for that reason."""
    directory = copy(HARBOUR, tmp_path)
    edit_manifest(directory, lambda found: found.update(activeRunId=None))
    take(directory)
    with opened(directory) as store:
        assert store.plan_recovery().stale_stores == ()
        assert store.plan_recovery(expected=DUSK).stale_stores == ()
        other = DUSK.model_copy(update={"run_id": "run-noon"})
        stale = store.plan_recovery(expected=other).stale_stores
        assert {each.part for each in stale} == {"run_id"}
        with pytest.raises(InvalidRequestError, match="names no high watermark"):
            store.recover(store.plan_recovery().model_copy(update={"high_watermark": None}))
        last = store.runs()[0]
        assert (last.run_id, last.state, last.why) == (
            "run-dusk",
            RunState.ENDED,
            "the manifest named no active run any more",
        )


def test_a_batch_that_only_the_manifest_knows(tmp_path: Path) -> None:
    """A batch that was being written, and of which no receipts know, is pointed out."""
    directory = copy(FERRY, tmp_path)
    edit_receipts(directory, lambda batches: batches.pop())
    report = take(directory)
    assert report.notes == (
        "the manifest says that batch ferry-batch-3 was being written; no receipts know of it",
    )
    with opened(directory) as store:
        assert store.manifest().last_preparing_batch_id == "ferry-batch-3"


def test_a_committing_legacy_batch_can_be_closed(tmp_path: Path) -> None:
    """`committing` there says no more than `preparing`: the batch is imported so, and recovery
    closes it like any other crashed batch."""
    directory = copy(FERRY, tmp_path)
    edit_receipts(directory, lambda batches: batches[2].update(state="committing"))
    assert take(directory).batches[BatchState.PREPARING] == 1
    with opened(directory) as store:
        store.recover(store.plan_recovery(expected=EBB))
        crashed = store.batch("ferry-batch-3")
        assert crashed is not None
        assert crashed.state is BatchState.FAILED


def test_keys_that_nobody_knows_are_pointed_out(tmp_path: Path) -> None:
    """What an import does not understand is said, so that nothing is lost silently."""
    directory = copy(HARBOUR, tmp_path)
    edit_manifest(directory, lambda manifest: manifest.update(region="north"))
    edit_manifest(directory, lambda manifest: manifest["entries"][3].update(note="x"))
    edit_receipts(directory, lambda batches: batches[0]["receipts"][0].update(signed=True))
    (note,) = take(directory).notes
    assert note == (
        "keys that are not known stay in the files only: manifest.entries[].note, "
        "manifest.region, receipts[].receipts[].signed"
    )


# --- times ----------------------------------------------------------------------------------------


@given(st.floats(min_value=1e10, max_value=9.0e12))
def test_milliseconds_survive_as_nanoseconds(mtime_ms: float) -> None:
    """The float that was written comes out again, bit for bit, for every time since 1970."""
    manifest = json.loads((OWN / HARBOUR / MANIFEST).read_bytes())["data"]
    text = json.dumps({**manifest["entries"][0], "mtimeMs": mtime_ms})
    entry = LegacyEntry.model_validate_json(text)
    assert entry.mtime_ns is not None
    assert entry.mtime_ns / 1_000_000 == mtime_ms
    assert entry.mtime_ns < 2**63
