"""What callers pass to the facade, checked: each of the wrong kind is an `InvalidRequestError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from rtstore.descriptors import Registry
from rtstore.draft import BatchRequest, StoreWrite, check_text
from rtstore.errors import InvalidRequestError
from rtstore.records import BatchReason, RunIdentity

Writes = Mapping[str, Any] | Iterable[tuple[str, Any]]
Choice = TypeVar("Choice", bound=StrEnum)


def checked_identity(identity: RunIdentity) -> RunIdentity:
    """The run identity, if it is one."""
    if not isinstance(identity, RunIdentity):
        raise InvalidRequestError("identity", "must be a RunIdentity")
    for field, text in identity:
        if text is not None:
            check_text(f"identity.{field}", text)
    return identity


def pairs(writes: Writes) -> list[tuple[str, Any]]:
    """What is to be written, store by store, from a mapping or from pairs."""
    try:
        items = writes.items() if isinstance(writes, Mapping) else writes
        return [(name, data) for name, data in items]
    except (TypeError, ValueError) as error:
        raise InvalidRequestError("writes", f"no mapping, and no pairs: {error}") from None


def member(kind: type[Choice], value: str, field: str) -> Choice:
    """The member of an enum that an argument names."""
    try:
        return kind(value)
    except ValueError:
        problem = f"{value!r} is not one of: {', '.join(kind)}"
        raise InvalidRequestError(field, problem) from None


def batch_request(
    team_name: str,
    registry: Registry,
    *,
    identity: RunIdentity,
    reason: BatchReason | str,
    writes: Writes,
) -> BatchRequest:
    """A batch of stores that are given by name. Raises `UnknownStoreError` too."""
    return BatchRequest(
        team_name=team_name,
        identity=checked_identity(identity),
        reason=member(BatchReason, reason, "reason"),
        writes=tuple(
            StoreWrite(descriptor=registry.get(name), data=data) for name, data in pairs(writes)
        ),
    )
