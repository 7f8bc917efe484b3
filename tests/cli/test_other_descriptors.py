"""Descriptors that are not those of last time: fewer stores, or other files. What the commands say
of it is true, and what they advise helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtstore import DataUpgradeError, Descriptor, RuntimeStore, StoreFileChangedError
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


def moved(directory: Path) -> None:
    """Give the first store a file in a folder, as another program does, and take it back."""
    there = Descriptor("own.one", relative_path="sub/deep/1.json")
    with RuntimeStore.open(directory, descriptors=[there, TWO]) as store:
        write(store, "own.one", "the newest")


def apart(directory: Path) -> None:
    """Put a store file into each folder that is no folder of stores."""
    content = (directory / "own.two.json").read_bytes()
    others = ["lanes/one", "quarantine", "backup", "legacy", ".hidden", "runtime-store.broken-1"]
    for name in others:
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "apart.json").write_bytes(content)
    (directory / "lanes" / "apart.json").write_bytes(content)
    (directory / "backup" / "runtime-store.sqlite3").touch()
    (directory / "legacy" / "manifest.json").write_text("{}")
    (directory / "sub" / "no-store.json").write_text("[]")
    (directory / "linked").symlink_to(directory / "sub")


def test_the_doctor_names_an_old_file_in_a_folder(directory: Path) -> None:
    """It is stray, as one in the directory itself; what is in folders that are none of stores is
    not."""
    moved(directory)
    with RuntimeStore.open(directory, descriptors=[ONE, TWO]) as store:
        write(store, "own.one", "back")
    apart(directory)
    (line,) = (it for it in run("doctor", directory).out.splitlines() if "stray files" in it)
    assert line.endswith("not of any store that this directory knows: sub/deep/1.json")


def test_a_rebuild_names_the_newer_file_in_a_folder(directory: Path) -> None:
    """It takes the file that the descriptors name, and does not keep to itself that there is one
    that none of them names."""
    moved(directory)
    apart(directory)
    for path in directory.glob("runtime-store.sqlite3*"):
        path.unlink()
    words = ["--team", "t", "--run-id", "run-1", "--descriptors", "others:BOTH"]
    said = run("rebuild", directory, *words)
    assert "no descriptor is known for sub/deep/1.json:" in said.out
    assert (
        "not of any store that this directory knows: sub/deep/1.json"
        in run("doctor", directory).out
    )


def findings(directory: Path, name: str, check: str = "stores") -> list[tuple[str, str, list[str]]]:
    """What the doctor finds with these descriptors: level, sentence and commands."""
    found = run("doctor", directory, "--descriptors", f"others:{name}", "--json").json()
    return [
        (item["level"], item["sentence"], [way["command"] for way in item["ways"]])
        for item in found["findings"]
        if item["check"] == check
    ]


@pytest.mark.parametrize("in_the_way", [False, True])
def test_the_doctor_tells_that_descriptors_move_a_store(
    directory: Path, *, in_the_way: bool
) -> None:
    """No file is missing, and no recovery makes it: opening does. Until then the store is looked at
    where it is."""
    if in_the_way:
        (directory / "sub").mkdir()
        (directory / "sub" / "1.json").write_bytes((directory / "own.two.json").read_bytes())
    (told, looked) = sorted(findings(directory, "MOVED"), reverse=True)
    moves = "opening with these descriptors moves own.one from own.one.json to sub/1.json"
    assert told == ("yellow", moves, [])
    assert looked[:2] == ("green", "every store file is what is committed: ready")
    strays = [sentence for _, sentence, _ in findings(directory, "MOVED", "stray_files")]
    assert not any("own.one.json" in sentence for sentence in strays)
    edit(directory / "own.one.json", "one", "edited")
    (_, (level, _, commands)) = sorted(findings(directory, "MOVED"), reverse=True)
    assert level == "red"
    assert f"rtstore recover {directory.name}" in commands
    assert run("recover", directory).code == 0
    assert [level for level, *_ in findings(directory, "MOVED")] == ["yellow", "green"]
    with RuntimeStore.open(
        directory, descriptors=[Descriptor("own.one", relative_path="sub/1.json"), TWO]
    ) as store:
        assert store.read("own.one").data == "one"
    assert [level for level, *_ in findings(directory, "MOVED")] == ["green"]


def test_the_doctor_tells_that_opening_is_refused(directory: Path) -> None:
    """What is committed cannot be brought up to the version of a descriptor: that is red, as
    opening raises it. Where it can, all is well."""
    assert [level for level, *_ in findings(directory, "UPGRADES")] == ["green"]
    (_, refused) = sorted(findings(directory, "NEWER"))
    assert refused[0] == "red"
    assert run("doctor", directory, "--descriptors", "others:NEWER").code == 1
    newer = [Descriptor("own.one", schema_version=2), TWO]
    with pytest.raises(DataUpgradeError) as told:
        RuntimeStore.open(directory, descriptors=newer)
    assert str(told.value) in refused[1]


@pytest.mark.parametrize("edited", [False, True])
def test_a_quarantined_file_of_a_store_that_has_another_file_now(
    directory: Path, *, edited: bool
) -> None:
    """It is put back where the store is, so that it can be adopted, as the difference says. What is
    there is kept, and the old file, which another store may have by now, stays as it is."""
    edit(directory / "own.one.json", "one", "by hand")
    assert run("recover", directory).code == 0
    there = Descriptor("own.one", relative_path="sub/1.json")
    with RuntimeStore.open(directory, descriptors=[there, TWO]) as store:
        write(store, "own.one", "the newest")
    taker = Descriptor("own.two", relative_path="own.one.json")
    with RuntimeStore.open(directory, descriptors=[there, taker]) as store:
        write(store, "own.two", "taken")
    if edited:
        edit(directory / "sub" / "1.json", "the newest", "another edit")
    before = (directory / "own.one.json").read_bytes()
    said = run("quarantine", "diff", directory, "1").out
    assert "the newest" in said
    assert "by hand" in said
    said = run("quarantine", "restore", directory, "1").out
    assert "sub/1.json" in said
    assert "rtstore adopt" in said
    assert (directory / "own.one.json").read_bytes() == before
    assert run("adopt", directory, "own.one").code == 0
    with RuntimeStore.open(directory) as store:
        assert (store.read("own.one").data, store.read("own.two").data) == ("by hand", "taken")
        kept = [(directory / it.quarantine_path).read_text() for it in store.quarantined_files()]
        assert any("another edit" in text for text in kept) is edited


@pytest.mark.parametrize("there", [None, "somebody's"], ids=["", "beside a file"])
def test_an_upgrade_tells_what_it_moves(directory: Path, there: str | None) -> None:
    """Its dry run, too; and only what changed something says so."""
    if there:
        (directory / "sub").mkdir()
        (directory / "sub" / "1.json").write_text(json.dumps({"schemaVersion": 1, "data": there}))
    options = ("upgrade", directory, "--descriptors", "others:MOVED")
    moved = [{"schemaName": "own.one", "fromPath": "own.one.json", "toPath": "sub/1.json"}]
    quarantined = ["sub/1.json"] if there else []
    said = run(*options, "--dry-run").out
    assert "1 store would get another file" in said
    assert "left as it was" not in said
    assert "does it" in said
    assert ("would go to quarantine" in said) == bool(there)
    for dry_run in (True, False):
        found = run(*options, "--json", *(["--dry-run"] if dry_run else [])).json()
        assert (found["moved"], found["quarantined"]) == (moved, quarantined)
        assert found["changed"] == (not dry_run)
    again = run(*options, "--json").json()
    assert (again["moved"], again["quarantined"], again["changed"]) == ([], [], False)
    said = run("upgrade", directory, "--descriptors", "others:BOTH").out
    assert "1 store got another file" in said
    assert "left as it was" not in said
    assert run("upgrade", directory, "--descriptors", "others:FEWER", "--json").json()["changed"]
