"""The tables of the plan, row by row."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rtstore.model.decide import REBUILDS, STALE, StoreFinding, build_readiness, stale_store
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.model.records import (
    ActionKind,
    Criticality,
    InspectionState,
    LoggedBatch,
    ReadinessImpact,
    RebuildStrategy,
    RecoveryAction,
    RecoveryPlan,
    RunIdentity,
)
from rtstore.recovery.rebuilders import REBUILD_KINDS
from tests.model.build import (
    IDENTITY,
    LEGACY,
    described,
    descriptor,
    entry,
    finding,
    inspection,
    kinds,
    manifest,
    needs_legacy,
    open_batch,
    plan_for,
    read_json,
)

CHECKOUT = Path(__file__).parents[2]

MISSING, QUARANTINED = InspectionState.MISSING, InspectionState.QUARANTINED
FUTURE, MISMATCH = InspectionState.FUTURE_SCHEMA, InspectionState.HASH_MISMATCH
UNCOMMITTED, HEALTHY = InspectionState.UNCOMMITTED_WRITE, InspectionState.HEALTHY
DAMAGED_STATES = (MISSING, QUARANTINED, FUTURE, MISMATCH, UNCOMMITTED)

POLL, VERIFY = (
    RebuildStrategy.POLL_OPENCODE_PROVIDER,
    RebuildStrategy.VERIFY_CANONICAL_DESTINATIONS,
)
RERUN, DROP = (
    RebuildStrategy.RERUN_CAPABILITY_DISCOVERY,
    RebuildStrategy.DROP_AFTER_QUARANTINE,
)
LAUNCH_STATE, NONE = RebuildStrategy.REBUILD_FROM_LAUNCH_STATE, RebuildStrategy.NONE

PROVIDER, DESTINATION = (
    ActionKind.REBUILD_FROM_PROVIDER,
    ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
)
DISCOVER, QUARANTINE = ActionKind.RERUN_CAPABILITY_DISCOVERY, ActionKind.QUARANTINE
BLOCK, RESTORE = ActionKind.BLOCK_READINESS, ActionKind.RESTORE_COMMITTED
NOTHING = ActionKind.NONE

BY_STRATEGY = {
    POLL: PROVIDER,
    VERIFY: DESTINATION,
    RERUN: DISCOVER,
    DROP: QUARANTINE,
    LAUNCH_STATE: BLOCK,
    NONE: BLOCK,
}
WHEN_QUARANTINED = {
    POLL: PROVIDER,
    VERIFY: DESTINATION,
    RERUN: QUARANTINE,
    DROP: QUARANTINE,
    LAUNCH_STATE: QUARANTINE,
    NONE: QUARANTINE,
}
ALWAYS_QUARANTINE = dict.fromkeys(RebuildStrategy, QUARANTINE)

BY_STATE = {
    MISSING: BY_STRATEGY,
    UNCOMMITTED: BY_STRATEGY,
    QUARANTINED: WHEN_QUARANTINED,
    FUTURE: ALWAYS_QUARANTINE,
    MISMATCH: ALWAYS_QUARANTINE,
}
"""What is done when the database has nothing to put back, by state and then by strategy."""

# --- helpers ------------------------------------------------------------------------------------


def single(strategy: str, found: StoreFinding) -> RecoveryPlan:
    """The plan of a directory with one store."""
    return plan_for([descriptor(strategy=strategy)], {"test.store": found})


# --- one store ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "strategy"), list(product(DAMAGED_STATES, RebuildStrategy)))
def test_nothing_to_put_back(state: InspectionState, strategy: RebuildStrategy) -> None:
    """Without a committed content the state and the strategy decide; the state is the reason."""
    plan = single(strategy, finding(state=state))
    kind = BY_STATE[state][strategy]
    assert plan.actions == (
        RecoveryAction(kind=kind, schema_name="test.store", reason=state.value),
    )
    assert plan.diagnostics == (f"test.store is {state.value}",)
    assert not plan.manifest_healthy


OWN = "ask_the_scribe"
OWN_KINDS = {
    Criticality.READINESS_BLOCKING: (PROVIDER, ReadinessImpact.BLOCKED),
    Criticality.REBUILDABLE_FROM_PROVIDER: (PROVIDER, ReadinessImpact.DEGRADED),
    Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION: (DESTINATION, ReadinessImpact.DEGRADED),
    Criticality.DIAGNOSTIC_ONLY: (PROVIDER, ReadinessImpact.NONE),
}


@pytest.mark.parametrize(
    ("state", "criticality"), list(product((MISSING, UNCOMMITTED, QUARANTINED), Criticality))
)
def test_a_strategy_of_ones_own_waits_for_its_rebuilder(
    state: InspectionState, criticality: Criticality
) -> None:
    """Nothing goes to quarantine before the function was called; the plan names it, and how much
    that weighs is the criticality's."""
    one = descriptor(strategy=OWN, criticality=criticality)
    plan = plan_for([one], {"test.store": finding(state=state)})
    kind, impact = OWN_KINDS[criticality]
    assert kinds(plan) == [("test.store", kind)]
    assert (plan.readiness_impact, plan.actions[0].rebuilder) == (impact, OWN)
    assert plan.diagnostics == (
        f"test.store is {state.value}",
        f"Runtime store test.store needs the rebuilder {OWN}",
    )
    assert plan.model_dump(mode="json", by_alias=True)["actions"][0]["rebuilder"] == OWN


