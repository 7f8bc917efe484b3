"""Another program gave a store another file: who has it open under the old path writes there no
more, and is told where the store is; who gives the store a new file may do all it did before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import RootModel

from rtstore import (
    DELETED,
    ActionKind,
    AsyncRuntimeStore,
    Batch,
    DataUpgradeError,
    Descriptor,
    ForeignEdits,
    InvalidRequestError,
    NewerStoreFileError,
    RebuildRequest,
    RecoveryFailedError,
    Retention,
    RuntimeStore,
    StoreFileChangedError,
)
from rtstore.model.runs import StartKind
from rtstore.testing import Seams
from tests.crash.children import Child
from tests.recovery.test_lost_entries import edit
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    WatchedFileSystem,
    agree,
    data_in,
    files_picture,
    write,
)

NAME = "own.moved"
OLD, NEW = (
    Descriptor(NAME, relative_path=f"{name}.json", rebuild_strategy="own_source")
    for name in ("old", "new")
)
OTHER = Descriptor("own.other", relative_path="other.json")

Call = Callable[[RuntimeStore], object]


def moved(directory: Path, *descriptors: Descriptor, data: Any = "after") -> None:
    """Give the store its new file, as another program does: open, and write it there."""
    with RuntimeStore.open(directory, descriptors=[*(descriptors or [NEW]), OTHER]) as other:
        write(other, NAME, data)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which both stores were written, under the old descriptors."""
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[OLD, OTHER]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={OLD: "before", OTHER: 1})
    return tmp_path / "team"


@contextmanager
def refused(store: RuntimeStore, file: str = "new.json") -> Iterator[None]:
    """The block is refused, with the file that the store has now, and what to do. Nothing is
    written: no file, no batch, no recovery."""
    before, batches = files_picture(store.directory), store.batches()
    recoveries = _recoveries(store)
    with pytest.raises(StoreFileChangedError, match=f"the database says {file}") as told:
        yield
    assert (told.value.store, told.value.moved_to) == (NAME, file)
    assert "Open the directory again, with the descriptor for that file or" in str(told.value)
    assert files_picture(store.directory) == before
    assert (store.batches(), _recoveries(store)) == (batches, recoveries)


def _recoveries(store: RuntimeStore) -> object:
    def query(connection: Any) -> object:
        return connection.exec_driver_sql("SELECT count(*) FROM recovery_runs").scalar()

    return store.database.read(query)


WRITES: dict[str, Call] = {
    "a batch": lambda store: write(store, NAME, "late"),
    "a batch with other stores": lambda store: store.write_batch(
        identity=IDENTITY, reason=CHECKPOINT, writes={OTHER.schema_name: 2, NAME: "late"}
    ),
    "a deletion": lambda store: write(store, NAME, DELETED),
    "an update": lambda store: store.update(
        NAME, lambda _: "late", identity=IDENTITY, reason=CHECKPOINT
    ),
    "an update of several": lambda store: store.update(
        [NAME, OTHER.schema_name],
        lambda _: {NAME: "late"},
        identity=IDENTITY,
        reason=CHECKPOINT,
    ),
    "a revert": lambda store: store.revert(NAME, to=1),
    "a run with its first contents": lambda store: store.begin_run("late", writes={NAME: "late"}),
    "a run that keeps it": lambda store: store.begin_run("late", keep=[NAME]),
    "a run that keeps everything": lambda store: store.begin_run("late", keep="all"),
    "a run that rebuilds it": lambda store: store.begin_run(
        "late", rebuilders={NAME: lambda _: "late"}, keep="all"
    ),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("what", WRITES)
def test_no_write_goes_to_the_old_file(directory: Path, what: str) -> None:
    """However edits of others are dealt with. The entry keeps the new file, and the old one is not
    made again. Opened again as the error says, the program goes on."""
    with ExitStack() as opened:
        stores = [
            opened.enter_context(RuntimeStore.open(directory, foreign_edits=policy))
            for policy in ForeignEdits
        ]
        moved(directory)
        (directory / "old.json").unlink()
        for store in stores:
            with refused(store):
                WRITES[what](store)
        assert not (directory / "old.json").exists()
        assert stores[0].manifest().paths[NAME] == "new.json"
        write(stores[0], OTHER.schema_name, 2)  # the other stores are its own still
    with RuntimeStore.open(directory) as store:
        assert (data_in(directory / "new.json"), store.read(NAME).data) == ("after", "after")
        assert write(store, NAME, "on")
        assert agree(store)


def test_of_batches_that_are_written_together_its_own_is_refused(directory: Path) -> None:
    """The others, which tasks submit at the same time, are written."""

    async def main() -> None:
        async with AsyncRuntimeStore.open(directory) as store:
            moved(directory)
            names = [NAME, OTHER.schema_name] * 4
            outcomes = await asyncio.gather(
                *(
                    store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={name: number})
                    for number, name in enumerate(names)
                ),
                return_exceptions=True,
            )
            for name, outcome in zip(names, outcomes, strict=True):
                assert isinstance(outcome, StoreFileChangedError if name == NAME else Batch)
            manifest = await store.manifest()
            assert (manifest.paths[NAME], manifest.high_watermark) == ("new.json", 6)

    asyncio.run(main())
    assert data_in(directory / "old.json") == "before"


