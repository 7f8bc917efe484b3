"""Committed data as objects of payload models, and back, for stores given by their descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtstore.errors import DataRefusedError, InvalidRequestError, shown
from rtstore.model.descriptors import Descriptor, StoreKey
from rtstore.model.envelope import as_payload


def data_for(store: StoreKey, data: Any, schema_version: int) -> Any:
    """Return committed data as its caller asked for it: by name as plain JSON, by a descriptor as
    an object of its model. Raises `DataRefusedError`."""
    if not isinstance(store, Descriptor) or store.payload is None:
        return data
    name, model = store.schema_name, store.payload.__name__
    if schema_version != store.schema_version:
        problem = f"it is of schema version {schema_version}, and not of {store.schema_version}"
        raise DataRefusedError(name, model, problem)
    found = as_payload(data, store.payload)
    if isinstance(found, str):
        raise DataRefusedError(name, model, found)
    return found


def check_kind(descriptor: Descriptor, data: object, field: str) -> None:
    """Raise `InvalidRequestError` unless data is an object of the descriptor's model."""
    payload = descriptor.payload
    if payload is not None and not isinstance(data, payload):
        problem = f"must be a {payload.__name__}, not {shown(data)}"
        raise InvalidRequestError(field, problem, store=descriptor.schema_name)


def change_for(store: StoreKey, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function of an update as it is called with committed data: that of a store given
    by its descriptor takes and returns an object of the model.

    Then it raises `InvalidRequestError` where nothing was ever committed, since there is no such
    object, or for a result that is none; and `DataRefusedError`.
    """
    if not isinstance(store, Descriptor) or store.payload is None:
        return change
    descriptor = store

    def changed(data: Any) -> Any:
        if data is None:
            problem = "no committed content to change: write it in a batch first"
            raise InvalidRequestError("store", problem, store=descriptor.schema_name)
        result = change(data_for(descriptor, data, descriptor.schema_version))
        if result is not None:  # whoever calls refuses None
            check_kind(descriptor, result, "change")
        return result

    return changed
