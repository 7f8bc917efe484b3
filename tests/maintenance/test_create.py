"""Opening a store is cheap: what it loads, what it asks, what it reads, counted and not timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rtstore import KNOWN_DESCRIPTORS, FileSystem, RuntimeStore
from rtstore.testing import Seams
from tests.benchmarks.documents import IDENTITY, TEAM, Documents, open_store, write
from tests.support import CHECKOUT
from tests.support.query_trace import traced

FACADE = "from rtstore import RuntimeStore, RunIdentity"
USE = """
with RuntimeStore.open(sys.argv[1]) as store:
    store.write_batch(
        identity=RunIdentity(run_id="run-2"),
        reason="launch_checkpoint",
        writes={"opencode.hostLeases": {"leases": []}},
    )
    store.read("opencode.hostLeases")
    store.check_readiness()
"""
RARE = (
    *("alembic", "mako", "rich", "typer", "click"),
    *(
        "rtstore.aio.store",
        "rtstore.maintenance.backup",
        "rtstore.cli",
        "rtstore.legacy",
        "rtstore.maintenance.rebuild_database",
    ),
    *(
        "rtstore.maintenance.doctor.judge",
        "rtstore.maintenance.doctor.gather",
        "rtstore.maintenance.upgrade",
    ),
)
"""What a program that opens, writes and reads has no use for."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which every known store was written once."""
    with open_store(tmp_path / "runtime", KNOWN_DESCRIPTORS) as store:
        write(store, Documents(300).known())
    return tmp_path / "runtime"


def loaded_by(code: str, directory: Path) -> set[str]:
    """The modules that a Python of its own has after some code."""
    told = "import sys\n" + code + "\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", told, str(directory)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def of(names: tuple[str, ...], modules: set[str]) -> list[str]:
    """The modules that are one of these, or in one."""
    return sorted(
        module
        for module in modules
        if any(module == name or module.startswith(f"{name}.") for name in names)
    )


def test_the_front_door_loads_neither_library(directory: Path) -> None:
    """`import rtstore` alone is names, and what forks wait for: the rest is loaded with the first
    name that is used."""
    modules = loaded_by("import rtstore", directory)
    assert of(("sqlalchemy", "pydantic", "pydantic_core", *RARE), modules) == []
    assert [name for name in modules if name.startswith("rtstore.")] == ["rtstore.forks"]


@pytest.mark.parametrize("code", [FACADE, FACADE + USE], ids=["import", "use"])
def test_what_few_programs_need_is_not_loaded(code: str, directory: Path) -> None:
    """Neither importing the facade nor opening, writing, reading and checking with it loads the
    command line, the migrations, back-ups, or what takes over the legacy directories."""
    modules = loaded_by(code, directory)
    assert {"rtstore.store", "rtstore.commit.writer", "sqlalchemy"} <= modules
    assert of(RARE, modules) == []


def test_opening_asks_little(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current store is opened with one look at the header of its file and one connection, and a
    handful of queries, none of them twice. Closing it again takes no other connection."""
    with traced(monkeypatch) as trace:
        store = RuntimeStore.open(directory, team_name=TEAM)
    selects = [sql for sql in trace.explained() if sql.startswith("SELECT")]
    assert sum(trace.statements[sql] for sql in selects) == len(selects) <= 9
    assert sum(trace.statements.values()) <= 40
    assert trace.connections == 2
    with traced(monkeypatch) as trace:
        store.close()
    assert trace.connections == 0


class Reads(FileSystem):
    """Counts how often each file is read."""

    def __init__(self) -> None:
        self.read_of: Counter[str] = Counter()

    def read(self, path: Path) -> tuple[bytes, os.stat_result]:
        """Note the name, and read."""
        self.read_of[path.name] += 1
        return super().read(path)


def test_each_file_is_read_once(directory: Path) -> None:
    """Opening, planning, and checking the readiness read every store file, each of them once."""
    fs = Reads()
    once = Counter(descriptor.relative_path for descriptor in KNOWN_DESCRIPTORS)
    with RuntimeStore.open(directory, team_name=TEAM, seams=Seams(fs=fs)) as store:
        assert fs.read_of == once
        fs.read_of.clear()
        store.plan_recovery(expected=IDENTITY)
        assert fs.read_of == once
        fs.read_of.clear()
        assert store.check_readiness(expected=IDENTITY).ok
        assert fs.read_of == once
