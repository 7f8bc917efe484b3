"""Rebuild stores: call functions of the runtime, and write what they return as a batch.

A rebuilder may poll a provider or read a transcript, so it runs without the writer lock. When its
result is written, a batch written meanwhile is detected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rtstore.commit.quarantine import StoreFile
from rtstore.commit.writer import BatchWriter
from rtstore.control import manifest
from rtstore.errors import InvalidRequestError, RuntimeStoreError
from rtstore.history.reader import Snapshot, StoreReader
from rtstore.model import arguments
from rtstore.model.decide import REBUILDS
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    BatchReason,
    InspectionState,
    RebuildStrategy,
    Record,
    RecoveryAction,
    RecoveryPlan,
    RecoveryStep,
    RunIdentity,
)
from rtstore.model.request import BatchRequest, StoreWrite

REBUILD_KINDS = frozenset(
    {
        ActionKind.REBUILD_FROM_PROVIDER,
        ActionKind.REBUILD_FROM_CANONICAL_DESTINATION,
        ActionKind.RERUN_CAPABILITY_DISCOVERY,
    }
)


_FOR_THE_RUNTIME = (
    InspectionState.MISSING,
    InspectionState.UNCOMMITTED_WRITE,
    InspectionState.QUARANTINED,
)
"""Why a blocked store may be rebuilt by the runtime: its file is missing, nobody committed it, or
the committed content is refused."""


class RebuildRequest(Record):
    """The argument of a rebuilder."""

    descriptor: Descriptor
    """The store to rebuild."""
    reason: str | None
    """Why it is rebuilt: the state of its file."""
    identity: RunIdentity
    """The run identity that the new data will be bound to."""
    committed: Snapshot
    """The committed contents of all stores; this store's last good data too, if there is some."""


Rebuilder = Callable[[RebuildRequest], Any]
"""Returns the new data of a store, or None when there is no source to rebuild it from."""

Rebuilders = Mapping[RebuildStrategy, Rebuilder]


def checked_rebuilders(rebuilders: Rebuilders) -> Rebuilders:
    """Return a mapping from strategy to function, checked. Raises `InvalidRequestError`."""
    given: object = rebuilders
    if not isinstance(given, Mapping):
        raise InvalidRequestError("rebuilders", "must be functions by strategy, in a mapping")
    why = "recover calls it; AsyncRuntimeStore.recover awaits"
    return {
        arguments.member(RebuildStrategy, strategy, "rebuilders"): arguments.plain_function(
            rebuilder, f"rebuilders[{strategy}]", why
        )
        for strategy, rebuilder in rebuilders.items()
    }


class Rebuilding:
    """Executes the rebuilds of one recovery."""

    def __init__(
        self,
        rebuilders: Rebuilders,
        identity: RunIdentity | None,
        *,
        registry: Registry,
        reader: StoreReader,
        writer: BatchWriter,
        team_name: str,
    ) -> None:
        self._rebuilders = rebuilders
        self._identity = identity
        self._registry = registry
        self._reader = reader
        self._writer = writer
        self._team_name = team_name

    def concerns(self, action: RecoveryAction) -> bool:
        """Return whether an action is a rebuild: by its kind, or because its store is blocked until
        it is rebuilt and there is a rebuilder for it."""
        if action.kind in REBUILD_KINDS:
            return True
        if (
            action.kind is not ActionKind.BLOCK_READINESS
            or action.schema_name not in self._registry
        ):
            return False
        strategy = self._registry.get(action.schema_name).rebuild_strategy
        lost = action.reason in _FOR_THE_RUNTIME
        return lost and strategy in self._rebuilders and strategy in REBUILDS

    def rebuild(self, action: RecoveryAction, plan: RecoveryPlan) -> RecoveryStep:
        """Call the rebuilder of a store and write what it returns. Return the step.

        A rebuilder that is missing, fails, or returns None leaves its store as it was, and the
        step says so. An exception of a rebuilder is a failed step, and the recovery goes on.
        """
        descriptor = self._registry.get(action.schema_name)
        rebuilder = self._rebuilders.get(descriptor.rebuild_strategy)
        if rebuilder is None:
            detail = f"waits for the runtime: no rebuilder for {descriptor.rebuild_strategy}"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        current = self._writer.database.read(manifest.load)
        identity = self._identity or current.active_identity
        if identity is None:
            detail = "no run identity to bind the new data to: pass identity to recover"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        request = RebuildRequest(
            descriptor=descriptor,
            reason=action.reason,
            identity=identity,
            committed=self._reader.snapshot(self._registry.names),
        )
        try:
            data = rebuilder(request)
        except Exception as error:  # noqa: BLE001 - the runtime's function may raise anything
            detail = f"the rebuilder raised {type(error).__name__}: {error}; left as it was"
            return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=detail)
        if data is None:
            detail = "the rebuilder returned nothing; left as it was"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        return self._write(action, plan, request, data)

    def _write(
        self, action: RecoveryAction, plan: RecoveryPlan, request: RebuildRequest, data: Any
    ) -> RecoveryStep:
        descriptor = request.descriptor
        batch_request = BatchRequest(
            team_name=self._team_name,
            identity=request.identity,
            reason=BatchReason.RECOVERY,
            writes=(StoreWrite(descriptor=descriptor, data=data),),
        )
        try:
            self._writer.check(batch_request)
            self._make_way(descriptor, plan)
            batch = self._writer.write_batch(
                batch_request, expected_high_watermark=request.committed.high_watermark
            )
        except RuntimeStoreError as error:
            if self._writer.database.failure is not None:
                raise  # the database itself failed: stop
            detail = f"{error} Left as it was."
            return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=detail)
        detail = f"rebuilt in batch {batch.batch_id}"
        return RecoveryStep(action=action, outcome=ActionOutcome.DONE, detail=detail)

    def _make_way(self, descriptor: Descriptor, plan: RecoveryPlan) -> None:
        """Quarantine the file that is there. A write would refuse anything but a regular file."""
        name = descriptor.schema_name
        with self._writer.lock.hold():
            entry = self._writer.database.read(
                lambda connection: manifest.load_entries(connection, [name])
            ).get(name)
            self._writer.publisher.quarantine.keep(
                StoreFile.of(descriptor), entry, None, plan.plan_id, reason="rebuilt by the runtime"
            )
