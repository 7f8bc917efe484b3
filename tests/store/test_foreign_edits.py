"""What is done about a file that somebody else changed is chosen when the store is opened."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DELETED,
    ActionKind,
    AsyncRuntimeStore,
    BatchFailedError,
    Descriptor,
    ForeignEdits,
    InvalidRequestError,
    NewerStoreFileError,
    Retention,
    RuntimeStore,
    StaleRunError,
    StoreFileChangedError,
)
from rtstore.model import envelope
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
    WatchedFileSystem,
    agree,
    data_in,
    file_of,
    files_picture,
    launch_state,
    new_directory,
    open_store,
    write,
)
from tests.support.aio import run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a committed store, whose file somebody has changed since."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "committed")
        edit(store, LEASES, b'"committed"', b'"edited"')
    return directory


def opened(directory: Path, policy: ForeignEdits | str, **options: Any) -> RuntimeStore:
    """Open the store with a policy."""
    return RuntimeStore.open(directory, foreign_edits=policy, **options)


def edit(store: RuntimeStore, name: str, old: bytes, new: bytes) -> None:
    """Change the file of a store by hand."""
    path = file_of(store, name)
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new))


def append(store: RuntimeStore, name: str = LEASES) -> Any:
    """Update a store; return what is committed then."""
    store.update(name, lambda data: f"{data} and more", identity=IDENTITY, reason=CHECKPOINT)
    return store.read(name).data


def test_by_default_it_raises(directory: Path) -> None:
    """And nothing is changed; a batch that does not read goes over it, and keeps a copy."""
    with RuntimeStore.open(directory) as store:
        assert store.foreign_edits is ForeignEdits.RAISE
        before = files_picture(directory)
        for call in (store.read, lambda name: append(store, name)):
            with pytest.raises(StoreFileChangedError) as told:
                call(LEASES)
            assert f"rtstore plan {directory}" in str(told.value)
        assert files_picture(directory) == before
        assert store.manifest().high_watermark == 1


def test_ignored_it_goes_to_quarantine_when_it_is_overwritten(directory: Path) -> None:
    """What is committed counts, for a read, an update, a new run and a revert."""
    with opened(directory, "ignore") as store:
        edited = file_of(store, LEASES).read_bytes()
        assert store.read(LEASES).data == "committed"
        assert file_of(store, LEASES).read_bytes() == edited
        assert append(store) == "committed and more"
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == edited

        edit(store, LEASES, b"more", b"edited")
        store.begin_run("run-2", keep="all")
        assert store.read(LEASES).data == "committed and more"
        file_of(store, LEASES).unlink()
        assert store.read(LEASES).data == "committed and more"
        store.revert(LEASES, to=1)
        assert data_in(file_of(store, LEASES)) == "committed"
        assert len(store.quarantined_files()) == 2
        assert agree(store)


def test_a_newer_file_is_not_overwritten_though_edits_are_ignored(directory: Path) -> None:
    """It is left as it is."""
    with opened(directory, "ignore") as store:
        path = file_of(store, LEASES)
        newer = path.read_bytes().replace(b'"schemaVersion": 1', b'"schemaVersion": 9')
        assert b"9" in newer
        path.write_bytes(newer)
        with pytest.raises(NewerStoreFileError):
            append(store)
        assert path.read_bytes() == newer


def test_adopted_it_is_a_batch_of_its_own(directory: Path) -> None:
    """Of the last run, as `adopt` makes it; then the read or the update goes on from it."""
    with opened(directory, "adopt") as store:
        content = file_of(store, LEASES).read_bytes()
        assert store.read(LEASES).data == "edited"
        assert file_of(store, LEASES).read_bytes() == content
        batch = store.batches()[-1]
        assert (batch.reason, batch.run_id, batch.high_watermark) == ("recovery", "run-1", 2)

        edit(store, LEASES, b"edited", b"edited again")
        assert append(store) == "edited again and more"
        assert [store.read(LEASES, at=number).data for number in (1, 2, 3, 4)] == [
            "committed", "edited", "edited again", "edited again and more",
        ]  # fmt: skip
        edit(store, LEASES, b"more", b"so on")
        store.begin_run("run-2", keep="all").end()
        assert store.read(LEASES).data == "edited again and so on"
        edit(store, LEASES, b"so on", b"on")
        store.revert(LEASES, to=1)
        assert store.read(LEASES, at=store.manifest().high_watermark - 1).data.endswith("and on")
        assert store.quarantined_files() == []
        assert agree(store)


def test_a_call_that_fails_names_the_edits_that_it_adopted(directory: Path) -> None:
    """The adoption is a batch of its own, and stays: a note says so beside what became of the call.
    A call that adopted nothing has no such note."""

    def broken(_: Any) -> Any:
        raise ValueError("broken")

    def notes(error: BaseException) -> list[str]:
        return [note for note in getattr(error, "__notes__", []) if "adopted" in note]

    async def fail(store: AsyncRuntimeStore) -> None:
        with pytest.raises(ValueError, match="broken") as told:
            await store.update(LEASES, broken, identity=IDENTITY, reason=CHECKPOINT)
        (note,) = notes(told.value)
        assert (await store.batches())[-1].batch_id in note

    run(directory, fail, foreign_edits="adopt")
    with opened(directory, "adopt") as store:
        for change, kind in ((broken, ValueError), (lambda _: None, InvalidRequestError)):
            head = store.manifest().high_watermark
            path = file_of(store, LEASES)
            path.write_bytes(path.read_bytes().replace(b"edited", b"edited again"))
            with pytest.raises(kind) as told:
                store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
            (batch,) = [item for item in store.batches() if (item.high_watermark or 0) > head]
            said = f"the edit of {LEASES} was adopted before, and stays"
            assert notes(told.value) == [f"rtstore: {said}: batch {batch.batch_id} is committed"]
            with pytest.raises(kind) as told:
                store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)
            assert notes(told.value) == []


def test_what_cannot_be_adopted_raises(directory: Path, tmp_path: Path) -> None:
    """With the reason, and changes nothing: no JSON, no valid data, a missing file, a newer one,
    and one where no run is known."""
    with opened(directory, "adopt") as store:
        write(store, LAUNCH, launch_state())
        launch, leases = file_of(store, LAUNCH), file_of(store, LEASES)
        valid = launch.read_bytes()
        for content, why in (
            (b"{", "invalid_json"),
            (valid.replace(b'"runId"', b'"teamName": "b", "runId"'), "the key 'teamName' twice"),
            (valid.replace(b'"opencode"', b"7"), "providerId"),
        ):
            launch.write_bytes(content)
            for call in (store.read, lambda name: append(store, name)):
                with pytest.raises(StoreFileChangedError, match="cannot be adopted") as told:
                    call(LAUNCH)
                assert why in str(told.value.not_adopted)
            assert launch.read_bytes() == content
        launch.unlink()
        with pytest.raises(StoreFileChangedError, match="is missing") as told:
            store.read(LAUNCH)
        assert told.value.not_adopted is None
        newer = leases.read_bytes().replace(b'"schemaVersion": 1', b'"schemaVersion": 9')
        leases.write_bytes(newer)
        with pytest.raises(NewerStoreFileError):
            store.read(LEASES)
        assert store.manifest().high_watermark == 2

    other = new_directory(tmp_path, "other")
    with opened(other, "adopt") as store:
        file_of(store, LAUNCH).write_bytes(valid)
        with pytest.raises(StoreFileChangedError, match="no run is known yet"):
            store.read(LAUNCH)
        assert store.batches() == []


def test_a_file_with_a_key_twice_is_a_damaged_one(directory: Path) -> None:
    """Python would read its last value, and SQLite the first. No command commits it; opening puts
    back what is committed, and keeps the file."""
    with RuntimeStore.open(directory, recover=False) as store:
        path = file_of(store, LEASES)
        content = path.read_bytes().replace(b'"edited"', b'{"n": 1, "n": 2}')
        path.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="an object has the key 'n' twice"):
            store.adopt(LEASES)
        (action,) = [item for item in store.plan_recovery().actions if item.schema_name == LEASES]
        assert action.kind is ActionKind.RESTORE_COMMITTED
    with opened(directory, "adopt") as store:
        assert store.read(LEASES).data == data_in(path) == "committed"
        assert [item.state for item in store.batches()] == ["committed"]
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_bytes() == content


def test_a_key_twice_in_what_is_committed_already(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read as it always was, and waits for the runtime to write the store: nothing is put
    back, which would change nothing."""
    with opened(directory, "raise") as store:
        edit(store, LEASES, b'"edited"', b'{"n": 1, "n": 2}')
        with monkeypatch.context() as before:
            before.setattr(envelope, "_STRICT", envelope._DECODER)
            store.adopt(LEASES)

    def planned(store: RuntimeStore) -> tuple[ActionKind, str | None]:
        actions = {item.schema_name: item for item in store.plan_recovery().actions}
        return actions[LEASES].kind, actions[LEASES].reason

    with opened(directory, "raise") as store:
        assert store.read(LEASES).data == store.read(LEASES, at=2).data == {"n": 2}
        assert len(store.diff(LEASES, 1).differences) == 1
        assert planned(store) == (ActionKind.REBUILD_FROM_PROVIDER, "quarantined")
        write(store, LEASES, {"n": 3})
        assert planned(store) == (ActionKind.NONE, None)
        store.revert(LEASES, to=2)
        assert store.read(LEASES).data == data_in(file_of(store, LEASES)) == {"n": 2}
        assert planned(store) == (ActionKind.NONE, None)


