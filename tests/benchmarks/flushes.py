"""Flushes counted by strace: what the operating system is asked for, whoever asks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from rtstore import RuntimeStore
from tests.benchmarks.children import command, environment
from tests.benchmarks.documents import Supply, descriptors, open_store, write
from tests.benchmarks.floors import FullCommit
from tests.benchmarks.sizes import Sizes

_CALLS = "?access,?faccessat,?faccessat2,?fsync,?fdatasync,?sync_file_range,?syncfs,?msync"
_MARK = "rtstore-benchmark-mark"
_FLUSH = re.compile(r"\b(?:fsync|fdatasync|sync_file_range|syncfs|msync)\(")
_MARKED = re.compile(rf"{_MARK}-(\d+)-(begin|end)")


def count(
    directory: Path, counts: Sequence[int], sizes: Sizes, trace: Path
) -> dict[int, list[float]] | None:
    """Flushes of each batch, by the number of its stores; those of one FULL commit under 0.

    None where they cannot be counted.
    """
    if shutil.which("strace") is None:
        return None
    arguments = (directory, sizes.document_bytes, sizes.flush_batches, sizes.warm_up, *counts)
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={_CALLS}", "-o", str(trace)]
    traced = subprocess.run(
        [*strace, *command("flushes", *arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if traced.returncode != 0:
        return None
    found: dict[int, list[float]] = {number: [] for number in (0, *counts)}
    current: list[float] = []
    with open(trace, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            mark = _MARKED.search(line)
            if mark is None:
                if current and _FLUSH.search(line) and "resumed>" not in line:
                    current[-1] += 1
            elif mark[2] == "begin":
                current = [0.0]
            else:
                found[int(mark[1])].extend(current)
                current = []
    return found if all(found.values()) else None


def run(directory: Path, size: int, batches: int, warm_up: int, *counts: int) -> None:
    """What is traced: marked batches, after as many unmarked ones that make the state steady."""
    directory.mkdir()
    with closing(FullCommit(directory / "commit")) as commit:
        content = {"one": b"x" * size}
        _repeat(0, batches, warm_up, lambda: commit.write(content))
    for number in counts:
        with open_store(directory / f"k{number}", descriptors(number)) as store:
            supply = Supply(store.descriptors.names, size)
            _repeat(number, batches, warm_up, partial(_write_next, store, supply))


def _write_next(store: RuntimeStore, supply: Supply) -> None:
    supply.make()
    write(store, supply.documents)


def _repeat(number: int, batches: int, warm_up: int, once: Callable[[], object]) -> None:
    for _ in range(warm_up):
        once()
    for _ in range(batches):
        os.access(f"{_MARK}-{number}-begin", os.F_OK)
        once()
        os.access(f"{_MARK}-{number}-end", os.F_OK)
