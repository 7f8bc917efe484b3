"""The command `rtstore`: shows and recovers runtime directories. See `rtstore --help`."""

from __future__ import annotations

import gc
import sys

_COLLECT_AFTER = 300_000
"""How many objects a command makes before garbage is looked for. Python's own number is for
processes that last: what `rtstore status` loads and makes is some two hundred times that, and
hardly any garbage."""
_INTERRUPTED = 130
"""As in `rtstore.cli.exits`, which is not loaded yet."""


def main() -> None:
    """Run the command. Each subcommand imports what it needs."""
    try:
        code = _run()
    except KeyboardInterrupt:  # before there is anything that turns it into that code
        code = _INTERRUPTED
    if code == _INTERRUPTED and sys.stderr is not None:
        sys.stderr.write("rtstore: interrupted\n")
    sys.exit(code)


def _run() -> int:
    from rtstore.cli.streams import run, take_over

    gc.set_threshold(_COLLECT_AFTER)
    take_over()
    from rtstore.cli.app import app

    code = run(lambda: app(prog_name="rtstore"))
    gc.freeze()  # or the end of the process looks through all that was loaded, for garbage
    return code
