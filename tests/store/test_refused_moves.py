"""An opening that gives stores other files, and is refused: nothing was moved or written by then.
A dry run is refused with the same words."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import (
    Descriptor,
    ForeignEdits,
    InvalidRequestError,
    RecoveryFailedError,
    RecoveryPlan,
    RuntimeStore,
    RuntimeStoreError,
    StoreFileChangedError,
    UnsafePathError,
)
from rtstore.control.sqlite.engine import DATABASE_NAME, Database
from rtstore.maintenance.doctor.gather import examine
from rtstore.maintenance.doctor.judge import diagnose
from rtstore.model.descriptors import Registry
from rtstore.recovery.gather import RecoveryPlanner
from rtstore.store import rehearse_upgrade
from rtstore.testing import Seams
from tests.crash.children import Child
from tests.recovery.test_lost_entries import edit
from tests.support import (
    CHECKPOINT,
    IDENTITY,
    WatchedFileSystem,
    breadth,
    data_in,
    files_picture,
    write,
)

A, B = (Descriptor(f"own.{name}", relative_path=f"{name}.json") for name in "ab")


def at(descriptor: Descriptor, path: str, **changes: Any) -> Descriptor:
    """The descriptor of the same store in another file."""
    return descriptor.model_copy(update={"relative_path": path, **changes})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which two stores were written."""
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[A, B]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={A: "of a", B: "of b"})
    return tmp_path / "team"


def refuse(directory: Path, *descriptors: Descriptor, **options: Any) -> str:
    """Open the directory, which is refused and changes nothing. Return the words."""
    before = files_picture(directory)
    with pytest.raises(RuntimeStoreError) as told:
        RuntimeStore.open(directory, descriptors=descriptors, **options)
    assert files_picture(directory) == before
    return str(told.value)


def rehearse(directory: Path, *descriptors: Descriptor) -> None:
    """Do the dry run of an opening."""
    database = Database(directory / DATABASE_NAME, read_only=True)
    try:
        rehearse_upgrade(directory, database, Registry(descriptors))
    finally:
        database.close()


TAKEN = {
    "chained": [at(A, "sub/a.json"), at(B, "a.json")],
    "swapped": [at(A, "b.json"), at(B, "a.json")],
    "without its owner": [at(B, "a.json")],
    "as a folder": [at(A, "sub/a.json"), at(B, "a.json/b.json")],
}


@pytest.mark.parametrize(
    "lost",
    breadth.params([(), ("own.a",), ("own.a", "own.b")], normal=[("own.a", "own.b")]),
    ids=len,
)
@pytest.mark.parametrize("what", TAKEN)
def test_a_file_of_another_store(directory: Path, what: str, lost: tuple[str, ...]) -> None:
    """Also where somebody took an entry out of the manifest: an opening makes it again."""
    for name in lost:
        edit(directory, f"DELETE FROM manifest_entries WHERE schema_name = '{name}'")
    said = refuse(directory, *TAKEN[what])
    assert "is that of store own." in said
    with pytest.raises(InvalidRequestError) as told:
        rehearse(directory, *TAKEN[what])
    assert str(told.value) == said
    with RuntimeStore.open(directory) as store:
        assert (store.read("own.a").data, store.read("own.b").data) == ("of a", "of b")
        assert store.check_readiness().ok


@pytest.mark.parametrize("moves", [False, True], ids=["its owner stays", "its owner moves, too"])
def test_a_folder_of_another_stores_file(tmp_path: Path, *, moves: bool) -> None:
    """The folder is not given away either: what is in it stays, with an edit."""
    directory, deep = tmp_path / "team", at(A, "d/e/a.json")
    with RuntimeStore.open(directory, team_name="t", descriptors=[deep, B]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={deep: "of a", B: "of b"})
    file = directory / "d" / "e" / "a.json"
    file.write_bytes(file.read_bytes().replace(b"of a", b"edited"))
    for folder in ("d", "d/e"):
        wanted = [at(B, folder), *([at(A, "new.json")] if moves else [])]
        said = refuse(directory, *wanted)
        assert (
            f"the file d/e/a.json, for which {folder} is a folder, is that of store own.a" in said
        )
        with pytest.raises(InvalidRequestError) as told:
            rehearse(directory, *wanted)
        assert str(told.value) == said