Made = Callable[[RuntimeStore], None]


def earlier(store: RuntimeStore) -> None:
    """The file is as an earlier batch wrote it, as after a loss of power."""
    path = file_of(store, LEASES)
    write(store, LEASES, "earlier")
    content = path.read_bytes()
    write(store, LEASES, "committed")
    path.write_bytes(content)


def earlier_without_its_end(store: RuntimeStore) -> None:
    """The same, and its last newline is missing."""
    earlier(store)
    path = file_of(store, LEASES)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))


def of_a_failed_batch(store: RuntimeStore) -> None:
    """The file is as a batch wrote it that failed, and could not be undone."""
    write(store, LEASES, "committed")
    fs = store._writer.publisher.fs
    assert isinstance(fs, WatchedFileSystem)
    refused: list[str] = []

    def judge(_number: int, name: str, subject: Path | int) -> OSError | None:
        if FILE_OF[LEDGER] not in str(subject) and not refused:
            return None
        refused.append(name)
        return OSError(errno.EIO, "input/output error")

    fs.judge = judge
    with pytest.raises(BatchFailedError) as told:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes={LEASES: "half", LEDGER: "half"}
        )
    fs.judge = None
    assert not told.value.undone
    assert data_in(file_of(store, LEASES)) == "half"


def of_a_deleted_store(store: RuntimeStore) -> None:
    """The store is deleted, and its file is there again."""
    path = file_of(store, LEASES)
    write(store, LEASES, "deleted")
    content = path.read_bytes()
    write(store, LEASES, DELETED)
    path.write_bytes(content)