@pytest.mark.parametrize("state", [MISSING, QUARANTINED, FUTURE, MISMATCH])
def test_with_content_a_strategy_of_ones_own_is_as_any(state: InspectionState) -> None:
    """What is committed is put back, and no rebuilder is asked for."""
    ours = single(OWN, finding(state=state, in_database=True))
    theirs = single(NONE, finding(state=state, in_database=True))
    assert (ours.actions, ours.diagnostics) == (theirs.actions, theirs.diagnostics)


@pytest.mark.parametrize(("state", "strategy"), list(product(DAMAGED_STATES, RebuildStrategy)))
def test_committed_content_in_the_database(
    state: InspectionState, strategy: RebuildStrategy
) -> None:
    """A missing or quarantined file is put back; one that somebody changed is quarantined first."""
    plan = single(strategy, finding(state=state, in_database=True))
    kind = RESTORE if state in (MISSING, QUARANTINED) else BY_STATE[state][strategy]
    assert plan.actions == (
        RecoveryAction(kind=kind, schema_name="test.store", reason=state.value),
    )


@pytest.mark.parametrize("in_database", [False, True])
@pytest.mark.parametrize(("state", "strategy"), list(product(DAMAGED_STATES, RebuildStrategy)))
def test_written_by_another_batch(
    state: InspectionState, strategy: RebuildStrategy, in_database: bool
) -> None:
    """A file that a failed batch wrote is undone whatever its state; a missing one is no file."""
    plan = single(strategy, finding(state=state, in_database=in_database, by_another_batch=True))
    undone = state is not MISSING or in_database
    kind = RESTORE if undone else BY_STATE[state][strategy]
    assert plan.actions == (
        RecoveryAction(kind=kind, schema_name="test.store", reason=state.value),
    )


@pytest.mark.parametrize("by_another_batch", [False, True])
@pytest.mark.parametrize("in_database", [False, True])
@pytest.mark.parametrize("strategy", list(RebuildStrategy))
def test_healthy(strategy: RebuildStrategy, in_database: bool, by_another_batch: bool) -> None:
    """A healthy store of the expected run wants nothing, whatever else is known of it."""
    plan = single(strategy, finding(in_database=in_database, by_another_batch=by_another_batch))
    assert plan.actions == (RecoveryAction(kind=NOTHING, schema_name="test.store"),)
    assert plan.actions[0].reason is None
    assert plan.diagnostics == ()
    assert plan.manifest_healthy
    assert plan.readiness_impact is ReadinessImpact.NONE


