"""What is made once for all tests, how much they try, and what they counted."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

from rtstore import RuntimeStore
from tests.support import breadth, new_directory, open_store, places, readme
from tests.support.counts import Counts, Summary
from tests.support.installed import Installed, install_wheel

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and so would every process that
    # a test starts and means to interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SUMMARY = pytest.StashKey[Summary]()
_PART = pytest.StashKey[breadth.Part]()
Made = TypeVar("Made")
NORMAL = "not thorough"
"""The marks that `pytest` runs by itself, as in pyproject.toml."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full` tries everything, in hours on two cores; `--seed` draws anew; `--part` divides."""
    group = parser.getgroup("rtstore")
    group.addoption("--full", action="store_true", help="every test, every point, in every way")
    group.addoption("--seed", type=int, default=breadth.SEED, help="what draws (%(default)s)")
    group.addoption(
        "--until",
        type=float,
        metavar="EPOCH",
        help="begin no test after that moment, in seconds since 1970; try them in a drawn order",
    )
    group.addoption(
        "--part",
        metavar="K/N",
        help="the K-th of N parts: every N-th of the tests that are selected",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how much is tried, before any test is collected."""
    full = bool(config.getoption("--full"))
    places.choose(full=full)
    breadth.choose(full=full, seed=config.getoption("--seed"))
    if full and config.option.markexpr == NORMAL:
        config.option.markexpr = ""
    try:
        config.stash[_PART] = breadth.part(config.getoption("--part") or "1/1")
    except ValueError as error:
        raise pytest.UsageError(f"--part: {error}") from None
    config.stash[_SUMMARY] = Summary()
    config.pluginmanager.register(_Listener(config.stash[_SUMMARY]))


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than processors, for a test that waits leaves its processor to another."""
    return (yield) + 1


@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")
def pytest_leave_one_in_n(items: list[pytest.Item]) -> None:
    """Leave each N-th variant of a test with `one_in(N)` to the usual run. The rest is thorough."""
    seen = Counter[tuple[object, str]]()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is None or item.get_closest_marker("thorough") is not None:
            continue
        test = item.parent, item.name.partition("[")[0]
        if seen[test] % mark.args[0]:
            item.add_marker(pytest.mark.thorough)
        seen[test] += 1


@pytest.hookimpl(trylast=True)  # after others have deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left with it at the end. At first each
    process gets an equal part of the list, one after the other, and the last takes what is left."""
    part = config.stash[_PART]
    if part != breadth.WHOLE:
        kept = set(part.of_all(items))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    processes = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    early = [item for item in items if item.get_closest_marker("early")]
    later = [item for item in items if not item.get_closest_marker("early")]
    if config.getoption("--until") is not None:
        random.Random(breadth.seed()).shuffle(later)  # what is left out is not all of one kind
    others = iter(later)
    left, ordered = len(items), list[pytest.Item]()
    for number in range(processes):
        size, few = (each // (processes - number) for each in (left, len(early)))
        first, early = early[:few], early[few:]
        ordered += [*first, *islice(others, max(0, size - few))]
        left -= size
    items[:] = [*ordered, *others]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """With `--until`, a slow machine tries less, and says how much less."""
    until = item.config.getoption("--until")
    if until is not None and time.time() > until:
        pytest.skip("no time was left for it")


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


class _Listener:
    """Hears the reports of all processes."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The last report of a test has everything that it counted."""
        if report.when == "teardown":
            self._summary.hear(report.user_properties)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was tried."""
    lines = list(config.stash[_SUMMARY].told())
    if lines:
        full = ", in full" if breadth.is_full() else ""
        terminalreporter.section(f"what was tried{full}{config.stash[_PART]}")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Counts:
    """Where a test puts what it counted."""
    return Counts(request.node)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A runtime directory in which nothing was committed yet."""
    return new_directory(tmp_path)


@pytest.fixture
def store(directory: Path) -> Iterator[RuntimeStore]:
    """The store of that directory."""
    with open_store(directory) as store:
        yield store


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk, where others are in memory."""
    with places.on_disk() as folder:
        yield folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel of this checkout."""
    return _made_once(tmp_path_factory, "wheel", install_wheel)


@pytest.fixture(scope="session")
def demonstrated(tmp_path_factory: pytest.TempPathFactory, installed: Installed) -> Path:
    """A folder with what the demo leaves: the pages of the guide begin with a copy of it."""

    def demonstrate(folder: Path) -> Path:
        installed.run(installed.bin / "rtstore", "demo", folder / readme.DEMO)
        return folder

    return _made_once(tmp_path_factory, "demonstrated", demonstrate)


def _made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]
) -> Made:
    """What is made in a folder of its own, by the first process that needs it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make(tmp_path_factory.mktemp(name))
    shared = tmp_path_factory.getbasetemp().parent
    made = shared / f"{name}.pickle"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            folder = shared / name
            folder.mkdir()
            made.write_bytes(pickle.dumps(make(folder)))
        found: Made = pickle.loads(made.read_bytes())
        return found
