"""A batch deletes stores: the file goes, the entry goes, the history stays."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rtstore import (
    DELETED,
    KNOWN_DESCRIPTORS,
    ActionKind,
    ConflictError,
    ContentMissingError,
    Descriptor,
    InvalidRequestError,
    NewerStoreFileError,
    Retention,
    RunIdentity,
    RuntimeStore,
    StartKind,
    StoreFileChangedError,
    UnknownStoreError,
    UnsafePathError,
)
from rtstore.maintenance.doctor.gather import examine
from rtstore.model.envelope import content_hash
from tests.cli.commands import run
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    LEASES,
    LEDGER,
    SESSIONS,
    file_of,
    new_directory,
    open_store,
    write,
)
from tests.support.forked import forked

BY_HAND = b'{"schemaVersion": 1, "updatedAt": null, "data": "by hand"}'


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A store in which the leases and the ledger were written."""
    with open_store(new_directory(tmp_path)) as store:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "leases", LEDGER: "ledger"}
        )
        yield store


def delete(store: RuntimeStore, *names: str, **options: Any) -> Any:
    """Delete stores in a batch of their own."""
    writes = dict.fromkeys(names, DELETED)
    return store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes, **options)


def problem_of(call: Callable[[], object]) -> str:
    """Why a call is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        call()
    return str(caught.value)


def test_a_deleted_store_has_no_file_and_no_entry(store: RuntimeStore) -> None:
    """The batch that deletes one store and writes another has a receipt for each."""
    kept = file_of(store, LEDGER)
    batch = store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED, LEDGER: "new"}
    )
    assert not file_of(store, LEASES).exists()
    assert b'"new"' in kept.read_bytes()
    assert [entry.schema_name for entry in store.manifest().entries] == [LEDGER]
    assert [receipt.schema_name for receipt in batch.receipts] == [LEDGER]
    (deletion,) = batch.deletions
    assert (deletion.schema_name, deletion.relative_path) == (LEASES, file_of(store, LEASES).name)
    assert deletion.content_hash == store.history(LEASES)[0].content_hash
    assert deletion.deleted_at == batch.completed_at
    assert batch.stores == (LEDGER, LEASES)
    assert store.batch(batch.batch_id) == batch
    assert store.batches()[-1] == batch
    assert store.wait(after=1, timeout_s=1) == [batch]
    assert store.snapshot().data(LEASES) is None


def test_a_batch_may_delete_only(store: RuntimeStore) -> None:
    """It counts like any other, begins a run like any other, and is durable in one flush."""
    batch = delete(store, LEASES, LEDGER)
    assert (batch.high_watermark, batch.receipts) == (2, ())
    assert store.manifest().entries == ()
    assert store.manifest().last_committed_batch_id == batch.batch_id
    assert not list(store.directory.glob("*.json"))


def test_reading_a_deleted_store_says_when_it_was_deleted(store: RuntimeStore) -> None:
    """Now, and as of a batch after the deletion; before it, the content is there."""
    batch = delete(store, LEASES)
    later = write(store, LEDGER, "later")
    why = f"deleted by batch {batch.batch_id} at 2026-04-21T12:00:00.000Z"
    assert why in problem_of(lambda: store.read(LEASES))
    assert why in problem_of(lambda: store.read(LEASES, at=2))
    assert f"{why}, and not written again by batch {later}" in problem_of(
        lambda: store.read(LEASES, at=3)
    )
    assert store.read(LEASES, at=1).data == "leases"


def test_a_deletion_is_a_side_of_a_diff(store: RuntimeStore) -> None:
    """All that there was is removed, all that came after it added; between two there is nothing."""
    delete(store, LEASES)
    write(store, LEASES, None)
    delete(store, LEASES)
    gone = store.diff(LEASES, 1, 2)
    assert (gone.before.is_deletion, gone.after.is_deletion) == (False, True)
    assert [item.model_dump() for item in gone.differences] == [
        {"kind": "removed", "path": "", "before": "leases", "after": None}
    ]
    back = store.diff(LEASES, 2, 3)
    assert [(item.kind, item.path) for item in back.differences] == [("added", "")]
    assert [item.kind for item in store.diff(LEASES, 1, 3).differences] == ["changed"]
    assert store.diff(LEASES, 2).differences == ()


def test_a_deletion_that_is_not_on_record_any_more(store: RuntimeStore) -> None:
    """Nobody says that the store was never written: not read, nor the commands."""
    assert "it was never written in a batch" in problem_of(lambda: store.read(SESSIONS))
    delete(store, LEASES)
    for number in range(3):
        write(store, LEDGER, number)
    store.prune(Retention(batches=1))
    for name in (LEASES, SESSIONS):
        problem = problem_of(lambda name=name: store.read(name))  # type: ignore[misc]
        assert "never" not in problem
        assert "no batch on record wrote it, or deleted it" in problem
        for command in (("history",), ("diff",)):
            said = run(*command, store.directory, name)
            assert "never" not in said.out + said.err
            assert "no batch on record wrote it" in said.out + said.err
        row = run("status", store.directory).row(name, "record")
        assert re.search(r" missing +not on record ", row)


def test_the_history_shows_the_deletion(store: RuntimeStore) -> None:
    """As a version without content, between those before and after it."""
    deleted = delete(store, LEASES)
    write(store, LEASES, "anew")
    found = store.history(LEASES)
    assert [version.is_deletion for version in found] == [False, True, False]
    assert [version.is_current for version in found] == [False, False, True]
    assert [version.has_content for version in found] == [True, False, True]
    assert (found[1].batch_id, found[1].file_size) == (deleted.batch_id, 0)
    assert [version.is_deletion for version in store.history(LEASES, limit=2)] == [True, False]


def test_a_deleted_store_can_be_written_anew(store: RuntimeStore) -> None:
    """By a batch, an update, which is given None, or going back to what it held."""
    delete(store, LEASES)
    store.update(LEASES, lambda data: [data], identity=IDENTITY, reason=CHECKPOINT)
    assert store.read(LEASES).data == [None]
    delete(store, LEASES)
    store.revert(LEASES, to=1)
    assert store.read(LEASES).data == "leases"
    assert b'"leases"' in file_of(store, LEASES).read_bytes()


def test_an_update_may_delete(store: RuntimeStore) -> None:
    """Its one store, or some of several; what is not there already is not deleted again."""
    batch = store.update([LEASES, LEDGER], _delete_leases, identity=IDENTITY, reason=CHECKPOINT)
    assert batch is not None
    assert batch.stores == (LEDGER, LEASES)
    again = store.update([LEASES], _delete_leases, identity=IDENTITY, reason=CHECKPOINT)
    assert again is None
    alone = store.update(LEDGER, lambda _: DELETED, identity=IDENTITY, reason=CHECKPOINT)
    assert alone.stores == (LEDGER,)


def _delete_leases(data: dict[str, Any]) -> dict[str, Any]:
    data[LEASES] = DELETED
    if LEDGER in data:
        data[LEDGER] = "changed"
    return data


class Roster(BaseModel):
    """Data of a store with a model."""

    members: list[str]


def test_a_store_with_a_model_is_deleted_by_its_descriptor(tmp_path: Path) -> None:
    """Also as the result of an update that takes and gives objects of the model."""
    roster = Descriptor("team.roster", payload=Roster)
    with RuntimeStore.open(tmp_path / "runtime", team_name="t", descriptors=[roster]) as store:
        for attempt in range(2):
            store.write_batch(
                identity=IDENTITY, reason=CHECKPOINT, writes={roster: Roster(members=["a"])}
            )
            if attempt:
                store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={roster: DELETED})
            else:
                store.update(roster, lambda _: DELETED, identity=IDENTITY, reason=CHECKPOINT)
            assert store.manifest().entries == ()


class Count(BaseModel):
    """A model."""

    n: int = 0


@pytest.mark.parametrize("was_deleted", [False, True], ids=["never written", "deleted"])
def test_an_update_where_nothing_is_committed(tmp_path: Path, was_deleted: bool) -> None:
    """By name, or without a model, the function is called with None, and what it returns is
    written; by a descriptor with a model it is not called. Of several, `get` has None."""
    model, plain = Descriptor("team.count", payload=Count), Descriptor("team.plain")
    seen: list[Any] = []

    def see(data: Any) -> Any:
        seen.append(data)
        return {"n": 2}

    def see_several(data: Any) -> Any:
        seen.append((data.get(model), data.get(plain)))
        return {}

    with open_store(tmp_path / "runtime", descriptors=[model, plain]) as store:
        if was_deleted:
            for data in ({"n": 1}, DELETED):
                writes = {"team.count": data, "team.plain": data}
                store.write_batch(identity=IDENTITY, reason="test", writes=writes)
        before = store.manifest()
        call = partial(store.update, identity=IDENTITY, reason="test")
        assert "no committed content to change" in problem_of(partial(call, model, see))
        assert call([model, plain], see_several) is None
        assert (seen, store.manifest()) == ([(None, None)], before)
        for key in ("team.count", plain):
            call(key, see)
            assert store.read(key).data == {"n": 2}
        assert seen[1:] == [None, None]


@pytest.mark.parametrize(
    ("who", "reason"), [(RunIdentity(run_id="another"), CHECKPOINT), (IDENTITY, "other")]
)
def test_an_id_of_a_batch_of_another_run_is_said_to_be_that(
    store: RuntimeStore, who: RunIdentity, reason: str
) -> None:
    """The contents are the same: what differs is the run, or the reason."""
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: 1}, batch_id="once")
    said = problem_of(
        lambda: store.write_batch(identity=who, reason=reason, writes={LEASES: 1}, batch_id="once")
    )
    assert "other contents" not in said
    assert f"for another identity or reason (run {IDENTITY.run_id}, {CHECKPOINT})" in said


def test_a_call_can_be_repeated_under_its_id(store: RuntimeStore) -> None:
    """It returns the first batch; other contents under the same id are refused."""
    first = delete(store, LEASES, batch_id="once")
    assert delete(store, LEASES, batch_id="once") == first
    assert "with other contents" in problem_of(
        lambda: delete(store, LEASES, LEDGER, batch_id="once")
    )
    assert "with other contents" in problem_of(
        lambda: store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "x"}, batch_id="once"
        )
    )


def test_versions_are_compared(store: RuntimeStore) -> None:
    """A deletion of a version that is not there any more is refused; a deleted store has none."""
    write(store, LEASES, "newer")
    with pytest.raises(ConflictError):
        delete(store, LEASES, expected={LEASES: 1})
    delete(store, LEASES, expected={LEASES: 2})
    write(store, LEASES, "anew", expected={LEASES: None})


def test_a_version_that_was_deleted_meanwhile(store: RuntimeStore) -> None:
    """Who expects it is told by which batch, and who expects nothing that something is there."""
    deleted = write(store, LEASES, DELETED)
    for version in (1, "batch-1"):
        with pytest.raises(ConflictError) as caught:
            write(store, LEASES, "new", expected={LEASES: version})
        assert str(caught.value).startswith(
            f"this batch was made for {LEASES} as of batch {version}, and it was deleted by batch "
            f"{deleted}. Nothing was written"
        )
        assert (caught.value.found, caught.value.deleted_by) == (None, deleted)
    write(store, LEASES, "new", expected={LEASES: None})
    with pytest.raises(ConflictError, match="with nothing committed, and it is as of batch 3"):
        write(store, LEASES, "newer", expected={LEASES: None})


# --- bad input ----------------------------------------------------------------------------------


def test_what_is_not_there_is_not_deleted(store: RuntimeStore) -> None:
    """A store that was never written, or is deleted already, is refused by name; nothing of the
    batch happens."""
    for _ in range(2):
        problem = problem_of(lambda: delete(store, LEDGER, SESSIONS))
        assert (
            problem
            == f"writes ({SESSIONS}): nothing is committed for it, so there is nothing to delete"
        )
        assert file_of(store, LEDGER).exists()
    delete(store, LEDGER)
    assert LEDGER in problem_of(lambda: delete(store, LEDGER))
    with pytest.raises(UnknownStoreError, match=r"team\.unknown"):
        delete(store, LEASES, "team.unknown")
    assert store.manifest().high_watermark == 2


def test_a_store_is_not_written_and_deleted_in_one_batch(store: RuntimeStore) -> None:
    """In either order, and not deleted twice."""
    for one, other in ((DELETED, "data"), ("data", DELETED), (DELETED, DELETED)):
        writes = [(LEASES, one), (LEASES, other)]
        assert "the store is in the batch twice" in problem_of(
            lambda writes=writes: store.write_batch(  # type: ignore[misc]
                identity=IDENTITY, reason=CHECKPOINT, writes=writes
            )
        )
    assert store.read(LEASES).data == "leases"


def test_it_is_no_data(store: RuntimeStore) -> None:
    """Inside of data, as the contents that a run begins with, and from a rebuilder."""
    inside = {LEASES: {"x": DELETED}}
    assert "DELETED" in problem_of(
        lambda: store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=inside)
    )
    assert "a run begins with contents" in problem_of(
        lambda: store.begin_run("run-2", writes={LEASES: DELETED})
    )
    assert "DELETED" in problem_of(
        lambda: store.begin_run("run-2", rebuilders={LEASES: lambda _: DELETED})
    )
    assert store.manifest().high_watermark == 1


def test_it_is_one_object_everywhere() -> None:
    """Copied, pickled or printed."""
    assert copy.deepcopy(DELETED) is DELETED
    assert pickle.loads(pickle.dumps(DELETED)) is DELETED
    assert repr(DELETED) == "DELETED"


def test_what_a_newer_program_committed_is_not_deleted(tmp_path: Path) -> None:
    """Nor is its file."""
    newer = Descriptor("team.old", schema_version=2)
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[newer]) as store:
        write(store, "team.old", 2)
    older = Descriptor("team.old")
    with RuntimeStore.open(directory, descriptors=[older], upgrade=False) as store:
        with pytest.raises(NewerStoreFileError):
            delete(store, "team.old")
        assert file_of(store, "team.old").exists()


def test_the_last_copy_is_not_deleted(store: RuntimeStore) -> None:
    """A store whose content the database has lost is refused: its history could not stay."""
    with store.lock.hold(), store.database.write(flush=True) as connection:
        connection.exec_driver_sql("DROP TRIGGER store_contents_in_use_stay")
        connection.exec_driver_sql("DELETE FROM store_contents WHERE schema_name = ?", (LEASES,))
    with pytest.raises(ContentMissingError):
        delete(store, LEASES)
    assert file_of(store, LEASES).exists()


# --- what somebody else wrote -------------------------------------------------------------------


def test_a_file_that_was_changed_by_hand_is_kept(store: RuntimeStore) -> None:
    """In quarantine, as by a write, and as what was deleted; an update refuses it."""
    file_of(store, LEASES).write_bytes(BY_HAND)
    with pytest.raises(StoreFileChangedError):
        store.update(LEASES, lambda _: DELETED, identity=IDENTITY, reason=CHECKPOINT)
    file_of(store, LEDGER).write_bytes(BY_HAND + b" ")
    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: DELETED, LEDGER: "new"})
    assert not file_of(store, LEASES).exists()
    kept = {item.schema_name: item for item in store.quarantined_files()}
    assert (store.directory / kept[LEASES].quarantine_path).read_bytes() == BY_HAND
    assert kept[LEASES].reason == "changed by somebody else before its store was deleted"
    assert kept[LEDGER].reason == "changed by somebody else before it was overwritten"


def test_nothing_is_removed_through_a_link(store: RuntimeStore, tmp_path: Path) -> None:
    """A link in the place of the file refuses the batch."""
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(file_of(store, LEASES).read_bytes())
    file_of(store, LEASES).unlink()
    file_of(store, LEASES).symlink_to(elsewhere)
    with pytest.raises(UnsafePathError):
        delete(store, LEASES)
    assert elsewhere.exists()
    assert file_of(store, LEASES).is_symlink()


def test_a_file_that_is_back_is_removed_again(tmp_path: Path) -> None:
    """As a loss of power brings it back: an earlier version of ours, whole or torn, goes when the
    store is opened, without a copy in quarantine."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "first")
        first, path = file_of(store, LEASES).read_bytes(), file_of(store, LEASES)
        write(store, LEASES, "second")
        second = path.read_bytes()
        delete(store, LEASES)
    for back in (second, first, second[:-9], bytes(len(second))):
        path.write_bytes(back)
        with open_store(directory) as store:
            assert store.last_recovery is not None
            assert not path.exists()
            assert store.quarantined_files() == []


