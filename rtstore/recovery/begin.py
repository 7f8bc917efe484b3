"""Begin a run: decide which stores are given, rebuilt and kept, and call the rebuilders.

Rebuilders take their time, so they are called without the writer lock. If a store that they read is
written meanwhile, they are called again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from rtstore.commit.begin import Beginning, Begun, check_beginning
from rtstore.commit.writer import BatchWriter
from rtstore.errors import ConflictError, InvalidRequestError
from rtstore.history.reader import Snapshot, StoreReader
from rtstore.model import arguments
from rtstore.model.data_upgrade import waits_for_upgrade
from rtstore.model.decide import REFUSED, is_lost
from rtstore.model.descriptors import Descriptor, Registry, StoreKey, diagnostic_only
from rtstore.model.records import BatchReason, RunIdentity
from rtstore.model.request import BatchRequest, StoreWrite, Writes, store_writes
from rtstore.recovery.gather import RecoveryPlanner
from rtstore.recovery.rebuilders import (
    CheckedRebuilders,
    Rebuilders,
    RebuildRequest,
    checked_rebuilders,
    rebuilder_of,
)

Keep = Iterable[StoreKey] | Literal["all"]
"""The stores that a new run takes over as they are: by name or descriptor, or all of the registered
ones that are neither given nor rebuilt."""

_ATTEMPTS = 5


class RunStarter:
    """Begins runs in one runtime directory."""

    def __init__(
        self,
        registry: Registry,
        reader: StoreReader,
        planner: RecoveryPlanner,
        writer: BatchWriter,
        team_name: str,
    ) -> None:
        self._registry = registry
        self._reader = reader
        self._planner = planner
        self._writer = writer
        self._team_name = team_name

    def begin(
        self,
        identity: RunIdentity,
        *,
        writes: Writes,
        keep: Keep,
        rebuilders: Rebuilders,
        supersede: bool,
    ) -> Begun:
        """Begin or resume a run. See `RuntimeStore.begin_run`."""
        self._writer.lock.refuse_read_only()
        given = store_writes(self._registry, writes)
        for write in given:
            if write.deletes:
                problem = "a run begins with contents: delete the store in a batch of the run"
                raise InvalidRequestError("writes", problem, store=write.descriptor.schema_name)
        if given:
            self._writer.check(self._request(identity, given))
        checked = checked_rebuilders(rebuilders, self._registry)
        names = {write.descriptor.schema_name for write in given}
        for name in sorted(names & checked.keys()):
            raise InvalidRequestError("rebuilders", "the store is in writes as well", store=name)
        kept = () if keep == "all" else self._kept(keep, names, checked)
        to_rebuild = [
            item
            for item in self._registry
            if item.schema_name not in names and item not in kept and rebuilder_of(item, checked)
        ]
        rest = [
            item
            for item in self._registry
            if item.schema_name not in names and item not in to_rebuild
        ]
        beginning = Beginning(
            request=self._request(identity, given),
            keep=tuple(kept),
            keep_committed=self._acceptable(rest, has_others=bool(given)) if keep == "all" else (),
            rebuilt_from={},
            rebuilt_at=0,
            supersede=supersede,
        )
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._attempt(beginning, to_rebuild, checked)
            except ConflictError:  # a store was written while it was rebuilt
                continue
        return self._attempt(beginning, to_rebuild, checked)

    def _acceptable(
        self, stores: Sequence[Descriptor], *, has_others: bool
    ) -> tuple[Descriptor, ...]:
        """Return stores without the diagnostic ones whose data this program refuses, or whose data
        is lost or waits for its upgrade: they stop no start, and stay the old run's. Where there is
        nothing else to begin with, return all."""
        diagnostic = diagnostic_only(stores)
        if not diagnostic:
            return tuple(stores)
        gathered = self._planner.gather()
        plan = self._planner.plan_of(gathered, team_name=self._team_name, expected=None)
        refused = {
            item.schema_name for item in plan.actions if item.reason in REFUSED or is_lost(item)
        }
        refused |= {
            item.schema_name
            for item in self._reader.behind_edits(plan).values()
            if item.reason in REFUSED
        }
        entries = {item.schema_name: item for item in gathered.view.manifest.entries}
        refused |= {
            item.schema_name
            for item in stores
            if item.schema_name in entries
            and waits_for_upgrade(item, entries[item.schema_name].schema_version)
        }
        left = tuple(item for item in stores if item.schema_name not in diagnostic & refused)
        return left if left or has_others else tuple(stores)

    def _attempt(
        self, beginning: Beginning, to_rebuild: Sequence[Descriptor], rebuilders: CheckedRebuilders
    ) -> Begun:
        """Rebuild what is to be rebuilt, and begin. Refuse before any rebuilder is called."""
        identity = beginning.identity
        active = self._writer.database.read(
            partial(
                check_beginning,
                identity=identity,
                directory=self._writer.directory,
                supersede=beginning.supersede,
            )
        )
        if to_rebuild and not (active is not None and active.run_id == identity.run_id):
            committed = self._reader.snapshot(self._registry.names)
            rebuilt = self._rebuild(identity, committed, to_rebuild, rebuilders)
            request = beginning.request
            beginning = beginning._replace(
                request=request.model_copy(update={"writes": (*request.writes, *rebuilt)}),
                rebuilt_from={
                    item.schema_name: _batch_id(committed, item.schema_name) for item in to_rebuild
                },
                rebuilt_at=committed.high_watermark,
            )
        return self._writer.begin_run(beginning, check_file=self._reader.check_file)

    def _rebuild(
        self,
        identity: RunIdentity,
        committed: Snapshot,
        to_rebuild: Sequence[Descriptor],
        rebuilders: CheckedRebuilders,
    ) -> list[StoreWrite]:
        """Call the rebuilders. What one raises passes, with a note. Raises `InvalidRequestError`
        for one that returns None, or data that may not be written."""
        plan = self._planner.build_plan(team_name=self._team_name, expected=identity)
        reason_of = {action.schema_name: action.reason for action in plan.actions}
        rebuilt = []
        for descriptor in to_rebuild:
            name = descriptor.schema_name
            rebuilder = rebuilder_of(descriptor, rebuilders)
            assert rebuilder is not None  # noqa: S101 - so it was chosen
            request = RebuildRequest(
                descriptor=descriptor,
                reason=reason_of.get(name),
                identity=identity,
                committed=committed,
            )
            try:
                data = rebuilder(request)
            except BaseException as error:
                error.add_note(
                    f"rtstore: the rebuilder of {name} raised it; run {identity.run_id} did not "
                    "begin, and nothing was written"
                )
                raise
            if data is None:
                raise InvalidRequestError(
                    "rebuilders", "the rebuilder returned None: the run did not begin", store=name
                )
            rebuilt.append(StoreWrite(descriptor=descriptor, data=data))
        if rebuilt:
            self._writer.check(self._request(identity, rebuilt))
        return rebuilt

    def _kept(
        self, keep: Iterable[StoreKey], given: set[str], rebuilders: CheckedRebuilders
    ) -> list[Descriptor]:
        """Return the stores to keep by name. Raises `UnknownStoreError`, and `InvalidRequestError`
        for a store that is also given or rebuilt."""
        if isinstance(keep, str):
            raise InvalidRequestError(
                "keep", f"must be a list of store names, or 'all', not {keep!r}"
            )
        kept = [self._registry.get(name) for name in arguments.several(keep, "keep")]
        for descriptor in kept:
            name = descriptor.schema_name
            if name in given or name in rebuilders:
                other = "writes" if name in given else "rebuilders"
                raise InvalidRequestError("keep", f"the store is in {other} as well", store=name)
        return [item for number, item in enumerate(kept) if item not in kept[:number]]

    def _request(self, identity: RunIdentity, writes: Sequence[StoreWrite]) -> BatchRequest:
        return BatchRequest(
            team_name=self._team_name,
            identity=identity,
            reason=BatchReason.LAUNCH_CHECKPOINT,
            writes=tuple(writes),
        )


def _batch_id(committed: Snapshot, name: str) -> str | None:
    content = committed.contents.get(name)
    return None if content is None else content.batch_id
