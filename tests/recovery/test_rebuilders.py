"""Recovery with the runtime's help: rebuilders, adoption, quarantined files put back, dry runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rtstore import (
    DELETED,
    ActionKind,
    ActionOutcome,
    BatchReason,
    BatchState,
    Descriptor,
    InvalidRequestError,
    NewerStoreFileError,
    RebuildRequest,
    RebuildStrategy,
    RecoveryReport,
    RecoveryStep,
    RunIdentity,
    RuntimeStore,
    StaleRunError,
)
from rtstore.model.records import Criticality, Owner

IDENTITY = RunIdentity(run_id="run-1", capability_snapshot_id="cap-1")


def descriptor(name: str, strategy: RebuildStrategy, criticality: Criticality) -> Descriptor:
    """A store of the tests' own, without a payload model."""
    return Descriptor(
        schema_name=name,
        relative_path=f"{name}.json",
        criticality=criticality,
        owner=Owner.E2E,
        rebuild_strategy=strategy,
    )


DESCRIPTORS = [
    descriptor(
        "polled", RebuildStrategy.POLL_OPENCODE_PROVIDER, Criticality.REBUILDABLE_FROM_PROVIDER
    ),
    descriptor(
        "verified",
        RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS,
        Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION,
    ),
    descriptor(
        "discovered", RebuildStrategy.RERUN_CAPABILITY_DISCOVERY, Criticality.READINESS_BLOCKING
    ),
    descriptor(
        "derived", RebuildStrategy.REBUILD_FROM_LAUNCH_STATE, Criticality.READINESS_BLOCKING
    ),
    descriptor("launch", RebuildStrategy.NONE, Criticality.READINESS_BLOCKING),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RuntimeStore]:
    """An open store in which only `launch` was written."""
    with RuntimeStore.open(tmp_path / "dir", team_name="team-a", descriptors=DESCRIPTORS) as opened:
        write(opened, launch={"n": 1})
        yield opened


def write(store: RuntimeStore, **data: Any) -> None:
    """Write some stores in one batch."""
    store.write_batch(identity=IDENTITY, reason=BatchReason.LAUNCH_CHECKPOINT, writes=data)


def step_of(steps: tuple[RecoveryStep, ...], name: str) -> RecoveryStep:
    """What became of the one action of a store."""
    (step,) = [step for step in steps if step.action.schema_name == name]
    return step


