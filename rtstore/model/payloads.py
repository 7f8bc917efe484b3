"""The data of the known stores, as far as anything here looks into it.

Only what the cross-store invariants need is declared; every other key is kept as it is. Files of
this library and of its file-only ancestor both pass. What is declared is held to its JSON type: a
number under `runId` is refused, never turned into text.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


class _Payload(BaseModel):
    """Base of every payload: frozen, strict about types, open to unknown keys, camelCase."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
    )


class LaunchMember(_Payload):
    """One member of the team in the launch state."""

    name: str
    launch_state: str | None = None
    """`confirmed_alive` is the one value that demands a session."""


class LaunchStateData(_Payload):
    """Data of `opencode.launchState`: which run is launched, and how far each member is.

    `run_id` is null between runs, but it must be said: a launch state that names neither team nor
    run cannot be held against anything.
    """

    provider_id: str | None = None
    team_name: str
    run_id: str | None
    capability_snapshot_id: str | None = None
    aggregate_state: str | None = None
    members: list[LaunchMember] = []


class SessionRecord(_Payload):
    """One provider session. Without team or run it is kept, and matches no member."""

    member_name: str
    team_name: str | None = None
    run_id: str | None = None


class SessionStoreData(_Payload):
    """Data of `opencode.sessionStore`."""

    sessions: list[SessionRecord] = []


class LaunchTransactionData(_Payload):
    """Data of `opencode.launchTransaction`: the launch in progress or the last one.

    The ancestor's word for no launch at all is `null`, so it is accepted as data; it reads as a
    launch transaction without a status.
    """

    status: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_no_launch(cls, data: Any) -> Any:
        return {} if data is None else data


class DeliveryRecord(_Payload):
    """One delivery. Its status is required: without it nobody can tell whether it is settled."""

    idempotency_key: str
    run_id: str | None = None
    status: str


class DeliveryJournalData(_Payload):
    """Data of `opencode.deliveryJournal`."""

    records: list[DeliveryRecord] = []


class PermissionRequest(_Payload):
    """One permission request. Its status is required: a pending one must not pass for settled."""

    app_request_id: str
    run_id: str | None = None
    status: str


class PermissionRequestsData(_Payload):
    """Data of `opencode.permissionRequests`."""

    requests: list[PermissionRequest] = []


class CompatibilitySnapshotData(_Payload):
    """Data of `opencode.compatibilitySnapshot`: what the provider was found to be capable of."""

    snapshot_id: str | None = None
