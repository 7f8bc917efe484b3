"""What the subcommands have in common: arguments, options, and how errors come out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rtstore.cli.exits import ExitCode, exit_code_of
from rtstore.errors import RuntimeStoreError

LOCK_TIMEOUT_S = 10.0


def utf8(path: Path | None) -> Path | None:
    """Refuse a path that JSON and SQLite could not name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("the path is not UTF-8 text") from None
    return path


Directory = Annotated[
    Path,
    # Whether it can be read is found out where the error says more.
    typer.Argument(metavar="DIR", callback=utf8, readable=False, help="The runtime directory."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
LockTimeout = Annotated[
    float,
    typer.Option(
        "--lock-timeout", metavar="SECONDS", min=0, help="How long to wait for another writer."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Turn an error of the library or the operating system into its message and its exit code."""
    try:
        yield
    except (RuntimeStoreError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        _give_up(error, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("rtstore: interrupted", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _give_up(error: RuntimeStoreError | OSError, *, as_json: bool) -> NoReturn:
    """Print what happened, and leave with the exit code for it."""
    code = exit_code_of(error)
    if as_json:
        report = {"type": type(error).__name__, "message": str(error), "exitCode": int(code)}
        sys.stdout.write(json.dumps({"error": report}, indent=2) + "\n")
    typer.echo(f"rtstore: {error}", err=True)
    raise typer.Exit(code)