def test_every_strategy_has_a_rebuild() -> None:
    """The strategies' table is the design's, and complete."""
    assert dict(REBUILDS) == BY_STRATEGY
    assert set(REBUILDS) == set(RebuildStrategy)


# --- identity -----------------------------------------------------------------------------------

STALE_ROWS = [
    ({"run_id": "old-run"}, "stale run id"),
    ({"capability_snapshot_id": "cap-0"}, "stale capability snapshot"),
    ({"capability_snapshot_id": None}, "stale capability snapshot"),
    ({"behavior_fingerprint": "behavior-0"}, "stale behavior fingerprint"),
    ({"behavior_fingerprint": None}, "stale behavior fingerprint"),
    (
        {"run_id": "old-run", "capability_snapshot_id": "cap-0", "behavior_fingerprint": "b-0"},
        "stale run id",
    ),
    (
        {"capability_snapshot_id": "cap-0", "behavior_fingerprint": "b-0"},
        "stale capability snapshot",
    ),
]


@pytest.mark.parametrize(("changes", "stale"), STALE_ROWS)
def test_stale_identity(changes: dict[str, str | None], stale: str) -> None:
    """The first part of the identity that differs blocks, and is the reason and the diagnostic."""
    bound = entry(identity=IDENTITY.model_copy(update=changes))
    plan = plan_for([descriptor()], {"test.store": finding()}, of=manifest(bound))
    reason = f"Runtime store test.store has {stale}"
    assert plan.actions == (RecoveryAction(kind=BLOCK, schema_name="test.store", reason=reason),)
    assert plan.diagnostics == (reason,)
    assert plan.readiness_impact is ReadinessImpact.BLOCKED
    (found,) = plan.stale_stores
    assert (found, STALE[found.part]) == (stale_store(bound, IDENTITY), stale)
    assert found.found == getattr(bound, found.part)
    assert found.expected == getattr(IDENTITY, found.part)


@pytest.mark.parametrize("criticality", list(Criticality))
def test_diagnostic_stores_outlive_their_run(criticality: Criticality) -> None:
    """A stale entry blocks for every criticality but diagnostic_only, which is bound to no run."""
    bound = entry(identity=RunIdentity(run_id="old-run"))
    plan = plan_for(
        [descriptor(criticality=criticality)], {"test.store": finding()}, of=manifest(bound)
    )
    exempt = criticality is Criticality.DIAGNOSTIC_ONLY
    assert kinds(plan) == [("test.store", NOTHING if exempt else BLOCK)]
    assert plan.manifest_healthy is exempt


def test_without_expectation_no_identity_is_checked() -> None:
    """A caller who expects no run in particular gets the files' health alone."""
    plan = plan_for(
        [descriptor()],
        {"test.store": finding()},
        of=manifest(entry(identity=None)),
        expected=None,
    )
    assert plan.manifest_healthy
    assert plan.run_id is None


def test_an_expected_absence_is_an_expectation() -> None:
    """Expecting no capability snapshot matches an entry that has none, and only such a one."""
    expected = RunIdentity(run_id="run-1")
    assert stale_store(entry(identity=expected), expected) is None
    found = stale_store(entry(), expected)
    assert found is not None
    assert found.part == "capability_snapshot_id"


def test_damage_comes_before_identity() -> None:
    """Only a healthy entry is held against the identity; a damaged one is damaged first."""
    plan = plan_for(
        [descriptor()],
        {"test.store": finding(state=MISMATCH)},
        of=manifest(entry(identity=RunIdentity(run_id="old-run"))),
    )
    assert [action.reason for action in plan.actions] == ["hash_mismatch"]


# --- the whole manifest -------------------------------------------------------------------------


