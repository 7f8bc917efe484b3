"""The stores of an imported directory, sound or not, and what lies beside them."""

from __future__ import annotations

from pathlib import Path

from rtstore import (
    KNOWN_DESCRIPTORS,
    ActionKind,
    BatchReason,
    BatchState,
    InspectionState,
)
from rtstore.legacy import OtherKind, StoreOutcome
from tests.legacy.build import (
    DUSK,
    EBB,
    FERRY,
    HARBOUR,
    LANE,
    RECEIPTS,
    add_store,
    copy,
    edit_manifest,
    opened,
    outcomes,
    take,
)
from tests.support import (
    DIAGNOSTICS,
    LAUNCH,
    LEDGER,
    SESSIONS,
    digest,
    launch_state,
    picture,
    plain_descriptor,
)

JOURNAL = "opencode.deliveryJournal"
EVIDENCE = "opencode.e2eEvidence"
"""A store that the legacy runtime has a name for, and no descriptor."""
CONTENT = b'{"schemaVersion": 1, "updatedAt": null, "data": {"proof": "caf\xc3\xa9"}}'


# --- stores that are not as committed -------------------------------------------------------------


def test_a_crashed_directory_is_blocked_and_says_why(tmp_path: Path) -> None:
    """The batch that was never finished and the one file that it changed are named by the plan."""
    directory = copy(FERRY, tmp_path)
    report = take(directory)
    assert report.batches == {BatchState.COMMITTED: 2, BatchState.PREPARING: 1}
    assert outcomes(report)[LAUNCH] is StoreOutcome.HASH_DIFFERS
    with opened(directory) as store:
        plan, check = store.assess(expected=EBB)
    assert not check.ok
    assert check.diagnostics == (
        f"Runtime store hash mismatch: {LAUNCH}",
        "Uncommitted runtime store batch detected: ferry-batch-3",
    )
    assert [action.kind for action in plan.actions if action.kind is not ActionKind.NONE] == [
        ActionKind.QUARANTINE,
        ActionKind.BLOCK_READINESS,
    ]


def test_a_crashed_directory_recovers_and_is_written_to_again(tmp_path: Path) -> None:
    """Recovery closes the crashed batch as failed and moves the changed file into quarantine, bytes
    and row kept; then a new batch makes the directory ready."""
    directory = copy(FERRY, tmp_path)
    changed = (directory / "launch-state.json").read_bytes()
    take(directory)
    with opened(directory) as store:
        store.recover(store.plan_recovery(expected=EBB))
        crashed = store.batch("ferry-batch-3")
        assert crashed is not None
        assert crashed.state is BatchState.FAILED
        assert store.manifest().last_preparing_batch_id is None
        (quarantined,) = store.quarantined_files()
        assert (quarantined.schema_name, quarantined.content_hash) == (LAUNCH, digest(changed))
        assert (directory / quarantined.quarantine_path).read_bytes() == changed
        assert not (directory / "launch-state.json").exists()
        left = store.plan_recovery(expected=EBB)
        assert [a.schema_name for a in left.actions if a.kind is not ActionKind.NONE] == [LAUNCH]
        data = launch_state("run-ebb", capabilitySnapshotId="cap-3", teamName="ferry")
        batch = store.write_batch(
            identity=EBB, reason=BatchReason.LAUNCH_CHECKPOINT, writes={LAUNCH: data}
        )
        assert batch.high_watermark == 3
        assert store.check_readiness(expected=EBB).ok
    with opened(directory) as store:
        assert store.last_recovery is None


def test_a_batch_can_be_written_before_any_recovery(tmp_path: Path) -> None:
    """Beside a crashed batch, a new batch quarantines the changed file and counts on."""
    directory = copy(FERRY, tmp_path)
    changed = (directory / "launch-state.json").read_bytes()
    take(directory)
    with opened(directory) as store:
        data = launch_state("run-ebb", capabilitySnapshotId="cap-3", teamName="ferry")
        batch = store.write_batch(
            identity=EBB, reason=BatchReason.LAUNCH_CHECKPOINT, writes={LAUNCH: data}
        )
        assert batch.high_watermark == 3
        (quarantined,) = store.quarantined_files()
        assert (directory / quarantined.quarantine_path).read_bytes() == changed
        assert store.check_readiness(expected=EBB).diagnostics == (
            "Uncommitted runtime store batch detected: ferry-batch-3",
        )


