"""What must hold between stores, check by check and in the words of the legacy format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, Unpack

import pytest

from rtstore.errors import InvalidRequestError
from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.model.invariants import validate_invariants
from rtstore.model.payloads import (
    CompatibilitySnapshotData,
    DeliveryJournalData,
    LaunchStateData,
    LaunchTransactionData,
    PermissionRequestsData,
    SessionStoreData,
)
from rtstore.model.records import Manifest
from tests.model.build import IDENTITY, LEGACY, NOON, manifest, needs_legacy, read_json

RUN = "launch-state runId does not match runtime store manifest activeRunId"
SNAPSHOT = "launch-state capability snapshot does not match compatibility snapshot"
SESSION = "confirmed member Builder has no matching OpenCode session record"
DELIVERY = "non-committed delivery journal record belongs to stale run: k-1"
PERMISSION = "pending permission belongs to stale run: perm-1"
TRANSACTION = "active launch transaction conflicts with ready launch-state"

LAUNCH: dict[str, Any] = {
    "providerId": "opencode",
    "teamName": "team-a",
    "runId": "run-1",
    "capabilitySnapshotId": "cap-1",
    "aggregateState": "ready",
    "members": [{"name": "Builder", "launchState": "confirmed_alive"}],
}
SESSIONS: dict[str, Any] = {
    "sessions": [{"teamName": "team-a", "memberName": "Builder", "runId": "run-1"}]
}


class Stores(TypedDict, total=False):
    """The stores of a check, each of which may be left as it should be."""

    launch_state: dict[str, Any] | None
    session_store: dict[str, Any] | None
    transaction: dict[str, Any] | list[dict[str, Any]] | None
    delivery_journal: dict[str, Any] | list[dict[str, Any]] | None
    permission_store: dict[str, Any] | list[dict[str, Any]] | None
    compatibility_snapshot: dict[str, Any] | None
    manifest: Manifest
    unknown: tuple[str, ...]


def check(**changes: Unpack[Stores]) -> list[str]:
    """The failures of a team that is in order, but for what is changed."""
    stores: Stores = {
        "launch_state": LAUNCH,
        "session_store": SESSIONS,
        "transaction": {"status": "ready"},
        "delivery_journal": {"records": []},
        "permission_store": {"requests": []},
        "compatibility_snapshot": {"snapshotId": "cap-1"},
        "manifest": manifest(active=IDENTITY),
    }
    stores.update(changes)
    return validate_invariants(**stores)


def launch(**changes: object) -> dict[str, Any]:
    """The launch state with some keys changed."""
    return {**LAUNCH, **changes}


def delivery(run_id: str | None, status: str) -> dict[str, Any]:
    """A journal of one delivery."""
    return {"records": [{"idempotencyKey": "k-1", "runId": run_id, "status": status}]}


def permission(run_id: str | None, status: str) -> dict[str, Any]:
    """A permission store of one request."""
    return {"requests": [{"appRequestId": "perm-1", "runId": run_id, "status": status}]}


# --- as the legacy format has it ------------------------------------------------------------------


def test_blocks_readiness_when_launch_state_points_to_missing_confirmed_session() -> None:
    """A member confirmed alive, with no session recorded for it, is a failure."""
    failures = check(
        launch_state=launch(aggregateState="launching"),
        session_store={"sessions": []},
        transaction=None,
    )
    assert SESSION in failures


def test_reports_stale_delivery_stale_permission_and_active_transaction_conflicts() -> None:
    """Four contradictions at once are all reported, in the fixed order and wording."""
    failures = check(
        launch_state=launch(members=[]),
        session_store={"sessions": []},
        transaction={"status": "active"},
        delivery_journal=delivery("old-run", "started"),
        permission_store=permission("old-run", "pending"),
        compatibility_snapshot={"snapshotId": "other-cap"},
    )
    assert failures == [SNAPSHOT, DELIVERY, PERMISSION, TRANSACTION]


# --- one check at a time --------------------------------------------------------------------------


def test_a_team_in_order() -> None:
    """Stores that agree with one another have no failures."""
    assert check() == []


def test_every_failure_in_order() -> None:
    """All six failures together come in the design's order."""
    old = IDENTITY.model_copy(update={"run_id": "old-run"})
    failures = check(
        session_store={"sessions": []},
        transaction={"status": "active"},
        delivery_journal=delivery("old-run", "started"),
        permission_store=permission("old-run", "pending"),
        compatibility_snapshot={"snapshotId": "other-cap"},
        manifest=manifest(active=old),
    )
    assert failures == [RUN, SNAPSHOT, SESSION, DELIVERY, PERMISSION, TRANSACTION]


@pytest.mark.parametrize("provider", ["anthropic", "OpenCode", "", None])
def test_other_providers_have_no_invariants(provider: str | None) -> None:
    """A launch of any other provider is not judged, nor are the stores beside it read."""
    failures = check(
        launch_state=launch(providerId=provider, runId="old-run"),
        session_store={"sessions": "not even a list"},
        compatibility_snapshot=None,
    )
    assert failures == []


