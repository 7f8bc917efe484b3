"""A plan carried out: files quarantined, contents put back, every step on record."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DATABASE_NAME,
    ActionKind,
    ActionOutcome,
    ConflictError,
    Criticality,
    Descriptor,
    ReadinessImpact,
    RecoveryPlan,
    RuntimeStore,
    UnsafePathError,
    WrongTeamError,
)
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    NOON_TEXT,
    Crash,
    Ids,
    WatchedFileSystem,
    agree,
    at,
    at_call,
    data_in,
    digest,
    file_of,
    files_picture,
    new_directory,
    open_store,
    plain_descriptor,
    stray_files,
    write,
)

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'
NEWER = b'{"schemaVersion": 9, "data": "newer"}'
NEWER_STILL = b'{"schemaVersion": 10, "data": "newer"}'
CALLS = 44
"""Of the recovery that brings the directory of the fixture in order."""
STORES = (LEASES, LEDGER, DIAGNOSTICS)
DONE, SKIPPED, FAILED = ActionOutcome.DONE, ActionOutcome.SKIPPED, ActionOutcome.FAILED


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with three plain stores: two committed and changed by hand since, one
    by a newer program, and one whose file nobody committed."""
    directory = new_directory(tmp_path)
    descriptors = [plain_descriptor(name, FILE_OF[name]) for name in STORES]
    with open_store(
        directory,
        descriptors=descriptors,
        batch_id_factory=Ids("early"),
        receipt_id_factory=Ids("e"),
    ) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1, LEDGER: 1})
    (directory / FILE_OF[LEASES]).write_bytes(BY_HAND)
    (directory / FILE_OF[LEDGER]).write_bytes(NEWER)
    (directory / FILE_OF[DIAGNOSTICS]).write_bytes(NEWER_STILL)
    return directory


def query(directory: Path, statement: str) -> list[Any]:
    """What the database says, to somebody who opens it for reading."""
    path = directory / DATABASE_NAME
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
        return raw.execute(statement).fetchall()


def kept_bytes(store: RuntimeStore) -> set[bytes]:
    """The bytes of all quarantined files."""
    return {
        (store.directory / item.quarantine_path).read_bytes() for item in store.quarantined_files()
    }


def check_recovered(store: RuntimeStore) -> None:
    """Committed contents are back, what was there is quarantined, nothing is left to do but what
    nobody ever committed."""
    assert agree(store)
    assert [data_in(file_of(store, name)) for name in (LEASES, LEDGER)] == [1, 1]
    assert not file_of(store, DIAGNOSTICS).exists()
    assert kept_bytes(store) == {BY_HAND, NEWER, NEWER_STILL}
    assert stray_files(store.directory) == []


def test_quarantine_moves_evidence_and_puts_the_committed_content_back(directory: Path) -> None:
    """Where nothing is committed, the file goes; rows say what it was, why, when and its hash."""
    with open_store(directory) as store:
        plan = store.plan_recovery()
        assert [(item.kind, item.schema_name, item.reason) for item in plan.actions] == [
            (ActionKind.QUARANTINE, LEASES, "hash_mismatch"),
            (ActionKind.QUARANTINE, LEDGER, "future_schema"),
            (ActionKind.QUARANTINE, DIAGNOSTICS, "future_schema"),
        ]

        report = store.recover(plan)

        assert [step.outcome for step in report.steps] == [DONE, DONE, DONE]
        assert "committed content put back" in str(report.steps[0].detail)
        assert "nothing to put back" in str(report.steps[2].detail)
        check_recovered(store)
        [first, *_] = store.quarantined_files()
        assert (first.schema_name, first.relative_path) == (LEASES, FILE_OF[LEASES])
        assert (first.content_hash, first.file_size) == (digest(BY_HAND), len(BY_HAND))
        assert (first.plan_id, first.batch_id) == (plan.plan_id, None)
        assert first.reason == f"Runtime store hash mismatch: {LEASES}"
        assert first.quarantine_path in str(report.steps[0].detail)


