"""Cases of starting: the import, opening, opening after a crash."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rtstore import Descriptor, RuntimeStore
from rtstore.control.sqlite.engine import DATABASE_NAME
from tests.benchmarks.bench import Bench
from tests.benchmarks.children import command, compiled_environment, environment
from tests.benchmarks.documents import Documents, Supply, descriptors, open_store, write
from tests.benchmarks.floors import (
    IMPORT_FLOOR,
    IMPORT_IN_USE_FLOOR,
    import_command,
    make_plain,
    open_and_commit,
    open_and_query,
)
from tests.benchmarks.measure import Figure, Operation, Target, Times, compare, race

WRITE_FLOOR = "plain sqlite3: open, one flushed commit, close"
OPEN_FLOOR = "plain sqlite3: open, one query"
FRONT_DOOR, FACADE = "import rtstore", "from rtstore import RuntimeStore"
IN_USE = "sqlalchemy and pydantic, used once"
IMPORT, SESSION = Target(1.15), Target(6)


class Opening:
    """Opens a store and closes it again; only the opening is timed."""

    def __init__(self, known: Sequence[Descriptor], find: Callable[[], Path]) -> None:
        self._known = known
        self._find = find
        self._directory = Path()
        self._store: RuntimeStore | None = None

    def operation(self, name: str) -> Operation:
        """The contender."""
        return Operation(name, self._open, prepare=self._prepare, cleanup=self._close)

    def _prepare(self) -> None:
        self._directory = self._find()

    def _open(self) -> None:
        self._store = open_store(self._directory, self._known)

    def _close(self) -> None:
        assert self._store is not None
        self._store.close()


class Recovering(Opening):
    """Opens a copy of a crashed directory, a fresh one each time."""

    def __init__(self, known: Sequence[Descriptor], crashed: Path, copy: Path) -> None:
        super().__init__(known, lambda: copy)
        self._crashed = crashed
        self._copy = copy

    def _prepare(self) -> None:
        super()._prepare()
        # The -shm is an index of the WAL; after a crash it is made anew.
        shutil.copytree(self._crashed, self._copy, ignore=shutil.ignore_patterns("*-shm"))

    def _close(self) -> None:
        assert self._store is not None
        assert self._store.last_recovery is not None
        super()._close()
        shutil.rmtree(self._copy)


def opening(bench: Bench) -> Iterator[Figure]:
    """Opening an idle store, and one whose writer died in the middle of a batch."""
    sizes, known = bench.sizes, descriptors(bench.sizes.stores)
    idle, crashed = bench.directory / "idle", bench.directory / "crashed"
    with open_store(idle, known) as store:
        write(store, Documents(sizes.document_bytes).some(store.descriptors.names))
    subprocess.run(
        command("crash", crashed, sizes.stores, sizes.document_bytes),
        env=environment(),
        check=True,
    )
    contenders = [
        Opening(known, lambda: idle).operation("open"),
        Recovering(known, crashed, bench.directory / "copy").operation("recover"),
        Operation(OPEN_FLOOR, lambda: open_and_query(idle / DATABASE_NAME)),
    ]
    plain, recover, floor = race(contenders, sizes.pace, turn=sizes.turn)
    title = f"open, {sizes.stores} stores"
    yield compare("open", title, plain, OPEN_FLOOR, floor)
    after = f"open after a crash, {sizes.stores} stores"
    yield compare("open", after, recover, title, plain)
    yield compare("open", after, recover, OPEN_FLOOR, floor)


def opening_to_write(bench: Bench) -> Iterator[Figure]:
    """Opening, a batch and closing, beside the same of a plain database in WAL mode."""
    sizes, known = bench.sizes, descriptors(bench.sizes.stores)
    current, plain = bench.directory / "current", bench.directory / "plain.sqlite3"
    with open_store(current, known) as store:
        write(store, Documents(sizes.document_bytes).some(store.descriptors.names))
    make_plain(plain)
    supply = Supply([known[0].schema_name], sizes.document_bytes)

    def once() -> None:
        with open_store(current, known) as store:
            write(store, supply.documents)

    ours = Operation("rtstore", once, prepare=supply.make)
    floor = Operation(WRITE_FLOOR, lambda: open_and_commit(plain))
    times, least = race([ours, floor], sizes.pace, turn=sizes.turn)
    title = f"open, write, close, {sizes.stores} stores"
    yield compare("session", title, times, WRITE_FLOOR, least, target=SESSION)


def importing(bench: Bench) -> Iterator[Figure]:
    """The import, in Pythons of their own: alone, and with the first batch after it."""
    known = descriptors(1)
    idle = bench.directory / "idle"
    with open_store(idle, known) as store:
        write(store, Documents(bench.sizes.document_bytes).some(store.descriptors.names))
    imports = {code: Times() for code in _IMPORTS}
    processes = {code: Times() for code in _IMPORTS}
    surroundings = compiled_environment(bench.bytecode)
    for number in range(-1, bench.sizes.import_rounds):
        for code in _IMPORTS if number % 2 else reversed(_IMPORTS):
            start = time.perf_counter()
            said = subprocess.run(
                import_command(code, idle),
                env=surroundings,
                capture_output=True,
                text=True,
                check=True,
            )
            taken = time.perf_counter() - start
            if number >= 0:  # the first round fills the caches
                imports[code].add(float(said.stdout))
                processes[code].add(taken)
    floor, in_use = imports[IMPORT_FLOOR], imports[IMPORT_IN_USE_FLOOR]
    for code in (FRONT_DOOR, FACADE):
        yield compare("import", code, imports[code], IMPORT_FLOOR, floor, target=IMPORT)
        whole = "the same, whole processes"
        yield compare("import", code, processes[code], whole, processes[IMPORT_FLOOR])
    yield compare("import", FACADE, imports[FACADE], IN_USE, in_use)
    title = "import, open, write a first batch"
    yield compare("import", title, imports[_FIRST_BATCH], IN_USE, in_use)
    yield compare("import", IN_USE, in_use, IMPORT_FLOOR, floor)


_FIRST_BATCH = """
import sys
from rtstore import RunIdentity, RuntimeStore

with RuntimeStore.open(sys.argv[1]) as store:
    store.write_batch(
        identity=RunIdentity(run_id="run-2"),
        reason="launch_checkpoint",
        writes={store.descriptors.names[0]: {"revision": 2}},
    )
"""
_IMPORTS = (IMPORT_FLOOR, IMPORT_IN_USE_FLOOR, FRONT_DOOR, FACADE, _FIRST_BATCH)
