"""The rules: what can be done to a store by its runtime, by others, and by bad luck."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rtstore import (
    DELETED,
    ActionKind,
    ActionOutcome,
    ConflictError,
    DatabaseMissingError,
    InvalidRequestError,
    NewerStoreFileError,
    RecoveryFailedError,
    RuntimeStore,
    StaleRunError,
    StorageError,
    StoreFileChangedError,
)
from tests.state_machine.checks import CheckedRuntime, check_contents, is_open
from tests.state_machine.runtime import Refusal, check_message
from tests.state_machine.stores import (
    DESCRIPTORS,
    STORES,
    Rebuilding,
    Worth,
    data_for,
    data_of,
    rebuilders,
    render,
)
from tests.state_machine.trouble import CRASH, TROUBLE, Trouble, troubled
from tests.state_machine.world import Intent
from tests.support import CHECKPOINT, IDENTITY, Crash, files_picture, stray_files

PICK = st.integers(0, 6)
"""One of the stores that a program is about."""
NUMBER = st.integers(0, 99)
WRITES = st.dictionaries(PICK, NUMBER, min_size=1, max_size=4)
GONE = st.one_of(st.just(set[int]()), st.sets(PICK, max_size=2))
"""Stores that a batch deletes."""
RUN = st.sampled_from(["active", "active", "new", "over", "over"])
"""For which run a batch is: the active one, one that it begins, or one that is over."""


class StoreMachine(CheckedRuntime):
    """A store that is used, disturbed, killed and repaired in any order."""

    # --- the runtime writes ---------------------------------------------------------------------

    @precondition(is_open)
    @rule(
        writes=WRITES,
        gone=GONE,
        run=RUN,
        offset=st.sampled_from([None, None, 0, 0, -1, 1]),
        named=st.booleans(),
        trouble=TROUBLE,
    )
    def write_batch(
        self,
        writes: dict[int, int],
        gone: set[int],
        run: str,
        offset: int | None,
        named: bool,
        trouble: Trouble | None,
    ) -> None:
        """A batch is there whole or not at all; compare and swap lets the right one through. What
        it deletes must be committed."""
        self.tick()
        world, identity = self.world, self.identity_of(run)
        chosen = {self.name(pick): number for pick, number in writes.items()}
        data = {name: data_for(name, number) for name, number in chosen.items()}
        deleted = {self.name(pick) for pick in gone}
        data |= dict.fromkeys(deleted, DELETED)
        batch_id = self.names() if named else None
        current = world.watermark + len(world.pending)
        expected = None if offset is None else max(0, current + offset)

        def refusal() -> Refusal:
            if expected not in (None, current):
                return ConflictError
            if identity.run_id in world.over:
                return StaleRunError
            if deleted - world.committed.keys():
                return InvalidRequestError
            return NewerStoreFileError if any(map(world.is_newer, data)) else None

        self.tally["stores to delete"] += len(deleted)
        self.run_batch(
            Intent.of(data, identity, self.now, batch_id=batch_id),
            lambda store: store.write_batch(
                identity=identity,
                reason=CHECKPOINT,
                writes=data,
                expected_high_watermark=expected,
                batch_id=batch_id,
            ),
            trouble,
            refusal,
        )

    @precondition(is_open)
    @rule(pick=PICK, number=NUMBER, run=RUN, trouble=TROUBLE)
    def update(self, pick: int, number: int, run: str, trouble: Trouble | None) -> None:
        """An update gets the committed data, and no edit by hand is used or overwritten."""
        self.tick()
        world, name = self.world, self.name(pick)
        data, identity = data_for(name, number), self.identity_of(run)
        coming = world.coming(name)

        def change(current: Any) -> Any:
            assert current == coming
            return data

        def refusal() -> Refusal:
            if identity.run_id in world.over:
                return StaleRunError
            return StoreFileChangedError if world.seems_changed(name) else None

        self.run_batch(
            Intent.of({name: data}, identity, self.now),
            lambda store: store.update(name, change, identity=identity, reason=CHECKPOINT),
            trouble,
            refusal,
        )

    @precondition(is_open)
    @rule(pick=st.integers(0, 9), same=st.booleans())
    def write_again(self, pick: int, same: bool) -> None:
        """A retry under the same id gives the first result, or an error for other contents."""
        world, store = self.world, self.living
        known = [item for item in world.intents.values() if store.batch(item.batch_id or "")]
        if not known or world.blocked(world.pending):
            return
        self.tick()
        first = known[-1 - pick % len(known)]
        assert first.batch_id is not None
        data = {
            name: DELETED if content is None else data_of(content)
            for name, content in first.contents.items()
        }
        if not same:
            name = next(iter(data))
            data[name] = data_for(name, 500)
        try:
            again = store.write_batch(
                identity=first.identity,
                reason=first.reason,
                writes=data,
                batch_id=first.batch_id,
            )
            assert same
            assert again == world.batches[first.batch_id]
        except InvalidRequestError:
            assert not same or first.exact
        self.finish_pending()
        world.absorb({})

    @precondition(is_open)
    @rule(pick=PICK)
    def write_under_a_failed_id(self, pick: int) -> None:
        """A batch that failed never comes back: its id is refused."""
        world, store = self.world, self.living
        if not world.failed or world.blocked(world.pending):
            return
        failed = max(world.failed)
        if store.batch(failed) is None:
            return
        with_id: dict[str, Any] = {"identity": IDENTITY, "reason": CHECKPOINT, "batch_id": failed}
        try:
            store.write_batch(writes={self.name(pick): data_for(self.name(pick), 1)}, **with_id)
            raise AssertionError("a failed batch came back")
        except InvalidRequestError as error:
            check_message(error)
        self.finish_pending()
        world.absorb({})

    @precondition(is_open)
    @rule(pick=PICK, which=st.integers(0, 9), trouble=TROUBLE)
    def revert(self, pick: int, which: int, trouble: Trouble | None) -> None:
        """What a store once held is written again, in a batch like any other."""
        world, name = self.world, self.name(pick)
        wrote = [batch_id for batch_id, done in world.intents.items() if done.contents.get(name)]
        if not wrote or not world.keeps_everything:
            return
        self.tick()
        to = wrote[-1 - which % len(wrote)]
        data = data_of(world.intents[to].contents[name] or b"")
        identity = self.identity_of("active")

        def refusal() -> Refusal:
            if world.seems_changed(name):
                return StoreFileChangedError
            current = world.committed.get(name)
            is_current = current is not None and current.batch_id == to
            return InvalidRequestError if is_current else None

        self.run_batch(
            Intent.of({name: data}, identity, self.now, reason="recovery"),
            lambda store: store.revert(name, to=to, identity=identity),
            trouble,
            refusal,
        )

    # --- others write ---------------------------------------------------------------------------

    @rule(pick=PICK, number=NUMBER, kind=st.sampled_from(["valid", "older", "newer", "garbage"]))
    def edit(self, pick: int, number: int, kind: str) -> None:
        """Somebody else writes a file: a valid one, one of another version, or rubbish."""
        self.tick()
        name = self.name(pick)
        content = render(name, data_for(name, number), self.now).replace(b"  ", b" ")
        version = DESCRIPTORS[name].schema_version
        if kind in ("older", "newer"):
            other = version + 1 if kind == "newer" else version - 1
            content = content.replace(
                b'"schemaVersion": %d' % version, b'"schemaVersion": %d' % other
            )
        elif kind == "garbage":
            content = b"<<<<<<< %d\n" % number + content[: number * 2]
        self.world.outsider(name, content)

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        """Somebody else removes a file."""
        self.world.outsider(self.name(pick), None)

    @rule(pick=PICK, which=st.integers(0, 5), cut=st.sampled_from([0, 0, 0, 1, 2, 20]))
    def put_back_an_older_version(self, pick: int, which: int, cut: int) -> None:
        """Somebody copies a version back that the store once wrote, whole or not."""
        name = self.name(pick)
        older = sorted(self.world.logged[name])
        if older:
            content = older[-1 - which % len(older)]
            self.world.outsider(name, content[: len(content) - cut])

    @rule(
        pick=PICK,
        kind=st.sampled_from(["truncated", "flipped", "zeros"]),
        at=st.integers(0, 500),
        as_before=st.booleans(),
    )
    def damage(self, pick: int, kind: str, at: int, as_before: bool) -> None:
        """The disk damages a file, or somebody does who sets its time back afterwards."""
        world, name = self.world, self.name(pick)
        content = world.disk[name]
        if not content:
            return
        at %= len(content)
        if kind == "truncated":
            damaged = content[:at]
        elif kind == "flipped":
            damaged = content[:at] + bytes([content[at] ^ (1 << at % 7)]) + content[at + 1 :]
        else:
            damaged = content[:at] + bytes(len(content) - at)
        before = world.path(name).stat()
        world.outsider(name, damaged)
        if as_before:
            os.utime(world.path(name), ns=(before.st_atime_ns, before.st_mtime_ns))

    # --- open and close -------------------------------------------------------------------------

    @rule(recover=st.sampled_from([True, True, False]), trouble=CRASH)
    def reopen(self, recover: bool, trouble: Trouble | None) -> None:
        """Opening finishes what a dead writer left and puts back what was damaged; with
        recover=False it leaves all as found. Files of which the database knows no batch are no new
        directory: that is refused, and recover=False is the way in."""
        self.tick()
        world = self.world
        unsettled = [*world.pending, *world.maybe]
        may_refuse = recover and world.may_have_lost_its_database()
        if self.store is not None:
            self.store.close()
            self.store = None
        loose = world.loosely(unsettled)
        for name in STORES:
            loose[name] |= {world.current(name)} | world.restored(name)
        try:
            with troubled(None, self.fs, trouble):
                self.store = self.open(recover=recover)
        except Crash:
            world.absorb(loose if recover else {})
            self.bury(unsettled)
            return
        except RecoveryFailedError as error:
            check_message(error)
            self.tally["RecoveryFailedError"] += 1
            assert recover
            assert world.blocked(unsettled)
            world.absorb(loose)
            world.pending, world.maybe = [], unsettled
            return
        except DatabaseMissingError as error:
            check_message(error)
            self.tally["DatabaseMissingError"] += 1
            assert may_refuse
            world.absorb({})
            self.store = self.open(recover=False)
            self.settle(unsettled)
            assert world.may_have_lost_its_database()
            return
        if recover:
            world.absorb(loose)  # what is kept of a file is decided before its batch is committed
        self.settle(unsettled)
        assert not may_refuse or unsettled, "it was taken for a new directory"
        if recover:
            assert not world.pending
            assert not stray_files(world.directory)
            done = {name for intent in unsettled for name in intent.contents}
            allowed = {name: world.restored(name) for name in STORES}
            for name in done & world.committed.keys():
                allowed[name].add(world.current(name))
            world.absorb(allowed)
        else:
            world.absorb({})

    @precondition(lambda self: is_open(self) and not self.world.knows_a_batch)
    @rule(pick=PICK, number=NUMBER)
    def bring_a_file_before_the_first_batch(self, pick: int, number: int) -> None:
        """A valid file of which the database knows no batch makes opening refuse."""
        name = self.name(pick)
        self.world.outsider(name, render(name, data_for(name, number), self.now))
        before = files_picture(self.world.directory)
        refused = self.tally["DatabaseMissingError"]
        self.reopen(recover=True, trouble=None)
        assert self.tally["DatabaseMissingError"] == refused + 1
        assert files_picture(self.world.directory) == before

    @rule()
    def look_only(self) -> None:
        """Opening read-only shows the same, finishes nothing and changes nothing."""
        world = self.world
        before = files_picture(world.directory)
        with RuntimeStore.open(world.directory, read_only=True) as store:
            store.assess()
            store.quarantined_files()
            if self.store is not None:
                check_contents(self, store)
            else:
                assert store.manifest().high_watermark - world.watermark in range(
                    len(world.maybe) + 1
                )
        assert files_picture(world.directory) == before

    # --- recovery -------------------------------------------------------------------------------

    @precondition(is_open)
    @rule(behaviour=st.sampled_from(Rebuilding), trouble=TROUBLE)
    def recover(self, behaviour: Rebuilding, trouble: Trouble | None) -> None:
        """A recovery puts back what is committed, moves the rest aside, rebuilds what was lost."""
        self.tick()
        world, store = self.world, self.living
        waiting, blocked = list(world.pending), world.blocked(world.pending)
        identity, plan = self.identity_of("active"), store.plan_recovery()
        if waiting and (plan.stale_stores or any(item.identity != identity for item in waiting)):
            return  # what is stale for whom changes on the way
        to_rebuild = world.to_rebuild(behaviour)
        intents = world.rebuilds(to_rebuild, identity, self.now)
        loose = world.loosely([*waiting, *intents])
        for name in STORES:
            loose[name] |= {world.current(name), *world.recovered(name), *world.restored(name)}
        try:
            with troubled(store, self.fs, trouble):
                report = store.recover(plan, rebuilders=rebuilders(behaviour), identity=identity)
        except Crash:
            world.absorb(loose)
            self.bury([*waiting, *intents])
            return
        if self.fs.hit or blocked:
            world.absorb(loose)
            self.settle([*waiting, *intents])
            return
        bad = (Rebuilding.RAISING, Rebuilding.INVALID)
        failed = [step for step in report.steps if step.outcome is ActionOutcome.FAILED]
        assert behaviour in bad or not failed, failed
        self.finish_pending()
        allowed = {name: world.recovered(name) for name in STORES}
        left = {name for name in to_rebuild if name not in world.committed or world.is_stale(name)}
        rebuilt = [intent for intent in intents if intent.contents.keys() == left]
        for intent in rebuilt:
            allowed.update({name: {content} for name, content in intent.contents.items()})
        world.absorb(allowed)
        self.settle(rebuilt)
        self.tally["stores rebuilt"] += len(left)
        assert len(left) == sum("rebuilt in batch" in (s.detail or "") for s in report.steps)
        for action in report.remaining.actions:
            assert action.kind is not ActionKind.RESTORE_COMMITTED

    @precondition(is_open)
    @rule()
    def rehearse(self) -> None:
        """A dry run says what would be done, and changes nothing."""
        before = files_picture(self.world.directory)
        plan = self.living.plan_recovery()
        report = self.living.recover(plan, dry_run=True)
        assert {step.outcome for step in report.steps} <= {ActionOutcome.SKIPPED}
        assert files_picture(self.world.directory) == before

    @precondition(is_open)
    @rule(pick=PICK, number=NUMBER)
    def recover_by_an_old_plan(self, pick: int, number: int) -> None:
        """A plan from before the last batch is refused, and nothing is done."""
        plan, mark = self.living.plan_recovery(), self.world.watermark
        self.write_batch({pick: number}, set(), "active", None, named=False, trouble=None)
        if self.world.watermark == mark:
            return
        try:
            self.living.recover(plan)
            raise AssertionError("a plan that does not fit any more was carried out")
        except ConflictError as error:
            check_message(error)
        self.world.absorb({})

    @precondition(is_open)
    @rule(pick=PICK, trouble=TROUBLE)
    def adopt(self, pick: int, trouble: Trouble | None) -> None:
        """A valid file changed by hand becomes the committed content, byte for byte. What a batch
        wrote is no edit, unless nothing is committed."""
        world, name = self.world, self.name(pick)
        content, identity = world.disk[name], self.identity_of("active")
        is_ours = content is not None and world.source_of(name, content) is not None
        if is_ours and content != world.current(name) and not world.keeps_everything:
            return  # whether the database still knows it is not known here
        self.tick()
        intent = Intent({name: content or b""}, identity, "recovery", self.now, exact=True)

        def refusal() -> Refusal:
            if identity.run_id in world.over:
                return StaleRunError
            if world.disk[name] == world.current(name):
                return InvalidRequestError
            if world.worth(name) is Worth.NEWER:
                return NewerStoreFileError
            if is_ours and name in world.committed:
                return InvalidRequestError
            return None if world.worth(name) is Worth.VALID else InvalidRequestError

        self.run_batch(intent, lambda store: store.adopt(name, identity=identity), trouble, refusal)

    @precondition(is_open)
    @rule(pick=st.integers(0, 9), trouble=TROUBLE)
    def restore_quarantined(self, pick: int, trouble: Trouble | None) -> None:
        """A quarantined file goes back where it was, byte for byte; what is there now is kept
        first."""
        world, store = self.world, self.living
        rows = store.quarantined_files()
        if not rows:
            return
        self.tick()
        row = rows[-1 - pick % len(rows)]
        name = row.schema_name or ""
        content = (store.directory / row.quarantine_path).read_bytes()
        loose = {name: {world.disk[name], content}}
        try:
            with troubled(store, self.fs, trouble):
                taken = store.restore_quarantined(row.quarantine_number)
        except Crash:
            world.absorb(loose)
            self.bury(world.pending)
            return
        except StorageError as error:
            check_message(error)
            assert self.fs.hit
            world.absorb(loose)
            return
        world.absorb({name: {content}})
        assert taken.restored_at == self.now
        self.tally["quarantined files put back"] += 1