def test_no_launch_state() -> None:
    """Without a launch state there is nothing to hold the others against."""
    assert check(launch_state=None, delivery_journal=delivery("old-run", "started")) == []


@pytest.mark.parametrize(
    ("run_id", "active", "failures"),
    [("run-1", True, []), ("run-1", False, [RUN]), (None, True, [RUN]), (None, False, [])],
)
def test_run_of_the_manifest(run_id: str | None, active: bool, failures: list[str]) -> None:
    """The launch state names the manifest's active run; no run agrees with no run."""
    found = check(
        launch_state=launch(runId=run_id, members=[]),
        manifest=manifest(active=IDENTITY if active else None),
    )
    assert found == failures


@pytest.mark.parametrize(
    ("named", "snapshot", "failures"),
    [
        ("cap-1", {"snapshotId": "cap-1"}, []),
        ("cap-1", {"snapshotId": "cap-2"}, [SNAPSHOT]),
        ("cap-1", {"snapshotId": None}, [SNAPSHOT]),
        ("cap-1", {}, [SNAPSHOT]),
        ("cap-1", None, [SNAPSHOT]),
        (None, {"snapshotId": "cap-1"}, [SNAPSHOT]),
        (None, {"snapshotId": None}, []),
        (None, None, []),
    ],
)
def test_capability_snapshot(
    named: str | None, snapshot: dict[str, Any] | None, failures: list[str]
) -> None:
    """Both name one snapshot or neither does; a snapshot store that is not there names none."""
    found = check(launch_state=launch(capabilitySnapshotId=named), compatibility_snapshot=snapshot)
    assert found == failures


@pytest.mark.parametrize(
    ("session", "failures"),
    [
        ({}, []),
        ({"memberName": "builder"}, [SESSION]),
        ({"teamName": "team-b"}, [SESSION]),
        ({"teamName": None}, [SESSION]),
        ({"runId": "old-run"}, [SESSION]),
        ({"runId": None}, [SESSION]),
    ],
)
def test_session_matches_member_team_and_run(
    session: dict[str, str | None], failures: list[str]
) -> None:
    """A session proves a member alive only when member, team and run are all the launch state's."""
    known = {**SESSIONS["sessions"][0], **session}
    assert check(session_store={"sessions": [known]}) == failures


@pytest.mark.parametrize("state", ["starting", "failed", None])
def test_unconfirmed_members_need_no_session(state: str | None) -> None:
    """Only a member that is confirmed alive must have a session."""
    members = [{"name": "Builder", "launchState": state}]
    assert check(launch_state=launch(members=members), session_store={"sessions": []}) == []


def test_every_member_without_session_is_named() -> None:
    """Each confirmed member without a session has a message of its own, in the members' order."""
    members = [
        {"name": name, "launchState": "confirmed_alive"} for name in ("Zoë", "Builder", "Anna")
    ]
    assert check(launch_state=launch(members=members)) == [
        "confirmed member Zoë has no matching OpenCode session record",
        "confirmed member Anna has no matching OpenCode session record",
    ]


@pytest.mark.parametrize(
    ("run_id", "status", "failures"),
    [
        ("old-run", "started", [DELIVERY]),
        ("old-run", "failed_terminal", [DELIVERY]),
        ("old-run", "", [DELIVERY]),
        (None, "started", [DELIVERY]),
        ("old-run", "committed", []),
        ("run-1", "started", []),
    ],
)
def test_stale_delivery(run_id: str | None, status: str, failures: list[str]) -> None:
    """A delivery of another run is stale unless it is committed; one of this run never is. So it is
    in an array of records, which is a journal too."""
    assert check(delivery_journal=delivery(run_id, status)) == failures
    assert check(delivery_journal=delivery(run_id, status)["records"]) == failures


@pytest.mark.parametrize(
    ("run_id", "status", "failures"),
    [
        ("old-run", "pending", [PERMISSION]),
        (None, "pending", [PERMISSION]),
        ("old-run", "answered", []),
        ("run-1", "pending", []),
    ],
)
def test_stale_permission(run_id: str | None, status: str, failures: list[str]) -> None:
    """A pending permission of another run is stale; a settled one is history. So it is in an array
    of requests, and where `state` says so."""
    assert check(permission_store=permission(run_id, status)) == failures
    (request,) = permission(run_id, status)["requests"]
    request["state"] = request.pop("status")
    assert check(permission_store=[request]) == failures
    assert check(permission_store={"requests": [request]}) == failures


def test_stale_means_another_run_than_the_launched_one() -> None:
    """Where launch state and manifest disagree, the launched run's own work is not called stale."""
    failures = check(
        launch_state=launch(runId="run-2", members=[]),
        delivery_journal=delivery("run-2", "started"),
        permission_store=permission("run-1", "pending"),
    )
    assert failures == [RUN, PERMISSION]


@pytest.mark.parametrize(
    ("status", "aggregate", "failures"),
    [
        ("active", "ready", [TRANSACTION]),
        ("active", "launching", []),
        ("active", None, []),
        ("ready", "ready", []),
        (None, "ready", []),
    ],
)
def test_active_transaction(status: str | None, aggregate: str | None, failures: list[str]) -> None:
    """A launch cannot be under way and done at once."""
    found = check(launch_state=launch(aggregateState=aggregate), transaction={"status": status})
    assert found == failures


