"""Entries that somebody took out of the manifest by hand: no file goes, and all comes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    DELETED,
    ActionKind,
    ContentMissingError,
    InvalidRequestError,
    ReadinessImpact,
    RebuildRequest,
    Retention,
    RuntimeStore,
    RuntimeStoreError,
    StoreFileChangedError,
)
from rtstore.control import recovery_log
from rtstore.maintenance.backup import verify_backup
from tests.cli.commands import run
from tests.store.test_deletions import delete
from tests.support import (
    CHECKPOINT,
    DIAGNOSTICS,
    FILE_OF,
    IDENTITY,
    LEASES,
    LEDGER,
    agree,
    data_in,
    files_picture,
    new_directory,
    open_store,
    plain_descriptor,
    write,
)

OF_ALL = "DELETE FROM manifest_entries"
OF_LEASES = f"DELETE FROM manifest_entries WHERE schema_name = '{LEASES}'"
OF_THE_DELETION = (
    "DELETE FROM write_batches WHERE batch_number IN (SELECT batch_number FROM batch_deletions)"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory with two stores, one written twice."""
    directory = new_directory(tmp_path)
    with open_store(directory) as store:
        write(store, LEASES, "first")
        write(store, LEDGER, "of the ledger")
        write(store, LEASES, "second")
    return directory


def edit(directory: Path, *statements: str) -> None:
    """Run statements as somebody with a shell does."""
    path = directory / "runtime-store.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("statement", [OF_ALL, OF_LEASES])
def test_no_file_goes_and_the_entries_are_made_again(directory: Path, statement: str) -> None:
    """Opening does it: with the identity, the hash, the receipt and the batch that they had."""
    with RuntimeStore.open(directory) as store:
        before, files = store.manifest(), files_picture(directory)
    edit(directory, statement)
    with RuntimeStore.open(directory) as store:
        assert files_picture(directory) == files
        without = {"file_inode", "file_ctime_ns"}
        assert [item.model_dump(exclude=without) for item in store.manifest().entries] == [
            item.model_dump(exclude=without) for item in before.entries
        ]
        assert agree(store)
        assert store.read(LEASES).data == "second"
        assert store.quarantined_files() == []
        write(store, LEASES, "third")


def test_everybody_says_so_and_names_the_recovery(directory: Path) -> None:
    """Before anything is put right: plan, status, doctor; `recover` does what they say."""
    edit(directory, OF_ALL)
    with RuntimeStore.open(directory, recover=False) as store:
        plan = store.plan_recovery()
        assert plan.readiness_impact is not ReadinessImpact.NONE
        actions = {item.schema_name: item for item in plan.actions}
        assert (actions[LEASES].kind, actions[LEASES].reason) == (
            ActionKind.RESTORE_COMMITTED,
            "entry_missing",
        )
        with pytest.raises(StoreFileChangedError, match="as a batch wrote it"):
            store.read(LEASES)
        path, aside = directory / FILE_OF[LEASES], directory / "aside"
        path.rename(aside)
        with pytest.raises(ContentMissingError, match="has no entry in the manifest") as caught:
            store.read(LEASES)
        assert (caught.value.entry_missing, caught.value.batch_number) == (True, 3)
        aside.rename(path)
        with pytest.raises(ContentMissingError, match="has no entry in the manifest"):
            store.read(LEASES, verify=False)
        snapshot = store.snapshot([LEASES])
        assert (snapshot.lost, snapshot.without_entry) == ({LEASES: 3}, frozenset([LEASES]))
        with pytest.raises(ContentMissingError, match="has no entry in the manifest"):
            snapshot.data(LEASES)
    for command in ("status", "plan"):
        said = run(command, directory)
        assert said.code == 1
        assert "has no entry in the manifest" in said.out
        assert LEASES in said.out
    for command in ("status", "doctor"):
        said = run(command, directory)
        assert f"rtstore recover {directory}" in said.out
        assert "removes" not in said.out
    assert "make its entry in the manifest again" in run("recover", directory, "--dry-run").out
    assert " no entry " in run("status", directory).row(LEASES, "restore_committed")
    run("recover", directory)
    with RuntimeStore.open(directory, recover=False) as store:
        assert agree(store)