def test_a_missing_and_a_damaged_store_come_back_from_what_was_taken(tmp_path: Path) -> None:
    """What an import took serves like any committed content: opening the store puts it back."""
    directory = copy(HARBOUR, tmp_path)
    originals = {
        name: (directory / name).read_bytes()
        for name in ("launch-state.json", "opencode-sessions.json")
    }
    take(directory)
    (directory / "launch-state.json").unlink()
    (directory / "opencode-sessions.json").write_bytes(b'{"schemaVer')
    with opened(directory) as store:
        assert store.last_recovery is not None
        assert store.check_readiness(expected=DUSK).ok
    assert {name: (directory / name).read_bytes() for name in originals} == originals


def test_every_way_in_which_a_file_is_not_what_was_committed(tmp_path: Path) -> None:
    """Missing, changed, unreadable, no JSON though the hash fits, never committed: each store is
    reported as what it is, its entry is kept, and only sound contents are taken."""
    directory = copy(HARBOUR, tmp_path)
    (directory / "opencode-sessions.json").unlink()
    (directory / "opencode-diagnostics.json").write_bytes(b"{}")
    (directory / "opencode-permissions.json").unlink()
    (directory / "opencode-permissions.json").symlink_to(directory / "lanes.json")
    (directory / "opencode-host-leases.json").unlink()
    (directory / "opencode-host-leases.json").mkdir()
    twice = b'{"schemaVersion": 1, "updatedAt": null, "data": {"n": 1, "n": 2}}'
    files = {"prompt-delivery-ledger": b"\xff no JSON", "delivery-journal": twice}
    entries = {LEDGER: digest(b"\xff no JSON"), JOURNAL: digest(twice)}
    for file, content in files.items():
        (directory / f"opencode-{file}.json").write_bytes(content)

    def change(manifest: dict[str, list[dict[str, str]]]) -> None:
        for entry in manifest["entries"]:
            entry["contentHash"] = entries.get(entry["schemaName"], entry["contentHash"])
        manifest["entries"] = [
            entry for entry in manifest["entries"] if entry["schemaName"] != LAUNCH
        ]

    edit_manifest(directory, change)
    (directory / RECEIPTS).unlink()
    report = take(directory)
    assert outcomes(report) == {
        **dict.fromkeys(
            (item.schema_name for item in KNOWN_DESCRIPTORS), StoreOutcome.CONTENT_TAKEN
        ),
        LAUNCH: StoreOutcome.NO_MANIFEST_ENTRY,
        SESSIONS: StoreOutcome.MISSING,
        DIAGNOSTICS: StoreOutcome.HASH_DIFFERS,
        "opencode.permissionRequests": StoreOutcome.UNREADABLE,
        "opencode.hostLeases": StoreOutcome.UNREADABLE,
        LEDGER: StoreOutcome.NOT_A_STORE_FILE,
        JOURNAL: StoreOutcome.NOT_A_STORE_FILE,
    }
    details = {store.schema_name: store.detail for store in report.stores if store.detail}
    assert "symbolic link" in details["opencode.permissionRequests"]
    assert "not a regular file" in details["opencode.hostLeases"]
    assert "invalid_json" in details[LEDGER]
    assert "an object has the key 'n' twice" in details[JOURNAL]
    with opened(directory) as store:
        assert len(store.manifest().entries) == 9
        assert len(store.snapshot().contents) == 3
        plan = store.plan_recovery(expected=DUSK)
    reasons = {action.schema_name: action.reason for action in plan.actions}
    assert reasons[LEDGER] == reasons[JOURNAL] == InspectionState.QUARANTINED
    assert reasons[SESSIONS] == InspectionState.MISSING


def test_a_lane_is_a_directory_of_its_own(tmp_path: Path) -> None:
    """A lane is imported by itself: its identity has no capability snapshot, a file that nobody
    committed is reported, and stores that it never had are not."""
    directory = copy(LANE, tmp_path)
    report = take(directory)
    assert report.active_identity is not None
    assert report.active_identity.capability_snapshot_id is None
    assert outcomes(report) == {
        SESSIONS: StoreOutcome.CONTENT_TAKEN,
        LEDGER: StoreOutcome.NO_MANIFEST_ENTRY,
    }


# --- what lies beside -----------------------------------------------------------------------------