OWN = [earlier, earlier_without_its_end, of_a_failed_batch, of_a_deleted_store]


@pytest.mark.parametrize("policy", ["raise", "adopt"])
@pytest.mark.parametrize("made", OWN, ids=lambda made: made.__name__)
def test_what_a_batch_wrote_is_no_edit(tmp_path: Path, made: Made, policy: str) -> None:
    """Nobody edited the file, so nothing adopts it: a read, an update, a revert, a run that keeps
    it. They say what it is. The plan puts right what they name, and then they go on."""
    directory = new_directory(tmp_path)
    with open_store(directory, fs=WatchedFileSystem(), foreign_edits=policy) as store:
        made(store)
        before, committed = files_picture(directory), store.manifest()
        calls: list[Callable[[], object]] = [
            lambda: store.read(LEASES),
            lambda: append(store),
            lambda: store.revert(LEASES, to=1),
        ]
        if committed.entry(LEASES) is not None:  # or there is nothing to keep
            calls.append(lambda: store.begin_run("run-2", keep=[LEASES]))
        for call in calls:
            with pytest.raises(StoreFileChangedError, match="batch wrote") as told:
                call()
            assert (told.value.of_batch, told.value.moved_to) == (True, None)
            assert "somebody else" not in str(told.value)
            assert f"rtstore plan {directory}" in str(told.value)
        assert files_picture(directory) == before
        assert store.manifest() == committed

        plan = store.plan_recovery()
        kinds = {action.schema_name: action.kind for action in plan.actions}
        assert kinds[LEASES] is ActionKind.RESTORE_COMMITTED
        store.recover(plan)
        if committed.entry(LEASES) is None:
            with pytest.raises(InvalidRequestError, match="it was deleted by batch"):
                store.read(LEASES)
        else:
            assert append(store) == "committed and more"