def test_a_file_that_is_gone_too_comes_back_when_somebody_asks(directory: Path) -> None:
    """An opening makes the entries of the others again. This store may have been deleted."""
    edit(directory, OF_ALL)
    (directory / FILE_OF[LEASES]).unlink()
    with RuntimeStore.open(directory) as store:
        assert [entry.schema_name for entry in store.manifest().entries] == [LEDGER]
        assert not (directory / FILE_OF[LEASES]).exists()
    run("recover", directory)
    assert data_in(directory / FILE_OF[LEASES]) == "second"
    with RuntimeStore.open(directory, recover=False) as store:
        assert agree(store)


@pytest.mark.parametrize("beside", [{}, {LEDGER: "beside it"}], ids=["alone", "beside a write"])
def test_a_deletion_that_somebody_took_off_the_record_is_not_undone(
    directory: Path, tmp_path: Path, beside: dict[str, Any]
) -> None:
    """Its row deleted by hand, nothing says that the store was deleted but that its batch is empty,
    or that its file is gone. No opening and no back-up brings it back; plan and status say it."""
    with RuntimeStore.open(directory) as store:
        writes = {LEASES: DELETED, **beside}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        every = store.descriptors
    edit(directory, "DELETE FROM batch_deletions")
    mine = [item for item in every if item.schema_name != LEASES]
    for descriptors in (every, mine, every):
        with RuntimeStore.open(directory, descriptors=descriptors) as store:
            assert store.manifest().entry(LEASES) is None
            assert not (directory / FILE_OF[LEASES]).exists()
            actions = {item.schema_name: item for item in store.plan_recovery().actions}
            said: type[RuntimeStoreError] = InvalidRequestError
            words = "the one that deleted it is not on record any more"
            if beside:
                assert actions[LEASES].reason == "entry_missing"
                said, words = ContentMissingError, "if a batch deleted the store, do not"
            if descriptors is every:
                with pytest.raises(said, match=words):
                    store.read(LEASES)
            write(store, LEDGER, len(descriptors))
    assert run("backup", directory, tmp_path / "copy").code == 0
    with RuntimeStore.open(tmp_path / "copy") as copy:
        assert copy.manifest().entry(LEASES) is None
    if beside:
        assert "if a batch deleted it, the record of that is gone" in run("status", directory).out
        assert f"rtstore recover {directory}" in run("status", directory).out
        run("recover", directory)
        assert data_in(directory / FILE_OF[LEASES]) == "second"


def test_one_of_a_store_that_moved_comes_back_too(tmp_path: Path) -> None:
    """Its file is where it is now; the former one may be tidied away. Exports and back-ups of it as
    it stands have it, and an opening makes the entry again."""
    directory = tmp_path / "t"
    with open_store(directory, descriptors=[plain_descriptor("own.a", "a.json")]) as store:
        write(store, "own.a", "kept")
    open_store(directory, descriptors=[plain_descriptor("own.a", "now.json")]).close()
    (directory / "a.json").unlink()
    edit(directory, OF_ALL)
    assert run("export", directory, "--to", tmp_path / "exported", "--json").json()["stores"] == 1
    assert (tmp_path / "exported" / "now.json").exists()
    assert run("backup", directory, tmp_path / "backup").code == 0
    for each in (tmp_path / "backup", directory):
        with RuntimeStore.open(each, read_only=each != directory) as store:
            assert store.read("own.a").data == "kept"
            assert store.check_readiness().ok


def test_a_changed_file_stays_for_a_person(directory: Path) -> None:
    """As ever: an opening leaves it, and it can be adopted."""
    edit(directory, OF_LEASES)
    path = directory / FILE_OF[LEASES]
    path.write_bytes(path.read_bytes().replace(b"second", b"edited"))
    with RuntimeStore.open(directory) as store:
        assert data_in(path) == "edited"
        store.adopt(LEASES)
        assert store.read(LEASES).data == "edited"


def test_a_store_without_a_descriptor(directory: Path) -> None:
    """Nobody asked for it now; its entry is made again all the same."""
    edit(directory, OF_ALL)
    with RuntimeStore.open(directory) as store:
        mine = [item for item in store.descriptors if item.schema_name != LEASES]
    edit(directory, OF_LEASES)
    with RuntimeStore.open(directory, descriptors=mine) as store:
        assert store.manifest().entry(LEASES) is not None
    assert data_in(directory / FILE_OF[LEASES]) == "second"


