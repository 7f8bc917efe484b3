"""Cases of the command line: what a look takes, and how much memory a back-up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from rtstore.control.contents import KEEP_EVERYTHING
from tests.benchmarks.bench import Bench, human_size
from tests.benchmarks.children import compiled_environment
from tests.benchmarks.documents import Documents, descriptors, open_store, write
from tests.benchmarks.floors import IMPORT_FLOOR
from tests.benchmarks.measure import Figure, Target, Times, compare, quantities

STATUS, MEMORY = Target(1.3), Target(1.1)
_WITH_PEAK = """
import atexit, sys
from pathlib import Path
from rtstore.cli import main

def tell():  # of this program alone: ru_maxrss begins with what its parent had
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")), file=sys.stderr)

atexit.register(tell)
main()
"""


def status(bench: Bench) -> Iterator[Figure]:
    """`rtstore status`, a whole process, beside one that only imports sqlalchemy and pydantic."""
    known = descriptors(bench.sizes.stores)
    directory = bench.directory / "rtstore"
    with open_store(directory, known) as store:
        write(store, Documents(bench.sizes.document_bytes).some(store.descriptors.names))
    contenders = (_rtstore("status", directory), [sys.executable, "-c", IMPORT_FLOOR])
    surroundings = compiled_environment(bench.bytecode)
    ours, floor = found = Times(), Times()
    for number in range(-1, bench.sizes.command_rounds):
        order = range(2) if number % 2 else reversed(range(2))
        for index in order:
            start = time.perf_counter()
            subprocess.run(contenders[index], env=surroundings, capture_output=True, check=True)
            if number >= 0:  # the first round fills the caches
                found[index].add(time.perf_counter() - start)
    yield compare("status", "rtstore status", ours, IMPORT_FLOOR, floor, target=STATUS)


def back_up(bench: Bench) -> Iterator[Figure]:
    """The memory of `rtstore backup`: a long history of large documents, beside a short one."""
    sizes = bench.sizes
    known, peaks = descriptors(1), []
    for batches in (1, max(2, sizes.back_up_bytes // sizes.large_document_bytes)):
        directory, documents = bench.directory / str(batches), Documents(sizes.large_document_bytes)
        with open_store(directory, known, retention=KEEP_EVERYTHING) as store:
            for _ in range(batches):
                write(store, documents.some(store.descriptors.names))
        target = bench.directory / f"{batches}-copy"
        peaks.append(_peak_mb(["backup", str(directory), str(target)]))
    small, large = ([peak] for peak in peaks)
    title = f"memory of a back-up, {human_size(sizes.back_up_bytes)}"
    against = f"the same, {human_size(sizes.large_document_bytes)}"
    yield quantities("backup", title, large, against, small, unit="MB", target=MEMORY)


def _rtstore(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rtstore", *map(str, arguments)]


def _peak_mb(arguments: Sequence[str]) -> float:
    """The most memory that the process of a command had, in megabytes."""
    command = [sys.executable, "-c", _WITH_PEAK, *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return int(done.stderr.split()[-2]) / 1024  # "VmHWM:  87345 kB"
