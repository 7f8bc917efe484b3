"""Rules of the house that a machine can check, written once instead of said in every review."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType

import pytest

import rtstore
from tests.support.earlier_names import EARLIER_NAMES

CHECKOUT = Path(__file__).parents[2]

TOP_LEVEL = {"README.md", "migrations", "pyproject.toml", "rtstore", "tests"}
TOP_LEVEL_OPTIONAL = {"LICENSE", "PKG-INFO", "uv.lock"}  # the second is in packed sources

LINES_PER_MODULE_MAX = 900
LINES_PER_FUNCTION_MAX = 70

LONGER_MODULES: dict[str, str] = {
    "rtstore/errors.py": "every error in one place, sorted by what the caller can do",
    "rtstore/store.py": "one class, open to close, and its runs; most of it is what callers read",
}
"""Modules that may be longer, each with the reason."""

LONGER_FUNCTIONS: dict[str, str] = {}
"""Functions of the package that may be longer, by `file:name`, each with the reason."""

LEFTOVERS = re.compile(
    r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b"
    r"|(?i:\b(?:not implemented|placeholder|for now)\b)"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:home|root|work|tmp|Users|mnt|opt)/[\w.-]+")

LEFTOVERS_ALLOWED: dict[tuple[str, str], str] = {}
MACHINE_PATHS_ALLOWED: dict[tuple[str, str], str] = {}
"""Words and paths that are meant, by file and text, each with the reason."""

TOPICS = (
    "rtstore.directories",
    "rtstore.errors",
    "rtstore.events",
    "rtstore.parts",
    "rtstore.records",
)

THIS_FILE = "tests/house/test_tidy.py"
SKIPPED = ("__pycache__", "build", "dist", "node_modules")


# --- what there is ------------------------------------------------------------------------------


def _git(*arguments: str) -> list[str] | None:
    """The names that git lists, or None where there is no git or no checkout."""
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        return None
    command = ["git", "ls-files", "-z", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def _walk(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name in SKIPPED or path.name.endswith(".egg-info"):
            continue
        if path.is_dir() and (not path.name.startswith(".") or path.name == ".ci"):
            yield from _walk(path)
        elif path.is_file():
            yield path.relative_to(CHECKOUT).as_posix()


@cache
def files() -> tuple[str, ...]:
    """The files that are tracked, or about to be: everything that git does not ignore."""
    listed = _git("--cached", "--others", "--exclude-standard")
    names = list(_walk(CHECKOUT)) if listed is None else listed
    return tuple(sorted(name for name in set(names) if (CHECKOUT / name).is_file()))


@cache
def text_of(name: str) -> str:
    """The text of a file; empty for what is not text."""
    content = (CHECKOUT / name).read_bytes()
    if b"\0" in content:
        return ""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def tree_of(name: str) -> ast.Module:
    """The tree of a module."""
    return ast.parse(text_of(name))


def python_files(*folders: str) -> list[str]:
    """The modules below some folders."""
    return [name for name in files() if name.endswith(".py") and name.startswith(folders)]


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every class and function of a module with its dotted name, nested ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


# --- the rules ----------------------------------------------------------------------------------


def test_top_level_holds_what_it_should() -> None:
    """The top of the repository is a table of contents: five names, dotfiles, nothing else."""
    listed = _git()
    names = {name.split("/")[0] for name in (_walk(CHECKOUT) if listed is None else listed)}
    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL_OPTIONAL == TOP_LEVEL


def test_modules_are_short() -> None:
    """A module that needs a second screen of contents is split by noun."""
    lengths = {name: text_of(name).count("\n") for name in python_files("")}
    long = {name: lines for name, lines in lengths.items() if lines > LINES_PER_MODULE_MAX}
    assert {name: n for name, n in long.items() if name not in LONGER_MODULES} == {}
    assert set(LONGER_MODULES) <= set(long), "an exception that is not needed any more"


def test_functions_are_short() -> None:
    """A function, without its docstring, fits on a screen."""
    long = {}
    for name in python_files("rtstore/"):
        for dotted, node in definitions(tree_of(name)):
            lines = _lines_of_function(node)
            if lines > LINES_PER_FUNCTION_MAX:
                long[f"{name}:{dotted}"] = lines
    assert {name: n for name, n in long.items() if name not in LONGER_FUNCTIONS} == {}
    assert set(LONGER_FUNCTIONS) <= set(long), "an exception that is not needed any more"


def _lines_of_function(node: ast.AST) -> int:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return 0
    lines = _span(node)
    if ast.get_docstring(node, clean=False) is not None:
        lines -= _span(node.body[0])
    return lines


def _span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("name", python_files("rtstore/", "migrations/"))
def test_public_names_have_docstrings(name: str) -> None:
    """Every module, and every public class, function and method, says what it is for."""
    tree = tree_of(name)
    missing = [] if ast.get_docstring(tree) else [name]
    missing += _without_docstring(tree, "")
    assert missing == []


def _without_docstring(tree: ast.AST, prefix: str) -> list[str]:
    missing = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_") or _is_overload(node):
                continue
            if not ast.get_docstring(node):
                missing.append(f"{prefix}{node.name}")
            if isinstance(node, ast.ClassDef):
                missing += _without_docstring(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            missing += _without_docstring(node, prefix)
    return missing


def _is_overload(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is one of several signatures: the function that they are of says what it does."""
    return any(isinstance(item, ast.Name) and item.id == "overload" for item in node.decorator_list)


