"""Committed data as objects of payload models, and back, for stores given by their descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import BaseModel

from rtstore.errors import DataRefusedError, InvalidRequestError
from rtstore.model.descriptors import Descriptor, StoreKey
from rtstore.model.envelope import as_payload, refuse_other_model

Payload = TypeVar("Payload", bound=BaseModel)


class StoreData(dict[Any, Any]):
    """The committed data of the stores of an update, each under the name or the descriptor that it
    was given by: plain JSON by name, an object of its model by descriptor.

    A store with nothing committed, which was never written or was deleted, has None. By a
    descriptor with a payload model `[...]` raises `InvalidRequestError` then, and `get` returns
    None."""

    @overload
    def __getitem__(self, store: Descriptor[Payload]) -> Payload: ...

    @overload
    def __getitem__(self, store: str) -> Any: ...

    def __getitem__(self, store: StoreKey) -> Any:
        data = super().__getitem__(store)
        if data is None and isinstance(store, Descriptor) and store.payload is not None:
            problem = "no committed content: ask with get(), which returns None then"
            raise InvalidRequestError("store", problem, store=store.schema_name)
        return data

    if TYPE_CHECKING:

        @overload  # type: ignore[override]  # the keys are stores
        def get(self, store: Descriptor[Payload]) -> Payload | None: ...

        @overload
        def get(self, store: str) -> Any: ...

        def get(self, store: StoreKey) -> Any:
            """Return the data of a store, or None when nothing is committed for it."""


def data_for(
    store: StoreKey, data: Any, schema_version: int, *, earlier_batch_id: str | None = None
) -> Any:
    """Return committed data as its caller asked for it: by name as plain JSON, by a descriptor as
    an object of its model. `earlier_batch_id` is the batch of a version that is not the current
    one. Raises `DataRefusedError`."""
    if not isinstance(store, Descriptor) or store.payload is None:
        return data
    wanted = store.schema_version
    found = f"it is of schema version {schema_version}, and not of {wanted}"
    if schema_version == wanted:
        found = as_payload(data, store.payload)
    if isinstance(found, str):
        raise DataRefusedError(
            store.schema_name,
            store.payload.__name__,
            found,
            found_version=schema_version,
            wanted_version=wanted,
            earlier_batch_id=earlier_batch_id,
        )
    return found


def check_kind(descriptor: Descriptor, data: object, field: str) -> None:
    """Raise `InvalidRequestError` unless data is an object of the descriptor's model."""
    if descriptor.payload is not None:
        refuse_other_model(data, descriptor.schema_name, descriptor.payload, field)