def test_a_file_that_is_back_is_ours_also_when_its_content_is_not_kept(tmp_path: Path) -> None:
    """It is recognised by its hash; its bytes are kept in quarantine, for they are nowhere else."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "first")
        path = file_of(store, LEASES)
        first = path.read_bytes()
        write(store, LEASES, "second")
        delete(store, LEASES)
        store.prune(Retention(contents_per_store=1))
    path.write_bytes(first)
    with open_store(directory) as store:
        assert not path.exists()
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == first


def test_a_read_says_whose_the_file_is_that_is_back(store: RuntimeStore) -> None:
    """Before anything removes it: that of a batch, or of somebody else."""
    content = file_of(store, LEASES).read_bytes()
    delete(store, LEASES)
    for back, of_batch in ((content, True), (BY_HAND, False)):
        file_of(store, LEASES).write_bytes(back)
        with pytest.raises(StoreFileChangedError) as caught:
            store.read(LEASES)
        assert (caught.value.expected_hash, caught.value.of_batch) == (None, of_batch)
        assert ("somebody else wrote it" in str(caught.value)) is not of_batch
        assert ("as a batch wrote it, and nothing is committed" in str(caught.value)) is of_batch
        assert pickle.loads(pickle.dumps(caught.value)).of_batch is of_batch


def test_a_new_file_of_a_deleted_store_is_somebody_elses(store: RuntimeStore) -> None:
    """It is what a file of a store is for which nothing was ever committed."""
    delete(store, LEASES)
    file_of(store, LEASES).write_bytes(BY_HAND)
    file_of(store, SESSIONS).write_bytes(BY_HAND.replace(b'"by hand"', b'{"sessions": []}'))
    actions = {action.schema_name: action for action in store.plan_recovery().actions}
    assert actions[LEASES].reason == actions[SESSIONS].reason == "uncommitted_write"
    with pytest.raises(StoreFileChangedError):
        store.read(LEASES)
    store.adopt(LEASES, identity=IDENTITY)
    assert store.read(LEASES).data == "by hand"


@pytest.mark.parametrize("content", [BY_HAND, BY_HAND[:-9]], ids=["valid", "torn"])
@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
@pytest.mark.parametrize("rebuilt", [True, False])
def test_a_runtime_starts_over_a_new_file_of_a_deleted_store(
    tmp_path: Path, content: bytes, run_id: str, rebuilt: bool
) -> None:
    """The start of the README gets on: the same run or the next, and whether or not the store has
    a strategy. The start state names the store; its first contents move the file to quarantine."""
    known = {item.schema_name: item for item in KNOWN_DESCRIPTORS}
    old = known[LEASES] if rebuilt else Descriptor(LEASES)
    directory = tmp_path / "runtime"
    descriptors = [old, Descriptor(LEDGER)]
    with RuntimeStore.open(directory, team_name="t", descriptors=descriptors) as store:
        store.begin_run("run-1", writes={LEASES: {"starts": 0}, LEDGER: 1})
        store.write_batch(
            identity=RunIdentity(run_id="run-1"), reason=CHECKPOINT, writes={LEASES: DELETED}
        )
        file_of(store, LEASES).write_bytes(content)
        start = store.start_state(run_id)
        if start.kind is StartKind.REPAIR:
            store.recover(start.plan)
            start = store.start_state(run_id)
        kind = StartKind.RESUME if run_id == "run-1" else StartKind.TAKE_OVER
        assert (start.kind, start.unwritten) == (kind, (LEASES,))
        first = {name: {"starts": 0} for name in start.unwritten}
        with store.begin_run(run_id, writes=first, keep="all") as run:
            run.update(LEASES, lambda data: {"starts": data["starts"] + 1}, reason="recovery")
        assert store.read(LEASES).data == {"starts": 1}
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == content
        assert store.start_state("run-3").unwritten == ()


def test_the_start_state_says_what_becomes_of_a_new_file(store: RuntimeStore) -> None:
    """Of one that would be written over; of one that is ours the recovery is told first."""
    content = file_of(store, LEASES).read_bytes()
    delete(store, LEASES)
    file_of(store, LEASES).write_bytes(BY_HAND)
    why = store.start_state("run-2").why
    assert f"nothing is committed for {LEASES}, and the database does not have what is in" in why
    file_of(store, LEASES).write_bytes(content)
    start = store.start_state("run-2")
    assert (start.kind, start.why) == (StartKind.REPAIR, f"recover first: {LEASES}")
    store.recover(start.plan)
    assert store.start_state("run-2").kind is StartKind.TAKE_OVER


def test_files_of_a_database_without_a_batch_are_not_started_over(tmp_path: Path) -> None:
    """They may be all that is left of a database that was lost."""
    with open_store(new_directory(tmp_path)) as store:
        file_of(store, LEASES).write_bytes(BY_HAND)
        start = store.start_state("run-1")
        assert (start.kind, LEASES in start.unwritten) == (StartKind.REPAIR, False)


def test_a_deleted_store_is_missing_as_one_never_written(store: RuntimeStore) -> None:
    """The plan does about it what its descriptor says; a run cannot keep it."""
    before = {action.schema_name: action for action in store.plan_recovery().actions}
    delete(store, LEASES)
    after = {action.schema_name: action for action in store.plan_recovery().actions}
    assert after[LEASES].kind == store_action_of_unwritten(store)
    assert {name: action for name, action in after.items() if name != LEASES} == {
        name: action for name, action in before.items() if name != LEASES
    }
    assert "nothing is committed for it" in problem_of(
        lambda: store.begin_run("run-2", keep=[LEASES])
    )
    run = store.begin_run("run-2", keep="all")
    assert run.batch is not None
    assert run.batch.stores == (LEDGER,)


def store_action_of_unwritten(store: RuntimeStore) -> str:
    """What the plan does about the leases in a directory where nothing was written."""
    parent = store.directory.parent / "other"
    parent.mkdir()
    with open_store(new_directory(parent)) as other:
        actions = {action.schema_name: action for action in other.plan_recovery().actions}
        return actions[LEASES].kind


def test_a_store_is_retired_by_deleting_it(tmp_path: Path) -> None:
    """Who opens the directory without its descriptor finds no entry, no row and no file of it;
    also when a loss of power brings the file back, whole or torn."""
    old, roster = Descriptor("team.old", relative_path="old/state.json"), Descriptor("team.roster")
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[roster, old]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={old: "old", roster: "r"})
        path = file_of(store, "team.old")
        content = path.read_bytes()
        delete(store, "team.old")
    RuntimeStore.open(directory, descriptors=[roster]).close()
    for back in (content, content[:-5], None):
        if back is not None:
            path.write_bytes(back)
        with RuntimeStore.open(directory) as store:
            assert list(store.descriptors.names) == ["team.roster"]
            assert [entry.schema_name for entry in store.manifest().entries] == ["team.roster"]
            assert not path.exists()
            assert store.quarantined_files() == []
            assert store.check_readiness(expected=IDENTITY).ok


def test_stores_without_a_descriptor_are_told_of_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning of an opening names them all."""
    old, older, roster = (Descriptor(f"team.{name}") for name in ("old", "older", "roster"))
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[old, older, roster]) as store:
        writes = {old: 1, older: 2, roster: 3}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
    RuntimeStore.open(directory, descriptors=[roster]).close()
    (told,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "store team.old in team.old.json, store team.older in team.older.json. No plan" in told


def test_a_retired_store_that_is_written_again_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a process that has its descriptor still. It is committed then, whatever descriptors the
    next opening has: that says so, and neither the doctor nor status takes its file for stray."""
    old, roster = Descriptor("team.old"), Descriptor("team.roster")
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[roster, old]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={old: "old", roster: "r"})
        delete(store, "team.old")
        RuntimeStore.open(directory, descriptors=[roster]).close()
        assert [record for record in caplog.records if "team.old" in record.getMessage()] == []
        write(store, "team.old", "again")
    RuntimeStore.open(directory, descriptors=[roster]).close()
    (told,) = [record for record in caplog.records if "team.old" in record.getMessage()]
    assert told.getMessage().startswith(
        "committed, and named by no descriptor: store team.old in team.old.json. No plan"
    )
    facts = examine(directory)
    assert (facts.unregistered, facts.unknown_files) == ({"team.old": "team.old.json"}, ())
    assert run("status", directory, "--json").json()["unregistered"] == ["team.old"]
    assert "team.old (committed, without a descriptor)" in run("status", directory, columns=200).out
    with RuntimeStore.open(directory, descriptors=[roster, old]) as store:
        assert store.read(old).data == "again"
        delete(store, "team.old")
    RuntimeStore.open(directory, descriptors=[roster]).close()
    assert "Not registered" not in run("status", directory, columns=200).out
    assert (examine(directory).unregistered, examine(directory).unknown_files) == ({}, ())


def test_a_file_that_is_back_is_removed_from_where_the_store_was(tmp_path: Path) -> None:
    """Its descriptor names another file by now: the old one goes all the same. What somebody else
    wrote there stays; so does the old file of a store that was written to its new one."""
    old = Descriptor("team.old")
    moved = Descriptor("team.old", relative_path="moved.json")
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[old]) as store:
        write(store, "team.old", "old")
        path = file_of(store, "team.old")
        content = path.read_bytes()
        delete(store, "team.old")
    for back in (content, content[:-5]):
        path.write_bytes(back)
        with RuntimeStore.open(directory, descriptors=[moved]) as store:
            assert not path.exists()
            assert store.quarantined_files() == []
    path.write_bytes(BY_HAND)
    with RuntimeStore.open(directory) as store:
        assert path.read_bytes() == BY_HAND
        write(store, "team.old", "anew")
    path.write_bytes(content)
    with RuntimeStore.open(directory) as store:
        assert path.read_bytes() == content
        assert store.read(moved).data == "anew"


def test_what_somebody_else_puts_there_afterwards_stays(tmp_path: Path) -> None:
    """So does what another store that has the file now wrote to it, and what somebody edited there.
    But what the deleted store left is no edit of the other: it goes again."""
    old = Descriptor("team.old")
    directory = tmp_path / "runtime"
    with RuntimeStore.open(directory, team_name="t", descriptors=[old]) as store:
        write(store, "team.old", "old")
        path = file_of(store, "team.old")
        content = path.read_bytes()
        delete(store, "team.old")
    path.write_bytes(BY_HAND)
    other = Descriptor("team.other", relative_path=path.name)
    RuntimeStore.open(directory, descriptors=[]).close()
    assert path.read_bytes() == BY_HAND
    for back in (content, content[:-5]):
        path.write_bytes(back)
        with RuntimeStore.open(directory, descriptors=[other], recover=False) as store:
            start = store.start_state("run-1")
            assert (start.kind, start.why) == (StartKind.REPAIR, "recover first: team.other")
        with RuntimeStore.open(directory, descriptors=[other]) as store:
            assert not path.exists()
            assert "in the file" not in store.start_state("run-1").why
            assert store.quarantined_files() == []
    path.write_bytes(BY_HAND)
    with RuntimeStore.open(directory, descriptors=[other]) as store:
        assert path.read_bytes() == BY_HAND
        write(store, "team.other", "mine")
        mine = path.read_bytes()
        assert [kept.content_hash for kept in store.quarantined_files()] == [content_hash(BY_HAND)]
    for back in (mine, content):
        path.write_bytes(back)
        with RuntimeStore.open(directory) as store:
            assert path.read_bytes() == mine


def test_deletions_come_back_from_an_export(store: RuntimeStore, tmp_path: Path) -> None:
    """An import reads which batch deleted what; a legacy program reads neither file nor entry."""
    from rtstore import import_directory

    batch = delete(store, LEASES)
    store.export(tmp_path / "exported")
    assert not (tmp_path / "exported" / file_of(store, LEASES).name).exists()
    import_directory(tmp_path / "exported")
    with RuntimeStore.open(tmp_path / "exported") as imported:
        found = imported.batch(batch.batch_id)
        assert found is not None
        assert found.deletions == batch.deletions
        assert imported.history(LEASES)[-1].is_deletion
        assert batch.batch_id in problem_of(lambda: imported.read(LEASES))


def test_a_back_up_has_no_file_of_a_deleted_store(store: RuntimeStore, tmp_path: Path) -> None:
    """It is opened as the store was."""
    batch = delete(store, LEASES)
    store.back_up(tmp_path / "copy")
    assert not (tmp_path / "copy" / file_of(store, LEASES).name).exists()
    with RuntimeStore.open(tmp_path / "copy") as copied:
        assert copied.last_recovery is None
        assert copied.batch(batch.batch_id) == batch


# --- several processes --------------------------------------------------------------------------

TURNS = 25
TURN_OVER = f"""
from rtstore import DELETED, RunIdentity, RuntimeStore

def turn_over(data):
    number = data["{LEDGER}"] + 1
    there = data["{LEASES}"] is not None
    return {{"{LEDGER}": number, "{LEASES}": DELETED if there else number}}

with RuntimeStore.open(sys.argv[1]) as store:
    for _ in range({TURNS}):
        store.update(
            ["{LEASES}", "{LEDGER}"],
            turn_over,
            identity=RunIdentity(run_id="run-1"),
            reason="turned_over",
        )
"""
"""Deletes the leases where they are there, writes them where they are not, and counts."""


def test_several_processes_delete_and_write_one_store(store: RuntimeStore) -> None:
    """Three of them lose no turn. Who looks on meanwhile sees no half of a batch, no file that is
    to be repaired, and no edit of anybody's."""
    write(store, LEDGER, 0)
    begun_at = store.manifest().high_watermark
    with ExitStack() as stack:
        others = [stack.enter_context(forked(TURN_OVER, store.directory)) for _ in range(3)]
        while any(other.poll() is None for other in others):
            snapshot = store.snapshot()
            number = snapshot.data(LEDGER)
            assert snapshot.data(LEASES) == (
                "leases" if number == 0 else None if number % 2 else number
            )
            if number:
                with suppress(InvalidRequestError):  # it is deleted at this moment
                    assert store.read(LEASES).data % 2 == 0
            actions = {action.schema_name: action for action in store.plan_recovery().actions}
            assert actions[LEASES].kind in (ActionKind.NONE, ActionKind.REBUILD_FROM_PROVIDER)
            assert actions[LEDGER].kind is ActionKind.NONE
        assert [other.wait(60) for other in others] == [0, 0, 0]
    assert store.read(LEDGER).data == 3 * TURNS
    assert store.manifest().high_watermark == begun_at + 3 * TURNS
    assert not file_of(store, LEASES).exists()  # after an odd number of turns
    turns = [version.is_deletion for version in store.history(LEASES)]
    assert turns == [False, True] * ((3 * TURNS + 1) // 2)
    assert store.quarantined_files() == []
