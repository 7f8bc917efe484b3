"""What the data of the known stores must look like, and how much of it is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from rtstore.model.descriptors import KNOWN_DESCRIPTORS
from rtstore.model.payloads import (
    CompatibilitySnapshotData,
    DeliveryJournalData,
    DeliveryRecord,
    LaunchMember,
    LaunchStateData,
    LaunchTransactionData,
    PermissionRequest,
    PermissionRequestsData,
    SessionRecord,
    SessionStoreData,
)
from tests.model.build import LEGACY, needs_legacy, read_json

MODELS: list[type[BaseModel]] = [
    LaunchStateData,
    SessionStoreData,
    LaunchTransactionData,
    DeliveryJournalData,
    PermissionRequestsData,
    CompatibilitySnapshotData,
]
LAUNCH = {"providerId": "opencode", "teamName": "team-a", "runId": "run-1"}

# --- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (LaunchStateData, LAUNCH),
        (LaunchStateData, {**LAUNCH, "runId": None, "capabilitySnapshotId": None}),
        (LaunchStateData, {"teamName": "team-a", "runId": "run-1"}),
        (LaunchStateData, {**LAUNCH, "members": [{"name": "Builder"}], "aggregateState": "ready"}),
        (SessionStoreData, {"sessions": []}),
        (SessionStoreData, {}),
        (SessionStoreData, {"sessions": [{"memberName": "Builder"}]}),
        (LaunchTransactionData, None),
        (LaunchTransactionData, {}),
        (LaunchTransactionData, {"status": "active"}),
        (DeliveryJournalData, {"records": []}),
        (DeliveryJournalData, {"records": [{"idempotencyKey": "k", "status": "started"}]}),
        (PermissionRequestsData, {"requests": []}),
        (PermissionRequestsData, {"requests": [{"appRequestId": "p", "status": "pending"}]}),
        (CompatibilitySnapshotData, {"snapshotId": "other-cap"}),
        (CompatibilitySnapshotData, {"snapshotId": None}),
        (LaunchTransactionData, []),
        (LaunchTransactionData, [{"runId": "run-1", "status": "active", "checkpoints": []}]),
        (DeliveryJournalData, []),
        (DeliveryJournalData, [{"idempotencyKey": "k", "runId": "run-1", "status": "pending"}]),
        (DeliveryJournalData, [{"idempotencyKey": "k", "kind": "committed_receipt"}]),
        (PermissionRequestsData, []),
        (PermissionRequestsData, [{"appRequestId": "p", "runId": "run-1", "state": "pending"}]),
        (PermissionRequestsData, {"requests": [{"appRequestId": "p", "state": "pending"}]}),
    ],
)
def test_accepted(model: type[BaseModel], data: object) -> None:
    """Data that says what the invariants need, and no more, is accepted."""
    model.model_validate(data)


def test_camel_case_in_snake_case_out() -> None:
    """JSON has the legacy names; Python has its own, and may build payloads with them."""
    read = LaunchStateData.model_validate(
        {
            **LAUNCH,
            "capabilitySnapshotId": "cap-1",
            "aggregateState": "launching",
            "members": [{"name": "Builder", "launchState": "confirmed_alive"}],
        }
    )
    built = LaunchStateData(
        provider_id="opencode",
        team_name="team-a",
        run_id="run-1",
        capability_snapshot_id="cap-1",
        aggregate_state="launching",
        members=[LaunchMember(name="Builder", launch_state="confirmed_alive")],
    )
    assert read == built


def test_records_in_snake_case() -> None:
    """Sessions, deliveries, permissions and snapshots can be built in Python as well."""
    session = SessionRecord(member_name="Builder", team_name="team-a", run_id="run-1")
    delivery = DeliveryRecord(idempotency_key="k-1", run_id="run-1", status="committed")
    request = PermissionRequest(app_request_id="perm-1", run_id="run-1", status="pending")
    assert SessionStoreData(sessions=[session]).model_dump(by_alias=True) == {
        "sessions": [{"memberName": "Builder", "teamName": "team-a", "runId": "run-1"}]
    }
    assert DeliveryJournalData(records=[delivery]).model_dump(by_alias=True) == {
        "records": [{"idempotencyKey": "k-1", "runId": "run-1", "status": "committed"}]
    }
    assert PermissionRequestsData(requests=[request]).model_dump(by_alias=True) == {
        "requests": [{"appRequestId": "perm-1", "runId": "run-1", "status": "pending"}]
    }
    assert CompatibilitySnapshotData(snapshot_id="cap-1").snapshot_id == "cap-1"


def test_null_is_no_launch() -> None:
    """A launch transaction of `null` reads as one without a status; no other store may be null."""
    assert LaunchTransactionData.model_validate(None).status is None
    for model in MODELS:
        if model is not LaunchTransactionData:
            with pytest.raises(ValidationError):
                model.model_validate(None)


def test_unknown_keys_are_kept() -> None:
    """Keys that nobody declared come back out, at every depth, whatever they are called."""
    data = {
        "sessions": [
            {"memberName": "Zoë", "id": 7, "nested": {"pid": None}, "model_config": 1, "copy": []}
        ],
        "cursor": "abc",
        "model_fields": {"x": 1},
    }
    read = SessionStoreData.model_validate(data)
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == data


def test_payloads_are_frozen() -> None:
    """What was validated is not changed afterwards."""
    state = LaunchStateData.model_validate(LAUNCH)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(state, "run_id", "run-2")  # noqa: B010 (mypy sees a frozen field)


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", [["text"], [1], [[]], "text", "{}", 1, 1.5, True])
def test_data_must_be_an_object(model: type[BaseModel], data: object) -> None:
    """A text, a number, an array of anything but objects: none is the data of a known store."""
    with pytest.raises(ValidationError):
        model.model_validate(data)


def _session(**changes: object) -> dict[str, Any]:
    return {"sessions": [{"memberName": "Builder", "runId": "run-1", **changes}]}


@pytest.mark.parametrize(
    ("model", "data", "place"),
    [
        (LaunchStateData, {"runId": "run-1"}, ("teamName",)),
        (LaunchStateData, {"teamName": "team-a"}, ("runId",)),
        (LaunchStateData, {**LAUNCH, "runId": 7}, ("runId",)),
        (LaunchStateData, {**LAUNCH, "runId": True}, ("runId",)),
        (LaunchStateData, {**LAUNCH, "runId": b"run-1"}, ("runId",)),
        (LaunchStateData, {**LAUNCH, "runId": ["run-1"]}, ("runId",)),
        (LaunchStateData, {**LAUNCH, "teamName": None}, ("teamName",)),
        (LaunchStateData, {**LAUNCH, "providerId": 1}, ("providerId",)),
        (LaunchStateData, {**LAUNCH, "capabilitySnapshotId": 1}, ("capabilitySnapshotId",)),
        (LaunchStateData, {**LAUNCH, "aggregateState": {}}, ("aggregateState",)),
        (LaunchStateData, {**LAUNCH, "members": {"Builder": {}}}, ("members",)),
        (LaunchStateData, {**LAUNCH, "members": None}, ("members",)),
        (LaunchStateData, {**LAUNCH, "members": ["Builder"]}, ("members", 0)),
        (LaunchStateData, {**LAUNCH, "members": [{}]}, ("members", 0, "name")),
        (
            LaunchStateData,
            {**LAUNCH, "members": [{"name": "a"}, {"name": "b", "launchState": 1}]},
            ("members", 1, "launchState"),
        ),
        (SessionStoreData, {"sessions": {}}, ("sessions",)),
        (SessionStoreData, {"sessions": "none"}, ("sessions",)),
        (SessionStoreData, {"sessions": None}, ("sessions",)),
        (SessionStoreData, {"sessions": ()}, ("sessions",)),
        (SessionStoreData, {"sessions": [{"runId": "r"}]}, ("sessions", 0, "memberName")),
        (SessionStoreData, _session(memberName=None), ("sessions", 0, "memberName")),
        (SessionStoreData, _session(runId=1), ("sessions", 0, "runId")),
        (SessionStoreData, _session(teamName=1), ("sessions", 0, "teamName")),
        (LaunchTransactionData, {"status": 1}, ("status",)),
        (DeliveryJournalData, {"records": {}}, ("records",)),
        (DeliveryJournalData, {"records": [{"status": "x"}]}, ("records", 0, "idempotencyKey")),
        (DeliveryJournalData, {"records": [{"idempotencyKey": "k"}]}, ("records", 0, "status")),
        (PermissionRequestsData, {"requests": {}}, ("requests",)),
        (PermissionRequestsData, {"requests": [{"status": "x"}]}, ("requests", 0, "appRequestId")),
        (PermissionRequestsData, {"requests": [{"appRequestId": "p"}]}, ("requests", 0, "status")),
        (CompatibilitySnapshotData, {"snapshotId": 114}, ("snapshotId",)),
        (SessionStoreData, [], ()),
        (LaunchStateData, [LAUNCH], ()),
        (CompatibilitySnapshotData, [], ()),
        (LaunchTransactionData, [{"status": 1}], ("transactions", 0, "status")),
        (DeliveryJournalData, [{"idempotencyKey": "k"}], ("records", 0, "status")),
        (DeliveryJournalData, [{"kind": "committed_receipt"}], ("records", 0, "idempotencyKey")),
        (PermissionRequestsData, [{"appRequestId": "p"}], ("requests", 0, "status")),
        (PermissionRequestsData, [{"appRequestId": "p", "state": 1}], ("requests", 0, "state")),
    ],
)
def test_refused(model: type[BaseModel], data: object, place: tuple[str | int, ...]) -> None:
    """A wrong shape is refused at its place, by the name it has in the file, without coercion."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    assert [error["loc"] for error in caught.value.errors()] == [place]


# --- files of the legacy format -------------------------------------------------------------------


def _legacy_files() -> list[tuple[Path, type[BaseModel]]]:
    return [
        (path, known.payload)
        for known in KNOWN_DESCRIPTORS
        if known.payload is not None
        for path in sorted(LEGACY.rglob(known.relative_path))
    ]


@needs_legacy
def test_legacy_files_pass_whole() -> None:
    """Every store file of the legacy format validates, and dumps again as exactly what it said."""
    files = _legacy_files()
    assert {model for _, model in files} == set(MODELS)
    for path, model in files:
        data = read_json(path)["data"]
        read = model.model_validate(data)
        assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == data, path
