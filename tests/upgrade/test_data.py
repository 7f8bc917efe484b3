"""Store data of an older schema version comes up in one batch, all of it or none."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rtstore import (
    DELETED,
    KNOWN_DESCRIPTORS,
    BatchFailedError,
    BatchReason,
    Database,
    DataUpgradeError,
    Descriptor,
    InvalidRequestError,
    NewerStoreFileError,
    Registry,
    Retention,
    RunIdentity,
    RuntimeStore,
    RuntimeStoreError,
    StartKind,
    StoreFileChangedError,
    restore_backup,
    upgrade_directory,
)
from rtstore.control import manifest
from rtstore.control.schema import REVISIONS
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import UpgradeProblem
from rtstore.maintenance.upgrade_data import rehearse
from tests.cli.commands import run
from tests.support import (
    IDENTITY,
    Crash,
    WatchedFileSystem,
    agree,
    data_in,
    files_picture,
    options_of,
    picture,
    plain_descriptor,
    write,
)
from tests.support.printed import lines_of
from tests.upgrade.freeze import rows_of, unpack
from tests.upgrade.life import NOTES

A, B, C = "own.a", "own.b", "own.c"
OLD_RUN = RunIdentity(run_id="old-run", capability_snapshot_id=None, behavior_fingerprint=None)


def to_2(data: Any) -> Any:
    """Version 2 has its values in a list."""
    return {"values": [data["value"]]}


def to_3(data: Any) -> Any:
    """Version 3 says how many there are."""
    data["count"] = len(data["values"])
    return data


STEPS: dict[int, Callable[[Any], Any]] = {1: to_2, 2: to_3}


def descriptors(version: int, **more: Any) -> list[Descriptor]:
    """The stores of a runtime of some version; the third one never changes."""
    options = {"upgrades": STEPS, **more}
    changing = [
        plain_descriptor(name, path, version).model_copy(update=options)
        for name, path in ((A, "a.json"), (B, "folder/b.json"))
    ]
    return [*changing, plain_descriptor(C, "c.json")]


FIRST, THIRD = descriptors(1), descriptors(3)


def begin(parent: Path) -> Path:
    """A directory of a runtime of version 1, whose second store is of an older run."""
    directory = parent / "runtime"
    with open_it(directory, 1) as store:
        store.write_batch(identity=OLD_RUN, reason="delivery_commit", writes={B: {"value": 0}})
        for number in range(2):
            writes = {A: {"value": number}, C: {"value": number}}
            store.write_batch(identity=IDENTITY, reason="delivery_commit", writes=writes)
    return directory


def open_it(directory: Path, version: int, **options: Any) -> RuntimeStore:
    """Open it as the runtime of some version does."""
    defaults: dict[str, Any] = {"team_name": "team-a", "descriptors": descriptors(version)}
    return RuntimeStore.open(directory, **options_of(**{**defaults, **options}))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """See `begin`."""
    return begin(tmp_path)


# --- up -------------------------------------------------------------------------------------------


def test_older_data_comes_up_when_the_store_is_opened(directory: Path) -> None:
    """Two stores, two steps each, one batch of reason `migration`; files and database agree, the
    old contents are in the history, and a store that is current is not written."""
    with open_it(directory, 3) as store:
        report = store.last_data_upgrade
        assert report is not None
        assert [tuple(item.model_dump().values()) for item in report.stores] == [
            (A, 1, 3), (B, 1, 3),
        ]  # fmt: skip
        assert store.read(A).data == {"values": [1], "count": 1}
        assert store.read(A).schema_version == 3
        assert store.read(B).data == {"values": [0], "count": 1}
        batch = store.batches()[-1]
        assert (batch.batch_id, batch.reason) == (report.batch_id, BatchReason.MIGRATION)
        assert [receipt.schema_name for receipt in batch.receipts] == [A, B]
        assert agree(store)
        assert store.last_recovery is None
    assert data_in(directory / "folder" / "b.json") == {"values": [0], "count": 1}
    contents = [row[2] for row in rows_of(directory / DATABASE_NAME)["store_contents"]]
    assert sum('"value":' in content for content in contents) == 5
    with open_it(directory, 3) as again:
        assert again.last_data_upgrade is None
        assert len(again.batches()) == 4


def test_it_belongs_to_no_run(directory: Path) -> None:
    """An upgrade of data makes no store fresh that was stale: the entries and the manifest keep
    their identities; the batch has none."""
    with open_it(directory, 3, upgrade=False) as store:
        before = store.manifest()
    with open_it(directory, 3) as store:
        after = store.manifest()
        assert store.batches()[-1].run_id is None
        diagnostics = store.plan_recovery(expected=IDENTITY).diagnostics
    assert after.active_identity == before.active_identity == IDENTITY
    for name in (A, B, C):
        old, new = before.entry(name), after.entry(name)
        assert old is not None
        assert new is not None
        assert (old.run_id, old.capability_snapshot_id) == (new.run_id, new.capability_snapshot_id)
    assert diagnostics == (f"Runtime store {B} has stale run id",)


def test_a_step_at_a_time(directory: Path) -> None:
    """A runtime of version 2 brings it to 2; the next one goes on from there."""
    with open_it(directory, 2) as store:
        assert store.read(A).data == {"values": [1]}
    with open_it(directory, 3) as store:
        assert store.last_data_upgrade is not None
        assert {item.from_version for item in store.last_data_upgrade.stores} == {2}
        assert store.read(A).data == {"values": [1], "count": 1}


@pytest.mark.parametrize("frozen", REVISIONS)
def test_it_can_be_rehearsed_at_any_revision(frozen: str, tmp_path: Path) -> None:
    """What would be brought up can be told of a database that is older itself; nothing changes."""
    directory = unpack(frozen, tmp_path)
    before = files_picture(directory)
    notes = plain_descriptor(NOTES, "own/notes.json", 2)
    known = [notes.model_copy(update={"upgrades": {1: lambda data: {"notes": data}}})]
    database = Database(directory / DATABASE_NAME, read_only=True)
    report = rehearse(database, Registry(known))
    database.close()
    assert report is not None
    assert report.batch_id is None
    assert [item.schema_name for item in report.stores] == [NOTES]
    assert files_picture(directory) == before


# --- not up ---------------------------------------------------------------------------------------


def _failing(_: Any) -> Any:
    raise KeyError("value")


class _Counted(BaseModel):
    count: str


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a missing step": (
        {"upgrades": {2: to_3}},
        (
            r"own.a cannot be brought .* 1 to 3: .* step from 1 to 2. Nothing was changed: it "
            r"takes a descriptor with upgrades=\{1: \.\.\.\}; opened without descriptors, the "
            r"store has it as it is\."
        ),
    ),
    "a missing second step": (
        {"upgrades": {1: to_2}},
        r"step from 2 to 3. Nothing was changed: it takes a descriptor with upgrades=\{2: ",
    ),
    "none at all": ({"upgrades": {}}, "no function for the step from 1 to 2"),
    "a failing step": (
        {"upgrades": {1: to_2, 2: _failing}},
        "from 2 to 3 failed with KeyError.* changed: mend the functions in upgrades",
    ),
    "no result": ({"upgrades": {1: to_2, 2: lambda _: None}}, "from 2 to 3 gave None"),
    "no JSON": ({"upgrades": {1: to_2, 2: lambda _: {1, 2}}}, "may not be written: data"),
    "a payload that refuses": ({"payload": _Counted}, r"may not be written: data\.count"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_come_up_stays(what: str, directory: Path) -> None:
    """A missing or failing step is a clear error, and nothing changes: no store, no row, not even
    what is remembered of the descriptors. The old runtime goes on as before."""
    rows, files = rows_of(directory / DATABASE_NAME), files_picture(directory)
    options, message = REFUSED[what]
    with pytest.raises(DataUpgradeError, match=message) as caught:
        open_it(directory, 3, descriptors=descriptors(3, **options))
    assert (caught.value.store, caught.value.found_version, caught.value.wanted_version) == (
        A,
        1,
        3,
    )
    assert rows_of(directory / DATABASE_NAME) == rows
    assert files_picture(directory) == files
    with RuntimeStore.open(directory) as store:  # as the message says
        assert store.read(A).data == {"value": 1}
    with open_it(directory, 1) as store:
        assert write(store, A, {"value": 5})


@pytest.mark.one_in(3)
@pytest.mark.parametrize("upgrades", [{}, {1: _failing}], ids=["no step", "a failing step"])
@pytest.mark.parametrize("frozen", REVISIONS[:-1])
def test_nor_does_the_database(
    frozen: str, upgrades: dict[int, Callable[[Any], Any]], tmp_path: Path
) -> None:
    """Where the data cannot come up, an older database stays at its revision too: the program that
    wrote both can go on. With the functions both come up in one opening."""
    directory = unpack(frozen, tmp_path)
    before = picture(directory, without=("-shm",))
    notes = plain_descriptor(NOTES, "own/notes.json", 2)
    known = [*KNOWN_DESCRIPTORS, notes.model_copy(update={"upgrades": upgrades})]
    for act in (RuntimeStore.open, upgrade_directory):
        with pytest.raises(DataUpgradeError, match="step from 1 to 2"):
            act(directory, descriptors=known)
    assert picture(directory, without=("-shm",)) == before
    with RuntimeStore.open(directory) as store:  # as the message says
        assert store.read(NOTES).data == ["one", 2, None]
    known[-1] = notes.model_copy(update={"upgrades": {1: lambda data: {"notes": data}}})
    with RuntimeStore.open(directory, descriptors=known) as store:
        assert len(store.upgrades()) == 1
        assert store.read(NOTES).data == {"notes": ["one", 2, None]}


def test_a_newer_file_is_never_overwritten(directory: Path) -> None:
    """A file that a newer program wrote refuses the upgrade of all stores, and stays."""
    newer = json.dumps({"schemaVersion": 9, "updatedAt": "2026-04-21T12:00:00.000Z", "data": {}})
    (directory / "folder" / "b.json").write_text(newer)
    with pytest.raises(RuntimeStoreError) as caught:
        open_it(directory, 3)
    assert isinstance(caught.value, NewerStoreFileError | StoreFileChangedError)
    assert (directory / "folder" / "b.json").read_text() == newer
    assert data_in(directory / "a.json") == {"value": 1}


def test_an_edit_by_hand_is_not_overwritten(directory: Path) -> None:
    """A file that somebody changed waits for a decision; then the upgrade goes on."""
    edited = (directory / "a.json").read_text().replace("1\n", "7\n")
    (directory / "a.json").write_text(edited)
    with pytest.raises(StoreFileChangedError):
        open_it(directory, 3)
    assert (directory / "a.json").read_text() == edited
    with open_it(directory, 3, upgrade=False) as store:
        store.recover(store.plan_recovery())
    with open_it(directory, 3) as store:
        assert store.read(A).data == {"values": [1], "count": 1}


def remembered(directory: Path) -> list[object]:
    """The rows of what an opening has the database remember."""
    rows = rows_of(directory / DATABASE_NAME)
    return [rows["store_descriptors"], rows["history_retention"]]


def test_a_refused_opening_is_not_remembered(directory: Path) -> None:
    """An opening that cannot bring the data up leaves what is remembered as it was: who names no
    descriptors, as the commands do, still has the stores of the older program."""
    before = remembered(directory)
    content = (directory / "a.json").read_bytes()
    (directory / "a.json").write_bytes(content.replace(b"1\n", b"7\n"))
    with pytest.raises(StoreFileChangedError):
        open_it(directory, 3, retention=Retention(batches=7))
    assert remembered(directory) == before
    (directory / "a.json").write_bytes(content)
    with RuntimeStore.open(directory) as store:
        store.update(A, lambda data: data, identity=IDENTITY, reason="delivery_commit")
    open_it(directory, 3, retention=Retention(batches=7)).close()
    with RuntimeStore.open(directory) as store:
        assert store.retention == Retention(batches=7)
        assert store.descriptors.get(A).schema_version == 3


def test_nor_is_one_whose_batch_failed(directory: Path) -> None:
    """The same where the new data cannot be written to its files."""
    before = remembered(directory)
    full = WatchedFileSystem(
        lambda _, name, __: OSError(errno.ENOSPC, "full") if name == "write" else None
    )
    with pytest.raises(BatchFailedError):
        open_it(directory, 3, fs=full)
    assert remembered(directory) == before
    with open_it(directory, 3) as store:
        assert store.read(A).data == {"values": [1], "count": 1}


def test_an_older_program_that_is_refused_changes_no_answer(directory: Path) -> None:
    """The newer runtime lives. An older program opens the directory by mistake and is refused: the
    newer descriptors stay remembered, so who names none is told that it is ready, as before."""
    with open_it(directory, 3) as newer:
        write(newer, B, {"values": [], "count": 0})
        before = remembered(directory)
        with open_it(directory, 2) as older:
            assert older.start_state("run-2").kind is StartKind.REFUSE
        assert remembered(directory) == before
        with RuntimeStore.open(directory, read_only=True) as store:
            assert store.check_readiness().ok


def test_killed_before_it_is_remembered(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the data is up and the descriptors are not saved: who names none is told that a
    newer program wrote it, and the next opening of that program saves them."""

    def dying(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "save_descriptors", dying)
        with pytest.raises(Crash):
            open_it(directory, 3)
    with RuntimeStore.open(directory) as store:
        state = store.start_state(IDENTITY)
        assert (state.kind, state.why) == (
            StartKind.REFUSE,
            f"{A} was written by a newer program: start that one",
        )
    with open_it(directory, 3) as store:
        assert store.last_data_upgrade is None
        assert store.read(A).data == {"values": [1], "count": 1}
    with RuntimeStore.open(directory) as store:
        assert store.start_state(IDENTITY).kind is StartKind.RESUME