def test_manifest_of_another_team() -> None:
    """A manifest of another team blocks on the launch state, beside what the stores want."""
    plan = plan_for([descriptor()], {"test.store": finding()}, team_name="team-b")
    assert plan.actions == (
        RecoveryAction(kind=NOTHING, schema_name="test.store"),
        RecoveryAction(
            kind=BLOCK, schema_name="opencode.launchState", reason="manifest_team_mismatch"
        ),
    )
    assert plan.readiness_impact is ReadinessImpact.BLOCKED
    assert not plan.manifest_healthy
    assert plan.team_name == "team-b"
    assert plan.diagnostics == ("Runtime store manifest belongs to team team-a, not team-b",)


def test_diagnostics_in_order() -> None:
    """Stores speak in the registry's order, then open batches oldest first, then the team."""
    names = ["test.c", "test.a", "test.b"]
    plan = plan_for(
        [described(name) for name in names],
        {
            "test.a": finding("test.a"),
            "test.b": finding("test.b", MISSING),
            "test.c": finding("test.c", MISMATCH),
        },
        of=manifest(
            entry("test.a", identity=RunIdentity(run_id="old-run")),
            entry("test.b"),
            entry("test.c"),
        ),
        open_batches=[open_batch("batch-9"), open_batch("batch-10", "test.gone")],
        team_name="team-b",
    )
    assert plan.diagnostics == (
        "test.c is hash_mismatch",
        "Runtime store test.a has stale run id",
        "test.b is missing",
        "Uncommitted runtime store batch detected: batch-9",
        "Uncommitted runtime store batch detected: batch-10",
        "Runtime store manifest belongs to team team-a, not team-b",
    )


def test_a_plan_says_what_it_was_made_for() -> None:
    """A plan carries its id, time, team, run and the high watermark that it fits."""
    plan = single(NONE, finding())
    assert plan.model_dump(mode="json", by_alias=True) == {
        "planId": "plan-1",
        "teamName": "team-a",
        "runId": "run-1",
        "createdAt": "2026-04-21T12:00:00.000Z",
        "highWatermark": 1,
        "manifestHealthy": True,
        "readinessImpact": "none",
        "actions": [{"kind": "none", "schemaName": "test.store"}],
        "diagnostics": [],
    }


# --- impact -------------------------------------------------------------------------------------


def impact_of(
    stores: Iterable[tuple[Criticality, RebuildStrategy, InspectionState]],
) -> ReadinessImpact:
    """The impact of stores in those states."""
    rows = [(f"test.s{index}", row) for index, row in enumerate(stores)]
    return plan_for(
        [descriptor(name, criticality=row[0], strategy=row[1]) for name, row in rows],
        {name: finding(name, row[2]) for name, row in rows},
    ).readiness_impact


BLOCKING, DIAGNOSTIC = Criticality.READINESS_BLOCKING, Criticality.DIAGNOSTIC_ONLY
FROM_PROVIDER = Criticality.REBUILDABLE_FROM_PROVIDER
FROM_DESTINATION = Criticality.REBUILDABLE_FROM_CANONICAL_DESTINATION