def test_a_store_that_was_deleted_once_and_written_again(directory: Path) -> None:
    """The deletion on record is not its last batch: so its file stays, described or not."""
    with RuntimeStore.open(directory) as store:
        delete(store, LEASES)
        write(store, LEASES, "again")
        every = store.descriptors
    edit(directory, OF_LEASES)
    mine = [item for item in every if item.schema_name != LEASES]
    with RuntimeStore.open(directory, descriptors=mine):
        assert data_in(directory / FILE_OF[LEASES]) == "again"
    with RuntimeStore.open(directory, descriptors=every) as store:
        assert store.read(LEASES).data == "again"


def test_a_deleted_store_stays_deleted(directory: Path) -> None:
    """Also when the batch that deleted it is not on record any more."""
    with RuntimeStore.open(directory) as store:
        delete(store, LEASES)
    with RuntimeStore.open(directory) as store:
        assert store.manifest().entry(LEASES) is None
        store.prune(Retention(batches=1))
    with RuntimeStore.open(directory) as store:
        assert store.manifest().entry(LEASES) is None
        assert not (directory / FILE_OF[LEASES]).exists()


def test_nobody_is_accused_where_the_deletion_is_not_on_record(directory: Path) -> None:
    """The batch that wrote the store last is still on record, for another store's sake, and that
    of the deletion is not: an earlier version dropped it."""
    with RuntimeStore.open(directory) as store:
        writes = {LEASES: "last", DIAGNOSTICS: "last"}
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes=writes)
        deletion = delete(store, LEASES)
        for number in range(3):
            write(store, LEDGER, number)
        store.prune(Retention(batches=1))
        assert store.batch(deletion.batch_id) is not None
    edit(directory, "PRAGMA foreign_keys = ON", OF_THE_DELETION)
    with RuntimeStore.open(directory) as store:
        assert store.manifest().entry(LEASES) is None
        with pytest.raises(InvalidRequestError, match="the one that deleted it is not on record"):
            store.read(LEASES)


def test_what_a_store_without_an_entry_had_is_kept_when_it_is_written_over(
    directory: Path,
) -> None:
    """Nothing holds its versions on record: the batch that writes over its file may drop them."""
    with RuntimeStore.open(directory) as store:
        for number in range(3):
            write(store, LEDGER, number)
        store.prune(Retention(batches=1))
    edit(directory, OF_LEASES)
    with RuntimeStore.open(directory) as store:
        write(store, LEASES, "over it")
        (kept,) = store.quarantined_files()
        assert data_in(directory / kept.quarantine_path) == "second"


def test_nothing_is_made_again_where_a_later_batch_is_not_on_record(directory: Path) -> None:
    """It may have deleted the store. The file stays all the same, for a person to adopt."""
    with RuntimeStore.open(directory) as store:
        for number in range(3):
            write(store, LEDGER, number)
        store.prune(Retention(batches=1))
    edit(directory, OF_LEASES)
    with RuntimeStore.open(directory) as store:
        assert store.manifest().entry(LEASES) is None
        assert data_in(directory / FILE_OF[LEASES]) == "second"
        reasons = {item.schema_name: item.reason for item in store.plan_recovery().actions}
        assert reasons[LEASES] == "uncommitted_write"
        store.adopt(LEASES)
        assert store.read(LEASES).data == "second"


def test_a_back_up_has_the_stores(directory: Path, tmp_path: Path) -> None:
    """The copy is made whole, as opening the directory would make it."""
    edit(directory, OF_ALL)
    assert run("backup", directory, tmp_path / "copy").code == 0
    verify_backup(tmp_path / "copy")
    with RuntimeStore.open(tmp_path / "copy", recover=False) as store:
        assert agree(store)
        assert store.read(LEASES).data == "second"


@pytest.fixture
def meanwhile(directory: Path) -> Iterator[RuntimeStore]:
    """A store that was open when somebody took its entries out."""
    with RuntimeStore.open(directory) as store:
        store.read(LEASES)
        edit(directory, OF_ALL)
        yield store


