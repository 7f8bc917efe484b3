"""The layers of the package: which module may import which, and what the pure ones may touch.

The rules are held against the text of the modules, so an import inside a function or under
`TYPE_CHECKING` counts like any other. Each rule has a control: the package with a forbidden line,
and the finding that must come of it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house import figures
from tests.support.layers import (
    AMBIENT_TIME,
    CHECKOUT,
    PURE_EXCEPTIONS,
    RULES,
    SQL_EXCEPTIONS,
    Module,
    Package,
    findings,
    run_sql,
)

# --- the package as it is -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Package], Iterator[str]]) -> None:
    """The package keeps to the rule."""
    assert list(rule(Package(CHECKOUT))) == []


def test_revisions_import_nothing_of_the_package() -> None:
    """The past is frozen: a revision imports alembic and the standard library, nothing of ours."""
    versions = sorted((CHECKOUT / "migrations" / "versions").glob("*.py"))
    assert versions
    for path in versions:
        module = Module(path.relative_to(CHECKOUT).as_posix(), path.read_text(encoding="utf-8"))
        outside = {source.split(".")[0] for source, _, _ in module.imports}
        allowed = {"alembic", "sqlalchemy", *sys.stdlib_module_names}
        assert outside <= allowed, f"{path.name} imports {sorted(outside - allowed)}"


def test_the_exceptions_are_needed() -> None:
    """Every exception in the tables still stands for something in the code."""
    package = Package(CHECKOUT)
    imports = {
        (module.name, source.split(".")[0])
        for module in package.modules.values()
        for source, _, _ in module.imports
    }
    assert set(PURE_EXCEPTIONS) <= imports
    assert set(AMBIENT_TIME) <= set(package.modules)
    run = {
        (module.path, ast.unparse(sql))
        for module in package.modules.values()
        for _, sql in run_sql(module)
    }
    assert set(SQL_EXCEPTIONS) <= run


def test_the_figures_are_counted(tmp_path: Path) -> None:
    """`python -m tests.house.figures` counts rooms and calls; no import points upward."""
    imports = figures.of_imports(CHECKOUT)
    assert imports["upwardImports"] == imports["circles"] == 0
    assert 1 < imports["floors"] <= imports["rooms"] < imports["modules"]
    calls = figures.of_calls(tmp_path)
    assert calls.keys() == {"open", "write_batch", "update", "recover"}
    for counted in calls.values():
        assert 1 < counted["rooms"] <= counted["modules"]
        assert counted["calls"] > counted["betweenModules"] >= counted["betweenRooms"] > 0


# --- controls: each rule finds what breaks it -----------------------------------------------------

BROKEN = [
    ("rtstore/surprise.py", '"""New."""', "rtstore.surprise has no place in LAYERS"),
    ("rtstore/model/records.py", "from rtstore.files import durable", "from a layer above it"),
    ("rtstore/model/decide.py", "import rtstore.control.sqlite.engine", "from a layer above it"),
    ("rtstore/model/decide.py", "from rtstore.files import durable", "from a layer above it"),
    (
        "rtstore/control/sqlite/engine.py",
        "from rtstore.commit.writer import BatchWriter",
        "from a layer above",
    ),
    (
        "rtstore/control/sqlite/engine.py",
        "from ...commit.writer import BatchWriter",
        "from a layer above it",
    ),
    ("rtstore/files/durable.py", "from rtstore import store", "from a layer above it"),
    (
        "rtstore/control/lock.py",
        "from rtstore import RuntimeStore",
        "imports rtstore from a layer above",
    ),
    ("rtstore/store.py", "from rtstore.cli import main", "imports rtstore.cli from a layer above"),
    (
        "rtstore/model/decide.py",
        "def later():\n    from rtstore.store import RuntimeStore\n    return RuntimeStore",
        "imports rtstore.store from a layer above it",
    ),
    (
        "rtstore/model/decide.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from rtstore.control.lock import WriterLock",
        "imports rtstore.control.lock from a layer above it",
    ),
    ("rtstore/model/times.py", "from rtstore.model.records import Record", "a circle of imports"),
    (
        "rtstore/commit/publisher.py",
        "from rtstore.commit.writer import BatchWriter",
        "a circle of imports",
    ),
    ("rtstore/model/decide.py", "import sqlalchemy", "is pure, but imports sqlalchemy"),
    ("rtstore/model/decide.py", "import sqlite3", "is pure, but imports sqlite3"),
    ("rtstore/model/readiness.py", "import os.path", "is pure, but imports os"),
    ("rtstore/model/invariants.py", "from pathlib import Path", "is pure, but imports pathlib"),
    ("rtstore/model/envelope.py", "import socket", "is pure, but imports socket"),
    ("rtstore/model/payloads.py", "import subprocess", "is pure, but imports subprocess"),
    ("rtstore/model/records.py", "import random", "is pure, but imports random"),
    ("rtstore/model/ids.py", "import os", "is pure, but imports os"),
    ("rtstore/model/decide.py", "NAMES = open('names')", "calls open()"),
    ("rtstore/errors.py", "HERE = Path('x').exists()", "calls exists() of a path"),
    ("rtstore/model/decide.py", "NOW = datetime.now()", "asks what time it is: datetime.now()"),
    ("rtstore/commit/writer.py", "import sqlite3", "imports sqlite3, which belongs to"),
    ("rtstore/store.py", "import typer", "imports typer, which belongs to rtstore.cli"),
    (
        "rtstore/control/sqlite/engine.py",
        "import alembic.command",
        "imports alembic, which belongs to",
    ),
    ("rtstore/commit/writer.py", "from sqlalchemy import text", "imports text from sqlalchemy"),
    ("rtstore/store.py", "from importlib import import_module", "a name that no test can see"),
    ("rtstore/store.py", "os = __import__('os')", "a name that no test can see"),
    (
        "rtstore/recovery/execute.py",
        "def gone(path):\n    path.unlink()",
        "changes files past the seam",
    ),
    (
        "rtstore/commit/publisher.py",
        "def put(a, b):\n    os.replace(a, b)",
        "files past the seam",
    ),
    ("rtstore/legacy/rows.py", "def put(a):\n    open(a, 'w')", "changes files past the seam"),
    (
        "rtstore/maintenance/backup/making.py",
        "shutil.copytree('a', 'b')",
        "changes files past the seam",
    ),
    (
        "rtstore/history/reader.py",
        "def q(c, n):\n    c.execute(f'SELECT {n}')",
        "puts SQL together",
    ),
    (
        "rtstore/history/reader.py",
        "def q(c, n):\n    c.exec_driver_sql('SELECT %s' % n)",
        "puts SQL",
    ),
    ("rtstore/history/reader.py", "def q(c, n):\n    c.execute('SELECT {}'.format(n))", "puts SQL"),
    (
        "rtstore/history/reader.py",
        "def q(c, n):\n    c.execute('SELECT ' + n)",
        "puts SQL together",
    ),
    (
        "rtstore/history/reader.py",
        "def q(c, n):\n    s = f'SELECT {n}'\n    c.execute(s)",
        "puts SQL",
    ),
    ("rtstore/control/batches.py", "def q(n):\n    return text(f'{n} = 1')", "puts SQL together"),
    (
        "rtstore/control/sqlite/engine.py",
        "def q(c, n):\n    c.execute(f'PRAGMA {n} = 1')",
        "puts SQL",
    ),
    (
        "rtstore/history/reader.py",
        "def later():\n    import ctypes",
        "imports where a fork may cut it",
    ),
    (
        "rtstore/store.py",
        "async def later():\n    with lock:\n        from rtstore.model.events import Event",
        "imports where a fork may cut it in two",
    ),
]


@pytest.mark.parametrize(("file", "line", "expected"), BROKEN)
def test_rule_finds_what_breaks_it(file: str, line: str, expected: str) -> None:
    """A line that breaks a rule, written into a module, is found in that file."""
    found = list(findings(Package(CHECKOUT, {file: line})))
    assert any(expected in finding for finding in found), found


def test_a_place_without_a_module_is_found() -> None:
    """A module that goes must be taken out of the table of layers."""
    package = Package(CHECKOUT)
    del package.modules["rtstore.forks"]
    said = "rtstore.forks is in LAYERS, but there is no such module"
    assert said in set(findings(package))