@pytest.mark.parametrize("made", OWN, ids=lambda made: made.__name__)
def test_who_adopts_by_name_is_refused_what_opening_puts_right(tmp_path: Path, made: Made) -> None:
    """It is no edit either; the error names the way back to an earlier version. A file of which
    nothing is committed may be kept by who names it, as `status` says."""
    directory = new_directory(tmp_path)
    with open_store(directory, fs=WatchedFileSystem()) as store:
        made(store)
        committed = store.manifest()
        if committed.entry(LEASES) is None:
            assert store.adopt(LEASES).stores == (LEASES,)
            assert store.read(LEASES).data == "deleted"
            return
        way = f"rtstore revert {directory} {LEASES} --to"
        with pytest.raises(InvalidRequestError, match=re.escape(way)) as told:
            store.adopt(LEASES)
        assert (told.value.field, told.value.store) == ("file", LEASES)
        assert store.manifest() == committed
    with open_store(directory) as store:
        assert store.read(LEASES).data == "committed"


def test_an_earlier_version_that_no_revert_brings_back_is_adopted_by_name(tmp_path: Path) -> None:
    """Its content is not kept any more, so the file is all there is of it. No read adopts it."""
    limits = Retention(contents_per_store=2)
    with opened(new_directory(tmp_path), "adopt", retention=limits) as store:
        path = file_of(store, LEASES)
        write(store, LEASES, 0)
        first = path.read_bytes()
        for number in range(1, 5):
            write(store, LEASES, number)
        path.write_bytes(first)
        with pytest.raises(StoreFileChangedError):
            store.read(LEASES)
        assert not store.history(LEASES)[0].has_content
        store.adopt(LEASES)
        assert store.read(LEASES).data == 0