@pytest.mark.parametrize("was", ["never written", "deleted before", "deleted by the other"])
def test_a_store_with_nothing_committed_is_written_at_its_file_only(
    tmp_path: Path, was: str
) -> None:
    """It is where the descriptors say that the directory remembers."""
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="t", descriptors=[OLD, OTHER]) as store:
        write(store, OTHER.schema_name, 1)
        if was == "deleted before":
            write(store, NAME, "before")
            write(store, NAME, DELETED)
        with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as other:
            if was == "deleted by the other":
                write(other, NAME, "before")
                write(other, NAME, DELETED)
        with refused(store):
            write(store, NAME, "late")
        start = store.start_state("next")
        assert start.kind is StartKind.REFUSE
        assert f"{NAME} cannot be written: another program gave it the file new.json" in start.why
    with RuntimeStore.open(directory) as store:
        write(store, NAME, "first")
        assert store.manifest().paths[NAME] == "new.json"


def test_a_start_and_readiness_say_where_the_store_is(directory: Path) -> None:
    """And ask for no recovery, which would make the old file again."""
    with RuntimeStore.open(directory) as store:
        moved(directory)
        problem = f"{NAME} cannot be written: another program gave it the file new.json"
        check, start = store.check_readiness(), store.start_state(IDENTITY.run_id)
        assert (check.ok, start.kind) == (False, StartKind.REFUSE)
        assert any(problem in text and "open the directory again" in text.lower()
                   for text in check.diagnostics)  # fmt: skip
        assert problem in start.why
    with RuntimeStore.open(directory) as store:
        assert store.check_readiness().ok
        assert store.start_state(IDENTITY.run_id).kind is StartKind.RESUME


