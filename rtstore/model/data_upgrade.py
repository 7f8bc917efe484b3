"""Upgrade store data of an older schema version, step by step: pure."""

from __future__ import annotations

from typing import Any

from rtstore.errors import DataUpgradeError, InvalidRequestError
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EnvelopeError, decode, decode_own, encode
from rtstore.model.records import Record


class UpgradedStore(Record):
    """One store whose data was upgraded, or would be."""

    schema_name: str
    from_version: int
    to_version: int


def check_steps(descriptor: Descriptor, found: int) -> None:
    """Raise `DataUpgradeError` unless every step from the version `found` has a function."""
    for version in range(found, descriptor.schema_version):
        if version not in descriptor.upgrades:
            raise DataUpgradeError(
                descriptor.schema_name,
                found,
                descriptor.schema_version,
                f"there is no function for the step from {version} to {version + 1}",
            )


def upgraded_data(descriptor: Descriptor, content: bytes) -> Any:
    """Return the data of a committed content, upgraded to the descriptor's version.

    The result is checked like any write. Raises `DataUpgradeError` when a step is missing or fails,
    or when the result may not be written.
    """
    name, wanted = descriptor.schema_name, descriptor.schema_version
    try:
        envelope = decode(content)
    except EnvelopeError as error:
        raise DataUpgradeError(name, 0, wanted, f"its content is no envelope: {error}") from None
    found, data = envelope.schema_version, envelope.data
    check_steps(descriptor, found)
    for version in range(found, wanted):
        step = f"the step from {version} to {version + 1}"
        try:
            data = descriptor.upgrades[version](data)
        except Exception as error:
            problem = f"{step} failed with {type(error).__name__}: {error}"
            raise DataUpgradeError(name, found, wanted, problem) from error
        if data is None:
            raise DataUpgradeError(name, found, wanted, f"{step} gave None: it must give the data")
    try:
        encode(schema_version=wanted, data=data, store=name, payload=descriptor.payload)
    except InvalidRequestError as error:
        problem = f"what came of it may not be written: {error.field}: {error.problem}"
        raise DataUpgradeError(name, found, wanted, problem) from error
    return data


def current_data(descriptor: Descriptor, content: bytes) -> Any:
    """Return the data of a committed content that is about to be changed.

    Raises `DataUpgradeError` when its version is older: written back, the data would pass for the
    newer version.
    """
    envelope = decode_own(content)
    if envelope.schema_version < descriptor.schema_version:
        raise DataUpgradeError(
            descriptor.schema_name,
            envelope.schema_version,
            descriptor.schema_version,
            "the store was opened without upgrading its data",
        )
    return envelope.data