@pytest.mark.parametrize(
    ("transactions", "failures"),
    [
        ([], []),
        ([{"runId": "run-1", "status": "active"}], [TRANSACTION]),
        ([{"runId": "run-0", "status": "ready"}, {"status": "active"}], [TRANSACTION]),
        ([{"runId": "run-1", "state": "active"}], [TRANSACTION]),
        ([{"runId": "old-run", "status": "active"}, {"runId": "run-1", "status": "ready"}], []),
    ],
)
def test_active_transaction_in_an_array(
    transactions: list[dict[str, Any]], failures: list[str]
) -> None:
    """An array holds the launches of every run: only that of the launched one can be under way."""
    assert check(transaction=transactions) == failures


def test_a_receipt_in_the_journal_is_settled() -> None:
    """The receipt of a committed delivery names no run and no status, and is never stale."""
    receipt = {"kind": "committed_receipt", "idempotencyKey": "k-1", "teamName": "team-a"}
    assert check(delivery_journal=[receipt]) == []


# --- how the stores are given ---------------------------------------------------------------------


def test_absent_stores_hold_nothing() -> None:
    """Stores without content are read as empty: only what the launch state claims of them fails."""
    failures = check(
        session_store=None,
        transaction=None,
        delivery_journal=None,
        permission_store=None,
        compatibility_snapshot=None,
    )
    assert failures == [SNAPSHOT, SESSION]


def test_nothing_is_said_of_what_is_unknown() -> None:
    """A store that cannot be judged is not empty."""
    sessions, snapshot = "session_store", "compatibility_snapshot"
    for unknown, failures in (
        ((sessions, snapshot), []),
        ((sessions,), [SNAPSHOT]),
        ((snapshot,), [SESSION]),
        ((), [SNAPSHOT, SESSION]),
    ):
        found = check(session_store=None, compatibility_snapshot=None, unknown=unknown)
        assert found == failures


def test_payload_models_are_taken_as_they_are() -> None:
    """Models and plain data give the same answer."""
    failures = validate_invariants(
        launch_state=LaunchStateData.model_validate(LAUNCH),
        session_store=SessionStoreData(),
        transaction=LaunchTransactionData(status="active"),
        delivery_journal=DeliveryJournalData.model_validate(delivery("old-run", "started")),
        permission_store=PermissionRequestsData.model_validate(permission("old-run", "pending")),
        compatibility_snapshot=CompatibilitySnapshotData(snapshot_id="cap-1"),
        manifest=manifest(active=IDENTITY),
    )
    assert failures == [SESSION, DELIVERY, PERMISSION, TRANSACTION]


@pytest.mark.parametrize(
    ("changes", "field", "place"),
    [
        (Stores(launch_state={"providerId": "opencode"}), "launch_state", "data.teamName"),
        (Stores(session_store={"sessions": {}}), "session_store", "data.sessions"),
        (Stores(transaction={"status": 1}), "transaction", "data.status"),
        (Stores(delivery_journal={"records": [{}]}), "delivery_journal", "data.records[0]"),
        (Stores(permission_store={"requests": [{}]}), "permission_store", "data.requests[0]"),
        (Stores(compatibility_snapshot={"snapshotId": 1}), "compatibility_snapshot", "data.snap"),
    ],
)
def test_data_of_another_shape_is_refused(changes: Stores, field: str, place: str) -> None:
    """Data that is not the store's is an error that names the argument and the place."""
    with pytest.raises(InvalidRequestError) as caught:
        check(**changes)
    assert caught.value.field == field
    assert caught.value.problem.startswith(place)


# --- legacy directories ---------------------------------------------------------------------------


def _legacy_check(directory: Path) -> list[str]:
    """The failures of one legacy runtime directory, read as it lies there."""
    files = {known.schema_name: directory / known.relative_path for known in KNOWN_DESCRIPTORS}
    data = {name: read_json(path)["data"] for name, path in files.items() if path.is_file()}
    said = read_json(directory / "manifest.json")["data"]
    return validate_invariants(
        launch_state=data.get("opencode.launchState"),
        session_store=data.get("opencode.sessionStore"),
        transaction=data.get("opencode.launchTransaction"),
        delivery_journal=data.get("opencode.deliveryJournal"),
        permission_store=data.get("opencode.permissionRequests"),
        compatibility_snapshot=data.get("opencode.compatibilitySnapshot"),
        manifest=Manifest(
            team_name=said["teamName"], active_run_id=said["activeRunId"], updated_at=NOON
        ),
    )


@needs_legacy
def test_legacy_directories() -> None:
    """A team at rest and a lane without a launch agree; the crashed launch is caught as such."""
    runtime = LEGACY / "team-a/.opencode-runtime"
    (lane,) = (runtime / "lanes").iterdir()
    assert _legacy_check(runtime) == []
    assert _legacy_check(lane) == []
    assert _legacy_check(LEGACY / "team-b-crashed/.opencode-runtime") == [TRANSACTION]
