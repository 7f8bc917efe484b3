"""Lays out what typer prints, help and refusals of a call, in the width of their reader."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import typer

from rtstore.cli.layout import GAP, Cell, Cells, fact_lines, lines_of
from rtstore.cli.width import reader_width

WIDTH_MAX = 100
"""Columns. Wider lines are hard to read."""
_ROOM_BESIDE = 24
"""Columns that a definition needs beside its name; with less it is below."""
_UNBROKEN = 1 << 16
_DEFINITION = re.compile(r"( *\S+(?: \S+)*)  +(?=\S)")
_REFUSAL = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""What typer raises for a wrong call, and prints by `show`."""


class LaidOut:
    """A command of typer whose help fits its reader. Comes before typer's class among the bases."""

    def get_help(self, ctx: Any) -> str:
        """Return the help."""
        formatter = ctx.make_formatter()
        formatter.width = _UNBROKEN
        self.format_help(ctx, formatter)  # type: ignore[attr-defined]
        width = reader_width(sys.stdout) or WIDTH_MAX
        return laid_out(formatter.getvalue().rstrip("\n"), width)


@contextmanager
def laying_out_refusals() -> Iterator[None]:
    """Have typer lay out what it says of a wrong call."""
    try:
        yield
    except _REFUSAL as error:
        _lay_out(error)
        raise


def _lay_out(error: Any) -> None:
    """Replace how a refusal is shown, unless it is shown as help."""
    from rtstore.cli.output import page_for

    ctx = getattr(error, "ctx", None)
    if ctx is None or type(error).show is not typer.BadParameter.show:
        return

    def show(file: Any = None) -> None:  # noqa: ARG001 - as typer calls it
        page = page_for(sys.stderr)
        pieces = ctx.command.collect_usage_pieces(ctx)
        page.line(" ".join(["Usage:", ctx.command_path, *pieces]))
        page.line(f"Try '{ctx.command_path} {ctx.help_option_names[0]}' for help.")
        page.gap()
        for line in f"Error: {error.format_message()}".splitlines():
            page.line(line)

    error.show = show


def laid_out(text: str, width: int) -> str:
    """Return a help in which nothing is broken yet, for a reader of that width."""
    width = min(width, WIDTH_MAX)
    blocks = [_block(block.splitlines(), width) for block in text.split("\n\n")]
    return "\n\n".join(blocks)


def _block(lines: Sequence[str], width: int) -> str:
    """Return lines without an empty one between them. A line alone is prose."""
    more = GAP if len(lines) > 1 else 0
    broken = [cells for line in lines for cells in _lines(line, width, more)]
    return "\n".join("".join(cell.text for cell in cells).rstrip() for cells in broken)


def _lines(line: str, width: int, more: int) -> Iterator[Cells]:
    text = line.lstrip()
    indent = len(line) - len(text)
    found = _DEFINITION.match(line)
    if found is None:
        yield from lines_of([Cell(text)], width, indent, more=more)
    elif width - found.end() >= _ROOM_BESIDE:
        yield from fact_lines(found[1], Cell(line[found.end() :]), found.end() - GAP, width)
    else:
        yield [Cell(found[1])]
        yield from lines_of([Cell(line[found.end() :])], width, indent + 2 * GAP, more=0)