def test_an_earlier_version_that_takes_the_place_of_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the adoption, which looks once more under the lock."""
    with open_store(new_directory(tmp_path), foreign_edits="adopt") as store:
        write(store, LEASES, "earlier")
        path = file_of(store, LEASES)
        content = path.read_bytes()
        write(store, LEASES, "committed")
        really = store._writer.adopt

        def be_late(*given: Any, **options: Any) -> Any:
            path.write_bytes(content)
            return really(*given, **options)

        monkeypatch.setattr(store._writer, "adopt", be_late)
        edit(store, LEASES, b"committed", b"edited")
        with pytest.raises(StoreFileChangedError) as told:
            store.read(LEASES)
        assert told.value.of_batch
        assert store.manifest().high_watermark == 2


@pytest.mark.parametrize("policy", ["raise", "adopt"])
@pytest.mark.parametrize("left", ["as it was", "edited", "removed"])
def test_a_store_that_another_program_moved(tmp_path: Path, policy: str, left: str) -> None:
    """Who has it open under its old path is told where it is, and takes nothing from there: what
    was committed since stays. Opened again as the error says, it goes on."""
    old, new = (Descriptor("own.moved", relative_path=f"{name}.json") for name in ("old", "new"))
    directory = tmp_path / "team"
    with RuntimeStore.open(
        directory, team_name="t", descriptors=[old], foreign_edits=policy
    ) as store:
        write(store, "own.moved", "before")
        with RuntimeStore.open(directory, descriptors=[new]) as other:
            write(other, "own.moved", "after")
        path = directory / "old.json"
        if left == "edited":
            path.write_bytes(path.read_bytes().replace(b"before", b"edited"))
        elif left == "removed":
            path.unlink()
        calls: list[Callable[[], object]] = [
            lambda: store.read("own.moved"),
            lambda: append(store, "own.moved"),
            lambda: store.revert("own.moved", to=1),
        ]
        for call in calls:
            with pytest.raises(StoreFileChangedError, match=r"says new\.json") as told:
                call()
            assert told.value.moved_to == "new.json"
            assert "rtstore plan" not in str(told.value)  # which has nothing to do
            assert "or without descriptors" in str(told.value)
        if left != "removed":
            with pytest.raises(InvalidRequestError, match=r"new\.json"):
                store.adopt("own.moved")
        assert store.read("own.moved", verify=False).data == "after"
        assert store.manifest().high_watermark == 2
    for descriptors in (None, [new]):
        with RuntimeStore.open(directory, descriptors=descriptors) as store:
            assert store.read("own.moved").data == "after"


def test_an_edit_of_a_file_that_opening_made_at_a_new_path(tmp_path: Path) -> None:
    """It is the store's file by then, though nothing was written there yet: the edit is one."""
    old, new = (Descriptor("own.moved", relative_path=f"{name}.json") for name in ("old", "new"))
    directory = tmp_path / "team"
    with RuntimeStore.open(directory, team_name="t", descriptors=[old]) as store:
        write(store, "own.moved", "before")
    with RuntimeStore.open(directory, descriptors=[new], foreign_edits="adopt") as store:
        edit(store, "own.moved", b"before", b"edited")
        assert store.read("own.moved").data == "edited"
        assert store.manifest().paths == {"own.moved": "new.json"}


def test_a_run_that_is_over_adopts_nothing_with_an_update(directory: Path) -> None:
    """It is refused first."""
    with opened(directory, "adopt") as store:
        store.end_run()
        before = files_picture(directory)
        with pytest.raises(StaleRunError):
            append(store)
        assert files_picture(directory) == before
        assert store.manifest().high_watermark == 1


def test_a_store_that_is_read_inside_of_an_update(directory: Path) -> None:
    """Nothing can be adopted there: it is when the update has been left, which then begins anew."""
    with opened(directory, "adopt") as store:
        calls: list[str] = []

        def change(_: Any) -> Any:
            calls.append("change")
            return store.read(LEASES).data

        store.update(DIAGNOSTICS, change, identity=IDENTITY, reason=CHECKPOINT)
        assert store.read(DIAGNOSTICS).data == "edited"
        assert calls == ["change"] * 2
        assert [batch.reason for batch in store.batches()] == [CHECKPOINT, "recovery", CHECKPOINT]


def test_tasks_have_it_too(directory: Path) -> None:
    """A read adopts in its thread."""

    async def main(store: AsyncRuntimeStore) -> None:
        assert (await store.read(LEASES)).data == "edited"
        assert (await store.manifest()).high_watermark == 2

    run(directory, main, foreign_edits="adopt")


def test_what_cannot_be_chosen(directory: Path) -> None:
    """Who only reads cannot adopt, and is told when the store is opened; it can ignore."""
    with pytest.raises(InvalidRequestError, match=r"foreign_edits.*read-only cannot adopt"):
        opened(directory, "adopt", read_only=True)
    with pytest.raises(InvalidRequestError, match="'keep' is not one of: raise, ignore, adopt"):
        opened(directory, "keep")
    with opened(directory, "ignore", read_only=True) as store:
        assert store.read(LEASES).data == "committed"
        with pytest.raises(InvalidRequestError, match="never written"):
            store.read(LEDGER)
