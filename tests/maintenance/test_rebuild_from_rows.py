"""A rebuild of a database that is readable, but for a row that makes no sense: what its rows know
wins, as it does in an opening. No half of a batch, no earlier version and nothing deleted comes
back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rtstore import (
    DATABASE_NAME,
    DELETED,
    Descriptor,
    RunIdentity,
    RuntimeStore,
    rebuild_database,
)
from rtstore.maintenance.rebuild_database import RebuildReport
from rtstore.testing import crash_at
from tests.support import IDENTITY, TEAM, agree, files_picture

STORES = [Descriptor(f"team.{name}", relative_path=f"{name}.json") for name in "abc"]
A, B, C = (item.schema_name for item in STORES)
NEXT = RunIdentity(run_id="run-2")


def write(
    store: RuntimeStore, *, reason: str = "w", identity: RunIdentity = IDENTITY, **data: object
) -> str:
    writes = {f"team.{name}": each for name, each in data.items()}
    return store.write_batch(identity=identity, reason=reason, writes=writes).batch_id


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three stores, of two batches."""
    with RuntimeStore.open(tmp_path / "t", team_name=TEAM, descriptors=STORES) as store:
        write(store, a="one", b=1, c=[1])
        write(store, a="two", b=2, c=[2])
    return tmp_path / "t"


def make_one_row_senseless(directory: Path) -> None:
    """An old row on which nothing depends."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("PRAGMA ignore_check_constraints = ON")
        raw.execute("UPDATE write_batches SET reason = 'A B!' WHERE batch_number = 1")


def rebuild(directory: Path) -> RebuildReport:
    make_one_row_senseless(directory)
    before = files_picture(directory)
    report = rebuild_database(directory)
    assert {
        name: facts for name, facts in files_picture(directory).items() if name in before
    } == before
    return report


def outcomes(report: RebuildReport) -> dict[str, str]:
    return {store.schema_name: store.outcome.value for store in report.stores}


def read_all(directory: Path, identity: RunIdentity = IDENTITY) -> dict[str, object]:
    """What an opening finds. It has nothing to ask, but what stands for a deleted store."""
    with RuntimeStore.open(directory) as store:
        found = store.check_readiness(expected=identity).diagnostics
        assert all(text.startswith("Runtime store missing: ") for text in found)
        assert agree(store)
        return {
            entry.schema_name: store.read(entry.schema_name).data
            for entry in store.manifest().entries
        }


@pytest.mark.one_in(2)
@pytest.mark.parametrize("point", ["after-log", "after-rename-1", "after-rename-3"])
@pytest.mark.parametrize("identity", [IDENTITY, NEXT])
def test_a_batch_that_was_decided_is_there_as_a_whole(
    directory: Path, point: str, identity: RunIdentity
) -> None:
    """Wherever its writer died. With it begins its run."""
    with (
        crash_at(point),
        RuntimeStore.open(directory, descriptors=STORES) as store,
    ):
        write(store, a="four", b=DELETED, c=[4], identity=identity)
    report = rebuild(directory)
    assert report.active_identity == identity
    assert any("committed as a whole" in note for note in report.notes)
    assert read_all(directory, identity) == {A: "four", C: [4]}
    assert not (directory / "b.json").exists()
    with RuntimeStore.open(directory) as store:
        assert [(run.run_id, run.state.value) for run in store.runs()] == (
            [("run-1", "active")]
            if identity is IDENTITY
            else [("run-2", "active"), ("run-1", "superseded")]
        )
        write(store, a="five", identity=identity)


@pytest.mark.parametrize("lost", [False, True], ids=["nowhere else", "in its file"])
def test_a_batch_whose_log_lacks_a_content(directory: Path, *, lost: bool) -> None:
    """It goes forward where its file still has the content, and is dropped as a whole where nobody
    has it."""
    point = "after-rename-3" if lost else "after-rename-1"
    with (
        crash_at(point),
        RuntimeStore.open(directory, descriptors=STORES) as store,
    ):
        write(store, a="four", b=4, c=[4])
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER store_contents_in_use_stay")
        raw.execute("DELETE FROM store_contents WHERE batch_number = 3 AND schema_name = ?", (C,))
    report = rebuild(directory)
    whole = {A: "four", B: 4, C: [4]}
    assert read_all(directory) == (whole if lost else {A: "two", B: 2, C: [2]})
    (note,) = [note for note in report.notes if "was being written" in note]
    assert ("dropped" in note) is not lost


def test_an_earlier_version_of_ours_is_not_what_is_committed(directory: Path) -> None:
    """As a loss of power leaves it, wholly or but for the end."""
    old = directory.with_name("old")
    shutil.copytree(directory, old)
    with RuntimeStore.open(directory, descriptors=STORES) as store:
        write(store, a="three", b=3)
    shutil.copyfile(old / "a.json", directory / "a.json")
    (directory / "b.json").write_bytes((old / "b.json").read_bytes().removesuffix(b"\n"))
    report = rebuild(directory)
    assert outcomes(report) == {A: "from_database", B: "from_database", C: "from_file"}
    assert "an earlier" not in str(report.lost)
    assert read_all(directory) == {A: "three", B: 3, C: [2]}
    assert not (directory / "quarantine").exists()


def test_an_edit_is_taken_all_the_same(directory: Path) -> None:
    """No row knows it."""
    path = directory / "a.json"
    path.write_bytes(path.read_bytes().replace(b"two", b"by hand"))
    report = rebuild(directory)
    assert outcomes(report) == dict.fromkeys((A, B, C), "from_file")
    with RuntimeStore.open(directory) as store:
        assert store.read(A).data == "by hand"


@pytest.mark.parametrize("is_edit", [False, True])
def test_the_file_of_a_deleted_store_that_is_back(directory: Path, *, is_edit: bool) -> None:
    """Ours is removed again; somebody's own data is taken, as everywhere in a rebuild."""
    content = (directory / "a.json").read_bytes()
    with RuntimeStore.open(directory, descriptors=STORES) as store:
        write(store, a=DELETED, b=3)
    (directory / "a.json").write_bytes(content.replace(b"two", b"own") if is_edit else content)
    report = rebuild(directory)
    assert outcomes(report)[A] == ("from_file" if is_edit else "deleted")
    if is_edit:
        with RuntimeStore.open(directory) as store:
            assert store.read(A).data == "own"
        return
    assert read_all(directory) == {B: 3, C: [2]}
    assert not (directory / "a.json").exists()