@pytest.mark.parametrize(
    ("stores", "impact"),
    [
        ([], ReadinessImpact.NONE),
        ([(BLOCKING, NONE, HEALTHY)], ReadinessImpact.NONE),
        ([(BLOCKING, NONE, MISSING)], ReadinessImpact.BLOCKED),
        ([(BLOCKING, RERUN, MISSING)], ReadinessImpact.BLOCKED),
        ([(BLOCKING, RERUN, FUTURE)], ReadinessImpact.BLOCKED),
        ([(BLOCKING, POLL, MISMATCH)], ReadinessImpact.BLOCKED),
        ([(FROM_PROVIDER, POLL, MISSING)], ReadinessImpact.DEGRADED),
        ([(FROM_PROVIDER, POLL, MISMATCH)], ReadinessImpact.DEGRADED),
        ([(FROM_DESTINATION, VERIFY, QUARANTINED)], ReadinessImpact.DEGRADED),
        ([(FROM_PROVIDER, NONE, MISSING)], ReadinessImpact.BLOCKED),
        ([(DIAGNOSTIC, DROP, MISSING)], ReadinessImpact.NONE),
        ([(DIAGNOSTIC, DROP, QUARANTINED)], ReadinessImpact.NONE),
        ([(DIAGNOSTIC, NONE, MISSING)], ReadinessImpact.NONE),
        ([(DIAGNOSTIC, NONE, UNCOMMITTED)], ReadinessImpact.NONE),
        (
            [(DIAGNOSTIC, DROP, MISSING), (FROM_PROVIDER, POLL, MISSING)],
            ReadinessImpact.DEGRADED,
        ),
        (
            [(FROM_PROVIDER, POLL, MISSING), (BLOCKING, NONE, MISSING)],
            ReadinessImpact.BLOCKED,
        ),
        (
            [(BLOCKING, NONE, HEALTHY), (FROM_PROVIDER, POLL, MISSING)],
            ReadinessImpact.DEGRADED,
        ),
    ],
)
def test_impact(
    stores: list[tuple[Criticality, RebuildStrategy, InspectionState]], impact: ReadinessImpact
) -> None:
    """Blocked by a blocking action or store, degraded by any other that is not diagnostic."""
    assert impact_of(stores) is impact


@pytest.mark.parametrize("criticality", list(Criticality))
def test_restoring_weighs_like_any_action(criticality: Criticality) -> None:
    """Putting a file back weighs what its store weighs, like any other action."""
    plan = plan_for(
        [descriptor(criticality=criticality, strategy=DROP)],
        {"test.store": finding(state=MISSING, in_database=True)},
    )
    assert kinds(plan) == [("test.store", RESTORE)]
    assert (
        plan.readiness_impact
        is {
            BLOCKING: ReadinessImpact.BLOCKED,
            FROM_PROVIDER: ReadinessImpact.DEGRADED,
            FROM_DESTINATION: ReadinessImpact.DEGRADED,
            DIAGNOSTIC: ReadinessImpact.NONE,
        }[criticality]
    )


SITUATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "put the committed content back": (NONE, {"state": MISSING, "in_database": True}),
    "put back what the database": (NONE, {"lost": True}),
    "block: st": (NONE, {"expected": RunIdentity(run_id="run-2")}),
    "block: the store is of another": (NONE, {"expected": RunIdentity(run_id="run-2")}),
    "block: committed data": (NONE, {"state": QUARANTINED, "refused": True}),
    "block: nothing to put back": (NONE, {"state": MISSING}),
    "finish an open batch": (NONE, {"batches": [open_batch("batch-2", "test.store")]}),
    "a name of": ("ask_the_scribe", {}),
    "`rerun": (RERUN, {}),
    "`drop": (DROP, {}),
    "`rebuild_from_launch_state`": (LAUNCH_STATE, {}),
}
"""What the rows of the tables begin with that say what follows from criticality and strategy."""


