"""What must hold after every rule."""

from __future__ import annotations

import json

import pytest
from hypothesis.stateful import invariant, precondition

from rtstore import (
    ActionKind,
    BatchState,
    BatchUnfinishedError,
    InvalidRequestError,
    RuntimeStore,
    StoreFileChangedError,
)
from tests.state_machine.runtime import SMALL, Runtime
from tests.state_machine.stores import DESCRIPTORS, STORES
from tests.support import digest


def is_open(machine: Runtime) -> bool:
    """A living process has the store open."""
    return machine.store is not None


class CheckedRuntime(Runtime):
    """The invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.quarantined: dict[int, tuple[str, str | None, str | None]] = {}

    @invariant()
    def files_are_as_the_model_says(self) -> None:
        """Files equal the manifest, unless the model says that somebody changed them."""
        self.world.absorb({})

    @precondition(is_open)
    @invariant()
    def contents_equal_the_model(self) -> None:
        """Snapshot, manifest and high watermark are the model's."""
        check_contents(self, self.living)

    @precondition(is_open)
    @invariant()
    def reads_are_right_or_refused(self) -> None:
        """A read gives the committed data, or says that the file was changed."""
        store, world = self.living, self.world
        planned = {
            name: content for intent in world.pending for name, content in intent.contents.items()
        }
        for name in STORES:
            if world.seems_changed(name):
                with pytest.raises((StoreFileChangedError, BatchUnfinishedError)) as raised:
                    store.read(name)
                is_planned = world.disk[name] == planned.get(name, b"nothing")
                assert raised.type is (
                    BatchUnfinishedError if is_planned else StoreFileChangedError
                )
            elif name in world.committed:
                assert store.read(name) == store.snapshot([name]).contents[name]
            else:
                with pytest.raises(InvalidRequestError):
                    store.read(name)

    @precondition(is_open)
    @invariant()
    def history_is_unchanged(self) -> None:
        """Acknowledged batches keep their ids, receipts and times; a failed one stays failed."""
        world, open_ids = self.world, {intent.batch_id for intent in self.world.pending}
        listed = self.living.batches()
        for batch in listed:
            if batch.batch_id in world.batches:
                assert batch == world.batches[batch.batch_id]
            elif batch.batch_id in world.failed:
                assert (batch.state, batch.receipts) == (BatchState.FAILED, ())
            else:
                assert batch.batch_id in open_ids
        committed = [batch for batch in listed if batch.state is BatchState.COMMITTED]
        marks = [batch.high_watermark or 0 for batch in committed]
        assert marks == sorted(set(marks))
        names = {batch.batch_id for batch in listed}
        assert {version.batch_id for version in world.committed.values()} <= names
        if world.keeps_everything:
            assert names == world.batches.keys() | world.failed | open_ids
        assert SMALL.batches is not None
        newest = max((batch.batch_number for batch in listed), default=0)
        for batch_id, batch in world.batches.items():
            assert batch_id in names or batch.batch_number <= newest - SMALL.batches

    @precondition(is_open)
    @invariant()
    def nothing_of_others_is_lost(self) -> None:
        """What an outsider wrote and the store replaced is in quarantine or in the database."""
        store = self.living
        rows = store.quarantined_files()
        for row in rows:
            known = (row.quarantine_path, row.content_hash, row.schema_name)
            assert self.quarantined.setdefault(row.quarantine_number, known) == known
        assert self.quarantined.keys() == {row.quarantine_number for row in rows}
        kept = set()
        for row in rows:
            content = (store.directory / row.quarantine_path).read_bytes()
            assert digest(content) == row.content_hash
            assert (row.schema_name, content) not in kept, "the same bytes are kept twice"
            kept.add((row.schema_name or "", content))
        logged = store.database.read(
            lambda connection: connection.exec_driver_sql(
                "SELECT schema_name, content FROM store_contents"
            ).fetchall()
        )
        kept |= {(name, text.encode()) for name, text in logged}
        assert all(alternatives & kept for alternatives in self.world.replaced)

    @precondition(is_open)
    @invariant()
    def planning_tells_what_is_wrong(self) -> None:
        """Plan and readiness never raise; exactly the stores that deviate have an action."""
        store, world = self.living, self.world
        plan, check = store.assess()
        json.loads(plan.model_dump_json(by_alias=True))
        assert plan.high_watermark == world.watermark
        open_stores = {name for intent in world.pending for name in intent.contents}
        wrong = {
            action.schema_name for action in plan.actions if action.kind is not ActionKind.NONE
        }
        for name in STORES:
            fine = world.is_healthy(name) and not world.is_stale(name) and name not in open_stores
            assert (name not in wrong) == fine, (name, plan.actions)
        assert not (check.ok and wrong)


def check_contents(machine: Runtime, store: RuntimeStore) -> None:
    """What a store says is committed is what the model says."""
    world = machine.world
    snapshot, manifest = store.snapshot(), store.manifest()
    assert snapshot.high_watermark == manifest.high_watermark == world.watermark
    assert manifest.active_identity == world.active
    assert {entry.schema_name for entry in manifest.entries} == world.committed.keys()
    assert snapshot.contents.keys() == world.committed.keys()
    for name, version in world.committed.items():
        content, entry = snapshot.contents[name], manifest.entry(name)
        assert entry is not None
        assert content.data == version.data
        assert (content.batch_id, content.high_watermark) == (version.batch_id, version.watermark)
        assert content.content_hash == entry.content_hash == digest(version.content)
        assert entry.relative_path == DESCRIPTORS[name].relative_path
        assert content.run_id == entry.run_id == version.identity.run_id