def fingerprint(directory: Path) -> dict[str, str]:
    """The hash of every file but those that SQLite and the lock keep for themselves."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith("runtime-store.")
    }


def test_every_kind_of_rebuild_calls_its_function_and_writes_a_recovery_batch(
    store: RuntimeStore,
) -> None:
    """Each lost store is rebuilt by the function of its strategy, in a batch of reason recovery
    bound to the run identity, and nothing is left to do."""
    asked: list[RebuildRequest] = []

    def rebuild(request: RebuildRequest) -> dict[str, str]:
        asked.append(request)
        return {"rebuilt": request.descriptor.schema_name}

    plan = store.plan_recovery(expected=IDENTITY)
    report = store.recover(plan, rebuilders=dict.fromkeys(RebuildStrategy, rebuild))

    assert {request.descriptor.schema_name for request in asked} == {
        "polled",
        "verified",
        "discovered",
        "derived",
    }
    assert all(request.identity == IDENTITY for request in asked)
    assert asked[0].committed.data("launch") == {"n": 1}
    assert {step.outcome for step in report.steps} == {ActionOutcome.DONE}
    assert report.remaining.manifest_healthy
    assert store.check_readiness(expected=IDENTITY).ok
    for name in ("polled", "verified", "discovered", "derived"):
        content = store.read(name)
        batch = store.batch(content.batch_id)
        assert batch is not None
        assert batch.reason is BatchReason.RECOVERY
        assert content.data == {"rebuilt": name}
        assert content.run_id == "run-1"


def test_a_strategy_of_ones_own_names_its_function(tmp_path: Path) -> None:
    """`recover` and `begin_run` look for the function under the strategy's own name; without it
    the step says which is missing; a misspelt one is refused by name."""
    own = Descriptor(
        schema_name="notes",
        relative_path="notes.json",
        criticality=Criticality.REBUILDABLE_FROM_PROVIDER,
        owner="scribe",
        rebuild_strategy="ask_the_scribe",
    )

    def ask(request: RebuildRequest) -> dict[str, object]:
        return {"reason": request.reason}

    with RuntimeStore.open(tmp_path, team_name="team-a", descriptors=[own]) as store:
        plan = store.plan_recovery()
        (step,) = store.recover(plan, identity=IDENTITY).steps
        assert step.detail == "waits for the runtime: no rebuilder for ask_the_scribe"
        with pytest.raises(InvalidRequestError, match="'ask_the_scribes' is no store, and no str"):
            store.recover(plan, rebuilders={"ask_the_scribes": ask})
        store.recover(plan, rebuilders={"ask_the_scribe": ask}, identity=IDENTITY)
        assert store.read("notes").data == {"reason": "missing"}
        store.begin_run("run-2", rebuilders={"ask_the_scribe": ask})
        assert store.read("notes").data == {"reason": "Runtime store notes has stale run id"}
    with RuntimeStore.open(tmp_path) as store:  # as the database remembers it
        (remembered,) = store.descriptors
        assert (remembered.owner, remembered.rebuild_strategy) == ("scribe", "ask_the_scribe")
        assert remembered == own


def test_a_rebuilder_that_fails_or_returns_nothing_leaves_its_store_as_it_was(
    store: RuntimeStore,
) -> None:
    """A rebuilder that raises is a failed step, one that returns None a skipped one; both say so,
    the file is untouched, and the other rebuilds go on."""
    directory = store.directory
    (directory / "polled.json").write_text("{broken")
    before = fingerprint(directory)

    def explode(_: RebuildRequest) -> None:
        raise ConnectionError("provider unreachable")

    report = store.recover(
        store.plan_recovery(),
        rebuilders={
            RebuildStrategy.POLL_OPENCODE_PROVIDER: explode,
            RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS: lambda _: None,
            RebuildStrategy.RERUN_CAPABILITY_DISCOVERY: lambda _: {"n": 2},
        },
    )

    failed, nothing = step_of(report.steps, "polled"), step_of(report.steps, "verified")
    assert failed.outcome is ActionOutcome.FAILED
    assert "provider unreachable" in (failed.detail or "")
    assert nothing.outcome is ActionOutcome.SKIPPED
    assert "returned nothing" in (nothing.detail or "")
    assert step_of(report.steps, "discovered").outcome is ActionOutcome.DONE
    after = fingerprint(directory)
    assert {name: after[name] for name in before} == before
    assert report.remaining.readiness_impact == "blocked"


def test_what_a_rebuilder_returns_is_checked_like_a_write(store: RuntimeStore) -> None:
    """Data that a write would refuse is refused from a rebuilder too, before anything is kept or
    overwritten."""
    before = fingerprint(store.directory)
    report = store.recover(
        store.plan_recovery(),
        rebuilders={RebuildStrategy.POLL_OPENCODE_PROVIDER: lambda _: {"bad": {1, 2}}},
    )
    step = step_of(report.steps, "polled")
    assert step.outcome is ActionOutcome.FAILED
    assert "data.bad" in (step.detail or "")
    assert fingerprint(store.directory) == before


def test_an_object_of_another_model_is_no_rebuilt_store(tmp_path: Path) -> None:
    """It is refused even where its JSON would pass for the store's own model."""

    class Workers(BaseModel, extra="allow"):
        alive: int = 0

    class Ledger(BaseModel):
        total: int = 0

    own: Descriptor[Any] = Descriptor("workers", payload=Workers, rebuild_strategy="ask")
    with RuntimeStore.open(tmp_path, team_name="team-a", descriptors=[own]) as store:
        plan = store.plan_recovery()
        (step,) = store.recover(
            plan, rebuilders={"ask": lambda _: Ledger()}, identity=IDENTITY
        ).steps
        assert step.outcome is ActionOutcome.FAILED
        assert "must be a Workers, not Ledger(total=0)" in (step.detail or "")
        assert not (tmp_path / own.relative_path).exists()


