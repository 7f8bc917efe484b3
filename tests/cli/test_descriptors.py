"""`--descriptors MODULE:NAME`: the commands know the stores of a runtime."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from rtstore import KNOWN_DESCRIPTORS, RuntimeStore
from rtstore.cli.exits import ExitCode
from tests.cli.commands import run, run_process
from tests.legacy.build import copy
from tests.support import TEAM, agree, open_store, picture, plain_descriptor, write

MODULE = """
from rtstore import Criticality, Descriptor, KNOWN_DESCRIPTORS, Owner, RebuildStrategy, Registry
print("the module was imported")

def own(name, path):
    return Descriptor(
        schema_name=name,
        schema_version=1,
        relative_path=path,
        criticality=Criticality.READINESS_BLOCKING,
        owner=Owner.E2E,
        rebuild_strategy=RebuildStrategy.NONE,
    )

NOTES, DEEP = own("own.notes", "notes.json"), own("own.deep", "own/deep.json")
LIST = [NOTES, DEEP]
REGISTRY = Registry(LIST)
class Holder:
    STORES = (NOTES, DEEP)
def function():
    return iter(LIST)
TWICE = [NOTES, NOTES]
MIXED = [NOTES, "own.deep"]
EMPTY = ()
NUMBER = 7
def failing():
    raise RuntimeError("no network")
def wanting(argument):
    return LIST
async def later():
    return LIST
def leaving():
    raise SystemExit(3)
def endless():
    yield NOTES
    raise OSError("the list is cut off")
