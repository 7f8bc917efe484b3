"""Upgrade store data of an older schema version, step by step: pure."""

from __future__ import annotations

from functools import partial
from typing import Any

from rtstore.errors import DataUpgradeError, InvalidRequestError, UpgradeProblem
from rtstore.model.descriptors import Descriptor
from rtstore.model.envelope import EnvelopeError, decode_own, encode, payload_problem
from rtstore.model.records import Record


class UpgradedStore(Record):
    """One store whose data was upgraded, or would be."""

    schema_name: str
    from_version: int
    to_version: int


class MovedStore(Record):
    """One store that an opening gave another file, or would give."""

    schema_name: str
    from_path: str
    to_path: str


def waits_for_upgrade(descriptor: Descriptor, schema_version: int) -> bool:
    """Return whether data is of an older schema version than the descriptor. It waits for its
    upgrade: until then the descriptor's model says nothing about it."""
    return schema_version < descriptor.schema_version


def data_problem(descriptor: Descriptor, schema_version: int, data: object) -> str | None:
    """Return where and why the model of a descriptor refuses data that was read; None when it
    accepts the data, or the data is of another schema version, which is not the model's."""
    if schema_version != descriptor.schema_version:
        return None
    return payload_problem(data, descriptor.payload)


def check_steps(descriptor: Descriptor, found: int, *, is_history: bool = False) -> None:
    """Raise `DataUpgradeError` unless every step from the version `found` has a function."""
    for version in range(found, descriptor.schema_version):
        if version not in descriptor.upgrades:
            raise DataUpgradeError(
                descriptor.schema_name,
                found,
                descriptor.schema_version,
                f"there is no function for the step from {version} to {version + 1}",
                kind=UpgradeProblem.NO_STEP,
                step=version,
                is_history=is_history,
            )


def upgraded_data(descriptor: Descriptor, content: bytes, *, is_history: bool = False) -> Any:
    """Return the data of a committed content, upgraded to the descriptor's version.

    `is_history` says that it is an earlier version of the store. The result is checked like any
    write. Raises `DataUpgradeError` when a step is missing or fails, when the result may not be
    written, or when the data is newer; `InvalidRequestError` when data that needs no upgrade may
    not be written.
    """
    name, wanted = descriptor.schema_name, descriptor.schema_version
    failed = partial(DataUpgradeError, name, is_history=is_history)
    try:
        envelope = decode_own(content)
    except EnvelopeError as error:
        problem = f"its content is no envelope: {error}"
        raise failed(0, wanted, problem, kind=UpgradeProblem.UNREADABLE) from None
    found, data = envelope.schema_version, envelope.data
    if found > wanted:
        raise failed(found, wanted, "no function leads back", kind=UpgradeProblem.NEWER)
    check_steps(descriptor, found, is_history=is_history)
    broken = partial(failed, found, wanted, kind=UpgradeProblem.STEP_FAILED)
    for version in range(found, wanted):
        step = f"the step from {version} to {version + 1}"
        try:
            data = descriptor.upgrades[version](data)
        except Exception as error:
            problem = f"{step} failed with {type(error).__name__}: {error}"
            raise broken(problem, step=version) from error
        if data is None:
            raise broken(f"{step} gave None: it must give the data", step=version)
    try:
        encode(schema_version=wanted, data=data, store=name, payload=descriptor.payload)
    except InvalidRequestError as error:
        if found == wanted:
            problem = f"what was committed then may not be written now: {error.problem}"
            raise InvalidRequestError(error.field, problem, store=name) from error
        problem = f"what came of it may not be written: {error.field}: {error.problem}"
        raise broken(problem, step=wanted - 1) from error
    return data


def current_data(descriptor: Descriptor, content: bytes) -> Any:
    """Return the data of a committed content that is about to be changed.

    Raises `DataUpgradeError` when its version is older: written back, the data would pass for the
    newer version.
    """
    envelope = decode_own(content)
    if waits_for_upgrade(descriptor, envelope.schema_version):
        raise DataUpgradeError(
            descriptor.schema_name,
            envelope.schema_version,
            descriptor.schema_version,
            "it was not upgraded when the store was opened",
            kind=UpgradeProblem.NOT_OPENED_FOR_IT,
        )
    return envelope.data