@pytest.mark.parametrize("left", ["as it was", "edited", "torn", "removed"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_no_recovery_changes_the_old_file(directory: Path, left: str, *, dry_run: bool) -> None:
    """It is refused before anything is done, whatever is left at the old path."""
    with RuntimeStore.open(directory) as store:
        moved(directory)
        path = directory / "old.json"
        if left == "edited":
            path.write_bytes(path.read_bytes().replace(b"before", b"edited"))
        elif left == "torn":
            path.write_bytes(path.read_bytes()[:-9])
        elif left == "removed":
            path.unlink()
        plan = store.plan_recovery()
        assert [item.schema_name for item in plan.actions if item.kind is not ActionKind.NONE] == [
            NAME
        ]
        rebuilders = {NAME: lambda _: pytest.fail("it was called")}
        with refused(store):
            store.recover(plan, rebuilders=rebuilders, dry_run=dry_run)


def test_a_plan_without_the_store_is_carried_out(directory: Path) -> None:
    """Its other stores are this program's still."""
    with RuntimeStore.open(directory) as store:
        moved(directory)
        (directory / "other.json").unlink()
        plan = store.plan_recovery()
        others = tuple(item for item in plan.actions if item.schema_name != NAME)
        report = store.recover(plan.model_copy(update={"actions": others}))
        assert [(step.action.schema_name, step.outcome) for step in report.steps] == [
            (OTHER.schema_name, "done")
        ]
        assert data_in(directory / "other.json") == 1


@pytest.mark.parametrize("found", ["nothing", "a file of somebody else's"])
def test_a_store_that_is_moved_while_it_is_rebuilt(tmp_path: Path, found: str) -> None:
    """The rebuilder runs without the lock. Its data is not written, and what is in the old file
    stays there."""
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="t", descriptors=[OLD, OTHER]) as store:
        write(store, OTHER.schema_name, 1)
        if found != "nothing":
            (directory / "old.json").write_bytes(b'{"schemaVersion": 1, "data": "theirs"}')

        def rebuild(_: RebuildRequest) -> str:
            RuntimeStore.open(directory, descriptors=[NEW, OTHER]).close()
            return "late"

        before = files_picture(directory)
        (step,) = store.recover(store.plan_recovery(), rebuilders={NAME: rebuild}).steps
        assert (step.action.schema_name, step.outcome) == (NAME, "failed")
        assert step.detail is not None
        assert "the database says new.json" in step.detail
        assert files_picture(directory) == before
        assert store.manifest().high_watermark == 1


def test_a_lost_entry_of_a_moved_store(directory: Path) -> None:
    """It is left to an opening, which makes it again where the store is."""
    with RuntimeStore.open(directory) as store:
        moved(directory)
        (directory / "old.json").unlink()
        edit(directory, f"DELETE FROM manifest_entries WHERE schema_name = '{NAME}'")
        with refused(store):
            store.recover(store.plan_recovery())
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "after"
    assert not (directory / "old.json").exists()


def test_newer_data_is_said_to_be_newer(directory: Path) -> None:
    """The program is too old for it, wherever it is."""
    newer = NEW.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: data}})
    with RuntimeStore.open(directory) as store:
        moved(directory, newer)
        with pytest.raises(NewerStoreFileError):
            write(store, NAME, "late")
    assert data_in(directory / "old.json") == "before"


# --- what still moves a store ---------------------------------------------------------------------


def test_an_older_program_that_opens_again_is_told_of_the_newer_one(directory: Path) -> None:
    """No other descriptor would help it: neither a start nor readiness says so."""
    later = NEW.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: [data]}})
    RuntimeStore.open(directory, descriptors=[later, OTHER]).close()
    with RuntimeStore.open(directory, descriptors=[OLD, OTHER]) as store:
        start = store.start_state(IDENTITY.run_id)
        assert start.kind is StartKind.REFUSE
        assert "written by a newer program: start that one" in start.why
        assert not any("another program gave" in it for it in store.check_readiness().diagnostics)
        (directory / "old.json").unlink()
        for dry_run in (False, True):
            with pytest.raises(NewerStoreFileError):
                store.recover(store.plan_recovery(), dry_run=dry_run)


@pytest.mark.parametrize("what", WRITES)
def test_the_first_write_under_new_descriptors_moves_a_store(directory: Path, what: str) -> None:
    """Whichever it is, and without a write in between."""
    with RuntimeStore.open(directory) as store:
        write(store, NAME, "changed")
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert store.manifest().paths[NAME] == "old.json"
        assert store.start_state("late").kind is StartKind.TAKE_OVER
        WRITES[what](store)
        assert store.manifest().paths.get(NAME) == (None if what == "a deletion" else "new.json")
        if what == "a deletion":
            write(store, NAME, "anew")
            assert store.manifest().paths[NAME] == "new.json"
        assert agree(store)


def test_a_reader_with_new_descriptors_is_told_the_file(directory: Path) -> None:
    """It moves nothing, and nobody else moved anything: the error says which file the database
    has. Opened as that says, the store is read."""
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER], read_only=True) as store:
        with pytest.raises(StoreFileChangedError, match=r"the database says old\.json") as told:
            store.read(NAME)
        assert "another program" not in str(told.value)
        assert store.read(NAME, verify=False).data == "before"
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.read(NAME).data == "before"