def test_a_rebuild_is_refused_when_somebody_wrote_meanwhile(store: RuntimeStore) -> None:
    """A rebuilder works on what was committed when it was called; a batch committed while it ran
    is not overwritten by its result."""

    def slow(_: RebuildRequest) -> dict[str, int]:
        write(store, polled={"fresh": True})
        return {"stale": 1}

    report = store.recover(
        store.plan_recovery(), rebuilders={RebuildStrategy.POLL_OPENCODE_PROVIDER: slow}
    )
    assert step_of(report.steps, "polled").outcome is ActionOutcome.FAILED
    assert store.read("polled").data == {"fresh": True}


def test_a_rebuild_is_refused_when_somebody_wrote_and_deleted_its_store(
    store: RuntimeStore,
) -> None:
    """Nothing is committed for it, as before; but the deletion is not undone by older data."""

    def slow(_: RebuildRequest) -> dict[str, int]:
        write(store, polled={"fresh": True})
        write(store, polled=DELETED)
        return {"stale": 1}

    report = store.recover(
        store.plan_recovery(), rebuilders={RebuildStrategy.POLL_OPENCODE_PROVIDER: slow}
    )
    step, deleted_by = step_of(report.steps, "polled"), store.batches()[-1].batch_id
    assert step.outcome is ActionOutcome.FAILED
    assert f"with nothing committed, and it was deleted by batch {deleted_by}" in (
        step.detail or ""
    )
    assert [version.is_deletion for version in store.history("polled")] == [False, True]


def test_a_rebuild_is_written_although_others_write_other_stores(store: RuntimeStore) -> None:
    """Only a write of the store itself refuses its result: the rebuilder may write another one, and
    of two stores the one that nobody wrote is rebuilt."""

    def slow(request: RebuildRequest) -> dict[str, str]:
        if request.descriptor.schema_name == "polled":
            write(store, launch={"n": 2})
        else:
            write(store, verified={"fresh": True})
        return {"rebuilt": request.descriptor.schema_name}

    report = store.recover(
        store.plan_recovery(),
        rebuilders={
            RebuildStrategy.POLL_OPENCODE_PROVIDER: slow,
            RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS: slow,
        },
    )
    assert step_of(report.steps, "polled").outcome is ActionOutcome.DONE
    verified = step_of(report.steps, "verified")
    assert verified.outcome is ActionOutcome.FAILED
    assert "with nothing committed" in (verified.detail or "")
    assert store.read("polled").data == {"rebuilt": "polled"}
    assert store.read("verified").data == {"fresh": True}
    assert store.read("launch").data == {"n": 2}


@pytest.mark.parametrize("named", [False, True])
def test_a_rebuild_for_a_run_that_was_superseded_meanwhile_is_refused(
    store: RuntimeStore, named: bool
) -> None:
    """What is rebuilt for the last run is not written once another one has begun; and where the
    caller named the run, the recovery stops."""

    def slow(request: RebuildRequest) -> dict[str, str]:
        store.begin_run("run-2", writes={"launch": {"n": 2}})
        return {"rebuilt": request.identity.run_id}

    def recover() -> RecoveryReport:
        return store.recover(
            store.plan_recovery(),
            rebuilders={RebuildStrategy.POLL_OPENCODE_PROVIDER: slow},
            identity=IDENTITY if named else None,
        )

    if named:
        with pytest.raises(StaleRunError):
            recover()
    else:
        step = step_of(recover().steps, "polled")
        assert step.outcome is ActionOutcome.FAILED
        assert "the rebuilt data was made for high watermark 1" in (step.detail or "")
    assert store.manifest().entry("polled") is None
    active = store.manifest().active_identity
    assert active is not None
    assert active.run_id == "run-2"


