"""The request for a batch, before it is checked and encoded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from rtstore.errors import InvalidRequestError, shown
from rtstore.model.arguments import check_id, checked_identity, number, reason_name
from rtstore.model.descriptors import Descriptor, Registry, StoreKey, store_name
from rtstore.model.records import (
    DELETED,
    ReasonName,
    Record,
    RunIdentity,
    construct_unchecked,
)
from rtstore.model.typed import check_kind


class StoreWrite(Record):
    """New data for one store, or its deletion."""

    descriptor: Descriptor
    data: Any
    deletes: bool = False
    """Whether the store is deleted; then there is no data."""
    stays: bool = False
    """Whether bytes that are there already are its content: then the data is checked only."""


class BatchTerms(NamedTuple):
    """What a request says of its batch, but for the writes: they hold the data, which may be
    large. The fields are those of the request."""

    team_name: str
    identity: RunIdentity | None
    reason: str
    fenced: bool


class BatchRequest(Record):
    """The writes of one batch, in the order in which the files are published."""

    team_name: str
    identity: RunIdentity | None
    """None for an upgrade of store data, which belongs to no run: each store keeps its own."""
    reason: ReasonName
    writes: tuple[StoreWrite, ...]
    fenced: bool = True
    """Whether its run must be the active one, or a new one that it begins. The library's own
    batches are of the last run, whether that is over or not."""

    @property
    def terms(self) -> BatchTerms:
        """What it says of the batch."""
        return BatchTerms(self.team_name, self.identity, self.reason, self.fenced)


Writes = Mapping[Any, Any] | Iterable[tuple[StoreKey, Any]]
"""New data by store (a `StoreKey`; a type checker takes names and descriptors in one mapping only
where its keys may be anything): plain JSON or an object of a pydantic model. For a store that is
given by its descriptor, an object of its model or plain JSON. `DELETED` deletes the store."""

ExpectedVersions = Mapping[Any, str | int | None]
"""By store (a `StoreKey`): the batch that wrote its current version, as `StoreContent` has it: its
id or its high watermark. None or 0: nothing was committed for it."""


def checked_versions(expected: object, names: Collection[str]) -> ExpectedVersions:
    """Return the expected versions of stores that are among these, by name. Raises
    `InvalidRequestError`."""
    if not isinstance(expected, Mapping):
        raise InvalidRequestError(
            "expected", f"must be a mapping of stores to versions, not {shown(expected)}"
        )
    checked: dict[str, str | int | None] = {}
    for store, version in expected.items():
        name = store_name(store)
        if name not in names:
            problem = f"{shown(name)} is not in the batch, so nothing of it is compared"
            raise InvalidRequestError("expected", problem)
        if isinstance(version, str):
            checked[name] = check_id(f"expected[{name}]", version)
        else:
            checked[name] = None if version is None else number(version, f"expected[{name}]")
    return checked


def pairs(writes: Writes) -> list[tuple[StoreKey, Any]]:
    """Return pairs of store and data, from a mapping or from pairs. Raises
    `InvalidRequestError`."""
    return [_pair(item) for item in _items(writes)]


def _items(writes: Writes) -> Iterable[Any]:
    if isinstance(writes, Mapping):
        return writes.items()
    try:
        return iter(writes)
    except TypeError as error:
        raise _no_pairs(error) from None


def _pair(item: Any) -> tuple[StoreKey, Any]:
    if isinstance(item, tuple) and len(item) == 2:
        return item[0], item[1]
    try:
        name, data = item
    except (TypeError, ValueError) as error:
        raise _no_pairs(error) from None
    return name, data


def _no_pairs(error: Exception) -> InvalidRequestError:
    return InvalidRequestError("writes", f"no mapping, and no pairs: {error}")


def store_writes(registry: Registry, writes: Writes) -> tuple[StoreWrite, ...]:
    """Return the writes of stores that are given by name or by descriptor. Raises
    `UnknownStoreError`, and `InvalidRequestError`, also for the object of another model than that
    of a descriptor."""
    return tuple(_store_write(registry, store, data) for store, data in pairs(writes))


def _store_write(registry: Registry, store: StoreKey, data: Any) -> StoreWrite:
    descriptor = registry.get(store)
    if isinstance(store, Descriptor) and isinstance(data, BaseModel):
        check_kind(descriptor, data, "writes")
    return store_write(descriptor, data)


def store_write(descriptor: Descriptor, data: Any) -> StoreWrite:
    """Return the write of data that a caller gave for a store, or the deletion of the store. (What
    is given for a store in another way is data in any case, and `DELETED` is none.)"""
    deletes = data is DELETED
    values = {
        "descriptor": descriptor,
        "data": None if deletes else data,
        "deletes": deletes,
        "stays": False,
    }
    return construct_unchecked(StoreWrite, values)


def batch_request(
    team_name: str,
    registry: Registry,
    *,
    identity: RunIdentity,
    reason: str,
    writes: Writes,
    fenced: bool = True,
) -> BatchRequest:
    """Return the request for a batch of stores. Raises `UnknownStoreError` and
    `InvalidRequestError`."""
    values = {
        "team_name": team_name,
        "identity": checked_identity(identity) if fenced else identity,  # else it is a stored one
        "reason": reason_name(reason),
        "writes": store_writes(registry, writes),
        "fenced": fenced,
    }
    return construct_unchecked(BatchRequest, values)
