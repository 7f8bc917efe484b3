"""What is done about a file that somebody else changed is chosen when the store is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    AsyncRuntimeStore,
    ForeignEdits,
    InvalidRequestError,
    NewerStoreFileError,
    RuntimeStore,
    StaleRunError,
    StoreFileChangedError,
)
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    IDENTITY,
    LAUNCH,
    LEASES,
    LEDGER,
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
