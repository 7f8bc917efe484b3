"""A store, its model, and how a call of the one is held against the other."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from rtstore import (
    KEEP_EVERYTHING,
    ActionKind,
    Batch,
    BatchFailedError,
    BatchUnfinishedError,
    NewerStoreFileError,
    Retention,
    RunIdentity,
    RuntimeStore,
    RuntimeStoreError,
    StorageError,
    StoreFileChangedError,
)
from rtstore.testing import Seams
from tests.state_machine.stores import DESCRIPTORS, STORES, new_runtime
from tests.state_machine.trouble import FragileFileSystem, Trouble, troubled
from tests.state_machine.world import Intent, World
from tests.support import IDENTITY, NOON, Crash, Ids

SMALL = Retention(batches=6, contents_per_store=2)

Refusal = type[RuntimeStoreError] | None

_AFTER_ERROR = (StorageError, StoreFileChangedError, BatchFailedError, BatchUnfinishedError)
"""What an error of the operating system may be told as."""


class Runtime(RuleBasedStateMachine):
    """What the rules and the invariants stand on."""

    tally: ClassVar[Counter[str]] = Counter()
    """How often what happened, over all machines: a search that meets nothing proves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rtstore-model-"))
        self.now = NOON
        self.store: RuntimeStore | None = None
        self.abandoned: list[RuntimeStore] = []
        self.fs = FragileFileSystem()
        self.ids, self.names = Ids("batch"), Ids("own")
        self.receipts, self.plans = Ids("receipt"), Ids("plan")
        self.run_ids = Ids("another")

    @initialize(
        keeps_everything=st.booleans(),
        focus=st.lists(st.sampled_from(STORES), min_size=2, max_size=5, unique=True),
    )
    def begin(self, keeps_everything: bool, focus: list[str]) -> None:
        """An empty store, that forgets soon or never."""
        self.tally["programs"] += 1
        self.focus = focus
        self.retention = KEEP_EVERYTHING if keeps_everything else SMALL
        self.world = World(new_runtime(self.folder), keeps_everything)
        self.store = self.open()

    def teardown(self) -> None:
        """Close everything, the abandoned stores too: their connections are this process's."""
        for store in [self.store, *self.abandoned]:
            if store is not None:
                store.close()
        shutil.rmtree(self.folder)

    def open(self, **options: Any) -> RuntimeStore:
        """Open the store of the model."""
        return RuntimeStore.open(
            self.world.directory,
            seams=Seams(
                clock=lambda: self.now,
                batch_id_factory=self.ids,
                receipt_id_factory=self.receipts,
                plan_id_factory=self.plans,
                fs=self.fs,
            ),
            descriptors=DESCRIPTORS.values(),
            retention=self.retention,
            **options,
        )

    @property
    def living(self) -> RuntimeStore:
        """The store, which a living process has open."""
        assert self.store is not None
        return self.store

    def name(self, pick: int) -> str:
        """One of the stores that this program is about: few, so that they meet trouble twice."""
        return self.focus[pick % len(self.focus)]

    def identity_of(self, run: str) -> RunIdentity:
        """The identity of the active run, of a new one, or of one that is over."""
        if run == "new":
            return RunIdentity(run_id=self.run_ids())
        if run == "over" and self.world.over:
            return RunIdentity(run_id=max(self.world.over))
        return self.world.active or IDENTITY

    def tick(self) -> None:
        """Every rule has a second of its own, so that what it wrote is told apart."""
        self.tally["steps"] += 1
        self.now += timedelta(seconds=1)

    def bury(self, maybe: Sequence[Intent]) -> None:
        """The process died: its store is abandoned as it is, and so is what it was about."""
        self.tally["crashes"] += 1
        if self.store is not None:
            self.abandoned.append(self.store)
        self.store, self.fs = None, FragileFileSystem()
        self.world.maybe, self.world.pending = list(maybe), []

    # --- batches --------------------------------------------------------------------------------

    def settle(self, intents: Sequence[Intent]) -> None:
        """Find out which of these batches happened: each did whole, or is open, or did not."""
        store, world, left = self.living, self.world, list(intents)
        for batch in store.batches():
            if batch.state == "committed" and (batch.high_watermark or 0) > world.watermark:
                left.remove(intent := _match(left, set(batch.stores)))
                world.commit(intent, batch)
                self.tally["batches found after a crash"] += 1
            elif batch.state == "failed" and batch.batch_id not in world.failed:
                name = (batch.last_error or "").partition(":")[0]
                left.remove(intent := _match(left, {name}))
                world.fail(intent, batch.batch_id)
        assert store.manifest().high_watermark == world.watermark
        stores_of: dict[str, set[str]] = {}
        for action in store.plan_recovery().actions:
            if action.kind is ActionKind.ROLL_FORWARD:
                assert action.batch_id is not None
                stores_of.setdefault(action.batch_id, set()).add(action.schema_name)
        world.pending, world.maybe = [], []
        for batch_id, names in stores_of.items():
            left.remove(intent := _match(left, names))
            intent.batch_id, intent.decided = batch_id, True
            world.pending.append(intent)
            self.tally["open batches found"] += 1
        assert not [intent for intent in left if intent.decided], "a batch in the log is gone"

    def finish_pending(self) -> None:
        """The call that just ended found open batches, and finished them first."""
        for intent in self.world.pending:
            assert intent.batch_id is not None
            batch = self.living.batch(intent.batch_id)
            assert batch is not None
            for name, content in intent.contents.items():
                self.world.assume(name, content)
            self.world.commit(intent, batch)
        self.world.pending = []

    def run_batch(
        self,
        intent: Intent,
        call: Callable[[RuntimeStore], Batch],
        trouble: Trouble | None,
        refusal: Callable[[], Refusal],
    ) -> Batch | None:
        """Make a call that writes one batch, and hold what comes of it against the model.

        `refusal` says, once open batches were finished, which error the call must end in.
        """
        world, waiting = self.world, list(self.world.pending)
        if waiting and trouble is not None and not trouble.is_crash:
            trouble = None  # one trouble at a time
        try:
            with troubled(self.store, self.fs, trouble):
                batch = call(self.living)
        except Crash:
            intent.decided = trouble is not None and trouble.after_log and not waiting
            world.absorb(world.loosely([*waiting, intent]))
            self.bury([*waiting, intent])
            return None
        except RuntimeStoreError as error:
            check_message(error)
            self.tally[f"{type(error).__name__}"] += 1
            if world.blocked(waiting):
                assert isinstance(error, NewerStoreFileError)
                world.absorb(world.loosely(waiting))
            elif self.fs.hit and isinstance(error, _AFTER_ERROR):
                self._after_error(intent, error)
            else:
                self.finish_pending()
                expected = refusal()
                assert expected is not None, f"refused: {error}"
                assert isinstance(error, expected), f"{error!r} is no {expected}"
                world.absorb({})
            return None
        assert not world.blocked(waiting)
        self.finish_pending()
        assert refusal() is None, f"{refusal()} was to be raised"
        world.absorb({name: [content] for name, content in intent.contents.items()})
        world.commit(intent, batch)
        assert self.living.batch(batch.batch_id) == batch
        self.tally["batches acknowledged"] += 1
        return batch

    def _after_error(self, intent: Intent, error: RuntimeStoreError) -> None:
        """The operating system refused: nothing happened, or the batch failed or is left open."""
        world = self.world
        allowed: dict[str, set[bytes | None]] = {}
        if isinstance(error, BatchUnfinishedError):
            # Its file holds its bytes already, or the old version could not get its place back.
            assert error.decided
            intent.decided = True
            if not intent.exact:
                allowed = world.loosely([intent])
            world.absorb(allowed)
            self.settle([intent])
            return
        if not isinstance(error, BatchFailedError):
            world.absorb({})
            return
        if not error.undone:
            allowed = world.loosely([intent])
            for name in intent.contents:
                allowed[name].add(world.current(name))
        world.absorb(allowed)
        world.fail(intent, error.batch_id)


def _match(intents: Sequence[Intent], names: set[str]) -> Intent:
    for intent in intents:
        if names == set(intent.contents):
            return intent
    raise AssertionError(f"nobody asked for a batch of {names}")


def check_message(error: RuntimeStoreError) -> None:
    """An error says what happened, to which thing."""
    assert len(str(error)) > 20, repr(error)