def test_without_a_rebuilder_a_store_waits_and_the_plan_says_so(store: RuntimeStore) -> None:
    """No function for a strategy: the action is skipped, names the strategy, and stays in what is
    left."""
    report = store.recover(store.plan_recovery())
    step = step_of(report.steps, "polled")
    assert step.outcome is ActionOutcome.SKIPPED
    assert "poll_opencode_provider" in (step.detail or "")
    kinds = {action.schema_name: action.kind for action in report.remaining.actions}
    assert kinds["polled"] is ActionKind.REBUILD_FROM_PROVIDER


def test_a_corrupt_file_is_quarantined_and_rebuilt_in_one_recovery(store: RuntimeStore) -> None:
    """A corrupt file whose plan says quarantine is quarantined and its store rebuilt by the
    same recovery."""
    path = store.directory / "discovered.json"
    path.write_text("{broken")
    report = store.recover(
        store.plan_recovery(),
        rebuilders={RebuildStrategy.RERUN_CAPABILITY_DISCOVERY: lambda _: {"n": 3}},
    )
    done = [step for step in report.steps if step.action.schema_name == "discovered"]
    assert [step.action.kind for step in done] == [
        ActionKind.QUARANTINE,
        ActionKind.RERUN_CAPABILITY_DISCOVERY,
    ]
    assert {step.outcome for step in done} == {ActionOutcome.DONE}
    (quarantined,) = store.quarantined_files()
    assert (store.directory / quarantined.quarantine_path).read_text() == "{broken"
    assert store.read("discovered").data == {"n": 3}


def test_every_action_is_recorded_with_what_became_of_it(store: RuntimeStore) -> None:
    """The run and its actions, those of rebuilds included, are rows with outcomes, and the
    manifest names the plan."""
    plan = store.plan_recovery()
    report = store.recover(
        plan, rebuilders={RebuildStrategy.POLL_OPENCODE_PROVIDER: lambda _: {"n": 1}}
    )
    rows = store.database.read(
        lambda connection: connection.exec_driver_sql(
            "SELECT kind, store, outcome, plan_id FROM recovery_log WHERE run_number = ?",
            (report.run_number,),
        ).fetchall()
    )
    assert [(row[0], row[1], row[2]) for row in rows] == [
        (step.action.kind, step.action.schema_name, step.outcome) for step in report.steps
    ]
    assert {row[3] for row in rows} == {plan.plan_id}
    assert store.manifest().last_recovery_plan_id == plan.plan_id


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(store: RuntimeStore) -> None:
    """A dry run names every action and touches neither files nor rows."""
    (store.directory / "launch.json").write_text("{}")
    before, batches = fingerprint(store.directory), len(store.batches())
    plan = store.plan_recovery()
    report = store.recover(plan, dry_run=True)
    assert report.run_number is None
    assert len(report.steps) == sum(a.kind is not ActionKind.NONE for a in plan.actions)
    assert [step.detail for step in report.steps] == [
        f"dry run: would {step.intention}" for step in report.steps
    ]
    assert fingerprint(store.directory) == before
    assert len(store.batches()) == batches
    assert store.plan_recovery().actions == plan.actions


def test_adopt_makes_a_file_changed_by_hand_the_committed_content(store: RuntimeStore) -> None:
    """The file's very bytes are committed in a batch of their own; nothing is reformatted."""
    path = store.directory / "launch.json"
    edited = path.read_bytes().replace(b'"n": 1', b'"n":   7')
    path.write_bytes(edited)
    batch = store.adopt("launch")
    assert batch.state is BatchState.COMMITTED
    assert batch.reason is BatchReason.RECOVERY
    assert path.read_bytes() == edited
    assert store.read("launch").data == {"n": 7}
    assert store.quarantined_files() == []
    assert step_free(store)


