"""The command `rtstore`: shows and recovers runtime directories. See `rtstore --help`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command. Each subcommand imports what it needs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path or a name that the terminal's encoding lacks is shown, never a traceback.
            stream.reconfigure(errors="backslashreplace")
    from rtstore.cli.app import app

    app(prog_name="rtstore")
