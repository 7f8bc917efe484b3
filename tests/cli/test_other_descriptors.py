"""Descriptors that are not those of last time: fewer stores, or other files. What the commands say
of it is true, and what they advise helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtstore import Descriptor, RuntimeStore, StoreFileChangedError
from tests.cli.commands import run
from tests.support import CHECKPOINT, IDENTITY, write

ONE, TWO = Descriptor("own.one"), Descriptor("own.two")

MODULE = """
from rtstore import Descriptor
ONE, TWO = Descriptor("own.one"), Descriptor("own.two")
BOTH = [ONE, TWO]
FEWER = [ONE]
MOVED = [Descriptor("own.one", relative_path="sub/1.json"), TWO]
NEWER = [Descriptor("own.one", schema_version=2), TWO]
UPGRADES = [Descriptor("own.one", schema_version=2, upgrades={1: lambda data: [data]}), TWO]
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory with two stores, and a module of descriptors for it."""
    (tmp_path / "others.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with RuntimeStore.open(tmp_path / "team", team_name="t", descriptors=[ONE, TWO]) as store:
        store.write_batch(identity=IDENTITY, reason=CHECKPOINT, writes={ONE: "one", TWO: "two"})
    return tmp_path / "team"


def edit(path: Path, before: str, after: str) -> None:
    """Change a file by hand."""
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_upgrade_names_the_stores_that_leave_every_plan(
    directory: Path, *, dry_run: bool
) -> None:
    """As opening in Python does: it has the directory remember these descriptors."""
    options = ["--dry-run"] if dry_run else []
    said = run("upgrade", directory, "--descriptors", "others:FEWER", *options).out
    assert "Committed, and named by none of these descriptors: own.two. No plan" in said
    found = run("upgrade", directory, "--descriptors", "others:FEWER", "--json", *options).json()
    assert found["unregistered"] == ["own.two"]
    again = run("upgrade", directory, "--descriptors", "others:BOTH", "--json").json()
    assert again["unregistered"] == []
    assert run("upgrade", directory, "--json").json()["unregistered"] == []


def test_an_edited_file_of_a_store_that_no_plan_has(directory: Path) -> None:
    """Who looks at the store is not sent to a plan, which says nothing of it, but to its
    descriptor. With that the file is decided upon."""
    RuntimeStore.open(directory, descriptors=[ONE]).close()
    edit(directory / "own.two.json", "two", "edited")
    said = run("show", directory, "own.two")
    assert json.loads(said.out) == "two"
    assert "rtstore plan" not in said.err
    assert "open the directory with that, too" in said.err
    for read_only, what in ((True, "remembers no descriptor"), (False, "rtstore plan")):
        with (
            RuntimeStore.open(directory, descriptors=[ONE, TWO], read_only=read_only) as store,
            pytest.raises(StoreFileChangedError, match=what) as told,
        ):
            store.read(TWO)
        assert told.value.registered is not read_only
    assert "rtstore adopt" in run("plan", directory).out
    with RuntimeStore.open(directory, foreign_edits="adopt") as store:
        assert store.read(TWO).data == "edited"
        assert write(store, TWO.schema_name, "on")
