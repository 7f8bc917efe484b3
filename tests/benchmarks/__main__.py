"""The command: `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtstore.model.times import format_time, utc_now
from tests.benchmarks import __doc__ as about
from tests.benchmarks import (
    commands,
    concurrency,
    growth,
    opening,
    reading,
    report,
    tasks,
    waiting,
    writing,
)
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.machine import file_system, machine, versions
from tests.benchmarks.measure import Figure
from tests.benchmarks.sizes import FULL, QUICK, SMOKE

CASES: dict[str, Case] = {
    "write": writing.write_batch,
    "update": writing.update,
    "large": writing.update_large,
    "scale": writing.scale,
    "tail": writing.tail,
    "flushes": writing.count_flushes,
    "read": reading.read,
    "snapshot": reading.snapshot,
    "readiness": reading.readiness,
    "open": opening.opening,
    "session": opening.opening_to_write,
    "import": opening.importing,
    "history": growth.long_history,
    "size": growth.size_on_disk,
    "wal": growth.wal,
    "status": commands.status,
    "backup": commands.back_up,
    "callers": concurrency.callers,
    "tasks": tasks.tasks,
    "processes": concurrency.processes,
    "wait": waiting.wake_up,
    "idle": waiting.idle,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that are asked for, all by default. No figure makes it fail.

    A run that is interrupted shows and keeps what it has.
    """
    options = _parse(arguments)
    kind, sizes = next(
        (kind, sizes)
        for kind, sizes, wanted in (
            ("smoke", SMOKE, options.smoke),
            ("quick", QUICK, options.quick),
            ("full", FULL, True),
        )
        if wanted
    )
    figures: list[Figure] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rtstore-bench-", dir=options.directory) as scratch:
        facts = {
            "kind": kind,
            "started_at": format_time(utc_now()),
            "machine": machine(),
            "versions": versions(),
            "file_system": file_system(Path(scratch)),
            "sizes": asdict(sizes),
            "notes": notes,
        }
        bytecode = Path(scratch) / "bytecode"
        interrupted = False
        for name in dict.fromkeys(options.cases or CASES):
            began = time.monotonic()
            try:
                with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=scratch) as directory:
                    figures.extend(CASES[name](Bench(sizes, Path(directory), bytecode, notes)))
            except KeyboardInterrupt:
                interrupted = True
                notes.append(f"interrupted in the case {name}")
            _tell(f"{name}: {time.monotonic() - began:.1f} s")
            _keep(options.json, report.as_json(facts, figures))
            if interrupted:
                break
    terminal = report.console()
    terminal.print(report.table(figures, f"rtstore benchmarks, {kind} run"))
    print(*report.summary(facts, figures), sep="\n", flush=True)
    return 128 + signal.SIGINT if interrupted else 0


def _keep(path: Path | None, run: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="cases:\n"
        + "\n".join(f"  {name:<10} {case.__doc__}" for name, case in CASES.items()),
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where to measure; the temporary directory by default",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--quick", action="store_true", help="less of all, no million of batches")
    kinds.add_argument("--smoke", action="store_true", help="see that it runs; no real figures")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)} (there are: {', '.join(CASES)})")
    # Said now, and not after minutes.
    if options.directory is not None and not _may_make_files_in(options.directory):
        parser.error(f"--directory: {options.directory} is no directory that may be written to")
    if options.json is not None and not _may_be_written(options.json):
        parser.error(f"--json: {options.json} is no file that may be written")
    return options


def _may_be_written(path: Path) -> bool:
    if path.exists():
        return path.is_file() and os.access(path, os.W_OK)
    return _may_make_files_in(path.absolute().parent)


def _may_make_files_in(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
