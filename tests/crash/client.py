"""A caller of the store that notes what it asks for and what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rtstore import (
    DELETED,
    KNOWN_DESCRIPTORS,
    ActionOutcome,
    BatchFailedError,
    BatchUnfinishedError,
    Criticality,
    Descriptor,
    Durability,
    FileSystem,
    Owner,
    RebuildStrategy,
    Retention,
    RuntimeStore,
    RuntimeStoreError,
    import_directory,
)
from rtstore.model.descriptors import HOST_LEASES, LAUNCH_STATE, SESSION_STORE
from rtstore.model.request import BatchRequest, batch_request
from rtstore.model.times import Clock, utc_now
from rtstore.recovery.rebuilders import RebuildRequest
from rtstore.testing import Ids, Seams
from tests.crash.children import Say
from tests.crash.ledger import (
    IDENTITY,
    Broken,
    Ending,
    EndTold,
    Escaped,
    Intent,
    Opened,
    Outcome,
    Recovered,
    Refused,
    Told,
)

TEAM = "team-a"
LANE = "test.lane"
"""A store of the runtime's own, below directories that the first batch makes."""

DESCRIPTORS = (
    *(item for item in KNOWN_DESCRIPTORS if item.schema_name in (LAUNCH_STATE, SESSION_STORE)),
    *(item for item in KNOWN_DESCRIPTORS if item.schema_name == HOST_LEASES),
    Descriptor(
        schema_name=LANE,
        relative_path="lanes/primary/state.json",
        criticality=Criticality.REBUILDABLE_FROM_PROVIDER,
        owner=Owner.E2E,
        rebuild_strategy=RebuildStrategy.POLL_OPENCODE_PROVIDER,
    ),
)
FILES = {item.schema_name: item.relative_path for item in DESCRIPTORS}
STORES = tuple(FILES)


_own_id: ContextVar[str] = ContextVar("own_id")
"""The id of the next batch of this thread."""


class Options(BaseModel):
    """How a scenario opens its store."""

    model_config = ConfigDict(frozen=True)

    durability: Durability = Durability.LOG
    retention: Retention = Retention()
    lock_timeout_s: float = 10.0
    alone: bool = True
    """Nobody else writes, so the files of an acknowledged batch can be looked at."""
    takes_over: bool = False
    """The directory is one of the legacy format: it is imported first, unless it was."""
    filler: int = 40
    """About how many bytes a store holds."""
    lane_version: int = 1
    """The schema version of the runtime's own store; from 2 on, older data is brought up."""


DEFAULT_OPTIONS = Options()


def new_data(store: str, marker: str, filler: int = 40) -> dict[str, Any]:
    """Data for a store that says which batch it is from."""
    data: dict[str, Any] = {"marker": marker, "filler": "x" * (filler + len(store))}
    if store == LAUNCH_STATE:
        data |= {"providerId": "opencode", "teamName": TEAM, "runId": IDENTITY.run_id}
    if store == SESSION_STORE:
        data["sessions"] = []
    return data


def holds(content: bytes | None, data: Any) -> bool:
    """Whether these bytes are a store file with this data."""
    try:
        return bool(json.loads(content or b"")["data"] == data)
    except (ValueError, TypeError, KeyError):
        return False


def gone(store: str) -> str:
    """A store that a batch deletes, among those that it writes."""
    return f"{_GONE}{store}"


_GONE = "gone:"


def _data(stores: tuple[str, ...], marker: str, filler: int = 40) -> dict[str, Any]:
    """What a batch writes to each of its stores; None for one that it deletes. These come last."""
    kept = [store for store in stores if not store.startswith(_GONE)]
    deleted = [store.removeprefix(_GONE) for store in stores if store not in kept]
    return {store: new_data(store, marker, filler) for store in kept} | dict.fromkeys(deleted)


def _asked(writes: dict[str, Any]) -> dict[str, Any]:
    """The same as it is asked of a store."""
    return {store: DELETED if data is None else data for store, data in writes.items()}