def situation(
    criticality: Criticality,
    strategy: str,
    *,
    state: InspectionState = HEALTHY,
    in_database: bool = False,
    lost: bool = False,
    refused: bool = False,
    expected: RunIdentity = IDENTITY,
    batches: Iterable[LoggedBatch] = (),
) -> RecoveryPlan:
    """The plan of one store."""
    found = finding(state=state, in_database=in_database)
    found = found._replace(content_missing=lost, committed_is_refused=refused)
    one = descriptor(criticality=criticality, strategy=strategy)
    return plan_for([one], {"test.store": found}, expected=expected, open_batches=batches)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (Criticality.__doc__, 6),
        (RebuildStrategy.__doc__, 4),
        ((CHECKOUT / "rtstore/guide/stores.md").read_text(), 10),
        ((CHECKOUT / "README.md").read_text(), 4),
    ],
    ids=["criticality", "strategy", "guide", "README"],
)
def test_the_tables_say_what_the_plan_does(text: str, rows: int) -> None:
    """Each row that is written down, cell by cell."""
    lines = [
        line.strip()[2:-2].split(" | ") for line in text.splitlines() if line.strip()[:2] == "| "
    ]
    found = [
        (cells, *SITUATIONS[head])
        for cells in lines
        for head in SITUATIONS
        if cells[0].startswith(head)
    ]
    assert len(found) == rows
    words = {ReadinessImpact.NONE: {"ready", "never stale", "never so"}}
    for cells, strategy, how in found:
        if len(cells) == 4:  # by criticality
            for cell, criticality in zip(
                cells[1:], (BLOCKING, FROM_PROVIDER, DIAGNOSTIC), strict=True
            ):
                impact = situation(criticality, strategy, **how).readiness_impact
                assert cell in words.get(impact, {impact.value}), (cells, criticality)
        else:  # by state
            states = {MISSING: cells[1], UNCOMMITTED: cells[1], QUARANTINED: cells[2]}
            for state, cell in states.items():
                (action,) = situation(BLOCKING, strategy, state=state).actions
                does = "rebuild" if action.kind in REBUILD_KINDS else action.kind.split("_")[0]
                assert cell == does, (cells, state)


def test_a_lost_diagnostic_store_stops_nobody() -> None:
    """A lost diagnostic store is planned and told, but the runtime is ready without a word."""
    plan = plan_for(
        [descriptor(criticality=DIAGNOSTIC, strategy=DROP)],
        {"test.store": finding(state=MISSING)},
    )
    assert kinds(plan) == [("test.store", QUARANTINE)]
    assert not plan.manifest_healthy
    assert plan.diagnostics == ("test.store is missing",)
    check = build_readiness(recovery_plan=plan, invariant_failures=[])
    assert (check.ok, check.diagnostics) == (True, ())


# --- the legacy plans ----------------------------------------------------------------------------


def _legacy_plan(expected: dict[str, Any]) -> RecoveryPlan:
    """Our plan over what the legacy runtime found: no contents, its open batches imported.

    A failed batch is terminal here and blocked for ever there, so it is left out.
    """
    asked = expected["input"]
    identity = RunIdentity(
        run_id=asked["expectedRunId"],
        capability_snapshot_id=asked["expectedCapabilitySnapshotId"],
        behavior_fingerprint=asked["expectedBehaviorFingerprint"],
    )
    found = {item["schemaName"]: item for item in expected["inspections"]}
    return plan_for(
        KNOWN_DESCRIPTORS,
        {
            name: StoreFinding(
                inspection=inspection(name, InspectionState(item["state"])).model_copy(
                    update={"message": item["message"]}
                )
            )
            for name, item in found.items()
        },
        of=manifest(
            *(entry(name, identity=identity) for name in found), team_name=asked["teamName"]
        ),
        expected=identity,
        open_batches=[
            open_batch(batch["batchId"])
            for batch in expected["batchStates"]
            if batch["state"] == "preparing"
        ],
        team_name=asked["teamName"],
    )


@needs_legacy
@pytest.mark.parametrize("name", ["team-a", "team-a.lane-alice", "team-b-crashed"])
def test_the_legacy_plans(name: str) -> None:
    """From the same inspections, our plan is the legacy one, but for failed batches."""
    expected = read_json(LEGACY / "expected" / f"{name}.json")
    plan = _legacy_plan(expected).model_dump(mode="json", by_alias=True)
    failed = {batch["batchId"] for batch in expected["batchStates"] if batch["state"] == "failed"}
    assert bool(failed) == (name == "team-a")
    assert plan["actions"] == [
        action
        for action in expected["plan"]["actions"]
        if action.get("reason", "").removeprefix("uncommitted_batch:") not in failed
    ]
    assert plan["diagnostics"] == [
        message
        for message in expected["plan"]["diagnostics"]
        if message.removeprefix("Uncommitted runtime store batch detected: ") not in failed
    ]
    impact = expected["plan"]["readinessImpact"]
    assert plan["readinessImpact"] == (impact if not failed else "none")