def test_a_recovery_ends_with_a_plan_that_shows_what_is_left(directory: Path) -> None:
    """A store that nobody ever wrote still blocks: recovery invents nothing."""
    with open_store(directory) as store:
        report = store.recover(store.plan_recovery())

        assert report.remaining.readiness_impact is ReadinessImpact.BLOCKED
        assert [
            (item.kind, item.schema_name, item.reason)
            for item in report.remaining.actions
            if item.kind is not ActionKind.NONE
        ] == [(ActionKind.BLOCK_READINESS, DIAGNOSTICS, "missing")]
        again = store.recover(report.remaining)
        assert [step.outcome for step in again.steps] == [SKIPPED]
        write(store, DIAGNOSTICS, "now")
        assert store.check_readiness().ok


def test_every_step_is_on_record(directory: Path) -> None:
    """Somebody with the sqlite3 shell sees what was done, when, why, and with which result."""
    with open_store(directory) as store:
        plan = store.plan_recovery()
        report = store.recover(plan)
        assert store.manifest().last_recovery_plan_id == plan.plan_id

        assert query(
            directory,
            "SELECT run_number, plan_id, started_by, high_watermark, readiness_impact, started_at,"
            " completed_at, remaining_impact FROM recovery_runs",
        ) == [(1, plan.plan_id, "recover", 1, "blocked", NOON_TEXT, NOON_TEXT, "blocked")]
        assert report.run_number == 1
        assert query(
            directory, "SELECT kind, store, reason, outcome, detail FROM recovery_log"
        ) == [
            (
                step.action.kind,
                step.action.schema_name,
                step.action.reason,
                step.outcome,
                step.detail,
            )
            for step in report.steps
        ]
        problems = query(directory, "SELECT problem, count(*) FROM open_problems GROUP BY 1")
        assert problems == [("quarantined file", 3)]


def test_carrying_out_a_plan_twice_is_harmless(directory: Path) -> None:
    """What is in order by now is left alone, and nothing is quarantined twice."""
    with open_store(directory) as store:
        plan = store.plan_recovery()
        store.recover(plan)
        before, quarantined = files_picture(directory), store.quarantined_files()

        report = store.recover(plan)

        assert [step.outcome for step in report.steps] == [SKIPPED, SKIPPED, SKIPPED]
        assert files_picture(directory) == before
        assert store.quarantined_files() == quarantined
        check_recovered(store)


def test_nothing_to_do_is_not_on_record(tmp_path: Path) -> None:
    """A healthy store that is recovered is a healthy store."""
    directory = new_directory(tmp_path)
    with open_store(directory, descriptors=[plain_descriptor("test.a", "a.json")]) as store:
        write(store, "test.a", 1)
        plan = store.plan_recovery()
        report = store.recover(plan)

        assert (report.run_number, report.steps, report.remaining) == (None, (), plan)
        assert query(directory, "SELECT * FROM recovery_runs") == []


def test_a_plan_for_an_older_watermark_is_refused(directory: Path) -> None:
    """A batch came in between: what the plan says may be wrong by now, so nothing is done. A dry
    run does nothing anyway: it answers for the moment of the plan."""
    with open_store(directory) as store:
        plan = store.plan_recovery()
        write(store, LEASES, 2)
        before = files_picture(directory)
        assert store.recover(plan, dry_run=True).steps

        with pytest.raises(ConflictError, match="the plan") as caught:
            store.recover(plan)

        assert (caught.value.expected_high_watermark, caught.value.high_watermark) == (1, 2)
        assert files_picture(directory) == before
        assert query(directory, "SELECT * FROM recovery_runs") == []
        store.recover(store.plan_recovery())
        assert data_in(file_of(store, LEASES)) == 2


def test_a_plan_of_another_team_is_refused(directory: Path) -> None:
    """Plans are data and can be carried about; they fit one directory."""
    with open_store(directory) as store:
        plan = store.plan_recovery().model_copy(update={"team_name": "team-b"})
        before = files_picture(directory)

        with pytest.raises(WrongTeamError):
            store.recover(plan)

        assert files_picture(directory) == before


def test_a_plan_can_be_written_down_and_carried_out_later(directory: Path) -> None:
    """It is frozen data: its dump is the plan."""
    with open_store(directory) as store:
        text = store.plan_recovery().model_dump_json(by_alias=True)
    with open_store(directory) as store:
        store.recover(RecoveryPlan.model_validate_json(text))
        check_recovered(store)