def step_free(store: RuntimeStore) -> bool:
    """Whether the plan has nothing to do about `launch`."""
    return all(
        action.kind is ActionKind.NONE
        for action in store.plan_recovery().actions
        if action.schema_name == "launch"
    )


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{broken", InvalidRequestError, "invalid_json"),
        ('{"schemaVersion": 99, "data": 1}', NewerStoreFileError, "schema version 99"),
        ('{"schemaVersion": 0, "data": 1}', InvalidRequestError, "schema version 0"),
        ('{"schemaVersion": 1, "data": "\\ud800"}', InvalidRequestError, "surrogate"),
    ],
)
def test_adopt_refuses_what_a_write_would_refuse(
    store: RuntimeStore, content: str, error: type[Exception], message: str
) -> None:
    """A file that is no envelope, of another version, or holds what a write may not, is not
    adopted, and stays as it is."""
    path = store.directory / "launch.json"
    path.write_text(content)
    with pytest.raises(error, match=message):
        store.adopt("launch")
    assert path.read_text() == content
    assert store.manifest().high_watermark == 1


def test_adopt_refuses_a_missing_file_and_one_that_is_committed(store: RuntimeStore) -> None:
    """There must be something to adopt."""
    with pytest.raises(InvalidRequestError, match="nothing to adopt"):
        store.adopt("launch")
    (store.directory / "launch.json").unlink()
    with pytest.raises(InvalidRequestError, match="no file"):
        store.adopt("launch")


def test_evidence_can_be_taken_back_and_adopted(store: RuntimeStore) -> None:
    """A quarantined edit is put back byte for byte, recorded as taken back, and can then be made
    the truth; what was there meanwhile is in the database."""
    path = store.directory / "launch.json"
    edited = path.read_bytes().replace(b'"n": 1', b'"n": 8')
    path.write_bytes(edited)
    store.recover(store.plan_recovery())
    assert store.read("launch").data == {"n": 1}
    (quarantined,) = store.quarantined_files()

    taken = store.restore_quarantined(quarantined.quarantine_number)

    assert path.read_bytes() == edited
    assert taken.restored_at is not None
    assert store.quarantined_files() == [taken]
    store.adopt("launch")
    assert store.read("launch").data == {"n": 8}


def test_evidence_that_was_tampered_with_is_not_taken_back(store: RuntimeStore) -> None:
    """Bytes that are not those that were kept do not go back as if they were."""
    path = store.directory / "launch.json"
    path.write_text("{broken")
    store.recover(store.plan_recovery())
    (quarantined,) = store.quarantined_files()
    (store.directory / quarantined.quarantine_path).write_text("something else")
    before = path.read_bytes()
    with pytest.raises(InvalidRequestError, match="not what was kept"):
        store.restore_quarantined(quarantined.quarantine_number)
    assert path.read_bytes() == before
    with pytest.raises(InvalidRequestError, match="no quarantined file 99"):
        store.restore_quarantined(99)


def test_a_directory_in_a_files_place_is_moved_aside_whole_and_can_come_back(
    store: RuntimeStore,
) -> None:
    """What is not a regular file is moved into quarantine as it is, the committed content put in
    its place; taken back, it stands there again."""
    path = store.directory / "launch.json"
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("kept")
    store.recover(store.plan_recovery())
    assert store.read("launch").data == {"n": 1}
    (quarantined,) = store.quarantined_files()
    assert (store.directory / quarantined.quarantine_path / "inside").read_text() == "kept"
    store.restore_quarantined(quarantined.quarantine_number)
    assert (path / "inside").read_text() == "kept"


def test_a_store_may_not_take_the_file_of_another(store: RuntimeStore) -> None:
    """A store renamed onto the file of a committed one is refused when it is opened; and before
    anything is logged, where the committed one was deleted then."""
    directory = store.directory
    renamed = DESCRIPTORS[-1].model_copy(update={"schema_name": "renamed"})
    with pytest.raises(InvalidRequestError, match=r"launch\.json is that of store launch"):
        RuntimeStore.open(directory, descriptors=[renamed])
    write(store, launch=DELETED)
    with RuntimeStore.open(directory, descriptors=[renamed]) as reopened:
        write(store, launch={"n": 3})
        with pytest.raises(InvalidRequestError, match=r"launch\.json is that of store launch"):
            write(reopened, renamed={"n": 2})
        assert reopened.manifest().high_watermark == 3
        assert len(reopened.batches()) == 3