@pytest.mark.parametrize("foreign_edits", ["raise", "ignore", "adopt"])
def test_an_upgrade_of_its_data_moves_a_store(directory: Path, foreign_edits: str) -> None:
    """It is part of the opening, which has the new descriptors remembered only afterwards."""
    newer = NEW.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: [data]}})
    with RuntimeStore.open(
        directory, descriptors=[newer, OTHER], foreign_edits=foreign_edits
    ) as store:
        assert (store.read(NAME).data, store.manifest().paths[NAME]) == (["before"], "new.json")


@pytest.mark.parametrize("upgraded", [False, True], ids=["as it is", "upgraded"])
@pytest.mark.parametrize(("wrote", "opens"), [(OLD, NEW), (NEW, OLD)], ids=["to new", "to old"])
def test_one_opening_finishes_a_batch_and_moves_its_store(
    directory: Path, wrote: Descriptor, opens: Descriptor, *, upgraded: bool
) -> None:
    """The batch of a dead writer goes where its log says; then the store goes where this program
    says, and its data is upgraded there."""

    def write_and_die(_: object) -> None:
        fs = WatchedFileSystem()
        store = RuntimeStore.open(directory, descriptors=[wrote, OTHER], seams=Seams(fs=fs))
        fs.judge = lambda _number, name, _subject: (
            os.kill(os.getpid(), signal.SIGKILL) if name == "create" else None
        )
        write(store, NAME, "logged")

    assert not Child(write_and_die).wait().finished
    if upgraded:
        update = {"schema_version": 2, "upgrades": {1: lambda data: [data]}}
        opens = opens.model_copy(update=update)
    with RuntimeStore.open(directory, descriptors=[opens, OTHER]) as store:
        assert store.last_recovery is not None
        kinds = [step.action.kind for step in store.last_recovery.steps]
        assert kinds == [ActionKind.ROLL_FORWARD, ActionKind.RESTORE_COMMITTED]
        assert store.read(NAME).data == (["logged"] if upgraded else "logged")
        assert store.check_readiness().ok
        assert agree(store)


@pytest.mark.parametrize("upgraded", [False, True], ids=["as it is", "upgraded"])
@pytest.mark.parametrize("foreign_edits", ForeignEdits)
def test_an_edit_of_the_old_file_comes_along(
    directory: Path, foreign_edits: ForeignEdits, *, upgraded: bool
) -> None:
    """It was made while no program ran. It is no more passed over than one of a file that stays."""
    old = directory / "old.json"
    edit_of_old = old.read_bytes().replace(b"before", b"edited")
    old.write_bytes(edit_of_old)
    new = NEW
    if upgraded:
        new = NEW.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: [data]}})
    open_it = partial(
        RuntimeStore.open, directory, descriptors=[new, OTHER], foreign_edits=foreign_edits
    )
    if upgraded and foreign_edits is ForeignEdits.RAISE:
        with pytest.raises(StoreFileChangedError, match=r"old\.json was changed by somebody else"):
            open_it()
        assert not (directory / "new.json").exists()
        return
    with open_it() as store:
        if foreign_edits is ForeignEdits.RAISE:
            assert not store.check_readiness().ok
            with pytest.raises(StoreFileChangedError, match="changed by somebody else"):
                store.read(NAME)
            store.recover(store.plan_recovery())
            assert store.read(NAME).data == "before"
            (kept,) = store.quarantined_files()
            assert (directory / kept.quarantine_path).read_bytes() == edit_of_old
        else:
            data = "edited" if foreign_edits is ForeignEdits.ADOPT else "before"
            assert store.read(NAME).data == ([data] if upgraded else data)
    assert old.read_bytes() == edit_of_old


class Numbers(RootModel[list[int]]):
    """What the newer program takes."""


def appended(data: Any) -> Any:
    """The step of an upgrade that only lists come through."""
    return [*data, 2 + data[0]]