def test_without_upgrading(directory: Path) -> None:
    """Opened with `upgrade=False`, or only to look, the data stays as it is and says its version;
    a read-modify-write is refused, for old data must not pass for new."""
    for options in ({"upgrade": False}, {"read_only": True}, {"recover": False}):
        with open_it(directory, 3, **options) as store:
            assert store.last_data_upgrade is None
            assert (store.read(A).schema_version, store.read(A).data) == (1, {"value": 1})
    with open_it(directory, 3, upgrade=False) as store:
        state = store.start_state(IDENTITY)
        assert state.kind is StartKind.RESUME
        assert state.why.endswith(
            f"; the data of {A}, {B} is of an older schema version, and was not upgraded when the "
            "store was opened: it can be read and written over, and not updated or kept"
        )
        with pytest.raises(DataUpgradeError, match="not upgraded when the store was") as caught:
            store.update(A, lambda data: data, identity=IDENTITY, reason="delivery_commit")
        assert str(caught.value).endswith(
            "Nothing was changed: open it again for writing, without upgrade=False or "
            "recover=False."
        )
        write(store, A, {"values": [], "count": 0})
        store.update(A, lambda data: data, identity=IDENTITY, reason="delivery_commit")


def test_the_command_line_needs_no_functions(directory: Path) -> None:
    """Opened with what is remembered, as the command does, older data is left to the runtime."""
    open_it(directory, 3, upgrade=False).close()
    with RuntimeStore.open(directory) as store:
        assert store.last_data_upgrade is None
        assert store.read(A).schema_version == 1