@pytest.mark.parametrize("name", python_files("tests/"))
def test_tests_say_what_must_hold(name: str) -> None:
    """Every test has a sentence that says what must hold, and so has its module."""
    tree = tree_of(name)
    missing = [
        dotted
        for dotted, node in definitions(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert missing == []
    assert not tree.body or ast.get_docstring(tree), f"{name} has no docstring"


def test_nothing_is_left_over() -> None:
    """What is not finished is not here: no reminders, no stubs."""
    assert _matches(LEFTOVERS, LEFTOVERS_ALLOWED) == []


def test_no_paths_of_one_machine() -> None:
    """Nothing refers to a place that exists on one machine only."""
    assert _matches(MACHINE_PATHS, MACHINE_PATHS_ALLOWED) == []


def _matches(pattern: re.Pattern[str], allowed: dict[tuple[str, str], str]) -> list[str]:
    found = {
        (name, match.group(0))
        for name in files()
        if name != THIS_FILE
        for match in pattern.finditer(text_of(name))
    }
    assert set(allowed) <= found, "an exception that is not needed any more"
    return sorted(f"{name}: {text}" for name, text in found if (name, text) not in allowed)


def test_the_patterns_find_what_they_should() -> None:
    """The two patterns see leftovers and machine paths, and leave ordinary words alone."""
    for text in ("# TODO: later", "raise NotImplementedError", "is not implemented", "Placeholder"):
        assert LEFTOVERS.search(text), text
    for text in ("XXXL", "todo list", "replaced", "implemented"):
        assert not LEFTOVERS.search(text), text
    for text in ("'/home/me/x'", "/tmp/runtime", "at /root/.cache", "(/Users/me)"):
        assert MACHINE_PATHS.search(text), text
    for text in ("~/work/x", "../tmp/x", "a/home/b", "/usr/bin/env", "teams/tmp/a"):
        assert not MACHINE_PATHS.search(text), text


def test_text_files_are_clean() -> None:
    """Text ends with one newline, and no line carries blanks at its end or a carriage return."""
    unclean = []
    for name in files():
        text = text_of(name)
        if text and not name.endswith((".json", ".txt", ".ambr", ".sql")):
            clean = text.endswith("\n") and not text.endswith("\n\n") and "\r" not in text
            if not clean or re.search(r"[ \t]+$", text, re.MULTILINE):
                unclean.append(name)
    assert unclean == []


# --- the front door -----------------------------------------------------------------------------


def test_front_door_is_complete() -> None:
    """Type checkers see the public names as imports "as" themselves; when one is used, it is
    imported from the same module. `from rtstore import *` imports all of them."""
    tree = ast.parse(text_of("rtstore/__init__.py"))
    seen = {
        (node.module, alias.asname or alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rtstore.")
        for alias in node.names
        if node.module != "rtstore.forks"  # it is used there, and not offered
    }
    used = {(module, name) for module, names in rtstore._HOMES.items() for name in names}
    assert seen == used | {(module, "*") for module in rtstore._EARLIER}
    assert sorted(vars(rtstore)["__all__"]) == sorted([*(name for _, name in used), "__version__"])


def test_front_door_shows_what_a_runtime_needs() -> None:
    """`dir(rtstore)` has the public names and nothing else, and they are few, whatever was imported
    before."""
    assert dir(rtstore) == sorted(vars(rtstore)["__all__"])
    assert len(dir(rtstore)) <= 45


@pytest.mark.parametrize("name", rtstore._NAMES)
def test_front_door_opens(name: str) -> None:
    """Every public name is there, and says what it is for where Python lets it."""
    found = getattr(rtstore, name)
    if isinstance(found, type | FunctionType):
        assert found.__doc__


@pytest.mark.parametrize("topic", TOPICS)
def test_modules_by_topic_are_complete(topic: str) -> None:
    """A module by topic offers each of its names, has a line in the docstring of the package, and
    what it shares with the front door is the same thing."""
    module = importlib.import_module(topic)
    offered = {name: found for name, found in vars(module).items() if not name.startswith("_")}
    if topic != "rtstore.errors":  # the others define nothing, and say what they offer
        offered = {name: getattr(module, name) for name in module.__all__}
    for name in offered.keys() & set(rtstore._NAMES):
        assert offered[name] is getattr(rtstore, name)
    assert f"    {topic} " in (rtstore.__doc__ or "")
    assert set(rtstore._EARLIER[topic]) <= set(offered)


def test_earlier_imports_stay() -> None:
    """Whatever `from rtstore import ...` once offered is there, without a warning, and no name of
    the front door is among what it only keeps for that."""
    kept = {name for names in rtstore._EARLIER.values() for name in names}
    assert set(EARLIER_NAMES) <= kept | set(rtstore._NAMES)
    assert not kept & set(rtstore._NAMES)
    for name in EARLIER_NAMES:
        assert getattr(rtstore, name) is not None


def test_every_module_can_be_imported() -> None:
    """No module depends on another having been imported before it."""
    for name in python_files("rtstore/"):
        if not name.endswith("__main__.py"):
            dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            assert importlib.import_module(dotted).__doc__


def test_types_are_shipped() -> None:
    """`py.typed` tells type checkers that the package carries its types."""
    assert (CHECKOUT / "rtstore" / "py.typed").is_file()
