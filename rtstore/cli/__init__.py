"""The command `rtstore`: shows and recovers runtime directories. See `rtstore --help`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. Each subcommand imports what it needs."""
    from rtstore.cli.streams import run, take_over

    take_over()
    from rtstore.cli.app import app

    sys.exit(run(lambda: app(prog_name="rtstore")))
