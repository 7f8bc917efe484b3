"""`rtstore report`: writes a page that shows what happened, to look at or to send."""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rtstore import __version__
from rtstore.cli.exits import ExitCode
from rtstore.cli.folder import Found, look_below, look_near
from rtstore.cli.options import NUMBER_MAX, AsJson, Directory, utf8
from rtstore.cli.output import Cell, Page, count, page_of, size
from rtstore.cli.progress import progress_bar
from rtstore.cli.report.changes import Budget
from rtstore.cli.report.facts import Directory as DirectoryFacts
from rtstore.cli.report.facts import Facts
from rtstore.cli.report.gather import Limits, directory_facts, opened_directory
from rtstore.cli.report.redact import redacted
from rtstore.cli.snapshot import check_directory, open_to_look, shown
from rtstore.control.sqlite.engine import DATABASE_NAME
from rtstore.errors import InvalidRequestError
from rtstore.files import durable
from rtstore.files.system import FileSystem
from rtstore.model.descriptors import relative_path_problem, same_file_key
from rtstore.model.records import Record
from rtstore.model.times import utc_now

BATCHES = 10_000
CHANGES = 50
_STDOUT = Path("-")


class InPage(Record):
    """One directory, and how much of it is in the page."""

    directory: str
    state: str
    batches: int
    batches_left_out: int
    changes: int
    changes_left_out: int


class PageReport(Record):
    """What `rtstore report --json` prints."""

    path: str
    bytes: int
    redacted: bool
    directories: tuple[InPage, ...]


def run(
    directory: Directory,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            callback=utf8,
            help="The page, FILE.html; - prints it. Default: rtstore-report-TEAM.html here.",
        ),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out every value, so that it can be sent.")
    ] = False,
    batches: Annotated[
        int,
        typer.Option(
            "-n",
            "--number",
            metavar="N",
            min=1,
            max=NUMBER_MAX,
            help="How many batches, the newest; several directories share them.",
        ),
    ] = BATCHES,
    changes: Annotated[
        int,
        typer.Option(
            "--changes",
            metavar="N",
            min=0,
            max=NUMBER_MAX,
            help="Of how many versions of each store, the newest, it shows what changed.",
        ),
    ] = CHANGES,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: AsJson = False,
) -> ExitCode:
    """Write a page that shows what happened, to look at or to send: one HTML file without a script,
    which asks for nothing from anywhere.

    On top the readiness, and what to run; then batches on a line of time, stores with their sizes
    and what each version changed, runs, quarantine, recoveries. DIR is shown with its lanes, and
    may also be a folder with runtime directories below it. Changes nothing but FILE, and works
    while others write.

    With --redact the names of stores, of files and of keys, types, sizes, times, and hashes of
    whole files stay. Values of documents, errors and reasons in words are left out, and names that
    callers chose (teams, runs, batches, hosts, directories) are numbered.

    \b
    JSON: path, bytes, redacted,
      directories[] {directory, state, batches, batchesLeftOut, changes, changesLeftOut}
    """
    prints = output == _STDOUT
    if prints and as_json:
        raise InvalidRequestError("--json", "prints a document, and -o - prints the page: not both")
    if output is not None and not prints:
        _check_target(output, force=force)
    facts, default = _facts(directory, batches, changes, quiet=as_json)
    names = _own_names(facts)
    target = output or Path("rtstore-report-redacted.html" if redact else default)
    if output is None:
        _check_target(target, force=force)
    summary = tuple(map(_in_page, facts.directories))
    content = _html(redacted(facts) if redact else facts).encode("utf-8")
    if prints:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return ExitCode.READY
    _refuse_own_names(target, names)
    _write(target, content, force=force)
    report = PageReport(path=str(target), bytes=len(content), redacted=redact, directories=summary)
    _show(page_of(report, as_json=as_json), report)
    return ExitCode.READY


# --- what is in it --------------------------------------------------------------------------------


