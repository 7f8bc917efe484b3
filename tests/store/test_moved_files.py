"""Descriptors that give a store the file of another one: refused when they are opened, or sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtstore import DELETED, Descriptor, InvalidRequestError, RuntimeStore
from rtstore.maintenance.doctor.gather import examine
from rtstore.model.runs import StartKind
from rtstore.testing import crash_at
from tests.cli.commands import run
from tests.support import CHECKPOINT, IDENTITY, files_picture, write

ONE, TWO = Descriptor("team.one", relative_path="1.json"), Descriptor(
    "team.two", relative_path="2.json"
)  # fmt: skip


def at(path: str, descriptor: Descriptor) -> Descriptor:
    """The same store in another file."""
    return Descriptor(descriptor.schema_name, relative_path=path)


SWAPPED = [at("2.json", ONE), at("1.json", TWO)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which both stores were written."""
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[ONE, TWO]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={ONE: "one", TWO: "two"})
    return tmp_path / "team"


@contextmanager
def refused(directory: Path, name: str, path: str, owner: str) -> Iterator[None]:
    """The block is refused: that store may not have the file of the other. Nothing is changed."""
    before = files_picture(directory)
    with pytest.raises(InvalidRequestError) as caught:
        yield
    assert (caught.value.field, caught.value.store) == ("descriptors", name)
    assert f"the file {path} is that of store {owner}, until {owner} is" in str(caught.value)
    assert files_picture(directory) == before
    with RuntimeStore.open(directory, read_only=True) as store:
        assert {item.relative_path for item in store.descriptors} == {ONE.relative_path, "2.json"}


@pytest.mark.parametrize("recover", [True, False])
def test_two_stores_do_not_swap_their_files(directory: Path, *, recover: bool) -> None:
    """Neither could ever be written there. By a third file they do, as the error says."""
    with refused(directory, "team.one", "2.json", "team.two"):
        RuntimeStore.open(directory, descriptors=SWAPPED, recover=recover)
    steps = ([at("3.json", TWO)], [SWAPPED[0], at("3.json", TWO)], SWAPPED)
    for number, descriptors in enumerate(steps):
        with RuntimeStore.open(directory, descriptors=descriptors) as store:
            for descriptor in descriptors:
                write(store, descriptor.schema_name, number)
    with RuntimeStore.open(directory) as store:
        assert store.check_readiness().ok
        entries = {item.schema_name: item.relative_path for item in store.manifest().entries}
        assert entries == {"team.one": "2.json", "team.two": "1.json"}
        assert [store.read(name).data for name in entries] == [2, 2]


def test_nor_does_a_deleted_store_with_a_living_one(directory: Path) -> None:
    """The living one is written to its new file first; or deleted, too."""
    with RuntimeStore.open(directory) as store:
        write(store, ONE.schema_name, DELETED)
    with refused(directory, "team.one", "2.json", "team.two"):
        RuntimeStore.open(directory, descriptors=SWAPPED)
    with RuntimeStore.open(directory, descriptors=SWAPPED[1:]) as store:
        write(store, TWO.schema_name, "moved")
    with RuntimeStore.open(directory, descriptors=SWAPPED) as store:
        write(store, ONE.schema_name, "anew")
        assert [store.read(name).data for name in (ONE.schema_name, TWO.schema_name)] == [
            "anew",
            "moved",
        ]


def test_deleted_stores_swap_as_they_like(directory: Path) -> None:
    """Their files are nobody's."""
    with RuntimeStore.open(directory) as store:
        store.write_batch(
            identity=IDENTITY, reason=CHECKPOINT, writes=dict.fromkeys((ONE, TWO), DELETED)
        )
    with RuntimeStore.open(directory, descriptors=SWAPPED) as store:
        write(store, ONE.schema_name, "anew")
        write(store, TWO.schema_name, "anew")


def test_a_file_that_an_open_batch_writes_is_taken_too(tmp_path: Path) -> None:
    """Opening completes the batch: then the store of the batch has the file."""
    directory, other = tmp_path / "team", Descriptor("team.other", relative_path="1.json")
    RuntimeStore.open(directory, team_name="t", descriptors=[ONE, TWO]).close()
    with crash_at("after-log"), RuntimeStore.open(directory) as store:
        write(store, ONE.schema_name, "one")
    with refused(directory, "team.other", "1.json", "team.one"):
        RuntimeStore.open(directory, descriptors=[other])
    with crash_at("after-log"), RuntimeStore.open(directory) as store:
        write(store, ONE.schema_name, DELETED)
    with RuntimeStore.open(directory, descriptors=[other]) as store:
        write(store, other.schema_name, "other")
        assert store.check_readiness().ok


def test_who_only_looks_may_look_anyhow(directory: Path) -> None:
    """Nothing is remembered of the descriptors."""
    with RuntimeStore.open(directory, descriptors=SWAPPED, read_only=True) as store:
        assert len(store.manifest().entries) == 2
    with RuntimeStore.open(directory) as store:
        assert [item.relative_path for item in store.descriptors] == ["1.json", "2.json"]


def test_a_store_whose_file_was_taken_since_is_not_called_ready(tmp_path: Path) -> None:
    """By a process that has the deleted store's descriptor still. Readiness, a start, status and
    the doctor say what keeps the other from being written; with the file given up it is ready."""
    directory, other = tmp_path / "team", at("1.json", Descriptor("team.other"))
    with RuntimeStore.open(directory, team_name="t", descriptors=[ONE]) as old:
        write(old, ONE.schema_name, "one")
        write(old, ONE.schema_name, DELETED)
        with RuntimeStore.open(directory, descriptors=[other]) as store:
            write(old, ONE.schema_name, "again")
            problem = "team.other cannot be written: the file 1.json is that of store team.one"
            check = store.check_readiness()
            assert (check.ok, problem in check.diagnostics) == (False, True)
            begun = store.start_state(IDENTITY.run_id)
            assert (begun.kind, begun.why) == (StartKind.REFUSE, problem)
            with pytest.raises(InvalidRequestError, match=r"1\.json is that of store team\.one"):
                write(store, other.schema_name, "other")
    status = run("status", directory, "--json").json()
    assert status["verdict"] == "blocked"
    assert any("and write team.one there or delete it" in step["why"] for step in status["next"])
    assert any(item.schema_name == "team.other" for item in examine(directory).hindrances)
    with RuntimeStore.open(directory, descriptors=[ONE]) as store:
        write(store, ONE.schema_name, DELETED)
    with RuntimeStore.open(directory, descriptors=[other]) as store:
        write(store, other.schema_name, "other")
        assert store.check_readiness().ok