def test_somebody_writes_in_between(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process commits while the functions run is brought up too: none is lost."""
    wrote: list[str] = []

    def slow(data: Any) -> Any:
        if len(wrote) < 2:
            with RuntimeStore.open(directory, recover=False, upgrade=False) as other:
                wrote.append(write(other, C, {"value": len(wrote)}))
        return to_2(data)

    with open_it(directory, 3, descriptors=descriptors(3, upgrades={1: slow, 2: to_3})) as store:
        assert store.last_data_upgrade is not None
        assert store.read(C).data == {"value": 1}
        assert store.read(A).data == {"values": [1], "count": 1}
        assert [batch.reason for batch in store.batches()].count("migration") == 1


def test_reverting_without_the_functions(directory: Path) -> None:
    """Who has no functions is told which descriptor it takes; opening otherwise would not help."""
    open_it(directory, 3).close()
    without = descriptors(3, upgrades={2: to_3})
    with open_it(directory, 3, descriptors=without) as store:
        with pytest.raises(DataUpgradeError) as caught:
            store.revert(A, to=2)
        error = caught.value
        assert str(error).endswith("changed: it takes a descriptor with upgrades={1: ...}.")
        assert (error.kind, error.step, error.is_history) == (UpgradeProblem.NO_STEP, 1, True)
        assert store.read(A).data == {"values": [1], "count": 1}


def test_reverting_to_what_the_model_refuses(directory: Path) -> None:
    """Data of the same schema version needs no upgrade: it is refused as any data is."""
    with open_it(directory, 1) as store:
        write(store, C, {"count": "2"})
    counted = [*descriptors(1)[:2], THIRD[2].model_copy(update={"payload": _Counted})]
    with open_it(directory, 1, descriptors=counted) as store:
        with pytest.raises(InvalidRequestError) as caught:
            store.revert(C, to=2)
        assert str(caught.value) == (
            "data.count (own.c): what was committed then may not be written now: Field required"
        )
        assert store.read(C).data == {"count": "2"}


def test_reverting_to_newer_data(directory: Path) -> None:
    """A store that was deleted, and written again by an older program: that does not take the data
    of the newer program for its own."""
    with open_it(directory, 3) as store:
        last = store.manifest().high_watermark
        write(store, A, DELETED)
    with open_it(directory, 1) as store:
        write(store, A, {"value": 5})
        with pytest.raises(DataUpgradeError) as caught:
            store.revert(A, to=last)
        assert str(caught.value) == (
            "the data of store own.a cannot be brought from schema version 3 to 1: no function "
            "leads back. Nothing was changed: the newer program can write it again."
        )
        assert caught.value.kind is UpgradeProblem.NEWER
        assert store.read(A).data == {"value": 5}


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.early
@pytest.mark.thorough
def test_killed_anywhere() -> None:
    """Killed before any SQL statement or file operation, all stores are of the old version or all
    of the new one; the next opening brings up the rest, in one batch altogether."""
    found, control = lines_of("tests.upgrade.data_kills")
    assert found["points"] > 60
    assert found["failures"] == 0, found["first"]
    assert control["failures"] > 0


# --- the other way --------------------------------------------------------------------------------


def test_an_older_runtime_never_overwrites_newer_data(directory: Path) -> None:
    """A runtime of version 1 that comes back finds data of version 3: it may write neither over it
    nor read-modify-write it; other stores it may."""
    with open_it(directory, 1) as store:
        store.back_up(directory.parent / "back-up")
    open_it(directory, 3).close()
    before = files_picture(directory)
    with open_it(directory, 1) as store:
        with pytest.raises(
            NewerStoreFileError, match="schema version 3, this program knows 1"
        ) as caught:
            write(store, A, {"value": 9})
        assert caught.value.is_committed
        assert "move the file away" not in str(caught.value)
        with pytest.raises(NewerStoreFileError):
            store.update(A, lambda data: data, identity=IDENTITY, reason="delivery_commit")
        assert files_picture(directory) == before
        assert write(store, C, {"value": 9})
    with open_it(directory, 3) as store:
        assert store.read(A).data == {"values": [1], "count": 1}
    restore_backup(directory.parent / "back-up", directory.parent / "restored")
    with open_it(directory.parent / "restored", 1) as store:  # as the message says
        assert write(store, A, {"value": 9})


def test_the_newer_file_of_an_older_store(directory: Path) -> None:
    """A newer program wrote the file, and what is committed is older: it is left as it is, and once
    it is moved away, as the message says, the store can be written."""
    newer = json.dumps({"schemaVersion": 9, "updatedAt": "2026-04-21T12:00:00.000Z", "data": {}})
    (directory / "a.json").write_text(newer)
    with open_it(directory, 1) as store:
        with pytest.raises(NewerStoreFileError, match="or move the file away") as caught:
            write(store, A, {"value": 9})
        assert not caught.value.is_committed
        (directory / "a.json").rename(directory.parent / "aside.json")
        assert write(store, A, {"value": 9})


class _First(BaseModel):
    """The data of version 1."""

    value: int


def test_an_update_of_newer_data_is_refused_before_its_function(directory: Path) -> None:
    """Whichever way the store is given: what its model says of newer data does not matter."""
    typed = [plain_descriptor(A, "a.json").model_copy(update={"payload": _First})]
    known = [*typed, *descriptors(1)[1:]]
    called: list[object] = []

    def change(data: Any) -> Any:
        called.append(data)
        return data

    with open_it(directory, 1, descriptors=known) as store:
        open_it(directory, 3).close()
        before = files_picture(directory)
        for stores in (typed[0], A, [typed[0], C]):
            with pytest.raises(NewerStoreFileError, match="version 3, this program knows 1"):
                store.update(stores, change, identity=IDENTITY, reason="delivery_commit")
        with pytest.raises(NewerStoreFileError, match="version 3, this program knows 1"):
            store.begin_run("run-9", keep=[A])
        assert called == []
        store.update([A, C], change, identity=IDENTITY, reason="delivery_commit")
        assert len(called) == 1
        assert files_picture(directory) == before


def edit(directory: Path, store: str = "a.json") -> None:
    """Edit a file of version 1 by hand; it stays valid data of version 1."""
    path = directory / store
    path.write_text(path.read_text().replace('"value": 1', '"value": 7'))


class _Third(BaseModel):
    """The data of version 3."""

    values: list[int]
    count: int


@pytest.mark.parametrize("payload", [None, _Third])
def test_an_edit_is_not_held_against_the_newer_model(
    directory: Path, payload: type[BaseModel] | None
) -> None:
    """Valid data of version 1 is not torn, whatever the model of version 3 says of it: it waits for
    a decision. Each of the ways that there are goes on, and the upgrade with it."""
    third = descriptors(3, payload=payload)
    edit(directory)
    with pytest.raises(StoreFileChangedError) as caught:
        open_it(directory, 3, descriptors=third)
    assert "Open it with upgrade=False" in "".join(caught.value.__notes__)
    with open_it(directory, 3, descriptors=third, upgrade=False) as store:
        assert store.quarantined_files() == []
        assert store.start_state(IDENTITY).kind is StartKind.REPAIR
        (action,) = [item for item in store.plan_recovery().actions if item.schema_name == A]
        assert (action.kind, action.reason) == ("quarantine", "hash_mismatch")
        store.adopt(A)
        assert (store.read(A).schema_version, store.read(A).data) == (1, {"value": 7})
    with open_it(directory, 3, descriptors=third) as store:
        assert store.read(A).data == {"values": [7], "count": 1}


@pytest.mark.parametrize(("edits", "value"), [("adopt", 7), ("ignore", 1)])
def test_an_opening_that_deals_with_edits(directory: Path, edits: str, value: int) -> None:
    """The upgrade begins with the edit, or goes over it and keeps a copy, as any batch does."""
    edit(directory)
    with open_it(directory, 3, foreign_edits=edits, upgrade=False) as store:
        state = store.start_state(IDENTITY)
        assert state.kind is StartKind.RESUME
        assert f"somebody edited the file of {A}" in state.why
    with open_it(directory, 3, foreign_edits=edits) as store:
        assert store.read(A).data == {"values": [value], "count": 1}
        assert len(store.quarantined_files()) == (edits == "ignore")


def test_an_edit_that_cannot_be_upgraded_is_not_adopted(directory: Path) -> None:
    """The functions of the upgrade are tried first, where the descriptor has them."""
    path = directory / "a.json"
    path.write_text(path.read_text().replace('"value": 1', '"other": 1'))
    edited = path.read_bytes()
    why = "version 3: the step from 1 to 2 failed with KeyError"
    with open_it(directory, 3, upgrade=False) as store, pytest.raises(InvalidRequestError) as told:
        store.adopt(A)
    assert why in str(told.value)
    with pytest.raises(StoreFileChangedError) as caught:
        open_it(directory, 3, foreign_edits="adopt")
    assert caught.value.not_adopted is not None
    assert why in caught.value.not_adopted
    assert path.read_bytes() == edited


def test_a_file_older_than_what_is_committed_is_not_adopted(directory: Path) -> None:
    """Nothing brings it up: an adoption is byte for byte."""
    old = (directory / "a.json").read_text().replace('"value": 1', '"value": 7')
    with open_it(directory, 3) as store:
        (directory / "a.json").write_text(old)
        with pytest.raises(InvalidRequestError, match="has schema version 1, the store has 3"):
            store.adopt(A)


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_file_of_a_version_in_between_is_adopted(directory: Path, *, upgrade: bool) -> None:
    """It is newer than what is committed, and older than the program: the functions bring it up."""
    path = directory / "a.json"
    between = path.read_text().replace('"value": 1', '"values": [7]')
    path.write_text(between.replace('"schemaVersion": 1', '"schemaVersion": 2'))
    with open_it(directory, 3, foreign_edits="adopt", upgrade=upgrade) as store:
        if not upgrade:
            store.adopt(A)
    with open_it(directory, 3) as store:
        assert (store.read(A).schema_version, store.read(A).data) == (3, to_3({"values": [7]}))
        assert agree(store)


@pytest.mark.parametrize("way", ["foreign_edits='adopt'", "RuntimeStore.adopt('own.a')"])
def test_newer_files_beside_a_database_from_before(directory: Path, way: str) -> None:
    """Nobody is sent to the newer program alone, which stops at the file as well: the plan says how
    that takes the file, and that the database may be an older copy. Each way leads on."""
    with open_it(directory, 1) as store:
        backup = directory.parent / "backup"
        store.back_up(backup)
    with open_it(directory, 3) as store:
        write(store, A, {"values": [7], "count": 1})
    shutil.copy(backup / DATABASE_NAME, directory / DATABASE_NAME)
    with pytest.raises(StoreFileChangedError, match="rtstore plan"):
        open_it(directory, 3)
    for command in ("plan", "doctor"):
        told = run(command, directory).out
        assert "look first" in told
        assert "the database is a copy from before" in told
        assert "(version 3, the descriptor here has 1)" in told
        assert way in told
    told_by_adopt = pytest.raises(NewerStoreFileError, match="with foreign_edits='adopt'")
    with open_it(directory, 1) as store, told_by_adopt:
        store.adopt(A)
    options: dict[str, Any] = {"upgrade": False}
    if way.startswith("foreign"):
        options = {"foreign_edits": "adopt"}
    with open_it(directory, 3, **options) as store:
        if "upgrade" in options:
            store.adopt(A)
            store.adopt(B)
        assert store.read(A).data == {"values": [7], "count": 1}
    with open_it(directory, 3) as store:
        assert store.check_readiness().ok


def _to_2_of_the_edit(data: Any) -> Any:
    return {"values": [data["edited"]]}


FAILS: dict[str, dict[int, Callable[[Any], Any]]] = {
    "the step fails": {1: _to_2_of_the_edit, 2: to_3},
    "no step": {},
}
"""Functions that what is committed does not pass."""


@pytest.mark.parametrize("upgrade", [True, False])
def test_an_edit_is_adopted_though_what_is_committed_cannot_come_up(
    directory: Path, upgrade: bool
) -> None:
    """It is looked at by itself: it fits the functions, and what it replaces need not."""
    path = directory / "a.json"
    path.write_text(path.read_text().replace('"value": 1', '"edited": 7'))
    third = descriptors(3)
    third[0] = third[0].model_copy(update={"upgrades": FAILS["the step fails"]})
    with open_it(directory, 3, descriptors=third, upgrade=upgrade, foreign_edits="adopt") as store:
        assert store.start_state(IDENTITY).kind is StartKind.RESUME
        data = {"values": [7], "count": 1} if upgrade else {"edited": 7}
        assert store.read(A).data == data
        assert agree(store)
        assert store.read(A, at=3).data == {"value": 1}


@pytest.mark.parametrize("upgrades", FAILS.values(), ids=FAILS)
def test_an_edit_of_the_newer_version_is_adopted(
    directory: Path, upgrades: dict[int, Callable[[Any], Any]]
) -> None:
    """Somebody did by hand what no function does: it needs no upgrade."""
    path = directory / "a.json"
    edited = path.read_text().replace('"schemaVersion": 1', '"schemaVersion": 3')
    path.write_text(edited)
    third = descriptors(3)
    third[0] = third[0].model_copy(update={"upgrades": upgrades})
    with open_it(directory, 3, descriptors=third, foreign_edits="adopt") as store:
        assert (store.read(A).schema_version, store.read(A).data) == (3, {"value": 1})
        assert store.read(B).data == {"values": [0], "count": 1}
    assert path.read_text() == edited


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('"value": 1', '"other": 1'), "step from 1 to 2 failed with KeyError"),
        (('Version": 1', 'Version": 9'), "has schema version 9"),
        (("{", ""), "invalid_json"),
    ],
)
def test_an_opening_says_what_is_wrong_with_both(
    directory: Path, change: tuple[str, str], why: str
) -> None:
    """Where neither what is committed nor the edit comes up; nothing is changed. An opening that
    does not adopt says nothing of the edit."""
    path = directory / "a.json"
    third = descriptors(3)
    third[0] = third[0].model_copy(update={"upgrades": FAILS["the step fails"]})

    def refused(edits: str) -> str:
        with pytest.raises(DataUpgradeError, match="from 1 to 2 failed with KeyError") as told:
            open_it(directory, 3, descriptors=third, foreign_edits=edits)
        return "".join(getattr(told.value, "__notes__", []))

    assert refused("adopt") == ""
    path.write_text(path.read_text().replace(*change))
    before, rows = files_picture(directory), rows_of(directory / DATABASE_NAME)
    assert "nor can its file be adopted" in refused("adopt")
    assert why in refused("adopt")
    assert refused("raise") == refused("ignore") == ""
    assert files_picture(directory) == before
    assert rows_of(directory / DATABASE_NAME) == rows