@pytest.mark.parametrize("written", ["d", "d/e.json"])
def test_a_store_is_not_written_where_another_one_has_a_folder_or_a_file(
    tmp_path: Path, written: str
) -> None:
    """Which another program gave it since: nobody is told to move that away."""
    directory, late = tmp_path / "team", "d" if written == "d/e.json" else "d/e.json"
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[at(A, late)]) as old:
        with RuntimeStore.open(directory, descriptors=[at(B, written)]) as new:
            write(new, B.schema_name, "of b")
        with pytest.raises(InvalidRequestError, match=f"file {written}, .* is that of store own.b"):
            write(old, A.schema_name, "of a")
        assert not old.check_readiness().ok
        assert "is that of store own.b" in old.check_readiness().diagnostics[0]
        old.recover(old.plan_recovery())
        assert data_in(directory / written) == "of b"


def test_a_store_keeps_the_file_that_it_has(directory: Path) -> None:
    """Where a database says that another store's is in it, as in a folder."""
    edit(directory, "UPDATE manifest_entries SET relative_path = 'a.json/b.json' "
         "WHERE schema_name = 'own.b'")  # fmt: skip
    (directory / "a.json").unlink()
    with RuntimeStore.open(directory, descriptors=[A]) as store:
        assert data_in(directory / "a.json") == "of a"
        write(store, A.schema_name, "again")


@pytest.mark.parametrize("path", ["lanes", "lanes/p", "lanes/p/own.z.json", "lanes/p/new/z.json"])
def test_a_path_of_another_runtime_directory(directory: Path, path: str) -> None:
    """As of a lane, which goes on: it is never put into quarantine, nor is a file of it."""
    lane_path = directory / "lanes" / "p"
    lane_path.mkdir(parents=True)
    with RuntimeStore.open(lane_path, team_name="t", descriptors=[Descriptor("own.z")]) as lane:
        write(lane, "own.z", "of z")
        wanted = [A, at(B, path)]
        said = refuse(directory, *wanted)
        assert "another runtime directory" in said
        assert "own.b is in b.json: nothing was moved" in said
        with pytest.raises(UnsafePathError) as told:
            rehearse(directory, *wanted)
        assert str(told.value) == said
        write(lane, "own.z", "again")
    assert data_in(lane_path / "own.z.json") == "again"


def test_a_runtime_directory_in_place_of_a_file_stays(directory: Path) -> None:
    """Somebody made it there, or moved it: neither an opening nor a recovery moves it away."""
    (directory / "a.json").unlink()
    RuntimeStore.open(directory / "a.json" / "deep", team_name="t").close()
    with RuntimeStore.open(directory) as store:
        (step,) = store.recover(store.plan_recovery()).steps
        assert "holds another runtime directory" in str(step.detail)
        (tried,) = store.recover(store.plan_recovery(), dry_run=True).steps
        assert "another runtime directory" in str(tried.detail)
        assert not store.check_readiness().ok
        assert (directory / "a.json" / "deep" / DATABASE_NAME).exists()
        command = str(step.detail).partition("(mv ")[2].partition(")")[0]
        subprocess.run(f"mv {command}", shell=True, check=True)
        store.recover(store.plan_recovery())
        assert store.check_readiness().ok


def test_a_file_that_a_batch_was_to_leave(directory: Path) -> None:
    """The batch of a dead writer takes a store elsewhere. Where it cannot be finished, the file is
    still that of the store."""
    elsewhere = at(A, "sub/a.json")

    def write_and_die(_: object) -> None:
        fs = WatchedFileSystem()
        with RuntimeStore.open(directory, descriptors=[elsewhere, B], seams=Seams(fs=fs)) as store:
            fs.judge = lambda _number, name, _subject: (
                os.kill(os.getpid(), signal.SIGKILL) if name == "create" else None
            )
            write(store, A.schema_name, "logged")

    assert not Child(write_and_die).wait().finished
    shutil.rmtree(directory / "sub")
    (directory / "sub").write_text("in the way")
    for descriptors in ([elsewhere, at(B, "a.json")], [at(B, "a.json"), elsewhere]):
        with pytest.raises(RecoveryFailedError, match="is not a directory"):
            RuntimeStore.open(directory, descriptors=descriptors)
        assert (data_in(directory / "a.json"), data_in(directory / "b.json")) == ("of a", "of b")
    (directory / "sub").unlink()
    with RuntimeStore.open(directory, descriptors=[at(B, "a.json"), elsewhere]) as store:
        assert (store.read(A.schema_name).data, store.read(B.schema_name).data) == (
            "logged",
            "of b",
        )
        assert data_in(directory / "a.json") == "of b"


