"""`python -m tests.checker`: lives one after the other, and a line that says what they came to."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import rtstore
from tests.checker.controls import CONTROLS
from tests.checker.life import PATIENCE_S, Life
from tests.checker.mix import DISTURBANCES, Mix, draw
from tests.checker.verdict import Verdict


def main() -> int:
    """Run lives until the time is over; return 1 when a check failed."""
    options = _options()
    names = {
        name: None if value is None else [part for part in value.split(",") if part]
        for name, value in (("only", options.only), ("without", options.without))
    }
    for name in {*(names["only"] or ()), *(names["without"] or ())}:
        if name not in DISTURBANCES:
            raise SystemExit(f"no disturbance is called {name!r}: {', '.join(DISTURBANCES)}")
    fixed = {name: json.loads(value) for name, value in (part.split("=") for part in options.set)}
    print(f"checker: rtstore from {Path(rtstore.__file__).parent}", flush=True)
    total, began, number = Verdict(), time.monotonic(), 0
    while number < (options.lives or 10**9) and time.monotonic() < began + options.seconds:
        mix = draw(
            options.seed + number,
            fixed=fixed,
            only=names["only"],
            without=names["without"] or (),
        )
        verdict = live(mix, options)
        total.add(verdict)
        number += 1
        if verdict.failures or options.verbose:
            print(mix, f"told {dict(verdict.told)} errors {dict(verdict.errors)}", sep="\n  ")
            print(verdict.details(options.show), flush=True)
        if verdict.failures and options.first:
            break
    print(total.summary(options.seed))
    return 1 if total.failures else 0


def live(mix: Mix, options: argparse.Namespace) -> Verdict:
    """One life, in a folder that is gone afterwards, unless it failed and is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="rtstore-checker-"))
    try:
        control = None if options.control is None else CONTROLS[options.control].break_it
        life = Life(mix, folder, control, options.patience)
        verdict = life.run()
        if verdict.failures and options.keep is not None:
            life.keep(options.keep / f"life-{mix.seed}", verdict)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="default: an hour")
    parser.add_argument("--seed", type=int, default=1, help="of the first life")
    parser.add_argument("--lives", type=int, help="at most so many")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                        help="a field that is not drawn (contents=3, loop=true)")  # fmt: skip
    parser.add_argument("--only", help=f"exactly these disturbances of {', '.join(DISTURBANCES)}")
    parser.add_argument("--without", help="not these disturbances")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="a library broken on purpose")
    parser.add_argument("--keep", type=Path, help="where the lives that failed are kept")
    parser.add_argument("--patience", type=float, default=PATIENCE_S,
                        help="how long calls may go on when a life is over")  # fmt: skip
    parser.add_argument("--first", action="store_true", help="stop at the first failure")
    parser.add_argument("--show", type=int, default=2, help="how many failures of a kind are shown")
    parser.add_argument("--verbose", action="store_true", help="every life is told")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