def test_a_deleted_store_without_a_file(directory: Path) -> None:
    """It is missing, as before."""
    with RuntimeStore.open(directory, descriptors=STORES) as store:
        write(store, a=DELETED)
    assert outcomes(rebuild(directory))[A] == "missing"
    assert read_all(directory) == {B: 2, C: [2]}


def test_an_entry_that_somebody_took_away(directory: Path) -> None:
    """Its store is known by its last batch."""
    content = (directory / "a.json").read_bytes()
    with RuntimeStore.open(directory, descriptors=STORES) as store:
        write(store, a="three")
    (directory / "a.json").write_bytes(content)
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        raw.execute("DELETE FROM manifest_entries WHERE schema_name = ?", (A,))
    assert outcomes(rebuild(directory))[A] == "from_database"
    assert read_all(directory) == {A: "three", B: 2, C: [2]}


def test_a_high_watermark_at_the_end_of_64_bits(directory: Path) -> None:
    """A number that nothing counts to leaves no room for the next batch: the rebuild counts the
    batches that are on record, and the store can be written to again."""
    with closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None)) as raw:
        for table in ("runtime_manifest", "write_batches"):
            raw.execute(f"UPDATE {table} SET high_watermark = {2**63 - 1} WHERE high_watermark = 2")
    assert rebuild(directory).high_watermark == 3
    with RuntimeStore.open(directory) as store:
        write(store, a="three")
        assert store.manifest().high_watermark == 4