class Caller:
    """Opens the store of a directory and works with it, noting everything through `say`.

    Batches are named `PREFIX-1`, `PREFIX-2`, so that a ledger knows what each was to write even
    when nobody was left to be told.
    """

    def __init__(
        self,
        directory: Path,
        prefix: str,
        say: Say,
        *,
        fs: FileSystem | None = None,
        options: Options = DEFAULT_OPTIONS,
        polls: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        self._polls = polls
        self._clock = clock
        self._plan_ids = Ids(f"plan-{prefix}")
        self._openings = count(1)
        self.directory = directory
        self._prefix = prefix
        self.say = say
        self._fs = fs
        self._options = options
        self._operations = count(1)
        self._receipts = count(1)
        self.store: RuntimeStore | None = None
        self.identity = IDENTITY
        """The run that it writes for."""
        self._is_sure = False
        """Whether it was told that this run is the active one, and nothing since then says more."""

    def open(self, *, recover: bool = True) -> RuntimeStore:
        """Open the store; what is raised comes out."""
        token = _own_id.set(f"{self._prefix}-opening-{next(self._openings)}")
        if self._options.takes_over:
            import_directory(self.directory, descriptors=DESCRIPTORS, fs=self._fs)
        try:
            self.store = RuntimeStore.open(
                self.directory,
                team_name=TEAM,
                descriptors=self._descriptors(),
                seams=Seams(
                    clock=self._clock,
                    plan_id_factory=self._plan_ids,
                    batch_id_factory=_own_id.get,
                    receipt_id_factory=lambda: f"receipt-{self._prefix}-{next(self._receipts)}",
                    fs=self._fs or FileSystem(),
                ),
                durability=self._options.durability,
                retention=self._options.retention,
                lock_timeout_s=self._options.lock_timeout_s,
                recover=recover,
            )
        except (BatchFailedError, BatchUnfinishedError) as error:
            self.say(_refused(error))
            raise
        finally:
            _own_id.reset(token)
        self.say(Opened())
        upgrade = self.store.last_data_upgrade
        if upgrade is not None:
            batch = self.store.batch(str(upgrade.batch_id))
            self.say(Broken("an upgrade's batch is not there") if batch is None else Told(batch))
        return self.store

    def write(self, *stores: str, give_id: bool = False) -> bool:
        """Write new data to some stores as one batch, and delete those that are `gone`; whether it
        was acknowledged."""
        batch_id = self._next_id()
        writes = _data(stores, batch_id, self._options.filler)
        self.say(Intent(batch_id, writes, give_id, self.identity))
        with self._noting(batch_id, list(writes)):
            batch = self._opened.write_batch(
                identity=self.identity,
                reason="launch_checkpoint",
                writes=_asked(writes),
                batch_id=batch_id if give_id else None,
            )
            self.say(Told(batch))
            self._is_sure = True
            self._check_in_place(writes)
            return True
        return False

    def write_together(self, *batches: tuple[str, ...]) -> None:
        """Write batches that share a flush, each under an id of its own."""
        pending, intents = {}, {}
        for stores in batches:
            batch_id = self._next_id()
            writes = _data(stores, batch_id)
            intents[batch_id] = writes
            self.say(Intent(batch_id, writes))
            with self._noting(batch_id, ()):
                pending[batch_id] = self._opened._writer.prepare(
                    self._request("launch_checkpoint", _asked(writes))
                )
        error: Exception | None = None
        try:
            self._opened._writer.write_pending(list(pending.values()))
        except RuntimeStoreError as found:
            error = found
        last: dict[str, Any] = {}
        for batch_id, pending_batch in pending.items():
            with self._noting(batch_id, ()):
                if error is not None and not pending_batch.is_done:
                    raise error
                self.say(Told(pending_batch.result()))
                last |= intents[batch_id]
        self._check_in_place(last)

    def repeat(self, intent: Intent) -> bool:
        """Ask again for a batch whose id the caller chose."""
        with self._noting(intent.batch_id, ()):
            batch = self._opened.write_batch(
                identity=intent.identity,
                reason="launch_checkpoint",
                writes=_asked(intent.writes),
                batch_id=intent.batch_id,
            )
            self.say(Told(batch))
            return True
        return False

    def update(self, store: str) -> bool:
        """Add an item to what is in a store; whether it was acknowledged."""
        batch_id = self._next_id()
        written: list[Any] = []

        def change(data: Any) -> Any:
            changed = data or new_data(store, batch_id)
            changed.setdefault("items", []).append(batch_id)
            written.append(changed)
            self.say(Intent(batch_id, {store: changed}, identity=self.identity))
            return changed

        with self._noting(batch_id, [store]):
            batch = self._opened.update(
                store, change, identity=self.identity, reason="delivery_commit"
            )
            self.say(Told(batch))
            self._check_in_place({store: written[-1]})
            return True
        return False

    def update_several(self, *stores: str, beside: str) -> bool:
        """Add an item to what is in each of some stores, and nothing to one beside them; whether it
        was acknowledged."""
        batch_id = self._next_id()
        written: dict[str, Any] = {}

        def change(data: dict[str, Any]) -> dict[str, Any]:
            for store in stores:
                written[store] = data[store] or new_data(store, batch_id)
                written[store].setdefault("items", []).append(batch_id)
            self.say(Intent(batch_id, written, id_given=True, identity=self.identity))
            return {**data, **written}

        with self._noting(batch_id, [*stores, beside]):
            batch = self._opened.update(
                [beside, *stores],
                change,
                identity=self.identity,
                reason="launch_checkpoint",
                batch_id=batch_id,
            )
            self.say(Broken(f"{batch_id} changed nothing") if batch is None else Told(batch))
            self._check_in_place(written)
            return True
        return False

    def update_away(self, store: str, *, beside: str, give_id: bool = False) -> bool:
        """Add an item to what is in one store, and delete another, in an update of both; whether it
        was acknowledged."""
        batch_id = self._next_id()
        written: dict[str, Any] = {}

        def change(data: dict[str, Any]) -> dict[str, Any]:
            written[beside] = data[beside] or new_data(beside, batch_id)
            written[beside].setdefault("items", []).append(batch_id)
            if data[store] is not None:
                written[store] = None
            self.say(Intent(batch_id, written, give_id, self.identity))
            return {store: DELETED, beside: written[beside]}

        with self._noting(batch_id, [store, beside]):
            batch = self._opened.update(
                [beside, store],
                change,
                identity=self.identity,
                reason="launch_checkpoint",
                batch_id=batch_id if give_id else None,
            )
            self.say(Broken(f"{batch_id} changed nothing") if batch is None else Told(batch))
            self._check_in_place(written)
            return True
        return False

    def update_nothing(self, *stores: str) -> None:
        """Look at stores under the lock, and change none of them."""
        with self._noting(self._next_id(), stores):
            batch = self._opened.update(
                stores, lambda data: data, identity=self.identity, reason="launch_checkpoint"
            )
            if batch is not None:
                self.say(Broken(f"{batch.batch_id} was written, though nothing was changed"))

    def recover(self) -> None:
        """Plan, and carry the plan out; stores that can be polled are rebuilt, in one batch."""
        store = self._opened
        asked: list[str] = []
        writes: dict[str, Any] = {}

        def poll(request: RebuildRequest) -> Any:
            asked.extend([] if asked else [self._next_id()])
            name = request.descriptor.schema_name
            writes[name] = new_data(name, asked[0])
            self.say(Intent(asked[0], dict(writes), may_leave_out=True))
            return writes[name]

        rebuilders = {RebuildStrategy.POLL_OPENCODE_PROVIDER: poll} if self._polls else None
        try:
            plan = store.plan_recovery(expected=self.identity)
            report = store.recover(plan, rebuilders=rebuilders, identity=self.identity)
        except RuntimeStoreError:
            return
        done = {s.action.schema_name for s in report.steps if s.outcome is ActionOutcome.DONE}
        if asked and writes.keys() & done:
            batch = store.batch(asked[0])
            there = set() if batch is None else {r.schema_name for r in batch.receipts}
            if there != writes.keys() & done:
                self.say(Broken(f"{asked[0]} wrote {there}, but {done} were told to be rebuilt"))
        self.say(Recovered(report.remaining.readiness_impact))

    def begin(self, run_id: str, *given: str, rebuilt: str, keep: tuple[str, ...]) -> bool:
        """Begin a run that writes some stores, rebuilds one and keeps others; whether that was
        acknowledged. From then on write for it."""
        batch_id = self._next_id()
        identity = IDENTITY.model_copy(update={"run_id": run_id})
        with self._noting(batch_id, (*given, rebuilt)):
            old = self._opened.snapshot()
            writes = {store: new_data(store, batch_id) for store in given}
            again = {**old.data(rebuilt), "rebuiltFor": run_id}
            kept = {store: old.data(store) for store in keep}
            self.say(Intent(batch_id, {**writes, rebuilt: again, **kept}, identity=identity))
            run = self._opened.begin_run(
                identity, writes=writes, keep=keep, rebuilders={rebuilt: lambda _: again}
            )
            if run.batch is None or run.left:
                self.say(Broken(f"{run_id} began with {run.batch}, and {run.left} is left"))
            else:
                self.say(Told(run.batch))
            self.identity, self._is_sure = identity, True
            self._check_in_place({**writes, rebuilt: again, **kept})
            return True
        return False

    def end(self) -> None:
        """End the run that it writes for."""
        self._is_sure = False
        self.say(Ending(self.identity.run_id))
        with suppress(RuntimeStoreError):
            self._opened.end_run(self.identity.run_id, why="it is over")
            self.say(EndTold(self.identity.run_id))

    def take_part(self) -> None:
        """Unless it is sure of its run, write for the active one, or for a new one when that is
        over."""
        if self._is_sure:
            return
        runs = self._opened.runs()
        if not runs:
            self.identity = IDENTITY
        elif runs[0].is_over:
            run_id = f"run-after-{runs[0].run_id}"
            self.identity = IDENTITY.model_copy(update={"run_id": run_id})
        else:
            self.identity = IDENTITY.model_copy(update={"run_id": runs[0].run_id})

    def prune(self, retention: Retention) -> None:
        """Drop the history beyond a retention; it is simply left where that fails."""
        with suppress(RuntimeStoreError):
            self._opened.prune(retention)

    def adopt(self, store: str, data: Any) -> bool:
        """Make somebody's file, which holds this data, the committed content."""
        batch_id = self._next_id()
        self.say(Intent(batch_id, {store: data}))
        with self._noting(batch_id, [store]):
            self.say(Told(self._opened.adopt(store, identity=self.identity)))
            self._check_in_place({store: data})
            return True
        return False

    def revert(self, store: str, to: str) -> bool:
        """Write again what the batch of that id wrote into a store."""
        batch_id = self._next_id()
        writes = {store: new_data(store, to)}
        self.say(Intent(batch_id, writes))
        with self._noting(batch_id, [store]):
            self.say(Told(self._opened.revert(store, to=to)))
            self._check_in_place(writes)
            return True
        return False

    def restore_quarantined(self) -> None:
        """Put all quarantined files back where it was."""
        with suppress(RuntimeStoreError):
            for item in self._opened.quarantined_files():
                self._opened.restore_quarantined(item.quarantine_number)

    def close(self) -> None:
        """Close the store, if it is open."""
        if self.store is not None:
            self.store.close()
            self.store = None

    def beside(self) -> Caller:
        """Another caller of the same directory."""
        return Caller(
            self.directory,
            f"{self._next_id()}-beside",
            self.say,
            fs=self._fs,
            options=self._options,
            polls=self._polls,
            clock=self._clock,
        )

    # --- parts ----------------------------------------------------------------------------------

    @property
    def _opened(self) -> RuntimeStore:
        if self.store is None:
            return self.open()
        return self.store

    def _descriptors(self) -> list[Descriptor]:
        """Those of this scenario; the functions that bring data up say what they are about to."""
        batch_id, version = _own_id.get(), self._options.lane_version

        def bring_up(data: Any) -> Any:
            changed = {**data, "broughtUp": True}
            self.say(Intent(batch_id, {LANE: changed}))
            return changed

        upgrades = dict.fromkeys(range(1, version), bring_up)
        newer = {"schema_version": version, "upgrades": upgrades}
        return [
            item.model_copy(update=newer) if item.schema_name == LANE else item
            for item in DESCRIPTORS
        ]

    def _request(self, reason: str, writes: dict[str, Any]) -> BatchRequest:
        return batch_request(
            TEAM, self._opened.descriptors, identity=self.identity, reason=reason, writes=writes
        )

    def _check_in_place(self, writes: dict[str, Any]) -> None:
        """What was acknowledged is in its files, for other programs to read."""
        for store, data in writes.items() if self._options.alone else ():
            content = self._files([store])[store]
            if not (content is None if data is None else holds(content, data)):
                self.say(Broken(f"{store} was acknowledged, and its file is {content!r:.60}"))

    def _next_id(self) -> str:
        batch_id = f"{self._prefix}-{next(self._operations)}"
        _own_id.set(batch_id)
        return batch_id

    @contextmanager
    def _noting(self, batch_id: str, stores: tuple[str, ...] | list[str]) -> Iterator[None]:
        """Note what an error promises; an error of anybody else's is a failure."""
        before = self._files(stores)
        try:
            yield
        except BatchFailedError as error:
            self.say(_refused(error))
            if self._options.alone and error.undone and self._files(stores) != before:
                self.say(Broken(f"{batch_id} is said to be undone, but a file is not as before"))
        except BatchUnfinishedError as error:
            self._is_sure = False  # that batch may begin another run
            self.say(_refused(error))
            if error.batch_id != batch_id:
                self.say(Refused(batch_id, Outcome.NOTHING, str(error)))
        except RuntimeStoreError as error:
            self.say(Refused(batch_id, Outcome.NOTHING, f"{type(error).__name__}: {error}"))
        except Exception as error:
            self.say(Escaped(f"{type(error).__name__}: {error}"))

    def _files(self, stores: tuple[str, ...] | list[str]) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for store in stores:
            path = self.directory / FILES[store]
            found[store] = path.read_bytes() if path.is_file() else None
        return found


def _refused(error: BatchFailedError | BatchUnfinishedError) -> Refused:
    """What an error promises about its batch."""
    if isinstance(error, BatchFailedError):
        outcome = Outcome.FAILED
    else:
        outcome = Outcome.DECIDED if error.decided else Outcome.UNDECIDED
    return Refused(error.batch_id, outcome, str(error))
