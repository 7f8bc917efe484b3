"""Cases of the command line: what a look takes, and how much memory a back-up."""

from __future__ import annotations

import os
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
        peaks.append(_peak_mb(_rtstore("backup", directory, bench.directory / f"{batches}-copy")))
    small, large = ([peak] for peak in peaks)
    title = f"memory of a back-up, {human_size(sizes.back_up_bytes)}"
    against = f"the same, {human_size(sizes.large_document_bytes)}"
    yield quantities("backup", title, large, against, small, unit="MB", target=MEMORY)


def _rtstore(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rtstore", *map(str, arguments)]


def _peak_mb(command: Sequence[str]) -> float:
    """The most memory that the process of a command had, in megabytes."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return usage.ru_maxrss / 1024  # in kilobytes on Linux