def _facts(directory: Path, batches: int, changes: int, *, quiet: bool) -> tuple[Facts, str]:
    """Return the facts, and the name of the page where none is given."""
    check_directory(directory)
    budget = Budget()
    if not os.path.lexists(directory / DATABASE_NAME):
        found = look_below(directory, quiet=quiet)
        if any(line.directory != str(shown(directory)) for line in found.lines):
            limits = Limits(max(1, batches // len(found.lines)), changes)
            below = _below(found, limits, budget, quiet=quiet)
            return _of(directory, below, found), _file_name(directory.resolve().name)
    near = look_near(directory)
    limits = Limits(max(1, batches // (1 + len(near.lines))), changes)
    with open_to_look(directory) as store:
        first, team = opened_directory(store, limits, budget), store.team_name
    below = _below(near, limits, budget, quiet=quiet)
    return _of(directory, (first, *below), near), _file_name(team)


def _below(
    found: Found, limits: Limits, budget: Budget, *, quiet: bool
) -> tuple[DirectoryFacts, ...]:
    with progress_bar(quiet=quiet) as bar:
        facts = []
        for number, line in enumerate(found.lines, 1):
            facts.append(directory_facts(line, limits, budget))
            if bar is not None:
                bar("pages of directories", number, len(found.lines))
    return tuple(facts)


def _of(directory: Path, directories: tuple[DirectoryFacts, ...], found: Found) -> Facts:
    return Facts(
        made_at=utc_now(),
        version=__version__,
        title=str(shown(directory)),
        redacted=False,
        directories=directories,
        was_cut_short=found.walk.was_cut_short,
    )


def _in_page(facts: DirectoryFacts) -> InPage:
    held = facts.contents
    return InPage(
        directory=facts.name,
        state=facts.state,
        batches=len(held.batches) if held else 0,
        batches_left_out=held.batches_in_all - len(held.batches) if held else 0,
        changes=sum(len(store.changes) for store in held.stores) if held else 0,
        changes_left_out=sum(store.changes_left_out for store in held.stores) if held else 0,
    )


def _html(facts: Facts) -> str:
    from rtstore.cli.report.page import html_of  # Jinja2 is for this command only

    return html_of(facts)


# --- where it goes --------------------------------------------------------------------------------


def _file_name(name: str) -> str:
    word = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80]
    return f"rtstore-report-{word or 'runtime'}.html"


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse what no page should be written to."""
    if target.suffix.lower() != ".html":
        raise InvalidRequestError("-o", f"{target} does not end in .html, and is a page")
    if target.is_dir():
        raise InvalidRequestError("-o", f"{target} is a directory")
    if not target.parent.is_dir():
        raise InvalidRequestError("-o", f"there is no directory {target.parent}")
    if os.path.lexists(target) and not force:
        raise _is_there(target)


def _is_there(target: Path) -> InvalidRequestError:
    return InvalidRequestError("-o", f"{target} is there already; --force replaces it")


def _own_names(facts: Facts) -> dict[Path, dict[str, str]]:
    """Return the directories of the page, each with the stores that have a file in it."""
    return {
        Path(each.name).resolve(): (
            {same_file_key(store.path): store.name for store in each.contents.stores}
            if each.contents
            else {}
        )
        for each in facts.directories
    }


def _refuse_own_names(target: Path, names: dict[Path, dict[str, str]]) -> None:
    """Refuse the file of a store, and each name that rtstore itself uses in a directory."""
    real = target.parent.resolve() / target.name
    for directory, stores in names.items():
        if real.is_relative_to(directory):
            inside = real.relative_to(directory).as_posix()
            store = stores.get(same_file_key(inside))
            if store is not None:
                raise InvalidRequestError("-o", f"{target} is the file of {store}")
            problem = relative_path_problem(inside)
            if problem is not None:
                raise InvalidRequestError("-o", f"{target} {problem}")


def _write(target: Path, content: bytes, *, force: bool) -> None:
    """Write the page whole, or not at all."""
    fs = FileSystem()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{durable.TEMPORARY_SUFFIX}")
    try:
        durable.create(temporary, [content], fs)
        if force or not fs.rename_new(temporary, target):
            if os.path.lexists(target) and not force:
                raise _is_there(target)  # somebody made it since it was looked at
            fs.rename(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            fs.unlink(temporary)
        if isinstance(error, OSError):
            words = f"{error.strerror}; -o FILE writes the page elsewhere"
            raise OSError(error.errno, words, str(target)) from error
        raise
    fs.fsync_directory(target.parent)


# --- for people -----------------------------------------------------------------------------------


def _show(page: Page, report: PageReport) -> None:
    page.line(Cell("Written", "good"), f" {report.path}, {size(report.bytes)}")
    for each in report.directories:
        what = f"{each.directory}: {each.state}, {count(each.batches, 'batch')}"
        page.line(f"{what}, {count(each.changes, 'change')} of a store", indent=2)
        if each.batches_left_out:
            left = f"{count(each.batches_left_out, 'older batch')} left out; -n has more"
            page.line(left, indent=4)
    if not report.redacted:
        page.line("It has the values of the stores in it; --redact leaves them out", indent=2)