def test_a_run_of_an_open_process_keeps_it(meanwhile: RuntimeStore) -> None:
    """A run that keeps everything has the store, and the entry is bound to it; the recovery that
    made it again is on record."""
    run = meanwhile.begin_run("run-2", keep="all")
    assert run.left == ()
    entry = meanwhile.manifest().entry(LEASES)
    assert entry is not None
    assert entry.run_id == "run-2"
    assert meanwhile.read(LEASES).data == "second"
    assert agree(meanwhile)
    steps = meanwhile.database.read(recovery_log.last_steps)
    assert {item.action.schema_name for item in steps} == {LEASES, LEDGER}
    assert {item.action.reason for item in steps} == {"entry_missing"}


def test_a_run_of_an_open_process_names_it(meanwhile: RuntimeStore) -> None:
    """A run that leaves it says so, whether it begins or is resumed."""
    run = meanwhile.begin_run("run-2", writes={LEDGER: "new"})
    assert run.left == (LEASES,)
    edit(meanwhile.directory, OF_LEASES)
    again = meanwhile.begin_run("run-2")
    assert (again.resumed, again.left) == (True, (LEASES,))


def test_a_rebuilder_gets_what_was_committed(meanwhile: RuntimeStore) -> None:
    """Not nothing, for then it might begin anew."""
    told: list[object] = []

    def rebuild(request: RebuildRequest) -> object:
        told.append(request.data)
        return "rebuilt"

    meanwhile.begin_run("run-2", rebuilders={LEASES: rebuild})
    assert told[-1] == "second"
    assert meanwhile.read(LEASES).data == "rebuilt"


@pytest.mark.parametrize("edits", ["raise", "ignore"])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_update_of_an_open_process_goes_on_from_it(
    directory: Path, edits: str, is_there: bool
) -> None:
    """Its function is not called with None, as for a store that was never written; a file that is
    missing, too, is refused, as ever, where edits are not ignored."""
    with RuntimeStore.open(directory, foreign_edits=edits) as store:
        store.read(LEASES)
        edit(directory, OF_ALL)
        if not is_there:
            (directory / FILE_OF[LEASES]).unlink()
        called: list[object] = []

        def change(data: object) -> object:
            called.append(data)
            return f"{data} and more"

        def update() -> object:
            return store.update(LEASES, change, identity=IDENTITY, reason=CHECKPOINT)

        if edits == "raise" and not is_there:
            with pytest.raises(StoreFileChangedError, match="is missing"):
                update()
            assert called == []
        else:
            update()
            assert called == ["second"]
            assert store.read(LEASES).data == "second and more"


def test_an_export_of_an_open_process_has_it(meanwhile: RuntimeStore, tmp_path: Path) -> None:
    """Beside the stores, and in a directory of its own: an import of that has it, too."""
    there = meanwhile.export(tmp_path / "there")
    assert there.stores == 2
    assert data_in(tmp_path / "there" / FILE_OF[LEASES]) == "second"
    assert meanwhile.export().stores == 2
    assert (meanwhile.directory / "manifest.json").read_bytes() == (
        tmp_path / "there" / "manifest.json"
    ).read_bytes()
    assert run("import", tmp_path / "there").code == 0
    with RuntimeStore.open(tmp_path / "there", recover=False) as store:
        assert store.read(LEASES).data == "second"
        assert agree(store)


def test_an_export_of_a_process_that_only_reads_has_it(directory: Path, tmp_path: Path) -> None:
    """It makes no entry, and reads the others' all the same."""
    edit(directory, OF_LEASES)
    with RuntimeStore.open(directory, read_only=True) as store:
        before = store.manifest()
        assert store.export(tmp_path / "there").stores == 2
        assert store.manifest() == before


def test_a_back_up_of_an_open_process_has_it(meanwhile: RuntimeStore, tmp_path: Path) -> None:
    """Nothing is left out."""
    backup = meanwhile.back_up(tmp_path / "copy")
    assert (backup.left_out, backup.changed) == ((), ())
    assert data_in(tmp_path / "copy" / FILE_OF[LEASES]) == "second"
    with RuntimeStore.open(tmp_path / "copy", recover=False) as store:
        assert agree(store)