def test_an_edit_after_the_plan_is_kept_too(directory: Path) -> None:
    """Every action looks again, so what is quarantined is what is there, not what was
    planned for."""
    with open_store(directory) as store:
        plan = store.plan_recovery()
        for name in STORES:
            file_of(store, name).write_bytes(b"later")
        store.recover(plan)

        assert agree(store)
        assert kept_bytes(store) == {b"later"}
        assert len(store.quarantined_files()) == 3


def _open(directory: Path, **options: Any) -> RuntimeStore:
    """Open it as it is, with ids that were not taken before."""
    return open_store(directory, recover=False, **options)


def test_the_calls_of_a_recovery_are_counted_right(directory: Path) -> None:
    """The test below dies at every one of them."""
    fs = WatchedFileSystem()
    with _open(directory, fs=fs) as store:
        store.recover(store.plan_recovery())

    assert len(fs.calls) == CALLS


@pytest.mark.one_in(3)
@pytest.mark.parametrize("number", range(CALLS))
def test_a_recovery_that_dies_is_run_again(directory: Path, number: int) -> None:
    """Death at any call: a new plan carries on, and nothing was lost in between."""
    with _open(directory, fs=WatchedFileSystem(at_call(number, Crash()))) as store:
        plan = store.plan_recovery()
        with pytest.raises(Crash):
            store.recover(plan)

    for name, content in {LEASES: BY_HAND, LEDGER: NEWER, DIAGNOSTICS: NEWER_STILL}.items():
        path = directory / FILE_OF[name]
        kept = {item.read_bytes() for item in directory.glob("quarantine/*.json.*")}
        assert content in kept or path.read_bytes() == content
    with open_store(directory) as store:
        store.recover(store.plan_recovery())
        check_recovered(store)
        assert query(directory, "SELECT * FROM recovery_runs WHERE completed_at IS NULL") == []


def test_a_step_that_fails_leaves_its_store_and_the_others_go_on(directory: Path) -> None:
    """The report says which and why; it stays in the plan; run again, it is done."""
    path = directory / FILE_OF[LEASES]
    fs = WatchedFileSystem(at("rename", path, OSError(28, "no space")))
    with open_store(directory, fs=fs) as store:
        report = store.recover(store.plan_recovery())

        assert [step.outcome for step in report.steps] == [FAILED, DONE, DONE]
        assert "no space" in str(report.steps[0].detail)
        assert path.read_bytes() == BY_HAND
        left = [item.schema_name for item in report.remaining.actions if item.reason]
        assert left == [LEASES, DIAGNOSTICS]
        fs.judge = None
        store.recover(report.remaining)
        check_recovered(store)


def test_evidence_that_cannot_be_kept_leaves_the_file(directory: Path) -> None:
    """Without its copy nothing is overwritten or removed."""
    before = files_picture(directory)
    fs = WatchedFileSystem(
        lambda _number, name, subject: (
            OSError(28, "no space") if name == "create" and "quarantine" in str(subject) else None
        )
    )
    with open_store(directory, fs=fs) as store:
        report = store.recover(store.plan_recovery())

        assert [step.outcome for step in report.steps] == [FAILED, FAILED, FAILED]
        assert store.quarantined_files() == []
    assert files_picture(directory) == before


def test_an_open_batch_is_rolled_forward_by_a_plan(directory: Path) -> None:
    """Who looked at the crash first carries out what opening would have done."""
    died = WatchedFileSystem(at("rename", directory / FILE_OF[DIAGNOSTICS], Crash()))
    (directory / FILE_OF[LEDGER]).unlink()
    (directory / FILE_OF[DIAGNOSTICS]).unlink()
    writes = {LEDGER: 2, DIAGNOSTICS: 2, LEASES: 2}
    with _open(directory, fs=died) as store, pytest.raises(Crash):
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
    with _open(directory) as store:
        plan = store.plan_recovery()
        report = store.recover(plan)

        assert [(step.action.kind, step.outcome) for step in report.steps] == [
            (ActionKind.ROLL_FORWARD, DONE)
        ] * 3
        assert store.manifest().high_watermark == 2
        assert [data_in(file_of(store, name)) for name in STORES] == [2, 2, 2]
        assert agree(store)
        assert BY_HAND in kept_bytes(store)
        assert report.remaining.manifest_healthy