RENAMED = [
    item.model_copy(update={"relative_path": "elsewhere.json"})
    if item.schema_name == "opencode.hostLeases"
    else item
    for item in KNOWN_DESCRIPTORS
]
"""
_numbers = count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of a runtime in the current directory."""
    name = f"runtime_of_test_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import json\n1 / 0\n")
    (tmp_path / f"{name}_needing.py").write_text("import nothing_of_that_name\n")
    (tmp_path / f"{name}_odd.py").write_text("def (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python's own files beside the module
    importlib.invalidate_caches()
    yield name
    for known in [known for known in sys.modules if known.startswith(name)]:
        del sys.modules[known]


@pytest.mark.parametrize("attribute", ["LIST", "REGISTRY", "Holder.STORES", "function"])
def test_whatever_gives_descriptors(tmp_path: Path, module: str, attribute: str) -> None:
    """A list, a registry, an attribute of a class, a function; what the module prints is not in the
    document."""
    done = run("init", "made", "--team", TEAM, "--descriptors", f"{module}:{attribute}", "--json")
    assert (done.code, done.err) == (0, "the module was imported\n")
    assert done.json()["stores"] == ["own.notes", "own.deep"]
    again = run("init", "made", "--team", TEAM, "--descriptors", f"{module}:TWICE")
    assert again.code == ExitCode.WRONG_CALL
    again = run("init", "made", "--team", TEAM, "--descriptors", "tests.cli.test_descriptors:MORE")
    assert (again.code, "2 stores known" in again.out) == (0, True), again
    with RuntimeStore.open(tmp_path / "made") as store:
        assert store.descriptors.names == ("own.notes", "own.deep")


MORE = [*KNOWN_DESCRIPTORS, plain_descriptor("own.notes", "notes.json")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "'' is not MODULE:NAME"),
        ("{}", "is not MODULE:NAME, as in my_runtime.stores:DESCRIPTORS"),
        ("{}:", "is not MODULE:NAME"),
        (":LIST", "is not MODULE:NAME"),
        ("{}:LIST:LIST", "is not MODULE:NAME"),
        ("{}.py:LIST", "there is no module '{}.py'"),
        (
            "nowhere_at_all.stores:LIST",
            "there is no module 'nowhere_at_all' (looked for in ",
        ),
        ("{}:NOTHING", "module {} has no NOTHING"),
        ("{}:LIST.NOTHING", "module {} has no LIST.NOTHING"),
        ("{}:NUMBER", "{}:NUMBER: must be several: a list of Descriptor"),
        ("{}:NOTES", "{}:NOTES: must be several: a list of Descriptor"),
        ("{}:MIXED", "{}:MIXED: must be a list of Descriptor; one is 'own.deep'"),
        ("{}:TWICE", "(own.notes): {}:TWICE: registered twice"),
        ("{}:EMPTY", "{}:EMPTY is empty: it names no store"),
        ("{}:wanting", "{}:wanting is called without arguments, and needs argument: name a list"),
        ("{}:failing", "{}:failing is called without arguments, and failed: RuntimeError: no net"),
        ("{}:later", "{}:later is a coroutine function"),
        ("{}:leaving", "SystemExit: 3"),
        ("{}:endless", "{}:endless cannot be listed: OSError: the list is cut off"),
        ("{}_broken:LIST", "module {}_broken cannot be imported: ZeroDivisionError: division by"),
        ("{}_broken:LIST", "{}_broken.py, line 2)"),
        ("{}_needing:LIST", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("{}_odd:LIST", "module {}_odd cannot be imported: SyntaxError"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, module: str, given: str, words: str) -> None:
    """In one line, with the exit code of a wrong call; nothing is made."""
    before = picture(tmp_path)
    done = run("init", "made", "--team", TEAM, "--descriptors", given.replace("{}", module))
    assert (done.code, done.out) == (ExitCode.WRONG_CALL, "")
    assert "--descriptors" in done.err
    assert words.replace("{}", module) in done.err
    assert "Traceback" not in done.err
    assert picture(tmp_path) == before


def test_every_command_that_takes_it_refuses_a_wrong_one(tmp_path: Path) -> None:
    """Before it touches anything."""
    directory = tmp_path / "team"
    with open_store(directory, descriptors=MORE) as store:
        write(store, "own.notes", "hello")
    before = picture(directory)
    for command in ("import", "rebuild", "upgrade", "doctor"):
        done = run(command, directory, "--descriptors", "nowhere_at_all:X")
        assert (done.code, done.out) == (ExitCode.WRONG_CALL, ""), command
    assert picture(directory) == before


def test_a_database_that_is_gone_is_rebuilt_with_them(tmp_path: Path, module: str) -> None:
    """Without them the commands name the option; with them the doctor prints what can be run as it
    is, and everything comes back. (As a user does it, in processes of their own.)"""
    name = f"{module}:LIST"
    assert run("init", "team", "--team", TEAM, "--descriptors", name).code == 0
    with RuntimeStore.open("team") as store:
        for own in store.descriptors.names:
            write(store, own, {"of": own})
    for path in (tmp_path / "team").glob("runtime-store*"):
        path.unlink()
    for refused in (run("rebuild", "team", "--team", TEAM), run("doctor", "team")):
        command = f"rtstore rebuild team --team {TEAM if refused.err else 'NAME'}"
        assert f"{command} --descriptors MODULE:NAME" in refused.out + refused.err, refused
        assert "notes.json" in refused.out + refused.err

    advice = run("doctor", "team", "--descriptors", name)
    found = re.search(
        r"rtstore (rebuild team --team) NAME (--descriptors \S+)$", advice.out, re.MULTILINE
    )
    assert found, advice
    done = run_process(*found[1].split(), TEAM, *found[2].split())
    assert done.code == 0, done
    with RuntimeStore.open("team") as store:
        assert agree(store)
        assert store.read("own.deep").data == {"of": "own.deep"}


def test_a_legacy_directory_is_imported_with_them(tmp_path: Path, module: str) -> None:
    """Where the runtime has a store under another name than we do, the import says so, and works
    with its descriptors; the doctor knows that, and repeats the option."""
    directory = copy("harbour", tmp_path)

    for path in directory.glob("*.json"):
        path.write_text(path.read_text().replace("opencode-host-leases.json", "elsewhere.json"))
    refused = run("import", directory)
    assert f"rtstore import {directory.name} --descriptors MODULE:NAME" in refused.err, refused
    assert "cannot be taken over as it is" in run("doctor", directory).out
    option = ("--descriptors", f"{module}:RENAMED")
    assert (
        f"rtstore import {directory} {' '.join(option)}\n" in run("doctor", directory, *option).out
    )
    done = run("import", directory, *option)
    assert done.code == 0, done
    with RuntimeStore.open(directory, read_only=True) as store:
        assert store.descriptors.get("opencode.hostLeases").relative_path == "elsewhere.json"
