"""What a plan says while batches are open."""

from __future__ import annotations

import pytest

from rtstore.model.decide import StoreFinding
from rtstore.model.records import (
    ActionKind,
    Criticality,
    InspectionState,
    ReadinessImpact,
    RecoveryAction,
    RunIdentity,
)
from tests.model.build import (
    described,
    descriptor,
    entry,
    finding,
    kinds,
    manifest,
    open_batch,
    plan_for,
)

MISSING, QUARANTINED = InspectionState.MISSING, InspectionState.QUARANTINED
FUTURE, MISMATCH = InspectionState.FUTURE_SCHEMA, InspectionState.HASH_MISMATCH
UNCOMMITTED = InspectionState.UNCOMMITTED_WRITE

BLOCK, QUARANTINE = ActionKind.BLOCK_READINESS, ActionKind.QUARANTINE
FORWARD, NOTHING = ActionKind.ROLL_FORWARD, ActionKind.NONE


def _about(batch_id: str, kind: ActionKind, name: str) -> RecoveryAction:
    """An action that concerns an open batch: its field says which, and so does its reason."""
    reason = f"uncommitted_batch:{batch_id}"
    return RecoveryAction(kind=kind, schema_name=name, reason=reason, batch_id=batch_id)


@pytest.mark.parametrize("in_database", [False, True])
@pytest.mark.parametrize("state", list(InspectionState))
def test_open_batch_with_contents(state: InspectionState, in_database: bool) -> None:
    """Each store of an open batch is rolled forward, whatever state its file is in."""
    plan = plan_for(
        [described("test.a"), described("test.b")],
        {
            "test.a": finding("test.a", state, in_database=in_database),
            "test.b": finding("test.b"),
        },
        open_batches=[open_batch("batch-2", "test.a")],
    )
    assert plan.actions == (
        _about("batch-2", FORWARD, "test.a"),
        RecoveryAction(kind=NOTHING, schema_name="test.b"),
    )
    assert plan.readiness_impact is ReadinessImpact.BLOCKED
    assert plan.diagnostics[-1] == "Uncommitted runtime store batch detected: batch-2"


def test_open_batch_before_stale_identity() -> None:
    """The open batch brings its own identity, so the entry it replaces is not called stale."""
    plan = plan_for(
        [descriptor()],
        {"test.store": finding()},
        of=manifest(entry(identity=RunIdentity(run_id="old-run"))),
        open_batches=[open_batch("batch-2", "test.store")],
    )
    assert kinds(plan) == [("test.store", FORWARD)]
    assert plan.diagnostics == ("Uncommitted runtime store batch detected: batch-2",)


def test_open_batches_go_forward_in_order() -> None:
    """Two open batches on one store are both rolled forward, the older one first."""
    plan = plan_for(
        [described("test.a"), described("test.b")],
        {"test.a": finding("test.a"), "test.b": finding("test.b")},
        open_batches=[
            open_batch("batch-2", "test.a"),
            open_batch("batch-3", "test.b", "test.a", number=3),
        ],
    )
    assert [(action.schema_name, action.batch_id) for action in plan.actions] == [
        ("test.a", "batch-2"),
        ("test.a", "batch-3"),
        ("test.b", "batch-3"),
    ]
    assert plan.diagnostics == (
        "Uncommitted runtime store batch detected: batch-2",
        "Uncommitted runtime store batch detected: batch-3",
    )


def test_open_batch_without_contents() -> None:
    """A batch whose contents nobody has blocks on the launch transaction; stores stay as found."""
    name = "opencode.launchTransaction"
    plan = plan_for(
        [described(name), described("test.b")],
        {name: finding(name), "test.b": finding("test.b", MISMATCH)},
        open_batches=[open_batch("batch-2")],
    )
    assert plan.actions == (
        RecoveryAction(kind=NOTHING, schema_name=name),
        RecoveryAction(kind=QUARANTINE, schema_name="test.b", reason="hash_mismatch"),
        _about("batch-2", BLOCK, name),
    )
    assert plan.readiness_impact is ReadinessImpact.BLOCKED
    assert plan.diagnostics == (
        "test.b is hash_mismatch",
        "Uncommitted runtime store batch detected: batch-2",
    )


def test_open_batch_without_contents_and_without_that_store() -> None:
    """It blocks as well where the launch transaction is no store of this registry, and names no
    store that nobody has."""
    plan = plan_for([descriptor()], {"test.store": finding()}, open_batches=[open_batch("batch-2")])
    assert kinds(plan) == [("test.store", NOTHING), ("-", BLOCK)]
    assert plan.readiness_impact is ReadinessImpact.BLOCKED


def test_open_batch_with_a_store_that_nobody_knows() -> None:
    """A store of an open batch that is not registered any more goes forward with the others."""
    plan = plan_for(
        [descriptor()],
        {"test.store": finding()},
        open_batches=[open_batch("batch-2", "test.gone", "test.store")],
    )
    assert kinds(plan) == [("test.store", FORWARD), ("test.gone", FORWARD)]
    assert plan.readiness_impact is ReadinessImpact.BLOCKED


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (finding(), None),
        (finding(state=MISSING), None),
        (finding(state=MISMATCH, content_hash="sha256:planned"), None),
        (finding(state=UNCOMMITTED, content_hash="sha256:planned"), None),
        (finding(state=MISMATCH, by_another_batch=True, content_hash="sha256:failed"), None),
        (finding(state=MISSING, in_database=True), "test.store is missing"),
        (finding(state=MISMATCH, content_hash="sha256:edited"), "test.store is hash_mismatch"),
        (finding(state=QUARANTINED, content_hash="sha256:torn"), "test.store is quarantined"),
        (finding(state=FUTURE, content_hash="sha256:newer"), "test.store is future_schema"),
    ],
)
def test_what_an_open_batch_does_not_explain(found: StoreFinding, message: str | None) -> None:
    """Beside an open batch, a file is remarked on only when it is neither old nor planned."""
    plan = plan_for(
        [descriptor()],
        {"test.store": found},
        open_batches=[open_batch("batch-2", "test.store")],
    )
    detected = "Uncommitted runtime store batch detected: batch-2"
    assert plan.diagnostics == ((detected,) if message is None else (message, detected))


@pytest.mark.parametrize("criticality", list(Criticality))
def test_an_open_batch_blocks_for_every_store(criticality: Criticality) -> None:
    """Even a diagnostic store blocks while a batch is open: the batch is more than the store."""
    plan = plan_for(
        [descriptor(criticality=criticality)],
        {"test.store": finding()},
        open_batches=[open_batch("batch-2", "test.store")],
    )
    assert plan.readiness_impact is ReadinessImpact.BLOCKED