def test_a_file_that_another_store_got_meanwhile(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program writes a store there after the opening looked, and before it has the lock."""
    look = RecoveryPlanner.build_plan

    def build_plan(planner: RecoveryPlanner, **options: Any) -> RecoveryPlan:
        if not options.get("locked"):
            monkeypatch.undo()
            with RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]) as other:
                write(other, A.schema_name, "of a, there")
        return look(planner, **options)

    monkeypatch.setattr(RecoveryPlanner, "build_plan", build_plan)
    with pytest.raises(InvalidRequestError, match=r"new.json is that of store own\.a"):
        RuntimeStore.open(directory, descriptors=[A, at(B, "new.json")])
    assert data_in(directory / "new.json") == "of a, there"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("there", ["a file", "a link", "a link to nothing", "a file further up"])
def test_a_new_path_behind_something(directory: Path, there: str, version: int) -> None:
    """The words name what is in the way, and the command in them removes it."""
    path, way = "sub/a.json", directory / "sub"
    if there == "a file further up":
        path = "sub/deep/a.json"
    if there.startswith("a file"):
        way.write_text("mine")
    else:
        if there == "a link":
            (directory.parent / "elsewhere").mkdir()
        way.symlink_to(directory.parent / "elsewhere")
    new = at(
        A, path, schema_version=version, upgrades={1: lambda data: data} if version > 1 else {}
    )
    said = refuse(directory, new, B)
    assert f"({way})" in said
    assert "own.a is in a.json, and these descriptors give it the file sub/" in said
    assert refuse(directory, new, B, recover=False) == said
    with pytest.raises(UnsafePathError) as told:
        rehearse(directory, new, B)
    assert str(told.value) == said
    (finding,) = [
        found
        for found in diagnose(examine(directory, Registry([new, B])))
        if "opening with these" in found.sentence
    ]
    assert said in finding.sentence
    with RuntimeStore.open(directory) as store:  # as before
        assert store.read(A.schema_name).data == "of a"
    (command,) = re.findall(r"\(((?:mv|rm|cp) .*?)\)", said)
    subprocess.run(command, shell=True, check=True)
    with RuntimeStore.open(directory, descriptors=[new, B]) as store:
        assert store.read(A.schema_name).data == data_in(directory / path) == "of a"


def newer(descriptor: Descriptor) -> Descriptor:
    """The next version of a store, whose data is upgraded."""
    return descriptor.model_copy(update={"schema_version": 2, "upgrades": {1: lambda data: [data]}})


@pytest.mark.parametrize("foreign_edits", ForeignEdits)
@pytest.mark.parametrize("beside", [False, True], ids=["", "beside a file at the new path"])
def test_a_file_of_a_newer_program(
    directory: Path, foreign_edits: ForeignEdits, *, beside: bool
) -> None:
    """It is named where it is, and once it is moved away, the opening does its work."""
    old = directory / "a.json"
    old.write_text(json.dumps({"schemaVersion": 9, "data": "newer"}))
    if beside:
        (directory / "new.json").write_text(json.dumps({"schemaVersion": 1, "data": "there"}))
    new = newer(at(A, "new.json"))
    said = refuse(directory, new, B, foreign_edits=foreign_edits)
    assert str(old) in said
    assert "new.json" not in said
    old.rename(directory.parent / "away.json")
    with RuntimeStore.open(directory, descriptors=[new, B], foreign_edits=foreign_edits) as store:
        assert store.read(A.schema_name).data == data_in(directory / "new.json") == ["of a"]


@pytest.mark.parametrize("moves", [A, B], ids=["the store itself", "another store"])
def test_an_edit_that_refuses_an_upgrade(directory: Path, moves: Descriptor) -> None:
    """No other store is moved either."""
    edited = json.dumps({"schemaVersion": 1, "data": "edited"})
    (directory / "a.json").write_text(edited)
    (directory / "new.json").write_text(edited)
    wanted = [at(item, "new.json") if item is moves else item for item in (newer(A), B)]
    if moves is A:
        wanted = [newer(at(A, "new.json")), B]
    assert "a.json was changed by somebody else" in refuse(directory, *wanted)


BACK: dict[str, Callable[[Descriptor], Descriptor]] = {
    "as it was": lambda a: a,
    "upgraded": newer,
    "upgraded, in a third file": lambda a: newer(at(a, "third.json")),
    "in a third file": lambda a: at(a, "third.json"),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "at_old",
    breadth.params(["as committed", "nothing", "edited, too", "torn"], normal=["as committed"]),
)
@pytest.mark.parametrize("foreign_edits", ForeignEdits)
@pytest.mark.parametrize("what", BACK)
def test_an_edit_comes_back_to_an_earlier_file(
    directory: Path, what: str, foreign_edits: ForeignEdits, at_old: str
) -> None:
    """Of the file that the last opening gave the store, which nothing was written to yet."""
    RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]).close()
    new, old = directory / "new.json", directory / "a.json"
    edited = new.read_bytes().replace(b"of a", b"edited")
    new.write_bytes(edited)
    if at_old == "nothing":
        old.unlink()
    elif at_old != "as committed":
        old.write_bytes(edited.replace(b"edited", b"no more") if at_old != "torn" else b"{")
    wanted = BACK[what](A)
    if wanted.schema_version > 1 and foreign_edits is ForeignEdits.RAISE:
        assert "new.json was changed by somebody else" in refuse(directory, wanted, B)
        with pytest.raises(StoreFileChangedError):
            rehearse(directory, wanted, B)
        return
    with RuntimeStore.open(
        directory, descriptors=[wanted, B], foreign_edits=foreign_edits
    ) as store:
        if foreign_edits is ForeignEdits.RAISE:
            assert not store.check_readiness().ok
            with pytest.raises(StoreFileChangedError):
                store.read(A.schema_name)
        else:
            found = "edited" if foreign_edits is ForeignEdits.ADOPT else "of a"
            expected = [found] if wanted.schema_version > 1 else found
            assert store.read(A.schema_name).data == expected
        kept = [(directory / it.quarantine_path).read_bytes() for it in store.quarantined_files()]
        there = (directory / wanted.relative_path).read_bytes()
        assert edited in (there, *kept) or foreign_edits is ForeignEdits.ADOPT
        if at_old == "edited, too" and wanted.relative_path == "a.json":
            assert edited.replace(b"edited", b"no more") in kept
    assert new.read_bytes() == edited


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "between", breadth.params(["as committed", "gone", "a link"], normal=["as committed", "gone"])
)
@pytest.mark.parametrize(
    "foreign_edits",
    breadth.params([*ForeignEdits], normal=[ForeignEdits.RAISE, ForeignEdits.ADOPT]),
)
@pytest.mark.parametrize("what", ["as it was", "upgraded"])
@pytest.mark.parametrize("when", ["refused before", "made later"])
def test_what_is_at_an_earlier_file_is_no_edit_any_more(
    directory: Path, when: str, what: str, foreign_edits: ForeignEdits, between: str
) -> None:
    """Once the store has left, an edit there that was refused stays so, and no other is one."""
    old, new = directory / "a.json", directory / "new.json"
    edited = old.read_bytes().replace(b"of a", b"edited")
    if when == "refused before":
        old.write_bytes(edited)
    with RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]) as store:
        store.recover(store.plan_recovery())
        assert store.check_readiness().ok
        assert data_in(new) == "of a"
    old.write_bytes(edited)
    if between != "as committed":
        new.unlink()
    if between == "a link":
        new.symlink_to("b.json")
    wanted = BACK[what](A)
    if when == "made later" and between != "as committed":  # it may never have left
        if wanted.schema_version > 1 and foreign_edits is ForeignEdits.RAISE:
            assert "a.json was changed by somebody else" in refuse(directory, wanted, B)
        return
    rehearse(directory, wanted, B)
    with RuntimeStore.open(
        directory, descriptors=[wanted, B], foreign_edits=foreign_edits
    ) as store:
        assert store.check_readiness().ok
        assert store.read(A.schema_name).data == (["of a"] if what == "upgraded" else "of a")
        kept = [(directory / it.quarantine_path).read_bytes() for it in store.quarantined_files()]
        assert edited in kept


def test_a_refused_edit_takes_the_place_of_no_data_that_cannot_be_upgraded(directory: Path) -> None:
    """It is no edit of the store, so nothing is adopted, and nothing moved."""
    (directory / "a.json").write_text(json.dumps({"schemaVersion": 1, "data": "edited"}))
    with RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]) as store:
        store.recover(store.plan_recovery())
    steps = {1: lambda data: {"edited": [data]}[data]}
    wanted = at(A, "a.json", schema_version=2, upgrades=steps)
    assert "KeyError" in refuse(directory, wanted, B, foreign_edits="adopt")


def test_a_store_comes_back_without_an_edit(directory: Path) -> None:
    """Nothing is to be done, and no recovery is recorded."""
    RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]).close()
    with RuntimeStore.open(directory, descriptors=[A, B]) as store:
        assert store.last_recovery is None
        assert store.check_readiness().ok
        assert store.read(A.schema_name).data == "of a"


@pytest.mark.parametrize("before", ["its entry is lost", "a batch is open"])
def test_what_is_at_the_new_path_makes_way_for_what_comes_only_now(
    directory: Path, before: str
) -> None:
    """Until an entry is made again, or a batch finished, nobody knows what belongs there."""
    there = json.dumps({"schemaVersion": 1, "data": "there"})

    def write_and_die(_: object) -> None:
        fs = WatchedFileSystem()
        with RuntimeStore.open(directory, seams=Seams(fs=fs)) as store:
            fs.judge = lambda _number, name, _subject: (
                os.kill(os.getpid(), signal.SIGKILL) if name == "create" else None
            )
            write(store, A.schema_name, "of a")

    if before == "a batch is open":
        assert not Child(write_and_die).wait().finished
    else:
        edit(directory, "DELETE FROM manifest_entries WHERE schema_name = 'own.a'")
    (directory / "new.json").write_text(there)
    with RuntimeStore.open(directory, descriptors=[at(A, "new.json"), B]) as store:
        assert store.check_readiness().ok
        assert store.read(A.schema_name).data == data_in(directory / "new.json") == "of a"
        (kept,) = store.quarantined_files()
        assert (directory / kept.quarantine_path).read_text() == there


KEPT: dict[str, list[Descriptor]] = {
    "in its place": [at(B, "new.json"), at(A, "third.json")],
    "and the store as it was": [at(B, "new.json"), A],
    "but for its case": [at(B, "NEW.json"), at(A, "third.json")],
    "as a folder": [at(B, "new.json/b.json"), at(A, "third.json")],
}
LATER = newer(at(A, "new.json"))


def move_with_a_newer_program(directory: Path, left: str) -> None:
    """Upgrade the data of a store, then give it another file, to which nothing is written."""

    def write_and_die(_: object) -> None:
        fs = WatchedFileSystem()
        options: dict[str, Any] = {"seams": Seams(fs=fs), "upgrade": False}
        with RuntimeStore.open(directory, descriptors=[newer(A), B], **options) as store:
            fs.judge = lambda _number, name, _subject: (
                os.kill(os.getpid(), signal.SIGKILL) if name == "create" else None
            )
            write(store, A.schema_name, ["of a"])

    if left == "its batch is open":
        assert not Child(write_and_die).wait().finished
        RuntimeStore.open(directory, descriptors=[LATER, B], recover=False).close()
        return
    RuntimeStore.open(directory, descriptors=[newer(A), B]).close()
    RuntimeStore.open(directory, descriptors=[LATER, B]).close()
    if left == "its entry is lost":
        edit(directory, "DELETE FROM manifest_entries WHERE schema_name = 'own.a'")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("left", ["moved", "its entry is lost", "its batch is open"])
@pytest.mark.parametrize("what", KEPT)
def test_a_file_that_a_newer_program_gave_another_store(
    directory: Path, what: str, left: str
) -> None:
    """That store keeps it, since its data is newer. Each way out that the words name is one."""
    move_with_a_newer_program(directory, left)
    wanted = KEPT[what]
    said = refuse(directory, *wanted)
    assert "in the way of new.json, which a newer program gave store own.a" in said
    assert refuse(directory, *wanted, recover=False) == said
    with pytest.raises(InvalidRequestError) as told:
        rehearse(directory, *wanted)
    assert str(told.value) == said
    assert refuse(directory, newer(wanted[0]), wanted[1]) == said
    with RuntimeStore.open(directory, descriptors=[LATER, B]) as store:
        assert store.check_readiness().ok
        assert store.read(A.schema_name).data == ["of a"]
    way = directory.with_name("other way")
    shutil.copytree(directory, way)
    RuntimeStore.open(directory, descriptors=[at(B, "free.json"), wanted[1]]).close()
    RuntimeStore.open(way, descriptors=[newer(at(A, "other.json")), B]).close()
    if what == "as a folder":
        (way / "new.json").unlink()  # which the store has left
    with RuntimeStore.open(way, descriptors=wanted) as store:
        assert store.read(B.schema_name).data == "of b"
    for each in (directory, way):
        with RuntimeStore.open(each) as store:
            assert store.check_readiness().ok
            assert store.read(A.schema_name).data == ["of a"]


def test_a_file_that_a_newer_program_gave_a_store_without_newer_data(directory: Path) -> None:
    """As it had no upgrade of that yet, or never wrote the store: the older program goes on."""
    fresh = Descriptor("own.fresh", relative_path="f.json", schema_version=2)
    RuntimeStore.open(directory, descriptors=[LATER, B, fresh], upgrade=False).close()
    older = at(fresh, "f2.json", schema_version=1)
    descriptors = [A, at(B, "new.json"), older, Descriptor("own.other", relative_path="f.json")]
    with RuntimeStore.open(directory, descriptors=descriptors) as store:
        assert store.read(A.schema_name).data == data_in(directory / "a.json") == "of a"
        assert store.read(B.schema_name).data == data_in(directory / "new.json") == "of b"
