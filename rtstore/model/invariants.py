"""Check the cross-store invariants: a pure function of the stores' data.

Each store may be valid by itself and still contradict another one: a member is confirmed alive and
has no session record, or work of a dead run was never settled. The checks are those of the legacy
format's own library, in its order and wording.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rtstore.errors import InvalidRequestError
from rtstore.model.envelope import payload_problem
from rtstore.model.payloads import (
    CompatibilitySnapshotData,
    DeliveryJournalData,
    LaunchStateData,
    LaunchTransactionData,
    PermissionRequestsData,
    SessionStoreData,
)
from rtstore.model.records import Manifest

PROVIDER = "opencode"
"""The provider whose stores are checked; a launch with any other has no invariants here."""

_Model = TypeVar("_Model", bound=BaseModel)


def validate_invariants(
    *,
    launch_state: LaunchStateData | dict[str, Any] | None,
    session_store: SessionStoreData | dict[str, Any] | None,
    transaction: LaunchTransactionData | dict[str, Any] | list[Any] | None,
    delivery_journal: DeliveryJournalData | dict[str, Any] | list[Any] | None,
    permission_store: PermissionRequestsData | dict[str, Any] | list[Any] | None,
    compatibility_snapshot: CompatibilitySnapshotData | dict[str, Any] | None,
    manifest: Manifest,
    unknown: Container[str] = (),
) -> list[str]:
    """Return every contradiction between the stores, in words; an empty list when there is none.

    Pass each store as its payload model, as plain JSON data, or as None when it has no content.
    None means empty: no sessions, no records, no requests, no snapshot. So a confirmed member
    without a session store fails, and so does a launch state that names a capability snapshot
    while there is none. A launch state that names none fails only when a snapshot has an id. A
    store whose argument is named in `unknown` is not empty: nothing is said that depends on it.

    Only the launch state is compared with the manifest. Sessions, deliveries and permissions are
    compared with the run of the launch state, not with the manifest's active run. Where these two
    runs differ, the first message says so, and records of the launched run are not called stale as
    well. Of an array of launch transactions, those of other runs do not matter: they are over.

    Raises `InvalidRequestError`, which names the argument, when plain data does not fit its store.
    """
    launch = _read("launch_state", LaunchStateData, launch_state)
    if launch is None or launch.provider_id != PROVIDER:
        return []
    snapshot = _read("compatibility_snapshot", CompatibilitySnapshotData, compatibility_snapshot)
    sessions = _read("session_store", SessionStoreData, session_store)
    journal = _read("delivery_journal", DeliveryJournalData, delivery_journal)
    permissions = _read("permission_store", PermissionRequestsData, permission_store)
    launching = _read("transaction", LaunchTransactionData, transaction)
    failures: list[str] = []
    if launch.run_id != manifest.active_run_id:
        failures.append("launch-state runId does not match runtime store manifest activeRunId")
    named = snapshot.snapshot_id if snapshot else None
    if "compatibility_snapshot" not in unknown and launch.capability_snapshot_id != named:
        failures.append("launch-state capability snapshot does not match compatibility snapshot")
    if "session_store" not in unknown:
        failures += _members_without_session(launch, sessions)
    failures += _stale_deliveries(launch, journal)
    failures += _stale_permissions(launch, permissions)
    if launch.aggregate_state == "ready" and _is_launching(launch, launching):
        failures.append("active launch transaction conflicts with ready launch-state")
    return failures


def _is_launching(launch: LaunchStateData, found: LaunchTransactionData | None) -> bool:
    """Return whether a launch transaction is active; in an array, one of the launched run."""
    if found is None:
        return False
    return found.status == "active" or any(
        each.status == "active" and each.run_id in (None, launch.run_id)
        for each in found.transactions
    )


def _members_without_session(launch: LaunchStateData, store: SessionStoreData | None) -> list[str]:
    known = {
        (session.team_name, session.member_name, session.run_id)
        for session in (store.sessions if store else [])
    }
    return [
        f"confirmed member {member.name} has no matching OpenCode session record"
        for member in launch.members
        if member.launch_state == "confirmed_alive"
        and (launch.team_name, member.name, launch.run_id) not in known
    ]


def _stale_deliveries(launch: LaunchStateData, journal: DeliveryJournalData | None) -> list[str]:
    return [
        f"non-committed delivery journal record belongs to stale run: {record.idempotency_key}"
        for record in (journal.records if journal else [])
        if record.status != "committed" and record.run_id != launch.run_id
    ]


def _stale_permissions(
    launch: LaunchStateData, permissions: PermissionRequestsData | None
) -> list[str]:
    return [
        f"pending permission belongs to stale run: {request.app_request_id}"
        for request in (permissions.requests if permissions else [])
        if request.status == "pending" and request.run_id != launch.run_id
    ]


def _read(argument: str, model: type[_Model], data: object) -> _Model | None:
    """Return the payload of a store; None stays None."""
    if data is None or isinstance(data, model):
        return data
    try:
        return model.model_validate(data)
    except ValidationError:
        problem = payload_problem(data, model)
        raise InvalidRequestError(argument, problem or "is not the data of its store") from None
