"""Strike at every line of every scenario, or at every n-th, and print what came of it."""

from __future__ import annotations

import argparse
import builtins
import itertools
import logging
import sys
import tempfile
from pathlib import Path

from tests.interrupts.scenarios import SCENARIOS, Field
from tests.interrupts.strike import Strike
from tests.support import new_directory


def main() -> int:
    """Run; the exit code is 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.interrupts")
    parser.add_argument("scenario", nargs="*", help=f"default: all ({', '.join(SCENARIOS)})")
    parser.add_argument("--every", type=int, default=1, help="strike at every n-th line only")
    parser.add_argument("--first", type=int, default=1, help="the first line to strike at")
    parser.add_argument("--files", nargs="+", default=[""], help="only in such files (beginnings)")
    parser.add_argument("--error", default="Strike", help="the class of the exception")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found = 0
    for name in options.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            field = Field(
                new_directory(Path(folder)),
                lambda: itertools.count(options.first, options.every),
                options.files,
                error=getattr(builtins, options.error, Strike),
            )
            tally = SCENARIOS[name](field)
        print(f"{name}: {tally}", flush=True)
        for fault in tally.faults[:20]:
            print(f"    {fault}", flush=True)
        found += len(tally.faults)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
