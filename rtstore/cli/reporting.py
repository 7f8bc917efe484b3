"""Turns errors of the library and of the operating system into messages and exit codes."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from rtstore.cli.exits import ExitCode, exit_code_of
from rtstore.cli.layout import SHELL_WORD
from rtstore.cli.streams import OutputLostError
from rtstore.errors import (
    DatabaseLockedError,
    Hint,
    NotARuntimeDirectoryError,
    OlderDatabaseError,
    RuntimeStoreError,
    StorageError,
    UnknownStoreError,
)
from rtstore.shell import rtstore_at

if TYPE_CHECKING:
    from rtstore.cli.output import Page


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Print an error of the library or the operating system, and exit with its exit code. (What an
    interrupt ends is said by `rtstore.cli.main`.)"""
    try:
        yield
    except (RuntimeStoreError, OSError) as error:
        _give_up(error, _message(error), as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _give_up(error: RuntimeStoreError | OSError, message: str, *, as_json: bool) -> NoReturn:
    """Print an error, and exit with its exit code."""
    from rtstore.cli.output import page_for

    code = exit_code_of(error)
    page = page_for(sys.stderr)
    for line in f"rtstore: {_from_here(message)}".splitlines():
        _show_line(page, line)
    if as_json:
        report = {"type": type(error).__name__, "message": message, "exitCode": int(code)}
        with suppress(OutputLostError):  # the error is said, and its exit code stays
            sys.stdout.write(json.dumps({"error": report}, indent=2) + "\n")
    raise typer.Exit(code)


def _from_here(message: str) -> str:
    """Return a message with the paths below the working directory as they are typed from it."""
    try:
        here = str(Path.cwd())
    except OSError:  # it is gone
        return message
    return message if here == "/" else re.sub(rf"(?<![\w./-]){re.escape(here)}/(?=\w)", "", message)


def _show_line(page: Page, line: str) -> None:
    """Print a line of a message. A command in it that has to be broken stands in lines of its own,
    so that it can be copied."""
    from rtstore.cli.output import Cell

    what, _, text = line.rpartition(" Run: ")
    if not what or not page.is_narrower_than(line):
        page.line(line)
        return
    end = next((word.start() for word in SHELL_WORD.finditer(text) if word[0][0] == "("), len(text))
    page.line(f"{what} Run:")
    page.line(Cell(text[:end].strip(), "command"), indent=2)
    if text[end:]:
        page.line(text[end:], indent=2)


def _message(error: RuntimeStoreError | OSError) -> str:
    """Return the message of an error, with advice that the library itself cannot add."""
    if isinstance(error, NotARuntimeDirectoryError) and error.hint is Hint.CREATE:
        return _where_it_is(error)
    if isinstance(error, OlderDatabaseError):
        return _older(error)
    if isinstance(error, UnknownStoreError):
        return _known_stores(error)
    if isinstance(error, PermissionError) and error.filename:
        from rtstore.files.owners import closed_to_its_owner, why_forbidden

        why = why_forbidden(Path(error.filename))
        if why is not None:
            return f"{error.filename}: {why} ({error.strerror})"
        closed = closed_to_its_owner(Path(error.filename))
        return f"{error.filename}: {error.strerror}. {closed}" if closed else str(error)
    if isinstance(error, StorageError | DatabaseLockedError):
        from rtstore.control.sqlite.engine import DATABASE_NAME

        # What may not be looked at counts as not there: these two never raise, as `Path` would.
        directory = error.path if os.path.isdir(error.path) else error.path.parent
        if os.path.isfile(directory / DATABASE_NAME):
            return f"{error} What is in the way: {rtstore_at('doctor', directory)}"
    return str(error)


def _older(error: OlderDatabaseError) -> str:
    """Return the message of the error. A back-up is restored first: an upgrade would spoil it."""
    from rtstore.cli.snapshot import sign_of_backup

    directory = error.path.parent
    sign = sign_of_backup(directory)
    if sign is None:
        return str(error)
    what, run = "It is a back-up", f"{rtstore_at('restore', directory)} NEW_DIR"
    if not sign.is_as_made:
        what, run = "It was made as a back-up", rtstore_at("doctor", directory)
    return (
        f"{error.path} is at revision {error.found_revision}, this rtstore needs "
        f"{error.supported_revision}. Nothing was touched. {what}. Run: {run}"
    )


def _known_stores(error: UnknownStoreError) -> str:
    """Return the known store names, the most similar one first."""
    there_are = f"There are: {', '.join(error.known)}"
    if not error.known:
        there_are = "No descriptor is remembered here at all: rtstore status says what is committed"
    if error.has_history:
        return (
            f"store {error.store!r} has no descriptor any more, so no command writes it: a program "
            "does that opens the directory with its descriptor (RuntimeStore.open(..., "
            "descriptors=[...])). rtstore log, history, show and diff still look at its history. "
            f"{there_are}"
        )
    by_end = {name.rpartition(".")[2].lower(): name for name in error.known}
    close = difflib.get_close_matches(error.store.rpartition(".")[2].lower(), by_end, n=1)
    hint = f" Did you mean {by_end[close[0]]}?" if close else ""
    return f"unknown store {error.store!r}.{hint} {there_are}"


def _where_it_is(error: NotARuntimeDirectoryError) -> str:
    """Return the message of the error. Where there are runtime directories below or beside, or
    back-ups, suggest to look at those instead of creating another one."""
    from rtstore.cli.discover import has_places_beside, near
    from rtstore.cli.output import count

    directory = error.directory
    below = near(directory)
    if below.has_places:
        command = rtstore_at("status", directory)
        return f"{directory}: there is no runtime store here, but below. Run: {command}"
    if below.backups:
        command = rtstore_at("verify", below.backups[-1])
        what = f"no runtime store here, but {count(len(below.backups), 'back-up')}"
        return f"{directory}: there is {what}. Run: {command}"
    if not os.path.lexists(directory) and has_places_beside(directory):
        command = rtstore_at("status", directory.parent)
        return f"{directory}: there is no such directory, but others are beside it. Run: {command}"
    return str(error)
