"""Payload models: the data of the known stores, as far as this package reads it.

Only the fields that the cross-store invariants need are declared; every other key is preserved.
Files of this library and of the legacy format both pass: deliveries, permission requests and launch
transactions may be an array of records, or an object with that array. A declared field must have
its JSON type: a number under `runId` is refused, never converted to text.
"""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class PartialModel(BaseModel):
    """Base of a model that knows only a part of its data, or reads several forms of it. What is
    written must pass it, and JSON is stored as it was given, not as the model dumps it.

    An object of the model keeps the keys that the model does not know, and they are stored with it.
    Models of parts of the data keep them, too, if they derive from this class. A model that sets
    `extra` itself decides: with `"ignore"` an object lacks those keys, and so does what is written
    of it; with `"forbid"` data that has them is refused.
    """

    model_config = ConfigDict(extra="allow")


class _Payload(PartialModel):
    """Base of every payload: frozen, strict about types, camelCase."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
    )


class LaunchMember(_Payload):
    """One member of the team in the launch state."""

    name: str
    launch_state: str | None = None
    """Only the value `confirmed_alive` requires a session."""


class LaunchStateData(_Payload):
    """Data of `opencode.launchState`: which run is launched, and how far each member is.

    `run_id` is null between runs, but required: a launch state that names neither team nor run
    cannot be compared with anything.
    """

    provider_id: str | None = None
    team_name: str
    run_id: str | None
    capability_snapshot_id: str | None = None
    aggregate_state: str | None = None
    members: list[LaunchMember] = []


class SessionRecord(_Payload):
    """One provider session. Without team or run it is accepted, and matches no member."""

    member_name: str
    team_name: str | None = None
    run_id: str | None = None


class SessionStoreData(_Payload):
    """Data of `opencode.sessionStore`."""

    sessions: list[SessionRecord] = []


class LaunchTransactionRecord(_Payload):
    """One launch transaction of an array of them."""

    run_id: str | None = None
    status: str | None = Field(default=None, validation_alias=AliasChoices("status", "state"))


class LaunchTransactionData(_Payload):
    """Data of `opencode.launchTransaction`: the launch in progress or the last one, or an array of
    all of them.

    The legacy format writes `null` for no launch at all, so it is accepted as data: it reads as a
    launch transaction without a status.
    """

    status: str | None = None
    transactions: list[LaunchTransactionRecord] = []

    @model_validator(mode="before")
    @classmethod
    def _null_is_no_launch(cls, data: Any) -> Any:
        return {} if data is None else _object_of(data, "transactions")


_COMMITTED_RECEIPT = "committed_receipt"
"""The kind of a record of the delivery journal that stays of a committed delivery."""


class DeliveryRecord(_Payload):
    """One delivery. Its status is required: without it, whether it is settled is unknown. Only a
    receipt of a committed delivery needs none."""

    idempotency_key: str
    run_id: str | None = None
    status: str = Field(validation_alias=AliasChoices("status", "state"))

    @model_validator(mode="before")
    @classmethod
    def _receipts_are_committed(cls, data: Any) -> Any:
        is_receipt = isinstance(data, dict) and data.get("kind") == _COMMITTED_RECEIPT
        return {"status": "committed", **data} if is_receipt else data


class DeliveryJournalData(_Payload):
    """Data of `opencode.deliveryJournal`."""

    records: list[DeliveryRecord] = []

    @model_validator(mode="before")
    @classmethod
    def _array_of_records(cls, data: Any) -> Any:
        return _object_of(data, "records")


class PermissionRequest(_Payload):
    """One permission request. Its status is required: a pending one must not pass for settled."""

    app_request_id: str
    run_id: str | None = None
    status: str = Field(validation_alias=AliasChoices("status", "state"))


class PermissionRequestsData(_Payload):
    """Data of `opencode.permissionRequests`."""

    requests: list[PermissionRequest] = []

    @model_validator(mode="before")
    @classmethod
    def _array_of_requests(cls, data: Any) -> Any:
        return _object_of(data, "requests")


def _object_of(data: Any, field: str) -> Any:
    """Return an array of records as the object around it; other data as it is."""
    return {field: data} if isinstance(data, list) else data


class CompatibilitySnapshotData(_Payload):
    """Data of `opencode.compatibilitySnapshot`: the capabilities found at the provider."""

    snapshot_id: str | None = None
