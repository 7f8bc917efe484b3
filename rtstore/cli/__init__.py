"""The command `rtstore`: shows and recovers runtime directories. See `rtstore --help`."""

from __future__ import annotations

import gc
import sys

_COLLECT_AFTER = 300_000
"""How many objects a command makes before garbage is looked for. Python's own number is for
processes that last: what `rtstore status` loads and makes is some two hundred times that, and
hardly any garbage."""


def main() -> None:
    """Run the command. Each subcommand imports what it needs."""
    from rtstore.cli.streams import run, take_over

    gc.set_threshold(_COLLECT_AFTER)
    take_over()
    from rtstore.cli.app import app

    code = run(lambda: app(prog_name="rtstore"))
    gc.freeze()  # or the end of the process looks through all that was loaded, for garbage
    sys.exit(code)