def test_files_beside_the_stores_are_reported_and_left(tmp_path: Path) -> None:
    """Lanes, their index, locks and temporary files of dead processes and whatever
    else lies there are named in the report; none of them is touched."""
    directory = copy(HARBOUR, tmp_path)
    (directory / "manifest.json.lock").write_text("4711")
    (directory / "opencode-permissions.json.lock").mkdir()
    (directory / ".tmp.5f0c").write_text("half of")
    (directory / "launch-state.json.tmp.812.1").write_text("half of")
    (directory / "notes").mkdir()
    (directory / "lanes" / "never-started").mkdir()
    (directory / "runtime-store.lock").touch()
    before = picture(directory, without=("runtime-store.lock",))
    report = take(directory)
    assert {item.path: item.kind for item in report.other_files} == {
        "lanes/secondary%3Aopencode%3Amira": OtherKind.LANE,
        "lanes/never-started": OtherKind.OTHER,
        "lanes.json": OtherKind.LANE_INDEX,
        "manifest.json.lock": OtherKind.LOCK,
        "opencode-permissions.json.lock": OtherKind.LOCK,
        ".tmp.5f0c": OtherKind.TEMPORARY_FILE,
        "launch-state.json.tmp.812.1": OtherKind.TEMPORARY_FILE,
        "notes": OtherKind.OTHER,
    }
    after = picture(directory)
    assert {name: after[name] for name in before} == before


def test_files_beside_a_store_in_a_folder_are_reported_too(tmp_path: Path) -> None:
    """The folder of a store is part of the store; what else is in it is not."""
    directory = copy(LANE, tmp_path)
    add_store(directory, "my.deep", "deep/down/my.json", CONTENT, "receipt-deep")
    (directory / "deep" / "down" / "my.json.lock").touch()
    (directory / "deep" / "other.txt").touch()
    report = take(directory)
    assert [item.path for item in report.other_files] == ["deep/down/my.json.lock"]
    assert outcomes(report)["my.deep"] is StoreOutcome.CONTENT_TAKEN


# --- descriptors ----------------------------------------------------------------------------------


def test_a_store_without_descriptor_is_kept_and_reported(tmp_path: Path) -> None:
    """An entry of a store that nobody registered is imported with its content; a runtime that
    registers the store later reads and writes it like any other."""
    directory = copy(HARBOUR, tmp_path)
    add_store(directory, EVIDENCE, "opencode-e2e-evidence.json", CONTENT, "receipt-lost")
    report = take(directory)
    (store,) = [item for item in report.stores if not item.registered]
    assert (store.schema_name, store.outcome) == (EVIDENCE, StoreOutcome.CONTENT_TAKEN)
    assert any(f"no descriptor is known of {EVIDENCE}" in note for note in report.notes)
    assert "opencode-e2e-evidence.json" not in {item.path for item in report.other_files}
    descriptors = [*KNOWN_DESCRIPTORS, plain_descriptor(EVIDENCE, "opencode-e2e-evidence.json")]
    with opened(directory, descriptors=descriptors) as runtime:
        assert runtime.read(EVIDENCE).data == {"proof": "café"}
        assert runtime.check_readiness(expected=DUSK).ok
        runtime.write_batch(
            identity=DUSK, reason=BatchReason.DELIVERY_COMMIT, writes={EVIDENCE: {"proof": 2}}
        )
        assert runtime.read(EVIDENCE).high_watermark == 8


def test_descriptors_of_the_runtime_are_remembered(tmp_path: Path) -> None:
    """Descriptors that are passed decide what is a store, and the directory remembers them."""
    directory = copy(HARBOUR, tmp_path)
    add_store(directory, EVIDENCE, "opencode-e2e-evidence.json", CONTENT, "receipt-lost")
    mine = [*KNOWN_DESCRIPTORS, plain_descriptor(EVIDENCE, "opencode-e2e-evidence.json")]
    report = take(directory, descriptors=mine)
    assert all(store.registered for store in report.stores)
    with opened(directory) as store:
        assert store.descriptors.names == tuple(item.schema_name for item in mine)
        assert store.read(EVIDENCE).data == {"proof": "café"}


def test_no_descriptors_at_all(tmp_path: Path) -> None:
    """An empty list of descriptors is one: every store is kept, and none is registered."""
    directory = copy(HARBOUR, tmp_path)
    report = take(directory, descriptors=[])
    assert len(report.stores) == 10
    assert not any(store.registered for store in report.stores)