IN_THE_WAY: dict[str, tuple[ForeignEdits, bytes, type[Exception]]] = {
    "edits are not wanted": (ForeignEdits.RAISE, b"[3]", StoreFileChangedError),
    "the step fails": (ForeignEdits.ADOPT, b'{"n": 1}', StoreFileChangedError),
    "the model refuses it": (ForeignEdits.ADOPT, b'[4, "x"]', StoreFileChangedError),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("at_new", ["nothing", "a file of somebody else's"])
@pytest.mark.parametrize("known", [False, True], ids=["moved now", "moved before, not written"])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_an_upgrade_that_an_edit_refuses_moves_nothing(
    tmp_path: Path, what: str, at_new: str, *, known: bool
) -> None:
    """The error names the file that was edited, and the older program goes on as before."""
    directory = tmp_path / "team"
    policy, edited, error = IN_THE_WAY[what]
    with RuntimeStore.open(directory, team_name="t", descriptors=[OLD, OTHER]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={OLD: [1], OTHER: 1})
    if known:
        RuntimeStore.open(directory, descriptors=[NEW, OTHER], recover=False).close()
    elif at_new != "nothing":
        (directory / "new.json").write_bytes(b'{"schemaVersion": 1, "data": [9]}')
    (directory / "old.json").write_bytes(b'{"schemaVersion": 1, "data": ' + edited + b"}")
    before = files_picture(directory)
    newer = Descriptor(
        NAME, payload=Numbers, relative_path="new.json", schema_version=2, upgrades={1: appended}
    )
    with pytest.raises(error) as told:
        RuntimeStore.open(directory, descriptors=[newer, OTHER], foreign_edits=policy)
    assert "old.json" in str(told.value)
    assert "new.json" not in str(told.value)
    assert files_picture(directory) == before
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.manifest().high_watermark == 1
    with RuntimeStore.open(
        directory, descriptors=[newer, OTHER], foreign_edits=ForeignEdits.IGNORE
    ) as store:
        assert (store.read(NAME).data, store.manifest().paths[NAME]) == ([1, 3], "new.json")


@pytest.mark.parametrize("what", ["unreadable", "a link"])
def test_an_old_file_that_cannot_be_read_is_said(
    directory: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows whether it was edited. What is committed goes to the new file."""
    old = directory / "old.json"
    content = old.read_bytes().replace(b"before", b"edited")
    old.unlink()
    if what == "a link":
        (directory / "elsewhere").write_bytes(content)
        old.symlink_to("elsewhere")
    else:
        old.mkdir()
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert store.last_recovery is not None
        (step,) = store.last_recovery.steps
        assert step.detail is not None
        said = "whether its former file old.json was edited is not known"
        assert said in step.detail
        assert said in caplog.text
        assert store.read(NAME).data == "before"


def test_what_a_loss_of_power_left_of_the_old_file_does_not_come_along(directory: Path) -> None:
    """Nor does an earlier version of it: both are ours."""
    whole = (directory / "old.json").read_bytes()
    (directory / "old.json").write_bytes(whole[:20])
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert store.read(NAME).data == "before"
        assert store.check_readiness().ok


@pytest.mark.parametrize("foreign_edits", ForeignEdits)
def test_what_is_at_the_new_path_is_no_edit(directory: Path, foreign_edits: ForeignEdits) -> None:
    """What counts is what is committed, whatever is done about edits. The bytes are kept."""
    there = (directory / "old.json").read_bytes().replace(b"before", b"there")
    (directory / "new.json").write_bytes(there)
    with RuntimeStore.open(
        directory, descriptors=[NEW, OTHER], foreign_edits=foreign_edits
    ) as store:
        assert store.start_state(IDENTITY).kind is StartKind.RESUME
        assert store.read(NAME).data == data_in(directory / "new.json") == "before"
        assert store.manifest().high_watermark == 1
        (kept,) = store.quarantined_files()
        assert kept.reason == "it was there before its store was given this file"
        assert (directory / kept.quarantine_path).read_bytes() == there


def test_an_edit_of_the_old_file_comes_along_past_what_is_at_the_new_path(directory: Path) -> None:
    """What is there is kept, and the edit is decided upon as any other; also when it is opened
    again before it was decided."""
    old = directory / "old.json"
    there = old.read_bytes().replace(b"before", b"there")
    (directory / "new.json").write_bytes(there)
    old.write_bytes(old.read_bytes().replace(b"before", b"edited"))
    newer = NEW.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: [data]}})
    for _ in range(2):
        with pytest.raises(StoreFileChangedError, match="changed by somebody else"):
            RuntimeStore.open(directory, descriptors=[newer, OTHER])
    with RuntimeStore.open(
        directory, descriptors=[newer, OTHER], foreign_edits=ForeignEdits.ADOPT
    ) as store:
        assert store.read(NAME).data == ["edited"]
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == there


def test_an_edit_comes_along_from_the_file_that_the_last_opening_gave(directory: Path) -> None:
    """Though nothing was written there: by all that is told, it was the file of the store."""
    RuntimeStore.open(directory, descriptors=[NEW, OTHER]).close()
    path = directory / "new.json"
    path.write_bytes(path.read_bytes().replace(b"before", b"edited"))
    third = Descriptor(NAME, relative_path="third.json")
    with RuntimeStore.open(
        directory, descriptors=[third, OTHER], foreign_edits=ForeignEdits.ADOPT
    ) as store:
        assert store.read(NAME).data == data_in(directory / "third.json") == "edited"


def test_an_edit_of_the_old_file_brings_the_data_up(directory: Path) -> None:
    """Where what is committed does not come up, and the edit, which is adopted, does."""
    old = directory / "old.json"
    old.write_bytes(old.read_bytes().replace(b'"before"', b"[1]"))
    update = {"schema_version": 2, "upgrades": {1: lambda data: [*data, 2 + data[0]]}}
    with RuntimeStore.open(
        directory,
        descriptors=[NEW.model_copy(update=update), OTHER],
        foreign_edits=ForeignEdits.ADOPT,
    ) as store:
        assert (store.read(NAME).data, store.manifest().paths[NAME]) == ([1, 3], "new.json")


def test_data_that_only_the_file_at_the_new_path_could_bring_up(directory: Path) -> None:
    """That is no edit, so it does not take the place of what is committed: opening is refused."""
    there = (directory / "old.json").read_bytes().replace(b'"before"', b"[1]")
    (directory / "new.json").write_bytes(there)
    update = {"schema_version": 2, "upgrades": {1: lambda data: [*data, 2 + data[0]]}}
    before = files_picture(directory)
    with pytest.raises(DataUpgradeError):
        RuntimeStore.open(
            directory,
            descriptors=[NEW.model_copy(update=update), OTHER],
            foreign_edits=ForeignEdits.ADOPT,
        )
    assert files_picture(directory) == before


@pytest.mark.parametrize("foreign_edits", ForeignEdits)
@pytest.mark.parametrize("registered", [True, False], ids=["moved", "new"])
def test_what_another_store_left_in_a_file_is_no_edit(
    directory: Path, foreign_edits: ForeignEdits, *, registered: bool
) -> None:
    """A store that is given the file that another one gave up is not that one: nobody edited it,
    and nothing is adopted."""
    moved(directory)
    taker = Descriptor(OTHER.schema_name if registered else "own.third", relative_path="old.json")
    with RuntimeStore.open(
        directory, descriptors=[NEW, taker], foreign_edits=foreign_edits
    ) as store:
        assert "edited" not in store.start_state(IDENTITY).why
        assert "in the file" not in store.start_state(IDENTITY).why
        if registered:
            assert store.read(taker).data == data_in(directory / "old.json") == 1
        else:
            assert agreed_nothing(store, taker)
            assert not (directory / "old.json").exists()
        assert store.read(NAME).data == "after"
        assert (store.quarantined_files(), store.manifest().high_watermark) == ([], 2)
        write(store, taker.schema_name, "mine")
        (directory / "old.json").write_bytes(
            (directory / "old.json").read_bytes().replace(b"mine", b"edited")
        )
        if foreign_edits is ForeignEdits.ADOPT:
            assert store.read(taker).data == "edited"


@pytest.mark.parametrize("foreign_edits", ForeignEdits)
def test_what_another_store_left_is_not_adopted(
    directory: Path, foreign_edits: ForeignEdits
) -> None:
    """As an earlier version of the store itself is not: what is committed comes back."""
    left = (directory / "old.json").read_bytes()
    moved(directory)
    taker = Descriptor("own.third", relative_path="old.json")
    with RuntimeStore.open(
        directory, descriptors=[NEW, OTHER, taker], foreign_edits=foreign_edits
    ) as store:
        write(store, "own.third", "mine")
        (directory / "old.json").write_bytes(left)
        with pytest.raises(InvalidRequestError, match="wrote for another store, which had") as told:
            store.adopt(taker)
        assert "revert" not in told.value.problem
        assert store.manifest().high_watermark == 3
        store.recover(store.plan_recovery())
        assert store.read(taker).data == data_in(directory / "old.json") == "mine"
        assert store.quarantined_files() == []


def test_what_another_store_left_is_kept_where_only_the_file_has_it(directory: Path) -> None:
    """Its content has left the history since: a copy goes to quarantine, and the file is gone."""
    left = (directory / "old.json").read_bytes()
    moved(directory)
    with RuntimeStore.open(directory, retention=Retention(contents_per_store=1)) as store:
        for number in range(9):
            write(store, NAME, number)
        store.prune(store.retention)
        assert not store.history(NAME)[0].has_content
    taker = Descriptor("own.third", relative_path="old.json")
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER, taker]) as store:
        assert not (directory / "old.json").exists()
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == left


def test_the_file_of_a_store_that_lost_its_entry_is_not_what_it_left(directory: Path) -> None:
    """Nobody gave it up: no file goes because a row is merely not there."""
    taker = Descriptor("own.third", relative_path="old.json")
    with RuntimeStore.open(directory) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={NAME: DELETED})
        write(store, NAME, "before")
        write(store, OTHER.schema_name, 2)
        write(store, OTHER.schema_name, 3)
        there = (directory / "old.json").read_bytes()
    edit(directory, f"DELETE FROM manifest_entries WHERE schema_name = '{NAME}'")
    edit(directory, "DELETE FROM write_batches WHERE high_watermark = 4")  # a deletion could be it
    with RuntimeStore.open(directory, descriptors=[OTHER, taker]) as store:
        assert store.quarantined_files() == []
    assert (directory / "old.json").read_bytes() == there


def agreed_nothing(store: RuntimeStore, descriptor: Descriptor) -> bool:
    """Nothing is committed for the store, and reading it adopts nothing."""
    with pytest.raises((StoreFileChangedError, InvalidRequestError)) as told:
        store.read(descriptor)
    return "somebody" not in str(told.value)


def test_what_is_at_the_new_path_and_cannot_be_kept(directory: Path) -> None:
    """Opening is refused: from then on it would pass for the file of the store."""
    there = (directory / "old.json").read_bytes().replace(b"before", b"there")
    (directory / "new.json").write_bytes(there)
    (directory / "quarantine").write_text("in the way")
    for _ in range(2):
        with pytest.raises(RecoveryFailedError, match="quarantine"):
            RuntimeStore.open(directory, descriptors=[NEW, OTHER], foreign_edits=ForeignEdits.ADOPT)
    assert (directory / "new.json").read_bytes() == there
    with RuntimeStore.open(directory) as store:
        assert store.read(NAME).data == "before"


@pytest.mark.parametrize("foreign_edits", ForeignEdits)
def test_the_file_that_a_program_left_long_ago_is_no_edit(
    directory: Path, foreign_edits: ForeignEdits
) -> None:
    """Also where the history does not go back to the batch that wrote it: who goes back to the old
    descriptor goes on from what is committed."""
    kept = Retention(batches=3, contents_per_store=2)
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER], retention=kept) as store:
        for number in range(20):
            write(store, NAME, number)
    with RuntimeStore.open(
        directory, descriptors=[OLD, OTHER], foreign_edits=foreign_edits
    ) as store:
        assert "edited" not in store.start_state(IDENTITY).why
        assert store.read(NAME).data == data_in(directory / "old.json") == 19


def test_what_is_damaged_of_the_old_file_does_not_come_along(directory: Path) -> None:
    """It is no edit: one opening is ready, with what is committed."""
    (directory / "old.json").write_text('{"sch')
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert store.check_readiness().ok
        assert store.read(NAME).data == "before"


def test_an_edit_that_was_refused_does_not_come_along_again(directory: Path) -> None:
    """A recovery kept it in quarantine. If the new file is lost, what is committed comes back."""
    old = directory / "old.json"
    old.write_bytes(old.read_bytes().replace(b"before", b"edited"))
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        store.recover(store.plan_recovery())
        assert store.read(NAME).data == "before"
    (directory / "new.json").unlink()
    with RuntimeStore.open(
        directory, descriptors=[NEW, OTHER], foreign_edits=ForeignEdits.ADOPT
    ) as store:
        assert store.check_readiness().ok
        assert store.read(NAME).data == "before"


def test_an_edit_comes_along_although_a_row_of_the_quarantine_makes_no_sense(
    directory: Path,
) -> None:
    """What was refused cannot be told then: the edit is decided upon once more, and the opening
    does its work."""
    old = directory / "old.json"
    old.write_bytes(old.read_bytes().replace(b"before", b"edited"))
    with RuntimeStore.open(directory) as store:
        store.recover(store.plan_recovery())
    spoil = "UPDATE quarantined_files SET quarantined_at = 'never'"
    edit(directory, "PRAGMA ignore_check_constraints = ON", spoil)
    old.write_bytes(old.read_bytes().replace(b"before", b"edited"))
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert not store.check_readiness().ok
        assert data_in(directory / "new.json") == "edited"


def test_a_store_is_deleted_where_it_is_now(directory: Path) -> None:
    """Its file goes, also before its first write there. The old one stays, as after any move."""
    old = (directory / "old.json").read_bytes()
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        assert (directory / "new.json").exists()
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={NAME: DELETED})
        assert not (directory / "new.json").exists()
    with RuntimeStore.open(directory, descriptors=[OTHER]) as store:
        assert store.check_readiness().ok
        assert store.quarantined_files() == []
    assert (directory / "old.json").read_bytes() == old


@pytest.mark.parametrize("there", ["a file, and nothing is recovered", "a link"])
def test_what_an_opening_leaves_at_the_new_path_counts_from_then_on(
    directory: Path, there: str
) -> None:
    """As the guide says: without recovery nothing makes way, and neither does a link. Put right, it
    is adopted like an edit."""
    new, content = directory / "new.json", (directory / "old.json").read_bytes()
    content = content.replace(b"before", b"there")
    if there == "a link":
        (directory / "elsewhere").write_bytes(content)
        new.symlink_to("elsewhere")
    else:
        new.write_bytes(content)
    options: dict[str, Any] = {"descriptors": [NEW, OTHER], "foreign_edits": ForeignEdits.ADOPT}
    with RuntimeStore.open(directory, **options, recover=there == "a link") as store:
        assert store.quarantined_files() == []
    if there == "a link":
        new.unlink()
        new.write_bytes(content)
    with RuntimeStore.open(directory, **options) as store:
        assert store.read(NAME).data == "there"
        assert store.history(NAME)[0].high_watermark == 1  # what was committed is in the history


def test_recovery_and_adoption_under_new_descriptors(directory: Path) -> None:
    """Before anything was written to the new file."""
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as store:
        (directory / "new.json").unlink()
        assert all(step.outcome == "done" for step in store.recover(store.plan_recovery()).steps)
        content = (directory / "new.json").read_bytes()
        assert b"before" in content
        (directory / "new.json").write_bytes(content.replace(b"before", b"edited"))
        store.adopt(NAME)
        assert (store.read(NAME).data, store.manifest().paths[NAME]) == ("edited", "new.json")


def test_who_took_the_store_back_writes_it(directory: Path) -> None:
    """Who opened the directory last says where its stores are."""
    with RuntimeStore.open(directory, descriptors=[NEW, OTHER]) as new:
        write(new, NAME, "in the new file")
        with RuntimeStore.open(directory, descriptors=[OLD, OTHER]) as old:
            write(old, NAME, "in the old file")
        with refused(new, "old.json"):
            write(new, NAME, "late")
