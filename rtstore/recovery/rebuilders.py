"""Rebuild stores: call functions of the runtime, and write what they return as a batch.

A rebuilder may poll a provider or read a transcript, so it runs without the writer lock, and others
write meanwhile. The results are written together in one batch, without that of a store that one of
the others wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection

from rtstore.commit.quarantine import StoreFile
from rtstore.commit.writer import BatchWriter
from rtstore.control import history, manifest, runs
from rtstore.control.batches import last_deletion
from rtstore.errors import (
    ConflictError,
    InvalidRequestError,
    RuntimeStoreError,
    StaleRunError,
    shown,
)
from rtstore.history.reader import Snapshot, StoreReader
from rtstore.model import arguments
from rtstore.model.data_upgrade import waits_for_upgrade
from rtstore.model.descriptors import Descriptor, Registry
from rtstore.model.records import (
    ActionKind,
    ActionOutcome,
    BatchReason,
    InspectionState,
    ManifestEntry,
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
    """Why it is rebuilt: the state of its file, or in what it is stale. None: nothing is wrong, and
    another run is taking it over."""
    identity: RunIdentity
    """The run identity that the new data will be bound to."""
    committed: Snapshot
    """The committed contents of all stores."""

    @property
    def data(self) -> Any:
        """The last committed data of this store, or None."""
        content = self.committed.contents.get(self.descriptor.schema_name)
        return None if content is None else content.data


Rebuilder = Callable[[RebuildRequest], Any]
"""Returns the new data of a store, or None when there is no source to rebuild it from."""

Rebuilders = Mapping[Any, Rebuilder]
"""Functions by rebuild strategy (a known one, or a store's own) or by store. That of a store
goes before that of its strategy."""

CheckedRebuilders = Mapping[str, Rebuilder]


def given_rebuilders(rebuilders: Rebuilders) -> Mapping[str, Rebuilder]:
    """Return rebuilders that are a mapping. Raises `InvalidRequestError`."""
    given: object = rebuilders
    if not isinstance(given, Mapping):
        raise InvalidRequestError(
            "rebuilders", "must be functions by strategy or store name, in a mapping"
        )
    return given


def checked_rebuilders(rebuilders: Rebuilders, registry: Registry) -> CheckedRebuilders:
    """Return a mapping from strategy or store name to function, checked. Raises
    `InvalidRequestError`."""
    why = "recover calls it; AsyncRuntimeStore awaits"
    checked: dict[str, Rebuilder] = {}
    for key, rebuilder in given_rebuilders(rebuilders).items():
        name = registry.get(key).schema_name if key in registry else _strategy(key, registry)
        checked[name] = arguments.plain_function(rebuilder, f"rebuilders[{name}]", why)
    return checked


def _strategy(key: object, registry: Registry) -> str:
    """Return the strategy that a key names: a known one, or a store's own. Refuse any other."""
    strategies = dict.fromkeys(str(item.rebuild_strategy) for item in registry)
    known = dict.fromkeys([*map(str, RebuildStrategy), *strategies])
    if isinstance(key, str) and key in known:
        return str(key)
    words = ", ".join(map(repr, known))
    raise InvalidRequestError(
        "rebuilders", f"{shown(key)} is no store, and no strategy; the strategies are {words}"
    )


def rebuilder_of(descriptor: Descriptor, rebuilders: CheckedRebuilders) -> Rebuilder | None:
    """Return the rebuilder of a store, or None."""
    of_store = rebuilders.get(descriptor.schema_name)
    return of_store or rebuilders.get(str(descriptor.rebuild_strategy))


class _Rebuilt(NamedTuple):
    """What a rebuilder returned, and the action that it is for."""

    action: RecoveryAction
    write: StoreWrite


_DATA = "the rebuilt data"


class _Before(NamedTuple):
    """What was committed before any rebuilder was called."""

    versions: Mapping[str, str | None]
    """By store that is to be rebuilt: the batch that wrote it; None where nothing is committed."""
    deletions: Mapping[str, str | None]
    """By store that is to be rebuilt: the batch that deleted it last; None where none is on
    record."""
    last: RunIdentity | None
    """The identity of the last batch."""
    high_watermark: int


def _before(connection: Connection, names: Iterable[str]) -> _Before:
    versions: dict[str, str | None] = {}
    deletions: dict[str, str | None] = {}
    for name in names:
        point, gone = history.point_of_store(connection, name), last_deletion(connection, name)
        versions[name] = None if point is None else point.batch_id
        deletions[name] = None if gone is None else gone.batch_id
    return _Before(
        versions,
        deletions,
        manifest.load_active_identity(connection),
        manifest.high_watermark(connection),
    )


class Rebuilding:
    """Executes the rebuilds of one recovery."""

    def __init__(
        self,
        rebuilders: CheckedRebuilders,
        identity: RunIdentity | None,
        plan: RecoveryPlan,
        *,
        registry: Registry,
        reader: StoreReader,
        writer: BatchWriter,
        team_name: str,
    ) -> None:
        self._rebuilders = rebuilders
        self._given = identity
        self._identity = identity or plan.named_identity
        self._plan = plan
        self._stale = {item.schema_name for item in plan.stale_stores}
        self._registry = registry
        self._reader = reader
        self._writer = writer
        self._team_name = team_name

    def check_run(self) -> None:
        """Raise `StaleRunError` when stores would be rebuilt for a run that is over. Those of the
        last run may be repaired after its end, as long as the caller does not name it."""
        identity = self._given or (self._identity if self._rebuilders else None)

        def query(connection: Connection) -> None:
            if identity is not None and self._is_fenced(manifest.load_active_identity(connection)):
                runs.refuse_over(connection, identity.run_id)

        self._writer.database.read(query)

    def _is_fenced(self, last: RunIdentity | None) -> bool:
        """Return whether the batch is of a run that must not be over: one that was named, or
        another than the last."""
        if self._given is not None or self._identity is None:
            return self._given is not None
        return last is None or last.run_id != self._identity.run_id

    def concerns(self, action: RecoveryAction) -> bool:
        """Return whether an action is a rebuild: by its kind, or because its store is blocked until
        it is rebuilt, or is stale, and there is a rebuilder for it."""
        if action.kind in REBUILD_KINDS:
            return True
        if (
            action.kind is not ActionKind.BLOCK_READINESS
            or action.schema_name not in self._registry
        ):
            return False
        descriptor = self._registry.get(action.schema_name)
        can_be_rebuilt = action.reason in _FOR_THE_RUNTIME or action.schema_name in self._stale
        return can_be_rebuilt and rebuilder_of(descriptor, self._rebuilders) is not None

    def rebuild(self, actions: Sequence[RecoveryAction]) -> dict[str, RecoveryStep]:
        """Call the rebuilders of the stores, and write what they return in one batch. Return the
        steps by store.

        A rebuilder that is missing, fails, or returns None leaves its store as it was, and the
        step says so. An exception of a rebuilder is a failed step, and the recovery goes on.
        """
        names = [action.schema_name for action in actions]

        # Not after the contents, which may be newer.
        before = self._writer.database.read(partial(_before, names=names))
        committed = self._reader.snapshot(self._registry.names)
        steps: dict[str, RecoveryStep] = {}
        rebuilt: list[_Rebuilt] = []
        for action in actions:
            found = self._call(action, committed, self._identity or before.last)
            if isinstance(found, RecoveryStep):
                steps[action.schema_name] = found
            else:
                rebuilt.append(found)
        return steps | self._write(rebuilt, before)

    def _call(
        self, action: RecoveryAction, committed: Snapshot, identity: RunIdentity | None
    ) -> _Rebuilt | RecoveryStep:
        """Call the rebuilder of one store. Return what it returned, or the step that says why its
        store is left as it was."""
        descriptor = self._registry.get(action.schema_name)
        rebuilder = rebuilder_of(descriptor, self._rebuilders)
        if rebuilder is None:
            detail = f"waits for the runtime: no rebuilder for {descriptor.rebuild_strategy}"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        content = committed.contents.get(descriptor.schema_name)
        if content is not None and waits_for_upgrade(descriptor, content.schema_version):
            detail = (
                f"its committed data is of schema version {content.schema_version}, and waits for "
                f"its upgrade to {descriptor.schema_version}: left as it was"
            )
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        if identity is None:
            detail = "no run identity to bind the new data to: pass identity to recover"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        request = RebuildRequest(
            descriptor=descriptor, reason=action.reason, identity=identity, committed=committed
        )
        try:
            data = rebuilder(request)
        except Exception as error:  # noqa: BLE001 - the runtime's function may raise anything
            detail = f"the rebuilder raised {type(error).__name__}: {error}; left as it was"
            return RecoveryStep(action=action, outcome=ActionOutcome.FAILED, detail=detail)
        if data is None:
            detail = "the rebuilder returned nothing; left as it was"
            return RecoveryStep(action=action, outcome=ActionOutcome.SKIPPED, detail=detail)
        return _Rebuilt(action, StoreWrite(descriptor=descriptor, data=data))

    def _write(self, rebuilt: list[_Rebuilt], before: _Before) -> dict[str, RecoveryStep]:
        """Write rebuilt stores together. A store that is refused, or that was written since, is
        left out, and the others are written without it."""

        def check() -> None:
            names = [item.action.schema_name for item in rebuilt]
            now, what = self._writer.database.read_on_writer(partial(_before, names=names)), _DATA
            if not self._is_fenced(before.last) and now.last != before.last:
                raise ConflictError(what, before.high_watermark, now.high_watermark)
            for name in names:  # written and deleted since: nothing is committed, as before
                gone = now.deletions[name]
                if gone != before.deletions[name]:
                    was, found = before.versions[name], now.versions[name]
                    raise ConflictError(what, was, found, store=name, deleted_by=gone)

        steps: dict[str, RecoveryStep] = {}
        while rebuilt:
            refused = None
            try:
                for item in rebuilt:
                    refused = item
                    self._writer.check(self._request([item], before.last))
                    self._make_way(item.write.descriptor)
                refused = None
                names = [item.action.schema_name for item in rebuilt]
                batch = self._writer.write_checked(
                    self._request(rebuilt, before.last),
                    {name: before.versions[name] for name in names},
                    check,
                )
            except RuntimeStoreError as error:
                if self._writer.database.failure is not None or isinstance(error, StaleRunError):
                    raise  # the database itself failed, or the run is over by now: stop
                store = getattr(error, "store", None)
                named = [item for item in rebuilt if item.action.schema_name == store]
                for item in [refused] if refused is not None else named or rebuilt[:]:
                    rebuilt.remove(item)
                    detail = f"{error} Left as it was."
                    steps[item.action.schema_name] = RecoveryStep(
                        action=item.action, outcome=ActionOutcome.FAILED, detail=detail
                    )
                continue
            detail = f"rebuilt in batch {batch.batch_id}"
            return steps | {
                item.action.schema_name: RecoveryStep(
                    action=item.action, outcome=ActionOutcome.DONE, detail=detail
                )
                for item in rebuilt
            }
        return steps

    def _request(self, rebuilt: Sequence[_Rebuilt], last: RunIdentity | None) -> BatchRequest:
        return BatchRequest(
            team_name=self._team_name,
            identity=self._identity or last,
            reason=BatchReason.RECOVERY,
            writes=tuple(item.write for item in rebuilt),
            fenced=self._is_fenced(last),
        )

    def _make_way(self, descriptor: Descriptor) -> None:
        """Quarantine the file that is there. A write would refuse anything but a regular file.
        Raises `StoreFileChangedError` when it is not the store's file any more."""
        name = descriptor.schema_name

        def query(connection: Connection) -> ManifestEntry | None:
            entry = manifest.load_entries(connection, [name]).get(name)
            manifest.refuse_moved(connection, descriptor, entry)
            return entry

        with self._writer.lock.hold():
            entry = self._writer.database.read(query)
            self._writer.publisher.quarantine.keep(
                StoreFile.of(descriptor),
                entry,
                None,
                self._plan.plan_id,
                reason="rebuilt by the runtime",
            )