@pytest.mark.parametrize("kind", ["link", "link to nowhere"])
@pytest.mark.parametrize("name", [LEASES, DIAGNOSTICS])
def test_a_link_is_left_to_a_person(directory: Path, kind: str, name: str) -> None:
    """What is behind it may be the newer version, so neither opening nor a recovery replaces it; a
    write to the store is refused, and the others go on."""
    path, target = directory / FILE_OF[name], directory / "target.json"
    path.unlink()
    target.write_text("edited there")
    path.symlink_to(target if kind == "link" else "nowhere")
    with open_store(directory) as store:
        plan = store.plan_recovery()
        (action,) = [item for item in plan.actions if item.schema_name == name]
        assert action.kind is ActionKind.BLOCK_READINESS
        (step,) = [item for item in store.recover(plan).steps if item.action == action]
        assert step.detail is not None
        assert "it is, or is behind, a symbolic link" in step.detail
        with pytest.raises(UnsafePathError, match="symbolic link"):
            write(store, name, 3)
        other = LEASES if name == DIAGNOSTICS else DIAGNOSTICS
        write(store, other, 3)
        assert (path.is_symlink(), target.read_text()) == (True, "edited there")


@pytest.mark.parametrize("name", [LEASES, DIAGNOSTICS])
def test_what_is_no_file_is_moved_aside_as_it_is(directory: Path, name: str) -> None:
    """With all that is in it."""
    path = directory / FILE_OF[name]
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")

    with _open(directory) as store:
        store.recover(store.plan_recovery())
        [item] = [item for item in store.quarantined_files() if item.relative_path == path.name]
        aside = directory / item.quarantine_path
        assert (item.content_hash, item.file_size) == (None, None)
        assert (aside / "inside").read_text() == "kept"
        assert path.exists() is (name == LEASES)
        assert agree(store)


def test_a_stale_run_is_left_to_the_runtime(tmp_path: Path) -> None:
    """No file is wrong, so none is touched; the step says what it waits for."""
    directory = new_directory(tmp_path)
    known = [plain_descriptor(LAUNCH, FILE_OF[LAUNCH])]
    with open_store(directory, descriptors=known) as store:
        write(store, LAUNCH, 1)
        other = IDENTITY.model_copy(update={"run_id": "run-2"})
        before = files_picture(directory)

        report = store.recover(store.plan_recovery(expected=other), identity=other)

        assert [step.outcome for step in report.steps] == [SKIPPED]
        assert report.remaining.readiness_impact is ReadinessImpact.BLOCKED
        assert files_picture(directory) == before


@pytest.mark.parametrize("is_named", [False, True])
def test_finishing_the_beginning_of_another_run(tmp_path: Path, *, is_named: bool) -> None:
    """What remains is said for the run that has begun by then, and stores are rebuilt for it; but
    for the run that the plan was made for, where somebody named one."""
    lost = Descriptor(
        LEASES,
        criticality=Criticality.REBUILDABLE_FROM_PROVIDER,
        rebuild_strategy="ask",
    )
    descriptors = [plain_descriptor(LEDGER, FILE_OF[LEDGER]), lost]
    dying = WatchedFileSystem(lambda _, name, __: Crash() if name == "rename" else None)
    with open_store(tmp_path / "state", descriptors=descriptors) as store:
        store.begin_run(IDENTITY, writes={LEDGER: 1})
        with (
            pytest.raises(Crash),
            open_store(
                tmp_path / "state",
                descriptors=descriptors,
                batch_id_factory=Ids("other"),
                receipt_id_factory=Ids("o"),
                fs=dying,
            ) as other,
        ):
            other.begin_run("run-2", keep="all", supersede=True)
        plan = store.plan_recovery(expected=IDENTITY if is_named else None)
        if is_named:
            report = store.recover(plan)
            assert [item.schema_name for item in report.remaining.stale_stores] == [LEDGER]
            return
        report = store.recover(plan, rebuilders={"ask": lambda request: request.identity.run_id})
        assert report.remaining.manifest_healthy
        assert (report.remaining.run_id, store.read(LEASES).data) == ("run-2", "run-2")
